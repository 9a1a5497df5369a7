//! Checks of (5)-(7), (13)-(15).

use super::Check;
use super::measure::{absolute, integrate, moments, relative, worst};
use super::toy::{Case, VARIANCES, cases, coarse, ho, walk};
use crate::config::VarianceKind;
use crate::equations::Level;
use crate::equations::reverse::{
    Reverse, eq05_log_p_theta, eq06_sigma_theta, eq07_log_sigma2, eq07_sigma2, eq13_mu_theta,
    eq14_log_p_theta, eq15_step,
};

/// As for the posterior: 4000 roundings and four lost digits at t = 2 of 1000.
const GRID: f64 = 1e-10;

/// (5) in two dimensions with two different variances, integrated on a grid of 400 x 400: the trapezoid rule
/// is exact to rounding.
pub fn eq05() -> Vec<Check> {
    let (mean, variances) = ([0.4, -1.1], [0.3, 0.05]);
    let over = |f: &dyn Fn([f64; 2]) -> f64| {
        let half = variances.map(|v: f64| 11.0 * v.sqrt());
        integrate(mean[0] - half[0], mean[0] + half[0], 400, |a| {
            integrate(mean[1] - half[1], mean[1] + half[1], 400, |b| {
                f([a, b]) * eq05_log_p_theta(&[a, b], &mean, &variances).exp()
            })
        })
    };
    let second = [0, 1].map(|i| relative(over(&|x| (x[i] - mean[i]).powi(2)), variances[i]));
    vec![
        Check::new("integral is 1", relative(over(&|_| 1.0), 1.0), 1e-12),
        Check::new("mean", worst([0, 1].map(|i| absolute(over(&|x| x[i]), mean[i]))), 1e-12),
        Check::new("variances", worst(second), 1e-12),
        Check::new("covariance is 0", over(&|x| (x[0] - mean[0]) * (x[1] - mean[1])).abs(), 1e-12),
    ]
}

/// (6) against the variance of (15)'s draws, by unit steps of z, one component at a time: 1e-12 for the
/// subtraction of the mean from a step of size sqrt(sigma_t^2) >= 0.007; and against the best variance by
/// Bayes' rule on a grid.
pub fn eq06() -> Vec<Check> {
    let (mut drawn, mut exact) = (Vec::new(), Vec::new());
    for case in cases() {
        for variance in VARIANCES {
            let sigma = eq06_sigma_theta(&case.level, variance, 3);
            for (i, &sigma2) in sigma.iter().enumerate() {
                let mut z = [0.0; 3];
                z[i] = 1.0;
                let response = response(&case.level, variance, z);
                drawn.push(worst(
                    (0..3).map(|j| absolute(response[j] * response[i], if i == j { sigma2 } else { 0.0 })),
                ));
                exact.push(relative(sigma2, case.optimal_variance(variance)));
            }
        }
    }
    vec![
        Check::new("covariance of (15)'s draws", worst(drawn), 1e-12),
        Check::new("diagonal against Bayes' rule on a grid", worst(exact), GRID),
    ]
}

/// The term that (15) adds for `z`.
fn response(level: &Level, variance: VarianceKind, z: [f64; 3]) -> [f64; 3] {
    let at = |z: [f64; 3]| {
        let mut x_prev = [0.0; 3];
        eq15_step(
            &[0.2, -0.1, 0.4],
            &[0.5, 0.3, -0.9],
            &z,
            level,
            Reverse { variance, clip_x0: false },
            &mut x_prev,
        );
        x_prev
    };
    let (moved, still) = (at(z), at([0.0; 3]));
    [0, 1, 2].map(|i| moved[i] - still[i])
}

/// (7) against the variance of x_{t-1} given x_t by Bayes' rule on a grid, for the data that makes each
/// choice optimal; its logarithm, which densities use, against the same for t >= 2 and at t = 1, for both
/// choices, against beta~_2 from (2) iterated (the digits of 1 - abar_2).
pub fn eq07() -> Vec<Check> {
    let error = |variance| {
        worst(
            cases()
                .iter()
                .map(|case| relative(eq07_sigma2(&case.level, variance), case.optimal_variance(variance))),
        )
    };
    let logarithms = cases().into_iter().flat_map(|case| {
        VARIANCES.map(|variance| {
            relative(eq07_log_sigma2(&case.level, variance).exp(), case.optimal_variance(variance))
        })
    });
    let first = [coarse(), ho()].into_iter().flat_map(|schedule| {
        let walk = walk(&schedule);
        let beta_tilde_2 = walk[1].1 / walk[2].1 * schedule.levels()[1].beta;
        VARIANCES
            .map(|variance| relative(eq07_log_sigma2(&schedule.levels()[0], variance).exp(), beta_tilde_2))
    });
    vec![
        Check::new("beta~_t is the variance for data at one point", error(VarianceKind::FixedSmall), GRID),
        Check::new("beta_t is the variance for data from N(0, 1)", error(VarianceKind::FixedLarge), GRID),
        Check::new("the logarithm's exponential is the variance", worst(logarithms), GRID),
        Check::new("at t = 1 the logarithm is that of beta~_2", worst(first), 1e-11),
    ]
}

/// (13) for one component.
fn mu_theta(case: &Case, clip_x0: bool) -> f64 {
    let mut mean = [0.0];
    eq13_mu_theta(&[case.x_t], &[case.eps_hat], &case.level, clip_x0, &mut mean);
    mean[0]
}

/// (13) against Bayes' rule on a grid at the x_0 that the predicted noise implies, clipped or not.
pub fn eq13() -> Vec<Check> {
    let cases = cases();
    let plain = cases.iter().map(|case| absolute(mu_theta(case, false), case.bayes(case.x0_hat()).mean));
    let clipped = cases
        .iter()
        .map(|case| absolute(mu_theta(case, true), case.bayes(case.x0_hat().clamp(-1.0, 1.0)).mean));
    vec![
        Check::new("mean against Bayes' rule on a grid", worst(plain), GRID),
        Check::new("mean with x_0 clipped against Bayes' rule on a grid", worst(clipped), GRID),
    ]
}

/// (14) integrated: mass, mean and variance against Bayes' rule on a grid.
pub fn eq14() -> Vec<Check> {
    let (mut mass, mut mean, mut spread) = (Vec::new(), Vec::new(), Vec::new());
    for case in cases() {
        for variance in VARIANCES {
            let reverse = Reverse { variance, clip_x0: false };
            let (centre, width) = case.support();
            let got = moments(centre, width, |x| {
                eq14_log_p_theta(&[x], &[case.x_t], &[case.eps_hat], &case.level, reverse).exp()
            });
            mass.push(relative(got.mass, 1.0));
            mean.push(absolute(got.mean, case.bayes(case.x0_hat()).mean));
            spread.push(relative(got.variance, case.optimal_variance(variance)));
        }
    }
    vec![
        Check::new("integral over x_{t-1} is 1", worst(mass), GRID),
        Check::new("mean against Bayes' rule on a grid", worst(mean), GRID),
        Check::new("variance against Bayes' rule on a grid", worst(spread), GRID),
    ]
}

/// (15): its mean (z = 0) and the square of its response to z against Bayes' rule on a grid; at t = 1 no
/// response at all, and for the true noise x_0 itself to the twelve digits that 1 - abar_1 leaves.
pub fn eq15() -> Vec<Check> {
    let step = |x_t: f64, eps: f64, z: f64, level: &Level, reverse: Reverse| {
        let mut x_prev = [0.0];
        eq15_step(&[x_t], &[eps], &[z], level, reverse, &mut x_prev);
        x_prev[0]
    };
    let (mut mean, mut spread, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for variance in VARIANCES {
        for clip_x0 in [false, true] {
            let reverse = Reverse { variance, clip_x0 };
            for case in cases() {
                let at = |z: f64| step(case.x_t, case.eps_hat, z, &case.level, reverse);
                let x0 = if clip_x0 { case.x0_hat().clamp(-1.0, 1.0) } else { case.x0_hat() };
                mean.push(absolute(at(0.0), case.bayes(x0).mean));
                spread.push(relative((0.5 * (at(1.0) - at(-1.0))).powi(2), case.optimal_variance(variance)));
            }
            for schedule in [coarse(), ho()] {
                let level = &schedule.levels()[0];
                let x_1 = (1.0 - level.beta).sqrt() * 0.7 + level.beta.sqrt() * 1.1;
                last.push(absolute(step(x_1, 1.1, 3.0, level, reverse), 0.7));
            }
        }
    }
    vec![
        Check::new("mean against Bayes' rule on a grid", worst(mean), GRID),
        Check::new("variance of sigma_t z against Bayes' rule on a grid", worst(spread), GRID),
        Check::new("x_0 at t = 1, whatever z", worst(last), 1e-12),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq05_is_a_density_with_its_mean_and_variances() {
        assert_all(&eq05());
    }

    #[test]
    fn eq06_is_the_covariance_of_the_draws() {
        assert_all(&eq06());
    }

    #[test]
    fn eq07_is_optimal_for_the_two_extremes_of_data() {
        assert_all(&eq07());
    }

    #[test]
    fn eq13_is_the_mean_by_bayes_rule() {
        assert_all(&eq13());
        // The check proves something only if clipping changes some means.
        assert!(cases().iter().any(|case| (mu_theta(case, true) - mu_theta(case, false)).abs() > 0.1));
    }

    #[test]
    fn eq14_is_a_density_with_its_mean_and_variance() {
        assert_all(&eq14());
    }

    #[test]
    fn eq15_draws_from_eq14() {
        assert_all(&eq15());
    }
}
