//! `export`: a trained model as an ONNX file.

use super::outputs::check_outputs;
use super::progress::Progress;
use super::reverse::ReverseArgs;
use super::{check_ending, model_path, parse_threads, print_json, web};
use crate::checkpoint::model_folder::LoadedModel;
use crate::equations::solver::Scheduler;
use crate::export::{self, Difference, ExportOptions, GraphSpec, Precision, Source, States, TrainStep};
use crate::sample::Diffusion;
use crate::{Error, Result, checkpoint};
use clap::{Args, ValueEnum};
use performer_ddpm_onnx::runner::{Backend, Description};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write a model as an ONNX file and check that it computes what the engine computes, or as a page that
/// samples it in a browser.
///
/// Examples:
///   performer-ddpm export model.onnx --graph sampler --sampler ddim --steps 50
///   performer-ddpm export step.onnx --graph step --sampler dpm++
///   performer-ddpm export train.onnx --graph train-step
///   performer-ddpm export --web site --serve 8080
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ExportArgs {
    /// The file to write
    #[arg(value_name = "OUT.onnx", required_unless_present = "web")]
    out: Option<PathBuf>,
    /// Write a page that samples the model in a browser instead: a folder for any static host
    #[arg(long, value_name = "DIR", conflicts_with_all = OF_FILES)]
    web: Option<PathBuf>,
    /// Then serve the page on http://127.0.0.1:PORT until Ctrl-C; 0 for any port that is free
    #[arg(long, value_name = "PORT", requires = "web", conflicts_with = "out")]
    serve: Option<u16>,
    /// Model folder or run folder [default: runs/latest]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// What the file computes
    #[arg(long, value_enum, default_value_t = GraphName::Denoiser, value_name = "NAME")]
    graph: GraphName,
    #[command(flatten, next_help_heading = "Of the sampler graph, and but for --steps of the step graph")]
    reverse: ReverseArgs,
    /// Steps of one run of the sampler graph, for chains whose noise is too large for one [default: all]
    #[arg(long, value_name = "P")]
    steps_per_run: Option<usize>,
    /// Step and sampler graphs with guidance, in two passes a step, for networks with a null class
    #[arg(long)]
    guided: bool,
    /// The train-step graph with each state (w, m, v, ema) as one tensor of all parameters, in rows of 256
    #[arg(long)]
    rows: bool,
    /// Numbers of the graph: f16 (images between the layers, convolutions and weights; attention, embedding
    /// and sampler stay in f32) or bf16 (weights only), for half the file
    #[arg(long, value_enum, default_value_t = DtypeName::F32, value_name = "NAME")]
    dtype: DtypeName,
    /// Runtimes that have to agree with the engine, or none [default: those that are available]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "tract,ort|none")]
    check: Option<Vec<CheckName>>,
    /// Threads of the check [default: as many as the processor has]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<u16>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    /// No progress, the file's path only
    #[arg(short, long)]
    quiet: bool,
}

/// The arguments that say something of an ONNX file.
const OF_FILES: [&str; 13] = [
    "out",
    "graph",
    "sampler",
    "steps",
    "eta",
    "spacing",
    "clip",
    "steps_per_run",
    "guided",
    "rows",
    "dtype",
    "check",
    "threads",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GraphName {
    /// x, t -> eps: the network
    Denoiser,
    /// x, t, coefficients, z -> x_next: the network and one step of samplers like the model's, or --sampler;
    /// for a run of DDIM and Algorithm 2
    Step,
    /// x_T, noise -> images: all steps of one sampler
    Sampler,
    /// x_0, eps, t, weights and moments -> the loss and the next weights and moments: one training step
    TrainStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DtypeName {
    /// 32 bits
    F32,
    /// IEEE 16 bits
    F16,
    /// Brain floats
    Bf16,
}

impl From<DtypeName> for Precision {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Precision::F32,
            DtypeName::F16 => Precision::F16,
            DtypeName::Bf16 => Precision::Bf16,
        }
    }
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

/// Exports; prints the checks and the file's path.
pub fn run(args: ExportArgs) -> Result<ExitCode> {
    match (&args.out, &args.web) {
        (Some(out), _) => to_file(&args, out),
        (None, web) => to_page(&args, web.as_deref().unwrap_or(Path::new("site"))),
    }
}

/// Writes the page; serves it where that was asked for.
fn to_page(args: &ExportArgs, folder: &Path) -> Result<ExitCode> {
    let path = model_path(args.model.clone())?;
    let progress = Progress::new(args.quiet || args.json);
    web::write(folder, &path)?.iter().for_each(|note| progress.say(note));
    let shown = |address: Option<&str>| match (args.json, address) {
        (true, _) => {
            let (folder, model) = (folder.display().to_string(), path.display().to_string());
            print_json(&json!({ "folder": folder, "model": model, "address": address }));
        }
        (false, Some(address)) => println!("{address}"),
        (false, None) => println!("{}", folder.join("index.html").display()),
    };
    match args.serve {
        Some(port) => web::serve(folder, port, |address| shown(Some(address)))?,
        None => shown(None),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the ONNX file.
fn to_file(args: &ExportArgs, out: &Path) -> Result<ExitCode> {
    check_ending("OUT.onnx", out, "onnx")?;
    let path = model_path(args.model.clone())?;
    check_outputs(&[("--model", &path)], &[("OUT.onnx", out)])?;
    let loaded = checkpoint::model_folder::load::<f32>(&path)?;
    let mut progress = Progress::new(args.quiet || args.json);
    if let Some(note) = &loaded.note {
        progress.say(note);
    }
    let (graph, scheduler) = spec(args, &loaded)?;
    let options = ExportOptions { graph, check: runtimes(args)?, threads: args.threads.map(usize::from) };
    let (guided, precision, step) = (args.guided, args.dtype.into(), loaded.step);
    let source =
        Source { scheduler, guided, precision, step, ..Source::new(&loaded.model, &loaded.diffusion) };
    let exported = export::write(out, source, &options, &mut |done| {
        progress.update(done, || "the engine's own results, in double precision".to_owned());
    })?;
    progress.finish();
    let check =
        |(runtime, difference): (Description, Difference)| Check { runtime: runtime.to_string(), difference };
    let report = Export {
        file: out.display().to_string(),
        model: path.display().to_string(),
        graph: options.graph.kind().name(),
        bytes: exported.bytes,
        nodes: exported.nodes,
        parameters: loaded.model.graph.params.total(),
        checks: exported.checks.into_iter().map(check).collect(),
        not_checked: exported.not_checked,
    };
    if args.json {
        print_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    if !args.quiet {
        for check in &report.checks {
            let Difference { absolute, bound, .. } = check.difference;
            println!(
                "{}: largest difference from the engine {absolute:.1e}, {:.1e} of the largest value (bound \
                 {bound:.0e})",
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

/// The graph, and how the file's model is sampled where nothing else is said.
fn spec(args: &ExportArgs, loaded: &LoadedModel<f32>) -> Result<(GraphSpec, Scheduler)> {
    let per_run = args.steps_per_run.map(|_| "--steps-per-run");
    let unfit = |flag: &&str| match args.graph {
        GraphName::Denoiser | GraphName::TrainStep => true,
        GraphName::Step => flag.starts_with("--steps"),
        GraphName::Sampler => false,
    };
    let unguided = match args.graph {
        GraphName::Denoiser => Some(("the denoiser graph", "a denoiser's host guides; leave the option out")),
        GraphName::TrainStep => Some(("the train-step graph", "leave the option out")),
        GraphName::Step | GraphName::Sampler => None,
    };
    if let Some((got, help)) = unguided.filter(|_| args.guided) {
        return Err(Error::invalid("--guided", "--graph step or sampler", got, help));
    }
    if args.rows && args.graph != GraphName::TrainStep {
        let help = "leave the option out";
        return Err(Error::invalid("--rows", "--graph train-step", "a graph without states", help));
    }
    if let Some(flag) = args.reverse.given().chain(per_run).find(unfit) {
        return Err(Error::invalid(
            flag,
            "--graph sampler",
            "a graph that does not fix the sampler",
            "leave the option out, or export the sampler graph",
        ));
    }
    let diffusion = Diffusion::of(loaded)?;
    // A step is x, t, its numbers and z to x_next. What a solver carries beside is for those who name one, or
    // whose model does: a run's own is only the default.
    let is_default = loaded.scheduler == Scheduler::of(&loaded.diffusion);
    let choice = match args.graph == GraphName::Step && is_default {
        true => args.reverse.choice().of_one_step(&diffusion),
        false => args.reverse.choice(),
    };
    let chosen = || choice.options(&diffusion);
    match args.graph {
        GraphName::Denoiser => Ok((GraphSpec::Denoiser, loaded.scheduler)),
        GraphName::Step => Ok((GraphSpec::Step, chosen()?.scheduler())),
        GraphName::Sampler => {
            let chosen = chosen()?;
            let (scheduler, steps) = (chosen.scheduler(), chosen.steps);
            Ok((GraphSpec::Sampler { scheduler, steps, per_run: args.steps_per_run }, scheduler))
        }
        GraphName::TrainStep => {
            let step = loaded.train.as_ref().map_or_else(TrainStep::default, TrainStep::from);
            let states = if args.rows { States::Rows } else { States::PerParameter };
            Ok((GraphSpec::TrainStep(TrainStep { states, ..step }), loaded.scheduler))
        }
    }
}

/// The runtimes to check in.
fn runtimes(args: &ExportArgs) -> Result<export::Check> {
    let Some(named) = &args.check else { return Ok(export::Check::Available) };
    if named.len() > 1 && named.contains(&CheckName::None) {
        return Err(Error::invalid("--check", "none, or runtimes", "both", ""));
    }
    let backend = |name: &CheckName| match name {
        CheckName::Tract => Some(Backend::Tract),
        CheckName::Ort => Some(Backend::OnnxRuntime),
        CheckName::None => None,
    };
    Ok(export::Check::In(named.iter().filter_map(backend).collect()))
}
