//! The training loss (21) and its gradient.

use super::{Level, Timestep, forward};
use crate::error::Result;
use crate::real::Real;

/// The number of partial sums in [`eq21_l_simple`]: two vectors of four `f64`.
const PARTIAL_SUMS: usize = 8;

/// (21) L_simple for one draw: the mean over the elements of (eps - eps_hat)^2, where eps_hat =
/// eps_theta(x_t, t).
///
/// The differences are rounded to `T`; squares and sum are `f64`, in an order that depends on the length
/// alone, so an `f32` input loses nothing to the summation. Zero elements give zero.
///
/// Source: Ho et al. (2020), section 3.4, equation 14.
///
/// # Panics
/// If the lengths differ.
pub fn eq21_l_simple<T: Real>(eps: &[T], eps_hat: &[T]) -> f64 {
    assert_eq!(eps.len(), eps_hat.len());
    let square = |a: T, b: T| {
        let difference = (a - b).f64();
        difference * difference
    };
    let (eps_parts, eps_rest) = eps.as_chunks::<PARTIAL_SUMS>();
    let (hat_parts, hat_rest) = eps_hat.as_chunks::<PARTIAL_SUMS>();
    let mut sums = [0.0; PARTIAL_SUMS];
    for (a, b) in eps_parts.iter().zip(hat_parts) {
        for i in 0..PARTIAL_SUMS {
            sums[i] += square(a[i], b[i]);
        }
    }
    let rest: f64 = eps_rest.iter().zip(hat_rest).map(|(&a, &b)| square(a, b)).sum();
    (sums.iter().sum::<f64>() + rest) / eps.len().max(1) as f64
}

/// The gradient of `scale` times [`eq21_l_simple`] in eps_hat, 2 scale (eps_hat - eps) / n, written to
/// `d_eps_hat`.
///
/// `scale` is 1 over the number of samples where the loss is averaged over a batch.
///
/// # Panics
/// If the lengths differ.
pub fn eq21_gradient<T: Real>(eps: &[T], eps_hat: &[T], scale: f64, d_eps_hat: &mut [T]) {
    let slope = 2.0 * scale / eps.len().max(1) as f64;
    super::combine(slope, eps_hat, -slope, eps, d_eps_hat);
}

/// The whole of (21) for one draw of its expectation: || eps - eps_theta( sqrt(abar_t) x_0 + sqrt(1 - abar_t)
/// eps, t ) ||^2 as a mean over the elements. `eps_theta(x_t, t, out)` writes the predicted noise.
///
/// # Errors
/// Those of `eps_theta`.
pub fn eq21_objective<T: Real>(
    x0: &[T],
    eps: &[T],
    level: &Level,
    eps_theta: impl FnOnce(&[T], Timestep, &mut [T]) -> Result<()>,
) -> Result<f64> {
    let (mut x_t, mut eps_hat) = (vec![T::zero(); x0.len()], vec![T::zero(); x0.len()]);
    forward::eq03_q_sample(x0, eps, level.alpha_bar, &mut x_t);
    eps_theta(&x_t, level.t, &mut eps_hat)?;
    Ok(eq21_l_simple(eps, &eps_hat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, fill_normal, rng};

    /// Every length around the number of partial sums, against a plain sum. Bound: rounding.
    #[test]
    fn eq21_is_a_mean_of_squares_at_every_length() {
        for n in 1..=3 * PARTIAL_SUMS + 1 {
            let (mut a, mut b) = (vec![0.0f64; n], vec![0.0f64; n]);
            fill_normal(&mut rng(1, Stream::Check, n as u64, 0), &mut a);
            fill_normal(&mut rng(1, Stream::Check, n as u64, 1), &mut b);
            let want = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / n as f64;
            let got = eq21_l_simple(&a, &b);
            assert!((got / want - 1.0).abs() < 1e-14, "{n}: {got} {want}");
        }
        assert_eq!(eq21_l_simple::<f32>(&[], &[]), 0.0);
    }

    /// A million `f32` of 0.1 against 0: an `f32` sum of squares would stop growing near 2^24 times its
    /// terms. Bound 1e-14: the rounding of the 131072 terms of a partial sum, at random.
    #[test]
    fn eq21_keeps_the_digits_of_long_f32_inputs() {
        let n = 1 << 20;
        let want = f64::from(0.1f32).powi(2);
        let got = eq21_l_simple(&vec![0.1f32; n], &vec![0.0; n]);
        assert!((got / want - 1.0).abs() < 1e-11, "{got}");
    }

    #[test]
    fn eq21_gradient_is_written_not_added() {
        let mut d = [7f32, 7.0];
        eq21_gradient(&[1.0, 2.0], &[2.0, 0.0], 0.5, &mut d);
        assert_eq!(d, [0.5, -1.0]);
        eq21_gradient::<f32>(&[], &[], 1.0, &mut []);
    }
}
