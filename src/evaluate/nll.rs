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
use crate::config::{ClassEmbedding, VarianceKind};
use crate::data::Dataset;
use crate::equations::bound::{
    bits_per_dim, eq17_decoder_term_around, eq17_middle_term_around, eq17_prior_term, widen,
};
use crate::equations::forward::eq03_q_sample;
use crate::equations::loss::eq21_l_simple;
use crate::equations::objective::{LearnedRange, Parameterisation};
use crate::equations::solver::{Method, Outputs, Variance};
use crate::equations::{Level, Schedule, Timestep};
use crate::error::{Error, Result};
use crate::group::{Group, Solo, agreed, shares};
use crate::kernels::Element;
use crate::machine;
use crate::model::{Condition, Engine, Model};
use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};
use crate::sample::Pipeline;
use ndarray::ArrayView2;
use rand::RngExt;
use rayon::prelude::*;
use std::ops::Range;
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
    /// Whether [`likelihood`] bounds p(x_0) given each image's class, for a network with classes; for one
    /// without a null class it does so in any case.
    pub given_class: bool,
    /// The seed of noises and timesteps.
    pub seed: u64,
    /// Predictions made together; this changes only memory and speed.
    pub batch: usize,
}

impl Default for NllConfig {
    fn default() -> Self {
        NllConfig {
            draws: 1,
            timesteps: Timesteps::Stratified(32),
            clip_x0: true,
            given_class: false,
            seed: 0,
            batch: 64,
        }
    }
}

/// Both kinds of reverse variance (7), which share one network's predictions.
pub const VARIANCES: [VarianceKind; 2] = [VarianceKind::FixedSmall, VarianceKind::FixedLarge];

/// The reverse variances of which sums are kept: those of [`VARIANCES`], and the network's own, which is 0
/// throughout where it has none.
const KINDS: [Variance; 3] = [Variance::FixedSmall, Variance::FixedLarge, Variance::LearnedRange];

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
    /// The slot's part of the bound with each of [`KINDS`], in nats: for a stratum, its number of timesteps
    /// times one term.
    nats: [f64; KINDS.len()],
    /// The part of it that a receiver has got by the time it has x_t, as a mean over the t of the stratum, in
    /// nats.
    received: [f64; KINDS.len()],
    /// The mean of |eps - eps_theta|^2.
    eps_mse: f64,
    /// The mean squared error of the predicted x_0, in [-1, 1].
    x0_mse: f64,
}

impl Found {
    /// How many numbers it is.
    const NUMBERS: usize = 2 * KINDS.len() + 2;

    fn numbers(self) -> [f64; Self::NUMBERS] {
        let ([a, b, c], [d, e, f]) = (self.nats, self.received);
        [a, b, c, d, e, f, self.eps_mse, self.x0_mse]
    }

    fn of_numbers([a, b, c, d, e, f, eps_mse, x0_mse]: [f64; Self::NUMBERS]) -> Found {
        Found { nats: [a, b, c], received: [d, e, f], eps_mse, x0_mse }
    }
}

/// The bound of a pipeline's model on all images of a dataset.
///
/// # Errors
/// As [`bound`], and [`Error::Invalid`] for a pipeline in a runtime, for a network that predicts eps where
/// nothing of x_0 is left in x_T, for one whose second output is the variance itself, and for images of other
/// classes than the network's, or without, where they are to be given.
pub fn likelihood(
    pipeline: &mut Pipeline,
    dataset: &Dataset,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    likelihood_in(&Solo, pipeline, dataset, config, observer)
}

/// The same in the ranks of a group, which share the evaluations out; all have the bound, in the same bits
/// whatever their number.
///
/// # Errors
/// As [`likelihood`], some in the rank alone that finds them.
pub fn likelihood_in(
    group: &dyn Group<f32>,
    pipeline: &mut Pipeline,
    dataset: &Dataset,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    let diffusion = pipeline.source()?.diffusion;
    let says = Parameterisation::from(diffusion);
    let help = "compare the model's samples with images instead";
    if diffusion.prediction.is_epsilon() && diffusion.zero_terminal_snr {
        return Err(Error::invalid(
            "the bound of a process with zero terminal SNR",
            "a network that predicts x_0 or v",
            "one that predicts eps, which says nothing of x_0 where abar = 0",
            help,
        ));
    }
    if let Method::Ddpm { variance: Variance::Learned, .. } = pipeline.diffusion().scheduler.method {
        return Err(Error::invalid(
            "the bound's variance",
            "a fixed one, or a learned one between beta~ and beta (learned_range)",
            "one that is an output of the network (learned), which may be negative",
            help,
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
    let needs_class =
        pipeline.class_embedding().embeds.is_some() && pipeline.class_embedding().null_class().is_none();
    let classes = match config.given_class || needs_class {
        true => Some(classes_of(dataset, pipeline.class_embedding())?),
        false => None,
    };
    let (model, engine) = pipeline.engine()?;
    let told = (images.view(), classes.as_deref());
    bound_in(group, model, engine, (&schedule, says), told, config, observer)
}

/// The class of each image, which the network knows by the same names.
fn classes_of(dataset: &Dataset, known: ClassEmbedding) -> Result<Vec<usize>> {
    let refuse = |expected: String, got: String| {
        let help = "give the data that the model was trained on";
        Err(Error::invalid(format!("{}, the images", dataset.name()), expected, got, help))
    };
    if known.classes() == 0 {
        return Err(Error::invalid(
            "`NllConfig::given_class`",
            "a network with classes",
            "one without",
            "leave it out",
        ));
    }
    let Some(labels) = dataset.labels() else {
        return refuse("a class for each image".to_owned(), "images without labels".to_owned());
    };
    if !known.are(dataset.class_names()) {
        let listed = |names: &[String]| names.join(", ");
        let expected = match known.names {
            [] => format!("{} classes, as the network's", known.classes()),
            names => format!("the network's classes {}", listed(names)),
        };
        return refuse(expected, listed(dataset.class_names()));
    }
    Ok(labels.iter().map(|label| *label as usize).collect())
}

/// The bound of a model on `images` \[n, h w c\] in [-1, 1], with its schedule and what it says of x_t;
/// `observer` gets the finished share. A network with classes is told the null class: the bound is on p(x_0),
/// not on p(x_0) given the class, which is [`bound_given`]'s.
///
/// # Errors
/// As [`bound_by`], and [`Error::Invalid`] for images of another size than the network's.
pub fn bound<T: Element>(
    model: &Model<T>,
    engine: &mut Engine<T>,
    (schedule, says): (&Schedule, Parameterisation),
    images: ArrayView2<T>,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    bound_in(&Solo, model, engine, (schedule, says), (images, None), config, observer)
}

/// The bound on p(x_0) given the class, which the network is told: as [`bound`], with the class of each
/// image.
///
/// # Errors
/// As [`bound`], and [`Error::Invalid`] for not as many classes as images and for one that the network does
/// not know.
pub fn bound_given<T: Element>(
    model: &Model<T>,
    engine: &mut Engine<T>,
    process: (&Schedule, Parameterisation),
    (images, classes): (ArrayView2<T>, &[usize]),
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    bound_in(&Solo, model, engine, process, (images, Some(classes)), config, observer)
}

/// The bound in a group, with the images' classes where the network is to be told them: as [`bound`] and
/// [`bound_given`].
///
/// # Errors
/// Theirs, and [`Error::OtherRank`].
pub(crate) fn bound_in<T: Element>(
    group: &dyn Group<T>,
    model: &Model<T>,
    engine: &mut Engine<T>,
    (schedule, says): (&Schedule, Parameterisation),
    (images, classes): (ArrayView2<T>, Option<&[usize]>),
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    let (len_in, len_out) = (model.input_len(), model.output_len());
    let has_variance = len_out == 2 * len_in;
    let has_output = has_variance || (len_out == len_in && !says.learned_range);
    if len_in != images.ncols() || !has_output {
        return Err(Error::invalid(
            "the images",
            format!("{}, as the network's", model.graph.shape(model.graph.input)),
            format!("{} numbers each", images.ncols()),
            "evaluate on data of the size that the model was trained with",
        ));
    }
    let null = model.config.null_class();
    let known = model.config.num_class_embeds.unwrap_or(0);
    match classes {
        Some(classes) if classes.len() != images.nrows() => {
            let expected = format!("{}, one for each image", images.nrows());
            return Err(Error::invalid("the images' classes", expected, classes.len().to_string(), ""));
        }
        Some(classes) => {
            if let Some(class) = classes.iter().find(|class| **class >= known) {
                let expected = format!("classes that the network knows, of which it has {known}");
                return Err(Error::invalid("the images' classes", expected, class.to_string(), ""));
            }
        }
        None if null.is_none() && known > 0 => {
            return Err(Error::invalid(
                "the bound",
                "a network without classes or with a null class",
                "a network that needs a class for each image",
                "give the images' classes",
            ));
        }
        None => {}
    }
    let channels = model.graph.shape(model.graph.output).c;
    let (mut conditions, mut both) = (Vec::new(), Vec::new());
    let network = |x: &[T], t: &[Timestep], of: &[usize], mut outputs: Outputs<T>| {
        conditions.clear();
        let class = |image: &usize| classes.map_or(null, |classes| classes.get(*image).copied());
        let told = t.iter().zip(of).map(|(t, of)| Condition { index: t.index(), class: class(of) });
        conditions.extend(told);
        if !has_variance {
            return engine.forward(model, x, &conditions, outputs.prediction);
        }
        both.resize(t.len() * len_out, T::zero());
        engine.forward(model, x, &conditions, &mut both)?;
        outputs.split(&both, channels);
        Ok(())
    };
    bound_of(group, network, (schedule, says), images, config, observer)
}

/// The bound of anything that says of a batch x_t \[n, dims\] and its n timesteps what a network says:
/// `network(x_t, t, outputs)` writes the prediction and, where it is learned, the variance.
///
/// # Errors
/// [`Error::Invalid`] for fewer than two images, numbers that are not finite, no draws, no strata or a batch
/// of 0; [`Error::NotFinite`] for a
/// prediction that is not finite; those of `network`.
pub fn bound_by<T: Real>(
    mut network: impl FnMut(&[T], &[Timestep], Outputs<T>) -> Result<()>,
    process: (&Schedule, Parameterisation),
    images: ArrayView2<T>,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    bound_of(&Solo, |x, t, _, outputs| network(x, t, outputs), process, images, config, observer)
}

/// The same in a group, where the network is also told of which image each x_t is.
fn bound_of<T: Real>(
    group: &dyn Group<T>,
    mut network: impl FnMut(&[T], &[Timestep], &[usize], Outputs<T>) -> Result<()>,
    (schedule, says): (&Schedule, Parameterisation),
    images: ArrayView2<T>,
    config: &NllConfig,
    observer: &mut dyn FnMut(f64),
) -> Result<Likelihood> {
    let (count, dims) = images.dim();
    check(images, config)?;
    let images = images.as_standard_layout();
    let image = |i: usize| -> &[T] { images.row(i).to_slice().unwrap_or_default() };
    let strata = strata::strata(schedule.steps(), config.timesteps);
    let mut tally = Tally::new(schedule, &strata, config, dims, says.learned_range);
    let per_image = config.draws * (strata.len() + 1);
    let total = count * per_image;
    let batch = config.batch.min(total);
    let zeros = || machine::filled("`NllConfig::batch`", &[batch, dims], T::zero());
    let (mut x, mut eps, mut predicted, mut variance) = (zeros()?, zeros()?, zeros()?, zeros()?);
    for first in (0..total).step_by(batch * group.ranks()) {
        let count = (total - first).min(batch * group.ranks());
        let shares = shares(count, group.ranks());
        let job = |index| job(index, per_image, schedule, &strata, config.seed);
        let own = shares[group.rank()].clone();
        let jobs: Vec<Job> = own.map(|index| job(first + index)).collect();
        let len = jobs.len() * dims;
        let (x, eps, predicted) = (&mut x[..len], &mut eps[..len], &mut predicted[..len]);
        let variance = &mut variance[..len];
        x.par_chunks_mut(dims).zip(eps.par_chunks_mut(dims)).zip(&jobs).for_each(|((x, eps), job)| {
            let step = upper(job.draw) | job.level.t.get() as u64;
            fill_normal(&mut rng(config.seed, Stream::BoundNoise, step, job.image as u64), eps);
            eq03_q_sample(image(job.image), eps, job.level.alpha_bar, x);
        });
        let t: Vec<Timestep> = jobs.iter().map(|job| job.level.t).collect();
        let of: Vec<usize> = jobs.iter().map(|job| job.image).collect();
        let outputs = Outputs { prediction: &mut *predicted, variance: &mut *variance };
        let said = if jobs.is_empty() { Ok(()) } else { network(x, &t, &of, outputs) };
        let found = said.and_then(|()| {
            (
                &jobs,
                x.par_chunks(dims),
                eps.par_chunks(dims),
                predicted.par_chunks(dims),
                variance.par_chunks(dims),
            )
                .into_par_iter()
                .map(|(job, x, eps, predicted, variance)| {
                    let drawn = [image(job.image), x, eps];
                    evaluate(job, says, drawn, [predicted, variance], config.clip_x0)
                })
                .collect::<Result<Vec<Found>>>()
        });
        for (index, found) in (first..).zip(of_all(group, agreed(group, found)?, &shares)) {
            let job = job(index);
            tally.add(job.slot, found);
            if tally.image_is_complete() {
                tally.finish_image(eq17_prior_term(image(job.image), schedule.last()));
            }
        }
        observer((first + count) as f64 / total as f64);
    }
    Ok(tally.finish(count))
}

/// What every rank has found in its share, in their order.
fn of_all<T>(group: &dyn Group<T>, found: Vec<Found>, shares: &[Range<usize>]) -> Vec<Found> {
    if group.ranks() == 1 {
        return found;
    }
    let count = shares.last().map_or(0, |share| share.end);
    let mut all = vec![[0.0; Found::NUMBERS]; count];
    let own = &mut all[shares[group.rank()].clone()];
    own.iter_mut().zip(found).for_each(|(numbers, found)| *numbers = found.numbers());
    let in_numbers = |share: &Range<usize>| share.start * Found::NUMBERS..share.end * Found::NUMBERS;
    let parts: Vec<Range<usize>> = shares.iter().map(in_numbers).collect();
    group.all_gather_numbers(all.as_flattened_mut(), &parts);
    all.into_iter().map(Found::of_numbers).collect()
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
    says: Parameterisation,
    [x0, x_t, eps]: [&[T]; 3],
    [predicted, variance]: [&[T]; 2],
    clip_x0: bool,
) -> Result<Found> {
    let level = job.level;
    let variance = if says.learned_range { variance } else { &[] };
    if !predicted.iter().chain(variance).all(|x| x.is_finite()) {
        return Err(Error::NotFinite {
            what: format!("what the network predicts at t = {}", level.t),
            step: level.t.get() as u64,
            help: "the weights are damaged or training diverged".to_owned(),
        });
    }
    let zeros = || vec![T::zero(); x0.len()];
    let (mut x0_hat, mut eps_hat) = (zeros(), zeros());
    says.x0(x_t, predicted, level, clip_x0, &mut x0_hat);
    says.eps(x_t, predicted, level, &mut eps_hat);
    let [wide_x0, wide_x_t, wide_predicted] = [x0, x_t, predicted].map(widen);
    let mut mean = vec![0.0; x0.len()];
    says.mean(&wide_x_t, &wide_predicted, level, clip_x0, &mut mean);
    let fixed = |kind: VarianceKind| {
        if level.is_first() {
            eq17_decoder_term_around(&mean, &wide_x0, level, kind)
        } else {
            job.width as f64 * eq17_middle_term_around(&mean, &wide_x0, &wide_x_t, level, kind)
        }
    };
    let learned = || {
        let range = LearnedRange::new(level);
        let mut wide_x0_hat = vec![0.0; x0.len()];
        says.x0(&wide_x_t, &wide_predicted, level, clip_x0, &mut wide_x0_hat);
        let pixels = wide_x0.iter().zip(&wide_x_t).zip(wide_x0_hat.iter().zip(variance));
        let term = |((x0, x_t), (x0_hat, u)): ((&f64, &f64), (&f64, &T))| {
            let [nats, _] = range.o06_term(*x0, *x_t, *x0_hat, u.f64());
            nats
        };
        job.width as f64 * pixels.map(term).sum::<f64>()
    };
    let nats = KINDS.map(|kind| match kind {
        Variance::FixedSmall => fixed(VarianceKind::FixedSmall),
        Variance::FixedLarge => fixed(VarianceKind::FixedLarge),
        Variance::LearnedRange if says.learned_range => learned(),
        Variance::LearnedRange | Variance::Learned => 0.0,
    });
    // For the timesteps s of the stratum below t, this term was received before x_s.
    let below = (level.t.get() - job.first) as f64 / job.width as f64;
    Ok(Found {
        nats,
        received: nats.map(|nats| below * nats),
        eps_mse: eq21_l_simple(eps, &eps_hat),
        x0_mse: eq21_l_simple(x0, &x0_hat),
    })
}

/// Bits per dimension from nats per image.
fn bits(dims: usize) -> f64 {
    bits_per_dim(1.0, dims)
}
