//! Sampling with the engine.

use super::{Classes, Conditions, Denoiser, DrawNoise, Passes, Process, Watch};
use crate::equations::Timestep;
use crate::equations::algorithms::alg2_sample;
use crate::equations::ddim::ddim_sample;
use crate::equations::guidance::{g01_guide, g03_rescale};
use crate::equations::solver::Outputs;
use crate::equations::update::ReverseProcess;
use crate::error::{Error, Result};
use crate::kernels::Element;
use crate::model::{Condition, Engine, Model};
use crate::real::Real;
use std::cell::Cell;

/// The engine as a [`Denoiser`].
pub struct Native<'a, T> {
    model: &'a Model<T>,
    engine: &'a mut Engine<T>,
    listener: Option<Box<Listener<'a, T>>>,
}

/// Is told what the network says, led where it is led: called with the timestep, x_t and the prediction, both
/// \[n, h, w, c\].
pub type Listener<'a, T> = dyn FnMut(Timestep, &[T], &[T]) + 'a;

impl<T> std::fmt::Debug for Native<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Native").finish_non_exhaustive()
    }
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
        Ok(Native { model, engine, listener: None })
    }

    /// The same with a listener, which is called once for every prediction, before the step that uses it.
    #[must_use]
    pub fn heard_by(self, listener: impl FnMut(Timestep, &[T], &[T]) + 'a) -> Self {
        Native { listener: Some(Box::new(listener)), ..self }
    }
}

impl<T: Element> Denoiser<T> for Native<'_, T> {
    fn image(&self) -> [usize; 3] {
        let shape = self.model.graph.shape(self.model.graph.input);
        [shape.h, shape.w, shape.c]
    }

    fn classes(&self) -> Classes {
        Classes::from(self.model.config.class_embedding())
    }

    fn denoise(
        &mut self,
        process: &Process,
        conditions: &Conditions,
        x: &mut [T],
        z: &mut DrawNoise<T>,
        watch: &mut Watch<T>,
    ) -> Result<()> {
        let (image, output) = (self.model.input_len(), self.model.output_len());
        let has_variance = output != image;
        let n = x.len() / image;
        let mut guided = Guided::new();
        let mut both = Vec::new();
        let network = |x: &[T], t: Timestep, outputs: Outputs<T>| {
            let Outputs { prediction, variance } = outputs;
            let outputs = Outputs { prediction: &mut *prediction, variance };
            let passes = conditions.passes(t);
            let told = told(conditions, passes, t, n);
            if passes == Passes::Both {
                self.guide(conditions, x, &told, outputs, &mut guided)?;
            } else if has_variance {
                both.resize(n * output, T::zero());
                self.engine.forward(self.model, x, &told, &mut both)?;
                self.part(&both, outputs);
            } else {
                self.engine.forward(self.model, x, &told, outputs.prediction)?;
            }
            if let Some(listener) = &mut self.listener {
                listener(t, x, prediction);
            }
            Ok(())
        };
        denoise_by_network(process, x, [image, usize::from(has_variance)], z, network, watch)
    }
}

/// Buffers of the two passes of guidance, which are one batch.
struct Guided<T> {
    /// x_t twice.
    x: Vec<T>,
    /// The network's outputs for the classes, then those for the null class.
    outputs: Vec<T>,
    with_class: Vec<T>,
    without_class: Vec<T>,
}

impl<T> Guided<T> {
    /// Buffers that grow when they are used.
    fn new() -> Self {
        Guided { x: Vec::new(), outputs: Vec::new(), with_class: Vec::new(), without_class: Vec::new() }
    }
}

impl<T: Element> Native<'_, T> {
    /// (G1) and (G3), image by image. A learned variance is the one for the class.
    fn guide(
        &mut self,
        conditions: &Conditions,
        x: &[T],
        told: &[Condition],
        outputs: Outputs<T>,
        buffers: &mut Guided<T>,
    ) -> Result<()> {
        let (image, output) = (self.model.input_len(), self.model.output_len());
        let half = x.len() / image * output;
        buffers.x.clear();
        buffers.x.extend(x.iter().chain(x));
        buffers.outputs.resize(2 * half, T::zero());
        self.engine.forward(self.model, &buffers.x, told, &mut buffers.outputs)?;
        let (with, without) = buffers.outputs.split_at(half);
        let Outputs { prediction, variance } = outputs;
        for (half, into) in [(without, &mut buffers.without_class), (with, &mut buffers.with_class)] {
            into.resize(x.len(), T::zero());
            self.part(half, Outputs { prediction: into, variance: &mut *variance });
        }
        let guidance = conditions.guidance;
        g01_guide(guidance.weight, &buffers.with_class, &buffers.without_class, prediction);
        let images = prediction.chunks_exact_mut(image).zip(buffers.with_class.chunks_exact(image));
        images.for_each(|(guided, with_class)| g03_rescale(guidance.rescale, with_class, guided));
        Ok(())
    }

    /// Parts the network's outputs: the prediction and, where there is one, the variance.
    fn part(&self, both: &[T], mut outputs: Outputs<T>) {
        if both.len() == outputs.prediction.len() {
            outputs.prediction.copy_from_slice(both);
        } else {
            outputs.split(both, self.model.graph.shape(self.model.graph.output).c);
        }
    }
}

/// What the network is told of n images, and with two passes of the same n images once more.
fn told(conditions: &Conditions, passes: Passes, t: Timestep, n: usize) -> Vec<Condition> {
    let index = t.index();
    let of_class = (0..n).map(|i| Condition { index, class: conditions.classes.get(i).copied() });
    let of_null = std::iter::repeat_n(Condition { index, class: conditions.null }, n);
    match passes {
        Passes::Class => of_class.collect(),
        Passes::Null => of_null.collect(),
        Passes::Both => of_class.chain(of_null).collect(),
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
    let (mut done, goes_on) = (0, Cell::new(true));
    let mut network = |x: &[T], t: Timestep, outputs: Outputs<T>| {
        if !goes_on.get() {
            return Err(Error::Stopped);
        }
        let Outputs { prediction, variance } = outputs;
        network(x, t, Outputs { prediction: &mut *prediction, variance: &mut *variance })?;
        done += 1;
        finite(prediction, || format!("the network's output at t = {t}"), done)
    };
    let watch = |k: usize, _: Timestep, x: &[T]| goes_on.set(watch(k, &mut || Ok(x.to_vec())));
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
