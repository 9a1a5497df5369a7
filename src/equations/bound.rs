//! The likelihood and its variational bound: (16)-(20). All in nats, summed over pixels; `f64` inside.

use super::reverse::{Reverse, eq07_log_sigma2, eq07_sigma2, eq13_mu_theta, eq14_log_p_theta};
use super::{Level, Schedule, Timestep, decoder, forward, gaussian, posterior};
use crate::config::VarianceKind;
use crate::error::Result;
use crate::real::Real;

/// (16) -ln p_theta(x_0) from `log_weights` = independent draws of [`eq16_log_weight`] for one x_0: minus the
/// logarithm of their mean weight. It converges to the exact value as the number of draws grows; for finitely
/// many draws it is too large on average.
///
/// Source: Ho et al. (2020), section 2, equation 3.
pub fn eq16_negative_log_likelihood(log_weights: &[f64]) -> f64 {
    -posterior::log_mean_exp(log_weights)
}

/// ln [ p_theta(x_{0:T}) / q(x_{1:T} | x_0) ] for one path x_1 .. x_T drawn from q by (2). The mean of its
/// exponential is p_theta(x_0); minus its own mean is the bound L of (17), before any Gaussian integral has
/// been solved.
///
/// `noise` fills its slice with N(0, I); `eps_theta(x_t, t, out)` writes the predicted noise.
///
/// # Errors
/// Those of `eps_theta`.
pub fn eq16_log_weight(
    schedule: &Schedule,
    reverse: Reverse,
    x0: &[f64],
    mut noise: impl FnMut(&mut [f64]),
    mut eps_theta: impl FnMut(&[f64], Timestep, &mut [f64]) -> Result<()>,
) -> Result<f64> {
    let (mut x_prev, mut x_t) = (x0.to_vec(), vec![0.0; x0.len()]);
    let (mut eps, mut predicted) = (vec![0.0; x0.len()], vec![0.0; x0.len()]);
    let mut log_weight = 0.0;
    for level in schedule.levels() {
        noise(&mut eps);
        forward::eq02_q_step(&x_prev, &eps, level.beta, &mut x_t);
        eps_theta(&x_t, level.t, &mut predicted)?;
        log_weight -= forward::eq01_log_q(&x_t, &x_prev, level);
        log_weight += if level.is_first() {
            -eq17_decoder_term(x0, &x_t, &predicted, level, reverse)
        } else {
            eq14_log_p_theta(&x_prev, &x_t, &predicted, level, reverse)
        };
        std::mem::swap(&mut x_prev, &mut x_t);
    }
    let origin = vec![0.0; x0.len()];
    Ok(log_weight + gaussian::log_density(&x_prev, &origin, 1.0))
}

/// The terms of (17), in nats.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// L_T.
    pub prior: f64,
    /// L_1 .. L_{T-1}: for t = 2..T the term L_{t-1} of x_{t-1} given x_t, with its t.
    pub middle: Vec<(Timestep, f64)>,
    /// L_0.
    pub decoder: f64,
}

impl Bound {
    /// L = L_T + sum_{t=2..T} L_{t-1} + L_0.
    pub fn total(&self) -> f64 {
        self.prior + self.middle.iter().map(|(_, term)| term).sum::<f64>() + self.decoder
    }
}

/// (17) L >= -ln p_theta(x_0), estimated with one x_t for each t: L_T + sum_{t=2..T} L_{t-1} + L_0.
///
/// `noise(t, out)` fills `out` with N(0, I); `eps_theta(x_t, t, out)` writes the predicted noise.
///
/// Source: Ho et al. (2020), section 2, equation 5.
///
/// # Errors
/// Those of `eps_theta`.
pub fn eq17_bound<T: Real>(
    schedule: &Schedule,
    reverse: Reverse,
    x0: &[T],
    mut noise: impl FnMut(Timestep, &mut [T]),
    mut eps_theta: impl FnMut(&[T], Timestep, &mut [T]) -> Result<()>,
) -> Result<Bound> {
    let zeros = || vec![T::zero(); x0.len()];
    let (mut eps, mut x_t, mut predicted) = (zeros(), zeros(), zeros());
    let mut bound = Bound { prior: eq17_prior_term(x0, schedule.last()), middle: Vec::new(), decoder: 0.0 };
    for level in schedule.levels() {
        noise(level.t, &mut eps);
        forward::eq03_q_sample(x0, &eps, level.alpha_bar, &mut x_t);
        eps_theta(&x_t, level.t, &mut predicted)?;
        if level.is_first() {
            bound.decoder = eq17_decoder_term(x0, &x_t, &predicted, level, reverse);
        } else {
            bound.middle.push((level.t, eq17_middle_term(x0, &x_t, &predicted, level, reverse)));
        }
    }
    Ok(bound)
}

/// (17) L_T = KL( q(x_T | x_0) || N(0, I) ), `last` being the level T.
///
/// # Panics
/// If the lengths differ.
pub fn eq17_prior_term<T: Real>(x0: &[T], last: &Level) -> f64 {
    let mean: Vec<f64> = x0.iter().map(|x| last.alpha_bar.sqrt() * x.f64()).collect();
    gaussian::kl_divergence(&mean, 1.0 - last.alpha_bar, &vec![0.0; mean.len()], 1.0)
}

/// (17) L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t) ), for t >= 2.
///
/// # Panics
/// If the lengths differ.
pub fn eq17_middle_term<T: Real>(
    x0: &[T],
    x_t: &[T],
    eps_theta: &[T],
    level: &Level,
    reverse: Reverse,
) -> f64 {
    let [x0, x_t, eps_theta] = [x0, x_t, eps_theta].map(widen);
    let mut mean = vec![0.0; x0.len()];
    eq13_mu_theta(&x_t, &eps_theta, level, reverse.clip_x0, &mut mean);
    eq17_middle_term_around(&mean, &x0, &x_t, level, reverse.variance)
}

/// (17) L_{t-1} likewise, for any mean of p_theta.
///
/// # Panics
/// If the lengths differ.
pub fn eq17_middle_term_around(
    mean: &[f64],
    x0: &[f64],
    x_t: &[f64],
    level: &Level,
    variance: VarianceKind,
) -> f64 {
    let mut mean_q = vec![0.0; x0.len()];
    posterior::eq11_posterior_mean(x_t, x0, level, &mut mean_q);
    let variance_q = posterior::eq10_posterior_variance(level);
    gaussian::kl_divergence(&mean_q, variance_q, mean, eq07_sigma2(level, variance))
}

/// (17) L_0 = -ln p_theta(x_0 | x_1) by the discretised decoder, around mu_theta(x_1, 1) with the standard
/// deviation of [`eq07_log_sigma2`]. `level` is that of t = 1.
///
/// # Panics
/// If the lengths differ.
pub fn eq17_decoder_term<T: Real>(
    x0: &[T],
    x_1: &[T],
    eps_theta: &[T],
    level: &Level,
    reverse: Reverse,
) -> f64 {
    let [x0, x_1, eps_theta] = [x0, x_1, eps_theta].map(widen);
    let mut mean = vec![0.0; x0.len()];
    eq13_mu_theta(&x_1, &eps_theta, level, reverse.clip_x0, &mut mean);
    eq17_decoder_term_around(&mean, &x0, level, reverse.variance)
}

/// (17) L_0 likewise, for any mean of p_theta.
///
/// # Panics
/// If the lengths differ.
pub fn eq17_decoder_term_around(mean: &[f64], x0: &[f64], level: &Level, variance: VarianceKind) -> f64 {
    let sigma = (0.5 * eq07_log_sigma2(level, variance)).exp();
    -decoder::eq17_log_decoder(x0, mean, sigma)
}

/// `nats` for `dims` pixels as bits per dimension: nats / (ln 2 dims).
pub fn bits_per_dim(nats: f64, dims: usize) -> f64 {
    nats / (std::f64::consts::LN_2 * dims as f64)
}

/// (18) || mu~_t - mu_theta ||^2 / (2 sigma_t^2), for t >= 2: L_{t-1} minus [`eq18_constant`].
///
/// Source: Ho et al. (2020), section 3.2, equation 8.
///
/// # Panics
/// If the lengths differ.
pub fn eq18_mean_distance(mu_tilde: &[f64], mu_theta: &[f64], sigma2: f64) -> f64 {
    assert_eq!(mu_tilde.len(), mu_theta.len());
    mu_tilde.iter().zip(mu_theta).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / (2.0 * sigma2)
}

/// (18) C_t = D/2 ( beta~_t/sigma_t^2 - 1 + ln(sigma_t^2/beta~_t) ) for D = `dims` pixels, for t >= 2: zero
/// iff sigma_t^2 = beta~_t, and part of the bound otherwise.
///
/// Source: Ho et al. (2020), section 3.2, equation 8, where it is called C.
pub fn eq18_constant(level: &Level, variance: VarianceKind, dims: usize) -> f64 {
    let ratio = posterior::eq10_posterior_variance(level) / eq07_sigma2(level, variance);
    0.5 * dims as f64 * (ratio - 1.0 - ratio.ln())
}

/// (19): (18) with (12) for mu~_t and (13) for mu_theta, as functions of x_t and of the two noises.
///
/// Source: Ho et al. (2020), section 3.2, equations 9 and 10.
///
/// # Panics
/// If the lengths differ.
pub fn eq19_mean_distance(x_t: &[f64], eps: &[f64], eps_theta: &[f64], level: &Level, sigma2: f64) -> f64 {
    let (mut mu_tilde, mut mu_theta) = (vec![0.0; x_t.len()], vec![0.0; x_t.len()]);
    posterior::eq12_posterior_mean(x_t, eps, level, &mut mu_tilde);
    eq13_mu_theta(x_t, eps_theta, level, false, &mut mu_theta);
    eq18_mean_distance(&mu_tilde, &mu_theta, sigma2)
}

/// (20)'s weight (1 - alpha_t)^2 / ( 2 alpha_t (1 - abar_t) sigma_t^2 ).
pub fn eq20_weight(level: &Level, sigma2: f64) -> f64 {
    (1.0 - level.alpha).powi(2) / (2.0 * level.alpha * (1.0 - level.alpha_bar) * sigma2)
}

/// (20) the weight times || eps - eps_theta( sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t ) ||^2, one draw of
/// the expectation.
///
/// `eps_theta(x_t, t, out)` writes the predicted noise.
///
/// Source: Ho et al. (2020), section 3.2, equation 12.
///
/// # Errors
/// Those of `eps_theta`.
pub fn eq20_noise_distance(
    x0: &[f64],
    eps: &[f64],
    level: &Level,
    sigma2: f64,
    eps_theta: impl FnOnce(&[f64], Timestep, &mut [f64]) -> Result<()>,
) -> Result<f64> {
    let (mut x_t, mut predicted) = (vec![0.0; x0.len()], vec![0.0; x0.len()]);
    forward::eq03_q_sample(x0, eps, level.alpha_bar, &mut x_t);
    eps_theta(&x_t, level.t, &mut predicted)?;
    let squares: f64 = eps.iter().zip(&predicted).map(|(a, b)| (a - b) * (a - b)).sum();
    Ok(eq20_weight(level, sigma2) * squares)
}

/// The same numbers in `f64`.
pub(crate) fn widen<T: Real>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.f64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn schedule() -> Schedule {
        Schedule::from_betas(&[0.1, 0.2, 0.3]).unwrap()
    }

    const REVERSE: Reverse = Reverse { variance: VarianceKind::FixedLarge, clip_x0: true };

    fn half(x: &[f32], _: Timestep, out: &mut [f32]) -> Result<()> {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = 0.5 * x);
        Ok(())
    }

    /// [`eq17_bound`] returns the terms of the three functions in the order of t. `f32` images are widened
    /// before anything is subtracted, so the terms are equal, not merely close.
    #[test]
    fn eq17_bound_is_the_sum_of_its_terms() {
        let (schedule, x0, eps) = (schedule(), [0.5f32, -0.25], [0.3f32, -0.8]);
        let noise = |_: Timestep, out: &mut [f32]| out.copy_from_slice(&eps);
        let bound = eq17_bound(&schedule, REVERSE, &x0, noise, half).unwrap();
        let mut terms = schedule.levels().iter().map(|level| {
            let (mut x_t, mut predicted) = ([0f32; 2], [0f32; 2]);
            forward::eq03_q_sample(&x0, &eps, level.alpha_bar, &mut x_t);
            half(&x_t, level.t, &mut predicted).unwrap();
            if level.is_first() {
                eq17_decoder_term(&x0, &x_t, &predicted, level, REVERSE)
            } else {
                eq17_middle_term(&x0, &x_t, &predicted, level, REVERSE)
            }
        });
        assert_eq!(bound.decoder, terms.next().unwrap());
        assert_eq!(bound.middle.iter().map(|(t, _)| t.get()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(bound.middle.iter().map(|(_, term)| *term).collect::<Vec<_>>(), terms.collect::<Vec<_>>());
        assert_eq!(bound.prior, eq17_prior_term(&x0, schedule.last()));
        assert_eq!(bound.total(), bound.prior + bound.middle[0].1 + bound.middle[1].1 + bound.decoder);
    }

    #[test]
    fn eq16_eq17_eq20_pass_on_what_goes_wrong_in_the_network() {
        let fail = || Err(Error::invalid("network", "", "", ""));
        let schedule = schedule();
        assert!(eq17_bound(&schedule, REVERSE, &[0f32; 2], |_, _| {}, |_, _, _| fail()).is_err());
        assert!(eq16_log_weight(&schedule, REVERSE, &[0.0; 2], |_| {}, |_, _, _| fail()).is_err());
        assert!(eq20_noise_distance(&[0.0], &[0.0], schedule.last(), 1.0, |_, _, _| fail()).is_err());
    }

    /// Large weights must not overflow: the logarithm of the mean of e^1000 and e^1002.
    #[test]
    fn eq16_works_on_logarithms() {
        let want = -(1002.0 + ((1.0 + (-2f64).exp()) / 2.0).ln());
        assert!((eq16_negative_log_likelihood(&[1000.0, 1002.0]) - want).abs() < 1e-12);
    }
}
