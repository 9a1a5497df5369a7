//! The error of random features as a function of m, against the kernel and against exact attention, computed
//! in `f64` by the functions of [`crate::equations`].

use super::context::Context;
use super::sizes::ApproximationSizes;
use crate::config::AttentionKind;
use crate::equations::attention::{eq22_attention, eq26_linear_attention};
use crate::equations::features::{FeatureMap, eq24_features};
use crate::equations::kernel::eq23_kernel;
use crate::equations::projection::{Projection, RowNorms};
use crate::error::Result;
use crate::rng::{Stream, fill_normal, rng};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// The error of one kind of features at one m.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApproximationPoint {
    /// The feature map.
    pub variant: AttentionKind,
    /// Whether the projections are orthogonal in blocks, or i.i.d.
    pub orthogonal: bool,
    /// Standard deviation of q's and k's entries.
    pub spread: f64,
    /// m.
    pub features: usize,
    /// The kernel's relative error: the root of the mean over draws and pairs of ((phi(q) phi(k) - K) / K)^2.
    pub kernel_error: f64,
    /// The same as predicted by Lemma 2 of Choromanski et al. (2021) for positive features and i.i.d.
    /// projections: the root of the mean over pairs of (exp(|x + y|^2) - 1) / m.
    pub predicted_kernel_error: Option<f64>,
    /// The output's relative error against exact attention: the root of the mean over draws of |Att^ - Att|^2
    /// / |Att|^2; `None` for features of another kernel.
    pub attention_error: Option<f64>,
}

/// The exponent of m in the error of one kind of features: a least-squares fit of logarithms over the larger
/// half of the m.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// The feature map.
    pub variant: AttentionKind,
    /// Whether the projections are orthogonal.
    pub orthogonal: bool,
    /// Standard deviation of q's and k's entries.
    pub spread: f64,
    /// The exponent of the kernel's error, -1/2 in theory; `None` where there are too few m.
    pub kernel: Option<f64>,
    /// The exponent of attention's error.
    pub attention: Option<f64>,
}

/// The study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approximation {
    /// Every point.
    pub points: Vec<ApproximationPoint>,
    /// How the errors fall.
    pub slopes: Vec<Slope>,
}

/// q, k and v, with their exact kernel and attention.
struct Exact {
    x: Array2<f64>,
    y: Array2<f64>,
    v: Array2<f64>,
    attention: Array2<f64>,
    attention_norm2: f64,
}

impl Exact {
    fn new(sizes: &ApproximationSizes, spread: f64) -> Result<Exact> {
        let (l, d) = (sizes.tokens, sizes.dim);
        let draw = |id: u64, scale: f64| {
            let mut numbers = vec![0.0; l * d];
            fill_normal(&mut rng(0, Stream::Check, 0, id), &mut numbers);
            Array2::from_shape_fn((l, d), |(i, j)| scale * numbers[i * d + j])
        };
        let (q, k, v) = (draw(0, spread), draw(1, spread), draw(2, 1.0));
        let attention = eq22_attention(q.view(), k.view(), v.view())?;
        // (24) estimates exp(x^T y); attention's kernel is at q / d^(1/4) and k / d^(1/4).
        let scale = (d as f64).powf(-0.25);
        let attention_norm2 = attention.iter().map(|a| a * a).sum();
        Ok(Exact { x: q * scale, y: k * scale, v, attention, attention_norm2 })
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.x.nrows()).flat_map(|i| (0..self.y.nrows()).map(move |j| (i, j)))
    }

    fn kernel(&self, map: FeatureMap) -> Array2<f64> {
        let shape = (self.x.nrows(), self.y.nrows());
        Array2::from_shape_fn(shape, |(i, j)| eq23_kernel(map, self.x.row(i), self.y.row(j)))
    }

    /// The mean over pairs of exp(|x + y|^2) - 1: m times the relative variance.
    fn relative_variance(&self) -> f64 {
        let sum = self.pairs().map(|(i, j)| {
            let z = &self.x.row(i) + &self.y.row(j);
            z.dot(&z).exp_m1()
        });
        sum.sum::<f64>() / (self.x.nrows() * self.y.nrows()) as f64
    }
}

/// Measures; `None` where it was asked to stop.
pub(super) fn study(context: &mut Context, sizes: &ApproximationSizes) -> Result<Option<Approximation>> {
    let maps: Vec<(AttentionKind, FeatureMap)> =
        AttentionKind::ALL.into_iter().filter_map(|variant| Some((variant, variant.map()?))).collect();
    let (mut points, mut slopes) = (Vec::new(), Vec::new());
    let total = (sizes.spreads.len() * maps.len() * 2) as f64;
    let mut done = 0.0;
    for &spread in &sizes.spreads {
        let exact = Exact::new(sizes, spread)?;
        let variance = exact.relative_variance();
        for &(variant, map) in &maps {
            let kernel = exact.kernel(map);
            for orthogonal in [false, true] {
                (context.progress)(done / total, &format!("{variant}, standard deviation {spread}"));
                done += 1.0;
                let first = points.len();
                for &m in &sizes.features {
                    if (context.stop)() {
                        return Ok(None);
                    }
                    let (kernel_error, attention_error) =
                        errors(&exact, &kernel, map, orthogonal, m, sizes.draws)?;
                    let iid_positive = variant == AttentionKind::FAVOR && !orthogonal;
                    points.push(ApproximationPoint {
                        variant,
                        orthogonal,
                        spread,
                        features: m,
                        kernel_error,
                        predicted_kernel_error: iid_positive.then(|| (variance / m as f64).sqrt()),
                        attention_error: (map != FeatureMap::Relu).then_some(attention_error),
                    });
                }
                let kind = &points[first..];
                let kernel = slope(kind, |p| Some(p.kernel_error));
                let attention = slope(kind, |p| p.attention_error);
                slopes.push(Slope { variant, orthogonal, spread, kernel, attention });
            }
        }
    }
    Ok(Some(Approximation { points, slopes }))
}

/// The kernel's and attention's errors over draws of m projections.
fn errors(
    exact: &Exact,
    kernel: &Array2<f64>,
    map: FeatureMap,
    orthogonal: bool,
    m: usize,
    draws: usize,
) -> Result<(f64, f64)> {
    let projection = if orthogonal { Projection::Orthogonal(RowNorms::Chi) } else { Projection::Iid };
    let (mut kernel_sum, mut attention_sum) = (0.0, 0.0);
    for draw in 0..draws {
        let mut numbers = rng(1, Stream::Check, m as u64, draw as u64);
        let w = projection.draw(m, exact.x.ncols(), &mut numbers)?;
        let phi_x = eq24_features(map, exact.x.view(), w.view())?;
        let phi_y = eq24_features(map, exact.y.view(), w.view())?;
        let estimate = phi_x.dot(&phi_y.t());
        let errors = estimate.iter().zip(kernel).map(|(got, want)| ((got - want) / want).powi(2));
        kernel_sum += errors.sum::<f64>() / kernel.len() as f64;
        let attention = eq26_linear_attention(phi_x.view(), phi_y.view(), exact.v.view())?;
        let difference = &attention - &exact.attention;
        attention_sum += difference.iter().map(|x| x * x).sum::<f64>() / exact.attention_norm2;
    }
    let root = |sum: f64| (sum / draws as f64).sqrt();
    Ok((root(kernel_sum), root(attention_sum)))
}

/// The least-squares slope of log(error) over log(m), on the larger half of the m.
fn slope(points: &[ApproximationPoint], error: impl Fn(&ApproximationPoint) -> Option<f64>) -> Option<f64> {
    let half = &points[points.len() / 2..];
    let logs: Option<Vec<(f64, f64)>> =
        half.iter().map(|p| Some(((p.features as f64).ln(), error(p)?.ln()))).collect();
    let logs = logs.filter(|logs| logs.len() > 1)?;
    let n = logs.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| logs.iter().map(f).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    Some(covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(features: Vec<usize>) -> ApproximationSizes {
        ApproximationSizes { tokens: 12, dim: 4, features, draws: 300, spreads: vec![0.5] }
    }

    /// The mean square of 300 draws and 144 pairs has a relative error of some percent (measured: 3 %); 10 %
    /// are allowed.
    #[test]
    fn the_kernels_error_is_lemma_2s_and_smaller_for_orthogonal_projections() {
        let exact = Exact::new(&sizes(Vec::new()), 0.5).unwrap();
        let kernel = exact.kernel(FeatureMap::Positive);
        let error = |orthogonal| errors(&exact, &kernel, FeatureMap::Positive, orthogonal, 4, 300).unwrap().0;
        let predicted = (exact.relative_variance() / 4.0).sqrt();
        assert!((error(false) / predicted - 1.0).abs() < 0.1, "{} {predicted}", error(false));
        assert!(error(true) < error(false), "{} {}", error(true), error(false));
    }

    /// Exact up to rounding.
    #[test]
    fn the_slope_of_a_power_is_its_exponent() {
        let point = |features: usize| ApproximationPoint {
            variant: AttentionKind::FAVOR,
            orthogonal: true,
            spread: 1.0,
            features,
            kernel_error: 3.0 / (features as f64).sqrt(),
            predicted_kernel_error: None,
            attention_error: None,
        };
        let points: Vec<_> = [4, 8, 16, 32].map(point).into();
        assert!((slope(&points, |p| Some(p.kernel_error)).unwrap() + 0.5).abs() < 1e-12);
        assert_eq!(slope(&points, |p| p.attention_error), None);
        assert_eq!(slope(&points[..1], |p| Some(p.kernel_error)), None);
    }
}
