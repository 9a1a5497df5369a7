//! Algorithm 1 with the whole training step as one ONNX graph in ONNX Runtime, on the processor or on a GPU.
//!
//! Weights, moments and the average stay on the device. The host draws what the engine would draw
//! ([`Draws`](super::draws::Draws)), the next step's batch while the device computes this one's, and reads
//! the loss and the gradient's norm. A step has the engine's numbers to rounding, and on a processor the same
//! bits every time.

mod batch;
mod session;
mod states;

use super::draws::Order;
use super::fit::check_fit;
use super::learner::{Hear, Learner, Told, pass_on};
use super::trainer::{Progress, Step, check_finite};
use crate::config::{Config, RuntimeConfig, TrainConfig};
use crate::data::Dataset;
use crate::equations::Schedule;
use crate::error::{Error, Result};
use crate::export::{GraphSpec, Masks, Source, States, TrainStep, build};
use crate::kernels::Kernels;
use crate::model::{DropoutKey, Model};
use crate::sample::onnx::Runtime;
use crate::sample::{Compute, Pipeline, SampleOptions};
use batch::Batch;
use ndarray::Array4;
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo};
use performer_ddpm_onnx::runner::StepLoop;
use performer_ddpm_onnx::runner::ort::{OrtLoop, OrtRunner};
use performer_ddpm_onnx::{ElementType, Error as OnnxError, Model as OnnxModel, Tensor};
use session::{LOSS, NORM, Session};
use states::{AVERAGE, Layout};
use std::path::Path;
use std::time::Instant;

/// A network in training in ONNX Runtime.
pub(super) struct GraphTrainer {
    config: Config,
    schedule: Schedule,
    /// The network; its weights are those of the beginning.
    model: Model<f32>,
    layout: Layout,
    session: Session,
    /// Seconds that the graph took to be made and loaded.
    loading: f64,
    kernels: Kernels,
    /// The graph on its device; none once it failed.
    turns: Option<OrtLoop>,
    step: u64,
    order: Order,
    /// This step's batch, and the next one's.
    batches: [Batch; 2],
    /// Why the next step's batch could not be made.
    unreadable: Option<Error>,
    pool: rayon::ThreadPool,
}

/// Checks that a configuration's training step has a graph, that its runtime is here and that its device can
/// be used; passes where the engine computes.
///
/// # Errors
/// [`Error::Invalid`] for a network or an objective that has none, [`Error::Onnx`] of the runtime.
pub fn check_runtime(config: &Config, library: Option<&Path>) -> Result<()> {
    let Some(runtime) = &config.runtime else { return Ok(()) };
    train_step(config, &Model::new(&config.unet, config.train.seed)?)?;
    let mut g = GraphBuilder::new("nothing");
    let x = g.input("x", ElementType::F32, [1])?;
    let y = g.add(x, x)?;
    g.output("y", y)?;
    OrtRunner::load(&g.into_model(ModelInfo::default())?, &Session::new(runtime, library, 1).options())?;
    Ok(())
}

/// The training step's graph.
fn train_step(config: &Config, model: &Model<f32>) -> Result<OnnxModel> {
    let step = TrainStep { states: States::Rows, masks: Masks::Bits, ..TrainStep::from(&config.train) };
    build(Source::new(model, &config.diffusion), &GraphSpec::TrainStep(step))
}

fn ended() -> Error {
    Error::invalid("the training", "one that goes on", "one that ended with an error", "begin it again")
}

impl GraphTrainer {
    /// A network at step 0, or after what was saved. `threads` and `kernels` are the host's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration out of range, for what is not the network's and for one that
    /// has no training step as a graph; [`Error::Onnx`] where there is no ONNX Runtime, its device cannot be
    /// used or it refuses the graph; [`Error::OutOfMemory`].
    pub(super) fn new(
        config: &Config,
        runtime: &RuntimeConfig,
        library: Option<&Path>,
        (threads, kernels): (usize, Kernels),
        progress: Option<Progress<f32>>,
    ) -> Result<GraphTrainer> {
        config.validate()?;
        let model: Model<f32> = Model::new(&config.unet, config.train.seed)?;
        let batches = || Batch::new(&model.graph, config.train.batch);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
            Error::invalid(
                "`threads`",
                "as many as this system can start",
                format!("{threads} ({error})"),
                "",
            )
        })?;
        let mut trainer = GraphTrainer {
            schedule: Schedule::from_config(&config.diffusion)?,
            batches: [batches()?, batches()?],
            unreadable: None,
            config: config.clone(),
            layout: Layout::new(&model.graph),
            session: Session::new(runtime, library, threads),
            loading: 0.0,
            kernels,
            turns: None,
            step: 0,
            order: Order::default(),
            pool,
            model,
        };
        let progress = progress.unwrap_or_else(|| Progress::beginning(&trainer.model));
        progress.check(&trainer.model)?;
        trainer.begin(progress)?;
        Ok(trainer)
    }

    /// Goes on from what was saved, with its projections.
    fn begin(&mut self, progress: Progress<f32>) -> Result<()> {
        self.turns = None;
        self.step = progress.step;
        self.model.projections.clone_from(&progress.projections);
        let start = Instant::now();
        let outcome = train_step(&self.config, &self.model).and_then(|graph| {
            let first = self.layout.first(&progress)?;
            self.session.open(&graph, &self.batches[0], &first)
        });
        let turns = outcome.map_err(|error| self.explain(error))?;
        if let Some(runtime) = &mut self.config.runtime {
            runtime.version = Some(turns.describe().version.clone());
        }
        self.turns = Some(turns);
        self.loading = start.elapsed().as_secs_f64();
        Ok(())
    }

    /// The error of a runtime with what can be done about it. Where memory is short, half the batch is tried,
    /// a quarter, and so on; the graph has then left its device.
    fn explain(&mut self, error: Error) -> Error {
        let Error::Onnx(OnnxError::OutOfMemory { device, .. }) = error else { return error };
        self.turns = None;
        let batch = self.config.train.batch;
        let halves = std::iter::successors(Some(batch / 2), |n| Some(n / 2)).take_while(|n| *n > 0);
        let graph = train_step(&self.config, &self.model).ok();
        let fits = graph.and_then(|graph| halves.into_iter().find(|n| self.fits(&graph, *n)));
        Error::OutOfMemory { device, batch, fits }
    }

    /// Whether the device's memory holds a step on `n` images.
    fn fits(&self, graph: &OnnxModel, n: usize) -> bool {
        let attempt = || {
            let batch = Batch::new(&self.model.graph, n)?;
            let first = self.layout.first(&Progress::beginning(&self.model))?;
            Ok(self.session.start(graph, &batch, &first)?.step()?)
        };
        let outcome: Result<()> = attempt();
        outcome.is_ok()
    }

    fn turns(&mut self) -> Result<&mut OrtLoop> {
        self.turns.as_mut().ok_or_else(ended)
    }

    /// Draws the FAVOR+ projections afresh, which are constants of the graph.
    fn redraw(&mut self, redraw: u64) -> Result<()> {
        let mut progress = Learner::progress(self)?;
        self.model.draw_projections(self.config.train.seed, redraw)?;
        progress.projections.clone_from(&self.model.projections);
        self.begin(progress)
    }

    /// Computes a step on the batch that is ready, and makes the next one's meanwhile.
    fn compute(&mut self, data: &Dataset, step: u64) -> Result<[f64; 2]> {
        let lr = Tensor::f32([1], [self.config.train.lr_at(step) as f32])?;
        let GraphTrainer { config, schedule, turns, order, batches, unreadable, pool, kernels, .. } = self;
        let turns = turns.as_mut().ok_or_else(ended)?;
        let [now, next] = batches;
        let (seed, isa) = (config.train.seed, kernels.isa);
        let mut draw = |batch: &mut Batch, step: u64| {
            let dropout = DropoutKey { seed, step, first_sample: 0 };
            batch.draw(&order.draws(config, schedule, data, step), dropout, isa)
        };
        if now.step() != step {
            pool.install(|| draw(now, step))?;
        }
        for (name, tensor) in now.inputs() {
            turns.set(name, tensor)?;
        }
        turns.set("lr", &lr)?;
        turns.set("step", &Tensor::i64([1], [step as i64])?)?;
        let outcome: Result<()> = pool.in_place_scope(|scope| {
            scope.spawn(|_| *unreadable = draw(next, step + 1).err());
            Ok(turns.step()?)
        });
        outcome?;
        batches.swap(0, 1);
        let mut read = |name: &str| -> Result<f64> {
            Ok(turns.output(name)?.as_f32().and_then(|x| x.first()).map_or(f64::NAN, |x| f64::from(*x)))
        };
        Ok([read(LOSS)?, read(NORM)?])
    }
}

impl Learner for GraphTrainer {
    fn describe(&self) -> String {
        let about = self.turns.as_ref().map_or_else(String::new, |turns| turns.describe().to_string());
        about + &self.session.remark()
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn train_config(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn parameters(&self) -> usize {
        self.model.weights.len()
    }

    fn step(&self) -> u64 {
        self.step
    }

    fn advance(&mut self, data: &Dataset) -> Result<Step> {
        check_fit(&self.config, data)?;
        if let Some(error) = self.unreadable.take() {
            return Err(error);
        }
        let redraw = self.config.unet.favor.redraw_every;
        if redraw > 0 && self.step > 0 && self.step.is_multiple_of(redraw) {
            self.redraw(self.step / redraw)?;
        }
        let step = self.step + 1;
        let [loss, norm] = self.compute(data, step).map_err(|error| self.explain(error))?;
        check_finite(step, loss, norm)?;
        self.step = step;
        Ok(Step { step, loss, gradient_norm: norm, lr: self.config.train.lr_at(step) })
    }

    fn progress(&mut self) -> Result<Progress<f32>> {
        let (layout, projections) = (self.layout.clone(), self.model.projections.clone());
        let step = self.step;
        layout.progress(self.turns()?, step, projections)
    }

    fn averaged_model(&mut self) -> Result<Model<f32>> {
        let layout = self.layout.clone();
        let weights = layout.read(self.turns()?, AVERAGE)?;
        Ok(Model { weights, ..self.model.clone() })
    }

    /// The graph that samples is smaller, but is not loaded much sooner.
    fn preparation(&self) -> f64 {
        self.loading
    }

    /// On the training's own device. Where its memory does not hold the images beside the training, or the
    /// runtime refuses, the engine makes them.
    fn sample(&mut self, options: &SampleOptions, hear: &mut Hear) -> Result<Array4<f32>> {
        let (model, step) = (self.averaged_model()?, Some(self.step));
        let by = |compute: &Compute, hear: &mut Hear| {
            let diffusion = self.config.diffusion.clone();
            let mut pipeline = Pipeline::at_step(model.clone(), diffusion, step, compute)?;
            pipeline.sample_watched(options, None, |now| pass_on(hear, now))
        };
        match by(&Compute::runtime(Runtime::OnnxRuntime(self.session.options())), hear) {
            Err(error @ (Error::Onnx(_) | Error::OutOfMemory { .. })) => {
                hear(Told::Note(&format!("the engine makes the sample grid: {error}")));
                let threads = Some(self.pool.current_num_threads());
                by(&Compute::Engine { threads, kernels: self.kernels }, hear)
            }
            outcome => outcome,
        }
    }
}
