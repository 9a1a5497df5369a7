//! The same bits for any number of threads, in training and in sampling, and for any batch when sampling.

use performer_ddpm::Error;
use performer_ddpm::config::{Config, Preset};
use performer_ddpm::data;
use performer_ddpm::equations::Schedule;
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use performer_ddpm::train::{Interrupt, Trainer};

fn config(batch: usize) -> Config {
    let mut config = Preset::Tiny.config();
    config.train.batch = batch;
    config.unet.dropout = 0.1;
    config.unet.favor.redraw_every = 2;
    config
}

/// A network with no parameter at its zero initialisation.
fn random(config: &Config) -> Model<f32> {
    let mut model: Model<f32> = Model::new(&config.unet, 3).expect("a network");
    let mut noise = vec![0.0; model.weights.len()];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut noise);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w += 0.1 * z);
    model
}

#[test]
fn training_has_the_same_bits_on_1_2_and_7_threads() {
    let images = data::load(None, None).expect("the embedded images").train;
    for batch in [1, 2, 3, 7, 16] {
        let weights = |threads: usize| {
            let mut trainer: Trainer<f32> =
                Trainer::new(&config(batch), threads, Isa::detect()).expect("a trainer");
            let losses: Vec<f64> = (0..4).map(|_| trainer.advance(&images).expect("a step").loss).collect();
            (losses, trainer.progress())
        };
        let one = weights(1);
        for threads in [2, 7] {
            assert_eq!(weights(threads), one, "batch {batch}, {threads} threads");
        }
    }
}

#[test]
fn an_interrupted_step_counts_as_not_begun() {
    let images = data::load(None, None).expect("the embedded images").train;
    let begin = || Trainer::<f32>::new(&config(16), 2, Isa::detect()).expect("a trainer");
    let advance = |trainer: &mut Trainer<f32>, steps: usize| {
        for _ in 0..steps {
            trainer.advance(&images).expect("a step");
        }
    };
    let mut straight = begin();
    advance(&mut straight, 4);
    // New projections are drawn before step 3, none before step 2.
    for steps in [1, 2] {
        let (mut trainer, interrupt) = (begin(), Interrupt::default());
        trainer.interrupt_by(interrupt.clone());
        advance(&mut trainer, steps);
        let before = trainer.progress();
        interrupt.set();
        assert!(matches!(trainer.advance(&images), Err(Error::Stopped)));
        assert_eq!(trainer.progress(), before);
        trainer.interrupt_by(Interrupt::default());
        advance(&mut trainer, 4 - steps);
        assert_eq!(trainer.progress(), straight.progress());
    }
}

#[test]
fn an_image_depends_on_the_seed_and_its_number_alone() {
    let config = config(1);
    let model = random(&config);
    let schedule = Schedule::from_config(&config.diffusion).expect("a schedule");
    for sampler in [Sampler::Ddim { eta: 0.5 }, Sampler::Ddpm { variance: config.diffusion.variance }] {
        let images = |count: usize, batch: usize, threads: usize| {
            let mut engine = Engine::new(&model, threads, Isa::detect()).expect("an engine");
            let options = SampleOptions {
                count,
                batch,
                seed: 5,
                sampler,
                steps: Some(5),
                spacing: Spacing::Trailing,
                clip_x0: ClipX0::KeepEps,
                ..SampleOptions::default()
            };
            sample(&model, &schedule, &mut engine, &options, None, |_| {}).expect("images")
        };
        let all = images(7, 7, 1);
        for (count, batch, threads) in
            [(1, 1, 1), (1, 1, 7), (2, 2, 2), (3, 3, 7), (7, 3, 2), (7, 7, 7), (7, 1, 2)]
        {
            let some = images(count, batch, threads);
            let same = some.iter().zip(all.iter()).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{sampler:?}: {count} images in batches of {batch} on {threads} threads");
        }
        let first: Vec<f32> = all.iter().take(784).copied().collect();
        assert!(all.iter().skip(784).take(784).zip(&first).any(|(a, b)| a != b), "two images are one");
    }
}

#[test]
fn a_larger_batch_keeps_every_samples_bits() {
    let config = config(1);
    let model = random(&config);
    let mut engine = Engine::new(&model, 2, Isa::detect()).expect("an engine");
    let n = 130;
    let mut x = vec![0.0; n * model.input_len()];
    fill_normal(&mut rng(4, Stream::Check, 0, 0), &mut x);
    let indices: Vec<usize> = (0..n).map(|i| i % 100).collect();
    let mut all = vec![0.0; n * model.output_len()];
    engine.forward(&model, &x, &indices, &mut all).expect("lengths that fit");
    for i in [0, 63, 64, 129] {
        let mut one = vec![0.0; model.output_len()];
        engine.forward(&model, &x[i * 784..][..784], &indices[i..=i], &mut one).expect("lengths that fit");
        assert!(one == all[i * 784..][..784], "sample {i}");
    }
}
