//! What a network is made of and what it costs: the data behind `info`.

use super::engine::{shard_count, shard_len};
use super::gradient_tree::{Shards, at_once, gradients_kept};
use super::graph::{Graph, Op, Shape};
use super::plan::{Mode, Plan};
use crate::config::{AttentionKind, FeatureMap};
use crate::error::Result;
use serde::Serialize;

/// A layer's sizes and cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Its name in checkpoints.
    pub name: String,
    /// What it is.
    pub kind: &'static str,
    /// The output's shape, H x W x C.
    pub output: String,
    /// Trained numbers.
    pub parameters: usize,
    /// Multiply-adds of the forward pass on one image.
    pub multiply_adds: usize,
}

/// An attention layer: where FAVOR+ pays and where it is noise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionReport {
    /// Its name.
    pub name: String,
    /// L, the number of tokens.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// d, channels of a head.
    pub dim: usize,
    /// The feature map; `None` for softmax.
    pub map: Option<FeatureMap>,
    /// m, the number of projections; `None` for softmax.
    pub features: Option<usize>,
    /// The L from which FAVOR+ with this m takes fewer operations than softmax: 2m for one function, 3m for
    /// two.
    pub break_even: Option<usize>,
    /// Whether FAVOR+ takes fewer operations here.
    pub favor_is_cheaper: Option<bool>,
    /// The relative variance of the kernel's estimate for independent q and k of unit variance and i.i.d.
    /// projections, at the mean |q^ + k^|^2 = |q^ - k^|^2 = 2 sqrt(d); `None` for softmax, and for ReLU,
    /// whose kernel is another.
    pub relative_variance: Option<f64>,
}

/// A network's report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphReport {
    /// Trained numbers.
    pub parameters: usize,
    /// Multiply-adds of the forward pass on one image.
    pub multiply_adds: usize,
    /// MiB that training takes for weights, moments, average, gradients and the buffers of `threads` threads.
    pub training_mib: f64,
    /// Layers with parameters or products.
    pub layers: Vec<LayerReport>,
    /// Attention layers.
    pub attention: Vec<AttentionReport>,
}

/// Describes a graph; the memory is that of training with so many images per batch on so many threads.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for a graph that cannot be executed.
pub fn report(graph: &Graph, batch: usize, threads: usize) -> Result<GraphReport> {
    let plan = Plan::new(graph, Mode::Training { input_gradient: false })?;
    let mut layers = Vec::new();
    let mut attention = Vec::new();
    for node in &graph.nodes {
        let (kind, params) = match &node.op {
            Op::Conv { weight, bias, .. } => ("convolution", vec![*weight, *bias]),
            Op::Linear { weight, bias } => ("linear", vec![*weight, *bias]),
            Op::GroupNorm { weight, bias, .. } => ("normalisation", vec![*weight, *bias]),
            Op::Attention { heads, kind, projection } => {
                let (shape, m) = (graph.shape(node.inputs[0]), graph.features(*projection));
                attention.push(attention_report(&node.name, shape, *heads, *kind, m));
                let name =
                    if *kind == AttentionKind::Softmax { "softmax attention" } else { "FAVOR+ attention" };
                (name, Vec::new())
            }
            Op::ClassEmbedding { weight } => ("class embedding", vec![*weight]),
            Op::TimeEmbedding { .. }
            | Op::Center
            | Op::Activate { .. }
            | Op::AddChannels
            | Op::ScaleShift
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::AveragePool
            | Op::Dropout { .. } => continue,
        };
        layers.push(LayerReport {
            name: node.name.clone(),
            kind,
            output: graph.shape(node.output).to_string(),
            parameters: params.iter().map(|p| graph.params.get(*p).kind.len()).sum(),
            multiply_adds: graph.multiply_adds(node),
        });
    }
    let shards = shard_count(batch);
    let at_once = at_once(shards, graph.params.total(), threads);
    let arenas = at_once * (plan.elements() * shard_len(batch) + plan.work);
    // Weights, average, two moments, transposed weights, and the shards' gradients.
    let gradients = gradients_kept(&Shards { range: 0..shards, of: shards, at_once });
    let flat = (5 + gradients) * graph.params.total();
    Ok(GraphReport {
        parameters: graph.params.total(),
        multiply_adds: layers.iter().map(|layer| layer.multiply_adds).sum(),
        training_mib: (4 * (arenas + flat)) as f64 / f64::from(1 << 20),
        layers,
        attention,
    })
}

fn attention_report(
    name: &str,
    shape: Shape,
    heads: usize,
    kind: AttentionKind,
    m: usize,
) -> AttentionReport {
    let (tokens, dim) = (shape.pixels(), shape.c / heads);
    let favor = kind.map().map(|map| (map, m));
    let break_even = favor.map(|(map, m)| (1 + map.functions()) * m);
    let relative_variance = favor.and_then(|(map, m)| relative_variance(map, 2.0 * (dim as f64).sqrt(), m));
    AttentionReport {
        name: name.to_owned(),
        tokens,
        heads,
        dim,
        map: favor.map(|(map, _)| map),
        features: favor.map(|(_, m)| m),
        break_even,
        favor_is_cheaper: break_even.map(|l| tokens > l),
        relative_variance,
    }
}

/// Lemma 2 of Choromanski et al. (2021) for m projections: the variance over the square of the kernel.
/// `norm2` is |x + y|^2, or |x - y|^2 for trigonometric features. The hyperbolic map has 1/2 (1 - exp(-|x +
/// y|^2)) of the positive map's variance, which is 2 sinh^2(|x + y|^2 / 2) / m; that of the trigonometric map
/// is the same with x - y.
fn relative_variance(map: FeatureMap, norm2: f64, m: usize) -> Option<f64> {
    let one_projection = match map {
        FeatureMap::Positive => norm2.exp_m1(),
        FeatureMap::Hyperbolic | FeatureMap::Trigonometric => 2.0 * (norm2 / 2.0).sinh().powi(2),
        FeatureMap::Relu => return None,
    };
    Some(one_projection / m as f64)
}
