//! Checks of (22) and (26).

use super::Check;
use super::favor::{ORTHOGONAL, draw, matrix};
use super::measure::{Estimate, absolute, draws, estimate, worst};
use crate::equations::attention::{eq22_attention, eq26_favor_attention, eq26_linear_attention};
use crate::equations::features::{FeatureMap, eq24_features};
use ndarray::{Array2, Axis, concatenate};

/// The largest difference of two matrices; NaN if the first is an error.
fn distance(got: crate::Result<Array2<f64>>, want: &Array2<f64>) -> f64 {
    got.map_or(f64::NAN, |got| worst(got.iter().zip(want).map(|(a, b)| absolute(*a, *b))))
}

/// (22) for two keys, where it is a logistic function (rounding); the same with scores of thousands, where it
/// must choose one value; and averages of constants, which are constants.
pub fn eq22() -> Vec<Check> {
    let mut rng = draws(22);
    let (q, k, v) = (matrix(&mut rng, 5, 3, 1.0), matrix(&mut rng, 2, 3, 1.0), matrix(&mut rng, 2, 4, 1.0));
    let logistic = |q: &Array2<f64>| {
        Array2::from_shape_fn((5, 4), |(i, j)| {
            let score = q.row(i).dot(&(&k.row(0) - &k.row(1))) / 3f64.sqrt();
            v[[1, j]] + (v[[0, j]] - v[[1, j]]) / (1.0 + (-score).exp())
        })
    };
    let large = &q * 1e4;
    let many = matrix(&mut rng, 50, 3, 1.0);
    vec![
        Check::new(
            "two keys against the logistic function",
            distance(eq22_attention(q.view(), k.view(), v.view()), &logistic(&q)),
            1e-14,
        ),
        Check::new(
            "scores of thousands",
            distance(eq22_attention(large.view(), k.view(), v.view()), &logistic(&large)),
            1e-14,
        ),
        Check::new(
            "constant values come back",
            distance(
                eq22_attention(q.view(), many.view(), Array2::ones((50, 2)).view()),
                &Array2::ones((5, 2)),
            ),
            1e-14,
        ),
    ]
}

/// (26) against the explicit product with A^ = Q' K'^T (rounding); against (22) as m grows, the exponent of
/// the error; and 50000 queries and keys, where an L x L matrix would take 20 GB, against the 24 keys that
/// they repeat (rounding of sums of 50000). Then the rows that (26) cannot normalise, with q and k of unit
/// variance, d = 32, m = 128: none with positive features, 22 % with trigonometric ones (five standard
/// errors).
pub fn eq26() -> Vec<Check> {
    let mut rng = draws(26);
    let (l, d) = (24, 8);
    let (q, k, v) = (matrix(&mut rng, l, d, 0.4), matrix(&mut rng, l, d, 0.4), matrix(&mut rng, l, 3, 1.0));
    let w = draw(ORTHOGONAL, 20, d, &mut rng);
    let explicit = worst(FeatureMap::ALL.map(|map| {
        let scale = (d as f64).powf(-0.25);
        let phi = |x: &Array2<f64>| eq24_features(map, (x * scale).view(), w.view());
        let (Ok(q_features), Ok(k_features)) = (phi(&q), phi(&k)) else { return f64::NAN };
        let mut a = q_features.dot(&k_features.t());
        for mut row in a.outer_iter_mut() {
            let sum = row.sum();
            row /= sum;
        }
        let want = a.dot(&v);
        let linear = distance(eq26_linear_attention(q_features.view(), k_features.view(), v.view()), &want);
        worst([linear, distance(eq26_favor_attention(map, q.view(), k.view(), v.view(), w.view()), &want)])
    }));
    let exact = eq22_attention(q.view(), k.view(), v.view()).unwrap_or_default();
    let mut mean_square = |m: usize| {
        let mut one = || {
            let w = draw(ORTHOGONAL, m, d, &mut rng);
            let got = eq26_favor_attention(FeatureMap::Positive, q.view(), k.view(), v.view(), w.view());
            got.map_or(f64::NAN, |got| (&got - &exact).mapv(|e| e * e).mean().unwrap_or(f64::NAN))
        };
        estimate(60, &mut one)
    };
    let (few, many) = (mean_square(64), mean_square(2048));
    let exponent = (few.mean / many.mean).ln() / 32f64.ln();
    let spread = (few.standard_error / few.mean).hypot(many.standard_error / many.mean) / 32f64.ln();
    let trigonometric = not_positive(FeatureMap::Trigonometric);
    vec![
        Check::new("equal to the product with A^ = Q' K'^T", explicit, 1e-12),
        // A ratio of estimates also has a bias of relative order 1/m: 0.05 allows for the change of the
        // variance at m = 64.
        Check::new(
            "mean squared error to (22) falls as 1/m: the exponent",
            (exponent - 1.0).abs(),
            5.0 * spread + 0.05,
        ),
        Check::new("50016 tokens against the 24 that they repeat", long_sequence(&k, &v, &w), 1e-11),
        Check::new("rows with D^ <= 0, positive features", not_positive(FeatureMap::Positive).mean, 0.0),
        Check::new(
            "rows with D^ <= 0, trigonometric features: share less 22%",
            (trigonometric.mean - 0.22).abs(),
            5.0 * trigonometric.standard_error,
        ),
    ]
}

/// The share of rows of (26) whose denominator is not positive, over 60 draws of 256 queries and keys of unit
/// variance and of 128 projections in 32 dimensions.
fn not_positive(map: FeatureMap) -> Estimate {
    let mut rng = draws(260);
    let scale = 32f64.powf(-0.25);
    estimate(60, || {
        let (q, k) = (matrix(&mut rng, 256, 32, scale), matrix(&mut rng, 256, 32, scale));
        let w = draw(ORTHOGONAL, 128, 32, &mut rng);
        let phi = |x: &Array2<f64>| eq24_features(map, x.view(), w.view());
        let (Ok(q_features), Ok(k_features)) = (phi(&q), phi(&k)) else { return f64::NAN };
        let denominators = q_features.dot(&k_features.sum_axis(Axis(0)));
        denominators.iter().filter(|d| d.is_nan() || **d <= 0.0).count() as f64 / 256.0
    })
}

fn long_sequence(k: &Array2<f64>, v: &Array2<f64>, w: &Array2<f64>) -> f64 {
    let repeated = |x: &Array2<f64>| concatenate(Axis(0), &vec![x.view(); 2084]).unwrap_or_default();
    let (long_k, long_v) = (repeated(k), repeated(v));
    let short = eq26_favor_attention(FeatureMap::Positive, k.view(), k.view(), v.view(), w.view());
    let long =
        eq26_favor_attention(FeatureMap::Positive, long_k.view(), long_k.view(), long_v.view(), w.view());
    short.map_or(f64::NAN, |short| distance(long, &repeated(&short)))
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq22_is_softmax() {
        assert_all(&eq22());
    }

    #[test]
    fn eq26_is_linear_and_converges_to_eq22() {
        assert_all(&eq26());
    }

    /// No positive map has a row that cannot be normalised, and the bound on the trigonometric map's share
    /// excludes zero and a half.
    #[test]
    fn eq26_denominators_are_positive_with_positive_features_only() {
        for map in [FeatureMap::Positive, FeatureMap::Hyperbolic, FeatureMap::Relu] {
            assert_eq!(not_positive(map).mean, 0.0, "{map:?}");
        }
        let trigonometric = not_positive(FeatureMap::Trigonometric);
        assert!(trigonometric.standard_error < 0.01, "{trigonometric:?}");
    }
}
