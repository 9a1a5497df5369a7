//! The two sweeps over the graph: forward in order, backward in reverse, each one exhaustive match over the
//! operations.
//!
//! A sweep runs a shard of a batch, a few samples whose activations stay in cache, in buffers of its own.

use super::clock::{OpClock, OpKind, Work, timed};
use super::graph::{Graph, Node, Op, ProjectionId, ValueId};
use super::params::ParamId;
use super::plan::{self, Plan, WeightedLayer};
use crate::kernels::{DropOut, Dropped, Element, Kernels, Pointwise, Run, Silu, Team, transpose};
use crate::nn::{self, Projections};
use crate::real::Real;
use crate::rng::{Stream, key};

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
    /// The same with every convolution's kernel turned and every linear weight transposed, by
    /// [`turn_weights`]; empty for forward sweeps.
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

/// turned = for each weight, what its layer's input gradient multiplies by; the layers are shared out over
/// the pool that the caller runs in.
pub fn turn_weights<T: Element>(graph: &Graph, plan: &Plan, flat: &[T], turned: &mut Vec<T>) {
    turned.resize(flat.len(), T::zero());
    turn_layers(graph, &plan.weighted, flat, 0, turned);
}

/// The same for some neighbouring layers; `turned` starts at the parameter vector's element `start`.
fn turn_layers<T: Element>(
    graph: &Graph,
    layers: &[WeightedLayer],
    flat: &[T],
    start: usize,
    turned: &mut [T],
) {
    let [WeightedLayer { node, weight }] = layers else {
        let (before, after) = layers.split_at(layers.len() / 2);
        let Some(middle) = after.first().map(|layer| layer.weight.start) else { return };
        let (left, right) = turned.split_at_mut(middle - start);
        rayon::join(
            || turn_layers(graph, before, flat, start, left),
            || turn_layers(graph, after, flat, middle, right),
        );
        return;
    };
    let (node, turned) = (&graph.nodes[*node], &mut turned[weight.start - start..weight.end - start]);
    match node.op {
        Op::Conv { .. } => plan::conv(graph, node).turn_weight(&flat[weight.clone()], turned),
        _ => {
            let layer = plan::linear(graph, node, 1);
            transpose(&flat[weight.clone()], layer.c_in, layer.c_out, turned);
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
    /// The kernels.
    pub kernels: Kernels,
    /// Who works on a layer.
    pub team: Team<'a>,
    /// Samples in the shard.
    pub samples: usize,
    /// Dropout's key in training, `None` when sampling.
    pub dropout: Option<DropoutKey>,
    /// Whether the backward sweep sets the parameters' gradients instead of adding to them.
    pub fresh: bool,
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

    fn projections(&self, projection: Option<ProjectionId>) -> Projections<'a, T> {
        projection.map_or(Projections { w: &[], w_t: &[] }, |id| {
            let (w, w_t) = &self.weights.projections[id.0];
            Projections { w, w_t }
        })
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

    /// The loss's gradient in eps_theta, where the caller writes it before [`Sweep::backward`], beside
    /// eps_theta itself.
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
            timed(self.clock, self.team, Work::Forward(OpKind::of(&node.op)), || {
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
        let (kernels, isa, team) = (self.kernels, self.kernels.isa, self.team);
        let input = |k: usize| self.value(arena, node.inputs[k]);
        let in_place = |k: usize| self.plan.value[node.inputs[k].0] == self.plan.value[node.output.0];
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
                layer.forward(kernels, team, input(0), weight, bias, y, work);
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
                    layer.forward(isa, team, x, gamma, beta, y, saved, work);
                }
            }
            Op::Silu => Silu::run(isa, Pointwise { x: input(0), y }),
            Op::AddChannels => {
                if !in_place(0) {
                    y.copy_from_slice(input(0));
                }
                let vectors = input(1).chunks_exact(self.len(node.inputs[1]));
                for (v, y) in vectors.zip(y.chunks_exact_mut(each)) {
                    nn::add_channels(isa, team, v, y);
                }
            }
            Op::Add { scale } => {
                let kept = if in_place(0) { 0 } else { 1 };
                if !in_place(kept) {
                    y.copy_from_slice(input(kept));
                }
                nn::add_scaled(isa, team, input(1 - kept), scale, y);
            }
            Op::Concat => {
                let channels = |k: usize| self.graph.shape(node.inputs[k]).c;
                nn::concat(team, input(0), channels(0), input(1), channels(1), y);
            }
            Op::Upsample => {
                let x = self.graph.shape(node.inputs[0]);
                nn::upsample(team, input(0), x.w, x.c, y);
            }
            Op::Dropout { p, index } => {
                if !in_place(0) {
                    y.copy_from_slice(input(0));
                }
                self.drop_out(p, index, y.chunks_exact_mut(each));
            }
            Op::Attention { projection, .. } => {
                let layer = plan::attention(self.graph, node);
                let projections = self.projections(projection);
                let saved = saved.chunks_exact_mut(layer.saved_len());
                for (s, (y, saved)) in y.chunks_exact_mut(each).zip(saved).enumerate() {
                    let [q, k, v] = [0, 1, 2].map(|k| &input(k)[s * each..][..each]);
                    layer.forward(isa, team, projections, q, k, v, y, saved, work);
                }
            }
        }
    }

    /// Adds the loss's gradient in every parameter to `gradient`, a vector like the weights, or sets it;
    /// reads what [`Sweep::forward`] left and the output's gradient.
    pub fn backward(&self, arena: &mut Arena<T>, gradient: &mut [T]) {
        for (i, node) in self.graph.nodes.iter().enumerate().rev() {
            timed(self.clock, self.team, Work::Backward(OpKind::of(&node.op)), || {
                self.backward_step(i, node, arena, gradient)
            });
        }
    }

    fn backward_step(&self, i: usize, node: &Node, arena: &mut Arena<T>, gradient: &mut [T]) {
        let Some(slot) = self.plan.gradient[node.output.0] else { return };
        let slots = node.inputs.iter().map(|input| self.plan.gradient[input.0]);
        let mut d_y = std::mem::take(&mut arena.slots[slot]);
        let mut d_inputs = [const { Vec::new() }; 3];
        for (d, slot) in d_inputs.iter_mut().zip(slots.clone()) {
            *d = slot.map(|slot| std::mem::take(&mut arena.slots[slot])).unwrap_or_default();
        }
        let mut work = std::mem::take(&mut arena.work);
        let len = self.samples * self.len(node.output);
        self.backward_node(i, node, arena, &mut d_y[..len], &mut d_inputs, gradient, &mut work);
        arena.work = work;
        for (d, other) in d_inputs.into_iter().zip(slots) {
            if let Some(other) = other.filter(|other| *other != slot) {
                arena.slots[other] = d;
            }
        }
        arena.slots[slot] = d_y;
    }

    /// `d_y` may be overwritten; it takes the gradient of the inputs that the plan put in its place.
    fn backward_node(
        &self,
        i: usize,
        node: &Node,
        arena: &Arena<T>,
        d_y: &mut [T],
        d_inputs: &mut [Vec<T>; 3],
        gradient: &mut [T],
        work: &mut [T],
    ) {
        let (kernels, isa, team) = (self.kernels, self.kernels.isa, self.team);
        let each = self.len(node.output);
        let input = |k: usize| self.value(arena, node.inputs[k]);
        let input_len = |k: usize| self.len(node.inputs[k]);
        let first = &self.plan.first_touch[i];
        let in_place = |k: usize| self.plan.gradient[node.inputs[k].0] == self.plan.gradient[node.output.0];
        let saved = self.plan.saved[i].map_or(&[][..], |slot| &arena.slots[slot]);
        match node.op {
            Op::TimeEmbedding { .. } => {}
            Op::Conv { weight, bias, .. } => {
                let layer = plan::conv(self.graph, node);
                let (d_weight, d_bias) = self.pair(gradient, weight, bias);
                layer.backward_weight(kernels, team, input(0), d_y, d_weight, d_bias, work);
                if !d_inputs[0].is_empty() {
                    let d_x = &mut d_inputs[0][..self.samples * input_len(0)];
                    layer.backward_input(kernels, team, self.turned(weight), d_y, d_x, !first[0], work);
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
                for (s, d_y) in d_y.chunks_exact_mut(each).enumerate() {
                    let x = &input(0)[s * each..][..each];
                    let saved = &saved[s * layer.saved_len()..][..layer.saved_len()];
                    let d_x = if in_place(0) { None } else { Some(&mut d_inputs[0][s * each..][..each]) };
                    layer.backward(isa, x, gamma, beta, saved, d_y, d_x, !first[0], d_gamma, d_beta, work);
                }
            }
            Op::Silu => {
                let samples = d_y.chunks_exact(each).zip(input(0).chunks_exact(each));
                for ((d_y, x), d_x) in samples.zip(d_inputs[0].chunks_exact_mut(each)) {
                    nn::silu_backward(isa, x, d_y, d_x, !first[0], work);
                }
            }
            Op::AddChannels => {
                for (d_y, d_v) in d_y.chunks_exact(each).zip(d_inputs[1].chunks_exact_mut(input_len(1))) {
                    nn::add_channels_backward(isa, d_y, d_v, !first[1]);
                }
                if !in_place(0) {
                    nn::pass(isa, d_y, 1.0, &mut d_inputs[0][..d_y.len()], !first[0]);
                }
            }
            Op::Add { scale } => {
                for k in 0..2 {
                    if !in_place(k) {
                        nn::pass(isa, d_y, scale, &mut d_inputs[k][..d_y.len()], !first[k]);
                    }
                }
                if scale != 1.0 && (in_place(0) || in_place(1)) {
                    nn::scale_by(isa, scale, d_y);
                }
            }
            Op::Concat => {
                let channels = |k: usize| self.graph.shape(node.inputs[k]).c;
                let c_y = channels(0) + channels(1);
                for (k, from) in [(0, 0), (1, channels(0))] {
                    nn::concat_backward(isa, d_y, c_y, from, &mut d_inputs[k], channels(k), !first[k]);
                }
            }
            Op::Upsample => {
                let x = self.graph.shape(node.inputs[0]);
                nn::upsample_backward(isa, d_y, x.w, x.c, &mut d_inputs[0], !first[0]);
            }
            Op::Dropout { p, index } => {
                self.drop_out(p, index, d_y.chunks_exact_mut(each));
                if !in_place(0) {
                    nn::pass(isa, d_y, 1.0, &mut d_inputs[0][..d_y.len()], !first[0]);
                }
            }
            Op::Attention { projection, .. } => {
                let layer = plan::attention(self.graph, node);
                let projections = self.projections(projection);
                let out = self.value(arena, node.output);
                let [d_q, d_k, d_v] = d_inputs;
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

    /// Drops out elements of every sample in training; the layer's index is in the upper bits of the step.
    fn drop_out<'b>(&self, p: f64, index: usize, samples: impl Iterator<Item = &'b mut [T]>) {
        let Some(DropoutKey { seed, step, first_sample }) = self.dropout else { return };
        for (s, x) in samples.enumerate() {
            let step = step | (index as u64) << 48;
            let key = &key(seed, Stream::Dropout, step, first_sample + s as u64);
            DropOut::run(self.kernels.isa, Dropped { key, p, x });
        }
    }

    /// The gradients of a weight and of the bias that follows it in the table, cleared while they are in
    /// cache if the sweep is to set them: every parameter belongs to one operation.
    fn pair<'g>(&self, gradient: &'g mut [T], weight: ParamId, bias: ParamId) -> (&'g mut [T], &'g mut [T]) {
        let (weight, bias) = (self.graph.params.get(weight).range(), self.graph.params.get(bias).range());
        let both = &mut gradient[weight.start..bias.end];
        if self.fresh {
            both.fill(T::zero());
        }
        both.split_at_mut(weight.len())
    }
}
