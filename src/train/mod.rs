//! Training: Algorithm 1, its optimiser, and the run that wraps them.
//!
//! A [`Trainer`] is a network in memory that takes one step at a time; its
//! [`pipeline`](Trainer::pipeline) samples, saves, exports and is evaluated. A [`Run`] is training in a
//! folder that survives being stopped: configuration, metrics, checkpoints, sample grids, loss curve and the
//! model itself, with a callback for every [`Event`].

mod optimizer;
mod run;
mod trainer;

pub use optimizer::Adam;
#[doc(hidden)]
pub use optimizer::{Update, clip_factor, global_norm};
pub use run::{Event, Limit, Metric, Outcome, Run, RunOptions, check_fit, cumulative_seconds};
pub use trainer::{Progress, Step, Trainer};

use crate::kernels::Kernels;
use crate::machine;

impl From<Limit> for RunOptions {
    /// A run with sample grids, on the processor's threads and by its fastest kernels.
    fn from(limit: Limit) -> Self {
        RunOptions { limit, threads: machine::threads(), kernels: Kernels::default(), grids: true }
    }
}
