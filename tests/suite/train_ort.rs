//! Training in ONNX Runtime, on the processor: it follows the engine, goes on in it and from it, and ends
//! with the same bits when it was stopped.

use crate::support::binary::{command, succeed};
use crate::support::runtimes::at_hand;
use performer_ddpm::checkpoint::state::{self, TrainingState};
use performer_ddpm::config::{BlockAttention, Config, Preset, RuntimeConfig, TimestepSampling, UnetConfig};
use performer_ddpm::data::{Dataset, Labels, load};
use performer_ddpm::sample::onnx::Runtime;
use performer_ddpm::train::{Limit, Metric, Run, RunOptions};
use performer_ddpm_onnx::runner::Device;
use std::path::Path;

/// Whether ONNX Runtime is here; says so where it is not.
fn is_here() -> bool {
    at_hand().iter().any(|runtime| matches!(runtime, Runtime::OnnxRuntime(_)))
}

/// The same configuration in ONNX Runtime on the processor, or in the engine.
fn by(config: &Config, runtime: bool) -> Config {
    Config { runtime: runtime.then(|| RuntimeConfig::ort(Device::Cpu)), ..config.clone() }
}

/// Trains up to a step, in a new folder or on from the one that is there.
fn train(folder: &Path, config: &Config, data: &Dataset, steps: u64) {
    let run = match folder.join("config.toml").exists() {
        true => Run::open(folder).expect("a run").0,
        false => Run::create_new(folder, config).expect("a folder"),
    };
    let options = RunOptions { threads: 2, grids: false, ..RunOptions::from(Limit::Steps(steps)) };
    run.train(config, data, options, || false, |_| {}).expect("training");
}

fn metrics(folder: &Path) -> Vec<Metric> {
    Run::open(folder).expect("a run").0.metrics().expect("metrics")
}

fn end(folder: &Path) -> TrainingState {
    state::newest(folder).expect("readable").expect("a checkpoint").state
}

/// Compares what two runs wrote down of their steps; `bound` is relative to what the engine's has.
fn follow(engine: &Path, other: &Path, bound: f64) {
    let (engine, other) = (metrics(engine), metrics(other));
    assert_eq!(engine.len(), other.len());
    for (want, got) in engine.iter().zip(&other) {
        assert_eq!((want.step, want.lr), (got.step, got.lr));
        for (want, got) in [(want.loss, got.loss), (want.gradient_norm, got.gradient_norm)] {
            assert!((got - want).abs() <= bound * want.abs(), "{got} for {want}: {other:?}");
        }
    }
}

/// The largest difference of two runs' weights and averages, as a share of the largest of each vector.
fn difference(a: &TrainingState, b: &TrainingState) -> f64 {
    let largest = |x: &[f32]| x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let of = |a: &[f32], b: &[f32]| {
        let apart: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        f64::from(largest(&apart) / largest(a))
    };
    of(&a.weights, &b.weights).max(of(&a.ema, &b.ema))
}

/// Twelve images of 8x8 of three classes.
fn images() -> Dataset {
    let pixels = ndarray::Array4::from_shape_fn((12, 8, 8, 3), |(n, y, x, c)| match n % 3 {
        0 => (10 + n + 20 * c) as u8,
        1 => (240 - n - 9 * x) as u8,
        _ => 255 * (y % 2) as u8,
    });
    let names = ["dark", "light", "striped"].map(str::to_owned).to_vec();
    let labels = Labels::new((0..12).map(|i| i % 3).collect(), names).expect("labels");
    let data = Dataset::from_array("stripes", pixels.view()).and_then(|data| data.with_labels(labels));
    data.expect("images").with_flips()
}

/// Leaves one level of a network, with FAVOR+: ONNX Runtime takes seconds to prepare a graph of two.
fn one_level(unet: &mut UnetConfig) {
    unet.block_out_channels.truncate(1);
    unet.down_attention = vec![BlockAttention::Favor];
    unet.up_attention = vec![BlockAttention::Favor];
}

/// Everything that a batch may hold: colours, flips, strata, classes, some of them dropped, dropout; and
/// projections that are drawn again on the way.
fn everything() -> Config {
    let names = ["dark", "light", "striped"].map(str::to_owned).to_vec();
    let mut config = Preset::Tiny.config().for_images([8, 8, 3]).for_classes(&names, 0.3);
    config.diffusion.timesteps = 20;
    one_level(&mut config.unet);
    config.unet.dropout = 0.1;
    config.unet.favor.redraw_every = 5;
    config.train.batch = 5;
    config.train.timesteps = TimestepSampling::Stratified;
    config.train.checkpoint_every = 4;
    config
}

/// The losses' bound of the tiny preset is the one that is promised. Both compute in f32, and their roundings
/// are about 1e-7 of a number; training amplifies what they differ by.
fn follow_tiny(steps: u64) {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let data = load(None, None).expect("the garments").train;
    let config = Preset::Tiny.config();
    let [engine, other] = ["engine", "ort"].map(|name| folder.path().join(name));
    train(&engine, &by(&config, false), &data, steps);
    train(&other, &by(&config, true), &data, steps);
    follow(&engine, &other, 1e-3);
}

#[test]
fn training_in_onnx_runtime_follows_the_engine() {
    follow_tiny(30);
}

#[test]
#[ignore = "takes a minute"]
fn training_in_onnx_runtime_follows_the_engine_for_200_steps() {
    follow_tiny(200);
}

/// All draws are the engine's: one that was not would change the loss by far more than the bound.
#[test]
fn classes_dropout_strata_and_new_projections_follow_the_engine() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [engine, other] = ["engine", "ort"].map(|name| folder.path().join(name));
    train(&engine, &by(&everything(), false), &images(), 12);
    train(&other, &by(&everything(), true), &images(), 12);
    follow(&engine, &other, 1e-3);
    assert_eq!(end(&engine).projections, end(&other).projections);
}

/// Stopped twice, once just after new projections were due.
#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [straight, stopped] = ["straight", "stopped"].map(|name| folder.path().join(name));
    let config = by(&everything(), true);
    train(&straight, &config, &images(), 12);
    for steps in [5, 8, 12] {
        train(&stopped, &config, &images(), steps);
    }
    let (a, b) = (end(&straight), end(&stopped));
    assert!(a.weights == b.weights && a.ema == b.ema);
    assert!(a.first_moment == b.first_moment && a.second_moment == b.second_moment);
    let numbers = |m: &Metric| (m.step, m.loss, m.gradient_norm, m.lr);
    let [a, b] = [&straight, &stopped].map(|run| metrics(run).iter().map(numbers).collect::<Vec<_>>());
    assert_eq!(a, b);
}

/// Ends where the engine does, to what rounding makes of twelve steps of Adam, each of which moves a weight
/// by up to the learning rate whatever its gradient: a hundredth of the largest weight is far less than the
/// steps' sum.
#[test]
fn a_run_changes_from_the_engine_to_onnx_runtime_and_back() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [engine, mixed] = ["engine", "mixed"].map(|name| folder.path().join(name));
    let config = everything();
    train(&engine, &by(&config, false), &images(), 12);
    for (steps, runtime) in [(4, false), (9, true), (12, false)] {
        train(&mixed, &by(&config, runtime), &images(), steps);
        let recorded = Run::open(&mixed).expect("a run").1.runtime;
        let version = recorded.map(|runtime| runtime.version.expect("the version that computed"));
        assert_eq!(version.is_some(), runtime, "{version:?}");
    }
    follow(&engine, &mixed, 1e-3);
    let (a, b) = (end(&engine), end(&mixed));
    let start = tempfile::tempdir().expect("a folder");
    train(&start.path().join("run"), &by(&config, false), &images(), 1);
    let moved = difference(&a, &end(&start.path().join("run")));
    let apart = difference(&a, &b);
    assert!(apart < 1e-2 * moved, "{apart} where training moved the weights by {moved}");
}

/// The tiny preset with one level and a short chain: the run ends with a grid of samples.
fn write_config(folder: &Path) {
    let mut config = Preset::Tiny.config();
    one_level(&mut config.unet);
    config.diffusion.timesteps = 4;
    std::fs::write(folder.join("short.toml"), config.to_toml()).expect("a file");
}

#[test]
fn the_command_records_what_computes_and_goes_on_with_it() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_config(folder);
    let short = ["train", "--config", "short.toml", "--out", "run", "--threads", "1"];
    let output = command(folder, &[&short[..], &["--steps", "3", "--backend", "ort"]].concat()).output();
    let output = output.expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("ONNX Runtime 1.") && told.contains("on cpu") && !told.contains("the engine makes"),
        "{told}"
    );
    assert!(folder.join("run/samples/step-00000003.png").exists());
    let recorded = || Run::open(&folder.join("run")).expect("a run").1.runtime;
    assert!(recorded().is_some_and(|runtime| runtime.version.is_some()));
    succeed(folder, &["train", "--resume", "run", "--steps", "5", "--threads", "1", "-q"]);
    assert!(recorded().is_some());
    succeed(folder, &["train", "--resume", "run", "--steps", "6", "--backend", "native", "-q"]);
    assert!(recorded().is_none());
    // Changed twice, and nothing lost.
    assert_eq!(metrics(&folder.join("run")).len(), 6);
    succeed(folder, &["sample", "run", "-n", "1", "--steps", "2", "-q"]);
}

/// The one message of a command that ends with this status.
fn refused(folder: &Path, arguments: &[&str], status: i32, words: &[&str]) {
    let output = command(folder, arguments).output().expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{told}");
    assert_eq!(told.matches("error:").count(), 1, "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}

#[test]
fn what_is_missing_is_told_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let tiny = ["train", "--preset", "tiny", "--steps", "3", "--out", "run", "--backend", "ort"];
    refused(folder, &[&tiny[..], &["--ort-lib", "no/such.so"]].concat(), 2, &["no/such.so: no such file"]);
    if is_here() {
        refused(folder, &[&tiny[..], &["--device", "cuda:99"]].concat(), 2, &["cuda:99 cannot be used"]);
    }
    refused(folder, &[&tiny[..8], &["tract"]].concat(), 2, &["tract", "native, ort"]);
    assert!(!folder.join("run").exists());
}

#[test]
fn a_run_that_diverges_keeps_its_last_checkpoint() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_config(folder);
    let train = ["train", "--config", "short.toml", "--steps", "2", "--out", "run", "--backend", "ort", "-q"];
    succeed(folder, &train);
    let good = end(&folder.join("run"));
    let file = folder.join("run/config.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let lr = text.lines().find(|line| line.starts_with("lr = ")).expect("a rate");
    std::fs::write(&file, text.replace(lr, "lr = 1e30")).expect("a file");
    let resume = ["train", "--resume", "run", "--steps", "20", "-q"];
    refused(folder, &resume, 1, &["not finite at step", "checkpoint of step 2 is kept"]);
    assert_eq!(end(&folder.join("run")), good);
}
