//! `bench`: images per second of a training step and of a forward pass.

use super::{ComputeArgs, print_json};
use clap::Args;
use performer_ddpm::config::{Config, Preset};
use performer_ddpm::data::Dataset;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::train::Trainer;
use performer_ddpm::{Result, checkpoint};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure images per second: a full training step (forward, backward, clipping, Adam, average) and a forward pass.
///
/// Example: performer-ddpm bench --batch 64 --threads 2
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model folder, or a diffusers config.json [default: the fashion preset]
    model: Option<PathBuf>,
    /// Images per step
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Measured steps; the median counts
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Serialize)]
struct Figures {
    train_images_per_s: f64,
    forward_images_per_s: f64,
    batch: usize,
    threads: usize,
    isa: &'static str,
    peak_rss_mib: Option<u64>,
}

/// Measures and prints.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let mut config = Preset::Fashion.config();
    if let Some(path) = &args.model {
        config.unet = checkpoint::model_folder::load_unet_config(path)?;
    }
    let batch = args.batch as usize;
    config.train.batch = batch;
    let (threads, kernels) = (args.compute.threads(), args.compute.kernels());
    let isa = kernels.isa;
    let data = noise(&config)?;

    let mut trainer: Trainer<f32> = Trainer::new(&config, threads, kernels)?;
    let mut failed = None;
    let train = median(args.runs, || {
        if let Err(error) = trainer.advance(&data) {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let model: Model<f32> = trainer.averaged_model();
    drop(trainer);

    let mut engine = Engine::new(&model, threads, kernels)?;
    let x = vec![0.5; batch * model.input_len()];
    let mut out = vec![0.0; batch * model.output_len()];
    let indices: Vec<usize> = (0..batch).map(|i| i * 997 % config.diffusion.timesteps).collect();
    let forward = median(args.runs, || engine.forward(&model, &x, &indices, &mut out));

    let figures = Figures {
        train_images_per_s: batch as f64 / train,
        forward_images_per_s: batch as f64 / forward,
        batch,
        threads,
        isa: isa.name(),
        peak_rss_mib: peak_rss_mib(),
    };
    if args.json {
        print_json(&figures);
    } else {
        println!("batch {batch}, {threads} threads, {isa}");
        println!("training step  {:8.2} images/s", figures.train_images_per_s);
        println!("forward pass   {:8.2} images/s", figures.forward_images_per_s);
        if let Some(peak) = figures.peak_rss_mib {
            println!("peak memory    {peak:8} MiB");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A dataset of the network's size; its content does not change the speed.
fn noise(config: &Config) -> Result<Dataset> {
    let [h, w] = config.unet.sample_size;
    let c = config.unet.in_channels;
    let pixels: Vec<u8> = (0..config.train.batch * h * w * c).map(|i| (i * 7919 % 251) as u8).collect();
    Dataset::new("made-up images", [h, w, c], pixels, None, true)
}

/// The median time of a call in seconds, after two that do not count.
fn median(runs: u32, mut f: impl FnMut()) -> f64 {
    f();
    f();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The process's largest resident size so far, where the system tells.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}
