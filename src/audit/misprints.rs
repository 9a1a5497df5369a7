//! What the slides print, computed, and its error beside the error of the implemented form.

use super::Misprint;
use super::algorithms::impulses;
use super::bound::{expected_bound, integrated_terms};
use super::loss::least_loss;
use super::measure::{absolute, expect, integrate, moments, normals, pdf, relative, worst};
use super::positive::product_error;
use super::posterior::{POINTS, mean_error};
use super::toy::{Case, GaussianData, VARIANCES, cases, coarse, schedule, walk};
use crate::config::VarianceKind::{self, FixedLarge, FixedSmall};
use crate::equations::bound::{eq18_constant, eq18_mean_distance, eq20_noise_distance, eq20_weight};
use crate::equations::features::eq25_positive_features;
use crate::equations::forward::eq01_log_q;
use crate::equations::loss::eq21_objective;
use crate::equations::posterior::{eq04_log_q_reverse, eq09_posterior_mean, eq11_posterior_mean};
use crate::equations::reverse::{Reverse, eq06_sigma_theta, eq14_log_p_theta, eq15_step};
use crate::equations::{Level, Schedule, Timestep};
use ndarray::{Array1, Array2, Axis};

/// The data of the Gaussian cases.
const DATA: GaussianData = GaussianData { mean: 0.1, variance: 0.25 };

/// Every misprint, in the slides' order.
pub fn all() -> Vec<Misprint> {
    let mut all = vec![eq01(), eq04(), eq06()];
    all.extend(eq09_and_eq11());
    all.push(eq14());
    all.extend(eq15());
    all.extend([eq17(), eq18()]);
    all.extend(eq20_and_eq21());
    all.extend(alg2());
    all.push(eq25());
    all
}

/// N(x_{t-1}; sqrt(1 - beta_t) x_{t-1}, beta_t) does not depend on x_t: integrated over x_t it is no
/// distribution. Bound: the integration's rounding.
fn eq01() -> Misprint {
    let (level, x) = (coarse().levels()[4], 0.3);
    let mass = |density: &dyn Fn(f64) -> f64| (integrate(-8.0, 8.0, 4000, density) - 1.0).abs();
    Misprint::new(
        "eq01",
        "the variable of the density as x_{t-1}",
        "|integral over x_t in [-8, 8] - 1|",
        mass(&|_| pdf(x, (1.0 - level.beta).sqrt() * x, level.beta)),
        mass(&|x_t| eq01_log_q(&[x_t], &[x], &level).exp()),
        1e-10,
    )
}

/// The total variation between q(x_{t-1} | x_t) for two-point data, by Bayes' rule on a grid, and the
/// Gaussian of the same moments, at beta = 0.7. Bound: the integration's rounding.
fn eq04() -> Misprint {
    let schedule = schedule(Schedule::from_betas(&[0.5, 0.7]));
    let (level, x_t) = (schedule.last(), 0.1);
    let (signal_prev, variance_prev) = walk(&schedule)[1];
    let (centre, spread) = (x_t / 0.3f64.sqrt(), (0.7f64 / 0.3).sqrt());
    let bayes = |x: f64| {
        pdf(x_t, 0.3f64.sqrt() * x, 0.7)
            * POINTS.iter().map(|x0| pdf(x, signal_prev * x0, variance_prev)).sum::<f64>()
    };
    let exact = moments(centre, spread, bayes);
    let distance = |density: &dyn Fn(f64) -> f64| {
        let half = 14.0 * spread;
        0.5 * integrate(centre - half, centre + half, 4000, |x| (density(x) - bayes(x) / exact.mass).abs())
    };
    let data: [&[f64]; 2] = [&POINTS[..1], &POINTS[1..]];
    Misprint::new(
        "eq04",
        "as if it were exactly Gaussian",
        "total variation from Bayes' rule, data at two points, beta_t = 0.7",
        distance(&|x| pdf(x, exact.mean, exact.variance)),
        distance(&|x| eq04_log_q_reverse(&[x], &[x_t], &data, level).exp()),
        1e-10,
    )
}

/// The variance of q(x_t | x_0), 1 - abar_t, where the variance of x_{t-1} given x_t belongs. Bound: the
/// grid's.
fn eq06() -> Misprint {
    let error = |variance: &dyn Fn(&Case, VarianceKind) -> f64| {
        worst(cases().iter().flat_map(|case| {
            VARIANCES.map(|kind| relative(variance(case, kind), case.optimal_variance(kind)))
        }))
    };
    Misprint::new(
        "eq06",
        "the variance of q, barred: 1 - abar_t",
        "largest relative error of the variance, against Bayes' rule on a grid",
        error(&|case, _| case.variance),
        error(&|case, kind| eq06_sigma_theta(&case.level, kind, 1)[0]),
        1e-10,
    )
}

/// The mean without its factor beta~_t. Bound: the grid's.
fn eq09_and_eq11() -> [Misprint; 2] {
    let printed = mean_error(|case| {
        (1.0 - case.level.beta).sqrt() / case.level.beta * case.x_t
            + case.signal_prev / case.variance_prev * case.x0
    });
    let implemented = |mean: fn(&[f64], &[f64], &Level, &mut [f64])| {
        mean_error(|case| {
            let mut out = [0.0];
            mean(&[case.x_t], &[case.x0], &case.level, &mut out);
            out[0]
        })
    };
    let measured = "largest error of the mean relative to max(1, |mean|), against Bayes' rule on a grid";
    let form = "without the factor beta~_t, and singular at t = 1";
    [
        Misprint::new("eq09", form, measured, printed, implemented(eq09_posterior_mean), 1e-10),
        Misprint::new("eq11", form, measured, printed, implemented(eq11_posterior_mean), 1e-10),
    ]
}

/// sigma_t where the variance belongs. Bound: the grid's.
fn eq14() -> Misprint {
    let case = cases()[2];
    let (mean, exact) = (case.bayes(case.x0_hat()).mean, case.optimal_variance(FixedSmall));
    let error =
        |spread: f64, density: &dyn Fn(f64) -> f64| relative(moments(mean, spread, density).variance, exact);
    let reverse = Reverse { variance: FixedSmall, clip_x0: false };
    Misprint::new(
        "eq14",
        "sigma_t I for the covariance",
        "relative error of the variance, against Bayes' rule on a grid",
        error(exact.powf(0.25), &|x| pdf(x, mean, exact.sqrt())),
        error(exact.sqrt(), &|x| {
            eq14_log_p_theta(&[x], &[case.x_t], &[case.eps_hat], &case.level, reverse).exp()
        }),
        1e-10,
    )
}

/// eps where fresh noise belongs leaves x_{t-1} without any variance given x_t: bound, five standard errors
/// of 2000 draws. Noise at t = 1: with data at one point and the true eps the last step should return that
/// point; bound, the digits that 1 - abar_1 leaves.
fn eq15() -> [Misprint; 2] {
    let case = cases()[2];
    let sigma2 = case.optimal_variance(FixedSmall);
    let reverse = Reverse { variance: FixedSmall, clip_x0: false };
    let step = |level: &Level, x_t: f64, eps: f64, z: f64| {
        let mut x_prev = [0.0];
        eq15_step(&[x_t], &[eps], &[z], level, reverse, &mut x_prev);
        x_prev[0]
    };
    let mean = case.bayes(case.x0_hat()).mean;
    let noises = normals(&mut super::measure::draws(15), 2000);
    let spread = |draw: &dyn Fn(f64) -> f64| {
        let draws: Vec<f64> = noises.iter().map(|&z| draw(z)).collect();
        let own = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - own) * (x - own)).sum::<f64>() / draws.len() as f64;
        relative(variance, sigma2)
    };
    let schedule = coarse();
    let first = &schedule.levels()[0];
    let x_1 = (1.0 - first.beta).sqrt() * 0.7 + first.beta.sqrt() * 1.1;
    let last = |add: f64| worst(noises.iter().map(|z| (step(first, x_1, 1.1, *z) + add * z - 0.7).abs()));
    [
        Misprint::new(
            "eq15",
            "eps for z",
            "relative error of the variance of x_{t-1} given x_t, over 2000 draws",
            spread(&|_| mean + sigma2.sqrt() * case.eps_hat),
            spread(&|z| step(&case.level, case.x_t, case.eps_hat, z)),
            5.0 * (2.0f64 / 2000.0).sqrt(),
        ),
        Misprint::new(
            "eq15",
            "not that z is 0 at t = 1",
            "largest error of x_0 from the true eps, sigma_1^2 = beta_1, over 2000 draws",
            last(first.beta.sqrt()),
            last(0.0),
            1e-12,
        ),
    ]
}

/// The middle terms up to t = T - 1: the sum lacks the term of t = T. Bound: that of the integration, as for
/// the check of (17).
fn eq17() -> Misprint {
    let (prior, middle, decoder) = integrated_terms(FixedLarge);
    let whole = prior + middle.iter().sum::<f64>() + decoder;
    let printed = prior + middle[..middle.len() - 1].iter().sum::<f64>() + decoder;
    Misprint::new(
        "eq17",
        "the middle terms as L_t, with t ending at T - 1",
        "error of L in nats, against numerical integration",
        absolute(printed, whole),
        absolute(expected_bound(FixedLarge), whole),
        1e-9,
    )
}

/// The distance of the means alone for sigma_t^2 = beta_t. Bound: that of the integration, as for the check
/// of (18).
fn eq18() -> Misprint {
    let error = |with_constant: f64| {
        worst(cases().iter().map(|case| {
            let means = [case.x0, case.x0_hat()].map(|x0| [case.bayes(x0).mean]);
            let distance = eq18_mean_distance(&means[0], &means[1], case.optimal_variance(FixedLarge));
            let got = distance + with_constant * eq18_constant(&case.level, FixedLarge, 1);
            absolute(got, case.kl_by_integration(FixedLarge, case.x0_hat()))
        }))
    };
    Misprint::new(
        "eq18",
        "no word on C_t",
        "error of L_{t-1} in nats for sigma_t^2 = beta_t, against numerical integration",
        error(0.0),
        error(1.0),
        1e-9,
    )
}

/// sqrt(alpha_t) x_0 inside eps_theta, with the eps_theta that is best for Gaussian data: the expected
/// distance, integrated over x_0 and eps (exact for a square), against the variance of eps given x_t. Bound:
/// rounding of 481 x 481 terms.
fn eq20_and_eq21() -> [Misprint; 2] {
    let schedule = coarse();
    let level = &schedule.levels()[6];
    let least = least_loss(DATA, 7);
    let mean = |distance: &dyn Fn(f64, f64) -> f64| {
        expect(|a| expect(|eps| distance(DATA.mean + DATA.variance.sqrt() * a, eps)))
    };
    let network = |x: &[f64], _: Timestep, out: &mut [f64]| {
        out[0] = DATA.eps_theta(x[0], level);
        Ok(())
    };
    let printed = mean(&|x0, eps| {
        let argument = (1.0 - level.beta).sqrt() * x0 + (1.0 - level.alpha_bar).sqrt() * eps;
        (eps - DATA.eps_theta(argument, level)).powi(2)
    });
    let weighted =
        mean(&|x0, eps| eq20_noise_distance(&[x0], &[eps], level, 0.3, network).unwrap_or(f64::NAN));
    let simple = mean(&|x0, eps| eq21_objective(&[x0], &[eps], level, network).unwrap_or(f64::NAN));
    let (form, measured) =
        ("sqrt(alpha_t) x_0 inside eps_theta", "relative error of the least loss for Gaussian data");
    [
        Misprint::new(
            "eq20",
            form,
            measured,
            relative(printed, least),
            relative(weighted / eq20_weight(level, 0.3), least),
            1e-10,
        ),
        Misprint::new("eq21", form, measured, relative(printed, least), relative(simple, least), 1e-10),
    ]
}

/// Algorithm 2 as printed, on Gaussian data with the best eps_theta: its affine steps x -> gain x + offset,
/// read off at two points, give the variance of x_0. Bound: rounding, as for the check of Algorithm 2.
fn alg2() -> [Misprint; 2] {
    let schedule = coarse();
    let exact = DATA.sampled(&schedule, FixedSmall, 1).variance;
    let correct = relative(impulses(&schedule, DATA, FixedSmall).variance, exact);
    let variance = |step: &dyn Fn(f64, &Level, f64) -> f64, fresh_noise: f64| {
        let walk = walk(&schedule);
        schedule.levels().iter().rev().fold(1.0, |variance, level| {
            let t = level.t.get();
            let sigma2 = walk[t - 1].1 / walk[t].1 * level.beta;
            let gain = step(1.0, level, sigma2.sqrt()) - step(0.0, level, sigma2.sqrt());
            gain * gain * variance + fresh_noise * sigma2
        })
    };
    let mean = |x: f64, level: &Level, rest: f64| {
        (x - level.beta / rest.sqrt() * DATA.eps_theta(x, level)) / (1.0 - level.beta).sqrt()
    };
    let measured = "relative error of the variance of x_0 for Gaussian data";
    [
        Misprint::new(
            "alg2",
            "sqrt(1 - alpha_t) for sqrt(1 - abar_t)",
            measured,
            relative(variance(&|x, level, _| mean(x, level, level.beta), 1.0), exact),
            correct,
            1e-10,
        ),
        Misprint::new(
            "alg2",
            "eps where z is meant",
            measured,
            relative(
                variance(
                    &|x, level, sigma| {
                        mean(x, level, 1.0 - level.alpha_bar) + sigma * DATA.eps_theta(x, level)
                    },
                    0.0,
                ),
                exact,
            ),
            correct,
            1e-10,
        ),
    ]
}

/// w_1 in the last component: the estimate is not the mean over the projections that (24) defines. Bound:
/// rounding.
fn eq25() -> Misprint {
    let phi = |x: &Array1<f64>, w: &Array2<f64>| {
        eq25_positive_features(x.view().insert_axis(Axis(0)), w.view())
            .map_or(Array1::from_elem(1, f64::NAN), |phi| phi.row(0).to_owned())
    };
    let printed = |x: &Array1<f64>, w: &Array2<f64>| {
        let mut features = phi(x, w);
        let last = features.len() - 1;
        features[last] = features[0];
        features
    };
    Misprint::new(
        "eq25",
        "the last component with w_1 for w_m",
        "largest relative error of phi(q)^T phi(k), against one mean over the projections",
        product_error(printed),
        product_error(phi),
        1e-13,
    )
}
