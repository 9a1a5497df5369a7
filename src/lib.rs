//! Denoising diffusion probabilistic models (Ho et al. 2020) whose U-Net attends with the Performers' FAVOR+
//! (Choromanski et al. 2021): trained, sampled, evaluated and exported on plain CPUs, with hand-written
//! backpropagation and every equation a function of its own.
//!
//! # Quick start
//!
//! Train a small network on images of your own, and sample from it:
//!
//! ```
//! use performer_ddpm::config::Preset;
//! use performer_ddpm::data::Dataset;
//! use performer_ddpm::kernels::Isa;
//! use performer_ddpm::output::write_png;
//! use performer_ddpm::{SampleOptions, Trainer};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! // Bytes [N, H, W, C]: here 8x8 pixels, one half dark.
//! let pixels = ndarray::Array4::from_shape_fn((32, 8, 8, 1), |(n, y, x, _)| {
//!     if [x, y][n % 2] < 4 { 255u8 } else { 0 }
//! });
//! let images = Dataset::from_array("halves", pixels.view())?;
//!
//! let config = Preset::Tiny.config().for_images(images.shape());
//! let mut trainer = Trainer::<f32>::new(&config, 2, Isa::detect())?;
//! for _ in 0..10 {
//!     let step = trainer.advance(&images)?;
//!     println!("step {}: loss {:.4}", step.step, step.loss);
//! }
//!
//! let mut pipeline = trainer.pipeline()?;
//! let options = SampleOptions { count: 4, steps: Some(5), ..pipeline.options() };
//! let samples = pipeline.sample(&options)?; // f32 [4, 8, 8, 1], nominally in [-1, 1]
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("samples.png");
//! # let path = path.as_path();
//! # let _ = stringify!(
//! let path = "samples.png".as_ref();
//! # );
//! write_png(path, samples.view(), None)?;
//! # assert_eq!(samples.dim(), (4, 8, 8, 1));
//! # Ok(())
//! # }
//! ```
//!
//! A trained model is a [`Pipeline`], wherever it comes from: a run's folder, a folder that diffusers wrote,
//! an `.onnx` file.
//!
//! ```no_run
//! # fn main() -> performer_ddpm::Result<()> {
//! let mut pipeline = performer_ddpm::Pipeline::load("runs/latest")?;
//! let images = pipeline.sample(&pipeline.options())?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go next
//!
//! | to | see |
//! |---|---|
//! | load a model and sample | [`Pipeline`], [`SampleOptions`] |
//! | vary, inpaint or interpolate given images | [`Pipeline::edit`], [`sample::Editor`], [`data::Picture`] |
//! | read images: garments that the library carries, folders, arrays | [`data::load`], [`data::Dataset`] |
//! | train in memory, a step at a time | [`Trainer`] |
//! | train in a folder that can be resumed, with a callback | [`train::Run`] |
//! | choose a network, a noise schedule, an optimiser | [`config::Config`], [`config::Preset`] |
//! | train on labels, sample and guide classes | [`config::Config::for_classes`], [`SampleOptions::classes`] |
//! | measure bits per dimension | [`evaluate::likelihood`] |
//! | compare samples with images | [`evaluate::Comparison`], [`evaluate::features::Extractor`] |
//! | write an ONNX file | [`Pipeline::export`], [`export`] |
//! | write a folder for diffusers | [`Pipeline::save`], [`checkpoint::model_folder`] |
//! | write grids, animations, `.npy` files | [`output`] |
//! | see a run, or several side by side, as a page | [`train::write_report`] |
//! | read the paper's equations as code, and check them | [`equations`], [`audit`], [`audit::write_page`] |
//!
//! The repository's `examples/` have a page of code for each of the first of these.
//!
//! # What holds everywhere
//!
//! - Images are in [-1, 1]; \[n, h, w, c\] in memory and \[n, c, h, w\] in files and ONNX graphs.
//! - t counts from 1 to T, as in the paper; formats that count from 0 are converted at the border.
//! - A result is a function of its inputs and a seed: the same bits on any number of threads.
//! - What cannot be used is an [`Error`] that says what, where, what was expected, what was found and what to
//!   do. The library prints nothing.
//!
//! # Floors
//!
//! The modules stand on floors, the lowest first, and import only from the floors below their own:
//!
//! 0. [`kernels`], a crate of its own
//! 1. [`error`]
//! 2. [`config`], `disk`, [`group`], `machine`, [`rng`]
//! 3. [`equations`]
//! 4. [`nn`]
//! 5. [`model`]
//! 6. [`data`], [`output`]
//! 7. [`checkpoint`], [`export`]
//! 8. [`sample`], [`audit`]
//! 9. [`train`], [`evaluate`]
//! 10. [`compare`]
//! 11. `cli`, the program's commands, which alone print
//! 12. `main`, the program
//!
//! In WebAssembly there is no training: [`audit`], [`train`], [`evaluate`] and [`compare`] and the plots of
//! [`output`] are left out, and what is left runs on one thread.
#![deny(unsafe_code)]
// What only training uses is then without use.
#![cfg_attr(target_family = "wasm", allow(dead_code, unused_imports))]

#[cfg(not(target_family = "wasm"))]
pub mod audit;
pub mod checkpoint;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod cli;
#[cfg(not(target_family = "wasm"))]
pub mod compare;
pub mod config;
pub mod data;
#[doc(hidden)]
pub mod disk;
pub mod equations;
pub mod error;
#[cfg(not(target_family = "wasm"))]
pub mod evaluate;
pub mod export;
pub mod group;
mod machine;
pub mod model;
pub mod nn;
pub mod output;
pub mod rng;
pub mod sample;
#[cfg(not(target_family = "wasm"))]
pub mod train;

pub use error::{Error, Result};
#[doc(inline)]
pub use performer_ddpm_kernels as kernels;
#[doc(inline)]
pub use performer_ddpm_kernels::real;
pub use sample::{Pipeline, SampleOptions};
#[cfg(not(target_family = "wasm"))]
pub use train::Trainer;
