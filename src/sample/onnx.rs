//! Sampling with a graph in an ONNX runtime: a denoiser with the update on the host, a step whose x_t stays
//! on the device, or a whole sampler in one run.

mod frame;
mod graphs;
mod ports;
mod told;

use super::{Classes, Conditions, Denoiser, DrawNoise, Process, Watch};
use crate::config::ClassEmbedding;
use crate::equations::solver::StepForm;
use crate::error::{Error, Result};
use crate::export::{GraphKind, Metadata};
use frame::Frame;
use graphs::{Fixed, Loaded};
use performer_ddpm_onnx::model::Summary;
use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
use performer_ddpm_onnx::runner::{Description, load_tract};
use performer_ddpm_onnx::{Error as OnnxError, Model};
use ports::DenoiserPorts;
use told::{Takes, Told};

/// The runtime of a graph and its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// tract, in pure Rust, on one thread.
    Tract,
    /// ONNX Runtime, on the CPU or a GPU.
    OnnxRuntime(OrtOptions),
}

impl Default for Runtime {
    /// ONNX Runtime on the processor.
    fn default() -> Self {
        Runtime::OnnxRuntime(OrtOptions::default())
    }
}

/// Weights of ours beyond this are damaged: the square of a larger one is no finite f32.
const LARGEST: f64 = 1e18;

/// The kind of a graph, with what only this kind needs.
enum Kind {
    Denoiser(DenoiserPorts),
    Step(StepForm),
    Sampler(Box<Fixed>),
}

/// A graph in an ONNX runtime as a [`Denoiser`].
pub struct OnnxDenoiser {
    kind: Kind,
    loaded: Loaded,
    takes: Takes,
    classes: Classes,
}

impl OnnxDenoiser {
    /// Loads a graph: one of ours as its metadata say, any other one as a denoiser, by the roles of its
    /// inputs.
    ///
    /// `batch` matters only to a CUDA graph, which is captured for one batch size; smaller batches are
    /// padded.
    ///
    /// # Errors
    /// [`Error::Invalid`] for inputs or outputs that are not such a graph's, naming them, and for a batch of
    /// 0; [`Error::Onnx`]
    /// where the runtime is missing, its device cannot be used, or it refuses the graph.
    pub fn load(model: &Model, runtime: &Runtime, batch: usize) -> Result<Self> {
        if batch == 0 {
            return Err(Error::invalid("`batch`", "at least 1", "0", ""));
        }
        let (origin, metadata) = (model.origin(), Metadata::read(model)?);
        if metadata.as_ref().is_some_and(|metadata| metadata.graph == GraphKind::TrainStep) {
            return Err(Error::invalid(
                origin,
                "a graph that samples: denoiser, step or sampler",
                "a train-step graph, which trains and holds no weights",
                "export the trained model",
            ));
        }
        // Others may mask with infinities.
        model.check_numbers(if metadata.is_some() { LARGEST } else { f64::INFINITY })?;
        let captured = matches!(runtime, Runtime::OnnxRuntime(options) if options.cuda_graph);
        let fixed = captured.then(|| model.with_length("N", batch));
        let model = fixed.as_ref().unwrap_or(model);
        // What others write may be in half precision, or take the timestep as i32.
        let plain = metadata.is_none().then(|| model.with_plain_ports());
        let model = plain.as_ref().unwrap_or(model);
        let summary = model.summary()?;
        let labels = metadata.as_ref().map_or_else(ClassEmbedding::default, Metadata::class_embedding);
        let mut takes = Takes {
            classes: labels.embeds.is_some(),
            guidance: summary.inputs.iter().any(|port| port.name == "guidance"),
        };
        let mut classes = Classes::from(labels);
        let is_foreign = metadata.is_none();
        let (kind, frame) = match metadata {
            Some(Metadata { sampler: Some(sampler), scheduler, schedule, .. }) => {
                let table = scheduler.steps(&schedule, sampler.steps)?;
                let fixed = Fixed { summary: sampler, table };
                let mut inputs = vec!["x_T", "noise"];
                inputs.extend(fixed.summary.is_cut().then_some("first"));
                let frame = own(origin, &summary, inputs, "images", &fixed.carried(), takes)?;
                (Kind::Sampler(Box::new(fixed)), frame)
            }
            Some(metadata) if metadata.graph == GraphKind::Step => {
                let form = metadata.form();
                let inputs = vec!["x", "t", "coefficients", "z"];
                (Kind::Step(form), own(origin, &summary, inputs, "x_next", &form.carried(), takes)?)
            }
            _ => {
                let (ports, frame) = ports::denoiser(origin, &summary, takes.classes)?;
                if let (Some(y), true) = (&ports.y, is_foreign) {
                    takes.classes = true;
                    classes.count = ports::rows_chosen_by(model, y).ok_or_else(|| {
                        let expected = "an index of rows of a table, which shows how many classes there are";
                        Error::invalid(format!("{origin}, input {y}"), expected, "another use of it", "")
                    })?;
                }
                (Kind::Denoiser(ports), frame)
            }
        };
        let runner = match runtime {
            Runtime::Tract => load_tract(model)?,
            Runtime::OnnxRuntime(options) => Box::new(OrtRunner::load(model, options)?),
        };
        Ok(OnnxDenoiser { kind, loaded: Loaded { runner, frame }, takes, classes })
    }

    /// The runtime and the device that run the graph.
    pub fn describe(&self) -> &Description {
        self.loaded.runner.describe()
    }

    /// The batch size that the graph is fixed to, if it is.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.loaded.frame.batch
    }

    fn run(
        &mut self,
        process: &Process,
        conditions: &Conditions,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let frame = self.loaded.frame;
        let told = Told { conditions, takes: self.takes, n: frame.graph_batch(x.len() / frame.len())? };
        match &self.kind {
            Kind::Denoiser(ports) => self.loaded.by_denoiser(ports, told, process, x, z, watch),
            Kind::Step(form) => self.loaded.by_steps(form, told, process, x, z, watch),
            Kind::Sampler(fixed) => self.loaded.by_sampler(fixed, told, process, x, z, watch),
        }
    }
}

/// Checks a graph of our own: these inputs and the output, what it carries beside the images, and the inputs
/// of the classes and of the guidance.
fn own(
    origin: &str,
    summary: &Summary,
    mut inputs: Vec<&'static str>,
    output: &str,
    carried: &[&'static str],
    takes: Takes,
) -> Result<Frame> {
    inputs.extend(carried);
    inputs.extend(takes.classes.then_some("y"));
    inputs.extend(takes.guidance.then_some("guidance"));
    let mut outputs = vec![output.to_owned()];
    outputs.extend(carried.iter().map(|name| format!("{name}_next")));
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    ports::own(origin, summary, &inputs, &outputs)
}

impl Denoiser<f32> for OnnxDenoiser {
    fn image(&self) -> [usize; 3] {
        self.loaded.frame.image
    }

    fn classes(&self) -> Classes {
        self.classes
    }

    fn denoise(
        &mut self,
        process: &Process,
        conditions: &Conditions,
        x: &mut [f32],
        z: &mut DrawNoise<f32>,
        watch: &mut Watch<f32>,
    ) -> Result<()> {
        let error = match self.run(process, conditions, x, z, watch) {
            Err(Error::Onnx(OnnxError::OutOfMemory { device, .. })) => {
                let batch = x.len() / self.loaded.frame.len();
                Error::OutOfMemory { device, batch, fits: self.largest_below(batch, process, conditions) }
            }
            outcome => return outcome,
        };
        Err(error)
    }
}

impl OnnxDenoiser {
    /// Tries half the batch, a quarter, and so on, by one step (a sampler graph: all of its own), and returns
    /// the first that fits. A graph of one fixed batch has no smaller one.
    fn largest_below(&mut self, batch: usize, process: &Process, conditions: &Conditions) -> Option<usize> {
        if self.fixed_batch().is_some() {
            return None;
        }
        let process = match self.kind {
            Kind::Sampler(_) => process.clone(),
            Kind::Denoiser(_) | Kind::Step(_) => process.last_step().ok()?,
        };
        let halves = std::iter::successors(Some(batch / 2), |n| Some(n / 2)).take_while(|n| *n > 0);
        halves.into_iter().find(|n| {
            let mut x = vec![0.0; n * self.loaded.frame.len()];
            self.run(&process, conditions, &mut x, &mut |_, _, _| {}, &mut |_, _| true).is_ok()
        })
    }
}

#[cfg(test)]
mod tests;
