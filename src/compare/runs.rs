//! The runs of the variants, with the same budget, seeds and batches, and what is measured of each.

use super::context::Context;
use super::measure::{Subject, loss_above, or_note, write_grid};
use super::plan::Plan;
use super::training::{Training, train};
use crate::checkpoint::model_folder;
use crate::config::AttentionKind;
use crate::data::Datasets;
use crate::error::Result;
use crate::evaluate::Estimate;
use crate::evaluate::nll::Likelihood;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A variant's run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantRun {
    /// The attention.
    pub variant: AttentionKind,
    /// How training went.
    pub training: Training,
    /// The quality of the model; `None` where training diverged.
    pub quality: Option<Quality>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// The quality of a trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The loss (21) of each held-out image, t and eps the same for every variant.
    pub held_out_losses: Vec<f64>,
    /// The bound on held-out images in bits per dimension, with both reverse variances.
    pub likelihood: Option<Likelihood>,
    /// Seconds per image when the grid was sampled, all images together.
    pub sample_seconds: Option<f64>,
    /// Whether the sample grid was drawn.
    pub grid: bool,
}

impl Quality {
    /// The held-out loss.
    pub fn held_out_loss(&self) -> Estimate {
        Estimate::of(self.held_out_losses.iter().copied())
    }

    /// How much higher the held-out loss is than another model's, image by image: differences between images,
    /// mostly due to t, do not add to the error.
    pub fn loss_above(&self, other: &Quality) -> Estimate {
        loss_above(&self.held_out_losses, &other.held_out_losses)
    }
}

/// A variant's run's folder.
pub(super) fn folder(out: &Path, variant: AttentionKind) -> PathBuf {
    out.join("runs").join(variant.name())
}

/// The name of a variant's sample grid.
pub(super) fn grid_name(variant: AttentionKind) -> String {
    format!("samples-{variant}")
}

/// Trains and measures a variant; `None` where it was asked to stop.
pub(super) fn run(
    context: &mut Context,
    plan: &Plan,
    data: &Datasets,
    variant: AttentionKind,
) -> Result<Option<VariantRun>> {
    let folder = folder(&context.out, variant);
    let config = plan.run_config(variant);
    let training = train(context, &folder, &data.train, &config, |_, _| Ok(()))?;
    let Some(training) = training else { return Ok(None) };
    let mut run = VariantRun { variant, training, quality: None, notes: Vec::new() };
    if run.training.diverged.is_some() {
        return Ok(Some(run));
    }
    (context.progress)(1.0, "measuring the model");
    let loaded = model_folder::load::<f32>(&folder)?;
    let mut subject = Subject::new(context, loaded.model, &loaded.diffusion, plan.config.train.seed)?;
    let images = data.test.as_ref().unwrap_or(&data.train);
    let measuring = &plan.measuring;
    let held_out_losses = match or_note(subject.held_out_losses(images, measuring.images))? {
        Ok(losses) => losses,
        Err(note) => {
            run.notes.push(note);
            return Ok(Some(run));
        }
    };
    if context.stopped() {
        return Ok(None);
    }
    let mut quality = Quality { held_out_losses, likelihood: None, sample_seconds: None, grid: false };
    let progress = &mut *context.progress;
    let likelihood = subject.likelihood(images, measuring.images, measuring.timesteps, &mut |done| {
        progress(done, "the bound on held-out images");
    });
    match or_note(likelihood)? {
        Ok(likelihood) => quality.likelihood = Some(likelihood),
        Err(note) => run.notes.push(note),
    }
    if context.stopped() {
        return Ok(None);
    }
    (context.progress)(1.0, "sampling");
    let start = Instant::now();
    match or_note(subject.samples(measuring.grid, measuring.steps))? {
        Ok(samples) => {
            quality.sample_seconds = Some(start.elapsed().as_secs_f64() / measuring.grid as f64);
            quality.grid = true;
            context.write(|| write_grid(&context.image(&grid_name(variant)), &samples))?;
        }
        Err(note) => run.notes.push(note),
    }
    run.quality = Some(quality);
    Ok(Some(run))
}
