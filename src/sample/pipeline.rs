//! A trained model that is ready for use, whatever it was loaded from.

use super::onnx::{OnnxDenoiser, Runtime};
use super::{
    ClipX0, Denoiser, Editor, Guidance, Native, SampleOptions, SampleProgress, Sampler, Spacing, images_for,
    sample_in,
};
use crate::checkpoint::model_folder::{self, LoadedModel};
use crate::config::{ClassEmbedding, DiffusionConfig, UnetConfig, VarianceKind};
use crate::equations::Schedule;
use crate::equations::solver::Scheduler;
use crate::error::{Error, Result};
use crate::export::{self, ExportOptions, Exported, GraphKind, GraphSpec, Metadata, SamplerSummary, Source};
use crate::group::{Group, Solo};
use crate::kernels::Kernels;
use crate::machine;
use crate::model::{Engine, Model};
use ndarray::{Array4, ArrayView5};
use performer_ddpm_onnx::runner::{Backend, Description, Device};
use std::path::Path;

/// What computes a pipeline's network.
#[derive(Clone, Debug, PartialEq)]
pub enum Compute {
    /// This library's engine, which takes whatever is not an `.onnx` file.
    Engine {
        /// Its threads; `None` for as many as the processor has. They change nothing but the speed.
        threads: Option<usize>,
        /// Its kernels.
        kernels: Kernels,
    },
    /// A graph in an ONNX runtime: an `.onnx` file's own, or one made of a model folder in memory.
    Runtime {
        /// The runtime and its device.
        runtime: Runtime,
        /// What is made of a model folder; a file has its own.
        graph: GraphSpec,
        /// Whether that graph guides, in two passes a step: see [`Source::guided`].
        guided: bool,
        /// The batch that a CUDA graph is captured for; nothing else depends on it.
        batch: usize,
    },
}

impl Default for Compute {
    /// The engine with the processor's threads and the fastest kernels.
    fn default() -> Self {
        Compute::Engine { threads: None, kernels: Kernels::default() }
    }
}

impl Compute {
    /// A runtime with the graph that keeps x_t on its device, without guidance.
    pub fn runtime(runtime: Runtime) -> Self {
        let batch = SampleOptions::default().batch;
        Compute::Runtime { runtime, graph: GraphSpec::Step, guided: false, batch }
    }
}

/// The process that a model was trained for, as far as sampling depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Diffusion {
    /// beta_1 .. beta_T.
    pub schedule: Schedule,
    /// sigma_t^2 of Algorithm 2.
    pub variance: VarianceKind,
    /// Whether the predicted x_0 is clipped to [-1, 1].
    pub clip_x0: bool,
    /// How the model is sampled where nothing else is said.
    pub scheduler: Scheduler,
}

impl Diffusion {
    /// The process of a configuration.
    ///
    /// # Errors
    /// What [`DiffusionConfig::validate`] finds.
    pub fn new(config: &DiffusionConfig) -> Result<Diffusion> {
        let schedule = Schedule::from_config(config)?;
        let scheduler = Scheduler::of(config);
        Ok(Diffusion { schedule, variance: config.variance, clip_x0: config.clip_x0, scheduler })
    }

    /// The process of a loaded model, sampled as its folder says.
    ///
    /// # Errors
    /// As [`Diffusion::new`].
    pub fn of<T>(loaded: &LoadedModel<T>) -> Result<Diffusion> {
        Ok(Diffusion { scheduler: loaded.scheduler, ..Self::new(&loaded.diffusion)? })
    }

    /// How the process is sampled where nothing else is said: as its scheduler says, for a run 15 steps of
    /// DPM-Solver++.
    pub fn options(&self) -> SampleOptions {
        SampleOptions::default().with_scheduler(&self.scheduler, &self.schedule, None)
    }
}

/// What predicts the noise.
enum Network {
    Engine(Box<Trained>),
    Graph(Box<Graph>),
}

/// A graph in a runtime, and what its metadata say.
struct Graph {
    denoiser: OnnxDenoiser,
    kind: GraphKind,
    fixed: Option<SamplerSummary>,
    class_embeds: Option<usize>,
    class_names: Vec<String>,
}

/// A network in the engine, and what it is saved and exported with.
struct Trained {
    model: Model<f32>,
    engine: Engine<f32>,
    diffusion: DiffusionConfig,
}

/// A trained model that is ready for use: to sample from, to [save](Pipeline::save), to
/// [export](Pipeline::export), to [evaluate](crate::evaluate::likelihood).
///
/// ```no_run
/// use performer_ddpm::{Pipeline, SampleOptions, output::write_png};
///
/// # fn main() -> performer_ddpm::Result<()> {
/// let mut pipeline = Pipeline::load("runs/latest")?;
/// let images = pipeline.sample(&SampleOptions { count: 16, ..pipeline.options() })?;
/// write_png("samples.png".as_ref(), images.view(), None)?;
/// # Ok(())
/// # }
/// ```
pub struct Pipeline {
    network: Network,
    diffusion: Diffusion,
    step: Option<u64>,
    note: Option<String>,
}

impl std::fmt::Debug for Pipeline {
    /// All but the weights.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("image", &self.image())
            .field("computes", &self.describe().to_string())
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Loads a run folder (its newest checkpoint), a model folder of ours or of diffusers, a checkpoint's
    /// file or an `.onnx` file. Files run in ONNX Runtime on the processor, everything else in the engine.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Read`] naming the file that cannot be used; [`Error::Onnx`] where
    /// there is no ONNX Runtime.
    pub fn load(path: impl AsRef<Path>) -> Result<Pipeline> {
        let path = path.as_ref();
        let compute = if is_onnx(path) { Compute::runtime(Runtime::default()) } else { Compute::default() };
        Self::load_with(path, &compute)
    }

    /// The same with a say in what computes.
    ///
    /// # Errors
    /// As [`Pipeline::load`], and [`Error::Invalid`] for an `.onnx` file in the engine.
    pub fn load_with(path: impl AsRef<Path>, compute: &Compute) -> Result<Pipeline> {
        let path = path.as_ref();
        if !is_onnx(path) {
            return Self::from_loaded(model_folder::load(path)?, compute);
        }
        let Compute::Runtime { runtime, batch, .. } = compute else {
            return Err(Error::invalid(
                path.display().to_string(),
                "a model folder, for the engine",
                "an .onnx file",
                "choose a runtime for it",
            ));
        };
        Self::from_onnx(&performer_ddpm_onnx::Model::read(path)?, runtime, *batch, None)
    }

    /// A network and the process that it was trained for, in the engine.
    ///
    /// # Errors
    /// [`Error::Invalid`] for weights that are not as many as the network has, and for a process or a number
    /// of threads that cannot be.
    pub fn new(model: Model<f32>, diffusion: DiffusionConfig, compute: &Compute) -> Result<Pipeline> {
        Self::at_step(model, diffusion, None, compute)
    }

    /// The same after some steps of training.
    pub(crate) fn at_step(
        model: Model<f32>,
        diffusion: DiffusionConfig,
        step: Option<u64>,
        compute: &Compute,
    ) -> Result<Pipeline> {
        let scheduler = Scheduler::of(&diffusion);
        let file = Default::default();
        let (has_schedule, train, note) = (true, None, None);
        let loaded = LoadedModel { model, diffusion, scheduler, has_schedule, file, step, train, note };
        Self::from_loaded(loaded, compute)
    }

    /// A model that was loaded from a folder.
    ///
    /// # Errors
    /// As [`Pipeline::new`]; [`Error::Onnx`] of the runtime.
    pub fn from_loaded(loaded: LoadedModel<f32>, compute: &Compute) -> Result<Pipeline> {
        let process = Diffusion::of(&loaded)?;
        let LoadedModel { model, diffusion, step, note, .. } = loaded;
        let pipeline = match compute {
            Compute::Engine { threads, kernels } => {
                model.check()?;
                let engine = Engine::new(&model, threads.unwrap_or_else(machine::threads), *kernels)?;
                let network = Network::Engine(Box::new(Trained { model, engine, diffusion }));
                Pipeline { network, diffusion: process, step, note: None }
            }
            Compute::Runtime { runtime, graph, guided, batch } => {
                let scheduler = process.scheduler;
                let guided = *guided;
                let source = Source { scheduler, guided, step, ..Source::new(&model, &diffusion) };
                let graph = export::build(source, graph)?;
                let pipeline = Self::from_onnx(&graph, runtime, *batch, None)?;
                Pipeline { diffusion: process, ..pipeline }
            }
        };
        Ok(Pipeline { note, ..pipeline })
    }

    /// An ONNX graph in a runtime; `batch` is the one that a CUDA graph is captured for. `diffusion` is the
    /// process of a graph whose metadata do not tell it, and of no other.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a graph that is none of a denoiser's, for one without a schedule where
    /// `diffusion` is none, and for one with a schedule where it is some; [`Error::Onnx`] of the runtime.
    pub fn from_onnx(
        model: &performer_ddpm_onnx::Model,
        runtime: &Runtime,
        batch: usize,
        diffusion: Option<&DiffusionConfig>,
    ) -> Result<Pipeline> {
        let metadata = Metadata::read(model)?;
        let denoiser = |metadata: Option<Metadata>| -> Result<_> {
            let denoiser = OnnxDenoiser::load(model, runtime, batch)?;
            let (kind, fixed, class_embeds, class_names) = match metadata {
                Some(Metadata { graph, sampler, classes, class_names, .. }) => {
                    (graph, sampler, classes, class_names)
                }
                None => {
                    let count = denoiser.classes().count;
                    (GraphKind::Denoiser, None, (count > 0).then_some(count), Vec::new())
                }
            };
            Ok(Network::Graph(Box::new(Graph { denoiser, kind, fixed, class_embeds, class_names })))
        };
        let (process, metadata) = match (metadata, diffusion) {
            (Some(metadata), None) => {
                let Metadata { schedule, variance, clip_x0, scheduler, .. } = metadata.clone();
                (Diffusion { schedule, variance, clip_x0, scheduler }, Some(metadata))
            }
            (None, Some(config)) => (Diffusion::new(config)?, None),
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "`schedule` and `timesteps`",
                    "a file without a schedule",
                    format!("{}, which has one", model.origin()),
                    "leave them out",
                ));
            }
            (None, None) => {
                return Err(Error::invalid(
                    model.origin(),
                    "the schedule in the file's metadata, as this project's `export` writes it",
                    "none",
                    "name the one that the model was trained with: its `schedule` linear or `schedule` \
                     cosine, and its `timesteps` if not 1000",
                ));
            }
        };
        let step = metadata.as_ref().and_then(|metadata| metadata.step);
        Ok(Pipeline { network: denoiser(metadata)?, diffusion: process, step, note: None })
    }

    /// The options of sampling where nothing else is wanted: [`SampleOptions::default`] with what the model
    /// says of its own process, as many images of each of its classes, the sampler that a graph holds, and
    /// the batch that it is fixed to.
    pub fn options(&self) -> SampleOptions {
        let mut options = self.diffusion.options();
        options.count = images_for(self.class_embedding().classes(), options.count);
        options.batch = options.count;
        if let Network::Graph(graph) = &self.network {
            let Graph { denoiser, fixed, .. } = &**graph;
            if let Some(summary) = fixed {
                let SamplerSummary { scheduler, steps, .. } = summary;
                options = options.with_scheduler(scheduler, &self.diffusion.schedule, Some(*steps));
            }
            options.batch = denoiser.fixed_batch().unwrap_or(options.batch);
        }
        options
    }

    /// Samples images \[n, h, w, c\], nominally in [-1, 1]; image i depends on the seed and i alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that do not fit the model; [`Error::NotFinite`] where it diverges;
    /// [`Error::Onnx`] and [`Error::OutOfMemory`] of a runtime.
    pub fn sample(&mut self, options: &SampleOptions) -> Result<Array4<f32>> {
        self.sample_watched(options, None, |_| {})
    }

    /// The same with given noise and an observer of every step, both as for [`sample_with`](super::sample_with).
    ///
    /// # Errors
    /// As [`Pipeline::sample`], and [`Error::Invalid`] for noise of another shape.
    pub fn sample_watched(
        &mut self,
        options: &SampleOptions,
        noise: Option<ArrayView5<f32>>,
        observer: impl FnMut(SampleProgress<f32>),
    ) -> Result<Array4<f32>> {
        self.sample_in(&Solo, options, noise, observer)
    }

    /// The same in the ranks of a group, each of which has loaded the model: [`sample_in`].
    ///
    /// # Errors
    /// As [`Pipeline::sample_watched`], in the rank that finds them.
    pub fn sample_in(
        &mut self,
        group: &dyn Group<f32>,
        options: &SampleOptions,
        noise: Option<ArrayView5<f32>>,
        observer: impl FnMut(SampleProgress<f32>),
    ) -> Result<Array4<f32>> {
        let schedule = &self.diffusion.schedule;
        match &mut self.network {
            Network::Engine(trained) => {
                let mut native = Native::new(&trained.model, &mut trained.engine)?;
                sample_in(group, &mut native, schedule, options, noise, observer)
            }
            Network::Graph(graph) => {
                sample_in(group, &mut graph.denoiser, schedule, options, noise, observer)
            }
        }
    }

    /// The uses of the model on given images: variations, interpolation, inpainting.
    ///
    /// # Errors
    /// As [`Pipeline::sample`]; a graph that fixes its sampler is refused at the use.
    pub fn edit(&mut self, options: &SampleOptions) -> Result<Editor<'_, f32>> {
        let denoiser: Box<dyn Denoiser<f32>> = match &mut self.network {
            Network::Engine(trained) => Box::new(Native::new(&trained.model, &mut trained.engine)?),
            Network::Graph(graph) => Box::new(&mut graph.denoiser),
        };
        Editor::new(denoiser, &self.diffusion.schedule, options)
    }

    /// The same network for images of another height and width, for [canvases](Editor::inpaint) larger than
    /// what it was trained on: nothing in it depends on where in an image a pixel is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size that the network's levels cannot halve, and for a pipeline in a runtime,
    /// whose graph has one size.
    pub fn resized(&self, size: [usize; 2]) -> Result<Pipeline> {
        let Trained { model, engine, diffusion } = self.trained()?;
        let model = model.resized(size)?;
        let engine = Engine::new(&model, engine.threads(), engine.kernels())?;
        let network = Network::Engine(Box::new(Trained { model, engine, diffusion: diffusion.clone() }));
        let diffusion = self.diffusion.clone();
        Ok(Pipeline { network, diffusion, step: self.step, note: self.note.clone() })
    }

    /// Whether x_t can be looked at after every step: not in a graph that takes several at a time.
    pub fn is_watchable(&self) -> bool {
        self.graph() != Some(GraphKind::Sampler)
    }

    /// Height, width and channels of an image.
    pub fn image(&self) -> [usize; 3] {
        match &self.network {
            Network::Engine(trained) => {
                let graph = &trained.model.graph;
                let shape = graph.shape(graph.input);
                [shape.h, shape.w, shape.c]
            }
            Network::Graph(graph) => graph.denoiser.image(),
        }
    }

    /// The classes that the network knows.
    pub fn class_embedding(&self) -> ClassEmbedding<'_> {
        match &self.network {
            Network::Engine(trained) => trained.model.config.class_embedding(),
            Network::Graph(graph) => ClassEmbedding { embeds: graph.class_embeds, names: &graph.class_names },
        }
    }

    /// The network's configuration, with the classes that it knows; `None` for a graph in a runtime.
    pub fn unet(&self) -> Option<&UnetConfig> {
        match &self.network {
            Network::Engine(trained) => Some(&trained.model.config),
            Network::Graph(_) => None,
        }
    }

    /// The process that the model was trained for.
    pub fn diffusion(&self) -> &Diffusion {
        &self.diffusion
    }

    /// The training step of the weights, where it is known.
    pub fn step(&self) -> Option<u64> {
        self.step
    }

    /// What its user should be told: what was assumed, or what was passed over.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The graph that a runtime executes; `None` for the engine.
    pub fn graph(&self) -> Option<GraphKind> {
        match &self.network {
            Network::Engine(_) => None,
            Network::Graph(graph) => Some(graph.kind),
        }
    }

    /// The one batch that a graph takes, if it does not take all.
    pub fn fixed_batch(&self) -> Option<usize> {
        match &self.network {
            Network::Engine(_) => None,
            Network::Graph(graph) => graph.denoiser.fixed_batch(),
        }
    }

    /// The sampler that a graph holds and that options have to agree with.
    pub fn fixed_sampler(&self) -> Option<&SamplerSummary> {
        match &self.network {
            Network::Engine(_) => None,
            Network::Graph(graph) => graph.fixed.as_ref(),
        }
    }

    /// Who computes, and where.
    pub fn describe(&self) -> Description {
        match &self.network {
            Network::Engine(_) => Description {
                backend: Backend::Native,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                device: Device::Cpu,
                tf32: false,
                library: String::new(),
                placement: Vec::new(),
            },
            Network::Graph(graph) => graph.denoiser.describe().clone(),
        }
    }

    /// The network and the engine that executes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pipeline in a runtime.
    pub fn engine(&mut self) -> Result<(&Model<f32>, &mut Engine<f32>)> {
        match &mut self.network {
            Network::Engine(trained) => Ok((&trained.model, &mut trained.engine)),
            Network::Graph(graph) => Err(in_runtime(&graph.denoiser)),
        }
    }

    /// Writes a model folder, which this library and, where all attention is softmax, diffusers' Python
    /// pipelines load.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pipeline in a runtime; [`Error::Write`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let trained = self.trained()?;
        model_folder::save(folder.as_ref(), &trained.model, None, &trained.diffusion)
    }

    /// Writes an `.onnx` file that runs without this library, checked against the engine as `options` say.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pipeline in a runtime; those of [`export::write`].
    pub fn export(&self, path: impl AsRef<Path>, options: &ExportOptions) -> Result<Exported> {
        export::write(path.as_ref(), self.source()?, options, &mut |_| {})
    }

    /// What is exported.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pipeline in a runtime.
    pub fn source(&self) -> Result<Source<'_>> {
        let Trained { model, diffusion, .. } = self.trained()?;
        let scheduler = self.diffusion.scheduler;
        Ok(Source { scheduler, step: self.step, ..Source::new(model, diffusion) })
    }

    fn trained(&self) -> Result<&Trained> {
        match &self.network {
            Network::Engine(trained) => Ok(trained),
            Network::Graph(graph) => Err(in_runtime(&graph.denoiser)),
        }
    }
}

impl Default for SampleOptions {
    /// 64 images in one batch by 50 steps of DDIM without noise, evenly spaced down from T, the predicted x_0
    /// clipped; of all classes in turn, without guidance. [`Pipeline::options`] is the same with what a model
    /// says of itself.
    fn default() -> Self {
        SampleOptions {
            count: 64,
            batch: 64,
            seed: 0,
            sampler: Sampler::Ddim { eta: 0.0 },
            steps: Some(50),
            spacing: Spacing::Trailing,
            clip_x0: ClipX0::KeepEps,
            classes: Vec::new(),
            guidance: Guidance::default(),
        }
    }
}

/// Whether a path is an ONNX file rather than a model folder.
pub fn is_onnx(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"))
}

fn in_runtime(denoiser: &OnnxDenoiser) -> Error {
    Error::invalid(
        "the pipeline",
        "a model in the engine",
        format!("a graph in {}", denoiser.describe()),
        "load the model folder that it was exported from",
    )
}
