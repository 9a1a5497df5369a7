//! The model that is evaluated, and the images.

use super::EvaluateArgs;
use crate::cli::images::load;
use crate::cli::model_path;
use crate::cli::progress::Progress;
use crate::config::Config;
use crate::config::DataConfig;
use crate::data::Datasets;
use crate::sample::{Compute, is_onnx};
use crate::{Error, Pipeline, Result};
use std::path::{Path, PathBuf};

/// The images and, where one is needed, the model.
pub struct Subject {
    pub data: Datasets,
    /// Where the model lies, and the model.
    pub model: Option<(PathBuf, Pipeline)>,
}

impl Subject {
    /// The model, where [`open`] has found that one is needed.
    pub fn pipeline(&mut self) -> Result<&mut Pipeline> {
        let model = self.model.as_mut().map(|(_, pipeline)| pipeline);
        model.ok_or_else(|| Error::invalid("MODEL", "a model", "none", ""))
    }
}

/// Loads what the arguments name. With given samples no model is needed.
pub fn open(args: &EvaluateArgs, progress: &mut Progress) -> Result<Subject> {
    let needs_model = args.wants_nll() || args.network.samples.is_none();
    let path = match (needs_model, &args.model) {
        (false, Some(path)) => {
            let help = "leave out one of them";
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
    let (config, seed) = data_config(args, path.as_deref())?;
    let data = load(&config, seed, args.pictures.reading.into(), progress)?;
    let model = path.map(|path| load_model(args, path, progress)).transpose()?;
    if let Some((path, pipeline)) = &model {
        check_fit(path, pipeline, &data)?;
    }
    Ok(Subject { data, model })
}

/// The images that the arguments name, or those that the run was trained on, and the seed of what is held
/// out. Other images are made as the run's were, but none of them is held out unless the arguments say so.
pub fn data_config(args: &EvaluateArgs, model: Option<&Path>) -> Result<(DataConfig, u64)> {
    let file = model.map(|path| path.join("config.toml")).filter(|file| file.is_file());
    let (mut config, seed) = match file {
        None => (DataConfig::default(), args.seed),
        Some(file) => {
            let text = std::fs::read_to_string(&file).map_err(|error| Error::read(&file, error))?;
            let config = Config::from_toml(&text, &file.display().to_string())?;
            (config.data, config.train.seed)
        }
    };
    if args.pictures.data.is_some() {
        config.held_out = None;
    }
    Ok((args.pictures.apply(config)?, seed))
}

fn load_model(args: &EvaluateArgs, path: PathBuf, progress: &Progress) -> Result<(PathBuf, Pipeline)> {
    if is_onnx(&path) {
        return Err(Error::invalid(
            path.display().to_string(),
            "a model folder or a run folder",
            "an .onnx file",
            "sample from it with `performer-ddpm sample FILE.onnx --npy samples.npy` and give --samples \
             samples.npy",
        ));
    }
    let (threads, kernels) = (Some(args.compute.threads()), args.compute.kernels());
    let pipeline = Pipeline::load_with(&path, &Compute::Engine { threads, kernels })?;
    if let Some(note) = pipeline.note() {
        progress.say(note);
    }
    Ok((path, pipeline))
}

/// Refuses images of another shape than the model's.
fn check_fit(path: &Path, pipeline: &Pipeline, data: &Datasets) -> Result<()> {
    let model = pipeline.source()?.model;
    let outputs = [1, 2].map(|outputs| outputs * model.input_len());
    if data.train.shape() == pipeline.image() && outputs.contains(&model.output_len()) {
        return Ok(());
    }
    let ([h, w, c], [height, width, channels]) = (data.train.shape(), pipeline.image());
    Err(Error::invalid(
        format!("{}, the images of {}", data.train.name(), path.display()),
        format!("{height}x{width}x{channels} (height, width, channels), which the model is for"),
        format!("{h}x{w}x{c}"),
        "give the data that it was trained on (--data), or resize pictures (--size)",
    ))
}
