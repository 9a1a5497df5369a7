//! Sampling: Algorithm 2, DDIM and the solvers over batches, image i a function of the seed and i alone.
//!
//! A [`Pipeline`] is the way in. Its [`options`](Pipeline::options) are the defaults that fit the model; what
//! is wanted otherwise is said by struct update:
//!
//! ```no_run
//! use performer_ddpm::sample::{Pipeline, SampleOptions, Sampler};
//! use performer_ddpm::config::VarianceKind;
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! let mut pipeline = Pipeline::load("runs/latest")?;
//! // Algorithm 2 with all T steps, as in the paper.
//! let sampler = Sampler::Ddpm { variance: VarianceKind::FixedSmall };
//! let options = SampleOptions { count: 8, sampler, steps: None, ..pipeline.options() };
//! let images = pipeline.sample_watched(&options, None, |now| {
//!     println!("step {} of {}", now.step, now.steps);
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! A model with classes has images of all of them in turn, or of those that are chosen, and can be led
//! further towards them:
//!
//! ```no_run
//! # use performer_ddpm::sample::{Guidance, Pipeline, SampleOptions};
//! # fn main() -> performer_ddpm::Result<()> {
//! let mut pipeline = Pipeline::load("runs/garments")?;
//! let bag = pipeline.unet().expect("a model folder").find_class("Bag")?;
//! let guidance = Guidance { interval: [0.3, 5.0], ..Guidance::weight(2.0) };
//! let bags = SampleOptions { classes: vec![bag], guidance, ..pipeline.options() };
//! let images = pipeline.sample(&bags)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Pipeline::edit`] uses a model on images that are there: an [`Editor`] varies them, paints parts of them
//! anew and goes from one to another.
//!
//! [`Compute`] says what computes: the engine with so many threads, or ONNX Runtime on a processor or a GPU,
//! with the same images to rounding.
//!
//! Below it, whatever takes a batch from x_T to x_0 is a [`Denoiser`]: the engine ([`Native`]), a graph in an
//! ONNX runtime ([`onnx::OnnxDenoiser`]), or one of your own. [`sample_with`] gives all of them the same
//! numbers.

mod choice;
mod conditions;
pub mod edit;
mod native;
mod noise;
pub mod onnx;
mod pipeline;

pub use crate::equations::Spacing;
pub use crate::equations::ddim::ClipX0;
pub use crate::equations::guidance::Guidance;
pub use choice::{Choice, Family};
pub use conditions::{Classes, Conditions, Passes, images_for};
pub use edit::Editor;
pub use native::{Listener, Native};
pub use pipeline::{Compute, Diffusion, Pipeline, is_onnx};

use crate::config::{Prediction, VarianceKind};
use crate::equations::ddim::Ddim;
use crate::equations::reverse::Reverse;
use crate::equations::solver::{Plan, Scheduler, Step};
use crate::equations::update::ReverseProcess;
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use crate::group::{Group, agreed, shares};
use crate::kernels::Element;
use crate::machine;
use crate::model::{Engine, Model};
use crate::real::Real;
use conditions::Turns;
use ndarray::{Array4, ArrayView5, s};
use noise::Noise;
use std::cell::Cell;
use std::ops::Range;

/// The reverse process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Algorithm 2; with fewer than T steps the betas are computed anew for the kept timesteps.
    Ddpm {
        /// sigma_t^2, equation (7).
        variance: VarianceKind,
    },
    /// DDIM (Song et al. 2021).
    Ddim {
        /// 0 for no noise, 1 for as much as Algorithm 2.
        eta: f64,
    },
    /// Whatever a scheduler's file can say, as [`LoadedModel`](crate::checkpoint::model_folder::LoadedModel)
    /// has it. `spacing` and `clip_x0` of the options are then the scheduler's own and not read.
    Scheduler(Scheduler),
}

/// What to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Number of images.
    pub count: usize,
    /// Images that go through the network together; this changes only memory and speed.
    pub batch: usize,
    /// The seed of x_T and of the noise.
    pub seed: u64,
    /// The reverse process.
    pub sampler: Sampler,
    /// Steps of the reverse process; `None` for all T.
    pub steps: Option<usize>,
    /// Which timesteps are kept when they are fewer than T.
    pub spacing: Spacing,
    /// Whether the predicted x_0 is clipped to [-1, 1] at every step, and which noise DDIM then uses.
    pub clip_x0: ClipX0,
    /// The images' classes: image i is of class `classes[i % classes.len()]`. Where there are none, of all
    /// that the network knows in turn.
    pub classes: Vec<usize>,
    /// How far the images are led towards their classes.
    pub guidance: Guidance,
}

/// The steps that a [`Denoiser`] takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Process {
    /// The slides' algorithm, or DDIM, for a network that predicts eps: executed by its text.
    Text {
        /// The kept timesteps, with their betas computed anew.
        schedule: Schedule,
        /// Algorithm 2 or DDIM.
        reverse: ReverseProcess,
    },
    /// Any other sampler: its table.
    Plan(Plan),
}

impl Process {
    /// The number of steps.
    pub fn steps(&self) -> usize {
        match self {
            Process::Text { schedule, .. } => schedule.steps(),
            Process::Plan(plan) => plan.steps().len(),
        }
    }

    /// The steps as the graphs take them, in the order of sampling.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sampler whose numbers are out of range.
    pub fn table(&self) -> Result<Vec<Step>> {
        match self {
            Process::Text { schedule, reverse } => reverse.steps(schedule),
            Process::Plan(plan) => Ok(plan.steps().to_vec()),
        }
    }

    /// abar before each step, and behind the last one.
    pub fn alpha_bars(&self) -> Vec<f64> {
        match self {
            Process::Text { schedule, .. } => schedule.alpha_bars_down(),
            Process::Plan(plan) => plan.alpha_bars().to_vec(),
        }
    }

    /// Whether any step draws noise.
    pub fn adds_noise(&self) -> bool {
        match self {
            Process::Text { reverse: ReverseProcess::Ddim(ddim), .. } if ddim.eta == 0.0 => false,
            Process::Text { schedule, .. } => schedule.levels().iter().any(|level| !level.is_first()),
            Process::Plan(plan) => plan.steps().iter().any(|step| step.noise.is_some()),
        }
    }

    /// Step `k`, from 0, alone. What the steps before it leave to look back on is lost.
    pub(crate) fn step_alone(&self, k: usize) -> Process {
        match self {
            Process::Text { schedule, reverse } => {
                Process::Text { schedule: schedule.step_alone(schedule.steps() - 1 - k), reverse: *reverse }
            }
            Process::Plan(plan) => Process::Plan(plan.step_alone(k)),
        }
    }

    /// The way up over the same levels, by DDIM (S13), for a network of this kind of prediction.
    pub fn upwards(&self, prediction: Prediction) -> Process {
        let timesteps: Vec<Timestep> = match self {
            Process::Text { schedule, .. } => schedule.levels().iter().rev().map(|level| level.t).collect(),
            Process::Plan(plan) => plan.steps().iter().map(|step| step.t).collect(),
        };
        Process::Plan(Plan::upwards(prediction, &timesteps, &self.alpha_bars()))
    }

    /// The last step alone, for a trial of how much memory one takes.
    fn last_step(&self) -> Result<Process> {
        Ok(match self {
            Process::Text { schedule, reverse } => {
                Process::Text { schedule: schedule.respaced(&[schedule.last().t])?, reverse: *reverse }
            }
            Process::Plan(plan) => Process::Plan(plan.last_step()),
        })
    }
}

impl SampleOptions {
    /// The sampler with its timesteps and its limit: what a sampler graph is made of.
    pub fn scheduler(&self) -> Scheduler {
        match self.choice() {
            Ok(reverse) => Scheduler::of_text(reverse, self.spacing),
            Err(scheduler) => scheduler,
        }
    }

    /// The slides' algorithm or DDIM, or else the scheduler.
    fn choice(&self) -> std::result::Result<ReverseProcess, Scheduler> {
        match self.sampler {
            Sampler::Ddpm { variance } => {
                Ok(ReverseProcess::Alg2(Reverse { variance, clip_x0: self.clip_x0 != ClipX0::Off }))
            }
            Sampler::Ddim { eta } => Ok(ReverseProcess::Ddim(Ddim { eta, clip_x0: self.clip_x0 })),
            Sampler::Scheduler(scheduler) => Err(scheduler),
        }
    }

    /// The same options with Algorithm 2 or DDIM.
    pub fn with_reverse(self, process: ReverseProcess) -> Self {
        let (sampler, clip_x0) = match process {
            ReverseProcess::Alg2(Reverse { variance, clip_x0 }) => {
                let clip = if clip_x0 { ClipX0::RederiveEps } else { ClipX0::Off };
                (Sampler::Ddpm { variance }, clip)
            }
            ReverseProcess::Ddim(Ddim { eta, clip_x0 }) => (Sampler::Ddim { eta }, clip_x0),
        };
        SampleOptions { sampler, clip_x0, ..self }
    }

    /// The same options with a scheduler's sampler in `steps` steps of a model trained with `schedule`, or in
    /// as many as are usual for it. Where it is Algorithm 2 or DDIM over timesteps of their own, the options
    /// say so.
    pub fn with_scheduler(self, scheduler: &Scheduler, schedule: &Schedule, steps: Option<usize>) -> Self {
        let steps = steps.unwrap_or(scheduler.usual_steps(schedule.steps()));
        let options = SampleOptions { steps: Some(steps), spacing: scheduler.spacing, ..self };
        match scheduler.text(schedule, steps) {
            Some(reverse) => options.with_reverse(reverse),
            None => SampleOptions { sampler: Sampler::Scheduler(*scheduler), ..options },
        }
    }

    /// The steps of a model trained with `schedule`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 1 <= steps <= T, and for choices of a scheduler that cannot be.
    pub fn process(&self, schedule: &Schedule) -> Result<Process> {
        self.process_from(schedule, None)
    }

    /// What is left of these steps where x is the x_t of timestep `from`: those below t and one that leads
    /// from t to the highest of them. Without a timestep they are all.
    ///
    /// # Errors
    /// As [`SampleOptions::process`], and for a timestep that the schedule has not.
    pub fn process_from(&self, schedule: &Schedule, from: Option<Timestep>) -> Result<Process> {
        let text = |reverse: ReverseProcess, steps: Option<usize>, spacing: Spacing| {
            let kept = reverse.strided(schedule, steps, spacing)?.begun_at(schedule, from)?;
            Ok(Process::Text { schedule: kept, reverse })
        };
        let scheduler = match self.choice() {
            Ok(reverse) => return text(reverse, self.steps, self.spacing),
            Err(scheduler) => scheduler,
        };
        let steps = self.steps.unwrap_or(schedule.steps());
        match scheduler.text(schedule, steps) {
            Some(reverse) => text(reverse, Some(steps), scheduler.spacing),
            None => Ok(Process::Plan(scheduler.plan_from(schedule, steps, from)?)),
        }
    }

    /// The same options with a sampler that looks at one x_t alone: see [`Scheduler::without_history`].
    #[must_use]
    pub fn without_history(self) -> Self {
        match self.sampler {
            Sampler::Scheduler(scheduler) => {
                SampleOptions { sampler: Sampler::Scheduler(scheduler.without_history()), ..self }
            }
            Sampler::Ddpm { .. } | Sampler::Ddim { .. } => self,
        }
    }

    /// Refuses a count and a batch of 0.
    fn check_numbers(&self) -> Result<()> {
        for (field, number) in [("count", self.count), ("batch", self.batch)] {
            if number == 0 {
                return Err(Error::invalid(format!("`SampleOptions::{field}`"), "at least 1", "0", ""));
            }
        }
        Ok(())
    }
}

/// Fills \[n, h, w, c\] with the fresh noise of the k-th step, counted from 0, which starts at timestep t.
pub type DrawNoise<'a, T> = dyn FnMut(usize, Timestep, &mut [T]) + 'a;

/// Called after the k-th step, counted from 0, with a function that fetches x_t \[n, h, w, c\]; returns
/// whether to go on.
pub type Watch<'a, T> = dyn FnMut(usize, &mut dyn FnMut() -> Result<Vec<T>>) -> bool + 'a;

/// The reverse process of a batch, from x_T to x_0.
pub trait Denoiser<T> {
    /// Height, width and channels of an image.
    fn image(&self) -> [usize; 3];

    /// The classes that it knows.
    fn classes(&self) -> Classes {
        Classes::default()
    }

    /// Replaces x_T by x_0; `x` is \[n, h, w, c\], and `conditions` are of these n images. `z` is called in
    /// the order of the steps, and only where noise is added.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a prediction or an image is not finite; those of the runtime;
    /// [`Error::Invalid`] for steps that it cannot take; [`Error::Stopped`] where `watch` says so.
    fn denoise(
        &mut self,
        process: &Process,
        conditions: &Conditions,
        x: &mut [T],
        z: &mut DrawNoise<T>,
        watch: &mut Watch<T>,
    ) -> Result<()>;
}

impl<T, D: Denoiser<T> + ?Sized> Denoiser<T> for &mut D {
    fn image(&self) -> [usize; 3] {
        (**self).image()
    }

    fn classes(&self) -> Classes {
        (**self).classes()
    }

    fn denoise(
        &mut self,
        process: &Process,
        conditions: &Conditions,
        x: &mut [T],
        z: &mut DrawNoise<T>,
        watch: &mut Watch<T>,
    ) -> Result<()> {
        (**self).denoise(process, conditions, x, z, watch)
    }
}

/// The progress of a sampling run.
pub struct SampleProgress<'a, T> {
    /// The batch, from 0.
    pub batch: usize,
    /// Batches in all.
    pub batches: usize,
    /// Steps done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    fetch: &'a mut dyn FnMut() -> Result<Vec<T>>,
    stopped: &'a Cell<bool>,
}

impl<T> SampleProgress<'_, T> {
    /// x_t of the batch after this step, \[n, h, w, c\]. This copies x_t from the device where it is on one.
    ///
    /// # Errors
    /// Those of the runtime that holds it.
    pub fn x(&mut self) -> Result<Vec<T>> {
        (self.fetch)()
    }

    /// Ends the sampling with [`Error::Stopped`].
    pub fn stop(&self) {
        self.stopped.set(true);
    }
}

/// Samples images \[n, h, w, c\], nominally in [-1, 1], with the engine: [`sample_with`] for [`Native`].
///
/// # Errors
/// As for [`sample_with`], and [`Native::new`]'s.
pub fn sample<T: Element>(
    model: &Model<T>,
    schedule: &Schedule,
    engine: &mut Engine<T>,
    options: &SampleOptions,
    noise: Option<ArrayView5<f32>>,
    observer: impl FnMut(SampleProgress<T>),
) -> Result<Array4<T>> {
    sample_with(&mut Native::new(model, engine)?, schedule, options, noise, observer)
}

/// Samples images \[n, h, w, c\], nominally in [-1, 1].
///
/// `noise` \[K + 1, n, c, h, w\] holds x_T and the noise of the K steps in order, and replaces the seed.
/// `observer` sees every step (where a runtime takes several at a time, the last of them).
///
/// # Errors
/// [`Error::Invalid`] for options or noise that do not fit; those of [`Denoiser::denoise`];
/// [`Error::Stopped`] where `observer` says so.
pub fn sample_with<T: Real>(
    denoiser: &mut dyn Denoiser<T>,
    schedule: &Schedule,
    options: &SampleOptions,
    noise: Option<ArrayView5<f32>>,
    observer: impl FnMut(SampleProgress<T>),
) -> Result<Array4<T>> {
    let all = 0..options.count;
    sample_some(denoiser, schedule, options, noise, all, observer)
}

/// The same in the ranks of a group, each of which makes its share of the images; all ranks return all
/// images, which are those of a group of one. A rank's `observer` sees its own share.
///
/// # Errors
/// As for [`sample_with`] in the rank that finds them, and [`Error::OtherRank`] in the others.
pub fn sample_in<T: Real>(
    group: &dyn Group<T>,
    denoiser: &mut dyn Denoiser<T>,
    schedule: &Schedule,
    options: &SampleOptions,
    noise: Option<ArrayView5<f32>>,
    observer: impl FnMut(SampleProgress<T>),
) -> Result<Array4<T>> {
    if group.ranks() == 1 {
        return sample_with(denoiser, schedule, options, noise, observer);
    }
    let [h, w, c] = denoiser.image();
    let shares = shares(options.count, group.ranks());
    let own = shares[group.rank()].clone();
    let images = agreed(group, sample_some(denoiser, schedule, options, noise, own.clone(), observer))?;
    let mut all = Array4::from_elem((options.count, h, w, c), T::zero());
    all.slice_mut(s![own, .., .., ..]).assign(&images);
    let parts: Vec<_> = shares.into_iter().map(|part| part.start * h * w * c..part.end * h * w * c).collect();
    group.all_gather(all.as_slice_mut().expect("images of standard layout"), &parts);
    Ok(all)
}

/// Some of the images, each the same as among all.
fn sample_some<T: Real>(
    denoiser: &mut dyn Denoiser<T>,
    schedule: &Schedule,
    options: &SampleOptions,
    noise: Option<ArrayView5<f32>>,
    which: Range<usize>,
    observer: impl FnMut(SampleProgress<T>),
) -> Result<Array4<T>> {
    options.check_numbers()?;
    let process = options.process(schedule)?;
    let turns = Turns::new(denoiser.classes(), options, schedule)?;
    let steps = process.steps();
    let [h, w, c] = denoiser.image();
    let noise = noise.map_or(Noise::Seed(options.seed), Noise::Array);
    noise.check(steps, options.count, [h, w, c])?;
    let (first, count) = (which.start, which.len());
    let mut images = machine::filled("`SampleOptions::count`", &[count, h, w, c], T::zero())?;
    if h * w * c == 0 {
        return Err(Error::invalid("the denoiser's images", "at least one number each", "none", ""));
    }
    noise.start(first, h * w * c, &mut images);
    denoise_batches(denoiser, (&process, &turns), options, (noise, first), &mut images, observer)?;
    Ok(Array4::from_shape_vec((count, h, w, c), images).expect("as many numbers as count images have"))
}

/// Takes the steps of a process for images `x` \[n, h, w, c\], a batch at a time, with the noise of the
/// images from some number on.
fn denoise_batches<T: Real>(
    denoiser: &mut dyn Denoiser<T>,
    (process, turns): (&Process, &Turns),
    options: &SampleOptions,
    (noise, first_image): (Noise, usize),
    x: &mut [T],
    mut observer: impl FnMut(SampleProgress<T>),
) -> Result<()> {
    let (len, steps) = (denoiser.image().iter().product::<usize>(), process.steps());
    let size = options.batch.min(x.len() / len).max(1);
    let batches = x.len().div_ceil(size * len);
    let stopped = Cell::new(false);
    for (batch, x) in x.chunks_mut(size * len).enumerate() {
        let first = first_image + batch * size;
        let mut z = |k: usize, t: Timestep, out: &mut [T]| noise.step(k, t, first, len, out);
        let mut watch = |k: usize, fetch: &mut dyn FnMut() -> Result<Vec<T>>| {
            observer(SampleProgress { batch, batches, step: k + 1, steps, fetch, stopped: &stopped });
            !stopped.get()
        };
        let conditions = turns.of(first, x.len() / len);
        denoiser.denoise(process, &conditions, x, &mut z, &mut watch)?;
        if stopped.get() {
            return Err(Error::Stopped);
        }
    }
    Ok(())
}
