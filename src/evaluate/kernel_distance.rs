//! The kernel distance (KID) of Binkowski et al. (2018): the squared maximum mean discrepancy of two sets of
//! features under the cubic kernel, without bias for any number of images.

use super::choice::shuffled;
use super::{Estimate, check_pair};
use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// The usual number of subsets for this many images: subsets of about 1000 images, but at least 10 of them.
pub fn usual_subsets(images: usize) -> usize {
    (images / 1000).max(10)
}

/// The kernel distance between features \[n, d\] of one network, under k(x, y) = (x y / d + 1)^3.
///
/// Both sets are shuffled by the seed and cut into `subsets` parts; the estimates of the pairs of parts are
/// independent and unbiased, so that the standard error of their mean is right (with overlapping subsets it
/// would be too small). The distance may be negative where the sets are alike.
///
/// Source: Binkowski et al. (2018), section 3; Gretton et al. (2012), equation 3, for the estimate.
///
/// # Errors
/// [`Error::Invalid`] for features that are not finite or differ in number, fewer than two subsets, or fewer
/// than two images for one.
pub fn kernel_distance(
    a: ArrayView2<f64>,
    b: ArrayView2<f64>,
    subsets: usize,
    seed: u64,
) -> Result<Estimate> {
    if subsets < 2 {
        return Err(Error::invalid("subsets of a kernel distance", "at least 2", subsets.to_string(), ""));
    }
    check_pair(a, b, subsets.saturating_mul(2), &format!("for {subsets} subsets of two"))?;
    let (a_parts, b_parts) = (parts(a, subsets, seed)?, parts(b, subsets, seed)?);
    let estimates: Vec<f64> = a_parts.par_iter().zip(&b_parts).map(|(a, b)| discrepancy(a, b)).collect();
    Ok(Estimate::of(estimates))
}

/// Equal parts of the rows in a shuffled order; the remainder is left out.
fn parts(features: ArrayView2<f64>, subsets: usize, seed: u64) -> Result<Vec<Array2<f64>>> {
    let order = shuffled(features.nrows(), seed)?;
    let size = features.nrows() / subsets;
    Ok(order.chunks_exact(size).take(subsets).map(|rows| features.select(Axis(0), rows)).collect())
}

/// The unbiased estimate for one pair of sets: the means of k over pairs of different rows within each set,
/// minus twice the mean over pairs between the sets.
fn discrepancy(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    let kernel = |x: &Array2<f64>, y: &Array2<f64>| {
        let d = x.ncols() as f64;
        x.dot(&y.t()).mapv(|product| (product / d + 1.0).powi(3))
    };
    let within = |x: &Array2<f64>| {
        let (n, k) = (x.nrows() as f64, kernel(x, x));
        (k.sum() - k.diag().sum()) / (n * (n - 1.0))
    };
    within(a) + within(b) - 2.0 * kernel(a, b).sum() / (a.nrows() * b.nrows()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};
    use ndarray::arr2;

    fn normal(n: usize, id: u64) -> Array2<f64> {
        let mut features = Array2::zeros((n, 1));
        fill_normal(&mut rng(12, Stream::Check, 0, id), features.as_slice_mut().unwrap());
        features
    }

    /// By hand, with d = 2: k((2,0), (0,2)) = 1, k((1,1), (3,1)) = 27, and between the sets 8, 64, 8 and 8.
    #[test]
    fn two_and_two_points() {
        let (a, b) = (arr2(&[[2.0, 0.0], [0.0, 2.0]]), arr2(&[[1.0, 1.0], [3.0, 1.0]]));
        assert_eq!(discrepancy(&a, &b), 1.0 + 27.0 - 2.0 * (8.0 + 64.0 + 8.0 + 8.0) / 4.0);
    }

    /// With one feature k = (x y + 1)^3, so that the distance of two distributions is 3 (difference of
    /// means)^2 + 3 (of second moments)^2 + (of third moments)^2: for N(0.5, 1.5^2) against N(0, 1) they are
    /// 0.5, 1.5 and 0.125 + 3 0.5 2.25 = 3.5. Bound: four standard errors, which must be below 10 %.
    #[test]
    fn the_estimate_converges_to_the_closed_form() {
        let exact = 3.0 * 0.5f64.powi(2) + 3.0 * 1.5f64.powi(2) + 3.5f64.powi(2);
        let (a, b) = (normal(20_000, 1) * 1.5 + 0.5, normal(30_000, 2));
        let found = kernel_distance(a.view(), b.view(), 20, 0).unwrap();
        assert!((found.mean - exact).abs() < 4.0 * found.standard_error, "{found:?} {exact}");
        assert!(found.standard_error < 0.1 * exact, "{found:?}");
    }

    /// For two sets from one distribution the mean over repetitions is 0 within four standard errors, where
    /// the biased estimate would be far above (its diagonal alone adds 2 E k(x, x) / 25 = 1.8), and the
    /// stated errors match the observed spread, within four times the 5 % uncertainty of 200 values.
    #[test]
    fn equal_distributions_are_at_0_on_average_and_errors_are_honest() {
        let repeat = |i: u64| {
            let (a, b) = (normal(250, 10 + 2 * i), normal(250, 11 + 2 * i));
            kernel_distance(a.view(), b.view(), 10, i).unwrap()
        };
        let found: Vec<Estimate> = (0..200).map(repeat).collect();
        let over = Estimate::of(found.iter().map(|estimate| estimate.mean));
        assert!(over.mean.abs() < 4.0 * over.standard_error && over.standard_error < 0.1, "{over:?}");
        let stated = found.iter().map(|estimate| estimate.standard_error.powi(2)).sum::<f64>() / 200.0;
        let ratio = over.standard_error * 200f64.sqrt() / stated.sqrt();
        assert!((ratio - 1.0).abs() < 0.2, "{ratio}");
    }

    #[test]
    fn too_few_are_refused() {
        let (a, b) = (normal(19, 1), normal(30, 2));
        assert!(kernel_distance(a.view(), b.view(), 10, 0).unwrap_err().to_string().contains("at least 20"));
        assert!(kernel_distance(a.view(), b.view(), 1, 0).unwrap_err().to_string().contains("subsets"));
        assert!(kernel_distance(a.view(), b.view(), 9, 0).is_ok());
    }
}
