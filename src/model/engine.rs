//! Batches over threads. A batch is cut into shards, and each thread walks the whole graph for one shard at a
//! time.
//!
//! The cut depends only on the size of the batch, and so does the order in which gradients are added up (see
//! `super::gradient_tree`), so the result has the same bits on any number of threads. Where there are more
//! threads than shards in work at a time, they form teams that share the work inside the layers.
//!
//! After the first call an engine allocates nothing as large as a tensor. Without gradients in the input it
//! allocates nothing at all, except that the queue of the thread pool takes a block for every 63 jobs.

use super::Model;
use super::clock::{OpClock, Work, timed, timed_for_all};
use super::condition::Condition;
use super::exec::{Arena, DropoutKey, Sweep, Weights, transpose_weights};
use super::gradient_tree::{GradientTree, Node, ShardGradient, Shards, at_once};
use super::graph::Graph;
use super::interrupt::Interrupt;
use super::plan::{Mode, Plan};
use crate::equations::objective::{Objective, Shard};
use crate::error::{Error, Result};
use crate::kernels::{Crew, Element, Kernels, MAX_THREADS, Team, transpose};
use crate::machine::{in_words, shortage};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The number of samples in a shard. They share the reading of the weights, which small images spend most of
/// their time on; but their activations have to stay in cache, and there should be a shard for every thread.
pub(super) fn shard_len(batch: usize) -> usize {
    batch.div_ceil(2).clamp(1, 4)
}

/// The number of shards of a batch.
pub(crate) fn shard_count(batch: usize) -> usize {
    batch.div_ceil(shard_len(batch))
}

/// The most samples in a batch.
const MOST_SAMPLES: usize = 1 << 24;

/// Threads and buffers for the sweeps of one network.
#[derive(Debug)]
pub struct Engine<T> {
    graph: Arc<Graph>,
    /// `None` where no thread can be started, as in WebAssembly: the calling thread then works alone.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    kernels: Kernels,
    inference: Buffers<T>,
    training: Buffers<T>,
    transposed: Vec<T>,
    projections: Vec<(Vec<T>, Vec<T>)>,
    tree: GradientTree<T>,
    clock: Option<OpClock>,
    interrupt: Interrupt,
}

#[derive(Debug)]
struct Buffers<T> {
    plan: Plan,
    samples: usize,
    free: Mutex<Vec<Arena<T>>>,
}

impl<T: Element> Buffers<T> {
    fn new(plan: Plan) -> Self {
        Buffers { plan, samples: 0, free: Mutex::default() }
    }

    /// Makes arenas for `workers` shards of up to `samples` samples at a time. None is made on demand,
    /// because a later call may find more threads at work at once than the first did.
    ///
    /// # Errors
    /// [`Error::Invalid`] where that is more memory than is free.
    fn fit(&mut self, samples: usize, workers: usize) -> Result<()> {
        let free = self.free.get_mut().expect("no thread panicked");
        if samples > self.samples {
            self.samples = samples;
            free.clear();
        }
        let missing = workers.saturating_sub(free.len());
        let each = (self.plan.elements() * self.samples + self.plan.work) * size_of::<T>();
        if let Some(left) = shortage((missing * each) as u64) {
            let help = match left / each as u64 {
                0 => "smaller images or a smaller network fit".to_owned(),
                fit => format!("{} `threads` fit", free.len() as u64 + fit),
            };
            return Err(Error::invalid(
                format!("the network's layers on {workers} threads"),
                format!("what fits into the {} of memory that are free", in_words(left)),
                in_words((missing * each) as u64),
                help,
            ));
        }
        while free.len() < workers {
            free.push(Arena::new(&self.plan, self.samples));
        }
        Ok(())
    }

    /// Calls `f` with an arena that nobody else uses.
    fn with<R>(&self, f: impl FnOnce(&mut Arena<T>) -> R) -> R {
        let arena = self.free.lock().expect("no thread panicked").pop();
        let mut arena = arena.expect("an arena for everyone who works on a shard");
        let result = f(&mut arena);
        self.free.lock().expect("no thread panicked").push(arena);
        result
    }
}

/// What training asks of one sample: to fill x_t and what its loss needs to know, which is eps for (21) and
/// [`Objective::prepare`]'s notes for others, and to return its [`Condition`], or only the timestep's index t
/// - 1 where the network takes no classes.
pub type Example<'a, T, C = usize> = dyn Fn(usize, &mut [T], &mut [T]) -> C + Sync + 'a;

/// A batch's loss and gradients.
#[derive(Debug, Default)]
pub struct Gradient<T> {
    /// The mean over samples: for (21) that over pixels of |eps - eps_theta|^2 too.
    pub loss: f64,
    /// The loss's gradient in every parameter, in the weights' order.
    pub weights: Vec<T>,
    /// The loss's gradient in x_t \[n, h, w, c\], if the engine was asked for it.
    pub input: Vec<T>,
}

impl<T: Element> Engine<T> {
    /// An engine for a network. `threads` may be more than the processor has. `kernels` may be an
    /// [`Isa`](crate::kernels::Isa), which goes with the default algorithms.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no threads, more than 4096 or more than the system starts, and for a network
    /// that cannot be executed.
    pub fn new(model: &Model<T>, threads: usize, kernels: impl Into<Kernels>) -> Result<Engine<T>> {
        Self::with_input_gradient(model, threads, kernels, false)
    }

    /// The same; if `input_gradient`, [`Engine::gradient`] computes the loss's gradient in x_t too.
    ///
    /// # Errors
    /// As for [`Engine::new`].
    pub fn with_input_gradient(
        model: &Model<T>,
        threads: usize,
        kernels: impl Into<Kernels>,
        input_gradient: bool,
    ) -> Result<Engine<T>> {
        let refused = |got: String| {
            let expected = format!("1 to {MAX_THREADS}, and as many as this system can start");
            Error::invalid("`threads`", expected, got, "")
        };
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(refused(threads.to_string()));
        }
        let inference = Plan::new(&model.graph, Mode::Inference)?;
        let training = Plan::new(&model.graph, Mode::Training { input_gradient })?;
        let pool = match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
            Err(_) if threads == 1 && cfg!(target_family = "wasm") => None,
            pool => Some(pool.map_err(|error| refused(format!("{threads} ({error})")))?),
        };
        Ok(Engine {
            graph: model.graph.clone(),
            pool,
            threads,
            kernels: kernels.into(),
            inference: Buffers::new(inference),
            training: Buffers::new(training),
            transposed: Vec::new(),
            projections: Vec::new(),
            tree: GradientTree::default(),
            clock: None,
            interrupt: Interrupt::default(),
        })
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The kernels.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Counts the time of what follows by kind of work, from zero.
    pub fn start_clock(&mut self) {
        self.clock = Some(OpClock::new(self.threads));
    }

    /// The clock, if it was started.
    pub fn clock(&self) -> Option<&OpClock> {
        self.clock.as_ref()
    }

    /// From now on, batches with gradients end by [`Error::Stopped`] once the flag is set: with the shards
    /// that are in work, of which there is at least one.
    pub fn interrupt_by(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    /// Runs `f` inside the engine's thread pool.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }

    /// The number of teams for so many shards, and of the threads that lead them.
    fn leaders(&self, shards: usize) -> usize {
        self.threads.min(shards)
    }

    /// Calls `work` in as many teams as there are shards to work on at a time; the threads of the pool are
    /// shared out over the teams.
    fn share_out(&self, shards: usize, work: impl Fn(Team<'_>) + Sync) {
        self.install(|| start_teams(self.threads, self.leaders(shards), &work));
    }

    /// Refuses a network that is not the one that the engine was made for, and numbers that are not as many
    /// as the network has.
    fn check(&self, model: &Model<T>, samples: usize) -> Result<()> {
        let refuse = |what: &str, expected: String, got: String| Err(Error::invalid(what, expected, got, ""));
        if !Arc::ptr_eq(&self.graph, &model.graph) && self.graph != model.graph {
            let size =
                |graph: &Graph| format!("{} nodes, {} parameters", graph.nodes.len(), graph.params.total());
            let expected = format!("the one that the engine was made for ({})", size(&self.graph));
            return refuse("the engine's network", expected, format!("another ({})", size(&model.graph)));
        }
        model.check()?;
        if samples > MOST_SAMPLES {
            return refuse("the batch", format!("at most {MOST_SAMPLES} samples"), samples.to_string());
        }
        Ok(())
    }

    /// Sets out to eps_theta(x, t). x and out are \[n, h, w, c\]; `conditions` are the n samples'
    /// [`Condition`]s, or only the timesteps' t - 1 where the network takes no classes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another network than the engine's, slices of other lengths, a timestep's index
    /// of 2^24 or more, and a class that the network does not have or, where it takes classes, none.
    pub fn forward<C: Copy + Into<Condition> + Sync>(
        &mut self,
        model: &Model<T>,
        x: &[T],
        conditions: &[C],
        out: &mut [T],
    ) -> Result<()> {
        let n = conditions.len();
        self.check(model, n)?;
        let (len_in, len_out) = (model.input_len(), model.output_len());
        for (what, expected, got) in
            [("the network's input", n * len_in, x.len()), ("the network's output", n * len_out, out.len())]
        {
            if got != expected {
                let expected = format!("{expected} numbers for {n} timesteps");
                return Err(Error::invalid(what, expected, got.to_string(), ""));
            }
        }
        let classes = self.graph.classes();
        conditions.iter().try_for_each(|condition| (*condition).into().check(classes))?;
        if n == 0 {
            return Ok(());
        }
        let (size, shards) = (shard_len(n), shard_count(n));
        let leaders = self.leaders(shards);
        self.inference.fit(size, leaders)?;
        transpose_projections(model, &mut self.projections);
        let this = &*self;
        let parts = Mutex::new(out.chunks_mut(size * len_out).enumerate());
        let next = || parts.lock().expect("no thread panicked").next();
        let run = |team: Team<'_>, shard: usize, out: &mut [T]| {
            let conditions = &conditions[shard * size..(shard * size + size).min(n)];
            this.inference.with(|arena| {
                let sweep = Sweep {
                    graph: &this.graph,
                    plan: &this.inference.plan,
                    weights: Weights {
                        flat: &model.weights,
                        transposed: &[],
                        projections: &this.projections,
                    },
                    kernels: this.kernels,
                    team,
                    samples: conditions.len(),
                    dropout: None,
                    clock: this.clock(),
                };
                let (input, of_shard) = sweep.input(arena);
                input.copy_from_slice(&x[shard * size * len_in..][..conditions.len() * len_in]);
                of_shard.extend(conditions.iter().map(|condition| (*condition).into()));
                sweep.forward(arena);
                out.copy_from_slice(sweep.output(arena));
            });
        };
        this.share_out(shards, |team| {
            while let Some((shard, out)) = next() {
                run(team, shard, out);
            }
        });
        Ok(())
    }

    /// The loss (21), averaged over a batch of `n` samples that `example` makes, and its gradients into
    /// `result`.
    ///
    /// `dropout` is the seed and the step that dropout's masks are drawn from; with `None` nothing is
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another network than the engine's, a batch of 0 or of more than 2^24 samples, a
    /// step of 2^48 or more, and from `example` a timestep's index of 2^24 or more, a class that the network
    /// does not have or, where it takes classes, none. [`Error::Stopped`] after
    /// [`Engine::interrupt_by`]'s flag was set; what `result` has is then of no use.
    pub fn gradient<C: Into<Condition>>(
        &mut self,
        model: &Model<T>,
        n: usize,
        example: &Example<T, C>,
        dropout: Option<(u64, u64)>,
        result: &mut Gradient<T>,
    ) -> Result<()> {
        self.gradient_of(&Objective::default(), model, n, example, dropout, result)
    }

    /// The same for the loss (O7) of an objective.
    ///
    /// # Errors
    /// As for [`Engine::gradient`], and [`Error::Invalid`] for a timestep that the objective's schedule has
    /// not, and for a learned variance where the network's output has not twice the channels of x_t.
    pub fn gradient_of<C: Into<Condition>>(
        &mut self,
        objective: &Objective,
        model: &Model<T>,
        n: usize,
        example: &Example<T, C>,
        dropout: Option<(u64, u64)>,
        result: &mut Gradient<T>,
    ) -> Result<()> {
        let all = 0..shard_count(n);
        self.gradient_of_shards(objective, model, n, all, example, dropout, result)?;
        self.take_gradient(&mut result.weights);
        result.loss = self.tree.losses().iter().sum::<f64>() / n as f64;
        Ok(())
    }

    /// The losses of the shards that [`Engine::gradient_of_shards`] was given, each the sum over its samples.
    pub(crate) fn shard_losses(&mut self) -> &[f64] {
        self.tree.losses()
    }

    /// The sums of the gradients that [`Engine::gradient_of_shards`] left, of the largest subtrees that its
    /// shards make up.
    pub(crate) fn gradient_roots(&mut self) -> impl Iterator<Item = (Node, &[T])> {
        self.tree.roots()
    }

    /// The sum over the batch that [`Engine::gradient_of_shards`] left, if it was given all shards.
    pub(crate) fn take_gradient(&mut self, weights: &mut Vec<T>) {
        self.tree.finish(weights);
    }

    /// The same for some shards of the batch. Their losses and gradients are kept here: `result` gets the
    /// gradient in x_t, and its weights' memory is used.
    #[expect(clippy::too_many_arguments, reason = "those of `gradient_of`, and which of its shards")]
    pub(crate) fn gradient_of_shards<C: Into<Condition>>(
        &mut self,
        objective: &Objective,
        model: &Model<T>,
        n: usize,
        shards: Range<usize>,
        example: &Example<T, C>,
        dropout: Option<(u64, u64)>,
        result: &mut Gradient<T>,
    ) -> Result<()> {
        self.check(model, n)?;
        if n == 0 {
            return Err(Error::invalid("the batch", "at least one sample", "0", ""));
        }
        if let Some((_, step)) = dropout.filter(|(_, step)| *step >= 1 << 48) {
            return Err(Error::invalid("dropout's step", "a number below 2^48", step.to_string(), ""));
        }
        let (len_in, len_out) = (model.input_len(), model.output_len());
        if objective.says().learned_range && len_out != 2 * len_in {
            return Err(Error::invalid(
                "the network's output",
                "twice the channels of x_t, for a learned variance",
                self.graph.shape(self.graph.output).to_string(),
                "",
            ));
        }
        let (len_notes, channels) = (objective.notes_len(len_out), self.graph.shape(self.graph.output).c);
        let size = shard_len(n);
        let mut transposed = std::mem::take(&mut self.transposed);
        timed_for_all(self.clock(), Work::Weights, || {
            let plan = &self.training.plan;
            self.install(|| transpose_weights(&self.graph, plan, &model.weights, &mut transposed));
        });
        transpose_projections(model, &mut self.projections);
        let wants_input = self.training.plan.gradient[self.graph.input.0].is_some();
        result.input.resize(if wants_input { n * len_in } else { 0 }, T::zero());

        let input: Vec<Mutex<&mut [T]>> = result.input.chunks_mut(size * len_in).map(Mutex::new).collect();
        let mut tree = std::mem::take(&mut self.tree);
        let leaders = at_once(shards.len(), model.weights.len(), self.threads);
        let (first, is_cut) = (shards.start, AtomicBool::new(false));
        timed_for_all(self.clock(), Work::Reduction, || {
            let shards = Shards { range: shards, of: shard_count(n), at_once: leaders };
            tree.start(shards, model.weights.len(), &mut result.weights);
        });
        self.training.fit(size, leaders)?;
        let this = &*self;
        let classes = self.graph.classes();
        let refused = Mutex::new(None);
        let run = |team: Team<'_>, shard: usize, of_shard: &mut ShardGradient<T>| {
            let samples = size.min(n - shard * size);
            let ShardGradient { gradient, notes, indices } = of_shard;
            notes.resize(samples * len_notes, T::zero());
            indices.clear();
            this.training.with(|arena| {
                let sweep = Sweep {
                    graph: &this.graph,
                    plan: &this.training.plan,
                    weights: Weights {
                        flat: &model.weights,
                        transposed: &transposed,
                        projections: &this.projections,
                    },
                    kernels: this.kernels,
                    team,
                    samples,
                    dropout: dropout.map(|(seed, step)| DropoutKey {
                        seed,
                        step,
                        first_sample: (shard * size) as u64,
                    }),
                    clock: this.clock(),
                };
                let (x_t, conditions) = sweep.input(arena);
                let pairs = x_t.chunks_exact_mut(len_in).zip(notes.chunks_exact_mut(len_notes));
                timed(this.clock(), team, Work::Batch, || {
                    for (s, (x, notes)) in pairs.enumerate() {
                        let mut condition = example(shard * size + s, x, notes).into();
                        let checked =
                            condition.check(classes).and_then(|()| objective.check(condition.index));
                        if let Err(error) = checked {
                            *refused.lock().expect("no thread panicked") = Some(error);
                            condition = Condition::any(classes);
                        }
                        conditions.push(condition);
                        indices.push(condition.index);
                    }
                });
                sweep.forward(arena);
                let loss = timed(this.clock(), team, Work::Loss, || {
                    let (output, d_output) = sweep.output_gradient(arena);
                    objective.o07_gradient(Shard { indices, notes, output, channels, batch: n }, d_output)
                });
                sweep.backward(arena, gradient);
                if let (Some(d_x), Some(part)) = (sweep.input_gradient(arena), input.get(shard)) {
                    part.lock().expect("no thread panicked").copy_from_slice(d_x);
                }
                loss
            })
        };
        this.share_out(leaders, |team| {
            let clock = this.clock();
            tree.work(this.kernels.isa, team, clock, |shard, of_shard| {
                if shard != first && this.interrupt.is_set() {
                    is_cut.store(true, Ordering::Relaxed);
                    return 0.0;
                }
                run(team, shard, of_shard)
            });
        });
        drop(input);
        self.tree = tree;
        self.transposed = transposed;
        match refused.into_inner().expect("no thread panicked") {
            Some(error) => Err(error),
            None if is_cut.into_inner() => Err(Error::Stopped),
            None => Ok(()),
        }
    }
}

/// Calls `work` once in each of `leaders` teams that `threads` threads of the pool form. A team's crew lives
/// on the stack of its leader: its other threads serve until the leader is done.
fn start_teams(threads: usize, leaders: usize, work: &(dyn Fn(Team<'_>) + Sync)) {
    if leaders > 1 {
        let half = leaders / 2;
        let with_half = threads / leaders * half + (threads % leaders).min(half);
        rayon::join(
            || start_teams(with_half, half, work),
            || start_teams(threads - with_half, leaders - half, work),
        );
    } else if threads == 1 {
        work(Team::Solo);
    } else {
        let crew = Crew::new(threads);
        rayon::join(|| crew.lead(work), || serve_with(threads - 1, &crew));
    }
}

/// So many threads of the pool serve the crew. They are halved, not split off one by one, so that a thread
/// which finds all of them waiting does not run out of stack.
fn serve_with(threads: usize, crew: &Crew) {
    if threads == 1 {
        crew.serve();
    } else {
        let half = threads / 2;
        rayon::join(|| serve_with(half, crew), || serve_with(threads - half, crew));
    }
}

/// Every projection and its transpose.
fn transpose_projections<T: Element>(model: &Model<T>, pairs: &mut Vec<(Vec<T>, Vec<T>)>) {
    pairs.resize_with(model.projections.len(), Default::default);
    for (((w, w_t), from), spec) in pairs.iter_mut().zip(&model.projections).zip(&model.graph.projections) {
        w.clone_from(from);
        w_t.resize(from.len(), T::zero());
        transpose(from, spec.features, spec.dim, w_t);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::kernels::Isa;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn with_threads(threads: usize) -> (Model<f32>, Engine<f32>) {
        let model = Model::new(&Preset::Tiny.config().unet, 0).expect("a model");
        let engine = Engine::new(&model, threads, Isa::detect()).expect("an engine");
        (model, engine)
    }

    #[test]
    fn every_thread_is_in_one_team() {
        for threads in [1, 2, 5] {
            let (_, engine) = with_threads(threads);
            for shards in [1, 2, 3, 9] {
                let (teams, members) = (AtomicUsize::new(0), AtomicUsize::new(0));
                engine.share_out(shards, |team| {
                    teams.fetch_add(1, Ordering::Relaxed);
                    members.fetch_add(team.threads(), Ordering::Relaxed);
                });
                assert_eq!(teams.into_inner(), threads.min(shards));
                assert_eq!(members.into_inner(), threads, "{threads} threads, {shards} shards");
            }
        }
    }

    #[test]
    fn there_are_buffers_for_all_who_may_work_at_once_however_few_did() {
        for (threads, batch) in [(1, 9), (3, 1), (3, 64), (8, 64), (8, 16)] {
            let (model, mut engine) = with_threads(threads);
            let (x, mut out) = (vec![0.5; batch * model.input_len()], vec![0.0; batch * model.output_len()]);
            engine.forward(&model, &x, &vec![0usize; batch], &mut out).expect("lengths that fit");
            let example = |_: usize, x_t: &mut [f32], eps: &mut [f32]| {
                x_t.fill(0.5);
                eps.fill(0.1);
                0usize
            };
            engine
                .gradient(&model, batch, &example, None, &mut Gradient::default())
                .expect("lengths that fit");
            let shards = shard_count(batch);
            let most = at_once(shards, model.weights.len(), threads);
            let made = |buffers: &Buffers<f32>| buffers.free.lock().expect("no thread panicked").len();
            assert_eq!(made(&engine.inference), threads.min(shards), "{threads} threads, batch {batch}");
            assert_eq!(made(&engine.training), most, "{threads} threads, batch {batch}");
        }
    }

    #[test]
    fn threads_that_cannot_be_are_refused() {
        let model: Model<f32> = Model::new(&Preset::Tiny.config().unet, 0).expect("a model");
        for threads in [0, MAX_THREADS + 1, 40_000, usize::MAX] {
            let message = Engine::new(&model, threads, Isa::detect()).expect_err("no engine").to_string();
            assert!(message.contains("1 to 4096") && message.contains(&threads.to_string()), "{message}");
        }
    }

    #[test]
    fn many_threads_find_their_teams() {
        let (model, mut engine) = with_threads(300);
        let (x, mut out) = (vec![0.5; model.input_len()], vec![0.0; model.output_len()]);
        engine.forward(&model, &x, &[0usize], &mut out).expect("lengths that fit");
        assert!(out.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn an_interrupted_batch_ends_after_the_shards_in_work() {
        for threads in [1, 3] {
            let (model, mut engine) = with_threads(threads);
            let interrupt = Interrupt::default();
            engine.interrupt_by(interrupt.clone());
            let samples = AtomicUsize::new(0);
            let mut gradient = |from: usize| {
                samples.store(0, Ordering::Relaxed);
                let example = |_: usize, x_t: &mut [f32], eps: &mut [f32]| {
                    x_t.fill(0.5);
                    eps.fill(0.1);
                    if samples.fetch_add(1, Ordering::Relaxed) == from {
                        interrupt.set();
                    }
                    0usize
                };
                let mut result = Gradient::default();
                let outcome = engine.gradient(&model, 64, &example, None, &mut result);
                (outcome, samples.load(Ordering::Relaxed))
            };
            assert!(matches!(gradient(64), (Ok(()), 64)));
            // Shards are four samples; beside the one that sets the flag, every other thread has one in work.
            let (outcome, samples) = gradient(5);
            assert!(matches!(outcome, Err(Error::Stopped)), "{outcome:?}");
            assert!((8..=8 + 4 * threads).contains(&samples), "{threads} threads: {samples} samples");
            // It stays set: the first shard alone.
            let (outcome, samples) = gradient(64);
            assert!(matches!(outcome, Err(Error::Stopped)), "{outcome:?}");
            assert_eq!(samples, 4);
        }
    }

    #[test]
    fn what_does_not_fit_the_engine_is_refused() {
        let (model, mut engine) = with_threads(2);
        let (len_in, len_out) = (model.input_len(), model.output_len());
        let mut forward = |model: &Model<f32>, x: usize, indices: &[usize], out: usize| {
            let (x, mut out) = (vec![0.5; x], vec![0.0; out]);
            engine.forward(model, &x, indices, &mut out)
        };
        assert!(forward(&model, 0, &[], 0).is_ok());
        assert!(forward(&model, len_in, &[0], len_out).is_ok());
        let same: Model<f32> = Model::new(&Preset::Tiny.config().unet, 1).expect("a model");
        assert!(forward(&same, len_in, &[0], len_out).is_ok());
        let other: Model<f32> = Model::new(&Preset::Fashion.config().unet, 0).expect("a model");
        let mut short = model.clone();
        short.weights.pop();
        let mut unprojected = model.clone();
        unprojected.projections.iter_mut().for_each(|w| w.truncate(1));
        for (model, x, indices, out, what) in [
            (&other, len_in, &[0][..], len_out, "the engine's network"),
            (&short, len_in, &[0], len_out, "`Model::weights`"),
            (&unprojected, len_in, &[0], len_out, "projection"),
            (&model, len_in - 1, &[0], len_out, "the network's input"),
            (&model, len_in, &[0], len_out + 1, "the network's output"),
            (&model, len_in, &[usize::MAX], len_out, "a timestep's index"),
        ] {
            let message = forward(model, x, indices, out).expect_err(what).to_string();
            assert!(message.contains(what), "{message}");
        }

        let mut gradient = |model: &Model<f32>, n: usize, step: u64, index: usize| {
            let example = |_: usize, _: &mut [f32], _: &mut [f32]| index;
            engine.gradient(model, n, &example, Some((0, step)), &mut Gradient::default())
        };
        assert!(gradient(&model, 3, 1, 0).is_ok());
        for (model, n, step, index, what) in [
            (&other, 3, 1, 0, "the engine's network"),
            (&model, 0, 1, 0, "the batch"),
            (&model, usize::MAX, 1, 0, "the batch"),
            (&model, 3, u64::MAX, 0, "dropout's step"),
            (&model, 3, 1, usize::MAX, "a timestep's index"),
        ] {
            let message = gradient(model, n, step, index).expect_err(what).to_string();
            assert!(message.contains(what), "{message}");
        }
    }
}
