//! One attempt of a run, step by step: metrics, decisions of the clock, checkpoints, sample grids.

use super::budget::{Clock, decide_at};
use super::event::{Event, Outcome};
use super::folder::{GRID, SAMPLES, write_config};
use super::learner::{Learner, Told};
use super::metrics::{Metric, Metrics, Pace};
use super::optimizer::Adam;
use super::telling::Telling;
use super::trainer::{Progress, Step};
use crate::checkpoint::{self, state::TrainingState};
use crate::config::{OnNan, TrainConfig};
use crate::data::Dataset;
use crate::disk;
use crate::equations::Schedule;
use crate::equations::solver::Scheduler;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::output::{a_row_for_each, write_png};
use crate::sample::{SampleOptions, images_for};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Steps of the sampler that makes them, where its usual ones are not fewer.
const GRID_STEPS: usize = 50;

fn grid_steps(scheduler: &Scheduler, schedule: &Schedule) -> usize {
    GRID_STEPS.min(scheduler.usual_steps(schedule.steps()))
}

/// How an attempt ended.
pub(super) enum End {
    /// At its limit, or because it was asked to stop.
    Reached(Outcome),
    /// At a step that diverged; the step of the newest checkpoint, or 0, and the seconds of the run.
    Diverged { error: Error, saved: u64, seconds: f64 },
}

/// How long large networks, of which a thousand steps take hours, train without a checkpoint.
const MOST_UNSAVED: Duration = Duration::from_secs(600);
/// Steps in a row that are skipped at most: so many batches are not all poisoned, but the weights are.
const MOST_SKIPPED: usize = 20;
/// Weights beyond this are no weights: the square of a larger number is no finite f32.
const LARGEST: f32 = 1e18;

/// One attempt of [`Run::train`](super::Run::train).
pub(super) struct Call<'a, O> {
    pub(super) folder: &'a Path,
    pub(super) group: &'a dyn Group<f32>,
    pub(super) trainer: Box<dyn Learner + 'a>,
    pub(super) schedule: Schedule,
    /// Rank 0's.
    pub(super) metrics: Option<Metrics>,
    /// Where the time decides the length.
    pub(super) clock: Option<Clock>,
    /// Seconds of earlier calls.
    pub(super) before: f64,
    pub(super) start: Instant,
    pub(super) pace: Pace,
    /// Sample grids in the run.
    pub(super) grids: u64,
    /// The step of the newest checkpoint.
    pub(super) saved: u64,
    /// When that was written, or training began.
    pub(super) saved_at: Instant,
    /// Seconds that the last checkpoint took.
    pub(super) saving: f64,
    /// Seconds that the last sample grid took.
    pub(super) sampling: Option<f64>,
    /// Steps skipped in a row.
    pub(super) skipped: usize,
    /// Whether a checkpoint is due.
    pub(super) owes: bool,
    pub(super) stop: &'a dyn Fn() -> bool,
    pub(super) telling: Option<Telling>,
    pub(super) observer: O,
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
    pub(super) fn is_done(&self, last: Option<u64>) -> bool {
        let step = self.trainer.step();
        self.train().end().is_some_and(|end| step >= end) || last.is_some_and(|last| step >= last)
    }

    /// Seconds of the run.
    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// A step of training, its metrics, and what the clock decides after it.
    pub(super) fn step(&mut self, data: &Dataset) -> Result<()> {
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
    pub(super) fn tell(&mut self, tell: impl FnOnce(&mut Telling) -> Result<()>) {
        let Some(telling) = &mut self.telling else { return };
        if let Err(error) = tell(telling) {
            (self.observer)(Event::Note(&format!("warning: {error}; training goes on")));
        }
    }

    /// Whether a checkpoint belongs to the last step, by rank 0's clock.
    pub(super) fn checkpoint_is_due(&self) -> bool {
        let (every, step) = (self.train().checkpoint_every, self.trainer.step());
        let is_due = checkpoint_is_due(every, step, self.saved_at.elapsed());
        self.group.any(self.group.leads() && is_due) && !self.is_done(None)
    }

    /// Whether the last step passed a share of the run that a grid on the way belongs to, and rank 0 has the
    /// time for it.
    pub(super) fn grid_is_due(&self) -> bool {
        let step = self.trainer.step();
        let passed = !self.is_done(None) && self.grids_up_to(step) > self.grids_up_to(step - 1);
        passed && self.group.broadcast_bytes(vec![u8::from(self.grids_fit())]) == [1]
    }

    fn write_config(&self) -> Result<()> {
        if self.group.leads() { write_config(self.folder, self.trainer.config()) } else { Ok(()) }
    }

    /// The end of an attempt whose last step diverged.
    pub(super) fn diverged(&self, error: Error) -> End {
        End::Diverged { error, saved: self.saved, seconds: self.seconds() }
    }

    /// Whether a step that diverges is left out.
    pub(super) fn may_skip(&self) -> bool {
        self.train().on_nan == OnNan::Skip && self.skipped < MOST_SKIPPED
    }

    /// Saves, where training can go on from what is saved.
    pub(super) fn checkpoint(&mut self, data: &Dataset) -> Result<()> {
        let start = Instant::now();
        match self.trainer.look_ahead(data) {
            // Asked to stop meanwhile, after a shard's loss at least was computed and is finite.
            Err(Error::Stopped) => {}
            looked => looked?,
        }
        let progress = self.trainer.progress()?;
        check_weights(&progress)?;
        (self.saved, self.saved_at) = (progress.step, Instant::now());
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
        let path = checkpoint::state::save(self.folder, &state)?;
        self.tell(Telling::checkpoint);
        self.saving = start.elapsed().as_secs_f64();
        tell_of_old(self.folder, state.step, &mut self.observer);
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
    pub(super) fn grid_path(&self) -> PathBuf {
        self.folder.join(SAMPLES).join(format!("step-{:08}.png", self.trainer.step()))
    }

    /// Makes a sample grid; `None` where it was asked to stop meanwhile.
    pub(super) fn samples(&mut self) -> Result<Option<PathBuf>> {
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
    pub(super) fn finish(&mut self) -> Result<()> {
        let train = self.trainer.train_config();
        if train.steps.is_none() {
            train.steps = train.end();
            self.write_config()?;
        }
        Ok(())
    }
}

/// Whether a checkpoint belongs to a step: to every so many, where that is not 0, and to one that so much time
/// has passed before without any.
fn checkpoint_is_due(every: u64, step: u64, unsaved: Duration) -> bool {
    every > 0 && (step.is_multiple_of(every) || unsaved >= MOST_UNSAVED)
}

/// Removes old checkpoints; tells of one that stays, which harms nothing.
pub(super) fn tell_of_old(folder: &Path, step: u64, observer: &mut impl FnMut(Event)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_follow_the_steps_and_on_long_ways_the_clock() {
        let soon = MOST_UNSAVED - Duration::from_millis(1);
        for (every, step, unsaved, is_due) in [
            (400, 399, soon, false),
            (400, 400, Duration::ZERO, true),
            (400, 399, MOST_UNSAVED, true),
            // Without checkpoints on the way.
            (0, 400, MOST_UNSAVED, false),
        ] {
            assert_eq!(checkpoint_is_due(every, step, unsaved), is_due, "{every} {step} {unsaved:?}");
        }
    }
}
