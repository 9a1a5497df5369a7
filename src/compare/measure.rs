//! The quality of a trained model: its loss on held-out images, its likelihood, and its samples from the same
//! noise.

use super::context::Context;
use crate::config::DiffusionConfig;
use crate::data::Dataset;
use crate::disk;
use crate::equations::Schedule;
use crate::equations::objective::Parameterisation;
use crate::equations::solver::Scheduler;
use crate::error::{Error, Result};
use crate::evaluate::nll::{Likelihood, NllConfig, Timesteps, bound_in};
use crate::evaluate::{self, Estimate, choose};
use crate::group::Group;
use crate::model::{Engine, Model};
use crate::output::write_png;
use crate::sample::{Native, SampleOptions, sample_in};
use ndarray::Array4;
use std::path::Path;

/// A model with its engine.
pub(super) struct Subject<'a> {
    pub model: Model<f32>,
    pub schedule: Schedule,
    engine: Engine<f32>,
    group: &'a dyn Group<f32>,
    diffusion: DiffusionConfig,
    seed: u64,
}

/// Images that go through the network together.
const BATCH: usize = 32;

impl<'a> Subject<'a> {
    /// Prepares a model; `seed` is the seed of every draw.
    pub fn new(
        context: &Context<'a>,
        model: Model<f32>,
        diffusion: &DiffusionConfig,
        seed: u64,
    ) -> Result<Subject<'a>> {
        Ok(Subject {
            schedule: Schedule::from_config(diffusion)?,
            engine: Engine::new(&model, context.threads, context.kernels)?,
            group: context.group,
            diffusion: diffusion.clone(),
            model,
            seed,
        })
    }

    /// [`evaluate::losses`] of `count` images.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one is not finite.
    pub fn held_out_losses(&mut self, images: &Dataset, count: usize) -> Result<Vec<f64>> {
        let process = (&self.schedule, Parameterisation::from(&self.diffusion));
        let losses = evaluate::losses(&self.model, process, &mut self.engine, images, count, self.seed)?;
        finite(&losses, "the loss on held-out images")?;
        Ok(losses)
    }

    /// The bound (16)-(21) on the same images, where the network has classes without a null class given
    /// theirs, at one timestep of each of `timesteps` strata; draws are a function of the seed and of the
    /// image's index, as for the losses.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a prediction that is not finite; [`Error::Invalid`] for fewer than two
    /// images.
    pub fn likelihood(
        &mut self,
        images: &Dataset,
        count: usize,
        timesteps: usize,
        observer: &mut dyn FnMut(f64),
    ) -> Result<Likelihood> {
        let chosen = choose(images.len(), count, self.seed)?;
        let labels = images.labels().unwrap_or_default();
        let classes: Vec<usize> = chosen.iter().filter_map(|i| Some(*labels.get(*i)? as usize)).collect();
        let images = evaluate::images::<f32>(images, &chosen)?;
        let config = NllConfig {
            timesteps: Timesteps::Stratified(timesteps),
            clip_x0: self.diffusion.clip_x0,
            seed: self.seed,
            batch: 2 * BATCH,
            ..NllConfig::default()
        };
        let process = (&self.schedule, Parameterisation::from(&self.diffusion));
        let unet = &self.model.config;
        let needs_class = unet.num_class_embeds.is_some() && unet.null_class().is_none();
        let told = (images.view(), needs_class.then_some(&classes[..]));
        bound_in(self.group, &self.model, &mut self.engine, process, told, &config, observer)
    }

    /// Images \[n, h, w, c\] by DDIM in `steps` steps from the seed's noise, of all classes in turn.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one is not finite.
    pub fn samples(&mut self, count: usize, steps: usize) -> Result<Array4<f32>> {
        let scheduler = Scheduler::ddim_of(&self.diffusion);
        let options = SampleOptions { count, batch: 2 * BATCH, seed: self.seed, ..SampleOptions::default() };
        let options = options.with_scheduler(&scheduler, &self.schedule, Some(steps));
        let mut denoiser = Native::new(&self.model, &mut self.engine)?;
        sample_in(self.group, &mut denoiser, &self.schedule, &options, None, |_| {})
    }
}

/// Writes a grid of images, eight to a row.
pub(super) fn write_grid(path: &Path, images: &Array4<f32>) -> Result<()> {
    if let Some(folder) = path.parent() {
        disk::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    write_png(path, images.view(), Some(8))
}

/// The mean difference of the losses of the same images.
pub(super) fn loss_above(losses: &[f64], others: &[f64]) -> Estimate {
    Estimate::of(losses.iter().zip(others).map(|(a, b)| a - b))
}

fn finite(values: &[f64], what: &str) -> Result<()> {
    if values.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::NotFinite { what: what.to_owned(), step: 0, help: "training diverged".to_owned() })
}

/// The result of a measurement; a number that is not finite becomes a note instead of an error.
pub(super) fn or_note<T>(outcome: Result<T>) -> Result<std::result::Result<T, String>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Error::NotFinite { what, .. }) => Ok(Err(format!("{what} is not finite"))),
        Err(Error::OtherRank { rank, not_finite: true }) => {
            Ok(Err(format!("what rank {rank} computed is not finite")))
        }
        Err(error) => Err(error),
    }
}

/// The root mean square of the difference of two sets of images.
pub(super) fn rms_difference(a: &Array4<f32>, b: &Array4<f32>) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}
