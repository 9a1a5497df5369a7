//! Training: Algorithm 1, its optimiser, and the run that wraps them.

mod optimizer;
mod run;
mod trainer;

pub use optimizer::{Adam, Update, clip_factor, global_norm};
pub use run::{Event, Limit, Metric, Outcome, Run, RunOptions, check_fit, cumulative_seconds};
pub use trainer::{Progress, Step, Trainer};
