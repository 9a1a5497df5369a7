//! `import`: models of others made ours, with another attention if wanted, and trained on.

use super::choices::attention_kinds;
use super::flags::in_flags;
use super::images::{ImageArgs, load};
use super::interrupts::Interrupts;
use super::progress::Progress;
use super::train::{PresetName, basis};
use super::{ComputeArgs, print_json};
use crate::checkpoint::foreign::{self, Foreign, Untold};
use crate::config::{AttentionKind, BetaSchedule, BlockAttention, Config, DiffusionConfig};
use crate::data::{Dataset, Datasets};
use crate::equations::Schedule;
use crate::equations::objective::Parameterisation;
use crate::evaluate::{Estimate, losses};
use crate::model::{Engine, Model};
use crate::train::{Event, Limit, Run, RunOptions, check_fit, check_memory, fine_tune};
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a model of others ours: a folder that diffusers wrote, in any of its layouts, or a single
/// .safetensors file (the weights of a config.json beside it, or a state dict of OpenAI's improved-diffusion
/// or guided-diffusion).
///
/// --attention converts softmax attention to FAVOR+ or back: the weights stay, the function changes, and it
/// samples well again only after further training, which --finetune or --minutes does. The losses before and
/// after each are printed.
///
/// Examples:
///   performer-ddpm import ddpm-cifar10-32 --out ours
///   performer-ddpm import ddpm-church-256 --out favor --attention favor --minutes 60 --data churches
///   performer-ddpm import 64x64_diffusion.safetensors --out ours --size 64 --head 64 --schedule cosine
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ImportArgs {
    /// A model's folder, or a .safetensors file
    source: PathBuf,
    /// The folder to write; a run's folder where it is trained on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Give every block that attends this attention
    #[arg(long, value_parser = attention_kinds(), value_name = "KIND")]
    attention: Option<AttentionKind>,
    /// m, the number of FAVOR+ projections
    #[arg(long, value_name = "M", requires = "attention")]
    features: Option<usize>,
    /// Train on for this many steps
    #[arg(long, value_name = "STEPS", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    finetune: Option<u64>,
    /// Train on for this many minutes
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    minutes: Option<f64>,
    /// The settings of training, of which the learning rate is divided by 5 [default: those of the preset
    /// fashion]
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Images per step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Learning rate after the warm-up [default: a fifth of the settings']
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Seed of the projections and of training
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Channels of an attention head, which OpenAI's files do not tell
    #[arg(long, value_name = "C")]
    head: Option<usize>,
    /// OpenAI's use_new_attention_order
    #[arg(long)]
    new_attention_order: bool,
    /// The schedule of a model that has none
    #[arg(long, value_enum, value_name = "NAME")]
    schedule: Option<ScheduleName>,
    /// T of a model without a schedule [default: 1000]
    #[arg(long, value_name = "T")]
    timesteps: Option<usize>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScheduleName {
    /// beta from 1e-4 to 0.02 (Ho et al. 2020)
    Linear,
    /// Squared cosine (Nichol & Dhariwal 2021)
    Cosine,
}

/// What was made, and what it cost.
#[derive(Serialize)]
struct Figures {
    source: String,
    folder: String,
    parameters: usize,
    /// Height, width, channels.
    image: [usize; 3],
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<String>,
    /// The mean loss (21) on the same images, t and eps; none for networks that take classes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    losses: Vec<Loss>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Training>,
}

#[derive(Serialize)]
struct Loss {
    of: &'static str,
    mean: f64,
    standard_error: f64,
}

#[derive(Serialize)]
struct Training {
    steps: u64,
    seconds: f64,
    interrupted: bool,
}

/// Images that the losses are measured on at most.
const MEASURED: usize = 256;

/// Imports; prints the folder.
pub fn run(args: ImportArgs) -> Result<ExitCode> {
    if let Some(minutes) = args.minutes
        && !(minutes > 0.0 && minutes.is_finite())
    {
        return Err(Error::invalid("--minutes", "a positive number", minutes.to_string(), ""));
    }
    let mut progress = Progress::new(args.compute.quiet);
    let untold =
        Untold { size: args.images.size, head: args.head, new_attention_order: args.new_attention_order };
    let named = args.schedule.is_some() || args.timesteps.is_some();
    let mut imported = foreign::load(&args.source, untold, named.then(|| named_process(&args)).as_ref())?;
    imported.notes.iter().for_each(|note| progress.say(&in_flags(note)));
    let source = imported.model.clone();
    if let Some(kind) = args.attention {
        imported.model = converted(&source, kind, &args)?;
    }
    let [height, width] = source.config.sample_size;
    let mut figures = Figures {
        source: args.source.display().to_string(),
        folder: args.out.display().to_string(),
        parameters: source.weights.len(),
        image: [height, width, source.config.in_channels],
        attention: args.attention.map(|kind| kind.to_string()),
        losses: Vec::new(),
        training: None,
    };
    let trains = args.finetune.is_some() || args.minutes.is_some();
    let status = if trains {
        train(&args, &source, &imported, &mut figures, &mut progress)?
    } else {
        write(&args, &imported)?;
        ExitCode::SUCCESS
    };
    progress.finish();
    if args.json {
        print_json(&figures);
    } else {
        print(&figures, args.attention.is_some() && !trains);
    }
    Ok(status)
}

/// The process that the arguments name.
fn named_process(args: &ImportArgs) -> DiffusionConfig {
    let mut config = DiffusionConfig::default();
    config.timesteps = args.timesteps.unwrap_or(config.timesteps);
    if args.schedule == Some(ScheduleName::Cosine) {
        config.schedule = BetaSchedule::Cosine;
    }
    config
}

/// The same weights with another attention in every block that attends.
fn converted(source: &Model<f32>, kind: AttentionKind, args: &ImportArgs) -> Result<Model<f32>> {
    let mut config = source.config.clone();
    if config.attention_blocks().all(|block| block == BlockAttention::None) {
        let what = args.source.display().to_string();
        return Err(Error::invalid(
            what,
            "a network that attends (--attention)",
            "one without attention",
            "",
        ));
    }
    config.favor.features = args.features.unwrap_or(config.favor.features);
    config.set_attention(kind, |block| block != BlockAttention::None);
    source.with_attention(&config, args.seed, 0)
}

/// Writes the model's folder where there is none yet.
fn write(args: &ImportArgs, imported: &Foreign) -> Result<()> {
    let there = ["config.toml", "model_index.json", "config.json", "unet", "checkpoints"];
    match there.into_iter().find(|name| args.out.join(name).exists()) {
        Some(name) => Err(Error::invalid(
            args.out.display().to_string(),
            "a folder without a model",
            format!("one with {name}"),
            "choose another --out",
        )),
        None => imported.save(&args.out),
    }
}

/// Trains on in a run's folder, and measures the losses before and after; the exit status.
fn train(
    args: &ImportArgs,
    source: &Model<f32>,
    imported: &Foreign,
    figures: &mut Figures,
    progress: &mut Progress,
) -> Result<ExitCode> {
    let config = configuration(args, imported)?;
    let data = load(&config.data, config.train.seed, args.images.reading.into(), progress)?;
    check_fit(&config, &data.train)?;
    check_memory(&config, args.compute.threads())?;
    // The classes of pictures need not be those of a network of others.
    let is_measured = source.config.num_class_embeds.is_none();
    let mut measure = |of: &'static str, model: &Model<f32>| -> Result<()> {
        if !is_measured {
            return Ok(());
        }
        let (mean, standard_error) = measured(args, model, &config, &data)?;
        figures.losses.push(Loss { of, mean, standard_error });
        Ok(())
    };
    measure("the source", source)?;
    if args.attention.is_some() {
        measure("with the other attention", &imported.model)?;
    }
    let run = Run::create_new(&args.out, &config)?;
    imported.save_scheduler(run.folder())?;
    fine_tune::begin_from(run.folder(), &config, &imported.model)?;
    let limit = match (args.finetune, args.minutes) {
        (Some(steps), _) => Limit::Steps(steps),
        (None, Some(minutes)) => Limit::Minutes(minutes),
        (None, None) => Limit::Configured,
    };
    let (threads, kernels) = (args.compute.threads(), args.compute.kernels());
    let options = RunOptions { threads, kernels, ..RunOptions::from(limit) };
    let interrupts = Interrupts::watch();
    let stop = || interrupts.stop();
    let run = run.interrupted_by(interrupts.flag());
    let outcome = run.train(&config, &data.train, options, stop, |event| match event {
        Event::Started { parameters, .. } => progress.say(&format!("training {parameters} parameters on")),
        Event::Step { step, images_per_second, done } => progress.update(done, || {
            format!("step {}  loss {:.4}  {images_per_second:.1} images/s", step.step, step.loss)
        }),
        Event::Planned { .. } | Event::Checkpoint(_) => {}
        Event::Sampling(done) => progress.update(done, || "sampling".to_owned()),
        Event::Note(note) => progress.say(note),
        Event::Samples(path) => progress.say(&format!("samples: {}", path.display())),
    })?;
    let seconds = run.seconds()?;
    let trained = crate::checkpoint::model_folder::load::<f32>(run.folder())?.model;
    if is_measured {
        let (mean, standard_error) = measured(args, &trained, &config, &data)?;
        figures.losses.push(Loss { of: "trained on", mean, standard_error });
    }
    figures.training = Some(Training { steps: outcome.step, seconds, interrupted: outcome.interrupted });
    Ok(if outcome.interrupted { interrupts.status() } else { ExitCode::SUCCESS })
}

/// The configuration of training on: pictures are made to fit the network.
fn configuration(args: &ImportArgs, imported: &Foreign) -> Result<Config> {
    let mut config = basis(PresetName::Fashion, args.config.as_deref(), &args.images)?;
    config.unet = imported.model.config.clone();
    config.diffusion = imported.diffusion.clone();
    let [height, width] = config.unet.sample_size;
    if config.data.path.is_none() && (height, width, config.unet.in_channels) != (28, 28, 1) {
        return Err(Error::invalid(
            "--data",
            "the images to train on",
            format!("none, and a network of {height}x{width} images, which the embedded garments are not"),
            "",
        ));
    }
    config.data.size = config.data.size.or(Some(config.unet.sample_size));
    if config.data.channels.is_none() && matches!(config.unet.in_channels, 1 | 3) {
        config.data.channels = Some(config.unet.in_channels);
    }
    let train = &mut config.train;
    train.seed = args.seed;
    train.plan.clear();
    (train.steps, train.minutes) = (args.finetune, args.minutes);
    fine_tune::settings(train, args.finetune);
    train.batch = args.batch.unwrap_or(train.batch);
    train.lr = args.lr.unwrap_or(train.lr);
    config.validate()?;
    Ok(config)
}

/// The mean loss of held-out images, or of training images where none are held out, and its standard error.
fn measured(args: &ImportArgs, model: &Model<f32>, config: &Config, data: &Datasets) -> Result<(f64, f64)> {
    let images: &Dataset = data.test.as_ref().unwrap_or(&data.train);
    let schedule = Schedule::from_config(&config.diffusion)?;
    let mut engine = Engine::new(model, args.compute.threads(), args.compute.kernels())?;
    let count = MEASURED.min(images.len());
    let process = (&schedule, Parameterisation::from(&config.diffusion));
    let losses = losses(model, process, &mut engine, images, count, args.seed)?;
    let Estimate { mean, standard_error } = Estimate::of(losses);
    Ok((mean, standard_error))
}

fn print(figures: &Figures, is_worse: bool) {
    let [h, w, c] = figures.image;
    println!("{}: {} parameters, images of {h}x{w} with {c} channel(s)", figures.source, figures.parameters);
    if let Some(attention) = &figures.attention {
        println!("attention: {attention}");
    }
    for Loss { of, mean, standard_error } in &figures.losses {
        println!("loss {mean:.5} +- {standard_error:.5}, {of}");
    }
    if let Some(Training { steps, seconds, interrupted }) = &figures.training {
        let end = if *interrupted { ", stopped; train --resume goes on" } else { "" };
        println!("{steps} steps in {seconds:.0} s{end}");
    }
    if is_worse {
        println!("it samples worse than before until it is trained on: --finetune STEPS or --minutes M");
    }
    println!("{}", figures.folder);
}
