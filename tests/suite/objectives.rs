//! Training on every objective: the loss falls, the bits depend on neither threads nor interruptions, and the
//! model's folder samples as it was trained.

use crate::support::binary::{command, succeed};
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::config::{Config, LossWeight, Prediction, Preset, TimestepSampling};
use performer_ddpm::data::{self, Dataset};
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::objective::{Objective, Shard};
use performer_ddpm::equations::solver::{Method, Variance};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::{Engine, Gradient, Model};
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::train::{Trainer, check_fit};
use performer_ddpm::{Pipeline, SampleOptions};
use std::path::Path;

/// The tiny preset for images of 8 x 8 pixels, with another objective.
fn config(
    prediction: Prediction,
    learned_range: bool,
    loss_weight: LossWeight,
    timesteps: TimestepSampling,
) -> Config {
    let mut config = Preset::Tiny.config();
    config.diffusion.prediction = prediction;
    config.diffusion.learned_range = learned_range;
    config.train.loss_weight = loss_weight;
    config.train.timesteps = timesteps;
    config.for_images([8, 8, 1])
}

/// Every prediction, weight, variance and way to draw timesteps, though not every combination.
fn objectives() -> Vec<Config> {
    let (min_snr, p2) = (LossWeight::MinSnr { gamma: 5.0 }, LossWeight::P2 { k: 1.0, gamma: 1.0 });
    let (uniform, stratified) = (TimestepSampling::Uniform, TimestepSampling::Stratified);
    vec![
        config(Prediction::Epsilon, false, min_snr, uniform),
        config(Prediction::Epsilon, true, LossWeight::None, stratified),
        config(Prediction::Sample, false, LossWeight::None, uniform),
        config(Prediction::Sample, true, p2, uniform),
        config(Prediction::VPrediction, false, LossWeight::None, stratified),
        config(Prediction::VPrediction, true, min_snr, stratified),
    ]
}

fn name(config: &Config) -> String {
    let (diffusion, train) = (&config.diffusion, &config.train);
    let (prediction, learned) = (diffusion.prediction, diffusion.learned_range);
    format!("{prediction:?}, learned {learned}, {:?}, {:?}", train.loss_weight, train.timesteps)
}

fn images() -> Dataset {
    let garments = data::load(None, None).expect("the embedded images").train;
    let few: Vec<usize> = (0..500).collect();
    garments.select(&few).and_then(|few| few.resized((8, 8))).expect("500 small garments")
}

/// The first losses are those of a network that says 0; of every objective a fifth goes in the first sixty
/// steps.
#[test]
fn the_loss_of_every_objective_falls() {
    let images = images();
    for config in objectives() {
        let mut trainer: Trainer<f32> = Trainer::new(&config, 2, Isa::detect()).expect("a trainer");
        let losses: Vec<f64> = (0..60).map(|_| trainer.advance(&images).expect("a step").loss).collect();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..10]), mean(&losses[50..]));
        assert!(last < 0.8 * first, "{}: from {first} to {last}", name(&config));
    }
}

#[test]
fn every_objective_has_the_same_bits_on_any_number_of_threads_and_after_a_pause() {
    let images = images();
    for mut config in objectives() {
        config.train.batch = 7;
        let trainer = |threads: usize| -> Trainer<f32> {
            Trainer::new(&config, threads, Isa::detect()).expect("a trainer")
        };
        let mut straight = trainer(1);
        let losses: Vec<f64> = (0..4).map(|_| straight.advance(&images).expect("a step").loss).collect();
        let mut paused = trainer(2);
        let mut again: Vec<f64> = (0..2).map(|_| paused.advance(&images).expect("a step").loss).collect();
        let mut resumed = trainer(7);
        resumed.restore(paused.progress()).expect("a state of the same network");
        again.extend((0..2).map(|_| resumed.advance(&images).expect("a step").loss));
        assert_eq!(losses, again, "{}", name(&config));
        assert_eq!(straight.progress(), resumed.progress(), "{}", name(&config));
    }
}

/// Objectives differ in more than their name.
#[test]
fn no_two_objectives_train_alike() {
    let images = images();
    let mut losses = Vec::new();
    for config in objectives().into_iter().chain([Preset::Tiny.config().for_images([8, 8, 1])]) {
        let mut trainer: Trainer<f32> = Trainer::new(&config, 1, Isa::detect()).expect("a trainer");
        let loss = (0..2).map(|_| trainer.advance(&images).expect("a step").loss).sum::<f64>();
        assert!(!losses.contains(&loss), "{}", name(&config));
        losses.push(loss);
    }
}

fn random(config: &Config) -> Model<f64> {
    let mut model: Model<f64> = Model::new(&config.unet, 3).expect("a network");
    let mut noise = vec![0.0; model.weights.len()];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut noise);
    model.weights.iter_mut().zip(&noise).for_each(|(w, z)| *w += 0.1 * z);
    model
}

/// The engine's gradient in the weights is that of the objective's gradient in the output: a plain square
/// loss whose target is chosen so that its gradient in the output is the same has the same gradient in the
/// weights, to rounding (1e-12 of the largest).
#[test]
fn the_gradient_of_every_objective_goes_through_the_network() {
    const N: usize = 5;
    for config in objectives() {
        let (schedule, model) = (Schedule::from_config(&config.diffusion).unwrap(), random(&config));
        let objective = Objective::new(&config.diffusion, config.train.loss_weight, &schedule);
        let (len, len_out) = (model.input_len(), model.output_len());
        let (notes_len, channels) = (objective.notes_len(len_out), config.unet.out_channels);
        let draw = |id: u64, n: usize| {
            let mut x = vec![0.0; n];
            fill_normal(&mut rng(7, Stream::Check, id, 0), &mut x);
            x
        };
        let indices = [0, 1, 30, 64, 99];
        let (x0, x_t, eps) = (draw(0, N * len), draw(1, N * len), draw(2, N * len));
        let notes_of = |i: usize, notes: &mut [f64]| {
            notes[..len].copy_from_slice(&eps[i * len..][..len]);
            let level = &schedule.levels()[indices[i]];
            objective.prepare(level, &x0[i * len..][..len], &x_t[i * len..][..len], notes);
        };
        let mut engine = Engine::new(&model, 2, Isa::Reference).unwrap();
        let mut found = Gradient::default();
        let example = |i: usize, x: &mut [f64], notes: &mut [f64]| {
            x.copy_from_slice(&x_t[i * len..][..len]);
            notes_of(i, notes);
            indices[i]
        };
        engine.gradient_of(&objective, &model, N, &example, None, &mut found).unwrap();

        let mut output = vec![0.0; N * len_out];
        engine.forward(&model, &x_t, &indices, &mut output).unwrap();
        let mut notes = vec![0.0; N * notes_len];
        notes.chunks_exact_mut(notes_len).enumerate().for_each(|(i, notes)| notes_of(i, notes));
        let mut d_output = vec![0.0; N * len_out];
        let shard = Shard { indices: &indices, notes: &mut notes, output: &output, channels, batch: N };
        let loss = objective.o07_gradient(shard, &mut d_output) / N as f64;
        // 2 (output - target) / (N len_out) = d_output.
        let slope = 2.0 / (N * len_out) as f64;
        let target: Vec<f64> = output.iter().zip(&d_output).map(|(m, d)| m - d / slope).collect();
        let plain = |i: usize, x: &mut [f64], eps: &mut [f64]| {
            x.copy_from_slice(&x_t[i * len..][..len]);
            eps.copy_from_slice(&target[i * len_out..][..len_out]);
            indices[i]
        };
        let mut want = Gradient::default();
        engine.gradient(&model, N, &plain, None, &mut want).unwrap();
        let largest = want.weights.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        for (got, want) in found.weights.iter().zip(&want.weights) {
            assert!((got - want).abs() <= 1e-12 * largest, "{}: {got} {want}", name(&config));
        }
        assert!((found.loss / loss - 1.0).abs() < 1e-12, "{}", name(&config));

        let bad = |i: usize, x: &mut [f64], notes: &mut [f64]| {
            example(i, x, notes);
            if i == 3 { 100 } else { indices[i] }
        };
        let refused = engine.gradient_of(&objective, &model, N, &bad, None, &mut found);
        let plain = objective.check(100).is_ok();
        assert_eq!(refused.is_ok(), plain, "{}", name(&config));
    }
    let (learned, plain) = (objectives().swap_remove(1), Preset::Tiny.config());
    let schedule = Schedule::from_config(&learned.diffusion).unwrap();
    let objective = Objective::new(&learned.diffusion, LossWeight::None, &schedule);
    let model = random(&plain);
    let mut engine = Engine::new(&model, 1, Isa::Reference).unwrap();
    let example = |_: usize, _: &mut [f64], _: &mut [f64]| 0;
    let refused = engine.gradient_of(&objective, &model, 1, &example, None, &mut Gradient::default());
    assert!(refused.unwrap_err().to_string().contains("twice the channels"));
}

/// What a folder of the model says of it, what a loaded one samples by default, and that its images are
/// finite.
#[test]
fn every_objective_s_model_samples_from_its_folder() {
    let images = images();
    for config in objectives() {
        let mut trainer: Trainer<f32> = Trainer::new(&config, 2, Isa::detect()).expect("a trainer");
        (0..3).for_each(|_| assert!(trainer.advance(&images).is_ok()));
        let folder = tempfile::tempdir().unwrap();
        trainer.pipeline().unwrap().save(folder.path()).unwrap();
        let loaded = model_folder::load::<f32>(folder.path()).unwrap();
        assert_eq!(loaded.diffusion, config.diffusion);
        assert_eq!(loaded.scheduler.prediction, config.diffusion.prediction);
        let is_learned =
            |method| matches!(method, Method::Ddpm { variance: Variance::LearnedRange, noise_at_last: true });
        assert_eq!(is_learned(loaded.scheduler.method), config.diffusion.learned_range);
        let mut pipeline = Pipeline::load(folder.path()).unwrap();
        let usual = pipeline.options();
        assert_eq!(usual.steps, Some(if config.diffusion.learned_range { 100 } else { 15 }));
        let options = SampleOptions { count: 2, batch: 2, steps: Some(5), ..usual };
        let sampled = pipeline.sample(&options).unwrap();
        assert_eq!(trainer.pipeline().unwrap().sample(&options).unwrap(), sampled, "{}", name(&config));
    }
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Preset::Tiny.config();
        change(&mut config);
        config.validate().expect_err("a contradiction").to_string()
    };
    let message = refused(|config| config.diffusion.learned_range = true);
    assert!(message.contains("unet.out_channels: expected 2 for in_channels = 1"), "{message}");
    let message = refused(|config| config.unet.out_channels = 2);
    assert!(message.contains("unet.out_channels: expected 1"), "{message}");
    let message = refused(|config| config.diffusion.zero_terminal_snr = true);
    assert!(message.contains("diffusion.prediction: expected sample or v_prediction"), "{message}");
    for weight in [
        LossWeight::MinSnr { gamma: 0.0 },
        LossWeight::MinSnr { gamma: f64::NAN },
        LossWeight::P2 { k: 0.0, gamma: 1.0 },
        LossWeight::P2 { k: 1.0, gamma: -1.0 },
    ] {
        let mut config = Preset::Tiny.config();
        config.train.loss_weight = weight;
        let message = config.validate().expect_err("out of range").to_string();
        assert!(message.contains("train.loss_weight."), "{message}");
    }
    for config in objectives() {
        config.validate().expect("a configuration that can be trained");
        check_fit(&config, &images()).expect("garments fit");
        let text = config.to_toml();
        assert_eq!(Config::from_toml(&text, "here").expect("its own text"), config, "{text}");
    }
    // A run of the slides' objective says nothing of others.
    let text = Preset::Tiny.config().to_toml();
    for key in ["prediction", "learned_range", "loss_weight", "timesteps = \"uniform\""] {
        assert!(!text.contains(key), "{text}");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The flags, from `train` to the folder, through a pause to the same bits, and into `sample` and `evaluate`.
#[test]
fn flags_choose_the_objective_and_the_run_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Without sample grids, which would take longer than the training.
    let mut short = Preset::Tiny.config();
    (short.train.grids, short.diffusion.timesteps) = (0, 20);
    std::fs::write(at.join("short.toml"), short.to_toml()).expect("a file");
    let flags = [
        "--config",
        "short.toml",
        "--quiet",
        "--prediction",
        "v",
        "--variance",
        "learned-range",
        "--loss-weight",
        "min-snr",
        "--loss-gamma",
        "4",
        "--timesteps",
        "stratified",
    ];
    let train = |out: &str, steps: &str| {
        succeed(at, &[&["train", "--out", out, "--steps", steps], &flags[..]].concat());
    };
    train("straight", "6");
    train("run", "3");
    succeed(at, &["train", "--resume", "run", "--steps", "6", "--quiet"]);
    let weights = |run: &str| {
        std::fs::read(at.join(run).join("unet/diffusion_pytorch_model.safetensors")).expect("weights")
    };
    assert!(weights("run") == weights("straight"), "a resumed run has other bits");
    let text = read(&at.join("run/config.toml"));
    let config = Config::from_toml(&text, "the run").unwrap();
    assert_eq!(config.diffusion.prediction, Prediction::VPrediction);
    assert!(config.diffusion.learned_range && config.unet.out_channels == 2, "{text}");
    assert_eq!(config.train.loss_weight, LossWeight::MinSnr { gamma: 4.0 });
    assert_eq!(config.train.timesteps, TimestepSampling::Stratified);
    let scheduler = read(&at.join("run/scheduler/scheduler_config.json"));
    for line in ["\"DDPMScheduler\"", "\"prediction_type\": \"v_prediction\"", "\"learned_range\""] {
        assert!(scheduler.contains(line), "{scheduler}");
    }
    assert!(read(&at.join("run/model_index.json")).contains("\"DDPMPipeline\""));
    succeed(at, &["sample", "run", "-n", "2", "--steps", "4", "--quiet"]);
    succeed(at, &["sample", "run", "-n", "2", "--sampler", "dpm++", "--steps", "3", "--quiet"]);
    let told = succeed(at, &["evaluate", "run", "--nll", "-n", "3", "--strata", "2", "--quiet", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(found["nll"]["variance"], "learned_range");
    assert_eq!(found["nll"]["learned"]["variance"], "learned_range");
    assert!(found["nll"]["learned"]["bits_per_dim"]["mean"].as_f64().is_some());
    let table = succeed(at, &["evaluate", "run", "--nll", "-n", "3", "--strata", "2", "--draws", "2"]);
    assert!(table.contains("learned sigma^2") && table.contains("error of draws alone"), "{table}");

    // Back to a fixed variance from the same configuration.
    let back =
        ["train", "--config", "run/config.toml", "--steps", "1", "--out", "back", "--quiet", "--variance"];
    succeed(at, &[&back[..], &["fixed-large", "--loss-weight", "none"]].concat());
    let config = Config::from_toml(&read(&at.join("back/config.toml")), "the run").unwrap();
    assert!(!config.diffusion.learned_range && config.unet.out_channels == 1);
    assert_eq!(config.train.loss_weight, LossWeight::None);

    for (bad, told) in [
        (&["--loss-gamma", "3"][..], "--loss-weight"),
        (&["--loss-weight", "none", "--loss-gamma", "3"], "--loss-gamma"),
        (&["--loss-weight", "min-snr", "--loss-k", "3"], "--loss-k"),
        (&["--loss-weight", "p2", "--loss-k", "0"], "train.loss_weight.k"),
        (&["--resume", "run", "--prediction", "v"], "--prediction"),
    ] {
        let output = command(at, &[&["train"], bad].concat()).output().expect("a start");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {message}");
        assert!(message.contains(told), "{bad:?}: {message}");
    }
}
