//! The index, the functions, their tests and `docs/equations.md` agree for (1)-(26), both algorithms and the
//! annexes.
//!
//! `PERFORMER_DDPM_BLESS=1 cargo test --test suite equations_index` writes the document again.

use performer_ddpm::audit;
use performer_ddpm::equations::{ANNEX, INDEX, label};
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

/// A function of an annex and its tests by the path from the root to the file that has it: (file, tests).
fn of_annex(id: &str, name: &str) -> (String, Vec<String>) {
    let (mut file, mut tests) = (String::new(), Vec::new());
    for folder in ["src/equations", "src/equations/objective", "src/equations/solver", "src/audit"] {
        for (path, text) in sources(folder) {
            for line in text.lines().map(str::trim) {
                let Some((before, rest)) = line.split_once("fn ") else { continue };
                let found: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if found == name && before.contains("pub") {
                    file = format!("{path}.rs");
                } else if before.is_empty() && found.split('_').any(|part| part == id) && found != id {
                    tests.push(found);
                }
            }
        }
    }
    (file, tests)
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
        for text in [equation.title, equation.statement, equation.says, equation.source] {
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
fn every_equation_of_the_annexes_has_its_function_and_a_test() {
    let ids: Vec<String> = [("g", 3), ("o", 8), ("s", 13), ("u", 4)]
        .into_iter()
        .flat_map(|(letter, count)| (1..=count).map(move |n| format!("{letter}{n:02}")))
        .collect();
    assert_eq!(ANNEX.map(|equation| equation.id.to_owned()).to_vec(), ids);
    for equation in ANNEX {
        let (_, name) = equation.function.rsplit_once("::").unwrap();
        // Every sampler's steps, (S3) and (S4), are taken by one function.
        let is_named = name.split('_').any(|part| part == equation.id) || name == "advance";
        assert!(is_named, "{}", equation.function);
        let (file, tests) = of_annex(equation.id, name);
        assert!(!file.is_empty(), "no function {}", equation.function);
        assert!(!tests.is_empty(), "no test {}_...", equation.id);
        assert_eq!(equation.misprint, None, "the slides do not have it");
        for text in [equation.title, equation.statement, equation.says, equation.source] {
            assert!(!text.is_empty(), "{}", equation.id);
        }
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
    assert_eq!(report.annex.len(), ANNEX.len());
    for (item, equation) in report.annex.iter().zip(ANNEX) {
        assert_eq!((item.id, item.function), (equation.id, equation.function));
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
    for (letter, head) in [('g', CLASSES), ('o', OBJECTIVES), ('s', SAMPLERS), ('u', EDITS)] {
        text += head;
        let annex = || ANNEX.iter().filter(|equation| equation.id.starts_with(letter));
        for equation in annex() {
            let name = equation.function.rsplit("::").next().unwrap();
            let (label, title, id) = (label(equation.id), equation.title, equation.id);
            writeln!(text, "| {label} | {title} | `{name}` | `cargo test {id}` |").unwrap();
        }
        for equation in annex() {
            let name = equation.function.rsplit("::").next().unwrap();
            let (file, tests) = of_annex(equation.id, name);
            writeln!(text, "\n### {}: {}\n", label(equation.id), equation.title).unwrap();
            writeln!(text, "```text\n{}\n```\n", wrapped(equation.statement)).unwrap();
            writeln!(text, "- Function: [`{name}`](../{file}) in `{file}`").unwrap();
            let names: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
            let tests = format!("- Tests, `cargo test {}`: {}", equation.id, names.join(", "));
            writeln!(text, "{}", wrapped(&tests)).unwrap();
            writeln!(text, "- Source: {}", equation.source).unwrap();
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

const CLASSES: &str = "
## Annex: images of a class

How images are led to their classes (`src/equations/guidance.rs`, `sample --guidance`).

Papers: Ho & Salimans 2022, \"Classifier-Free Diffusion Guidance\"; Kynkaanniemi et al. 2024, \"Applying Guidance
in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models\"; Lin et al. 2023, \"Common
Diffusion Noise Schedules and Sample Steps are Flawed\".

| no. | what | function | test |
|---|---|---|---|
";

const OBJECTIVES: &str = "
## Annex: what a network may be trained on

What the slides do not have: other predictions than eps, weights of the loss, a learned reverse variance, and
timesteps drawn from strata. `train --help` has the options under \"Objective\".

Papers: Salimans & Ho 2022, \"Progressive Distillation for Fast Sampling of Diffusion Models\"; Kingma et al.
2021, \"Variational Diffusion Models\"; Hang et al. 2023, \"Efficient Diffusion Training via Min-SNR Weighting
Strategy\"; Choi et al. 2022, \"Perception Prioritized Training of Diffusion Models\"; Nichol & Dhariwal 2021,
\"Improved Denoising Diffusion Probabilistic Models\".

| no. | what | function | test |
|---|---|---|---|
";

const SAMPLERS: &str = "
## Annex: samplers

Every sampler that a diffusers scheduler file can name, as a table of steps (`src/equations/solver`).

Papers: Song, Meng & Ermon 2021, \"Denoising Diffusion Implicit Models\"; Lu et al. 2022a, \"DPM-Solver\", and
2022b, \"DPM-Solver++\"; Zhao et al. 2023, \"UniPC\"; Karras et al. 2022, \"Elucidating the Design Space of
Diffusion-Based Generative Models\"; Saharia et al. 2022, \"Photorealistic Text-to-Image Diffusion Models with Deep
Language Understanding\".

| no. | what | function | test |
|---|---|---|---|
";

const EDITS: &str = "
## Annex: uses of a model on given images

What variations, interpolations and inpainting need beside the samplers (`src/equations/edit.rs`, `edit --help`).

Papers: Shoemake 1985, \"Animating Rotation with Quaternion Curves\"; Song, Meng & Ermon 2021, \"Denoising
Diffusion Implicit Models\"; Lugmayr et al. 2022, \"RePaint: Inpainting using Denoising Diffusion Probabilistic
Models\".

| no. | what | function | test |
|---|---|---|---|
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
