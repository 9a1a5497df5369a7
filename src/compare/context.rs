//! What the stages of a comparison share.

use crate::kernels::Kernels;
use std::path::{Path, PathBuf};

/// What happens during a comparison, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage begins.
    Stage(&'a str),
    /// The share of the stage that is done, from 0 to 1, and where it is.
    Progress {
        /// The share.
        done: f64,
        /// Where it is.
        message: &'a str,
    },
    /// Something the user should know.
    Note(&'a str),
}

/// The MiB that a process of its own holds at its peak while it trains the network of a run's folder on
/// batches of a size; `None` where that cannot be measured. Memory that this process has freed would hide
/// what a network takes here.
pub type PeakMib<'a> = dyn Fn(&Path, usize) -> Option<f64> + 'a;

/// What the stages share: where they write, what computes, when to stop, who is told.
pub(super) struct Context<'a> {
    pub out: PathBuf,
    pub threads: usize,
    pub kernels: Kernels,
    pub peak_mib: &'a PeakMib<'a>,
    pub stop: &'a dyn Fn() -> bool,
    pub progress: &'a mut dyn FnMut(f64, &str),
}

impl Context<'_> {
    /// The file of an image of the report.
    pub fn image(&self, name: &str) -> PathBuf {
        self.out.join("images").join(format!("{name}.png"))
    }
}
