//! A run as a page, or several runs side by side: a function of what is in their folders, so that it can be
//! written again at any time, also from folders that are not whole.

mod charts;
mod samples;
mod tables;

use super::folder::{METRICS, read_config};
use super::history::{self, CallRecord};
use super::metrics::{self, Metric};

use crate::config::Config;
use crate::error::Result;
use crate::machine;
use crate::output::html::{Page, command, escape, paragraph, remarks};
use crate::output::write_atomically;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a run's folder holds.
struct Record {
    /// The folder's name.
    name: String,
    config: Config,
    metrics: Vec<Metric>,
    calls: Vec<CallRecord>,
    /// The sample grids with their steps.
    grids: Vec<(u64, PathBuf)>,
    /// What could not be read.
    notes: Vec<String>,
}

impl Record {
    fn read(folder: &Path) -> Result<Record> {
        let config = read_config(folder)?;
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name = real.file_name().unwrap_or(real.as_os_str()).to_string_lossy().into_owned();
        let mut notes = Vec::new();
        let (metrics, damaged) = metrics::readable::<Metric>(&folder.join(METRICS));
        if damaged > 0 {
            notes.push(format!("{name}: {damaged} line(s) of {METRICS} are left out, which cannot be read"));
        }
        if metrics.is_empty() {
            notes.push(format!("{name}: no step is recorded yet"));
        }
        let (calls, _) = history::read(folder);
        Ok(Record { name, config, metrics, calls, grids: samples::grids(folder), notes })
    }

    /// Steps taken.
    fn steps(&self) -> u64 {
        self.metrics.last().map_or(0, |metric| metric.step)
    }

    /// Whether it has come to its end.
    fn is_done(&self) -> bool {
        self.config.train.end().is_some_and(|end| self.steps() >= end)
    }
}

/// Writes the report of the runs in some folders, the first of which gives it its title.
///
/// What a folder lacks is left out, and what is damaged is noted in the page.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for a folder that is no run's,
/// [`Error::Write`](crate::Error::Write) if the system refuses.
pub fn write_report(file: &Path, folders: &[PathBuf]) -> Result<()> {
    write(file, folders, false)
}

/// The same while a run is going on: the page reloads itself.
pub(super) fn write(file: &Path, folders: &[PathBuf], is_going_on: bool) -> Result<()> {
    let runs = folders.iter().map(|folder| Record::read(folder)).collect::<Result<Vec<_>>>()?;
    let html = page(&runs, is_going_on)?;
    write_atomically(file, |out| out.write_all(html.as_bytes()))
}

fn page(runs: &[Record], is_going_on: bool) -> Result<String> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = match names.as_slice() {
        [name] => format!("Training run {name}"),
        names => format!("{} training runs: {}", names.len(), names.join(", ")),
    };
    let notes: Vec<String> = runs.iter().flat_map(|run| run.notes.clone()).collect();
    let body = [
        remarks(&notes),
        tables::summary(runs),
        charts::section(runs)?,
        samples::section(runs),
        tables::configurations(runs),
        tables::calls(runs),
    ];
    let (lead, script) = lead(runs, is_going_on);
    Ok(Page { title, lead, body: body.concat(), style: STYLE, script, ..Page::default() }.html())
}

/// How far the runs are.
fn lead(runs: &[Record], is_going_on: bool) -> (String, &'static str) {
    let mut lead = String::new();
    if let [run] = runs {
        let end = run.config.train.end().map_or_else(String::new, |end| format!(" of {end}"));
        let state = match (run.is_done(), is_going_on) {
            (true, _) => format!("Done: {} steps.", run.steps()),
            (false, true) => format!("Going on: step {}{end}.", run.steps()),
            (false, false) => format!("Stopped at step {}{end}.", run.steps()),
        };
        lead += &paragraph(&state);
    }
    lead += &format!(
        "<p class=\"when\">Written {} by version {}; {} makes it again.</p>\n",
        escape(&machine::now()),
        env!("CARGO_PKG_VERSION"),
        command("performer-ddpm report")
    );
    if is_going_on {
        lead += FOLLOW;
        (lead, FOLLOW_SCRIPT)
    } else {
        (lead, "")
    }
}

const FOLLOW: &str = "<p><label><input type=\"checkbox\" id=\"follow\" checked/> Reload every 30 seconds \
    while the run goes on</label></p>\n";

/// Without scripts the page stays as it is. The choice is kept over reloads, as the place on the page is.
const FOLLOW_SCRIPT: &str = "\
const follow = document.getElementById('follow');
try { follow.checked = sessionStorage.getItem('follow') !== 'no'; } catch (_) {}
follow.onchange = () => {
  try { sessionStorage.setItem('follow', follow.checked ? 'yes' : 'no'); } catch (_) {}
};
setInterval(() => { if (follow.checked) location.reload(); }, 30000);
";

const STYLE: &str = "\
.when { color: var(--soft); font-size: 0.88rem; }
.strip { list-style: none; padding: 0; margin: 0; max-width: none; }
.strip li { display: flex; align-items: center; gap: 12px; margin: 0 0 2px; }
.strip img { width: min(100%, 560px); min-width: 0; flex: 0 1 560px; height: auto; image-rendering: pixelated;
  display: block; }
.strip span { flex: 0 0 7.5em; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; }
pre { background: var(--code); padding: 8px 12px; font-size: 0.8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media (max-width: 600px) { .strip li { display: block; } }
";

#[cfg(test)]
mod tests;
