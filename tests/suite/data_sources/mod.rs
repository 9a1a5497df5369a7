//! Every recognised source of images, and one clear message for every kind of error in it.

mod cifar;
mod idx_files;
mod images;
mod pictures;

use performer_ddpm::data::{self, Dataset, Datasets};
use std::path::Path;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(folder: &TempDir, name: &str, bytes: &[u8]) {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn load(folder: &TempDir) -> performer_ddpm::Result<Datasets> {
    data::load(Some(folder.path()), None)
}

/// The error's message holds every one of `parts`, and its exit status says bad input.
fn refused(result: performer_ddpm::Result<Datasets>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.exit_status(), 2);
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn shape(data: &Dataset) -> [usize; 4] {
    [data.len(), data.height(), data.width(), data.channels()]
}

#[test]
fn paths_that_are_no_folder_are_refused() {
    let f = folder();
    let missing = f.path().join("missing");
    refused(data::load(Some(&missing), None), &["cannot read", "missing"]);
    put(&f, "archive.tar.gz", b"");
    refused(data::load(Some(&f.path().join("archive.tar.gz")), None), &["a folder", "got a file", "unpack"]);
    refused(data::load(Some(Path::new("")), None), &["cannot read"]);
}
