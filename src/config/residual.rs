//! What a residual block and a change of resolution can be, with diffusers' names.

use serde::{Deserialize, Serialize};

/// The activation function of the residual blocks (`act_fn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x / (1 + exp(-x)) (Hendrycks & Gimpel 2016), also known as swish.
    #[default]
    #[serde(alias = "swish")]
    Silu,
    /// x tanh(ln(1 + exp(x))) (Misra 2019).
    Mish,
    /// x Phi(x), with the standard normal distribution function (Hendrycks & Gimpel 2016).
    Gelu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Every one.
    pub const ALL: [Activation; 4] = [Activation::Silu, Activation::Mish, Activation::Gelu, Activation::Relu];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Mish => "mish",
            Activation::Gelu => "gelu",
            Activation::Relu => "relu",
        }
    }
}

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
