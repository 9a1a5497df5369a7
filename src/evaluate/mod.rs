//! How good a model is: its likelihood ([`nll`]), and how its samples compare with images ([`features`] and
//! what is computed from them: [`frechet`], [`kernel_distance`], [`precision_recall`]; [`nearest`] in the
//! images themselves).
//!
//! Everything is a function of its inputs and a seed: the same bits from any number of threads. Work that is
//! shared out uses the rayon pool that the caller is in.

mod block_means;
mod choice;
mod comparison;
mod distance;
mod estimate;
pub mod features;
pub mod frechet;
pub mod kernel_distance;
pub mod nearest;
pub mod nll;
pub mod precision_recall;

pub use block_means::block_means;
pub use choice::{choose, images, images_nchw};
pub use comparison::{Comparison, fewest};
pub use estimate::Estimate;
pub use nll::{NllConfig, likelihood};

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
