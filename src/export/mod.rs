//! The trained network as an ONNX file that runs without this library: graphs, metadata, and the check of
//! what was written.
//!
//! [`Pipeline::export`](crate::Pipeline::export) is the usual way in, [`write()`] the same for a model in
//! hand. A [`GraphSpec`] says what the file computes: the network alone, the network with one step of any
//! sampler, all steps of one sampler, or one step of training. [`Metadata`] are what a file says of itself,
//! enough to sample from it, or to train with it, with nothing else at hand.
//!
//! ```no_run
//! use performer_ddpm::Pipeline;
//! use performer_ddpm::export::{ExportOptions, GraphSpec};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! let pipeline = Pipeline::load("runs/latest")?;
//! let options = ExportOptions { graph: GraphSpec::Step, ..ExportOptions::default() };
//! for (runtime, difference) in pipeline.export("step.onnx", &options)?.checks {
//!     println!("{runtime}: within {:.1e} of the engine", difference.absolute);
//! }
//! # Ok(())
//! # }
//! ```

mod attention;
mod backward;
mod chain;
pub mod check;
mod file;
mod graphs;
mod guidance;
mod learned;
mod masks;
pub mod metadata;
mod muon;
mod network;
mod source;
mod step;
mod tables;
#[cfg(test)]
mod testing;
mod train_step;
mod write;

pub use check::{Difference, Expectation};
pub use file::write_checked;
pub use graphs::{GraphSpec, build};
pub use masks::{Masks, WORD};
pub use metadata::{GraphKind, Metadata, SamplerSummary};
pub use source::{Precision, Source};
pub use train_step::{ROW, States, TrainStep};
pub use write::{Check, ExportOptions, Exported, write};
