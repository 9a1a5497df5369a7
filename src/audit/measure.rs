//! Integration and statistics, independent of the equations that they check.

use crate::rng::{ChaCha8Rng, Stream, fill_normal, rng};

/// The density of N(mean, variance) at x.
pub fn pdf(x: f64, mean: f64, variance: f64) -> f64 {
    (-(x - mean) * (x - mean) / (2.0 * variance)).exp() / (std::f64::consts::TAU * variance).sqrt()
}

/// The trapezoid rule over `cells` cells. For an analytic function that vanishes at both ends with all its
/// derivatives, such as a Gaussian cut at 12 standard deviations (1e-32 of it is lost), the error falls
/// exponentially with the number of cells.
pub fn integrate(low: f64, high: f64, cells: usize, f: impl Fn(f64) -> f64) -> f64 {
    let step = (high - low) / cells as f64;
    let inner: f64 = (1..cells).map(|i| f(low + step * i as f64)).sum();
    step * (inner + 0.5 * (f(low) + f(high)))
}

/// E f(e) for e ~ N(0, 1).
pub fn expect(f: impl Fn(f64) -> f64) -> f64 {
    integrate(-12.0, 12.0, 480, |e| pdf(e, 0.0, 1.0) * f(e))
}

/// A density's integral, and its mean and variance after division by it.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The integral.
    pub mass: f64,
    /// The mean.
    pub mean: f64,
    /// The variance.
    pub variance: f64,
}

/// The moments of the unnormalised `density`, which is negligible beyond 14 `spread` from `centre`.
pub fn moments(centre: f64, spread: f64, density: impl Fn(f64) -> f64) -> Moments {
    let over = |f: &dyn Fn(f64) -> f64| {
        integrate(centre - 14.0 * spread, centre + 14.0 * spread, 4000, |x| f(x) * density(x))
    };
    let mass = over(&|_| 1.0);
    let mean = centre + over(&|x| x - centre) / mass;
    let variance = over(&|x| (x - mean) * (x - mean)) / mass;
    Moments { mass, mean, variance }
}

/// A sample mean and its standard error.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error, from the sample's own variance.
    pub standard_error: f64,
}

/// The mean of `draws` values of `f` and its standard error.
pub fn estimate(draws: usize, mut f: impl FnMut() -> f64) -> Estimate {
    let values: Vec<f64> = (0..draws).map(|_| f()).collect();
    let n = draws as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    Estimate { mean, standard_error: (variance / n).sqrt() }
}

/// The generator of check number `number`.
pub fn draws(number: u64) -> ChaCha8Rng {
    rng(20_221_003, Stream::Check, number, 0)
}

/// `n` draws from N(0, 1).
pub fn normals(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n];
    fill_normal(rng, &mut out);
    out
}

/// The largest of some errors, at least 0; NaN if one is.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |worst, error| if error.is_nan() || error > worst { error } else { worst })
}

/// |got - want| / |want|.
pub fn relative(got: f64, want: f64) -> f64 {
    ((got - want) / want).abs()
}

/// |got - want| / max(1, |want|).
pub fn absolute(got: f64, want: f64) -> f64 {
    (got - want).abs() / want.abs().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_error_is_the_largest_or_one_that_is_no_number() {
        assert_eq!(worst([]), 0.0);
        assert_eq!(worst([-1.0]), 0.0);
        assert_eq!(worst([1.0, 3.0, 2.0]), 3.0);
        for errors in [[f64::NAN, 1.0, 2.0], [1.0, f64::NAN, 2.0], [1.0, 2.0, f64::NAN]] {
            assert!(worst(errors).is_nan(), "{errors:?}");
        }
    }
}
