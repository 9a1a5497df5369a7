//! Model folders whose files are in memory, as a browser has them.

use super::keys::Keys;
use super::model_folder::{self, CONFIG, INDEX, LoadedModel, SCHEDULER, SCHEDULERS, WEIGHTS};
use super::{scheduler_json, unet_json};
use crate::error::{Error, Result};
use crate::real::Real;
use std::path::{Path, PathBuf};

/// A file of a folder: its path below the folder, with `/` between names, and its bytes.
pub type File<'a> = (&'a str, &'a [u8]);

/// Loads the model of a model folder, ours or one that diffusers wrote, or of a folder with just a network's
/// files. Files that are not a model's are passed over; of a run's folder the model is its `unet`.
///
/// # Errors
/// [`Error::Invalid`] naming the file, the key or tensor, what was expected and what was found.
pub fn load<T: Real>(files: &[File<'_>]) -> Result<LoadedModel<T>> {
    let find = |name: &str| files.iter().find(|(path, _)| *path == name).copied();
    let Some(folder) =
        ["unet_ema/", "unet/", ""].into_iter().find(|folder| find(&format!("{folder}{CONFIG}")).is_some())
    else {
        return Err(Error::invalid(
            "the folder",
            "a model folder or a diffusers UNet2DModel folder",
            "neither unet/config.json nor config.json",
            "choose the folder that holds them",
        ));
    };
    let index = find(INDEX);
    if let Some(index) = index {
        model_folder::check_index_keys(keys(index)?)?;
    }
    let mut config = unet_json::config(keys(find(&format!("{folder}{CONFIG}")).expect("it was found"))?)?;
    if let Some(index) = index {
        model_folder::name_classes(&mut config, || keys(index))?;
    }
    let inside = files.iter().filter_map(|(path, _)| path.strip_prefix(folder)).map(str::to_owned);
    let weights = match find(&format!("{folder}{WEIGHTS}")) {
        Some(weights) => Some(weights),
        None => model_folder::first_variant(inside).and_then(|name| find(&format!("{folder}{name}"))),
    };
    let Some((file, bytes)) = weights else {
        return Err(Error::invalid(format!("{folder}{WEIGHTS}"), "a safetensors file", "no such file", ""));
    };
    let model = model_folder::with_weights(config, Path::new(file), bytes)?;
    let scheduler = find(&format!("{SCHEDULERS}/{SCHEDULER}")).or_else(|| find(SCHEDULER));
    let has_schedule = scheduler.is_some();
    let note = (!has_schedule).then(|| model_folder::assumed(Path::new("the folder")));
    let (diffusion, scheduler) = match scheduler {
        Some(file) => scheduler_json::scheduler(keys(file)?)?,
        None => model_folder::assumed_scheduler(),
    };
    let file = PathBuf::from(file);
    Ok(LoadedModel { model, diffusion, scheduler, has_schedule, file, step: None, train: None, note })
}

/// The keys of a JSON file.
fn keys((path, bytes): File<'_>) -> Result<Keys> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::invalid(path, "Unicode text", e.to_string(), "is the file whole?"))?;
    Keys::of(Path::new(path), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARRIED: [File<'static>; 4] = [
        (INDEX, include_bytes!("../../data/fashion-model/model_index.json")),
        ("unet/config.json", include_bytes!("../../data/fashion-model/unet/config.json")),
        (
            "unet/diffusion_pytorch_model.safetensors",
            include_bytes!("../../data/fashion-model/unet/diffusion_pytorch_model.safetensors"),
        ),
        (
            "scheduler/scheduler_config.json",
            include_bytes!("../../data/fashion-model/scheduler/scheduler_config.json"),
        ),
    ];

    #[test]
    fn a_folder_in_memory_is_the_folder_on_disk() {
        let on_disk = model_folder::load::<f32>(Path::new(super::super::SHIPPED)).unwrap();
        let in_memory = load::<f32>(&CARRIED).unwrap();
        let file = on_disk.file.clone();
        assert!(LoadedModel { file, ..in_memory } == on_disk);
    }

    #[test]
    fn the_network_alone_is_enough_and_says_what_is_assumed() {
        let [_, config, weights, _] = CARRIED;
        let alone = [("config.json", config.1), ("diffusion_pytorch_model.fp16.safetensors", weights.1)];
        let loaded = load::<f32>(&alone).unwrap();
        assert!(!loaded.has_schedule && loaded.note.unwrap().contains("T = 1000 is assumed"));
        assert_eq!(loaded.file, Path::new("diffusion_pytorch_model.fp16.safetensors"));
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let [index, config, weights, scheduler] = CARRIED;
        let refused = |files: &[File<'_>]| load::<f32>(files).unwrap_err().to_string();
        assert!(refused(&[index, weights, scheduler]).contains("neither unet/config.json nor config.json"));
        assert!(refused(&[index, config, scheduler]).contains("unet/diffusion_pytorch_model.safetensors"));
        let cut = (weights.0, &weights.1[..1000]);
        assert!(
            refused(&[index, config, cut, scheduler]).contains("unet/diffusion_pytorch_model.safetensors")
        );
        let no_text = ("scheduler/scheduler_config.json", &b"\xff"[..]);
        assert!(refused(&[index, config, weights, no_text]).contains("Unicode"));
    }
}
