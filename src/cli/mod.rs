//! Arguments -> configuration -> library; progress, tables and messages.

/// Replaces the standard macro, which panics where the reader has gone, as in `info | head -1`.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::print_line(format_args!($($text)*)) };
}

/// Replaces the standard macro: a message that cannot be written does not stop the work.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::print_message(format_args!($($text)*)) };
}

mod audit;
mod bench;
mod choices;
mod classes;
mod compare;
mod edit;
mod evaluate;
mod export;
mod features_network;
mod flags;
mod images;
mod import;
mod info;
mod interrupts;
mod objective;
mod outputs;
mod progress;
mod ranks;
mod report;
mod reverse;
mod runtime;
mod sample;
mod train;
mod web;

use crate::checkpoint::{SHIPPED, is_shipped};
use crate::group::Solo;
use crate::kernels::{ConvAlgorithm, Isa, Kernels};
use crate::output::write_atomically;
use crate::{Error, Result};
use clap::{Args, Parser, Subcommand};
use ranks::Ranks;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Denoising diffusion with FAVOR+ attention: every equation auditable, trained and sampled on plain CPUs.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Report(report::ReportArgs),
    Sample(sample::SampleArgs),
    Edit(edit::EditArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Evaluate(evaluate::EvaluateArgs),
    Info(info::InfoArgs),
    Bench(bench::BenchArgs),
    Audit(audit::AuditArgs),
    Compare(compare::CompareArgs),
}

/// Options of every command that computes.
#[derive(Debug, Args)]
struct ComputeArgs {
    /// Threads; may be more than the processor has, though not many times as many [default: as many as it
    /// has]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<u16>,
    /// Instruction set of the kernels: reference, portable, avx2, avx512 or neon [default: the fastest
    /// available]
    #[arg(long, value_name = "NAME")]
    isa: Option<Isa>,
    /// Algorithm of convolutions: direct, or winograd with a quarter of the products. A resumed run has the
    /// same bits only with the same algorithm [default: winograd]
    #[arg(long, value_name = "NAME")]
    conv: Option<ConvAlgorithm>,
    /// No progress, results only
    #[arg(short, long)]
    quiet: bool,
}

impl ComputeArgs {
    fn threads(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn kernels(&self) -> Kernels {
        Kernels { isa: self.isa.unwrap_or_else(Isa::detect), conv: self.conv.unwrap_or_default() }
    }
}

/// Parses the arguments, runs the command and reports an error. Exit status: 0 done, 1 the work failed, 2 bad
/// input, 130 or 143 stopped in order by Ctrl-C or SIGTERM.
pub fn main() -> ExitCode {
    interrupts::survive_large_files();
    let command = Cli::parse().command;
    let ranks = match ranks::join() {
        Ok(ranks) => ranks,
        Err(error) => return ranks::fail(&Solo, &error),
    };
    let result = run(command, &*ranks);
    result.unwrap_or_else(|error| ranks::fail(&*ranks, &error))
}

fn run(command: Command, ranks: &Ranks) -> Result<ExitCode> {
    let alone = |name: &str| ranks::only_one(ranks, name);
    match command {
        Command::Train(args) => train::run(args, ranks),
        Command::Report(args) => alone("report").and_then(|()| report::run(args)),
        Command::Sample(args) => sample::run(args, ranks),
        Command::Edit(args) => alone("edit").and_then(|()| edit::run(args)),
        Command::Export(args) => alone("export").and_then(|()| export::run(args)),
        Command::Import(args) => alone("import").and_then(|()| import::run(args)),
        Command::Evaluate(args) => evaluate::run(args, ranks),
        Command::Info(args) => info::run(args),
        Command::Bench(args) => alone("bench").and_then(|()| bench::run(args)),
        Command::Audit(args) => alone("audit").and_then(|()| audit::run(args)),
        Command::Compare(args) => compare::run(args, ranks),
    }
}

/// The default folder of runs, with the link to the newest.
const RUNS: &str = "runs";

fn latest() -> PathBuf {
    Path::new(RUNS).join("latest")
}

/// The model to use: the named one, the newest run, or, before there is one, the model that the program
/// carries.
fn model_path(named: Option<PathBuf>) -> Result<PathBuf> {
    match named {
        Some(path) if path.exists() || is_shipped(&path) => Ok(path),
        Some(path) => {
            let help =
                format!("name a model folder, a run's folder, or {SHIPPED}, which the program carries");
            Err(Error::invalid(path.display().to_string(), "a model", "nothing there", help))
        }
        None if latest().exists() => Ok(latest()),
        None => {
            eprintln!("no run in {RUNS} yet: this is {SHIPPED}, the model that the program carries");
            Ok(PathBuf::from(SHIPPED))
        }
    }
}

/// Refuses a file whose name ends in another format than the one that is written; without an ending it may
/// have any name.
fn check_ending(flag: &str, path: &Path, ending: &str) -> Result<()> {
    match path.extension() {
        Some(other) if !other.eq_ignore_ascii_case(ending) => Err(Error::invalid(
            flag,
            format!("a .{ending} file, which is what is written"),
            path.display().to_string(),
            "",
        )),
        _ => Ok(()),
    }
}

/// Refuses a file that cannot be written before images are computed: does everything that the writer does
/// before its first byte.
fn check_writable(path: &Path) -> Result<()> {
    let mut begun = false;
    let attempt = write_atomically(path, |_| {
        begun = true;
        Err(io::Error::other("only an attempt"))
    });
    if begun { Ok(()) } else { attempt }
}

/// Threads that may be asked for on any machine.
const THREADS: usize = 64;
/// How many times the processor's own may be asked for on a large one.
const TIMES: usize = 4;

/// A number of threads that is of use here: far more than the processor has wait for each other, and each
/// takes memory.
fn parse_threads(text: &str) -> Result<u16, String> {
    let has = std::thread::available_parallelism().map_or(1, usize::from);
    let most = THREADS.max(TIMES * has);
    let threads = text.parse::<u16>().ok().filter(|threads| (1..=most).contains(&usize::from(*threads)));
    threads.ok_or_else(|| format!("expected 1 to {most} on this processor with {has}"))
}

/// Height and width from "28" or "28x36".
fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let sides: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
    match sides.as_deref() {
        Some([side]) => Ok([*side, *side]),
        Some([h, w]) => Ok([*h, *w]),
        _ => Err("expected a height and width such as 32 or 32x48".to_owned()),
    }
}

/// Prints a line on stdout. Where the reader has gone, the command continues: its exit status still matters.
fn print_line(line: fmt::Arguments) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("error: cannot write to stdout: {error}");
        std::process::exit(1);
    }
}

/// Prints a line on stderr, if that can be written to.
fn print_message(line: fmt::Arguments) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a JSON object on stdout.
fn print_json(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string(value).expect("reports become JSON"));
}
