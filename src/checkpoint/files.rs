//! The files of model folders: those on disk, and those of the model that the library carries under the name
//! [`SHIPPED`]. A folder of that name on disk comes first.

use crate::disk;
use crate::error::{Error, Result};
use std::path::Path;

/// The name of the model that the library carries: 28x28 garments, trained as `data/fashion-model/README.md`
/// says. Whatever takes a model's path takes this name.
pub const SHIPPED: &str = "fashion";

/// Its files in the layout of a model folder. The weights are half precision.
const FILES: [(&str, &[u8]); 4] = [
    ("model_index.json", include_bytes!("../../data/fashion-model/model_index.json")),
    ("unet/config.json", include_bytes!("../../data/fashion-model/unet/config.json")),
    (
        "unet/diffusion_pytorch_model.safetensors",
        include_bytes!("../../data/fashion-model/unet/diffusion_pytorch_model.safetensors"),
    ),
    (
        "scheduler/scheduler_config.json",
        include_bytes!("../../data/fashion-model/scheduler/scheduler_config.json"),
    ),
];

/// Whether a path names the model that the library carries.
pub fn is_shipped(path: &Path) -> bool {
    path == Path::new(SHIPPED) && !path.exists()
}

/// The files of the model that the library carries: their paths below a model folder, and their bytes.
pub fn shipped_files() -> &'static [(&'static str, &'static [u8])] {
    &FILES
}

/// The bytes of a file that the library carries.
fn shipped(file: &Path) -> Option<&'static [u8]> {
    if Path::new(SHIPPED).exists() {
        return None;
    }
    let inside = file.strip_prefix(SHIPPED).ok()?;
    FILES.iter().find(|(name, _)| Path::new(name) == inside).map(|(_, bytes)| *bytes)
}

/// Whether there is such a file.
pub(super) fn is_file(file: &Path) -> bool {
    file.is_file() || shipped(file).is_some()
}

/// A file's bytes.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    match shipped(file) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => disk::read(file).map_err(|e| Error::read(file, e)),
    }
}

/// A file's text.
///
/// # Errors
/// [`Error::Read`], also where it is no Unicode.
pub(super) fn read_text(file: &Path) -> Result<String> {
    let no_text = |e: std::string::FromUtf8Error| {
        Error::read(file, std::io::Error::new(std::io::ErrorKind::InvalidData, e))
    };
    String::from_utf8(read(file)?).map_err(no_text)
}
