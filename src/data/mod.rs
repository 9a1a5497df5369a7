//! Training images: the embedded part of Fashion-MNIST, and folders of IDX files, of CIFAR-10's binary
//! batches or of pictures.
//!
//! Everything is held in memory as bytes, `[N, H, W, C]`, and handed out as numbers in [-1, 1].
//!
//! ```
//! use performer_ddpm::data::{self, Dataset};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! // The garments that come with the library; a folder of files is `data::load(Some(path), Some((32, 32)))`.
//! let garments = data::load(None, None)?;
//! assert_eq!((garments.train.len(), garments.train.shape()), (10_000, [28, 28, 1]));
//!
//! // Images of one's own.
//! let grey = Dataset::from_array("grey", ndarray::Array4::from_elem((5, 8, 8, 3), 128u8).view())?;
//! assert_eq!(grey.select(&[0, 4])?.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Adding a format
//! 1. One file here, with a function from a folder to [`Datasets`] that checks every length it reads, reports
//!    bad input by file, and allocates only what the file really holds.
//! 2. One line in [`load`], which recognises the format by names that no other format uses.
//! 3. A test in `tests/suite/data_sources/` for each kind of damage.

mod cifar;
mod dataset;
mod embedded;
mod folder;
mod given;
pub mod idx;
mod jpeg;
mod labels;
mod mnist;
mod resize;

pub use dataset::{Dataset, Datasets, unit_from_byte};
pub(crate) use embedded::is_fashion_mnist;
pub use given::Picture;
pub use labels::Labels;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Loads training images, and test images where there are some.
///
/// Without a path: the embedded first 10,000 training and 2,000 test images of Fashion-MNIST. With one, a
/// folder, recognised from what is in it:
/// - IDX files under MNIST's names (`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`; plain
///   or gzip; labels and the test pair may be missing),
/// - CIFAR-10's binary batches (`data_batch_1.bin` to `data_batch_5.bin`; `test_batch.bin` may be missing),
/// - images, directly, in one sub-folder per class (sorted by name), or either of the two under `train/` and,
///   for the test images, `test/`. All are grey if every file is, else colour.
///
/// Labels come with their names: Fashion-MNIST's and CIFAR-10's own, those of the sub-folders, and the
/// numbers in other IDX files.
///
/// `size` is (height, width): every image is cropped around its centre to that aspect ratio and then resized.
/// Without it, images keep their size, which must be the same for all.
///
/// # Errors
/// [`Error::Invalid`] or [`Error::Read`] naming the file or folder that cannot be used.
pub fn load(path: Option<&Path>, size: Option<(usize, usize)>) -> Result<Datasets> {
    let Some(path) = path else { return embedded::load()?.resized(size) };
    if std::fs::metadata(path).map_err(|e| Error::read(path, e))?.is_file() {
        return Err(Error::invalid(
            path.display().to_string(),
            "a folder",
            "a file",
            "unpack archives first and give the folder that holds the files",
        ));
    }
    let (files, _) = entries(path)?;
    if mnist::recognises(&files) {
        mnist::load(path, &files)?.resized(size)
    } else if cifar::recognises(&files) {
        cifar::load(path, &files)?.resized(size)
    } else {
        folder::load(path, size)
    }
}

/// The files and the sub-folders of `folder`, each sorted by name; hidden ones are left out.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let read = |e| Error::read(folder, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let (folders, files) = paths.into_iter().partition(|p| p.is_dir());
    Ok((files, folders))
}

/// A file's or folder's own name, for messages.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
