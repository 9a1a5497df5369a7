//! Checks of the annex on samplers, (S1)-(S12).

use super::Check;
use super::measure::{absolute, draws, normals, relative, worst};
use super::toy::{Case, cases, ho, walk};
use crate::config::{Prediction, VarianceKind};
use crate::equations::solver::{
    Bh, DdimChoice, DpmSolver, Limit, Method, Next, NoiseScale, Outputs, Plan, Scheduler, SecondOrder, State,
    Step, StepSet, UniPc, Variance, s01_predict_eps, s01_predict_x0, s05_ddpm, s06_ddim,
};
use crate::equations::{Spacing, Timestep};

const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];

/// The bound of numerical integration: 4000 roundings, and the digits that beta~_t loses at t = 2 of 1000.
const GRID: f64 = 1e-9;

/// What a network that is right says of x_t = alpha x_0 + sigma eps.
fn truth(prediction: Prediction, [alpha, sigma]: [f64; 2], x0: f64, eps: f64) -> f64 {
    match prediction {
        Prediction::Epsilon => eps,
        Prediction::Sample => x0,
        Prediction::VPrediction => alpha * eps - sigma * x0,
    }
}

/// (S1): what x_t was made of, with the factors of (2) iterated, comes back: to the 3e-12 of a product of
/// 1000 factors, times the 1/sqrt(abar_T) = 157 or 1/sqrt(1 - abar_1) = 100 that divides.
pub fn s01() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let (x0, eps) = (0.7, -1.3);
    let errors = |given: fn(Prediction, f64, f64) -> [f64; 2], want: f64| {
        worst(schedule.levels().iter().zip(&walk[1..]).flat_map(|(level, &(signal, variance))| {
            let x_t = signal * x0 + variance.sqrt() * eps;
            PREDICTIONS.map(|prediction| {
                let said = truth(prediction, [signal, variance.sqrt()], x0, eps);
                let (alpha, sigma) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
                let [from_x_t, from_output] = given(prediction, alpha, sigma);
                absolute(from_x_t * x_t + from_output * said, want)
            })
        }))
    };
    vec![
        Check::new("x_0 comes back, t = 1..1000", errors(s01_predict_x0, x0), 1e-9),
        Check::new("eps comes back, t = 1..1000", errors(s01_predict_eps, eps), 1e-9),
    ]
}

/// (S2) against a quantile from all magnitudes in order, a line between two neighbours.
pub fn s02() -> Vec<Check> {
    let x0: Vec<f64> = normals(&mut draws(202), 41).into_iter().map(|x| 2.0 * x).collect();
    let mut sizes: Vec<f64> = x0.iter().map(|x| x.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let limited = |limit: Limit| {
        let mut x = x0.clone();
        limit.s02_limit(&mut x);
        x
    };
    // 0.93 of the 40 gaps between 41 values.
    let s = sizes[37] + 0.2 * (sizes[38] - sizes[37]);
    let thresholded = limited(Limit::Threshold { ratio: 0.93, max: 100.0 });
    let threshold = x0.iter().zip(&thresholded).map(|(x, got)| absolute(*got, x.clamp(-s, s) / s));
    let clipped = limited(Limit::Clip { range: 1.2 });
    let clip = x0.iter().zip(&clipped).map(|(x, got)| absolute(*got, x.clamp(-1.2, 1.2)));
    vec![
        Check::new("dynamic thresholding at the 0.93-quantile", worst(threshold), 1e-14),
        Check::new("clipping", worst(clip), 0.0),
    ]
}

/// A few steps with made-up numbers, and the x that (S3) and (S4) lead to, by a sum over the history; the
/// error of [`State::advance`].
fn by_hand(corrects: bool) -> f64 {
    let mut rng = draws(203 + u64::from(corrects));
    let mut state = State::new(vec![0.4], 1);
    let (mut x, mut base, mut history) = (0.4, 0.0, [0.0; 4]);
    let mut errors = Vec::new();
    for t in 1..=6 {
        let n = normals(&mut rng, 15);
        let (output, z) = (n[13], n[14]);
        let step = Step {
            t: Timestep::from_index(t),
            draw: Timestep::from_index(t),
            x0: [n[0], n[1]],
            limit: Limit::Off,
            correct: corrects.then_some([n[2], n[3], n[4], n[5], n[6]]),
            next: if corrects {
                Next { base: 1.0, ..Next::default() }
            } else {
                Next { base: n[7], output: n[8], x0: [n[9], n[10], n[11]] }
            },
            noise: if corrects { NoiseScale::None } else { NoiseScale::Sigma(n[12].abs()) },
        };
        history = [n[0] * x + n[1] * output, history[0], history[1], history[2]];
        base = match step.correct {
            Some(c) => c[0] * base + (0..4).map(|k| c[k + 1] * history[k]).sum::<f64>(),
            None => x,
        };
        x = step.next.base * base
            + step.next.output * output
            + (0..3).map(|k| step.next.x0[k] * history[k]).sum::<f64>();
        if !corrects {
            x += n[12].abs() * z;
        }
        state.advance(&step, &[output], &[], &[z]);
        errors.push(absolute(state.x[0], x));
    }
    worst(errors)
}

/// (S3), the corrected sample, over six steps: rounding, which each step may multiply.
pub fn s03() -> Vec<Check> {
    vec![Check::new("the corrected sample by a sum over the history", by_hand(true), 1e-12)]
}

/// (S4), the next sample, likewise.
pub fn s04() -> Vec<Check> {
    vec![Check::new("the next sample by a sum over the history", by_hand(false), 1e-12)]
}

/// The size of a step's noise where the network's second output is `u`.
fn noise_of(step: &Step, u: f64) -> f64 {
    let at = |z: f64| {
        let mut state = State::new(vec![0.3], 1);
        state.advance(step, &[0.1], &[u], &[z]);
        state.x[0]
    };
    at(1.0) - at(0.0)
}

/// (S5): mean and variance against Bayes' rule on a grid, at the x_0 that the network means; a learned
/// variance at its ends, and where it is said directly.
pub fn s05() -> Vec<Check> {
    let step =
        |case: &Case, prediction, variance| s05_ddpm(&case.level, prediction, Limit::Off, variance, true);
    let (mut means, mut variances, mut learned) = (Vec::new(), Vec::new(), Vec::new());
    for case in cases() {
        for prediction in PREDICTIONS {
            let parts = [case.signal, case.variance.sqrt()];
            let said = truth(prediction, parts, case.x0_hat(), case.eps_hat);
            let Step { x0: [from_x, from_m], next, .. } = step(&case, prediction, Variance::FixedSmall);
            let x0 = from_x * case.x_t + from_m * said;
            let got = next.base * case.x_t + next.output * said + next.x0[0] * x0;
            means.push(absolute(got, case.bayes(case.x0_hat()).mean));
        }
        let size = |variance, u: f64| noise_of(&step(&case, Prediction::Epsilon, variance), u).powi(2);
        for (kind, u) in [(VarianceKind::FixedSmall, -1.0), (VarianceKind::FixedLarge, 1.0)] {
            let want = case.optimal_variance(kind);
            variances.push(relative(size(kind.into(), 0.0), want));
            learned.push(relative(size(Variance::LearnedRange, u), want));
        }
        learned.push(relative(size(Variance::Learned, 0.04), 0.04));
    }
    vec![
        Check::new("mean by Bayes' rule on a grid, every prediction", worst(means), GRID),
        Check::new("fixed variances by Bayes' rule on a grid", worst(variances), GRID),
        Check::new("learned variances at their ends", worst(learned), GRID),
    ]
}

/// (S6) keeps the marginals of (3): from x_t with the true x_0 and noise, x_{t-1} has the mean
/// sqrt(abar_{t-1}) x_0 and, with the fresh noise, the variance 1 - abar_{t-1}, for every eta and prediction;
/// with eta = 1 the fresh noise is that of the posterior by Bayes' rule.
pub fn s06() -> Vec<Check> {
    let (mut means, mut variances, mut posteriors) = (Vec::new(), Vec::new(), Vec::new());
    for case in cases() {
        let levels = [case.level.alpha_bar, case.level.alpha_bar_prev];
        let [alpha, sigma] = [case.signal, case.variance.sqrt()];
        for prediction in PREDICTIONS {
            for eta in [0.0, 0.4, 1.0] {
                let choice = DdimChoice { eta, ..DdimChoice::default() };
                let beta_tilde = case.bayes(case.x0).variance;
                let step = s06_ddim(case.level.t, levels, beta_tilde, prediction, Limit::Off, choice);
                let next = |x0: f64, eps: f64| {
                    let mut state = State::new(vec![alpha * x0 + sigma * eps], 1);
                    let said = truth(prediction, [alpha, sigma], x0, eps);
                    state.advance(&step, &[said], &[], &[0.0]);
                    state.x[0]
                };
                let added = noise_of(&step, 0.0).powi(2);
                means.push(absolute(next(1.0, 0.0), case.signal_prev));
                variances.push(absolute(next(0.0, 1.0).powi(2) + added, case.variance_prev));
                if eta == 1.0 {
                    posteriors.push(relative(added, beta_tilde));
                }
            }
        }
    }
    vec![
        Check::new("the factor of x_0 stays that of (2) iterated", worst(means), GRID),
        Check::new("the variance stays that of (2) iterated", worst(variances), GRID),
        Check::new("eta = 1 adds the posterior's variance", worst(posteriors), GRID),
    ]
}

fn multistep(method: Method, prediction: Prediction, steps: usize) -> crate::Result<Plan> {
    let spacing = Spacing::Linspace;
    Scheduler { prediction, spacing, steps_offset: 0, limit: Limit::Off, method }.plan(&ho(), steps)
}

/// Levels evenly spaced in their seventh root from the schedule's highest to its lowest.
fn karras(steps: usize) -> Vec<f64> {
    let (walk, last) = (walk(&ho()), (steps - 1) as f64);
    let root = |&(signal, variance): &(f64, f64)| (variance.sqrt() / signal).powf(1.0 / 7.0);
    let (low, high) = (root(&walk[1]), root(&walk[1000]));
    (0..steps).map(|i| (high + (low - high) * i as f64 / last).powi(7)).collect()
}

/// The error of a run over the levels of Karras et al. for data from N(0, 1/4), whose best x_0 is known and
/// whose ODE keeps x in proportion to its standard deviation.
fn error_of(method: Method, steps: usize) -> crate::Result<f64> {
    let plan = multistep(method, Prediction::Sample, steps)?;
    let (levels, c2) = (karras(steps), 0.25);
    let alpha_bar = |level: f64| 1.0 / (1.0 + level * level);
    let size = |alpha_bar: f64| (c2 * alpha_bar + 1.0 - alpha_bar).sqrt();
    let mut x = [size(alpha_bar(levels[0]))];
    let mut k = 0;
    let network = |x: &[f64], _, outputs: Outputs<f64>| {
        let now = alpha_bar(levels[k]);
        k += 1;
        outputs.prediction[0] = c2 * now.sqrt() * x[0] / size(now).powi(2);
        Ok(())
    };
    plan.sample(&mut x, 1, |_, _, _| {}, network, |_, _, _| {})?;
    Ok((x[0] - size(alpha_bar(levels[steps - 1]))).abs())
}

/// How much the measured order of a solver, the logarithm of the error's quotient as 50 steps become 100,
/// falls short of `order`. Lower orders begin a run, which costs up to 0.4 at this number of steps.
fn shortfall(method: Method, order: f64) -> f64 {
    match (error_of(method, 50), error_of(method, 100)) {
        (Ok(fifty), Ok(hundred)) => order - (fifty / hundred).log2(),
        _ => f64::NAN,
    }
}

fn dpm(order: usize, second_order: SecondOrder) -> Method {
    Method::DpmSolver(DpmSolver {
        order,
        second_order,
        karras: true,
        final_sigma_zero: false,
        lower_order_final: false,
        ..DpmSolver::default()
    })
}

fn unipc(order: usize, b: Bh, corrects: bool) -> Method {
    let all: Vec<usize> = (0..128).collect();
    let off = if corrects { Ok(StepSet::default()) } else { StepSet::new(&all) };
    Method::UniPc(UniPc {
        order,
        b,
        corrector_off: off.unwrap_or_default(),
        karras: true,
        final_sigma_zero: false,
        lower_order_final: false,
        ..UniPc::default()
    })
}

/// (S7): its order; and coefficient by coefficient it is DDIM without noise, (S6), and the SDE's is DDIM with
/// all of it, between neighbouring levels.
pub fn s07() -> Vec<Check> {
    let schedule = ho();
    let same = |sde: bool, eta: f64| {
        let solver = Method::DpmSolver(DpmSolver { order: 1, sde, ..DpmSolver::default() });
        let Ok(plan) = multistep(solver, Prediction::Epsilon, 10) else { return f64::NAN };
        let steps = plan.steps();
        let alpha_bar = |step: &Step| schedule.levels()[step.t.index()].alpha_bar;
        worst(steps.iter().enumerate().flat_map(|(i, step)| {
            let [now, next] = [alpha_bar(step), steps.get(i + 1).map_or(1.0, alpha_bar)];
            let beta_tilde = (1.0 - next) / (1.0 - now) * (1.0 - now / next);
            let choice = DdimChoice { eta, rederive_eps: true, set_alpha_to_one: true };
            let levels = [now, next];
            let ddim = s06_ddim(step.t, levels, beta_tilde, Prediction::Epsilon, Limit::Off, choice);
            let noise = |step: &Step| noise_of(&Step { x0: [0.0; 2], ..step.clone() }, 0.0);
            [
                absolute(step.next.base, ddim.next.base),
                absolute(step.next.x0[0], ddim.next.x0[0]),
                absolute(noise(step), noise(&ddim)),
            ]
        }))
    };
    vec![
        Check::new("1 less the measured order", shortfall(dpm(1, SecondOrder::Midpoint), 1.0), 0.2),
        Check::new("the ODE's is DDIM with eta = 0", same(false, 0.0), 1e-10),
        Check::new("the SDE's is DDIM with eta = 1", same(true, 1.0), 1e-10),
    ]
}

/// (S8): the order of both forms.
pub fn s08() -> Vec<Check> {
    [SecondOrder::Midpoint, SecondOrder::Heun]
        .map(|form| {
            Check::new(format!("2 less the measured order, {form:?}"), shortfall(dpm(2, form), 2.0), 0.3)
        })
        .to_vec()
}

/// (S9), as diffusers has it: two in order, with a smaller error than (S8).
pub fn s09() -> Vec<Check> {
    let third = dpm(3, SecondOrder::Midpoint);
    let quotient = match (error_of(third, 50), error_of(dpm(2, SecondOrder::Midpoint), 50)) {
        (Ok(third), Ok(second)) => third / second,
        _ => f64::NAN,
    };
    vec![
        Check::new("2 less the measured order", shortfall(third, 2.0), 0.6),
        Check::new("its error over (S8)'s in 50 steps", quotient, 0.3),
    ]
}

/// (S10): the orders of the predictor alone.
pub fn s10() -> Vec<Check> {
    [(1, Bh::Bh2, 0.2), (2, Bh::Bh1, 0.3), (2, Bh::Bh2, 0.3), (3, Bh::Bh2, 0.5)]
        .map(|(order, b, bound)| {
            let short = shortfall(unipc(order, b, false), order as f64);
            Check::new(format!("{order} less the measured order, {b:?}"), short, bound)
        })
        .to_vec()
}

/// (S11): with the corrector the order is one more.
pub fn s11() -> Vec<Check> {
    [(1, Bh::Bh1, 0.3), (2, Bh::Bh2, 0.5)]
        .map(|(order, b, bound)| {
            let short = shortfall(unipc(order, b, true), order as f64 + 1.0);
            Check::new(format!("{} less the measured order, {b:?}", order + 1), short, bound)
        })
        .to_vec()
}

/// (S12): the levels that a plan visits, which stand in its (S1), against those evenly spaced in their
/// seventh root between the ends of (2) iterated.
pub fn s12() -> Vec<Check> {
    let error = match multistep(dpm(2, SecondOrder::Midpoint), Prediction::Epsilon, 12) {
        Ok(plan) => {
            let visited = plan.steps().iter().map(|step| -step.x0[1]);
            worst(visited.zip(karras(12)).map(|(got, want)| relative(got, want)))
        }
        Err(_) => f64::NAN,
    };
    vec![Check::new("levels evenly spaced in their seventh root", error, 1e-9)]
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;
    use super::*;

    #[test]
    fn s01_s02_s03_s04_are_their_text() {
        for checks in [s01(), s02(), s03(), s04()] {
            assert_all(&checks);
        }
    }

    #[test]
    fn s05_s06_are_the_process_by_bayes_rule() {
        assert_all(&s05());
        assert_all(&s06());
    }

    #[test]
    fn s07_s08_s09_s10_s11_s12_have_their_orders_and_levels() {
        for checks in [s07(), s08(), s09(), s10(), s11(), s12()] {
            assert_all(&checks);
        }
    }
}
