//! Sampling on an NVIDIA GPU through ONNX Runtime: the network and the sampler's step as one graph, x_t on
//! the device throughout.
//!
//! `cargo run --example sample_on_gpu -- [MODEL] [DEVICE]`; MODEL is a model or run folder (runs/latest where
//! it is left out), DEVICE `cuda`, `cuda:1` or `cpu`. ONNX Runtime's CUDA build and the CUDA libraries come
//! with `pip install "onnxruntime-gpu[cuda,cudnn]"`. A GPU that cannot be used is an error that says what is
//! missing.

use performer_ddpm::output::write_png;
use performer_ddpm::sample::{Compute, onnx::Runtime};
use performer_ddpm::{Pipeline, Result, SampleOptions};
use performer_ddpm_onnx::runner::Device;
use performer_ddpm_onnx::runner::ort::OrtOptions;
use std::path::Path;
use std::process::ExitCode;

/// Writes a grid of 64 images and returns who computed them.
pub fn sample(model: &Path, device: Device, out: &Path) -> Result<String> {
    let runtime = Runtime::OnnxRuntime(OrtOptions { device, ..OrtOptions::default() });
    let mut pipeline = Pipeline::load_with(model, &Compute::runtime(runtime))?;
    let options = SampleOptions { steps: Some(20), ..pipeline.options() };
    let images =
        pipeline.sample_watched(&options, None, |now| println!("step {} of {}", now.step, now.steps))?;
    write_png(out, images.view(), None)?;
    Ok(pipeline.describe().to_string())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments.first().map_or("runs/latest", String::as_str);
    let device = arguments.get(1).map_or("cuda", String::as_str).parse().map_err(Into::into);
    match device.and_then(|device| sample(model.as_ref(), device, "sample_on_gpu.png".as_ref())) {
        Ok(who) => {
            println!("{who}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
