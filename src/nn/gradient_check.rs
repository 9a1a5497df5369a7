//! Central differences for the layers' tests.

use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};

/// Independent unit normals; `id` tells vectors apart.
pub(crate) fn normal<T: Real>(n: usize, id: u64) -> Vec<T> {
    let mut x = vec![T::zero(); n];
    fill_normal(&mut rng(11, Stream::Check, id, 0), &mut x);
    x
}

/// The sum of products.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Compares every component of `gradient` with the central difference of `f` at `x`.
///
/// With step h = 1e-5 the difference's truncation is of order h^2 = 1e-10, and its rounding of order
/// 1e-16 |f| / h = 1e-11 |f|. A tolerance of 1e-7 of the largest component, plus 1e-8, leaves room for third
/// derivatives and values of f up to a hundred.
pub(crate) fn check_gradient(what: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    let largest = gradient.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
    let h = 1e-5;
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + h;
        let above = f(&moved);
        moved[i] = x[i] - h;
        let below = f(&moved);
        moved[i] = x[i];
        let difference = (above - below) / (2.0 * h);
        let error = (difference - gradient[i]).abs();
        assert!(error <= 1e-7 * largest + 1e-8, "{what}[{i}]: {} for {difference}", gradient[i]);
    }
}
