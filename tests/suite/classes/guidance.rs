use super::network;
use ndarray::{Array4, Array5};
use performer_ddpm::config::DiffusionConfig;
use performer_ddpm::equations::ddim::{Ddim, ddim_sample};
use performer_ddpm::equations::solver::{Method, Outputs, Scheduler, Variance};
use performer_ddpm::equations::{Schedule, Timestep};
use performer_ddpm::kernels::{Element, Isa};
use performer_ddpm::model::{Condition, Engine, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{ClipX0, Guidance, Process, SampleOptions, Sampler, sample};

const IMAGE: usize = 64;
const NULL: usize = 3;

fn process() -> DiffusionConfig {
    DiffusionConfig::default()
}

fn schedule() -> Schedule {
    Schedule::from_config(&process()).expect("a schedule")
}

fn options(count: usize, guidance: Guidance) -> SampleOptions {
    let steps = Some(4);
    SampleOptions { count, batch: count, steps, clip_x0: ClipX0::KeepEps, guidance, ..Default::default() }
}

/// x_T and the noises of so many images and steps.
fn noise(count: usize, steps: usize) -> Array5<f32> {
    let mut numbers = vec![0.0; (steps + 1) * count * IMAGE];
    fill_normal(&mut rng(5, Stream::Check, 0, 0), &mut numbers);
    Array5::from_shape_vec((steps + 1, count, 1, 8, 8), numbers).expect("as many numbers")
}

fn sampled<T: Element>(
    model: &Model<T>,
    isa: Isa,
    options: &SampleOptions,
    noise: &Array5<f32>,
) -> Array4<T> {
    let mut engine = Engine::new(model, 2, isa).expect("an engine");
    sample(model, &schedule(), &mut engine, options, Some(noise.view()), |_| {}).expect("images")
}

/// What the network says of each image alone, told this class.
fn alone<T: Element>(model: &Model<T>, engine: &mut Engine<T>, x: &[T], t: Timestep, class: usize) -> Vec<T> {
    let mut out = vec![T::zero(); model.output_len()];
    let condition = Condition { index: t.index(), class: Some(class) };
    engine.forward(model, x, &[condition], &mut out).expect("lengths that fit");
    out
}

/// DDIM with each prediction put together by `by_hand(image, x_t, t)`, images being independent.
fn ddim<T: Element>(
    options: &SampleOptions,
    noise: &Array5<f32>,
    mut by_hand: impl FnMut(usize, &[T], Timestep) -> Vec<T>,
) -> Vec<T> {
    let Process::Text { schedule, .. } = options.process(&schedule()).expect("DDIM") else {
        panic!("DDIM is executed by its text")
    };
    let numbers = noise.index_axis(ndarray::Axis(0), 0);
    let mut x: Vec<T> = numbers.iter().map(|x| T::of(f64::from(*x))).collect();
    let eps_theta = |x: &[T], t: Timestep, out: &mut [T]| {
        for (i, (x, out)) in x.chunks_exact(IMAGE).zip(out.chunks_exact_mut(IMAGE)).enumerate() {
            out.copy_from_slice(&by_hand(i, x, t));
        }
        Ok(())
    };
    let method = Ddim { eta: 0.0, clip_x0: options.clip_x0 };
    ddim_sample(&schedule, method, &mut x, |_, _, _| {}, eps_theta, |_, _, _| {}).expect("images");
    x
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Both predictions image by image, put together by Ho & Salimans' and Lin et al.'s own formulas. 1e-11 of
/// the largest value, 1: roundings of predictions of order 10, three times through the network of random
/// weights.
#[test]
fn two_passes_in_one_batch_are_the_two_put_together_by_hand() {
    let model: Model<f64> = network(1).cast();
    let mut engine = Engine::new(&model, 1, Isa::Reference).expect("an engine");
    let classes = [2usize, 0];
    for (weight, rescale, interval) in [
        (3.0, 0.0, [0.0, f64::INFINITY]),
        (0.0, 0.0, [0.0, f64::INFINITY]),
        (2.5, 0.7, [0.0, f64::INFINITY]),
        (4.0, 0.0, [1.0, 20.0]),
    ] {
        let guidance = Guidance { weight, rescale, interval };
        let options = SampleOptions { classes: classes.to_vec(), ..options(3, guidance) };
        let noise = noise(3, 4);
        let images = sampled(&model, Isa::Reference, &options, &noise);
        let (mut inside, mut outside) = (0, 0);
        let want = ddim(&options, &noise, |i, x, t| {
            let with = alone(&model, &mut engine, x, t, classes[i % 2]);
            let without = alone(&model, &mut engine, x, t, NULL);
            let alpha_bar = schedule().at(t).expect("a level").alpha_bar;
            let sigma = ((1.0 - alpha_bar) / alpha_bar).sqrt();
            if !(interval[0] < sigma && sigma <= interval[1]) {
                outside += 1;
                return with;
            }
            inside += 1;
            let pairs = with.iter().zip(&without);
            let guided: Vec<f64> = pairs.map(|(c, m)| weight * c - (weight - 1.0) * m).collect();
            let factor = rescale * deviation(&with) / deviation(&guided) + (1.0 - rescale);
            guided.iter().map(|m| factor * m).collect()
        });
        let error = images.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error < 1e-11, "{guidance:?}: {error:e}");
        assert_eq!((inside > 0, outside > 0), (true, interval[0] == 1.0), "{guidance:?}");
    }
}

/// Bit for bit, whatever the interval and the rescaling are.
#[test]
fn a_weight_of_one_is_the_plain_prediction_for_the_class() {
    let model = network(1);
    let mut engine = Engine::new(&model, 1, Isa::detect()).expect("an engine");
    let noise = noise(5, 4);
    let plain = options(5, Guidance::default());
    let want = ddim(&plain, &noise, |i, x, t| alone(&model, &mut engine, x, t, i % 3));
    let found = sampled(&model, Isa::detect(), &plain, &noise);
    assert_eq!(found.iter().copied().collect::<Vec<_>>(), want);
    let guidance = Guidance { weight: 1.0, interval: [1.0, 20.0], rescale: 0.7 };
    assert_eq!(sampled(&model, Isa::detect(), &options(5, guidance), &noise), found);
    assert_ne!(sampled(&model, Isa::detect(), &options(5, Guidance::weight(1.5)), &noise), found);
}

/// A guided image depends on its noise and its class, not on those that are computed beside it.
#[test]
fn guided_images_have_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let model = network(1);
    let guidance = Guidance { weight: 2.0, interval: [1.0, 20.0], rescale: 0.5 };
    let found = |batch, threads| {
        let options = SampleOptions { batch, seed: 3, ..options(7, guidance) };
        let mut engine = Engine::new(&model, threads, Isa::detect()).expect("an engine");
        sample(&model, &schedule(), &mut engine, &options, None, |_| {}).expect("images")
    };
    let want = found(7, 1);
    for (batch, threads) in [(1, 1), (2, 3), (5, 2), (7, 4)] {
        assert_eq!(found(batch, threads), want, "{batch} images at a time, {threads} threads");
    }
}

/// The variance of a guided step is the one that the network has for the class, as in DiT (Peebles & Xie
/// 2023, `forward_with_cfg`). To roundings, 1e-11 of a largest value of order 1.
#[test]
fn a_learned_variance_is_that_of_the_class() {
    let model: Model<f64> = network(2).cast();
    let mut engine = Engine::new(&model, 1, Isa::Reference).expect("an engine");
    let method = Method::Ddpm { variance: Variance::LearnedRange, noise_at_last: false };
    let scheduler = Scheduler::of(&process()).with_method(method, true);
    let guidance = Guidance::weight(2.0);
    let options =
        SampleOptions { sampler: Sampler::Scheduler(scheduler), classes: vec![1], ..options(2, guidance) };
    let noise = noise(2, 4);
    let images = sampled(&model, Isa::Reference, &options, &noise);
    let plan = scheduler.plan(&schedule(), 4).expect("a plan");
    let mut x: Vec<f64> = noise.index_axis(ndarray::Axis(0), 0).iter().map(|x| f64::from(*x)).collect();
    let draw = |k: usize, _: Timestep, out: &mut [f64]| {
        let noise = noise.index_axis(ndarray::Axis(0), k + 1);
        out.iter_mut().zip(&noise).for_each(|(out, z)| *out = f64::from(*z));
    };
    let network = |x: &[f64], t: Timestep, outputs: Outputs<f64>| {
        let pixels = outputs.prediction.chunks_exact_mut(IMAGE).zip(outputs.variance.chunks_exact_mut(IMAGE));
        for (x, (prediction, variance)) in x.chunks_exact(IMAGE).zip(pixels) {
            let with = alone(&model, &mut engine, x, t, 1);
            let without = alone(&model, &mut engine, x, t, NULL);
            for i in 0..IMAGE {
                prediction[i] = 2.0 * with[2 * i] - without[2 * i];
                variance[i] = with[2 * i + 1];
            }
        }
        Ok(())
    };
    plan.sample(&mut x, IMAGE, draw, network, |_, _, _| {}).expect("images");
    let largest = x.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    let error = images.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error < 1e-11 * largest, "{error:e} of {largest:e}");
}
