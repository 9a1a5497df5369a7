//! Sampling with the engine.

use super::{Denoiser, DrawNoise, Process, Watch};
use crate::equations::Timestep;
use crate::equations::algorithms::alg2_sample;
use crate::equations::ddim::ddim_sample;
use crate::equations::solver::Outputs;
use crate::equations::update::ReverseProcess;
use crate::error::{Error, Result};
use crate::kernels::Element;
use crate::model::{Engine, Model};
use crate::real::Real;

/// The engine as a [`Denoiser`].
#[derive(Debug)]
pub struct Native<'a, T> {
    model: &'a Model<T>,
    engine: &'a mut Engine<T>,
}

impl<'a, T: Element> Native<'a, T> {
    /// A model and the engine that executes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a network whose output has not its input's size, once or, with a learned
    /// variance, twice the channels.
    pub fn new(model: &'a Model<T>, engine: &'a mut Engine<T>) -> Result<Self> {
        let output = model.output_len();
        if output != model.input_len() && output != 2 * model.input_len() {
            let input = model.graph.shape(model.graph.input);
            return Err(Error::invalid(
                "the network's output",
                format!("{input}, as its input, or twice as many channels"),
                model.graph.shape(model.graph.output).to_string(),
                "a network that predicts something else cannot be sampled from",
            ));
        }
        Ok(Native { model, engine })
    }
}

impl<T: Element> Denoiser<T> for Native<'_, T> {
    fn image(&self) -> [usize; 3] {
        let shape = self.model.graph.shape(self.model.graph.input);
        [shape.h, shape.w, shape.c]
    }

    fn denoise(
        &mut self,
        process: &Process,
        x: &mut [T],
        z: &mut DrawNoise<T>,
        watch: &mut Watch<T>,
    ) -> Result<()> {
        let [_, _, c] = self.image();
        let (image, has_variance) =
            (self.model.input_len(), self.model.output_len() != self.model.input_len());
        let n = x.len() / image;
        let indices = |t: Timestep| vec![t.index(); n];
        let mut both = vec![T::zero(); if has_variance { n * self.model.output_len() } else { 0 }];
        let network = |x: &[T], t: Timestep, outputs: Outputs<T>| {
            if !has_variance {
                return self.engine.forward(self.model, x, &indices(t), outputs.prediction);
            }
            self.engine.forward(self.model, x, &indices(t), &mut both)?;
            let mut outputs = outputs;
            outputs.split(&both, 2 * c);
            Ok(())
        };
        denoise_by_network(process, x, [image, usize::from(has_variance)], z, network, watch)
    }
}

/// A process's steps on the host around whatever computes the network, images of `image` values and
/// `variances` second outputs; refuses a prediction that is not finite.
pub(super) fn denoise_by_network<T: Real>(
    process: &Process,
    x: &mut [T],
    [image, variances]: [usize; 2],
    z: &mut DrawNoise<T>,
    mut network: impl FnMut(&[T], Timestep, Outputs<T>) -> Result<()>,
    watch: &mut Watch<T>,
) -> Result<()> {
    let mut done = 0;
    let mut network = |x: &[T], t: Timestep, outputs: Outputs<T>| {
        let Outputs { prediction, variance } = outputs;
        network(x, t, Outputs { prediction: &mut *prediction, variance: &mut *variance })?;
        done += 1;
        finite(prediction, || format!("the network's output at t = {t}"), done)
    };
    let watch = |k: usize, _: Timestep, x: &[T]| watch(k, &mut || Ok(x.to_vec()));
    let (schedule, reverse) = match process {
        Process::Text { schedule, reverse } => (schedule, reverse),
        Process::Plan(plan) => {
            if variances == 0 && plan.steps().iter().any(|step| step.noise.is_learned()) {
                return Err(Error::invalid(
                    "the scheduler's learned variance",
                    "a network that predicts one, in twice the channels of an image",
                    "a network that predicts no variance",
                    "take a fixed variance",
                ));
            }
            plan.sample(x, image, z, network, watch)?;
            // A learned variance below 0 has no root.
            return finite(x, || "an image".to_owned(), plan.steps().len() as u64);
        }
    };
    let mut unread = vec![T::zero(); if variances == 0 { 0 } else { x.len() }];
    let eps_theta = |x: &[T], t: Timestep, out: &mut [T]| {
        network(x, t, Outputs { prediction: out, variance: &mut unread })
    };
    match *reverse {
        ReverseProcess::Alg2(reverse) => alg2_sample(schedule, reverse, x, z, eps_theta, watch),
        ReverseProcess::Ddim(ddim) => ddim_sample(schedule, ddim, x, z, eps_theta, watch),
    }
}

/// Refuses numbers that are not finite after `step` steps.
pub(super) fn finite<T: Real>(values: &[T], what: impl FnOnce() -> String, step: u64) -> Result<()> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(Error::NotFinite {
        what: what(),
        step,
        help: "the weights are damaged or training diverged".to_owned(),
    })
}
