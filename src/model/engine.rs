//! Batches over threads: a batch is cut into fixed shards, each thread walks the whole graph for one shard at a time.
//!
//! The cut depends on the batch alone and gradients are added up in the shards' order, so the result has the same bits on
//! any number of threads. With fewer shards than threads, the threads work inside the layers.

use super::Model;
use super::clock::{OpClock, Work, timed, timed_for_all};
use super::exec::{Arena, DropoutKey, Sweep, Weights, turn_weights};
use super::plan::{Mode, Plan};
use crate::equations::loss::{eq21_gradient, eq21_l_simple};
use crate::error::{Error, Result};
use crate::kernels::{Element, Isa, Team, transpose};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Samples in a shard of a batch of `batch`: small enough to stay in cache, and to leave a shard for many threads.
pub(super) fn shard_len(batch: usize) -> usize {
    (batch / 16).clamp(1, 4)
}

/// Threads and buffers for the sweeps of one network.
#[derive(Debug)]
pub struct Engine<T> {
    pool: rayon::ThreadPool,
    threads: usize,
    isa: Isa,
    inference: Buffers<T>,
    training: Buffers<T>,
    turned: Vec<T>,
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

    /// Lets go of arenas that are too small for shards of `samples`.
    fn fit(&mut self, samples: usize) {
        if samples > self.samples {
            self.samples = samples;
            self.free = Mutex::default();
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Arena<T>) -> R) -> R {
        let arena = self.free.lock().expect("no thread panicked").pop();
        let mut arena = arena.unwrap_or_else(|| Arena::new(&self.plan, self.samples));
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

/// Adds shards' gradients in the shards' order, whenever they come.
struct Reduction<T> {
    next: usize,
    early: BTreeMap<usize, (f64, Vec<T>)>,
    free: Vec<Vec<T>>,
    loss: f64,
    total: Vec<T>,
}

impl<T: Element> Reduction<T> {
    fn add(&mut self, isa: Isa, shard: usize, loss: f64, gradient: Vec<T>) {
        self.early.insert(shard, (loss, gradient));
        while let Some((loss, gradient)) = self.early.remove(&self.next) {
            self.loss += loss;
            crate::nn::add_to(isa, &gradient, 1.0, &mut self.total);
            self.free.push(gradient);
            self.next += 1;
        }
    }
}

impl<T: Element> Engine<T> {
    /// An engine for a network's graph; `threads` may exceed the processor's.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the threads cannot be started.
    pub fn new(model: &Model<T>, threads: usize, isa: Isa) -> Result<Engine<T>> {
        Self::with_input_gradient(model, threads, isa, false)
    }

    /// The same, computing the loss's gradient in x_t too if `input_gradient`.
    ///
    /// # Errors
    /// As for [`Engine::new`].
    pub fn with_input_gradient(
        model: &Model<T>,
        threads: usize,
        isa: Isa,
        input_gradient: bool,
    ) -> Result<Engine<T>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| {
            Error::invalid(
                "--threads",
                "a number of threads this system can start",
                e.to_string(),
                "ask for fewer",
            )
        })?;
        Ok(Engine {
            pool,
            threads,
            isa,
            inference: Buffers::new(Plan::new(&model.graph, Mode::Inference)),
            training: Buffers::new(Plan::new(&model.graph, Mode::Training { input_gradient })),
            turned: Vec::new(),
            clock: None,
        })
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The kernels' instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
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

    fn team(&self, shards: usize) -> Team {
        if shards < self.threads { Team::Pool } else { Team::Solo }
    }

    /// Calls `f` for every shard, shared out over the pool.
    fn each_shard(&self, shards: usize, f: impl Fn(usize) + Sync) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        self.pool.in_place_scope(|scope| {
            for _ in 0..self.threads.min(shards) {
                scope.spawn(|_| {
                    loop {
                        let shard = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if shard >= shards {
                            break;
                        }
                        f(shard);
                    }
                });
            }
        });
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
        self.inference.fit(size);
        let projections = transposed(model);
        let this = &*self;
        let parts: Vec<Mutex<&mut [T]>> = out.chunks_mut(size * len_out).map(Mutex::new).collect();
        this.each_shard(parts.len(), |shard| {
            let indices = &indices[shard * size..(shard * size + size).min(n)];
            this.inference.with(|arena| {
                let sweep = Sweep {
                    graph: &model.graph,
                    plan: &this.inference.plan,
                    weights: Weights { flat: &model.weights, turned: &[], projections: &projections },
                    isa: this.isa,
                    team: this.team(parts.len()),
                    samples: indices.len(),
                    dropout: None,
                    clock: this.clock(),
                };
                sweep.input(arena).copy_from_slice(&x[shard * size * len_in..][..indices.len() * len_in]);
                sweep.forward(arena, indices);
                parts[shard].lock().expect("no thread panicked").copy_from_slice(sweep.output(arena));
            });
        });
    }

    /// The loss (21), averaged over a batch of `n` samples that `example` makes, and its gradients into `result`.
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
        self.training.fit(size);
        let mut turned = std::mem::take(&mut self.turned);
        timed_for_all(self.clock(), Work::Weights, || {
            turn_weights(&model.graph, &model.weights, &mut turned)
        });
        let projections = transposed(model);
        timed_for_all(self.clock(), Work::Reduction, || {
            result.weights.clear();
            result.weights.resize(model.weights.len(), T::zero());
        });
        let wants_input = self.training.plan.gradient[model.graph.input.0].is_some();
        result.input.resize(if wants_input { n * len_in } else { 0 }, T::zero());

        let shards = n.div_ceil(size);
        let input: Vec<Mutex<&mut [T]>> = result.input.chunks_mut(size * len_in).map(Mutex::new).collect();
        let reduction = Mutex::new(Reduction {
            next: 0,
            early: BTreeMap::new(),
            free: Vec::new(),
            loss: 0.0,
            total: std::mem::take(&mut result.weights),
        });
        let this = &*self;
        this.each_shard(shards, |shard| {
            let samples = size.min(n - shard * size);
            let buffer = reduction.lock().expect("no thread panicked").free.pop();
            let mut gradient = buffer.unwrap_or_default();
            timed(this.clock(), Work::Reduction, || {
                gradient.clear();
                gradient.resize(model.weights.len(), T::zero());
            });
            let loss = this.training.with(|arena| {
                let sweep = Sweep {
                    graph: &model.graph,
                    plan: &this.training.plan,
                    weights: Weights { flat: &model.weights, turned: &turned, projections: &projections },
                    isa: this.isa,
                    team: this.team(shards),
                    samples,
                    dropout: dropout.map(|(seed, step)| DropoutKey {
                        seed,
                        step,
                        first_sample: (shard * size) as u64,
                    }),
                    clock: this.clock(),
                };
                let mut eps = vec![T::zero(); samples * len_out];
                let mut indices = Vec::with_capacity(samples);
                let pairs = sweep.input(arena).chunks_exact_mut(len_in).zip(eps.chunks_exact_mut(len_out));
                timed(this.clock(), Work::Batch, || {
                    for (s, (x, eps)) in pairs.enumerate() {
                        indices.push(example(shard * size + s, x, eps));
                    }
                });
                sweep.forward(arena, &indices);
                let loss = timed(this.clock(), Work::Loss, || {
                    let (eps_hat, d_eps_hat) = sweep.output_gradient(arena);
                    let mut loss = 0.0;
                    for (eps, eps_hat) in eps.chunks_exact(len_out).zip(eps_hat.chunks_exact(len_out)) {
                        loss += eq21_l_simple(eps, eps_hat);
                    }
                    eq21_gradient(&eps, eps_hat, samples as f64 / n as f64, d_eps_hat);
                    loss
                });
                sweep.backward(arena, &mut gradient);
                if let (Some(d_x), Some(part)) = (sweep.input_gradient(arena), input.get(shard)) {
                    part.lock().expect("no thread panicked").copy_from_slice(d_x);
                }
                loss
            });
            timed(this.clock(), Work::Reduction, || {
                reduction.lock().expect("no thread panicked").add(this.isa, shard, loss, gradient);
            });
        });
        let reduction = reduction.into_inner().expect("no thread panicked");
        result.loss = reduction.loss / n as f64;
        drop(input);
        result.weights = reduction.total;
        self.turned = turned;
    }
}

fn transposed<T: Element>(model: &Model<T>) -> Vec<(Vec<T>, Vec<T>)> {
    let pair = |(w, spec): (&Vec<T>, &super::graph::Projection)| {
        let mut w_t = vec![T::zero(); w.len()];
        transpose(w, spec.features, spec.dim, &mut w_t);
        (w.clone(), w_t)
    };
    model.projections.iter().zip(&model.graph.projections).map(pair).collect()
}
