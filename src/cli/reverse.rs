//! The options of the reverse process, for `sample` and `export`.

use clap::{Args, ValueEnum};
use performer_ddpm::config::VarianceKind;
use performer_ddpm::equations::ddim::Ddim;
use performer_ddpm::equations::reverse::Reverse;
use performer_ddpm::equations::update::ReverseProcess;
use performer_ddpm::sample::{ClipX0, Spacing};
use performer_ddpm::{Error, Result, SampleOptions};

/// The options of the reverse process; all have defaults.
#[derive(Debug, Args)]
pub struct ReverseArgs {
    /// Reverse process [default: ddim, or the sampler file's]
    #[arg(long, value_enum, value_name = "NAME")]
    pub sampler: Option<SamplerName>,
    /// Steps of the reverse process [default: 50 for ddim, all T for ddpm]
    #[arg(long, value_name = "K")]
    pub steps: Option<usize>,
    /// DDIM's noise: 0 none, 1 as much as Algorithm 2 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Which timesteps are kept when they are fewer than T [default: trailing]
    #[arg(long, value_enum, value_name = "NAME")]
    pub spacing: Option<SpacingName>,
    /// Clipping of the predicted x_0 to [-1, 1] [default: the model's; keep where it clips]
    #[arg(long, value_enum, value_name = "NAME")]
    pub clip: Option<ClipName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SamplerName {
    /// Algorithm 2
    Ddpm,
    /// DDIM (Song et al. 2021)
    Ddim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpacingName {
    /// Indices 0, s, 2s, ..: includes t = 1
    Leading,
    /// Evenly spaced down from t = T
    Trailing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClipName {
    /// Do not clip
    Off,
    /// Clip, and keep the predicted noise
    Keep,
    /// Clip, and derive the noise again from the clipped x_0
    Rederive,
}

/// A reverse process with all options decided.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    pub process: ReverseProcess,
    /// `None` for all T.
    pub steps: Option<usize>,
    pub spacing: Spacing,
}

impl Chosen {
    /// Options to sample with it.
    pub fn options(self, count: usize, batch: usize, seed: u64) -> SampleOptions {
        let Chosen { process, steps, spacing } = self;
        SampleOptions { count, batch, seed, steps, spacing, ..SampleOptions::default() }.with_reverse(process)
    }
}

impl ReverseArgs {
    /// The reverse process for a model with this variance, clipping and T.
    pub fn choose(&self, variance: VarianceKind, clip_x0: bool, timesteps: usize) -> Result<Chosen> {
        let clip_x0 = match (clip_x0, self.clip) {
            (false, None) | (_, Some(ClipName::Off)) => ClipX0::Off,
            (true, None) | (_, Some(ClipName::Keep)) => ClipX0::KeepEps,
            (_, Some(ClipName::Rederive)) => ClipX0::RederiveEps,
        };
        let eta = self.eta.unwrap_or(0.0);
        let (process, steps) = match self.sampler.unwrap_or(SamplerName::Ddim) {
            SamplerName::Ddpm if eta != 0.0 => {
                return Err(Error::invalid(
                    "--eta",
                    "to be left out with --sampler ddpm",
                    eta.to_string(),
                    "",
                ));
            }
            SamplerName::Ddpm => {
                let reverse = Reverse { variance, clip_x0: clip_x0 != ClipX0::Off };
                (ReverseProcess::Alg2(reverse), self.steps)
            }
            SamplerName::Ddim => {
                let steps = self.steps.unwrap_or(50.min(timesteps));
                (ReverseProcess::Ddim(Ddim { eta, clip_x0 }), Some(steps))
            }
        };
        let spacing = match self.spacing {
            Some(SpacingName::Leading) => Spacing::Leading,
            Some(SpacingName::Trailing) | None => Spacing::Trailing,
        };
        Ok(Chosen { process, steps, spacing })
    }

    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("--sampler", self.sampler.is_some()),
            ("--steps", self.steps.is_some()),
            ("--eta", self.eta.is_some()),
            ("--spacing", self.spacing.is_some()),
            ("--clip", self.clip.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
    }
}
