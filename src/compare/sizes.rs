//! How much each part of a comparison measures.

use super::budget::Budget;
use serde::{Deserialize, Serialize};

/// How many images and steps are used to measure a trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measuring {
    /// Held-out images of the loss and of the bound.
    pub images: usize,
    /// Timesteps of the bound, stratified.
    pub timesteps: usize,
    /// Samples whose features are compared with those of the data, unless another number is given.
    pub samples: usize,
    /// DDIM steps of every sample.
    pub steps: usize,
    /// Images of a sample grid.
    pub grid: usize,
}

/// Training at a higher resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullResolution {
    /// Height and width that the images are enlarged to.
    pub size: [usize; 2],
    /// Images per step.
    pub batch: usize,
    /// The budget of each of softmax and FAVOR+.
    pub budget: Budget,
    /// Images of a sample grid.
    pub grid: usize,
}

/// The attention layer alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostSizes {
    /// L.
    pub tokens: Vec<usize>,
    /// m for maps of one function; two functions are measured at the smallest and the largest.
    pub features: Vec<usize>,
    /// Heads.
    pub heads: usize,
    /// d.
    pub dim: usize,
    /// Seconds of repetitions for a point's median.
    pub seconds: f64,
    /// A point is left out if one pass would take longer than this; the report says so.
    pub most_seconds: f64,
}

/// The random features' error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApproximationSizes {
    /// L.
    pub tokens: usize,
    /// d.
    pub dim: usize,
    /// m.
    pub features: Vec<usize>,
    /// Draws of the projections for each mean.
    pub draws: usize,
    /// Standard deviations of q's and k's entries.
    pub spreads: Vec<f64>,
}

/// Softmax weights run with FAVOR+.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConversionSizes {
    /// m.
    pub features: Vec<usize>,
    /// Draws of the projections.
    pub draws: usize,
    /// Held-out images of the bound, fewer than those of a run.
    pub images: usize,
    /// Timesteps of the bound, stratified.
    pub timesteps: usize,
    /// Sampled images that are compared, for each m.
    pub samples: usize,
    /// m of the fine-tuned networks.
    pub tuned: Vec<usize>,
    /// Steps of fine-tuning as a share of the softmax run's.
    pub share: f64,
}
