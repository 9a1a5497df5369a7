//! What a run writes down of every step.

use crate::config::OnNan;
use crate::disk::{self, DiskFile};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The step, from 1.
    pub step: u64,
    /// The batch's loss; NaN, in the file null, of a step that was skipped.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// The gradient's norm before clipping; NaN likewise.
    #[serde(deserialize_with = "or_nan")]
    pub gradient_norm: f64,
    /// The learning rate.
    pub lr: f64,
    /// Images per second.
    pub images_per_s: f64,
    /// Seconds of training so far, those of earlier calls included.
    pub seconds: f64,
    /// The step at which the run was planned to end when this one was taken; `None` before the clock had
    /// decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_steps: Option<u64>,
    /// The ranks that took the step together; `None` for one alone, as are the two below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// Seconds that rank 0 waited for others to finish their shards of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_s: Option<f64>,
    /// Seconds of sending and receiving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communication_s: Option<f64>,
    /// What was done because training diverged: this step was skipped, or is the first one after the run went
    /// back to a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_nan: Option<OnNan>,
}

/// The lines of a file that are what they should be, and the number of the others; none of a file that is not
/// there. The last line may be cut short, where a process writes or was killed.
pub(super) fn readable<T: DeserializeOwned>(path: &Path) -> (Vec<T>, usize) {
    let bytes = std::fs::read(path).unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (mut found, mut damaged) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_slice(line) {
            Ok(value) => found.push(value),
            Err(_) => damaged += 1,
        }
    }
    (found, damaged)
}

/// A number, or NaN for null.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|number| number.unwrap_or(f64::NAN))
}

/// The metrics in the first `len` bytes of a file, which are those of steps 1, 2, ... in order.
pub(super) fn read(path: &Path, len: u64) -> Result<Vec<Metric>> {
    let file = DiskFile::open(path).map_err(|e| Error::read(path, e))?;
    let mut metrics = Vec::new();
    for (i, line) in BufReader::new(file.take(len)).lines().enumerate() {
        let line = line.map_err(|e| Error::read(path, e))?;
        let bad = |expected: String, got: String| {
            let what = format!("{}, line {}", path.display(), i + 1);
            Error::invalid(what, expected, got, "the file is damaged; restore it, or begin a new run")
        };
        let metric: Metric =
            serde_json::from_str(&line).map_err(|e| bad("a step's metrics".to_owned(), e.to_string()))?;
        if metric.step != i as u64 + 1 {
            return Err(bad(format!("those of step {}", i + 1), format!("step {}", metric.step)));
        }
        metrics.push(metric);
    }
    Ok(metrics)
}

/// The lines of a file that may be cut off in the last one; 0 where there is none.
pub(super) fn lines(path: &Path) -> Result<u64> {
    match disk::read(path) {
        Ok(bytes) => Ok(bytes.iter().filter(|byte| **byte == b'\n').count() as u64),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::read(path, error)),
    }
}

/// `metrics.jsonl`, cut back to the checkpoint that training goes on from.
pub(super) struct Metrics {
    path: PathBuf,
    file: DiskFile,
}

impl Metrics {
    /// Opens the file, cut to its first `len` bytes.
    pub(super) fn open(path: &Path, len: u64) -> Result<Metrics> {
        let failed = |e| Error::write(path, e);
        let options = OpenOptions::new().create(true).append(true).clone();
        let file = DiskFile::with(path, &options).map_err(failed)?;
        let there = file.file().metadata().map_err(failed)?.len();
        if there < len {
            return Err(Error::invalid(
                path.display().to_string(),
                format!("at least {len} bytes, as when the checkpoint was written"),
                format!("{there} bytes"),
                "restore the file or begin a new run",
            ));
        }
        file.set_len(len).map_err(failed)?;
        Ok(Metrics { path: path.to_path_buf(), file })
    }

    /// Appends a line.
    pub(super) fn write(&mut self, metric: &Metric) -> Result<()> {
        let mut line = serde_json::to_string(metric).expect("numbers become JSON");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::write(&self.path, e))
    }

    /// Makes the file durable; its length.
    pub(super) fn sync(&mut self) -> Result<u64> {
        let failed = |e| Error::write(&self.path, e);
        self.file.sync_all().map_err(failed)?;
        Ok(self.file.file().metadata().map_err(failed)?.len())
    }
}

/// Images per second over the last steps.
pub(super) struct Pace {
    last: Instant,
    seconds_per_image: Option<f64>,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace { last: Instant::now(), seconds_per_image: None }
    }

    /// Images per second of late, once a step of so many images is done.
    pub(super) fn step(&mut self, images: usize) -> f64 {
        let now = (Instant::now() - self.last).as_secs_f64() / images as f64;
        self.last = Instant::now();
        let smooth = self.seconds_per_image.map_or(now, |old| 0.9 * old + 0.1 * now);
        self.seconds_per_image = Some(smooth);
        1.0 / smooth
    }

    /// Leaves the time since the last step out.
    pub(super) fn pause(&mut self) {
        self.last = Instant::now();
    }
}
