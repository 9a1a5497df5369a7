//! CIFAR-10's binary batches: records of one label and a 32x32 image as red, green and blue planes.

use super::{Dataset, Datasets, Labels, file_name};
use crate::disk;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
/// The classes in the order of the labels, as `batches.meta.txt` has them.
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: &str = "test_batch.bin";

/// Whether one of the batches is there.
pub(super) fn recognises(files: &[PathBuf]) -> bool {
    TRAIN.iter().chain([&TEST]).any(|name| find(files, name).is_some())
}

/// The five training batches in order and, where it is there, the test batch.
pub(super) fn load(folder: &Path, files: &[PathBuf]) -> Result<Datasets> {
    let missing: Vec<&str> = TRAIN.into_iter().filter(|name| find(files, name).is_none()).collect();
    if !missing.is_empty() {
        return Err(Error::invalid(
            folder.display().to_string(),
            "CIFAR-10's five batches, data_batch_1.bin to data_batch_5.bin",
            format!("a folder without {}", missing.join(", ")),
            "unpack the archive of the binary version again",
        ));
    }
    let train = batches(TRAIN.iter().filter_map(|name| find(files, name)))?;
    let test = find(files, TEST).map(|path| batches([path])).transpose()?;
    Datasets::new(train, test)
}

fn batches<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Dataset> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = disk::read(path).map_err(|e| Error::read(path, e))?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
            return Err(Error::invalid(
                path.display().to_string(),
                format!("a multiple of {RECORD} bytes (as published, {} of them), not 0", 10_000 * RECORD),
                bytes.len().to_string(),
                "the file is cut short or not CIFAR-10's binary version; get it again",
            ));
        }
        for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
            let (label, planes) = (record[0], &record[1..]);
            if usize::from(label) >= CLASSES.len() {
                return Err(Error::invalid(
                    format!("{}: the label of image {i}", path.display()),
                    format!("0 to {}", CLASSES.len() - 1),
                    label.to_string(),
                    "the file is damaged or not CIFAR-10's binary version; get it again",
                ));
            }
            labels.push(label);
            pixels.extend((0..PLANE).flat_map(|p| [planes[p], planes[PLANE + p], planes[2 * PLANE + p]]));
        }
    }
    let labels = Labels::numbered(&labels, &CLASSES);
    Dataset::new("CIFAR-10", [SIDE, SIDE, 3], pixels, Some(labels), true)
}

fn find<'a>(files: &'a [PathBuf], name: &str) -> Option<&'a PathBuf> {
    files.iter().find(|file| file_name(file) == name)
}
