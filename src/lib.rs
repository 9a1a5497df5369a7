//! Denoising diffusion probabilistic models (Ho et al. 2020) whose U-Net attends with the Performers' FAVOR+
//! (Choromanski et al. 2021), trained and sampled on plain CPUs with hand-written backpropagation.
//!
//! The floors, lowest first; imports only go down:
//! 0 [`error`], [`config`], [`real`], [`rng`]; 1 [`equations`], [`kernels`]; 2 [`nn`]; 3 [`model`];
//! 4 [`data`], [`checkpoint`]; 5 [`train`], [`sample`], [`evaluate`]; the binary's `cli` stands on top.
#![deny(unsafe_code)]

pub mod config;
pub mod error;
pub mod real;
pub mod rng;

pub use error::{Error, Result};
