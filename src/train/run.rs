//! A training run in a folder: configuration, metrics, checkpoints, sample grids, loss curve, model.

use super::fit::check_fit;
use super::optimizer::Adam;
use super::trainer::{Progress, Step, Trainer};
use crate::checkpoint::{self, state::TrainingState};
use crate::config::Config;
use crate::data::Dataset;
use crate::equations::Schedule;
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::{Engine, Model};
use crate::output::{write_atomically, write_loss_curve, write_png};
use crate::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// After this many steps in all.
    Steps(u64),
    /// After this many minutes of this call. The clock decides nothing else.
    Minutes(f64),
}

/// How to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunOptions {
    /// When to end.
    pub limit: Limit,
    /// Threads.
    pub threads: usize,
    /// The kernels; a run resumed with others goes on well, but not to the same bits.
    pub kernels: Kernels,
    /// Whether sample grids are made, on the way as the configuration says and at the end.
    pub grids: bool,
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
    /// A checkpoint was written.
    Checkpoint(&'a Path),
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

/// A line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The step, from 1.
    pub step: u64,
    /// The batch's loss.
    pub loss: f64,
    /// The gradient's norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub lr: f64,
    /// Images per second.
    pub images_per_s: f64,
    /// Seconds since this call began.
    pub seconds: f64,
}

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
/// What a run or a model leaves in its folder, beside a run's configuration.
const REMAINS: [&str; 6] = ["checkpoints", METRICS, "unet", "scheduler", "model_index.json", "config.json"];

/// Images in a run's sample grids.
const GRID: usize = 64;
/// Steps of the sampler that makes them.
const GRID_STEPS: usize = 50;

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
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        write_atomically(&folder.join(CONFIG), |file| file.write_all(config.to_toml().as_bytes()))?;
        Ok(Run { folder: folder.to_path_buf() })
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
        let file = folder.join(CONFIG);
        let text = fs::read_to_string(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(
                folder.display().to_string(),
                "a run's folder, with a config.toml",
                "no config.toml there",
                "name the folder that train printed",
            ),
            _ => Error::read(&file, e),
        })?;
        Ok((Run { folder: folder.to_path_buf() }, Config::from_toml(&text, &file.display().to_string())?))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Trains on `data` until the limit or until `stop` says so, from the newest checkpoint if there is one.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if training diverges; checkpoints stay as they are. [`Error::Write`] if the
    /// system refuses.
    pub fn train(
        &self,
        config: &Config,
        data: &Dataset,
        options: RunOptions,
        stop: impl Fn() -> bool,
        mut observer: impl FnMut(Event),
    ) -> Result<Outcome> {
        check_fit(config, data)?;
        let mut trainer: Trainer<f32> = Trainer::new(config, options.threads, options.kernels)?;
        let newest = checkpoint::state::newest(&self.folder)?;
        let mut metrics_len = 0;
        let mut note = None;
        if let Some(newest) = newest {
            metrics_len = newest.state.metrics_len;
            note = newest.note;
            trainer.restore(progress(newest.state))?;
        }
        let mut metrics = Metrics::open(&self.folder.join(METRICS), metrics_len)?;
        let parameters = trainer.model().weights.len();
        observer(Event::Started { step: trainer.step(), parameters, note: note.as_deref() });

        let start = Instant::now();
        let mut saved = trainer.step();
        let mut grid = None;
        let mut pace = Pace::new();
        let mut interrupted = false;
        loop {
            let done = share_done(options.limit, trainer.step(), start.elapsed());
            if done >= 1.0 {
                break;
            }
            if stop() {
                interrupted = true;
                break;
            }
            let step = trainer.advance(data).map_err(|error| self.advise(error, saved))?;
            let images_per_second = pace.step(config.train.batch);
            metrics.write(&Metric {
                step: step.step,
                loss: step.loss,
                gradient_norm: step.gradient_norm,
                lr: step.lr,
                images_per_s: images_per_second,
                seconds: start.elapsed().as_secs_f64(),
            })?;
            let done = share_done(options.limit, step.step, start.elapsed());
            observer(Event::Step { step, images_per_second, done });
            let due = |every: u64| every > 0 && step.step.is_multiple_of(every) && done < 1.0;
            if due(config.train.checkpoint_every) {
                self.checkpoint(&trainer, &mut metrics, &mut observer)?;
                saved = step.step;
            }
            if options.grids && due(config.train.sample_every) {
                grid = Some(self.samples(&mut trainer, &mut observer)?);
                pace.pause();
            }
        }
        if saved != trainer.step() {
            self.checkpoint(&trainer, &mut metrics, &mut observer)?;
        }
        if trainer.step() > 0 {
            let model = trainer.averaged_model();
            checkpoint::model_folder::save(
                &self.folder,
                &model,
                Some(&trainer.model().weights),
                &config.diffusion,
            )?;
            self.plot()?;
            if options.grids && !interrupted {
                grid = Some(self.samples(&mut trainer, &mut observer)?);
            }
        }
        Ok(Outcome { step: trainer.step(), interrupted, grid })
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
                    "{kept}lower lr in {} and {go_on} by `Run::open` {}, or train a new run with a lower `TrainConfig::lr`",
                    self.folder.join(CONFIG).display(),
                    self.folder.display()
                );
                Error::NotFinite { what, step, help }
            }
            other => other,
        }
    }

    fn checkpoint(
        &self,
        trainer: &Trainer<f32>,
        metrics: &mut Metrics,
        observer: &mut impl FnMut(Event),
    ) -> Result<()> {
        let metrics_len = metrics.sync()?;
        let progress = trainer.progress();
        let state = TrainingState {
            config: trainer.config().clone(),
            step: progress.step,
            images_seen: progress.step * trainer.config().train.batch as u64,
            metrics_len,
            weights: progress.weights,
            ema: progress.average,
            first_moment: progress.adam.first_moment,
            second_moment: progress.adam.second_moment,
            projections: progress.projections,
        };
        let path = checkpoint::state::save(&self.folder, &state)?;
        observer(Event::Checkpoint(&path));
        Ok(())
    }

    fn samples(&self, trainer: &mut Trainer<f32>, observer: &mut impl FnMut(Event)) -> Result<PathBuf> {
        let model = trainer.averaged_model();
        let (schedule, config) = (trainer.schedule().clone(), trainer.config().clone());
        let path = self.folder.join("samples").join(format!("step-{:08}.png", trainer.step()));
        self.grid(&model, &schedule, &config, trainer.engine(), &path)?;
        observer(Event::Samples(&path));
        Ok(path)
    }

    fn grid(
        &self,
        model: &Model<f32>,
        schedule: &Schedule,
        config: &Config,
        engine: &mut Engine<f32>,
        path: &Path,
    ) -> Result<()> {
        let options = SampleOptions {
            count: GRID,
            batch: GRID,
            seed: config.train.seed,
            sampler: Sampler::Ddim { eta: 0.0 },
            steps: Some(GRID_STEPS.min(schedule.steps())),
            spacing: Spacing::Trailing,
            clip_x0: if config.diffusion.clip_x0 { ClipX0::KeepEps } else { ClipX0::Off },
        };
        let images = sample(model, schedule, engine, &options, None, |_| {})?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        write_png(path, images.view(), None)
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
        self.metrics_up_to(u64::MAX)
    }

    /// Seconds of training that led to the newest checkpoint, all calls together; what was done after it is
    /// lost when the process is killed, and does not count.
    ///
    /// # Errors
    /// Those of [`Run::metrics`] and of an unreadable checkpoint.
    pub fn seconds(&self) -> Result<f64> {
        match checkpoint::state::newest(&self.folder)? {
            Some(newest) if newest.state.metrics_len > 0 => {
                let seconds = cumulative_seconds(&self.metrics_up_to(newest.state.metrics_len)?);
                Ok(seconds.last().copied().unwrap_or(0.0))
            }
            _ => Ok(0.0),
        }
    }

    /// The metrics in the first `len` bytes of the file.
    fn metrics_up_to(&self, len: u64) -> Result<Vec<Metric>> {
        let path = self.folder.join(METRICS);
        let file = File::open(&path).map_err(|e| Error::read(&path, e))?;
        let mut metrics = Vec::new();
        for (i, line) in BufReader::new(file.take(len)).lines().enumerate() {
            let line = line.map_err(|e| Error::read(&path, e))?;
            metrics.push(serde_json::from_str(&line).map_err(|e| {
                let what = format!("{}, line {}", path.display(), i + 1);
                Error::invalid(what, "a step's metrics", e.to_string(), "")
            })?);
        }
        Ok(metrics)
    }
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

/// Seconds of training up to each step, over all calls; each call's metrics count from its own beginning.
pub(crate) fn cumulative_seconds(metrics: &[Metric]) -> Vec<f64> {
    let (mut before, mut sum) = (0.0, 0.0);
    let cumulative = metrics.iter().map(|metric| {
        sum += if metric.seconds >= before { metric.seconds - before } else { metric.seconds };
        before = metric.seconds;
        sum
    });
    cumulative.collect()
}

fn share_done(limit: Limit, step: u64, elapsed: Duration) -> f64 {
    match limit {
        Limit::Steps(steps) => step as f64 / steps.max(1) as f64,
        Limit::Minutes(minutes) => elapsed.as_secs_f64() / (60.0 * minutes),
    }
}

/// `metrics.jsonl`, cut back to the checkpoint that training goes on from.
struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    fn open(path: &Path, len: u64) -> Result<Metrics> {
        let failed = |e| Error::write(path, e);
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let there = file.metadata().map_err(failed)?.len();
        if there < len {
            return Err(Error::invalid(
                path.display().to_string(),
                format!("at least {len} bytes, as when the checkpoint was written"),
                format!("{there} bytes"),
                "restore the file or begin a new run",
            ));
        }
        file.set_len(len).map_err(failed)?;
        Ok(Metrics { path: path.to_path_buf(), file })
    }

    fn write(&mut self, metric: &Metric) -> Result<()> {
        let mut line = serde_json::to_string(metric).expect("numbers become JSON");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::write(&self.path, e))
    }

    /// Makes the file durable; its length.
    fn sync(&mut self) -> Result<u64> {
        let failed = |e| Error::write(&self.path, e);
        self.file.sync_all().map_err(failed)?;
        Ok(self.file.metadata().map_err(failed)?.len())
    }
}

/// Images per second over the last steps.
struct Pace {
    last: Instant,
    seconds_per_image: Option<f64>,
}

impl Pace {
    fn new() -> Pace {
        Pace { last: Instant::now(), seconds_per_image: None }
    }

    fn step(&mut self, images: usize) -> f64 {
        let now = (Instant::now() - self.last).as_secs_f64() / images as f64;
        self.last = Instant::now();
        let smooth = self.seconds_per_image.map_or(now, |old| 0.9 * old + 0.1 * now);
        self.seconds_per_image = Some(smooth);
        1.0 / smooth
    }

    fn pause(&mut self) {
        self.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_of_resumed_calls_add_up() {
        let metric =
            |seconds| Metric { step: 1, loss: 1.0, gradient_norm: 1.0, lr: 1.0, images_per_s: 1.0, seconds };
        let metrics = [1.0, 3.0, 4.0, 0.5, 2.0].map(metric);
        assert_eq!(cumulative_seconds(&metrics), [1.0, 3.0, 4.0, 4.5, 6.0]);
    }
}
