//! A training run in a folder: configuration, metrics, checkpoints, sample grids, loss curve, model.

use super::budget::{Clock, Limit};
use super::call::{Call, End, tell_of_old};
use super::event::{Event, Outcome, RunOptions};
use super::exchange::check_ranks;
use super::fit::check_fit;
use super::folder::{CONFIG, CONTENTS, HISTORY, METRICS, read_config, write_config};
use super::graph::GraphTrainer;
use super::history;
use super::learner::{EngineLearner, Learner};
use super::memory::check_memory_in;
use super::metrics::{self, Metric, Metrics, Pace};
use super::optimizer::Adam;
use super::telling::Telling;
use super::together::{Beginning, check_alike, share};
use super::trainer::{Progress, Trainer};
use crate::checkpoint::{self, state::TrainingState};
use crate::config::{Config, OnNan};
use crate::data::{Contents, Dataset};
use crate::disk;
use crate::equations::Schedule;
use crate::error::{Error, Result};
use crate::group::{Group, Solo, told};
use crate::model::Interrupt;
use crate::output::{FolderLock, write_atomically, write_loss_curve};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const CHECKPOINTS: &str = "checkpoints";
const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler";
const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
/// What a run or a model leaves in its folder, beside a run's configuration.
const REMAINS: [&str; 8] = [CHECKPOINTS, METRICS, CONTENTS, HISTORY, "unet", SCHEDULER, INDEX, "config.json"];

/// Times that a run goes back at most: after so many halvings a rate trains nothing.
const MOST_HALVINGS: usize = 20;

/// A run's folder.
#[derive(Clone, Debug)]
pub struct Run {
    folder: PathBuf,
    interrupt: Interrupt,
}

impl PartialEq for Run {
    fn eq(&self, other: &Run) -> bool {
        self.folder == other.folder
    }
}

impl Eq for Run {}

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
        write_config(folder, config)?;
        Ok(Run::at(folder))
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
        Ok((Run::at(folder), read_config(folder)?))
    }

    /// The run of a rank that leaves the folder to rank 0, which has opened it: see [`Run::train_in`].
    pub fn of_rank_0(folder: &Path) -> Run {
        Run::at(folder)
    }

    /// A run that rank 0 alone opens, by `open`, with its configuration on every rank.
    ///
    /// # Errors
    /// Those of `open`, in rank 0; the others then wait for it.
    pub fn open_in(
        group: &dyn Group<f32>,
        folder: &Path,
        open: impl FnOnce(&Path) -> Result<(Run, Config)>,
    ) -> Result<(Run, Config)> {
        let opened = if group.leads() { Some(open(folder)?) } else { None };
        let text = told(group, opened.as_ref().map(|(_, config)| config.to_toml()))?;
        match opened {
            Some(opened) => Ok(opened),
            None => Ok((Run::at(folder), Config::from_toml(&text, "the configuration that rank 0 sends")?)),
        }
    }

    fn at(folder: &Path) -> Run {
        Run { folder: folder.to_path_buf(), interrupt: Interrupt::default() }
    }

    /// The same run, whose training also stops, with everything saved, where the flag is set. A step of the
    /// engine, which may take minutes, then ends within and counts as not begun, where `stop` of
    /// [`Run::train`] is asked between the steps; the ranks of a group finish theirs.
    pub fn interrupted_by(self, interrupt: Interrupt) -> Run {
        Run { interrupt, ..self }
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
    /// A step that diverges is dealt with as [`TrainConfig::on_nan`](crate::config::TrainConfig::on_nan)
    /// says; nothing that is not finite gets into a checkpoint.
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

    /// The same in the ranks of a group, to the same bits whatever their number, which may be another in
    /// every call. All ranks call this with the same images; rank 0 alone reads and writes the folder,
    /// decides by the clock, and has a `note`. Training stops where any rank's `stop` says so.
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
        check_memory_in(group, given, options.threads)?;
        check_alike(group, data, options.kernels)?;
        let _lock = group.leads().then(|| FolderLock::take(&self.folder)).transpose()?;
        let stop = || stop() || self.interrupt.is_set();
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
                write_config(&self.folder, &config)?;
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

    /// Trains from the newest checkpoint until the limit, or until a step diverges, which all ranks see
    /// alike. `so_far` are the seconds of the run, where its metrics do not have all of them.
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
        let interrupt = (group.ranks() == 1).then_some(&self.interrupt);
        let trainer = learner(group, &config, options, begin, interrupt)?;
        // With the version of the runtime that computes.
        config.clone_from(trainer.config());
        let mut metrics = None;
        if group.leads() {
            if config != Run::open(&self.folder)?.1 {
                write_config(&self.folder, &config)?;
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
            folder: &self.folder,
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
            saved_at: start,
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
                // Within the step.
                Err(Error::Stopped) => {
                    interrupted = true;
                    break;
                }
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
        } else if self.folder.join(SCHEDULER).exists() && !self.folder.join(INDEX).exists() {
            format!("none, and {SCHEDULER} of the model that the run was to go on from")
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

/// A network in training as the configuration and what was saved say.
fn learner<'g>(
    group: &'g dyn Group<f32>,
    config: &Config,
    options: &RunOptions,
    begin: Option<Progress<f32>>,
    interrupt: Option<&Interrupt>,
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
    if let Some(interrupt) = interrupt {
        trainer.interrupt_by(interrupt.clone());
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
