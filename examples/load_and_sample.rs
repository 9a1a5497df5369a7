//! Images from a trained model: a run's folder, a model folder of ours or of diffusers, or an `.onnx` file.
//!
//! `cargo run --example load_and_sample -- [MODEL [OUT.png]]`; MODEL is `runs/latest` where it is left out.

use performer_ddpm::output::write_png;
use performer_ddpm::{Pipeline, Result, SampleOptions};
use std::path::Path;

/// Writes a grid of 16 images.
pub fn load_and_sample(model: &Path, out: &Path) -> Result<()> {
    let mut pipeline = Pipeline::load(model)?;
    let options = SampleOptions { count: 16, steps: Some(20), seed: 7, ..pipeline.options() };
    let images = pipeline.sample(&options)?;
    write_png(out, images.view(), None)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments.first().map_or("runs/latest", String::as_str);
    let out = arguments.get(1).map_or("samples.png", String::as_str);
    load_and_sample(model.as_ref(), out.as_ref())?;
    println!("{out}");
    Ok(())
}
