//! The audit as a page: one file, without network or script, that shows every equation of [`INDEX`] and
//! [`ANNEX`] with its function as this build has it, what it was checked against, and plots of it.

mod forms;
mod highlight;
mod item;
mod model;
mod plots;
mod source;

use super::{Item, Misprint, Report};
use crate::equations::{ANNEX, Equation, INDEX, label};
use crate::error::{Error, Result};
use crate::output::html::{Page, escape};
use crate::output::write_atomically;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The file's name in its folder.
const FILE: &str = "index.html";

/// The chapters: a heading and the ids of the first and the last equation.
const CHAPTERS: [(&str, &str, &str); 7] = [
    ("The forward process", "eq01", "eq03"),
    ("The reverse process", "eq04", "eq07"),
    ("The posterior", "eq08", "eq12"),
    ("The reverse step", "eq13", "eq15"),
    ("The bound and the loss", "eq16", "eq21"),
    ("Attention and FAVOR+", "eq22", "eq26"),
    ("The algorithms", "alg1", "alg2"),
];
const ANNEXES: [(&str, &str, &str); 4] = [
    ("Annex: images of a class", "g01", "g03"),
    ("Annex: what a network may be trained on", "o01", "o08"),
    ("Annex: samplers", "s01", "s13"),
    ("Annex: uses of a model on given images", "u01", "u04"),
];

/// Writes an audit as a page, `index.html`, into a folder, and returns the file.
///
/// Its plots are computed here, some of them by the model that the library carries; it takes seconds.
///
/// # Errors
/// [`Error::Write`] if the system refuses.
pub fn write_page(folder: &Path, report: &Report) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let html = page(report)?;
    let file = folder.join(FILE);
    write_atomically(&file, |f| f.write_all(html.as_bytes()))?;
    Ok(file)
}

/// The figures of each equation, by its id.
fn figures() -> Result<BTreeMap<&'static str, String>> {
    let mut figures = plots::all()?;
    for (id, html) in model::all()? {
        figures.entry(id).or_default().push_str(&html);
    }
    Ok(figures)
}

fn page(report: &Report) -> Result<String> {
    let figures = figures()?;
    let items: BTreeMap<&str, &Item> =
        report.items.iter().chain(&report.annex).map(|item| (item.id, item)).collect();
    let is_known = |id: &str| items.contains_key(id);
    let (mut contents, mut body) = (String::new(), summary(report));
    contents += "<p><a href=\"#misprints\">The slides' misprints</a></p>\n";
    let chapters = CHAPTERS.iter().map(|chapter| (chapter, &INDEX[..]));
    for ((heading, first, last), index) in chapters.chain(ANNEXES.iter().map(|chapter| (chapter, &ANNEX[..])))
    {
        let at = |id: &str| index.iter().position(|equation| equation.id == id).unwrap_or(0);
        let _ = writeln!(contents, "<p>{heading}</p>\n<ul>");
        let _ = writeln!(body, "<h2>{heading}</h2>");
        for equation in &index[at(first)..=at(last)] {
            let Some(item) = items.get(equation.id) else { continue };
            let Equation { id, title, .. } = equation;
            let _ = writeln!(contents, "<li><a href=\"#{id}\">{} {}</a></li>", label(id), escape(title));
            let misprints: Vec<&Misprint> = report.misprints.iter().filter(|m| m.id == *id).collect();
            let figures = figures.get(id).map_or("", String::as_str);
            body += &item::section(equation, item, &misprints, figures, &is_known);
        }
        contents += "</ul>\n";
    }
    let title = "Performers-backed denoising diffusion, audited".into();
    let lead = lead(report);
    Ok(Page { title, lead, contents, body, style: STYLE, script: "" }.html())
}

/// What the page is, and what it found.
fn lead(report: &Report) -> String {
    let checks = || report.items.iter().chain(&report.annex).flat_map(|item| &item.checks);
    let (all, failed) = (checks().count(), checks().filter(|check| !check.ok).count());
    let standing = report.misprints.iter().filter(|misprint| !misprint.refuted).count();
    let verdict = match failed + standing {
        0 => "<strong class=\"good\">Every error is within its bound, every misprint refuted</strong>"
            .to_owned(),
        _ => format!(
            "<strong class=\"bad\">{failed} errors beyond their bounds, {standing} misprints not \
             refuted</strong>"
        ),
    };
    format!(
        "<p>The {} equations and algorithms of the slides \u{201c}Performers-backed Denoising Diffusion \
         Probabilistic Models\u{201d} (Pisa, October 2022) under the slides' numbers, and {} of annexes: \
         what each says, the function that training and sampling call, and {all} checks of them by \
         integration, simulation and algebra. {verdict}. Version {}. <i>t</i> runs from 1 to <i>T</i>.</p>\n",
        report.items.len(),
        report.annex.len(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The misprints in a table.
fn summary(report: &Report) -> String {
    let mut html = String::from(
        "<h2 id=\"misprints\">The slides' misprints</h2>\n<div class=\"table\" role=\"region\" \
         tabindex=\"0\" aria-label=\"The slides' misprints\"><table class=\"misprints\">\n\
         <thead><tr><th scope=\"col\">Number</th><th scope=\"col\">The slides print</th>\
         <th scope=\"col\">Its error</th><th scope=\"col\">The right form's</th>\
         <th scope=\"col\">Bound between</th></tr></thead>\n<tbody>\n",
    );
    for Misprint { id, printed, printed_error, correct_error, bound, refuted, .. } in &report.misprints {
        let refuted = if *refuted { "" } else { " <strong class=\"bad\">not refuted</strong>" };
        let [printed_error, correct_error, bound] =
            [*printed_error, *correct_error, *bound].map(item::number);
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\"><a href=\"#{id}\">{}</a></th><td>{}{refuted}</td><td>{printed_error}</td>\
             <td>{correct_error}</td><td>{bound}</td></tr>",
            label(id),
            escape(printed),
        );
    }
    html + "</tbody></table></div>\n"
}

const STYLE: &str = "\
nav { columns: 20em; column-gap: 24px; font-size: 0.9rem; }
nav p { margin: 0.6em 0 0; font-weight: 600; break-after: avoid; }
nav ul { margin: 0; padding-left: 1.1em; }
section { scroll-margin-top: 8px; border-bottom: 1px solid var(--line); padding-bottom: 12px; }
section:target > h3 { background: var(--code); }
h3 { font-size: 1.15rem; }
h4 { margin: 0; font-size: 0.9rem; }
.here { color: var(--soft); padding: 0 6px; font-weight: 400; }
.equation { font-size: 1.15rem; }
.equation math[display=block] { margin: 4px 0; text-align: left; width: max-content; }
.plain { font-size: 0.85rem; color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); }
table.checks { width: 100%; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.checks th, .misprints td:nth-child(2) { white-space: normal; text-align: left; font-weight: 400; }
.misprints thead th:nth-child(2) { text-align: left; }
.checks thead th { font-weight: 600; font-size: 0.85rem; }
.checks td, .checks thead th:not(:first-child) { text-align: right; width: 4.6em; }
.checks td:last-child, .checks thead th:last-child { width: 24%; text-align: left; }
svg.bar { width: 100%; min-width: 64px; height: 12px; display: block; }
.bar .scale { fill: var(--code); } .bar .bound { fill: var(--ink); }
.bar.good .error { fill: var(--good); } .bar.bad .error { fill: var(--bad); }
.misprint { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr));
  gap: 12px; }
.misprint > div { border: 1px solid var(--line); border-left: 5px solid var(--bad); padding: 8px 12px;
  min-width: 0; }
.misprint > .right { border-left-color: var(--good); }
.misprint p { margin: 4px 0; font-size: 0.85rem; }
.misprint svg.bar { max-width: 320px; }
figure.wide img { max-width: 100%; }
pre { margin: 4px 0; padding: 8px 12px; background: var(--code); font-size: 0.8rem; line-height: 1.4;
  white-space: pre-wrap; overflow-wrap: anywhere; }
pre code { background: none; padding: 0; font-size: inherit; }
pre a { color: inherit; text-decoration-style: dotted; }
.c { color: #5a6472; } .s { color: #0a6e4f; } .n { color: #8a3c00; } .k { color: #8b1a7c; }
.t { color: #0b4f8a; } .f { color: #5b3b00; }
@media (prefers-color-scheme: dark) {
  .c { color: #a2abb8; } .s { color: #7fd6b0; } .n { color: #ffb77a; } .k { color: #f0a0e4; }
  .t { color: #8cc4f5; } .f { color: #f2d08a; }
}
@media (max-width: 600px) {
  .equation { font-size: 1rem; } pre { font-size: 0.72rem; padding: 8px; }
  th, td { padding: 4px 5px; } .checks { font-size: 0.82rem; } .checks td { width: 3.6em; }
}
@media print { section { border: 0; } pre { border: 1px solid var(--line); } }
";
