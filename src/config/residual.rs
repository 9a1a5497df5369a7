//! What a residual block and a change of resolution can be, with diffusers' names.

use serde::{Deserialize, Serialize};

/// How the time embedding enters a residual block (`resnet_time_scale_shift`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added to every pixel before the second normalisation (Ho et al. 2020).
    #[default]
    Default,
    /// As a scale and a shift of every channel after the second normalisation (Nichol & Dhariwal 2021).
    ScaleShift,
}

/// How a level changes the resolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// A convolution: of stride 2 on the way down, after nearest-neighbour upsampling on the way up.
    #[default]
    Conv,
    /// A residual block that averages 2 x 2 pixels, or repeats every pixel, on both of its branches
    /// (Dhariwal & Nichol 2021; after Brock et al. 2019).
    Resnet,
}
