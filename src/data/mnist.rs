//! Folders with IDX files under the names of MNIST and of the data sets in its format.

use super::embedded::FASHION_CLASSES;
use super::{Dataset, Datasets, Labels, file_name, idx, is_fashion_mnist};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const TRAIN: [&str; 2] = ["train-images", "train-labels"];
const TEST: [&str; 2] = ["t10k-images", "t10k-labels"];

/// Whether one of the four files is there.
pub(super) fn recognises(files: &[PathBuf]) -> bool {
    TRAIN.iter().chain(&TEST).any(|part| find(files, part).is_some())
}

/// The training pair and, where there is one, the test pair. Labels may be missing.
pub(super) fn load(folder: &Path, files: &[PathBuf]) -> Result<Datasets> {
    let name = file_name(folder);
    let train = pair(files, TRAIN, &name)?.ok_or_else(|| {
        Error::invalid(
            folder.display().to_string(),
            "train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
            "other IDX files only",
            "put the training images into the same folder",
        )
    })?;
    let test = pair(files, TEST, &name)?;
    Datasets::new(train, test)
}

fn pair(files: &[PathBuf], [images, labels]: [&str; 2], name: &str) -> Result<Option<Dataset>> {
    let Some(path) = find(files, images) else { return Ok(None) };
    let ([count, height, width], pixels) = idx::read_file(path)?;
    let labels = match find(files, labels) {
        Some(path) => {
            let ([labels], bytes) = idx::read_file(path)?;
            if labels != count {
                return Err(Error::invalid(
                    path.display().to_string(),
                    format!("{count} labels, as many as images"),
                    labels.to_string(),
                    "the two files do not belong together",
                ));
            }
            Some(bytes)
        }
        None => None,
    };
    let fashion = [height, width] == [28, 28] && is_fashion_mnist(&pixels);
    let (name, classes) = if fashion { ("Fashion-MNIST", &FASHION_CLASSES[..]) } else { (name, &[][..]) };
    let labels = labels.map(|labels| Labels::numbered(&labels, classes));
    Dataset::new(name, [height, width, 1], pixels, labels, false).map(Some)
}

/// The file of one part, such as `train-images`: `-idx3-ubyte` or `.idx3-ubyte` after it, plain before gzip.
fn find<'a>(files: &'a [PathBuf], part: &str) -> Option<&'a PathBuf> {
    let rank = if part.ends_with("images") { 3 } else { 1 };
    ["", ".gz"].iter().find_map(|gz| {
        ["-", "."].iter().find_map(|dash| {
            let name = format!("{part}{dash}idx{rank}-ubyte{gz}");
            files.iter().find(|file| file.file_name().is_some_and(|n| n == name.as_str()))
        })
    })
}
