//! Files that get their final name only after they have been read back and checked.

use super::metadata::Metadata;
use crate::error::{Error, Result};
use performer_ddpm_onnx::Model;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a model. The file is `.NAME.unchecked` in the same folder until it has been read back, equals what
/// was built and `check` accepts it. Only then it replaces `path`.
///
/// # Errors
/// [`Error::Write`] where the system refuses, [`Error::Invalid`] where `path` is a folder or the file differs
/// when it is read back, and the errors of `check`. The unchecked file is then removed.
pub fn write_checked(path: &Path, model: &Model, check: impl FnOnce(&Model) -> Result<()>) -> Result<()> {
    let name = path.file_name().filter(|_| !path.is_dir()).ok_or_else(|| {
        Error::invalid(path.display().to_string(), "a file to write", "a folder", "give a file's name")
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".unchecked");
    let unchecked = Unchecked(path.with_file_name(hidden));
    let refuse = |source| Error::write(path, source);
    model.write(&unchecked.0).map_err(|error| match error {
        performer_ddpm_onnx::Error::Write { source, .. } => refuse(source),
        other => other.into(),
    })?;
    let bytes = fs::read(&unchecked.0).map_err(|source| Error::read(&unchecked.0, source))?;
    let again = Model::from_bytes(&path.display().to_string(), &bytes)?;
    if again.proto() != model.proto() || Metadata::read(&again)?.is_none() {
        return Err(Error::invalid(
            path.display().to_string(),
            "the model that was written",
            "another one",
            "the disk or the network behind it may be faulty",
        ));
    }
    check(&again)?;
    fs::File::open(&unchecked.0).and_then(|file| file.sync_all()).map_err(refuse)?;
    fs::rename(&unchecked.0, path).map_err(refuse)
}

/// A file that is removed unless it is renamed.
struct Unchecked(PathBuf);

impl Drop for Unchecked {
    fn drop(&mut self) {
        // After the rename there is nothing to remove; before it, the error that ends the export is the one
        // to report.
        let _ = fs::remove_file(&self.0);
    }
}
