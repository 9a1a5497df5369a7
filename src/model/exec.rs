//! The two sweeps over the graph: the forward passes of its nodes in order, and the backward passes in
//! reverse. Each is one exhaustive match over the operations.
//!
//! A sweep runs a shard of a batch, which is a few samples whose activations stay in cache, in an arena of
//! its own.

use super::clock::{OpClock, OpKind, Work, timed};
use super::condition::Condition;
use super::graph::{Graph, Node, Op, ProjectionId, ValueId};
use super::params::ParamId;
use super::plan::{self, Plan, WeightedLayer};
use crate::error::Result;
use crate::kernels::{Activate, DropOut, Dropped, Element, Isa, Kernels, Pointwise, Run, Team};
use crate::nn::{
    self, Affine, AffineGradient, AttentionOutput, Context, GroupNormGradient, Projections, Qkv, QkvGradient,
};
use crate::real::Real;
use crate::rng::{Stream, key};

/// What the masks of dropout are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// The place of the shard's first sample in the batch.
    pub first_sample: u64,
}

impl DropoutKey {
    /// Drops out elements of one sample of the shard. The upper bits of the step tell the network's dropouts
    /// apart.
    pub fn drop_out<T: Element>(self, isa: Isa, p: f64, index: usize, sample: usize, x: &mut [T]) {
        let step = self.step | (index as u64) << 48;
        let key = &key(self.seed, Stream::Dropout, step, self.first_sample + sample as u64);
        DropOut::run(isa, Dropped { key, p, x });
    }
}

/// The network's numbers as the sweeps read them.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a, T> {
    /// The flat parameter vector.
    pub flat: &'a [T],
    /// The same with every weight transposed, by [`transpose_weights`]; empty for forward sweeps.
    pub transposed: &'a [T],
    /// The projections and their transposes.
    pub projections: &'a [(Vec<T>, Vec<T>)],
}

/// The buffers of one shard.
#[derive(Clone, Debug, Default)]
pub struct Arena<T> {
    slots: Vec<Vec<T>>,
    work: Vec<T>,
    conditions: Vec<Condition>,
}

impl<T: Real> Arena<T> {
    /// Buffers for up to `samples` samples.
    pub fn new(plan: &Plan, samples: usize) -> Arena<T> {
        Arena {
            slots: plan.slots.iter().map(|len| vec![T::zero(); len * samples]).collect(),
            work: vec![T::zero(); plan.work],
            conditions: Vec::with_capacity(samples),
        }
    }
}

/// Transposes every weight as the backward pass of its layer reads it, from the flat parameter vector to
/// another like it. The layers are shared out over the thread pool that this runs in.
pub fn transpose_weights<T: Element>(graph: &Graph, plan: &Plan, flat: &[T], transposed: &mut Vec<T>) {
    transposed.resize(flat.len(), T::zero());
    transpose_layers(graph, &plan.weighted, flat, 0, transposed);
}

/// The same for some neighbouring layers; `transposed` starts at element `start` of the parameter vector.
fn transpose_layers<T: Element>(
    graph: &Graph,
    layers: &[WeightedLayer],
    flat: &[T],
    start: usize,
    transposed: &mut [T],
) {
    let [WeightedLayer { node, weight }] = layers else {
        let (before, after) = layers.split_at(layers.len() / 2);
        let Some(middle) = after.first().map(|layer| layer.weight.start) else { return };
        let (left, right) = transposed.split_at_mut(middle - start);
        rayon::join(
            || transpose_layers(graph, before, flat, start, left),
            || transpose_layers(graph, after, flat, middle, right),
        );
        return;
    };
    let node = &graph.nodes[*node];
    let (weight, transposed) =
        (&flat[weight.clone()], &mut transposed[weight.start - start..weight.end - start]);
    let done = match node.op {
        Op::Conv { .. } => {
            plan::conv(graph, node).and_then(|layer| layer.transpose_weight(weight, transposed))
        }
        _ => plan::linear(graph, node, 1).and_then(|layer| layer.transpose_weight(weight, transposed)),
    };
    done.expect(FITS);
}

/// Why no layer of a sweep fails: the graph was checked when its plan was made, and the plan's buffers have
/// the lengths that its layers ask for.
const FITS: &str = "the plan's buffers fit the layers of its graph";

/// Everything that the sweeps of one shard read.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a, T> {
    /// The network.
    pub graph: &'a Graph,
    /// Its memory plan.
    pub plan: &'a Plan,
    /// Its numbers.
    pub weights: Weights<'a, T>,
    /// The kernels.
    pub kernels: Kernels,
    /// The thread team that shares the work of a layer.
    pub team: Team<'a>,
    /// Samples in the shard.
    pub samples: usize,
    /// What dropout's masks are drawn from in training; `None` when sampling.
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

    fn affine(&self, weight: ParamId, bias: ParamId) -> Affine<'a, T> {
        Affine { weight: self.param(weight), bias: self.param(bias) }
    }

    fn transposed(&self, id: ParamId) -> &'a [T] {
        &self.weights.transposed[self.graph.params.get(id).range()]
    }

    fn context<'b>(&self, workspace: &'b mut [T]) -> Context<'b, T>
    where
        'a: 'b,
    {
        Context { kernels: self.kernels, team: self.team, workspace }
    }

    fn projections(&self, projection: Option<ProjectionId>) -> Projections<'a, T> {
        projection.map_or_else(Projections::default, |id| {
            let (w, w_t) = &self.weights.projections[id.0];
            Projections { w, w_t }
        })
    }

    /// x_t \[samples, h, w, c\] and the samples' conditions, none yet, where the caller writes them before
    /// [`Sweep::forward`].
    pub fn input<'b>(&self, arena: &'b mut Arena<T>) -> (&'b mut [T], &'b mut Vec<Condition>) {
        let len = self.samples * self.len(self.graph.input);
        arena.conditions.clear();
        (&mut arena.slots[self.plan.value[self.graph.input.0]][..len], &mut arena.conditions)
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

    /// Runs the network on the shard's input under its conditions.
    pub fn forward(&self, arena: &mut Arena<T>) {
        assert_eq!(arena.conditions.len(), self.samples);
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let mut y = std::mem::take(&mut arena.slots[self.plan.value[node.output.0]]);
            let mut saved =
                self.plan.saved[i].map(|slot| std::mem::take(&mut arena.slots[slot])).unwrap_or_default();
            let mut work = std::mem::take(&mut arena.work);
            let len = self.samples * self.len(node.output);
            timed(self.clock, self.team, Work::Forward(OpKind::of(&node.op)), || {
                self.forward_node(node, arena, &mut y[..len], &mut saved, &mut work)
            })
            .expect(FITS);
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
        y: &mut [T],
        saved: &mut [T],
        work: &mut [T],
    ) -> Result<()> {
        let (isa, team, context) = (self.kernels.isa, self.team, &mut self.context(work));
        let input = |k: usize| self.value(arena, node.inputs[k]);
        let in_place = |k: usize| self.plan.value[node.inputs[k].0] == self.plan.value[node.output.0];
        let each = self.len(node.output);
        match node.op {
            Op::TimeEmbedding { flip_sin_to_cos, freq_shift } => {
                for (y, condition) in y.chunks_exact_mut(each).zip(&arena.conditions) {
                    nn::time_embedding(condition.index, flip_sin_to_cos, freq_shift, y);
                }
            }
            Op::ClassEmbedding { weight } => {
                for (y, class) in y.chunks_exact_mut(each).zip(classes(arena)) {
                    nn::class_embedding(self.param(weight), class, y);
                }
            }
            Op::Center => nn::center(isa, input(0), y),
            Op::Conv { weight, bias, .. } => {
                plan::conv(self.graph, node)?.forward(context, input(0), self.affine(weight, bias), y)?;
            }
            Op::Linear { weight, bias } => {
                let layer = plan::linear(self.graph, node, self.samples)?;
                layer.forward(context, input(0), self.affine(weight, bias), y)?;
            }
            Op::GroupNorm { weight, bias, .. } => {
                let layer = plan::group_norm(self.graph, node)?;
                let saved = saved.chunks_exact_mut(layer.saved_len());
                for ((x, y), saved) in input(0).chunks_exact(each).zip(y.chunks_exact_mut(each)).zip(saved) {
                    layer.forward(context, x, self.affine(weight, bias), y, saved)?;
                }
            }
            Op::Activate { function } => Activate::run(isa, Pointwise { function, x: input(0), y }),
            Op::AddChannels => {
                if !in_place(0) {
                    y.copy_from_slice(input(0));
                }
                let vectors = input(1).chunks_exact(self.len(node.inputs[1]));
                for (v, y) in vectors.zip(y.chunks_exact_mut(each)) {
                    nn::add_channels(isa, team, v, y);
                }
            }
            Op::ScaleShift => {
                let vectors = input(1).chunks_exact(self.len(node.inputs[1]));
                let samples = input(0).chunks_exact(each).zip(y.chunks_exact_mut(each));
                for (v, (x, y)) in vectors.zip(samples) {
                    nn::scale_shift(isa, team, x, v, y);
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
            Op::AveragePool => {
                let y_shape = self.graph.shape(node.output);
                nn::average_pool(isa, team, input(0), y_shape.w, y_shape.c, y);
            }
            Op::Dropout { p, index } => {
                if !in_place(0) {
                    y.copy_from_slice(input(0));
                }
                self.drop_out(p, index, y.chunks_exact_mut(each));
            }
            Op::Attention { projection, .. } => {
                let layer = plan::attention(self.graph, node)?;
                let saved = saved.chunks_exact_mut(layer.saved_len());
                for (s, (y, saved)) in y.chunks_exact_mut(each).zip(saved).enumerate() {
                    let [q, k, v] = [0, 1, 2].map(|k| &input(k)[s * each..][..each]);
                    layer.forward(context, self.projections(projection), Qkv { q, k, v }, y, saved)?;
                }
            }
        }
        Ok(())
    }

    /// Sets `gradient`, a vector like the weights, to the loss's gradient in every parameter. Reads what [`Sweep::forward`] left in the arena and the gradient in the output.
    pub fn backward(&self, arena: &mut Arena<T>, gradient: &mut [T]) {
        for (i, node) in self.graph.nodes.iter().enumerate().rev() {
            timed(self.clock, self.team, Work::Backward(OpKind::of(&node.op)), || {
                self.backward_step(i, node, arena, gradient)
            })
            .expect(FITS);
        }
    }

    fn backward_step(&self, i: usize, node: &Node, arena: &mut Arena<T>, gradient: &mut [T]) -> Result<()> {
        let Some(slot) = self.plan.gradient[node.output.0] else { return Ok(()) };
        let slots = node.inputs.iter().map(|input| self.plan.gradient[input.0]);
        let mut d_y = std::mem::take(&mut arena.slots[slot]);
        let mut d_inputs = [const { Vec::new() }; 3];
        for (d, slot) in d_inputs.iter_mut().zip(slots.clone()) {
            *d = slot.map(|slot| std::mem::take(&mut arena.slots[slot])).unwrap_or_default();
        }
        let mut work = std::mem::take(&mut arena.work);
        let gradients = NodeGradients {
            d_y: &mut d_y[..self.samples * self.len(node.output)],
            d_inputs: &mut d_inputs,
            params: gradient,
        };
        let done = self.backward_node(i, node, arena, gradients, &mut work);
        arena.work = work;
        for (d, other) in d_inputs.into_iter().zip(slots) {
            if let Some(other) = other.filter(|other| *other != slot) {
                arena.slots[other] = d;
            }
        }
        arena.slots[slot] = d_y;
        done
    }

    fn backward_node(
        &self,
        i: usize,
        node: &Node,
        arena: &Arena<T>,
        gradients: NodeGradients<T>,
        work: &mut [T],
    ) -> Result<()> {
        let (isa, context) = (self.kernels.isa, &mut self.context(work));
        let NodeGradients { d_y, d_inputs, params } = gradients;
        let each = self.len(node.output);
        let input = |k: usize| self.value(arena, node.inputs[k]);
        let input_len = |k: usize| self.len(node.inputs[k]);
        let updates = &self.plan.updates[i];
        let in_place = |k: usize| self.plan.gradient[node.inputs[k].0] == self.plan.gradient[node.output.0];
        let saved = self.plan.saved[i].map_or(&[][..], |slot| &arena.slots[slot]);
        match node.op {
            Op::TimeEmbedding { .. } => {}
            Op::ClassEmbedding { weight } => {
                let d_table = &mut params[self.graph.params.get(weight).range()];
                d_table.fill(T::zero());
                for (d_y, class) in d_y.chunks_exact(each).zip(classes(arena)) {
                    nn::class_embedding_backward(d_y, class, d_table);
                }
            }
            Op::Center => {
                if !d_inputs[0].is_empty() {
                    nn::pass(isa, d_y, 2.0, &mut d_inputs[0][..d_y.len()], updates[0]);
                }
            }
            Op::Conv { weight, bias, .. } => {
                let layer = plan::conv(self.graph, node)?;
                layer.backward_weight(context, input(0), d_y, self.affine_gradient(params, weight, bias))?;
                if !d_inputs[0].is_empty() {
                    let d_x = &mut d_inputs[0][..self.samples * input_len(0)];
                    layer.backward_input(context, self.transposed(weight), d_y, d_x, updates[0])?;
                }
            }
            Op::Linear { weight, bias } => {
                let layer = plan::linear(self.graph, node, self.samples)?;
                layer.backward_weight(context, input(0), d_y, self.affine_gradient(params, weight, bias))?;
                if !d_inputs[0].is_empty() {
                    let d_x = &mut d_inputs[0][..self.samples * input_len(0)];
                    layer.backward_input(context, self.transposed(weight), d_y, d_x, updates[0])?;
                }
            }
            Op::GroupNorm { weight, bias, .. } => {
                let layer = plan::group_norm(self.graph, node)?;
                let mut d_affine = self.affine_gradient(params, weight, bias);
                let saved = saved.chunks_exact(layer.saved_len());
                let samples = input(0).chunks_exact(each).zip(saved).zip(d_y.chunks_exact_mut(each));
                for (s, ((x, saved), d_y)) in samples.enumerate() {
                    let d_x = (!in_place(0)).then(|| (&mut d_inputs[0][s * each..][..each], updates[0]));
                    let AffineGradient { weight: d_gamma, bias: d_beta } = &mut d_affine;
                    let affine = AffineGradient { weight: d_gamma, bias: d_beta };
                    let gradient = GroupNormGradient { d_x, affine };
                    layer.backward(context, x, self.affine(weight, bias), saved, d_y, gradient)?;
                }
            }
            Op::Activate { function } => {
                let samples = d_y.chunks_exact(each).zip(input(0).chunks_exact(each));
                for ((d_y, x), d_x) in samples.zip(d_inputs[0].chunks_exact_mut(each)) {
                    nn::activate_backward(isa, function, x, d_y, d_x, updates[0], context.workspace);
                }
            }
            Op::AddChannels => {
                for (d_y, d_v) in d_y.chunks_exact(each).zip(d_inputs[1].chunks_exact_mut(input_len(1))) {
                    nn::add_channels_backward(isa, d_y, d_v, updates[1]);
                }
                if !in_place(0) {
                    nn::pass(isa, d_y, 1.0, &mut d_inputs[0][..d_y.len()], updates[0]);
                }
            }
            Op::ScaleShift => {
                let vectors = input(1).chunks_exact(input_len(1));
                let [d_x, d_v, _] = d_inputs;
                let gradients = d_x.chunks_exact_mut(each).zip(d_v.chunks_exact_mut(input_len(1)));
                let samples = input(0).chunks_exact(each).zip(d_y.chunks_exact(each));
                for ((v, (x, d_y)), (d_x, d_v)) in vectors.zip(samples).zip(gradients) {
                    nn::scale_shift_backward_x(isa, v, d_y, d_x, updates[0]);
                    nn::scale_shift_backward_v(isa, x, d_y, d_v, updates[1]);
                }
            }
            Op::Add { scale } => {
                for k in 0..2 {
                    if !in_place(k) {
                        nn::pass(isa, d_y, scale, &mut d_inputs[k][..d_y.len()], updates[k]);
                    }
                }
                if scale != 1.0 && (in_place(0) || in_place(1)) {
                    nn::scale_by(isa, scale, d_y);
                }
            }
            Op::Concat => {
                let [a, b] = [0, 1].map(|k| self.graph.shape(node.inputs[k]).c);
                for (k, channels) in [(0, 0..a), (1, a..a + b)] {
                    let d_x = &mut d_inputs[k][..self.samples * input_len(k)];
                    nn::concat_backward(isa, d_y, a + b, channels, d_x, updates[k]);
                }
            }
            Op::Upsample => {
                let x = self.graph.shape(node.inputs[0]);
                nn::upsample_backward(isa, d_y, x.w, x.c, &mut d_inputs[0], updates[0]);
            }
            Op::AveragePool => {
                let y = self.graph.shape(node.output);
                nn::average_pool_backward(isa, d_y, y.w, y.c, &mut d_inputs[0], updates[0]);
            }
            Op::Dropout { p, index } => {
                self.drop_out(p, index, d_y.chunks_exact_mut(each));
                if !in_place(0) {
                    nn::pass(isa, d_y, 1.0, &mut d_inputs[0][..d_y.len()], updates[0]);
                }
            }
            Op::Attention { projection, .. } => {
                let layer = plan::attention(self.graph, node)?;
                let out = self.value(arena, node.output);
                let [d_q, d_k, d_v] = d_inputs;
                for s in 0..self.samples {
                    let range = s * each..(s + 1) * each;
                    let [q, k, v] = [0, 1, 2].map(|k| &input(k)[range.clone()]);
                    let saved = &saved[s * layer.saved_len()..][..layer.saved_len()];
                    let output = AttentionOutput { out: &out[range.clone()], saved };
                    let gradient = QkvGradient {
                        d_q: &mut d_q[range.clone()],
                        d_k: &mut d_k[range.clone()],
                        d_v: &mut d_v[range.clone()],
                    };
                    let (projections, qkv) = (self.projections(projection), Qkv { q, k, v });
                    layer.backward(context, projections, qkv, output, &d_y[range], gradient)?;
                }
            }
        }
        Ok(())
    }

    /// Drops out elements of every sample in training.
    fn drop_out<'b>(&self, p: f64, index: usize, samples: impl Iterator<Item = &'b mut [T]>) {
        let Some(dropout) = self.dropout else { return };
        for (s, x) in samples.enumerate() {
            dropout.drop_out(self.kernels.isa, p, index, s, x);
        }
    }

    /// The gradients in a weight and in the bias that stands behind it in the table. They become 0 here, while
    /// they are in cache: every parameter belongs to one node.
    fn affine_gradient<'g>(
        &self,
        gradient: &'g mut [T],
        weight: ParamId,
        bias: ParamId,
    ) -> AffineGradient<'g, T> {
        let (weight, bias) = (self.graph.params.get(weight).range(), self.graph.params.get(bias).range());
        let both = &mut gradient[weight.start..bias.end];
        both.fill(T::zero());
        let (weight, bias) = both.split_at_mut(weight.len());
        AffineGradient { weight, bias }
    }
}

/// The classes of the shard's samples, of a network that takes classes.
fn classes<T>(arena: &Arena<T>) -> impl Iterator<Item = usize> {
    arena.conditions.iter().map(|condition| condition.class.expect("the engine checked the classes"))
}

/// The gradients that the backward pass of one node reads and writes.
struct NodeGradients<'g, T> {
    /// That in the node's output. It may be overwritten: it becomes the gradient in the inputs that the plan
    /// put in its place.
    d_y: &'g mut [T],
    /// Those in the node's inputs; empty where there is none, or where the plan put it in the place of `d_y`.
    d_inputs: &'g mut [Vec<T>; 3],
    /// Those in all parameters.
    params: &'g mut [T],
}
