//! `bench`: images per second of a training step and of a forward pass, and where their time goes.

use super::{ComputeArgs, print_json};
use clap::Args;
use performer_ddpm::config::{Config, Preset};
use performer_ddpm::data::Dataset;
use performer_ddpm::kernels::{Isa, multiply_adds};
use performer_ddpm::model::clock::{OpClock, Work};
use performer_ddpm::model::report::report;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::train::Trainer;
use performer_ddpm::{Result, checkpoint};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure images per second: a full training step (forward, backward, clipping, Adam, average) and a forward pass.
///
/// Shares of the machine's peak count useful work only: the multiply-adds of convolutions as written, linear layers and
/// attention, once for a forward pass and three times for a training step, whatever the kernels save or add. The peak is
/// measured, by a loop of multiply-adds in registers on every thread. The times by kind of work are averages of further
/// steps, which a clock watches.
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
    predicted_train_mib: f64,
    peak_gflops: f64,
    train: Speed,
    forward: Speed,
}

/// How fast one kind of step is, and where its time goes.
#[derive(Serialize)]
struct Speed {
    gflops: f64,
    share_of_peak: f64,
    milliseconds: f64,
    /// By kind of work, of the steps that the clock watched; threads' times divided by their number.
    milliseconds_by_work: BTreeMap<&'static str, f64>,
}

impl Speed {
    /// A step of `seconds`, of `multiply_adds`; the clock has watched `runs` of them.
    fn new(seconds: f64, multiply_adds: f64, peak: f64, clock: &OpClock, runs: u32, threads: usize) -> Speed {
        let gflops = 2.0 * multiply_adds / seconds * 1e-9;
        let milliseconds = |work| 1e3 * clock.seconds(work) / f64::from(runs) / threads as f64;
        let by_work = Work::ALL.into_iter().map(|work| (work.name(), milliseconds(work)));
        Speed {
            gflops,
            share_of_peak: gflops / peak,
            milliseconds: 1e3 * seconds,
            milliseconds_by_work: by_work.filter(|(_, time)| *time > 0.0).collect(),
        }
    }
}

/// Measures and prints.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let mut config = Preset::Fashion.config();
    if let Some(path) = &args.model {
        config.unet = checkpoint::model_folder::load_unet_config(path)?;
    }
    let batch = args.batch as usize;
    config.train.batch = batch;
    let (threads, isa) = (args.compute.threads(), args.compute.isa());
    let data = noise(&config)?;

    let mut trainer: Trainer<f32> = Trainer::new(&config, threads, isa)?;
    let mut failed = None;
    let train = median(args.runs, || {
        if let Err(error) = trainer.advance(&data) {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    trainer.engine().start_clock();
    for _ in 0..args.runs {
        trainer.advance(&data)?;
    }
    let peak_rss_mib = peak_rss_mib();
    let model: Model<f32> = trainer.averaged_model();
    let info = report(&model.graph, batch, threads);
    let peak = peak_gflops(threads);
    let work = (batch * info.multiply_adds) as f64;
    let clock = trainer.engine().clock().expect("it was started");
    let train_speed = Speed::new(train, 3.0 * work, peak, clock, args.runs, threads);
    drop(trainer);

    let mut engine = Engine::new(&model, threads, isa)?;
    let x = vec![0.5; batch * model.input_len()];
    let mut out = vec![0.0; batch * model.output_len()];
    let indices: Vec<usize> = (0..batch).map(|i| i * 997 % config.diffusion.timesteps).collect();
    let forward = median(args.runs, || engine.forward(&model, &x, &indices, &mut out));
    engine.start_clock();
    for _ in 0..args.runs {
        engine.forward(&model, &x, &indices, &mut out);
    }
    let clock = engine.clock().expect("it was started");
    let forward_speed = Speed::new(forward, work, peak, clock, args.runs, threads);

    let figures = Figures {
        train_images_per_s: batch as f64 / train,
        forward_images_per_s: batch as f64 / forward,
        batch,
        threads,
        isa: isa.name(),
        peak_rss_mib,
        predicted_train_mib: info.training_mib,
        peak_gflops: peak,
        train: train_speed,
        forward: forward_speed,
    };
    if args.json {
        print_json(&figures);
    } else {
        print(&figures);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(figures: &Figures) {
    let Figures { batch, threads, isa, train, forward, .. } = figures;
    println!("batch {batch}, {threads} threads, {isa}, peak {:.0} GFLOP/s", figures.peak_gflops);
    for (name, speed, images_per_s) in [
        ("training step", train, figures.train_images_per_s),
        ("forward pass", forward, figures.forward_images_per_s),
    ] {
        println!(
            "{name:<14} {images_per_s:8.2} images/s {:8.1} GFLOP/s {:4.0} % of the peak {:10.1} ms",
            speed.gflops,
            100.0 * speed.share_of_peak,
            speed.milliseconds
        );
    }
    if let Some(peak) = figures.peak_rss_mib {
        println!("peak memory    {peak:8} MiB, {:.0} predicted", figures.predicted_train_mib);
    }
    for (name, speed) in [("training step", train), ("forward pass", forward)] {
        println!("\n{:<24} {:>10} {:>6}", format!("{name} by work"), "ms", "%");
        for work in Work::ALL {
            if let Some(time) = speed.milliseconds_by_work.get(work.name()) {
                println!("{:<24} {time:10.2} {:6.1}", work.name(), 100.0 * time / speed.milliseconds);
            }
        }
    }
}

/// The most multiply-adds that the machine does on so many threads, in GFLOP/s: the best of a few tries.
fn peak_gflops(threads: usize) -> f64 {
    let rate = || {
        let start = Instant::now();
        let count: usize = std::thread::scope(|scope| {
            let work =
                || std::hint::black_box(multiply_adds(Isa::detect(), std::hint::black_box(4_000_000))).0;
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("a loop of multiply-adds")).sum()
        });
        2.0 * count as f64 / start.elapsed().as_secs_f64() * 1e-9
    };
    (0..5).map(|_| rate()).fold(0.0, f64::max)
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
