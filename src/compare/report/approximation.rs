//! The random features' error.

use super::runs::colour;
use super::{Draft, equations};
use crate::compare::{Approximation, ApproximationPoint, Part};
use crate::config::{AttentionKind, FeatureMap};
use crate::error::Result;
use crate::output::html::{paragraph, remarks};
use crate::output::table::{Cell, Table};
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series};

/// The section of the error over m.
pub(super) fn section(draft: &mut Draft) -> Result<String> {
    const TITLE: &str = "The random features' error";
    let findings = draft.findings;
    let Some(found) = &findings.approximation else { return Ok(draft.left_out(TITLE, Part::Approximation)) };
    let sizes = &findings.plan.approximation;
    let mut html = format!("<h2>{TITLE}</h2>\n");
    html += &paragraph(&format!(
        "{} queries and keys of d = {} with independent normal entries. The relative errors of the kernel \
         and of attention are root mean squares over {} draws of the projections. In theory both fall as m \
         to the power of -1/2, and orthogonal projections have the smaller error. With long queries and keys \
         FAVOR+ becomes noise: the variance grows with the exponential of |x + y|\u{b2}.",
        sizes.tokens, sizes.dim, sizes.draws
    ));
    html += &format!("<dl>{}</dl>\n", equations::variance());
    html += "<div class=\"figures\">\n";
    for &spread in &sizes.spreads {
        html += &draft.chart(
            &format!("approximation-kernel-{spread}"),
            &format!("The kernel's error, entries of standard deviation {spread}."),
            kernel_chart(found, spread),
        )?;
        html += &draft.chart(
            &format!("approximation-attention-{spread}"),
            &format!(
                "Attention's error with orthogonal projections, entries of standard deviation {spread}."
            ),
            attention_chart(found, spread),
        )?;
    }
    html += "</div>\n";
    html += &draft.table(&table(found));
    html += &remarks(&[
        "The measured error of heavy-tailed estimates (large exponents) is mostly below its theoretical \
         value, because most of the variance comes from rare draws. Trigonometric features have the largest \
         error where the kernel is small."
            .to_owned(),
    ]);
    draft.data(&points_table(found));
    Ok(html)
}

fn points(
    found: &Approximation,
    of: (AttentionKind, bool, f64),
    value: impl Fn(&ApproximationPoint) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let kind = found.points.iter().filter(|p| (p.variant, p.orthogonal, p.spread) == of);
    kind.filter_map(|p| Some((p.features as f64, value(p)?))).collect()
}

fn over_m(label: &'static str, series: Vec<Series>) -> Chart<'static> {
    Chart {
        x: ChartAxis { label: "m", scale: Scale::Doublings },
        y: ChartAxis { label, scale: Scale::Logarithmic },
        series,
        legend: Corner::UpperRight,
    }
}

/// 1/sqrt(m) through the first point of a line.
fn root_law(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let Some(&(m0, error)) = points.first() else { return Vec::new() };
    points.iter().map(|&(m, _)| (m, error * (m0 / m).sqrt())).collect()
}

fn kernel_chart(found: &Approximation, spread: f64) -> Chart<'static> {
    let favor = |orthogonal, value: fn(&ApproximationPoint) -> Option<f64>| {
        points(found, (AttentionKind::FAVOR, orthogonal, spread), value)
    };
    let line = |name: &str, points, colour, look| Series { name: name.into(), points, colour, look };
    over_m(
        "relative error of the kernel",
        vec![
            line("positive, i.i.d.", favor(false, |p| Some(p.kernel_error)), 2, Look::Dots),
            line("positive, orthogonal", favor(true, |p| Some(p.kernel_error)), 1, Look::Dots),
            line("Lemma 2 for i.i.d.", favor(false, |p| p.predicted_kernel_error), 0, Look::Dashed),
            line(
                "trigonometric, orthogonal",
                points(found, (AttentionKind::Favor(FeatureMap::Trigonometric), true, spread), |p| {
                    Some(p.kernel_error)
                }),
                3,
                Look::Line,
            ),
        ],
    )
}

fn attention_chart(found: &Approximation, spread: f64) -> Chart<'static> {
    let of = |variant, orthogonal| points(found, (variant, orthogonal, spread), |p| p.attention_error);
    let line = |name: &str, points, colour, look| Series { name: name.into(), points, colour, look };
    let mut series = vec![line("positive, i.i.d.", of(AttentionKind::FAVOR, false), 5, Look::Line)];
    let maps = [
        ("positive", AttentionKind::FAVOR),
        ("hyperbolic", AttentionKind::Favor(FeatureMap::Hyperbolic)),
        ("trigonometric", AttentionKind::Favor(FeatureMap::Trigonometric)),
    ];
    for (name, variant) in maps {
        series.push(line(name, of(variant, true), colour(variant), Look::Dots));
    }
    series.push(line("1/sqrt(m)", root_law(&of(AttentionKind::FAVOR, true)), 0, Look::Dashed));
    over_m("relative error of attention", series)
}

fn table(found: &Approximation) -> Table {
    let last = |variant, orthogonal, spread| {
        found.points.iter().rfind(|p| (p.variant, p.orthogonal, p.spread) == (variant, orthogonal, spread))
    };
    let rows = found.slopes.iter().map(|slope| {
        let end = last(slope.variant, slope.orthogonal, slope.spread);
        vec![
            Cell::text(slope.variant),
            Cell::text(if slope.orthogonal { "orthogonal" } else { "i.i.d." }),
            Cell::number(slope.spread, 2),
            Cell::number(slope.kernel, 2),
            Cell::number(slope.attention, 2),
            Cell::number(end.map(|p| p.kernel_error), 3),
            Cell::number(end.and_then(|p| p.attention_error), 3),
        ]
    });
    Table {
        name: "approximation-slopes",
        caption: "Exponents of m, -0.5 in theory, fitted to the larger half of the m; and the errors at the \
              largest m"
            .into(),
        columns: vec![
            "features",
            "projections",
            "standard deviation",
            "exponent, kernel",
            "exponent, attention",
            "kernel's error",
            "attention's error",
        ],
        rows: rows.collect(),
    }
}

fn points_table(found: &Approximation) -> Table {
    let rows = found.points.iter().map(|p| {
        vec![
            Cell::text(p.variant),
            Cell::text(if p.orthogonal { "orthogonal" } else { "iid" }),
            Cell::number(p.spread, 6),
            Cell::count(p.features as u64),
            Cell::number(p.kernel_error, 6),
            Cell::number(p.predicted_kernel_error, 6),
            Cell::number(p.attention_error, 6),
        ]
    });
    Table {
        name: "approximation",
        caption: String::new(),
        columns: vec![
            "features",
            "projections",
            "standard deviation",
            "m",
            "kernel error",
            "predicted kernel error",
            "attention error",
        ],
        rows: rows.collect(),
    }
}
