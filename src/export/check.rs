//! Compares what an exported graph computes with the engine's `f64` reference.

use super::graphs::{GraphSpec, Source};
use crate::config::VarianceKind;
use crate::equations::algorithms::alg2_sample;
use crate::equations::ddim::{ClipX0, Ddim, ddim_sample};
use crate::equations::reverse::Reverse;
use crate::equations::update::{ReverseProcess, StepCoefficients};
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use crate::kernels::Isa;
use crate::model::graph::Shape;
use crate::model::{Condition, Engine, Model};
use crate::rng::{Stream, fill_normal, rng};
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::runner::Runner;
use serde::Serialize;

/// The largest difference allowed of a denoiser's or a step's output, relative to the largest value: `f32`
/// rounding (6e-8) through some fifty layers and sums of hundreds of terms.
pub const BOUND: f64 = 2e-5;
/// The same for a sampler's images, absolute, the images being in [-1, 1]: each of the K steps adds its own
/// rounding.
pub const IMAGE_BOUND: f64 = 1e-3;

/// How far x_T is moved to measure how much the chain amplifies a change: some ten roundings.
const NUDGE: f64 = 1e-6;

/// Images that go through the graph, first together and then the first one alone.
const BATCH: usize = 3;

/// How far a graph is from the engine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The largest absolute difference.
    pub absolute: f64,
    /// What the bound is relative to: the largest value, or 1 for images.
    pub scale: f64,
    /// The bound on absolute / scale.
    pub bound: f64,
}

impl Difference {
    /// absolute / scale.
    pub fn relative(&self) -> f64 {
        self.absolute / self.scale
    }

    /// Whether the bound holds; false where a number is not finite.
    pub fn holds(&self) -> bool {
        self.absolute <= self.bound * self.scale
    }
}

/// Random inputs and the outputs that the graph has to compute: made once, compared with any number of
/// runtimes.
#[derive(Clone, Debug)]
pub struct Expectation {
    cases: Vec<Case>,
    amplification: f64,
    graph: &'static str,
}

/// Inputs and their expected output.
#[derive(Clone, Debug)]
struct Case {
    /// The inputs of the first run; the images come first.
    inputs: Vec<(&'static str, Tensor)>,
    /// The inputs of the later runs, except for the images, which are the output of the run before.
    continued: Vec<Vec<(&'static str, Tensor)>>,
    want: Vec<f64>,
    scale: f64,
    bound: f64,
}

impl Expectation {
    /// Random inputs for a graph, and the outputs of the engine's reference in `f64`: t at both ends and
    /// between, batches of 3 and of 1. `progress` gets the finished share of a sampler's chain.
    ///
    /// # Errors
    /// As [`build`](super::build); [`Error::NotFinite`] where the network's output is not finite.
    pub fn new(
        source: Source,
        spec: &GraphSpec,
        threads: usize,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Expectation> {
        let schedule = Schedule::from_config(source.diffusion)?;
        let mut reference = Reference::new(source.model, threads)?;
        let (cases, amplification) = match *spec {
            GraphSpec::Denoiser => (reference.denoiser(&schedule)?, 1.0),
            GraphSpec::Step => (reference.step(&schedule)?, 1.0),
            GraphSpec::Sampler { process, steps, spacing, per_run } => {
                reference.sampler(process, &process.strided(&schedule, steps, spacing)?, per_run, progress)?
            }
        };
        Ok(Expectation { cases, amplification, graph: spec.kind().name() })
    }

    /// By how much a sampler's chain enlarges a small change of x_T; 1 for other graphs. Above 100 the bound
    /// on images is wider than [`IMAGE_BOUND`].
    pub fn amplification(&self) -> f64 {
        self.amplification
    }

    /// Runs the graph and returns the case that is furthest off.
    ///
    /// # Errors
    /// [`Error::Disagrees`] where a bound does not hold; [`Error::Onnx`] from the runtime.
    pub fn compare(&self, runner: &mut dyn Runner) -> Result<Difference> {
        let mut worst = Difference { absolute: 0.0, scale: 1.0, bound: 1.0 };
        for case in &self.cases {
            let mut output = first_output(runner, case.inputs.iter())?;
            for inputs in &case.continued {
                let Some(state) = output else { break };
                let start = (case.inputs[0].0, state);
                output = first_output(runner, [&start].into_iter().chain(inputs))?;
            }
            let got = output.as_ref().and_then(Tensor::as_f32).unwrap_or_default();
            let mut absolute = if got.len() == case.want.len() { 0.0 } else { f64::NAN };
            for (got, want) in got.iter().zip(&case.want) {
                let difference = (f64::from(*got) - want).abs();
                // NaN counts as the largest difference.
                absolute = if absolute.is_nan() || difference <= absolute { absolute } else { difference };
            }
            let difference = Difference { absolute, scale: case.scale, bound: case.bound };
            if !difference.holds() {
                return Err(Error::Disagrees {
                    what: format!("the {} graph in {}", self.graph, runner.describe()),
                    difference: absolute,
                    bound: case.bound * case.scale,
                    help: "do not use the file; report this with the model's configuration".to_owned(),
                });
            }
            if difference.relative() / difference.bound >= worst.relative() / worst.bound {
                worst = difference;
            }
        }
        Ok(worst)
    }
}

fn first_output<'a>(
    runner: &mut dyn Runner,
    inputs: impl Iterator<Item = &'a (&'static str, Tensor)>,
) -> Result<Option<Tensor>> {
    let inputs: Vec<(&str, &Tensor)> = inputs.map(|(name, x)| (*name, x)).collect();
    Ok(runner.run(&inputs)?.into_iter().next().map(|(_, output)| output))
}

/// The engine in `f64` with the reference kernels.
struct Reference {
    model: Model<f64>,
    engine: Engine<f64>,
    shape: Shape,
}

impl Reference {
    fn new(model: &Model<f32>, threads: usize) -> Result<Reference> {
        let model: Model<f64> = model.cast();
        let engine = Engine::new(&model, threads, Isa::Reference)?;
        let shape = model.graph.shape(model.graph.input);
        Ok(Reference { model, engine, shape })
    }

    /// eps \[n, h, w, c\] from x \[n, h, w, c\].
    fn eps(&mut self, x: &[f64], indices: &[usize], eps: &mut [f64]) -> Result<()> {
        let conditions = conditions(self.model.graph.classes(), indices);
        self.engine.forward(&self.model, x, &conditions, eps)?;
        finite(eps)
    }

    fn denoiser(&mut self, schedule: &Schedule) -> Result<Vec<Case>> {
        let total = schedule.steps();
        let x = self.normal(0, BATCH);
        let indices = [total - 1, 0, total / 2];
        let mut eps = vec![0.0; BATCH * self.model.output_len()];
        self.eps(&channels_last(&x, self.shape), &indices, &mut eps)?;
        let out = self.model.graph.shape(self.model.graph.output);
        let eps = channels_first(&eps, out);
        let mut cases = Vec::new();
        for n in [BATCH, 1] {
            let t = Tensor::i64([n], indices[..n].iter().map(|t| *t as i64).collect::<Vec<_>>())?;
            let want = eps[..n * out.len()].to_vec();
            let scale = largest(&want);
            let mut inputs = vec![("x", self.tensor(n, &x)?), ("t", t)];
            inputs.extend(self.classes(n)?);
            cases.push(Case { inputs, continued: Vec::new(), want, scale, bound: BOUND });
        }
        Ok(cases)
    }

    /// Steps of both samplers at both ends and between. The scale is the largest sum of the terms'
    /// magnitudes: the predicted x_0 is a difference of terms that are far larger than itself at t = T.
    fn step(&mut self, schedule: &Schedule) -> Result<Vec<Case>> {
        let total = schedule.steps();
        let processes = [
            ReverseProcess::Alg2(Reverse { variance: VarianceKind::FixedSmall, clip_x0: false }),
            ReverseProcess::Ddim(Ddim { eta: 0.5, clip_x0: ClipX0::KeepEps }),
        ];
        let mut cases = Vec::new();
        for (i, k) in [0, total / 2, total - 1].into_iter().enumerate() {
            for process in processes {
                let (t, c) = process.steps(schedule)?[k];
                let n = if i == 1 { BATCH } else { 1 };
                cases.push(self.one_step(t, c, n, i as u64)?);
            }
        }
        Ok(cases)
    }

    fn one_step(&mut self, t: Timestep, c: StepCoefficients, n: usize, seed: u64) -> Result<Case> {
        let (x, z) = (self.normal(2 * seed + 1, n), self.normal(2 * seed + 2, n));
        let mut eps = vec![0.0; x.len()];
        self.eps(&channels_last(&x, self.shape), &vec![t.index(); n], &mut eps)?;
        let eps = channels_first(&eps, self.shape);
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let (wide_x, wide_z) = (wide(&x), wide(&z));
        let mut want = vec![0.0; x.len()];
        c.apply(&wide_x, &eps, &wide_z, &mut want);
        let terms = wide_x.iter().zip(&eps).zip(&wide_z).map(|((x, eps), z)| {
            let predicted = (c.a_x * x).abs() + (c.a_eps * eps).abs();
            c.b_x0.abs() * predicted + (c.b_x * x).abs() + (c.b_eps * eps).abs() + (c.sigma * z).abs()
        });
        let scale = terms.fold(0.0, f64::max);
        let mut inputs = vec![
            ("x", self.tensor(n, &x)?),
            ("t", Tensor::i64([n], vec![t.index() as i64; n])?),
            ("coefficients", Tensor::f32([8], c.to_array::<f32>())?),
            ("z", self.tensor(n, &z)?),
        ];
        inputs.extend(self.classes(n)?);
        Ok(Case { inputs, continued: Vec::new(), want, scale, bound: BOUND })
    }

    /// The chain of an untrained network can be chaotic and amplify rounding errors; the bound is then wider.
    /// One more image, the first one with x_T moved by 1e-6, measures by how much.
    fn sampler(
        &mut self,
        process: ReverseProcess,
        kept: &Schedule,
        per_run: Option<usize>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<(Vec<Case>, f64)> {
        let (shape, steps, len) = (self.shape, kept.steps(), self.shape.len());
        let start = self.normal(100, BATCH);
        let noises: Vec<Vec<f32>> = (0..steps).map(|k| self.normal(101 + k as u64, BATCH)).collect();
        let with_first_again = |x: &[f32]| channels_last(&[x, &x[..len]].concat(), shape);
        let mut x = with_first_again(&start);
        let nudge = channels_last(&self.normal(99, 1), shape);
        x[BATCH * len..].iter_mut().zip(nudge).for_each(|(x, z)| *x += NUDGE * z);
        let z = |k: usize, _: Timestep, out: &mut [f64]| out.copy_from_slice(&with_first_again(&noises[k]));
        let (model, engine) = (&self.model, &mut self.engine);
        let classes = model.graph.classes();
        let eps_theta = |x: &[f64], t: Timestep, out: &mut [f64]| {
            engine.forward(model, x, &conditions(classes, &[t.index(); BATCH + 1]), out)?;
            finite(out)
        };
        let watch = |k: usize, _: Timestep, _: &[f64]| progress((k + 1) as f64 / steps as f64);
        match process {
            ReverseProcess::Alg2(reverse) => alg2_sample(kept, reverse, &mut x, z, eps_theta, watch)?,
            ReverseProcess::Ddim(ddim) => ddim_sample(kept, ddim, &mut x, z, eps_theta, watch)?,
        }
        let moved = x[..len].iter().zip(&x[BATCH * len..]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let images = channels_first(&x[..BATCH * len], shape);
        let mut cases = Vec::new();
        for n in [BATCH, 1] {
            let want = images[..n * len].to_vec();
            let per_run = per_run.unwrap_or(steps);
            let mut runs = Vec::new();
            for (i, noises) in noises.chunks(per_run).enumerate() {
                let mut noise: Vec<f32> = noises.iter().flat_map(|z| &z[..n * len]).copied().collect();
                noise.resize(per_run * n * len, 0.0);
                let mut inputs =
                    vec![("noise", Tensor::f32([per_run, n, shape.c, shape.h, shape.w], noise)?)];
                if per_run < steps {
                    inputs.push(("first", Tensor::i64([1], [(i * per_run) as i64])?));
                }
                inputs.extend(self.classes(n)?);
                runs.push(inputs);
            }
            let mut inputs = runs.remove(0);
            inputs.insert(0, ("x_T", self.tensor(n, &start)?));
            // Unclipped images may leave [-1, 1].
            let scale = largest(&want).max(1.0);
            cases.push(Case {
                inputs,
                continued: runs,
                want,
                scale,
                bound: IMAGE_BOUND.max(10.0 * moved / scale),
            });
        }
        Ok((cases, moved / NUDGE))
    }

    /// `n` images of N(0, 1), \[n, c, h, w\].
    fn normal(&self, seed: u64, n: usize) -> Vec<f32> {
        let mut x = vec![0.0; n * self.shape.len()];
        fill_normal(&mut rng(seed, Stream::Check, 0, 0), &mut x);
        x
    }

    /// The input of the images' classes, if there is one.
    fn classes(&self, n: usize) -> Result<Option<(&'static str, Tensor)>> {
        let Some(classes) = self.model.graph.classes() else { return Ok(None) };
        let classes: Vec<i64> = (0..n).map(|image| class_of(image, classes) as i64).collect();
        Ok(Some(("y", Tensor::i64([n], classes)?)))
    }

    /// The first `n` images as an input.
    fn tensor(&self, n: usize, x: &[f32]) -> Result<Tensor> {
        let Shape { h, w, c } = self.shape;
        Ok(Tensor::f32([n, c, h, w], &x[..n * self.shape.len()])?)
    }
}

/// The class that an image gets, of so many. The one after the last of a batch is the first one again.
fn class_of(image: usize, classes: usize) -> usize {
    image % BATCH % classes
}

/// The images' timesteps and, where the network takes them, classes.
fn conditions(classes: Option<usize>, indices: &[usize]) -> Vec<Condition> {
    let class = |image| classes.map(|classes| class_of(image, classes));
    indices.iter().enumerate().map(|(i, index)| Condition { index: *index, class: class(i) }).collect()
}

fn finite(eps: &[f64]) -> Result<()> {
    if eps.iter().all(|e| e.is_finite()) {
        return Ok(());
    }
    Err(Error::NotFinite {
        what: "the network's output for random numbers".to_owned(),
        step: 1,
        help: "the weights are damaged or training diverged".to_owned(),
    })
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |largest, x| x.abs().max(largest))
}

/// \[n, h, w, c\] from \[n, c, h, w\].
fn channels_last(x: &[f32], shape: Shape) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for image in x.chunks_exact(shape.len()) {
        for pixel in 0..shape.pixels() {
            out.extend(image.iter().skip(pixel).step_by(shape.pixels()).map(|x| f64::from(*x)));
        }
    }
    out
}

/// \[n, c, h, w\] from \[n, h, w, c\].
fn channels_first(x: &[f64], shape: Shape) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for image in x.chunks_exact(shape.len()) {
        for channel in 0..shape.c {
            out.extend(image.iter().skip(channel).step_by(shape.c));
        }
    }
    out
}
