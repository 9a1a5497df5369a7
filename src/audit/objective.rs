//! Checks of the annex on objectives, (O1)-(O8).

use super::Check;
use super::bound::bin;
use super::measure::{absolute, draws, integrate, normals, pdf, relative, worst};
use super::toy::{Case, GaussianData, VARIANCES, cases, coarse, ho, walk};
use crate::config::{DiffusionConfig, LossWeight, Prediction, VarianceKind};
use crate::equations::decoder::pixel;
use crate::equations::loss::eq21_gradient;
use crate::equations::objective::{
    LearnedRange, Objective, Shard, o01_target, o02_snr, o03_min_snr, o04_p2, o05_log_variance,
    o08_stratified,
};
use crate::equations::{Level, Schedule};

const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];

/// The bound of numerical integration: 4000 roundings, and the digits that beta~_t loses at t = 2 of 1000.
const GRID: f64 = 1e-9;

/// (O1): v is the derivative of x_t in the angle whose cosine is sqrt(abar_t), by central differences of step
/// 1e-4 (truncation 1e-9); eps and x_0 are themselves; and x_t less what the target says of the noise is what
/// it says of x_0, with the factors of (2) iterated (3e-12 for the product of 1000 factors).
pub fn o01() -> Vec<Check> {
    let target = |prediction, alpha_bar, x0, eps| {
        let [from_x0, from_eps] = o01_target(prediction, alpha_bar);
        from_x0 * x0 + from_eps * eps
    };
    let angles = (1..100).map(|i| f64::from(i) * std::f64::consts::FRAC_PI_2 / 100.0);
    let turned = angles.map(|angle| {
        let x_t = |angle: f64| angle.cos() * 0.7 - angle.sin() * 1.3;
        let derivative = (x_t(angle + 1e-4) - x_t(angle - 1e-4)) / 2e-4;
        absolute(target(Prediction::VPrediction, angle.cos().powi(2), 0.7, -1.3), derivative)
    });
    let [eps, x0] = [Prediction::Epsilon, Prediction::Sample].map(|p| target(p, 0.4, 0.7, -1.3));
    let (schedule, walk) = (ho(), walk(&ho()));
    let made = schedule.levels().iter().zip(&walk[1..]).map(|(level, &(signal, variance))| {
        let (x0, eps) = (0.7, -1.3);
        let (x_t, v) =
            (signal * x0 + variance.sqrt() * eps, target(Prediction::VPrediction, level.alpha_bar, x0, eps));
        absolute(signal * x_t - variance.sqrt() * v, x0)
    });
    vec![
        Check::new("v is the derivative of x_t in the angle", worst(turned), 1e-8),
        Check::new("eps and x_0 are themselves", worst([absolute(eps, -1.3), absolute(x0, 0.7)]), 0.0),
        Check::new("sqrt(abar) x_t - sqrt(1 - abar) v is x_0, (2) iterated", worst(made), 3e-12),
    ]
}

/// (O2) against the squared factor and the variance of (2) iterated: 1000 roundings.
pub fn o02() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let errors =
        schedule.levels().iter().zip(&walk[1..]).map(|(level, &(signal, variance))| {
            relative(o02_snr(level.alpha_bar), signal * signal / variance)
        });
    vec![Check::new("signal over noise of (2) iterated", worst(errors), 1e-11)]
}

/// The largest relative error of the weighted square errors of eps, x_0 and v against `want(|eps error|^2,
/// |x_0 error|^2, snr)`, for two noises that a network may say of the same x_t. The errors' ratio is known to
/// 1e-12.
fn in_every_form(weight: impl Fn(Prediction, f64) -> f64, want: impl Fn(f64, f64, f64) -> f64) -> f64 {
    let (schedule, walk) = (ho(), walk(&ho()));
    worst(schedule.levels().iter().zip(&walk[1..]).flat_map(|(level, &(signal, variance))| {
        let eps_error = 0.37;
        let x0_error = -variance.sqrt() / signal * eps_error;
        let snr = signal * signal / variance;
        let want = want(eps_error * eps_error, x0_error * x0_error, snr);
        PREDICTIONS.map(|prediction| {
            let [from_x0, from_eps] = o01_target(prediction, level.alpha_bar);
            let error = from_x0 * x0_error + from_eps * eps_error;
            relative(weight(prediction, snr) * error * error, want)
        })
    }))
}

/// (O3): the same loss whatever is predicted; below gamma it is that of eps.
pub fn o03() -> Vec<Check> {
    let weight = |prediction, snr| o03_min_snr(prediction, snr, 5.0);
    let forms = in_every_form(weight, |_, x0, snr| snr.min(5.0) * x0);
    let plain = in_every_form(|p, snr| o03_min_snr(p, snr, 1e9), |eps, _, _| eps);
    vec![
        Check::new("min(snr, 5) |x_0 error|^2 in every form, t = 1..1000", forms, 1e-10),
        Check::new("the loss (21) where gamma is above every snr", plain, 1e-10),
    ]
}

/// (O4) likewise; with k = gamma = 1 the weight on eps is the variance of x_t, by (2) iterated.
pub fn o04() -> Vec<Check> {
    let weight = |prediction, snr| o04_p2(prediction, snr, 1.0, 0.5);
    let forms = in_every_form(weight, |eps, _, snr| eps / (1.0 + snr).sqrt());
    let (schedule, walk) = (ho(), walk(&ho()));
    let variances = schedule.levels().iter().zip(&walk[1..]).map(|(level, &(_, variance))| {
        relative(o04_p2(Prediction::Epsilon, o02_snr(level.alpha_bar), 1.0, 1.0), variance)
    });
    vec![
        Check::new("|eps error|^2/(1 + snr)^(1/2) in every form, t = 1..1000", forms, 1e-10),
        Check::new("1 - abar_t for k = gamma = 1, (2) iterated", worst(variances), 1e-11),
    ]
}

fn range(level: &Level) -> [f64; 2] {
    [level.log_posterior_variance, level.beta.ln()]
}

/// (O5): its ends against the best variances by Bayes' rule on a grid, for data at one point and from N(0,
/// 1), and the middle against their geometric mean.
pub fn o05() -> Vec<Check> {
    let end =
        |u: f64, kind: VarianceKind| {
            worst(cases().iter().map(|case| {
                relative(o05_log_variance(u, range(&case.level)).exp(), case.optimal_variance(kind))
            }))
        };
    let middle = cases().into_iter().map(|case| {
        let ends = VARIANCES.map(|kind| case.optimal_variance(kind));
        relative(o05_log_variance(0f64, range(&case.level)).exp(), (ends[0] * ends[1]).sqrt())
    });
    vec![
        Check::new("u = -1 is the variance for data at one point", end(-1.0, VarianceKind::FixedSmall), GRID),
        Check::new("u = 1 is the variance for data from N(0, 1)", end(1.0, VarianceKind::FixedLarge), GRID),
        Check::new("u = 0 is their geometric mean", worst(middle), GRID),
    ]
}

/// KL( q(x_{t-1}|x_t, x_0) || N(mean, variance) ) of a case by numerical integration, q by Bayes' rule on a
/// grid and the mean likewise at the predicted x_0.
fn divergence(case: &Case, variance: f64) -> f64 {
    let (q, p) = (case.bayes(case.x0), case.bayes(case.x0_hat()));
    let log = |x: f64, mean: f64, variance: f64| -(x - mean).powi(2) / (2.0 * variance) - 0.5 * variance.ln();
    let spread = q.variance.sqrt();
    integrate(q.mean - 12.0 * spread, q.mean + 12.0 * spread, 2000, |x| {
        pdf(x, q.mean, q.variance) * (log(x, q.mean, q.variance) - log(x, p.mean, variance))
    })
}

/// (O6) for t >= 2 against the divergence by integration, at t = 1 against the bin's mass by Simpson's rule;
/// its slope against central differences of step 1e-5 (rounding 1e-16 of a term over 1e-5); and the slope
/// expected over Gaussian data is 0 where the variance is that of x_{t-1} given x_t, by their joint
/// covariance.
pub fn o06() -> Vec<Check> {
    let us: [f64; 3] = [-1.3, -0.4, 0.6];
    let integrated = cases().into_iter().flat_map(|case| {
        us.map(|u| {
            let variance = o05_log_variance(u, range(&case.level)).exp();
            let [got, _] = LearnedRange::new(&case.level).o06_term(case.x0, case.x_t, case.x0_hat(), u);
            absolute(got, divergence(&case, variance))
        })
    });
    let (schedule, first) = (coarse(), LearnedRange::new(&coarse().levels()[0]));
    let massed = us.map(|u| {
        let variance = o05_log_variance(u, range(&schedule.levels()[0])).exp();
        let [got, _] = first.o06_term(pixel(150), 0.1, pixel(160), u);
        relative(got, -bin(pixel(150), pixel(160), variance).ln())
    });
    let levels = [schedule.levels()[0], schedule.levels()[4], ho().levels()[1], ho().levels()[999]];
    let slopes = levels.iter().flat_map(|level| {
        us.map(|u| {
            let term = |u: f64| LearnedRange::new(level).o06_term(pixel(150), 0.1, pixel(153), u);
            absolute(term(u)[1], (term(u + 1e-5)[0] - term(u - 1e-5)[0]) / 2e-5)
        })
    });
    vec![
        Check::new("L_{t-1} by numerical integration, t >= 2", worst(integrated), GRID),
        Check::new("L_0 by Simpson's rule, t = 1", worst(massed), 1e-9),
        Check::new("its slope by central differences", worst(slopes), 1e-8),
        Check::new("the slope vanishes at the variance of x_{t-1} given x_t", best_variance(), 1e-9),
    ]
}

/// The largest expected slope of (O6) at the true variance of x_{t-1} given x_t of Gaussian data, whose best
/// prediction of x_0 is off by Var(x_0 | x_t), over t = 2..10.
fn best_variance() -> f64 {
    let schedule = coarse();
    let data = GaussianData { mean: 0.1, variance: 0.25 };
    let mut before = data;
    let mut errors = Vec::new();
    for level in schedule.levels() {
        let after = before.step(level.beta);
        let gain = (1.0 - level.beta).sqrt() * before.variance / after.variance;
        let variance = before.variance - gain * gain * after.variance;
        before = after;
        if level.is_first() {
            continue;
        }
        let off = data.variance * (1.0 - level.alpha_bar) / after.variance;
        let [ln_small, ln_large] = range(level);
        let u = 2.0 * (variance.ln() - ln_small) / (ln_large - ln_small) - 1.0;
        errors.push(LearnedRange::new(level).o06_term(off.sqrt(), 0.3, 0.0, u)[1].abs());
    }
    worst(errors)
}

/// (O7), with a weight, v and a learned variance: the gradient in the second half of the output by central
/// differences of the loss; that in the first half is (21)'s alone, times the weight; and the loss is the two
/// parts, computed apart.
pub fn o07() -> Vec<Check> {
    let schedule = ho();
    let config = DiffusionConfig {
        prediction: Prediction::VPrediction,
        learned_range: true,
        ..DiffusionConfig::default()
    };
    let weighting = LossWeight::MinSnr { gamma: 5.0 };
    let objective = Objective::new(&config, weighting, &schedule);
    let level = &schedule.levels()[400];
    let mut rng = draws(107);
    let (x0, eps, output) = (normals(&mut rng, 3), normals(&mut rng, 3), normals(&mut rng, 6));
    let mut x_t = vec![0.0; 3];
    crate::equations::forward::eq03_q_sample(&x0, &eps, level.alpha_bar, &mut x_t);
    // One channel: of each pixel the prediction, then u.
    let run = |output: &[f64]| {
        let mut notes = vec![0.0; objective.notes_len(6)];
        notes[..3].copy_from_slice(&eps);
        objective.prepare(level, &x0, &x_t, &mut notes);
        let mut d_output = vec![0.0; 6];
        let shard = Shard { indices: &[400], notes: &mut notes, output, channels: 2, batch: 1 };
        (objective.o07_gradient(shard, &mut d_output), d_output)
    };
    let (loss, d_output) = run(&output);
    let second = [1, 3, 5].map(|i| {
        let at = |step: f64| {
            let mut moved = output.clone();
            moved[i] += step;
            run(&moved).0
        };
        absolute(d_output[i], (at(1e-5) - at(-1e-5)) / 2e-5)
    });
    let [from_x0, from_eps] = o01_target(Prediction::VPrediction, level.alpha_bar);
    let target: Vec<f64> = x0.iter().zip(&eps).map(|(x0, eps)| from_x0 * x0 + from_eps * eps).collect();
    let said = [output[0], output[2], output[4]];
    let weight = o03_min_snr(Prediction::VPrediction, o02_snr(level.alpha_bar), 5.0);
    let mut simple = [0.0; 3];
    eq21_gradient(&target, &said, weight, &mut simple);
    let first = [0, 1, 2].map(|k| absolute(d_output[2 * k], simple[k]));
    let squares: f64 = target.iter().zip(said).map(|(y, m)| (y - m).powi(2)).sum();
    let (alpha, sigma) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
    let nats: f64 = (0..3)
        .map(|k| {
            let x0_hat = alpha * x_t[k] - sigma * said[k];
            LearnedRange::new(level).o06_term(x0[k], x_t[k], x0_hat, output[2 * k + 1])[0]
        })
        .sum();
    let parts = weight * squares / 3.0 + 0.001 * 1000.0 * nats / 3.0 / std::f64::consts::LN_2;
    vec![
        Check::new("the variance's gradient by central differences", worst(second), 1e-7),
        Check::new("the prediction's gradient is (21)'s alone", worst(first), 1e-15),
        Check::new("the loss is the sum of its parts", relative(loss, parts), 1e-13),
    ]
}

/// (O8): every t lies in its stratum; each is drawn as often (five standard deviations); and the mean t of a
/// batch varies as much as theory says, 1/B^2 of what it does in Algorithm 1 (four standard errors of a
/// variance of 4000 draws, 9 %).
pub fn o08() -> Vec<Check> {
    let schedule: Schedule = ho();
    const BATCH: u64 = 16;
    const STEPS: u64 = 4000;
    let mut outside = 0.0;
    let mut counts = [0f64; 10];
    let mut means = Vec::new();
    for step in 0..STEPS {
        let mut sum = 0.0;
        for sample in 0..BATCH {
            let index = o08_stratified(8, step, sample, BATCH, &schedule).t.index() as f64;
            let width = 1000.0 / BATCH as f64;
            let (low, high) = ((sample as f64 * width).floor(), (sample + 1) as f64 * width);
            outside += if index < low || index >= high { 1.0 } else { 0.0 };
            counts[(index / 100.0) as usize] += 1.0;
            sum += index;
        }
        means.push(sum / BATCH as f64);
    }
    let expected = (STEPS * BATCH) as f64 / 10.0;
    let uneven = worst(counts.map(|count| (count - expected).abs() / expected.sqrt()));
    let mean = means.iter().sum::<f64>() / STEPS as f64;
    let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / STEPS as f64;
    let theory = 1e6 / 12.0 / (BATCH as f64).powi(3);
    vec![
        Check::new("timesteps outside of their stratum", outside, 0.0),
        Check::new("deciles of t are drawn alike, in standard deviations", uneven, 5.0),
        Check::new("the variance of a batch's mean t", relative(variance, theory), 0.09),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn o01_o02_are_what_they_are_by_the_process() {
        assert_all(&o01());
        assert_all(&o02());
    }

    #[test]
    fn o03_o04_weigh_every_form_alike() {
        assert_all(&o03());
        assert_all(&o04());
    }

    #[test]
    fn o05_o06_are_a_gaussian_with_another_variance() {
        assert_all(&o05());
        assert_all(&o06());
    }

    #[test]
    fn o07_is_a_sum_whose_gradient_is_right() {
        assert_all(&o07());
    }

    #[test]
    fn o08_is_uniform_and_stratified() {
        assert_all(&o08());
    }
}
