//! A model on its way into a file.

use crate::config::DiffusionConfig;
use crate::equations::solver::Scheduler;
use crate::model::Model;

/// What is exported.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The network.
    pub model: &'a Model<f32>,
    /// The diffusion process that it was trained for.
    pub diffusion: &'a DiffusionConfig,
    /// How it is sampled where nothing else is said; a step graph takes the steps of samplers of this form.
    pub scheduler: Scheduler,
    /// Whether step and sampler graphs guide: they then compute the network twice a step, in one batch, for
    /// the images' classes and for its [null class](crate::config::UnetConfig::null_class).
    pub guided: bool,
    /// The training step of the weights, where it is known.
    pub step: Option<u64>,
}

impl<'a> Source<'a> {
    /// A network and the process that it was trained for, without guidance, sampled by DDIM, or by Algorithm
    /// 2 where it has learned its variance: a step graph then carries nothing from step to step but x.
    pub fn new(model: &'a Model<f32>, diffusion: &'a DiffusionConfig) -> Self {
        let scheduler = match diffusion.learned_range {
            false => Scheduler::ddim_of(diffusion),
            true => Scheduler::of(diffusion),
        };
        Source { model, diffusion, scheduler, guided: false, step: None }
    }
}
