//! Denoising diffusion probabilistic models (Ho et al. 2020) whose U-Net attends with the Performers' FAVOR+
//! (Choromanski et al. 2021), trained and sampled on plain CPUs with hand-written backpropagation.
//!
//! The floors, lowest first; imports only go down: 0 [`error`], [`config`], [`real`], [`rng`]; 1
//! [`equations`], [`kernels`]; 2 [`nn`]; 3 [`model`]; 4 [`data`], [`output`], [`checkpoint`], [`export`]; 5
//! [`sample`], [`audit`]; 6 [`train`], [`evaluate`]; 7 [`compare`]; the binary's `cli` stands on top.
#![deny(unsafe_code)]

pub mod audit;
pub mod checkpoint;
pub mod compare;
pub mod config;
pub mod data;
pub mod equations;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod kernels;
mod machine;
pub mod model;
pub mod nn;
pub mod output;
pub mod real;
pub mod rng;
pub mod sample;
pub mod train;

pub use error::{Error, Result};
pub use sample::{Pipeline, SampleOptions};
pub use train::Trainer;
