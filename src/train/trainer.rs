//! Algorithm 1, one step at a time.

use super::classes::told_class;
use super::fit::check_fit;
use super::optimizer::{Adam, Update, clip_factor, global_norm};
use crate::config::{Config, TimestepSampling, TrainConfig};
use crate::data::Dataset;
use crate::equations::Schedule;
use crate::equations::algorithms::{alg1_noise, alg1_timestep};
use crate::equations::objective::{Objective, o08_stratified};
use crate::error::{Error, Result};
use crate::kernels::{Element, Kernels};
use crate::model::clock::{Work, timed_for_all};
use crate::model::{Condition, Engine, Gradient, Model};
use crate::rng::{Stream, rng};
use crate::sample::{Compute, Pipeline};
use rand::Rng;
use rand::seq::SliceRandom;
use std::sync::Mutex;

/// One training step's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The step, from 1.
    pub step: u64,
    /// The batch's loss: (21), or (O7) for other objectives.
    pub loss: f64,
    /// The gradient's global norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub lr: f64,
}

/// A network in training.
#[derive(Debug)]
pub struct Trainer<T> {
    config: Config,
    schedule: Schedule,
    objective: Objective,
    model: Model<T>,
    average: Vec<T>,
    adam: Adam<T>,
    step: u64,
    engine: Engine<T>,
    gradient: Gradient<T>,
    order: Order,
    /// Buffers for images, one for each thread that makes a sample.
    spare: Mutex<Vec<Vec<T>>>,
}

/// Everything of a trainer that changes, as it is saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<T> {
    /// Steps taken.
    pub step: u64,
    /// The weights.
    pub weights: Vec<T>,
    /// Their moving average.
    pub average: Vec<T>,
    /// Adam's moments.
    pub adam: Adam<T>,
    /// The FAVOR+ projections.
    pub projections: Vec<Vec<T>>,
}

impl<T: Element> Trainer<T> {
    /// A network at step 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration out of range, or threads that cannot be started.
    pub fn new(config: &Config, threads: usize, kernels: impl Into<Kernels>) -> Result<Trainer<T>> {
        config.validate()?;
        let model: Model<T> = Model::new(&config.unet, config.train.seed)?;
        let schedule = Schedule::from_config(&config.diffusion)?;
        Ok(Trainer {
            objective: Objective::new(&config.diffusion, config.train.loss_weight, &schedule),
            schedule,
            average: model.weights.clone(),
            adam: Adam::new(model.weights.len()),
            step: 0,
            engine: Engine::new(&model, threads, kernels)?,
            gradient: Gradient::default(),
            order: Order::default(),
            spare: Mutex::default(),
            config: config.clone(),
            model,
        })
    }

    /// The network with the weights' moving average, ready to sample from, to save, to export, to evaluate.
    /// It has an engine of its own, so that training may go on.
    ///
    /// # Errors
    /// [`Error::Invalid`] where its threads cannot be started.
    pub fn pipeline(&self) -> Result<Pipeline> {
        let compute =
            Compute::Engine { threads: Some(self.engine.threads()), kernels: self.engine.kernels() };
        let average = self.averaged_model().cast();
        let step = Some(self.step);
        Pipeline::at_step(average, self.config.diffusion.clone(), step, &compute)
    }

    /// Goes on from what was saved.
    ///
    /// # Errors
    /// [`Error::Invalid`] if its sizes are not this network's, or for more steps than can be counted.
    pub fn restore(&mut self, progress: Progress<T>) -> Result<()> {
        let n = self.model.weights.len();
        let lengths = [
            progress.weights.len(),
            progress.average.len(),
            progress.adam.first_moment.len(),
            progress.adam.second_moment.len(),
        ];
        // Far more images than any run sees, and room to count on.
        if progress.step > u64::from(u32::MAX) {
            let got = progress.step.to_string();
            return Err(Error::invalid("training state, step", format!("at most {}", u32::MAX), got, ""));
        }
        let projections = |p: &[Vec<T>]| p.iter().map(Vec::len).collect::<Vec<_>>();
        if lengths != [n; 4] || projections(&progress.projections) != projections(&self.model.projections) {
            return Err(Error::invalid(
                "training state",
                format!("{n} numbers of each kind"),
                format!("{lengths:?}"),
                "the configuration is not the one the state was saved with",
            ));
        }
        self.step = progress.step;
        self.model.weights = progress.weights;
        self.model.projections = progress.projections;
        self.average = progress.average;
        self.adam = progress.adam;
        Ok(())
    }

    /// What is to be saved.
    pub fn progress(&self) -> Progress<T> {
        Progress {
            step: self.step,
            weights: self.model.weights.clone(),
            average: self.average.clone(),
            adam: self.adam.clone(),
            projections: self.model.projections.clone(),
        }
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The settings, for decisions about the run's length.
    pub(super) fn train_config(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    /// The network with the weights as they are.
    pub fn model(&self) -> &Model<T> {
        &self.model
    }

    /// The network with the weights' moving average: the one to sample from.
    pub fn averaged_model(&self) -> Model<T> {
        Model { weights: self.average.clone(), ..self.model.clone() }
    }

    /// The forward process.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The engine, for sampling between steps.
    pub fn engine(&mut self) -> &mut Engine<T> {
        &mut self.engine
    }

    /// One step of Algorithm 1 on the next batch of `data`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images of another size than the network's, and for a picture that can no longer be
    /// decoded; [`Error::NotFinite`] if the loss or
    /// the gradient is no finite number. Nothing has changed then.
    pub fn advance(&mut self, data: &Dataset) -> Result<Step> {
        check_fit(&self.config, data)?;
        let train = &self.config.train;
        let (seed, step, batch) = (train.seed, self.step + 1, train.batch);
        let redraw = self.config.unet.favor.redraw_every;
        if redraw > 0 && self.step > 0 && self.step.is_multiple_of(redraw) {
            self.model.draw_projections(seed, self.step / redraw)?;
        }
        let flips = train.flip && data.flip_makes_sense();
        let first = self.step * batch as u64;
        self.order.prepare(seed, data.len(), first, batch);
        let (order, schedule, spare) = (&self.order, &self.schedule, &self.spare);
        let (objective, timesteps) = (&self.objective, train.timesteps);
        let (config, labels) = (&self.config, data.labels());
        let unreadable = Mutex::new(None);
        let example = |sample: usize, x_t: &mut [T], notes: &mut [T]| {
            let mut x0 = spare.lock().expect("no thread panicked").pop().unwrap_or_default();
            x0.resize(x_t.len(), T::zero());
            let flip = flips && rng(seed, Stream::Flip, step, sample as u64).next_u32() % 2 == 1;
            let image = order.image(first + sample as u64);
            if let Err(error) = data.image_into(image, flip, &mut x0) {
                *unreadable.lock().expect("no thread panicked") = Some(error);
            }
            let level = match timesteps {
                TimestepSampling::Uniform => alg1_timestep(seed, step, sample as u64, schedule),
                TimestepSampling::Stratified => {
                    o08_stratified(seed, step, sample as u64, batch as u64, schedule)
                }
            };
            alg1_noise(seed, step, sample as u64, level, &x0, &mut notes[..x0.len()], x_t);
            objective.prepare(level, &x0, x_t, notes);
            spare.lock().expect("no thread panicked").push(x0);
            let label = labels.map(|labels| labels[image]);
            Condition { index: level.t.index(), class: told_class(config, label, step, sample as u64) }
        };
        let dropout = Some((seed, step));
        self.engine.gradient_of(objective, &self.model, batch, &example, dropout, &mut self.gradient)?;
        if let Some(error) = unreadable.into_inner().expect("no thread panicked") {
            return Err(error);
        }
        let loss = self.gradient.loss;
        let clock = self.engine.clock();
        let norm = timed_for_all(clock, Work::Reduction, || {
            self.engine.install(|| global_norm(&self.gradient.weights))
        });
        for (what, value) in [("the loss", loss), ("the gradient's norm", norm)] {
            if !value.is_finite() {
                return Err(Error::NotFinite {
                    what: what.to_owned(),
                    step,
                    help: "lower the learning rate".to_owned(),
                });
            }
        }
        let update = Update {
            lr: train.lr_at(step),
            number: step,
            clip: clip_factor(norm, train.clip_norm),
            ema_decay: train.average.decay_at(step),
        };
        let isa = self.engine.kernels().isa;
        timed_for_all(self.engine.clock(), Work::Optimiser, || {
            self.engine.install(|| {
                self.adam.update(
                    isa,
                    &self.config.train,
                    update,
                    &self.gradient.weights,
                    &mut self.model.weights,
                    &mut self.average,
                );
            });
        });
        self.step = step;
        Ok(Step { step, loss, gradient_norm: norm, lr: update.lr })
    }
}

/// The order in which images are seen: a fresh permutation for every pass over the data, a function of the
/// seed alone.
#[derive(Debug, Default)]
struct Order {
    images: u64,
    epochs: Vec<(u64, Vec<u32>)>,
}

impl Order {
    /// Makes the permutations that samples first .. first + batch need.
    fn prepare(&mut self, seed: u64, images: usize, first: u64, batch: usize) {
        if self.images != images as u64 {
            self.images = images as u64;
            self.epochs.clear();
        }
        let needed = first / self.images..=(first + batch as u64 - 1) / self.images;
        for epoch in needed.clone() {
            if self.epochs.iter().any(|(kept, _)| *kept == epoch) {
                continue;
            }
            let past = self.epochs.iter().position(|(kept, _)| !needed.contains(kept));
            let place = past.unwrap_or_else(|| {
                self.epochs.push(Default::default());
                self.epochs.len() - 1
            });
            let (kept, order) = &mut self.epochs[place];
            *kept = epoch;
            order.clear();
            order.extend(0..images as u32);
            order.shuffle(&mut rng(seed, Stream::Order, epoch, 0));
        }
    }

    fn image(&self, sample: u64) -> usize {
        let epoch = sample / self.images;
        let (_, order) = self.epochs.iter().find(|(e, _)| *e == epoch).expect("the epoch was prepared");
        order[(sample % self.images) as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_shows_every_image_once_in_its_own_order() {
        let mut order = Order::default();
        let mut seen: Vec<Vec<usize>> = vec![Vec::new(); 3];
        for first in (0..30).step_by(4) {
            order.prepare(7, 10, first, 4);
            for sample in first..(first + 4).min(30) {
                seen[(sample / 10) as usize].push(order.image(sample));
            }
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
        for mut pass in seen {
            pass.sort_unstable();
            assert_eq!(pass, (0..10).collect::<Vec<_>>());
        }
        let mut again = Order::default();
        again.prepare(7, 10, 8, 4);
        order.prepare(7, 10, 8, 4);
        assert_eq!(
            (8..12).map(|s| again.image(s)).collect::<Vec<_>>(),
            (8..12).map(|s| order.image(s)).collect::<Vec<_>>()
        );
    }
}
