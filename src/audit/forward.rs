//! Checks of (1)-(3).

use super::Check;
use super::measure::{absolute, draws, estimate, moments, normals, relative, worst};
use super::toy::{cases, coarse, ho, schedule as schedule_of, strided, walk};
use crate::config::{BetaSchedule, DiffusionConfig};
use crate::equations::Schedule;
use crate::equations::forward::{eq01_log_q, eq02_q_step, eq03_predict_x0, eq03_q_sample};

/// abar_1000 of Ho et al.'s linear schedule, computed with 40 digits.
const LINEAR_ABAR_T: f64 = 4.035_829_765_375_683e-5;
/// abar_1000 of the cosine schedule (s = 0.008, beta cut at 0.999), computed with 40 digits.
const COSINE_ABAR_T: f64 = 2.428_766_907_034_468e-9;

/// (1) by numerical integration. Bound 1e-10: the trapezoid rule is exact here to rounding, 4000 terms of
/// 1e-16, which the density's steepness at beta = 1e-4 (x/beta = 1e4) can amplify.
pub fn eq01() -> Vec<Check> {
    let cases = cases();
    let density = |case: &super::toy::Case, x_t: f64, x: f64| eq01_log_q(&[x_t], &[x], &case.level).exp();
    let mass = cases.iter().map(|case| {
        let (mean, spread) = (case.signal_prev * case.x0, case.level.beta.sqrt());
        relative(moments(mean, spread, |x_t| density(case, x_t, mean)).mass, 1.0)
    });
    let chained = cases.iter().map(|case| {
        let got = case.bayes_with(case.x0, |x| density(case, case.x_t, x)).mass;
        relative(got, super::measure::pdf(case.x_t, case.signal * case.x0, case.variance))
    });
    let unit = cases.iter().map(|case| {
        let (centre, spread) = case.support();
        let got =
            moments(centre, spread, |x| density(case, case.x_t, x) * super::measure::pdf(x, 0.0, 1.0)).mass;
        relative(got, super::measure::pdf(case.x_t, 0.0, 1.0))
    });
    let product = cases.iter().map(|case| {
        let (a, b) = ([case.x_t, 0.3], [case.x0, -0.2]);
        let joint = eq01_log_q(&a, &b, &case.level);
        absolute(joint, eq01_log_q(&a[..1], &b[..1], &case.level) + eq01_log_q(&a[1..], &b[1..], &case.level))
    });
    vec![
        Check::new("integral over x_t is 1", worst(mass), 1e-10),
        Check::new("integral over q(x_{t-1}|x_0) is the density of x_t given x_0", worst(chained), 1e-10),
        Check::new("N(0, 1) is left as it is", worst(unit), 1e-10),
        Check::new("two components' density is the product of theirs", worst(product), 1e-14),
    ]
}

/// (2) iterated. The deterministic parts: 1000 roundings of 1.1e-16 each, twice (1e-12 leaves a factor of
/// five). The simulated ones: five standard errors of 20000 draws at a fixed seed.
pub fn eq02() -> Vec<Check> {
    let schedule = ho();
    let steps = schedule.steps();
    // Component j < T gets only the noise of step j + 1; the last one starts at 1 and gets none.
    let mut x = vec![0.0; steps + 1];
    x[steps] = 1.0;
    let mut next = x.clone();
    for (j, level) in schedule.levels().iter().enumerate() {
        let mut eps = vec![0.0; steps + 1];
        eps[j] = 1.0;
        eq02_q_step(&x, &eps, level.beta, &mut next);
        std::mem::swap(&mut x, &mut next);
    }
    let signal2 = x[steps] * x[steps];
    let noise2: f64 = x[..steps].iter().map(|r| r * r).sum();
    let variance = schedule.levels().iter().map(|level| {
        let mut got = [0.0];
        eq02_q_step(&[0.0], &[1.0], level.beta, &mut got);
        relative(got[0] * got[0], level.beta)
    });
    let mut checks = vec![
        Check::new("the noise of one step has variance beta_t", worst(variance), 1e-15),
        Check::new(
            "1000 steps keep abar_T = 4.0358e-5 of x_0's square",
            relative(signal2, LINEAR_ABAR_T),
            1e-12,
        ),
        Check::new("1000 steps' noise has variance 1 - abar_T", relative(noise2, 1.0 - LINEAR_ABAR_T), 1e-12),
    ];
    let schedule = coarse();
    let (signal, variance) = walk(&schedule)[schedule.steps()];
    let mut rng = draws(2);
    let mut x_t = || {
        schedule.levels().iter().fold(0.8, |x, level| {
            let mut next = [0.0];
            eq02_q_step(&[x], &normals(&mut rng, 1), level.beta, &mut next);
            next[0]
        })
    };
    let mean = estimate(20_000, &mut x_t);
    let spread = estimate(20_000, || (x_t() - signal * 0.8).powi(2));
    checks.push(Check::new(
        "simulated mean of x_10",
        (mean.mean - signal * 0.8).abs(),
        5.0 * mean.standard_error,
    ));
    checks.push(Check::new(
        "simulated variance of x_10",
        (spread.mean - variance).abs(),
        5.0 * spread.standard_error,
    ));
    checks
}

/// (3) against (2) iterated on the betas, for all 1000 t. 1 - abar_t loses four digits at t = 1, 1e-16/1e-4 =
/// 1e-12. The golden values: 1000 roundings. The inverse multiplies the rounding of x_t by 1/sqrt(abar_T) =
/// 157. A strided schedule, (2) iterated on its own betas, must pass through the x_t of the full one within
///      the same bound.
pub fn eq03() -> Vec<Check> {
    let schedule = ho();
    let walk = walk(&schedule);
    let response = |x0: f64, eps: f64, alpha_bar: f64| {
        let mut x_t = [0.0];
        eq03_q_sample(&[x0], &[eps], alpha_bar, &mut x_t);
        x_t[0]
    };
    let pairs = || schedule.levels().iter().zip(&walk[1..]);
    let signal = pairs().map(|(level, &(signal, _))| relative(response(1.0, 0.0, level.alpha_bar), signal));
    let noise = pairs()
        .map(|(level, &(_, variance))| relative(response(0.0, 1.0, level.alpha_bar).powi(2), variance));
    let sum = pairs().map(|(level, _)| {
        let (a, b) = (response(1.0, 0.0, level.alpha_bar), response(0.0, 1.0, level.alpha_bar));
        relative(a * a + b * b, 1.0)
    });
    let inverse = pairs().map(|(level, _)| {
        let mut x0 = [0.0];
        eq03_predict_x0(&[response(0.7, -1.3, level.alpha_bar)], &[-1.3], level.alpha_bar, &mut x0);
        absolute(x0[0], 0.7)
    });
    let mut checks = vec![
        Check::new("factor of x_0 against (2) iterated", worst(signal), 1e-12),
        Check::new("variance of the noise against (2) iterated", worst(noise), 3e-12),
        Check::new("the coefficients' squares sum to 1", worst(sum), 1e-15),
        Check::new("solved for x_0 it returns x_0", worst(inverse), 2e-13),
        Check::new(
            "abar_1000 = 4.0358e-5, linear",
            relative(schedule.last().alpha_bar, LINEAR_ABAR_T),
            1e-12,
        ),
    ];
    let config = DiffusionConfig { schedule: BetaSchedule::Cosine, ..DiffusionConfig::default() };
    let cosine = schedule_of(Schedule::from_config(&config));
    let cut = cosine.levels().iter().filter(|level| level.beta == 0.999).count();
    let error = relative(cosine.last().alpha_bar, COSINE_ABAR_T);
    checks.push(Check::new("abar_1000 = 2.4288e-9, cosine", error, 1e-12));
    checks.push(Check::new("one cosine beta is cut at 0.999: count less 1", (cut as f64 - 1.0).abs(), 0.0));
    checks.push(Check::new(
        "100 of 1000 timesteps: the strided x_t is the full one's",
        stride_error(),
        3e-12,
    ));
    checks
}

/// The largest relative difference between the signals and the variances of [`strided`] and of [`ho`] at the
/// timesteps that both visit.
fn stride_error() -> f64 {
    let (short, full) = (strided(), walk(&ho()));
    worst(short.levels().iter().zip(&walk(&short)[1..]).map(|(level, &(signal, variance))| {
        let (full_signal, full_variance) = full[level.t.get()];
        worst([relative(signal, full_signal), relative(variance, full_variance)])
    }))
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq01_is_the_density_of_a_step() {
        assert_all(&eq01());
    }

    #[test]
    fn eq02_iterated_is_eq03() {
        assert_all(&eq02());
    }

    #[test]
    fn eq03_is_all_steps_at_once() {
        assert_all(&eq03());
    }
}
