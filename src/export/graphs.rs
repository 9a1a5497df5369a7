//! The three graphs: the network, the network with one step of a sampler, and K steps of one sampler in a
//! Scan.

use super::metadata::{GraphKind, Metadata, SamplerSummary};
use super::network::{Condition, Network};
use crate::config::DiffusionConfig;
use crate::equations::update::{ReverseProcess, StepCoefficients};
use crate::equations::{Schedule, Spacing, Timestep};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::graph::Shape;
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ModelInfo, SliceRange, Unary, Value};
use performer_ddpm_onnx::{Dim, ElementType};

/// What is exported.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The network.
    pub model: &'a Model<f32>,
    /// The diffusion process that it was trained for.
    pub diffusion: &'a DiffusionConfig,
    /// The training step of the weights, where it is known.
    pub step: Option<u64>,
}

/// A graph to export. Each has one more input where the network takes classes: `y` int64 \[N\], the classes of
/// the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GraphSpec {
    /// Inputs `x` f32 \[N, C, H, W\] and `t` int64 \[N\], the index 0..T-1; output `eps` f32 \[N, C, H, W\].
    Denoiser,
    /// Inputs `x`, `t`, `coefficients` f32 \[8\] ([`StepCoefficients::to_array`]) and `z` f32 \[N, C, H, W\];
    /// output `x_next`.
    Step,
    /// Inputs `x_T` f32 \[N, C, H, W\] and `noise` f32 \[K, N, C, H, W\], the steps' z in the order of
    /// sampling; output `images`. A sampler without noise (DDIM with eta = 0) has the input `noise` too, but
    /// does not read it.
    ///
    /// With `per_run`, a run is only a part of the chain: `noise` holds the noise of its steps, a third
    /// input, `first` int64 \[1\], is the number of steps before it, and its `images` are the `x_T` of the
    /// next run. Steps of the last run beyond K leave the images as they are.
    Sampler {
        /// The sampler.
        process: ReverseProcess,
        /// K; `None` for all T.
        steps: Option<usize>,
        /// Which timesteps are kept when they are fewer than T.
        spacing: Spacing,
        /// Steps of one run; `None` for all K. With fewer, the noise of a long chain need not all be in
        /// memory.
        per_run: Option<usize>,
    },
}

impl GraphSpec {
    /// Which of the three it is.
    pub fn kind(&self) -> GraphKind {
        match self {
            GraphSpec::Denoiser => GraphKind::Denoiser,
            GraphSpec::Step => GraphKind::Step,
            GraphSpec::Sampler { .. } => GraphKind::Sampler,
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
/// [`Error::Invalid`] for a network whose output has another shape than its input, and for a diffusion
/// process, sampler or number of steps out of range; [`Error::Onnx`] for a network that the format cannot
/// hold.
pub fn build(source: Source, spec: &GraphSpec) -> Result<onnx::Model> {
    let model = source.model;
    model.check()?;
    let shape = model.graph.shape(model.graph.input);
    if *spec != GraphSpec::Denoiser && model.input_len() != model.output_len() {
        return Err(Error::invalid(
            "the network's output",
            format!("{shape}, as its input"),
            model.graph.shape(model.graph.output).to_string(),
            "a network that predicts more than eps can only be exported as a denoiser",
        ));
    }
    if !source.diffusion.prediction.is_epsilon() || source.diffusion.zero_terminal_snr {
        let (prediction, zero) = (source.diffusion.prediction, source.diffusion.zero_terminal_snr);
        return Err(Error::invalid(
            "an exported model",
            "a network that predicts eps, trained without zero terminal SNR",
            format!("prediction {prediction:?}, zero terminal SNR {zero}"),
            "sample from the model folder with the engine",
        ));
    }
    let schedule = Schedule::from_config(source.diffusion)?;
    let network = Network {
        graph: &model.graph,
        weights: &model.weights,
        projections: &model.projections,
        timesteps: schedule.steps(),
    };
    let kind = spec.kind();
    let mut g = GraphBuilder::new(kind.name());
    let mut sampler = None;
    match *spec {
        GraphSpec::Denoiser => {
            let x = g.input("x", ElementType::F32, batch_of(shape))?;
            let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
            let condition = Condition { t, y: classes(&mut g, network)? };
            let eps = network.write(&mut g, x, condition)?;
            g.output("eps", eps)?;
        }
        GraphSpec::Step => {
            let x = g.input("x", ElementType::F32, batch_of(shape))?;
            let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
            let coefficients = g.input("coefficients", ElementType::F32, [8])?;
            let z = g.input("z", ElementType::F32, batch_of(shape))?;
            let condition = Condition { t, y: classes(&mut g, network)? };
            let eps = network.write(&mut g, x, condition)?;
            let next = update(&mut g, x, eps, coefficients, Some(z))?;
            g.output("x_next", next)?;
        }
        GraphSpec::Sampler { process, steps, spacing, per_run } => {
            let steps = process.steps(&process.strided(&schedule, steps, spacing)?)?;
            let per_run = per_run.unwrap_or(steps.len());
            if !(1..=steps.len()).contains(&per_run) {
                let expected = format!("from 1 to the sampler's {}", steps.len());
                return Err(Error::invalid("steps of one run", expected, per_run.to_string(), ""));
            }
            let images = chain(&mut g, network, shape, &steps, per_run)?;
            g.output("images", images)?;
            let timesteps = steps.iter().map(|(t, _)| *t).collect();
            sampler = Some(SamplerSummary { process, spacing, timesteps, per_run });
        }
    }
    let metadata = Metadata::new(kind, &model.config, source.diffusion, source.step, sampler)?;
    let info = ModelInfo {
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc: doc(kind),
        metadata: metadata.write(),
    };
    Ok(g.into_model(info)?)
}

fn doc(kind: GraphKind) -> String {
    let graph = match kind {
        GraphKind::Denoiser => "eps = eps_theta(x, t)",
        GraphKind::Step => "x_next = one step of the reverse process from x = x_t",
        GraphKind::Sampler => "images = the whole reverse process from x_T",
    };
    format!(
        "{graph}. Denoising diffusion (Ho et al. 2020); images NCHW in [-1, 1]; t = 0 .. T - 1 is the \
         paper's t less one. Numbers in brackets in the nodes' documentation are equations of the slides \
         \"Performers-backed Denoising Diffusion Probabilistic Models\", listed with their corrections in \
         the program's docs/equations.md."
    )
}

/// The input `y` of a network that takes classes.
fn classes(g: &mut GraphBuilder, network: Network) -> Result<Option<Value>> {
    let takes_classes = network.graph.classes().is_some();
    Ok(takes_classes.then(|| g.input("y", ElementType::I64, [Dim::from("N")])).transpose()?)
}

fn batch_of(shape: Shape) -> onnx::Shape {
    onnx::Shape(vec![Dim::from("N"), shape.c.into(), shape.h.into(), shape.w.into()])
}

/// [`StepCoefficients::apply`]; without `z` the sampler adds no noise at any step.
fn update(
    g: &mut GraphBuilder,
    x: Value,
    eps: Value,
    coefficients: Value,
    z: Option<Value>,
) -> onnx::Result<Value> {
    let parts = g.within("update", "the step's eight coefficients", |g| g.split(coefficients, 0, &[1; 8]))?;
    let [a_x, a_eps, low, high, b_x0, b_x, b_eps, sigma] = parts[..] else {
        return Err(onnx::Error::invalid("update", "8 parts", parts.len().to_string(), ""));
    };
    let weighted = |g: &mut GraphBuilder, terms: &[(Value, Value)]| {
        let mut sum = None;
        for (factor, value) in terms {
            let term = g.mul(*factor, *value)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => g.add(sum, term)?,
            });
        }
        sum.ok_or_else(|| onnx::Error::invalid("update", "at least one term", "none", ""))
    };
    let doc = "(3) solved for x_0, clipped: x0 = clamp(a_x x + a_eps eps, low, high)";
    let x0 = g.within("update/x0", doc, |g| {
        let x0 = weighted(g, &[(a_x, x), (a_eps, eps)])?;
        let x0 = g.binary(Binary::Max, x0, low)?;
        g.binary(Binary::Min, x0, high)
    })?;
    let doc =
        "(15) with (13) and (11) or (12), or DDIM's step: x_next = b_x0 x0 + b_x x + b_eps eps + sigma z";
    g.within("update/x_next", doc, |g| {
        let mut terms = vec![(b_x0, x0), (b_x, x), (b_eps, eps)];
        terms.extend(z.map(|z| (sigma, z)));
        weighted(g, &terms)
    })
}

/// Algorithm 2 or DDIM as one Scan over the steps of a run, the network with its weights inside the body.
fn chain(
    g: &mut GraphBuilder,
    network: Network,
    shape: Shape,
    steps: &[(Timestep, StepCoefficients)],
    per_run: usize,
) -> Result<Value> {
    let start = g.input("x_T", ElementType::F32, batch_of(shape))?;
    let mut dims = vec![Dim::from(per_run)];
    dims.extend(batch_of(shape).0);
    let noise = g.input("noise", ElementType::F32, dims)?;
    let y = classes(g, network)?;
    let is_noisy = steps.iter().any(|(_, c)| c.sigma != 0.0);

    let mut body = GraphBuilder::body("step");
    let x = body.input("step/x", ElementType::F32, batch_of(shape))?;
    let y_of_step = y.map(|_| body.input("step/y", ElementType::I64, [Dim::from("N")])).transpose()?;
    let t = body.input("step/t", ElementType::I64, [Dim::from("N")])?;
    let coefficients = body.input("step/coefficients", ElementType::F32, [8])?;
    let z = if is_noisy { Some(body.input("step/z", ElementType::F32, batch_of(shape))?) } else { None };
    let eps = network.write(&mut body, x, Condition { t, y: y_of_step })?;
    let next = update(&mut body, x, eps, coefficients, z)?;
    body.output("step/x_next", next)?;
    // The classes are a state that no step changes: a body reads nothing of the graph around it.
    if let Some(y) = y_of_step {
        let same = body.unary(Unary::Identity, y)?;
        body.output("step/y_next", same)?;
    }

    // All runs have the same number of steps: the last one is padded with steps that change nothing.
    let rows = steps.len().next_multiple_of(per_run);
    let mut indices: Vec<i64> = steps.iter().map(|(t, _)| t.index() as i64).collect();
    indices.resize(rows, 0);
    let mut coefficients: Vec<f32> = steps.iter().flat_map(|(_, c)| c.to_array::<f32>()).collect();
    while coefficients.len() < 8 * rows {
        coefficients.extend(StepCoefficients::IDENTITY.to_array::<f32>());
    }
    let of_run = if per_run < steps.len() {
        let first = g.input("first", ElementType::I64, [1])?;
        let after = g.constant_i64(&[per_run], &(0..per_run as i64).collect::<Vec<_>>())?;
        Some(g.within("run", "the run's steps among all", |g| g.add(first, after))?)
    } else {
        None
    };
    let rows_of_run = |g: &mut GraphBuilder, table: Value| match of_run {
        Some(steps) => g.gather(table, 0, steps),
        None => Ok(table),
    };
    let timesteps = g.within("timesteps", "every step's t for every image: [K, N]", |g| {
        let indices = g.constant_i64(&[rows, 1], &indices)?;
        let indices = rows_of_run(g, indices)?;
        let first = [1, 2, 3].map(|axis| SliceRange { axis, start: 0, end: 1, step: 1 });
        let one_per_image = g.slice(start, &first)?;
        let one_per_image = g.squeeze(one_per_image, &[1, 2, 3])?;
        g.expand_like(indices, one_per_image)
    })?;
    let coefficients = g.within("coefficients", "every step's coefficients: [K, 8]", |g| {
        let coefficients = g.constant_f32(&[rows, 8], &coefficients)?;
        rows_of_run(g, coefficients)
    })?;
    let mut scanned = vec![timesteps, coefficients];
    scanned.extend(is_noisy.then_some(noise));
    let states: Vec<Value> = [start].into_iter().chain(y).collect();
    let doc = "Algorithm 2, or DDIM: the network and the update, once per step";
    let outputs = g.within("chain", doc, |g| g.scan(body, &states, &scanned))?;
    Ok(outputs.states[0])
}
