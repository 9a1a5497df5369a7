//! The options of the reverse process, for `sample` and `export`.

use clap::{Args, ValueEnum};
use performer_ddpm::equations::solver::{DdimChoice, DpmSolver, Limit, Method, UniPc};
use performer_ddpm::sample::{Diffusion, Spacing};
use performer_ddpm::{Error, Result, SampleOptions};

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

impl ReverseArgs {
    /// How a model is sampled: by its scheduler, but for what was given. Another sampler takes over what the
    /// two have in common.
    pub fn choose(&self, diffusion: &Diffusion) -> Result<SampleOptions> {
        let (scheduler, variance) = (&diffusion.scheduler, diffusion.variance);
        let other = |method| scheduler.with_method(method, diffusion.clip_x0);
        let sampler = self.sampler.or(self.eta.map(|_| SamplerName::Ddim));
        let mut chosen = match (sampler, scheduler.method) {
            (None, _)
            | (Some(SamplerName::Ddpm), Method::Ddpm { .. })
            | (Some(SamplerName::Ddim), Method::Ddim(_))
            | (Some(SamplerName::DpmSolver), Method::DpmSolver(_))
            | (Some(SamplerName::UniPc), Method::UniPc(_)) => *scheduler,
            (Some(SamplerName::Ddpm), _) => {
                other(Method::Ddpm { variance: variance.into(), noise_at_last: true })
            }
            (Some(SamplerName::Ddim), _) => other(Method::Ddim(DdimChoice::default())),
            (Some(SamplerName::DpmSolver), _) => other(Method::DpmSolver(DpmSolver::default())),
            (Some(SamplerName::UniPc), _) => other(Method::UniPc(UniPc::default())),
        };
        match (&mut chosen.method, self.eta) {
            (Method::Ddim(choice), Some(eta)) => choice.eta = eta,
            (_, Some(eta)) if eta != 0.0 => {
                let help = "it is the noise of --sampler ddim";
                return Err(Error::invalid("--eta", "to be left out", eta.to_string(), help));
            }
            _ => {}
        }
        if let Some(clip) = self.clip {
            chosen.limit = match (clip, chosen.limit) {
                (ClipName::Off, _) => Limit::Off,
                (_, limit @ Limit::Clip { .. }) => limit,
                (_, Limit::Off | Limit::Threshold { .. }) => Limit::Clip { range: 1.0 },
            };
            if let Method::Ddim(choice) = &mut chosen.method {
                choice.rederive_eps = clip == ClipName::Rederive;
            }
        }
        if let Some(spacing) = self.spacing {
            chosen.spacing = match spacing {
                SpacingName::Leading => Spacing::Leading,
                SpacingName::Trailing => Spacing::Trailing,
                SpacingName::Linspace => Spacing::Linspace,
            };
        }
        Ok(SampleOptions::default().with_scheduler(&chosen, &diffusion.schedule, self.steps))
    }

    /// The same, with DDIM where the model's scheduler is a multistep one and no sampler was named.
    pub fn of_one_step(&self, diffusion: &Diffusion) -> ReverseArgs {
        let is_multistep = matches!(diffusion.scheduler.method, Method::DpmSolver(_) | Method::UniPc(_));
        let sampler = self.sampler.or(is_multistep.then_some(SamplerName::Ddim));
        ReverseArgs { sampler, ..*self }
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
