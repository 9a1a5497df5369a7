//! The section of one equation.

use super::highlight::highlight;
use super::{forms, source};
use crate::audit::{Item, Misprint};
use crate::equations::{Equation, label};
use crate::output::html::{escape, paragraph};
use crate::output::math;
use std::fmt::Write;

/// The section: what the equation says, what was checked, what the slides print instead, `figures`, and the
/// function. `is_known` tells whether the page has a section of an id.
pub(super) fn section(
    equation: &Equation,
    item: &Item,
    misprints: &[&Misprint],
    figures: &str,
    is_known: &dyn Fn(&str) -> bool,
) -> String {
    let id = equation.id;
    let label = label(id);
    let mut html = format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h3 id=\"{id}-title\">{label} {} \
         <a class=\"here\" href=\"#{id}\" aria-label=\"Link to {label}\">#</a></h3>\n",
        escape(equation.title)
    );
    let lines: String = equation.tex.iter().map(|tex| math::display(tex)).collect();
    let _ = writeln!(
        html,
        "<div class=\"equation\" role=\"group\" tabindex=\"0\" aria-label=\"{label}\">{lines}</div>"
    );
    let _ = writeln!(html, "<p>{}</p>", sentence(equation.says, is_known));
    let _ = writeln!(
        html,
        "<p class=\"plain\"><code>{}</code><br/>{}</p>",
        escape(equation.statement),
        escape(equation.source)
    );
    html += &checks(item, &label);
    for misprint in misprints {
        html += &refutation(misprint);
    }
    html += figures;
    html += &code(equation.function, is_known);
    html += "</section>\n";
    html
}

/// A sentence whose parts between dollars are LaTeX, and whose references such as (9) and (S7) are links.
fn sentence(says: &str, is_known: &dyn Fn(&str) -> bool) -> String {
    let parts = says.split('$').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { math::inline(part) } else { linked(part, is_known) }).collect()
}

fn linked(text: &str, is_known: &dyn Fn(&str) -> bool) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('(') {
        html += &escape(before);
        let reference =
            after.split_once(')').and_then(|(inside, after)| Some((id_of(inside)?, inside, after)));
        match reference.filter(|(id, ..)| is_known(id)) {
            Some((id, inside, after)) => {
                let _ = write!(html, "<a href=\"#{id}\">({inside})</a>");
                rest = after;
            }
            None => {
                html.push('(');
                rest = after;
            }
        }
    }
    html + &escape(rest)
}

/// The id that a reference's number stands for.
fn id_of(number: &str) -> Option<String> {
    let (letter, digits) = match number.split_at_checked(1)? {
        (letter @ ("G" | "O" | "S" | "U"), digits) => (letter.to_lowercase(), digits),
        _ => ("eq".to_owned(), number),
    };
    digits.parse::<u32>().ok().map(|n| format!("{letter}{n:02}"))
}

/// Powers of ten at the ends of the bars.
const LOWEST: f64 = -18.0;
const HIGHEST: f64 = 2.0;
/// Its length in the units of its picture.
const LENGTH: f64 = 100.0;

/// Where a number lies on a bar.
fn place(x: f64) -> f64 {
    let power = if x > 0.0 { x.log10().clamp(LOWEST, HIGHEST) } else { LOWEST };
    LENGTH * (power - LOWEST) / (HIGHEST - LOWEST)
}

/// An error as a bar on a logarithmic scale, and its bound as a line across it. The numbers stand beside it.
fn bar(error: f64, bound: f64, good: bool) -> String {
    let class = if good { "good" } else { "bad" };
    let error = if error.is_nan() { f64::INFINITY } else { error };
    format!(
        "<svg class=\"bar {class}\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"scale\" width=\"100\" height=\"10\"/>\
         <rect class=\"error\" y=\"2\" width=\"{:.1}\" height=\"6\"/>\
         <rect class=\"bound\" x=\"{:.1}\" width=\"1.5\" height=\"10\"/></svg>",
        place(error),
        place(bound) - 0.75
    )
}

/// A number of the report, as the page shows it and with all of its digits.
pub(super) fn number(x: f64) -> String {
    let shown = if x == 0.0 { "0".to_owned() } else { format!("{x:.1e}") };
    format!("<span data-value=\"{x:e}\">{shown}</span>")
}

fn checks(item: &Item, label: &str) -> String {
    let mut html = format!(
        "<table class=\"checks\"><caption>Checks of {label}</caption>\n<thead><tr><th scope=\"col\">What was \
         compared</th><th scope=\"col\">Error</th><th scope=\"col\">Bound</th>\
         <th scope=\"col\">10<sup>{LOWEST}</sup> to 10<sup>{HIGHEST}</sup></th></tr></thead>\n<tbody>\n"
    );
    for check in &item.checks {
        let verdict = match check.ok {
            true => "<span class=\"good\" title=\"within its bound\">\u{2713}</span>",
            false => "<strong class=\"bad\">beyond its bound</strong>",
        };
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{verdict} {}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&check.name),
            number(check.error),
            number(check.bound),
            bar(check.error, check.bound, check.ok)
        );
    }
    html + "</tbody>\n</table>\n"
}

/// A misprint beside what it should be, and the numbers of both.
fn refutation(misprint: &Misprint) -> String {
    let Misprint { id, printed, measured, printed_error, correct_error, bound, refuted } = *misprint;
    let math = |tex: Option<&str>| tex.map_or_else(String::new, math::display);
    let forms = forms::of(id, printed);
    let side = |class: &str, heading: &str, tex: Option<&str>, error: f64, good: bool| {
        format!(
            "<div class=\"{class}\"><h4>{heading}</h4><div class=\"equation\" role=\"group\" tabindex=\"0\" \
             aria-label=\"{heading}\">{}</div><p>{}: {} {}</p></div>\n",
            math(tex),
            escape(measured),
            number(error),
            bar(error, bound, good)
        )
    };
    let mut html = paragraph(&format!("The slides print: {printed}."));
    html += "<div class=\"misprint\">\n";
    html += &side("printed", "As printed", forms.map(|f| f.printed), printed_error, false);
    html += &side("right", "As it is", forms.map(|f| f.right), correct_error, correct_error <= bound);
    html += "</div>\n";
    let verdict = if refuted { "refuted" } else { "<strong class=\"bad\">not refuted</strong>" };
    let _ =
        writeln!(html, "<p>The bound between them is {}: the printed form is {verdict}.</p>", number(bound));
    html
}

/// The function's text.
fn code(function: &str, is_known: &dyn Fn(&str) -> bool) -> String {
    let name = function.rsplit("::").next().unwrap_or(function);
    let Some(source) = source::of(name) else {
        return paragraph(&format!("The function {function}."));
    };
    let link = |identifier: &str| {
        let id = identifier.split('_').next().filter(|id| identifier.len() > id.len() && is_known(id))?;
        (identifier != name).then(|| format!("#{id}"))
    };
    format!(
        "<figure class=\"code\"><figcaption><code>{}</code>, line {}</figcaption>\
         <pre><code>{}</code></pre></figure>\n",
        source.file,
        source.line,
        highlight(&source.text, link)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_links_where_the_page_has_them() {
        let known = |id: &str| id == "eq09" || id == "s07";
        assert_eq!(
            sentence("as (9) and (S7), not (10) or f(x) < 1", &known),
            "as <a href=\"#eq09\">(9)</a> and <a href=\"#s07\">(S7)</a>, not (10) or f(x) &lt; 1"
        );
        assert!(sentence("at $t$.", &known).contains("<math"));
    }

    #[test]
    fn bars_have_a_place_for_every_number() {
        assert_eq!(
            [0.0, 1e-18, 1e-8, 1e2, f64::INFINITY, -1.0].map(place),
            [0.0, 0.0, 50.0, 100.0, 100.0, 0.0]
        );
        assert!(bar(f64::NAN, 1.0, false).contains("width=\"100.0\""));
    }

    #[test]
    fn numbers_keep_their_digits() {
        let x = 0.1 + 0.2;
        assert!(number(x).contains(&format!("value=\"{x:e}\"")) && number(x).contains(">3.0e-1<"));
    }
}
