//! Measures of a model: its likelihood ([`nll`]); comparisons of samples and images by their features
//! ([`features`], [`frechet`], [`kernel_distance`], [`precision_recall`]); and the nearest training images by
//! pixels ([`nearest`]).
//!
//! ```no_run
//! use performer_ddpm::evaluate::features::{Extractor, FeatureOptions};
//! use performer_ddpm::evaluate::{Comparison, NllConfig, choose, likelihood};
//! use performer_ddpm::{Pipeline, SampleOptions, data};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! let mut pipeline = Pipeline::load("runs/latest")?;
//! let garments = data::load(None, None)?;
//! let held_out = garments.test.expect("the garments have a test set");
//! let held_out = held_out.select(&choose(held_out.len(), 256, 0)?)?;
//! let bound = likelihood(&mut pipeline, &held_out, &NllConfig::default(), &mut |_| {})?;
//! println!("{:.3} bits per dimension", bound.bounds[0].bits_per_dim.mean);
//!
//! let options = FeatureOptions { output: Some("features".to_owned()), ..FeatureOptions::default() };
//! let mut network = Extractor::open("data/fashion_features.onnx".as_ref(), &options)?;
//! let samples = pipeline.sample(&SampleOptions { count: 2000, ..pipeline.options() })?;
//! let samples = network.features(samples.view().permuted_axes([0, 3, 1, 2]))?;
//! let images = choose(garments.train.len(), 2000, 0)?;
//! let images = network.features_of(&garments.train, &images, &mut |_| {})?;
//! println!("{:?}", Comparison::of(images.view(), samples.view(), 0)?);
//! # Ok(())
//! # }
//! ```
//!
//! Every result is a function of its inputs and a seed, with the same bits on any number of threads. Parallel
//! work uses the rayon pool of the caller.

mod block_means;
mod choice;
mod comparison;
mod distance;
mod estimate;
pub mod features;
pub mod frechet;
pub mod kernel_distance;
mod losses;
pub mod nearest;
pub mod nll;
mod per_class;
pub mod precision_recall;
mod recognised;

pub use block_means::block_means;
pub use choice::{choose, images, images_nchw};
pub use comparison::{Comparison, fewest, fewest_for_frechet};
pub use estimate::Estimate;
pub use losses::losses;
pub use nll::{NllConfig, likelihood};
pub use per_class::{ClassDistance, Labelled, class_distances};
pub use recognised::recognised;

use crate::error::{Error, Result};
use ndarray::ArrayView2;

/// Refuses two sets of features \[n, d\] that cannot be compared: of different lengths, with fewer than
/// `least` rows, or with numbers that are not finite.
fn check_pair(a: ArrayView2<f64>, b: ArrayView2<f64>, least: usize, why: &str) -> Result<()> {
    if a.ncols() != b.ncols() || a.ncols() == 0 {
        return Err(Error::invalid(
            "features of two sets",
            "the same number of features, at least 1",
            format!("{} and {}", a.ncols(), b.ncols()),
            "compute both with one network",
        ));
    }
    for features in [a, b] {
        if features.nrows() < least {
            return Err(Error::invalid(
                "the number of images",
                format!("at least {least} {why}"),
                features.nrows().to_string(),
                "take more images",
            ));
        }
        if let Some(((row, _), value)) = features.indexed_iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::invalid(
                format!("the features of image {row}"),
                "finite numbers",
                value.to_string(),
                "",
            ));
        }
    }
    Ok(())
}
