//! The part of Fashion-MNIST that the library carries (MIT licence, Zalando SE; see `data/README.md`).

use super::{Dataset, Datasets, Labels, idx};
use crate::error::Result;
use flate2::bufread::MultiGzDecoder;
use std::io::Read;

const TRAIN_IMAGES: &[u8] = include_bytes!("../../data/fashion-mnist/train-images-idx3-ubyte.gz");
const TRAIN_LABELS: &[u8] = include_bytes!("../../data/fashion-mnist/train-labels-idx1-ubyte.gz");
const TEST_IMAGES: &[u8] = include_bytes!("../../data/fashion-mnist/t10k-images-idx3-ubyte.gz");
const TEST_LABELS: &[u8] = include_bytes!("../../data/fashion-mnist/t10k-labels-idx1-ubyte.gz");

/// The classes of Fashion-MNIST in the order of its labels (Xiao et al. 2017, table 2).
pub(super) const FASHION_CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// 10,000 training and 2,000 test images, 28x28, grey, with labels.
pub(super) fn load() -> Result<Datasets> {
    let train = part("the embedded training", TRAIN_IMAGES, TRAIN_LABELS)?;
    let test = part("the embedded test", TEST_IMAGES, TEST_LABELS)?;
    Datasets::new(train, Some(test))
}

fn part(what: &str, images: &[u8], labels: &[u8]) -> Result<Dataset> {
    let ([_, height, width], pixels) = idx::read(&format!("{what} images"), MultiGzDecoder::new(images))?;
    let ([_], labels) = idx::read(&format!("{what} labels"), MultiGzDecoder::new(labels))?;
    let labels = Labels::numbered(&labels, &FASHION_CLASSES);
    Dataset::new("Fashion-MNIST", [height, width, 1], pixels, Some(labels), false)
}

/// Whether `pixels` (images of 28x28 bytes) begins with the first training or test image of Fashion-MNIST,
/// whose IDX files have the same names as MNIST's.
pub(crate) fn is_fashion_mnist(pixels: &[u8]) -> bool {
    const HEADER: usize = 16;
    const IMAGE: usize = 28 * 28;
    [TRAIN_IMAGES, TEST_IMAGES].into_iter().any(|file| {
        let mut start = [0; HEADER + IMAGE];
        MultiGzDecoder::new(file).read_exact(&mut start).is_ok() && pixels.starts_with(&start[HEADER..])
    })
}
