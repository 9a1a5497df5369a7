//! Packs a trained run as the model that the library carries: its averaged weights in half precision.
//!
//! `cargo run --release --example pack_model -- RUN data/fashion-model`

use half::f16;
use performer_ddpm::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::path::Path;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// Writes RUN's model folder to OUT.
pub fn pack(run: &Path, out: &Path) -> Result<()> {
    for file in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"] {
        let to = out.join(file);
        let folder = to.parent().unwrap_or(out);
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        std::fs::copy(run.join(file), &to).map_err(|e| Error::write(&to, e))?;
    }
    let (from, to) = (run.join(WEIGHTS), out.join(WEIGHTS));
    let damaged = |e: safetensors::SafeTensorError| {
        Error::invalid(from.display().to_string(), "a safetensors file of f32", e.to_string(), "")
    };
    let bytes = std::fs::read(&from).map_err(|e| Error::read(&from, e))?;
    let mut halves = Vec::new();
    for (name, tensor) in SafeTensors::deserialize(&bytes).map_err(damaged)?.tensors() {
        let (whole, _) = tensor.data().as_chunks::<4>();
        let half = |x: &[u8; 4]| f16::from_f32(f32::from_le_bytes(*x)).to_le_bytes();
        halves.push((name, tensor.shape().to_vec(), whole.iter().flat_map(half).collect::<Vec<u8>>()));
    }
    let mut views = Vec::new();
    for (name, shape, data) in &halves {
        views.push((name, TensorView::new(Dtype::F16, shape.clone(), data).map_err(damaged)?));
    }
    let format = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let packed = serialize(views, Some(format)).map_err(damaged)?;
    std::fs::write(&to, packed).map_err(|e| Error::write(&to, e))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [run, out] => pack(run.as_ref(), out.as_ref()),
        _ => Err(Error::invalid("arguments", "RUN OUT", arguments.join(" "), "")),
    }
}
