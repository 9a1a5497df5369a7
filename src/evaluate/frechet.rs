//! The Frechet distance between two sets of features, each approximated by a Gaussian. With Inception's
//! features it is the FID of Heusel et al. (2017).

use super::check_pair;
use crate::error::{Error, Result};
use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// The first two moments of a set of features.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The mean, \[d\].
    pub mean: Array1<f64>,
    /// The unbiased covariance, \[d, d\].
    pub covariance: Array2<f64>,
}

impl Statistics {
    /// The moments of features \[n, d\].
    ///
    /// # Errors
    /// [`Error::Invalid`] for d images or fewer, since their covariance does not have full rank and the
    /// distance would depend mostly on their number; and for features that are not finite.
    pub fn of(features: ArrayView2<f64>) -> Result<Statistics> {
        let (n, d) = features.dim();
        check_pair(features, features, d.saturating_add(1), &rank(d))?;
        let mean = features.mean_axis(Axis(0)).expect("there are rows");
        let centred = &features - &mean;
        let mut covariance = centred.t().dot(&centred);
        covariance /= (n - 1) as f64;
        // The two triangles of the product may differ in their last bits.
        let covariance = 0.5 * (&covariance + &covariance.t());
        if covariance.iter().chain(&mean).all(|x| x.is_finite()) {
            return Ok(Statistics { mean, covariance });
        }
        let help = "the features are too large for their squares to be added up";
        Err(Error::invalid("the covariance of the features", "finite numbers", "an overflow", help))
    }

    /// |mu_a - mu_b|^2 + tr( C_a + C_b - 2 (C_a C_b)^(1/2) ).
    ///
    /// The trace of the root is that of ( C_a^(1/2) C_b C_a^(1/2) )^(1/2), whose argument is symmetric and
    /// positive semi-definite: its eigenvalues are real, unlike those computed for C_a C_b itself where that
    /// is singular. Eigenvalues that rounding makes negative count as 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for different numbers of features, and for statistics that are none.
    pub fn distance(&self, other: &Statistics) -> Result<f64> {
        let d = self.mean.len();
        if other.mean.len() != d || d == 0 {
            let got = format!("{d} and {}", other.mean.len());
            let expected = "the same number of features, at least 1";
            return Err(Error::invalid("statistics of features", expected, got, ""));
        }
        for (what, statistics) in [("these", self), ("the other", other)] {
            let shape = statistics.covariance.dim();
            let numbers = statistics.mean.iter().chain(&statistics.covariance);
            if shape != (d, d) || !numbers.into_iter().all(|x| x.is_finite()) {
                return Err(Error::invalid(
                    format!("{what} statistics' covariance"),
                    format!("[{d}, {d}], all numbers finite"),
                    format!("{shape:?}"),
                    "",
                ));
            }
        }
        let SymmetricEigen { eigenvectors, eigenvalues } = eigen(&self.covariance)?;
        let other_covariance = matrix(&other.covariance);
        // In the basis of C_a's eigenvectors its root is diagonal.
        let mut product = eigenvectors.transpose() * other_covariance * &eigenvectors;
        let roots = eigenvalues.map(|value| value.max(0.0).sqrt());
        for i in 0..d {
            for j in 0..d {
                product[(i, j)] *= roots[i] * roots[j];
            }
        }
        let symmetric = 0.5 * (&product + product.transpose());
        let root_trace: f64 =
            symmetric.symmetric_eigenvalues().iter().map(|value| value.max(0.0).sqrt()).sum();
        let apart: f64 = (&self.mean - &other.mean).mapv(|x| x * x).sum();
        let traces = self.covariance.diag().sum() + other.covariance.diag().sum();
        Ok((apart + traces - 2.0 * root_trace).max(0.0))
    }
}

/// The Frechet distance between features \[n, d\] of one network.
///
/// # Errors
/// [`Error::Invalid`] where [`Statistics::of`] refuses a set or the numbers of features differ.
pub fn frechet_distance(a: ArrayView2<f64>, b: ArrayView2<f64>) -> Result<f64> {
    check_pair(a, b, a.ncols().saturating_add(1), &rank(a.ncols()))?;
    Statistics::of(a)?.distance(&Statistics::of(b)?)
}

fn rank(d: usize) -> String {
    format!("for {d} features: the covariance of fewer does not have full rank")
}

fn matrix(symmetric: &Array2<f64>) -> DMatrix<f64> {
    DMatrix::from_iterator(symmetric.nrows(), symmetric.ncols(), symmetric.iter().copied())
}

fn eigen(symmetric: &Array2<f64>) -> Result<SymmetricEigen<f64, nalgebra::Dyn>> {
    // Two or three iterations per eigenvalue are usual.
    let most = 100 * symmetric.nrows();
    SymmetricEigen::try_new(matrix(symmetric), f64::EPSILON, most).ok_or_else(|| {
        Error::invalid(
            "the covariance of the features",
            "one whose eigenvalues can be found",
            "no convergence",
            "",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};

    fn normal(n: usize, d: usize, id: u64) -> Array2<f64> {
        let mut features = Array2::zeros((n, d));
        fill_normal(&mut rng(11, Stream::Check, 0, id), features.as_slice_mut().unwrap());
        features
    }

    /// Diagonal covariances, in closed form: sum of (m_a - m_b)^2 + (s_a - s_b)^2. Rounding.
    #[test]
    fn the_distance_of_independent_features_is_that_of_their_moments() {
        let axis = |mean: [f64; 3], deviation: [f64; 3]| Statistics {
            mean: Array1::from_iter(mean),
            covariance: Array2::from_diag(&Array1::from_iter(deviation.map(|s| s * s))),
        };
        let (a, b) = (axis([0.0, 1.0, 2.0], [1.0, 2.0, 0.0]), axis([0.5, 1.0, 0.0], [3.0, 2.0, 0.5]));
        let want = 0.25 + 4.0 + 4.0 + 0.25;
        assert!((a.distance(&b).unwrap() - want).abs() < 1e-13);
        assert!((b.distance(&a).unwrap() - want).abs() < 1e-13);
        assert!(a.distance(&a).unwrap() < 1e-13);
    }

    /// Moving a set by v adds |v|^2, scaling it by 3 about its mean gives (3 - 1)^2 times its trace, and a
    /// rotation of both changes nothing. 1e-9: rounding of sums over 200 rows, and its square root where it
    /// meets an eigenvalue of 0.
    #[test]
    fn what_is_known_of_moved_scaled_and_turned_features() {
        let a = normal(200, 5, 1);
        let moved = &a + 2.0;
        assert!((frechet_distance(a.view(), moved.view()).unwrap() - 20.0).abs() < 1e-9);
        let mean = a.mean_axis(Axis(0)).unwrap();
        let scaled = (&a - &mean) * 3.0 + &mean;
        let trace = Statistics::of(a.view()).unwrap().covariance.diag().sum();
        assert!((frechet_distance(a.view(), scaled.view()).unwrap() - 4.0 * trace).abs() < 1e-9);
        let b = normal(150, 5, 2) * 1.5 + 0.3;
        let plain = frechet_distance(a.view(), b.view()).unwrap();
        // Householder's reflection along (1, 1, 1, 1, 1).
        let rotation = Array2::from_shape_fn((5, 5), |(i, j)| if i == j { 0.6 } else { -0.4 });
        let turned = frechet_distance(a.dot(&rotation).view(), b.dot(&rotation).view()).unwrap();
        assert!((turned - plain).abs() < 1e-9, "{turned} {plain}");
    }

    /// Constant features and copies of other features make the covariance singular, where a root of the plain
    /// product fails; they add nothing. 1e-6: each null direction adds the root of a rounding error of 1e-15,
    /// 3e-8.
    #[test]
    fn singular_covariances_are_no_obstacle() {
        let (a, b) = (normal(100, 4, 3), normal(90, 4, 4) * 1.2);
        let want = frechet_distance(a.view(), b.view()).unwrap();
        let with_dead = |x: &Array2<f64>| {
            ndarray::concatenate(Axis(1), &[x.view(), Array2::from_elem((x.nrows(), 2), 7.0).view()]).unwrap()
        };
        let got = frechet_distance(with_dead(&a).view(), with_dead(&b).view()).unwrap();
        assert!((got - want).abs() < 1e-6, "{got} {want}");
        // A copy of all features doubles the distance.
        let twice = |x: &Array2<f64>| ndarray::concatenate(Axis(1), &[x.view(), x.view()]).unwrap();
        let got = frechet_distance(twice(&a).view(), twice(&b).view()).unwrap();
        assert!((got - 2.0 * want).abs() < 1e-6, "{got} {want}");
    }

    #[test]
    fn what_has_no_distance_is_refused() {
        let (a, b) = (normal(20, 6, 5), normal(6, 6, 6));
        let refused =
            |a: &Array2<f64>, b: &Array2<f64>| frechet_distance(a.view(), b.view()).unwrap_err().to_string();
        let message = refused(&a, &b);
        assert!(
            message.contains("at least 7") && message.contains("rank") && message.contains("got 6"),
            "{message}"
        );
        assert!(refused(&b, &a).contains("at least 7"));
        assert!(refused(&a, &normal(20, 5, 6)).contains("6 and 5"));
        let mut nan = normal(20, 6, 7);
        nan[[3, 2]] = f64::NAN;
        assert!(refused(&a, &nan).contains("image 3"));
        assert!(refused(&a, &(normal(20, 6, 7) * 1e200)).contains("overflow"));
    }
}
