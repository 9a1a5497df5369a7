//! One step of a sampler as ONNX operators: the update that [`State::advance`] executes, from a row of
//! numbers of a [`StepForm`].
//!
//! [`State::advance`]: crate::equations::solver::State::advance

use super::learned::log_variance;
use crate::equations::solver::{Learned, StepForm};
use crate::model::graph::Shape;
use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ReshapeDim, SliceRange, Unary, Value};
use performer_ddpm_onnx::{Error, Result};

/// What a step is computed from.
pub(super) struct Inputs<'a> {
    /// x_t \[N, C, H, W\].
    pub x: Value,
    /// The network's output for it, with C or, with a variance, 2 C channels.
    pub output: Value,
    /// The row of the step: as many numbers as the form has names.
    pub row: Value,
    /// Fresh noise; `None` where no step adds any.
    pub z: Option<Value>,
    /// What the form carries, in its order.
    pub carried: &'a [Value],
}

/// Writes a step for images of `shape`: x_next, and what is carried to the next step, in the form's order.
pub(super) fn write(
    g: &mut GraphBuilder,
    form: &StepForm,
    shape: Shape,
    inputs: Inputs,
) -> Result<(Value, Vec<Value>)> {
    let Inputs { x, output, row, z, carried } = inputs;
    let names = form.names();
    let parts = g.within("update", "the numbers of the step", |g| g.split(row, 0, &vec![1; names.len()]))?;
    let number = |name: &str| {
        let place = names.iter().position(|known| *known == name);
        let absent = || Error::invalid("update", "a number of the row", name, "");
        place.and_then(|place| parts.get(place)).copied().ok_or_else(absent)
    };
    let (m, u) = outputs(g, shape, output)?;
    let (earlier, base) = carried.split_at(form.history);
    let earlier_terms = |prefix: &str, most: usize| -> Result<Vec<(Value, Value)>> {
        let terms = earlier.iter().take(most).enumerate();
        terms.map(|(i, x0)| Ok((number(&format!("{prefix}_{}", i + 1))?, *x0))).collect()
    };

    let doc = "(3) solved for x_0, or (S1), clipped: x0 = clamp(a_x x + a_m m, low, high)";
    let (low, high, terms) = (number("low")?, number("high")?, [(number("a_x")?, x), (number("a_m")?, m)]);
    let x0 = g.within("update/x0", doc, |g| {
        let x0 = weighted(g, &terms)?;
        let x0 = g.binary(Binary::Max, x0, low)?;
        g.binary(Binary::Min, x0, high)
    })?;
    let x0 = match form.threshold {
        None => x0,
        Some(numbers) => threshold(g, numbers, shape, x0)?,
    };

    let corrected = if let Some(base) = base.first() {
        let mut terms = vec![(number("c_x")?, x), (number("c_base")?, *base), (number("c_x0")?, x0)];
        terms.extend(earlier_terms("c_x0", 3)?);
        let doc = "(S3) the step before, corrected: base = c_x x + c_base base + c_x0 x0 + c_x0_1 x0' + ..";
        g.within("update/base", doc, |g| weighted(g, &terms))?
    } else {
        x
    };

    let mut terms = vec![(number("b_x0")?, x0), (number("b_x")?, corrected), (number("b_m")?, m)];
    terms.extend(earlier_terms("b_x0", 2)?);
    if let Some(z) = z {
        let sigma = number("sigma")?;
        let sigma = match (form.learned, u) {
            (Some(learned), Some(u)) => {
                let learns = number("learns")?;
                let range = match learned {
                    Learned::Range => Some([number("ln_small")?, number("ln_large")?]),
                    Learned::Variance => None,
                };
                learned_sigma(g, sigma, learns, range, u)?
            }
            _ => sigma,
        };
        terms.push((sigma, z));
    }
    let doc = "(15) with (13) and (11) or (12), DDIM's step, or a solver's, (S4): x_next = b_x0 x0 + b_x base \
               + b_m m + b_x0_1 x0' + .. + sigma z";
    let next = g.within("update/x_next", doc, |g| weighted(g, &terms))?;

    let newest = if form.history > 0 { Some(x0) } else { None };
    let kept = earlier.iter().copied().take(form.history.saturating_sub(1));
    let base = base.first().map(|_| corrected);
    Ok((next, newest.into_iter().chain(kept).chain(base).collect()))
}

/// The prediction and, where there is one, the variance in the network's output.
fn outputs(g: &mut GraphBuilder, shape: Shape, output: Value) -> Result<(Value, Option<Value>)> {
    let c = shape.c;
    if g.shape(output)?.dims()[1].known() == Some(c) {
        return Ok((output, None));
    }
    let doc = "the prediction and what the network says of the variance";
    let parts = g.within("update", doc, |g| g.split(output, 1, &[c, c]))?;
    Ok((parts[0], Some(parts[1])))
}

/// The sum of factors times values.
fn weighted(g: &mut GraphBuilder, terms: &[(Value, Value)]) -> Result<Value> {
    let mut sum = None;
    for (factor, value) in terms {
        let term = g.mul(*factor, *value)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => g.add(sum, term)?,
        });
    }
    sum.ok_or_else(|| Error::invalid("update", "at least one term", "none", ""))
}

/// (S2) The quantile lies between two of the largest magnitudes of an image.
fn threshold(g: &mut GraphBuilder, [ratio, max]: [f64; 2], shape: Shape, x0: Value) -> Result<Value> {
    let last = shape.len() - 1;
    let rank = ratio * last as f64;
    let below = (rank.floor() as usize).min(last);
    let doc = "(S2) s = the quantile of an image's magnitudes, at least 1 and at most its bound; x0 = \
               clamp(x0, -s, s) / s";
    g.within("update/threshold", doc, |g| {
        let sizes = g.unary(Unary::Abs, x0)?;
        let sizes = g.reshape(sizes, &[ReshapeDim::Copy, ReshapeDim::To(shape.len())])?;
        let above = last - below;
        let largest = g.largest(sizes, 1, above + 1)?;
        let at = |g: &mut GraphBuilder, place: usize| {
            g.slice(largest, &[SliceRange { axis: 1, start: place, end: place + 1, step: 1 }])
        };
        let low = at(g, above)?;
        let high = at(g, above.saturating_sub(1))?;
        let share = g.scalar((rank - below as f64) as f32)?;
        let gap = g.sub(high, low)?;
        let part = g.mul(share, gap)?;
        let quantile = g.add(low, part)?;
        let (one, most) = (g.scalar(1.0)?, g.scalar(max as f32)?);
        let s = g.binary(Binary::Max, quantile, one)?;
        let s = g.binary(Binary::Min, s, most)?;
        let s = g.unsqueeze(s, &[2, 3])?;
        let minus = g.unary(Unary::Neg, s)?;
        let cut = g.binary(Binary::Max, x0, minus)?;
        let cut = g.binary(Binary::Min, cut, s)?;
        g.div(cut, s)
    })
}

/// sigma + learns s(u): see [`StepForm::names`]. Where the step does not learn, u may be anything.
fn learned_sigma(
    g: &mut GraphBuilder,
    sigma: Value,
    learns: Value,
    range: Option<[Value; 2]>,
    u: Value,
) -> Result<Value> {
    let doc = "ln sigma^2 = w ln_large + (1 - w) ln_small with w = (u + 1)/2, or sigma^2 = u";
    g.within("update/sigma", doc, |g| {
        let (zero, half) = (g.scalar(0.0)?, g.scalar(0.5)?);
        let root = match range {
            None => g.unary(Unary::Sqrt, u)?,
            Some([ln_small, ln_large]) => {
                let logarithm = log_variance(g, u, [ln_small, ln_large])?;
                let logarithm = g.mul(logarithm, half)?;
                g.unary(Unary::Exp, logarithm)?
            }
        };
        let is_learned = g.binary(Binary::Less, zero, learns)?;
        let learned = g.choose(is_learned, root, zero)?;
        g.add(sigma, learned)
    })
}
