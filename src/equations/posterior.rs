//! What the reverse process approximates: (4), and the posterior of the forward process, (8)-(12).

use super::{Level, combine, forward, gaussian};
use crate::real::Real;

/// (4) ln q(x_{t-1} | x_t), the reverse process's target, for data that is one of finitely many equally
/// likely points: by Bayes' rule q(x_t | x_{t-1}) q(x_{t-1}) / q(x_t), where q(x_s) averages (3) over the
/// points.
///
/// It is a mixture, Gaussian only in the limit of small beta_t. For t >= 2: at t = 1 it is a sum of point
/// masses.
///
/// Source: Ho et al. (2020), section 2; Sohl-Dickstein et al. (2015), section 2.2 (the limit).
///
/// # Panics
/// If lengths differ.
pub fn eq04_log_q_reverse(x_prev: &[f64], x_t: &[f64], data: &[&[f64]], level: &Level) -> f64 {
    let log_marginal = |x: &[f64], alpha_bar: f64| {
        let terms: Vec<f64> = data
            .iter()
            .map(|x0| {
                let mean: Vec<f64> = x0.iter().map(|v| alpha_bar.sqrt() * v).collect();
                gaussian::log_density(x, &mean, 1.0 - alpha_bar)
            })
            .collect();
        log_mean_exp(&terms)
    };
    forward::eq01_log_q(x_t, x_prev, level) + log_marginal(x_prev, level.alpha_bar_prev)
        - log_marginal(x_t, level.alpha_bar)
}

/// ln of the mean of exp(terms), without overflow.
pub(super) fn log_mean_exp(terms: &[f64]) -> f64 {
    let max = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + (terms.iter().map(|term| (term - max).exp()).sum::<f64>() / terms.len() as f64).ln()
}

/// (8) ln q(x_{t-1} | x_t, x_0) = ln N(x_{t-1}; mu~_t(x_t, x_0), beta~_t I), for t >= 2.
///
/// Source: Ho et al. (2020), section 2, equation 6.
///
/// # Panics
/// If the lengths differ.
pub fn eq08_log_q_posterior(x_prev: &[f64], x_t: &[f64], x0: &[f64], level: &Level) -> f64 {
    let mut mean = vec![0.0; x_t.len()];
    eq11_posterior_mean(x_t, x0, level, &mut mean);
    gaussian::log_density(x_prev, &mean, eq10_posterior_variance(level))
}

/// (9) mu~_t(x_t, x_0) = beta~_t ( sqrt(alpha_t)/beta_t x_t + sqrt(abar_{t-1})/(1 - abar_{t-1}) x_0 ): the
/// precision-weighted mean of the estimates of x_{t-1} from x_t and from x_0.
///
/// At t = 1 the second precision is infinite and beta~_1 = 0; the limit, x_0 itself, is returned.
///
/// Source: Ho et al. (2020), equation 7, before it is simplified.
///
/// # Panics
/// If the lengths differ.
pub fn eq09_posterior_mean<T: Real>(x_t: &[T], x0: &[T], level: &Level, mean: &mut [T]) {
    if level.is_first() {
        return mean.copy_from_slice(x0);
    }
    let variance = eq10_posterior_variance(level);
    let from_x_t = level.alpha.sqrt() / level.beta;
    let from_x0 = level.alpha_bar_prev.sqrt() / (1.0 - level.alpha_bar_prev);
    combine(variance * from_x_t, x_t, variance * from_x0, x0, mean);
}

/// (10) beta~_t = (1 - abar_{t-1}) / (1 - abar_t) beta_t, the posterior's variance; 0 at t = 1.
///
/// Source: Ho et al. (2020), section 2, equation 7.
pub fn eq10_posterior_variance(level: &Level) -> f64 {
    (1.0 - level.alpha_bar_prev) / (1.0 - level.alpha_bar) * level.beta
}

/// (11)'s coefficients of x_t and of x_0: sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t) and
/// sqrt(abar_{t-1}) beta_t / (1 - abar_t).
///
/// At t = 1 they are set to exactly 0 and 1, which the formulas give up to rounding, since beta_1 = 1 -
/// abar_1.
pub fn eq11_coefficients(level: &Level) -> [f64; 2] {
    if level.is_first() {
        return [0.0, 1.0];
    }
    let rest = 1.0 - level.alpha_bar;
    [
        level.alpha.sqrt() * (1.0 - level.alpha_bar_prev) / rest,
        level.alpha_bar_prev.sqrt() * level.beta / rest,
    ]
}

/// (11) mu~_t(x_t, x_0): (9) simplified, with the coefficients of [`eq11_coefficients`].
///
/// Source: Ho et al. (2020), section 2, equation 7.
///
/// # Panics
/// If the lengths differ.
pub fn eq11_posterior_mean<T: Real>(x_t: &[T], x0: &[T], level: &Level, mean: &mut [T]) {
    let [from_x_t, from_x0] = eq11_coefficients(level);
    combine(from_x_t, x_t, from_x0, x0, mean);
}

/// (12) mu~_t(x_t) = 1/sqrt(alpha_t) ( x_t - (1 - alpha_t)/sqrt(1 - abar_t) eps_t ): (9) with x_0 solved from
/// (3).
///
/// Source: Ho et al. (2020), section 3.2, equation 10.
///
/// # Panics
/// If the lengths differ.
pub fn eq12_posterior_mean<T: Real>(x_t: &[T], eps: &[T], level: &Level, mean: &mut [T]) {
    let [from_x_t, from_eps] = eq12_coefficients(level);
    combine(from_x_t, x_t, from_eps, eps, mean);
}

/// (12)'s coefficients of x_t and of eps: 1/sqrt(alpha_t) and -(1 - alpha_t) / ( sqrt(1 - abar_t)
/// sqrt(alpha_t) ).
pub fn eq12_coefficients(level: &Level) -> [f64; 2] {
    let scale = 1.0 / level.alpha.sqrt();
    [scale, -scale * (1.0 - level.alpha) / (1.0 - level.alpha_bar).sqrt()]
}
