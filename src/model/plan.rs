//! The memory plan: which buffer holds which tensor, and when.
//!
//! Every value, every gradient and everything that a forward pass saves for the backward pass gets a slot,
//! which is a buffer of the arena. Tensors whose lifetimes do not overlap share a slot. An operation that
//! works in place finds its output in the slot of its input.
//!
//! Time is counted in passes over nodes. In a graph of n nodes the forward pass of node i is at time i, and
//! its backward pass at time 2n - 1 - i: the forward passes take the times 0 .. n, the backward passes n ..
//! 2n.

use super::graph::{Graph, Node, Op, ValueId};
use crate::error::Result;
use crate::nn::{Attention, AttentionShape, Conv, GroupNorm, Linear, Update, Window};

/// What a sweep is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward passes only.
    Inference,
    /// Forward and backward passes.
    Training {
        /// Whether the gradient in x_t is wanted too.
        input_gradient: bool,
    },
}

/// The slots of the tensors of one sample.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Elements of each slot.
    pub slots: Vec<usize>,
    /// The slot of each value.
    pub value: Vec<usize>,
    /// The slot of each value's gradient, where there is one.
    pub gradient: Vec<Option<usize>>,
    /// The slot of what each node saves, where it saves something.
    pub saved: Vec<Option<usize>>,
    /// For each input of each node, what the node's backward pass does with the gradient in it: the first one
    /// to write it sets it, the others add to it.
    pub updates: Vec<Vec<Update>>,
    /// The length of the largest workspace that a node needs.
    pub work: usize,
    /// The convolutions and linear layers, in the order of their weights.
    pub weighted: Vec<WeightedLayer>,
}

/// A layer with a weight that the backward pass reads transposed.
#[derive(Clone, Debug)]
pub struct WeightedLayer {
    /// The node's place in the graph.
    pub node: usize,
    /// The weight's elements of the parameter vector.
    pub weight: std::ops::Range<usize>,
}

impl Plan {
    /// Plans the sweeps over a graph.
    ///
    /// # Errors
    /// What [`Graph::check`] and the layers find.
    pub fn new(graph: &Graph, mode: Mode) -> Result<Plan> {
        graph.check()?;
        let work = work_len(graph, mode != Mode::Inference)?;
        let mut plan = Plan {
            slots: Vec::new(),
            value: vec![0; graph.values.len()],
            gradient: vec![None; graph.values.len()],
            saved: vec![None; graph.nodes.len()],
            updates: updates(graph),
            work,
            weighted: weighted_layers(graph),
        };
        plan.assign(graph, lifetimes(graph, mode)?);
        Ok(plan)
    }

    /// Gives every tensor a slot, in the order in which the tensors are written: the slot of a tensor that it
    /// may [replace](Plan::replaced); else the smallest free slot that holds it; else the largest free slot,
    /// which grows; else a new one.
    fn assign(&mut self, graph: &Graph, mut tensors: Vec<Lifetime>) {
        tensors.sort_by_key(|tensor| (tensor.birth, usize::MAX - tensor.len));
        let mut busy_until: Vec<usize> = Vec::new();
        for Lifetime { birth, death, len, tensor } in tensors {
            if let Some(slot) = self.replaced(graph, tensor, birth, &busy_until) {
                busy_until[slot] = busy_until[slot].max(death);
                self.place(tensor, slot);
                continue;
            }
            let free = |slot: &usize| busy_until[*slot] < birth;
            let fits = (0..self.slots.len())
                .filter(free)
                .filter(|s| self.slots[*s] >= len)
                .min_by_key(|s| self.slots[*s]);
            let slot = fits
                .or_else(|| (0..self.slots.len()).filter(free).max_by_key(|s| self.slots[*s]))
                .unwrap_or_else(|| {
                    self.slots.push(0);
                    self.slots.len() - 1
                });
            busy_until.resize(self.slots.len(), 0);
            self.slots[slot] = self.slots[slot].max(len);
            busy_until[slot] = death;
            self.place(tensor, slot);
        }
    }

    fn place(&mut self, tensor: Tensor, slot: usize) {
        match tensor {
            Tensor::Value(v) => self.value[v] = slot,
            Tensor::Gradient(v) => self.gradient[v] = Some(slot),
            Tensor::Saved(i) => self.saved[i] = Some(slot),
        }
    }

    /// The slot of a tensor that `tensor`, which is written at time `birth`, may replace, if there is one. It
    /// is of the same length, and either
    ///
    /// - the operation that writes `tensor` works in place, and reads it for the last time; or
    /// - both are the gradients in the two inputs of an addition, which are the same numbers.
    fn replaced(&self, graph: &Graph, tensor: Tensor, birth: usize, busy_until: &[usize]) -> Option<usize> {
        let n = graph.nodes.len();
        let read_last_now = |slot: &usize| busy_until[*slot] == birth;
        match tensor {
            Tensor::Value(v) => {
                let node = &graph.nodes[producer(graph, v)?];
                let candidates = match node.op {
                    Op::Dropout { .. } | Op::AddChannels => &node.inputs[..1],
                    Op::Add { .. } => &node.inputs[..],
                    _ => &[],
                };
                candidates.iter().rev().map(|x| self.value[x.0]).find(read_last_now)
            }
            Tensor::Gradient(v) => {
                let i = (2 * n - 1).checked_sub(birth)?;
                let node = graph.nodes.get(i)?;
                let slot = self.gradient[node.output.0]?;
                let in_place = match node.op {
                    Op::GroupNorm { .. } | Op::Dropout { .. } | Op::Add { .. } => true,
                    Op::AddChannels => node.inputs[0].0 == v,
                    _ => false,
                };
                if in_place && read_last_now(&slot) {
                    return Some(slot);
                }
                // The other input's gradient may have taken the slot just before.
                let other = node.inputs.iter().find(|x| x.0 != v)?.0;
                let shared = matches!(node.op, Op::Add { .. })
                    && self.gradient[other] == Some(slot)
                    && can_share_a_gradient(graph, i, v, other);
                shared.then_some(slot)
            }
            Tensor::Saved(_) => None,
        }
    }

    /// Elements of all slots for one sample.
    pub fn elements(&self) -> usize {
        self.slots.iter().sum()
    }
}

/// What lives in a slot.
#[derive(Clone, Copy)]
enum Tensor {
    /// A value.
    Value(usize),
    /// The gradient in a value.
    Gradient(usize),
    /// What a node saves.
    Saved(usize),
}

/// A tensor, the times at which it is first written and last read, and its number of elements.
struct Lifetime {
    birth: usize,
    death: usize,
    len: usize,
    tensor: Tensor,
}

/// The lifetimes of all tensors of the sweeps.
fn lifetimes(graph: &Graph, mode: Mode) -> Result<Vec<Lifetime>> {
    let n = graph.nodes.len();
    let training = mode != Mode::Inference;
    let backward = |i: usize| 2 * n - 1 - i;
    let len = |v: usize| graph.values[v].len();

    let mut tensors: Vec<Lifetime> = (0..graph.values.len())
        .map(|v| Lifetime { birth: 0, death: 0, len: len(v), tensor: Tensor::Value(v) })
        .collect();
    for (i, node) in graph.nodes.iter().enumerate() {
        let output = &mut tensors[node.output.0];
        (output.birth, output.death) = (i, i);
        for input in &node.inputs {
            tensors[input.0].death = i;
        }
    }
    tensors[graph.output.0].death = n;
    if training {
        // Backward passes run from the last node to the first, so the last of these assignments is the latest
        // time.
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            let reads = backward_reads(&node.op);
            if reads.inputs {
                node.inputs.iter().for_each(|input| tensors[input.0].death = backward(i));
            }
            if reads.output {
                tensors[node.output.0].death = backward(i);
            }
        }
    }

    for (i, node) in graph.nodes.iter().enumerate() {
        let len = saved_len(graph, node)?;
        if len > 0 {
            let death = if training { backward(i) } else { i };
            tensors.push(Lifetime { birth: i, death, len, tensor: Tensor::Saved(i) });
        }
        if training && !matches!(node.op, Op::TimeEmbedding { .. }) {
            tensors.push(gradient_lifetime(graph, node.output, backward(i)));
        }
    }
    if mode == (Mode::Training { input_gradient: true }) {
        tensors.push(gradient_lifetime(graph, graph.input, 2 * n));
    }
    Ok(tensors)
}

/// A gradient is first written by the backward pass of the value's last consumer, or, for the network's
/// output, before all backward passes.
fn gradient_lifetime(graph: &Graph, value: ValueId, death: usize) -> Lifetime {
    let n = graph.nodes.len();
    let birth = last_consumer(graph, value).map_or(n, |i| 2 * n - 1 - i);
    Lifetime { birth, death, len: graph.shape(value).len(), tensor: Tensor::Gradient(value.0) }
}

/// The last node that reads a value.
fn last_consumer(graph: &Graph, value: ValueId) -> Option<usize> {
    graph.nodes.iter().rposition(|node| node.inputs.contains(&value))
}

/// The node that writes a value.
fn producer(graph: &Graph, value: usize) -> Option<usize> {
    graph.nodes.iter().position(|node| node.output.0 == value)
}

/// Backward passes run from the last node to the first, so the first to write the gradient in a value is that
/// of its last consumer.
fn updates(graph: &Graph) -> Vec<Vec<Update>> {
    let update = |i: usize, input: &ValueId| match last_consumer(graph, *input) == Some(i) {
        true => Update::Set,
        false => Update::Add,
    };
    let of_node = |(i, node): (usize, &Node)| node.inputs.iter().map(|input| update(i, input)).collect();
    graph.nodes.iter().enumerate().map(of_node).collect()
}

/// The layers with a weight that the backward pass reads transposed, in the order of their weights.
fn weighted_layers(graph: &Graph) -> Vec<WeightedLayer> {
    let layer = |(node, Node { op, .. }): (usize, &Node)| match op {
        Op::Conv { weight, .. } | Op::Linear { weight, .. } => {
            Some(WeightedLayer { node, weight: graph.params.get(*weight).range() })
        }
        Op::TimeEmbedding { .. }
        | Op::ClassEmbedding { .. }
        | Op::Center
        | Op::GroupNorm { .. }
        | Op::Activate { .. }
        | Op::AddChannels
        | Op::ScaleShift
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::AveragePool
        | Op::Dropout { .. }
        | Op::Attention { .. } => None,
    };
    let mut layers: Vec<WeightedLayer> = graph.nodes.iter().enumerate().filter_map(layer).collect();
    layers.sort_by_key(|layer| layer.weight.start);
    layers
}

/// Whether the gradients in the inputs `a` and `b` of addition `i` can be one buffer from the addition's
/// backward pass on: whether neither is written again before the other is read for the last time.
fn can_share_a_gradient(graph: &Graph, i: usize, a: usize, b: usize) -> bool {
    // The node whose backward pass is the next to write the gradient in v. That is an earlier consumer of v,
    // which adds to the gradient, or else a producer of v that works in place, which overwrites it.
    let writer = |v: usize| {
        let before = graph.nodes[..i].iter().rposition(|node| node.inputs.contains(&ValueId(v)));
        let in_place = |p: &usize| !matches!(graph.nodes[*p].op, Op::Conv { .. } | Op::Linear { .. });
        before.or(producer(graph, v).filter(in_place))
    };
    // A gradient is read for the last time by the backward pass of the node that writes the value.
    let safe = |v: usize, other: usize| match (writer(v), producer(graph, other)) {
        (None, _) => true,
        (Some(writer), Some(last_use)) => writer < last_use,
        (Some(_), None) => false,
    };
    safe(a, b) && safe(b, a)
}

/// The values that a backward pass reads.
struct Reads {
    inputs: bool,
    output: bool,
}

fn backward_reads(op: &Op) -> Reads {
    let (inputs, output) = match op {
        Op::Conv { .. } | Op::Linear { .. } | Op::GroupNorm { .. } | Op::Activate { .. } | Op::ScaleShift => {
            (true, false)
        }
        Op::Attention { .. } => (true, true),
        Op::TimeEmbedding { .. }
        | Op::ClassEmbedding { .. }
        | Op::Center
        | Op::AddChannels
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::AveragePool
        | Op::Dropout { .. } => (false, false),
    };
    Reads { inputs, output }
}

/// The convolution of a node.
///
/// # Panics
/// If the node is no convolution.
pub(super) fn conv(graph: &Graph, node: &Node) -> Result<Conv> {
    let Op::Conv { kernel, stride, pad_before, pad_after, .. } = node.op else {
        panic!("{} is no convolution", node.name)
    };
    let (x, y) = (graph.shape(node.inputs[0]), graph.shape(node.output));
    Conv::new([x.h, x.w], [x.c, y.c], Window { kernel, stride, pad_before, pad_after })
}

/// The linear layer of a node, over the pixels of `n` samples.
pub(super) fn linear(graph: &Graph, node: &Node, n: usize) -> Result<Linear> {
    let (x, y) = (graph.shape(node.inputs[0]), graph.shape(node.output));
    Linear::new(n * x.pixels(), x.c, y.c)
}

/// The normalisation of a node.
///
/// # Panics
/// If the node is no normalisation.
pub(super) fn group_norm(graph: &Graph, node: &Node) -> Result<GroupNorm> {
    let Op::GroupNorm { groups, eps, silu, .. } = node.op else {
        panic!("{} is no normalisation", node.name)
    };
    let x = graph.shape(node.inputs[0]);
    GroupNorm::new(x.pixels(), x.c, groups, eps, silu)
}

/// The attention of a node.
///
/// # Panics
/// If the node is no attention.
pub(super) fn attention(graph: &Graph, node: &Node) -> Result<Attention> {
    let Op::Attention { heads, kind, projection } = node.op else { panic!("{} is no attention", node.name) };
    let x = graph.shape(node.inputs[0]);
    let (dim, features) = (x.c / heads, graph.features(projection));
    Attention::new(kind, AttentionShape { tokens: x.pixels(), heads, dim, features })
}

/// Elements that a node saves for its backward pass.
fn saved_len(graph: &Graph, node: &Node) -> Result<usize> {
    Ok(match node.op {
        Op::GroupNorm { .. } => group_norm(graph, node)?.saved_len(),
        Op::Attention { .. } => attention(graph, node)?.saved_len(),
        Op::TimeEmbedding { .. }
        | Op::ClassEmbedding { .. }
        | Op::Center
        | Op::Conv { .. }
        | Op::Linear { .. }
        | Op::Activate { .. }
        | Op::AddChannels
        | Op::ScaleShift
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::AveragePool
        | Op::Dropout { .. } => 0,
    })
}

/// The length of the largest workspace that a node needs.
fn work_len(graph: &Graph, training: bool) -> Result<usize> {
    let mut most = 0;
    for node in &graph.nodes {
        let len = match node.op {
            Op::Conv { .. } => conv(graph, node)?.work_len(),
            Op::Linear { .. } => linear(graph, node, 1).map(|_| 0)?,
            Op::GroupNorm { .. } => group_norm(graph, node)?.work_len(),
            Op::Activate { .. } => graph.shape(node.output).len(),
            Op::Attention { .. } => {
                let layer = attention(graph, node)?;
                let forward = layer.forward_work_len();
                if training { forward.max(layer.backward_work_len()) } else { forward }
            }
            Op::TimeEmbedding { .. }
            | Op::ClassEmbedding { .. }
            | Op::Center
            | Op::AddChannels
            | Op::ScaleShift
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::AveragePool
            | Op::Dropout { .. } => 0,
        };
        most = most.max(len);
    }
    Ok(most)
}
