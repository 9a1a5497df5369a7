//! The trained network as an ONNX file that runs without this program: graphs, metadata, and the check of
//! what was written.

mod attention;
pub mod check;
mod file;
mod graphs;
pub mod metadata;
mod network;

pub use check::{Difference, Expectation};
pub use file::write_checked;
pub use graphs::{GraphSpec, Source, build};
pub use metadata::{GraphKind, Metadata, SamplerSummary};
