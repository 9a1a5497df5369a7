//! Samplers that look at one x_t alone: Algorithm 2 and DDIM for every kind of network, and every choice
//! that a scheduler file leaves open.

use super::limit::Limit;
use super::step::{Next, NoiseScale, Step};
use super::{DdimChoice, Variance};
use crate::config::Prediction;
use crate::equations::{Level, Timestep, posterior};

/// (S1) x_0 = a_x x_t + a_m m, for a network's output m: \[a_x, a_m\] from alpha = sqrt(abar_t) and sigma =
/// sqrt(1 - abar_t).
///
/// Source: Ho et al. (2020), equation 4 (eps); Salimans & Ho (2022), section 4 and appendix D (x_0, v).
pub fn s01_predict_x0(prediction: Prediction, alpha: f64, sigma: f64) -> [f64; 2] {
    match prediction {
        Prediction::Epsilon => [1.0 / alpha, -sigma / alpha],
        Prediction::Sample => [0.0, 1.0],
        Prediction::VPrediction => [alpha, -sigma],
    }
}

/// (S1) The noise likewise: eps = e_x x_t + e_m m.
///
/// Source: as for [`s01_predict_x0`].
pub fn s01_predict_eps(prediction: Prediction, alpha: f64, sigma: f64) -> [f64; 2] {
    match prediction {
        Prediction::Epsilon => [0.0, 1.0],
        Prediction::Sample => [1.0 / sigma, -alpha / sigma],
        Prediction::VPrediction => [sigma, alpha],
    }
}

/// (S5) A step of Algorithm 2 in its x_0-form: (15) with (11) at the limited x_0.
///
/// At the step to x_0 the posterior is a point, and nothing is added; with `noise_at_last` sigma z is added
/// there too unless t = 1, as diffusers does, which matters for [`Variance::FixedLarge`] and the learned
/// ones.
///
/// Source: slides, (11) and (15); Nichol & Dhariwal (2021), equation 15, for the learned variances.
pub fn s05_ddpm(
    level: &Level,
    prediction: Prediction,
    limit: Limit,
    variance: Variance,
    noise_at_last: bool,
) -> Step {
    let [from_x_t, from_x0] = posterior::eq11_coefficients(level);
    let small = posterior::eq10_posterior_variance(level);
    let is_noisy = !level.is_first() || (noise_at_last && level.t.index() > 0);
    let noise = match variance {
        _ if !is_noisy => NoiseScale::None,
        Variance::FixedSmall if small == 0.0 => NoiseScale::None,
        Variance::FixedSmall => NoiseScale::Sigma(small.sqrt()),
        Variance::FixedLarge => NoiseScale::Sigma(level.beta.sqrt()),
        Variance::Learned => NoiseScale::Learned,
        // The posterior of the last step has no logarithm; diffusers takes this one.
        Variance::LearnedRange => {
            NoiseScale::LearnedRange { ln_small: small.max(1e-20).ln(), ln_large: level.beta.ln() }
        }
    };
    Step {
        t: level.t,
        draw: level.t,
        x0: s01_predict_x0(prediction, level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt()),
        limit,
        correct: None,
        next: Next { base: from_x_t, output: 0.0, x0: [from_x0, 0.0, 0.0] },
        noise,
    }
}

/// beta~_t between any two levels: (1 - abar_{t-1})/(1 - abar_t) (1 - abar_t/abar_{t-1}). Where the two are
/// neighbours, (10) is the same and does not lose digits to the last difference.
pub fn between([alpha_bar, alpha_bar_prev]: [f64; 2]) -> f64 {
    (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev)
}

/// (S6) A step of DDIM from abar_t to `alpha_bar_prev`: sqrt(abar_{t-1}) x_0 + sqrt(1 - abar_{t-1} - sigma^2)
/// eps + sigma z with sigma^2 = eta^2 beta~_t, where `beta_tilde` is that of `between` or, exactly, (10).
///
/// Source: Song, Meng & Ermon (2021), equations 12 and 16.
pub fn s06_ddim(
    t: Timestep,
    [alpha_bar, alpha_bar_prev]: [f64; 2],
    beta_tilde: f64,
    prediction: Prediction,
    limit: Limit,
    choice: DdimChoice,
) -> Step {
    let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    let added = choice.eta * choice.eta * beta_tilde;
    // At most 1 - abar_{t-1} for eta <= 1; rounding must not make the root's argument negative.
    let direction = (1.0 - alpha_bar_prev - added).max(0.0).sqrt();
    let mut next = Next { base: 0.0, output: 0.0, x0: [alpha_bar_prev.sqrt(), 0.0, 0.0] };
    if choice.rederive_eps {
        next.base = direction / sigma;
        next.x0[0] -= direction * alpha / sigma;
    } else {
        let [e_x, e_m] = s01_predict_eps(prediction, alpha, sigma);
        (next.base, next.output) = (direction * e_x, direction * e_m);
    }
    Step {
        t,
        draw: t,
        x0: s01_predict_x0(prediction, alpha, sigma),
        limit,
        correct: None,
        next,
        noise: if added > 0.0 { NoiseScale::Sigma(added.sqrt()) } else { NoiseScale::None },
    }
}
