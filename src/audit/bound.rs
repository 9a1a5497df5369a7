//! Checks of (16) and (17), on data from a Gaussian, where the model, its chain and its likelihood are known
//! exactly.

use super::Check;
use super::measure::{Estimate, absolute, draws, estimate, expect, integrate, pdf, relative, worst};
use super::toy::{Case, GaussianData, VARIANCES, cases, coarse, walk};
use crate::config::VarianceKind::{self, FixedSmall};
use crate::equations::bound::{
    bits_per_dim, eq16_log_weight, eq16_negative_log_likelihood, eq17_bound, eq17_middle_term,
    eq17_prior_term,
};
use crate::equations::decoder::{eq17_log_decoder, eq17_pixel_probability, pixel};
use crate::equations::reverse::Reverse;
use crate::rng::fill_normal;

/// The data.
pub const DATA: GaussianData = GaussianData { mean: 0.1, variance: 0.25 };

/// The image whose likelihood is sought: two pixels.
pub fn image() -> [f64; 2] {
    [pixel(150), pixel(90)]
}

/// The reverse process with `variance` and no clipping, which would not be linear.
fn reverse(variance: VarianceKind) -> Reverse {
    Reverse { variance, clip_x0: false }
}

/// The best eps_theta for [`DATA`] under [`coarse`].
fn eps_theta(x: &[f64], t: crate::equations::Timestep, out: &mut [f64]) -> crate::Result<()> {
    let schedule = coarse();
    let level = schedule.at(t)?;
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = DATA.eps_theta(x, level));
    Ok(())
}

/// The integral of N(mean, variance) over the bin of the pixel value `x0`, by Simpson's rule: the bin is far
/// narrower than the density, so 200 cells leave less than 1e-12.
pub fn bin(x0: f64, mean: f64, variance: f64) -> f64 {
    let step = 2.0 / 255.0 / 200.0;
    let at = |i: usize| pdf(x0 - 1.0 / 255.0 + step * i as f64, mean, variance);
    let inner: f64 = (1..200).map(|i| if i % 2 == 1 { 4.0 * at(i) } else { 2.0 * at(i) }).sum();
    step / 3.0 * (at(0) + inner + at(200))
}

/// The decoder's variance at t = 1, beta~_2, from the variances of (2) iterated.
fn decoder_variance() -> f64 {
    let (schedule, walk) = (coarse(), walk(&coarse()));
    walk[1].1 / walk[2].1 * schedule.levels()[1].beta
}

/// -ln p_theta(x_0) of [`image()`], exactly: x_1 is Gaussian, and so is x_0 before it is cut into bins.
pub fn exact_nll(variance: VarianceKind) -> f64 {
    let schedule = coarse();
    let x_1 = DATA.sampled(&schedule, variance, 2);
    let (gain, offset) = DATA.reverse_means(&schedule)[0];
    let (mean, spread) = (gain * x_1.mean + offset, gain * gain * x_1.variance + decoder_variance());
    image().iter().map(|&x0| -bin(x0, mean, spread).ln()).sum()
}

/// Draws of (16)'s log weights.
fn log_weights(variance: VarianceKind, count: usize) -> Vec<f64> {
    let (schedule, mut rng) = (coarse(), draws(16));
    let mut weight = || {
        eq16_log_weight(&schedule, reverse(variance), &image(), |out| fill_normal(&mut rng, out), eps_theta)
            .unwrap_or(f64::NAN)
    };
    (0..count).map(|_| weight()).collect()
}

/// (16) by importance sampling against the exact likelihood of the Gaussian chain: five standard errors of
/// the mean of 20000 weights, relative to that mean, since -ln turns relative errors into absolute ones.
pub fn eq16() -> Vec<Check> {
    VARIANCES
        .map(|variance| {
            let weights = log_weights(variance, 20_000);
            let got = eq16_negative_log_likelihood(&weights);
            let mut linear = weights.iter().map(|w| (w + got).exp());
            let Estimate { standard_error, .. } =
                estimate(weights.len(), || linear.next().unwrap_or(f64::NAN));
            let error = (got - exact_nll(variance)).abs();
            Check::new(
                format!("estimate against the exact likelihood, {variance:?}"),
                error,
                5.0 * standard_error,
            )
        })
        .to_vec()
}

/// E L over all noises, exactly: every term depends on its own noise alone, so one noise value can be used
/// for all t at once.
pub fn expected_bound(variance: VarianceKind) -> f64 {
    let schedule = coarse();
    expect(|e| {
        let noise = |_, out: &mut [f64]| out.fill(e);
        eq17_bound(&schedule, reverse(variance), &image(), noise, eps_theta)
            .map_or(f64::NAN, |bound| bound.total())
    })
}

/// The terms of (17) by numerical integration alone: L_T, then L_1 .. L_{T-1}, then L_0.
pub fn integrated_terms(variance: VarianceKind) -> (f64, Vec<f64>, f64) {
    let (schedule, walk) = (coarse(), walk(&coarse()));
    let (signal, spread) = walk[schedule.steps()];
    let prior = image().iter().map(|&x0| integrated_prior(signal * x0, spread)).sum();
    // A middle term is quadratic in the noise: three Gauss-Hermite nodes integrate it exactly.
    let nodes = [(0.0, 2.0 / 3.0), (3f64.sqrt(), 1.0 / 6.0), (-(3f64.sqrt()), 1.0 / 6.0)];
    let middle = (2..=schedule.steps())
        .map(|t| {
            let ((signal_prev, variance_prev), (signal, spread)) = (walk[t - 1], walk[t]);
            let level = schedule.levels()[t - 1];
            let term = |x0: f64, eps: f64| {
                let x_t = signal * x0 + spread.sqrt() * eps;
                let eps_hat = DATA.eps_theta(x_t, &level);
                let case = Case {
                    level,
                    signal,
                    variance: spread,
                    signal_prev,
                    variance_prev,
                    x0,
                    eps,
                    eps_hat,
                    x_t,
                };
                case.kl_by_integration(variance, case.x0_hat())
            };
            image().iter().flat_map(|&x0| nodes.map(|(eps, weight)| weight * term(x0, eps))).sum()
        })
        .collect();
    let (gain, offset) = DATA.reverse_means(&schedule)[0];
    let (signal, spread) = walk[1];
    let decoder = image()
        .iter()
        .map(|&x0| {
            expect(|e| {
                let mean = gain * (signal * x0 + spread.sqrt() * e) + offset;
                -bin(x0, mean, decoder_variance()).max(1e-12).ln()
            })
        })
        .sum();
    (prior, middle, decoder)
}

/// KL( N(mean, variance) || N(0, 1) ) by numerical integration.
fn integrated_prior(mean: f64, variance: f64) -> f64 {
    let half = 12.0 * variance.sqrt();
    integrate(mean - half, mean + half, 2000, |x| {
        pdf(x, mean, variance) * (pdf(x, mean, variance) / pdf(x, 0.0, 1.0)).ln()
    })
}

/// (17): every term against numerical integration (1e-9: 4000 roundings and the decoder's Simpson rule), the
/// sum against the simulated chain (five standard errors of 20000 paths), the inequality against the exact
/// likelihood, and the decoder as a distribution over 256 values (the floor adds at most 1e-12 to each
/// probability).
pub fn eq17() -> Vec<Check> {
    let mut checks = Vec::new();
    for variance in VARIANCES {
        let bound = expected_bound(variance);
        let (prior, middle, decoder) = integrated_terms(variance);
        let integrated = prior + middle.iter().sum::<f64>() + decoder;
        checks.push(Check::new(
            format!("L by numerical integration, {variance:?}"),
            absolute(bound, integrated),
            1e-9,
        ));
        let weights = log_weights(variance, 20_000);
        let mut next = weights.iter().map(|w| -w);
        let simulated = estimate(weights.len(), || next.next().unwrap_or(f64::NAN));
        let error = (simulated.mean - bound).abs();
        checks.push(Check::new(
            format!("L by simulating the chain, {variance:?}"),
            error,
            5.0 * simulated.standard_error,
        ));
        let excess = worst([exact_nll(variance) - bound]);
        checks.push(Check::new(
            format!("L is not below the exact -ln p_theta(x_0), {variance:?}"),
            excess,
            0.0,
        ));
    }
    let terms = cases().into_iter().flat_map(|case| {
        VARIANCES.into_iter().flat_map(move |variance| {
            [false, true].map(|clip_x0| {
                let x0_hat = if clip_x0 { case.x0_hat().clamp(-1.0, 1.0) } else { case.x0_hat() };
                let reverse = Reverse { variance, clip_x0 };
                let got = eq17_middle_term(&[case.x0], &[case.x_t], &[case.eps_hat], &case.level, reverse);
                absolute(got, case.kl_by_integration(variance, x0_hat))
            })
        })
    });
    checks.push(Check::new("L_{t-1} by numerical integration", worst(terms), 1e-9));
    let schedule = coarse();
    checks.push(Check::new("the middle terms are those of t = 2..T: terms out of place", misplaced(), 0.0));
    let (signal, spread) = walk(&schedule)[schedule.steps()];
    let prior = relative(eq17_prior_term(&[0.9], schedule.last()), integrated_prior(signal * 0.9, spread));
    checks.push(Check::new("L_T by numerical integration", prior, 1e-10));
    checks.extend(decoder());
    let uniform = bits_per_dim(2.0 * 256f64.ln(), 2);
    checks.push(Check::new("a uniform model has 8 bits per dimension", relative(uniform, 8.0), 1e-15));
    checks
}

/// How many of (17)'s middle terms are missing, superfluous or at a wrong t.
fn misplaced() -> f64 {
    let schedule = coarse();
    let bound = eq17_bound(&schedule, reverse(FixedSmall), &image(), |_, out| out.fill(0.0), eps_theta);
    bound.map_or(f64::NAN, |bound| {
        let wrong = bound.middle.iter().zip(2..).filter(|((t, _), want)| t.get() != *want).count();
        (wrong + bound.middle.len().abs_diff(schedule.steps() - 1)) as f64
    })
}

/// The decoder: its probabilities' sum, and each against an integral; 1e-9 relative, of a Simpson rule on
/// bins up to half a standard deviation wide.
fn decoder() -> [Check; 3] {
    let (mut sums, mut bins) = (Vec::new(), Vec::new());
    for mean in [-1.4, -0.99, 0.003, 0.7, 1.0, 1.2] {
        for sigma in [0.002, 0.02, 0.1, 1.0] {
            let probability = |byte: u8| eq17_pixel_probability(pixel(byte), mean, sigma);
            sums.push((0..=255).map(probability).sum::<f64>());
            if sigma < 0.02 {
                continue;
            }
            for byte in 1..255 {
                let want = bin(pixel(byte), mean, sigma * sigma);
                if want > 1e-11 {
                    bins.push(relative(probability(byte), want));
                    bins.push(absolute(eq17_log_decoder(&[pixel(byte)], &[mean], sigma), want.ln()));
                }
            }
        }
    }
    [
        Check::new(
            "the decoder's 256 probabilities sum to 1",
            worst(sums.iter().map(|s| relative(*s, 1.0))),
            3e-10,
        ),
        Check::new("the decoder's probabilities by numerical integration", worst(bins), 1e-9),
        Check::new(
            "a probability that vanishes is raised to 1e-12",
            relative(eq17_pixel_probability(pixel(128), 3.0, 0.1), 1e-12),
            0.0,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq16_is_the_exact_likelihood_of_a_gaussian_chain() {
        assert_all(&eq16());
        // The check proves something only if the standard errors are small: at most a twentieth of a nat.
        assert!(eq16().iter().all(|check| check.bound < 0.05));
    }

    #[test]
    fn eq17_is_the_bound() {
        assert_all(&eq17());
        for variance in VARIANCES {
            let gap = expected_bound(variance) - exact_nll(variance);
            assert!(gap > 1e-4, "the inequality is strict for this chain: {gap}");
        }
    }
}
