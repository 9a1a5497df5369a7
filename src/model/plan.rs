//! Which buffer holds what, when: every value, gradient and saved number gets a slot, and slots are shared by
//! tensors whose lifetimes do not meet. An operation that works in place finds its output where its input
//! was.
//!
//! Time runs 0 .. n over the forward pass of n nodes and n .. 2n over the backward pass, node i's backward at
//! 2n - 1 - i.

use super::graph::{Graph, Node, Op, ValueId};
use crate::nn::{Attention, Conv, GroupNorm, Linear};

/// What a sweep is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward only.
    Inference,
    /// Forward and backward; `input_gradient` asks for the gradient in x_t too.
    Training {
        /// Whether d_x is wanted.
        input_gradient: bool,
    },
}

/// The slots of one sample's tensors.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Elements of each slot.
    pub slots: Vec<usize>,
    /// The slot of each value.
    pub value: Vec<usize>,
    /// The slot of each value's gradient, where there is one.
    pub gradient: Vec<Option<usize>>,
    /// The slot of each node's saved numbers.
    pub saved: Vec<Option<usize>>,
    /// For each node, the inputs whose gradient the node's backward is the first to write, so that it sets
    /// and does not add.
    pub first_touch: Vec<Vec<bool>>,
    /// Scratch elements that the neediest node asks for.
    pub work: usize,
    /// Convolutions and linear layers, in their weights' order.
    pub weighted: Vec<WeightedLayer>,
}

/// Where a layer that multiplies by a weight is, and where its weight.
#[derive(Clone, Debug)]
pub struct WeightedLayer {
    /// The node's place in the graph.
    pub node: usize,
    /// The weight's elements of the parameter vector.
    pub weight: std::ops::Range<usize>,
}

impl Plan {
    /// Plans a sweep over a graph.
    pub fn new(graph: &Graph, mode: Mode) -> Plan {
        let n = graph.nodes.len();
        let values = graph.values.len();
        let training = mode != Mode::Inference;
        let backward = |i: usize| 2 * n - 1 - i;

        let mut born = vec![0; values];
        let mut dies = vec![0; values];
        let mut last_consumer = vec![None; values];
        let mut needs_gradient = vec![true; values];
        needs_gradient[graph.input.0] = mode == Mode::Training { input_gradient: true };
        for (i, node) in graph.nodes.iter().enumerate() {
            born[node.output.0] = i;
            dies[node.output.0] = i;
            needs_gradient[node.output.0] = !matches!(node.op, Op::TimeEmbedding { .. });
            for input in &node.inputs {
                last_consumer[input.0] = Some(i);
                dies[input.0] = dies[input.0].max(i);
            }
        }
        dies[graph.output.0] = n;
        if training {
            for (i, node) in graph.nodes.iter().enumerate() {
                let (inputs, output) = backward_reads(&node.op);
                if inputs {
                    node.inputs.iter().for_each(|v| dies[v.0] = dies[v.0].max(backward(i)));
                }
                if output {
                    dies[node.output.0] = dies[node.output.0].max(backward(i));
                }
            }
        }

        let mut tensors = Vec::new();
        for v in 0..values {
            tensors.push(Lifetime::new(born[v], dies[v], graph.values[v].len(), Tensor::Value(v)));
        }
        let mut first_touch: Vec<Vec<bool>> =
            graph.nodes.iter().map(|node| vec![false; node.inputs.len()]).collect();
        for (i, node) in graph.nodes.iter().enumerate() {
            let len = saved_len(graph, node);
            if len > 0 {
                let death = if training { backward(i) } else { i };
                tensors.push(Lifetime::new(i, death, len, Tensor::Saved(i)));
            }
            if training {
                let v = node.output.0;
                if needs_gradient[v] {
                    let birth = last_consumer[v].map_or(n, backward);
                    tensors.push(Lifetime::new(
                        birth,
                        backward(i),
                        graph.values[v].len(),
                        Tensor::Gradient(v),
                    ));
                }
                for (k, input) in node.inputs.iter().enumerate() {
                    first_touch[i][k] = last_consumer[input.0] == Some(i);
                    // Attention's backward overwrites its inputs' gradients.
                    let alone = graph.nodes.iter().filter(|other| other.inputs.contains(input)).count() == 1;
                    assert!(
                        alone || !matches!(node.op, Op::Attention { .. }),
                        "{}: its input has other uses",
                        node.name
                    );
                }
            }
        }
        if training && needs_gradient[graph.input.0] {
            let birth = last_consumer[graph.input.0].map_or(n, backward);
            let (len, tensor) = (graph.values[graph.input.0].len(), Tensor::Gradient(graph.input.0));
            tensors.push(Lifetime::new(birth, 2 * n, len, tensor));
        }

        let mut plan = Plan {
            slots: Vec::new(),
            value: vec![0; values],
            gradient: vec![None; values],
            saved: vec![None; n],
            first_touch,
            work: graph.nodes.iter().map(|node| work_len(graph, node, training)).max().unwrap_or(0),
            weighted: weighted_layers(graph),
        };
        plan.assign(graph, tensors);
        plan
    }

    /// Gives every tensor the slot of one that it may replace, the smallest free slot that holds it, the
    /// largest free one, grown, or a new one.
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

    /// The slot of a tensor of the same length that is read for the last time when `tensor` is born, by an
    /// operation that works in place; or, for the gradients of an addition's two inputs, which are both the
    /// output's, of that.
    fn replaced(&self, graph: &Graph, tensor: Tensor, birth: usize, busy_until: &[usize]) -> Option<usize> {
        let n = graph.nodes.len();
        let producer = |v: usize| graph.nodes.iter().position(|node| node.output.0 == v);
        match tensor {
            Tensor::Value(v) => {
                let node = &graph.nodes[producer(v)?];
                let candidates = match node.op {
                    Op::Dropout { .. } | Op::AddChannels => &node.inputs[..1],
                    Op::Add { .. } => &node.inputs[..],
                    _ => &[],
                };
                candidates.iter().rev().map(|x| self.value[x.0]).find(|slot| busy_until[*slot] == birth)
            }
            Tensor::Gradient(v) => {
                let i = (2 * n - 1).checked_sub(birth)?;
                let node = graph.nodes.get(i)?;
                let slot = self.gradient[node.output.0]?;
                let other = node.inputs.iter().find(|x| x.0 != v);
                match node.op {
                    Op::GroupNorm { .. } | Op::Dropout { .. } => (busy_until[slot] == birth).then_some(slot),
                    Op::AddChannels if node.inputs[0].0 == v => (busy_until[slot] == birth).then_some(slot),
                    Op::Add { .. } if busy_until[slot] == birth => Some(slot),
                    Op::Add { .. } => {
                        let other = other.filter(|x| self.gradient[x.0] == Some(slot))?.0;
                        (only_read_together(graph, i, v, other)).then_some(slot)
                    }
                    _ => None,
                }
            }
            Tensor::Saved(_) => None,
        }
    }

    /// Elements of all slots for one sample.
    pub fn elements(&self) -> usize {
        self.slots.iter().sum()
    }
}

fn weighted_layers(graph: &Graph) -> Vec<WeightedLayer> {
    let layer = |(node, Node { op, .. }): (usize, &Node)| match op {
        Op::Conv { weight, .. } | Op::Linear { weight, .. } => {
            Some(WeightedLayer { node, weight: graph.params.get(*weight).range() })
        }
        Op::TimeEmbedding { .. }
        | Op::GroupNorm { .. }
        | Op::Silu
        | Op::AddChannels
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::Dropout { .. }
        | Op::Attention { .. } => None,
    };
    let mut layers: Vec<WeightedLayer> = graph.nodes.iter().enumerate().filter_map(layer).collect();
    layers.sort_by_key(|layer| layer.weight.start);
    layers
}

/// When a tensor is first written and last read, and its elements.
struct Lifetime {
    birth: usize,
    death: usize,
    len: usize,
    tensor: Tensor,
}

impl Lifetime {
    fn new(birth: usize, death: usize, len: usize, tensor: Tensor) -> Lifetime {
        Lifetime { birth, death, len, tensor }
    }
}

/// Whether, after the backward pass of addition `i`, the gradients of its inputs `a` and `b` can be one
/// buffer: neither is written again before the other's last use.
fn only_read_together(graph: &Graph, i: usize, a: usize, b: usize) -> bool {
    let producer = |v: usize| graph.nodes.iter().position(|node| node.output.0 == v);
    // The node in whose backward pass v's gradient is next written: an earlier consumer adds to it; a
    // producer that works in place overwrites it.
    let writer = |v: usize| {
        let before = graph.nodes[..i].iter().rposition(|node| node.inputs.contains(&ValueId(v)));
        let in_place = |p: &usize| !matches!(graph.nodes[*p].op, Op::Conv { .. } | Op::Linear { .. });
        before.or(producer(v).filter(in_place))
    };
    let safe = |v: usize, other: usize| match (writer(v), producer(other)) {
        (None, _) => true,
        (Some(writer), Some(last_use)) => writer < last_use,
        (Some(_), None) => false,
    };
    safe(a, b) && safe(b, a)
}

#[derive(Clone, Copy)]
enum Tensor {
    Value(usize),
    Gradient(usize),
    Saved(usize),
}

/// Whether an operation's backward reads its inputs, and its output.
fn backward_reads(op: &Op) -> (bool, bool) {
    match op {
        Op::Conv { .. } | Op::Linear { .. } | Op::GroupNorm { .. } | Op::Silu => (true, false),
        Op::Attention { .. } => (true, true),
        Op::TimeEmbedding { .. }
        | Op::AddChannels
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::Dropout { .. } => (false, false),
    }
}

/// The convolution of a node.
///
/// # Panics
/// If the node is no convolution.
pub(super) fn conv(graph: &Graph, node: &Node) -> Conv {
    let Op::Conv { kernel, stride, pad_before, pad_after, .. } = node.op else {
        panic!("{} is no convolution", node.name)
    };
    let (x, y) = (graph.shape(node.inputs[0]), graph.shape(node.output));
    Conv { h: x.h, w: x.w, c_in: x.c, c_out: y.c, kernel, stride, pad_before, pad_after }
}

/// The linear layer of a node, over the pixels of `n` samples.
pub(super) fn linear(graph: &Graph, node: &Node, n: usize) -> Linear {
    let (x, y) = (graph.shape(node.inputs[0]), graph.shape(node.output));
    Linear { rows: n * x.pixels(), c_in: x.c, c_out: y.c }
}

/// The normalisation of a node.
///
/// # Panics
/// If the node is no normalisation.
pub(super) fn group_norm(graph: &Graph, node: &Node) -> GroupNorm {
    let Op::GroupNorm { groups, eps, silu, .. } = node.op else {
        panic!("{} is no normalisation", node.name)
    };
    let x = graph.shape(node.inputs[0]);
    GroupNorm { pixels: x.pixels(), channels: x.c, groups, eps, silu }
}

/// The attention of a node.
///
/// # Panics
/// If the node is no attention.
pub(super) fn attention(graph: &Graph, node: &Node) -> Attention {
    let Op::Attention { heads, kind, projection } = node.op else { panic!("{} is no attention", node.name) };
    let x = graph.shape(node.inputs[0]);
    Attention { tokens: x.pixels(), heads, dim: x.c / heads, kind, features: graph.features(projection) }
}

fn saved_len(graph: &Graph, node: &Node) -> usize {
    match node.op {
        Op::GroupNorm { .. } => group_norm(graph, node).saved_len(),
        Op::Attention { .. } => attention(graph, node).saved_len(),
        Op::TimeEmbedding { .. }
        | Op::Conv { .. }
        | Op::Linear { .. }
        | Op::Silu
        | Op::AddChannels
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::Dropout { .. } => 0,
    }
}

fn work_len(graph: &Graph, node: &Node, training: bool) -> usize {
    match node.op {
        Op::Conv { .. } => conv(graph, node).work_len(),
        Op::GroupNorm { .. } => group_norm(graph, node).work_len(),
        Op::Silu => graph.shape(node.output).len(),
        Op::Attention { .. } => {
            let layer = attention(graph, node);
            let forward = layer.forward_work_len();
            if training { forward.max(layer.backward_work_len()) } else { forward }
        }
        Op::TimeEmbedding { .. }
        | Op::Linear { .. }
        | Op::AddChannels
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::Dropout { .. } => 0,
    }
}
