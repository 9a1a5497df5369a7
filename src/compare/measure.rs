//! What a trained model is worth: its loss on held-out images and the samples it draws from the same noise.

use super::Context;
use crate::config::DiffusionConfig;
use crate::data::Dataset;
use crate::equations::Schedule;
use crate::equations::algorithms::alg1_draw;
use crate::equations::loss::eq21_l_simple;
use crate::error::{Error, Result};
use crate::model::{Engine, Model};
use crate::output::write_png;
use crate::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use ndarray::Array4;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Estimate {
    /// The mean of independent values; the error of one value is unknown, and so NaN is never written: it is 0 there.
    pub fn of(values: &[f64]) -> Estimate {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let standard_error = if values.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Estimate { mean, standard_error }
    }
}

/// A model with what runs it.
pub(super) struct Subject {
    pub model: Model<f32>,
    pub schedule: Schedule,
    engine: Engine<f32>,
    clip_x0: bool,
    seed: u64,
}

/// Images that go through the network together.
const BATCH: usize = 32;

impl Subject {
    /// A model; `seed` is that of every draw.
    pub fn new(
        context: &Context,
        model: Model<f32>,
        diffusion: &DiffusionConfig,
        seed: u64,
    ) -> Result<Subject> {
        Ok(Subject {
            schedule: Schedule::from_config(diffusion)?,
            engine: Engine::new(&model, context.threads, context.kernels)?,
            clip_x0: diffusion.clip_x0,
            model,
            seed,
        })
    }

    /// The loss (21) of each of the first images; t and eps are a function of the seed and of the image's place alone, so
    /// that models are compared on the same draws.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one is not finite.
    pub fn held_out_losses(&mut self, images: &Dataset, count: usize) -> Result<Vec<f64>> {
        let len = images.image_len();
        let mut losses = Vec::new();
        let all: Vec<usize> = (0..count.min(images.len())).collect();
        for batch in all.chunks(BATCH) {
            let n = batch.len();
            let (mut x_t, mut eps, mut out) = (vec![0f32; n * len], vec![0f32; n * len], vec![0f32; n * len]);
            let mut x0 = vec![0f32; len];
            let samples = x_t.chunks_exact_mut(len).zip(eps.chunks_exact_mut(len));
            let mut indices = Vec::new();
            for (&image, (x_t, eps)) in batch.iter().zip(samples) {
                images.image_into(image, false, &mut x0);
                // Step 0 is no training step, so these draws are no training draws.
                let t = alg1_draw(self.seed, 0, image as u64, &self.schedule, &x0, eps, x_t);
                indices.push(t.index());
            }
            self.engine.forward(&self.model, &x_t, &indices, &mut out);
            let pairs = eps.chunks_exact(len).zip(out.chunks_exact(len));
            losses.extend(pairs.map(|(eps, out)| eq21_l_simple(eps, out)));
        }
        finite(&losses, "the loss on held-out images")?;
        Ok(losses)
    }

    /// Images \[n, h, w, c\] by DDIM in `steps` steps from the seed's noise.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one is not finite.
    pub fn samples(&mut self, count: usize, steps: usize) -> Result<Array4<f32>> {
        let options = SampleOptions {
            count,
            batch: 2 * BATCH,
            seed: self.seed,
            sampler: Sampler::Ddim { eta: 0.0 },
            steps: Some(steps),
            spacing: Spacing::Trailing,
            clip_x0: if self.clip_x0 { ClipX0::KeepEps } else { ClipX0::Off },
        };
        sample(&self.model, &self.schedule, &mut self.engine, &options, None, |_| {})
    }
}

/// Writes a grid of images, eight to a row.
pub(super) fn write_grid(path: &Path, images: &Array4<f32>) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    write_png(path, images.view(), Some(8))
}

/// The mean difference of the losses of the same images.
pub(super) fn loss_above(losses: &[f64], others: &[f64]) -> Estimate {
    Estimate::of(&losses.iter().zip(others).map(|(a, b)| a - b).collect::<Vec<_>>())
}

fn finite(values: &[f64], what: &str) -> Result<()> {
    if values.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::NotFinite { what: what.to_owned(), step: 0, help: "training diverged".to_owned() })
}

/// The outcome of measuring, where a number that is not finite is told and not fatal.
pub(super) fn or_note<T>(outcome: Result<T>) -> Result<std::result::Result<T, String>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Error::NotFinite { what, .. }) => Ok(Err(format!("{what} is not finite"))),
        Err(error) => Err(error),
    }
}

/// The root mean square of the difference of two sets of images.
pub(super) fn rms_difference(a: &Array4<f32>, b: &Array4<f32>) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_its_standard_error() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 6.0]);
        // Variance 14/3, over 4.
        assert_eq!(estimate, Estimate { mean: 3.0, standard_error: (14.0f64 / 3.0 / 4.0).sqrt() });
        assert_eq!(Estimate::of(&[5.0]), Estimate { mean: 5.0, standard_error: 0.0 });
    }
}
