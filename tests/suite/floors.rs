//! The house's rules that the compiler does not check: imports go down, `unsafe` stays in the kernels, the
//! library is silent.

use std::path::{Path, PathBuf};

/// The modules of `src/` from the lowest floor up; a module may use those before it, and of its own floor
/// none.
const FLOORS: &[&[&str]] = &[
    &["error", "real"],
    &["config", "machine", "rng"],
    &["equations", "kernels"],
    &["nn"],
    &["model"],
    &["data", "output"],
    &["checkpoint", "export"],
    &["sample", "audit"],
    &["train", "evaluate"],
    &["compare"],
    &["cli"],
    &["main"],
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The module under `src/` that a file belongs to.
fn module(file: &Path) -> String {
    let inside = file.strip_prefix(src()).expect("a file of src");
    let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The code of a file without its comments and its tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).expect("a source file");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules that a file's code names after `crate::` or `performer_ddpm::`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "performer_ddpm::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 0;
                let mut name = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                        c if depth == 0 && !c.is_whitespace() => name.push(c),
                        _ => {}
                    }
                }
                found.push(name);
            } else {
                found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
    found.into_iter().map(|name| name.split("::").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn imports_go_down_only() {
    let mut checked = 0;
    for file in sources(&src()) {
        let from = module(&file);
        if from == "lib" {
            continue;
        }
        let height = floor(&from).unwrap_or_else(|| panic!("{} stands on no floor", file.display()));
        for to in imports(&code(&file)) {
            let Some(below) = floor(&to) else { continue };
            checked += 1;
            let allowed = below < height || to == from;
            assert!(allowed, "{} (floor {height}) imports {to} (floor {below})", file.display());
        }
    }
    assert!(checked > 100, "only {checked} imports were seen: the search is broken");
}

#[test]
fn the_import_search_sees_groups_and_paths() {
    let code =
        "use crate::{error::{Error, Result}, rng};\nlet x = crate::nn::conv();\nuse performer_ddpm::data;";
    assert_eq!(imports(code), ["error", "rng", "nn", "data"]);
}

#[test]
fn unsafe_stays_in_the_kernels() {
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/src");
    for file in sources(&src()).into_iter().chain(sources(&onnx)) {
        let outside = !file.starts_with(src().join("kernels"));
        let uses = code(&file).split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        assert!(!(outside && uses), "{} uses unsafe", file.display());
    }
}

#[test]
fn the_library_prints_nothing() {
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/src");
    for file in sources(&src()).into_iter().chain(sources(&onnx)) {
        let from = if file.starts_with(src()) { module(&file) } else { String::new() };
        let prints =
            ["println!", "eprintln!", "print!(", "dbg!"].iter().any(|word| code(&file).contains(word));
        assert!(from == "cli" || !prints, "{} prints", file.display());
    }
}
