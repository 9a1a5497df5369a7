//! The reverse process of a batch by each of the three graphs.

use super::frame::Frame;
use super::ports::DenoiserPorts;
use crate::equations::Timestep;
use crate::equations::solver::Outputs;
use crate::equations::update::StepCoefficients;
use crate::error::{Error, Result};
use crate::export::SamplerSummary;
use crate::sample::native::{denoise_by_network, finite};
use crate::sample::{DrawNoise, Process, Watch};
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::runner::{LoopSpec, Runner};

/// A loaded graph with the size of its images.
pub(super) struct Loaded {
    pub(super) runner: Box<dyn Runner>,
    pub(super) frame: Frame,
}

impl Loaded {
    /// The denoiser predicts eps; the host computes each step from it.
    pub(super) fn by_denoiser(
        &mut self,
        ports: &DenoiserPorts,
        process: &Process,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let image = self.frame.len();
        let network = |x: &[f32], t: Timestep, outputs: Outputs<f32>| {
            let x = self.frame.enter(x)?;
            let t = ports.time(t, x.shape()[0])?;
            let eps = self.run(&[(&ports.x, &x), (&ports.t, &t)], &ports.eps)?;
            self.frame.leave(&ports.eps, &eps, outputs.prediction)
        };
        denoise_by_network(process, x, [image, 0], z, network, watch)
    }

    /// The step graph's output goes back to its input, on the device where the runtime can; the host sends
    /// the timestep, the coefficients and, where a step adds it, the noise.
    pub(super) fn by_steps(
        &mut self,
        process: &Process,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let frame = self.frame;
        let steps = process.coefficients()?;
        let start = frame.enter(x)?;
        let n = start.shape()[0];
        let time = |t: Timestep| Tensor::i64([n], vec![t.index() as i64; n]);
        let numbers = |c: &StepCoefficients| Tensor::f32([8], c.to_array::<f32>());
        let mut noise = vec![0.0; x.len()];
        let (t, c) = (time(steps[0].0)?, numbers(&steps[0].1)?);
        let zeros = frame.enter(&noise)?;
        let spec = LoopSpec {
            input: "x",
            output: "x_next",
            state: &start,
            others: vec![("t", &t), ("coefficients", &c), ("z", &zeros)],
        };
        let mut turns = self.runner.step_loop(&spec)?;
        for (k, (t, c)) in steps.iter().enumerate() {
            if k > 0 {
                turns.set("t", &time(*t)?)?;
                turns.set("coefficients", &numbers(c)?)?;
            }
            if c.sigma != 0.0 {
                z(k, *t, &mut noise);
                turns.set("z", &frame.enter(&noise)?)?;
            }
            turns.step()?;
            watch(k, &mut || {
                let mut now = vec![0.0; noise.len()];
                frame.leave("x_next", &turns.state()?, &mut now)?;
                Ok(now)
            });
        }
        frame.leave("x_next", &turns.state()?, x)?;
        finite(x, || "an image".to_owned(), steps.len() as u64)
    }

    /// The whole process in one run, or in the runs that the graph cuts it into; the noise of a run's steps
    /// is sent along.
    pub(super) fn by_sampler(
        &mut self,
        summary: &SamplerSummary,
        process: &Process,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let frame = self.frame;
        let steps = process.coefficients()?;
        let own = |process: &Process| matches!(process, Process::Text { reverse, .. } if *reverse == summary.process);
        let same = own(process) && steps.iter().map(|(t, _)| *t).eq(summary.timesteps.iter().copied());
        if !same {
            return Err(Error::invalid(
                "the sampler graph",
                format!("its own {:?} in {} steps", summary.process, summary.timesteps.len()),
                format!("another sampler, in {} steps", steps.len()),
                "the file fixes them",
            ));
        }
        let mut state = frame.enter(x)?;
        let (len, mut image) = (state.shape()[0] * frame.len(), vec![0.0; x.len()]);
        let mut shape = vec![summary.per_run];
        shape.extend(state.shape());
        for (run, steps) in steps.chunks(summary.per_run).enumerate() {
            let first = run * summary.per_run;
            let mut noise = vec![0.0; summary.per_run * len];
            for (k, ((t, c), noise)) in steps.iter().zip(noise.chunks_exact_mut(len)).enumerate() {
                if c.sigma != 0.0 {
                    z(first + k, *t, &mut image);
                    frame.channels_first(&image, noise);
                }
            }
            let noise = Tensor::f32(shape.clone(), noise)?;
            let place = Tensor::i64([1], [first as i64])?;
            let mut inputs = vec![("x_T", &state), ("noise", &noise)];
            if summary.is_cut() {
                inputs.push(("first", &place));
            }
            state = self.run(&inputs, "images")?;
            frame.leave("images", &state, x)?;
            watch(first + steps.len() - 1, &mut || Ok(x.to_vec()));
        }
        finite(x, || "an image".to_owned(), steps.len() as u64)
    }

    /// One output of one run.
    fn run(&mut self, inputs: &[(&str, &Tensor)], output: &str) -> Result<Tensor> {
        let outputs = self.runner.run(inputs)?;
        let found = outputs.into_iter().find(|(name, _)| name == output);
        let absent = || Error::invalid("the graph's outputs", output, "no such output", "");
        found.map(|(_, tensor)| tensor).ok_or_else(absent)
    }
}
