//! The forward process q: (1), (2), (3).

use super::{Level, combine, gaussian};
use crate::real::Real;

/// (1) ln q(x_t | x_{t-1}) = ln N(x_t; sqrt(1 - beta_t) x_{t-1}, beta_t I).
///
/// Source: Ho et al. (2020), section 2, equation 2.
///
/// # Panics
/// If the lengths differ.
pub fn eq01_log_q(x_t: &[f64], x_prev: &[f64], level: &Level) -> f64 {
    let mean: Vec<f64> = x_prev.iter().map(|x| (1.0 - level.beta).sqrt() * x).collect();
    gaussian::log_density(x_t, &mean, level.beta)
}

/// (2) x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps: a draw from (1) when eps ~ N(0, I).
///
/// Source: Ho et al. (2020), section 2.
///
/// # Panics
/// If the lengths differ.
pub fn eq02_q_step<T: Real>(x_prev: &[T], eps: &[T], beta_t: f64, x_t: &mut [T]) {
    combine((1.0 - beta_t).sqrt(), x_prev, beta_t.sqrt(), eps, x_t);
}

/// (3) abar_t = alpha_1 .. alpha_t with alpha_t = 1 - beta_t, for t = 1..T.
///
/// Source: Ho et al. (2020), section 2.
pub fn eq03_alpha_bars(betas: &[f64]) -> Vec<f64> {
    let mut product = 1.0;
    betas
        .iter()
        .map(|beta| {
            product *= 1.0 - beta;
            product
        })
        .collect()
}

/// (3) x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps: x_t drawn from x_0 in one step when eps ~ N(0, I).
///
/// Source: Ho et al. (2020), section 2, equation 4.
///
/// # Panics
/// If the lengths differ.
pub fn eq03_q_sample<T: Real>(x0: &[T], eps: &[T], alpha_bar_t: f64, x_t: &mut [T]) {
    combine(alpha_bar_t.sqrt(), x0, (1.0 - alpha_bar_t).sqrt(), eps, x_t);
}

/// (3) solved for x_0 = ( x_t - sqrt(1 - abar_t) eps ) / sqrt(abar_t): the x_0 that a noise prediction
/// implies.
///
/// # Panics
/// If the lengths differ.
pub fn eq03_predict_x0<T: Real>(x_t: &[T], eps: &[T], alpha_bar_t: f64, x0: &mut [T]) {
    combine((1.0 / alpha_bar_t).sqrt(), x_t, -(1.0 / alpha_bar_t - 1.0).sqrt(), eps, x0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Coefficients 0.6 and 0.8, so that the values can be checked by hand; `f32` up to its own rounding.
    #[test]
    fn eq02_eq03_known_values_in_both_types() {
        let mut x_t = [0.0f64; 2];
        eq02_q_step(&[1.0, -2.0], &[0.5, 1.0], 0.36, &mut x_t);
        assert!((x_t[0] - 1.1).abs() < 1e-15 && (x_t[1] + 1.0).abs() < 1e-15, "{x_t:?}");
        eq03_q_sample(&[1.0, -2.0], &[0.5, 1.0], 0.64, &mut x_t);
        assert!((x_t[0] - 1.1).abs() < 1e-15 && (x_t[1] + 1.0).abs() < 1e-15, "{x_t:?}");
        let mut single = [0f32; 2];
        eq03_q_sample(&[1.0, -2.0], &[0.5, 1.0], 0.64, &mut single);
        assert!((single[0] - 1.1).abs() < 2e-7 && (single[1] + 1.0).abs() < 2e-7, "{single:?}");
        assert_eq!(eq03_alpha_bars(&[0.5, 0.5, 0.75]), [0.5, 0.25, 0.0625]);
    }

    #[test]
    #[should_panic(expected = "lengths 2 1 2")]
    fn eq03_refuses_slices_of_different_lengths() {
        eq03_q_sample(&[1.0, 2.0], &[0.5], 0.5, &mut [0.0; 2]);
    }

    #[test]
    #[should_panic(expected = "lengths 1 2 2")]
    fn eq02_refuses_slices_of_different_lengths() {
        eq02_q_step(&[1.0], &[0.5, 0.1], 0.5, &mut [0.0; 2]);
    }
}
