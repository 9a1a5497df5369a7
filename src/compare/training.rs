//! One network trained to its budget in a run's folder of its own, from wherever it was stopped.

use super::budget::Budget;
use super::context::Context;
use crate::config::Config;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::report::report;
use crate::model::unet;
use crate::train::{Event, Limit, Metric, Run, RunOptions, Step, Trainer, cumulative_seconds};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Trained numbers.
    pub parameters: usize,
    /// Images a step.
    pub batch: usize,
    /// Steps taken.
    pub steps: u64,
    /// Seconds of training, all calls together.
    pub seconds: f64,
    /// The median step's seconds; `None` where no step was finished.
    pub step_seconds: Option<f64>,
    /// MiB that a process holds at its peak that does nothing but train this network; `None` where it was not
    /// measured.
    pub peak_mib: Option<f64>,
    /// MiB of weights, moments, gradients and buffers, counted from the network's plan.
    pub planned_mib: f64,
    /// The losses.
    pub curve: Vec<CurvePoint>,
    /// The mean loss of the last tenth of the steps.
    pub final_loss: Option<f64>,
    /// What stopped it, where training diverged.
    pub diverged: Option<String>,
}

/// The mean loss of a stretch of steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The stretch's last step.
    pub step: u64,
    /// Seconds of training up to it.
    pub seconds: f64,
    /// The mean loss.
    pub loss: f64,
}

/// Steps on a fresh network to measure how long one takes.
const PROBED: usize = 3;
/// The largest number of points of a curve.
const POINTS: usize = 100;

/// Trains in `folder` to the end of the budget and reads the run's metrics; `None` if it was asked to stop.
///
/// `config_of` makes the configuration from the number of steps in the budget. Where the budget is in
/// minutes, that number is estimated from a few steps, so that the learning rate's decay ends about when the
/// minutes do. `begin` may write a first checkpoint into the folder of a new run. Training that diverges is a
/// result, not an error.
pub(super) fn train(
    context: &mut Context,
    folder: &Path,
    data: &Dataset,
    budget: Budget,
    config_of: impl Fn(u64) -> Config,
    begin: impl FnOnce(&Path, &Config) -> Result<()>,
) -> Result<Option<Training>> {
    let (run, config) = if folder.join("config.toml").exists() {
        let (run, config) = Run::open(folder)?;
        if config != config_of(config.train.steps) {
            return Err(Error::invalid(
                folder.display().to_string(),
                "the comparison's own run",
                "one with another configuration",
                "give a new `folder`",
            ));
        }
        (run, config)
    } else {
        let config = config_of(match budget {
            Budget::Steps(steps) => steps,
            Budget::Minutes(minutes) => {
                ((60.0 * minutes / seconds_a_step(context, &config_of(1), data)?) as u64).max(1)
            }
        });
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        begin(folder, &config)?;
        // The configuration is written last, so that a folder that has one has everything it starts from.
        (Run::create(folder, &config)?, config)
    };
    let limit = match budget {
        Budget::Steps(steps) => Limit::Steps(steps),
        // Not 0, which would mean no limit.
        Budget::Minutes(minutes) => Limit::Minutes((minutes - run.seconds()? / 60.0).max(1e-9)),
    };
    let options = RunOptions { limit, threads: context.threads, kernels: context.kernels, grids: false };
    let mut parameters = 0;
    let outcome = {
        let Context { stop, progress, .. } = context;
        run.train(&config, data, options, *stop, |event| match event {
            Event::Started { parameters: count, .. } => parameters = count,
            Event::Step { step, images_per_second, done } => {
                let Step { step, loss, .. } = step;
                progress(done, &format!("step {step}  loss {loss:.4}  {images_per_second:.1} images/s"));
            }
            Event::Checkpoint(_) | Event::Samples(_) => {}
        })
    };
    let diverged = match outcome {
        Ok(outcome) if outcome.interrupted => return Ok(None),
        Ok(_) => None,
        Err(Error::NotFinite { what, step, .. }) => Some(format!("{what} was not finite at step {step}")),
        Err(error) => return Err(error),
    };
    let metrics = run.metrics()?;
    // A run that diverged has no model to measure.
    let peak_mib = if diverged.is_none() {
        (context.progress)(1.0, "measuring the memory");
        (context.peak_mib)(folder, config.train.batch)
    } else {
        None
    };
    if (context.stop)() {
        return Ok(None);
    }
    let curve = curve(&metrics);
    Ok(Some(Training {
        parameters,
        batch: config.train.batch,
        steps: metrics.len() as u64,
        seconds: curve.last().map_or(0.0, |point| point.seconds),
        step_seconds: median_step(&metrics),
        peak_mib,
        planned_mib: report(&unet::build(&config.unet)?, config.train.batch, context.threads).training_mib,
        final_loss: final_loss(&metrics),
        curve,
        diverged,
    }))
}

/// The time of the fastest of a few steps on a fresh network, which is then dropped.
fn seconds_a_step(context: &Context, config: &Config, data: &Dataset) -> Result<f64> {
    let mut trainer: Trainer<f32> = Trainer::new(config, context.threads, context.kernels)?;
    let mut fastest = f64::INFINITY;
    for _ in 0..PROBED {
        let start = Instant::now();
        match trainer.advance(data) {
            // If training diverges at once, the run will report it.
            Ok(_) | Err(Error::NotFinite { .. }) => {}
            Err(error) => return Err(error),
        }
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

/// Means of the loss over stretches of steps.
fn curve(metrics: &[Metric]) -> Vec<CurvePoint> {
    let seconds = cumulative_seconds(metrics);
    let stretch = metrics.len().div_ceil(POINTS).max(1);
    let stretches = metrics.chunks(stretch).zip(seconds.chunks(stretch));
    stretches
        .map(|(metrics, seconds)| CurvePoint {
            step: metrics[metrics.len() - 1].step,
            seconds: seconds[seconds.len() - 1],
            loss: mean(metrics),
        })
        .collect()
}

fn mean(metrics: &[Metric]) -> f64 {
    metrics.iter().map(|metric| metric.loss).sum::<f64>() / metrics.len() as f64
}

fn final_loss(metrics: &[Metric]) -> Option<f64> {
    let last = metrics.len().div_ceil(10);
    (last > 0).then(|| mean(&metrics[metrics.len() - last..]))
}

/// The median time between two steps of the same call; the time of the only step where there is just one.
fn median_step(metrics: &[Metric]) -> Option<f64> {
    let gaps = metrics.windows(2).map(|pair| pair[1].seconds - pair[0].seconds);
    let mut gaps: Vec<f64> = gaps.filter(|gap| *gap > 0.0).collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied().or_else(|| metrics.first().map(|metric| metric.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(seconds: &[f64]) -> Vec<Metric> {
        let metric = |(i, seconds): (usize, &f64)| Metric {
            step: i as u64 + 1,
            loss: i as f64,
            gradient_norm: 1.0,
            lr: 1.0,
            images_per_s: 1.0,
            seconds: *seconds,
        };
        seconds.iter().enumerate().map(metric).collect()
    }

    #[test]
    fn a_resumed_runs_seconds_go_on_and_its_gaps_are_of_one_call() {
        let metrics = metrics(&[1.0, 2.0, 3.5, 0.5, 1.5]);
        assert_eq!(curve(&metrics).last().unwrap().seconds, 5.0);
        assert_eq!(median_step(&metrics), Some(1.0));
        assert_eq!((median_step(&metrics[..1]), median_step(&[])), (Some(1.0), None));
    }

    #[test]
    fn curves_are_means_that_reach_the_last_step() {
        let seconds: Vec<f64> = (1..=250).map(f64::from).collect();
        let points = curve(&metrics(&seconds));
        assert!(points.len() <= POINTS);
        assert_eq!(points[0], CurvePoint { step: 3, seconds: 3.0, loss: 1.0 });
        assert_eq!(points.last().unwrap().step, 250);
        assert_eq!(final_loss(&metrics(&seconds)), Some(237.0));
        assert_eq!((curve(&[]), final_loss(&[])), (vec![], None));
    }
}
