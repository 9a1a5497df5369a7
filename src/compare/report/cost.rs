//! The attention layer alone.

use super::{Draft, equations};
use crate::compare::{Cost, CostPoint, Crossover, Part};
use crate::config::{AttentionKind, FeatureMap};
use crate::error::Result;
use crate::output::html::{paragraph, remarks};
use crate::output::table::{Cell, Table};
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series};

/// The section of the layer's cost.
pub(super) fn section(draft: &mut Draft) -> Result<String> {
    const TITLE: &str = "The attention layer alone";
    let findings = draft.findings;
    let Some(cost) = &findings.cost else { return Ok(draft.left_out(TITLE, Part::Cost)) };
    let sizes = &findings.plan.cost;
    let mut html = format!("<h2>{TITLE}</h2>\n");
    html += &paragraph(&format!(
        "{} heads of d = {}, one sample, one thread. FAVOR+ takes fewer operations than softmax from L = 2m \
         on where its features have one function, and from L = 3m on where they have two. The measured times \
         include the exponentials, which both need.",
        sizes.heads, sizes.dim
    ));
    html += &format!("<dl>{}{}{}</dl>\n", equations::softmax(), equations::favor(), equations::break_even());
    html += "<div class=\"figures\">\n";
    html += &draft.chart(
        "cost-time",
        "Forward and backward of one layer.",
        time_chart(cost, |p| p.step_seconds),
    )?;
    html += &draft.chart(
        "cost-forward-time",
        "Forward alone, as in sampling.",
        time_chart(cost, |p| p.forward_seconds),
    )?;
    html += &draft.chart("cost-memory", MEMORY, memory_chart(draft))?;
    html += &draft.chart(
        "cost-break-even",
        "The L from which FAVOR+ is faster, measured and by the count of operations. A kind that is faster, \
         or slower, at every measured L has no point.",
        break_even_chart(cost),
    )?;
    html += "</div>\n";
    html += &draft.table(&break_even_table(cost));
    html += &remarks(&cost.left_out.iter().map(|what| format!("Not measured: {what}.")).collect::<Vec<_>>());
    draft.data(&points_table(cost));
    Ok(html)
}

const MEMORY: &str = "What the layer saves for its backward pass, and its workspace, beyond q, k, v, the \
                      output and their gradients. Neither kind stores an L x L matrix here; the dashed line \
                      is what one would take.";

/// A kind's name in charts and tables.
fn name(variant: AttentionKind, features: Option<usize>) -> String {
    features.map_or(variant.to_string(), |m| format!("{variant}, m = {m}"))
}

/// The kinds in the order in which they were measured.
fn kinds(cost: &Cost) -> Vec<(AttentionKind, Option<usize>)> {
    let mut kinds = Vec::new();
    for point in &cost.points {
        if !kinds.contains(&(point.variant, point.features)) {
            kinds.push((point.variant, point.features));
        }
    }
    kinds
}

fn series(cost: &Cost, value: impl Fn(&CostPoint) -> f64) -> Vec<Series> {
    let kinds = kinds(cost).into_iter().enumerate();
    kinds
        .map(|(colour, (variant, features))| Series {
            name: name(variant, features),
            points: cost
                .points
                .iter()
                .filter(|p| (p.variant, p.features) == (variant, features))
                .map(|p| (p.tokens as f64, value(p)))
                .collect(),
            colour,
            look: if variant == AttentionKind::Favor(FeatureMap::Hyperbolic) {
                Look::Line
            } else {
                Look::Dots
            },
        })
        .collect()
}

fn time_chart(cost: &Cost, value: impl Fn(&CostPoint) -> f64) -> Chart<'static> {
    Chart {
        x: ChartAxis { label: "L, tokens", scale: Scale::Doublings },
        y: ChartAxis { label: "seconds", scale: Scale::Logarithmic },
        series: series(cost, value),
        legend: Corner::UpperLeft,
    }
}

fn memory_chart(draft: &Draft) -> Chart<'static> {
    let findings = draft.findings;
    let sizes = &findings.plan.cost;
    let mut all = findings.cost.as_ref().map_or_else(Vec::new, |cost| series(cost, |p| p.extra_mib));
    let square = |l: &usize| (*l as f64, (4 * sizes.heads * l * l) as f64 / f64::from(1 << 20));
    all.push(Series {
        name: "an L x L matrix a head".into(),
        points: sizes.tokens.iter().map(square).collect(),
        colour: 0,
        look: Look::Dashed,
    });
    Chart {
        x: ChartAxis { label: "L, tokens", scale: Scale::Doublings },
        y: ChartAxis { label: "MiB", scale: Scale::Logarithmic },
        series: all,
        legend: Corner::UpperLeft,
    }
}

fn at(crossover: Crossover) -> Option<f64> {
    match crossover {
        Crossover::At(l) => Some(l),
        Crossover::Below(_) | Crossover::Above(_) => None,
    }
}

fn break_even_chart(cost: &Cost) -> Chart<'static> {
    let of = |variant: AttentionKind, value: fn(&crate::compare::BreakEven) -> Option<f64>| {
        let kinds = cost.break_even.iter().filter(move |kind| kind.variant == variant);
        kinds.filter_map(|kind| Some((kind.features as f64, value(kind)?))).collect::<Vec<_>>()
    };
    let line = |name: &str, points, colour, look| Series { name: name.into(), points, colour, look };
    Chart {
        x: ChartAxis { label: "m", scale: Scale::Doublings },
        y: ChartAxis { label: "L", scale: Scale::Doublings },
        series: vec![
            line(
                "2m, counted",
                of(AttentionKind::FAVOR, |kind| Some(kind.predicted as f64)),
                1,
                Look::Dashed,
            ),
            line(
                "favor, forward and backward",
                of(AttentionKind::FAVOR, |kind| at(kind.step)),
                1,
                Look::Dots,
            ),
            line("favor, forward", of(AttentionKind::FAVOR, |kind| at(kind.forward)), 6, Look::Dots),
            line(
                "3m, counted",
                of(AttentionKind::Favor(FeatureMap::Hyperbolic), |kind| Some(kind.predicted as f64)),
                2,
                Look::Dashed,
            ),
            line(
                "hyperbolic, forward and backward",
                of(AttentionKind::Favor(FeatureMap::Hyperbolic), |kind| at(kind.step)),
                2,
                Look::Dots,
            ),
        ],
        legend: Corner::UpperLeft,
    }
}

fn break_even_table(cost: &Cost) -> Table {
    let cell = |crossover: Crossover| match crossover {
        Crossover::At(l) => Cell::number(l, 3),
        Crossover::Below(l) => Cell::text(format!("below {l}")),
        Crossover::Above(l) => Cell::text(format!("above {l}")),
    };
    let rows = cost.break_even.iter().map(|kind| {
        vec![
            Cell::text(name(kind.variant, Some(kind.features))),
            Cell::count(kind.predicted as u64),
            cell(kind.step),
            cell(kind.forward),
        ]
    });
    Table {
        name: "break-even",
        caption: "The L from which FAVOR+ is faster than softmax".into(),
        columns: vec!["attention", "L counted", "L, forward and backward", "L, forward"],
        rows: rows.collect(),
    }
}

fn points_table(cost: &Cost) -> Table {
    let rows = cost.points.iter().map(|p| {
        vec![
            Cell::text(p.variant),
            Cell::count(p.features.map(|m| m as u64)),
            Cell::count(p.tokens as u64),
            Cell::number(p.forward_seconds, 6),
            Cell::number(p.step_seconds, 6),
            Cell::number(p.extra_mib, 6),
        ]
    });
    Table {
        name: "cost",
        caption: String::new(),
        columns: vec!["attention", "m", "L", "forward seconds", "forward and backward seconds", "extra MiB"],
        rows: rows.collect(),
    }
}
