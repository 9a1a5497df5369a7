//! `evaluate`: the likelihood of held-out images, and samples compared with images.

mod features;
mod nll;
mod per_class;
mod subject;

use super::classes::GuidanceArgs;
use super::images::ImageArgs;
use super::progress::Progress;
use super::ranks::Ranks;
use super::reverse::ReverseArgs;
use super::{ComputeArgs, print_json};
use crate::data::{Dataset, Datasets};
use crate::output::write_atomically;
use crate::{Error, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure a model: bits per dimension of held-out images (--nll), and its samples against images
/// (--features).
///
/// --nll is the variational bound (16)-(21), an upper bound of -log2 p(x_0) per pixel and channel, with both
/// reverse variances. Its standard errors include images, noise and timesteps that were not evaluated.
/// --features compares the features of samples with those of images under any network in an ONNX file:
/// Frechet distance (FID), of a model with classes also class by class, kernel distance (KID), precision and
/// recall, and the nearest training image of each sample.
///
/// Examples:
///   performer-ddpm evaluate --nll -n 500 --out evaluation
///   performer-ddpm evaluate runs/latest --features features.onnx --features-output pool -n 2000
///   performer-ddpm evaluate --features features.onnx --samples samples.npy --json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct EvaluateArgs {
    /// Model folder or run folder [default: runs/latest]
    model: Option<PathBuf>,
    #[command(flatten)]
    pictures: ImageArgs,
    /// Bits per dimension; the default where neither this nor --features is given
    #[arg(long)]
    nll: bool,
    /// Compare samples with images by the features of this network
    #[arg(long, value_name = "FILE.onnx")]
    features: Option<PathBuf>,
    /// Held-out images of --nll, and samples of --features [default: 256, and 2000 (more where the features
    /// are as many) or all that --samples has]
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: Option<u32>,
    /// Images to evaluate on [default: test for --nll, train for --features]
    #[arg(long, value_enum, value_name = "NAME")]
    against: Option<Split>,
    /// Seed of everything drawn
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Images that go through a network together
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Write the plots, the sheet of nearest images and evaluation.json here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bound: nll::NllArgs,
    #[command(flatten)]
    network: features::FeatureArgs,
    #[command(flatten)]
    reverse: ReverseArgs,
    #[command(flatten)]
    guidance: GuidanceArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Split {
    /// The images for training
    Train,
    /// The images held out
    Test,
}

impl EvaluateArgs {
    /// Whether the bound is to be evaluated.
    fn wants_nll(&self) -> bool {
        self.nll || self.features.is_none()
    }

    /// The images to evaluate on.
    fn split<'a>(&self, data: &'a Datasets, usual: Split) -> Result<&'a Dataset> {
        match (self.against.unwrap_or(usual), &data.test) {
            (Split::Train, _) => Ok(&data.train),
            (Split::Test, Some(test)) => Ok(test),
            (Split::Test, None) => Err(Error::invalid(
                format!("{}, the data", data.train.name()),
                "held-out images (a folder `test`, the format's test files, or a share that was held out)",
                "training images only",
                "hold a share out (--held-out, in train already), give others with --data, or take those with \
                 --against train",
            )),
        }
    }

    /// Refuses options of parts that are not done.
    fn check(&self) -> Result<()> {
        let unused = |flag: &str, needed: &str| {
            Err(Error::invalid(flag, format!("to be given with {needed} only"), format!("no {needed}"), ""))
        };
        if let (false, Some(flag)) = (self.wants_nll(), self.bound.given().next()) {
            return unused(flag, "--nll");
        }
        if self.features.is_none() {
            // --clip matters to the bound too.
            let sampling = self.reverse.given().filter(|flag| *flag != "--clip").chain(self.guidance.given());
            if let Some(flag) = self.network.given().chain(sampling).next() {
                return unused(flag, "--features");
            }
        }
        let of_fresh = |flag: &&str| !(self.wants_nll() && *flag == "--clip");
        match self.reverse.given().chain(self.guidance.given()).find(of_fresh) {
            Some(flag) if self.network.samples.is_some() => {
                Err(Error::invalid(flag, "fresh samples", "--samples, which exist already", "leave it out"))
            }
            _ => Ok(()),
        }
    }
}

/// The results.
#[derive(Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    data: String,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nll: Option<nll::Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<features::Figures>,
    seconds: f64,
    files: Vec<String>,
}

/// Evaluates; prints tables or a JSON object.
pub fn run(args: EvaluateArgs, ranks: &Ranks) -> Result<ExitCode> {
    args.check()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.compute.threads()).build();
    let pool = pool.map_err(|error| {
        Error::invalid("--threads", "a number of threads this system can start", error.to_string(), "")
    })?;
    pool.install(|| evaluate(&args, ranks))
}

fn evaluate(args: &EvaluateArgs, ranks: &Ranks) -> Result<ExitCode> {
    let start = Instant::now();
    let mut progress = Progress::new(args.compute.quiet || !ranks.leads());
    if let Some(folder) = args.out.as_ref().filter(|_| ranks.leads()) {
        std::fs::create_dir_all(folder).map_err(|error| Error::write(folder, error))?;
    }
    let mut subject = subject::open(args, &mut progress)?;
    let mut files = Vec::new();
    let features = match &args.features {
        Some(file) => features::run(args, ranks, file, &mut subject, &mut progress, &mut files)?,
        None => None,
    };
    let nll = match args.wants_nll() {
        true => Some(nll::run(args, ranks, &mut subject, &mut progress, &mut files)?),
        false => None,
    };
    progress.finish();
    if !ranks.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut figures = Figures {
        model: subject.model.as_ref().map(|(path, _)| path.display().to_string()),
        step: subject.model.as_ref().and_then(|(_, pipeline)| pipeline.step()),
        data: subject.data.train.name().to_owned(),
        seed: args.seed,
        nll,
        features,
        seconds: start.elapsed().as_secs_f64(),
        files,
    };
    if let Some(folder) = &args.out {
        let path = folder.join("evaluation.json");
        figures.files.push(path.display().to_string());
        let text = serde_json::to_string_pretty(&figures).expect("reports become JSON");
        write_atomically(&path, |file| writeln!(file, "{text}"))?;
    }
    if args.json {
        print_json(&figures);
    } else {
        print(&figures, args.compute.quiet);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(figures: &Figures, quiet: bool) {
    if let Some(model) = &figures.model {
        let step = figures.step.map_or_else(String::new, |step| format!(", step {step}"));
        println!("{model}{step}, on {}", figures.data);
    }
    if let Some(nll) = &figures.nll {
        nll.print(quiet);
    }
    if let Some(features) = &figures.features {
        features.print();
    }
    figures.files.iter().for_each(|file| println!("{file}"));
}
