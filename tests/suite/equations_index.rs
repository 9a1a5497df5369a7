//! The index, the functions, their tests and `docs/equations.md` agree for (1)-(26) and both algorithms.
//!
//! `PERFORMER_DDPM_BLESS=1 cargo test --test suite equations_index` writes the document again.

use performer_ddpm::audit;
use performer_ddpm::equations::INDEX;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn ids() -> Vec<String> {
    (1..=26).map(|n| format!("eq{n:02}")).chain(["alg1".into(), "alg2".into()]).collect()
}

/// The Rust files under `folder`, as (path from the root without `.rs`, text), sorted.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found: Vec<(PathBuf, String)> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    found.sort();
    found
        .into_iter()
        .map(|(path, text)| (format!("{folder}/{}", path.file_stem().unwrap().display()), text))
        .collect()
}

/// Every function whose name has, or seems to have, the number of an equation: (module path, name, whether it
/// is a test).
fn functions() -> Vec<(String, String, bool)> {
    let mut found = Vec::new();
    for folder in ["src/equations", "src/audit", "tests/suite"] {
        for (path, text) in sources(folder) {
            let module = path.trim_start_matches("src/").replace('/', "::");
            let mut test = false;
            for line in text.lines().map(str::trim) {
                let signature = line.trim_start_matches("pub ").trim_start_matches("(super) ");
                if let Some(rest) = signature.strip_prefix("fn ") {
                    let name: String =
                        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if name.starts_with("eq") || name.starts_with("alg") || !numbers(&name).is_empty() {
                        found.push((module.clone(), name, test));
                    }
                }
                // There may be attributes between #[test] and its function.
                test = line == "#[test]" || (test && line.starts_with("#["));
            }
        }
    }
    found
}

/// The equations whose numbers are in a name: `eq02_eq03_...` has two.
fn numbers(name: &str) -> BTreeSet<&str> {
    name.split('_').filter(|part| ids().iter().any(|id| id == part)).collect()
}

/// The tests of each equation.
fn tests_by_id() -> BTreeMap<String, Vec<String>> {
    let mut tests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, name, _) in functions().into_iter().filter(|(_, _, test)| *test) {
        for id in numbers(&name) {
            tests.entry(id.to_string()).or_default().push(name.clone());
        }
    }
    tests
}

#[test]
fn the_index_holds_every_equation_once_in_order() {
    assert_eq!(INDEX.map(|equation| equation.id.to_string()).to_vec(), ids());
    for equation in INDEX {
        for text in [equation.title, equation.statement, equation.source] {
            assert!(!text.is_empty(), "{}", equation.id);
        }
    }
}

#[test]
fn every_equation_has_its_function_and_a_test() {
    let functions = functions();
    let tests = tests_by_id();
    for equation in INDEX {
        let (module, name) = equation.function.rsplit_once("::").unwrap();
        assert!(name.starts_with(&format!("{}_", equation.id)), "{}", equation.function);
        let stands = functions.iter().any(|(at, named, test)| at == module && named == name && !test);
        assert!(stands, "no function {}", equation.function);
        assert!(tests.contains_key(equation.id), "no test {}_...", equation.id);
    }
}

#[test]
fn no_function_carries_a_number_that_the_index_lacks() {
    for (module, name, _) in functions() {
        assert!(!numbers(&name).is_empty(), "{module}::{name}");
    }
}

#[test]
fn the_audit_checks_what_the_index_lists() {
    let report = audit::run();
    assert_eq!(report.items.len(), INDEX.len());
    for (item, equation) in report.items.iter().zip(INDEX) {
        assert_eq!((item.id, item.title, item.function), (equation.id, equation.title, equation.function));
        assert!(!item.checks.is_empty(), "{}", item.id);
    }
    for equation in INDEX {
        let refuted = report.misprints.iter().any(|misprint| misprint.id == equation.id);
        assert_eq!(refuted, equation.misprint.is_some(), "{}", equation.id);
    }
}

/// The document, written from the index and the names of the tests.
fn document() -> String {
    let tests = tests_by_id();
    let mut text = String::from(HEAD);
    for equation in INDEX {
        let name = equation.function.rsplit("::").next().unwrap();
        let misprint = if equation.misprint.is_some() { "yes" } else { "" };
        writeln!(
            text,
            "| {} | {} | `{name}` | `cargo test {}` | {misprint} |",
            label(equation.id),
            equation.title,
            equation.id
        )
        .unwrap();
    }
    for equation in INDEX {
        let Some((module, name)) = equation.function.rsplit_once("::") else { continue };
        let file = format!("src/{}.rs", module.replace("::", "/"));
        writeln!(text, "\n### {}: {}\n", label(equation.id), equation.title).unwrap();
        writeln!(text, "```text\n{}\n```\n", wrapped(equation.statement)).unwrap();
        writeln!(text, "- Function: [`{name}`](../{file}) in `{file}`").unwrap();
        let names: Vec<String> = tests[equation.id].iter().map(|test| format!("`{test}`")).collect();
        let tests = format!("- Tests, `cargo test {}`: {}", equation.id, names.join(", "));
        writeln!(text, "{}", wrapped(&tests)).unwrap();
        writeln!(text, "- Source: slides, {}; {}", label(equation.id), equation.source).unwrap();
        if let Some(misprint) = equation.misprint {
            writeln!(text, "{}", wrapped(&format!("- The slides print: {misprint}"))).unwrap();
        }
    }
    text
}

/// Lines of at most 110 columns, all but the first indented.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() > 110 {
            lines.push(format!("  {word}"));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}

fn label(id: &str) -> String {
    match id.strip_prefix("eq") {
        Some(number) => format!("({})", number.trim_start_matches('0')),
        None => format!("Algorithm {}", &id[3..]),
    }
}

const HEAD: &str = "# The equations

The numbering is that of the slides \"Performers-backed Denoising Diffusion Probabilistic Models\" (Pisa,
October 2022). Each equation is stated as it is implemented. Where the slides print something else, the last
line says what, and `performer-ddpm audit` shows how wrong that is. t runs from 1 to T, abar_0 = 1, and the
network gets t - 1.

Papers: Ho, Jain & Abbeel 2020, \"Denoising Diffusion Probabilistic Models\"; Sohl-Dickstein et al. 2015,
\"Deep Unsupervised Learning using Nonequilibrium Thermodynamics\"; Choromanski et al. 2021, \"Rethinking
Attention with Performers\".

`PERFORMER_DDPM_BLESS=1 cargo test --test suite equations_index` writes this file from
`src/equations/index.rs` and the names of the tests; without the variable the same test fails where it is out
of date.

| no. | what | function | test | misprinted |
|---|---|---|---|---|
";

#[test]
fn the_document_is_that_of_the_index() {
    let path = root().join("docs/equations.md");
    let document = document();
    if std::env::var_os("PERFORMER_DDPM_BLESS").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == document,
        "docs/equations.md is out of date: see the top of tests/suite/equations_index.rs"
    );
}
