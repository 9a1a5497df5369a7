//! What a network is to say of x_t, (O1), and what its words mean for x_0, for the noise and for the reverse
//! mean.

use crate::config::{DiffusionConfig, Prediction};
use crate::equations::reverse::{clip, eq13_mu_theta};
use crate::equations::solver::{s01_predict_eps, s01_predict_x0};
use crate::equations::{Level, combine, forward, posterior};
use crate::real::Real;

/// (O1) The target, c_0 x_0 + c_1 eps: \[c_0, c_1\] for eps, for x_0, and for v = sqrt(abar_t) eps - sqrt(1 -
/// abar_t) x_0.
///
/// Source: Ho et al. (2020), section 3.2 (eps, x_0); Salimans & Ho (2022), section 4 and appendix D (v).
pub fn o01_target(prediction: Prediction, alpha_bar: f64) -> [f64; 2] {
    match prediction {
        Prediction::Epsilon => [0.0, 1.0],
        Prediction::Sample => [1.0, 0.0],
        Prediction::VPrediction => [-(1.0 - alpha_bar).sqrt(), alpha_bar.sqrt()],
    }
}

/// Replaces the noise by the target.
///
/// # Panics
/// If the lengths differ.
pub(super) fn into_target<T: Real>(prediction: Prediction, alpha_bar: f64, x0: &[T], eps: &mut [T]) {
    assert_eq!(x0.len(), eps.len());
    let [from_x0, from_eps] = o01_target(prediction, alpha_bar).map(T::of);
    for (eps, &x0) in eps.iter_mut().zip(x0) {
        *eps = from_x0 * x0 + from_eps * *eps;
    }
}

/// What a network says of x_t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameterisation {
    /// Its output, or the first half of it.
    pub prediction: Prediction,
    /// Whether the second half of its output is u of (O5).
    pub learned_range: bool,
}

impl From<&DiffusionConfig> for Parameterisation {
    fn from(config: &DiffusionConfig) -> Self {
        Parameterisation { prediction: config.prediction, learned_range: config.learned_range }
    }
}

impl Parameterisation {
    /// The predicted x_0: (3) solved, or (S1).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn x0<T: Real>(&self, x_t: &[T], output: &[T], level: &Level, clips: bool, x0: &mut [T]) {
        if self.prediction.is_epsilon() {
            forward::eq03_predict_x0(x_t, output, level.alpha_bar, x0);
        } else {
            let (alpha, sigma) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
            let [from_x_t, from_output] = s01_predict_x0(self.prediction, alpha, sigma);
            combine(from_x_t, x_t, from_output, output, x0);
        }
        if clips {
            x0.iter_mut().for_each(|x| *x = clip(*x));
        }
    }

    /// The predicted noise, by (S1).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn eps<T: Real>(&self, x_t: &[T], output: &[T], level: &Level, eps: &mut [T]) {
        if self.prediction.is_epsilon() {
            return eps.copy_from_slice(output);
        }
        let (alpha, sigma) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
        let [from_x_t, from_output] = s01_predict_eps(self.prediction, alpha, sigma);
        combine(from_x_t, x_t, from_output, output, eps);
    }

    /// mu_theta: (13), and for networks that predict something else (11) at the predicted x_0.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn mean<T: Real>(&self, x_t: &[T], output: &[T], level: &Level, clips: bool, mean: &mut [T]) {
        if self.prediction.is_epsilon() {
            return eq13_mu_theta(x_t, output, level, clips, mean);
        }
        self.x0(x_t, output, level, clips, mean);
        let [from_x_t, from_x0] = posterior::eq11_coefficients(level).map(T::of);
        mean.iter_mut().zip(x_t).for_each(|(mean, &x_t)| *mean = from_x_t * x_t + from_x0 * *mean);
    }
}
