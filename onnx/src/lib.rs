//! ONNX files from Rust: write, read, check and run them.
//!
//! - [`builder`]: a graph builder that infers and checks every type and shape while the graph is written.
//! - [`model`]: a model in memory; bytes in and out, a summary of what a file holds, its weights by name.
//! - [`runner`]: one trait, [`runner::Runner`], over the runtimes: tract (pure Rust, feature `tract`) and
//!   ONNX Runtime (a library found at run time, feature `ort`).
//! - [`proto`]: the messages of the file format.
//!
//! Files are written for opset 17, IR version 8.
//!
//! ```
//! use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ModelInfo};
//! use performer_ddpm_onnx::{Dim, ElementType, Model};
//!
//! let mut g = GraphBuilder::new("double");
//! let x = g.input("x", ElementType::F32, [Dim::from("N"), Dim::from(3)])?;
//! let two = g.scalar(2.0)?;
//! let y = g.binary(Binary::Mul, x, two)?;
//! g.output("y", y)?;
//! let model = g.into_model(ModelInfo::default())?;
//! let again = Model::from_bytes("double", &model.to_bytes()?)?;
//! assert_eq!(again.summary()?.outputs[0].to_string(), "y f32 [N, 3]");
//! # Ok::<(), performer_ddpm_onnx::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod builder;
pub mod error;
pub mod model;
pub mod proto;
pub mod runner;
pub mod types;

pub use error::{Error, Result};
pub use model::Model;
pub use types::{Dim, ElementType, Shape, Tensor};

/// Compiles and runs the README's examples with the documentation tests.
#[cfg(all(doctest, feature = "ort"))]
#[doc = include_str!("../README.md")]
struct Readme;
