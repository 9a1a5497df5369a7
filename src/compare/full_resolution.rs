//! The case that FAVOR+ is made for: training with attention at all pixels of enlarged images, compared with
//! softmax.

use super::context::Context;
use super::measure::{Subject, or_note, write_grid};
use super::plan::Plan;
use super::training::{Training, train};
use crate::checkpoint::model_folder;
use crate::config::AttentionKind;
use crate::data::{Dataset, Datasets};
use crate::error::Result;
use crate::evaluate::{Estimate, choose};
use serde::{Deserialize, Serialize};

/// One network's training at full resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullResolutionRun {
    /// The attention.
    pub variant: AttentionKind,
    /// How training went.
    pub training: Training,
    /// The loss (21) on held-out images, t and eps the same for both.
    pub held_out_loss: Option<Estimate>,
    /// Whether the sample grid was drawn.
    pub grid: bool,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// What is compared here.
pub(super) const VARIANTS: [AttentionKind; 2] = [AttentionKind::FAVOR, AttentionKind::Softmax];

/// Held-out images for the loss; few, because softmax at every pixel is slow.
const HELD_OUT: usize = 64;

/// The name of a network's sample grid.
pub(super) fn grid_name(variant: AttentionKind) -> String {
    format!("full-resolution-{variant}")
}

/// The enlarged images to train on, and those held out.
pub(super) fn enlarged(plan: &Plan, data: &Datasets) -> Result<(Dataset, Dataset)> {
    let [height, width] = plan.full_resolution.size;
    let train = data.train.clone().resized((height, width))?;
    let held_out = data.test.as_ref().unwrap_or(&data.train);
    let chosen = choose(held_out.len(), HELD_OUT, plan.config.train.seed)?;
    Ok((train, held_out.select(&chosen)?.resized((height, width))?))
}

/// Trains and measures; `None` where it was asked to stop.
pub(super) fn run(
    context: &mut Context,
    plan: &Plan,
    (train_images, held_out): &(Dataset, Dataset),
    variant: AttentionKind,
) -> Result<Option<FullResolutionRun>> {
    let folder = context.out.join("full-resolution").join(variant.name());
    let sizes = &plan.full_resolution;
    let config = plan.full_resolution_config(variant);
    let training = train(context, &folder, train_images, &config, |_, _| Ok(()))?;
    let Some(training) = training else { return Ok(None) };
    let mut run =
        FullResolutionRun { variant, training, held_out_loss: None, grid: false, notes: Vec::new() };
    if run.training.diverged.is_some() {
        return Ok(Some(run));
    }
    (context.progress)(1.0, "measuring the model");
    let loaded = model_folder::load::<f32>(&folder)?;
    let mut subject = Subject::new(context, loaded.model, &loaded.diffusion, plan.config.train.seed)?;
    match or_note(subject.held_out_losses(held_out, HELD_OUT))? {
        Ok(losses) => run.held_out_loss = Some(Estimate::of(losses)),
        Err(note) => run.notes.push(note),
    }
    if context.stopped() {
        return Ok(None);
    }
    (context.progress)(1.0, "sampling");
    match or_note(subject.samples(sizes.grid, plan.measuring.steps))? {
        Ok(samples) => {
            context.write(|| write_grid(&context.image(&grid_name(variant)), &samples))?;
            run.grid = true;
        }
        Err(note) => run.notes.push(note),
    }
    Ok(Some(run))
}
