//! Models and training runs on disk.
//!
//! A model folder ([`model_folder`]) is diffusers' pipeline layout, so that other programs read our models
//! and ours reads theirs. A training state ([`state`]) is one checksummed file from which a run goes on with
//! the same bits. Both hold their tensors as safetensors; whatever is read is checked, and what is wrong is
//! named with its file.
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

mod keys;
pub mod model_folder;
mod safetensors_io;
mod scheduler_json;
pub mod state;
mod unet_json;
