//! The four graphs: the network, the network with one step of a sampler, K steps of one sampler in a Scan,
//! and one training step.

use super::chain::{Chain, chain};
use super::guidance::{self, Guidance};
use super::metadata::{GraphKind, Metadata, SamplerSummary, prediction_name};
use super::network::{Condition, Network, Weights, images};
use super::source::{Precision, Source};
use super::step;
use super::train_step::{self, TrainStep};
use crate::equations::Schedule;
use crate::equations::solver::{Scheduler, StepForm};
use crate::error::{Error, Result};
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
use performer_ddpm_onnx::{Dim, ElementType};

/// A graph to export.
///
/// Where the network takes classes, each has an input `y` int64 \[N\], the classes of the images. With
/// [guidance](Source::guided), step and sampler graphs have an input `guidance` f32 too: w and phi of [(G1)
/// and (G3)](crate::equations::guidance), \[2\], or \[K, 2\] for the steps of a sampler. w = 1 and phi = 0
/// are the prediction for the class as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GraphSpec {
    /// Inputs `x` f32 \[N, C, H, W\] and `t` int64 \[N\], the index 0..T-1; output `eps`, `x0` or `v`, what
    /// the network predicts, f32 \[N, C, H, W\], with as many channels again where it learned the variance.
    Denoiser,
    /// Inputs `x`, `t`, `coefficients` f32 \[R\], the [row](StepForm::row) of the step in the form of the
    /// source's [scheduler](Source::scheduler), and `z` f32 \[N, C, H, W\]; output `x_next`. What the form
    /// [carries](StepForm::carried) is an input `NAME` and an output `NAME_next`, f32 \[N, C, H, W\], each 0
    /// before the first step. R is 8 for Algorithm 2 and DDIM, which carry nothing.
    Step,
    /// Inputs `x_T` f32 \[N, C, H, W\] and `noise` f32 \[K, N, C, H, W\], the steps' z in the order of
    /// sampling; output `images`. A sampler without noise (DDIM with eta = 0) has the input `noise` too, but
    /// does not read it.
    ///
    /// With `per_run`, a run is only a part of the chain: `noise` holds the noise of its steps, a third
    /// input, `first` int64 \[1\], is the number of steps before it, and its `images` are the `x_T` of the
    /// next run, as every output `NAME_next` is the input `NAME` of it. Steps of the last run beyond K leave
    /// the images as they are.
    Sampler {
        /// The sampler.
        scheduler: Scheduler,
        /// K; `None` for all T.
        steps: Option<usize>,
        /// Steps of one run; `None` for all K. With fewer, the noise of a long chain need not all be in
        /// memory.
        per_run: Option<usize>,
    },
    /// One training step: inputs `x_0` and `eps` f32 \[N, C, H, W\], `t` int64 \[N\], `lr` f32 \[1\], `step`
    /// int64 \[1\], from 1, the masks `dropout.INDEX` f32 \[N, C, H, W\] of the network's dropouts, 0 or 1 /
    /// (1 - p), and the [states](super::States), which are the weights, their moments and their average;
    /// outputs `loss` f32 \[1\], the mean over the images, `grad_norm` f32 \[1\], the gradient's norm before
    /// clipping, and the next states. The file holds no weights.
    TrainStep(TrainStep),
}

impl GraphSpec {
    /// Which of the four it is.
    pub fn kind(&self) -> GraphKind {
        match self {
            GraphSpec::Denoiser => GraphKind::Denoiser,
            GraphSpec::Step => GraphKind::Step,
            GraphSpec::Sampler { .. } => GraphKind::Sampler,
            GraphSpec::TrainStep(_) => GraphKind::TrainStep,
        }
    }
}

/// The network in a graph of this kind, with all that is needed to sample from the file alone in its
/// metadata.
///
/// The graph cannot refuse a t outside 0..T-1: on a CPU the runtimes report an error, except that -T..-1
/// count from the end; on a GPU the result is undefined.
///
/// # Errors
/// [`Error::Invalid`] for a network whose output cannot be sampled from, for guidance of one without a null
/// class, and for a diffusion process, sampler or number of steps out of range; [`Error::Onnx`] for a network
/// that the format cannot hold.
pub fn build(source: Source, spec: &GraphSpec) -> Result<onnx::Model> {
    let model = source.model;
    model.check()?;
    let shape = model.graph.shape(model.graph.input);
    let schedule = Schedule::from_config(source.diffusion)?;
    let network = Network {
        graph: &model.graph,
        weights: Weights::Stored(&model.weights),
        projections: &model.projections,
        timesteps: schedule.steps(),
        precision: source.precision,
    };
    let kind = spec.kind();
    if kind == GraphKind::TrainStep && source.precision != Precision::F32 {
        let got = source.precision.name();
        return Err(Error::invalid("the numbers of a training step", "f32", got, "leave out --dtype"));
    }
    let null_class = if kind == GraphKind::Denoiser { None } else { null_class(source)? };
    let mut g = GraphBuilder::new(kind.name());
    let (mut sampler, mut training) = (None, None);
    match *spec {
        GraphSpec::Denoiser => {
            source.scheduler.validate()?;
            check_sampler(source, &source.scheduler)?;
            let x = g.input("x", ElementType::F32, images(shape))?;
            let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
            let condition = Condition { t, y: network.classes(&mut g)? };
            let output = network.write(&mut g, x, condition)?;
            g.output(prediction_name(source.diffusion.prediction), output)?;
        }
        GraphSpec::Step => {
            source.scheduler.validate()?;
            let form = source.scheduler.form();
            check_sampler(source, &source.scheduler)?;
            check_output(source, &form)?;
            let x = g.input("x", ElementType::F32, images(shape))?;
            let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
            let row = g.input("coefficients", ElementType::F32, [form.names().len()])?;
            let z = Some(g.input("z", ElementType::F32, images(shape))?);
            let names = form.carried();
            let mut carried = Vec::new();
            for name in &names {
                carried.push(g.input(name, ElementType::F32, images(shape))?);
            }
            let condition = Condition { t, y: network.classes(&mut g)? };
            let guidance = match null_class {
                None => None,
                Some(null) => Some(Guidance { null, numbers: g.input("guidance", ElementType::F32, [2])? }),
            };
            let output = guidance::write(&mut g, network, shape, x, condition, guidance)?;
            let inputs = step::Inputs { x, output, row, z, carried: &carried };
            let (next, kept) = step::write(&mut g, &form, shape, inputs)?;
            g.output("x_next", next)?;
            for (name, value) in names.iter().zip(kept) {
                g.output(&format!("{name}_next"), value)?;
            }
        }
        GraphSpec::Sampler { scheduler, steps, per_run } => {
            check_sampler(source, &scheduler)?;
            let asked = steps.unwrap_or(schedule.steps());
            let steps = scheduler.steps(&schedule, asked)?;
            let per_run = per_run.unwrap_or(steps.len());
            if !(1..=steps.len()).contains(&per_run) {
                let expected = format!("from 1 to the sampler's {}", steps.len());
                return Err(Error::invalid("steps of one run", expected, per_run.to_string(), ""));
            }
            check_output(source, &StepForm::of(&steps))?;
            chain(&mut g, &Chain { network, shape, steps: &steps, per_run, null_class })?;
            let timesteps = steps.iter().map(|step| step.t).collect();
            sampler = Some(SamplerSummary { scheduler, steps: asked, timesteps, per_run });
        }
        GraphSpec::TrainStep(ref step) => {
            train_step::write(&mut g, source, &schedule, step)?;
            training = Some(*step);
        }
    }
    let metadata = Metadata { training, ..Metadata::new(kind, source, sampler)? };
    let info = ModelInfo {
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc: doc(kind),
        metadata: metadata.write(),
    };
    Ok(g.into_model(info)?)
}

/// The null class of a graph with guidance.
fn null_class(source: Source) -> Result<Option<usize>> {
    let config = &source.model.config;
    if !source.guided || config.null_class().is_some() {
        return Ok(config.null_class().filter(|_| source.guided));
    }
    let got = match config.classes() {
        0 => "a network without classes".to_owned(),
        classes => format!("a network with {classes} classes, none of which is the null class"),
    };
    Err(Error::invalid("a graph with guidance", "a network with a null class", got, "leave the guidance out"))
}

/// Refuses a sampler for networks that predict something else.
fn check_sampler(source: Source, scheduler: &Scheduler) -> Result<()> {
    if scheduler.prediction == source.diffusion.prediction {
        return Ok(());
    }
    Err(Error::invalid(
        "the sampler of a graph",
        format!("one for a network that predicts {}", prediction_name(source.diffusion.prediction)),
        format!("one for {}", prediction_name(scheduler.prediction)),
        "",
    ))
}

/// Refuses a network whose output is neither an image nor an image and its variance, and one without the
/// variance that the steps need.
fn check_output(source: Source, form: &StepForm) -> Result<()> {
    let model = source.model;
    let (input, output) = (model.input_len(), model.output_len());
    if output != input && output != 2 * input {
        let shape = model.graph.shape(model.graph.input);
        return Err(Error::invalid(
            "the network's output",
            format!("{shape}, as its input, or twice as many channels"),
            model.graph.shape(model.graph.output).to_string(),
            "a network that predicts something else can only be exported as a denoiser",
        ));
    }
    if form.learned.is_some() && output == input {
        return Err(Error::invalid(
            "the scheduler's learned variance",
            "a network that predicts one, in twice the channels of an image",
            "a network that predicts no variance",
            "take a fixed variance",
        ));
    }
    Ok(())
}

fn doc(kind: GraphKind) -> String {
    let graph = match kind {
        GraphKind::Denoiser => "the network's prediction for x and t",
        GraphKind::Step => "x_next = one step of the reverse process from x = x_t",
        GraphKind::Sampler => "images = the whole reverse process from x_T",
        GraphKind::TrainStep => "one step of Algorithm 1: loss, gradient, Adam and the weights' average",
    };
    format!(
        "{graph}. Denoising diffusion (Ho et al. 2020); images NCHW in [-1, 1]; t = 0 .. T - 1 is the \
         paper's t less one. Numbers in brackets in the nodes' documentation are equations of the slides \
         \"Performers-backed Denoising Diffusion Probabilistic Models\" or, (S1) and so on, of the annex on \
         samplers, listed with their corrections in the program's docs/equations.md."
    )
}
