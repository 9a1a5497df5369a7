//! `compare`: FAVOR+ and softmax with the same budget, with a report.

use super::choices::{attention_kinds, parts};
use super::features_network::NetworkArgs;
use super::images::{ImageArgs, load};
use super::interrupts::Interrupts;
use super::progress::Progress;
use super::ranks::{Ranks, leave_ranks};
use super::train::{PresetName, basis};
use super::{ComputeArgs, RUNS, print_json};
use crate::compare::report::write_report;
use crate::compare::{Budget, Comparison, Event, Features, Findings, Part, Plan};
use crate::config::AttentionKind;
use crate::group::told;
use crate::{Error, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Compare attention: train the same network with softmax and with FAVOR+, on the same batches, and write a
/// report.
///
/// There are five parts; --only, which lists them, does some of them.
///
/// --minutes M counts training alone, for each variant: five variants train 5 M minutes. Full resolution
/// takes M/2 minutes for each of its two networks, fine-tuning a tenth of the softmax run's steps for each of
/// three; the measurements take a few minutes more, on fewer images where M is below 5. With --steps N full
/// resolution takes N/20 steps (10 to 400), and the measurements are short where N is below 2000. Whatever is
/// left out is named in the report.
///
/// A comparison that was stopped goes on where it was when it is run again, with the same options or with
/// --out alone; each run is an ordinary run folder under DIR/runs.
///
/// Example: performer-ddpm compare --minutes 2
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompareArgs {
    /// The network and its training, by name [default: fashion]
    #[arg(long, value_enum, value_name = "NAME")]
    preset: Option<PresetName>,
    /// The same from a configuration file, such as a run's config.toml
    #[arg(long, value_name = "FILE.toml", conflicts_with = "preset")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pictures: ImageArgs,
    /// Steps of each variant [default: the configuration's]
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Minutes of training of each variant
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    minutes: Option<f64>,
    /// What is compared, separated by commas [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = attention_kinds())]
    variants: Option<Vec<AttentionKind>>,
    /// Compare samples under this features network, and not by the means of 8x8 blocks of pixels: Fréchet and
    /// kernel distance, precision and recall
    #[arg(long, value_name = "FILE.onnx")]
    features: Option<PathBuf>,
    /// Samples of each variant that are compared with images [default: 2000, or 500 for short budgets]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    samples: Option<u32>,
    /// The comparison's folder [default: runs/compare-NAME-BUDGET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Do these parts only, separated by commas [default: all]
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = parts())]
    only: Option<Vec<Part>>,
    /// Only write the report anew from what was found
    #[arg(long, conflicts_with = "only")]
    report_only: bool,
    /// One JSON object on stdout: the plan and everything found
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Images that go through a features network together.
const FEATURES_BATCH: usize = 64;

/// Compares; prints the runs' figures and the report's path.
pub fn run(args: CompareArgs, ranks: &Ranks) -> Result<ExitCode> {
    let parts = args.only.clone().unwrap_or_else(|| Part::ALL.to_vec());
    let planned = if ranks.leads() { Some(plan(&args)?) } else { None };
    let (folder, plan) = told(ranks, planned)?;
    if args.report_only {
        if !ranks.leads() {
            return Ok(ExitCode::SUCCESS);
        }
        let findings = Findings::load(&folder)?.ok_or_else(|| nothing_there(&folder))?;
        let report = write_report(&folder, &findings)?;
        done(&args, findings.are_complete(), &report, &findings);
        return Ok(ExitCode::SUCCESS);
    }
    let given = args.network.given().next().is_some();
    if (args.features.is_some() || args.samples.is_some()) && !parts.contains(&Part::Runs) {
        let got = parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(",");
        let help = "samples are those of the variants' runs";
        return Err(Error::invalid(
            "--only beside --features or --samples",
            "runs among the parts",
            got,
            help,
        ));
    }
    let is_quiet = args.compute.quiet || !ranks.leads();
    let mut progress = Progress::new(is_quiet);
    let reading = args.pictures.reading.into();
    let data = load(&plan.config.data, plan.config.train.seed, reading, &mut progress)?;
    let samples = args.samples.map(|samples| samples as usize);
    let mut features = match &args.features {
        None if given => {
            let given = args.network.given().collect::<Vec<_>>().join(", ");
            return Err(Error::invalid(given, "--features FILE.onnx beside it", "none", ""));
        }
        Some(file) if ranks.leads() => {
            let options = args.network.options(FEATURES_BATCH, args.compute.threads)?;
            Features::open(file, &options, samples)?
        }
        _ => Features::blocks(samples),
    };
    let comparison = match ranks.leads() {
        true => Comparison::open(&folder, plan, &data)?,
        false => Comparison::of_rank_0(&folder, plan, &data),
    };
    let plan = comparison.findings().plan.clone();
    let interrupts = Interrupts::watch();
    let mut comparison = comparison.interrupted_by(interrupts.flag());
    progress.say(&format!(
        "comparing on {} ({} images), {} threads; {}",
        data.train.name(),
        data.train.len(),
        comparison.findings().plan.threads,
        folder.display()
    ));
    let stop = || interrupts.stop();
    let peak_mib = |folder: &Path, batch: usize| peak_mib(&plan, folder, batch);
    let finished = comparison.run_in(
        ranks,
        &parts,
        &data,
        Some(&mut features),
        &peak_mib,
        stop,
        |event| match event {
            Event::Stage(name) => {
                progress.finish();
                progress = Progress::new(is_quiet);
                progress.say(name);
            }
            Event::Progress { done, message } => progress.update(done, || message.to_owned()),
            Event::Note(text) => progress.say(text),
        },
    )?;
    progress.finish();
    if !ranks.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    let report = write_report(&folder, comparison.findings())?;
    done(&args, finished, &report, comparison.findings());
    Ok(if finished { ExitCode::SUCCESS } else { interrupts.status() })
}

/// The folder, and the plan of the options, or the plan recorded in the folder where no options are given.
fn plan(args: &CompareArgs) -> Result<(PathBuf, Plan)> {
    if let Some(folder) = &args.out
        && args.describes_no_plan()
        && let Some(findings) = Findings::load(folder)?
    {
        return Ok((folder.clone(), findings.plan));
    }
    let preset = args.preset.unwrap_or(PresetName::Fashion);
    let mut config = basis(preset, args.config.as_deref(), &args.pictures)?;
    let name = match &args.config {
        None => preset.preset().name().to_owned(),
        Some(file) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let (seed, reading) = (config.train.seed, args.pictures.reading.into());
    let data = load(&config.data, seed, reading, &mut Progress::new(true))?;
    if args.config.is_none() {
        config = config.for_images(data.train.shape());
    }
    let variants = args.variants.clone().unwrap_or_else(|| AttentionKind::ALL.to_vec());
    let budget = match (args.minutes, args.steps) {
        (Some(minutes), _) => Budget::Minutes(minutes),
        (None, Some(steps)) => Budget::Steps(steps),
        (None, None) => Budget::of(&config.train),
    };
    let budget_name = match budget {
        Budget::Minutes(minutes) => format!("{minutes}min"),
        Budget::Steps(steps) => format!("{steps}steps"),
    };
    let (threads, kernels) = (args.compute.threads(), args.compute.kernels());
    let plan = Plan::new(name, &config, &variants, budget, threads, kernels)?;
    let default = || Path::new(RUNS).join(format!("compare-{}-{budget_name}", plan.name));
    let folder = args.out.clone().unwrap_or_else(default);
    Ok((folder, plan))
}

impl CompareArgs {
    fn describes_no_plan(&self) -> bool {
        self.preset.is_none()
            && self.config.is_none()
            && !self.pictures.says_something()
            && self.steps.is_none()
            && self.minutes.is_none()
            && self.variants.is_none()
            && self.compute.threads.is_none()
            && self.compute.isa.is_none()
            && self.compute.conv.is_none()
    }
}

fn nothing_there(folder: &Path) -> Error {
    Error::invalid(
        folder.display().to_string(),
        "a comparison's folder, with a comparison.json",
        "none there",
        "name the folder that compare printed with --out",
    )
}

fn done(args: &CompareArgs, finished: bool, report: &Path, findings: &Findings) {
    if args.json {
        let mut json = findings.json();
        json["finished"] = finished.into();
        json["report"] = report.display().to_string().into();
        print_json(&json);
        return;
    }
    print(findings);
    if !finished {
        println!("not finished; the same command, or compare --out alone, continues it");
    }
    println!("report: {}", report.display());
}

/// The peak memory of `bench` on the run's network, which it trains first.
fn peak_mib(plan: &Plan, folder: &Path, batch: usize) -> Option<f64> {
    let mut bench = Command::new(std::env::current_exe().ok()?);
    bench.arg("bench").arg(folder).args(["--runs", "1", "--json"]);
    bench.args(["--batch", &batch.to_string(), "--threads", &plan.threads.to_string()]);
    bench.args(["--isa", &plan.isa, "--conv", &plan.conv]);
    leave_ranks(&mut bench);
    let output = bench.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    figures["peak_rss_mib"].as_f64()
}

fn print(findings: &Findings) {
    if findings.runs.is_empty() {
        return;
    }
    println!(
        "{:<17} {:>8} {:>10} {:>10} {:>10} {:>14}",
        "attention", "steps", "ms a step", "MiB", "loss", "held-out loss"
    );
    for run in &findings.runs {
        let t = &run.training;
        let number = |x: Option<f64>, digits: usize| x.map_or("-".to_owned(), |x| format!("{x:.digits$}"));
        let held_out = run.quality.as_ref().map(|quality| quality.held_out_loss().mean);
        println!(
            "{:<17} {:>8} {:>10} {:>10} {:>10} {:>14}{}",
            run.variant.name(),
            t.steps,
            number(t.step_seconds.map(|s| 1e3 * s), 1),
            number(t.peak_mib, 0),
            number(t.final_loss, 4),
            number(held_out, 5),
            t.diverged.as_ref().map_or(String::new(), |what| format!("  diverged: {what}"))
        );
    }
}
