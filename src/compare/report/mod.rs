//! The report: a function of the findings and the sample grids, so that it can be written again without
//! running anything.

mod approximation;
mod conversion;
mod cost;
mod equations;
mod full_resolution;
mod plan;
mod runs;

use super::store::Findings;
use crate::config::AttentionKind;
use crate::disk;
use crate::error::{Error, Result};
use crate::evaluate::Estimate;
use crate::output::html::{self, Page};
use crate::output::table::{self, Cell, Table};
use crate::output::{Chart, write_atomically};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A report with its plots and tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The page: one file, no network, no script.
    pub html: String,
    /// Every plot, by name.
    pub plots: Vec<(String, Chart<'static>)>,
    /// Every table and curve as CSV, by name.
    pub tables: Vec<(String, String)>,
}

/// The report of a comparison; `images` are the sample grids by name, as PNG.
///
/// # Errors
/// [`Error::Invalid`] for figures that cannot be drawn.
pub fn report(folder: &Path, findings: &Findings, images: &BTreeMap<String, Vec<u8>>) -> Result<Report> {
    let mut draft = Draft { folder, findings, images, plots: Vec::new(), tables: Vec::new() };
    let sections = [
        plan::section(findings),
        runs::section(&mut draft)?,
        full_resolution::section(&mut draft)?,
        cost::section(&mut draft)?,
        approximation::section(&mut draft)?,
        conversion::section(&mut draft)?,
        plan::how(&draft),
    ];
    let title = format!("FAVOR+ beside softmax: {} on {}", findings.plan.name, findings.data.name);
    let html = Page { title, body: sections.concat(), ..Page::default() }.html();
    Ok(Report { html, plots: draft.plots, tables: draft.tables })
}

/// A report being written.
struct Draft<'a> {
    folder: &'a Path,
    findings: &'a Findings,
    images: &'a BTreeMap<String, Vec<u8>>,
    plots: Vec<(String, Chart<'static>)>,
    tables: Vec<(String, String)>,
}

impl Draft<'_> {
    /// A chart in the page and as a file.
    fn chart(&mut self, name: &str, caption: &str, chart: Chart<'static>) -> Result<String> {
        let figure = html::chart(&chart, caption)?;
        self.plots.push((name.to_owned(), chart));
        Ok(figure)
    }

    /// A table in the page and as a file.
    fn table(&mut self, table: &Table) -> String {
        self.data(table);
        table.html()
    }

    /// A table as a file alone.
    fn data(&mut self, table: &Table) {
        self.tables.push((table.name.to_owned(), table.csv()));
    }

    /// The command that continues this comparison with these options.
    fn more(&self, options: &str) -> String {
        html::command(&format!("performer-ddpm compare --out {} {options}", self.folder.display()))
    }

    /// The section of a part that was left out.
    fn left_out(&self, title: &str, part: super::Part) -> String {
        let command = self.more(&format!("--only {}", part.name()));
        format!("<h2>{}</h2>\n<p>Left out of this comparison; {command} adds it.</p>\n", html::escape(title))
    }

    /// The section of the sample grids of runs: attention, steps and the grid's name of each.
    fn samples(&self, runs: impl Iterator<Item = (AttentionKind, u64, String)>) -> String {
        let picture = |(variant, steps, name): (AttentionKind, u64, String)| {
            self.picture(&name, &format!("{variant}, after {steps} steps"))
        };
        let pictures: String = runs.map(picture).collect();
        format!("<h3>Samples from the same noise</h3>\n<div class=\"figures\">\n{pictures}</div>\n")
    }

    /// A sample grid in the page, if it was drawn.
    fn picture(&self, name: &str, caption: &str) -> String {
        match self.images.get(name) {
            Some(png) => html::picture(png, caption, caption),
            None => html::paragraph(&format!("{caption}: not drawn.")),
        }
    }
}

/// Reads the sample grids of a comparison's folder and writes its report: `report.html`, `plots/*.svg` and
/// `*.png`, `tables/*.csv`. Returns the page's file.
///
/// # Errors
/// Those of [`report`]; [`Error::Read`], [`Error::Write`].
pub fn write_report(folder: &Path, findings: &Findings) -> Result<PathBuf> {
    let report = report(folder, findings, &images(&folder.join("images"))?)?;
    let [plots, tables] = ["plots", "tables"].map(|kind| folder.join(kind));
    for folder in [&plots, &tables] {
        disk::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    for (name, chart) in &report.plots {
        chart.write(&plots, name)?;
    }
    for (name, text) in &report.tables {
        write_atomically(&tables.join(format!("{name}.csv")), |f| f.write_all(text.as_bytes()))?;
    }
    let page = folder.join("report.html");
    write_atomically(&page, |f| f.write_all(report.html.as_bytes()))?;
    Ok(page)
}

/// The PNG files of a folder by their names.
fn images(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut images = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(images);
    }
    for entry in fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let file = entry.map_err(|e| Error::read(folder, e))?.path();
        let name = file.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        if let (Some(name), true) = (name, file.extension().is_some_and(|ending| ending == "png")) {
            images.insert(name, disk::read(&file).map_err(|e| Error::read(&file, e))?);
        }
    }
    Ok(images)
}

/// A mean with its standard error as an entry of a table.
fn estimate(x: Option<Estimate>) -> Cell {
    x.map_or_else(Cell::missing, |x| Cell::mean(x.mean, x.standard_error))
}

/// Seconds in words.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} \u{b5}s", table::significant(1e6 * s, 3)),
        s if s < 1.0 => format!("{} ms", table::significant(1e3 * s, 3)),
        s if s < 120.0 => format!("{} s", table::significant(s, 3)),
        s if s < 7200.0 => format!("{} min", table::significant(s / 60.0, 3)),
        s => format!("{} h", table::significant(s / 3600.0, 3)),
    }
}
