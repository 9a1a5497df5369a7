use super::*;
use crate::config::{DiffusionConfig, LossWeight, Prediction, VarianceKind};
use crate::equations::bound::{eq17_decoder_term_around, eq17_middle_term_around};
use crate::equations::forward::eq03_q_sample;
use crate::equations::loss::{eq21_gradient, eq21_l_simple};
use crate::equations::reverse::eq07_sigma2;
use crate::equations::solver::{Outputs, s01_predict_eps, s01_predict_x0};
use crate::equations::{Level, Schedule};
use crate::rng::{Stream, fill_normal, rng};
use std::collections::BTreeSet;

const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];
const WEIGHTS: [LossWeight; 3] =
    [LossWeight::None, LossWeight::MinSnr { gamma: 5.0 }, LossWeight::P2 { k: 1.0, gamma: 0.5 }];

fn normal(n: usize, id: u64) -> Vec<f64> {
    let mut x = vec![0.0; n];
    fill_normal(&mut rng(11, Stream::Check, id, 0), &mut x);
    x
}

fn linear() -> Schedule {
    Schedule::from_config(&DiffusionConfig::default()).unwrap()
}

/// To the roundings of numbers near one, divided by the least alpha and sigma here.
#[test]
fn o01_a_target_means_the_x0_and_the_noise_that_it_is_made_of() {
    for prediction in PREDICTIONS {
        for alpha_bar in [0.003f64, 0.36, 0.998] {
            let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
            let (x0, eps) = (0.7, -1.3);
            let x_t = alpha * x0 + sigma * eps;
            let [from_x0, from_eps] = o01_target(prediction, alpha_bar);
            let target = from_x0 * x0 + from_eps * eps;
            let of = |[from_x_t, from_m]: [f64; 2]| from_x_t * x_t + from_m * target;
            assert!((of(s01_predict_x0(prediction, alpha, sigma)) - x0).abs() < 1e-13);
            assert!((of(s01_predict_eps(prediction, alpha, sigma)) - eps).abs() < 1e-13);
        }
    }
    assert_eq!(o01_target(Prediction::VPrediction, 0.36), [-0.8, 0.6]);
}

/// The squared errors of what two networks mean that say the same, each with its weight: the same number, to
/// the digits that the division by the least sigma or alpha leaves, 1e-16 / 1e-4.
#[test]
fn o02_o03_o04_weigh_the_same_error_whatever_is_predicted() {
    for level in linear().levels().iter().step_by(111) {
        let snr = o02_snr(level.alpha_bar);
        let (alpha, sigma) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
        let (x0, eps, x0_hat) = (0.6, -0.9, 0.35);
        let x_t = alpha * x0 + sigma * eps;
        let eps_hat = (x_t - alpha * x0_hat) / sigma;
        for kind in &WEIGHTS[1..] {
            let losses = PREDICTIONS.map(|prediction| {
                let [from_x0, from_eps] = o01_target(prediction, level.alpha_bar);
                let error = from_x0 * (x0 - x0_hat) + from_eps * (eps - eps_hat);
                weight::weight(*kind, prediction, snr) * error * error
            });
            let want = match *kind {
                LossWeight::MinSnr { gamma } => snr.min(gamma) * (x0 - x0_hat) * (x0 - x0_hat),
                LossWeight::P2 { k, gamma } => (eps - eps_hat).powi(2) / (k + snr).powf(gamma),
                LossWeight::None => unreachable!(),
            };
            for loss in losses {
                assert!((loss / want - 1.0).abs() < 1e-10, "{kind:?} at {}: {losses:?} {want}", level.t);
            }
        }
        assert_eq!(weight::weight(LossWeight::None, Prediction::Sample, snr), 1.0);
    }
}

/// By hand; and where nothing of x_0 is left, the limits.
#[test]
fn o02_o03_o04_known_values() {
    assert_eq!(o02_snr(0.75), 3.0);
    let min_snr = |snr| PREDICTIONS.map(|prediction| o03_min_snr(prediction, snr, 5.0));
    assert_eq!(min_snr(20.0), [0.25, 5.0, 5.0 / 21.0]);
    assert_eq!(min_snr(3.0), [1.0, 3.0, 0.75]);
    assert_eq!(min_snr(0.0), [1.0, 0.0, 0.0]);
    let p2 = |snr| PREDICTIONS.map(|prediction| o04_p2(prediction, snr, 1.0, 1.0));
    assert_eq!(p2(3.0), [0.25, 0.75, 0.1875]);
    assert_eq!(p2(0.0), [1.0, 0.0, 0.0]);
    assert_eq!(o04_p2(Prediction::Epsilon, 8.0, 1.0, 0.5), 9f64.powf(-0.5));
}

/// The ends are (7)'s two choices, to rounding, and the middle is their geometric mean.
#[test]
fn o05_lies_between_the_two_choices_of_eq07() {
    for level in &linear().levels()[1..] {
        let [small, large] =
            [VarianceKind::FixedSmall, VarianceKind::FixedLarge].map(|kind| eq07_sigma2(level, kind));
        let range = [level.log_posterior_variance, level.beta.ln()];
        for (u, want) in [(-1f64, small), (1.0, large), (0.0, (small * large).sqrt())] {
            assert!((o05_log_variance(u, range).exp() / want - 1.0).abs() < 1e-12, "{} {u}", level.t);
        }
    }
    assert_eq!(o05_log_variance(0.5f32, [-4.0, -2.0]), -2.5);
}

/// At u = -1 and, but for t = 1, at u = 1 it is (17) with a fixed variance. Bound: the digits that (17)'s
/// difference of two means near 1 loses, 1e-16 / 1e-4 squared over sigma^2 = 1e-4.
#[test]
fn o06_is_eq17_at_both_ends() {
    let schedule = linear();
    for t in [1, 2, 38, 601, 1000] {
        let level = &schedule.levels()[t - 1];
        let range = LearnedRange::new(level);
        let (x0, eps, x0_hat) = ([101.0 / 127.5 - 1.0], [0.8], [-0.2]);
        let (mut x_t, mut mean) = ([0.0], [0.0]);
        eq03_q_sample(&x0, &eps, level.alpha_bar, &mut x_t);
        // Close to the truth at t = 1, where the decoder has a floor.
        let x0_hat = if t == 1 { [x0[0] + 0.012] } else { x0_hat };
        crate::equations::posterior::eq11_posterior_mean(&x_t, &x0_hat, level, &mut mean);
        for (u, kind) in [(-1.0, VarianceKind::FixedSmall), (1.0, VarianceKind::FixedLarge)] {
            let want = match t {
                1 if u == 1.0 => continue,
                1 => eq17_decoder_term_around(&mean, &x0, level, kind),
                _ => eq17_middle_term_around(&mean, &x0, &x_t, level, kind),
            };
            let [got, _] = range.o06_term(x0[0], x_t[0], x0_hat[0], u);
            assert!((got - want).abs() < 1e-9 * want.abs().max(1.0), "t = {t}, u = {u}: {got} {want}");
        }
    }
}

/// The derivative in u against central differences with step 1e-5: rounding of a term up to 1e3 gives 1e-16 x
/// 1e3 / 1e-5 = 1e-8, truncation 1e-10 of a third derivative. Inner, lowest and highest pixel values at t =
/// 1, and one on the decoder's floor, where the derivative is 0.
#[test]
fn o06_derivative_by_central_differences() {
    let schedule = linear();
    let mut checked = 0;
    for t in [1, 2, 38, 601, 1000] {
        let range = LearnedRange::new(&schedule.levels()[t - 1]);
        for x0 in [-1.0, 101.0 / 127.5 - 1.0, 1.0] {
            for off in [-0.011, 0.002, 0.9] {
                for u in [-1.4, -0.2, 0.7] {
                    let at = |u| range.o06_term(x0, 0.3, x0 + off, u);
                    let difference = (at(u + 1e-5)[0] - at(u - 1e-5)[0]) / 2e-5;
                    let got = at(u)[1];
                    let bound = 1e-7 * got.abs().max(1.0) + 1e-13 * at(u)[0] / 1e-5;
                    assert!((got - difference).abs() < bound, "t = {t}, {x0} {off} {u}: {got} {difference}");
                    checked += usize::from(got != 0.0);
                }
            }
        }
        if t == 1 {
            assert_eq!(range.o06_term(0.2, 0.3, 3.0, 0.1)[1], 0.0, "on the floor");
        }
    }
    assert!(checked > 100, "{checked}");
}

/// Samples of an objective at some timesteps, images of two channels and six pixels.
struct Batch {
    objective: Objective,
    indices: Vec<usize>,
    notes: Vec<f64>,
    output: Vec<f64>,
    channels: usize,
}

const IMAGE: usize = 12;
const INDICES: [usize; 4] = [0, 3, 420, 999];

impl Batch {
    fn new(prediction: Prediction, learned_range: bool, weighting: LossWeight) -> Batch {
        let schedule = linear();
        let config = DiffusionConfig { prediction, learned_range, ..DiffusionConfig::default() };
        let objective = Objective::new(&config, weighting, &schedule);
        let len = IMAGE * config.outputs();
        let notes_len = objective.notes_len(len);
        let mut notes = vec![0.0; INDICES.len() * notes_len];
        let mut output = normal(INDICES.len() * len, 3);
        for (i, notes) in notes.chunks_exact_mut(notes_len).enumerate() {
            let level = &schedule.levels()[INDICES[i]];
            let x0: Vec<f64> = (0..IMAGE).map(|k| ((k * 53 + i * 17) % 256) as f64 / 127.5 - 1.0).collect();
            let mut x_t = vec![0.0; IMAGE];
            fill_normal(&mut rng(11, Stream::Check, 5, i as u64), &mut notes[..IMAGE]);
            eq03_q_sample(&x0, &notes[..IMAGE], level.alpha_bar, &mut x_t);
            objective.prepare(level, &x0, &x_t, notes);
            // At small t a network that is far off has no likelihood at all.
            let output = &mut output[i * len..][..len];
            for (m, target) in output.iter_mut().zip(&notes[..IMAGE]).filter(|_| INDICES[i] < 10) {
                *m = target + 0.003 * *m;
            }
        }
        Batch { objective, indices: INDICES.to_vec(), notes, output, channels: 2 * config.outputs() }
    }

    /// The sum of the losses and the gradient of their mean.
    fn gradient(&self, output: &[f64]) -> (f64, Vec<f64>) {
        let (mut notes, mut d_output) = (self.notes.clone(), vec![f64::NAN; output.len()]);
        let shard = Shard {
            indices: &self.indices,
            notes: &mut notes,
            output,
            channels: self.channels,
            batch: self.indices.len(),
        };
        let loss = self.objective.o07_gradient(shard, &mut d_output);
        (loss, d_output)
    }
}

/// Without weights and a learned variance it is (21), to the bit.
#[test]
fn o07_is_eq21_where_nothing_else_is_chosen() {
    for prediction in PREDICTIONS {
        let batch = Batch::new(prediction, false, LossWeight::None);
        let (loss, d_output) = batch.gradient(&batch.output);
        let mut want = vec![0.0; batch.output.len()];
        eq21_gradient(&batch.notes, &batch.output, 1.0, &mut want);
        assert_eq!(d_output, want);
        let pairs = batch.notes.chunks(IMAGE).zip(batch.output.chunks(IMAGE));
        assert_eq!(loss, pairs.map(|(a, b)| eq21_l_simple(a, b)).sum::<f64>());
    }
    let plain = Objective::default();
    assert_eq!((plain.notes_len(7), plain.says()), (7, Parameterisation::default()));
    assert!(plain.check(usize::MAX).is_ok());
}

/// The gradient in every number of the output by central differences with step 1e-5, for every objective: the
/// first half's against the loss without the bound's term, whose mean must not learn, the second half's
/// against all of it. Losses are below 1e4 and their sums are rounded by 1e-12, so the differences by 1e-7;
/// terms that are square have no truncation.
#[test]
fn o07_gradient_by_central_differences() {
    for prediction in PREDICTIONS {
        for weighting in WEIGHTS {
            for learned in [false, true] {
                let batch = Batch::new(prediction, learned, weighting);
                let simple = Batch::new(prediction, false, weighting);
                let (_, d_output) = batch.gradient(&batch.output);
                let half = |output: &[f64]| {
                    let image = output.len() / (1 + usize::from(learned));
                    let (mut first, mut second) = (vec![0.0; image], vec![0.0; image]);
                    if !learned {
                        return output.to_vec();
                    }
                    let mut halves = Outputs { prediction: &mut first, variance: &mut second };
                    halves.split(output, batch.channels);
                    first
                };
                for i in 0..batch.output.len() {
                    let is_second = learned && i % 4 >= 2;
                    let at = |step: f64| {
                        let mut moved = batch.output.clone();
                        moved[i] += step;
                        let (loss, _) =
                            if is_second { batch.gradient(&moved) } else { simple.gradient(&half(&moved)) };
                        loss / INDICES.len() as f64
                    };
                    let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let bound = 1e-6 * d_output[i].abs() + 1e-6;
                    let error = (d_output[i] - difference).abs();
                    assert!(
                        error < bound,
                        "{prediction:?} {weighting:?} learned {learned}, {i}: {} {difference}",
                        d_output[i]
                    );
                }
            }
        }
    }
}

/// A shard's gradient does not depend on which other samples are in the shard, only on the batch.
#[test]
fn o07_of_a_shard_is_its_part_of_the_batch() {
    let batch = Batch::new(Prediction::VPrediction, true, LossWeight::MinSnr { gamma: 5.0 });
    let (loss, d_output) = batch.gradient(&batch.output);
    let (len, notes_len) = (2 * IMAGE, batch.notes.len() / INDICES.len());
    let mut sum = 0.0;
    for i in 0..INDICES.len() {
        let mut notes = batch.notes[i * notes_len..][..notes_len].to_vec();
        let output = &batch.output[i * len..][..len];
        let mut part = vec![0.0; len];
        let shard = Shard {
            indices: &INDICES[i..=i],
            notes: &mut notes,
            output,
            channels: batch.channels,
            batch: INDICES.len(),
        };
        sum += batch.objective.o07_gradient(shard, &mut part);
        assert_eq!(part, d_output[i * len..][..len]);
    }
    assert_eq!(sum, loss);
}

#[test]
fn o07_timesteps_that_the_schedule_has_not_are_refused() {
    for (learned, weighting) in [(true, LossWeight::None), (false, WEIGHTS[1])] {
        let mut batch = Batch::new(Prediction::Epsilon, learned, weighting);
        assert!(batch.objective.check(999).is_ok());
        let message = batch.objective.check(1000).unwrap_err().to_string();
        assert!(message.contains("below 1000"), "{message}");
        // Whoever does not check gets no panic.
        batch.indices[1] = 1000;
        assert!(batch.gradient(&batch.output).0.is_finite());
    }
}

/// One timestep in each stratum of the batch, whatever the sizes are, and the same for the same seed and
/// step.
#[test]
fn o08_has_one_timestep_in_each_stratum() {
    let schedule = linear().respaced(&linear().levels()[..100].iter().map(|l| l.t).collect::<Vec<_>>());
    let schedule = schedule.unwrap();
    let draw = |seed, step, batch: u64| -> Vec<usize> {
        (0..batch).map(|s| o08_stratified(seed, step, s, batch, &schedule).t.index()).collect()
    };
    for batch in [1, 3, 16, 100, 250] {
        for step in 0..20 {
            let indices = draw(4, step, batch);
            assert_eq!(indices, draw(4, step, batch));
            for (s, index) in indices.into_iter().enumerate() {
                let (low, high) = (s as f64 * 100.0 / batch as f64, (s + 1) as f64 * 100.0 / batch as f64);
                assert!((low.floor()..=high).contains(&(index as f64)), "{index} in {low}..{high}");
            }
        }
    }
    assert!(draw(4, 1, 16) != draw(4, 2, 16) && draw(4, 1, 16) != draw(5, 1, 16));
    assert_eq!(draw(4, 1, 1).len(), 1);
    let seen: BTreeSet<usize> = (0..3000).flat_map(|step| draw(4, step, 1)).collect();
    assert_eq!((seen.len(), seen.first(), seen.last()), (100, Some(&0), Some(&99)));
}

/// Over many steps every timestep is drawn as often, though 3 strata of 7 timesteps are not whole: five
/// standard deviations of the counts of 21000 draws.
#[test]
fn o08_draws_every_timestep_as_often() {
    let schedule = Schedule::from_betas(&[0.1; 7]).unwrap();
    let mut counts = [0u32; 7];
    for step in 0..7000 {
        for sample in 0..3 {
            counts[o08_stratified(1, step, sample, 3, &schedule).t.index()] += 1;
        }
    }
    for count in counts {
        assert!((f64::from(count) - 3000.0).abs() < 5.0 * 3000f64.sqrt(), "{counts:?}");
    }
    let _: &Level = o08_stratified(1, 0, 9, 3, &schedule);
}
