//! Batches over threads: a batch is cut into fixed shards, each thread walks the whole graph for one shard at
//! a time.
//!
//! The cut depends on the batch alone and gradients are added up in an order that the batch and the network
//! decide (see `super::lanes`), so the result has the same bits on any number of threads. Where fewer shards
//! can be worked on at a time than there are threads, the threads work inside the layers. After the first
//! call an engine allocates nothing as large as a tensor, and without input gradients nothing at all, but for
//! the pool's queue: a block for every 63 jobs.

use super::Model;
use super::clock::{OpClock, Work, timed, timed_for_all};
use super::exec::{Arena, DropoutKey, Sweep, Weights, turn_weights};
use super::lanes::{Lane, Lanes};
use super::plan::{Mode, Plan};
use crate::equations::loss::{eq21_gradient, eq21_l_simple};
use crate::error::{Error, Result};
use crate::kernels::{Crew, Element, Kernels, Team, transpose};
use std::sync::Mutex;

/// Samples in a shard of a batch of `batch`: enough to share the reading of the weights, which is what small
/// images wait for, few enough to stay in cache and to leave a shard for many threads.
pub(super) fn shard_len(batch: usize) -> usize {
    batch.div_ceil(2).clamp(1, 4)
}

/// Threads and buffers for the sweeps of one network.
#[derive(Debug)]
pub struct Engine<T> {
    pool: rayon::ThreadPool,
    threads: usize,
    kernels: Kernels,
    inference: Buffers<T>,
    training: Buffers<T>,
    turned: Vec<T>,
    projections: Vec<(Vec<T>, Vec<T>)>,
    lanes: Lanes<T>,
    clock: Option<OpClock>,
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

    /// Arenas for `workers` shards of up to `samples` at a time. All are made here and none on demand: a
    /// later call may find more threads at work at once than the first did.
    fn fit(&mut self, samples: usize, workers: usize) {
        let free = self.free.get_mut().expect("no thread panicked");
        if samples > self.samples {
            self.samples = samples;
            free.clear();
        }
        while free.len() < workers {
            free.push(Arena::new(&self.plan, self.samples));
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Arena<T>) -> R) -> R {
        let arena = self.free.lock().expect("no thread panicked").pop();
        let mut arena = arena.expect("an arena for everyone who works on a shard");
        let result = f(&mut arena);
        self.free.lock().expect("no thread panicked").push(arena);
        result
    }
}

/// What training asks of one sample: fill x_t and eps, and name the timestep's index.
pub type Example<'a, T> = dyn Fn(usize, &mut [T], &mut [T]) -> usize + Sync + 'a;

/// A batch's loss and gradients.
#[derive(Debug, Default)]
pub struct Gradient<T> {
    /// The mean over samples and pixels of |eps - eps_theta|^2.
    pub loss: f64,
    /// The loss's gradient in every parameter, in the weights' order.
    pub weights: Vec<T>,
    /// The loss's gradient in x_t \[n, h, w, c\], if the engine was asked for it.
    pub input: Vec<T>,
}

impl<T: Element> Engine<T> {
    /// An engine for a network's graph; `threads` may exceed the processor's, and an
    /// [`Isa`](crate::kernels::Isa) alone stands for itself with the default algorithms.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the threads cannot be started.
    pub fn new(model: &Model<T>, threads: usize, kernels: impl Into<Kernels>) -> Result<Engine<T>> {
        Self::with_input_gradient(model, threads, kernels, false)
    }

    /// The same, computing the loss's gradient in x_t too if `input_gradient`.
    ///
    /// # Errors
    /// As for [`Engine::new`].
    pub fn with_input_gradient(
        model: &Model<T>,
        threads: usize,
        kernels: impl Into<Kernels>,
        input_gradient: bool,
    ) -> Result<Engine<T>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| {
            Error::invalid(
                "`threads`",
                "a number of threads this system can start",
                e.to_string(),
                "ask for fewer",
            )
        })?;
        Ok(Engine {
            pool,
            threads,
            kernels: kernels.into(),
            inference: Buffers::new(Plan::new(&model.graph, Mode::Inference)),
            training: Buffers::new(Plan::new(&model.graph, Mode::Training { input_gradient })),
            turned: Vec::new(),
            projections: Vec::new(),
            lanes: Lanes::default(),
            clock: None,
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

    /// Runs `f` inside the engine's thread pool.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    /// The threads that work on shards of their own where there are so many.
    fn leaders(&self, shards: usize) -> usize {
        self.threads.min(shards)
    }

    /// Calls `work` on as many threads of the pool as there are shards to work on at a time; those that are
    /// left over join their crews.
    fn share_out(&self, shards: usize, work: impl Fn(Team<'_>) + Sync) {
        self.install(|| start_teams(self.threads, self.leaders(shards), &work));
    }

    /// out = eps_theta(x, t): x and out \[n, h, w, c\], `indices` the n timesteps' t - 1.
    pub fn forward(&mut self, model: &Model<T>, x: &[T], indices: &[usize], out: &mut [T]) {
        let n = indices.len();
        let (len_in, len_out) = (model.input_len(), model.output_len());
        assert!(
            x.len() == n * len_in && out.len() == n * len_out,
            "{n} samples, x {}, out {}",
            x.len(),
            out.len()
        );
        let size = shard_len(n);
        let shards = n.div_ceil(size);
        let leaders = self.leaders(shards);
        self.inference.fit(size, leaders);
        transpose_projections(model, &mut self.projections);
        let this = &*self;
        let parts = Mutex::new(out.chunks_mut(size * len_out).enumerate());
        let next = || parts.lock().expect("no thread panicked").next();
        let run = |team: Team<'_>, shard: usize, out: &mut [T]| {
            let indices = &indices[shard * size..(shard * size + size).min(n)];
            this.inference.with(|arena| {
                let sweep = Sweep {
                    graph: &model.graph,
                    plan: &this.inference.plan,
                    weights: Weights { flat: &model.weights, turned: &[], projections: &this.projections },
                    kernels: this.kernels,
                    team,
                    samples: indices.len(),
                    dropout: None,
                    fresh: false,
                    clock: this.clock(),
                };
                sweep.input(arena).copy_from_slice(&x[shard * size * len_in..][..indices.len() * len_in]);
                sweep.forward(arena, indices);
                out.copy_from_slice(sweep.output(arena));
            });
        };
        this.share_out(shards, |team| {
            while let Some((shard, out)) = next() {
                run(team, shard, out);
            }
        });
    }

    /// The loss (21), averaged over a batch of `n` samples that `example` makes, and its gradients into
    /// `result`.
    ///
    /// `dropout` is the seed and the step of dropout's masks, `None` for none.
    pub fn gradient(
        &mut self,
        model: &Model<T>,
        n: usize,
        example: &Example<T>,
        dropout: Option<(u64, u64)>,
        result: &mut Gradient<T>,
    ) {
        let (len_in, len_out) = (model.input_len(), model.output_len());
        let size = shard_len(n);
        let mut turned = std::mem::take(&mut self.turned);
        timed_for_all(self.clock(), Work::Weights, || {
            self.install(|| turn_weights(&model.graph, &self.training.plan, &model.weights, &mut turned));
        });
        transpose_projections(model, &mut self.projections);
        let wants_input = self.training.plan.gradient[model.graph.input.0].is_some();
        result.input.resize(if wants_input { n * len_in } else { 0 }, T::zero());

        let shards = n.div_ceil(size);
        let input: Vec<Mutex<&mut [T]>> = result.input.chunks_mut(size * len_in).map(Mutex::new).collect();
        let mut lanes = std::mem::take(&mut self.lanes);
        timed_for_all(self.clock(), Work::Reduction, || {
            lanes.start(shards, model.weights.len(), &mut result.weights);
        });
        let leaders = self.leaders(lanes.count());
        self.training.fit(size, leaders);
        let this = &*self;
        let run = |team: Team<'_>, shard: usize, lane: &mut Lane<T>, fresh: bool| {
            let samples = size.min(n - shard * size);
            let Lane { sum, eps, indices } = lane;
            eps.resize(samples * len_out, T::zero());
            indices.clear();
            this.training.with(|arena| {
                let sweep = Sweep {
                    graph: &model.graph,
                    plan: &this.training.plan,
                    weights: Weights {
                        flat: &model.weights,
                        turned: &turned,
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
                    fresh,
                    clock: this.clock(),
                };
                let pairs = sweep.input(arena).chunks_exact_mut(len_in).zip(eps.chunks_exact_mut(len_out));
                timed(this.clock(), team, Work::Batch, || {
                    for (s, (x, eps)) in pairs.enumerate() {
                        indices.push(example(shard * size + s, x, eps));
                    }
                });
                sweep.forward(arena, indices);
                let loss = timed(this.clock(), team, Work::Loss, || {
                    let (eps_hat, d_eps_hat) = sweep.output_gradient(arena);
                    let mut loss = 0.0;
                    for (eps, eps_hat) in eps.chunks_exact(len_out).zip(eps_hat.chunks_exact(len_out)) {
                        loss += eq21_l_simple(eps, eps_hat);
                    }
                    eq21_gradient(eps, eps_hat, samples as f64 / n as f64, d_eps_hat);
                    loss
                });
                sweep.backward(arena, sum);
                if let (Some(d_x), Some(part)) = (sweep.input_gradient(arena), input.get(shard)) {
                    part.lock().expect("no thread panicked").copy_from_slice(d_x);
                }
                loss
            })
        };
        this.share_out(lanes.count(), |team| {
            lanes.work(|shard, lane, fresh| run(team, shard, lane, fresh));
        });
        let loss = timed_for_all(this.clock(), Work::Reduction, || {
            this.install(|| lanes.finish(this.kernels.isa, &mut result.weights))
        });
        result.loss = loss / n as f64;
        drop(input);
        self.lanes = lanes;
        self.turned = turned;
    }
}

/// Calls `work` once for each of `leaders` teams that `threads` threads of the pool form. Jobs and crews live
/// on the stacks of those who share them out: a crew's threads serve until its leader, who is at work by
/// then, is done.
fn start_teams(threads: usize, leaders: usize, work: &(impl Fn(Team<'_>) + Sync)) {
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

/// So many threads of the pool serve the crew.
fn serve_with(threads: usize, crew: &Crew) {
    if threads == 1 {
        crew.serve();
    } else {
        rayon::join(|| crew.serve(), || serve_with(threads - 1, crew));
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
    use super::super::lanes::lane_count;
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
            engine.forward(&model, &x, &vec![0; batch], &mut out);
            let example = |_: usize, x_t: &mut [f32], eps: &mut [f32]| {
                x_t.fill(0.5);
                eps.fill(0.1);
                0
            };
            engine.gradient(&model, batch, &example, None, &mut Gradient::default());
            let shards = batch.div_ceil(shard_len(batch));
            let lanes = lane_count(shards, model.weights.len());
            let made = |buffers: &Buffers<f32>| buffers.free.lock().expect("no thread panicked").len();
            assert_eq!(made(&engine.inference), threads.min(shards), "{threads} threads, batch {batch}");
            assert_eq!(made(&engine.training), threads.min(lanes), "{threads} threads, batch {batch}");
        }
    }
}
