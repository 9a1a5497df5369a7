//! The runs' figures, configurations and calls.

use super::{CallRecord, Record};
use crate::output::html::escape;
use crate::output::table::{Cell, Table};
use std::collections::{BTreeMap, BTreeSet};

/// The runs' figures.
pub(super) fn summary(runs: &[Record]) -> String {
    let row = |run: &Record| {
        let metrics = &run.metrics;
        let tail = &metrics[metrics.len() - metrics.len().div_ceil(10)..];
        let mean = |of: fn(&crate::train::Metric) -> f64| {
            // A step that was skipped has neither loss nor gradient.
            let numbers = || tail.iter().map(of).filter(|number| number.is_finite());
            (numbers().count() > 0).then(|| numbers().sum::<f64>() / numbers().count() as f64)
        };
        let train = &run.config.train;
        vec![
            Cell::text(&run.name),
            Cell::count(run.steps()),
            Cell::count(train.end()),
            Cell::number(metrics.last().map(|metric| metric.seconds / 60.0), 3),
            Cell::count(run.steps() * train.batch as u64),
            Cell::number(mean(|metric| metric.loss), 4),
            Cell::number(mean(|metric| metric.gradient_norm), 3),
            Cell::number(mean(|metric| metric.images_per_s), 3),
        ]
    };
    let table = Table {
        name: "runs",
        caption: "The run in figures; means are over the last tenth of the steps".into(),
        columns: vec![
            "run",
            "steps",
            "planned",
            "minutes",
            "images seen",
            "mean loss",
            "mean gradient's norm",
            "images a second",
        ],
        rows: runs.iter().map(row).collect(),
    };
    table.html()
}

/// Every run's configuration, and, of several, what differs.
pub(super) fn configurations(runs: &[Record]) -> String {
    let mut html = String::from("<h2>Configuration</h2>\n");
    if runs.len() > 1 {
        html += &differences(runs);
    }
    for run in runs {
        html += &format!(
            "<details><summary>config.toml of {}</summary><pre><code>{}</code></pre></details>\n",
            escape(&run.name),
            escape(&run.config.to_toml())
        );
    }
    html
}

/// The keys whose values differ, with the value of each run.
fn differences(runs: &[Record]) -> String {
    let all: Vec<BTreeMap<String, String>> = runs.iter().map(|run| flat(&run.config.to_toml())).collect();
    let keys: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let differs = |key: &&&String| all.iter().any(|values| values.get(**key) != all[0].get(**key));
    let heads: String =
        runs.iter().map(|run| format!("<th scope=\"col\">{}</th>", escape(&run.name))).collect();
    let rows: String = keys
        .iter()
        .filter(differs)
        .map(|key| {
            let cell = |values: &BTreeMap<String, String>| {
                format!("<td>{}</td>", values.get(*key).map_or("\u{2013}".into(), |value| escape(value)))
            };
            let cells: String = all.iter().map(cell).collect();
            format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(key))
        })
        .collect();
    if rows.is_empty() {
        return "<p>All configurations are the same.</p>\n".into();
    }
    format!(
        "<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"What differs\"><table><thead><tr>\
         <th scope=\"col\">What differs</th>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

/// A TOML document as keys with dots and their values.
fn flat(text: &str) -> BTreeMap<String, String> {
    fn walk(before: &str, value: &toml::Value, found: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let dot = if before.is_empty() { "" } else { "." };
                    walk(&format!("{before}{dot}{key}"), value, found);
                }
            }
            other => {
                found.insert(before.to_owned(), other.to_string());
            }
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        walk("", &toml::Value::Table(table), &mut found);
    }
    found
}

/// Who trained the runs, when and where.
pub(super) fn calls(runs: &[Record]) -> String {
    let calls = runs.iter().flat_map(|run| run.calls.iter().map(move |call| (run, call)));
    let row = |(run, call): (&Record, &CallRecord)| {
        let [began, by, machine, version] =
            [&call.began, &call.by, &call.machine, &call.version].map(Cell::text);
        vec![Cell::text(&run.name), Cell::count(call.step), began, by, machine, version]
    };
    let rows: Vec<Vec<Cell>> = calls.map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let table = Table {
        name: "calls",
        caption: "Every call of train".into(),
        columns: vec!["run", "after step", "began", "computed by", "machine", "version"],
        rows,
    };
    format!("<h2>When and where</h2>\n{}", table.html())
}
