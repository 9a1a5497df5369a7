//! One training step as ONNX operators: x_t by (3), the network's loss (21) or (O7), its gradient in every
//! parameter, clipping, Adam and the average of the weights.
//!
//! The optimiser works on all parameters at once, one after the other in one tensor: a GPU would spend more
//! time on starting a few operations for each of some hundred parameters than on the network.

use super::backward;
use super::learned;
use super::masks::{self, Masks};
use super::muon;
use super::network::{Condition, Network, Weights, images};
use super::source::{Precision, Source};
use super::tables::Tables;
use crate::config::{Averaging, LossWeight, MuonConfig, TrainConfig};
use crate::equations::Schedule;
use crate::equations::objective::Objective;
use crate::error::{Error, Result};
use crate::model::graph::Graph;
use performer_ddpm_onnx as onnx;
use performer_ddpm_onnx::builder::{
    Binary, GraphBuilder, PadMode, Reduction, ReshapeDim, SliceRange, Unary, Value,
};
use performer_ddpm_onnx::{Dim, ElementType};
use serde::{Deserialize, Serialize};

/// What a training step does with the gradient, and what its loss weighs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainStep {
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
    /// Adam's epsilon, added after the bias correction.
    pub adam_eps: f64,
    /// Muon's numbers, where it updates the inner matrices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon: Option<MuonConfig>,
    /// The gradient's largest global norm; 0 for no clipping.
    pub clip_norm: f64,
    /// How the weights are averaged.
    pub average: Averaging,
    /// How much the loss counts at each timestep.
    #[serde(default)]
    pub loss_weight: LossWeight,
    /// How the graph takes the parameters, their moments and their average.
    #[serde(default)]
    pub states: States,
    /// How the graph takes the masks of the network's dropouts.
    #[serde(default, skip_serializing_if = "Masks::is_default")]
    pub masks: Masks,
}

/// How a training step's graph takes its states: the weights `w`, Adam's moments `m` and `v`, and the
/// weights' average `ema`. Elements are in the order of diffusers' files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum States {
    /// An input `w.NAME` and an output `w.NAME.next` for each parameter, of its shape in files; `m`, `v` and
    /// `ema` likewise.
    #[default]
    PerParameter,
    /// An input `w` and an output `w.next` \[R, [ROW]\] for all parameters, one after the other in the
    /// table's order, each from the start of a row on and followed by zeros up to the next; `m`, `v` and
    /// `ema` likewise. A runtime binds eight values instead of thousands.
    Rows,
}

/// The elements of a row of [`States::Rows`].
///
/// ONNX Runtime joins and cuts tensors on a GPU by a table with an entry for every element of the axis, which
/// it makes and sends over in every run. By rows the table is short.
pub const ROW: usize = 256;

impl From<&TrainConfig> for TrainStep {
    fn from(config: &TrainConfig) -> Self {
        TrainStep {
            beta1: config.beta1,
            beta2: config.beta2,
            adam_eps: config.adam_eps,
            muon: config.muon,
            clip_norm: config.clip_norm,
            average: config.average,
            loss_weight: config.loss_weight,
            states: States::default(),
            masks: Masks::default(),
        }
    }
}

impl Default for TrainStep {
    /// Ho et al. (2020): Adam with betas 0.9 and 0.999, the gradient's norm clipped to 1, the average's decay
    /// at most 0.9999.
    fn default() -> Self {
        TrainStep {
            beta1: 0.9,
            beta2: 0.999,
            adam_eps: 1e-8,
            muon: None,
            clip_norm: 1.0,
            average: Averaging::Exponential { decay: 0.9999 },
            loss_weight: LossWeight::None,
            states: States::default(),
            masks: Masks::default(),
        }
    }
}

/// The most tensors that ONNX Runtime joins at a time while it captures a CUDA graph.
const MOST_JOINED: usize = 32;

/// The states' names.
const STATES: [&str; 4] = ["w", "m", "v", "ema"];

/// Writes the graph with its inputs and outputs. Of the source's weights it takes none: they are inputs.
///
/// # Errors
/// [`Error::Invalid`] for a network that has not as many outputs as the process asks for.
pub(super) fn write(
    g: &mut GraphBuilder,
    source: Source,
    schedule: &Schedule,
    spec: &TrainStep,
) -> Result<()> {
    let model = source.model;
    let graph = &*model.graph;
    check(source)?;
    let shape = graph.shape(graph.input);
    let x_0 = g.input("x_0", ElementType::F32, images(shape))?;
    let eps = g.input("eps", ElementType::F32, images(shape))?;
    let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
    let lr = g.input("lr", ElementType::F32, [1])?;
    let step = g.input("step", ElementType::I64, [1])?;
    let takes_classes = graph.classes().is_some();
    let y = takes_classes.then(|| g.input("y", ElementType::I64, [Dim::from("N")])).transpose()?;
    let masks = masks::write(g, graph, spec.masks)?;
    let states = Inputs::new(g, graph, spec.states)?;

    let network = Network {
        graph,
        weights: Weights::Given(&states.weights),
        projections: &model.projections,
        timesteps: schedule.steps(),
        precision: Precision::F32,
    };
    let objective = Objective::new(source.diffusion, spec.loss_weight, schedule);
    let tables = Tables { schedule, objective: &objective, diffusion: source.diffusion, len: shape.len() };
    let doc = "(3) x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps";
    let x_t = g.within("x_t", doc, |g| tables.noised(g, x_0, eps, t))?;
    let condition = Condition { t, y };
    let tape = network.record(g, x_t, condition, &masks)?;
    let output = tape.values[graph.output.0];
    let doc =
        "(21) the mean of |target - prediction|^2, times the weight of t, and its gradient in the prediction";
    let (loss, d_output) = g.within("loss", doc, |g| {
        let target = tables.target(g, x_0, eps, t)?;
        if !source.diffusion.learned_range {
            let off = g.sub(output, target)?;
            return tables.loss(g, off, t);
        }
        let halves = g.split(output, 1, &[shape.c; 2])?;
        let off = g.sub(halves[0], target)?;
        let (loss, d_prediction) = tables.loss(g, off, t)?;
        let doc = "0.001 T L_vb in bits per dimension, and its gradient in the second output";
        let given = learned::Given { x_0, off, u: halves[1], t };
        let (bound, d_u) = g.within("bound", doc, |g| learned::bound(g, &tables, given))?;
        Ok((g.add(loss, bound)?, g.concat(1, &[d_prediction, d_u])?))
    })?;
    let gradients = backward::write(g, &network, &states.weights, &tape, (condition, &masks), d_output)?;

    let doc = "all parameters' gradients, one after the other";
    let gradient = g.within("gradient", doc, |g| in_rows(g, graph, &gradients))?;
    let (norm, next) = update(g, graph, spec, gradient, states.rows, [lr, step])?;
    g.output("loss", loss)?;
    g.output("grad_norm", norm)?;
    for (name, value) in STATES.iter().zip(next) {
        outputs(g, graph, spec.states, name, value)?;
    }
    Ok(())
}

/// Refuses what has no training step as a graph.
fn check(source: Source) -> Result<()> {
    let model = source.model;
    let refuse = |expected: &str, got: String, help: &str| {
        Err(Error::invalid("a training step as an ONNX graph", expected, got, help))
    };
    if model.graph.params.total() == 0 {
        return refuse("a network with parameters", "one without".to_owned(), "");
    }
    let (images, expected) = match source.diffusion.learned_range {
        false => (1, "a network whose output is an image"),
        true => (2, "a network whose output is an image and its variances"),
    };
    if images * model.input_len() != model.output_len() {
        return refuse(expected, model.graph.shape(model.graph.output).to_string(), "");
    }
    Ok(())
}

/// The states as the graph is given them.
struct Inputs {
    /// The weights, one value for each parameter in the table's order, in the file's layout.
    weights: Vec<Value>,
    /// The [`STATES`], each in rows.
    rows: [Value; 4],
}

impl Inputs {
    fn new(g: &mut GraphBuilder, graph: &Graph, states: States) -> Result<Inputs> {
        match states {
            States::PerParameter => {
                let mut given: [Vec<Value>; 4] = Default::default();
                for (state, values) in STATES.iter().zip(&mut given) {
                    for param in graph.params.iter() {
                        let name = format!("{state}.{}", param.name);
                        values.push(g.input(&name, ElementType::F32, &param.kind.file_shape()[..])?);
                    }
                }
                let mut rows = [given[0][0]; 4];
                for ((rows, values), state) in rows.iter_mut().zip(&given).zip(STATES) {
                    let scope = format!("states/{state}");
                    *rows = g.within(&scope, "one after the other", |g| in_rows(g, graph, values))?;
                }
                let [weights, ..] = given;
                Ok(Inputs { weights, rows })
            }
            States::Rows => {
                let count = graph.params.iter().map(|param| param.kind.len().div_ceil(ROW)).sum();
                let mut rows = Vec::new();
                for state in STATES {
                    rows.push(g.input(state, ElementType::F32, [count, ROW])?);
                }
                let rows = [rows[0], rows[1], rows[2], rows[3]];
                let doc = "the parameters apart";
                let weights = g.within("states/w", doc, |g| apart(g, graph, rows[0]))?;
                Ok(Inputs { weights, rows })
            }
        }
    }
}

/// Tensors like the parameters, one after the other in rows.
fn in_rows(g: &mut GraphBuilder, graph: &Graph, values: &[Value]) -> onnx::Result<Value> {
    let mut parts = Vec::with_capacity(values.len());
    for (value, param) in values.iter().zip(graph.params.iter()) {
        let len = param.kind.len();
        let missing = len.next_multiple_of(ROW) - len;
        let mut part = *value;
        if missing > 0 {
            part = g.reshape(part, &[ReshapeDim::To(len)])?;
            part = g.pad(part, &[(0, missing)], PadMode::Constant(0.0))?;
        }
        parts.push(g.reshape(part, &[ReshapeDim::Infer, ReshapeDim::To(ROW)])?);
    }
    while parts.len() > 1 {
        let joined: onnx::Result<Vec<Value>> =
            parts.chunks(MOST_JOINED).map(|parts| g.concat(0, parts)).collect();
        parts = joined?;
    }
    Ok(parts[0])
}

/// The parameters in rows, each of its shape in files.
fn apart(g: &mut GraphBuilder, graph: &Graph, rows: Value) -> onnx::Result<Vec<Value>> {
    let flat = g.reshape(rows, &[ReshapeDim::Infer])?;
    let mut start = 0;
    let mut parts = Vec::with_capacity(graph.params.iter().len());
    for param in graph.params.iter() {
        let len = param.kind.len();
        let part = g.slice(flat, &[SliceRange { axis: 0, start, end: start + len, step: 1 }])?;
        let shape: Vec<ReshapeDim> = param.kind.file_shape().into_iter().map(ReshapeDim::To).collect();
        parts.push(g.reshape(part, &shape)?);
        start += len.next_multiple_of(ROW);
    }
    Ok(parts)
}

/// A state's outputs.
fn outputs(g: &mut GraphBuilder, graph: &Graph, states: States, state: &str, rows: Value) -> Result<()> {
    if states == States::Rows {
        return Ok(g.output(&format!("{state}.next"), rows)?);
    }
    let scope = format!("states/{state}.next");
    let parts = g.within(&scope, "the parameters apart", |g| apart(g, graph, rows))?;
    for (param, part) in graph.params.iter().zip(parts) {
        g.output(&format!("{state}.{}.next", param.name), part)?;
    }
    Ok(())
}

/// The gradient's norm before clipping \[1\], and the next [`STATES`], in rows like all that is given.
fn update(
    g: &mut GraphBuilder,
    graph: &Graph,
    spec: &TrainStep,
    gradient: Value,
    [w, m, v, average]: [Value; 4],
    [lr, step]: [Value; 2],
) -> Result<(Value, [Value; 4])> {
    let doc = "clipping: g min(1, limit / (|g| + 1e-6))";
    let (norm, gradient) = g.within("clip", doc, |g| {
        let squares = g.mul(gradient, gradient)?;
        let sum = g.reduce(Reduction::Sum, squares, &[0, 1], false)?;
        let sum = g.unsqueeze(sum, &[0])?;
        let norm = g.unary(Unary::Sqrt, sum)?;
        if spec.clip_norm == 0.0 {
            return Ok((norm, gradient));
        }
        let (small, limit, one) = (g.scalar(1e-6)?, g.scalar(spec.clip_norm as f32)?, g.scalar(1.0)?);
        let room = g.add(norm, small)?;
        let factor = g.div(limit, room)?;
        let factor = g.binary(Binary::Min, factor, one)?;
        Ok((norm, g.mul(gradient, factor)?))
    })?;
    let numbers = Numbers::new(g, spec, lr, step)?;
    let doc = "Adam: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w -= lr (m / (1 - b1^k)) / (sqrt(v / \
               (1 - b2^k)) + eps)";
    let (moved, m, v) = g.within("adam", doc, |g| {
        let [b1, c1, b2, c2] = decays(g, graph, spec)?;
        let (kept, fresh) = (g.mul(b1, m)?, g.mul(c1, gradient)?);
        let m = g.add(kept, fresh)?;
        let fresh = g.mul(c2, gradient)?;
        let (kept, fresh) = (g.mul(b2, v)?, g.mul(fresh, gradient)?);
        let v = g.add(kept, fresh)?;
        let eps = g.scalar(spec.adam_eps as f32)?;
        let deviation = g.unary(Unary::Sqrt, v)?;
        let deviation = g.mul(deviation, numbers.root)?;
        let divisor = g.add(deviation, eps)?;
        let moved = g.mul(numbers.rate, m)?;
        Ok((g.div(moved, divisor)?, m, v))
    })?;
    let moved = match spec.muon {
        None => moved,
        Some(config) => {
            let doc = "Muon: the inner matrices move by lr rate 0.2 sqrt(max(rows, columns)) O instead, O the \
                       orthogonalised momentum m + (1 - momentum) (g - m)";
            g.within("muon", doc, |g| {
                let [b1, c1, ..] = decays(g, graph, spec)?;
                let (kept, fresh) = (g.mul(b1, m)?, g.mul(c1, gradient)?);
                let ahead = g.add(kept, fresh)?;
                let (directions, adams) = (apart(g, graph, ahead)?, apart(g, graph, moved)?);
                let mut parts = Vec::with_capacity(adams.len());
                for ((param, direction), adam) in graph.params.iter().zip(directions).zip(adams) {
                    parts.push(match param.is_inner_matrix() {
                        true => muon::step(g, param, config, direction, lr)?,
                        false => adam,
                    });
                }
                in_rows(g, graph, &parts)
            })?
        }
    };
    let w = g.within("weights", "w -= what they move by", |g| g.sub(w, moved))?;
    let doc = "the weights' average: ema += (1 - decay) (w - ema)";
    let average = g.within("average", doc, |g| {
        let off = g.sub(w, average)?;
        let part = g.mul(numbers.share, off)?;
        g.add(average, part)
    })?;
    Ok((norm, [w, m, v, average]))
}

/// beta1, 1 - beta1, beta2 and 1 - beta2: numbers, or with Muon those of every row, where the inner matrices
/// have Muon's momentum and no second moment.
fn decays(g: &mut GraphBuilder, graph: &Graph, spec: &TrainStep) -> onnx::Result<[Value; 4]> {
    let adam = [spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2];
    let Some(MuonConfig { momentum, .. }) = spec.muon else {
        let [b1, c1, b2, c2] = adam.map(|x| g.scalar(x as f32));
        return Ok([b1?, c1?, b2?, c2?]);
    };
    let of_matrices = [momentum, 1.0 - momentum, 1.0, 0.0];
    let mut values = Vec::with_capacity(4);
    for (adam, muon) in adam.into_iter().zip(of_matrices) {
        let mut rows = Vec::new();
        for param in graph.params.iter() {
            let number = if param.is_inner_matrix() { muon } else { adam };
            rows.resize(rows.len() + param.kind.len().div_ceil(ROW), number as f32);
        }
        values.push(g.constant_f32(&[rows.len(), 1], &rows)?);
    }
    Ok([values[0], values[1], values[2], values[3]])
}

/// The numbers of a step \[1\], computed in double precision and rounded once: 1 - beta^k of small k has lost
/// digits in single precision.
struct Numbers {
    /// lr / (1 - beta1^k).
    rate: Value,
    /// 1 / sqrt(1 - beta2^k).
    root: Value,
    /// 1 less the average's decay.
    share: Value,
}

impl Numbers {
    fn new(g: &mut GraphBuilder, spec: &TrainStep, lr: Value, step: Value) -> Result<Numbers> {
        let doc = "lr / (1 - b1^k), 1 / sqrt(1 - b2^k) and the average's 1 - decay at update k";
        Ok(g.within("numbers", doc, |g| {
            let k = g.cast(step, ElementType::F64)?;
            let one = g.scalar_f64(1.0)?;
            let lr = g.cast(lr, ElementType::F64)?;
            let correction = |g: &mut GraphBuilder, beta: f64| {
                let beta = g.scalar_f64(beta)?;
                let power = g.binary(Binary::Pow, beta, k)?;
                g.sub(one, power)
            };
            let first = correction(g, spec.beta1)?;
            let rate = g.div(lr, first)?;
            let second = correction(g, spec.beta2)?;
            let second = g.unary(Unary::Sqrt, second)?;
            let root = g.div(one, second)?;
            let decay = decay(g, spec.average, one, k)?;
            let share = g.sub(one, decay)?;
            let mut rounded = |x: Value| g.cast(x, ElementType::F32);
            Ok(Numbers { rate: rounded(rate)?, root: rounded(root)?, share: rounded(share)? })
        })?)
    }
}

/// [`Averaging::decay_at`] update k.
fn decay(g: &mut GraphBuilder, average: Averaging, one: Value, k: Value) -> onnx::Result<Value> {
    match average {
        Averaging::Exponential { decay } => {
            let (ten, most) = (g.scalar_f64(10.0)?, g.scalar_f64(decay)?);
            let (above, below) = (g.add(one, k)?, g.add(ten, k)?);
            let early = g.div(above, below)?;
            g.binary(Binary::Min, early, most)
        }
        Averaging::Power { .. } => {
            let share = g.div(one, k)?;
            let rest = g.sub(one, share)?;
            let exponent = g.scalar_f64(average.exponent())?;
            g.binary(Binary::Pow, rest, exponent)
        }
    }
}
