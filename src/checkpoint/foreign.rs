//! Models of others, made ours: any folder that [`model_folder::load`] takes, and single files.
//!
//! A single `.safetensors` file is the weights of a `config.json` beside it, a training state of ours, or a
//! state dict of OpenAI's improved-diffusion or guided-diffusion. The U-Net of lucidrains'
//! denoising-diffusion-pytorch is none of this library's: its convolutions standardise their weights, its
//! first has a kernel of 7 and those that halve the resolution one of 4, and its blocks attend by another
//! linear attention.

pub use super::openai::Untold;

use super::model_folder::{self, LoadedModel};
use super::openai;
use super::safetensors_io::Tensors;
use super::state;
use crate::config::{BetaSchedule, DiffusionConfig, Prediction, VarianceKind};
use crate::disk;
use crate::error::{Error, Result};
use crate::model::Model;
use serde_json::json;
use std::path::Path;

/// A model that was read, whatever wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// The network.
    pub model: Model<f32>,
    /// The process that it was trained for.
    pub diffusion: DiffusionConfig,
    /// The class and the text of the scheduler's file; `None` where a folder has none.
    scheduler: Option<(String, String)>,
    /// What the user should know, a line each.
    pub notes: Vec<String>,
}

/// Reads a model. `untold` and `named` are what a file of tensors does not tell: the latter the process, by
/// default Ho et al.'s.
///
/// # Errors
/// [`Error::Invalid`] that says which network it is, where it is none of this library's; otherwise those of
/// [`model_folder::load`].
pub fn load(path: &Path, untold: Untold, named: Option<&DiffusionConfig>) -> Result<Foreign> {
    if path.is_file() {
        return load_file(path, untold, named);
    }
    let LoadedModel { model, diffusion, has_schedule, note, .. } = model_folder::load::<f32>(path)?;
    let scheduler = model_folder::scheduler_text(path)?;
    named_for(
        Foreign { model, diffusion, scheduler, notes: note.into_iter().collect() },
        path,
        named,
        has_schedule,
    )
}

/// Takes the named process where the source tells none.
fn named_for(
    mut foreign: Foreign,
    path: &Path,
    named: Option<&DiffusionConfig>,
    has_schedule: bool,
) -> Result<Foreign> {
    let Some(named) = named else { return Ok(foreign) };
    if has_schedule {
        return Err(Error::invalid(
            "`schedule` and `timesteps`",
            "a model without a schedule",
            format!("{}, which has one", path.display()),
            "leave them out",
        ));
    }
    foreign.diffusion = named.clone();
    foreign.notes.clear();
    Ok(foreign)
}

fn load_file(path: &Path, untold: Untold, named: Option<&DiffusionConfig>) -> Result<Foreign> {
    let bytes = disk::read(path).map_err(|e| Error::read(path, e))?;
    let mut tensors = Tensors::open(path, &bytes)?;
    if tensors.metadata(state::HEADER).is_some() {
        let LoadedModel { model, diffusion, .. } = model_folder::load::<f32>(path)?;
        return named_for(
            Foreign { model, diffusion, scheduler: None, notes: Vec::new() },
            path,
            named,
            true,
        );
    }
    if let Some(prefix) = openai::prefix(&tensors) {
        let model = openai::take(&mut tensors, &prefix, untold)?;
        tensors.finish()?;
        return Ok(of_openai(model, named));
    }
    if tensors.iter().any(|(name, _)| name.ends_with("downs.0.0.block1.proj.weight")) {
        return Err(tensors.refuse_network(
            "a diffusers network, or OpenAI's",
            "lucidrains' Unet, whose convolutions standardise their weights, whose first has a kernel of 7 and those \
             that halve the resolution one of 4, and which attends by another linear attention",
        ));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    if folder.join("config.json").is_file() {
        let model = model_folder::load_weights(folder, path)?;
        // The folder's other weights may be damaged or missing; its scheduler is read alone.
        let scheduler = model_folder::scheduler_text(folder)?;
        let (diffusion, has_schedule, notes) = match model_folder::load_diffusion(folder)? {
            Some(diffusion) => (diffusion, true, Vec::new()),
            None => (DiffusionConfig::default(), false, vec![model_folder::assumed(path)]),
        };
        return named_for(Foreign { model, diffusion, scheduler, notes }, path, named, has_schedule);
    }
    let some: Vec<&str> = tensors.iter().map(|(name, _)| name).take(3).collect();
    Err(Error::invalid(
        path.display().to_string(),
        "a diffusers network with its config.json in the same folder, or a state dict of OpenAI's",
        format!("{} tensors: {}, ...", tensors.iter().count(), some.join(", ")),
        "put the config.json that belongs to it into the same folder",
    ))
}

/// OpenAI's process around a network: its schedules are those of 1000 steps stretched to T, and its sampler
/// is Algorithm 2 with the variance that the network predicts, or else beta_t.
fn of_openai(model: Model<f32>, named: Option<&DiffusionConfig>) -> Foreign {
    let mut diffusion = named.cloned().unwrap_or_default();
    diffusion.variance = VarianceKind::FixedLarge;
    diffusion.prediction = Prediction::Epsilon;
    let mut notes = Vec::new();
    if named.is_none() {
        notes.push("the linear schedule with T = 1000 is assumed (`schedule`, `timesteps`)".to_owned());
    }
    let stretch = 1000.0 / diffusion.timesteps as f64;
    let (start, end) = (1e-4 * stretch, 0.02 * stretch);
    if let BetaSchedule::Linear { .. } = diffusion.schedule {
        diffusion.schedule = BetaSchedule::Linear { start, end };
    }
    if diffusion.timesteps != 1000 {
        notes.push("the network is taken to get t itself (rescale_timesteps False)".to_owned());
    }
    let learned = model.config.out_channels == 2 * model.config.in_channels;
    diffusion.learned_range = learned;
    let text = json!({
        "_class_name": "DDPMScheduler",
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": match diffusion.schedule {
            BetaSchedule::Cosine => "squaredcos_cap_v2",
            _ => "linear",
        },
        "clip_sample": true,
        "num_train_timesteps": diffusion.timesteps,
        "prediction_type": "epsilon",
        "variance_type": if learned { "learned_range" } else { "fixed_large" },
    });
    Foreign { model, diffusion, scheduler: Some(("DDPMScheduler".to_owned(), format!("{text:#}\n"))), notes }
}

impl Foreign {
    /// Writes it as a model folder, which keeps the scheduler that it came with.
    ///
    /// # Errors
    /// As [`model_folder::save`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        match &self.scheduler {
            Some((class, text)) => {
                model_folder::save_with_scheduler(folder, &self.model, &self.diffusion, (class, text))
            }
            None => model_folder::save(folder, &self.model, None, &self.diffusion),
        }
    }

    /// Writes how it is sampled into the folder of a run that trains it on: what the run saves keeps it.
    ///
    /// # Errors
    /// [`Error::Write`] where the system refuses.
    pub fn save_scheduler(&self, run: &Path) -> Result<()> {
        self.scheduler.as_ref().map_or(Ok(()), |(_, text)| model_folder::save_scheduler(run, text))
    }
}
