//! A run's folder: the names of what is in it.

use crate::config::Config;
use crate::disk;
use crate::error::{Error, Result};
use crate::output::write_atomically;
use std::io::Write;
use std::path::Path;

pub(super) const CONFIG: &str = "config.toml";
pub(super) const METRICS: &str = "metrics.jsonl";
/// What the training images were made from.
pub(super) const CONTENTS: &str = "data.jsonl";
/// Who trained it, when and where.
pub(super) const HISTORY: &str = "history.jsonl";
/// The run as a page.
pub(super) const REPORT: &str = "report.html";
/// TensorBoard's event files.
pub(super) const EVENTS: &str = "tensorboard";
/// Sample grids.
pub(super) const SAMPLES: &str = "samples";

/// Images in a run's sample grids, or some more for as many of each class.
pub(super) const GRID: usize = 64;

/// A run's configuration.
///
/// # Errors
/// [`Error::Invalid`] if the folder is no run's.
pub(super) fn read_config(folder: &Path) -> Result<Config> {
    let file = folder.join(CONFIG);
    let text = disk::read_to_string(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(
            folder.display().to_string(),
            "a run's folder, with a config.toml",
            "no config.toml there",
            "name the folder that train printed",
        ),
        _ => Error::read(&file, e),
    })?;
    Config::from_toml(&text, &file.display().to_string())
}

/// Writes a run's configuration.
///
/// # Errors
/// [`Error::Write`] if the system refuses.
pub(super) fn write_config(folder: &Path, config: &Config) -> Result<()> {
    write_atomically(&folder.join(CONFIG), |file| file.write_all(config.to_toml().as_bytes()))
}
