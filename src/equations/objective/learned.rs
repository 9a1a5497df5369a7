//! The bound's term at t where the network says the variance, (O6).

use super::variance::o05_log_variance;
use crate::equations::decoder::{eq17_pixel_probability, eq17_pixel_slope};
use crate::equations::{Level, posterior};

/// The numbers of a level that (O6) needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedRange {
    /// (11)'s coefficients of x_t and of x_0.
    pub(crate) posterior: [f64; 2],
    /// \[ln beta~_t, ln beta_t\], beta~_2 for beta~_1.
    pub(crate) range: [f64; 2],
    is_first: bool,
}

impl LearnedRange {
    /// Those of `level`.
    pub fn new(level: &Level) -> Self {
        LearnedRange {
            posterior: posterior::eq11_coefficients(level),
            range: [level.log_posterior_variance, level.beta.ln()],
            is_first: level.is_first(),
        }
    }

    /// (O6) One value's part of L_{t-1}, in nats, with the mean (11) at the predicted x_0 and the variance
    /// (O5): for t >= 2 KL( q(x_{t-1}|x_t, x_0) || p_theta(x_{t-1}|x_t) ), and at t = 1 the discretised
    /// decoder. Then its derivative in u; that in the mean is not wanted (see
    /// [`Objective`](super::Objective)).
    ///
    /// Source: Nichol & Dhariwal (2021), section 3.1; the terms: (17).
    pub fn o06_term(&self, x0: f64, x_t: f64, x0_hat: f64, u: f64) -> [f64; 2] {
        let [from_x_t, from_x0] = self.posterior;
        let [ln_small, ln_large] = self.range;
        let ln_sigma2 = o05_log_variance(u, self.range);
        let [nats, slope] = if self.is_first {
            let sigma = (0.5 * ln_sigma2).exp();
            let mean = from_x_t * x_t + from_x0 * x0_hat;
            [-eq17_pixel_probability(x0, mean, sigma).ln(), -eq17_pixel_slope(x0, mean, sigma)]
        } else {
            let ratio = (ln_small - ln_sigma2).exp();
            // The means differ by the predicted x_0 alone.
            let squares = (from_x0 * (x0 - x0_hat)).powi(2) * (-ln_sigma2).exp();
            [0.5 * (ln_sigma2 - ln_small + ratio + squares - 1.0), 0.5 * (1.0 - ratio - squares)]
        };
        [nats, slope * 0.5 * (ln_large - ln_small)]
    }
}
