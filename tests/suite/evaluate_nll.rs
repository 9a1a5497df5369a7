//! The bound on Gaussian data, for which the optimal network and every term are known in closed form.

use ndarray::Array2;
use performer_ddpm::Result;
use performer_ddpm::config::{BetaSchedule, DiffusionConfig, Prediction, Preset, VarianceKind};
use performer_ddpm::data;
use performer_ddpm::equations::decoder::eq17_pixel_probability;
use performer_ddpm::equations::objective::{Parameterisation, o01_target};
use performer_ddpm::equations::solver::{Outputs, Variance};
use performer_ddpm::equations::{Level, Schedule, Timestep};
use performer_ddpm::evaluate::nll::{self, Bound, Likelihood, NllConfig, Timesteps, VARIANCES};
use performer_ddpm::evaluate::{Estimate, choose, images};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};

/// Data x_0 ~ N(MEAN, DEVIATION^2), independent pixels.
const MEAN: f64 = 0.1;
const DEVIATION: f64 = 0.4;
const DIMS: usize = 4;

fn schedule() -> Schedule {
    let linear = BetaSchedule::Linear { start: 0.01, end: 0.3 };
    let config = DiffusionConfig { timesteps: 20, schedule: linear, ..DiffusionConfig::default() };
    Schedule::from_config(&config).unwrap()
}

fn gaussian_images(count: usize, seed: u64) -> Array2<f64> {
    let mut images: Array2<f64> = Array2::zeros((count, DIMS));
    fill_normal(&mut rng(seed, Stream::Check, 0, 0), images.as_slice_mut().unwrap());
    images.mapv(|z| MEAN + DEVIATION * z)
}

/// The variance of a pixel of x_t.
fn spread(level: &Level) -> f64 {
    level.alpha_bar * DEVIATION * DEVIATION + 1.0 - level.alpha_bar
}

/// E[eps | x_t] = sqrt(1 - abar) (x_t - sqrt(abar) MEAN) / Var x_t: the optimal prediction, times `factor`.
fn predictor(
    schedule: &Schedule,
    factor: f64,
) -> impl FnMut(&[f64], &[Timestep], Outputs<f64>) -> Result<()> {
    let schedule = schedule.clone();
    move |x, t, outputs| {
        for ((x, out), t) in x.chunks_exact(DIMS).zip(outputs.prediction.chunks_exact_mut(DIMS)).zip(t) {
            let level = schedule.at(*t)?;
            let slope = (1.0 - level.alpha_bar).sqrt() / spread(level);
            let centre = level.alpha_bar.sqrt() * MEAN;
            out.iter_mut().zip(x).for_each(|(out, x)| *out = factor * slope * (x - centre));
        }
        Ok(())
    }
}

fn config(timesteps: Timesteps, draws: usize, seed: u64) -> NllConfig {
    NllConfig { draws, timesteps, clip_x0: false, seed, ..NllConfig::default() }
}

fn evaluate(images: &Array2<f64>, factor: f64, config: &NllConfig) -> Likelihood {
    let schedule = schedule();
    let process = (&schedule, Parameterisation::default());
    nll::bound_by(predictor(&schedule, factor), process, images.view(), config, &mut |_| {}).unwrap()
}

/// beta~_t, written out.
fn posterior_variance(level: &Level) -> f64 {
    (1.0 - level.alpha_bar_prev) / (1.0 - level.alpha_bar) * level.beta
}

/// The expectation of L_{t-1} over data and noise in bits per dimension. The means differ by (1 -
/// alpha)/sqrt(alpha (1 - abar)) (eps - E[eps | x_t]), and the variance of eps given x_t is abar DEVIATION^2
/// / Var x_t.
fn exact_term(level: &Level, variance: VarianceKind) -> f64 {
    let sigma2 = if variance == VarianceKind::FixedSmall { posterior_variance(level) } else { level.beta };
    let left = level.alpha_bar * DEVIATION * DEVIATION / spread(level);
    let mean = level.beta * level.beta / (level.alpha * (1.0 - level.alpha_bar)) * left / (2.0 * sigma2);
    (mean + exact_constant(level, variance)) / std::f64::consts::LN_2
}

fn exact_constant(level: &Level, variance: VarianceKind) -> f64 {
    let sigma2 = if variance == VarianceKind::FixedSmall { posterior_variance(level) } else { level.beta };
    let ratio = posterior_variance(level) / sigma2;
    0.5 * (ratio - 1.0 - ratio.ln())
}

/// KL( N(sqrt(abar) x_0, 1 - abar) || N(0, 1) ) in expectation over x_0.
fn exact_prior(last: &Level) -> f64 {
    let square = last.alpha_bar * (DEVIATION * DEVIATION + MEAN * MEAN);
    let variance = 1.0 - last.alpha_bar;
    0.5 * (square + variance - 1.0 - variance.ln()) / std::f64::consts::LN_2
}

/// -E ln P(x_0 | x_1) over x_0 and eps, by the midpoint rule over eight deviations on each side. Halving both
/// grids changes it by 2e-5, less than a tenth of the standard error that is the bound.
fn exact_decoder(schedule: &Schedule) -> f64 {
    let (first, second) = (&schedule.levels()[0], &schedule.levels()[1]);
    let sigma = posterior_variance(second).sqrt();
    let slope = (1.0 - first.alpha_bar).sqrt() / spread(first);
    let grid = |n: usize| {
        let step = 16.0 / n as f64;
        let points = (0..n).map(move |i| -8.0 + (i as f64 + 0.5) * step);
        points.map(move |z| (z, step * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()))
    };
    let mut sum = 0.0;
    for (z, weight) in grid(2000) {
        let x0 = MEAN + DEVIATION * z;
        for (eps, density) in grid(200) {
            let x_1 = first.alpha_bar.sqrt() * x0 + (1.0 - first.alpha_bar).sqrt() * eps;
            let predicted = slope * (x_1 - first.alpha_bar.sqrt() * MEAN);
            let mean = (x_1 - first.beta / (1.0 - first.alpha_bar).sqrt() * predicted) / first.alpha.sqrt();
            sum -= weight * density * eq17_pixel_probability(x0, mean, sigma).ln();
        }
    }
    sum / std::f64::consts::LN_2
}

/// Each estimate with its exact value and a name.
fn compared(likelihood: &Likelihood, schedule: &Schedule) -> Vec<(String, Estimate, f64)> {
    let decoder = exact_decoder(schedule);
    let prior = exact_prior(schedule.last());
    let mut all = Vec::new();
    for (bound, variance) in likelihood.bounds.iter().zip(VARIANCES) {
        let sum = |first: usize, last: usize| -> f64 {
            schedule.levels()[first - 1..last].iter().map(|level| exact_term(level, variance)).sum()
        };
        for term in &bound.terms[1..] {
            let name = format!("{variance:?}, t = {}..{}", term.first, term.last);
            all.push((name, term.bits, sum(term.first, term.last)));
        }
        let middle = sum(2, schedule.steps());
        all.push((format!("{variance:?}, middle"), bound.middle, middle));
        all.push((format!("{variance:?}, L_0"), bound.l_0, decoder));
        all.push((format!("{variance:?}, L_T"), bound.l_t, prior));
        all.push((format!("{variance:?}, L"), bound.bits_per_dim, prior + middle + decoder));
    }
    all
}

fn z(estimate: Estimate, exact: f64) -> f64 {
    (estimate.mean - exact) / estimate.standard_error
}

/// Bound: four standard errors. They are below 4 % of the values (except for the tiny L_T, whose relative
/// error depends on the data), so a wrong factor or a missing constant is noticed. A prediction that is 5 %
/// off is noticed.
#[test]
fn every_term_on_gaussian_data_has_its_exact_value() {
    let (schedule, images) = (schedule(), gaussian_images(6000, 1));
    let full = evaluate(&images, 1.0, &config(Timesteps::Full, 1, 2));
    assert_eq!((full.images, full.evaluated, full.timesteps), (6000, 20, 20));
    for (name, estimate, exact) in compared(&full, &schedule) {
        assert!(z(estimate, exact).abs() < 4.0, "{name}: {estimate:?}, exactly {exact}");
        assert!(estimate.standard_error < 0.04 * exact.abs(), "{name}: {estimate:?}, exactly {exact}");
    }
    let wrong = evaluate(&images, 0.95, &config(Timesteps::Full, 1, 2));
    let seen = compared(&wrong, &schedule).iter().filter(|(_, e, exact)| z(*e, *exact) > 4.0).count();
    assert!(seen > 10, "a prediction 5 % off is seen in {seen} of the estimates");
}

/// As above with one timestep per image in each of 6 strata, which changes only the errors, not the means.
#[test]
fn strata_have_the_exact_sums_of_their_timesteps() {
    let (schedule, images) = (schedule(), gaussian_images(6000, 3));
    let some = evaluate(&images, 1.0, &config(Timesteps::Stratified(6), 1, 4));
    assert_eq!((some.evaluated, some.bounds[0].terms.len()), (7, 7));
    assert!(some.bounds[0].terms.iter().any(|term| term.width() > 3));
    for (name, estimate, exact) in compared(&some, &schedule) {
        assert!(z(estimate, exact).abs() < 4.0, "{name}: {estimate:?}, exactly {exact}");
        assert!(estimate.standard_error < 0.05 * exact.abs(), "{name}: {estimate:?}, exactly {exact}");
    }
    let full = evaluate(&images, 1.0, &config(Timesteps::Full, 1, 4));
    for (some, full) in some.bounds.iter().zip(&full.bounds) {
        let (a, b) = (some.bits_per_dim, full.bits_per_dim);
        let apart = a.standard_error.hypot(b.standard_error);
        assert!((a.mean - b.mean).abs() < 4.0 * apart, "{a:?} {b:?}");
        assert!(a.standard_error > b.standard_error, "leaving out timesteps costs: {a:?} {b:?}");
    }
}

/// The stated errors match the spread over repetitions: with other images, and, for the error of the draws
/// alone, with the same images. The standard deviation of 120 values has an error of 1/sqrt(240) = 6.5 %;
/// four times that is allowed.
#[test]
fn stated_errors_are_the_spread_over_repetitions() {
    let strata = |seed| config(Timesteps::Stratified(4), 2, seed);
    let deviation = |values: &[f64]| {
        let Estimate { standard_error, .. } = Estimate::of(values.iter().copied());
        standard_error * (values.len() as f64).sqrt()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let repeat = |bounds: Vec<Bound>, error: fn(&Bound) -> f64| {
        let means: Vec<f64> = bounds.iter().map(|bound| bound.bits_per_dim.mean).collect();
        let errors: Vec<f64> = bounds.iter().map(error).collect();
        deviation(&means) / mean(&errors)
    };
    let bound = |images: &Array2<f64>, seed| evaluate(images, 1.0, &strata(seed)).bounds[0].clone();
    let fresh = (0..120).map(|seed| bound(&gaussian_images(60, 100 + seed), seed)).collect();
    let ratio = repeat(fresh, |bound| bound.bits_per_dim.standard_error);
    assert!((ratio - 1.0).abs() < 0.26, "images and draws: {ratio}");
    let images = gaussian_images(60, 99);
    let same = (0..120).map(|seed| bound(&images, seed)).collect();
    let ratio = repeat(same, |bound| bound.draws_error.expect("two draws"));
    assert!((ratio - 1.0).abs() < 0.26, "draws: {ratio}");
    assert_eq!(evaluate(&images, 1.0, &config(Timesteps::Full, 1, 0)).bounds[0].draws_error, None);
}

/// C_t is 0 for sigma_t^2 = beta~_t and exact for beta_t; the parts add up to the whole (rounding).
#[test]
fn parts_and_constants_add_up() {
    let schedule = schedule();
    let some = evaluate(&gaussian_images(50, 5), 1.0, &config(Timesteps::Stratified(5), 3, 6));
    for (bound, variance) in some.bounds.iter().zip(VARIANCES) {
        assert_eq!(bound.variance, Variance::from(variance));
        assert_eq!(some.of(variance), bound);
        for term in &bound.terms[1..] {
            let levels = &schedule.levels()[term.first - 1..term.last];
            let want: f64 = levels.iter().map(|level| exact_constant(level, variance)).sum();
            let want = want / std::f64::consts::LN_2;
            assert!((term.constant - want).abs() < 1e-12, "{term:?} {want}");
            assert_eq!(term.constant > 0.0, variance == VarianceKind::FixedLarge);
            assert!(term.bits.mean > term.constant);
        }
        let strata: f64 = bound.terms[1..].iter().map(|term| term.bits.mean).sum();
        assert_eq!(bound.terms[0].bits, bound.l_0);
        assert!((bound.middle.mean - strata).abs() < 1e-12);
        let whole = bound.l_t.mean + bound.middle.mean + bound.l_0.mean;
        assert!((bound.bits_per_dim.mean - whole).abs() < 1e-12, "{whole} {bound:?}");
    }
}

/// x_0 is predicted with the variance DEVIATION^2 (1 - abar) / Var x_t; the rate at t holds L_T and the terms
/// above t.
#[test]
fn the_rate_distortion_curve_has_its_exact_values() {
    let schedule = schedule();
    let full = evaluate(&gaussian_images(6000, 7), 1.0, &config(Timesteps::Full, 1, 8));
    for bound in &full.bounds {
        let mut rate = bound.l_t.mean;
        for (point, t) in bound.rate_distortion.iter().zip((1..=20).rev()) {
            let level = &schedule.levels()[t - 1];
            let exact = 127.5 * (DEVIATION * DEVIATION * (1.0 - level.alpha_bar) / spread(level)).sqrt();
            assert_eq!(point.t, t as f64);
            assert!((point.rate - rate).abs() < 1e-12, "t = {t}: {} {rate}", point.rate);
            assert!(z(point.rmse, exact).abs() < 4.0, "t = {t}: {:?}, exactly {exact}", point.rmse);
            assert!(point.rmse.standard_error < 0.01 * exact);
            rate += bound.terms[t - 1].bits.mean;
        }
    }
    // For a stratum, both are means over its timesteps.
    let some = evaluate(&gaussian_images(6000, 7), 1.0, &config(Timesteps::Stratified(4), 1, 8));
    for (some, full) in some.bounds.iter().zip(&full.bounds) {
        for (point, term) in some.rate_distortion.iter().zip(some.terms.iter().rev()) {
            let within = &full.rate_distortion[20 - term.last..=20 - term.first];
            let rate = within.iter().map(|point| point.rate).sum::<f64>() / term.width() as f64;
            let mse = within.iter().map(|point| point.rmse.mean.powi(2)).sum::<f64>() / term.width() as f64;
            let error = some.middle.standard_error.hypot(full.middle.standard_error);
            assert!((point.rate - rate).abs() < 4.0 * error, "{point:?} {rate} {error}");
            let error = point.rmse.standard_error.hypot(within[0].rmse.standard_error);
            assert!((point.rmse.mean - mse.sqrt()).abs() < 4.0 * error, "{point:?} {}", mse.sqrt());
        }
    }
}

/// A network's bound has the same bits on any number of threads and in any batch.
#[test]
fn a_network_s_bound_depends_on_neither_threads_nor_batch() {
    let preset = Preset::Tiny.config();
    let mut model: Model<f32> = Model::new(&preset.unet, 3).unwrap();
    let mut noise = vec![0.0; model.weights.len()];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut noise);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w += 0.02 * z);
    let schedule = Schedule::from_config(&preset.diffusion).unwrap();
    let test = data::load(None, None).unwrap().test.unwrap();
    let pictures = images(&test, &choose(test.len(), 6, 1).expect("a choice")).expect("images");
    let run = |threads: usize, batch: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut engine = Engine::new(&model, threads, Isa::detect()).unwrap();
        let config = NllConfig { batch, timesteps: Timesteps::Stratified(5), ..NllConfig::default() };
        let mut last = 0.0;
        let mut observer = |done| last = done;
        let found = pool.install(|| {
            let process = (&schedule, Parameterisation::default());
            nll::bound(&model, &mut engine, process, pictures.view(), &config, &mut observer).unwrap()
        });
        assert_eq!(last, 1.0);
        found
    };
    let one = run(1, 64);
    assert!(one.bounds.iter().all(|bound| bound.bits_per_dim.mean.is_finite()));
    for (threads, batch) in [(1, 1), (2, 7), (5, 36), (3, 1000)] {
        assert_eq!(run(threads, batch), one, "{threads} threads, batch {batch}");
    }
}

/// The network is told of every x_t the class of its own image, however the evaluations are batched: with the
/// null class for all it is the bound without, and each image's share of the bound depends on its own class
/// alone.
#[test]
fn the_bound_given_the_class_tells_each_image_its_own() {
    let names = ["a", "b"].map(str::to_owned);
    let config = Preset::Tiny.config().for_images([8, 8, 1]).for_classes(&names, 0.1);
    let mut model: Model<f64> = Model::new(&config.unet, 3).unwrap();
    let mut noise = vec![0.0; model.weights.len()];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut noise);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w += 0.05 * z);
    let schedule = Schedule::from_config(&config.diffusion).unwrap();
    let process = (&schedule, Parameterisation::default());
    let pictures = Array2::from_shape_fn((4, 64), |(i, j)| ((i * 31 + j * 7) % 200) as f64 / 100.0 - 1.0);
    let mut engine = Engine::new(&model, 1, Isa::detect()).unwrap();
    let mut given = |classes: &[usize], batch: usize| {
        let config = NllConfig { batch, timesteps: Timesteps::Stratified(3), ..NllConfig::default() };
        let images = (pictures.view(), classes);
        nll::bound_given(&model, &mut engine, process, images, &config, &mut |_| {}).unwrap()
    };
    let mean = |found: &nll::Likelihood| found.bounds[0].bits_per_dim.mean;
    let [mixed, other, all_a, all_b] =
        [[0, 1, 1, 0], [1, 0, 0, 1], [0; 4], [1; 4]].map(|classes| given(&classes, 64));
    for batch in [1, 3, 7] {
        assert_eq!(given(&[0, 1, 1, 0], batch), mixed, "batch {batch}");
    }
    assert!((mean(&mixed) - mean(&all_a)).abs() > 1e-6 && (mean(&mixed) - mean(&all_b)).abs() > 1e-6);
    // Sums over images, added in another order: 1e-12 of bits of order 10.
    let (one, two) = (mean(&mixed) + mean(&other), mean(&all_a) + mean(&all_b));
    assert!((one - two).abs() < 1e-12 * two, "{one} {two}");
    let of_none = given(&[2; 4], 64);
    let config = NllConfig { timesteps: Timesteps::Stratified(3), ..NllConfig::default() };
    let plain = nll::bound(&model, &mut engine, process, pictures.view(), &config, &mut |_| {}).unwrap();
    assert_eq!(of_none, plain);
    for (classes, word) in [(&[0, 1][..], "one for each image"), (&[0, 1, 2, 3], "of which it has 3")] {
        let images = (pictures.view(), classes);
        let refused = nll::bound_given(&model, &mut engine, process, images, &config, &mut |_| {});
        assert!(refused.unwrap_err().to_string().contains(word), "{classes:?}");
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let schedule = schedule();
    let process = (&schedule, Parameterisation::default());
    let refuse = |images: Array2<f64>, config: NllConfig| {
        let result = nll::bound_by(predictor(&schedule, 1.0), process, images.view(), &config, &mut |_| {});
        result.unwrap_err().to_string()
    };
    let good = config(Timesteps::Full, 1, 0);
    assert!(refuse(gaussian_images(1, 0), good).contains("at least 2"));
    assert!(refuse(gaussian_images(2, 0), NllConfig { draws: 0, ..good }).contains("draws"));
    assert!(refuse(gaussian_images(2, 0), NllConfig { batch: 0, ..good }).contains("NllConfig::batch"));
    let nan = |_: &[f64], _: &[Timestep], outputs: Outputs<f64>| {
        outputs.prediction.fill(f64::NAN);
        Ok(())
    };
    let error = nll::bound_by(nan, process, gaussian_images(2, 0).view(), &good, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("not finite") && error.exit_status() == 1, "{error}");

    let model: Model<f32> = Model::new(&Preset::Tiny.config().unet, 3).unwrap();
    let mut engine = Engine::new(&model, 1, Isa::detect()).unwrap();
    let small = Array2::zeros((2, 9));
    let error = nll::bound(&model, &mut engine, process, small.view(), &good, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("28x28x1"), "{error}");
    let learned = Parameterisation { learned_range: true, ..Parameterisation::default() };
    let right = Array2::zeros((2, 784));
    let refused = nll::bound(&model, &mut engine, (&schedule, learned), right.view(), &good, &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("28x28x1"), "it has no second output");
}

/// A network that says of x_t what another one says in other words: its x_0 or its v, and u everywhere.
fn reworded(
    schedule: &Schedule,
    prediction: Prediction,
    u: f64,
) -> impl FnMut(&[f64], &[Timestep], Outputs<f64>) -> Result<()> {
    let (schedule, mut eps_theta) = (schedule.clone(), predictor(schedule, 0.9));
    move |x, t, outputs| {
        eps_theta(x, t, Outputs { prediction: &mut *outputs.prediction, variance: &mut [] })?;
        for ((x, out), t) in x.chunks_exact(DIMS).zip(outputs.prediction.chunks_exact_mut(DIMS)).zip(t) {
            let level = schedule.at(*t)?;
            let [from_x0, from_eps] = o01_target(prediction, level.alpha_bar);
            for (out, x) in out.iter_mut().zip(x) {
                let x0 = (x - (1.0 - level.alpha_bar).sqrt() * *out) / level.alpha_bar.sqrt();
                *out = from_x0 * x0 + from_eps * *out;
            }
        }
        outputs.variance.fill(u);
        Ok(())
    }
}

/// Networks that say the same in eps, x_0 and v have the same bound, term by term, with x_0 clipped or not:
/// to the digits that dividing by the least sigma, 0.1, and differences of means leave, 1e-10.
#[test]
fn the_bound_is_the_same_whatever_is_predicted() {
    let (schedule, images) = (schedule(), gaussian_images(40, 9));
    for clip_x0 in [false, true] {
        let config = NllConfig { clip_x0, ..config(Timesteps::Full, 1, 10) };
        let bound = |prediction, learned_range, u| {
            let says = Parameterisation { prediction, learned_range };
            let network = reworded(&schedule, prediction, u);
            nll::bound_by(network, (&schedule, says), images.view(), &config, &mut |_| {}).unwrap()
        };
        let close = |a: &Bound, b: &Bound| {
            for (a, b) in a.terms.iter().zip(&b.terms) {
                assert!((a.bits.mean / b.bits.mean - 1.0).abs() < 1e-10, "{a:?} {b:?}");
                assert!((a.mse.mean - b.mse.mean).abs() < 1e-10, "{a:?} {b:?}");
                assert!((a.rmse.mean - b.rmse.mean).abs() < 1e-8, "{a:?} {b:?}");
            }
            assert!((a.bits_per_dim.mean / b.bits_per_dim.mean - 1.0).abs() < 1e-10, "{a:?} {b:?}");
        };
        let eps = bound(Prediction::Epsilon, true, 0.3);
        let learned = eps.learned.as_ref().expect("a bound of its own");
        assert_eq!(learned.variance, Variance::LearnedRange);
        assert!(learned.terms.iter().all(|term| term.constant == 0.0));
        assert_eq!(bound(Prediction::Epsilon, false, 0.3).bounds, eps.bounds);
        for prediction in [Prediction::Sample, Prediction::VPrediction] {
            let other = bound(prediction, true, 0.3);
            eps.all().zip(other.all()).for_each(|(a, b)| close(a, b));
        }
        // At both ends of the range the learned variance is a fixed one, but for L_0 at the upper end, whose
        // fixed variance is beta~_2 (see eq07_log_sigma2).
        let ends = [-1.0, 1.0].map(|u| bound(Prediction::VPrediction, true, u));
        close(ends[0].learned.as_ref().unwrap(), &ends[0].bounds[0]);
        let (upper, fixed) = (ends[1].learned.as_ref().unwrap(), &ends[1].bounds[1]);
        assert!((upper.middle.mean / fixed.middle.mean - 1.0).abs() < 1e-10);
        assert!(upper.l_0.mean != fixed.l_0.mean);
    }
}

/// Where nothing of x_0 is left in x_T, a network of v has a finite bound, whose L_T is 0.
#[test]
fn zero_terminal_snr_has_a_bound() {
    let linear = BetaSchedule::Linear { start: 0.01, end: 0.3 };
    let config = DiffusionConfig {
        timesteps: 20,
        schedule: linear,
        zero_terminal_snr: true,
        ..DiffusionConfig::default()
    };
    let schedule = Schedule::from_config(&config).unwrap();
    let says = Parameterisation { prediction: Prediction::VPrediction, learned_range: true };
    let network = |x: &[f64], _: &[Timestep], outputs: Outputs<f64>| {
        outputs.prediction.iter_mut().zip(x).for_each(|(v, x)| *v = 0.3 * x);
        outputs.variance.fill(0.2);
        Ok(())
    };
    let config = self::config(Timesteps::Full, 1, 0);
    let images = gaussian_images(3, 1);
    let found = nll::bound_by(network, (&schedule, says), images.view(), &config, &mut |_| {}).unwrap();
    for bound in found.all() {
        assert!(bound.bits_per_dim.mean.is_finite() && bound.l_t.mean == 0.0, "{bound:?}");
    }
}
