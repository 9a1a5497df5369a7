//! The diffusion process's configuration: noise schedule, number of steps, reverse variance.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How beta_1 .. beta_T are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
}

impl Default for DiffusionConfig {
    /// Ho et al. (2020): linear 1e-4 .. 0.02, T = 1000, sigma_t^2 = beta~_t, x_0 clipped when sampling.
    fn default() -> Self {
        DiffusionConfig {
            timesteps: 1000,
            schedule: BetaSchedule::Linear { start: 1e-4, end: 0.02 },
            variance: VarianceKind::FixedSmall,
            clip_x0: true,
        }
    }
}

impl DiffusionConfig {
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
        if let BetaSchedule::Linear { start, end } = self.schedule
            && !(start > 0.0 && start <= end && end < 1.0)
        {
            return Err(Error::invalid(
                "diffusion.schedule (linear)",
                "0 < start <= end < 1",
                format!("start {start}, end {end}"),
                "Ho et al. use 1e-4 and 0.02",
            ));
        }
        Ok(())
    }
}
