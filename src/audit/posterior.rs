//! Checks of (4), (8)-(12).

use super::Check;
use super::measure::{absolute, integrate, moments, pdf, relative, worst};
use super::toy::{Case, cases, coarse, ho, schedule, walk};
use crate::equations::posterior::{
    eq04_log_q_reverse, eq08_log_q_posterior, eq09_posterior_mean, eq10_posterior_variance,
    eq11_posterior_mean, eq12_posterior_mean,
};
use crate::equations::{Level, Schedule};

/// The two equally likely values of (4)'s data.
pub const POINTS: [f64; 2] = [-1.0, 0.6];

/// Bayes' rule on a grid: 4000 roundings, times what 1 - abar_{t-1} and beta_t lose at t = 2 of 1000
/// (1e-16/1e-4).
const GRID: f64 = 1e-10;

/// (4) for two-point data, against a mixture of posteriors from Bayes' rule on a grid; and its approach to a
/// Gaussian: ln q(x_{t-1}) is smooth, so the skewness is of order beta^(3/2) and the divergence from the
/// Gaussian of the same moments of order beta^3. The exponent between beta = 0.02 and 0.01 may differ from 3
/// by the next order, beta times a constant near ten.
pub fn eq04() -> Vec<Check> {
    let data: [&[f64]; 2] = [&POINTS[..1], &POINTS[1..]];
    // x_t must be likely under the data: far from both points the density's mass is not near x_t.
    let near = |case: Case| Case { x_t: case.signal * POINTS[1] + case.variance.sqrt() * case.eps, ..case };
    let cases: Vec<Case> = cases().into_iter().map(near).collect();
    let mass = cases.iter().map(|case| {
        let (centre, spread) = case.support();
        relative(
            moments(centre, spread, |x| eq04_log_q_reverse(&[x], &[case.x_t], &data, &case.level).exp()).mass,
            1.0,
        )
    });
    let mixture = cases.iter().map(|case| {
        let (centre, spread) = case.support();
        let masses = POINTS.map(|x0| pdf(case.x_t, case.signal * x0, case.variance));
        worst((-8..=8).map(|i| {
            let x = centre + 0.5 * f64::from(i) * spread;
            let priors = POINTS.map(|x0| pdf(x, case.signal_prev * x0, case.variance_prev));
            let want = case.likelihood(x) * (priors[0] + priors[1]) / (masses[0] + masses[1]);
            let got = eq04_log_q_reverse(&[x], &[case.x_t], &data, &case.level).exp();
            (got - want).abs() * spread
        }))
    });
    let divergence = [0.02, 0.01].map(divergence_from_gaussian);
    let exponent = (divergence[0] / divergence[1]).log2();
    vec![
        Check::new("integral over x_{t-1} is 1", worst(mass), GRID),
        Check::new("density against the mixture by Bayes' rule", worst(mixture), GRID),
        Check::new("divergence from a Gaussian falls as beta^3: the exponent", (exponent - 3.0).abs(), 0.2),
    ]
}

/// KL of (4) from the Gaussian of its own mean and variance, for [`POINTS`], abar_{t-1} = 0.5, x_t = 0.1 and
/// `beta`.
pub fn divergence_from_gaussian(beta: f64) -> f64 {
    let schedule = schedule(Schedule::from_betas(&[0.5, beta]));
    let data: [&[f64]; 2] = [&POINTS[..1], &POINTS[1..]];
    let density = |x: f64| eq04_log_q_reverse(&[x], &[0.1], &data, schedule.last()).exp();
    let (centre, spread) = (0.1 / (1.0 - beta).sqrt(), (beta / (1.0 - beta)).sqrt());
    let own = moments(centre, spread, density);
    integrate(centre - 9.0 * spread, centre + 9.0 * spread, 4000, |x| {
        density(x) * (density(x) / pdf(x, own.mean, own.variance)).ln()
    })
}

/// (8) against Bayes' rule on a grid: mass, and the density at points over eight standard deviations,
/// relative to its peak.
pub fn eq08() -> Vec<Check> {
    let cases = cases();
    let density =
        |case: &Case, x: f64| eq08_log_q_posterior(&[x], &[case.x_t], &[case.x0], &case.level).exp();
    let mass = cases.iter().map(|case| {
        let (centre, spread) = case.support();
        relative(moments(centre, spread, |x| density(case, x)).mass, 1.0)
    });
    let pointwise = cases.iter().map(|case| {
        let want = case.bayes(case.x0);
        let spread = want.variance.sqrt();
        worst((-8..=8).map(|i| {
            let x = want.mean + 0.5 * f64::from(i) * spread;
            let exact =
                case.likelihood(x) * pdf(x, case.signal_prev * case.x0, case.variance_prev) / want.mass;
            (density(case, x) - exact).abs() * spread
        }))
    });
    vec![
        Check::new("integral over x_{t-1} is 1", worst(mass), GRID),
        Check::new("density against Bayes' rule on a grid", worst(pointwise), GRID),
    ]
}

/// The largest error of `mean(x_t, x_0, level)` against Bayes' rule on a grid, over all cases.
pub fn mean_error(mean: impl Fn(&Case) -> f64) -> f64 {
    worst(cases().iter().map(|case| absolute(mean(case), case.bayes(case.x0).mean)))
}

/// The error of a mean at t = 1, which must be x_0 to the last bit.
fn first_step_error(mean: impl Fn(f64, f64, &Level) -> f64) -> f64 {
    worst([coarse(), ho()].iter().map(|schedule| (mean(0.3, 0.7, &schedule.levels()[0]) - 0.7).abs()))
}

fn eq09_scalar(x_t: f64, x0: f64, level: &Level) -> f64 {
    let mut mean = [0.0];
    eq09_posterior_mean(&[x_t], &[x0], level, &mut mean);
    mean[0]
}

fn eq11_scalar(x_t: f64, x0: f64, level: &Level) -> f64 {
    let mut mean = [0.0];
    eq11_posterior_mean(&[x_t], &[x0], level, &mut mean);
    mean[0]
}

/// (9) against Bayes' rule on a grid, and at t = 1 exactly.
pub fn eq09() -> Vec<Check> {
    vec![
        Check::new(
            "mean against Bayes' rule on a grid",
            mean_error(|case| eq09_scalar(case.x_t, case.x0, &case.level)),
            GRID,
        ),
        Check::new("x_0 exactly at t = 1", first_step_error(eq09_scalar), 0.0),
    ]
}

/// beta~_2 of Ho et al.'s linear schedule, computed with 40 digits.
const LINEAR_BETA_TILDE_2: f64 = 5.453_187_661_302_605e-5;

/// (10) against Bayes' rule on a grid, and against the golden value to the digits that 1 - abar_2 leaves.
pub fn eq10() -> Vec<Check> {
    let errors = cases()
        .into_iter()
        .map(|case| relative(eq10_posterior_variance(&case.level), case.bayes(case.x0).variance));
    let first =
        worst([coarse(), ho()].iter().map(|schedule| eq10_posterior_variance(&schedule.levels()[0]).abs()));
    vec![
        Check::new("variance against Bayes' rule on a grid", worst(errors), GRID),
        Check::new("0 exactly at t = 1", first, 0.0),
        Check::new(
            "beta~_2 = 5.4532e-5, linear",
            relative(eq10_posterior_variance(&ho().levels()[1]), LINEAR_BETA_TILDE_2),
            1e-11,
        ),
    ]
}

/// (11) against Bayes' rule on a grid, at t = 1 exactly, and against (9) for all 1000 t: 1e-11 for the digits
/// that 1 - abar_{t-1} loses at small t, since the two forms round in different orders.
pub fn eq11() -> Vec<Check> {
    let schedule = ho();
    let forms = schedule
        .levels()
        .iter()
        .map(|level| absolute(eq11_scalar(0.9, -0.8, level), eq09_scalar(0.9, -0.8, level)));
    vec![
        Check::new(
            "mean against Bayes' rule on a grid",
            mean_error(|case| eq11_scalar(case.x_t, case.x0, &case.level)),
            GRID,
        ),
        Check::new("x_0 exactly at t = 1", first_step_error(eq11_scalar), 0.0),
        Check::new("equal to (9) for t = 1..1000", worst(forms), 1e-11),
    ]
}

/// (12) against Bayes' rule on a grid at the x_0 that (3) gives, and at t = 1 against x_0: 1e-12 of the
/// digits lost by 1 - abar_1; and against (9) at that x_0 for all 1000 t, with the bound of (11).
pub fn eq12() -> Vec<Check> {
    let scalar = |x_t: f64, eps: f64, level: &Level| {
        let mut mean = [0.0];
        eq12_posterior_mean(&[x_t], &[eps], level, &mut mean);
        mean[0]
    };
    let first = [coarse(), ho()].map(|schedule| {
        let level = &schedule.levels()[0];
        let x_t = (1.0 - level.beta).sqrt() * 0.7 + level.beta.sqrt() * 1.1;
        absolute(scalar(x_t, 1.1, level), 0.7)
    });
    let schedule = ho();
    let walk = walk(&schedule);
    let forms = schedule.levels().iter().zip(&walk[1..]).map(|(level, &(signal, variance))| {
        let x_t = signal * -0.8 + variance.sqrt() * 1.3;
        absolute(scalar(x_t, 1.3, level), eq09_scalar(x_t, -0.8, level))
    });
    vec![
        Check::new(
            "mean against Bayes' rule on a grid",
            mean_error(|case| scalar(case.x_t, case.eps, &case.level)),
            GRID,
        ),
        Check::new("x_0 at t = 1", worst(first), 1e-12),
        Check::new("equal to (9) at the x_0 of (3) for t = 1..1000", worst(forms), 1e-11),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq04_is_bayes_rule_and_gaussian_only_in_the_limit() {
        assert_all(&eq04());
        // Far from Gaussian at large beta: a thousandth of a nat and more, where rounding would be 1e-12.
        assert!(divergence_from_gaussian(0.7) > 1e-3, "{}", divergence_from_gaussian(0.7));
    }

    #[test]
    fn eq08_is_bayes_rule() {
        assert_all(&eq08());
    }

    #[test]
    fn eq09_is_the_mean_by_bayes_rule() {
        assert_all(&eq09());
    }

    #[test]
    fn eq10_is_the_variance_by_bayes_rule() {
        assert_all(&eq10());
    }

    #[test]
    fn eq11_is_the_mean_by_bayes_rule() {
        assert_all(&eq11());
    }

    #[test]
    fn eq12_is_the_mean_by_bayes_rule() {
        assert_all(&eq12());
    }
}
