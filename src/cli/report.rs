//! `report`: training runs as a page.

use super::{check_ending, latest};
use crate::Result;
use crate::train::write_report;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a run's report again, or one of several runs side by side.
///
/// `train` leaves report.html in a run's folder and writes it again at its checkpoints. It shows losses,
/// learning rate, gradient norm and pace, the samples over time, the configuration, and who trained it where.
///
/// Example: performer-ddpm report runs/fashion-1 runs/fashion-2 --out both.html
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The runs' folders [default: runs/latest]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page [default: report.html, in the run's folder, or here for several runs]
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

/// Writes the page and prints its path.
pub fn run(args: ReportArgs) -> Result<ExitCode> {
    let runs = if args.runs.is_empty() { vec![latest()] } else { args.runs };
    let file = match (args.out, runs.as_slice()) {
        (Some(file), _) => file,
        (None, [run]) => run.join("report.html"),
        (None, _) => PathBuf::from("report.html"),
    };
    check_ending("--out", &file, "html")?;
    write_report(&file, &runs)?;
    println!("{}", file.display());
    Ok(ExitCode::SUCCESS)
}
