//! The Frechet distance between two sets of features, each approximated by a Gaussian. With Inception's
//! features it is the FID of Heusel et al. (2017).

use super::check_pair;
use crate::error::{Error, Result};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

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
    /// With C_a = R_a R_a^T and C_b = R_b R_b^T the eigenvalues of C_a C_b are the squares of the singular
    /// values of R_a^T R_b, so that the trace of the root is the sum of these: no eigenvalues are sought, and
    /// singular covariances need no care.
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
        let root_trace = nuclear_norm(&root(&self.covariance).t().dot(&root(&other.covariance)));
        let apart: f64 = (&self.mean - &other.mean).mapv(|x| x * x).sum();
        let traces = self.covariance.diag().sum() + other.covariance.diag().sum();
        let distance = apart + traces - 2.0 * root_trace;
        if distance.is_finite() {
            return Ok(distance.max(0.0));
        }
        let expected = "positive semi-definite ones, and means whose squares stay finite";
        Err(Error::invalid("statistics of features", expected, format!("a distance of {distance}"), ""))
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

/// R \[d, r\] with R R^T = C, for a positive semi-definite C \[d, d\] of rank r: Cholesky's decomposition
/// with complete pivoting (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 10.3), its
/// rows in the order of C's. What is left of C when no diagonal element is above rounding counts as 0.
fn root(covariance: &Array2<f64>) -> Array2<f64> {
    let d = covariance.nrows();
    let mut rest = covariance.clone();
    let largest = |rest: &Array2<f64>| {
        let diagonal = rest.diag();
        let pivot = (0..d).fold(0, |best, i| if diagonal[i] > diagonal[best] { i } else { best });
        (pivot, diagonal[pivot])
    };
    let rounding = d as f64 * f64::EPSILON * largest(&rest).1;
    let mut root = Array2::zeros((d, d));
    for r in 0..d {
        let (pivot, value) = largest(&rest);
        if value <= rounding {
            return root.slice_move(s![.., ..r]);
        }
        let column = &rest.column(pivot) / value.sqrt();
        for (mut row, &x) in rest.rows_mut().into_iter().zip(&column) {
            row.scaled_add(-x, &column);
        }
        root.column_mut(r).assign(&column);
    }
    root
}

/// The sum of M's singular values: tr( Q^T M ), with Q the orthogonal factor of M's polar decomposition, by
/// Newton and Schulz's iteration (Higham, Functions of Matrices, 2008, section 8.3), which takes every
/// singular value of M / |M| by itself from \[0, 1\] to 1.
///
/// A step is x -> a x (3 - (a x)^2) / 2, which stays within \[0, 1\] for a up to 3^(1/2). The first 22, with
/// a = 1.6 (Chen and Chow, 2014, stretch in this way), make a small value 2.4 times as large and leave 1 at
/// 0.35 or more; what was 1e-9 then is 0.2, from where nine steps with a = 1 end at 1 to the last bit.
/// Smaller ones count in part: of features whose variances fall over many orders of magnitude 1e-10 of the
/// sum was seen to be missing.
fn nuclear_norm(m: &Array2<f64>) -> f64 {
    let largest = m.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let m = m / largest;
    let norm = m.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut q = &m / norm;
    for a in [1.6; 22].into_iter().chain([1.0; 9]) {
        let cubed = q.dot(&q.t().dot(&q));
        q.zip_mut_with(&cubed, |q, cubed: &f64| *q = 0.5 * a * (3.0 * *q - a * a * cubed));
    }
    (&q * &m).sum() * largest
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

    /// Singular values over twelve orders of magnitude between two reflections, at scales whose squares leave
    /// the numbers' range. Tolerance: 1e-9 of the sum, for what is too small to count in full.
    #[test]
    fn a_nuclear_norm_is_the_sum_of_the_singular_values() {
        let singular = Array1::from_iter([1.0, 0.999, 1e-3, 1e-7, 1e-12, 0.0]);
        let reflection = |v: [f64; 6]| {
            let v = Array2::from_shape_vec((6, 1), v.to_vec()).unwrap();
            Array2::eye(6) - v.dot(&v.t()) * (2.0 / v.mapv(|x| x * x).sum())
        };
        let [u, v] = [[1.0, 2.0, -1.0, 0.5, 3.0, 1.0], [2.0, 0.1, 1.0, -4.0, 1.0, 0.3]].map(reflection);
        let m = u.dot(&Array2::from_diag(&singular)).dot(&v);
        let sum = singular.sum();
        for scale in [1.0, 1e-200, 1e200] {
            for m in [&m * scale, m.slice(s![.., ..]).reversed_axes().to_owned() * scale] {
                assert!((nuclear_norm(&m) / scale - sum).abs() < 1e-9 * sum, "{scale}: {}", nuclear_norm(&m));
            }
        }
        // Many equal ones, each a twentieth of the norm: rounding, 1e-14 of their sum.
        assert!((nuclear_norm(&Array2::eye(400)) - 400.0).abs() < 4e-12);
        assert_eq!(nuclear_norm(&Array2::zeros((3, 0))), 0.0);
    }

    /// A root's product with itself is the covariance, of full rank and of rank 2, to rounding: 1e-14 of
    /// numbers up to 30.
    #[test]
    fn a_root_gives_its_covariance_back() {
        for (rows, rank) in [(50, 5), (2, 2)] {
            let x = normal(rows, 5, 9) * 2.0;
            let covariance = x.t().dot(&x) / rows as f64;
            let root = root(&covariance);
            assert_eq!(root.dim(), (5, rank));
            let off = (root.dot(&root.t()) - &covariance).mapv(f64::abs);
            assert!(off.iter().all(|off| *off < 1e-14 * 30.0), "{off}");
        }
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
        let none = Array2::from_shape_vec((2, 2), vec![1.0, 1e300, 1e300, 0.5]).unwrap();
        let statistics = Statistics { mean: Array1::zeros(2), covariance: none };
        assert!(statistics.distance(&statistics).unwrap_err().to_string().contains("semi-definite"));
        let far = Statistics { mean: Array1::from_elem(2, 1e200), covariance: Array2::eye(2) };
        assert!(far.distance(&Statistics { mean: Array1::zeros(2), ..far.clone() }).is_err());
    }
}
