//! The trained network as an ONNX file.

pub mod metadata;

pub use metadata::{GraphKind, Metadata, SamplerSummary};
