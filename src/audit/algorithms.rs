//! Checks of Algorithms 1 and 2.

use super::Check;
use super::measure::{absolute, draws, normals, relative, worst};
use super::toy::{GaussianData, VARIANCES, coarse, ho, strided, walk};
use crate::config::VarianceKind;
use crate::equations::algorithms::{alg1_draw, alg2_sample};
use crate::equations::ddim::{ClipX0, Ddim, ddim_sample};
use crate::equations::loss::eq21_gradient;
use crate::equations::reverse::Reverse;
use crate::equations::{Schedule, Timestep};
use crate::rng::fill_normal;

/// Algorithm 1 on [`coarse`] (T = 10): t uniform by a chi-square statistic with 9 degrees (mean 9, five
/// standard deviations of sqrt(18) more), eps standard normal (five standard errors), x_t against (2)
/// iterated (rounding), and the whole algorithm: a linear eps_theta trained by its gradient steps, against
/// the least-squares optimum in units of its standard error.
pub fn alg1() -> Vec<Check> {
    let (schedule, walk) = (coarse(), walk(&coarse()));
    let steps = schedule.steps();
    let data = GaussianData { mean: 0.0, variance: 0.25 };
    let count = 20_000;
    let x0: Vec<f64> = normals(&mut draws(101), count).iter().map(|z| data.variance.sqrt() * z).collect();
    let (mut t, mut eps, mut x_t) = (Vec::new(), vec![0.0; count], vec![0.0; count]);
    for i in 0..count {
        let one = i..i + 1;
        let (eps, x_t) = (&mut eps[one.clone()], &mut x_t[one.clone()]);
        t.push(alg1_draw(5, 3, i as u64, &schedule, &x0[one], eps, x_t).get());
    }
    let expected = count as f64 / steps as f64;
    let counts: Vec<f64> = (1..=steps).map(|s| t.iter().filter(|&&t| t == s).count() as f64).collect();
    let chi2: f64 = counts.iter().map(|c| (c - expected) * (c - expected) / expected).sum();
    let n = count as f64;
    let mean = eps.iter().sum::<f64>() / n;
    let variance = eps.iter().map(|e| e * e).sum::<f64>() / n;
    let drawn = (0..count).map(|i| {
        let (signal, variance) = walk[t[i].min(steps)];
        absolute(x_t[i], signal * x0[i] + variance.sqrt() * eps[i])
    });
    let mut checks = vec![
        Check::new("t is uniform on 1..T: chi-square", chi2, 9.0 + 5.0 * 18f64.sqrt()),
        Check::new("mean of eps", mean.abs(), 5.0 / n.sqrt()),
        Check::new("variance of eps", (variance - 1.0).abs(), 5.0 * (2.0 / n).sqrt()),
        Check::new("x_t against (2) iterated", worst(drawn), 1e-14),
    ];
    let slopes = trained_slopes(&t, &eps, &x_t, steps);
    let errors = (1..=steps).map(|s| {
        let (signal, variance) = walk[s];
        let power = signal * signal * data.variance + variance;
        let residual = signal * signal * data.variance / power;
        (slopes[s - 1] - variance.sqrt() / power).abs() / (residual / (counts[s - 1] * power)).sqrt()
    });
    checks.push(Check::new("trained eps_theta in standard errors from the best one", worst(errors), 5.0));
    checks
}

/// The slopes a_t of eps_theta(x_t, t) = a_t x_t after gradient descent on (21) over the given draws. A tenth
/// of the loss depends on each a_t, with a curvature of 2/10 times a power between 0.2 and 1: after 200 steps
/// of size 4 less than 1e-15 of the initial error is left.
fn trained_slopes(t: &[usize], eps: &[f64], x_t: &[f64], steps: usize) -> Vec<f64> {
    let mut slopes = vec![0.0; steps];
    let mut d_eps_hat = vec![0.0; eps.len()];
    for _ in 0..200 {
        let eps_hat: Vec<f64> = t.iter().zip(x_t).map(|(&t, x)| slopes[t - 1] * x).collect();
        eq21_gradient(eps, &eps_hat, 1.0, &mut d_eps_hat);
        for ((&t, x), d) in t.iter().zip(x_t).zip(&d_eps_hat) {
            slopes[t - 1] -= 4.0 * d * x;
        }
    }
    slopes
}

/// Runs Algorithm 2 with the best eps_theta for `data` on unit impulses in x_T and in each z, and returns the
/// mean and variance that x_0 would have for independent N(0, 1) draws: the chain is linear, so the impulses
/// measure it exactly.
pub fn impulses(schedule: &Schedule, data: GaussianData, variance: VarianceKind) -> GaussianData {
    let steps = schedule.steps();
    // Component k < K has z = 1 at step k only, component K starts at 1, component K + 1 has neither.
    let mut x = vec![0.0; steps + 2];
    x[steps] = 1.0;
    let z = |k: usize, _: Timestep, out: &mut [f64]| {
        out.fill(0.0);
        out[k] = 1.0;
    };
    let eps_theta = |x: &[f64], t, out: &mut [f64]| {
        let level = schedule.at(t)?;
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = data.eps_theta(x, level));
        Ok(())
    };
    let outcome =
        alg2_sample(schedule, Reverse { variance, clip_x0: false }, &mut x, z, eps_theta, |_, _, _| {});
    let mean = if outcome.is_ok() { x[steps + 1] } else { f64::NAN };
    GaussianData { mean, variance: x[..=steps].iter().map(|v| (v - mean) * (v - mean)).sum() }
}

/// Algorithm 2 with the best eps_theta for Gaussian data, against the chain's exact moments from joint
/// covariances: by impulses, with a strided schedule too (rounding of 1000 steps, and the cancellation in 1 -
/// abar_t at small t), and by simulation (five standard errors of 20000 samples). Steps out of order are
/// counted. DDIM with eta = 1 and with its noise derived again is Algorithm 2 with x_0 clipped: the same
/// numbers by another formula, up to the rounding of 1/sqrt(abar_t).
pub fn alg2() -> Vec<Check> {
    let data = GaussianData { mean: 0.1, variance: 0.25 };
    let mut checks = Vec::new();
    for variance in VARIANCES {
        let error = worst([coarse(), ho(), strided()].iter().map(|schedule| {
            let (got, want) = (impulses(schedule, data, variance), data.sampled(schedule, variance, 1));
            worst([absolute(got.mean, want.mean), relative(got.variance, want.variance)])
        }));
        checks.push(Check::new(format!("moments of x_0 by impulses, {variance:?}"), error, 1e-10));
    }
    let (samples, disorder) = simulate(data, 20_000);
    let (n, want) = (samples.len() as f64, data.sampled(&coarse(), VarianceKind::FixedLarge, 1));
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|x| (x - want.mean).powi(2)).sum::<f64>() / n;
    checks.push(Check::new(
        "simulated mean of x_0",
        (mean - want.mean).abs(),
        5.0 * (want.variance / n).sqrt(),
    ));
    let error = relative(variance, want.variance);
    checks.push(Check::new("simulated variance of x_0", error, 5.0 * (2.0 / n).sqrt()));
    checks.push(Check::new("t runs T..1, z is drawn for t > 1: calls out of order", disorder, 0.0));
    checks.push(Check::new("equal to DDIM with eta = 1, x_0 clipped", ddim_distance(), 1e-11));
    checks
}

/// Algorithm 2's x_0 for [`coarse`] and sigma_t^2 = beta_t, and how many calls came out of order or are
/// missing.
fn simulate(data: GaussianData, count: usize) -> (Vec<f64>, f64) {
    let schedule = coarse();
    let steps = schedule.steps();
    let mut rng = draws(102);
    let mut x = normals(&mut rng, count);
    let (mut drawn, mut asked, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    let reverse = Reverse { variance: VarianceKind::FixedLarge, clip_x0: false };
    let z = |k, t: Timestep, out: &mut [f64]| {
        drawn.push((k, t.get()));
        fill_normal(&mut rng, out);
    };
    let eps_theta = |x: &[f64], t: Timestep, out: &mut [f64]| {
        asked.push((asked.len(), t.get()));
        let level = schedule.at(t)?;
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = data.eps_theta(x, level));
        Ok(())
    };
    if alg2_sample(&schedule, reverse, &mut x, z, eps_theta, |k, t, _| seen.push((k, t.get()))).is_err() {
        x.fill(f64::NAN);
    }
    let order: Vec<(usize, usize)> = (0..steps).map(|k| (k, steps - k)).collect();
    let wrong = |got: &[(usize, usize)], want: &[(usize, usize)]| {
        got.len().abs_diff(want.len()) + got.iter().zip(want).filter(|(a, b)| a != b).count()
    };
    let disorder = wrong(&drawn, &order[..steps - 1]) + wrong(&asked, &order) + wrong(&seen, &order);
    (x, disorder as f64)
}

/// The largest difference between the two samplers' x_0 from the same noises, on [`strided`].
fn ddim_distance() -> f64 {
    let schedule = strided();
    let start = normals(&mut draws(103), 64);
    let z = |k: usize, _: Timestep, out: &mut [f64]| fill_normal(&mut draws(200 + k as u64), out);
    let eps_theta = |x: &[f64], _: Timestep, out: &mut [f64]| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (2.0 * x).tanh());
        Ok(())
    };
    let (mut ancestral, mut ddim) = (start.clone(), start);
    let reverse = Reverse { variance: VarianceKind::FixedSmall, clip_x0: true };
    let choice = Ddim { eta: 1.0, clip_x0: ClipX0::RederiveEps };
    let ran = alg2_sample(&schedule, reverse, &mut ancestral, z, eps_theta, |_, _, _| {})
        .and_then(|()| ddim_sample(&schedule, choice, &mut ddim, z, eps_theta, |_, _, _| {}));
    if ran.is_err() {
        return f64::NAN;
    }
    worst(ancestral.iter().zip(&ddim).map(|(a, b)| absolute(*a, *b)))
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn alg1_draws_and_trains_as_it_should() {
        assert_all(&alg1());
    }

    #[test]
    fn alg2_draws_from_the_exact_chain() {
        assert_all(&alg2());
    }

    /// Data from N(0, 1) and sigma_t^2 = beta_t: every x_t is N(0, 1), and the noiseless last step leaves
    /// alpha_1 of the variance.
    #[test]
    fn alg2_is_exact_for_unit_normal_data() {
        let data = GaussianData { mean: 0.0, variance: 1.0 };
        for schedule in [coarse(), ho()] {
            let got = impulses(&schedule, data, VarianceKind::FixedLarge);
            assert!(relative(got.variance, schedule.levels()[0].alpha) < 1e-11, "{got:?}");
            assert!(got.mean.abs() < 1e-15);
        }
    }
}
