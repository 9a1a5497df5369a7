//! What a run needs of a network in training, whoever computes its steps.

use super::exchange::Elsewhere;
use super::trainer::{Progress, Step, Trainer};
use crate::config::{Config, OnNan, TrainConfig};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::model::Model;
use crate::sample::{Native, SampleOptions, SampleProgress, sample_in};
use ndarray::Array4;

/// What is told while images are made.
pub(super) enum Told<'a> {
    /// Others than usual make them, and why.
    Note(&'a str),
    /// Steps done, of so many.
    Steps(usize, usize),
}

/// Is told how far the images are; returns whether to go on.
pub(super) type Hear<'a> = dyn FnMut(Told) -> bool + 'a;

/// Passes on how far the images are.
pub(super) fn pass_on<T>(hear: &mut Hear, now: SampleProgress<T>) {
    if !hear(Told::Steps(now.batch * now.steps + now.step, now.batches * now.steps)) {
        now.stop();
    }
}

/// A network in training.
pub(super) trait Learner {
    /// Who computes, and where, in a few words.
    fn describe(&self) -> String;

    /// The configuration.
    fn config(&self) -> &Config;

    /// The settings, for decisions about the run's length.
    fn train_config(&mut self) -> &mut TrainConfig;

    /// The number of trained numbers.
    fn parameters(&self) -> usize;

    /// Steps taken.
    fn step(&self) -> u64;

    /// One step of Algorithm 1 on the next batch of `data`, which is the same at every step.
    ///
    /// # Errors
    /// As [`Trainer::advance`], and those of a runtime. What was saved before stays good.
    fn advance(&mut self, data: &Dataset) -> Result<Step>;

    /// Where the last step's time went beside computing, in a group of several ranks.
    fn elsewhere(&self) -> Option<Elsewhere> {
        None
    }

    /// Leaves a step out that [`Learner::advance`] refused.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a refused step has changed the weights.
    fn skip(&mut self) -> Result<()> {
        Err(Error::invalid("train.on_nan", "stop or backtrack", OnNan::Skip.name(), "the engine can skip"))
    }

    /// Looks whether training can go on from the weights as they are, before they are saved.
    ///
    /// # Errors
    /// As [`Learner::advance`], where it computes ahead.
    fn look_ahead(&mut self, _: &Dataset) -> Result<()> {
        Ok(())
    }

    /// What is to be saved.
    ///
    /// # Errors
    /// Those of a runtime.
    fn progress(&mut self) -> Result<Progress<f32>>;

    /// The network with the weights' moving average: the one to sample from.
    ///
    /// # Errors
    /// Those of a runtime.
    fn averaged_model(&mut self) -> Result<Model<f32>>;

    /// Seconds that it takes to make ready for samples, beside making them.
    fn preparation(&self) -> f64;

    /// Images \[n, h, w, c\] of the averaged network.
    ///
    /// # Errors
    /// Those of [`sample_in()`]; [`Error::Stopped`] where `hear` says so.
    fn sample(&mut self, options: &SampleOptions, hear: &mut Hear) -> Result<Array4<f32>>;
}

/// A network in training by the engine, in the ranks of a group.
pub(super) struct EngineLearner<'g> {
    pub(super) trainer: Trainer<f32>,
    pub(super) group: &'g dyn Group<f32>,
}

impl Learner for EngineLearner<'_> {
    fn describe(&self) -> String {
        let engine = self.trainer.engine_ref();
        let ranks = match self.group.ranks() {
            1 => String::new(),
            ranks => format!("{ranks} ranks of "),
        };
        format!("{ranks}{} threads, {}", engine.threads(), engine.kernels().isa)
    }

    fn config(&self) -> &Config {
        self.trainer.config()
    }

    fn train_config(&mut self) -> &mut TrainConfig {
        self.trainer.train_config()
    }

    fn parameters(&self) -> usize {
        self.trainer.model().weights.len()
    }

    fn step(&self) -> u64 {
        self.trainer.step()
    }

    fn advance(&mut self, data: &Dataset) -> Result<Step> {
        self.trainer.advance_in(self.group, data)
    }

    fn elsewhere(&self) -> Option<Elsewhere> {
        (self.group.ranks() > 1).then(|| self.trainer.elsewhere())
    }

    fn skip(&mut self) -> Result<()> {
        self.trainer.skip();
        Ok(())
    }

    fn look_ahead(&mut self, data: &Dataset) -> Result<()> {
        self.trainer.look_ahead_in(self.group, data)
    }

    fn progress(&mut self) -> Result<Progress<f32>> {
        Ok(self.trainer.progress_in(self.group))
    }

    fn averaged_model(&mut self) -> Result<Model<f32>> {
        Ok(self.trainer.averaged_model_in(self.group))
    }

    fn preparation(&self) -> f64 {
        0.0
    }

    fn sample(&mut self, options: &SampleOptions, hear: &mut Hear) -> Result<Array4<f32>> {
        let (model, schedule) = (self.trainer.averaged_model_in(self.group), self.trainer.schedule().clone());
        let mut native = Native::new(&model, self.trainer.engine())?;
        sample_in(self.group, &mut native, &schedule, options, None, |now| pass_on(hear, now))
    }
}
