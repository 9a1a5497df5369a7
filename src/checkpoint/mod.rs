//! Models and training runs on disk.
//!
//! A model folder ([`model_folder`]) has the layout of a diffusers pipeline, so that diffusers reads our
//! models and we read its models. A training state ([`state`]) is one file with a checksum from which a run
//! continues with the same bits. Both store tensors as safetensors. Everything that is read is checked, and
//! errors name the file.
//!
//! [`Pipeline::load`](crate::Pipeline::load) and [`Pipeline::save`](crate::Pipeline::save) are the usual way
//! in. Here is what they stand on:
//!
//! ```no_run
//! use performer_ddpm::checkpoint::model_folder;
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! let loaded = model_folder::load::<f32>("runs/latest".as_ref())?;
//! println!("{} weights, T = {}", loaded.model.weights.len(), loaded.diffusion.timesteps);
//! # Ok(())
//! # }
//! ```

mod files;
pub mod foreign;
pub mod in_memory;
mod json;
mod keys;
pub mod model_folder;
mod openai;
mod safetensors_io;
mod scheduler_json;
pub mod state;
mod unet_json;

pub use files::{SHIPPED, is_shipped, shipped_files};
