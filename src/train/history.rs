//! Who trained a run, when and where: a line for each call.

use super::folder::HISTORY;
use super::metrics;
use crate::error::{Error, Result};
use crate::machine;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// A call of [`Run::train`](super::Run::train).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CallRecord {
    /// Steps taken before.
    pub step: u64,
    /// When it began, in UTC.
    pub began: String,
    /// This library's version.
    pub version: String,
    /// Who computes the steps.
    pub by: String,
    /// The machine in words.
    pub machine: String,
}

/// Adds this call to a run's history.
///
/// # Errors
/// [`Error::Write`] if the system refuses.
pub(super) fn record(folder: &Path, step: u64, by: &str) -> Result<()> {
    let call = CallRecord {
        step,
        began: machine::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        by: by.to_owned(),
        machine: machine::name(),
    };
    let mut line = serde_json::to_string(&call).expect("text becomes JSON");
    line.push('\n');
    let path = folder.join(HISTORY);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|e| Error::write(&path, e))
}

/// The calls so far, and how many lines could not be read.
pub(super) fn read(folder: &Path) -> (Vec<CallRecord>, usize) {
    metrics::readable(&folder.join(HISTORY))
}
