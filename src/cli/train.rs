//! `train`: a run from a preset or a configuration file, or one resumed.

use super::choices::attention_kinds;
use super::images::{ImageArgs, load};
use super::interrupts::Interrupts;
use super::objective::{OBJECTIVE, ObjectiveArgs};
use super::progress::Progress;
use super::ranks::Ranks;
use super::runtime::RuntimeArgs;
use super::{ComputeArgs, RUNS, latest};
use crate::config::{AttentionKind, BlockAttention, Config, OnNan, Preset};
use crate::train::{Event, Limit, Run, RunOptions};
use crate::train::{check_fit, check_memory_in, check_ranks, check_runtime};
use crate::{Error, Result, data};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Train a model (Algorithm 1) on the embedded garments or on images of your own.
///
/// Ctrl-C, SIGTERM and SIGHUP end it with everything saved, and with status 130, 143 or 129;
/// --resume goes on to the same bits.
///
/// Example: performer-ddpm train --minutes 10
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Start from a named configuration
    #[arg(long, value_enum, default_value_t = PresetName::Fashion, value_name = "NAME")]
    preset: PresetName,
    /// Start from a configuration file, such as a run's config.toml
    #[arg(long, value_name = "FILE.toml", conflicts_with = "preset")]
    config: Option<PathBuf>,
    #[command(flatten)]
    images: ImageArgs,
    /// The run's folder [default: runs/PRESET-N]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Train for this many steps in all, those before a --resume included; the rate falls to its end with
    /// them
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Train for this many minutes from now, the last sample grid included; the plan of steps that this leads
    /// to is written into the run's config.toml, which gives the same weights again with --config and --steps
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    minutes: Option<f64>,
    /// Images per step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Learning rate after the warm-up
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// What to do about a step whose loss or gradient is not finite: stop; skip its batch; or backtrack, to
    /// the last checkpoint and on at half the rate. Each is written into the metrics, and the same at a
    /// resume [default: stop, or as the run has it]
    #[arg(long, value_name = "WAY")]
    on_nan: Option<OnNan>,
    /// Attention of every block that has one
    #[arg(long, value_parser = attention_kinds(), value_name = "KIND")]
    attention: Option<AttentionKind>,
    /// m, the number of FAVOR+ projections
    #[arg(long, value_name = "M")]
    features: Option<usize>,
    /// Tell the network each image's class, by the labels of the data: `sample` then makes images of a class
    #[arg(long)]
    classes: bool,
    /// The share of images that it is told no class of, for `sample --guidance`; 0 for no guidance
    #[arg(
        long,
        default_value_t = 0.1,
        value_name = "P",
        requires = "classes",
        allow_negative_numbers = true
    )]
    drop_label: f64,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Continue a run [default DIR: runs/latest]; --data names the folder of its images where that was moved
    #[arg(long, value_name = "DIR", num_args = 0..=1,
          conflicts_with_all = ["preset", "config", "size", "channels", "background", "held_out", "out", "batch",
                                "lr", "attention", "features", "classes", "seed"],
          conflicts_with_all = OBJECTIVE)]
    resume: Option<Option<PathBuf>>,
    /// Write metrics and sample grids as TensorBoard's event files too, into the run's tensorboard/
    #[arg(long)]
    tensorboard: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    objective: ObjectiveArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PresetName {
    /// 28x28 garments, FAVOR+ at 28x28 and 14x14
    Fashion,
    /// The same with softmax attention
    FashionSoftmax,
    /// One minute on the same images: softmax attention at 7x7 alone
    #[value(name = "fashion-1min")]
    FashionMinute,
    /// An hour on garments, for Fashion-MNIST's 60,000 (give --data): half as many channels again
    #[value(name = "fashion-1h")]
    FashionHour,
    /// An hour on 32x32 colour pictures, CIFAR-10 or your own (give --data): FAVOR+ at 16x16
    Cifar10Small,
    /// Ho et al.'s network for CIFAR-10 (give --data)
    Cifar10,
    /// A very small network, for trying things out
    Tiny,
}

impl PresetName {
    pub(super) fn preset(self) -> Preset {
        match self {
            PresetName::Fashion => Preset::Fashion,
            PresetName::FashionSoftmax => Preset::FashionSoftmax,
            PresetName::FashionMinute => Preset::FashionMinute,
            PresetName::FashionHour => Preset::FashionHour,
            PresetName::Cifar10Small => Preset::Cifar10Small,
            PresetName::Cifar10 => Preset::Cifar10,
            PresetName::Tiny => Preset::Tiny,
        }
    }
}

/// Trains; prints the run's folder and the sample grid's path.
pub fn run(args: TrainArgs, ranks: &Ranks) -> Result<ExitCode> {
    if let Some(minutes) = args.minutes
        && !(minutes > 0.0 && minutes.is_finite())
    {
        return Err(Error::invalid("--minutes", "a positive number", minutes.to_string(), ""));
    }
    let mut progress = Progress::new(args.compute.quiet || !ranks.leads());
    let reading = args.images.reading.into();
    let (run, config, data) = match &args.resume {
        Some(folder) => {
            let folder = folder.clone().unwrap_or_else(latest);
            let (run, mut config) = Run::open_in(ranks, &folder, Run::open)?;
            config.data = args.images.apply(config.data)?;
            config.runtime = args.runtime.apply(config.runtime, &args.compute)?;
            config.train.on_nan = args.on_nan.unwrap_or(config.train.on_nan);
            config.validate()?;
            let data = load(&config.data, config.train.seed, reading, &mut progress)?;
            (run, config, data)
        }
        None => {
            let mut config = configuration(&args)?;
            let data = load(&config.data, config.train.seed, reading, &mut progress)?;
            if args.config.is_none() {
                config = config.for_images(data.train.shape());
            }
            if args.classes {
                config = config.for_classes(class_names(&data.train)?, args.drop_label);
            }
            config.validate()?;
            check_fit(&config, &data.train)?;
            check_ranks(&config, ranks.ranks())?;
            // Before the folder is made.
            check_memory_in(ranks, &config, args.compute.threads())?;
            check_runtime(&config, args.runtime.ort_lib.as_deref())?;
            let folder = match &args.out {
                Some(folder) => folder.clone(),
                None => free_folder(args.preset.preset().name()),
            };
            let run = match ranks.leads() {
                true => Run::create_new(&folder, &config)?,
                false => Run::of_rank_0(&folder),
            };
            (run, config, data)
        }
    };
    let limit = match (args.steps, args.minutes) {
        (Some(steps), _) => Limit::Steps(steps),
        (None, Some(minutes)) => Limit::Minutes(minutes),
        (None, None) => Limit::Configured,
    };
    let options = RunOptions {
        limit,
        threads: args.compute.threads(),
        kernels: args.compute.kernels(),
        grids: true,
        library: args.runtime.ort_lib.clone(),
        tensorboard: args.tensorboard,
    };

    let interrupts = Interrupts::watch();
    if let Some(runtime) = &config.runtime {
        progress.say(&format!("preparing the training step in ONNX Runtime on {}", runtime.device));
    }
    let images = format!("training on {} ({} images)", data.train.name(), data.train.len());
    let run = run.interrupted_by(interrupts.flag());
    let outcome = run.train_in(
        ranks,
        &config,
        &data.train,
        options,
        || interrupts.stop(),
        |event| match event {
            Event::Started { step, parameters, by, note } => {
                if ranks.leads()
                    && let Err(error) = link_latest(run.folder())
                {
                    eprintln!("warning: {} does not point to this run: {error}", latest().display());
                }
                progress.say(&format!("{images}, {by}; run {}", run.folder().display()));
                if config.unet.num_class_embeds.is_some() {
                    progress.say(&classes_in_words(&config));
                }
                if let Some(note) = note {
                    progress.say(note);
                }
                let from = if step > 0 { format!(", going on from step {step}") } else { String::new() };
                progress.say(&format!("{parameters} parameters{from}"));
            }
            Event::Step { step, images_per_second, done } => progress.update(done, || {
                format!("step {}  loss {:.4}  {images_per_second:.1} images/s", step.step, step.loss)
            }),
            Event::Planned { end, before: None } => {
                progress.say(&format!("the time holds about {end} steps"));
            }
            Event::Planned { end, before: Some(_) } => {
                progress.say(&format!("at this speed the time holds {end} steps"));
            }
            Event::Note(note) => progress.say(note),
            Event::Checkpoint(_) => {}
            Event::Sampling(done) => progress.update(done, || "sampling".to_owned()),
            Event::Samples(path) => progress.say(&format!("samples: {}", path.display())),
        },
    )?;
    progress.finish();
    let folder = run.folder().display();
    if !ranks.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    if outcome.interrupted {
        let command = command_to_resume(&args, run.folder());
        println!("stopped after step {}; go on with: {command}", outcome.step);
        return Ok(interrupts.status());
    }
    println!("trained {} steps: {folder}", outcome.step);
    if let Some(grid) = outcome.grid {
        println!("samples: {}", grid.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the images' classes.
fn class_names(data: &data::Dataset) -> Result<&[String]> {
    match data.class_names() {
        [] => Err(Error::invalid(
            "--classes",
            "images with labels: IDX files with theirs, CIFAR-10, or pictures in a folder for each class",
            format!("{}, which has none", data.name()),
            "leave it out to train without classes",
        )),
        names => Ok(names),
    }
}

/// What the network is told of the images' classes.
fn classes_in_words(config: &Config) -> String {
    let unet = &config.unet;
    let names: Vec<String> = (0..unet.classes().min(SHOWN)).map(|class| unet.class_name(class)).collect();
    let rest = if unet.classes() > SHOWN { ", .." } else { "" };
    let dropped = match unet.null_class() {
        Some(_) => format!("; no class is told of {} % of the images", 100.0 * config.train.drop_label),
        None => String::new(),
    };
    format!("{} classes: {}{rest}{dropped}", unet.classes(), names.join(", "))
}

/// Classes whose names are shown.
const SHOWN: usize = 20;

/// The command that goes on with a stopped run to the same end and the same bits; threads do not matter to
/// either.
fn command_to_resume(args: &TrainArgs, folder: &Path) -> String {
    let options = [
        ("--isa", args.compute.isa.map(|isa| isa.to_string())),
        ("--conv", args.compute.conv.map(|conv| conv.to_string())),
        ("--ort-lib", args.runtime.ort_lib.as_ref().map(|path| path.display().to_string())),
    ];
    let mut command = format!("performer-ddpm train --resume {}", folder.display());
    for (flag, value) in options {
        if let Some(value) = value {
            command += &format!(" {flag} {value}");
        }
    }
    command
}

/// The configuration of a preset or a file, with the images that the arguments name.
pub(super) fn basis(preset: PresetName, file: Option<&Path>, images: &ImageArgs) -> Result<Config> {
    let mut config = match file {
        None => preset.preset().config(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
            Config::from_toml(&text, &path.display().to_string())?
        }
    };
    config.data = images.apply(config.data)?;
    Ok(config)
}

/// The configuration that the arguments describe.
fn configuration(args: &TrainArgs) -> Result<Config> {
    let mut config = basis(args.preset, args.config.as_deref(), &args.images)?;
    let train = &mut config.train;
    train.batch = args.batch.unwrap_or(train.batch);
    train.lr = args.lr.unwrap_or(train.lr);
    train.seed = args.seed.unwrap_or(train.seed);
    train.on_nan = args.on_nan.unwrap_or(train.on_nan);
    let unet = &mut config.unet;
    unet.favor.features = args.features.unwrap_or(unet.favor.features);
    if let Some(kind) = args.attention {
        unet.set_attention(kind, |block| block != BlockAttention::None);
    }
    args.objective.apply(&mut config)?;
    config.runtime = args.runtime.apply(config.runtime, &args.compute)?;
    Ok(config)
}

/// runs/NAME-N with the first N that is free.
fn free_folder(name: &str) -> PathBuf {
    let folder = |n: u32| Path::new(RUNS).join(format!("{name}-{n}"));
    (1..).map(folder).find(|folder| !folder.exists()).expect("there is always a larger number")
}

/// Points runs/latest to a run, where the system has links.
fn link_latest(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let link = latest();
        let target = std::path::absolute(folder).map_err(|e| Error::write(folder, e))?;
        // One name for all processes, so that the next one clears away what a killed one left.
        let temporary = Path::new(RUNS).join(".latest.tmp");
        let _ = std::fs::remove_file(&temporary);
        if link.canonicalize().ok() == target.canonicalize().ok() {
            return Ok(());
        }
        // Relative where possible, so that the tree can be moved.
        let runs = std::path::absolute(RUNS).map_err(|e| Error::write(RUNS, e))?;
        let target = target.strip_prefix(&runs).map(Path::to_path_buf).unwrap_or(target);
        std::fs::create_dir_all(RUNS).map_err(|e| Error::write(RUNS, e))?;
        std::os::unix::fs::symlink(&target, &temporary).map_err(|e| Error::write(&temporary, e))?;
        std::fs::rename(&temporary, &link).map_err(|e| {
            // Report the first failure.
            let _ = std::fs::remove_file(&temporary);
            Error::write(&link, e)
        })?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn arguments(options: &str) -> TrainArgs {
        let line =
            ["performer-ddpm", "train", "--preset", "tiny"].into_iter().chain(options.split_whitespace());
        match Cli::try_parse_from(line) {
            Ok(Cli { command: Command::Train(args) }) => args,
            other => panic!("{options}: {other:?}"),
        }
    }

    #[test]
    fn the_command_to_resume_repeats_what_the_end_and_the_bits_depend_on() {
        let command = |options: &str| command_to_resume(&arguments(options), Path::new("run"));
        let plain = "performer-ddpm train --resume run";
        assert_eq!(command("--threads 3 --steps 7 --quiet"), plain);
        let kernels = "--isa portable --conv winograd";
        assert_eq!(command(kernels), format!("{plain} {kernels}"));
    }

    #[test]
    fn every_preset_has_one_name() {
        let names: Vec<String> = PresetName::value_variants()
            .iter()
            .map(|preset| preset.to_possible_value().expect("none is hidden").get_name().to_owned())
            .collect();
        let chosen: Vec<Preset> = PresetName::value_variants().iter().map(|name| name.preset()).collect();
        assert_eq!(chosen, Preset::ALL);
        assert_eq!(names, Preset::ALL.map(Preset::name));
    }
}
