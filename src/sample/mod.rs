//! Sampling: Algorithm 2 and DDIM over batches, image i a function of the seed and i alone.

use crate::config::VarianceKind;
pub use crate::equations::Spacing;
use crate::equations::algorithms::alg2_sample;
pub use crate::equations::ddim::ClipX0;
use crate::equations::ddim::{Ddim, ddim_sample};
use crate::equations::reverse::Reverse;
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use crate::kernels::Element;
use crate::model::{Engine, Model};
use crate::rng::{Stream, fill_normal, rng};
use ndarray::{Array4, ArrayView5, Axis};

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
}

/// What to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Number of images.
    pub count: usize,
    /// Images that go through the network together; changes nothing but memory and speed.
    pub batch: usize,
    /// The seed of x_T and of the noise.
    pub seed: u64,
    /// The reverse process.
    pub sampler: Sampler,
    /// Steps of the reverse process; `None` for all T.
    pub steps: Option<usize>,
    /// Which timesteps are kept when they are fewer than T.
    pub spacing: Spacing,
    /// Whether the predicted x_0 is clipped to [-1, 1] at every step, and what DDIM then takes for the noise.
    pub clip_x0: ClipX0,
}

/// Where a sampling run is, and x_t of the batch's first images, \[n, h, w, c\].
#[derive(Clone, Copy, Debug)]
pub struct SampleProgress<'a, T> {
    /// The batch, from 0.
    pub batch: usize,
    /// Batches in all.
    pub batches: usize,
    /// Steps done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// x_t of the batch after this step.
    pub x: &'a [T],
}

/// The schedule of a sampler's steps: all T, or `steps` evenly spaced ones with their betas computed anew.
///
/// # Errors
/// [`Error::Invalid`] unless 1 <= steps <= T.
pub fn respace(schedule: &Schedule, steps: Option<usize>, spacing: Spacing) -> Result<Schedule> {
    schedule.strided(steps, spacing)
}

/// Samples images \[n, h, w, c\], nominally in [-1, 1].
///
/// `noise` \[K + 1, n, c, h, w\] gives x_T and the noise of the K steps in order instead of the seed. `observer` sees every step.
///
/// # Errors
/// [`Error::Invalid`] for options or noise that do not fit; [`Error::NotFinite`] if the network's output is not finite.
pub fn sample<T: Element>(
    model: &Model<T>,
    schedule: &Schedule,
    engine: &mut Engine<T>,
    options: &SampleOptions,
    noise: Option<ArrayView5<f32>>,
    mut observer: impl FnMut(SampleProgress<T>),
) -> Result<Array4<T>> {
    let shape = model.graph.shape(model.graph.input);
    if model.input_len() != model.output_len() {
        return Err(Error::invalid(
            "the network's output",
            format!("{shape}, as its input"),
            model.graph.shape(model.graph.output).to_string(),
            "a network that predicts more than eps cannot be sampled from",
        ));
    }
    if options.batch == 0 {
        return Err(Error::invalid("--batch", "at least 1", "0", ""));
    }
    let kept = respace(schedule, options.steps, options.spacing)?;
    let steps = kept.steps();
    if let Some(noise) = &noise {
        let want = [steps + 1, options.count, shape.c, shape.h, shape.w];
        if noise.shape() != want {
            return Err(Error::invalid(
                "--noise",
                format!("shape {want:?}: x_T and {steps} noises for {} images", options.count),
                format!("{:?}", noise.shape()),
                "",
            ));
        }
    }
    let len = model.input_len();
    let mut images = vec![T::zero(); options.count * len];
    let batches = options.count.div_ceil(options.batch);
    for (batch, x) in images.chunks_mut(options.batch * len).enumerate() {
        let first = batch * options.batch;
        let draw = |k: usize, stream: Stream, index: u64, out: &mut [T]| {
            for (i, out) in out.chunks_exact_mut(len).enumerate() {
                match &noise {
                    Some(noise) => {
                        let image = noise.index_axis(Axis(0), k);
                        let image = image.index_axis(Axis(0), first + i);
                        let pixels = image.permuted_axes([1, 2, 0]);
                        out.iter_mut().zip(pixels.iter()).for_each(|(out, z)| *out = T::of(f64::from(*z)));
                    }
                    None => fill_normal(&mut rng(options.seed, stream, index, (first + i) as u64), out),
                }
            }
        };
        draw(0, Stream::SampleStart, 0, x);
        let n = x.len() / len;
        let mut done = 0;
        let mut indices = Vec::new();
        let z = |k: usize, t: Timestep, out: &mut [T]| draw(k + 1, Stream::SampleNoise, t.get() as u64, out);
        let eps_theta = |x: &[T], t: Timestep, out: &mut [T]| {
            indices.clear();
            indices.resize(n, t.index());
            engine.forward(model, x, &indices, out);
            done += 1;
            if out.iter().all(|e| e.is_finite()) {
                Ok(())
            } else {
                Err(Error::NotFinite {
                    what: format!("the network's output at t = {}", t.get()),
                    step: done,
                    help: "the weights are damaged or training diverged".to_owned(),
                })
            }
        };
        let watch = |k: usize, _: Timestep, x: &[T]| {
            observer(SampleProgress { batch, batches, step: k + 1, steps, x });
        };
        match options.sampler {
            Sampler::Ddpm { variance } => {
                let reverse = Reverse { variance, clip_x0: options.clip_x0 != ClipX0::Off };
                alg2_sample(&kept, reverse, x, z, eps_theta, watch)?;
            }
            Sampler::Ddim { eta } => {
                let ddim = Ddim { eta, clip_x0: options.clip_x0 };
                ddim_sample(&kept, ddim, x, z, eps_theta, watch)?;
            }
        }
    }
    let images = Array4::from_shape_vec((options.count, shape.h, shape.w, shape.c), images);
    Ok(images.expect("as many numbers as count images have"))
}
