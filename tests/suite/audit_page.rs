//! `audit --html`: one page, whose numbers are those of `audit --json`.

use crate::support::binary::succeed;
use performer_ddpm::equations::{ANNEX, INDEX};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// What stands between `before` and the next quotation mark, everywhere in a text.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The numbers of a part of the page with all of their digits.
fn numbers(part: &str) -> Vec<f64> {
    quoted(part, "data-value=\"").into_iter().map(|x| x.parse().unwrap()).collect()
}

/// A number of a report; JSON has no infinity.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::INFINITY)
}

/// The numbers must be equal in every bit.
#[test]
fn the_page_is_the_audit() {
    let folder = tempfile::tempdir().unwrap();
    let json: Value =
        serde_json::from_str(&succeed(folder.path(), &["audit", "--html", "page", "--json"])).unwrap();
    let page = std::fs::read_to_string(folder.path().join("page/index.html")).unwrap();
    assert!(page.len() < 3_000_000, "{} bytes", page.len());

    let items = ["items", "annex"].map(|part| json[part].as_array().unwrap().clone()).concat();
    let misprints = json["misprints"].as_array().unwrap();
    let sections: Vec<&str> = page.split("<section id=\"").skip(1).collect();
    assert_eq!(sections.len(), items.len());
    for ((item, section), equation) in items.iter().zip(&sections).zip(INDEX.iter().chain(&ANNEX)) {
        let id = item["id"].as_str().unwrap();
        assert!(section.starts_with(&format!("{id}\"")), "{id}");
        let mut wanted: Vec<f64> = Vec::new();
        for check in item["checks"].as_array().unwrap() {
            wanted.extend(["error", "bound"].map(|key| number(&check[key])));
        }
        for misprint in misprints.iter().filter(|misprint| misprint["id"] == item["id"]) {
            wanted.extend(["printed_error", "correct_error", "bound"].map(|key| number(&misprint[key])));
        }
        assert_eq!(numbers(section), wanted, "{id}");
        let name = equation.function.rsplit("::").next().unwrap();
        let code = section.split("<pre>").nth(1).unwrap_or_else(|| panic!("{id}: no function"));
        assert!(code.contains(name) && section.contains("<math"), "{id}");
    }
    let table = page.split("<table class=\"misprints\">").nth(1).unwrap().split("</table>").next().unwrap();
    let wanted: Vec<f64> = misprints
        .iter()
        .flat_map(|m| ["printed_error", "correct_error", "bound"].map(|key| number(&m[key])))
        .collect();
    assert_eq!(numbers(table), wanted);

    well_made(&page);
    let shown = ["eq03", "eq08", "eq09", "eq17", "eq21", "eq23", "eq24", "eq26", "o04"];
    for (section, item) in sections.iter().zip(&items) {
        let has = section.contains("role=\"img\"") || section.contains("<img ");
        assert_eq!(has, shown.contains(&item["id"].as_str().unwrap()), "{}: plots", item["id"]);
    }
}

/// Ids are there once, links lead somewhere in the page, nothing comes from elsewhere, every picture says
/// what it shows and every table what its rows and columns are.
fn well_made(page: &str) {
    let ids = quoted(page, " id=\"");
    let known: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(known.len(), ids.len(), "an id is there twice");
    for address in quoted(page, "href=\"") {
        let inside = address.strip_prefix('#').is_some_and(|id| known.contains(id));
        assert!(inside || address == "data:,", "{address}");
    }
    assert!(quoted(page, " src=\"").iter().all(|address| address.starts_with("data:image/png;base64,")));
    assert!(!page.contains("<script") && !page.contains("url(") && !page.contains("@import"));
    assert_eq!(page.matches("<img ").count(), page.matches("<img alt=\"").count());
    assert!(!page.contains("<th>") && !page.contains("alt=\"\""));
    for part in
        ["<html lang=\"en\">", "<header>", "<nav aria-label", "<main id=\"main\">", "prefers-color-scheme"]
    {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_page_that_cannot_be_written_is_told_and_json_stays_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page"), "").unwrap();
    let output = crate::support::binary::run(folder.path(), &["audit", "--html", "page/inside", "--json"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("page/inside"));
    assert!(output.stdout.is_empty());
    assert!(Path::new(folder.path()).join("page").is_file());
}
