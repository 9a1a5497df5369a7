//! Sampling on an NVIDIA GPU through ONNX Runtime: the network and the sampler's step as one graph, x_t on
//! the device throughout.
//!
//! `cargo run --example sample_on_gpu -- [MODEL] [DEVICE]`; MODEL is a model or run folder (runs/latest where
//! it is left out), DEVICE `cuda`, `cuda:1` or `cpu`. ONNX Runtime's CUDA build and the CUDA libraries come
//! with `pip install "onnxruntime-gpu[cuda,cudnn]"`. A GPU that cannot be used is an error that says what is
//! missing.

use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::equations::Schedule;
use performer_ddpm::export::{GraphSpec, Source, build};
use performer_ddpm::output::write_png;
use performer_ddpm::sample::onnx::{OnnxDenoiser, Runtime};
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample_with};
use performer_ddpm_onnx::runner::Device;
use performer_ddpm_onnx::runner::ort::OrtOptions;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments.first().map_or("runs/latest", String::as_str);
    let device = arguments.get(1).map_or("cuda", String::as_str);
    match run(Path::new(model), device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_status().into()
        }
    }
}

fn run(model: &Path, device: &str) -> performer_ddpm::Result<()> {
    let device: Device = device.parse()?;
    let loaded = model_folder::load::<f32>(model)?;
    let source = Source { model: &loaded.model, diffusion: &loaded.diffusion, step: loaded.step };
    let graph = build(source, &GraphSpec::Step)?;
    let options = SampleOptions {
        count: 64,
        batch: 64,
        seed: 0,
        sampler: Sampler::Ddim { eta: 0.0 },
        steps: Some(20),
        spacing: Spacing::Trailing,
        clip_x0: ClipX0::KeepEps,
    };
    let runtime = Runtime::OnnxRuntime(OrtOptions { device, ..OrtOptions::default() });
    let mut denoiser = OnnxDenoiser::load(&graph, &runtime, options.batch)?;
    println!("{}", denoiser.describe());
    let schedule = Schedule::from_config(&loaded.diffusion)?;
    let images = sample_with(&mut denoiser, &schedule, &options, None, |now| {
        println!("step {} of {}", now.step, now.steps);
    })?;
    let out = Path::new("sample_on_gpu.png");
    write_png(out, images.view(), None)?;
    println!("{}", out.display());
    Ok(())
}
