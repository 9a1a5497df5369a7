//! Checks of (18)-(21).

use super::Check;
use super::measure::{absolute, draws, estimate, normals, relative, worst};
use super::toy::{Case, GaussianData, VARIANCES, cases, coarse, ho, walk};
use crate::config::VarianceKind;
use crate::equations::bound::{
    eq17_middle_term, eq18_constant, eq18_mean_distance, eq19_mean_distance, eq20_noise_distance, eq20_weight,
};
use crate::equations::loss::{eq21_gradient, eq21_l_simple, eq21_objective};
use crate::equations::posterior::eq11_posterior_mean;
use crate::equations::reverse::{Reverse, eq13_mu_theta};
use crate::equations::{Level, Timestep};

/// The bound of numerical integration: 4000 roundings, and the digits that beta~_t loses at t = 2 of 1000.
const GRID: f64 = 1e-9;

/// The largest error of `distance` + C_t against the divergence by numerical integration, for one choice of
/// sigma_t^2.
fn against_divergence(variance: VarianceKind, distance: impl Fn(&Case, f64) -> f64) -> f64 {
    worst(cases().iter().map(|case| {
        let sigma2 = case.optimal_variance(variance);
        let got = distance(case, sigma2) + eq18_constant(&case.level, variance, 1);
        absolute(got, case.kl_by_integration(variance, case.x0_hat()))
    }))
}

/// One check per choice of sigma_t^2.
fn both(distance: impl Fn(&Case, f64) -> f64) -> Vec<Check> {
    VARIANCES
        .map(|variance| {
            let error = against_divergence(variance, &distance);
            Check::new(
                format!("plus C_t it is L_{{t-1}} by numerical integration, {variance:?}"),
                error,
                GRID,
            )
        })
        .to_vec()
}

/// (18) between means from Bayes' rule on a grid, plus C_t, against the divergence by integration; in several
/// dimensions against the closed-form divergence, C_t being D times as large: rounding.
pub fn eq18() -> Vec<Check> {
    let mut checks = both(|case, sigma2| {
        eq18_mean_distance(&[case.bayes(case.x0).mean], &[case.bayes(case.x0_hat()).mean], sigma2)
    });
    let zero = cases().into_iter().map(|case| eq18_constant(&case.level, VarianceKind::FixedSmall, 7).abs());
    checks.push(Check::new("C_t is 0 for sigma_t^2 = beta~_t", worst(zero), 0.0));
    let dims = cases().into_iter().map(|case| {
        let reverse = Reverse { variance: VarianceKind::FixedLarge, clip_x0: false };
        let kl = |n: usize| {
            let all = |v: f64| vec![v; n];
            eq17_middle_term(&all(case.x0), &all(case.x_t), &all(case.eps), &case.level, reverse)
        };
        // With the true noise the means agree to about 1e-12, and the divergence is C_t alone.
        absolute(eq18_constant(&case.level, VarianceKind::FixedLarge, 5), kl(5))
    });
    checks.push(Check::new("C_t is the divergence of five components with equal means", worst(dims), 1e-10));
    checks
}

/// (19) at x_t, with the true and the predicted noise.
pub fn eq19() -> Vec<Check> {
    both(|case, sigma2| eq19_mean_distance(&[case.x_t], &[case.eps], &[case.eps_hat], &case.level, sigma2))
}

/// (20) at x_0, with eps_theta evaluated at x_t; that argument against (2) iterated (rounding of 1000 steps);
/// and (20) against (18) and (19) for random images at every t.
pub fn eq20() -> Vec<Check> {
    let mut checks = both(|case, sigma2| {
        let predict = |_: &[f64], _, out: &mut [f64]| {
            out[0] = case.eps_hat;
            Ok(())
        };
        eq20_noise_distance(&[case.x0], &[case.eps], &case.level, sigma2, predict).unwrap_or(f64::NAN)
    });
    checks.push(argument(|x0, eps, level, network| {
        eq20_noise_distance(&x0, &eps, level, 1.0, network).unwrap_or(f64::NAN);
    }));
    checks.push(Check::new("equal to (19) and to (18) for t = 2..1000, random images", forms(), 1e-9));
    checks
}

/// The largest relative difference of (20) from (19) and from (18), whose mu~_t is (11) at x_0, for images of
/// six pixels. The means differ by about a hundredth of their size where beta_t = 1e-4, and (11)'s mean has
/// lost four digits there: 1e-16 x 1e6, squared up a few times.
fn forms() -> f64 {
    let (schedule, mut rng) = (ho(), draws(20));
    worst(schedule.levels()[1..].iter().flat_map(|level| {
        let [x0, eps, eps_hat] = [(); 3].map(|()| normals(&mut rng, 6));
        let (mut x_t, mut mu_tilde, mut mu_theta) = (vec![0.0; 6], vec![0.0; 6], vec![0.0; 6]);
        let distance = eq20_noise_distance(&x0, &eps, level, 0.3, |x, _, out| {
            x_t.copy_from_slice(x);
            out.copy_from_slice(&eps_hat);
            Ok(())
        })
        .unwrap_or(f64::NAN);
        eq11_posterior_mean(&x_t, &x0, level, &mut mu_tilde);
        eq13_mu_theta(&x_t, &eps_hat, level, false, &mut mu_theta);
        [
            relative(distance, eq19_mean_distance(&x_t, &eps, &eps_hat, level, 0.3)),
            relative(distance, eq18_mean_distance(&mu_tilde, &mu_theta, 0.3)),
        ]
    }))
}

/// A network as the objectives call it.
type Network<'a> = &'a mut dyn FnMut(&[f64], Timestep, &mut [f64]) -> crate::Result<()>;

/// The factors of x_0 and eps in eps_theta's argument, for all 1000 t, against (2) iterated on the betas.
fn argument(objective: impl Fn([f64; 2], [f64; 2], &Level, Network)) -> Check {
    let schedule = ho();
    let walk = walk(&schedule);
    let errors = schedule.levels().iter().zip(&walk[1..]).map(|(level, &(signal, variance))| {
        let mut seen = [f64::NAN; 2];
        objective([1.0, 0.0], [0.0, 1.0], level, &mut |x_t, t, out| {
            seen = if t == level.t { [x_t[0], x_t[1]] } else { [f64::NAN; 2] };
            out.fill(0.0);
            Ok(())
        });
        worst([relative(seen[0], signal), relative(seen[1] * seen[1], variance)])
    });
    Check::new("eps_theta's argument against (2) iterated", worst(errors), 3e-12)
}

/// The best possible mean of (21) for `data` after t steps of [`coarse`]: the variance of eps given x_t.
pub fn least_loss(data: GaussianData, t: usize) -> f64 {
    let (signal, variance) = walk(&coarse())[t];
    let from_data = signal * signal * data.variance;
    from_data / (from_data + variance)
}

/// (21): the argument of eps_theta; its value against (20) of weight one and, with the best eps_theta for
/// Gaussian data, against the exact minimum (five standard errors of 40000 draws); its gradient against
/// central differences, which are exact for a square.
pub fn eq21() -> Vec<Check> {
    let mut rng = draws(21);
    let (x0, eps) = (normals(&mut rng, 37), normals(&mut rng, 37));
    let schedule = coarse();
    let level = &schedule.levels()[6];
    let predict = |x: &[f64], _, out: &mut [f64]| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = (3.0 * x).sin());
        Ok(())
    };
    let weighted = eq20_noise_distance(&x0, &eps, level, 0.3, predict).unwrap_or(f64::NAN);
    let simple = eq21_objective(&x0, &eps, level, predict).unwrap_or(f64::NAN);
    let one = relative(weighted / eq20_weight(level, 0.3) / 37.0, simple);
    let data = GaussianData { mean: 0.1, variance: 0.25 };
    let t = level.t.get();
    let simulated = estimate(40_000, || {
        let draw = normals(&mut rng, 2);
        let x0 = [data.mean + data.variance.sqrt() * draw[0]];
        let predict = |x: &[f64], _, out: &mut [f64]| {
            out[0] = data.eps_theta(x[0], level);
            Ok(())
        };
        eq21_objective(&x0, &draw[1..], level, predict).unwrap_or(f64::NAN)
    });
    let mut gradient = vec![0.0; 37];
    eq21_gradient(&eps, &x0, 0.25, &mut gradient);
    let differences = (0..37).map(|i| {
        let at = |step: f64| {
            let mut moved = x0.clone();
            moved[i] += step;
            0.25 * eq21_l_simple(&eps, &moved)
        };
        absolute(gradient[i], at(0.5) - at(-0.5))
    });
    vec![
        argument(|x0, eps, level, network| {
            eq21_objective(&x0, &eps, level, network).unwrap_or(f64::NAN);
        }),
        Check::new("(20) with weight one, as a mean", one, 1e-14),
        Check::new(
            "least loss for Gaussian data",
            (simulated.mean - least_loss(data, t)).abs(),
            5.0 * simulated.standard_error,
        ),
        Check::new("gradient by central differences", worst(differences), 1e-14),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn eq18_plus_its_constant_is_the_divergence() {
        assert_all(&eq18());
    }

    #[test]
    fn eq19_plus_the_constant_is_the_divergence() {
        assert_all(&eq19());
    }

    #[test]
    fn eq20_plus_the_constant_is_the_divergence() {
        assert_all(&eq20());
    }

    #[test]
    fn eq21_is_eq20_with_weight_one() {
        assert_all(&eq21());
    }
}
