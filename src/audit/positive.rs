//! Checks of (25): what makes positive, orthogonal features work.

use super::Check;
use super::favor::{ORTHOGONAL, draw, features, matrix};
use super::measure::{Estimate, draws, estimate, relative, worst};
use crate::equations::features::{FeatureMap, eq24_features, eq25_positive_features};
use crate::equations::projection::Projection;
use crate::rng::ChaCha8Rng;
use ndarray::{Array1, Array2, Axis};

const D: usize = 16;
const M: usize = 16;
const DRAWS: usize = 6000;

/// (25) for one row.
fn phi(x: &Array1<f64>, w: &Array2<f64>) -> Array1<f64> {
    eq25_positive_features(x.view().insert_axis(Axis(0)), w.view())
        .map_or(Array1::from_elem(1, f64::NAN), |phi| phi.row(0).to_owned())
}

/// The mean squared error of `product(w)` to `exact` over draws of m projections.
fn mean_squared_error(
    rng: &mut ChaCha8Rng,
    projection: Projection,
    m: usize,
    exact: f64,
    product: impl Fn(&Array2<f64>) -> f64,
) -> Estimate {
    estimate(DRAWS, || (product(&draw(projection, m, D, rng)) - exact).powi(2))
}

/// The largest error of the products phi(q)^T phi(k) against the means over the projections of
/// exp( w^T (q + k)/d^(1/4) - (|q|^2 + |k|^2)/(2 sqrt(d)) ).
pub fn product_error(phi: impl Fn(&Array1<f64>, &Array2<f64>) -> Array1<f64>) -> f64 {
    let mut rng = draws(25);
    let w = draw(ORTHOGONAL, 5, 7, &mut rng);
    let x = matrix(&mut rng, 4, 7, 0.8);
    let products = (0..4).flat_map(|i| (0..4).map(move |j| (i, j))).map(|(i, j)| {
        let (q, k) = (x.row(i).to_owned(), x.row(j).to_owned());
        let want = w
            .outer_iter()
            .map(|w| {
                (w.dot(&(&q + &k)) / 7f64.powf(0.25) - (q.dot(&q) + k.dot(&k)) / (2.0 * 7f64.sqrt())).exp()
            })
            .sum::<f64>()
            / 5.0;
        relative(phi(&q, &w).dot(&phi(&k, &w)), want)
    });
    worst(products)
}

/// (25): inner products against one mean over the projections, and against (24) at x/d^(1/4) (rounding);
/// positive; unbiased for aligned q = k, i.i.d. and orthogonal; the mean squared errors of Choromanski et al.
/// (2021), Lemma 2 for i.i.d. projections (exact) and Theorem 2 for orthogonal ones (an upper bound), falling
/// as 1/m; and the trigonometric map's error where the kernel is small, also Lemma 2. Simulated over 6000
/// draws of 16 projections in 16 dimensions: five standard errors.
pub fn eq25() -> Vec<Check> {
    let mut rng = draws(125);
    let w = draw(ORTHOGONAL, 21, D, &mut rng);
    let x = matrix(&mut rng, 9, D, 1.0);
    let scaled = &x * (D as f64).powf(-0.25);
    let pair = (
        eq25_positive_features(x.view(), w.view()),
        eq24_features(FeatureMap::Positive, scaled.view(), w.view()),
    );
    let same = match &pair {
        (Ok(a), Ok(b)) => worst(a.iter().zip(b).map(|(a, b)| relative(*a, *b))),
        _ => f64::NAN,
    };
    let negative =
        pair.0.map_or(f64::NAN, |phi| phi.iter().filter(|phi| phi.is_nan() || **phi <= 0.0).count() as f64);
    let mut checks = vec![
        Check::new("phi(q)^T phi(k) as one mean over the projections", product_error(phi), 1e-13),
        Check::new("equal to (24) at x/d^(1/4)", same, 1e-13),
        Check::new("features that are not positive", negative, 0.0),
    ];
    checks.extend(aligned(&mut rng));
    checks.extend(errors(&mut rng));
    checks.extend(small_kernel(&mut rng));
    checks
}

/// exp(q^T k / sqrt(d)) for q = k along the first axis, |q|^2 = 2.
fn aligned(rng: &mut ChaCha8Rng) -> Vec<Check> {
    let mut q = Array1::zeros(D);
    q[0] = 2f64.sqrt();
    let exact = (2.0 / (D as f64).sqrt()).exp();
    [Projection::Iid, ORTHOGONAL]
        .map(|projection| {
            let got = estimate(DRAWS, || {
                let phi = phi(&q, &draw(projection, M, D, rng));
                phi.dot(&phi)
            });
            let name = format!("unbiased for q = k, {projection:?}");
            Check::new(name, (got.mean - exact).abs(), 5.0 * got.standard_error)
        })
        .to_vec()
}

/// Two vectors with |x|^2 = |y|^2 = 1/4 and x^T y = 3/20.
fn vectors() -> (Array1<f64>, Array1<f64>) {
    let (mut x, mut y) = (Array1::<f64>::zeros(D), Array1::<f64>::zeros(D));
    x[0] = 0.5;
    (y[0], y[1]) = (0.3, 0.4);
    (x, y)
}

fn errors(rng: &mut ChaCha8Rng) -> Vec<Check> {
    let (x, y) = vectors();
    let to_attention = (D as f64).powf(0.25);
    let product = |w: &Array2<f64>| phi(&(&x * to_attention), w).dot(&phi(&(&y * to_attention), w));
    let (kernel, both) = (x.dot(&y).exp(), (&x + &y).dot(&(&x + &y)));
    // Lemma 2: exp(|x+y|^2) K^2 (1 - exp(-|x+y|^2)) / m.
    let lemma = |m: usize| both.exp() * kernel * kernel * (1.0 - (-both).exp()) / m as f64;
    // Theorem 2: orthogonal projections save at least 2 (m-1) / (m (d+2)) (K - exp(-(|x|^2+|y|^2)/2))^2.
    let (m, d) = (M as f64, D as f64);
    let saving =
        2.0 * (m - 1.0) / (m * (d + 2.0)) * (kernel - (-(x.dot(&x) + y.dot(&y)) / 2.0).exp()).powi(2);
    let mut measure = |projection, m| mean_squared_error(rng, projection, m, kernel, product);
    let (few, many) = (measure(Projection::Iid, M), measure(Projection::Iid, 16 * M));
    let orthogonal = measure(ORTHOGONAL, M);
    let excess = worst([orthogonal.mean - (lemma(M) - saving)]);
    let ratio = few.mean / many.mean;
    let spread = (few.standard_error / few.mean).hypot(many.standard_error / many.mean);
    vec![
        Check::new(
            "mean squared error, i.i.d.: Lemma 2",
            (few.mean - lemma(M)).abs(),
            5.0 * few.standard_error,
        ),
        Check::new("mean squared error falls as 1/m: m = 16 to 256", relative(ratio, 16.0), 5.0 * spread),
        Check::new("orthogonal below i.i.d. by Theorem 2: excess", excess, 5.0 * orthogonal.standard_error),
    ]
}

/// Nearly opposite vectors of length 3/2, K = 0.12: (24)'s positive and trigonometric maps.
fn small_kernel(rng: &mut ChaCha8Rng) -> Vec<Check> {
    let (mut x, mut y) = (Array1::<f64>::zeros(D), Array1::<f64>::zeros(D));
    x[0] = 1.5;
    (y[0], y[1]) = (-1.45, 0.38);
    let kernel: f64 = x.dot(&y).exp();
    let measure = |rng: &mut ChaCha8Rng, map| {
        mean_squared_error(rng, Projection::Iid, M, kernel, |w| {
            features(map, &x, w).dot(&features(map, &y, w))
        })
    };
    let (positive, trigonometric) =
        (measure(rng, FeatureMap::Positive), measure(rng, FeatureMap::Trigonometric));
    let (sum, difference) = ((&x + &y).dot(&(&x + &y)), (&x - &y).dot(&(&x - &y)));
    // Lemma 2: exp(|x+y|^2) / K^2 (1 - exp(-|x-y|^2))^2 / (2 m).
    let lemma = sum.exp() / (kernel * kernel) * (1.0 - (-difference).exp()).powi(2) / (2.0 * M as f64);
    let error = (trigonometric.mean - lemma).abs();
    vec![
        Check::new("trigonometric map where K is small: Lemma 2", error, 5.0 * trigonometric.standard_error),
        // Lemma 2's ratio is 2 K^4 (1 - exp(-|x+y|^2)) or about 5e-5 here; 1e-3 leaves room for both sampling
        // errors.
        Check::new(
            "positive over trigonometric squared error where K is small",
            positive.mean / trigonometric.mean,
            1e-3,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq25_is_positive_unbiased_and_accurate_where_the_kernel_is_small() {
        assert_all(&eq25());
    }

    /// The saving of Theorem 2 is larger than the sampling error, so that the check can tell orthogonal from
    /// i.i.d.
    #[test]
    fn eq25_orthogonal_projections_beat_independent_ones() {
        let mut rng = draws(126);
        let x = vectors().0;
        let to_attention = (D as f64).powf(0.25);
        let exact = x.dot(&x).exp();
        let mut measure = |projection| {
            estimate(40_000, || {
                let phi = phi(&(&x * to_attention), &draw(projection, M, D, &mut rng));
                (phi.dot(&phi) - exact).powi(2)
            })
        };
        let (independent, orthogonal) = (measure(Projection::Iid), measure(ORTHOGONAL));
        let spread = independent.standard_error.hypot(orthogonal.standard_error);
        assert!(independent.mean - orthogonal.mean > 5.0 * spread, "{independent:?} {orthogonal:?}");
    }
}
