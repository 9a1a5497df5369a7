//! Algorithm 1, one step at a time.

use super::draws::Order;
use super::exchange::{Elsewhere, Exchange, Shares};
use super::fit::check_fit;
use super::optimizer::{Adam, Update, clip_factor};
use super::rules::Optimizer;
use crate::config::{Config, TrainConfig};
use crate::data::Dataset;
use crate::equations::Schedule;
use crate::equations::objective::Objective;
use crate::error::{Error, Result};
use crate::group::{Group, Solo};
use crate::kernels::{Element, Kernels};
use crate::model::clock::{Work, timed_for_all};
use crate::model::{Engine, Gradient, Interrupt, Model};
use crate::sample::{Compute, Pipeline};
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
    /// Who computes what, of a group of which this is `rank`.
    shares: Shares,
    rank: usize,
    /// The weights' moving average, their moments and the batch's gradient, of the parameters that this rank
    /// owns.
    average: Vec<T>,
    adam: Adam<T>,
    optimizer: Optimizer<T>,
    gradient: Gradient<T>,
    exchange: Exchange<T>,
    step: u64,
    engine: Engine<T>,
    /// The step whose gradient is there already, with its loss and norm.
    ready: Option<(u64, f64, f64)>,
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

impl<T: Element> Progress<T> {
    /// A network at step 0.
    pub(super) fn beginning(model: &Model<T>) -> Progress<T> {
        Progress {
            step: 0,
            weights: model.weights.clone(),
            average: model.weights.clone(),
            adam: Adam::new(model.weights.len()),
            projections: model.projections.clone(),
        }
    }

    /// Checks that it is one of this network's.
    pub(super) fn check(&self, model: &Model<T>) -> Result<()> {
        let n = model.weights.len();
        let lengths = [
            self.weights.len(),
            self.average.len(),
            self.adam.first_moment.len(),
            self.adam.second_moment.len(),
        ];
        // Far more images than any run sees, and room to count on.
        if self.step > u64::from(u32::MAX) {
            let got = self.step.to_string();
            return Err(Error::invalid("training state, step", format!("at most {}", u32::MAX), got, ""));
        }
        let projections = |p: &[Vec<T>]| p.iter().map(Vec::len).collect::<Vec<_>>();
        if lengths != [n; 4] || projections(&self.projections) != projections(&model.projections) {
            return Err(Error::invalid(
                "training state",
                format!("{n} numbers of each kind"),
                format!("{lengths:?}"),
                "the configuration is not the one the state was saved with",
            ));
        }
        Ok(())
    }
}

impl<T: Element> Trainer<T> {
    /// A network at step 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration out of range, or threads that cannot be started.
    pub fn new(config: &Config, threads: usize, kernels: impl Into<Kernels>) -> Result<Trainer<T>> {
        Self::in_group(&Solo, config, threads, kernels)
    }

    /// A rank's share of a network at step 0. Beside the group's own, the methods that need the whole average
    /// and all moments are those of a group of one.
    ///
    /// # Errors
    /// Those of [`Trainer::new`], and [`Error::Invalid`] for more ranks than the batch can be shared out over.
    pub(super) fn in_group(
        group: &dyn Group<T>,
        config: &Config,
        threads: usize,
        kernels: impl Into<Kernels>,
    ) -> Result<Trainer<T>> {
        config.validate()?;
        let model: Model<T> = Model::new(&config.unet, config.train.seed)?;
        let schedule = Schedule::from_config(&config.diffusion)?;
        let shares = Shares::new(config, &model.graph.params, group.ranks())?;
        let part = shares.part(group.rank());
        Ok(Trainer {
            objective: Objective::new(&config.diffusion, config.train.loss_weight, &schedule),
            schedule,
            average: model.weights[part.clone()].to_vec(),
            adam: Adam::new(part.len()),
            shares,
            rank: group.rank(),
            exchange: Exchange::default(),
            optimizer: Optimizer::new(
                &config.train,
                model.graph.params.iter().filter(|param| part.contains(&param.offset)),
            ),
            step: 0,
            engine: Engine::new(&model, threads, kernels)?,
            gradient: Gradient::default(),
            ready: None,
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
        progress.check(&self.model)?;
        self.ready = None;
        self.step = progress.step;
        let part = self.shares.part(self.rank);
        let own = |mut whole: Vec<T>| {
            whole.truncate(part.end);
            whole.drain(..part.start);
            whole
        };
        self.model.weights = progress.weights;
        self.model.projections = progress.projections;
        self.average = own(progress.average);
        let Adam { first_moment, second_moment } = progress.adam;
        self.adam = Adam { first_moment: own(first_moment), second_moment: own(second_moment) };
        Ok(())
    }

    /// What is to be saved.
    pub fn progress(&self) -> Progress<T> {
        self.progress_in(&Solo)
    }

    /// What is to be saved, of all ranks of its group.
    pub(super) fn progress_in(&self, group: &dyn Group<T>) -> Progress<T> {
        Progress {
            step: self.step,
            weights: self.model.weights.clone(),
            average: self.whole(group, &self.average),
            adam: Adam {
                first_moment: self.whole(group, &self.adam.first_moment),
                second_moment: self.whole(group, &self.adam.second_moment),
            },
            projections: self.model.projections.clone(),
        }
    }

    /// The network with the weights' moving average, of all ranks of its group.
    pub(super) fn averaged_model_in(&self, group: &dyn Group<T>) -> Model<T> {
        Model { weights: self.whole(group, &self.average), ..self.model.clone() }
    }

    /// A vector of which every rank has its part.
    fn whole(&self, group: &dyn Group<T>, part: &[T]) -> Vec<T> {
        let mut whole = vec![T::zero(); self.model.weights.len()];
        whole[self.shares.part(self.rank)].copy_from_slice(part);
        group.all_gather(&mut whole, self.shares.parts());
        whole
    }

    /// Seconds of the last step that were no computing.
    pub(super) fn elsewhere(&self) -> Elsewhere {
        self.exchange.elsewhere
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Leaves the next step out: its batch is not trained on.
    pub fn skip(&mut self) {
        self.ready = None;
        self.step += 1;
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
        self.averaged_model_in(&Solo)
    }

    /// The forward process.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The engine that trains.
    pub(super) fn engine_ref(&self) -> &Engine<T> {
        &self.engine
    }

    /// From now on, a step ends by [`Error::Stopped`] soon after the flag is set, as if it had not begun.
    /// Ranks of a group cannot end one alone.
    pub fn interrupt_by(&mut self, interrupt: Interrupt) {
        self.engine.interrupt_by(interrupt);
    }

    /// The engine, for sampling between steps.
    pub fn engine(&mut self) -> &mut Engine<T> {
        &mut self.engine
    }

    /// One step of Algorithm 1 on the next batch of `data`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images of another size than the network's, and for a picture that can no longer
    /// be decoded; [`Error::NotFinite`] if the loss or the gradient is no finite number; [`Error::Stopped`]
    /// where [`Trainer::interrupt_by`] was called. Nothing has changed then.
    pub fn advance(&mut self, data: &Dataset) -> Result<Step> {
        self.advance_in(&Solo, data)
    }

    /// The same in a group, all of whose ranks have made their trainers in it.
    ///
    /// # Errors
    /// Those of [`Trainer::advance`]. Where an image cannot be decoded, only the rank that needs it says so.
    pub(super) fn advance_in(&mut self, group: &dyn Group<T>, data: &Dataset) -> Result<Step> {
        check_fit(&self.config, data)?;
        let step = self.step + 1;
        let (loss, norm) = match self.ready.take() {
            Some((ready, loss, norm)) if ready == step => (loss, norm),
            _ => {
                let before = self.redraw().map(|_| self.model.projections.clone());
                if let Some(redraw) = self.redraw() {
                    self.model.draw_projections(self.config.train.seed, redraw)?;
                }
                let outcome = self.loss_and_norm(group, data);
                if let (Err(_), Some(before)) = (&outcome, before) {
                    self.model.projections = before;
                }
                outcome?
            }
        };
        let train = &self.config.train;
        let update = Update {
            lr: train.lr_at(step),
            number: step,
            clip: clip_factor(norm, train.clip_norm),
            ema_decay: train.average.decay_at(step),
        };
        let weights = &mut self.model.weights;
        let own = &mut weights[self.shares.part(self.rank)];
        let (optimizer, adam, average) = (&self.optimizer, &mut self.adam, &mut self.average);
        let (isa, g) = (self.engine.kernels().isa, &self.gradient.weights);
        timed_for_all(self.engine.clock(), Work::Optimiser, || {
            self.engine.install(|| optimizer.update(isa, train, update, adam, g, own, average));
        });
        self.exchange.all_gather(group, &self.shares, weights);
        self.step = step;
        Ok(Step { step, loss, gradient_norm: norm, lr: update.lr })
    }

    /// Looks whether the weights can be trained on: computes the next step's loss and gradient, which
    /// [`Trainer::advance`] then takes, and changes nothing.
    ///
    /// # Errors
    /// As [`Trainer::advance`].
    pub fn look_ahead(&mut self, data: &Dataset) -> Result<()> {
        self.look_ahead_in(&Solo, data)
    }

    /// The same in a group.
    ///
    /// # Errors
    /// As [`Trainer::advance_in`].
    pub(super) fn look_ahead_in(&mut self, group: &dyn Group<T>, data: &Dataset) -> Result<()> {
        check_fit(&self.config, data)?;
        let (loss, norm) = self.loss_and_norm(group, data)?;
        // With projections that are yet to be drawn, the gradient is another.
        self.ready = self.redraw().is_none().then_some((self.step + 1, loss, norm));
        Ok(())
    }

    /// The number of the draw of projections that is due before the next step.
    fn redraw(&self) -> Option<u64> {
        let every = self.config.unet.favor.redraw_every;
        (every > 0 && self.step > 0 && self.step.is_multiple_of(every)).then(|| self.step / every)
    }

    /// The next step's loss, and the norm of the gradient that it leaves.
    fn loss_and_norm(&mut self, group: &dyn Group<T>, data: &Dataset) -> Result<(f64, f64)> {
        let train = &self.config.train;
        let (seed, step, batch) = (train.seed, self.step + 1, train.batch);
        let draws = self.order.draws(&self.config, &self.schedule, data, step);
        let (objective, spare) = (&self.objective, &self.spare);
        let unreadable = Mutex::new(None);
        let example = |sample: usize, x_t: &mut [T], notes: &mut [T]| {
            let mut x0 = spare.lock().expect("no thread panicked").pop().unwrap_or_default();
            x0.resize(x_t.len(), T::zero());
            if let Err(error) = draws.image(sample, &mut x0) {
                *unreadable.lock().expect("no thread panicked") = Some(error);
            }
            let (level, condition) = draws.noise(sample, &x0, &mut notes[..x0.len()], x_t);
            objective.prepare(level, &x0, x_t, notes);
            spare.lock().expect("no thread panicked").push(x0);
            condition
        };
        let dropout = Some((seed, step));
        let (shares, shards) = (&self.shares, self.shares.shards(self.rank));
        let gradient = &mut self.gradient;
        let engine = &mut self.engine;
        let outcome =
            engine.gradient_of_shards(objective, &self.model, batch, shards, &example, dropout, gradient);
        if let Some(error) = unreadable.into_inner().expect("no thread panicked") {
            return Err(error);
        }
        if let Err(Error::Stopped) = outcome {
            // The shards that were computed; the others count as 0.
            check_finite(step, engine.shard_losses().iter().sum(), 0.0)?;
        }
        outcome?;
        let loss = self.exchange.losses(group, shares, engine) / batch as f64;
        self.exchange.gradient(group, shares, engine, &mut gradient.weights);
        let engine = &self.engine;
        let norm = self.exchange.norm(group, shares, engine, &gradient.weights);
        check_finite(step, loss, norm)?;
        Ok((loss, norm))
    }
}

/// Refuses a step whose loss or gradient is no finite number.
pub(super) fn check_finite(step: u64, loss: f64, norm: f64) -> Result<()> {
    for (what, value) in [("the loss", loss), ("the gradient's norm", norm)] {
        if !value.is_finite() {
            let help = "lower the learning rate".to_owned();
            return Err(Error::NotFinite { what: what.to_owned(), step, help });
        }
    }
    Ok(())
}
