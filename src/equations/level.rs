//! The numbers of one timestep of the noise schedule.

use super::Timestep;

/// The scalars of one timestep. Every equation that needs more than one of them takes a `Level`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The timestep that the network is given: in a respaced schedule, the one of the schedule it was trained
    /// with.
    pub t: Timestep,
    /// beta_t.
    pub beta: f64,
    /// alpha_t = 1 - beta_t.
    pub alpha: f64,
    /// abar_t.
    pub alpha_bar: f64,
    /// abar of the step before; 1 at the first.
    pub alpha_bar_prev: f64,
    /// ln beta~_t, where beta~_1 = 0 is replaced by beta~_2 (Ho et al. 2020, their code): see
    /// [`eq07_log_sigma2`](super::reverse::eq07_log_sigma2).
    pub log_posterior_variance: f64,
}

impl Level {
    /// Whether this is the step to x_0, which adds no noise and whose posterior has variance 0.
    pub fn is_first(&self) -> bool {
        self.alpha_bar_prev == 1.0
    }
}
