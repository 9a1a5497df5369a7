//! Rules that the compiler does not check: imports go down and not in circles, the documents list the same
//! floors, `unsafe` is only in the kernels, and the library prints nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of `src/` from the lowest floor up. A module imports from the floors below its own only.
const FLOORS: &[&[&str]] = &[
    &["kernels"],
    &["error"],
    &["config", "disk", "group", "machine", "rng"],
    &["equations"],
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
    if file.ends_with("tests.rs") || file.parent().is_some_and(|folder| folder.ends_with("tests")) {
        return String::new();
    }
    let text = std::fs::read_to_string(file).expect("a source file");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of `src/` or of `onnx/src`, by their paths below that folder.
fn modules(root: &Path) -> BTreeMap<Vec<String>, PathBuf> {
    let path_of = |file: &Path| -> Vec<String> {
        let inside = file.strip_prefix(root).expect("a file of the crate").with_extension("");
        inside
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name != "mod" && name != "lib")
            .collect()
    };
    sources(root).into_iter().map(|file| (path_of(&file), file)).collect()
}

/// Reads a path or a group of paths of a `use` declaration or of an expression, and adds each path, with
/// `before` in front, to `found`. Returns the rest of the text.
fn read_paths<'a>(text: &'a str, before: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = read_paths(rest, before, found).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            match rest.strip_prefix('}') {
                Some(after) => return after,
                // Not a group of paths after all.
                None if !rest.starts_with(|c: char| c.is_alphabetic() || "_{*".contains(c)) => return rest,
                None => {}
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if end == 0 {
        found.push(before.to_vec());
        return text.strip_prefix('*').unwrap_or(text);
    }
    let path = [before, &[text[..end].to_owned()]].concat();
    let rest = &text[end..];
    match rest.strip_prefix("::") {
        Some(inside) => read_paths(inside, &path, found),
        None => {
            found.push(path);
            let alias = rest.strip_prefix(" as ").map(|name| name.trim_start_matches(char::is_alphanumeric));
            alias.unwrap_or(rest)
        }
    }
}

/// Every path that the code of a module names after `crate::`, `performer_ddpm::`, `super::` or `self::`,
/// from `src/`. `src/kernels` is a crate of its own, so that its `crate::` is `kernels::`.
fn paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate", "performer_ddpm", "super", "self"] {
        for (at, _) in code.match_indices(&format!("{root}::")) {
            let inside_a_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            if code[..at].ends_with(inside_a_word) {
                continue;
            }
            let base = match root {
                "self" => module,
                "super" => &module[..module.len().saturating_sub(1)],
                "crate" if module.first().is_some_and(|name| name == "kernels") => &module[..1],
                _ => &[],
            };
            read_paths(&code[at + root.len() + 2..], base, &mut found);
        }
    }
    // `super::super::x` and `self::super::x`.
    for path in &mut found {
        while let Some(at) = path.iter().position(|name| name == "super") {
            path.drain(at.saturating_sub(1)..=at);
        }
    }
    found
}

/// The names that a module re-exports: for `pub use child::Name`, from `Name` to `child`.
fn exports(code: &str, module: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut found = Vec::new();
    for (at, matched) in code.match_indices("use ") {
        let visible = code[..at].rsplit('\n').next().unwrap_or_default();
        if visible.trim_start().starts_with("pub") {
            read_paths(&code[at + matched.len()..], module, &mut found);
        }
    }
    found.into_iter().filter_map(|mut path| path.pop().map(|name| (name, path))).collect()
}

/// Which modules of a crate each module names. A name that a parent re-exports counts for the module where it
/// is defined.
fn edges(root: &Path) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let modules = modules(root);
    let code: BTreeMap<_, _> = modules.iter().map(|(path, file)| (path.clone(), code(file))).collect();
    let exports: BTreeMap<_, _> =
        code.iter().map(|(path, code)| (path.clone(), exports(code, path))).collect();
    let home = |path: &[String]| -> Vec<String> {
        let mut at = Vec::new();
        for name in path {
            let inside = [&at[..], std::slice::from_ref(name)].concat();
            if modules.contains_key(&inside) {
                at = inside;
            } else if let Some(child) = exports.get(&at).and_then(|names| names.get(name)) {
                let known = (1..=child.len()).rev().find(|len| modules.contains_key(&child[..*len]));
                return child[..known.unwrap_or(0)].to_vec();
            } else {
                break;
            }
        }
        at
    };
    let named = |(path, code): (&Vec<String>, &String)| {
        let named =
            paths(code, path).into_iter().map(|path| home(&path)).filter(|to| modules.contains_key(to));
        (path.clone(), named.collect())
    };
    code.iter().map(named).collect()
}

/// A circle among the modules of the edges, if there is one: each imports the next and the last the first.
fn circle(edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Option<Vec<String>> {
    let mut left = edges.clone();
    // A module that imports nothing that is left is in no circle.
    while let Some(leaf) = left.iter().find(|(_, to)| to.iter().all(|to| !left.contains_key(to))) {
        let leaf = leaf.0.clone();
        left.remove(&leaf);
    }
    let mut way = vec![left.keys().next()?.clone()];
    loop {
        let next = left[&way[way.len() - 1]].iter().find(|to| left.contains_key(*to)).expect("a circle");
        if let Some(start) = way.iter().position(|module| module == next) {
            return Some(way[start..].iter().map(|module| module.join("::")).collect());
        }
        way.push(next.clone());
    }
}

/// The names in backquotes of a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The floors that a document lists, one per line. The lines begin with `before`, the floor's number and
/// `after`.
fn listed<'a>(document: &'a str, before: &str, after: &str) -> Vec<Vec<&'a str>> {
    let lines = (0..FLOORS.len()).filter_map(|floor| {
        let start = format!("{before}{floor}{after}");
        document.lines().find_map(|line| line.strip_prefix(&start))
    });
    lines.map(|line| quoted(line.split('|').next().unwrap_or_default())).collect()
}

fn read(file: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn the_documents_list_these_floors() {
    assert_eq!(listed(&read("CONTRIBUTING.md"), "| ", " |"), FLOORS, "CONTRIBUTING.md");
    assert_eq!(listed(&read("src/lib.rs"), "//! ", ". "), FLOORS, "src/lib.rs");
    let modules: BTreeSet<String> = sources(&src()).iter().map(|file| module(file)).collect();
    let floors = FLOORS.concat().into_iter().chain(["lib"]).map(str::to_owned).collect();
    assert_eq!(modules, floors, "the modules of src/");
}

/// A file that names a simple variant of `Op` has an exhaustive `match` on it, except `unet.rs`, which builds
/// the graph.
#[test]
fn the_steps_for_a_layer_name_every_file_that_matches_on_op() {
    let contributing = read("CONTRIBUTING.md");
    let (_, steps) = contributing.split_once("### A layer").expect("the steps");
    let steps = steps.split("###").next().unwrap_or_default();
    let mut walks = 0;
    for file in sources(&src()) {
        let name = file.strip_prefix(src()).expect("a file of src").to_string_lossy().into_owned();
        if name != "model/unet.rs" && code(&file).contains("Op::Upsample") {
            assert!(steps.contains(&format!("`src/{name}`")), "CONTRIBUTING's steps lack src/{name}");
            walks += 1;
        }
    }
    assert!(walks > 4, "only {walks} files: the search is broken");
}

/// The files of a module must not import each other in circles. Imports between a module and the modules
/// inside it are not counted. What is imported through a parent counts as imported from the module where it
/// is defined.
#[test]
fn no_files_of_a_module_import_each_other_in_a_circle() {
    let mut checked = 0;
    for root in [src(), Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/src")] {
        let mut edges = edges(&root);
        for (from, to) in &mut edges {
            to.retain(|to| to.first() == from.first() && !to.starts_with(from) && !from.starts_with(to));
            checked += to.len();
        }
        assert_eq!(circle(&edges), None, "in {}", root.display());
    }
    assert!(checked > 100, "only {checked} imports were seen: the search is broken");
}

#[test]
fn circles_are_seen_through_parents() {
    let path = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    let import = |from: &str, to: &str| (path(from), BTreeSet::from([path(to)]));
    let chain = BTreeMap::from([import("m::a", "m::b"), import("m::b", "m::c"), import("m::d", "m::a")]);
    assert_eq!(circle(&chain), None);
    let mut ring = chain.clone();
    ring.extend([import("m::c", "m::a")]);
    assert_eq!(circle(&ring).map(|found| found.len()), Some(3));
    let parent = exports("mod a;\npub use a::{One, two::Two};\nuse a::Three;", &path("m"));
    assert_eq!(parent, BTreeMap::from([("One".into(), path("m::a")), ("Two".into(), path("m::a::two"))]));
    let code = "use super::{One, b::{self, Other as Name}, c::*};\nlet x = super::super::n::f();";
    let found: Vec<_> = paths(code, &path("m::d")).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["m::One", "m::b::self", "m::b::Other", "m::c", "n::f"]);
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
        for path in paths(&code(&file), std::slice::from_ref(&from)) {
            let Some(to) = path.first() else { continue };
            let Some(below) = floor(to) else { continue };
            checked += 1;
            let allowed = below < height || *to == from;
            assert!(allowed, "{} (floor {height}) imports {to} (floor {below})", file.display());
        }
    }
    assert!(checked > 100, "only {checked} imports were seen: the search is broken");
}

#[test]
fn the_import_search_sees_groups_and_paths() {
    let code =
        "use crate::{error::{Error, Result}, rng};\nlet x = crate::nn::conv();\nuse performer_ddpm::data;";
    let found: Vec<_> = paths(code, &[]).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["error::Error", "error::Result", "rng", "nn::conv", "data"]);
}

#[test]
fn unsafe_stays_in_the_kernels() {
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/src");
    for file in sources(&src()).into_iter().chain(sources(&onnx)) {
        let outside = !file.starts_with(src().join("kernels"));
        let uses = code(&file).split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        assert!(!(outside && uses), "{} uses unsafe", file.display());
    }
    // The engine of the page declares what JavaScript calls and provides, and has no unsafe code.
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/engine/src");
    for file in sources(&web) {
        let code = code(&file).replace("#[unsafe(no_mangle)]", "").replace("unsafe extern \"C\" {", "");
        let declared =
            if file.ends_with("border.rs") { code.replace("#![allow(unsafe_code)]", "") } else { code };
        let uses = declared.replace("#![deny(unsafe_code)]", "").contains("unsafe");
        assert!(!uses, "{} uses unsafe", file.display());
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
