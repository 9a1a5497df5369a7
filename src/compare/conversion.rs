//! Trained softmax weights run with FAVOR+ instead: how much worse they get, and how much a short fine-tuning
//! restores.

use super::budget::Budget;
use super::context::Context;
use super::measure::{Subject, loss_above, or_note, rms_difference, write_grid};
use super::plan::Plan;
use super::runs::{self, Quality};
use super::training::{Training, train};
use crate::checkpoint::model_folder;
use crate::config::{AttentionKind, Config, DiffusionConfig, FeatureMap, UnetConfig};
use crate::data::{Dataset, Datasets};
use crate::error::Result;
use crate::evaluate::Estimate;
use crate::model::Model;
use crate::train::fine_tune;
use ndarray::{Array4, Axis, concatenate};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A network beside the softmax weights that it came from, on the same images, t and eps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BesideSoftmax {
    /// The held-out loss.
    pub held_out_loss: Option<f64>,
    /// How much higher it is than that of the softmax weights, image by image; with several draws of the
    /// projections, the error includes their variance.
    pub above_softmax: Option<Estimate>,
    /// The bound in bits per dimension.
    pub bits_per_dim: Option<Estimate>,
    /// The root mean square difference of samples from the softmax weights', from the same noise, in units
    /// where images span -1 to 1.
    pub sample_difference: Option<f64>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// Softmax weights run with another kind of attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InPlace {
    /// The attention.
    pub variant: AttentionKind,
    /// m.
    pub features: usize,
    /// Its quality: the losses are means over draws of the projections, everything else is of the first draw.
    #[serde(flatten)]
    pub measured: BesideSoftmax,
}

/// Softmax weights after further training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuned {
    /// The attention: FAVOR+, or softmax itself, which shows what the further steps alone do.
    pub variant: AttentionKind,
    /// m; `None` for softmax.
    pub features: Option<usize>,
    /// How training went.
    pub training: Training,
    /// Its quality afterwards; empty where training diverged.
    #[serde(flatten)]
    pub measured: BesideSoftmax,
}

/// The study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversion {
    /// The softmax model's held-out loss.
    pub softmax_loss: Estimate,
    /// The softmax model's bound in bits per dimension, on the same images and timesteps as the others'.
    pub softmax_bits_per_dim: Estimate,
    /// The softmax run's steps.
    pub softmax_steps: u64,
    /// FAVOR+ without further training.
    pub in_place: Vec<InPlace>,
    /// The m whose samples are rows of the grid, below the row of softmax.
    pub grid_rows: Vec<usize>,
    /// After fine-tuning; filled as the runs finish.
    pub fine_tuned: Vec<FineTuned>,
}

/// The name of the grid: a row of softmax's samples, then a row for each m.
pub(super) const GRID: &str = "conversion";

/// The maps that estimate softmax's kernel by positive numbers.
const MAPS: [AttentionKind; 2] = [AttentionKind::FAVOR, AttentionKind::Favor(FeatureMap::Hyperbolic)];

/// A softmax network with another attention and the same weights; `draw` counts draws of the projections.
fn converted(
    softmax: &Model<f32>,
    base: &UnetConfig,
    variant: AttentionKind,
    features: usize,
    seed: u64,
    draw: u64,
) -> Result<Model<f32>> {
    let mut unet = base.with_attention(variant);
    unet.favor.features = features;
    softmax.with_attention(&unet, seed, draw)
}

/// The softmax model, with which conversions are compared.
struct Baseline<'a> {
    model: Model<f32>,
    diffusion: DiffusionConfig,
    steps: u64,
    losses: &'a [f64],
    samples: Array4<f32>,
    images: &'a Dataset,
}

impl Baseline<'_> {
    /// The model of the run, with its losses as measured after training.
    fn load<'a>(
        context: &mut Context,
        plan: &Plan,
        data: &'a Datasets,
        quality: &'a Quality,
    ) -> Result<Baseline<'a>> {
        let loaded = model_folder::load::<f32>(&runs::folder(&context.out, AttentionKind::Softmax))?;
        let mut subject =
            Subject::new(context, loaded.model.clone(), &loaded.diffusion, plan.config.train.seed)?;
        Ok(Baseline {
            losses: &quality.held_out_losses,
            samples: subject.samples(plan.conversion.samples, plan.measuring.steps)?,
            images: data.test.as_ref().unwrap_or(&data.train),
            model: loaded.model,
            diffusion: loaded.diffusion,
            steps: loaded.step.unwrap_or(1),
        })
    }

    /// The held-out loss, and how much higher it is than that of the softmax weights, image by image.
    fn losses(&self, losses: &[f64]) -> (Option<f64>, Option<Estimate>) {
        (Some(Estimate::of(losses.iter().copied()).mean), Some(loss_above(losses, self.losses)))
    }
}

/// The bound with the plan's reverse variance.
fn bits_per_dim(subject: &mut Subject<'_>, plan: &Plan, images: &Dataset) -> Result<Estimate> {
    let sizes = &plan.conversion;
    let likelihood = subject.likelihood(images, sizes.images, sizes.timesteps, &mut |_| {})?;
    Ok(likelihood.of(plan.config.diffusion.variance).bits_per_dim)
}

/// The quality of a network, with the losses and samples that it was computed from, if there are any.
#[derive(Default)]
struct Measurement {
    measured: BesideSoftmax,
    losses: Option<Vec<f64>>,
    samples: Option<Array4<f32>>,
}

fn measure(subject: &mut Subject<'_>, plan: &Plan, baseline: &Baseline) -> Result<Measurement> {
    let mut measurement = Measurement::default();
    let measured = &mut measurement.measured;
    match or_note(subject.held_out_losses(baseline.images, plan.measuring.images))? {
        Ok(losses) => {
            (measured.held_out_loss, measured.above_softmax) = baseline.losses(&losses);
            measurement.losses = Some(losses);
        }
        Err(note) => measured.notes.push(note),
    }
    match or_note(bits_per_dim(subject, plan, baseline.images))? {
        Ok(bits) => measured.bits_per_dim = Some(bits),
        Err(note) => measured.notes.push(note),
    }
    match or_note(subject.samples(plan.conversion.samples, plan.measuring.steps))? {
        Ok(samples) => {
            measured.sample_difference = Some(rms_difference(&samples, &baseline.samples));
            measurement.samples = Some(samples);
        }
        Err(note) => measured.notes.push(note),
    }
    Ok(measurement)
}

/// An estimate over images, its error increased by that of the draws of the projections. `of_draws` has the
/// losses of all images for each draw.
fn with_draws(over_images: Estimate, of_draws: &[Vec<f64>]) -> Estimate {
    if of_draws.len() < 2 {
        return over_images;
    }
    let over_draws = Estimate::of(of_draws.iter().map(|losses| Estimate::of(losses.iter().copied()).mean));
    Estimate { standard_error: over_images.standard_error.hypot(over_draws.standard_error), ..over_images }
}

/// Measures the softmax weights with another kind of attention; also returns the samples of the first draw.
fn replaced(
    context: &Context,
    plan: &Plan,
    baseline: &Baseline,
    variant: AttentionKind,
    features: usize,
) -> Result<(InPlace, Option<Array4<f32>>)> {
    let seed = plan.config.train.seed;
    let subject = |draw: u64| {
        let model = converted(&baseline.model, &plan.config.unet, variant, features, seed, draw)?;
        Subject::new(context, model, &baseline.diffusion, seed)
    };
    let Measurement { mut measured, losses, samples } = measure(&mut subject(0)?, plan, baseline)?;
    let mut of_draws: Vec<Vec<f64>> = losses.into_iter().collect();
    for draw in 1..plan.conversion.draws as u64 {
        match or_note(subject(draw)?.held_out_losses(baseline.images, plan.measuring.images))? {
            Ok(losses) => of_draws.push(losses),
            Err(note) => measured.notes.push(note),
        }
    }
    if !of_draws.is_empty() {
        let mean =
            |image: usize| of_draws.iter().map(|losses| losses[image]).sum::<f64>() / of_draws.len() as f64;
        let losses: Vec<f64> = (0..baseline.losses.len()).map(mean).collect();
        let (loss, above) = baseline.losses(&losses);
        measured.held_out_loss = loss;
        measured.above_softmax = above.map(|above| with_draws(above, &of_draws));
    }
    Ok((InPlace { variant, features, measured }, samples))
}

/// Measures the softmax weights run with FAVOR+; `None` if it was asked to stop.
pub(super) fn in_place(
    context: &mut Context,
    plan: &Plan,
    data: &Datasets,
    quality: &Quality,
) -> Result<Option<Conversion>> {
    (context.progress)(0.0, "the softmax weights");
    let baseline = Baseline::load(context, plan, data, quality)?;
    let (sizes, seed) = (&plan.conversion, plan.config.train.seed);
    let mut softmax = Subject::new(context, baseline.model.clone(), &baseline.diffusion, seed)?;
    let mut conversion = Conversion {
        softmax_loss: quality.held_out_loss(),
        softmax_bits_per_dim: bits_per_dim(&mut softmax, plan, baseline.images)?,
        softmax_steps: baseline.steps,
        in_place: Vec::new(),
        grid_rows: Vec::new(),
        fine_tuned: Vec::new(),
    };
    let mut rows = vec![baseline.samples.clone()];
    let total = (MAPS.len() * sizes.features.len()) as f64;
    for variant in MAPS {
        for &features in &sizes.features {
            if context.stopped() {
                return Ok(None);
            }
            let done = conversion.in_place.len() as f64 / total;
            (context.progress)(done, &format!("{variant} in place, m = {features}"));
            let (found, samples) = replaced(context, plan, &baseline, variant, features)?;
            conversion.in_place.push(found);
            if let (Some(images), AttentionKind::FAVOR) = (samples, variant) {
                rows.push(images);
                conversion.grid_rows.push(features);
            }
        }
    }
    let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
    let grid = concatenate(Axis(0), &views).expect("rows of the same images");
    context.write(|| write_grid(&context.image(GRID), &grid))?;
    Ok(Some(conversion))
}

/// What is fine-tuned: softmax itself, then FAVOR+ at each m.
pub(super) fn to_fine_tune(plan: &Plan) -> Vec<(AttentionKind, Option<usize>)> {
    let favor = plan.conversion.tuned.iter().map(|m| (AttentionKind::FAVOR, Some(*m)));
    std::iter::once((AttentionKind::Softmax, None)).chain(favor).collect()
}

/// Continues training the softmax weights for a share of their run's steps; `None` if it was asked to stop.
pub(super) fn fine_tune(
    context: &mut Context,
    plan: &Plan,
    data: &Datasets,
    quality: &Quality,
    variant: AttentionKind,
    features: Option<usize>,
) -> Result<Option<FineTuned>> {
    let baseline = Baseline::load(context, plan, data, quality)?;
    let steps = ((baseline.steps as f64 * plan.conversion.share) as u64).max(1);
    let seed = plan.config.train.seed;
    let m = features.unwrap_or(plan.config.unet.favor.features);
    let model = converted(&baseline.model, &plan.config.unet, variant, m, seed, 0)?;
    let config = fine_tuning(plan, &model.config, steps);
    let name = features.map_or(variant.to_string(), |m| format!("{variant}-{m}"));
    let folder = context.out.join("conversion").join(name);
    let begin = |folder: &Path, config: &Config| fine_tune::begin_from(folder, config, &model);
    let training = train(context, &folder, &data.train, &config, begin)?;
    let Some(training) = training else { return Ok(None) };
    let mut tuned = FineTuned { variant, features, training, measured: BesideSoftmax::default() };
    if tuned.training.diverged.is_none() {
        (context.progress)(1.0, "measuring the model");
        let loaded = model_folder::load::<f32>(&folder)?;
        let mut subject = Subject::new(context, loaded.model, &loaded.diffusion, seed)?;
        tuned.measured = measure(&mut subject, plan, &baseline)?.measured;
    }
    Ok(Some(tuned))
}

/// The configuration of fine-tuning for so many steps.
fn fine_tuning(plan: &Plan, unet: &UnetConfig, steps: u64) -> Config {
    let mut config = plan.config.clone();
    config.unet = unet.clone();
    fine_tune::settings(&mut config.train, Some(steps));
    Budget::Steps(steps).give(&mut config);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two draws whose losses differ by 2 for every image have a standard error of 1, combined with 0.75 over
    /// images. Exact up to rounding.
    #[test]
    fn the_error_holds_images_and_draws() {
        let over_images = Estimate { mean: 3.0, standard_error: 0.75 };
        let draws = [vec![1.0, 2.0, 3.0], vec![3.0, 4.0, 5.0]];
        let both = with_draws(over_images, &draws);
        assert_eq!(both.mean, 3.0);
        assert!((both.standard_error - 1.25).abs() < 1e-12, "{both:?}");
        assert_eq!(with_draws(over_images, &draws[..1]), over_images);
    }
}
