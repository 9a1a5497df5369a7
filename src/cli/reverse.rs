//! The options of the reverse process, for `sample` and `export`.

use crate::sample::{Choice, ClipX0, Diffusion, Family, Spacing};
use crate::{Result, SampleOptions};
use clap::{Args, ValueEnum};

/// The options of the reverse process; all have defaults.
#[derive(Clone, Copy, Debug, Args)]
pub struct ReverseArgs {
    /// Reverse process [default: the model folder's scheduler, or the sampler file's; for a run dpm++, or
    /// ddpm where it learned its variance; ddim where --eta is given]
    #[arg(long, value_enum, value_name = "NAME")]
    pub sampler: Option<SamplerName>,
    /// Steps of the reverse process [default: 50 for ddim, all T for ddpm, 15 for dpm++ and unipc]
    #[arg(long, value_name = "K")]
    pub steps: Option<usize>,
    /// DDIM's noise: 0 none, 1 as much as Algorithm 2 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Which timesteps are kept when they are fewer than T [default: the model's; trailing for a run]
    #[arg(long, value_enum, value_name = "NAME")]
    pub spacing: Option<SpacingName>,
    /// Clipping of the predicted x_0 to [-1, 1] [default: the model's; keep where it clips]; a solver's steps
    /// need it for networks that are little trained, and are a little better without it for others
    #[arg(long, value_enum, value_name = "NAME")]
    pub clip: Option<ClipName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SamplerName {
    /// Algorithm 2
    Ddpm,
    /// DDIM (Song et al. 2021)
    Ddim,
    /// DPM-Solver++ (Lu et al. 2022)
    #[value(name = "dpm++")]
    DpmSolver,
    /// UniPC (Zhao et al. 2023)
    #[value(name = "unipc")]
    UniPc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpacingName {
    /// Indices 0, s, 2s, ..: includes t = 1
    Leading,
    /// Evenly spaced down from t = T
    Trailing,
    /// Evenly spaced from t = 1 to t = T
    Linspace,
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

impl From<SamplerName> for Family {
    fn from(name: SamplerName) -> Family {
        match name {
            SamplerName::Ddpm => Family::Ddpm,
            SamplerName::Ddim => Family::Ddim,
            SamplerName::DpmSolver => Family::DpmSolver,
            SamplerName::UniPc => Family::UniPc,
        }
    }
}

impl From<SpacingName> for Spacing {
    fn from(name: SpacingName) -> Spacing {
        match name {
            SpacingName::Leading => Spacing::Leading,
            SpacingName::Trailing => Spacing::Trailing,
            SpacingName::Linspace => Spacing::Linspace,
        }
    }
}

impl From<ClipName> for ClipX0 {
    fn from(name: ClipName) -> ClipX0 {
        match name {
            ClipName::Off => ClipX0::Off,
            ClipName::Keep => ClipX0::KeepEps,
            ClipName::Rederive => ClipX0::RederiveEps,
        }
    }
}

impl ReverseArgs {
    /// What the arguments say.
    pub fn choice(&self) -> Choice {
        Choice {
            family: self.sampler.map(Family::from),
            steps: self.steps,
            eta: self.eta,
            spacing: self.spacing.map(Spacing::from),
            clip: self.clip.map(ClipX0::from),
        }
    }

    /// How a model is sampled: by its scheduler, but for what was given.
    pub fn choose(&self, diffusion: &Diffusion) -> Result<SampleOptions> {
        self.choice().options(diffusion)
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
