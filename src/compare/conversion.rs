//! What it costs to run trained softmax weights with FAVOR+ in place, and what a short fine-tuning restores.

use super::context::Context;
use super::measure::{Subject, loss_above, or_note, rms_difference, write_grid};
use super::plan::{Budget, Plan};
use super::runs;
use super::training::{Training, train};
use super::variant::Variant;
use crate::checkpoint::{model_folder, state};
use crate::config::{Config, DiffusionConfig, LrDecay, UnetConfig};
use crate::data::{Dataset, Datasets};
use crate::error::{Error, Result};
use crate::evaluate::Estimate;
use crate::model::Model;
use ndarray::{Array4, Axis, concatenate};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Softmax weights with one kind of attention in their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InPlace {
    /// The attention.
    pub variant: Variant,
    /// m.
    pub features: usize,
    /// The held-out loss, the mean over draws of the projections.
    pub held_out_loss: Option<f64>,
    /// How much it is above softmax's, image by image on the same t and eps.
    pub above_softmax: Option<Estimate>,
    /// The bound in bits per dimension, of the first draw of the projections.
    pub bits_per_dim: Option<Estimate>,
    /// The root mean square difference of samples from softmax's, from the same noise, in units where images span -1 to 1.
    pub sample_difference: Option<f64>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// Softmax weights trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuned {
    /// The attention: FAVOR+, or softmax itself, which shows what the further steps alone do.
    pub variant: Variant,
    /// m; `None` for softmax.
    pub features: Option<usize>,
    /// How training went.
    pub training: Training,
    /// The held-out loss afterwards.
    pub held_out_loss: Option<f64>,
    /// How much it is above that of the softmax weights before, image by image.
    pub above_softmax: Option<Estimate>,
    /// The bound afterwards, in bits per dimension.
    pub bits_per_dim: Option<Estimate>,
    /// The samples' difference from those of the softmax weights.
    pub sample_difference: Option<f64>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
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
    /// FAVOR+ in place.
    pub in_place: Vec<InPlace>,
    /// The m whose samples are rows of the grid, after softmax's own.
    pub grid_rows: Vec<usize>,
    /// After fine-tuning; filled as the runs finish.
    pub fine_tuned: Vec<FineTuned>,
}

/// The name of the grid: a row of softmax's samples, then a row for each m.
pub(super) const GRID: &str = "conversion";

/// The maps that estimate softmax's kernel by positive numbers.
const MAPS: [Variant; 2] = [Variant::Favor, Variant::FavorHyperbolic];

/// A softmax network with another attention and the same weights; `draw` counts draws of the projections.
///
/// # Errors
/// [`Error::Invalid`] if the two networks have other parameters, which attention never adds.
fn converted(
    softmax: &Model<f32>,
    base: &UnetConfig,
    variant: Variant,
    features: usize,
    seed: u64,
    draw: u64,
) -> Result<Model<f32>> {
    let mut unet = variant.of(base);
    unet.favor.features = features;
    let mut model = Model::<f32>::new(&unet, seed)?;
    let names = |model: &Model<f32>| model.graph.params.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    if names(&model) != names(softmax) {
        return Err(Error::invalid(
            "the converted network",
            "the softmax network's parameters",
            "others",
            "",
        ));
    }
    model.weights.clone_from(&softmax.weights);
    model.draw_projections(seed, draw)?;
    Ok(model)
}

/// The softmax model and what conversions are compared with.
struct Baseline {
    model: Model<f32>,
    diffusion: DiffusionConfig,
    samples: Array4<f32>,
    losses: Vec<f64>,
    bits_per_dim: Estimate,
    steps: u64,
}

impl Baseline {
    fn load(context: &mut Context, plan: &Plan, data: &Datasets) -> Result<Baseline> {
        let loaded = model_folder::load::<f32>(&runs::folder(&context.out, Variant::Softmax))?;
        let seed = plan.config.train.seed;
        let mut subject = Subject::new(context, loaded.model.clone(), &loaded.diffusion, seed)?;
        let images = data.test.as_ref().unwrap_or(&data.train);
        Ok(Baseline {
            losses: subject.held_out_losses(images, plan.measuring.images)?,
            bits_per_dim: bits_per_dim(&mut subject, plan, images)?,
            samples: subject.samples(plan.conversion.samples, plan.measuring.steps)?,
            model: loaded.model,
            diffusion: loaded.diffusion,
            steps: loaded.step.unwrap_or(1),
        })
    }
}

/// The bound with the plan's reverse variance.
fn bits_per_dim(subject: &mut Subject, plan: &Plan, images: &Dataset) -> Result<Estimate> {
    let sizes = &plan.conversion;
    let likelihood = subject.likelihood(images, sizes.images, sizes.timesteps, &mut |_| {})?;
    Ok(likelihood.of(plan.config.diffusion.variance).bits_per_dim)
}

/// Measures the softmax weights with FAVOR+ in place; `None` where it was asked to stop.
pub(super) fn in_place(context: &mut Context, plan: &Plan, data: &Datasets) -> Result<Option<Conversion>> {
    (context.progress)(0.0, "the softmax weights");
    let baseline = Baseline::load(context, plan, data)?;
    let images = data.test.as_ref().unwrap_or(&data.train);
    let (sizes, seed) = (&plan.conversion, plan.config.train.seed);
    let mut conversion = Conversion {
        softmax_loss: Estimate::of(baseline.losses.iter().copied()),
        softmax_bits_per_dim: baseline.bits_per_dim,
        softmax_steps: baseline.steps,
        in_place: Vec::new(),
        grid_rows: Vec::new(),
        fine_tuned: Vec::new(),
    };
    let mut rows = vec![baseline.samples.clone()];
    let total = (MAPS.len() * sizes.features.len()) as f64;
    for variant in MAPS {
        for &features in &sizes.features {
            if (context.stop)() {
                return Ok(None);
            }
            let done = conversion.in_place.len() as f64 / total;
            (context.progress)(done, &format!("{variant} in place, m = {features}"));
            let mut notes = Vec::new();
            let mut sums = vec![0.0; baseline.losses.len()];
            let mut draws = 0.0;
            let mut first_bits = None;
            let mut samples = None;
            for draw in 0..sizes.draws as u64 {
                let model = converted(&baseline.model, &plan.config.unet, variant, features, seed, draw)?;
                let mut subject = Subject::new(context, model, &baseline.diffusion, seed)?;
                match or_note(subject.held_out_losses(images, plan.measuring.images))? {
                    Ok(losses) => {
                        draws += 1.0;
                        sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
                    }
                    Err(note) => notes.push(note),
                }
                if draw == 0 {
                    match or_note(bits_per_dim(&mut subject, plan, images))? {
                        Ok(bits) => first_bits = Some(bits),
                        Err(note) => notes.push(note),
                    }
                    match or_note(subject.samples(sizes.samples, plan.measuring.steps))? {
                        Ok(images) => samples = Some(images),
                        Err(note) => notes.push(note),
                    }
                }
            }
            let losses: Vec<f64> = sums.iter().map(|sum| sum / draws).collect();
            let sample_difference = samples.as_ref().map(|images| rms_difference(images, &baseline.samples));
            if let (Some(images), Variant::Favor) = (samples, variant) {
                rows.push(images);
                conversion.grid_rows.push(features);
            }
            conversion.in_place.push(InPlace {
                variant,
                features,
                held_out_loss: (draws > 0.0).then(|| Estimate::of(losses.iter().copied()).mean),
                above_softmax: (draws > 0.0).then(|| loss_above(&losses, &baseline.losses)),
                bits_per_dim: first_bits,
                sample_difference,
                notes,
            });
        }
    }
    let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
    let grid = concatenate(Axis(0), &views).expect("rows of the same images");
    write_grid(&context.image(GRID), &grid)?;
    Ok(Some(conversion))
}

/// What is fine-tuned: softmax itself, then FAVOR+ at each m.
pub(super) fn to_fine_tune(plan: &Plan) -> Vec<(Variant, Option<usize>)> {
    let favor = plan.conversion.tuned.iter().map(|m| (Variant::Favor, Some(*m)));
    std::iter::once((Variant::Softmax, None)).chain(favor).collect()
}

/// Trains the softmax weights on for a share of their run's steps; `None` where it was asked to stop.
pub(super) fn fine_tune(
    context: &mut Context,
    plan: &Plan,
    data: &Datasets,
    variant: Variant,
    features: Option<usize>,
) -> Result<Option<FineTuned>> {
    let baseline = Baseline::load(context, plan, data)?;
    let steps = ((baseline.steps as f64 * plan.conversion.share) as u64).max(1);
    let seed = plan.config.train.seed;
    let m = features.unwrap_or(plan.config.unet.favor.features);
    let model = converted(&baseline.model, &plan.config.unet, variant, m, seed, 0)?;
    let config_of = |steps: u64| fine_tuning(plan, &model.config, steps);
    let name = features.map_or(variant.to_string(), |m| format!("{variant}-{m}"));
    let folder = context.out.join("conversion").join(name);
    let begin = |folder: &Path, config: &Config| start_from(folder, config, &model);
    let training = train(context, &folder, &data.train, Budget::Steps(steps), config_of, begin)?;
    let Some(training) = training else { return Ok(None) };
    let mut tuned = FineTuned {
        variant,
        features,
        training,
        held_out_loss: None,
        above_softmax: None,
        bits_per_dim: None,
        sample_difference: None,
        notes: Vec::new(),
    };
    if tuned.training.diverged.is_some() {
        return Ok(Some(tuned));
    }
    (context.progress)(1.0, "measuring the model");
    let loaded = model_folder::load::<f32>(&folder)?;
    let mut subject = Subject::new(context, loaded.model, &loaded.diffusion, seed)?;
    let images = data.test.as_ref().unwrap_or(&data.train);
    match or_note(subject.held_out_losses(images, plan.measuring.images))? {
        Ok(losses) => {
            tuned.held_out_loss = Some(Estimate::of(losses.iter().copied()).mean);
            tuned.above_softmax = Some(loss_above(&losses, &baseline.losses));
        }
        Err(note) => tuned.notes.push(note),
    }
    match or_note(bits_per_dim(&mut subject, plan, images))? {
        Ok(bits) => tuned.bits_per_dim = Some(bits),
        Err(note) => tuned.notes.push(note),
    }
    match or_note(subject.samples(plan.conversion.samples, plan.measuring.steps))? {
        Ok(samples) => tuned.sample_difference = Some(rms_difference(&samples, &baseline.samples)),
        Err(note) => tuned.notes.push(note),
    }
    Ok(Some(tuned))
}

/// A fifth of the run's rate, falling to its end, on other batches than the run began with.
fn fine_tuning(plan: &Plan, unet: &UnetConfig, steps: u64) -> Config {
    let mut config = plan.config.clone();
    config.unet = unet.clone();
    let train = &mut config.train;
    train.lr /= 5.0;
    train.seed = train.seed.wrapping_add(1);
    train.steps = steps;
    train.warmup_steps = steps / 10;
    train.lr_decay = LrDecay::Linear { steps };
    config
}

/// Puts a checkpoint of step 0 with the model's numbers into a run's folder.
fn start_from(folder: &Path, config: &Config, model: &Model<f32>) -> Result<()> {
    let zeros = vec![0.0; model.weights.len()];
    let state = state::TrainingState {
        config: config.clone(),
        step: 0,
        images_seen: 0,
        metrics_len: 0,
        weights: model.weights.clone(),
        ema: model.weights.clone(),
        first_moment: zeros.clone(),
        second_moment: zeros,
        projections: model.projections.clone(),
    };
    state::save(folder, &state)?;
    Ok(())
}
