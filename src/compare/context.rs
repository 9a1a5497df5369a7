//! What the stages of a comparison share.

use crate::error::Result;
use crate::group::Group;
use crate::kernels::Kernels;
use crate::model::Interrupt;
use std::path::{Path, PathBuf};

/// What happens during a comparison, to be shown to the user.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage begins.
    Stage(&'a str),
    /// How far the stage has come.
    Progress {
        /// The finished share, from 0 to 1.
        done: f64,
        /// What is being done.
        message: &'a str,
    },
    /// Something the user should know.
    Note(&'a str),
}

/// Measures the peak memory in MiB of a separate process that trains the network of a run's folder on batches
/// of the given size; `None` where that cannot be measured. In this process, memory that was freed earlier
/// would hide what the network takes.
pub type PeakMib<'a> = dyn Fn(&Path, usize) -> Option<f64> + 'a;

/// What the stages share.
pub(super) struct Context<'a> {
    pub out: PathBuf,
    pub threads: usize,
    pub kernels: Kernels,
    pub peak_mib: &'a PeakMib<'a>,
    /// The processes that do the stage together. Rank 0 alone reads and writes the comparison's file and
    /// images; what it finds holds.
    pub group: &'a dyn Group<f32>,
    /// Whether this process was asked to stop.
    pub stop: &'a dyn Fn() -> bool,
    /// The same as a flag, which ends a step of training within.
    pub interrupt: &'a Interrupt,
    pub progress: &'a mut dyn FnMut(f64, &str),
}

impl Context<'_> {
    /// Whether any process was asked to stop. All ask at the same places.
    pub fn stopped(&self) -> bool {
        self.group.any((self.stop)())
    }

    /// Writes a file or an image in rank 0 alone.
    pub fn write(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.group.leads() { write() } else { Ok(()) }
    }

    /// The file of an image of the report.
    pub fn image(&self, name: &str) -> PathBuf {
        self.out.join("images").join(format!("{name}.png"))
    }
}
