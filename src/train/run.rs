//! A training run in a folder: configuration, metrics, checkpoints, sample grids, loss curve, model.

use super::budget::{Clock, Limit, decide_at};
use super::exchange::check_ranks;
use super::fit::check_fit;
use super::folder::{CONFIG, CONTENTS, GRID, HISTORY, METRICS, SAMPLES, read_config};
use super::graph::GraphTrainer;
use super::history;
use super::learner::{EngineLearner, Learner, Told};
use super::memory::check_memory;
use super::metrics::{self, Metric, Metrics, Pace};
use super::optimizer::Adam;
use super::telling::Telling;
use super::together::{Beginning, check_alike, share};
use super::trainer::{Progress, Step, Trainer};
use crate::checkpoint::{self, state::TrainingState};
use crate::config::{Config, OnNan, TrainConfig};
use crate::data::{Contents, Dataset};
use crate::disk;
use crate::equations::Schedule;
use crate::equations::solver::Scheduler;
use crate::error::{Error, Result};
use crate::group::{Group, Solo};
use crate::kernels::Kernels;
use crate::output::{FolderLock, a_row_for_each, write_atomically, write_loss_curve, write_png};
use crate::sample::{SampleOptions, images_for};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How to run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// When to end.
    pub limit: Limit,
    /// Threads: the engine's, or those of a [runtime](Config::runtime) on the processor.
    pub threads: usize,
    /// The engine's kernels; a run resumed with others goes on well, but not to the same bits.
    pub kernels: Kernels,
    /// Whether sample grids are made, on the way as the configuration says and at the end.
    pub grids: bool,
    /// ONNX Runtime's library or its folder, for a run in it; `None` to look for it.
    pub library: Option<PathBuf>,
    /// Whether metrics and sample grids are written as TensorBoard's event files too.
    pub tensorboard: bool,
}

/// What happens during a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// Training begins or goes on.
    Started {
        /// Steps taken before.
        step: u64,
        /// Trained numbers.
        parameters: usize,
        /// Who computes the steps, and where.
        by: &'a str,
        /// Something the user should know, such as a damaged checkpoint that was passed over.
        note: Option<&'a str>,
    },
    /// A step was taken.
    Step {
        /// Its numbers.
        step: Step,
        /// Images per second, averaged over the last few steps.
        images_per_second: f64,
        /// The share of the run that is done, from 0 to 1.
        done: f64,
    },
    /// The clock decided how many steps the time holds.
    Planned {
        /// The step that ends the run.
        end: u64,
        /// How many it was to be before; `None` for the first decision.
        before: Option<u64>,
    },
    /// Something that the user should know was done in another way than usual.
    Note(&'a str),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// Images for a grid are being made; the share of their steps that is done, below 1.
    Sampling(f64),
    /// A sample grid was written.
    Samples(&'a Path),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps taken in all.
    pub step: u64,
    /// Whether it was asked to stop before its limit.
    pub interrupted: bool,
    /// The last sample grid.
    pub grid: Option<PathBuf>,
}

const CHECKPOINTS: &str = "checkpoints";
const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
/// What a run or a model leaves in its folder, beside a run's configuration.
const REMAINS: [&str; 8] =
    [CHECKPOINTS, METRICS, CONTENTS, HISTORY, "unet", "scheduler", "model_index.json", "config.json"];

/// Steps of the sampler that makes them, where its usual ones are not fewer.
const GRID_STEPS: usize = 50;

fn grid_steps(scheduler: &Scheduler, schedule: &Schedule) -> usize {
    GRID_STEPS.min(scheduler.usual_steps(schedule.steps()))
}

/// A run's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    folder: PathBuf,
}

impl Run {
    /// Makes a folder for a new run and writes its configuration. The run begins from a checkpoint that is
    /// there already.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the folder holds a run already; [`Error::Write`] if the system refuses.
    pub fn create(folder: &Path, config: &Config) -> Result<Run> {
        if folder.join(CONFIG).exists() {
            return Err(Error::invalid(
                folder.display().to_string(),
                "a folder without a run",
                "one with a config.toml",
                format!("go on with it by `Run::open` {}, or choose another `folder`", folder.display()),
            ));
        }
        disk::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        // Two that begin at once are one after the other here.
        let _lock = FolderLock::take(folder)?;
        if folder.join(CONFIG).exists() {
            return Run::create(folder, config);
        }
        let run = Run { folder: folder.to_path_buf() };
        run.write_config(config)?;
        Ok(run)
    }

    /// As [`Run::create`], where the folder has nothing of another model or run: what would be written over,
    /// or begun from.
    ///
    /// # Errors
    /// Those of [`Run::create`], and [`Error::Invalid`] naming what is there.
    pub fn create_new(folder: &Path, config: &Config) -> Result<Run> {
        match REMAINS.into_iter().find(|name| folder.join(name).exists()) {
            // With a configuration it is a run, and can be gone on with.
            Some(name) if !folder.join(CONFIG).exists() => Err(Error::invalid(
                folder.display().to_string(),
                "a folder without a model or what a run leaves",
                format!("one with {name}"),
                "choose another `folder`",
            )),
            _ => Run::create(folder, config),
        }
    }

    /// Opens a run's folder and reads its configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is none.
    pub fn open(folder: &Path) -> Result<(Run, Config)> {
        Ok((Run { folder: folder.to_path_buf() }, read_config(folder)?))
    }

    /// The run of a rank that leaves the folder to rank 0, which has opened it: see [`Run::train_in`].
    pub fn of_rank_0(folder: &Path) -> Run {
        Run { folder: folder.to_path_buf() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Trains on `data` until the limit or until `stop` says so, from the newest checkpoint if there is one.
    ///
    /// The limit becomes the run's own: it and every decision of the clock are written into the run's
    /// configuration, so that the run can be gone on with, or made again, without them. So does a folder of
    /// images that was moved.
    ///
    /// A step that diverges is dealt with as [`TrainConfig::on_nan`] says; nothing that is not finite gets into
    /// a checkpoint.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if training diverges; checkpoints stay as they are. [`Error::Write`] if the
    /// system refuses. [`Error::Invalid`] for a limit that is none, for images that do not fit the network,
    /// for more memory than is free, for other images than the run has been trained on, naming some, for a
    /// folder that another process trains in, and for one with trained weights but without a checkpoint.
    pub fn train(
        &self,
        given: &Config,
        data: &Dataset,
        options: RunOptions,
        stop: impl Fn() -> bool,
        observer: impl FnMut(Event),
    ) -> Result<Outcome> {
        self.train_in(&Solo, given, data, options, stop, observer)
    }

    /// The same in the ranks of a group, to the same bits whatever their number, which may be another in every
    /// call. All ranks call this with the same images; rank 0 alone reads and writes the folder, decides by
    /// the clock, and has a `note`. Training stops where any rank's `stop` says so.
    ///
    /// # Errors
    /// Those of [`Run::train`], in all ranks or in the one that finds them, and [`Error::Invalid`] for more
    /// ranks than a batch can be shared out over and for ranks that differ in images or kernels.
    pub fn train_in(
        &self,
        group: &dyn Group<f32>,
        given: &Config,
        data: &Dataset,
        mut options: RunOptions,
        stop: impl Fn() -> bool,
        mut observer: impl FnMut(Event),
    ) -> Result<Outcome> {
        check_fit(given, data)?;
        check_memory(given, options.threads)?;
        check_alike(group, data, options.kernels)?;
        let _lock = group.leads().then(|| FolderLock::take(&self.folder)).transpose()?;
        let (mut config, mut so_far) = (given.clone(), None);
        loop {
            let (error, saved, seconds) =
                match self.attempt(group, &config, data, &options, so_far, &stop, &mut observer)? {
                    End::Reached(outcome) => return Ok(outcome),
                    End::Diverged { error, saved, seconds } => (error, saved, seconds),
                };
            if group.leads() {
                // With what the clock decided.
                config = Run::open(&self.folder)?.1;
            }
            if config.train.on_nan != OnNan::Backtrack || config.train.halved.len() >= MOST_HALVINGS {
                return Err(self.advise(error, saved));
            }
            config.train.halved.push(saved);
            if group.leads() {
                self.write_config(&config)?;
            }
            let rate = config.train.lr_at(saved + 1);
            observer(Event::Note(&format!(
                "{error}: going back to step {saved}, on at a rate of {rate:.3e}"
            )));
            if let Limit::Minutes(_) = options.limit {
                // The configuration has the minutes by now, which run on.
                options.limit = Limit::Configured;
            }
            so_far = Some(seconds);
        }
    }

    /// Trains from the newest checkpoint until the limit, or until a step diverges, which all ranks see alike.
    /// `so_far` are the seconds of the run, where its metrics do not have all of them.
    #[expect(clippy::too_many_arguments, reason = "those of `train_in`, and the seconds")]
    fn attempt(
        &self,
        group: &dyn Group<f32>,
        given: &Config,
        data: &Dataset,
        options: &RunOptions,
        so_far: Option<f64>,
        stop: &dyn Fn() -> bool,
        mut observer: &mut dyn FnMut(Event),
    ) -> Result<End> {
        let start = Instant::now();
        let (mut found, mut note, mut metrics_len, mut before) = (None, None, 0, Vec::new());
        if group.leads() {
            let newest = checkpoint::state::newest(&self.folder)?;
            if newest.is_none() {
                self.check_nothing_is_lost(given.train.checkpoint_every)?;
            }
            let step = newest.as_ref().map_or(0, |newest| newest.state.step);
            metrics_len = newest.as_ref().map_or(0, |newest| newest.state.metrics_len);
            self.check_contents(data, step)?;
            before = self.metrics_up_to(metrics_len)?;
            let seconds = so_far.unwrap_or(before.last().map_or(0.0, |metric| metric.seconds));
            let mut config = given.clone();
            options.limit.apply(&mut config.train, step, seconds)?;
            let progress = newest.map(|newest| {
                note = newest.note;
                progress(newest.state)
            });
            found = Some(Beginning { config, step, seconds, progress });
        }
        let Beginning { mut config, step, seconds, progress: begin } = share(group, found)?;
        let trainer = learner(group, &config, options, begin)?;
        // With the version of the runtime that computes.
        config.clone_from(trainer.config());
        let mut metrics = None;
        if group.leads() {
            if config != Run::open(&self.folder)?.1 {
                self.write_config(&config)?;
            }
            metrics = Some(Metrics::open(&self.folder.join(METRICS), metrics_len)?);
        }
        let (parameters, by) = (trainer.parameters(), trainer.describe());
        observer(Event::Started { step, parameters, by: &by, note: note.as_deref() });
        let mut telling = None;
        if group.leads() {
            history::record(&self.folder, step, &by)?;
            telling = Some(Telling::begin(&self.folder, step, options.tensorboard)?);
            if step > 0 {
                // What a process left that was killed while it saved.
                tell_of_old(&self.folder, step, &mut observer);
            }
        }
        let clock = match (config.train.steps, config.train.minutes) {
            (None, Some(minutes)) => Some(Clock::new(60.0 * minutes, seconds)),
            _ => None,
        };
        // A grid shows grey or coloured pictures.
        let can_be_shown = matches!(data.channels(), 1 | 3);
        let skipped = before.iter().rev().take_while(|metric| metric.on_nan == Some(OnNan::Skip)).count();
        let mut call = Call {
            run: self,
            group,
            trainer,
            schedule: Schedule::from_config(&config.diffusion)?,
            metrics,
            clock,
            before: seconds,
            start,
            pace: Pace::new(),
            grids: if options.grids && can_be_shown { config.train.grids } else { 0 },
            saved: step,
            saving: 0.0,
            sampling: None,
            skipped: group.gather_number(skipped as f64)[0] as usize,
            owes: false,
            stop,
            telling,
            observer,
        };
        let last = match options.limit {
            Limit::Steps(steps) => Some(steps),
            Limit::Configured | Limit::Minutes(_) => None,
        };
        let mut interrupted = false;
        let mut grid = None;
        let no_grid = group.any(group.leads() && !call.grid_path().exists());
        if step > 0 && no_grid && call.grid_is_due() {
            grid = call.samples()?;
        }
        while !call.is_done(last) {
            if group.any(stop()) {
                interrupted = true;
                break;
            }
            let mut taken = call.step(data);
            call.owes |= call.checkpoint_is_due();
            if taken.is_ok() && call.owes {
                taken = call.checkpoint(data);
            }
            match taken {
                // The next step is left out, and what is saved is what comes behind it.
                Err(Error::NotFinite { .. }) if call.owes && call.may_skip() => {}
                Err(error @ Error::NotFinite { .. }) => return Ok(call.diverged(error)),
                taken => taken?,
            }
            if call.grid_is_due() {
                grid = call.samples()?;
            }
        }
        if call.saved != call.trainer.step() {
            match call.checkpoint(data) {
                Err(error @ Error::NotFinite { .. }) => return Ok(call.diverged(error)),
                saved => saved?,
            }
        }
        let step = call.trainer.step();
        if step > 0 {
            if !interrupted {
                call.finish()?;
            }
            let (model, raw) = (call.trainer.averaged_model()?, call.trainer.progress()?.weights);
            if group.leads() {
                checkpoint::model_folder::save(&self.folder, &model, Some(&raw), &config.diffusion)?;
                self.plot()?;
            }
            if call.grids > 0 && !interrupted {
                grid = call.samples()?;
                interrupted = grid.is_none();
            }
        }
        call.tell(|telling| telling.end());
        Ok(End::Reached(Outcome { step, interrupted, grid }))
    }

    /// Records what the images were made from, or compares it with what was recorded when the run began.
    fn check_contents(&self, data: &Dataset, step: u64) -> Result<()> {
        let (file, now) = (self.folder.join(CONTENTS), data.contents());
        let recorded = match disk::read_to_string(&file) {
            Ok(text) if step > 0 => Some(Contents::from_text(&text, &file.display().to_string())?),
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::read(&file, error)),
        };
        let Some(recorded) = recorded else {
            return write_atomically(&file, |out| out.write_all(now.text().as_bytes()));
        };
        match recorded.difference(&now) {
            None => Ok(()),
            Some(difference) => Err(Error::invalid(
                format!("{}, the images", data.name()),
                format!(
                    "those that {} was trained on, as {} has them",
                    self.folder.display(),
                    file.display()
                ),
                difference,
                "put them back as they were, name their folder if it was moved (`data`), or train another run",
            )),
        }
    }

    /// Refuses to begin at the first step where there are trained weights, or metrics of more steps than lead
    /// to the first checkpoint: the checkpoints are gone, and what was trained would be written over.
    fn check_nothing_is_lost(&self, checkpoint_every: u64) -> Result<()> {
        let steps = metrics::lines(&self.folder.join(METRICS))?;
        let got = if self.folder.join(WEIGHTS).exists() {
            format!("none, and trained weights in {WEIGHTS}")
        } else if checkpoint_every > 0 && steps > checkpoint_every {
            format!("none, and {METRICS} of {steps} steps")
        } else {
            return Ok(());
        };
        Err(Error::invalid(
            self.folder.join(CHECKPOINTS).display().to_string(),
            "a checkpoint to go on from",
            got,
            format!(
                "put the checkpoints back, or train another run with {}; to begin this one again, remove {METRICS} \
                 and unet",
                self.folder.join(CONFIG).display()
            ),
        ))
    }

    /// Tells of training that diverged how to go on from the checkpoint of step `saved`, or from the
    /// beginning where there is none and `saved` is 0.
    fn advise(&self, error: Error, saved: u64) -> Error {
        match error {
            Error::NotFinite { what, step, .. } => {
                let (kept, go_on) = match saved {
                    0 => (String::new(), "begin again"),
                    saved => (format!("the checkpoint of step {saved} is kept; "), "go on"),
                };
                let help = format!(
                    "{kept}lower lr in {} and {go_on} by `Run::open` {}, train a new run with a lower \
                     `TrainConfig::lr`, or let it go back by itself by `TrainConfig::on_nan`",
                    self.folder.join(CONFIG).display(),
                    self.folder.display()
                );
                Error::NotFinite { what, step, help }
            }
            other => other,
        }
    }

    fn write_config(&self, config: &Config) -> Result<()> {
        write_atomically(&self.folder.join(CONFIG), |file| file.write_all(config.to_toml().as_bytes()))
    }

    /// The metrics in the first `len` bytes of their file.
    fn metrics_up_to(&self, len: u64) -> Result<Vec<Metric>> {
        if len == 0 { Ok(Vec::new()) } else { metrics::read(&self.folder.join(METRICS), len) }
    }

    fn plot(&self) -> Result<()> {
        let points: Vec<(u64, f64)> = self.metrics()?.iter().map(|m| (m.step, m.loss)).collect();
        write_loss_curve(&self.folder.join("loss.svg"), &points)
    }

    /// The metrics of every step so far.
    ///
    /// # Errors
    /// [`Error::Read`] if there are none; [`Error::Invalid`] for a line that is not one of ours.
    pub fn metrics(&self) -> Result<Vec<Metric>> {
        metrics::read(&self.folder.join(METRICS), u64::MAX)
    }

    /// Seconds of training that led to the newest checkpoint, all calls together; what was done after it is
    /// lost when the process is killed, and does not count.
    ///
    /// # Errors
    /// Those of [`Run::metrics`] and of an unreadable checkpoint.
    pub fn seconds(&self) -> Result<f64> {
        let newest = checkpoint::state::newest(&self.folder)?;
        let metrics = self.metrics_up_to(newest.map_or(0, |newest| newest.state.metrics_len))?;
        Ok(metrics.last().map_or(0.0, |metric| metric.seconds))
    }
}

/// How an attempt ended.
enum End {
    /// At its limit, or because it was asked to stop.
    Reached(Outcome),
    /// At a step that diverged; the step of the newest checkpoint, or 0, and the seconds of the run.
    Diverged { error: Error, saved: u64, seconds: f64 },
}

/// Times that a run goes back at most: after so many halvings a rate trains nothing.
const MOST_HALVINGS: usize = 20;
/// Steps in a row that are skipped at most: so many batches are not all poisoned, but the weights are.
const MOST_SKIPPED: usize = 20;
/// Weights beyond this are no weights: the square of a larger number is no finite f32.
const LARGEST: f32 = 1e18;

/// One attempt of [`Run::train`].
struct Call<'a, O> {
    run: &'a Run,
    group: &'a dyn Group<f32>,
    trainer: Box<dyn Learner + 'a>,
    schedule: Schedule,
    /// Rank 0's.
    metrics: Option<Metrics>,
    /// Where the time decides the length.
    clock: Option<Clock>,
    /// Seconds of earlier calls.
    before: f64,
    start: Instant,
    pace: Pace,
    /// Sample grids in the run.
    grids: u64,
    /// The step of the newest checkpoint.
    saved: u64,
    /// Seconds that the last checkpoint took.
    saving: f64,
    /// Seconds that the last sample grid took.
    sampling: Option<f64>,
    /// Steps skipped in a row.
    skipped: usize,
    /// Whether a checkpoint is due.
    owes: bool,
    stop: &'a dyn Fn() -> bool,
    telling: Option<Telling>,
    observer: O,
}

/// A forward pass's share of the time of a training step on the same images, for a first guess.
const FORWARD_SHARE: f64 = 0.3;
/// The share of a run's time that a sample grid on the way may take; one that takes more is left out.
const GRID_SHARE: f64 = 0.02;

impl<O: FnMut(Event)> Call<'_, O> {
    fn train(&self) -> &TrainConfig {
        &self.trainer.config().train
    }

    /// Whether the run is at its end, or at the last step of this call.
    fn is_done(&self, last: Option<u64>) -> bool {
        let step = self.trainer.step();
        self.train().end().is_some_and(|end| step >= end) || last.is_some_and(|last| step >= last)
    }

    /// Seconds of the run.
    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// A step of training, its metrics, and what the clock decides after it.
    fn step(&mut self, data: &Dataset) -> Result<()> {
        let planned_steps = self.train().end();
        let (step, skips) = match self.trainer.advance(data) {
            Err(error @ Error::NotFinite { .. }) if self.may_skip() => {
                self.trainer.skip()?;
                (self.observer)(Event::Note(&format!("{error}: skipped")));
                let (step, none) = (self.trainer.step(), f64::NAN);
                (Step { step, loss: none, gradient_norm: none, lr: self.train().lr_at(step) }, true)
            }
            step => (step?, false),
        };
        self.skipped = if skips { self.skipped + 1 } else { 0 };
        let went_back = self.train().halved.contains(&(step.step - 1)).then_some(OnNan::Backtrack);
        let images_per_second = self.pace.step(self.train().batch);
        let (seconds, elsewhere) = (self.seconds(), self.trainer.elsewhere());
        if let Some(metrics) = &mut self.metrics {
            let metric = Metric {
                step: step.step,
                loss: step.loss,
                gradient_norm: step.gradient_norm,
                lr: step.lr,
                images_per_s: images_per_second,
                seconds,
                planned_steps,
                ranks: elsewhere.map(|_| self.group.ranks()),
                waiting_s: elsewhere.map(|elsewhere| elsewhere.waiting.as_secs_f64()),
                communication_s: elsewhere.map(|elsewhere| elsewhere.communication.as_secs_f64()),
                on_nan: if skips { Some(OnNan::Skip) } else { went_back },
            };
            metrics.write(&metric)?;
            self.tell(|telling| telling.step(&metric));
        }
        let done = self.train().share_done(step.step);
        if !skips {
            (self.observer)(Event::Step { step, images_per_second, done });
        }
        self.steer()
    }

    /// Lets rank 0's clock decide about the run's length, and records what it decides.
    fn steer(&mut self) -> Result<()> {
        let (now, step) = (self.seconds(), self.trainer.step());
        let ahead = self.seconds_of_grids_ahead() + 2.0 * self.saving;
        let planned = self.train().end();
        let Some(clock) = &mut self.clock else { return Ok(()) };
        let mut end = clock.decide(step, now, ahead, planned);
        if self.group.ranks() > 1 {
            let says =
                self.group.broadcast_bytes(end.map_or_else(Vec::new, |end| end.to_le_bytes().to_vec()));
            end = says.try_into().ok().map(u64::from_le_bytes);
        }
        let Some(end) = end else { return Ok(()) };
        decide_at(self.trainer.train_config(), step, end);
        self.write_config()?;
        (self.observer)(Event::Planned { end, before: planned });
        Ok(())
    }

    /// Seconds that a sample grid takes: measured, or guessed from the steps.
    fn seconds_a_grid(&self) -> f64 {
        let guess = || {
            let images = images_for(self.trainer.config().unet.classes(), GRID);
            let scheduler = Scheduler::of(&self.trainer.config().diffusion);
            let images = (images * grid_steps(&scheduler, &self.schedule)) as f64;
            let step = self.clock.as_ref().and_then(Clock::seconds_a_step).unwrap_or(0.0);
            self.trainer.preparation() + FORWARD_SHARE * images * step / self.train().batch as f64
        };
        self.sampling.unwrap_or_else(guess)
    }

    /// Whether the time allows sample grids on the way.
    fn grids_fit(&self) -> bool {
        match self.train().minutes {
            Some(minutes) if self.clock.is_some() => self.seconds_a_grid() <= GRID_SHARE * 60.0 * minutes,
            _ => true,
        }
    }

    /// Sample grids that belong to the steps up to this one.
    fn grids_up_to(&self, step: u64) -> u64 {
        (self.train().share_done(step) * self.grids as f64) as u64
    }

    /// Seconds of the sample grids that are still to come, the last one included.
    fn seconds_of_grids_ahead(&self) -> f64 {
        let done = self.grids_up_to(self.trainer.step());
        let on_the_way = if self.grids_fit() { self.grids.saturating_sub(done + 1) } else { 0 };
        (on_the_way + self.grids.min(1)) as f64 * self.seconds_a_grid()
    }

    /// Tells of the run. What cannot be told is a note, and training goes on.
    fn tell(&mut self, tell: impl FnOnce(&mut Telling) -> Result<()>) {
        let Some(telling) = &mut self.telling else { return };
        if let Err(error) = tell(telling) {
            (self.observer)(Event::Note(&format!("warning: {error}; training goes on")));
        }
    }

    fn checkpoint_is_due(&self) -> bool {
        let every = self.train().checkpoint_every;
        every > 0 && self.trainer.step().is_multiple_of(every) && !self.is_done(None)
    }

    /// Whether the last step passed a share of the run that a grid on the way belongs to, and rank 0 has the
    /// time for it.
    fn grid_is_due(&self) -> bool {
        let step = self.trainer.step();
        let passed = !self.is_done(None) && self.grids_up_to(step) > self.grids_up_to(step - 1);
        passed && self.group.broadcast_bytes(vec![u8::from(self.grids_fit())]) == [1]
    }

    fn write_config(&self) -> Result<()> {
        if self.group.leads() { self.run.write_config(self.trainer.config()) } else { Ok(()) }
    }

    /// The end of an attempt whose last step diverged.
    fn diverged(&self, error: Error) -> End {
        End::Diverged { error, saved: self.saved, seconds: self.seconds() }
    }

    /// Whether a step that diverges is left out.
    fn may_skip(&self) -> bool {
        self.train().on_nan == OnNan::Skip && self.skipped < MOST_SKIPPED
    }

    /// Saves, where training can go on from what is saved.
    fn checkpoint(&mut self, data: &Dataset) -> Result<()> {
        let start = Instant::now();
        self.trainer.look_ahead(data)?;
        let progress = self.trainer.progress()?;
        check_weights(&progress)?;
        self.saved = progress.step;
        self.owes = false;
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let metrics_len = metrics.sync()?;
        let state = TrainingState {
            config: self.trainer.config().clone(),
            step: progress.step,
            images_seen: progress.step * self.train().batch as u64,
            metrics_len,
            weights: progress.weights,
            ema: progress.average,
            first_moment: progress.adam.first_moment,
            second_moment: progress.adam.second_moment,
            projections: progress.projections,
        };
        let path = checkpoint::state::save(&self.run.folder, &state)?;
        self.tell(Telling::checkpoint);
        self.saving = start.elapsed().as_secs_f64();
        tell_of_old(&self.run.folder, state.step, &mut self.observer);
        (self.observer)(Event::Checkpoint(&path));
        Ok(())
    }

    /// Writes images of the averaged network, as many of each class.
    fn grid(&mut self, path: &Path) -> Result<()> {
        let (config, schedule) = (self.trainer.config(), &self.schedule);
        let classes = config.unet.classes();
        let count = images_for(classes, GRID);
        let options =
            SampleOptions { count, batch: count, seed: config.train.seed, ..SampleOptions::default() };
        let scheduler = Scheduler::of(&config.diffusion);
        let steps = Some(grid_steps(&scheduler, schedule));
        let options = options.with_scheduler(&scheduler, schedule, steps);
        let (observer, group) = (&mut self.observer, self.group);
        // Ranks make different numbers of images, and could not agree to stop between the steps.
        let stop = || group.ranks() == 1 && (self.stop)();
        let images = self.trainer.sample(&options, &mut |told| {
            match told {
                Told::Note(note) => observer(Event::Note(note)),
                Told::Steps(done, of) => observer(Event::Sampling(done as f64 / (of + 1) as f64)),
            }
            !stop()
        })?;
        if !group.leads() {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            disk::create_dir(folder).map_err(|e| Error::write(folder, e))?;
        }
        let (images, columns) = a_row_for_each(images.view(), classes);
        write_png(path, images.view(), columns)
    }

    /// The file of the grid that belongs to the last step.
    fn grid_path(&self) -> PathBuf {
        self.run.folder.join(SAMPLES).join(format!("step-{:08}.png", self.trainer.step()))
    }

    /// Makes a sample grid; `None` where it was asked to stop meanwhile.
    fn samples(&mut self) -> Result<Option<PathBuf>> {
        let start = Instant::now();
        let path = self.grid_path();
        match self.grid(&path) {
            Err(Error::Stopped) => return Ok(None),
            outcome => outcome?,
        }
        let step = self.trainer.step();
        self.tell(|telling| telling.samples(step, &path));
        let seconds = start.elapsed().as_secs_f64();
        self.sampling = Some(seconds);
        self.pace.pause();
        if let Some(clock) = &mut self.clock {
            clock.pause(seconds);
        }
        (self.observer)(Event::Samples(&path));
        Ok(Some(path))
    }

    /// Records the length that the clock led to: from now on the run is one of so many steps.
    fn finish(&mut self) -> Result<()> {
        let train = self.trainer.train_config();
        if train.steps.is_none() {
            train.steps = train.end();
            self.write_config()?;
        }
        Ok(())
    }
}

/// Removes old checkpoints; tells of one that stays, which harms nothing.
fn tell_of_old(folder: &Path, step: u64, observer: &mut impl FnMut(Event)) {
    if let Err(error) = checkpoint::state::remove_old(folder, step) {
        observer(Event::Note(&format!("an old checkpoint stays: {error}")));
    }
}

/// Refuses to save what nothing could go on from.
fn check_weights(progress: &Progress<f32>) -> Result<()> {
    let Adam { first_moment, second_moment } = &progress.adam;
    let all = [
        ("a weight", &progress.weights, LARGEST),
        ("an averaged weight", &progress.average, LARGEST),
        ("Adam's first moment", first_moment, f32::MAX),
        ("Adam's second moment", second_moment, f32::MAX),
    ];
    for (what, numbers, largest) in all {
        // NaN is not at most anything.
        if !numbers.iter().all(|x| x.abs() <= largest) {
            let help = "lower the learning rate".to_owned();
            return Err(Error::NotFinite { what: what.to_owned(), step: progress.step, help });
        }
    }
    Ok(())
}

/// A network in training as the configuration and what was saved say.
fn learner<'g>(
    group: &'g dyn Group<f32>,
    config: &Config,
    options: &RunOptions,
    begin: Option<Progress<f32>>,
) -> Result<Box<dyn Learner + 'g>> {
    let RunOptions { threads, kernels, library, .. } = options;
    let host = (*threads, *kernels);
    if let Some(runtime) = &config.runtime {
        check_ranks(config, group.ranks())?;
        return Ok(Box::new(GraphTrainer::new(config, runtime, library.as_deref(), host, begin)?));
    }
    let mut trainer: Trainer<f32> = Trainer::in_group(group, config, *threads, *kernels)?;
    if let Some(begin) = begin {
        trainer.restore(begin)?;
    }
    Ok(Box::new(EngineLearner { trainer, group }))
}

fn progress(state: TrainingState) -> Progress<f32> {
    Progress {
        step: state.step,
        weights: state.weights,
        average: state.ema,
        adam: Adam { first_moment: state.first_moment, second_moment: state.second_moment },
        projections: state.projections,
    }
}
