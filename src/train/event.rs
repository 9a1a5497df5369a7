//! How a run is asked for, what it tells on the way, and how it ended.

use super::budget::Limit;
use super::trainer::Step;
use crate::kernels::Kernels;
use std::path::{Path, PathBuf};

/// How to run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// When to end.
    pub limit: Limit,
    /// Threads: the engine's, or those of a [runtime](crate::config::Config::runtime) on the processor.
    pub threads: usize,
    /// The engine's kernels; a run resumed with others goes on well, but not to the same bits.
    pub kernels: Kernels,
    /// Whether sample grids are made, on the way as the configuration says and at the end.
    pub grids: bool,
    /// ONNX Runtime's library or its folder, for a run in it; `None` to look for it.
    pub library: Option<PathBuf>,
    /// Whether metrics and sample grids are written as TensorBoard's event files too.
    pub tensorboard: bool,
}

/// What happens during a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// Training begins or goes on.
    Started {
        /// Steps taken before.
        step: u64,
        /// Trained numbers.
        parameters: usize,
        /// Who computes the steps, and where.
        by: &'a str,
        /// Something the user should know, such as a damaged checkpoint that was passed over.
        note: Option<&'a str>,
    },
    /// A step was taken.
    Step {
        /// Its numbers.
        step: Step,
        /// Images per second, averaged over the last few steps.
        images_per_second: f64,
        /// The share of the run that is done, from 0 to 1.
        done: f64,
    },
    /// The clock decided how many steps the time holds.
    Planned {
        /// The step that ends the run.
        end: u64,
        /// How many it was to be before; `None` for the first decision.
        before: Option<u64>,
    },
    /// Something that the user should know was done in another way than usual.
    Note(&'a str),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// Images for a grid are being made; the share of their steps that is done, below 1.
    Sampling(f64),
    /// A sample grid was written.
    Samples(&'a Path),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps taken in all.
    pub step: u64,
    /// Whether it was asked to stop before its limit.
    pub interrupted: bool,
    /// The last sample grid.
    pub grid: Option<PathBuf>,
}
