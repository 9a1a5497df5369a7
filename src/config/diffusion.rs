//! The diffusion process's configuration: noise schedule, number of steps, reverse variance.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How beta_1 .. beta_T are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum BetaSchedule {
    /// beta_t evenly spaced from `start` to `end` (Ho et al. 2020: 1e-4 to 0.02).
    Linear {
        /// beta_1.
        start: f64,
        /// beta_T.
        end: f64,
    },
    /// alpha_bar follows a squared cosine with offset s = 0.008; beta_t is at most 0.999 (Nichol & Dhariwal
    /// 2021).
    Cosine,
    /// sqrt(beta_t) evenly spaced (Rombach et al. 2022, their code).
    ScaledLinear {
        /// beta_1.
        start: f64,
        /// beta_T.
        end: f64,
    },
    /// start + (end - start) / (1 + e^-u) with u evenly spaced from -6 to 6 (Xu et al. 2022, their code).
    Sigmoid {
        /// What beta_1 is close to.
        start: f64,
        /// What beta_T is close to.
        end: f64,
    },
    /// The betas themselves, one a timestep.
    Trained {
        /// beta_1 .. beta_T.
        betas: Vec<f64>,
    },
}

/// What a network says of x_t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise in it, eps (Ho et al. 2020).
    #[default]
    Epsilon,
    /// The image, x_0.
    Sample,
    /// v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022).
    VPrediction,
}

impl Prediction {
    /// Whether it is what the slides' networks predict.
    pub fn is_epsilon(&self) -> bool {
        *self == Prediction::Epsilon
    }
}

/// sigma_t^2 of the reverse process, equation (7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceKind {
    /// sigma_t^2 = beta~_t, the posterior's variance (10).
    FixedSmall,
    /// sigma_t^2 = beta_t.
    FixedLarge,
}

/// The forward process and the reverse variance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// T, the number of timesteps.
    pub timesteps: usize,
    /// The noise schedule.
    pub schedule: BetaSchedule,
    /// sigma_t^2.
    pub variance: VarianceKind,
    /// Whether samplers clip the predicted x_0 to [-1, 1].
    pub clip_x0: bool,
    /// Whether the betas are rescaled so that nothing of x_0 is left in x_T (Lin et al. 2024, Algorithm 1).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero_terminal_snr: bool,
    /// What the network predicts.
    #[serde(default, skip_serializing_if = "Prediction::is_epsilon")]
    pub prediction: Prediction,
    /// Whether the network has a second output, which says where sigma_t^2 lies between beta~_t and beta_t
    /// (Nichol & Dhariwal 2021, section 3.1). `variance` is then for whoever needs a fixed one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learned_range: bool,
}

impl Default for DiffusionConfig {
    /// Ho et al. (2020): linear 1e-4 .. 0.02, T = 1000, sigma_t^2 = beta~_t, x_0 clipped when sampling.
    fn default() -> Self {
        DiffusionConfig {
            timesteps: 1000,
            schedule: BetaSchedule::Linear { start: 1e-4, end: 0.02 },
            variance: VarianceKind::FixedSmall,
            clip_x0: true,
            zero_terminal_snr: false,
            prediction: Prediction::Epsilon,
            learned_range: false,
        }
    }
}

impl DiffusionConfig {
    /// How many channels the network has for each one of an image: 2 where it predicts a variance too.
    pub fn outputs(&self) -> usize {
        1 + usize::from(self.learned_range)
    }

    /// Checks every number's range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key out of range.
    pub fn validate(&self) -> Result<()> {
        if !(2..=100_000).contains(&self.timesteps) {
            return Err(Error::invalid(
                "diffusion.timesteps",
                "2 to 100000",
                self.timesteps.to_string(),
                "Ho et al. use 1000",
            ));
        }
        let (name, start, end) = match &self.schedule {
            BetaSchedule::Linear { start, end } => ("linear", *start, *end),
            BetaSchedule::ScaledLinear { start, end } => ("scaled_linear", *start, *end),
            BetaSchedule::Sigmoid { start, end } => ("sigmoid", *start, *end),
            BetaSchedule::Cosine => return Ok(()),
            BetaSchedule::Trained { betas } if betas.len() == self.timesteps => return Ok(()),
            BetaSchedule::Trained { betas } => {
                return Err(Error::invalid(
                    "diffusion.schedule (trained betas)",
                    format!("diffusion.timesteps = {} betas", self.timesteps),
                    betas.len().to_string(),
                    "",
                ));
            }
        };
        if !(start > 0.0 && start <= end && end < 1.0) {
            return Err(Error::invalid(
                format!("diffusion.schedule ({name})"),
                "0 < start <= end < 1",
                format!("start {start}, end {end}"),
                "Ho et al. use 1e-4 and 0.02",
            ));
        }
        Ok(())
    }
}
