//! Files that a command writes, held against those that it reads and against one another.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// What may be written over in a model's folder: pictures, arrays, plots, pages, exports.
const HARMLESS: [&str; 7] = ["png", "npy", "gif", "svg", "html", "csv", "onnx"];

/// Refuses outputs that are one file, and such as would replace an input. Both are (the argument's name,
/// path); an input may be a folder, whose other files than pictures and arrays are not to be written over.
pub fn check_outputs(inputs: &[(&str, &Path)], outputs: &[(&str, &Path)]) -> Result<()> {
    for (i, (flag, path)) in outputs.iter().enumerate() {
        let place = place(path);
        if let Some((other, _)) = outputs[..i].iter().find(|(_, other)| self::place(other) == place) {
            return Err(refused(flag, path, format!("another file than that of {other}")));
        }
        for (input, source) in inputs {
            let source = self::place(source);
            let is_replaced = if source.is_dir() {
                let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                place.starts_with(&source) && path.is_file() && !HARMLESS.contains(&ending)
            } else {
                place == source
            };
            if is_replaced {
                let expected = format!("another file than the input {input}, which would be lost");
                return Err(refused(flag, path, expected));
            }
        }
    }
    Ok(())
}

fn refused(flag: &str, path: &Path, expected: String) -> Error {
    Error::invalid(flag, expected, path.display().to_string(), "give another name")
}

/// Where a path leads, whatever it is called, also where there is no file yet.
fn place(path: &Path) -> PathBuf {
    let there = || path.canonicalize().ok();
    let folder = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(parent.canonicalize().ok()?.join(path.file_name()?))
    };
    there().or_else(folder).unwrap_or_else(|| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_under_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let [model, weights, picture, new] =
            ["m", "m/w.safetensors", "m/a.png", "m/new.npy"].map(|name| folder.path().join(name));
        std::fs::create_dir(&model).unwrap();
        std::fs::write(&weights, "weights").unwrap();
        std::fs::write(&picture, "picture").unwrap();
        let round = model.join("../m/a.png");
        let check = |inputs: &[(&str, &Path)], outputs: &[(&str, &Path)]| {
            check_outputs(inputs, outputs).map_err(|error| error.to_string())
        };
        let model = [("MODEL", model.as_path())];
        assert_eq!(check(&model, &[("--out", &picture), ("--npy", &new)]), Ok(()));
        let lost = check(&model, &[("--out", &weights)]).unwrap_err();
        assert!(lost.starts_with("--out: expected another file than the input MODEL"), "{lost}");
        let twice = check(&[], &[("--out", &picture), ("--strip", &round)]).unwrap_err();
        assert!(twice.starts_with("--strip: expected another file than that of --out"), "{twice}");
        assert!(check(&[("IN", &round)], &[("--out", &picture)]).is_err());
    }
}
