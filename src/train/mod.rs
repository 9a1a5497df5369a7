//! Training: Algorithm 1, its optimiser, and the run that wraps them.
//!
//! A [`Trainer`] is a network in memory that takes one step at a time; its
//! [`pipeline`](Trainer::pipeline) samples, saves, exports and is evaluated. A [`Run`] is training in a
//! folder that survives being stopped: configuration, metrics, checkpoints, sample grids, loss curve and the
//! model itself, with a callback for every [`Event`]. Its steps are the engine's, or ONNX Runtime's on a
//! processor or a GPU where the [configuration](crate::config::Config::runtime) says so.
//!
//! ```no_run
//! use performer_ddpm::config::Preset;
//! use performer_ddpm::data;
//! use performer_ddpm::train::{Event, Limit, Run, RunOptions};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! let images = data::load(Some("pictures".as_ref()), Some((32, 32)))?.train;
//! let config = Preset::Fashion.config().for_images(images.shape());
//! let run = Run::create_new("runs/pictures".as_ref(), &config)?;
//! let options = RunOptions::from(Limit::Minutes(10.0));
//! run.train(&config, &images, options, || false, |event| {
//!     if let Event::Step { step, done, .. } = event {
//!         println!("{:.0} %, loss {:.4}", 100.0 * done, step.loss);
//!     }
//! })?;
//! # Ok(())
//! # }
//! ```

mod budget;
mod call;
mod classes;
mod draws;
mod event;
mod exchange;
pub mod fine_tune;
mod fit;
mod folder;
mod graph;
mod history;
mod learner;
mod memory;
mod metrics;
mod muon;
mod optimizer;
mod report;
mod rules;
mod run;
mod telling;
mod together;
mod trainer;

pub use crate::model::Interrupt;
pub use budget::Limit;
pub use event::{Event, Outcome, RunOptions};
pub use exchange::check_ranks;
pub use fit::check_fit;
pub use graph::check_runtime;
pub use memory::{check_memory, check_memory_in};
pub use metrics::Metric;
pub use optimizer::Adam;
#[doc(hidden)]
pub use optimizer::{Update, clip_factor, global_norm};
pub use report::write_report;
#[doc(hidden)]
pub use rules::Optimizer;
pub use run::Run;
pub(crate) use together::check_alike;
pub use trainer::{Progress, Step, Trainer};

use crate::kernels::Kernels;
use crate::machine;

impl From<Limit> for RunOptions {
    /// A run with sample grids, on the processor's threads and by its fastest kernels.
    fn from(limit: Limit) -> Self {
        let (threads, kernels) = (machine::threads(), Kernels::default());
        RunOptions { limit, threads, kernels, grids: true, library: None, tensorboard: false }
    }
}
