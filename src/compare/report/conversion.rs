//! Softmax weights run with FAVOR+.

use super::runs::colour;
use super::{Draft, estimate};
use crate::compare::conversion::GRID;
use crate::compare::{BesideSoftmax, Conversion, Part};
use crate::config::{AttentionKind, FeatureMap};
use crate::error::Result;
use crate::output::html::{paragraph, remarks};
use crate::output::table::{Cell, Table};
use crate::output::{Chart, ChartAxis, Corner, Look, Scale, Series};

/// The section of the conversion.
pub(super) fn section(draft: &mut Draft) -> Result<String> {
    const TITLE: &str = "Softmax weights run with FAVOR+";
    let findings = draft.findings;
    let Some(found) = &findings.conversion else {
        return Ok(match findings.no_conversion() {
            Some(why) => format!("<h2>{TITLE}</h2>\n{}", paragraph(&format!("Left out: {why}."))),
            None => draft.left_out(TITLE, Part::Conversion),
        });
    };
    let sizes = &findings.plan.conversion;
    let mut html = format!("<h2>{TITLE}</h2>\n");
    html += &paragraph(&format!(
        "The weights of the softmax run ({} steps, held-out loss {:.5}, {:.3} \u{b1} {:.3} bits/dim on {} \
         images) run with FAVOR+ instead of softmax, without training. Losses are means over {} draws of the \
         projections, and their errors include the spread of the draws; bits and samples are of the first \
         draw. Then the same weights after further training for {} of the run's steps, and softmax after the \
         same training.",
        found.softmax_steps,
        found.softmax_loss.mean,
        found.softmax_bits_per_dim.mean,
        found.softmax_bits_per_dim.standard_error,
        sizes.images,
        sizes.draws,
        percent(sizes.share)
    ));
    html += "<div class=\"figures\">\n";
    html += &draft.chart(
        "conversion-loss",
        "How much higher the held-out loss is than softmax's own, with the same t and noise.",
        loss_chart(found),
    )?;
    html += &draft.chart(
        "conversion-samples",
        "The difference of samples from softmax's, from the same noise: root mean square, images spanning -1 \
         to 1.",
        sample_chart(found),
    )?;
    html += "</div>\n";
    let rows: Vec<String> = found.grid_rows.iter().map(|m| format!("m = {m}")).collect();
    let caption = format!(
        "Samples from the same noise: softmax in the first row, then the same weights with positive \
         features, {}",
        rows.join(", ")
    );
    html += &draft.picture(GRID, &caption);
    html += &draft.table(&in_place_table(found));
    html += &draft.table(&tuned_table(found));
    html += &remarks(&notes(found));
    Ok(html)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn series(found: &Conversion, value: impl Fn(&BesideSoftmax) -> Option<f64>) -> Vec<Series> {
    [AttentionKind::FAVOR, AttentionKind::Favor(FeatureMap::Hyperbolic)]
        .into_iter()
        .map(|variant| Series {
            name: format!("{variant} in place"),
            points: found
                .in_place
                .iter()
                .filter(|kind| kind.variant == variant)
                .filter_map(|kind| Some((kind.features as f64, value(&kind.measured)?)))
                .collect(),
            colour: colour(variant),
            look: Look::Dots,
        })
        .collect()
}

/// The fine-tuned networks with FAVOR+ as points of the same charts.
fn tuned(found: &Conversion, value: impl Fn(&BesideSoftmax) -> Option<f64>) -> Series {
    let points =
        found.fine_tuned.iter().filter_map(|kind| Some((kind.features? as f64, value(&kind.measured)?)));
    Series { name: "favor, fine-tuned".into(), points: points.collect(), colour: 3, look: Look::Dots }
}

fn over_m(label: &'static str, legend: Corner, series: Vec<Series>) -> Chart<'static> {
    Chart {
        x: ChartAxis { label: "m", scale: Scale::Doublings },
        y: ChartAxis { label, scale: Scale::Logarithmic },
        series,
        legend,
    }
}

fn loss_chart(found: &Conversion) -> Chart<'static> {
    let mut all = series(found, |kind| kind.above_softmax.map(|above| above.mean));
    all.push(tuned(found, |kind| kind.above_softmax.map(|above| above.mean)));
    let m = found.in_place.iter().map(|kind| kind.features as f64);
    let (low, high) = m.fold((f64::INFINITY, 0f64), |(a, b), m| (a.min(m), b.max(m)));
    all.push(Series {
        name: "softmax's loss itself".into(),
        points: vec![(low, found.softmax_loss.mean), (high, found.softmax_loss.mean)],
        colour: 0,
        look: Look::Dashed,
    });
    over_m("loss above softmax's", Corner::UpperRight, all)
}

fn sample_chart(found: &Conversion) -> Chart<'static> {
    let mut all = series(found, |kind| kind.sample_difference);
    all.push(tuned(found, |kind| kind.sample_difference));
    let softmax = found.fine_tuned.iter().find(|kind| kind.variant == AttentionKind::Softmax);
    if let Some(difference) = softmax.and_then(|kind| kind.measured.sample_difference) {
        let m = found.in_place.iter().map(|kind| (kind.features as f64, difference));
        all.push(Series {
            name: "softmax, fine-tuned".into(),
            points: m.collect(),
            colour: 0,
            look: Look::Dashed,
        });
    }
    over_m("difference of samples", Corner::LowerRight, all)
}

/// The columns of [`BesideSoftmax`].
const MEASURED: [&str; 4] =
    ["held-out loss", "above the softmax weights'", "bits/dim", "difference of samples"];

fn measured(beside: &BesideSoftmax) -> [Cell; 4] {
    [
        Cell::number(beside.held_out_loss, 4),
        estimate(beside.above_softmax),
        estimate(beside.bits_per_dim),
        Cell::number(beside.sample_difference, 3),
    ]
}

fn in_place_table(found: &Conversion) -> Table {
    let rows = found.in_place.iter().map(|kind| {
        let mut row = vec![Cell::text(kind.variant), Cell::count(kind.features as u64)];
        row.extend(measured(&kind.measured));
        row
    });
    Table {
        name: "conversion",
        caption: "Softmax weights run with FAVOR+, without training".into(),
        columns: ["attention", "m"].into_iter().chain(MEASURED).collect(),
        rows: rows.collect(),
    }
}

fn tuned_table(found: &Conversion) -> Table {
    let rows = found.fine_tuned.iter().map(|kind| {
        let m = kind.features.map(|m| m as u64);
        let mut row = vec![Cell::text(kind.variant), Cell::count(m), Cell::count(kind.training.steps)];
        row.extend(measured(&kind.measured));
        row
    });
    Table {
        name: "fine-tuning",
        caption: "The same weights after further training".into(),
        columns: ["attention", "m", "further steps"].into_iter().chain(MEASURED).collect(),
        rows: rows.collect(),
    }
}

fn notes(found: &Conversion) -> Vec<String> {
    let in_place = found.in_place.iter().flat_map(|kind| {
        kind.measured.notes.iter().map(|note| format!("{} with m = {}: {note}.", kind.variant, kind.features))
    });
    let tuned = found.fine_tuned.iter().flat_map(|kind| {
        let name =
            kind.features.map_or(kind.variant.to_string(), |m| format!("{} with m = {m}", kind.variant));
        let diverged = kind.training.diverged.iter().map({
            let name = name.clone();
            move |what| format!("{name}, fine-tuned, diverged: {what}.")
        });
        diverged.chain(kind.measured.notes.iter().map(move |note| format!("{name}, fine-tuned: {note}.")))
    });
    let mut notes: Vec<String> = in_place.chain(tuned).collect();
    notes.dedup();
    let not_above = |measured: &BesideSoftmax| measured.above_softmax.is_some_and(|above| above.mean <= 0.0);
    let in_place = found.in_place.iter().filter(|kind| not_above(&kind.measured));
    let in_place = in_place.map(|kind| format!("{} with m = {}", kind.variant, kind.features));
    let tuned = found.fine_tuned.iter().filter(|kind| not_above(&kind.measured));
    let tuned =
        tuned.filter_map(|kind| Some(format!("{} with m = {}, fine-tuned,", kind.variant, kind.features?)));
    notes.extend(in_place.chain(tuned).map(|name| {
        format!("{name} has no larger loss than the softmax weights and no point in the chart.")
    }));
    notes
}
