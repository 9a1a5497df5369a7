//! Checks of (23) and (24); those of (25) are in `positive`.

use super::Check;
use super::measure::{absolute, draws, estimate, integrate, normals, pdf, relative, worst};
use crate::equations::features::{FeatureMap, RELU_CONSTANT, eq24_features};
use crate::equations::kernel::{eq23_estimate, eq23_kernel};
use crate::equations::projection::{Projection, RowNorms};
use crate::rng::ChaCha8Rng;
use ndarray::{Array1, Array2, ArrayView1, Axis, array};

/// The default projections: orthogonal, with lengths that keep the estimate unbiased.
pub const ORTHOGONAL: Projection = Projection::Orthogonal(RowNorms::Chi);

/// Draws projections of sizes that are known to be valid.
pub fn draw(projection: Projection, m: usize, d: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
    projection.draw(m, d, rng).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A matrix from N(0, scale^2).
pub fn matrix(rng: &mut ChaCha8Rng, rows: usize, columns: usize, scale: f64) -> Array2<f64> {
    let entries = normals(rng, rows * columns);
    Array2::from_shape_fn((rows, columns), |(i, j)| scale * entries[i * columns + j])
}

/// The one row of features of `x`.
pub fn features(map: FeatureMap, x: &Array1<f64>, w: &Array2<f64>) -> Array1<f64> {
    let x = x.view().insert_axis(Axis(0));
    eq24_features(map, x, w.view()).map_or_else(|_| array![f64::NAN], |phi| phi.row(0).to_owned())
}

/// (23): E[ phi(x)^T phi(y) ] over w ~ N(0, I) in the plane, integrated on a grid, for each map against its
/// kernel. The smooth maps: the trapezoid rule is exact to rounding, 810000 terms of 1e-16 at random. ReLU
/// has kinks along two lines, across which the slope jumps by at most |x||y||w|: the rule's error is at most
/// h^2/12 times that, h^2/12 = 3.3e-5 for h = 0.02.
pub fn eq23() -> Vec<Check> {
    let (side, half) = (900, 9.0);
    let step = 2.0 * half / side as f64;
    let node = |i: usize| step * (i as f64 + 0.5) - half;
    let w = Array2::from_shape_fn((side * side, 2), |(i, j)| node(if j == 0 { i / side } else { i % side }));
    let cell: Array1<f64> =
        w.outer_iter().map(|w| step * step * pdf(w[0], 0.0, 1.0) * pdf(w[1], 0.0, 1.0)).collect();
    let pairs = [
        (array![0.6, 0.3], array![-0.2, 0.9]),
        (array![0.5, 0.5], array![0.5, 0.5]),
        (array![0.7, -0.1], array![-0.7, 0.1]),
        (array![0.0, 0.4], array![0.0, 0.0]),
    ];
    FeatureMap::ALL
        .map(|map| {
            let errors = pairs.iter().map(|(x, y)| {
                let mut phi_x = features(map, x, &w);
                let phi_y = features(map, y, &w);
                for (i, phi) in phi_x.iter_mut().enumerate() {
                    *phi *= (side * side) as f64 * cell[i % (side * side)];
                }
                absolute(eq23_estimate(phi_x.view(), phi_y.view()), eq23_kernel(map, x.view(), y.view()))
            });
            let bound = if map == FeatureMap::Relu { 3.3e-5 } else { 1e-11 };
            Check::new(format!("kernel by numerical integration, {map:?}"), worst(errors), bound)
        })
        .to_vec()
}

/// phi(x)^T phi(y) written as one mean over the projections, with the exponents of both features combined.
fn combined(map: FeatureMap, x: &Array1<f64>, y: &Array1<f64>, w: &Array2<f64>) -> f64 {
    let (norms, sum, difference) = (x.dot(x) + y.dot(y), x + y, x - y);
    let term = |w: ArrayView1<f64>| match map {
        FeatureMap::Positive => (w.dot(&sum) - norms / 2.0).exp(),
        FeatureMap::Hyperbolic => (-norms / 2.0).exp() * w.dot(&sum).cosh(),
        FeatureMap::Trigonometric => (norms / 2.0).exp() * w.dot(&difference).cos(),
        FeatureMap::Relu => (w.dot(x).max(0.0) + RELU_CONSTANT) * (w.dot(y).max(0.0) + RELU_CONSTANT),
    };
    w.outer_iter().map(term).sum::<f64>() / w.nrows() as f64
}

/// (24): the inner products of its features against one mean over the projections (rounding); the
/// projections' orthogonality (rounding of a 16 x 16 decomposition), independence of the blocks and lengths;
/// and the estimates' means over 4000 draws of 16 orthogonal projections in 16 dimensions for aligned x = y,
/// where a QR decomposition without random signs would be wrong by a quarter (five standard errors).
pub fn eq24() -> Vec<Check> {
    let mut rng = draws(24);
    let d = 16;
    let w = draw(ORTHOGONAL, 40, d, &mut rng);
    let (x, y) = (Array1::from(normals(&mut rng, d)) * 0.3, Array1::from(normals(&mut rng, d)) * 0.3);
    let products = FeatureMap::ALL
        .map(|map| relative(features(map, &x, &w).dot(&features(map, &y, &w)), combined(map, &x, &y, &w)));
    let mut checks = vec![
        Check::new("phi(x)^T phi(y) as one mean over the projections", worst(products), 1e-13),
        Check::new("cosines within a block", largest_cosine(&w, |i, j| i / d == j / d), 1e-14),
        // Independent directions in 16 dimensions: a cosine of 0.95 among some 500 pairs has probability
        // below 1e-5.
        Check::new(
            "cosines between blocks: none repeats another",
            largest_cosine(&w, |i, j| i / d != j / d),
            0.95,
        ),
    ];
    let mut norms = |projection| {
        let w = draw(projection, 4000, d, &mut rng);
        let mut rows = w.outer_iter().map(|row| row.dot(&row));
        estimate(4000, || rows.next().unwrap_or(f64::NAN))
    };
    for projection in [Projection::Iid, ORTHOGONAL] {
        let norm2 = norms(projection);
        // chi-square with d degrees: mean d, variance 2 d.
        let name = |what| format!("{what} of |w|^2, {projection:?}");
        checks.push(Check::new(name("mean"), (norm2.mean - d as f64).abs(), 5.0 * norm2.standard_error));
        let variance = norm2.standard_error.powi(2) * 4000.0;
        // The variance of a chi-square's sample variance: (12/d + 2) (2 d)^2 / n.
        let bound = 5.0 * ((12.0 / d as f64 + 2.0) / 4000.0).sqrt();
        checks.push(Check::new(name("variance"), relative(variance, 2.0 * d as f64), bound));
    }
    let fixed = norms(Projection::Orthogonal(RowNorms::Fixed));
    checks.push(Check::new(
        "lengths fixed at sqrt(d)",
        absolute(fixed.mean, 16.0) + fixed.standard_error,
        1e-12,
    ));
    checks.extend(aligned(&mut rng));
    checks
}

/// The largest |cosine| between two rows i < j that satisfy `pair`.
fn largest_cosine(w: &Array2<f64>, pair: impl Fn(usize, usize) -> bool) -> f64 {
    let mut cosines = Vec::new();
    for j in 0..w.nrows() {
        for i in (0..j).filter(|&i| pair(i, j)) {
            let (a, b) = (w.row(i), w.row(j));
            cosines.push((a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt()).abs());
        }
    }
    worst(cosines)
}

/// The aligned vectors of the unbiasedness checks: |x|^2 = 1/2 along the first axis and along the diagonal.
fn aligned_vectors(d: usize) -> [(&'static str, Array1<f64>); 2] {
    let mut axis = Array1::zeros(d);
    axis[0] = 0.5f64.sqrt();
    [("first axis", axis), ("diagonal", Array1::from_elem(d, (0.5 / d as f64).sqrt()))]
}

/// The means of all four estimates at x = y over 4000 orthogonal draws; and that of the positive one with
/// lengths fixed at sqrt(d), which is biased: it estimates the mean over a sphere, integrated here, not over
/// a Gaussian.
fn aligned(rng: &mut ChaCha8Rng) -> Vec<Check> {
    let d = 16;
    let draws: Vec<_> = (0..4000).map(|_| draw(ORTHOGONAL, d, d, rng)).collect();
    let fixed: Vec<_> = (0..4000).map(|_| draw(Projection::Orthogonal(RowNorms::Fixed), d, d, rng)).collect();
    let mean = |map, x: &Array1<f64>, draws: &[Array2<f64>]| {
        let mut each = draws.iter().map(|w| {
            let phi = features(map, x, w);
            phi.dot(&phi)
        });
        estimate(draws.len(), || each.next().unwrap_or(f64::NAN))
    };
    let mut checks = Vec::new();
    for (name, x) in aligned_vectors(d) {
        for map in FeatureMap::ALL {
            let got = mean(map, &x, &draws);
            let error = (got.mean - eq23_kernel(map, x.view(), x.view())).abs();
            // The trigonometric estimate is exact for x = y (sin^2 + cos^2): only the rounding of 4000 terms
            // is left.
            let bound = (5.0 * got.standard_error).max(1e-12);
            checks.push(Check::new(format!("unbiased for x = y on the {name}, {map:?}"), error, bound));
        }
        let got = mean(FeatureMap::Positive, &x, &fixed);
        let error = (got.mean - fixed_length_mean(d, x.dot(&x))).abs();
        let title = format!("lengths fixed at sqrt(d): the sphere's mean, x = y on the {name}");
        checks.push(Check::new(title, error, 5.0 * got.standard_error));
    }
    checks
}

/// E[ exp( sqrt(d) u |2x| - |x|^2 ) ], u one coordinate of a uniform point on the unit sphere, whose density
/// is (1 - u^2)^((d-3)/2).
fn fixed_length_mean(d: usize, norm2: f64) -> f64 {
    let density = |u: f64| (1.0 - u * u).powf((d as f64 - 3.0) / 2.0);
    let scale = (d as f64).sqrt() * 2.0 * norm2.sqrt();
    integrate(-1.0, 1.0, 4000, |u| density(u) * (scale * u - norm2).exp())
        / integrate(-1.0, 1.0, 4000, density)
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq23_is_the_mean_of_each_maps_estimates() {
        assert_all(&eq23());
    }

    #[test]
    fn eq24_is_unbiased_with_orthogonal_projections() {
        let checks = eq24();
        assert_all(&checks);
        // Fixed lengths are really biased: the mean over the sphere differs from the kernel by several per
        // cent, more than the check's bound.
        let bias = fixed_length_mean(16, 0.5) / 0.5f64.exp() - 1.0;
        assert!(bias < -0.03, "{bias}");
        assert!(checks.iter().filter(|check| check.name.contains("Positive")).all(|check| check.bound < 0.1));
    }
}
