//! Random features: (24) with its four instances, and (25).

pub use crate::config::FeatureMap;
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2, s};

/// c of the ReLU features max(u, 0) + c (Choromanski et al. 2021, their code). It is added before the factor
/// 1/sqrt(m).
pub const RELU_CONSTANT: f64 = 1e-3;

/// h(x) of (24) as a function of |x|^2.
fn h(map: FeatureMap, norm2: f64) -> f64 {
    match map {
        FeatureMap::Positive => (-norm2 / 2.0).exp(),
        FeatureMap::Hyperbolic => (-norm2 / 2.0).exp() / 2f64.sqrt(),
        FeatureMap::Trigonometric => (norm2 / 2.0).exp(),
        FeatureMap::Relu => 1.0,
    }
}

/// f_i(u) of (24), i from 0.
fn f(map: FeatureMap, i: usize, u: f64) -> f64 {
    match (map, i) {
        (FeatureMap::Positive, _) | (FeatureMap::Hyperbolic, 0) => u.exp(),
        (FeatureMap::Hyperbolic, _) => (-u).exp(),
        (FeatureMap::Trigonometric, 0) => u.sin(),
        (FeatureMap::Trigonometric, _) => u.cos(),
        (FeatureMap::Relu, _) => u.max(0.0) + RELU_CONSTANT,
    }
}

/// (24) phi(x) = h(x)/sqrt(m) ( f_1(w_1^T x), .., f_1(w_m^T x), .., f_l(w_1^T x), .., f_l(w_m^T x) ) for
/// every row x.
///
/// Plain `f64` without a stabiliser: exponents beyond about +-700 leave its range.
///
/// Source: Choromanski et al. (2021), section 2.3, equation 5.
///
/// # Shapes
/// `x` [L, d], `w` [m, d]; returns [L, l m].
///
/// # Errors
/// [`Error::Invalid`] if the two d differ or m is 0.
pub fn eq24_features(map: FeatureMap, x: ArrayView2<f64>, w: ArrayView2<f64>) -> Result<Array2<f64>> {
    check_projection(x, w)?;
    let projected = x.dot(&w.t());
    let m = w.nrows();
    let mut phi = Array2::zeros((x.nrows(), map.functions() * m));
    for (row, x) in x.outer_iter().enumerate() {
        let scale = h(map, x.dot(&x)) / (m as f64).sqrt();
        for i in 0..map.functions() {
            let features = projected.row(row).mapv(|u| scale * f(map, i, u));
            phi.slice_mut(s![row, i * m..(i + 1) * m]).assign(&features);
        }
    }
    Ok(phi)
}

/// (25) phi(x) = 1/sqrt(m) exp( -|x|^2 / (2 sqrt(d)) ) ( exp( w_1^T x / d^(1/4) ), .., exp( w_m^T x / d^(1/4)
/// ) ) for every row x: the positive features of attention's kernel exp(q^T k / sqrt(d)).
///
/// Source: Choromanski et al. (2021), section 2.3, Lemma 1 at x / d^(1/4).
///
/// # Shapes
/// `x` [L, d], `w` [m, d]; returns [L, m].
///
/// # Errors
/// [`Error::Invalid`] if the two d differ or m is 0.
pub fn eq25_positive_features(x: ArrayView2<f64>, w: ArrayView2<f64>) -> Result<Array2<f64>> {
    check_projection(x, w)?;
    let (m, d) = (w.nrows() as f64, w.ncols() as f64);
    Ok(Array2::from_shape_fn((x.nrows(), w.nrows()), |(row, i)| {
        let x = x.row(row);
        let exponent = w.row(i).dot(&x) / d.powf(0.25) - x.dot(&x) / (2.0 * d.sqrt());
        exponent.exp() / m.sqrt()
    }))
}

fn check_projection(x: ArrayView2<f64>, w: ArrayView2<f64>) -> Result<()> {
    if x.ncols() != w.ncols() || w.nrows() == 0 {
        return Err(Error::invalid(
            "random features",
            format!("projections [m >= 1, {}]", x.ncols()),
            format!("{:?}", w.shape()),
            "",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn eq24_lays_the_functions_out_one_after_the_other() {
        let (x, w) = (array![[0.5, -0.25]], array![[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]);
        for map in FeatureMap::ALL {
            let phi = eq24_features(map, x.view(), w.view()).unwrap();
            assert_eq!(phi.dim(), (1, 3 * map.functions()));
        }
        let phi = eq24_features(FeatureMap::Trigonometric, x.view(), w.view()).unwrap();
        let h = (0.3125f64 / 2.0).exp() / 3f64.sqrt();
        for (i, u) in [0.5f64, -0.5, 0.25].into_iter().enumerate() {
            // To rounding.
            assert!(
                (phi[[0, i]] - h * u.sin()).abs() < 1e-15 && (phi[[0, 3 + i]] - h * u.cos()).abs() < 1e-15
            );
        }
        let phi = eq24_features(FeatureMap::Relu, x.view(), w.view()).unwrap();
        assert!((phi[[0, 1]] - 1e-3 / 3f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn eq24_eq25_refuse_projections_that_do_not_fit() {
        let x = Array2::<f64>::zeros((2, 3));
        for w in [Array2::zeros((4, 2)), Array2::zeros((0, 3))] {
            assert!(eq24_features(FeatureMap::Positive, x.view(), w.view()).is_err());
            assert!(eq25_positive_features(x.view(), w.view()).is_err());
        }
    }
}
