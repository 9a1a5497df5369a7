//! Training images: the embedded part of Fashion-MNIST, and folders of IDX files, of CIFAR-10's binary
//! batches or of pictures.
//!
//! Images are bytes, `[N, H, W, C]`, in memory as far as it goes, and handed out as numbers in [-1, 1].
//! [`read`] takes everything that can be said of them, [`load`] the path and the size alone.
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
mod contents;
mod dataset;
mod decode;
mod embedded;
mod folder;
mod frames;
mod given;
mod held_out;
pub mod idx;
mod jpeg;
mod kind;
mod labels;
mod listing;
mod mnist;
mod pixels;
mod reading;
mod resize;

pub use contents::{Contents, Entry};
pub use dataset::{Dataset, Datasets, unit_from_byte};
pub(crate) use embedded::is_fashion_mnist;
pub use given::Picture;
pub use labels::Labels;
pub use reading::{Phase, Reading, Watch};

use crate::config::DataConfig;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The images.
    pub sets: Datasets,
    /// What was found and what was made of it, for the user: a line each.
    pub notes: Vec<String>,
}

/// Loads training images, and test images where there are some: [`read`] with nothing said but the path and
/// the size (height, width).
///
/// # Errors
/// Those of [`read`].
pub fn load(path: Option<&Path>, size: Option<(usize, usize)>) -> Result<Datasets> {
    let config = DataConfig {
        path: path.map(Path::to_path_buf),
        size: size.map(|(height, width)| [height, width]),
        ..DataConfig::default()
    };
    Ok(read(&config, 0, Reading::default(), &mut |_, _, _| {})?.sets)
}

/// Reads training images, and test images where there are some.
///
/// Without a path: the embedded first 10,000 training and 2,000 test images of Fashion-MNIST. With one, a
/// folder, recognised from what is in it:
/// - IDX files under MNIST's names (`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`; plain
///   or gzip; labels and the test pair may be missing),
/// - CIFAR-10's binary batches (`data_batch_1.bin` to `data_batch_5.bin`; `test_batch.bin` may be missing),
/// - pictures, in it and in the folders in it, or under `train/` and, for the test images, `test/`, `val/`,
///   `valid/` or `validation/`. PNG, JPEG (CMYK too), WebP, TIFF, GIF and BMP (of animations the first
///   frame), PBM to PPM, by their content, whatever their ending. Where all lie in sub-folders, these are the
///   classes, sorted by name.
///
/// Labels come with their names: Fashion-MNIST's and CIFAR-10's own, those of the sub-folders, and the
/// numbers in other IDX files.
///
/// Every picture is turned as its camera noted, rounded to eight bits, put on the background where it is
/// transparent, and cut around its centre and resized to the size; without a size all must have the same one.
/// All are grey if every file is, or as `channels` says. Other files are passed over, or refused by
/// [`Reading::strict`]; a picture that cannot be read is always refused, and all of them are named.
///
/// Where a share is held out, it is a function of `seed`, and becomes the test images. `watch` is told how
/// far the work is.
///
/// # Errors
/// [`Error::Invalid`] or [`Error::Read`] naming the files or the folder that cannot be used.
pub fn read(config: &DataConfig, seed: u64, reading: Reading, watch: &mut Watch) -> Result<Loaded> {
    config.validate()?;
    let mut notes = Vec::new();
    let mut sets = source(config, reading, &mut notes, watch)?;
    if let Some(share) = config.held_out {
        let all = sets.train.len();
        sets = held_out::split(sets, share, seed)?;
        let count = sets.test.as_ref().map_or(0, Dataset::len);
        notes.push(format!("{count} of {all} images held out (`held_out`, seed {seed}), never trained on"));
    }
    Ok(Loaded { sets, notes })
}

/// The images as they are stored, of the wanted size and channels.
fn source(
    config: &DataConfig,
    reading: Reading,
    notes: &mut Vec<String>,
    watch: &mut Watch,
) -> Result<Datasets> {
    let sets = match &config.path {
        None => embedded::load()?,
        Some(path) => {
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
                mnist::load(path, &files)?
            } else if cifar::recognises(&files) {
                cifar::load(path, &files)?
            } else {
                return folder::load(path, config, reading, notes, watch);
            }
        }
    };
    sets.map(|mut set| {
        if let Some(channels) = config.channels {
            set = set.with_channels(channels)?;
        }
        match config.size {
            Some([height, width]) => set.resized((height, width)),
            None => Ok(set),
        }
    })
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
