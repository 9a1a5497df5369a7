//! Tests of the search, on temporary folders.

use super::Search;
use crate::error::Error;
use std::fs::{create_dir_all, write};
use std::path::{Path, PathBuf};

const LIBRARY: &str = "lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.20.1";

fn touch(path: &Path) {
    create_dir_all(path.parent().expect("a parent")).expect("a folder");
    write(path, b"").expect("a file");
}

/// A machine with a library in every place.
fn full(root: &Path) -> (Search, Vec<PathBuf>) {
    let paths = vec![
        root.join("named/libonnxruntime.so"),
        root.join("bin/lib/libonnxruntime.so.1.19.0"),
        root.join("venv").join(LIBRARY),
        root.join("conda").join(LIBRARY),
    ];
    paths.iter().for_each(|path| touch(path));
    let search = Search {
        variable: Some(paths[0].clone().into()),
        executable: Some(root.join("bin")),
        virtual_env: Some(root.join("venv")),
        conda: Some(root.join("conda")),
        ..Search::default()
    };
    (search, paths)
}

#[test]
fn places_are_tried_in_their_order_until_one_serves() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (search, paths) = full(root.path());
    for serving in 0..paths.len() {
        let mut seen = Vec::new();
        let (_, found) = search
            .find(|path| {
                seen.push(path.to_path_buf());
                if path == paths[serving] { Ok(()) } else { Err("unfit".to_owned()) }
            })
            .expect("one serves");
        assert_eq!(found, paths[serving]);
        assert_eq!(seen, paths[..=serving]);
    }
}

#[test]
fn a_named_library_is_the_only_one_tried() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (mut search, paths) = full(root.path());
    search.explicit = Some(root.path().join("absent.so"));
    let error = search.find(|_| Ok(())).expect_err("the file is not there");
    let Error::RuntimeMissing { tried } = error else { panic!("{error}") };
    assert_eq!(tried.len(), 1);
    assert_eq!(tried[0].reason, "no such file");
    search.explicit = paths[0].parent().map(Path::to_path_buf);
    let (_, found) = search.find(|_| Ok(())).expect("a folder stands for the library in it");
    assert_eq!(found, paths[0]);
}

#[test]
fn the_newest_of_several_versions_comes_first() {
    let root = tempfile::tempdir().expect("a temporary folder");
    for version in ["1.9.0", "1.20.1", "1.18.0"] {
        touch(&root.path().join(format!("lib/libonnxruntime.so.{version}")));
    }
    touch(&root.path().join("lib/libonnxruntime_providers_cuda.so"));
    let search = Search { executable: Some(root.path().to_path_buf()), ..Search::default() };
    let mut seen = Vec::new();
    let missing = search.find(|path| -> Result<(), String> {
        seen.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        Err("unfit".to_owned())
    });
    assert!(missing.is_err());
    assert_eq!(seen, ["libonnxruntime.so.1.20.1", "libonnxruntime.so.1.18.0", "libonnxruntime.so.1.9.0"]);
}

#[test]
fn failure_lists_every_place_its_reason_and_the_cure() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (mut search, paths) = full(root.path());
    search.conda = None;
    search.python = Some("no-such-interpreter-here".into());
    let error = search.find(|_| -> Result<(), String> { Err("expected version >= 1.17".to_owned()) });
    let text = error.expect_err("none serves").to_string();
    for path in &paths[..3] {
        assert!(text.contains(&format!("{}: expected version >= 1.17", path.display())), "{text}");
    }
    assert!(text.contains("CONDA_PREFIX: not set"), "{text}");
    assert!(text.contains("no-such-interpreter-here: cannot be run"), "{text}");
    assert!(text.contains("pip install onnxruntime (CPU)"), "{text}");
    assert!(text.contains("pip install onnxruntime-gpu"), "{text}");
}

#[test]
fn an_old_package_without_a_library_is_told_from_none() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let packages = root.path().join("lib/python3.11/site-packages");
    create_dir_all(&packages).expect("a folder");
    let search = Search { virtual_env: Some(root.path().to_path_buf()), ..Search::default() };
    let reason = || {
        let Error::RuntimeMissing { tried } = search.find(|_| Ok(())).expect_err("no library") else {
            panic!("another error")
        };
        tried
            .into_iter()
            .find(|attempt| attempt.place == root.path().display().to_string())
            .expect("tried")
            .reason
    };
    assert!(reason().contains("no onnxruntime package"));
    touch(&packages.join("onnxruntime/capi/onnxruntime_pybind11_state.so"));
    assert!(reason().contains("no library to load"));
}

#[test]
fn minor_versions_are_numbers() {
    assert_eq!(["1.22.1", "1.9", "1", ""].map(super::minor), [22, 9, 0, 0]);
}
