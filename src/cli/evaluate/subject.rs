//! What is evaluated, and on which images.

use super::EvaluateArgs;
use crate::cli::model_path;
use crate::cli::progress::Progress;
use performer_ddpm::checkpoint::model_folder::{self, LoadedModel};
use performer_ddpm::config::{Config, DiffusionConfig};
use performer_ddpm::data::{self, Datasets};
use performer_ddpm::equations::Schedule;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::{Error, Result};
use std::path::{Path, PathBuf};

/// A loaded model, ready to run.
pub struct Evaluated {
    pub path: PathBuf,
    pub step: Option<u64>,
    pub model: Model<f32>,
    pub engine: Engine<f32>,
    pub schedule: Schedule,
    pub diffusion: DiffusionConfig,
}

/// The images and, where one is needed, the model.
pub struct Subject {
    pub data: Datasets,
    pub model: Option<Evaluated>,
}

impl Subject {
    /// The model, where [`open`] has found that one is needed.
    pub fn model(&mut self) -> Result<&mut Evaluated> {
        self.model.as_mut().ok_or_else(|| Error::invalid("MODEL", "a model", "none", ""))
    }
}

/// Loads what the arguments name. Given samples need no model.
pub fn open(args: &EvaluateArgs, progress: &Progress) -> Result<Subject> {
    let needs_model = args.wants_nll() || args.network.samples.is_none();
    let path = match (needs_model, &args.model) {
        (false, Some(path)) => {
            let help = "leave one of them out";
            return Err(Error::invalid(
                "MODEL",
                "none beside --samples without --nll",
                path.display().to_string(),
                help,
            ));
        }
        (false, None) => None,
        (true, path) => Some(model_path(path.clone())?),
    };
    let data = load_data(args, path.as_deref())?;
    let model = path.map(|path| load_model(args, path, progress)).transpose()?;
    if let Some(model) = &model {
        check_fit(model, &data)?;
    }
    Ok(Subject { data, model })
}

/// The images that the arguments name, or those that the run was trained on.
fn load_data(args: &EvaluateArgs, model: Option<&Path>) -> Result<Datasets> {
    if let Some(path) = &args.data {
        return data::load(Some(path), args.size.map(|[h, w]| (h, w)));
    }
    let config = model.map(|path| path.join("config.toml")).filter(|file| file.is_file());
    let Some(file) = config else { return data::load(None, None) };
    let text = std::fs::read_to_string(&file).map_err(|error| Error::read(&file, error))?;
    let config = Config::from_toml(&text, &file.display().to_string())?.data;
    data::load(config.path.as_deref(), config.size.map(|[h, w]| (h, w)))
}

fn load_model(args: &EvaluateArgs, path: PathBuf, progress: &Progress) -> Result<Evaluated> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
        return Err(Error::invalid(
            path.display().to_string(),
            "a model folder or a run folder",
            "an .onnx file",
            "sample from it with `performer-ddpm sample FILE.onnx --npy samples.npy` and give --samples samples.npy",
        ));
    }
    let LoadedModel { model, diffusion, step, note, .. } = model_folder::load::<f32>(&path)?;
    if let Some(note) = note {
        progress.say(&note);
    }
    let engine = Engine::new(&model, args.compute.threads(), args.compute.kernels())?;
    let schedule = Schedule::from_config(&diffusion)?;
    Ok(Evaluated { path, step, model, engine, schedule, diffusion })
}

/// Refuses images of another shape than the model's.
fn check_fit(model: &Evaluated, data: &Datasets) -> Result<()> {
    let shape = model.model.graph.shape(model.model.graph.input);
    let images = [data.train.height(), data.train.width(), data.train.channels()];
    if images == [shape.h, shape.w, shape.c] && model.model.input_len() == model.model.output_len() {
        return Ok(());
    }
    let [h, w, c] = images;
    Err(Error::invalid(
        format!("{}, the images of {}", data.train.name(), model.path.display()),
        format!("{shape} (height, width, channels), for which the model predicts eps"),
        format!("{h}x{w}x{c}"),
        "give the data that it was trained on (--data), or resize pictures (--size)",
    ))
}
