//! The two sweeps over the graph: forward in order, backward in reverse, each one exhaustive match over the operations.
//!
//! A sweep runs a shard of a batch, a few samples whose activations stay in cache, in buffers of its own.

use super::clock::{OpClock, OpKind, Work, timed};
use super::graph::{AttentionOp, Graph, Node, Op, ValueId};
use super::params::ParamId;
use super::plan::{self, Plan};
use crate::kernels::{Element, Isa, Team, transpose};
use crate::nn::{self, Projections};
use crate::real::Real;
use crate::rng::{Stream, rng};

/// What a dropout's mask is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// The first sample's place in the batch.
    pub first_sample: u64,
}

/// The network's numbers as the sweeps read them.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a, T> {
    /// The flat parameter vector.
    pub flat: &'a [T],
    /// The same with every convolution's kernel turned and every linear weight transposed, by [`turn_weights`]; empty for
    /// forward sweeps.
    pub turned: &'a [T],
    /// The projections and their transposes.
    pub projections: &'a [(Vec<T>, Vec<T>)],
}

/// The buffers of one shard.
#[derive(Clone, Debug, Default)]
pub struct Arena<T> {
    slots: Vec<Vec<T>>,
    work: Vec<T>,
}

impl<T: Real> Arena<T> {
    /// Buffers for up to `samples` samples.
    pub fn new(plan: &Plan, samples: usize) -> Arena<T> {
        Arena {
            slots: plan.slots.iter().map(|len| vec![T::zero(); len * samples]).collect(),
            work: vec![T::zero(); plan.work],
        }
    }
}

/// turned = for each weight, what its layer's input gradient multiplies by.
pub fn turn_weights<T: Element>(graph: &Graph, flat: &[T], turned: &mut Vec<T>) {
    turned.resize(flat.len(), T::zero());
    for node in &graph.nodes {
        match node.op {
            Op::Conv { weight, .. } => {
                let range = graph.params.get(weight).range();
                plan::conv(graph, node).turn_weight(&flat[range.clone()], &mut turned[range]);
            }
            Op::Linear { weight, .. } => {
                let range = graph.params.get(weight).range();
                let layer = plan::linear(graph, node, 1);
                transpose(&flat[range.clone()], layer.c_in, layer.c_out, &mut turned[range]);
            }
            Op::TimeEmbedding { .. }
            | Op::GroupNorm { .. }
            | Op::Silu
            | Op::AddChannels
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::Dropout { .. }
            | Op::Attention { .. } => {}
        }
    }
}

/// One shard's sweeps: everything they read.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a, T> {
    /// The network.
    pub graph: &'a Graph,
    /// Its buffers' plan.
    pub plan: &'a Plan,
    /// Its numbers.
    pub weights: Weights<'a, T>,
    /// The kernels' instruction set.
    pub isa: Isa,
    /// Who works on a layer.
    pub team: Team,
    /// Samples in the shard.
    pub samples: usize,
    /// Dropout's key in training, `None` when sampling.
    pub dropout: Option<DropoutKey>,
    /// What counts the time by kind of operation, if anything does.
    pub clock: Option<&'a OpClock>,
}

impl<'a, T: Element> Sweep<'a, T> {
    fn len(&self, value: ValueId) -> usize {
        self.graph.shape(value).len()
    }

    fn value<'b>(&self, arena: &'b Arena<T>, value: ValueId) -> &'b [T] {
        &arena.slots[self.plan.value[value.0]][..self.samples * self.len(value)]
    }

    fn param(&self, id: ParamId) -> &'a [T] {
        &self.weights.flat[self.graph.params.get(id).range()]
    }

    fn turned(&self, id: ParamId) -> &'a [T] {
        &self.weights.turned[self.graph.params.get(id).range()]
    }

    fn projections(&self, kind: AttentionOp) -> Projections<'a, T> {
        match kind {
            AttentionOp::Softmax => Projections { w: &[], w_t: &[] },
            AttentionOp::Favor { projection, .. } => {
                let (w, w_t) = &self.weights.projections[projection.0];
                Projections { w, w_t }
            }
        }
    }

    /// x_t \[samples, h, w, c\], where the caller writes it before [`Sweep::forward`].
    pub fn input<'b>(&self, arena: &'b mut Arena<T>) -> &'b mut [T] {
        let len = self.samples * self.len(self.graph.input);
        &mut arena.slots[self.plan.value[self.graph.input.0]][..len]
    }

    /// eps_theta \[samples, h, w, c\] after [`Sweep::forward`].
    pub fn output<'b>(&self, arena: &'b Arena<T>) -> &'b [T] {
        self.value(arena, self.graph.output)
    }

    /// The loss's gradient in eps_theta, where the caller writes it before [`Sweep::backward`], beside eps_theta itself.
    pub fn output_gradient<'b>(&self, arena: &'b mut Arena<T>) -> (&'b [T], &'b mut [T]) {
        let output = self.graph.output;
        let slot = self.plan.gradient[output.0].expect("a training plan has the output's gradient");
        let len = self.samples * self.len(output);
        let [value, gradient] = arena
            .slots
            .get_disjoint_mut([self.plan.value[output.0], slot])
            .expect("a value and its gradient live at the same time");
        (&value[..len], &mut gradient[..len])
    }

    /// The loss's gradient in x_t after [`Sweep::backward`], if it was planned.
    pub fn input_gradient<'b>(&self, arena: &'b Arena<T>) -> Option<&'b [T]> {
        let len = self.samples * self.len(self.graph.input);
        self.plan.gradient[self.graph.input.0].map(|slot| &arena.slots[slot][..len])
    }

    /// Runs the network on the shard's input at the timesteps' indices t - 1.
    pub fn forward(&self, arena: &mut Arena<T>, indices: &[usize]) {
        assert_eq!(indices.len(), self.samples);
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let mut y = std::mem::take(&mut arena.slots[self.plan.value[node.output.0]]);
            let mut saved =
                self.plan.saved[i].map(|slot| std::mem::take(&mut arena.slots[slot])).unwrap_or_default();
            let mut work = std::mem::take(&mut arena.work);
            let len = self.samples * self.len(node.output);
            timed(self.clock, Work::Forward(OpKind::of(&node.op)), || {
                self.forward_node(node, arena, indices, &mut y[..len], &mut saved, &mut work);
            });
            arena.work = work;
            arena.slots[self.plan.value[node.output.0]] = y;
            if let Some(slot) = self.plan.saved[i] {
                arena.slots[slot] = saved;
            }
        }
    }

    fn forward_node(
        &self,
        node: &Node,
        arena: &Arena<T>,
        indices: &[usize],
        y: &mut [T],
        saved: &mut [T],
        work: &mut [T],
    ) {
        let (isa, team) = (self.isa, self.team);
        let input = |k: usize| self.value(arena, node.inputs[k]);
        let each = self.len(node.output);
        match node.op {
            Op::TimeEmbedding { flip_sin_to_cos, freq_shift } => {
                for (y, index) in y.chunks_exact_mut(each).zip(indices) {
                    nn::time_embedding(*index, flip_sin_to_cos, freq_shift, y);
                }
            }
            Op::Conv { weight, bias, .. } => {
                let layer = plan::conv(self.graph, node);
                let (weight, bias) = (self.param(weight), self.param(bias));
                for (x, y) in input(0).chunks_exact(self.len(node.inputs[0])).zip(y.chunks_exact_mut(each)) {
                    layer.forward(isa, team, x, weight, bias, y, work);
                }
            }
            Op::Linear { weight, bias } => {
                let layer = plan::linear(self.graph, node, self.samples);
                layer.forward(isa, team, input(0), self.param(weight), self.param(bias), y);
            }
            Op::GroupNorm { weight, bias, .. } => {
                let layer = plan::group_norm(self.graph, node);
                let (gamma, beta) = (self.param(weight), self.param(bias));
                let saved = saved.chunks_exact_mut(layer.saved_len());
                for ((x, y), saved) in input(0).chunks_exact(each).zip(y.chunks_exact_mut(each)).zip(saved) {
                    layer.forward(isa, x, gamma, beta, y, saved, work);
                }
            }
            Op::Silu => T::silu(isa, input(0), y),
            Op::AddChannels => {
                let vectors = input(1).chunks_exact(self.len(node.inputs[1]));
                for ((x, v), y) in input(0).chunks_exact(each).zip(vectors).zip(y.chunks_exact_mut(each)) {
                    nn::add_channels(isa, x, v, y);
                }
            }
            Op::Add { scale } => nn::add_scaled(isa, input(0), input(1), scale, y),
            Op::Concat => {
                let channels = |k: usize| self.graph.shape(node.inputs[k]).c;
                nn::concat(input(0), channels(0), input(1), channels(1), y);
            }
            Op::Upsample => {
                let x = self.graph.shape(node.inputs[0]);
                nn::upsample(input(0), x.w, x.c, y);
            }
            Op::Dropout { p, index } => match self.dropout {
                None => y.copy_from_slice(input(0)),
                Some(key) => {
                    y.fill(T::zero());
                    for (s, (x, y)) in input(0).chunks_exact(each).zip(y.chunks_exact_mut(each)).enumerate() {
                        nn::dropout(&mut dropout_rng(key, index, s), p, x, y);
                    }
                }
            },
            Op::Attention { kind, .. } => {
                let layer = plan::attention(self.graph, node);
                let projections = self.projections(kind);
                let saved = saved.chunks_exact_mut(layer.saved_len());
                for (s, (y, saved)) in y.chunks_exact_mut(each).zip(saved).enumerate() {
                    let [q, k, v] = [0, 1, 2].map(|k| &input(k)[s * each..][..each]);
                    layer.forward(isa, team, projections, q, k, v, y, saved, work);
                }
            }
        }
    }

    /// Adds the loss's gradient in every parameter to `gradient`, a vector like the weights; reads what
    /// [`Sweep::forward`] left and the output's gradient.
    pub fn backward(&self, arena: &mut Arena<T>, gradient: &mut [T]) {
        for (i, node) in self.graph.nodes.iter().enumerate().rev() {
            timed(self.clock, Work::Backward(OpKind::of(&node.op)), || {
                self.backward_step(i, node, arena, gradient)
            });
        }
    }

    fn backward_step(&self, i: usize, node: &Node, arena: &mut Arena<T>, gradient: &mut [T]) {
        let mut d_inputs: Vec<Vec<T>> = Vec::with_capacity(node.inputs.len());
        for (input, first) in node.inputs.iter().zip(&self.plan.first_touch[i]) {
            let mut d = match self.plan.gradient[input.0] {
                Some(slot) => std::mem::take(&mut arena.slots[slot]),
                None => Vec::new(),
            };
            if *first && !overwrites(&node.op) && !d.is_empty() {
                d[..self.samples * self.len(*input)].fill(T::zero());
            }
            d_inputs.push(d);
        }
        let mut work = std::mem::take(&mut arena.work);
        self.backward_node(i, node, arena, &mut d_inputs, gradient, &mut work);
        arena.work = work;
        for (input, d) in node.inputs.iter().zip(d_inputs) {
            if let Some(slot) = self.plan.gradient[input.0] {
                arena.slots[slot] = d;
            }
        }
    }

    fn backward_node(
        &self,
        i: usize,
        node: &Node,
        arena: &Arena<T>,
        d_inputs: &mut [Vec<T>],
        gradient: &mut [T],
        work: &mut [T],
    ) {
        let Some(slot) = self.plan.gradient[node.output.0] else { return };
        let (isa, team) = (self.isa, self.team);
        let each = self.len(node.output);
        let d_y = &arena.slots[slot][..self.samples * each];
        let input = |k: usize| self.value(arena, node.inputs[k]);
        let input_len = |k: usize| self.len(node.inputs[k]);
        let first = &self.plan.first_touch[i];
        let saved = self.plan.saved[i].map_or(&[][..], |slot| &arena.slots[slot]);
        match node.op {
            Op::TimeEmbedding { .. } => {}
            Op::Conv { weight, bias, .. } => {
                let layer = plan::conv(self.graph, node);
                let (d_weight, d_bias) = self.pair(gradient, weight, bias);
                let each_x = input_len(0);
                for (s, d_y) in d_y.chunks_exact(each).enumerate() {
                    let x = &input(0)[s * each_x..][..each_x];
                    layer.backward_weight(isa, team, x, d_y, d_weight, d_bias, work);
                    if !d_inputs[0].is_empty() {
                        let d_x = &mut d_inputs[0][s * each_x..][..each_x];
                        layer.backward_input(isa, team, self.turned(weight), d_y, d_x, !first[0], work);
                    }
                }
            }
            Op::Linear { weight, bias } => {
                let layer = plan::linear(self.graph, node, self.samples);
                let (d_weight, d_bias) = self.pair(gradient, weight, bias);
                layer.backward_weight(isa, team, input(0), d_y, d_weight, d_bias);
                if !d_inputs[0].is_empty() {
                    layer.backward_input(isa, team, self.turned(weight), d_y, &mut d_inputs[0], !first[0]);
                }
            }
            Op::GroupNorm { weight, bias, .. } => {
                let layer = plan::group_norm(self.graph, node);
                let (gamma, beta) = (self.param(weight), self.param(bias));
                let (d_gamma, d_beta) = self.pair(gradient, weight, bias);
                for (s, d_y) in d_y.chunks_exact(each).enumerate() {
                    let x = &input(0)[s * each..][..each];
                    let saved = &saved[s * layer.saved_len()..][..layer.saved_len()];
                    let d_x = &mut d_inputs[0][s * each..][..each];
                    layer.backward(isa, x, gamma, beta, saved, d_y, d_x, d_gamma, d_beta, work);
                }
            }
            Op::Silu => {
                let samples = d_y.chunks_exact(each).zip(input(0).chunks_exact(each));
                for ((d_y, x), d_x) in samples.zip(d_inputs[0].chunks_exact_mut(each)) {
                    nn::silu_backward(isa, x, d_y, d_x, work);
                }
            }
            Op::AddChannels => {
                let [d_x, d_v] = d_inputs else { unreachable!("two inputs") };
                let vectors = d_v.chunks_exact_mut(input_len(1));
                for ((d_y, d_x), d_v) in d_y.chunks_exact(each).zip(d_x.chunks_exact_mut(each)).zip(vectors) {
                    nn::add_channels_backward(isa, d_y, d_x, d_v);
                }
            }
            Op::Add { scale } => d_inputs.iter_mut().for_each(|d| nn::add_to(isa, d_y, scale, d)),
            Op::Concat => {
                let [d_a, d_b] = d_inputs else { unreachable!("two inputs") };
                let channels = |k: usize| self.graph.shape(node.inputs[k]).c;
                nn::concat_backward(isa, d_y, d_a, channels(0), d_b, channels(1));
            }
            Op::Upsample => {
                let x = self.graph.shape(node.inputs[0]);
                nn::upsample_backward(isa, d_y, x.w, x.c, &mut d_inputs[0]);
            }
            Op::Dropout { p, index } => match self.dropout {
                None => nn::add_to(isa, d_y, 1.0, &mut d_inputs[0]),
                Some(key) => {
                    let samples = d_y.chunks_exact(each).zip(d_inputs[0].chunks_exact_mut(each));
                    for (s, (d_y, d_x)) in samples.enumerate() {
                        nn::dropout(&mut dropout_rng(key, index, s), p, d_y, d_x);
                    }
                }
            },
            Op::Attention { kind, .. } => {
                let layer = plan::attention(self.graph, node);
                let projections = self.projections(kind);
                let out = self.value(arena, node.output);
                let [d_q, d_k, d_v] = d_inputs else { unreachable!("three inputs") };
                for s in 0..self.samples {
                    let range = s * each..(s + 1) * each;
                    let [q, k, v] = [0, 1, 2].map(|k| &input(k)[range.clone()]);
                    layer.backward(
                        isa,
                        team,
                        projections,
                        q,
                        k,
                        v,
                        &out[range.clone()],
                        &d_y[range.clone()],
                        &saved[s * layer.saved_len()..][..layer.saved_len()],
                        &mut d_q[range.clone()],
                        &mut d_k[range.clone()],
                        &mut d_v[range.clone()],
                        work,
                    );
                }
            }
        }
    }

    /// The gradients of a weight and of the bias that follows it in the table.
    fn pair<'g>(&self, gradient: &'g mut [T], weight: ParamId, bias: ParamId) -> (&'g mut [T], &'g mut [T]) {
        let (weight, bias) = (self.graph.params.get(weight).range(), self.graph.params.get(bias).range());
        gradient[weight.start..bias.end].split_at_mut(weight.len())
    }
}

/// Whether an operation's backward overwrites an input gradient that it is the first to touch, so that it need not be cleared.
fn overwrites(op: &Op) -> bool {
    match op {
        Op::Conv { .. } | Op::Linear { .. } | Op::Attention { .. } => true,
        Op::TimeEmbedding { .. }
        | Op::GroupNorm { .. }
        | Op::Silu
        | Op::AddChannels
        | Op::Add { .. }
        | Op::Concat
        | Op::Upsample
        | Op::Dropout { .. } => false,
    }
}

/// Sample `s` of the shard's generator for a dropout; the layer's index is in the step's upper bits.
fn dropout_rng(key: DropoutKey, index: usize, s: usize) -> crate::rng::ChaCha8Rng {
    rng(key.seed, Stream::Dropout, key.step | (index as u64) << 48, key.first_sample + s as u64)
}
