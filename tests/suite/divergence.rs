//! Steps that diverge: what is done about them is recorded, the same at a resume, and nothing of it is saved.

use performer_ddpm::checkpoint::state;
use performer_ddpm::config::{Averaging, Config, OnNan, Preset};
use performer_ddpm::data::Dataset;
use performer_ddpm::kernels::{Isa, Kernels};
use performer_ddpm::train::{Event, Limit, Metric, Run, RunOptions, Trainer};
use performer_ddpm::{Error, Result};
use std::path::Path;

const STEPS: u64 = 12;

/// A rate at which the squares of the outputs, or the gradients, overflow sooner or later.
fn config(on_nan: OnNan, lr: f64) -> Config {
    let mut config = Preset::Tiny.config().for_images([4, 4, 1]);
    config.diffusion.timesteps = 4;
    config.train.average = Averaging::Exponential { decay: 0.5 };
    config.train.steps = Some(STEPS);
    config.train.checkpoint_every = 2;
    config.train.warmup_steps = 0;
    config.train.batch = 2;
    config.train.lr = lr;
    config.train.on_nan = on_nan;
    config
}

fn images() -> Dataset {
    let pixels = (0..6 * 16).map(|i| (i * 37 % 256) as u8).collect();
    Dataset::new("made-up images", [4, 4, 1], pixels, None, true).expect("images")
}

/// Trains up to a step, or to the end; what was told.
fn train(folder: &Path, config: &Config, limit: Limit) -> Result<Vec<String>> {
    // Which steps go back is decided by the rounding, so all processors take the same kernels there.
    let isa = if config.train.on_nan == OnNan::Backtrack { Isa::Reference } else { Isa::detect() };
    let run = match folder.join("config.toml").exists() {
        true => Run::open(folder)?.0,
        false => Run::create_new(folder, config)?,
    };
    let config = Run::open(folder)?.1;
    let options = RunOptions {
        limit,
        threads: 1,
        kernels: Kernels { isa, ..Kernels::default() },
        grids: false,
        library: None,
        tensorboard: false,
    };
    let mut told = Vec::new();
    run.train(
        &config,
        &images(),
        options,
        || false,
        |event| {
            if let Event::Note(note) = event {
                told.push(note.to_owned());
            }
        },
    )?;
    Ok(told)
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("unet/raw_weights.safetensors")).expect("weights")
}

/// The columns that the clock does not decide; NaN as text, which equals itself.
fn metrics(folder: &Path) -> Vec<(u64, String, String, Option<OnNan>)> {
    let column = |m: &Metric| (m.step, m.loss.to_string(), m.lr.to_string(), m.on_nan);
    Run::open(folder).expect("a run").0.metrics().expect("metrics").iter().map(column).collect()
}

fn finite(folder: &Path) -> bool {
    let newest = state::newest(folder).expect("readable");
    newest.is_none_or(|newest| {
        let state = newest.state;
        [state.weights, state.ema, state.first_moment, state.second_moment]
            .iter()
            .all(|numbers| numbers.iter().all(|x| x.is_finite()))
    })
}

#[test]
fn backtracking_is_recorded_and_gives_the_same_bits_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let [straight, again, stepwise] = ["straight", "again", "stepwise"].map(|name| folder.path().join(name));
    let wild = config(OnNan::Backtrack, 6e3);
    let told = train(&straight, &wild, Limit::Configured).expect("it gets there");
    assert!(!told.is_empty() && told.iter().all(|note| note.contains("going back to step")), "{told:?}");
    let recorded = Run::open(&straight).expect("a run").1;
    assert_eq!(recorded.train.halved.len(), told.len());
    let marked: Vec<u64> =
        metrics(&straight).iter().filter(|m| m.3 == Some(OnNan::Backtrack)).map(|m| m.0 - 1).collect();
    let mut halved = recorded.train.halved.clone();
    halved.dedup();
    assert_eq!(marked, halved);
    assert!(finite(&straight));
    // The recorded configuration goes the same way without going back.
    assert_eq!(train(&again, &recorded, Limit::Configured).expect("it gets there"), Vec::<String>::new());
    assert!(weights(&again) == weights(&straight));
    assert_eq!(metrics(&again), metrics(&straight));
    // So does a run in pieces.
    for step in (2..=STEPS).step_by(2) {
        train(&stepwise, &wild, Limit::Steps(step)).expect("it gets there");
    }
    assert_eq!(metrics(&stepwise), metrics(&straight));
    assert!(weights(&stepwise) == weights(&straight));
}

/// At this rate the weights are spoilt by the first steps, though they are numbers still: none are saved.
#[test]
fn weights_that_nothing_goes_on_from_are_not_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    for (on_nan, lr) in [(OnNan::Stop, 1e14), (OnNan::Skip, 1e14), (OnNan::Stop, 1e30), (OnNan::Stop, 1e38)] {
        let run = folder.path().join(format!("{on_nan}-{lr}"));
        let error = train(&run, &config(on_nan, lr), Limit::Configured).expect_err("it diverges");
        assert!(matches!(error, Error::NotFinite { .. }) && error.exit_status() == 1, "{error}");
        let message = error.to_string();
        for part in ["not finite at step", "lower lr in", "begin again", "TrainConfig::on_nan"] {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert!(state::newest(&run).expect("readable").is_none(), "{on_nan} at {lr}");
        assert!(!run.join("unet").exists());
    }
}

/// Skipped steps leave the weights alone; so many in a row show that these are spoilt, and the run stops.
#[test]
fn skipped_steps_change_nothing_and_do_not_go_on_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("run");
    let mut wild = config(OnNan::Skip, 1e14);
    wild.train.checkpoint_every = 0;
    wild.train.steps = Some(1000);
    let error = train(&run, &wild, Limit::Configured).expect_err("it diverges");
    let metrics = metrics(&run);
    let taken = metrics.iter().take_while(|m| m.3.is_none()).count();
    assert!((1..5).contains(&taken) && metrics.len() == taken + 20, "{taken} of {}", metrics.len());
    assert!(error.to_string().contains(&format!("at step {}", taken + 21)), "{error}");
    assert!(metrics[taken..].iter().all(|m| m.3 == Some(OnNan::Skip) && m.1 == "NaN"));
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    assert!(text.lines().last().expect("a line").contains("\"loss\":null"), "{text}");
}

/// A skipped step is a number and nothing else: what is saved after it has all that the next one depends on.
#[test]
fn training_goes_on_after_a_skipped_step_as_from_a_checkpoint() {
    let (config, images) = (config(OnNan::Skip, 1e-3), images());
    let mut one: Trainer<f32> = Trainer::new(&config, 1, Kernels::default()).expect("a trainer");
    let mut other: Trainer<f32> = Trainer::new(&config, 2, Kernels::default()).expect("a trainer");
    one.advance(&images).expect("a step");
    let before = one.progress();
    one.look_ahead(&images).expect("a gradient");
    one.skip();
    let after = one.progress();
    assert_eq!((after.step, &after.weights, &after.adam), (2, &before.weights, &before.adam));
    other.restore(after).expect("a state");
    one.look_ahead(&images).expect("a gradient");
    let steps = [one.advance(&images).expect("a step"), other.advance(&images).expect("a step")];
    assert_eq!(steps[0], steps[1]);
    assert_eq!(one.progress(), other.progress());
}
