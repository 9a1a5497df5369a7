//! Files that get their final name only after they have been read back and checked.

use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::output::write_atomically;
use performer_ddpm_onnx::Model;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// Writes a model as [`write_atomically`] does. The file has its name only after it was read back, equals
/// what was built and `check` accepts it; only then it replaces `path`.
///
/// # Errors
/// Those of [`write_atomically`], [`Error::Invalid`] where the file differs when it is read back, and the
/// errors of `check`. `path` is then unchanged.
pub fn write_checked(path: &Path, model: &Model, check: impl FnOnce(&Model) -> Result<()>) -> Result<()> {
    let bytes = model.to_bytes()?;
    let mut refused = None;
    let written = write_atomically(path, |out| {
        out.write_all(&bytes)?;
        out.flush()?;
        let mut back = Vec::with_capacity(bytes.len());
        out.rewind()?;
        out.get_mut().read_to_end(&mut back)?;
        check_again(path, model, &back).and_then(|again| check(&again)).map_err(|error| {
            refused = Some(error);
            io::Error::other("refused")
        })
    });
    refused.map_or(written, Err)
}

/// What was read back, if it is the model that was written.
fn check_again(path: &Path, model: &Model, back: &[u8]) -> Result<Model> {
    let again = Model::from_bytes(&path.display().to_string(), back)?;
    if again.proto() == model.proto() && Metadata::read(&again)?.is_some() {
        return Ok(again);
    }
    Err(Error::invalid(
        path.display().to_string(),
        "the model that was written",
        "another one",
        "the disk or the network behind it may be faulty",
    ))
}
