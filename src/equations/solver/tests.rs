use super::*;
use crate::config::BetaSchedule;
use crate::equations::algorithms::alg2_sample;
use crate::equations::ddim::ddim_sample;
use crate::equations::forward::eq03_q_sample;
use crate::rng::{Stream, fill_normal, rng};

fn schedule(kind: BetaSchedule, zero_terminal_snr: bool) -> Schedule {
    let config = DiffusionConfig { schedule: kind, zero_terminal_snr, ..DiffusionConfig::default() };
    Schedule::from_config(&config).unwrap()
}

fn linear() -> Schedule {
    schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 }, false)
}

fn base(method: Method) -> Scheduler {
    Scheduler { limit: Limit::Off, method, ..Scheduler::of(&DiffusionConfig::default()) }
}

const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];

/// What a network that is right says of x_t = alpha x_0 + sigma eps.
fn truth(prediction: Prediction, alpha: f64, sigma: f64, x0: f64, eps: f64) -> f64 {
    match prediction {
        Prediction::Epsilon => eps,
        Prediction::Sample => x0,
        Prediction::VPrediction => alpha * eps - sigma * x0,
    }
}

/// To the roundings of numbers near one, divided by the least alpha and sigma here.
#[test]
fn s01_gives_back_what_x_t_was_made_of() {
    for prediction in PREDICTIONS {
        for alpha in [0.05f64, 0.6, 0.999] {
            let (sigma, x0, eps) = ((1.0 - alpha * alpha).sqrt(), 0.7, -1.3);
            let (x, m) = (alpha * x0 + sigma * eps, truth(prediction, alpha, sigma, x0, eps));
            let of = |[from_x, from_m]: [f64; 2]| from_x * x + from_m * m;
            assert!((of(s01_predict_x0(prediction, alpha, sigma)) - x0).abs() < 1e-13);
            assert!((of(s01_predict_eps(prediction, alpha, sigma)) - eps).abs() < 1e-13);
        }
    }
    assert_eq!(s01_predict_x0(Prediction::VPrediction, 0.0, 1.0), [0.0, -1.0], "zero terminal SNR");
}

/// The images of a sampler whose network says `0.9 x + 0.05 sin(t)` of x: sometimes inside the range.
fn images(plan: &Plan) -> Vec<f64> {
    let mut x = vec![0.0; 6];
    fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut x);
    let z = |_: usize, t: Timestep, out: &mut [f64]| {
        fill_normal(&mut rng(2, Stream::Check, t.get() as u64, 0), out);
    };
    let network = |x: &[f64], t: Timestep, outputs: Outputs<f64>| {
        predict(x, t, outputs.prediction);
        outputs.variance.fill(0.3);
        Ok(())
    };
    plan.sample(&mut x, 3, z, network, |_, _, _| {}).unwrap();
    x
}

fn predict(x: &[f64], t: Timestep, out: &mut [f64]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = 0.9 * x + 0.05 * (t.get() as f64).sin());
}

fn by_text(reverse: ReverseProcess, schedule: &Schedule) -> Vec<f64> {
    let mut x = vec![0.0; 6];
    fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut x);
    let z = |_: usize, t: Timestep, out: &mut [f64]| {
        fill_normal(&mut rng(2, Stream::Check, t.get() as u64, 0), out);
    };
    let network = |x: &[f64], t: Timestep, out: &mut [f64]| {
        predict(x, t, out);
        Ok(())
    };
    match reverse {
        ReverseProcess::Alg2(reverse) => alg2_sample(schedule, reverse, &mut x, z, network, |_, _, _| {}),
        ReverseProcess::Ddim(ddim) => ddim_sample(schedule, ddim, &mut x, z, network, |_, _, _| {}),
    }
    .unwrap();
    x
}

/// Where a scheduler says that it is the slides' algorithm or DDIM, its table gives their images: to rounding
/// times the 1/sqrt(abar_T) = 157 that divides the first x_0, over 50 or 1000 steps.
#[test]
fn s05_s06_are_algorithm_2_and_ddim() {
    let full = linear();
    let mut compared = 0;
    for limit in [Limit::Off, Limit::Clip { range: 1.0 }] {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            let ddim =
                |eta, rederive_eps| Method::Ddim(DdimChoice { eta, rederive_eps, ..Default::default() });
            let ddpm = |variance| Method::Ddpm { variance, noise_at_last: true };
            for method in [
                ddpm(Variance::FixedSmall),
                ddpm(Variance::FixedLarge),
                ddim(0.0, false),
                ddim(0.6, true),
                ddim(1.0, false),
            ] {
                for steps in [7, 50, 1000] {
                    let scheduler = Scheduler { limit, spacing, ..base(method) };
                    let Some(reverse) = scheduler.text(&full, steps) else { continue };
                    let got = images(&scheduler.plan(&full, steps).unwrap());
                    let want = by_text(reverse, &reverse.strided(&full, Some(steps), spacing).unwrap());
                    for (got, want) in got.iter().zip(&want) {
                        assert!((got - want).abs() < 1e-9, "{scheduler:?} {steps}: {got} {want}");
                    }
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 60, "{compared}");
}

/// Of first order the ODE solver is DDIM without noise (Lu et al. 2022b, section 4.1), and the SDE solver is
/// DDIM with as much as Algorithm 2, between any two levels: coefficient by coefficient, to rounding.
#[test]
fn s07_of_first_order_is_ddim() {
    let full = linear();
    for (sde, eta) in [(false, 0.0), (true, 1.0)] {
        let solver = DpmSolver { order: 1, sde, ..DpmSolver::default() };
        let scheduler = Scheduler { spacing: Spacing::Linspace, ..base(Method::DpmSolver(solver)) };
        let steps = scheduler.plan(&full, 10).unwrap().steps().to_vec();
        for (i, step) in steps.iter().enumerate() {
            let alpha_bar = |step: &Step| full.levels()[step.t.index()].alpha_bar;
            let next = steps.get(i + 1).map_or(1.0, alpha_bar);
            let choice = DdimChoice { eta, rederive_eps: true, set_alpha_to_one: true };
            let levels = [alpha_bar(step), next];
            let beta_tilde = single::between(levels);
            let ddim = s06_ddim(step.t, levels, beta_tilde, Prediction::Epsilon, Limit::Off, choice);
            let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{step:?} {ddim:?}");
            close(step.next.base, ddim.next.base);
            close(step.next.x0[0], ddim.next.x0[0]);
            close(step.x0[0] * 1e-2, ddim.x0[0] * 1e-2);
            let sigma = |step: &Step| if let NoiseScale::Sigma(sigma) = step.noise { sigma } else { 0.0 };
            close(sigma(step), sigma(&ddim));
        }
    }
}

/// For data from N(0, c^2) the best x_0 is c^2 alpha x / (c^2 alpha^2 + sigma^2), and the ODE keeps x in
/// proportion to sqrt(c^2 alpha^2 + sigma^2): the error of a whole run in `steps` steps.
fn error_of(method: Method, steps: usize) -> f64 {
    let (full, c2) = (linear(), 0.25);
    let scheduler = Scheduler { prediction: Prediction::Sample, spacing: Spacing::Linspace, ..base(method) };
    let plan = scheduler.plan(&full, steps).unwrap();
    let size = |alpha_bar: f64| (c2 * alpha_bar + 1.0 - alpha_bar).sqrt();
    let ladder = karras_levels(&plan);
    let mut x = [size(1.0 / (1.0 + ladder[0] * ladder[0]))];
    let mut k = 0;
    let network = |x: &[f64], _: Timestep, outputs: Outputs<f64>| {
        let alpha_bar = 1.0 / (1.0 + ladder[k] * ladder[k]);
        k += 1;
        outputs.prediction[0] = c2 * alpha_bar.sqrt() * x[0] / (size(alpha_bar) * size(alpha_bar));
        Ok(())
    };
    plan.sample(&mut x, 1, |_, _, _| {}, network, |_, _, _| {}).unwrap();
    let end = full.levels()[0].alpha_bar;
    (x[0] - size(end)).abs()
}

/// The levels of Karras et al. that a plan over the linear schedule visits.
fn karras_levels(plan: &Plan) -> Vec<f64> {
    let full = linear();
    let level = |alpha_bar: f64| ((1.0 - alpha_bar) / alpha_bar).sqrt();
    let range = [level(full.levels()[0].alpha_bar), level(full.last().alpha_bar)];
    ladder::s12_karras(range, plan.steps().len())
}

/// Doubling the steps divides the error by 2 to the power of the order, or a little less as long as lower
/// orders begin the run; the corrector adds one. A wrong coefficient leaves the first order.
#[test]
fn s07_s08_s09_s10_s11_have_the_order_that_they_are_named_for() {
    let dpm = |order, second_order| {
        Method::DpmSolver(DpmSolver {
            order,
            second_order,
            karras: true,
            final_sigma_zero: false,
            lower_order_final: false,
            ..DpmSolver::default()
        })
    };
    let unipc = |order, b, corrector_off| {
        Method::UniPc(UniPc {
            order,
            b,
            corrector_off,
            karras: true,
            final_sigma_zero: false,
            lower_order_final: false,
            ..UniPc::default()
        })
    };
    let none = StepSet::default();
    let all = StepSet(u128::MAX);
    for (method, order) in [
        (dpm(1, SecondOrder::Midpoint), 0.8),
        (dpm(2, SecondOrder::Midpoint), 1.7),
        (dpm(2, SecondOrder::Heun), 1.7),
        // Two, as its text says, with a smaller error.
        (dpm(3, SecondOrder::Midpoint), 1.4),
        (unipc(1, Bh::Bh2, all), 0.8),
        (unipc(2, Bh::Bh1, all), 1.7),
        (unipc(2, Bh::Bh2, all), 1.7),
        (unipc(3, Bh::Bh2, all), 2.5),
        (unipc(1, Bh::Bh1, none), 1.7),
        (unipc(2, Bh::Bh2, none), 2.5),
    ] {
        let errors = [50, 100].map(|steps| error_of(method, steps));
        let measured = (errors[0] / errors[1]).log2();
        assert!(measured > order, "{method:?}: {errors:?}, order {measured:.2}");
    }
    let third = error_of(dpm(3, SecondOrder::Midpoint), 50);
    assert!(third < 0.3 * error_of(dpm(2, SecondOrder::Midpoint), 50), "{third}");
}

/// (S12) by the formula's two ends and its middle, where s^(1/7) is the mean of the ends'.
#[test]
fn s12_levels_are_evenly_spaced_in_their_seventh_root() {
    let levels = ladder::s12_karras([0.01, 80.0], 3);
    let middle = ((0.01f64.powf(1.0 / 7.0) + 80f64.powf(1.0 / 7.0)) / 2.0).powi(7);
    for (got, want) in levels.iter().zip([80.0, middle, 0.01]) {
        assert!((got / want - 1.0).abs() < 1e-13, "{levels:?}");
    }
    assert_eq!(ladder::s12_karras([0.01, 80.0], 1).len(), 1);
}

/// Every choice gives finite numbers and, for UniPC's bh1 at a final level of zero too, finite images; the
/// last step to x_0 is x_0 itself.
#[test]
fn no_choice_of_a_solver_is_not_a_number() {
    let mut methods = Vec::new();
    for order in 1..=3 {
        for (karras, final_sigma_zero, lower_order_final) in
            [(false, true, true), (true, true, false), (false, false, false), (true, false, true)]
        {
            for second_order in [SecondOrder::Midpoint, SecondOrder::Heun] {
                for sde in [false, true] {
                    methods.push(Method::DpmSolver(DpmSolver {
                        order,
                        second_order,
                        sde,
                        karras,
                        final_sigma_zero,
                        lower_order_final,
                        ..DpmSolver::default()
                    }));
                }
            }
            for b in [Bh::Bh1, Bh::Bh2] {
                let usual = UniPc::default();
                let unipc = UniPc { order, b, karras, final_sigma_zero, lower_order_final, ..usual };
                methods.push(Method::UniPc(unipc));
            }
        }
    }
    let schedules = [
        linear(),
        schedule(BetaSchedule::Cosine, false),
        schedule(BetaSchedule::ScaledLinear { start: 1e-4, end: 0.02 }, true),
    ];
    for method in methods {
        for full in &schedules {
            for prediction in PREDICTIONS {
                let scheduler = Scheduler { prediction, spacing: Spacing::Trailing, ..base(method) };
                for steps in [1, 2, 3, 10, 20] {
                    let images = images(&scheduler.plan(full, steps).unwrap());
                    assert!(images.iter().all(|x| x.is_finite()), "{scheduler:?} {steps}: {images:?}");
                }
            }
        }
    }
    let unipc = UniPc { b: Bh::Bh1, lower_order_final: false, ..UniPc::default() };
    let last = base(Method::UniPc(unipc)).plan(&linear(), 5).unwrap().last_step();
    assert_eq!(last.steps()[0].next, Next { base: 0.0, output: 0.0, x0: [1.0, 0.0, 0.0] });
}

/// A network that knows the noise leads back to x_0 from zero terminal SNR too, where it predicts v or x_0.
#[test]
fn zero_terminal_snr_is_sampled_by_v_and_x0_alone() {
    let full = schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 }, true);
    assert_eq!(full.last().alpha_bar, 0.0);
    let (x0, eps) = (0.4, 1.1);
    for method in [Method::Ddim(DdimChoice::default()), Method::DpmSolver(DpmSolver::default())] {
        for prediction in [Prediction::Sample, Prediction::VPrediction] {
            let scheduler = Scheduler { prediction, ..base(method) };
            let plan = scheduler.plan(&full, 10).unwrap();
            let mut x = [0.0];
            eq03_q_sample(&[x0], &[eps], full.last().alpha_bar, &mut x);
            let network = |_: &[f64], t: Timestep, outputs: Outputs<f64>| {
                let alpha_bar = full.at(t)?.alpha_bar;
                let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
                outputs.prediction[0] = truth(prediction, alpha, sigma, x0, eps);
                Ok(())
            };
            plan.sample(&mut x, 1, |_, _, _| {}, network, |_, _, _| {}).unwrap();
            // The multistep solvers begin at diffusers' abar of 2^-24 for 0.
            assert!((x[0] - x0).abs() < 1e-3, "{scheduler:?} {x:?}");
        }
    }
    for method in [Method::Ddim(DdimChoice::default()), base_ddpm(Variance::FixedSmall)] {
        let error = base(method).plan(&full, 10).unwrap_err().to_string();
        assert!(error.contains("zero terminal SNR"), "{error}");
        let leading = Scheduler { spacing: Spacing::Leading, ..base(method) };
        assert!(leading.plan(&full, 10).is_ok());
    }
}

fn base_ddpm(variance: Variance) -> Method {
    Method::Ddpm { variance, noise_at_last: true }
}

/// (S5) By hand: u = -1 and u = 1 are the two fixed variances, and the middle their geometric mean.
#[test]
fn s05_a_learned_range_lies_between_the_fixed_variances() {
    let full = linear();
    let kept = full.respaced(&[1, 400, 1000].map(|t| Timestep::new(t).unwrap())).unwrap();
    let level = kept.levels()[1];
    let step = |variance| s05_ddpm(&level, Prediction::Epsilon, Limit::Off, variance, true);
    let noise = |variance, u: f64| {
        let mut state = State::new(vec![0.3], 1);
        let mut still = state.clone();
        state.advance(&step(variance), &[0.1], &[u], &[1.0]);
        still.advance(&step(variance), &[0.1], &[u], &[0.0]);
        state.x[0] - still.x[0]
    };
    let (small, large) = (noise(Variance::FixedSmall, 0.0), noise(Variance::FixedLarge, 0.0));
    for (u, want) in [(-1.0, small), (1.0, large), (0.0, (small * large).sqrt())] {
        assert!((noise(Variance::LearnedRange, u) - want).abs() < 1e-12);
    }
    assert!((noise(Variance::Learned, 0.04) - 0.2).abs() < 1e-12);
}

/// Noise is drawn where it is added: by diffusers' rule at the step to x_0 too, unless that leaves t = 1.
#[test]
fn the_last_step_adds_noise_by_diffusers_rule() {
    let full = linear();
    let last = |spacing, variance, noise_at_last| {
        let method = Method::Ddpm { variance, noise_at_last };
        let plan = Scheduler { spacing, ..base(method) }.plan(&full, 10).unwrap();
        plan.last_step().steps()[0].noise.is_some()
    };
    assert!(last(Spacing::Trailing, Variance::FixedLarge, true));
    assert!(!last(Spacing::Trailing, Variance::FixedLarge, false));
    assert!(!last(Spacing::Trailing, Variance::FixedSmall, true), "beta~ is 0 there");
    assert!(!last(Spacing::Leading, Variance::FixedLarge, true));
}

/// Two steps at one timestep do not share their noise.
#[test]
fn steps_at_one_timestep_draw_apart() {
    let solver = DpmSolver { karras: true, sde: true, ..DpmSolver::default() };
    let plan = base(Method::DpmSolver(solver)).plan(&linear(), 500).unwrap();
    let mut draws: Vec<_> = plan.steps().iter().map(|step| step.draw).collect();
    let steps = draws.len();
    draws.sort();
    draws.dedup();
    assert_eq!(draws.len(), steps);
    assert!(plan.steps().windows(2).any(|pair| pair[0].t == pair[1].t), "else this shows nothing");
}

#[test]
fn choices_out_of_range_are_refused() {
    let full = linear();
    let offset = Scheduler {
        spacing: Spacing::Leading,
        steps_offset: 500,
        ..base(Method::Ddim(DdimChoice::default()))
    };
    assert!(offset.plan(&full, 10).unwrap_err().to_string().contains("steps_offset"));
    assert!(offset.plan(&full, 1).is_ok());
    for method in [
        Method::DpmSolver(DpmSolver { order: 4, ..DpmSolver::default() }),
        Method::UniPc(UniPc { order: 0, ..UniPc::default() }),
        Method::UniPc(UniPc { sigma_max: Some(f64::NAN), ..UniPc::default() }),
        Method::Ddim(DdimChoice { eta: 1.5, ..DdimChoice::default() }),
        Method::DpmSolver(DpmSolver { lambda_min: 1e9, ..DpmSolver::default() }),
    ] {
        assert!(base(method).plan(&full, 5).is_err(), "{method:?}");
    }
    for method in [base_ddpm(Variance::FixedSmall), Method::UniPc(UniPc::default())] {
        for steps in [0, 1001, usize::MAX] {
            assert!(base(method).plan(&full, steps).is_err(), "{method:?} {steps}");
        }
    }
    assert!(StepSet::new(&[128]).is_err());
    let set = StepSet::new(&[0, 127]).unwrap();
    assert!(set.contains(0) && set.contains(127) && !set.contains(1) && !set.contains(500));
}

/// Clipping is the other samplers', thresholding everyone's.
#[test]
fn another_method_takes_over_what_the_two_have_in_common() {
    let config = DiffusionConfig::default();
    let ddim = Scheduler::ddim_of(&config);
    let solver = ddim.with_method(Method::DpmSolver(DpmSolver::default()), true);
    assert_eq!(Scheduler { limit: ddim.limit, ..solver }, Scheduler::of(&config), "which clips");
    assert_eq!(Scheduler::of(&config).with_method(ddim.method, true), ddim);
    assert_eq!((solver.limit, solver.spacing), (Limit::Off, Spacing::Trailing));
    assert_eq!(solver.with_method(ddim.method, true), ddim);
    assert_eq!(solver.with_method(ddim.method, false), Scheduler { limit: Limit::Off, ..ddim });
    let threshold = Limit::Threshold { ratio: 0.9, max: 2.0 };
    let kept = Scheduler { limit: threshold, ..ddim }.with_method(solver.method, true);
    assert_eq!(kept.limit, threshold);
    assert_eq!([1000, 30].map(|t| ddim.usual_steps(t)), [50, 30]);
    assert_eq!([1000, 15, 1].map(|t| solver.usual_steps(t)), [15, 15, 1]);
    let linspace = Scheduler { spacing: Spacing::Linspace, ..solver };
    assert_eq!([1000, 15].map(|t| linspace.usual_steps(t)), [15, 14]);
}
