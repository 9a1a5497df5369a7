//! The reverse process p_theta: (5)-(7), (13)-(15).

use super::{Level, forward, gaussian, posterior};
use crate::config::{DiffusionConfig, VarianceKind};
use crate::real::Real;

/// The choices that (7) and (13) leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverse {
    /// sigma_t^2, (7).
    pub variance: VarianceKind,
    /// Whether the x_0 implied by the predicted noise is clipped to [-1, 1] before the mean is formed.
    pub clip_x0: bool,
}

impl From<&DiffusionConfig> for Reverse {
    fn from(config: &DiffusionConfig) -> Self {
        Reverse { variance: config.variance, clip_x0: config.clip_x0 }
    }
}

/// (5) ln p_theta(x_{t-1} | x_t) = ln N(x_{t-1}; mu_theta, Sigma_theta), for a diagonal Sigma_theta.
///
/// Source: Ho et al. (2020), section 2, equation 1.
///
/// # Panics
/// If the lengths differ.
pub fn eq05_log_p_theta(x_prev: &[f64], mean: &[f64], variances: &[f64]) -> f64 {
    assert!(x_prev.len() == mean.len() && mean.len() == variances.len());
    let component = |i: usize| gaussian::log_density(&x_prev[i..=i], &mean[i..=i], variances[i]);
    (0..mean.len()).map(component).sum()
}

/// (6) Sigma_theta = sigma_t^2 I: the diagonal, for `dims` components.
///
/// Source: Ho et al. (2020), section 3.2.
pub fn eq06_sigma_theta(level: &Level, variance: VarianceKind, dims: usize) -> Vec<f64> {
    vec![eq07_sigma2(level, variance); dims]
}

/// (7) sigma_t^2: beta~_t of (10), optimal for data at one point, or beta_t, optimal for data from N(0, I).
///
/// Source: Ho et al. (2020), section 3.2.
pub fn eq07_sigma2(level: &Level, variance: VarianceKind) -> f64 {
    match variance {
        VarianceKind::FixedSmall => posterior::eq10_posterior_variance(level),
        VarianceKind::FixedLarge => level.beta,
    }
}

/// ln of (7), for densities. At t = 1, where beta~_1 = 0 has no logarithm, it is ln beta~_2 for **both**
/// kinds, as in the code of Ho et al. (2020), who found that it gives the better likelihood; libraries that
/// clamp differ there. A schedule of one step has no beta~_2 and takes ln beta_1.
pub fn eq07_log_sigma2(level: &Level, variance: VarianceKind) -> f64 {
    match variance {
        VarianceKind::FixedLarge if !level.is_first() => level.beta.ln(),
        _ => level.log_posterior_variance,
    }
}

/// (13) mu_theta(x_t, t): (12) with the predicted noise eps_theta(x_t, t) for eps_t.
///
/// With `clip_x0` the x_0 that eps_theta implies by (3) is clipped to [-1, 1] and put into (11) instead, as
/// the code of Ho et al. (2020) does, though the paper does not say so. The two forms are equal where nothing
/// is clipped.
///
/// Source: Ho et al. (2020), section 3.2, equation 11.
///
/// # Panics
/// If the lengths differ.
pub fn eq13_mu_theta<T: Real>(x_t: &[T], eps_theta: &[T], level: &Level, clip_x0: bool, mean: &mut [T]) {
    if !clip_x0 {
        return posterior::eq12_posterior_mean(x_t, eps_theta, level, mean);
    }
    forward::eq03_predict_x0(x_t, eps_theta, level.alpha_bar, mean);
    let [from_x_t, from_x0] = posterior::eq11_coefficients(level).map(T::of);
    for (mean, &x_t) in mean.iter_mut().zip(x_t) {
        *mean = from_x_t * x_t + from_x0 * clip(*mean);
    }
}

/// `x` clamped to [-1, 1]. NaN stays NaN, so that a broken network is noticed.
#[inline(always)]
pub fn clip<T: Real>(x: T) -> T {
    num_traits::clamp(x, -T::one(), T::one())
}

/// (14) ln p_theta(x_{t-1} | x_t) = ln N(x_{t-1}; mu_theta(x_t, t), sigma_t^2 I): (5) with (6), (7) and (13),
/// for t >= 2 (at t = 1 the decoder of (17) takes its place).
///
/// Source: Ho et al. (2020), section 3.2.
///
/// # Panics
/// If the lengths differ.
pub fn eq14_log_p_theta(
    x_prev: &[f64],
    x_t: &[f64],
    eps_theta: &[f64],
    level: &Level,
    reverse: Reverse,
) -> f64 {
    let mut mean = vec![0.0; x_t.len()];
    eq13_mu_theta(x_t, eps_theta, level, reverse.clip_x0, &mut mean);
    eq05_log_p_theta(x_prev, &mean, &eq06_sigma_theta(level, reverse.variance, x_t.len()))
}

/// (15) x_{t-1} = mu_theta(x_t, t) + sigma_t z: a draw from (14) when z ~ N(0, I). At t = 1 `z` is not used.
///
/// Source: Ho et al. (2020), section 3.2 and Algorithm 2.
///
/// # Panics
/// If the lengths differ.
pub fn eq15_step<T: Real>(
    x_t: &[T],
    eps_theta: &[T],
    z: &[T],
    level: &Level,
    reverse: Reverse,
    x_prev: &mut [T],
) {
    eq13_mu_theta(x_t, eps_theta, level, reverse.clip_x0, x_prev);
    if level.is_first() {
        return;
    }
    assert_eq!(z.len(), x_prev.len());
    let sigma = T::of(eq07_sigma2(level, reverse.variance).sqrt());
    for (x, &z) in x_prev.iter_mut().zip(z) {
        *x += sigma * z;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::equations::Schedule;

    /// The two forms of the mean agree where nothing is clipped, and only there. 1e-11: the x_0-form divides
    /// by 1 - abar_t.
    #[test]
    fn eq13_clipping_matters_only_outside_the_data_range() {
        let schedule = Schedule::from_betas(&[0.1, 0.2, 0.3]).unwrap();
        for level in schedule.levels() {
            for (x0, inside) in [(0.9, true), (-1.0, true), (1.5, false), (-1.2, false)] {
                let mut x_t = [0.0];
                forward::eq03_q_sample(&[x0], &[0.4], level.alpha_bar, &mut x_t);
                let (mut plain, mut clipped) = ([0.0f64], [0.0f64]);
                eq13_mu_theta(&x_t, &[0.4], level, false, &mut plain);
                eq13_mu_theta(&x_t, &[0.4], level, true, &mut clipped);
                assert_eq!((plain[0] - clipped[0]).abs() < 1e-11, inside, "t {} x0 {x0}", level.t);
            }
        }
    }

    /// The output of a network that returns NaN must not become an image.
    #[test]
    fn eq13_and_eq15_keep_what_is_not_a_number() {
        let schedule = Schedule::from_betas(&[0.1, 0.2]).unwrap();
        for level in schedule.levels() {
            for clip_x0 in [false, true] {
                let mut x = [0f32; 2];
                let reverse = Reverse { variance: VarianceKind::FixedSmall, clip_x0 };
                eq15_step(&[0.1, 0.2], &[f32::NAN, 0.3], &[0.0; 2], level, reverse, &mut x);
                assert!(x[0].is_nan() && x[1].is_finite());
            }
        }
    }

    /// `f32` follows `f64` to a few roundings of numbers near one.
    #[test]
    fn eq15_is_the_same_in_both_types() {
        let schedule = Schedule::from_betas(&[0.1, 0.2, 0.3]).unwrap();
        let (x, eps, z) = ([0.3, -1.2, 0.7], [0.5, 0.1, -2.0], [1.0, -0.4, 0.2]);
        let narrow = |x: [f64; 3]| x.map(|x| x as f32);
        for level in schedule.levels() {
            for clip_x0 in [false, true] {
                let reverse = Reverse { variance: VarianceKind::FixedLarge, clip_x0 };
                let (mut double, mut single) = ([0.0; 3], [0f32; 3]);
                eq15_step(&x, &eps, &z, level, reverse, &mut double);
                eq15_step(&narrow(x), &narrow(eps), &narrow(z), level, reverse, &mut single);
                for (a, b) in double.iter().zip(single) {
                    assert!((a - f64::from(b)).abs() < 1e-6, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_choices_come_from_the_configuration() {
        for (variance, clip_x0) in [(VarianceKind::FixedLarge, false), (VarianceKind::FixedSmall, true)] {
            let config = DiffusionConfig { variance, clip_x0, ..DiffusionConfig::default() };
            assert_eq!(Reverse::from(&config), Reverse { variance, clip_x0 });
        }
    }
}
