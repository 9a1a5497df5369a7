//! The variational bound (17) on held-out images, in bits per dimension: L_T, every L_{t-1}, L_0, their sum,
//! and the error of the predicted x_0 at each rate (Ho et al. 2020, section 4.3).
//!
//! The terms are those of [`crate::equations::bound`]. The sum over t of an image is estimated from one
//! timestep of each stratum (from all timesteps where each stratum has only one), drawn anew for each image
//! and draw. So the spread of the images' sums includes every source of error: the choice of images, the
//! noise of x_t, and the timesteps that were not evaluated.

mod strata;
mod tally;

use super::images;
use crate::config::VarianceKind;
use crate::data::Dataset;
use crate::equations::bound::{bits_per_dim, eq17_decoder_term, eq17_middle_term, eq17_prior_term};
use crate::equations::forward::{eq03_predict_x0, eq03_q_sample};
use crate::equations::loss::eq21_l_simple;
use crate::equations::reverse::{Reverse, clip};
use crate::equations::{Level, Schedule, Timestep};
use crate::error::{Error, Result};
use crate::kernels::Element;
use crate::machine;
use crate::model::{Engine, Model};
use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};
use crate::sample::Pipeline;
use ndarray::ArrayView2;
use rand::RngExt;
use rayon::prelude::*;
use tally::Tally;

pub use tally::{Bound, Likelihood, RatePoint, Term};

/// At which of t = 2..T the terms L_{t-1} are evaluated, for each image and draw; L_0 and L_T always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timesteps {
    /// At all of them.
    Full,
    /// At one timestep drawn from each of this many strata, which are wider for larger t; with T - 1 or more,
    /// at all of them.
    Stratified(usize),
}

/// What to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NllConfig {
    /// Independent evaluations of each image, at least 1; from 2 on, the error due to noise is estimated
    /// separately.
    pub draws: usize,
    /// The timesteps.
    pub timesteps: Timesteps,
    /// Whether the predicted x_0 is clipped to [-1, 1] before the reverse mean is formed, as the code of Ho
    /// et al. does.
    pub clip_x0: bool,
    /// The seed of noises and timesteps.
    pub seed: u64,
    /// Predictions made together; this changes only memory and speed.
    pub batch: usize,
}

impl Default for NllConfig {
    fn default() -> Self {
        NllConfig { draws: 1, timesteps: Timesteps::Stratified(32), clip_x0: true, seed: 0, batch: 64 }
    }
}

/// Both kinds of reverse variance (7), which share one network's predictions.
pub const VARIANCES: [VarianceKind; 2] = [VarianceKind::FixedSmall, VarianceKind::FixedLarge];

/// One evaluation: an image, a draw of its noise, a slot (0 for L_0, then the strata) and the timestep in it.
struct Job<'a> {
    image: usize,
    slot: usize,
    first: usize,
    width: usize,
    draw: u64,
    level: &'a Level,
}

/// The result of an evaluation.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// The slot's part of the bound with each of [`VARIANCES`], in nats: for a stratum, its number of
    /// timesteps times one term.
    nats: [f64; 2],
    /// The part of it that a receiver has got by the time it has x_t, as a mean over the t of the stratum, in
    /// nats.
    received: [f64; 2],
    /// The mean of |eps - eps_theta|^2.
    eps_mse: f64,
    /// The mean squared error of the predicted x_0, in [-1, 1].
    x0_mse: f64,
}

/// The bound of a pipeline's model on all images of a dataset.
///
/// # Errors
/// As [`bound`], and [`Error::Invalid`] for a pipeline in a runtime and for a network that does not predict
/// eps.
pub fn likelihood(
    pipeline: &mut Pipeline,
    dataset: &Dataset,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    let diffusion = pipeline.source()?.diffusion;
    if !diffusion.prediction.is_epsilon() || diffusion.zero_terminal_snr {
        let (prediction, zero) = (diffusion.prediction, diffusion.zero_terminal_snr);
        return Err(Error::invalid(
            "the bound",
            "a network that predicts eps, trained without zero terminal SNR",
            format!("prediction {prediction:?}, zero terminal SNR {zero}"),
            "compare the model's samples with images instead",
        ));
    }
    let ([h, w, c], [height, width, channels]) = (dataset.shape(), pipeline.image());
    if [h, w, c] != [height, width, channels] {
        return Err(Error::invalid(
            "the images",
            format!("{height}x{width}x{channels}, as the network's"),
            format!("{h}x{w}x{c}"),
            "evaluate on data of the size that the model was trained with",
        ));
    }
    let all: Vec<usize> = (0..dataset.len()).collect();
    let images = images::<f32>(dataset, &all)?;
    let schedule = pipeline.diffusion().schedule.clone();
    let (model, engine) = pipeline.engine()?;
    bound(model, engine, &schedule, images.view(), config, observer)
}

/// The bound of a model on `images` \[n, h w c\] in [-1, 1]; `observer` gets the finished share.
///
/// # Errors
/// As [`bound_by`], and [`Error::Invalid`] for images of another size than the network's.
pub fn bound<T: Element>(
    model: &Model<T>,
    engine: &mut Engine<T>,
    schedule: &Schedule,
    images: ArrayView2<T>,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    if model.input_len() != images.ncols() || model.output_len() != images.ncols() {
        return Err(Error::invalid(
            "the images",
            format!("{}, as the network's", model.graph.shape(model.graph.input)),
            format!("{} numbers each", images.ncols()),
            "evaluate on data of the size that the model was trained with",
        ));
    }
    let mut indices = Vec::new();
    let eps_theta = |x: &[T], t: &[Timestep], out: &mut [T]| {
        indices.clear();
        indices.extend(t.iter().map(|t| t.index()));
        engine.forward(model, x, &indices, out)
    };
    bound_by(eps_theta, schedule, images, config, observer)
}

/// The bound of any noise prediction `eps_theta(x_t, t, out)` for a batch x_t \[n, dims\] and its n
/// timesteps.
///
/// # Errors
/// [`Error::Invalid`] for fewer than two images, numbers that are not finite, no draws, no strata or a batch
/// of 0; [`Error::NotFinite`] for a
/// prediction that is not finite; those of `eps_theta`.
pub fn bound_by<T: Real>(
    mut eps_theta: impl FnMut(&[T], &[Timestep], &mut [T]) -> Result<()>,
    schedule: &Schedule,
    images: ArrayView2<T>,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    let (count, dims) = images.dim();
    check(images, config)?;
    let images = images.as_standard_layout();
    let image = |i: usize| -> &[T] { images.row(i).to_slice().unwrap_or_default() };
    let strata = strata::strata(schedule.steps(), config.timesteps);
    let mut tally = Tally::new(schedule, &strata, config, dims);
    let per_image = config.draws * (strata.len() + 1);
    let total = count * per_image;
    let batch = config.batch.min(total);
    let zeros = || machine::filled("`NllConfig::batch`", &[batch, dims], T::zero());
    let (mut x, mut eps, mut predicted) = (zeros()?, zeros()?, zeros()?);
    for first in (0..total).step_by(batch) {
        let jobs: Vec<Job> = (first..total.min(first + batch))
            .map(|index| job(index, per_image, schedule, &strata, config.seed))
            .collect();
        let len = jobs.len() * dims;
        let (x, eps, predicted) = (&mut x[..len], &mut eps[..len], &mut predicted[..len]);
        x.par_chunks_mut(dims).zip(eps.par_chunks_mut(dims)).zip(&jobs).for_each(|((x, eps), job)| {
            let step = upper(job.draw) | job.level.t.get() as u64;
            fill_normal(&mut rng(config.seed, Stream::BoundNoise, step, job.image as u64), eps);
            eq03_q_sample(image(job.image), eps, job.level.alpha_bar, x);
        });
        let t: Vec<Timestep> = jobs.iter().map(|job| job.level.t).collect();
        eps_theta(x, &t, predicted)?;
        let found: Vec<Result<Found>> =
            (&jobs, x.par_chunks(dims), eps.par_chunks(dims), predicted.par_chunks(dims))
                .into_par_iter()
                .map(|(job, x, eps, predicted)| {
                    evaluate(job, image(job.image), x, eps, predicted, config.clip_x0)
                })
                .collect();
        for (job, found) in jobs.iter().zip(found) {
            tally.add(job.slot, found?);
            if tally.image_is_complete() {
                tally.finish_image(eq17_prior_term(image(job.image), schedule.last()));
            }
        }
        observer((first + jobs.len()) as f64 / total as f64);
    }
    Ok(tally.finish(count))
}

/// The most evaluations of an image: a draw's number has 32 bits of the random numbers' key, and all of a
/// draw's sums are in memory.
const MOST_DRAWS: usize = 1 << 20;

fn check<T: Real>(images: ArrayView2<T>, config: &NllConfig) -> Result<()> {
    let strata = match config.timesteps {
        Timesteps::Full => 1,
        Timesteps::Stratified(strata) => strata,
    };
    let ranges = [
        ("held-out images", images.nrows(), 2..=1 << 32, "the error is estimated from their spread"),
        ("the images' numbers", images.ncols(), 1..=1 << 32, ""),
        ("`NllConfig::draws`", config.draws, 1..=MOST_DRAWS, ""),
        ("`NllConfig::timesteps`", strata, 1..=usize::MAX, ""),
        ("`NllConfig::batch`", config.batch, 1..=usize::MAX, ""),
    ];
    if let Some((what, got, range, help)) = ranges.into_iter().find(|(_, got, range, _)| !range.contains(got))
    {
        let expected = match *range.end() {
            usize::MAX => format!("at least {}", range.start()),
            most => format!("at least {} and at most {most}", range.start()),
        };
        return Err(Error::invalid(what, expected, got.to_string(), help));
    }
    match images.indexed_iter().find(|(_, x)| !x.is_finite()) {
        None => Ok(()),
        Some(((image, _), x)) => {
            Err(Error::invalid(format!("held-out image {image}"), "finite numbers", x.f64().to_string(), ""))
        }
    }
}

/// The draw, in the upper bits of a step of [`rng`].
fn upper(draw: u64) -> u64 {
    draw << 32
}

/// The `index`-th evaluation, ordered by image, then draw, then slot.
fn job<'a>(
    index: usize,
    per_image: usize,
    schedule: &'a Schedule,
    strata: &[(usize, usize)],
    seed: u64,
) -> Job<'a> {
    let (image, within) = (index / per_image, index % per_image);
    let slots = strata.len() + 1;
    let (draw, slot) = ((within / slots) as u64, within % slots);
    let (first, last) = if slot == 0 { (1, 1) } else { strata[slot - 1] };
    let t = if first == last {
        first
    } else {
        let step = upper(draw) | slot as u64;
        rng(seed, Stream::Stratum, step, image as u64).random_range(first..=last)
    };
    Job { image, slot, first, width: last - first + 1, draw, level: &schedule.levels()[t - 1] }
}

fn evaluate<T: Real>(
    job: &Job,
    x0: &[T],
    x_t: &[T],
    eps: &[T],
    predicted: &[T],
    clip_x0: bool,
) -> Result<Found> {
    let level = job.level;
    if !predicted.iter().all(|x| x.is_finite()) {
        return Err(Error::NotFinite {
            what: format!("the predicted noise at t = {}", level.t),
            step: level.t.get() as u64,
            help: "the weights are damaged or training diverged".to_owned(),
        });
    }
    let term = |variance: VarianceKind| {
        let reverse = Reverse { variance, clip_x0 };
        if level.is_first() {
            eq17_decoder_term(x0, x_t, predicted, level, reverse)
        } else {
            job.width as f64 * eq17_middle_term(x0, x_t, predicted, level, reverse)
        }
    };
    let mut x0_hat = vec![T::zero(); x0.len()];
    eq03_predict_x0(x_t, predicted, level.alpha_bar, &mut x0_hat);
    if clip_x0 {
        x0_hat.iter_mut().for_each(|x| *x = clip(*x));
    }
    let nats = VARIANCES.map(term);
    // For the timesteps s of the stratum below t, this term was received before x_s.
    let below = (level.t.get() - job.first) as f64 / job.width as f64;
    Ok(Found {
        nats,
        received: nats.map(|nats| below * nats),
        eps_mse: eq21_l_simple(eps, predicted),
        x0_mse: eq21_l_simple(x0, &x0_hat),
    })
}

/// Bits per dimension from nats per image.
fn bits(dims: usize) -> f64 {
    bits_per_dim(1.0, dims)
}
