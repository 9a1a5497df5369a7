//! Attention, exact (22) and linear (26), for one sample and one head; the fast layers are tested against it.

use super::features::{FeatureMap, eq24_features};
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2, Axis};

/// (22) Att(Q, K, V) = D^-1 A V with A = exp(Q K^T / sqrt(d)), D = diag(A 1_L). Cost O(L^2 d).
///
/// Each row of A is divided by its largest element, which D cancels, so nothing overflows.
///
/// Source: Choromanski et al. (2021), section 2.1, equation 1.
///
/// # Shapes
/// `q` [L, d], `k` [L', d], `v` [L', e]; returns [L, e].
///
/// # Errors
/// [`Error::Invalid`] if the shapes do not fit or L' is 0.
pub fn eq22_attention(q: ArrayView2<f64>, k: ArrayView2<f64>, v: ArrayView2<f64>) -> Result<Array2<f64>> {
    check_shapes(q, k, v)?;
    let mut a = q.dot(&k.t()) / (q.ncols() as f64).sqrt();
    for mut row in a.outer_iter_mut() {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.mapv_inplace(|score| (score - max).exp());
        let sum = row.sum();
        row /= sum;
    }
    Ok(a.dot(&v))
}

/// (26) Att^(Q, K, V) = D^^-1 ( Q' ((K')^T V) ), D^ = diag( Q' ((K')^T 1_L) ), from the features Q' and K'.
/// The products are taken in this order, so that the largest matrix formed is [features, e], never [L, L].
/// Cost O(L m e).
///
/// D^ is not guarded: with features that are not positive it can be near zero or negative.
///
/// Source: Choromanski et al. (2021), section 2.2, equation 4.
///
/// # Shapes
/// `q_features` [L, M], `k_features` [L', M], `v` [L', e]; returns [L, e].
///
/// # Errors
/// [`Error::Invalid`] if the shapes do not fit or L' is 0.
pub fn eq26_linear_attention(
    q_features: ArrayView2<f64>,
    k_features: ArrayView2<f64>,
    v: ArrayView2<f64>,
) -> Result<Array2<f64>> {
    check_shapes(q_features, k_features, v)?;
    let mut out = q_features.dot(&k_features.t().dot(&v));
    let denominator = q_features.dot(&k_features.sum_axis(Axis(0)));
    for (mut row, d) in out.outer_iter_mut().zip(denominator) {
        row /= d;
    }
    Ok(out)
}

/// (26) with Q' = phi(Q), K' = phi(K), phi being (24) at x / d^(1/4): the scaling of (22) and (25).
///
/// # Shapes
/// `q` [L, d], `k` [L', d], `v` [L', e], projections `w` [m, d]; returns [L, e].
///
/// # Errors
/// [`Error::Invalid`] if the shapes do not fit or L' or m is 0.
pub fn eq26_favor_attention(
    map: FeatureMap,
    q: ArrayView2<f64>,
    k: ArrayView2<f64>,
    v: ArrayView2<f64>,
    w: ArrayView2<f64>,
) -> Result<Array2<f64>> {
    check_shapes(q, k, v)?;
    let scale = (q.ncols() as f64).powf(-0.25);
    let q_features = eq24_features(map, (&q * scale).view(), w)?;
    let k_features = eq24_features(map, (&k * scale).view(), w)?;
    eq26_linear_attention(q_features.view(), k_features.view(), v)
}

fn check_shapes(q: ArrayView2<f64>, k: ArrayView2<f64>, v: ArrayView2<f64>) -> Result<()> {
    if q.ncols() != k.ncols() || k.nrows() != v.nrows() || k.nrows() == 0 || k.ncols() == 0 {
        return Err(Error::invalid(
            "attention",
            "q [L, d], k [L', d], v [L', e] with L' and d at least 1",
            format!("q {:?}, k {:?}, v {:?}", q.shape(), k.shape(), v.shape()),
            "",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eq22_eq26_refuse_shapes_that_do_not_fit() {
        let zeros = |rows, columns| Array2::<f64>::zeros((rows, columns));
        for (q, k, v) in [
            (zeros(2, 3), zeros(4, 2), zeros(4, 1)),
            (zeros(2, 3), zeros(4, 3), zeros(5, 1)),
            (zeros(2, 3), zeros(0, 3), zeros(0, 1)),
            (zeros(2, 0), zeros(4, 0), zeros(4, 1)),
        ] {
            assert!(eq22_attention(q.view(), k.view(), v.view()).is_err());
            assert!(eq26_linear_attention(q.view(), k.view(), v.view()).is_err());
            let w = Array2::ones((2, q.ncols().max(1)));
            assert!(eq26_favor_attention(FeatureMap::Relu, q.view(), k.view(), v.view(), w.view()).is_err());
        }
        let (q, k, v) = (zeros(2, 3), zeros(4, 3), Array2::ones((4, 5)));
        // Equal scores: every row is the mean of the values, and lengths and widths may differ.
        assert_eq!(eq22_attention(q.view(), k.view(), v.view()).unwrap(), Array2::<f64>::ones((2, 5)));
    }
}
