//! Compares what an exported graph computes with the engine's `f64` reference.

mod train_step;

use super::graphs::GraphSpec;
use super::source::{Precision, Source};
use crate::config::VarianceKind;
use crate::equations::algorithms::alg2_sample;
use crate::equations::ddim::ddim_sample;
use crate::equations::reverse::Reverse;
use crate::equations::solver::{Limit, Outputs, Scheduler, State, Step, StepForm};
use crate::equations::update::ReverseProcess;
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};
use crate::kernels::Isa;
use crate::model::graph::Shape;
use crate::model::{Condition, Engine, Model};
use crate::rng::{Stream, fill_normal, rng};
use performer_ddpm_onnx::Tensor;
use performer_ddpm_onnx::runner::Runner;
use serde::Serialize;
use std::borrow::Cow;

/// The largest difference allowed of a denoiser's or a step's output, relative to the largest value: `f32`
/// rounding (6e-8) through some fifty layers and sums of hundreds of terms.
pub const BOUND: f64 = 2e-5;
/// The same for a sampler's images, absolute, the images being in [-1, 1]: each of the K steps adds its own
/// rounding.
pub const IMAGE_BOUND: f64 = 1e-3;

/// The largest difference allowed of a graph in 16 bits, in roundings of those. A trained network of
/// `fashion` comes to 1 of f16 and 0.2 of bf16 in one evaluation in ONNX Runtime on a CPU, and its images to
/// 4 and 16 after 50 steps; a GPU rounds between more layers.
const ROUNDINGS: f64 = 50.0;

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

/// An input and its name.
type Named = (Cow<'static, str>, Tensor);

/// Inputs and their expected outputs.
#[derive(Clone, Debug)]
struct Case {
    /// The inputs of the first run; the images come first.
    inputs: Vec<Named>,
    /// The inputs of the later runs, except for the images and what else is carried, which are outputs of the
    /// run before.
    continued: Vec<Vec<Named>>,
    /// What is carried from run to run beside the images: the output of an input `NAME` is `NAME_next`.
    carried: Vec<&'static str>,
    /// The first outputs of the last run; `None` for one that is not compared.
    want: Vec<Option<Want>>,
    bound: f64,
}

/// An expected output.
#[derive(Clone, Debug)]
struct Want {
    values: Vec<f64>,
    /// What the bound is relative to.
    scale: f64,
}

impl Expectation {
    /// Random inputs for a graph, and the outputs of the engine's reference in `f64`: t at both ends and
    /// between, batches of 3 and of 1. `progress` gets the finished share of a sampler's chain, or of a
    /// training step's images.
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
        let mut reference = Reference::new(source, threads)?;
        let (mut cases, amplification) = match *spec {
            GraphSpec::Denoiser => (reference.denoiser(&schedule)?, 1.0),
            GraphSpec::Step => (reference.step(&schedule, &source.scheduler)?, 1.0),
            GraphSpec::Sampler { scheduler, steps, per_run } => {
                let steps = steps.unwrap_or(schedule.steps());
                reference.sampler(&scheduler, &schedule, [steps, per_run.unwrap_or(steps)], progress)?
            }
            GraphSpec::TrainStep(ref step) => (reference.train_step(source, &schedule, step, progress)?, 1.0),
        };
        if source.precision != Precision::F32 {
            for case in &mut cases {
                case.bound = case.bound.max(ROUNDINGS * source.precision.rounding());
            }
        }
        Ok(Expectation { cases, amplification, graph: spec.kind().name() })
    }

    /// By how much a sampler's chain enlarges a small change of x_T; 1 for other graphs. Above 100 the bound
    /// on images is wider than [`IMAGE_BOUND`].
    pub fn amplification(&self) -> f64 {
        self.amplification
    }

    /// Runs the graph and returns the output that is furthest off.
    ///
    /// # Errors
    /// [`Error::Disagrees`] where a bound does not hold; [`Error::Onnx`] from the runtime.
    pub fn compare(&self, runner: &mut dyn Runner) -> Result<Difference> {
        let mut worst = Difference { absolute: 0.0, scale: 1.0, bound: 1.0 };
        for case in &self.cases {
            let outputs = case.run(runner)?;
            for (i, want) in case.want.iter().enumerate().filter_map(|(i, want)| Some((i, want.as_ref()?))) {
                let got = outputs.get(i).and_then(|(_, output)| output.as_f32()).unwrap_or_default();
                let absolute = largest_difference(got, &want.values);
                let difference = Difference { absolute, scale: want.scale, bound: case.bound };
                if !difference.holds() {
                    return Err(Error::Disagrees {
                        what: format!("the {} graph in {}", self.graph, runner.describe()),
                        difference: absolute,
                        bound: case.bound * want.scale,
                        help: "do not use the file; report this with the model's configuration".to_owned(),
                    });
                }
                if difference.relative() / difference.bound >= worst.relative() / worst.bound {
                    worst = difference;
                }
            }
        }
        Ok(worst)
    }
}

impl Case {
    /// The outputs of the last run.
    fn run(&self, runner: &mut dyn Runner) -> Result<Vec<(String, Tensor)>> {
        let mut outputs = run(runner, &self.inputs)?;
        for others in &self.continued {
            let images = outputs.first().map(|(_, images)| (self.inputs[0].0.clone(), images.clone()));
            let carried = self.carried.iter().filter_map(|name| {
                let next = outputs.iter().find(|(output, _)| *output == format!("{name}_next"));
                next.map(|(_, value)| ((*name).into(), value.clone()))
            });
            let inputs: Vec<_> = images.into_iter().chain(carried).chain(others.iter().cloned()).collect();
            outputs = run(runner, &inputs)?;
        }
        Ok(outputs)
    }
}

fn run(runner: &mut dyn Runner, inputs: &[Named]) -> Result<Vec<(String, Tensor)>> {
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (&**name, x)).collect();
    Ok(runner.run(&inputs)?)
}

/// NaN where there is one, or where the lengths differ.
fn largest_difference(got: &[f32], want: &[f64]) -> f64 {
    let start = if got.len() == want.len() { 0.0 } else { f64::NAN };
    got.iter().zip(want).fold(start, |absolute: f64, (got, want)| {
        let difference = (f64::from(*got) - want).abs();
        // The root of a learned variance below 0 is no number there either. Any other NaN counts as the
        // largest difference.
        let difference = if got.is_nan() && want.is_nan() { 0.0 } else { difference };
        if absolute.is_nan() || difference <= absolute { absolute } else { difference }
    })
}

/// The engine in `f64` with the reference kernels.
struct Reference {
    model: Model<f64>,
    engine: Engine<f64>,
    shape: Shape,
    null_class: Option<usize>,
}

impl Reference {
    fn new(source: Source, threads: usize) -> Result<Reference> {
        let model: Model<f64> = source.model.cast();
        let engine = Engine::new(&model, threads, Isa::Reference)?;
        let shape = model.graph.shape(model.graph.input);
        Ok(Reference {
            model,
            engine,
            shape,
            null_class: source.model.config.null_class().filter(|_| source.guided),
        })
    }

    /// The network's output from x \[n, h, w, c\].
    fn output(&mut self, x: &[f64], indices: &[usize]) -> Result<Vec<f64>> {
        let conditions = conditions(self.model.graph.classes(), indices);
        let mut output = vec![0.0; indices.len() * self.model.output_len()];
        self.engine.forward(&self.model, x, &conditions, &mut output)?;
        finite(&output)?;
        Ok(output)
    }

    /// The prediction and the variance from x \[n, h, w, c\], both of its layout; the prediction guided by w
    /// and phi where there is a null class.
    fn prediction(&mut self, x: &[f64], indices: &[usize], [w, phi]: [f64; 2]) -> Result<[Vec<f64>; 2]> {
        let mut output = self.output(x, indices)?;
        let (c, image) = (self.model.graph.shape(self.model.graph.output).c, self.model.output_len());
        if let Some(null) = self.null_class {
            let none = |index: &usize| Condition { index: *index, class: Some(null) };
            let conditions: Vec<Condition> = indices.iter().map(none).collect();
            let mut without = vec![0.0; output.len()];
            self.engine.forward(&self.model, x, &conditions, &mut without)?;
            for (output, without) in output.chunks_exact_mut(image).zip(without.chunks_exact(image)) {
                guide(output, without, [self.shape.c, c], [w, phi]);
            }
        }
        let part = |range: std::ops::Range<usize>| -> Vec<f64> {
            output.chunks_exact(c).flat_map(|pixel| pixel[range.clone()].iter().copied()).collect()
        };
        let split = self.shape.c.min(c);
        Ok([part(0..split), part(split..c)])
    }

    fn denoiser(&mut self, schedule: &Schedule) -> Result<Vec<Case>> {
        let total = schedule.steps();
        let x = self.normal(0, BATCH);
        let indices = [total - 1, 0, total / 2];
        let output = self.output(&channels_last(&x, self.shape), &indices)?;
        let out = self.model.graph.shape(self.model.graph.output);
        let output = channels_first(&output, out);
        let mut cases = Vec::new();
        for n in [BATCH, 1] {
            let t = Tensor::i64([n], indices[..n].iter().map(|t| *t as i64).collect::<Vec<_>>())?;
            let values = output[..n * out.len()].to_vec();
            let scale = largest(&values);
            let mut inputs = vec![("x".into(), self.tensor(n, &x)?), ("t".into(), t)];
            inputs.extend(self.classes(n)?);
            let want = vec![Some(Want { values, scale })];
            cases.push(Case { inputs, continued: Vec::new(), carried: Vec::new(), want, bound: BOUND });
        }
        Ok(cases)
    }

    /// Steps of the scheduler at both ends and between, as many as are usual and few; where they carry
    /// nothing, of Algorithm 2 over all timesteps too, which shows that the graph takes any sampler's.
    fn step(&mut self, schedule: &Schedule, scheduler: &Scheduler) -> Result<Vec<Case>> {
        let form = scheduler.form();
        let usual = scheduler.steps(schedule, scheduler.usual_steps(schedule.steps()))?;
        let mut steps: Vec<Step> = Vec::new();
        let alg2 = Reverse { variance: VarianceKind::FixedSmall, clip_x0: false };
        let all = ReverseProcess::Alg2(alg2).steps(schedule)?;
        let is_any = form == StepForm::default() && schedule.last().alpha_bar > 0.0;
        for table in [Some(usual), is_any.then_some(all)].into_iter().flatten() {
            let last = table.len() - 1;
            for place in [0, 1.min(last), table.len() / 2, last] {
                steps.push(table[place.min(last)].clone());
            }
        }
        let cases = steps.iter().enumerate().map(|(i, step)| {
            let n = if i % 2 == 1 { BATCH } else { 1 };
            self.one_step(step, &form, n, i as u64)
        });
        cases.collect()
    }

    /// The scale of x_next is the largest sum of its terms' magnitudes: the predicted x_0 is a difference of
    /// terms that are far larger than itself at t = T.
    fn one_step(&mut self, step: &Step, form: &StepForm, n: usize, seed: u64) -> Result<Case> {
        let guidance = guidance_of(seed as usize);
        let mut seeds = 8 * seed..;
        let mut draw = || self.normal(seeds.next().unwrap_or_default(), n);
        let (x, z) = (draw(), draw());
        let carried: Vec<(&'static str, Vec<f32>)> =
            form.carried().into_iter().map(|name| (name, draw())).collect();
        let indices = vec![step.t.index(); n];
        let [m, u] = self.prediction(&channels_last(&x, self.shape), &indices, guidance)?;
        let len = self.shape.len();
        let history = |absolute: bool| -> State<f64> {
            let wide = |x: &[f32]| -> Vec<f64> {
                let x = channels_last(x, self.shape);
                if absolute { x.iter().map(|x| x.abs()).collect() } else { x }
            };
            let find = |wanted: &str| {
                let found = carried.iter().find(|(name, _)| *name == wanted);
                found.map_or_else(|| vec![0.0; n * len], |(_, values)| wide(values))
            };
            let x0 = [find("x0_1"), find("x0_2"), find("x0_3")];
            State::with_history(wide(&x), find("base"), x0, len)
        };
        let wide_z = channels_last(&z, self.shape);
        let mut state = history(false);
        state.advance(step, &m, &u, &wide_z);
        let mut terms = history(true);
        let absolute = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
        terms.advance(&magnitudes(step), &absolute(&m), &u, &absolute(&wide_z));
        let of = |values: &[f64], terms: &[f64]| {
            Some(Want { values: channels_first(values, self.shape), scale: largest(terms) })
        };
        let mut want = vec![of(&state.x, &terms.x)];
        want.extend((0..form.history).map(|i| of(&state.x0()[i], &terms.x0()[i])));
        if form.corrects {
            want.push(of(state.base(), terms.base()));
        }
        let mut inputs = vec![
            ("x".into(), self.tensor(n, &x)?),
            ("t".into(), Tensor::i64([n], vec![step.t.index() as i64; n])?),
            ("coefficients".into(), Tensor::f32([form.names().len()], form.row_f32(step))?),
            ("z".into(), self.tensor(n, &z)?),
        ];
        for (name, values) in &carried {
            inputs.push(((*name).into(), self.tensor(n, values)?));
        }
        inputs.extend(self.classes(n)?);
        inputs.extend(self.guidance(&[guidance], false)?);
        Ok(Case { inputs, continued: Vec::new(), carried: Vec::new(), want, bound: BOUND })
    }

    /// The chain of an untrained network can be chaotic and amplify rounding errors; the bound is then wider.
    /// One more image, the first one with x_T moved by 1e-6, measures by how much.
    fn sampler(
        &mut self,
        scheduler: &Scheduler,
        schedule: &Schedule,
        [asked, per_run]: [usize; 2],
        progress: &mut dyn FnMut(f64),
    ) -> Result<(Vec<Case>, f64)> {
        let table = scheduler.steps(schedule, asked)?;
        let (shape, steps, len) = (self.shape, table.len(), self.shape.len());
        let per_run = per_run.min(steps);
        let start = self.normal(100, BATCH);
        let noises: Vec<Vec<f32>> = (0..steps).map(|k| self.normal(101 + k as u64, BATCH)).collect();
        let with_first_again = |x: &[f32]| channels_last(&[x, &x[..len]].concat(), shape);
        let mut x = with_first_again(&start);
        let nudge = channels_last(&self.normal(99, 1), shape);
        x[BATCH * len..].iter_mut().zip(nudge).for_each(|(x, z)| *x += NUDGE * z);
        let z = |k: usize, _: Timestep, out: &mut [f64]| out.copy_from_slice(&with_first_again(&noises[k]));
        let mut calls = 0;
        let mut network = |x: &[f64], t: Timestep, outputs: Outputs<f64>| {
            let guidance = guidance_of(calls);
            calls += 1;
            let [m, u] = self.prediction(x, &[t.index(); BATCH + 1], guidance)?;
            outputs.prediction.copy_from_slice(&m);
            if u.len() == x.len() {
                outputs.variance.copy_from_slice(&u);
            }
            Ok(())
        };
        let watch = |k: usize, _: Timestep, _: &[f64]| progress((k + 1) as f64 / steps as f64);
        match scheduler.text(schedule, asked) {
            None => scheduler.plan(schedule, asked)?.sample(&mut x, len, z, network, watch)?,
            Some(reverse) => {
                let kept = reverse.strided(schedule, Some(asked), scheduler.spacing)?;
                let mut unread = vec![0.0; x.len()];
                let eps_theta = |x: &[f64], t: Timestep, out: &mut [f64]| {
                    network(x, t, Outputs { prediction: out, variance: &mut unread })
                };
                match reverse {
                    ReverseProcess::Alg2(reverse) => {
                        alg2_sample(&kept, reverse, &mut x, z, eps_theta, watch)?;
                    }
                    ReverseProcess::Ddim(ddim) => ddim_sample(&kept, ddim, &mut x, z, eps_theta, watch)?,
                }
            }
        }
        let moved = x[..len].iter().zip(&x[BATCH * len..]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let images = channels_first(&x[..BATCH * len], shape);
        let carried = if per_run < steps { StepForm::of(&table).carried() } else { Vec::new() };
        let mut cases = Vec::new();
        for n in [BATCH, 1] {
            let mut runs = Vec::new();
            for (i, noises) in noises.chunks(per_run).enumerate() {
                let mut noise: Vec<f32> = noises.iter().flat_map(|z| &z[..n * len]).copied().collect();
                noise.resize(per_run * n * len, 0.0);
                let noise = Tensor::f32([per_run, n, shape.c, shape.h, shape.w], noise)?;
                let mut inputs: Vec<Named> = vec![("noise".into(), noise)];
                if per_run < steps {
                    inputs.push(("first".into(), Tensor::i64([1], [(i * per_run) as i64])?));
                }
                inputs.extend(self.classes(n)?);
                let guidance: Vec<_> = (0..per_run).map(|k| guidance_of(i * per_run + k)).collect();
                inputs.extend(self.guidance(&guidance, true)?);
                runs.push(inputs);
            }
            let mut inputs = runs.remove(0);
            inputs.insert(0, ("x_T".into(), self.tensor(n, &start)?));
            for name in &carried {
                inputs.push(((*name).into(), self.tensor(n, &vec![0.0; n * len])?));
            }
            let values = images[..n * len].to_vec();
            // Unclipped images may leave [-1, 1].
            let scale = largest(&values).max(1.0);
            let bound = IMAGE_BOUND.max(10.0 * moved / scale);
            let want = vec![Some(Want { values, scale })];
            cases.push(Case { inputs, continued: runs, carried: carried.clone(), want, bound });
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
    fn classes(&self, n: usize) -> Result<Option<Named>> {
        let Some(classes) = self.model.graph.classes() else { return Ok(None) };
        let classes: Vec<i64> = (0..n).map(|image| class_of(image, classes) as i64).collect();
        Ok(Some(("y".into(), Tensor::i64([n], classes)?)))
    }

    /// The input of the guidance's numbers, if there is one: of the steps of a run, or of the only step.
    fn guidance(&self, steps: &[[f64; 2]], of_run: bool) -> Result<Option<Named>> {
        if self.null_class.is_none() {
            return Ok(None);
        }
        let numbers: Vec<f32> = steps.iter().flatten().map(|number| *number as f32).collect();
        let shape = if of_run { vec![steps.len(), 2] } else { vec![2] };
        Ok(Some(("guidance".into(), Tensor::f32(shape, numbers)?)))
    }

    /// The first `n` images as an input.
    fn tensor(&self, n: usize, x: &[f32]) -> Result<Tensor> {
        let Shape { h, w, c } = self.shape;
        Ok(Tensor::f32([n, c, h, w], &x[..n * self.shape.len()])?)
    }
}

/// w and phi at the k-th step: others at each of some steps.
fn guidance_of(k: usize) -> [f64; 2] {
    [[1.5, 0.0], [3.0, 0.75], [0.0, 0.0], [0.5, 0.25], [1.0, 0.0]][k % 5]
}

/// (G1) and (G3) for one image's outputs, of whose channels the first ones are the prediction's; the others
/// keep what they are for the class, unless w and phi are 0.
fn guide(output: &mut [f64], without: &[f64], [of_prediction, c]: [usize; 2], [w, phi]: [f64; 2]) {
    if [w, phi] == [0.0, 0.0] {
        return output.copy_from_slice(without);
    }
    let is_predicted = |i: &usize| i % c < of_prediction;
    let deviation = |values: &[f64]| {
        let of = || values.iter().enumerate().filter(|(i, _)| is_predicted(i)).map(|(_, x)| *x);
        let n = of().count() as f64;
        let mean = of().sum::<f64>() / n;
        (of().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt()
    };
    let wanted = deviation(output);
    for i in (0..output.len()).filter(is_predicted) {
        output[i] = without[i] + w * (output[i] - without[i]);
    }
    let factor = 1.0 + phi * (wanted / deviation(output) - 1.0);
    (0..output.len()).filter(is_predicted).for_each(|i| output[i] *= factor);
}

/// The step with every coefficient's magnitude, and nothing that limits x0: of the magnitudes of what goes
/// into it, it makes the sums of the terms' magnitudes.
fn magnitudes(step: &Step) -> Step {
    let mut step = step.clone();
    step.limit = Limit::Off;
    step.x0 = step.x0.map(f64::abs);
    step.correct = step.correct.map(|c| c.map(f64::abs));
    step.next.base = step.next.base.abs();
    step.next.output = step.next.output.abs();
    step.next.x0 = step.next.x0.map(f64::abs);
    step
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
