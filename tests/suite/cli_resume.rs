//! A run that was stopped by Ctrl-C or killed, and resumed, ends with the same bits as an uninterrupted one.

use crate::support::binary::{command, succeed};
use performer_ddpm::checkpoint::state;
use performer_ddpm::config::{LrDecay, Preset};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

const FINAL: [&str; 2] = ["unet/diffusion_pytorch_model.safetensors", "unet/raw_weights.safetensors"];

/// More than the preset's 40, so that a run that is resumed to another end is seen; and far from the second
/// checkpoint, after which runs are stopped.
const STEPS: u64 = 75;

/// Writes the tiny preset with small batches and a chain of 4 steps: each run ends with a grid of samples,
/// which would take longer than its training.
fn write_config(folder: &Path) {
    let mut config = Preset::Tiny.config();
    config.diffusion.timesteps = 4;
    config.train.batch = 4;
    std::fs::write(folder.join("short.toml"), config.to_toml()).expect("a file");
}

/// Everything in a metrics file except the columns that depend on the clock.
fn metrics(folder: &Path) -> Vec<(u64, f64, f64, f64)> {
    String::from_utf8(bytes(folder, "metrics.jsonl"))
        .expect("text")
        .lines()
        .map(|line| {
            let m: performer_ddpm::train::Metric = serde_json::from_str(line).expect("a metric");
            (m.step, m.loss, m.gradient_norm, m.lr)
        })
        .collect()
}

/// Starts a run, waits until it has written its second checkpoint, and stops it by `signal`.
fn stopped(folder: &Path, signal: &str) -> Output {
    let arguments =
        ["train", "--config", "short.toml", "--out", "run", "--threads", "3", "--conv", "winograd"];
    let steps = STEPS.to_string();
    let arguments = [&arguments[..], &["--steps", &steps]].concat();
    stop_after(folder, &arguments, "run/checkpoints/step-00000020.safetensors", signal)
}

#[cfg(unix)]
fn kill_after(folder: &Path, arguments: &[&str], file: &str) {
    assert!(!stop_after(folder, arguments, file, "-KILL").status.success());
}

/// Starts a run, waits until it has written a file, and stops it by `signal`.
fn stop_after(folder: &Path, arguments: &[&str], file: &str, signal: &str) -> Output {
    let mut command = command(folder, arguments);
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a start");
    let start = Instant::now();
    while !folder.join(file).exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint in two minutes");
        assert!(child.try_wait().expect("a child").is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(2));
    }
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    child.wait_with_output().expect("the run ends")
}

#[cfg(unix)]
#[test]
fn a_stopped_run_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = STEPS.to_string();
    let at = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        write_config(&path);
        path
    };
    let (straight, interrupted, killed, stepwise) =
        (at("straight"), at("interrupted"), at("killed"), at("stepwise"));
    succeed(&straight, &["train", "--config", "short.toml", "--steps", &all, "--out", "run", "--quiet"]);

    let output = stopped(&interrupted, "-INT");
    assert_eq!(output.status.code(), Some(130), "Ctrl-C ends a run in order");
    let newest = state::newest(&interrupted.join("run")).expect("readable").expect("a checkpoint");
    assert!((20..STEPS).contains(&newest.state.step), "saved at step {}", newest.state.step);
    let told = String::from_utf8_lossy(&output.stdout);
    let (_, resume) = told.trim_end().split_once("performer-ddpm ").expect("how to go on");
    assert_eq!(resume, "train --resume run --conv winograd");
    succeed(&interrupted, &[&resume.split(' ').collect::<Vec<_>>()[..], &["--quiet"]].concat());

    assert!(!stopped(&killed, "-KILL").status.success());
    succeed(&killed, &["train", "--resume", "--quiet", "--threads", "1"]);

    succeed(&stepwise, &["train", "--config", "short.toml", "--steps", "7", "--out", "run", "--quiet"]);
    succeed(&stepwise, &["train", "--resume", "run", "--steps", "13", "--quiet"]);
    succeed(&stepwise, &["train", "--resume", "run", "--steps", &all, "--quiet"]);

    for other in [&interrupted, &killed, &stepwise] {
        for file in FINAL {
            let file = format!("run/{file}");
            assert!(
                bytes(other, &file) == bytes(&straight, &file),
                "{} differs in {}",
                file,
                other.display()
            );
        }
        assert_eq!(metrics(&other.join("run")), metrics(&straight.join("run")), "{}", other.display());
        let kept = std::fs::read_dir(other.join("run/checkpoints")).expect("checkpoints").count();
        assert_eq!(kept, 2, "the last two checkpoints are kept");
    }
    let grid = format!("run/samples/step-{STEPS:08}.png");
    assert!(bytes(&killed, &grid) == bytes(&straight, &grid), "the sample grids differ");
}

/// The weights that a run ended with, averaged and raw.
fn weights(folder: &Path, run: &str) -> [Vec<u8>; 2] {
    FINAL.map(|file| bytes(folder, &format!("{run}/{file}")))
}

/// The steps of a run, from its configuration.
fn planned(folder: &Path, run: &str) -> performer_ddpm::config::TrainConfig {
    performer_ddpm::train::Run::open(&folder.join(run)).expect("a run").1.train
}

/// The clock changes nothing but the plan: its record gives the same weights to a run that knows no clock,
/// killed or not, and a run by the clock that is killed goes on with the minutes that it has left.
#[cfg(unix)]
#[test]
fn the_recorded_plan_of_a_run_by_the_clock_gives_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut config = Preset::Tiny.config();
    config.diffusion.timesteps = 4;
    config.train.batch = 4;
    config.train.lr_decay = LrDecay::Linear { from: 0.25 };
    config.train.checkpoint_every = 3;
    std::fs::write(folder.join("falling.toml"), config.to_toml()).expect("a file");

    let minutes = ["--config", "falling.toml", "--minutes", "0.02", "--out", "clock", "-q"];
    succeed(folder, &[&["train"], &minutes[..]].concat());
    let train = planned(folder, "clock");
    let steps = train.steps.expect("the length is recorded");
    assert_eq!((train.plan.last().map(|last| last.end), train.minutes), (Some(steps), Some(0.02)));
    let last = metrics(&folder.join("clock")).pop().expect("steps");
    assert_eq!((last.0, last.3), (steps, 0.01 * config.train.lr * (steps as f64 / 20.0).min(1.0)));

    let recorded = ["train", "--config", "clock/config.toml", "-q", "--out"];
    succeed(folder, &[&recorded[..], &["again", "--steps", &steps.to_string()]].concat());
    assert!(weights(folder, "again") == weights(folder, "clock"));
    assert_eq!(metrics(&folder.join("again")), metrics(&folder.join("clock")));

    let killed = ["train", "--config", "falling.toml", "--minutes", "0.04", "--out", "killed", "-q"];
    kill_after(folder, &killed, "killed/checkpoints/step-00000006.safetensors");
    succeed(folder, &["train", "--resume", "killed", "-q"]);
    let train = planned(folder, "killed");
    assert_eq!(train.minutes, Some(0.04));
    let recorded = ["train", "--config", "killed/config.toml", "-q", "--out", "replayed"];
    kill_after(folder, &recorded, "replayed/checkpoints/step-00000006.safetensors");
    succeed(folder, &["train", "--resume", "replayed", "-q"]);
    assert!(weights(folder, "replayed") == weights(folder, "killed"));
}

/// As after a kill before the first checkpoint.
#[test]
fn a_run_without_a_checkpoint_begins_again_from_its_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    write_config(folder.path());
    succeed(
        folder.path(),
        &["train", "--config", "short.toml", "--steps", "3", "--out", "run", "--quiet", "--seed", "5"],
    );
    let end = bytes(folder.path(), &format!("run/{}", FINAL[0]));
    for folder in [folder.path().join("run/checkpoints"), folder.path().join("run/unet")] {
        std::fs::remove_dir_all(folder).expect("they go");
    }
    let out = succeed(folder.path(), &["train", "--resume", "run", "--quiet"]);
    assert!(out.contains("trained 3 steps"), "{out}");
    assert!(bytes(folder.path(), &format!("run/{}", FINAL[0])) == end);
}

#[test]
fn sampling_is_repeatable_and_noise_can_be_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_config(folder);
    succeed(folder, &["train", "--config", "short.toml", "--steps", "3", "--quiet"]);
    let sample = |n: &str, batch: &str, threads: &str, file: &str, more: &[&str]| {
        let arguments =
            ["sample", "-n", n, "--batch", batch, "--threads", threads, "--npy", file, "--steps", "4", "-q"];
        succeed(folder, &[&arguments[..], more].concat());
        performer_ddpm::output::read_npy::<ndarray::Ix4>(&folder.join(file)).expect("an array")
    };
    let five = sample("5", "5", "1", "a.npy", &[]);
    let two = sample("2", "1", "3", "b.npy", &[]);
    assert_eq!(five.dim(), (5, 1, 28, 28));
    assert_eq!(five.slice(ndarray::s![..2, .., .., ..]), two);

    let noise = ndarray::Array5::<f32>::from_shape_fn((5, 2, 1, 28, 28), |(k, n, _, h, w)| {
        ((k * 7 + n * 3 + h * 5 + w) % 11) as f32 / 5.0 - 1.0
    });
    performer_ddpm::output::write_npy(&folder.join("noise.npy"), noise.view()).expect("a file");
    let a = sample("2", "2", "2", "c.npy", &["--noise", "noise.npy", "--sampler", "ddpm"]);
    let b = sample("2", "1", "1", "d.npy", &["--noise", "noise.npy", "--sampler", "ddpm", "--seed", "9"]);
    assert_eq!(a, b);
    assert!(a != two);
}

/// Writes another learning rate into a run's configuration.
fn set_rate(folder: &Path, rate: &str) {
    let config = folder.join("config.toml");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let lr = text.lines().find(|line| line.starts_with("lr = ")).expect("a rate");
    std::fs::write(&config, text.replace(lr, &format!("lr = {rate}"))).expect("a file");
}

/// The message of a command whose training has to diverge.
fn diverge(folder: &Path, arguments: &[&str]) -> String {
    let output = command(folder, arguments).output().expect("a start");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("not finite at step"), "{message}");
    message
}

#[test]
fn a_run_that_diverges_keeps_its_last_checkpoint_and_goes_on_at_a_lower_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let run = folder.join("run");
    write_config(folder);
    succeed(folder, &["train", "--config", "short.toml", "--steps", "4", "--out", "run", "--quiet"]);
    let newest = || state::newest(&run).expect("readable").expect("a checkpoint").state;
    let good = newest();
    set_rate(&run, "1e30");
    let message = diverge(folder, &["train", "--resume", "run", "--steps", "20", "-q"]);
    for words in ["at step 6", "checkpoint of step 4 is kept", "lower lr in run/config.toml", "--resume run"]
    {
        assert!(message.contains(words), "{words:?} is not in: {message}");
    }
    assert_eq!(newest(), good);
    set_rate(&run, "1e-3");
    succeed(folder, &["train", "--resume", "run", "--steps", "7", "--quiet"]);
    assert_eq!(newest().step, 7);
    assert_eq!(metrics(&run).len(), 7);
}

#[test]
fn a_run_that_diverges_before_a_checkpoint_speaks_of_none_and_begins_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_config(folder);
    let train = ["train", "--config", "short.toml", "--steps", "5", "--lr", "1e30", "--out", "run", "-q"];
    let message = diverge(folder, &train);
    assert!(message.contains("begin again by train --resume run"), "{message}");
    assert!(!message.contains("checkpoint"), "{message}");
    set_rate(&folder.join("run"), "1e-3");
    let out = succeed(folder, &["train", "--resume", "run", "--quiet"]);
    assert!(out.contains("trained 5 steps"), "{out}");
    assert_eq!(metrics(&folder.join("run")).len(), 5);
}

fn pictures(folder: &Path, count: u8) {
    std::fs::create_dir_all(folder).expect("a folder");
    for i in 0..count {
        let image = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(i * 20) ^ (x * y) as u8]));
        image.save(folder.join(format!("{i}.png"))).expect("a picture");
    }
}

/// The folder of the pictures may be moved, and goes on to the same bits; what is in it may not change.
#[test]
fn a_moved_folder_is_named_at_a_resume_and_a_changed_one_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_config(folder);
    pictures(&folder.join("here"), 9);
    let train = ["train", "--config", "tiny8.toml", "--data", "here", "--held-out", "0.2", "--out"];
    let mut config = Preset::Tiny.config().for_images([8, 8, 1]);
    config.diffusion.timesteps = 10;
    std::fs::write(folder.join("tiny8.toml"), config.to_toml()).expect("a file");
    succeed(folder, &[&train[..], &["straight", "--steps", "9", "-q"]].concat());
    succeed(folder, &[&train[..], &["run", "--steps", "5", "-q"]].concat());

    let resume = ["train", "--resume", "run", "--steps", "9"];
    let fails = |more: &[&str], parts: &[&str]| {
        let output = command(folder, &[&resume[..], more].concat()).output().expect("a start");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?} are not in: {told}");
    };
    std::fs::rename(folder.join("here"), folder.join("there")).expect("a folder");
    fails(&[], &["cannot read", "here"]);
    let moved = ["--data", "there"];
    pictures(&folder.join("there"), 10);
    fails(&moved, &["those that run was trained on", "--data"]);
    std::fs::remove_file(folder.join("there/9.png")).expect("a file");
    let whole = bytes(folder, "there/4.png");
    let other = bytes(folder, "there/5.png");
    // At least one of the two is trained on with this seed.
    std::fs::write(folder.join("there/4.png"), &other).expect("a file");
    std::fs::write(folder.join("there/6.png"), &other).expect("a file");
    fails(&moved, &["changed (", ".png"]);
    std::fs::write(folder.join("there/4.png"), &whole).expect("a file");
    pictures(&folder.join("there"), 9);
    succeed(folder, &[&resume[..], &moved, &["-q"]].concat());
    assert_eq!(weights(folder, "run"), weights(folder, "straight"));
    let (_, config) = performer_ddpm::train::Run::open(&folder.join("run")).expect("a run");
    assert!(config.data.path.is_some_and(|path| path.ends_with("there")));
    succeed(folder, &["train", "--resume", "run", "--steps", "10", "-q"]);
}
