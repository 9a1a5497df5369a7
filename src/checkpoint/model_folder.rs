//! Model folders: the layout of diffusers' DDPM pipeline, with a scheduler that samples in few steps.
//!
//! ```text
//! model_index.json                            the pipeline's parts
//! unet/config.json                            the network, and the names of its classes
//! unet/diffusion_pytorch_model.safetensors    averaged (EMA) weights by diffusers' names, FAVOR+ projections
//! unet/raw_weights.safetensors                the weights at the end of training, not averaged
//! scheduler/scheduler_config.json             the diffusion process
//! ```
//!
//! A model with softmax attention loads in Python with `DiffusionPipeline.from_pretrained(DIR)`, whose
//! scheduler then samples as [`Scheduler::of`] says. One with FAVOR+ is refused there by its block types,
//! since diffusers has no such attention.

use super::safetensors_io::{self, Tensors};
use super::state::{self, Newest, TrainingState};
use super::{files, keys::Keys, scheduler_json, unet_json};
use crate::config::{DiffusionConfig, TrainConfig, UnetConfig};
use crate::disk;
use crate::equations::solver::Scheduler;
use crate::error::{Error, Result};
use crate::model::{Model, graph::Graph, unet};
use crate::output::write_atomically;
use crate::real::Real;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
const RAW_WEIGHTS: &str = "raw_weights.safetensors";
pub(super) const INDEX: &str = "model_index.json";
pub(super) const SCHEDULERS: &str = "scheduler";
pub(super) const SCHEDULER: &str = "scheduler_config.json";
/// A run's folder has it, and no model folder.
const CHECKPOINTS: &str = "checkpoints";

/// A model with what is needed to sample from it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedModel<T> {
    /// The network with its averaged weights.
    pub model: Model<T>,
    /// The diffusion process that it was trained for.
    pub diffusion: DiffusionConfig,
    /// How the folder says that its images are sampled.
    pub scheduler: Scheduler,
    /// Whether the folder says what the process is; if not, it is assumed.
    pub has_schedule: bool,
    /// The file that the weights came from.
    pub file: PathBuf,
    /// The training step, where it is known: weights from a run's checkpoint.
    pub step: Option<u64>,
    /// How it is trained, where that is known: likewise.
    pub train: Option<TrainConfig>,
    /// What the user should know: what was assumed, or which damaged file was skipped.
    pub note: Option<String>,
}

/// Loads a model. `path` is one of
/// - a run folder that has checkpoints: its newest undamaged checkpoint's averaged weights (its `unet` is
///   never newer);
/// - a model folder, ours or one that diffusers wrote;
/// - a folder with just a network's `config.json` and weights, such as a model folder's `unet`;
/// - a checkpoint's file;
/// - the name [`SHIPPED`](super::SHIPPED) of the model that the library carries.
///
/// Where no scheduler is found, Ho et al.'s is assumed, linear with T = 1000, and the note says so.
///
/// # Errors
/// [`Error::Invalid`] naming the file, the key or tensor, what was expected and what was found;
/// [`Error::Read`].
pub fn load<T: Real>(path: &Path) -> Result<LoadedModel<T>> {
    if let Some(found) = checkpoint(path)? {
        let loaded = from_state(&found.state, found.file, found.note)?;
        let scheduler = run_scheduler(path, &loaded.diffusion).map_or(loaded.scheduler, |(of_run, _)| of_run);
        return Ok(LoadedModel { scheduler, ..loaded });
    }
    let folder = unet_folder(path)?;
    check_index(&path.join(INDEX))?;
    let file = weights_file(&folder)?;
    let model = load_weights(&folder, &file)?;
    let mut notes = Vec::new();
    if !file.ends_with(WEIGHTS) {
        notes.push(format!("the weights are those of {}", file.display()));
    }
    if folder.ends_with("unet_ema") && path.join("unet").is_dir() {
        notes.push(format!("the averaged weights of {} are taken, not those beside them", folder.display()));
    }
    let scheduler_file = scheduler_file(path, &folder);
    let (diffusion, scheduler) = match &scheduler_file {
        Some(file) => scheduler_json::read(file)?,
        None => {
            notes.push(assumed(path));
            assumed_scheduler()
        }
    };
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    let has_schedule = scheduler_file.is_some();
    Ok(LoadedModel { model, diffusion, scheduler, has_schedule, file, step: None, train: None, note })
}

/// What is said of a model without a scheduler.
pub(super) fn assumed(path: &Path) -> String {
    format!(
        "{}: no scheduler found; the linear schedule 1e-4 .. 0.02 with T = 1000 is assumed",
        path.display()
    )
}

/// What it is then sampled by.
pub(super) fn assumed_scheduler() -> (DiffusionConfig, Scheduler) {
    let usual = DiffusionConfig::default();
    let scheduler = Scheduler::of(&usual);
    (usual, scheduler)
}

/// Loads the network of a folder with its averaged weights, whatever its scheduler: a model folder or a
/// folder with `config.json` and `diffusion_pytorch_model.safetensors`.
///
/// # Errors
/// As [`load`].
pub fn load_unet<T: Real>(path: &Path) -> Result<Model<T>> {
    let folder = unet_folder(path)?;
    load_weights(&folder, &weights_file(&folder)?)
}

/// Loads the network of a folder that [`save`] wrote, with the weights at the end of training instead of the
/// averaged ones.
///
/// # Errors
/// As [`load`].
pub fn load_raw_unet<T: Real>(path: &Path) -> Result<Model<T>> {
    let folder = unet_folder(path)?;
    load_weights(&folder, &folder.join(RAW_WEIGHTS))
}

/// Reads the configuration of a network: a diffusers `config.json`, or whatever [`load`] takes.
///
/// # Errors
/// [`Error::Invalid`] naming the file and the first key or value that is not supported; [`Error::Read`].
pub fn load_unet_config(path: &Path) -> Result<UnetConfig> {
    if path.is_file() && !is_checkpoint(path) {
        return unet_json::read(path);
    }
    match unet_folder(path) {
        // A run's configuration never changes. In a checkpoint it is in the same file as the weights.
        Ok(folder) => read_config(&folder),
        Err(error) => checkpoint(path)?.map(|found| found.state.config.unet).ok_or(error),
    }
}

/// Writes a model folder, each file whole or not at all. `raw`, in the layout of `average.weights`, are the
/// weights at the end of training; without them an earlier file of such weights is removed. A run's folder
/// keeps the scheduler's file that it has, where that is for the same process.
///
/// # Errors
/// [`Error::Invalid`] for weights that are not as many as the network has, before anything is written;
/// [`Error::Write`] where the system refuses a step.
pub fn save(
    path: &Path,
    average: &Model<f32>,
    raw: Option<&[f32]>,
    diffusion: &DiffusionConfig,
) -> Result<()> {
    let kept = if path.join(CHECKPOINTS).is_dir() { run_scheduler(path, diffusion) } else { None };
    let kept = match &kept {
        Some((_, file)) => Some((scheduler_class(file)?, files::read_text(file)?)),
        None => None,
    };
    let kept = kept.as_ref().map(|(class, text)| (class.as_str(), text.as_str()));
    write(path, average, raw, diffusion, kept)
}

/// The scheduler of a run's folder with its file, if it has one that is for this process. How a sampler clips
/// and which variance Algorithm 2 has do not matter: they are the sampler's.
fn run_scheduler(path: &Path, diffusion: &DiffusionConfig) -> Option<(Scheduler, PathBuf)> {
    let file = path.join(SCHEDULERS).join(SCHEDULER);
    let (of_file, scheduler) = files::is_file(&file).then(|| scheduler_json::read(&file).ok())??;
    let DiffusionConfig { variance, clip_x0, .. } = *diffusion;
    (DiffusionConfig { variance, clip_x0, ..of_file } == *diffusion).then_some((scheduler, file))
}

/// Writes the scheduler's file alone, from which a run in that folder takes how its images are sampled.
///
/// # Errors
/// [`Error::Write`] where the system refuses.
pub(super) fn save_scheduler(path: &Path, text: &str) -> Result<()> {
    let folder = path.join(SCHEDULERS);
    disk::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
    write_atomically(&folder.join(SCHEDULER), |f| f.write_all(text.as_bytes()))
}

/// Writes a model folder whose images are sampled as another scheduler's file says, whose `_class_name` is
/// `class`.
///
/// # Errors
/// As [`save`].
pub(super) fn save_with_scheduler(
    path: &Path,
    model: &Model<f32>,
    diffusion: &DiffusionConfig,
    (class, text): (&str, &str),
) -> Result<()> {
    write(path, model, None, diffusion, Some((class, text)))
}

fn write(
    path: &Path,
    average: &Model<f32>,
    raw: Option<&[f32]>,
    diffusion: &DiffusionConfig,
    scheduler_text: Option<(&str, &str)>,
) -> Result<()> {
    average.config.validate()?;
    average.check()?;
    diffusion.validate()?;
    if let Some(raw) = raw
        && raw.len() != average.weights.len()
    {
        let expected = format!("{}, as many as the averaged ones", average.weights.len());
        return Err(Error::invalid("the raw weights", expected, raw.len().to_string(), ""));
    }
    let unet = path.join("unet");
    disk::create_dir_all(&unet).map_err(|e| Error::write(&unet, e))?;
    let (class, text) = match scheduler_text {
        Some((class, text)) => (class, text.to_owned()),
        None => (scheduler_json::class(diffusion), scheduler_json::text(diffusion)?),
    };
    // diffusers' DDIMPipeline would make a DDIMScheduler of any other; its DDPMPipeline takes each as it is.
    let pipeline = if class == "DDIMScheduler" { "DDIMPipeline" } else { "DDPMPipeline" };
    let index = json!({
        "_class_name": pipeline,
        "scheduler": ["diffusers", class],
        "unet": ["diffusers", "UNet2DModel"],
    });
    save_weights(&unet.join(WEIGHTS), &average.graph, &average.weights, &average.projections)?;
    let raw_file = unet.join(RAW_WEIGHTS);
    match raw {
        Some(raw) => save_weights(&raw_file, &average.graph, raw, &average.projections)?,
        None if raw_file.exists() => disk::remove_file(&raw_file).map_err(|e| Error::write(&raw_file, e))?,
        None => {}
    }
    save_scheduler(path, &text)?;
    for (file, text) in
        [(unet.join(CONFIG), unet_json::text(&average.config)), (path.join(INDEX), format!("{index:#}\n"))]
    {
        write_atomically(&file, |f| f.write_all(text.as_bytes()))?;
    }
    Ok(())
}

fn is_checkpoint(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e == "safetensors")
}

/// The checkpoint at `path`, or the newest one where `path` is a run folder.
fn checkpoint(path: &Path) -> Result<Option<Newest>> {
    if is_checkpoint(path) {
        return Ok(Some(Newest { state: state::load(path)?, file: path.to_owned(), note: None }));
    }
    state::newest(path)
}

fn from_state<T: Real>(state: &TrainingState, file: PathBuf, note: Option<String>) -> Result<LoadedModel<T>> {
    let widen = |values: &[f32]| values.iter().map(|x| T::of((*x).into())).collect::<Vec<T>>();
    let config = state.config.unet.clone();
    let model = Model {
        graph: unet::build(&config)?.into(),
        config,
        weights: widen(&state.ema),
        projections: state.projections.iter().map(|p| widen(p)).collect(),
    };
    let diffusion = state.config.diffusion.clone();
    let scheduler = Scheduler::of(&diffusion);
    let (step, train) = (Some(state.step), Some(state.config.train.clone()));
    Ok(LoadedModel { model, diffusion, scheduler, has_schedule: true, file, step, train, note })
}

/// The folder with the network's `config.json`. Where diffusers' training left its average beside the
/// network, the average is what is sampled from.
fn unet_folder(path: &Path) -> Result<PathBuf> {
    let places = [path.join("unet_ema"), path.join("unet"), path.to_owned()];
    let found = places.into_iter().find(|folder| files::is_file(&folder.join(CONFIG)));
    found.ok_or_else(|| {
        let got = if !path.exists() {
            "nothing there"
        } else if path.is_dir() {
            "a folder with neither unet/config.json nor config.json nor checkpoints"
        } else {
            "a file that is no checkpoint"
        };
        Error::invalid(
            path.display().to_string(),
            "a run folder, a model folder or a diffusers UNet2DModel folder",
            got,
            "train one with `performer-ddpm train`",
        )
    })
}

/// The file with the averaged weights, or an error that says why it cannot be read.
fn weights_file(folder: &Path) -> Result<PathBuf> {
    let file = folder.join(WEIGHTS);
    if files::is_file(&file) {
        return Ok(file);
    }
    if let Some(variant) = variant(folder) {
        return Ok(variant);
    }
    let (got, help) = if folder.join(format!("{WEIGHTS}.index.json")).is_file() {
        (
            "weights in several files",
            "save them in Python as one, with save_pretrained(DIR, max_shard_size=\"100GB\")",
        )
    } else if folder.join("diffusion_pytorch_model.bin").is_file() {
        (
            "diffusion_pytorch_model.bin, a pickle, which can run any code when it is loaded",
            "convert it in Python, where its origin is trusted, with save_pretrained(DIR, \
             safe_serialization=True)",
        )
    } else {
        ("no such file", "")
    };
    Err(Error::invalid(file.display().to_string(), "a safetensors file", got, help))
}

/// The weights under a name with a variant in it, `diffusion_pytorch_model.fp16.safetensors`: of several,
/// those of the highest precision that is in a name, then the first by name. The shards of one model are
/// none.
fn variant(folder: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    first_variant(names).map(|name| folder.join(name))
}

/// The first variant among a folder's names of files.
pub(super) fn first_variant(names: impl Iterator<Item = String>) -> Option<String> {
    let rank = |variant: &str| ["fp32", "fp16", "bf16"].iter().position(|name| *name == variant).unwrap_or(3);
    let variants = names.filter_map(|name| {
        let inner =
            name.strip_prefix("diffusion_pytorch_model.").and_then(|n| n.strip_suffix(".safetensors"))?;
        (!inner.contains("-of-")).then(|| (rank(inner), name.clone()))
    });
    variants.min().map(|(_, name)| name)
}

/// The configuration of the network in `folder`; its classes may be named in the pipeline's index instead.
fn read_config(folder: &Path) -> Result<UnetConfig> {
    let mut config = unet_json::read(&folder.join(CONFIG))?;
    let index = [folder.join("..").join(INDEX), folder.join(INDEX)].into_iter().find(|f| files::is_file(f));
    if let Some(index) = index {
        name_classes(&mut config, || Keys::read(&index))?;
    }
    Ok(config)
}

/// Takes the names of a network's classes from the pipeline's index where they are not beside the network.
pub(super) fn name_classes(config: &mut UnetConfig, index: impl FnOnce() -> Result<Keys>) -> Result<()> {
    if config.num_class_embeds.is_some() && config.class_names.is_empty() {
        let mut keys = index()?;
        config.class_names = unet_json::class_names(&mut keys)?;
        config.validate().map_err(|e| keys.in_file(e))?;
    }
    Ok(())
}

pub(super) fn load_weights<T: Real>(folder: &Path, file: &Path) -> Result<Model<T>> {
    with_weights(read_config(folder)?, file, &files::read(file)?)
}

/// A network with the weights of a file's bytes; `file` names it in errors.
pub(super) fn with_weights<T: Real>(config: UnetConfig, file: &Path, bytes: &[u8]) -> Result<Model<T>> {
    let graph = unet::build(&config)?;
    let mut tensors = Tensors::open(file, bytes)?;
    let weights = safetensors_io::take_weights(&mut tensors, &graph)?;
    let projections = safetensors_io::take_projections(&mut tensors, &graph.projections)?;
    tensors.finish()?;
    Ok(Model { config, graph: graph.into(), weights, projections })
}

fn save_weights(file: &Path, graph: &Graph, weights: &[f32], projections: &[Vec<f32>]) -> Result<()> {
    let values: Vec<Vec<f32>> =
        graph.params.iter().map(|p| p.kind.to_file_layout(&weights[p.range()])).collect();
    let params = graph.params.iter().zip(&values);
    let params = params.map(|(p, v)| (p.name.as_str(), p.kind.file_shape(), v.as_slice()));
    let projections = graph.projections.iter().zip(projections);
    let projections = projections.map(|(p, w)| (p.name.as_str(), vec![p.features, p.dim], w.as_slice()));
    let tensors: Vec<_> = params.chain(projections).collect();
    // PyTorch's readers require this entry.
    write_atomically(file, |f| safetensors_io::write(f, ("format", "pt"), &tensors))
}

/// Refuses pipelines with parts that an unconditional pipeline has not.
fn check_index(file: &Path) -> Result<()> {
    if !files::is_file(file) {
        return Ok(());
    }
    check_index_keys(Keys::read(file)?)
}

/// The same of an index that was read.
pub(super) fn check_index_keys(mut keys: Keys) -> Result<()> {
    keys.fixed("_class_name", &[json!("DDPMPipeline"), json!("DDIMPipeline")])?;
    keys.fixed("unet", &[json!(["diffusers", "UNet2DModel"])])?;
    let schedulers =
        ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"];
    let schedulers = schedulers.map(|name| json!(["diffusers", name]));
    keys.fixed("scheduler", &schedulers)?;
    keys.tolerate(&["_diffusers_version", "_name_or_path"]);
    unet_json::class_names(&mut keys)?;
    keys.finish()
}

/// The process that a folder's scheduler tells of, if it has one.
pub(super) fn load_diffusion(path: &Path) -> Result<Option<DiffusionConfig>> {
    let file = unet_folder(path).ok().and_then(|unet| scheduler_file(path, &unet));
    file.map(|file| scheduler_json::read(&file).map(|(diffusion, _)| diffusion)).transpose()
}

/// The text of the scheduler's file of a folder that [`load`] takes, and the scheduler's class, if there is
/// one.
pub(super) fn scheduler_text(path: &Path) -> Result<Option<(String, String)>> {
    let Some(file) = unet_folder(path).ok().and_then(|unet| scheduler_file(path, &unet)) else {
        return Ok(None);
    };
    Ok(Some((scheduler_class(&file)?, files::read_text(&file)?)))
}

fn scheduler_class(file: &Path) -> Result<String> {
    Keys::read(file)?.require("_class_name", "a scheduler's class", "")
}

/// The scheduler's file: in a pipeline's subfolder, beside the network (diffusers' first models), or, where
/// `path` is the `unet` folder of a pipeline, beside that folder.
fn scheduler_file(path: &Path, unet: &Path) -> Option<PathBuf> {
    let subfolder = Path::new(SCHEDULERS).join(SCHEDULER);
    let pipeline = unet.join("..");
    let above = files::is_file(&pipeline.join(INDEX)).then(|| pipeline.join(&subfolder));
    [path.join(&subfolder), path.join(SCHEDULER)].into_iter().chain(above).find(|f| files::is_file(f))
}
