//! The attention layer alone: time and memory of softmax and FAVOR+ for various L and m, on one thread.

use super::context::Context;
use super::sizes::CostSizes;
use crate::config::{AttentionKind, FeatureMap};
use crate::error::Result;
use crate::kernels::{Isa, Team, transpose};
use crate::nn::{
    Attention, AttentionOutput, AttentionShape, Context as LayerContext, Projections, Qkv, QkvGradient,
};
use crate::rng::{Stream, fill_normal, rng};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// One kind of attention at one L.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostPoint {
    /// The attention.
    pub variant: AttentionKind,
    /// m; `None` for softmax.
    pub features: Option<usize>,
    /// L.
    pub tokens: usize,
    /// The median seconds of a forward pass.
    pub forward_seconds: f64,
    /// The median seconds of a forward and a backward pass.
    pub step_seconds: f64,
    /// MiB that the two passes need beyond q, k, v, the output and their gradients: what is saved between
    /// them, and workspace.
    pub extra_mib: f64,
}

/// The L from which FAVOR+ is faster than softmax.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crossover {
    /// About this L, interpolated between two measured ones.
    At(f64),
    /// FAVOR+ is faster even at the shortest measured L.
    Below(usize),
    /// FAVOR+ is slower even at the longest L at which both were measured.
    Above(usize),
}

/// Where a kind of FAVOR+ becomes faster than softmax.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// The attention.
    pub variant: AttentionKind,
    /// m.
    pub features: usize,
    /// By counting operations: 2m for one function, 3m for two.
    pub predicted: usize,
    /// Measured, forward.
    pub forward: Crossover,
    /// Measured, forward and backward.
    pub step: Crossover,
}

/// The study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Every point.
    pub points: Vec<CostPoint>,
    /// Where each kind of FAVOR+ becomes faster than softmax.
    pub break_even: Vec<BreakEven>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
}

/// Measures; `None` where it was asked to stop.
pub(super) fn study(context: &mut Context, sizes: &CostSizes) -> Result<Option<Cost>> {
    let kinds = kinds(sizes);
    let mut points: Vec<CostPoint> = Vec::new();
    let mut left_out = Vec::new();
    let total = (kinds.len() * sizes.tokens.len()) as f64;
    for (i, &tokens) in sizes.tokens.iter().enumerate() {
        for (j, &(variant, features)) in kinds.iter().enumerate() {
            if (context.stop)() {
                return Ok(None);
            }
            let name = features.map_or(variant.to_string(), |m| format!("{variant} with m = {m}"));
            (context.progress)((i * kinds.len() + j) as f64 / total, &format!("{name}, L = {tokens}"));
            let shorter = points.iter().rev().find(|p| (p.variant, p.features) == (variant, features));
            // Softmax's work grows with L^2 and FAVOR+'s with L.
            let power = if features.is_none() { 2 } else { 1 };
            let expected = shorter
                .map(|p| p.step_seconds * (tokens as f64 / p.tokens as f64).powi(power))
                .unwrap_or(0.0);
            if expected > sizes.most_seconds {
                let most = sizes.most_seconds;
                left_out.push(format!(
                    "{name} at L = {tokens}: about {expected:.0} s per pass, more than the {most:.0} s \
                     allowed"
                ));
                continue;
            }
            points.push(measure(context.kernels.isa, sizes, variant, features, tokens)?);
        }
    }
    let break_even = kinds.iter().filter_map(|&(variant, features)| {
        let (features, functions) = (features?, variant.map()?.functions());
        Some(BreakEven {
            variant,
            features,
            predicted: (1 + functions) * features,
            forward: crossover(&points, variant, features, |p| p.forward_seconds)?,
            step: crossover(&points, variant, features, |p| p.step_seconds)?,
        })
    });
    let break_even = break_even.collect();
    Ok(Some(Cost { points, break_even, left_out }))
}

/// Softmax, one function at every m, two functions at the smallest and at the largest.
fn kinds(sizes: &CostSizes) -> Vec<(AttentionKind, Option<usize>)> {
    let mut ends = vec![sizes.features.first(), sizes.features.last()];
    ends.dedup();
    let one = sizes.features.iter().map(|m| (AttentionKind::FAVOR, Some(*m)));
    let two = ends.into_iter().flatten().map(|m| (AttentionKind::Favor(FeatureMap::Hyperbolic), Some(*m)));
    std::iter::once((AttentionKind::Softmax, None)).chain(one).chain(two).collect()
}

fn normal(len: usize, id: u64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    fill_normal(&mut rng(0, Stream::Check, len as u64, id), &mut x);
    x
}

fn measure(
    isa: Isa,
    sizes: &CostSizes,
    variant: AttentionKind,
    features: Option<usize>,
    tokens: usize,
) -> Result<CostPoint> {
    let CostSizes { heads, dim, .. } = *sizes;
    let m = features.unwrap_or(0);
    let attention = Attention::new(variant, AttentionShape { tokens, heads, dim, features: m })?;
    let len = tokens * heads * dim;
    let w = normal(m * dim, 0);
    let mut w_t = w.clone();
    transpose(&w, m, dim, &mut w_t);
    let projections = Projections { w: &w, w_t: &w_t };
    let [q, k, v, d_out] = [1, 2, 3, 4].map(|id| normal(len, id));
    let [mut out, mut d_q, mut d_k, mut d_v] = [(); 4].map(|()| vec![0.0; len]);
    let mut saved = vec![0.0; attention.saved_len()];
    let mut work = vec![0.0; attention.forward_work_len().max(attention.backward_work_len())];
    let extra_mib = (4 * (saved.len() + work.len())) as f64 / f64::from(1 << 20);
    let qkv = Qkv { q: &q, k: &k, v: &v };
    let mut run = |backward: bool| -> Result<f64> {
        let start = Instant::now();
        let context = &mut LayerContext { kernels: isa.into(), team: Team::Solo, workspace: &mut work };
        attention.forward(context, projections, qkv, &mut out, &mut saved)?;
        if backward {
            let output = AttentionOutput { out: &out, saved: &saved };
            let gradient = QkvGradient { d_q: &mut d_q, d_k: &mut d_k, d_v: &mut d_v };
            attention.backward(context, projections, qkv, output, &d_out, gradient)?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    let forward_seconds = median(sizes.seconds, || run(false))?;
    let step_seconds = median(sizes.seconds, || run(true))?;
    Ok(CostPoint { variant, features, tokens, forward_seconds, step_seconds, extra_mib })
}

/// The median of what `seconds` have room for, three at least; a first call that does not count warms the
/// caches, unless it alone takes longer than that.
fn median(seconds: f64, mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let first = run()?;
    if first > seconds {
        return Ok(first);
    }
    let mut times = vec![run()?];
    while times.len() < 3 || (times.iter().sum::<f64>() < seconds && times.len() < 1000) {
        times.push(run()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Where the ratio to softmax's time falls below one for good, interpolated in logarithms between neighbours.
fn crossover(
    points: &[CostPoint],
    variant: AttentionKind,
    features: usize,
    time: impl Fn(&CostPoint) -> f64,
) -> Option<Crossover> {
    let of = |variant, features, tokens| {
        points.iter().find(|p| (p.variant, p.features, p.tokens) == (variant, features, tokens)).map(&time)
    };
    let softmax = points.iter().filter(|p| p.variant == AttentionKind::Softmax);
    let ratios: Vec<(usize, f64)> =
        softmax.filter_map(|p| Some((p.tokens, of(variant, Some(features), p.tokens)? / time(p)))).collect();
    let (first, last) = (ratios.first()?, ratios.last()?);
    Some(match ratios.iter().rposition(|(_, ratio)| *ratio >= 1.0) {
        None => Crossover::Below(first.0),
        Some(at) if at + 1 == ratios.len() => Crossover::Above(last.0),
        Some(at) => {
            let ((l0, r0), (l1, r1)) = (ratios[at], ratios[at + 1]);
            let part = r0.ln() / (r0.ln() - r1.ln());
            Crossover::At((l0 as f64).powf(1.0 - part) * (l1 as f64).powf(part))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Softmax takes L^2 seconds and FAVOR+ 2 m L: they are equal at L = 2m.
    fn points(features: usize, lengths: &[usize]) -> Vec<CostPoint> {
        let point = |variant, features, tokens: usize, seconds: f64| CostPoint {
            variant,
            features,
            tokens,
            forward_seconds: seconds,
            step_seconds: seconds,
            extra_mib: 0.0,
        };
        let both = lengths.iter().flat_map(|&l| {
            let favor = (2 * features * l) as f64;
            [
                point(AttentionKind::Softmax, None, l, (l * l) as f64),
                point(AttentionKind::FAVOR, Some(features), l, favor),
            ]
        });
        both.collect()
    }

    #[test]
    fn the_crossover_is_interpolated_and_its_absence_said() {
        let cross = |m, lengths: &[usize]| {
            crossover(&points(m, lengths), AttentionKind::FAVOR, m, |p| p.step_seconds)
        };
        match cross(48, &[64, 128, 256]) {
            // Exact up to rounding: the logarithm of the ratio is linear in that of L.
            Some(Crossover::At(l)) => assert!((l - 96.0).abs() < 1e-9, "{l}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(cross(8, &[64, 128]), Some(Crossover::Below(64)));
        assert_eq!(cross(256, &[64, 128]), Some(Crossover::Above(128)));
        assert_eq!(cross(256, &[]), None);
    }
}
