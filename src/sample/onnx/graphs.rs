//! The reverse process of a batch by each of the three graphs.

use super::frame::Frame;
use super::ports::DenoiserPorts;
use super::told::Told;
use crate::equations::Timestep;
use crate::equations::guidance::{g01_guide, g03_rescale};
use crate::equations::solver::{Outputs, Step, StepForm};
use crate::error::{Error, Result};
use crate::export::SamplerSummary;
use crate::sample::native::{denoise_by_network, finite};
use crate::sample::{DrawNoise, Passes, Process, Watch};
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::runner::{Carried, LoopSpec, Runner};

/// A loaded graph with the size of its images.
pub(super) struct Loaded {
    pub(super) runner: Box<dyn Runner>,
    pub(super) frame: Frame,
}

/// The sampler of a sampler graph.
pub(super) struct Fixed {
    pub(super) summary: SamplerSummary,
    /// Its steps.
    pub(super) table: Vec<Step>,
}

impl Fixed {
    /// What a run carries to the next one beside the images.
    pub(super) fn carried(&self) -> Vec<&'static str> {
        if self.summary.is_cut() { StepForm::of(&self.table).carried() } else { Vec::new() }
    }
}

impl Loaded {
    /// The denoiser predicts; the host guides and computes each step from it.
    pub(super) fn by_denoiser(
        &mut self,
        ports: &DenoiserPorts,
        told: Told,
        process: &Process,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let image = self.frame.len();
        let network = |x: &[f32], t: Timestep, outputs: Outputs<f32>| {
            let (x, passes) = (self.frame.enter(x)?, told.conditions.passes(t));
            let t = ports.time(t, x.shape()[0])?;
            let Outputs { prediction, variance } = outputs;
            if passes != Passes::Both {
                let y = told.classes(passes)?;
                return self.predict(ports, [&x, &t, &y], prediction, variance);
            }
            // A learned variance is the one for the class.
            let (mut without, mut unread) = (vec![0.0; prediction.len()], vec![0.0; variance.len()]);
            let null = told.classes(Passes::Null)?;
            self.predict(ports, [&x, &t, &null], &mut without, &mut unread)?;
            let y = told.classes(Passes::Class)?;
            self.predict(ports, [&x, &t, &y], prediction, variance)?;
            let with_class = prediction.to_vec();
            let guidance = told.conditions.guidance;
            g01_guide(guidance.weight, &with_class, &without, prediction);
            let images = prediction.chunks_exact_mut(image).zip(with_class.chunks_exact(image));
            images.for_each(|(guided, with_class)| g03_rescale(guidance.rescale, with_class, guided));
            Ok(())
        };
        denoise_by_network(process, x, [image, usize::from(ports.has_variance)], z, network, watch)
    }

    /// What a denoiser says of x at t for classes y, where it takes them.
    fn predict(
        &mut self,
        ports: &DenoiserPorts,
        [x, t, y]: [&Tensor; 3],
        prediction: &mut [f32],
        variance: &mut [f32],
    ) -> Result<()> {
        let mut inputs: Vec<(&str, &Tensor)> = vec![(&ports.x, x), (&ports.t, t)];
        inputs.extend(ports.y.as_ref().map(|name| (name.as_str(), y)));
        let output = self.run(&inputs, &ports.eps)?;
        if ports.has_variance {
            return self.frame.leave_both(&ports.eps, &output, [prediction, variance]);
        }
        self.frame.leave(&ports.eps, &output, prediction)
    }

    /// The step graph's outputs go back to its inputs, on the device where the runtime can; the host sends
    /// the timestep, the row of numbers and, where the step adds it, the noise.
    pub(super) fn by_steps(
        &mut self,
        form: &StepForm,
        told: Told,
        process: &Process,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let frame = self.frame;
        let table = process.table()?;
        let needed = StepForm::of(&table);
        if !form.covers(&needed) {
            return Err(Error::invalid(
                "the steps of a step graph",
                format!("steps of its form, {form}"),
                needed.to_string(),
                "export it for this sampler, or let the host take the steps: the denoiser graph",
            ));
        }
        let start = frame.enter(x)?;
        let n = start.shape()[0];
        let time = |step: &Step| Tensor::i64([n], vec![step.t.index() as i64; n]);
        let numbers = |step: &Step| Tensor::f32([form.names().len()], form.row_f32(step));
        let mut noise = vec![0.0; x.len()];
        let (t, c) = (time(&table[0])?, numbers(&table[0])?);
        let zeros = frame.enter(&noise)?;
        let names: Vec<(&str, String)> =
            form.carried().into_iter().map(|name| (name, format!("{name}_next"))).collect();
        let mut states = vec![Carried { input: "x", output: "x_next", first: &start }];
        states.extend(names.iter().map(|(input, output)| Carried { input, output, first: &zeros }));
        let mut others = vec![("t", &t), ("coefficients", &c), ("z", &zeros)];
        let told_first = told.of_step(table[0].t)?;
        others.extend(told_first.iter().map(|(name, value)| (*name, value)));
        let spec = LoopSpec { states, others, wanted: Vec::new() };
        let mut turns = self.runner.step_loop(&spec)?;
        for (k, step) in table.iter().enumerate() {
            if k > 0 {
                turns.set("t", &time(step)?)?;
                turns.set("coefficients", &numbers(step)?)?;
                if told.changes() {
                    for (name, value) in told.of_step(step.t)? {
                        turns.set(name, &value)?;
                    }
                }
            }
            if step.noise.is_some() {
                z(k, step.draw, &mut noise);
                turns.set("z", &frame.enter(&noise)?)?;
            }
            turns.step()?;
            let goes_on = watch(k, &mut || {
                let mut now = vec![0.0; noise.len()];
                frame.leave("x_next", &turns.state("x")?, &mut now)?;
                Ok(now)
            });
            if !goes_on {
                return Err(Error::Stopped);
            }
        }
        frame.leave("x_next", &turns.state("x")?, x)?;
        finite(x, || "an image".to_owned(), table.len() as u64)
    }

    /// The whole process in one run, or in the runs that the graph cuts it into; the noise of a run's steps
    /// is sent along.
    pub(super) fn by_sampler(
        &mut self,
        fixed: &Fixed,
        told: Told,
        process: &Process,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let frame = self.frame;
        let (summary, table) = (&fixed.summary, process.table()?);
        if table != fixed.table {
            return Err(Error::invalid(
                "the sampler graph",
                format!("its own {:?} in {} steps", summary.scheduler.method, fixed.table.len()),
                format!("another sampler, in {} steps", table.len()),
                "the file fixes them",
            ));
        }
        let start = frame.enter(x)?;
        let (len, mut image) = (start.shape()[0] * frame.len(), vec![0.0; x.len()]);
        let mut shape = vec![summary.per_run];
        shape.extend(start.shape());
        let zeros = frame.enter(&image)?;
        let mut states = vec![("x_T", "images".to_owned(), start)];
        states.extend(fixed.carried().into_iter().map(|name| (name, format!("{name}_next"), zeros.clone())));
        for (run, steps) in table.chunks(summary.per_run).enumerate() {
            let first = run * summary.per_run;
            let mut noise = vec![0.0; summary.per_run * len];
            for (k, (step, noise)) in steps.iter().zip(noise.chunks_exact_mut(len)).enumerate() {
                if step.noise.is_some() {
                    z(first + k, step.draw, &mut image);
                    frame.channels_first(&image, noise);
                }
            }
            let noise = Tensor::f32(shape.clone(), noise)?;
            let place = Tensor::i64([1], [first as i64])?;
            let mut inputs: Vec<(&str, &Tensor)> =
                states.iter().map(|(input, _, value)| (*input, value)).collect();
            inputs.push(("noise", &noise));
            if summary.is_cut() {
                inputs.push(("first", &place));
            }
            let told = told.of_run(steps, summary.per_run)?;
            inputs.extend(told.iter().map(|(name, value)| (*name, value)));
            let mut outputs = self.runner.run(&inputs)?;
            for (_, output, value) in &mut states {
                *value = take(&mut outputs, output)?;
            }
            frame.leave("images", &states[0].2, x)?;
            if !watch(first + steps.len() - 1, &mut || Ok(x.to_vec())) {
                return Err(Error::Stopped);
            }
        }
        finite(x, || "an image".to_owned(), table.len() as u64)
    }

    /// One output of one run.
    fn run(&mut self, inputs: &[(&str, &Tensor)], output: &str) -> Result<Tensor> {
        take(&mut self.runner.run(inputs)?, output)
    }
}

/// The output of this name.
fn take(outputs: &mut Vec<(String, Tensor)>, name: &str) -> Result<Tensor> {
    let place = outputs.iter().position(|(output, _)| output == name);
    let absent = || Error::invalid("the graph's outputs", name, "no such output", "");
    Ok(outputs.swap_remove(place.ok_or_else(absent)?).1)
}
