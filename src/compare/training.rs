//! One network trained to its budget in a run's folder of its own, from wherever it was stopped.

use super::context::Context;
use crate::config::Config;
use crate::data::Dataset;
use crate::disk;
use crate::error::{Error, Result};
use crate::model::report::report;
use crate::model::unet;
use crate::train::{Event, Limit, Metric, Run, RunOptions, Step};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Trained numbers.
    pub parameters: usize,
    /// Images a step.
    pub batch: usize,
    /// Steps taken.
    pub steps: u64,
    /// The processes that trained it together: their number, and the next where a resume changed it.
    #[serde(default)]
    pub processes: Vec<usize>,
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

/// A curve's points at most.
const POINTS: usize = 100;

/// Trains in `folder` to the end of the configuration's length and reads the run's course; `None` where it
/// was asked to stop.
///
/// `begin` may put a first checkpoint into a new run's folder. Training that diverges is an outcome, not an
/// error.
pub(super) fn train(
    context: &mut Context,
    folder: &Path,
    data: &Dataset,
    config: &Config,
    begin: impl FnOnce(&Path, &Config) -> Result<()>,
) -> Result<Option<Training>> {
    let open = |folder: &Path| {
        if folder.join("config.toml").exists() {
            let (run, there) = Run::open(folder)?;
            if without_length(&there) != without_length(config) {
                return Err(Error::invalid(
                    folder.display().to_string(),
                    "the comparison's own run",
                    "one with another configuration",
                    "give a new `folder`",
                ));
            }
            return Ok((run, there));
        }
        disk::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        begin(folder, config)?;
        // Last, so that whatever has a configuration has all it begins with.
        Ok((Run::create(folder, config)?, config.clone()))
    };
    let (run, config) = Run::open_in(context.group, folder, open)?;
    let run = run.interrupted_by(context.interrupt.clone());
    let options = RunOptions {
        limit: Limit::Configured,
        threads: context.threads,
        kernels: context.kernels,
        grids: false,
        library: None,
        tensorboard: false,
    };
    let mut parameters = 0;
    let outcome = {
        let Context { group, stop, progress, .. } = context;
        run.train_in(*group, &config, data, options, *stop, |event| match event {
            Event::Started { parameters: count, .. } => parameters = count,
            Event::Step { step, images_per_second, done } => {
                let Step { step, loss, .. } = step;
                progress(done, &format!("step {step}  loss {loss:.4}  {images_per_second:.1} images/s"));
            }
            Event::Planned { .. } | Event::Note(_) | Event::Checkpoint(_) => {}
            Event::Sampling(_) | Event::Samples(_) => {}
        })
    };
    let diverged = match outcome {
        Ok(outcome) if outcome.interrupted => return Ok(None),
        Ok(_) => None,
        Err(Error::NotFinite { what, step, .. }) => Some(format!("{what} was not finite at step {step}")),
        Err(error) => return Err(error),
    };
    let leads = context.group.leads();
    let metrics = if leads { run.metrics()? } else { Vec::new() };
    // A run that diverged has no model to measure.
    let peak_mib = if leads && diverged.is_none() {
        (context.progress)(1.0, "measuring the memory");
        (context.peak_mib)(folder, config.train.batch)
    } else {
        None
    };
    if context.stopped() {
        return Ok(None);
    }
    let curve = curve(&metrics);
    let mut processes: Vec<usize> = metrics.iter().map(|metric| metric.ranks.unwrap_or(1)).collect();
    processes.dedup();
    Ok(Some(Training {
        parameters,
        batch: config.train.batch,
        steps: metrics.len() as u64,
        processes,
        seconds: curve.last().map_or(0.0, |point| point.seconds),
        step_seconds: median_step(&metrics),
        peak_mib,
        planned_mib: report(&unet::build(&config.unet)?, config.train.batch, context.threads)?.training_mib,
        final_loss: final_loss(&metrics),
        curve,
        diverged,
    }))
}

/// A configuration but for the run's length, which the clock may have decided.
fn without_length(config: &Config) -> Config {
    let mut config = config.clone();
    (config.train.steps, config.train.minutes) = (None, None);
    config.train.plan.clear();
    config
}

/// Means of the loss over stretches of steps.
fn curve(metrics: &[Metric]) -> Vec<CurvePoint> {
    let stretch = metrics.len().div_ceil(POINTS).max(1);
    let point = |metrics: &[Metric]| {
        let last = metrics.last()?;
        Some(CurvePoint { step: last.step, seconds: last.seconds, loss: mean(metrics)? })
    };
    metrics.chunks(stretch).filter_map(point).collect()
}

/// The mean of the losses but for those of steps that were skipped because theirs was not finite.
fn mean(metrics: &[Metric]) -> Option<f64> {
    let finite = || metrics.iter().map(|metric| metric.loss).filter(|loss| loss.is_finite());
    let count = finite().count();
    (count > 0).then(|| finite().sum::<f64>() / count as f64)
}

fn final_loss(metrics: &[Metric]) -> Option<f64> {
    mean(&metrics[metrics.len() - metrics.len().div_ceil(10)..])
}

/// The median time from one step to the next; the only step's where there are no two.
fn median_step(metrics: &[Metric]) -> Option<f64> {
    let mut gaps: Vec<f64> = metrics.windows(2).map(|pair| pair[1].seconds - pair[0].seconds).collect();
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
            ..Metric::default()
        };
        seconds.iter().enumerate().map(metric).collect()
    }

    #[test]
    fn a_step_takes_the_median_of_the_gaps() {
        let metrics = metrics(&[1.0, 2.0, 3.5, 4.0, 5.0]);
        assert_eq!(curve(&metrics).last().unwrap().seconds, 5.0);
        assert_eq!(median_step(&metrics), Some(1.0));
        assert_eq!((median_step(&metrics[..1]), median_step(&[])), (Some(1.0), None));
    }

    /// Such a step is in the metrics of a run that skips what diverges, and no number has a JSON form for it.
    #[test]
    fn steps_that_were_skipped_are_left_out_of_means() {
        let mut metrics = metrics(&[1.0, 2.0, 3.0]);
        metrics[2].loss = f64::NAN;
        assert_eq!((mean(&metrics), final_loss(&metrics)), (Some(0.5), None));
        assert_eq!(curve(&metrics).iter().map(|point| point.step).collect::<Vec<_>>(), [1, 2]);
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
