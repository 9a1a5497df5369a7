//! The denoiser that samples: the engine, or a graph in a runtime.

use super::{BackendName, LoopName, SampleArgs, ScheduleName, options};
use crate::checkpoint::model_folder::{self, LoadedModel};
use crate::cli::progress::Progress;
use crate::config::{BetaSchedule, ClassEmbedding, DiffusionConfig};
use crate::equations::solver::Scheduler;
use crate::export::{GraphKind, GraphSpec, Metadata};
use crate::sample::onnx::Runtime;
use crate::sample::{Compute, Diffusion, is_onnx};
use crate::{Error, Pipeline, Result, SampleOptions};
use performer_ddpm_onnx::Model as OnnxModel;
use performer_ddpm_onnx::runner::Device;
use performer_ddpm_onnx::runner::ort::OrtOptions;
use std::path::Path;

/// A model with what it is to do.
pub struct Job {
    pub pipeline: Pipeline,
    pub options: SampleOptions,
    /// The names of the images' classes, which come in turn; none for a model without classes.
    pub classes: Vec<String>,
    /// How a runtime goes through the steps.
    how: Option<&'static str>,
}

impl Job {
    /// The runtime, the device and the loop, and where the runtime placed its nodes.
    pub fn explain(&self) -> Vec<String> {
        let description = self.pipeline.describe();
        let mut lines = vec![description.to_string()];
        lines.extend(self.how.map(str::to_owned));
        lines.extend(description.placement);
        lines
    }
}

/// Loads what the arguments name.
pub fn open(args: &SampleArgs, path: &Path, progress: &Progress) -> Result<Job> {
    if is_onnx(path) {
        return open_file(args, path);
    }
    let mut loaded = model_folder::load(path)?;
    for (flag, given) in [("--schedule", args.schedule.is_some()), ("--timesteps", args.timesteps.is_some())]
    {
        if given && loaded.has_schedule {
            return Err(Error::invalid(
                flag,
                "a model without a schedule",
                format!("{}, which has one", path.display()),
                "leave it out",
            ));
        }
    }
    match diffusion(args, true) {
        // The note tells of the schedule that is assumed where none is named.
        Some(named) => {
            loaded.scheduler = Scheduler::of(&named);
            loaded.diffusion = named;
        }
        None => loaded.note.iter().for_each(|note| progress.say(note)),
    }
    let labels = loaded.model.config.class_embedding();
    let options = options::of_arguments(args, &Diffusion::of(&loaded)?, labels)?;
    let classes = names(labels, &options.classes);
    let (compute, how) = match args.backend.unwrap_or(BackendName::Native) {
        BackendName::Native => {
            args.refuse_runtime_options("--backend native")?;
            let (threads, kernels) = (Some(args.compute.threads()), args.compute.kernels());
            (Compute::Engine { threads, kernels }, None)
        }
        backend => {
            let runtime = runtime(args, backend)?;
            // The step graph takes the steps of the sampler that was chosen.
            loaded.scheduler = options.scheduler();
            let graph = graph_for(args.r#loop, backend, &loaded, &options);
            let how = how(graph.kind(), &runtime);
            let guided = options.guidance.is_some();
            (Compute::Runtime { runtime, graph, guided, batch: options.batch }, Some(how))
        }
    };
    Ok(Job { pipeline: Pipeline::from_loaded(loaded, &compute)?, options, classes, how })
}

/// A file's graph, with the schedule of its metadata or the arguments'.
fn open_file(args: &SampleArgs, path: &Path) -> Result<Job> {
    let backend = args.backend.unwrap_or(BackendName::Ort);
    if backend == BackendName::Native {
        return Err(Error::invalid(
            "--backend",
            "ort or tract for an .onnx file",
            "native",
            "the engine samples from model folders",
        ));
    }
    let runtime = runtime(args, backend)?;
    let model = OnnxModel::read(path)?;
    let metadata = Metadata::read(&model)?;
    let kind = metadata.as_ref().map_or(GraphKind::Denoiser, |metadata| metadata.graph);
    let fits = match args.r#loop {
        None => true,
        Some(LoopName::Host) => kind == GraphKind::Denoiser,
        Some(LoopName::Device | LoopName::CudaGraph) => kind == GraphKind::Step,
        Some(LoopName::Sampler) => kind == GraphKind::Sampler,
    };
    if !fits {
        return Err(Error::invalid(
            "--loop",
            format!("one for the {} graph that {} holds", kind.name(), path.display()),
            super::shown(args.r#loop),
            "leave it out",
        ));
    }
    let named = diffusion(args, metadata.is_some());
    let pipeline = Pipeline::from_onnx(&model, &runtime, options::batch(args), named.as_ref())?;
    let mut options = match pipeline.fixed_sampler() {
        Some(summary) => {
            options::of_graph(args, summary, &pipeline.diffusion().schedule, pipeline.class_embedding())?
        }
        None => options::of_arguments(args, pipeline.diffusion(), pipeline.class_embedding())?,
    };
    if let (Some(fixed), None) = (pipeline.fixed_batch(), args.batch) {
        options.batch = fixed;
    }
    let classes = names(pipeline.class_embedding(), &options.classes);
    Ok(Job { pipeline, options, classes, how: Some(how(kind, &runtime)) })
}

/// The names of the chosen classes, or of all.
fn names(labels: ClassEmbedding, chosen: &[usize]) -> Vec<String> {
    match chosen {
        [] => (0..labels.classes()).map(|class| labels.class_name(class)).collect(),
        chosen => chosen.iter().map(|class| labels.class_name(*class)).collect(),
    }
}

/// The diffusion process that the arguments name for a file that says nothing. T alone names none, but is too
/// much for a file that says it.
fn diffusion(args: &SampleArgs, file_says_it: bool) -> Option<DiffusionConfig> {
    if args.schedule.is_none() && !(file_says_it && args.timesteps.is_some()) {
        return None;
    }
    let mut config = DiffusionConfig::default();
    config.timesteps = args.timesteps.unwrap_or(config.timesteps);
    if args.schedule == Some(ScheduleName::Cosine) {
        config.schedule = BetaSchedule::Cosine;
    }
    Some(config)
}

/// The largest number of steps in one run of a sampler graph: their noise is in memory at once.
const MOST_PER_RUN: usize = 100;

fn runtime(args: &SampleArgs, backend: BackendName) -> Result<Runtime> {
    let captured = args.r#loop == Some(LoopName::CudaGraph);
    if let Some(isa) = args.compute.isa {
        return Err(Error::invalid(
            "--isa",
            "the native backend",
            isa.name(),
            "a runtime has its own kernels",
        ));
    }
    match backend {
        BackendName::Ort => {
            if args.device == Device::Cpu && (args.tf32 || captured) {
                let flag = if captured { "--loop cuda-graph" } else { "--tf32" };
                return Err(Error::invalid(flag, "--device cuda", "cpu", ""));
            }
            Ok(Runtime::OnnxRuntime(OrtOptions {
                library: args.ort_lib.clone(),
                threads: args.compute.threads.map(usize::from),
                device: args.device,
                tf32: args.tf32,
                cuda_graph: captured,
                placement: args.verbose,
                repeatable: false,
            }))
        }
        BackendName::Tract | BackendName::Native => {
            args.refuse_runtime_options("--backend tract")?;
            if captured || args.r#loop == Some(LoopName::Device) {
                let got = super::shown(args.r#loop);
                return Err(Error::invalid("--loop", "host or sampler in tract", got, ""));
            }
            Ok(Runtime::Tract)
        }
    }
}

/// The graph of a model folder that serves a loop; by default the step graph where the runtime keeps x_t on
/// its device.
fn graph_for(
    asked: Option<LoopName>,
    backend: BackendName,
    loaded: &LoadedModel<f32>,
    options: &SampleOptions,
) -> GraphSpec {
    match (asked, backend) {
        (Some(LoopName::Sampler), _) => {
            let steps = options.steps.unwrap_or(loaded.diffusion.timesteps);
            let runs = steps.div_ceil(MOST_PER_RUN);
            GraphSpec::Sampler {
                scheduler: options.scheduler(),
                steps: options.steps,
                per_run: (runs > 1).then(|| steps.div_ceil(runs)),
            }
        }
        (Some(LoopName::Device | LoopName::CudaGraph), _) | (None, BackendName::Ort) => GraphSpec::Step,
        (Some(LoopName::Host), _) | (None, _) => GraphSpec::Denoiser,
    }
}

fn how(kind: GraphKind, runtime: &Runtime) -> &'static str {
    match (kind, runtime) {
        (GraphKind::Denoiser, _) => "the graph predicts eps, the host takes the steps",
        (GraphKind::Sampler, _) => {
            "the sampler graph takes the steps, as many in one run as its noise input holds"
        }
        (GraphKind::Step, Runtime::Tract) => "the graph takes the steps",
        (GraphKind::Step, Runtime::OnnxRuntime(options)) if options.cuda_graph => {
            "the graph takes the steps as a CUDA graph; x_t stays on the device"
        }
        (GraphKind::Step, Runtime::OnnxRuntime(_)) => "the graph takes the steps; x_t stays on the device",
        (GraphKind::TrainStep, _) => "the graph trains",
    }
}
