//! What training minimises: the weight of the loss at each timestep, and how the timesteps are drawn.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The weight of a sample's loss, a function of its timestep through snr = abar_t / (1 - abar_t).
///
/// All of them but [`LossWeight::None`] weigh the same error, whatever the network predicts: a network of x_0
/// and one of eps that say the same have the same loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum LossWeight {
    /// 1 on the error of what the network predicts (Ho et al. 2020).
    #[default]
    None,
    /// min(snr, gamma) on the error of x_0 (Hang et al. 2023, section 3.4).
    MinSnr {
        /// A positive number; 5 in the paper.
        gamma: f64,
    },
    /// 1 / (k + snr)^gamma on the error of eps (Choi et al. 2022, section 3).
    P2 {
        /// A positive number; 1 in the paper.
        k: f64,
        /// At least 0; 0.5 and 1 in the paper.
        gamma: f64,
    },
}

impl LossWeight {
    /// Whether every timestep counts alike.
    pub fn is_none(&self) -> bool {
        *self == LossWeight::None
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key out of range.
    pub(super) fn validate(self) -> Result<()> {
        let check = |key: &str, is_in_range: bool, expected: &str, got: f64| {
            let key = format!("train.loss_weight.{key}");
            if is_in_range { Ok(()) } else { Err(Error::invalid(key, expected, got.to_string(), "")) }
        };
        let is_positive = |x: f64| x > 0.0 && x.is_finite();
        match self {
            LossWeight::None => Ok(()),
            LossWeight::MinSnr { gamma } => check("gamma", is_positive(gamma), "a positive number", gamma),
            LossWeight::P2 { k, gamma } => {
                check("k", is_positive(k), "a positive number", k)?;
                check("gamma", (0.0..=100.0).contains(&gamma), "0 to 100", gamma)
            }
        }
    }
}

/// How the timesteps of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampling {
    /// Each uniformly from all T (Ho et al. 2020).
    #[default]
    Uniform,
    /// One from each of as many equal strata as the batch has samples: the batch's loss then varies less.
    Stratified,
}

impl TimestepSampling {
    /// Whether it is Algorithm 1's.
    pub fn is_uniform(&self) -> bool {
        *self == TimestepSampling::Uniform
    }
}
