//! Sampling with the engine.

use super::{Denoiser, DrawNoise, Process, Watch};
use crate::equations::Timestep;
use crate::equations::algorithms::alg2_sample;
use crate::equations::ddim::ddim_sample;
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
    /// [`Error::Invalid`] for a network whose output is not of its input's size.
    pub fn new(model: &'a Model<T>, engine: &'a mut Engine<T>) -> Result<Self> {
        if model.input_len() != model.output_len() {
            return Err(Error::invalid(
                "the network's output",
                format!("{}, as its input", model.graph.shape(model.graph.input)),
                model.graph.shape(model.graph.output).to_string(),
                "a network that predicts more than eps cannot be sampled from",
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
        let n = x.len() / self.model.input_len();
        let mut indices = Vec::new();
        let eps_theta = |x: &[T], t: Timestep, out: &mut [T]| {
            indices.clear();
            indices.resize(n, t.index());
            self.engine.forward(self.model, x, &indices, out);
            Ok(())
        };
        denoise_by_eps(process, x, z, eps_theta, watch)
    }
}

/// Algorithm 2 or DDIM on the host, around any prediction of eps; refuses a prediction that is not finite.
pub(super) fn denoise_by_eps<T: Real>(
    process: &Process,
    x: &mut [T],
    z: &mut DrawNoise<T>,
    mut eps_theta: impl FnMut(&[T], Timestep, &mut [T]) -> Result<()>,
    watch: &mut Watch<T>,
) -> Result<()> {
    let mut done = 0;
    let eps_theta = |x: &[T], t: Timestep, out: &mut [T]| {
        eps_theta(x, t, out)?;
        done += 1;
        finite(out, || format!("the network's output at t = {t}"), done)
    };
    let watch = |k: usize, _: Timestep, x: &[T]| watch(k, &mut || Ok(x.to_vec()));
    match process.reverse {
        ReverseProcess::Alg2(reverse) => alg2_sample(&process.schedule, reverse, x, z, eps_theta, watch),
        ReverseProcess::Ddim(ddim) => ddim_sample(&process.schedule, ddim, x, z, eps_theta, watch),
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
