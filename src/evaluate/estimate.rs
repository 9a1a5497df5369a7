//! Means with their standard errors.

use serde::{Deserialize, Serialize};

/// A mean, and the standard deviation that it would have if everything were drawn anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error: the sample standard deviation over the square root of the number of independent
    /// draws.
    pub standard_error: f64,
}

impl Estimate {
    /// The mean of independent draws, in the order given; for fewer than two, the standard error is NaN.
    pub fn of(draws: impl IntoIterator<Item = f64>) -> Estimate {
        let mut moments = Moments::default();
        draws.into_iter().for_each(|x| moments.add(x));
        moments.estimate()
    }

    /// The same in another unit.
    pub fn scaled(self, factor: f64) -> Estimate {
        Estimate { mean: factor * self.mean, standard_error: factor.abs() * self.standard_error }
    }

    /// The square root, its error to first order; 0 has no error.
    pub fn sqrt(self) -> Estimate {
        let mean = self.mean.sqrt();
        let standard_error = if mean > 0.0 { self.standard_error / (2.0 * mean) } else { 0.0 };
        Estimate { mean, standard_error }
    }
}

/// The running mean and sum of squared deviations (Welford 1962): stable, and a function of the draws' order
/// alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Adds a draw.
    pub(super) fn add(&mut self, x: f64) {
        self.count += 1.0;
        let before = x - self.mean;
        self.mean += before / self.count;
        self.squares += before * (x - self.mean);
    }

    /// The unbiased variance of the draws; NaN for fewer than two.
    pub(super) fn variance(&self) -> f64 {
        self.squares / (self.count - 1.0)
    }

    /// The mean of the draws.
    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    /// The mean with its error.
    pub(super) fn estimate(&self) -> Estimate {
        Estimate { mean: self.mean, standard_error: (self.variance() / self.count).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 1, 2, 4, 9 has mean 4 and squared deviations 9 + 4 + 0 + 25.
    #[test]
    fn mean_and_error_of_four_numbers() {
        let estimate = Estimate::of([1.0, 2.0, 4.0, 9.0]);
        assert_eq!(estimate.mean, 4.0);
        assert!((estimate.standard_error - (38.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert!(Estimate::of([1.0]).standard_error.is_nan());
        let root = estimate.scaled(4.0).sqrt();
        assert_eq!((root.mean, root.standard_error), (4.0, estimate.standard_error / 2.0));
    }

    /// A large mean must not swamp the deviations, as it would in a sum of squares.
    #[test]
    fn a_large_mean_does_not_hurt() {
        let draws = [0.0, 1.0, 0.5, 0.25].map(|x| x + 1e9);
        let want = Estimate::of([0.0, 1.0, 0.5, 0.25]).standard_error;
        assert!((Estimate::of(draws).standard_error / want - 1.0).abs() < 1e-6);
    }
}
