//! What is said of the reverse process, over what a model says of its own.

use super::pipeline::Diffusion;
use super::{ClipX0, SampleOptions, Spacing};
use crate::equations::solver::{DdimChoice, DpmSolver, Limit, Method, UniPc};
use crate::error::{Error, Result};

/// A reverse process without its choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Algorithm 2.
    Ddpm,
    /// DDIM (Song et al. 2021).
    Ddim,
    /// DPM-Solver++ (Lu et al. 2022).
    DpmSolver,
    /// UniPC (Zhao et al. 2023).
    UniPc,
}

/// What is said of the reverse process; what is not is the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The reverse process; DDIM where only `eta` is given.
    pub family: Option<Family>,
    /// Its steps.
    pub steps: Option<usize>,
    /// DDIM's noise.
    pub eta: Option<f64>,
    /// The timesteps that are kept.
    pub spacing: Option<Spacing>,
    /// Clipping of the predicted x_0.
    pub clip: Option<ClipX0>,
}

impl Choice {
    /// How a model is sampled: by its scheduler, but for what was given. Another sampler takes over what the
    /// two have in common.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an eta of another sampler than DDIM.
    pub fn options(&self, diffusion: &Diffusion) -> Result<SampleOptions> {
        let (scheduler, variance) = (&diffusion.scheduler, diffusion.variance);
        let other = |method| scheduler.with_method(method, diffusion.clip_x0);
        let family = self.family.or(self.eta.map(|_| Family::Ddim));
        let mut chosen = match (family, scheduler.method) {
            (None, _)
            | (Some(Family::Ddpm), Method::Ddpm { .. })
            | (Some(Family::Ddim), Method::Ddim(_))
            | (Some(Family::DpmSolver), Method::DpmSolver(_))
            | (Some(Family::UniPc), Method::UniPc(_)) => *scheduler,
            (Some(Family::Ddpm), _) => other(Method::Ddpm { variance: variance.into(), noise_at_last: true }),
            (Some(Family::Ddim), _) => other(Method::Ddim(DdimChoice::default())),
            (Some(Family::DpmSolver), _) => other(Method::DpmSolver(DpmSolver::default())),
            (Some(Family::UniPc), _) => other(Method::UniPc(UniPc::default())),
        };
        match (&mut chosen.method, self.eta) {
            (Method::Ddim(choice), Some(eta)) => choice.eta = eta,
            (_, Some(eta)) if eta != 0.0 => {
                let help = "it is the noise of `Family::Ddim`";
                return Err(Error::invalid("`Choice::eta`", "to be left out", eta.to_string(), help));
            }
            _ => {}
        }
        if let Some(clip) = self.clip {
            chosen.limit = match (clip, chosen.limit) {
                (ClipX0::Off, _) => Limit::Off,
                (_, limit @ Limit::Clip { .. }) => limit,
                (_, Limit::Off | Limit::Threshold { .. }) => Limit::Clip { range: 1.0 },
            };
            if let Method::Ddim(choice) = &mut chosen.method {
                choice.rederive_eps = clip == ClipX0::RederiveEps;
            }
        }
        if let Some(spacing) = self.spacing {
            chosen.spacing = spacing;
        }
        Ok(SampleOptions::default().with_scheduler(&chosen, &diffusion.schedule, self.steps))
    }

    /// The same, with DDIM where the model's scheduler is a multistep one and no sampler was named: for uses
    /// that take a step alone.
    #[must_use]
    pub fn of_one_step(self, diffusion: &Diffusion) -> Choice {
        let is_multistep = matches!(diffusion.scheduler.method, Method::DpmSolver(_) | Method::UniPc(_));
        Choice { family: self.family.or(is_multistep.then_some(Family::Ddim)), ..self }
    }
}
