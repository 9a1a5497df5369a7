//! Models whose distributions are all known, and the cases of the one-dimensional checks.

use super::measure::{Moments, moments, pdf};
use crate::config::{DiffusionConfig, VarianceKind};
use crate::equations::{Level, Schedule, Timestep};

/// Both choices of (7).
pub const VARIANCES: [VarianceKind; 2] = [VarianceKind::FixedSmall, VarianceKind::FixedLarge];

/// Unwraps a schedule whose betas are known to be in range.
pub fn schedule(schedule: crate::Result<Schedule>) -> Schedule {
    schedule.unwrap_or_else(|error| unreachable!("{error}"))
}

/// Ho et al.'s schedule, T = 1000.
pub fn ho() -> Schedule {
    schedule(Schedule::from_config(&DiffusionConfig::default()))
}

/// Every tenth timestep of [`ho`], the first among them, with its betas computed anew.
pub fn strided() -> Schedule {
    let kept: Vec<Timestep> = (0..100).map(|i| Timestep::from_index(10 * i)).collect();
    schedule(ho().respaced(&kept))
}

/// A schedule of ten coarse steps, beta from 0.02 to 0.29, whose abar_T of about 0.19 leaves much of x_0 in
/// x_T.
pub fn coarse() -> Schedule {
    let betas: Vec<f64> = (0..10).map(|i| 0.02 + 0.03 * f64::from(i)).collect();
    schedule(Schedule::from_betas(&betas))
}

/// The factor of x_0 in x_t and the variance around it, for t = 0, 1, ..: (2) iterated on the betas, without
/// abar.
pub fn walk(schedule: &Schedule) -> Vec<(f64, f64)> {
    let (mut signal, mut variance) = (1.0, 0.0);
    let mut out = vec![(signal, variance)];
    for level in schedule.levels() {
        signal *= (1.0 - level.beta).sqrt();
        variance = (1.0 - level.beta) * variance + level.beta;
        out.push((signal, variance));
    }
    out
}

/// One (t, x_0, eps, eps_theta), t >= 2, in one dimension.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The step.
    pub level: Level,
    /// The factor of x_0 in x_t.
    pub signal: f64,
    /// Var(x_t | x_0).
    pub variance: f64,
    /// The factor of x_0 in x_{t-1}.
    pub signal_prev: f64,
    /// Var(x_{t-1} | x_0).
    pub variance_prev: f64,
    /// The datum.
    pub x0: f64,
    /// The noise in x_t.
    pub eps: f64,
    /// The noise that a model predicts.
    pub eps_hat: f64,
    /// x_t.
    pub x_t: f64,
}

/// Cases from both schedules at small, middle and large t. The predicted x_0 leaves [-1, 1] in some of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (schedule, steps) in [(coarse(), [2, 5, 10]), (ho(), [2, 500, 1000])] {
        let walk = walk(&schedule);
        for t in steps {
            for (x0, eps, eps_hat) in [(0.98, 1.2, -0.4), (-0.4, -0.7, 0.3)] {
                let ((signal_prev, variance_prev), (signal, variance)) = (walk[t - 1], walk[t]);
                let x_t = signal * x0 + variance.sqrt() * eps;
                let level = schedule.levels()[t - 1];
                cases.push(Case {
                    level,
                    signal,
                    variance,
                    signal_prev,
                    variance_prev,
                    x0,
                    eps,
                    eps_hat,
                    x_t,
                });
            }
        }
    }
    cases
}

impl Case {
    /// The x_0 that the predicted noise implies.
    pub fn x0_hat(&self) -> f64 {
        (self.x_t - self.variance.sqrt() * self.eps_hat) / self.signal
    }

    /// The moments of `likelihood(x_{t-1})` times the density of x_{t-1} given x_0 = `x0`, integrated
    /// numerically.
    pub fn bayes_with(&self, x0: f64, likelihood: impl Fn(f64) -> f64) -> Moments {
        let (centre, spread) = self.support();
        moments(centre, spread, |x| likelihood(x) * pdf(x, self.signal_prev * x0, self.variance_prev))
    }

    /// Bayes' rule on a grid: the moments of x_{t-1} given x_t and x_0 = `x0`. The mass is the density of
    /// x_t.
    pub fn bayes(&self, x0: f64) -> Moments {
        self.bayes_with(x0, |x| self.likelihood(x))
    }

    /// The density of x_t given x_{t-1} = x.
    pub fn likelihood(&self, x: f64) -> f64 {
        pdf(self.x_t, (1.0 - self.level.beta).sqrt() * x, self.level.beta)
    }

    /// Where x_{t-1} can be, given x_t alone: a centre and a standard deviation.
    pub fn support(&self) -> (f64, f64) {
        let keep = 1.0 - self.level.beta;
        (self.x_t / keep.sqrt(), (self.level.beta / keep).sqrt())
    }

    /// The variance of x_{t-1} given x_t that is the optimal sigma_t^2 for data at one point (small) or for
    /// data from N(0, 1) (large), by Bayes' rule on a grid.
    pub fn optimal_variance(&self, kind: VarianceKind) -> f64 {
        match kind {
            VarianceKind::FixedSmall => self.bayes(self.x0).variance,
            VarianceKind::FixedLarge => {
                let (centre, spread) = self.support();
                moments(centre, spread, |x| self.likelihood(x) * pdf(x, 0.0, 1.0)).variance
            }
        }
    }

    /// KL( q(x_{t-1}|x_t, x_0) || p_theta(x_{t-1}|x_t) ) integrated numerically, both densities from Bayes'
    /// rule on a grid, p_theta's at the predicted x_0 = `x0_hat`.
    pub fn kl_by_integration(&self, kind: VarianceKind, x0_hat: f64) -> f64 {
        let (q, p) = (self.bayes(self.x0), self.bayes(x0_hat));
        let p_variance = self.optimal_variance(kind);
        let log =
            |x: f64, mean: f64, variance: f64| -(x - mean).powi(2) / (2.0 * variance) - 0.5 * variance.ln();
        let spread = q.variance.sqrt();
        super::measure::integrate(q.mean - 12.0 * spread, q.mean + 12.0 * spread, 2000, |x| {
            pdf(x, q.mean, q.variance) * (log(x, q.mean, q.variance) - log(x, p.mean, p_variance))
        })
    }
}

/// Data from N(mean, variance): the best possible eps_theta is linear and so is the whole chain.
#[derive(Clone, Copy, Debug)]
pub struct GaussianData {
    /// The data's mean.
    pub mean: f64,
    /// The data's variance.
    pub variance: f64,
}

impl GaussianData {
    /// The mean and variance of x_t, by (2) from those of x_{t-1}.
    pub fn step(self, beta: f64) -> Self {
        GaussianData { mean: (1.0 - beta).sqrt() * self.mean, variance: (1.0 - beta) * self.variance + beta }
    }

    /// E[eps | x_t], the eps_theta that minimises (21).
    pub fn eps_theta(self, x_t: f64, level: &Level) -> f64 {
        let (signal2, noise) = (level.alpha_bar, 1.0 - level.alpha_bar);
        noise.sqrt() * (x_t - signal2.sqrt() * self.mean) / (signal2 * self.variance + noise)
    }

    /// E[x_{t-1} | x_t] = gain x_t + offset for every t, from the joint covariance of x_{t-1} and x_t alone.
    pub fn reverse_means(self, schedule: &Schedule) -> Vec<(f64, f64)> {
        let mut before = self;
        schedule
            .levels()
            .iter()
            .map(|level| {
                let after = before.step(level.beta);
                let gain = (1.0 - level.beta).sqrt() * before.variance / after.variance;
                let offset = before.mean - gain * after.mean;
                before = after;
                (gain, offset)
            })
            .collect()
    }

    /// The mean and variance of the x_{t-1} that Algorithm 2 draws from x_T ~ N(0, 1), t = `last`, with the
    /// optimal eps_theta.
    pub fn sampled(self, schedule: &Schedule, kind: VarianceKind, last: usize) -> GaussianData {
        let means = self.reverse_means(schedule);
        let walk = walk(schedule);
        let mut x = GaussianData { mean: 0.0, variance: 1.0 };
        for t in (last..=schedule.steps()).rev() {
            let (gain, offset) = means[t - 1];
            let beta = schedule.levels()[t - 1].beta;
            let sigma2 = match kind {
                _ if t == 1 => 0.0,
                VarianceKind::FixedLarge => beta,
                VarianceKind::FixedSmall => walk[t - 1].1 / walk[t].1 * beta,
            };
            x = GaussianData { mean: gain * x.mean + offset, variance: gain * gain * x.variance + sigma2 };
        }
        x
    }
}
