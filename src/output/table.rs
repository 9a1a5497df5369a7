//! Tables that are shown in a page and written as CSV.

use super::html::escape;
use std::fmt::Write;

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    /// The CSV file's name without its ending.
    pub name: &'static str,
    /// What it shows.
    pub caption: String,
    /// The columns' headings, each with its unit.
    pub columns: Vec<&'static str>,
    /// As many cells as columns in each.
    pub rows: Vec<Vec<Cell>>,
}

/// An entry: rounded for the page, and with all digits for CSV.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    /// As the page shows it.
    pub shown: String,
    /// As the CSV file has it: all digits, empty where there is nothing.
    pub value: String,
    /// Its standard error, of means.
    pub error: Option<f64>,
}

impl Cell {
    /// Text.
    pub fn text(text: impl ToString) -> Cell {
        Cell { shown: text.to_string(), value: text.to_string(), error: None }
    }

    /// A number with `digits` significant digits.
    pub fn number(x: impl Into<Option<f64>>, digits: usize) -> Cell {
        match x.into() {
            Some(x) => Cell { shown: significant(x, digits), value: x.to_string(), error: None },
            None => Cell::missing(),
        }
    }

    /// A whole number.
    pub fn count(n: impl Into<Option<u64>>) -> Cell {
        n.into().map_or_else(Cell::missing, Cell::text)
    }

    /// A mean, with its standard error behind it.
    pub fn mean(mean: f64, error: f64) -> Cell {
        Cell { shown: with_error(mean, error), value: mean.to_string(), error: Some(error) }
    }

    /// Nothing.
    pub fn missing() -> Cell {
        Cell { shown: "\u{2013}".into(), value: String::new(), error: None }
    }
}

impl Table {
    /// The table as HTML. A table that is wider than the page scrolls in its own frame, which the keyboard
    /// reaches.
    pub fn html(&self) -> String {
        let caption = escape(&self.caption);
        let mut html = format!(
            "<figure><figcaption>{caption}</figcaption><div class=\"table\" role=\"region\" tabindex=\"0\" \
             aria-label=\"{caption}\"><table><thead><tr>"
        );
        for column in &self.columns {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
        }
        html.push_str("</tr></thead><tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let shown = escape(&cell.shown);
                let _ = if i == 0 {
                    write!(html, "<th scope=\"row\">{shown}</th>")
                } else {
                    write!(html, "<td>{shown}</td>")
                };
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div></figure>\n");
        html
    }

    /// The table as CSV (RFC 4180), a line of headings first; a column of means is followed by one of their
    /// standard errors.
    pub fn csv(&self) -> String {
        let has_errors = |column: usize| {
            self.rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.error.is_some()))
        };
        let columns: Vec<(&str, bool)> =
            self.columns.iter().enumerate().map(|(i, name)| (*name, has_errors(i))).collect();
        let headings = columns.iter().flat_map(|(name, has_errors)| {
            std::iter::once(quoted(name))
                .chain(has_errors.then(|| quoted(&format!("{name}, standard error"))))
        });
        let mut csv = line(headings);
        for row in &self.rows {
            csv += &line(row.iter().zip(&columns).flat_map(|(cell, (_, has_errors))| {
                let error = || cell.error.map_or(String::new(), |error| error.to_string());
                std::iter::once(quoted(&cell.value)).chain(has_errors.then(error))
            }));
        }
        csv
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn line(entries: impl Iterator<Item = String>) -> String {
    entries.collect::<Vec<_>>().join(",") + "\n"
}

/// A number with `digits` significant digits, without an exponent unless it is very small or large.
pub(crate) fn significant(x: f64, digits: usize) -> String {
    if !x.is_finite() {
        return x.to_string();
    }
    if x == 0.0 {
        return "0".to_owned();
    }
    let power = x.abs().log10().floor() as i32;
    if !(-4..7).contains(&power) {
        return format!("{x:.*e}", digits.saturating_sub(1));
    }
    let decimals = (digits as i32 - 1 - power).max(0) as usize;
    format!("{x:.decimals$}")
}

/// "0.0312 ± 0.0004": the error with two digits, the mean with as many decimals.
fn with_error(mean: f64, error: f64) -> String {
    if !(error > 0.0 && error.is_finite()) {
        return significant(mean, 4);
    }
    let decimals = (1 - error.log10().floor() as i32).clamp(0, 9) as usize;
    format!("{mean:.decimals$} \u{b1} {error:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_significant_digits() {
        let cases = [
            (0.031_25, "0.0312"),
            (1234.5, "1234"),
            (9.996, "10.00"),
            (2e-9, "2.00e-9"),
            (0.0, "0"),
            (-0.5, "-0.500"),
        ];
        for (x, text) in cases {
            assert_eq!(significant(x, 3), text);
        }
        assert_eq!(with_error(0.031_25, 0.000_412), "0.03125 \u{b1} 0.00041");
        assert_eq!(with_error(3.0, 0.0), "3.000");
        assert_eq!(with_error(123.4, 56.7), "123 \u{b1} 57");
    }

    #[test]
    fn csv_is_quoted_and_html_escaped() {
        let table = Table {
            name: "t",
            caption: "a < b".into(),
            columns: vec!["name, unit", "x", "y"],
            rows: vec![
                vec![Cell::text("say \"m\""), Cell::number(0.1234567, 2), Cell::mean(3.25, 0.5)],
                vec![Cell::text("<i>"), Cell::number(None, 2), Cell::missing()],
            ],
        };
        assert_eq!(
            table.csv(),
            "\"name, unit\",x,y,\"y, standard error\"\n\"say \"\"m\"\"\",0.1234567,3.25,0.5\n<i>,,,\n"
        );
        let html = table.html();
        assert!(
            html.contains("a &lt; b") && html.contains("&lt;i&gt;") && html.contains("<td>0.12</td>"),
            "{html}"
        );
    }
}
