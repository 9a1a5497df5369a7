//! A model on its way into a file.

use crate::config::DiffusionConfig;
use crate::equations::solver::Scheduler;
use crate::model::Model;

/// The numbers in which a graph computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// Images between the layers, convolutions and their weights in IEEE 16-bit floats. The time embedding,
    /// attention, the groups' means and variances, convolutions from or to a number of channels that 8 does
    /// not divide, and the sampler's arithmetic stay in 32 bits.
    F16,
    /// Weights rounded to brain floats, in half of the space; the graph computes in 32 bits. (ONNX has
    /// convolutions of brain floats from opset 22 on only.)
    Bf16,
}

impl Precision {
    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }

    /// Half the distance of two neighbouring numbers, relative to them.
    pub fn rounding(self) -> f64 {
        match self {
            Precision::F32 => 0.5_f64.powi(24),
            Precision::F16 => 0.5_f64.powi(11),
            Precision::Bf16 => 0.5_f64.powi(8),
        }
    }
}

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
    /// In which numbers the graph computes; of a training step 32 bits only.
    pub precision: Precision,
    /// The training step of the weights, where it is known.
    pub step: Option<u64>,
}

impl<'a> Source<'a> {
    /// A network and the process that it was trained for, without guidance and in 32 bits, sampled by DDIM,
    /// or by Algorithm 2 where it has learned its variance: a step graph then carries nothing from step to
    /// step but x.
    pub fn new(model: &'a Model<f32>, diffusion: &'a DiffusionConfig) -> Self {
        let scheduler = match diffusion.learned_range {
            false => Scheduler::ddim_of(diffusion),
            true => Scheduler::of(diffusion),
        };
        Source { model, diffusion, scheduler, guided: false, precision: Precision::F32, step: None }
    }
}
