//! `export`: a trained model as an ONNX file.

use super::progress::Progress;
use super::reverse::{Chosen, ReverseArgs};
use super::{model_path, print_json};
use clap::{Args, ValueEnum};
use performer_ddpm::config::DiffusionConfig;
use performer_ddpm::export::{Difference, Expectation, GraphSpec, Source, build, write_checked};
use performer_ddpm::{Error, Result, checkpoint};
use performer_ddpm_onnx::Model;
use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
use performer_ddpm_onnx::runner::{Backend, Runner, TRACT_BUILT_IN, load_tract};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a model as an ONNX file and check that it computes what the engine computes.
///
/// Example: performer-ddpm export model.onnx --graph sampler --sampler ddim --steps 50
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The file to write
    #[arg(value_name = "OUT.onnx")]
    out: PathBuf,
    /// Model folder or run folder [default: runs/latest]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// What the file computes
    #[arg(long, value_enum, default_value_t = GraphName::Denoiser, value_name = "NAME")]
    graph: GraphName,
    #[command(flatten, next_help_heading = "Of the sampler graph")]
    reverse: ReverseArgs,
    /// Steps of one run of the sampler graph, for chains whose noise is too large for one [default: all]
    #[arg(long, value_name = "P")]
    steps_per_run: Option<usize>,
    /// Runtimes that have to agree with the engine, or none [default: those that are here]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "tract,ort|none")]
    check: Option<Vec<CheckName>>,
    /// Threads of the check [default: the processor's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    /// No progress, the file's path only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GraphName {
    /// x, t -> eps: the network
    Denoiser,
    /// x, t, coefficients, z -> x_next: the network and one step of any sampler
    Step,
    /// x_T, noise -> images: all steps of one sampler
    Sampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckName {
    /// tract, where it is built in
    Tract,
    /// ONNX Runtime
    Ort,
    /// No check
    None,
}

#[derive(Serialize)]
struct Export {
    file: String,
    model: String,
    graph: &'static str,
    bytes: u64,
    nodes: usize,
    parameters: usize,
    checks: Vec<Check>,
    not_checked: Vec<String>,
}

#[derive(Serialize)]
struct Check {
    runtime: String,
    #[serde(flatten)]
    difference: Difference,
}

/// Exports; prints what was checked and the file's path.
pub fn run(args: ExportArgs) -> Result<ExitCode> {
    let path = model_path(args.model.clone())?;
    let loaded = checkpoint::model_folder::load::<f32>(&path)?;
    let mut progress = Progress::new(args.quiet || args.json);
    if let Some(note) = &loaded.note {
        progress.say(note);
    }
    let spec = spec(&args, &loaded.diffusion)?;
    let runtimes = runtimes(&args)?;
    let source = Source { model: &loaded.model, diffusion: &loaded.diffusion, step: loaded.step };
    let model = build(source, &spec)?;
    let summary = model.summary()?;
    let mut report = Export {
        file: args.out.display().to_string(),
        model: path.display().to_string(),
        graph: spec.kind().name(),
        bytes: model.to_bytes()?.len() as u64,
        nodes: summary.nodes(),
        parameters: loaded.model.graph.params.total(),
        checks: Vec::new(),
        not_checked: Vec::new(),
    };
    write_checked(&args.out, &model, |written| {
        check(&args, &runtimes, source, &spec, written, &mut report, &mut progress)
    })?;
    if args.json {
        print_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    if !args.quiet {
        for check in &report.checks {
            let Difference { absolute, bound, .. } = check.difference;
            println!(
                "{}: largest difference from the engine {absolute:.1e}, {:.1e} of the largest value (bound {bound:.0e})",
                check.runtime,
                check.difference.relative()
            );
        }
        for reason in &report.not_checked {
            println!("not checked: {reason}");
        }
    }
    println!("{}", report.file);
    Ok(ExitCode::SUCCESS)
}

fn spec(args: &ExportArgs, diffusion: &DiffusionConfig) -> Result<GraphSpec> {
    let per_run = args.steps_per_run.map(|_| "--steps-per-run");
    if args.graph != GraphName::Sampler
        && let Some(flag) = args.reverse.given().chain(per_run).next()
    {
        return Err(Error::invalid(
            flag,
            "--graph sampler",
            "a graph that leaves the sampler to its user",
            "leave the option out, or export the sampler graph",
        ));
    }
    Ok(match args.graph {
        GraphName::Denoiser => GraphSpec::Denoiser,
        GraphName::Step => GraphSpec::Step,
        GraphName::Sampler => {
            let Chosen { process, steps, spacing } =
                args.reverse.choose(diffusion.variance, diffusion.clip_x0, diffusion.timesteps)?;
            GraphSpec::Sampler { process, steps, spacing, per_run: args.steps_per_run }
        }
    })
}

/// The runtimes to check in.
fn runtimes(args: &ExportArgs) -> Result<Vec<Backend>> {
    let Some(named) = &args.check else {
        let built_in = TRACT_BUILT_IN.then_some(Backend::Tract);
        return Ok(built_in.into_iter().chain([Backend::OnnxRuntime]).collect());
    };
    if named.len() > 1 && named.contains(&CheckName::None) {
        return Err(Error::invalid("--check", "none, or runtimes", "both", ""));
    }
    let backend = |name: &CheckName| match name {
        CheckName::Tract => Some(Backend::Tract),
        CheckName::Ort => Some(Backend::OnnxRuntime),
        CheckName::None => None,
    };
    Ok(named.iter().filter_map(backend).collect())
}

fn check(
    args: &ExportArgs,
    runtimes: &[Backend],
    source: Source,
    spec: &GraphSpec,
    written: &Model,
    report: &mut Export,
    progress: &mut Progress,
) -> Result<()> {
    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    for backend in runtimes {
        // A runtime that was not asked for may be absent.
        match load(*backend, written) {
            Ok(runner) => runners.push(runner),
            Err(error) if args.check.is_none() && is_missing(&error) => {
                report.not_checked.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    if runners.is_empty() {
        return Ok(());
    }
    let threads = args.threads.map(usize::from);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let expectation = Expectation::new(source, spec, threads, &mut |done| {
        progress.update(done, || "the engine's own results, in double precision".to_owned());
    })?;
    progress.finish();
    if expectation.amplification() > 1e4 {
        report.not_checked.push(format!(
            "the images to better than a few per cent: this network's chain enlarges a change of x_T {:.0e} times \
             (it may be untrained)",
            expectation.amplification()
        ));
    }
    for mut runner in runners {
        let difference = expectation.compare(runner.as_mut())?;
        report.checks.push(Check { runtime: runner.describe().to_string(), difference });
    }
    Ok(())
}

fn load(backend: Backend, model: &Model) -> Result<Box<dyn Runner>> {
    Ok(match backend {
        Backend::Tract => load_tract(model)?,
        Backend::OnnxRuntime | Backend::Native => Box::new(OrtRunner::load(model, &OrtOptions::default())?),
    })
}

/// Whether a runtime is not here, rather than at odds with the file.
fn is_missing(error: &Error) -> bool {
    use performer_ddpm_onnx::Error as OnnxError;
    matches!(error, Error::Onnx(OnnxError::RuntimeMissing { .. } | OnnxError::NotBuiltIn { .. }))
}
