//! `audit`: every equation, its checks, and their errors beside the bounds.

use super::print_json;
use crate::audit;
use crate::{Error, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check every equation of the slides and of the annexes against independent computations, and show the
/// slides' misprints.
///
/// Example: performer-ddpm audit
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Write the audit as a page, index.html, into this folder: every equation with its function, its checks
    /// and plots
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    /// The failures and the last line only
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the audit; a failed check is exit status 1.
pub fn run(args: AuditArgs) -> Result<ExitCode> {
    if let Some(folder) = &args.html {
        // Before the work: it takes seconds.
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    let report = audit::run();
    let page = args.html.map(|folder| audit::write_page(&folder, &report)).transpose()?;
    if args.json {
        print_json(&report);
    } else {
        print(&report, args.quiet);
        if let Some(page) = page {
            println!("{}", page.display());
        }
    }
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &audit::Report, quiet: bool) {
    let all = || report.items.iter().chain(&report.annex);
    for item in all().filter(|item| !quiet || item.checks.iter().any(|check| !check.ok)) {
        println!("{}  {}", item.id, item.title);
        println!("      {}", item.statement);
        println!("      {}; {}", item.function, item.source);
        for check in &item.checks {
            let verdict = if check.ok { "ok  " } else { "FAIL" };
            println!("      {verdict} {}: error {:.2e}, bound {:.2e}", check.name, check.error, check.bound);
        }
    }
    if !quiet {
        println!("\nThe slides' misprints, with the number that shows each wrong:");
    }
    for misprint in report.misprints.iter().filter(|misprint| !quiet || !misprint.refuted) {
        let verdict = if misprint.refuted { "refuted" } else { "NOT REFUTED" };
        println!("{}  {verdict}: {}", misprint.id, misprint.printed);
        println!(
            "      {}: printed form {:.2e}, implemented form {:.2e}, bound {:.2e}",
            misprint.measured, misprint.printed_error, misprint.correct_error, misprint.bound
        );
    }
    let checks: usize = all().map(|item| item.checks.len()).sum();
    let failed = all().flat_map(|item| &item.checks).filter(|check| !check.ok).count();
    let standing = report.misprints.iter().filter(|misprint| !misprint.refuted).count();
    println!(
        "{} equations and {} of annexes, {checks} checks, {failed} failed; {} misprints, {standing} not refuted",
        report.items.len(),
        report.annex.len(),
        report.misprints.len()
    );
}
