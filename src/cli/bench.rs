//! `bench`: images per second of a training step and of a forward pass, and where their time goes.

use super::train::PresetName;
use super::{ComputeArgs, latest, print_json};
use crate::config::{Config, Preset};
use crate::data::{Dataset, Labels};
use crate::kernels::peak_gflops;
use crate::model::clock::{OpClock, Work};
use crate::model::report::report;
use crate::model::{Condition, Engine, Model};
use crate::train::{Trainer, check_memory};
use crate::{Error, Result, checkpoint};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure images per second: a full training step (forward, backward, clipping, Adam, average) and a forward
/// pass.
///
/// Shares of the machine's peak count useful work only: the multiply-adds of convolutions as written, linear
/// layers and attention, once for a forward pass and three times for a training step, whatever the kernels
/// save or add. The peak is measured by a loop of multiply-adds in registers on every thread. The times by
/// kind of work are averages of further steps that are timed operation by operation.
///
/// Example: performer-ddpm bench --batch 64 --threads 2
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model folder, run folder, or a diffusers config.json [default: runs/latest, or the fashion preset
    /// where there is none]
    model: Option<PathBuf>,
    /// A named configuration
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "model")]
    preset: Option<PresetName>,
    /// Images per step
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Measured steps; the median counts
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Serialize)]
struct Figures {
    model: String,
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

/// The speed of one kind of step, and where its time goes.
#[derive(Serialize)]
struct Speed {
    gflops: f64,
    share_of_peak: f64,
    /// The median step's time.
    milliseconds: f64,
    /// The average time of a step that was timed operation by operation.
    clocked_milliseconds: f64,
    /// The time of these steps by kind of work, as an average over threads.
    milliseconds_by_work: BTreeMap<&'static str, f64>,
}

impl Speed {
    /// The figures of a step of `seconds` and `multiply_adds`. `runs` more steps, timed operation by
    /// operation, took `clocked` seconds together.
    fn new(
        seconds: f64,
        multiply_adds: f64,
        peak: f64,
        clock: &OpClock,
        clocked: f64,
        runs: u32,
        threads: usize,
    ) -> Speed {
        let gflops = 2.0 * multiply_adds / seconds * 1e-9;
        let milliseconds = |work| 1e3 * clock.seconds(work) / f64::from(runs) / threads as f64;
        let by_work = Work::ALL.into_iter().map(|work| (work.name(), milliseconds(work)));
        Speed {
            gflops,
            share_of_peak: gflops / peak,
            milliseconds: 1e3 * seconds,
            clocked_milliseconds: 1e3 * clocked / f64::from(runs),
            milliseconds_by_work: by_work.filter(|(_, time)| *time > 0.0).collect(),
        }
    }
}

/// Measures and prints.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let (model_name, mut config) = subject(&args)?;
    let batch = args.batch as usize;
    config.train.batch = batch;
    // The speed does not depend on what the classes are called.
    config.unet.class_names.clear();
    let (threads, kernels) = (args.compute.threads(), args.compute.kernels());
    let isa = kernels.isa;
    check_memory(&config, threads)?;
    let data = noise(&config)?;

    let mut trainer: Trainer<f32> = Trainer::new(&config, threads, kernels)?;
    let train = median(args.runs, || trainer.advance(&data).map(drop))?;
    trainer.engine().start_clock();
    let start = Instant::now();
    for _ in 0..args.runs {
        trainer.advance(&data)?;
    }
    let clocked = start.elapsed().as_secs_f64();
    let peak_rss_mib = peak_rss_mib();
    let model: Model<f32> = trainer.averaged_model();
    let info = report(&model.graph, batch, threads)?;
    let peak = peak_gflops(isa, threads)?;
    let work = (batch * info.multiply_adds) as f64;
    let clock = trainer.engine().clock().expect("it was started");
    let train_speed = Speed::new(train, 3.0 * work, peak, clock, clocked, args.runs, threads);
    drop(trainer);

    let mut engine = Engine::new(&model, threads, kernels)?;
    let x = vec![0.5; batch * model.input_len()];
    let mut out = vec![0.0; batch * model.output_len()];
    let condition = |i: usize| Condition {
        index: i * 997 % config.diffusion.timesteps,
        class: config.unet.num_class_embeds.map(|classes| i % classes),
    };
    let conditions: Vec<Condition> = (0..batch).map(condition).collect();
    let forward = median(args.runs, || engine.forward(&model, &x, &conditions, &mut out))?;
    engine.start_clock();
    let start = Instant::now();
    for _ in 0..args.runs {
        engine.forward(&model, &x, &conditions, &mut out)?;
    }
    let clocked = start.elapsed().as_secs_f64();
    let clock = engine.clock().expect("it was started");
    let forward_speed = Speed::new(forward, work, peak, clock, clocked, args.runs, threads);

    let figures = Figures {
        model: model_name,
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

/// The network to measure, with its name: the named one, the newest run or, where there is none, a preset.
fn subject(args: &BenchArgs) -> Result<(String, Config)> {
    let path = match (&args.model, args.preset) {
        (Some(path), _) => path.clone(),
        (None, None) if latest().exists() => latest(),
        (None, preset) => {
            let preset = preset.map_or(Preset::Fashion, PresetName::preset);
            return Ok((format!("preset {}", preset.name()), preset.config()));
        }
    };
    let name = path.display().to_string();
    let unet = checkpoint::model_folder::load_unet_config(&path)?;
    let mut config = Config { unet, ..Preset::Fashion.config() };
    // Of a network alone Adam is what others measure too.
    config.train.muon = None;
    let [image, out] = [config.unet.in_channels, config.unet.out_channels];
    config.diffusion.learned_range = match out {
        _ if out == image => false,
        _ if out == 2 * image => true,
        _ => {
            return Err(Error::invalid(
                format!("{name}: out_channels"),
                format!("{image}, like in_channels, or {}, with a learned variance", 2 * image),
                out.to_string(),
                "a training step predicts an image, and at most a variance of each of its numbers",
            ));
        }
    };
    Ok((name, config))
}

fn print(figures: &Figures) {
    let Figures { model, batch, threads, isa, train, forward, .. } = figures;
    println!("{model}: batch {batch}, {threads} threads, {isa}, peak {:.0} GFLOP/s", figures.peak_gflops);
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
        let (by_work, whole) = (&speed.milliseconds_by_work, speed.clocked_milliseconds);
        let line = |what: &str, time: f64| println!("{what:<24} {time:10.2} {:6.1}", 100.0 * time / whole);
        for work in Work::ALL.map(Work::name) {
            if let Some(time) = by_work.get(work) {
                line(work, *time);
            }
        }
        line("waiting and the rest", whole - by_work.values().sum::<f64>());
        line("a step with the clock", whole);
    }
}

/// A dataset with images of as many numbers as the network's; their content does not change the speed.
fn noise(config: &Config) -> Result<Dataset> {
    let [h, w] = config.unet.sample_size;
    let c = config.unet.in_channels;
    let pixels: Vec<u8> = (0..config.train.batch * h * w * c).map(|i| (i * 7919 % 251) as u8).collect();
    let classes = config.unet.classes();
    let labels = (classes > 0).then(|| {
        let of_each = (0..config.train.batch).map(|i| (i % classes) as u32).collect();
        Labels::new(of_each, (0..classes).map(|class| config.unet.class_name(class)).collect())
    });
    Dataset::new("made-up images", [h, w, c], pixels, labels.transpose()?, true)
}

/// The median time of a call in seconds, after two that do not count.
fn median(runs: u32, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    f()?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        f()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The process's largest resident size so far, if the system reports it.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}
