//! What samples: the engine, or a graph in a runtime.

use super::options::{self, Diffusion};
use super::{BackendName, LoopName, SampleArgs, ScheduleName};
use crate::cli::progress::Progress;
use ndarray::{Array4, ArrayView5};
use performer_ddpm::checkpoint::model_folder::{self, LoadedModel};
use performer_ddpm::config::{BetaSchedule, DiffusionConfig};
use performer_ddpm::equations::Schedule;
use performer_ddpm::export::{self, GraphKind, GraphSpec, Metadata};
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::sample::onnx::{OnnxDenoiser, Runtime};
use performer_ddpm::sample::{SampleOptions, SampleProgress, sample, sample_with};
use performer_ddpm::{Error, Result};
use performer_ddpm_onnx::Model as OnnxModel;
use performer_ddpm_onnx::runner::ort::OrtOptions;
use performer_ddpm_onnx::runner::{Backend, Description, Device};
use std::path::Path;

/// What samples.
pub enum Source {
    Native(Box<(Model<f32>, Engine<f32>)>),
    Onnx { denoiser: OnnxDenoiser, how: &'static str },
}

/// A source with what it is to do.
pub struct Job {
    pub source: Source,
    pub schedule: Schedule,
    pub options: SampleOptions,
    /// Whether x_t is to be had after every step.
    pub watchable: bool,
}

impl Job {
    /// Who samples, and where.
    pub fn description(&self) -> Description {
        match &self.source {
            Source::Native(_) => Description {
                backend: Backend::Native,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                device: Device::Cpu,
                tf32: false,
                library: String::new(),
                placement: Vec::new(),
            },
            Source::Onnx { denoiser, .. } => denoiser.describe().clone(),
        }
    }

    /// Who samples, where and how, and a runtime's placement of its nodes.
    pub fn explain(&self) -> Vec<String> {
        let description = self.description();
        let mut lines = vec![description.to_string()];
        if let Source::Onnx { how, .. } = &self.source {
            lines.push((*how).to_owned());
        }
        lines.extend(description.placement);
        lines
    }

    /// Samples.
    pub fn run(
        &mut self,
        noise: Option<ArrayView5<f32>>,
        observer: impl FnMut(SampleProgress<f32>),
    ) -> Result<Array4<f32>> {
        let (schedule, options) = (&self.schedule, &self.options);
        match &mut self.source {
            Source::Native(native) => {
                let (model, engine) = &mut **native;
                sample(model, schedule, engine, options, noise, observer)
            }
            Source::Onnx { denoiser, .. } => sample_with(denoiser, schedule, options, noise, observer),
        }
    }
}

/// Loads what the arguments name.
pub fn open(args: &SampleArgs, path: &Path, progress: &Progress) -> Result<Job> {
    if path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
        return open_file(args, path);
    }
    for (flag, given) in [("--schedule", args.schedule.is_some()), ("--timesteps", args.timesteps.is_some())]
    {
        if given {
            return Err(Error::invalid(
                flag,
                "an .onnx file without a schedule",
                "a model folder, which has one",
                "",
            ));
        }
    }
    let loaded = model_folder::load::<f32>(path)?;
    if let Some(note) = &loaded.note {
        progress.say(note);
    }
    let diffusion = Diffusion {
        schedule: Schedule::from_config(&loaded.diffusion)?,
        variance: loaded.diffusion.variance,
        clip_x0: loaded.diffusion.clip_x0,
    };
    let options = options::of_arguments(args, &diffusion)?;
    match args.backend.unwrap_or(BackendName::Native) {
        BackendName::Native => {
            args.refuse_runtime_options("--backend native")?;
            let engine = Engine::new(&loaded.model, args.compute.threads(), args.compute.kernels())?;
            let source = Source::Native(Box::new((loaded.model, engine)));
            Ok(Job { source, schedule: diffusion.schedule, options, watchable: true })
        }
        backend => {
            let runtime = runtime(args, backend)?;
            let kind = graph_for(args.r#loop, backend);
            let graph = exported(&loaded, kind, &options)?;
            job(&graph, kind, &runtime, diffusion.schedule, options, args)
        }
    }
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
    let diffusion = diffusion_of(args, path, metadata.as_ref())?;
    let options = match metadata.and_then(|metadata| metadata.sampler) {
        Some(summary) => options::of_graph(args, &summary)?,
        None => options::of_arguments(args, &diffusion)?,
    };
    job(&model, kind, &runtime, diffusion.schedule, options, args)
}

/// The diffusion process of a file: its own, or the one that the arguments name for a file that says nothing.
fn diffusion_of(args: &SampleArgs, path: &Path, metadata: Option<&Metadata>) -> Result<Diffusion> {
    let what = || path.display().to_string();
    match (metadata, args.schedule) {
        (Some(metadata), None) if args.timesteps.is_none() => Ok(Diffusion {
            schedule: metadata.schedule.clone(),
            variance: metadata.variance,
            clip_x0: metadata.clip_x0,
        }),
        (Some(_), _) => Err(Error::invalid(
            "--schedule and --timesteps",
            "a file without a schedule",
            format!("{}, which has one", path.display()),
            "leave them out",
        )),
        (None, None) => Err(Error::invalid(
            what(),
            "the schedule in the file's metadata, as `performer-ddpm export` writes it",
            "none",
            "name the one that the model was trained with: --schedule linear or --schedule cosine, and --timesteps if not 1000",
        )),
        (None, Some(name)) => {
            let mut config = DiffusionConfig::default();
            config.timesteps = args.timesteps.unwrap_or(config.timesteps);
            if name == ScheduleName::Cosine {
                config.schedule = BetaSchedule::Cosine;
            }
            Ok(Diffusion {
                schedule: Schedule::from_config(&config)?,
                variance: config.variance,
                clip_x0: config.clip_x0,
            })
        }
    }
}

/// The most steps of a sampler graph's run, all of whose noise is in memory at once.
const MOST_PER_RUN: usize = 100;

/// A model folder's network as a graph in memory.
fn exported(loaded: &LoadedModel<f32>, kind: GraphKind, options: &SampleOptions) -> Result<OnnxModel> {
    let spec = match kind {
        GraphKind::Denoiser => GraphSpec::Denoiser,
        GraphKind::Step => GraphSpec::Step,
        GraphKind::Sampler => {
            let steps = options.steps.unwrap_or(loaded.diffusion.timesteps);
            let runs = steps.div_ceil(MOST_PER_RUN);
            GraphSpec::Sampler {
                process: options.reverse(),
                steps: options.steps,
                spacing: options.spacing,
                per_run: (runs > 1).then(|| steps.div_ceil(runs)),
            }
        }
    };
    let source = export::Source { model: &loaded.model, diffusion: &loaded.diffusion, step: loaded.step };
    export::build(source, &spec)
}

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
fn graph_for(asked: Option<LoopName>, backend: BackendName) -> GraphKind {
    match (asked, backend) {
        (Some(LoopName::Sampler), _) => GraphKind::Sampler,
        (Some(LoopName::Device | LoopName::CudaGraph), _) | (None, BackendName::Ort) => GraphKind::Step,
        (Some(LoopName::Host), _) | (None, _) => GraphKind::Denoiser,
    }
}

fn job(
    graph: &OnnxModel,
    kind: GraphKind,
    runtime: &Runtime,
    schedule: Schedule,
    mut options: SampleOptions,
    args: &SampleArgs,
) -> Result<Job> {
    let denoiser = OnnxDenoiser::load(graph, runtime, options.batch)?;
    if let (Some(fixed), None) = (denoiser.fixed_batch(), args.batch) {
        options.batch = fixed;
    }
    let how = match (kind, runtime) {
        (GraphKind::Denoiser, _) => "the graph predicts eps, the host takes the steps",
        (GraphKind::Sampler, _) => {
            "the sampler graph takes the steps, as many in one run as its noise input holds"
        }
        (GraphKind::Step, Runtime::Tract) => "the graph takes the steps",
        (GraphKind::Step, Runtime::OnnxRuntime(options)) if options.cuda_graph => {
            "the graph takes the steps as a CUDA graph; x_t stays on the device"
        }
        (GraphKind::Step, Runtime::OnnxRuntime(_)) => "the graph takes the steps; x_t stays on the device",
    };
    let watchable = kind != GraphKind::Sampler;
    Ok(Job { source: Source::Onnx { denoiser, how }, schedule, options, watchable })
}
