//! What a shell, a terminal and other processes do to a run: signals, limits, two at once, what was left.

#![cfg(unix)]

use crate::support::binary::{command, run, succeed};
use performer_ddpm::config::Preset;
use performer_ddpm::output::FolderLock;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Writes small.toml: the tiny network on 8x8 pictures, a chain of 4 steps, a checkpoint every 5.
fn small(folder: &Path) {
    let mut config = Preset::Tiny.config().for_images([8, 8, 1]);
    config.diffusion.timesteps = 4;
    config.train.checkpoint_every = 5;
    std::fs::write(folder.join("small.toml"), config.to_toml()).expect("a file");
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures).expect("a folder");
    for i in 0..12u8 {
        let image = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(i * 20) ^ (x * y) as u8]));
        image.save(pictures.join(format!("{i}.png"))).expect("a picture");
    }
}

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--config", "small.toml", "--data", "pictures", "--out", "run", "-q"], more].concat()
}

/// A shell's command, in which `$P` is the program.
fn shell(folder: &Path, script: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.current_dir(folder).env("P", env!("CARGO_BIN_EXE_performer-ddpm")).args(["-c", script]);
    shell
}

fn status(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn wait_for(child: &mut Child, file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "no {} in two minutes", file.display());
        assert!(child.try_wait().expect("a child").is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

/// A stopped run says by its status that it was stopped, so that what was to follow it does not.
#[test]
fn a_signal_that_stops_a_run_is_its_status() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let folder = tempfile::tempdir().expect("a folder");
        small(folder.path());
        let mut child = command(folder.path(), &train(&["--steps", "1000000"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a start");
        wait_for(&mut child, &folder.path().join("run/checkpoints/step-00000005.safetensors"));
        send(&child, signal);
        let output = child.wait_with_output().expect("an end");
        assert_eq!(status(&output).0, Some(code), "{signal}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("go on with: performer-ddpm train --resume")
        );
        assert!(folder.path().join("run/unet/diffusion_pytorch_model.safetensors").exists());
    }
}

/// As `nohup` starts a process, and a shell one in the background: the signals stay ignored.
#[test]
fn ignored_signals_stay_ignored() {
    let folder = tempfile::tempdir().expect("a folder");
    small(folder.path());
    let script = format!("trap '' HUP INT; exec \"$P\" {}", train(&["--steps", "60"]).join(" "));
    let mut child = shell(folder.path(), &script).stdout(Stdio::piped()).spawn().expect("a start");
    wait_for(&mut child, &folder.path().join("run/checkpoints/step-00000005.safetensors"));
    send(&child, "-HUP");
    send(&child, "-INT");
    let output = child.wait_with_output().expect("an end");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains("trained 60 steps"), "{told}");
}

/// The closing grid does not hold a stop back: of larger images it would take minutes here.
#[test]
fn the_closing_samples_can_be_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut config = Preset::Tiny.config().for_images([28, 28, 1]);
    config.unet.sample_size = [112, 112];
    config.data.size = Some([112, 112]);
    config.train.batch = 1;
    std::fs::write(folder.join("large.toml"), config.to_toml()).expect("a file");
    small(folder);
    let arguments = ["train", "--config", "large.toml", "--data", "pictures", "--out", "run", "--steps", "1"];
    let mut child =
        command(folder, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a start");
    wait_for(&mut child, &folder.join("run/loss.svg"));
    let start = Instant::now();
    send(&child, "-TERM");
    let (code, told) = status(&child.wait_with_output().expect("an end"));
    assert_eq!(code, Some(143), "{told} after {:?}", start.elapsed());
    assert!(folder.join("run/checkpoints/step-00000001.safetensors").exists());
    assert!(!folder.join("run/samples/step-00000001.png").exists());
}

/// What was trained is not trained over where its checkpoints are gone.
#[test]
fn a_run_that_lost_its_checkpoints_is_not_begun_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "7"]));
    let weights =
        || std::fs::read(folder.join("run/unet/diffusion_pytorch_model.safetensors")).expect("them");
    let (before, metrics) = (weights(), std::fs::read(folder.join("run/metrics.jsonl")).expect("metrics"));
    std::fs::remove_dir_all(folder.join("run/checkpoints")).expect("they go");
    let (code, told) = status(&run(folder, &["train", "--resume", "run", "--steps", "9", "-q"]));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("run/checkpoints") && told.contains("trained weights"), "{told}");
    assert!(weights() == before && std::fs::read(folder.join("run/metrics.jsonl")).expect("them") == metrics);
    // Without weights, metrics of more steps than lead to the first checkpoint tell of one that is gone.
    std::fs::remove_dir_all(folder.join("run/unet")).expect("they go");
    let (code, told) = status(&run(folder, &["train", "--resume", "run", "-q"]));
    assert!(code == Some(2) && told.contains("metrics.jsonl of 7 steps"), "{told}");
    // Of no more than that, the run was killed before it: it begins again.
    let first: Vec<u8> = metrics.split_inclusive(|b| *b == b'\n').take(5).flatten().copied().collect();
    std::fs::write(folder.join("run/metrics.jsonl"), first).expect("a file");
    succeed(folder, &["train", "--resume", "run", "--steps", "7", "-q"]);
    assert!(weights() == before);
}

#[test]
fn two_processes_in_one_run_are_told_of_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "3"]));
    let lock = FolderLock::take(&folder.join("run")).expect("a lock");
    let (code, told) = status(&run(folder, &["train", "--resume", "run", "--steps", "5", "-q"]));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
    drop(lock);
    // Two that begin one folder at once: one trains, the other is told.
    let script = format!(
        "\"$P\" {0} & a=$!; \"$P\" {0}; b=$?; wait $a; echo $? $b",
        train(&["--steps", "9"]).join(" ").replace("--out run", "--out both")
    );
    let output = shell(folder, &script).output().expect("an end");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let ends = told.lines().last().expect("the statuses");
    assert!(["0 2", "2 0"].contains(&ends), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("cannot write"));
}

/// What is refused leaves no folder behind, and runs/latest where it was.
#[test]
fn a_refused_configuration_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "1"]));
    let latest = std::fs::read_link(folder.join("runs/latest")).expect("a link");
    let mut config = Preset::Tiny.config().for_images([8, 8, 1]);
    config.unet.block_out_channels = vec![1 << 19, 1 << 20];
    std::fs::write(folder.join("large.toml"), config.to_toml()).expect("a file");
    let large = ["train", "--config", "large.toml", "--data", "pictures", "--out", "large", "-q"];
    let (code, told) = status(&run(folder, &large));
    assert_eq!(code, Some(2), "{told}");
    assert!(!folder.join("large").exists(), "{told}");
    assert_eq!(std::fs::read_link(folder.join("runs/latest")).expect("a link"), latest);
}

/// Memory is compared with what is free, here with an address space of 2 GiB, before anything is made of it.
#[test]
fn what_does_not_fit_into_memory_is_refused_with_what_fits() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "1"]));
    let limited = |arguments: &str| {
        let script = format!("ulimit -v 2000000; exec \"$P\" {arguments}");
        status(&shell(folder, &script).output().expect("an end"))
    };
    for (arguments, part) in [
        ("sample run -n 100000000 -q", "at most"),
        ("sample run -n 4294967295 -q", "at most"),
        ("train --preset cifar10 --data pictures --size 512 --threads 2 --out no -q", "memory that are free"),
        ("sample run --threads 4096 -q", "expected 1 to"),
        ("bench --preset cifar10 --threads 4096", "expected 1 to"),
        ("bench --runs 4294967295", "is not in 1..=100000"),
    ] {
        let (code, told) = limited(arguments);
        assert_eq!(code, Some(2), "{arguments}: {told}");
        assert!(told.contains(part) && !told.contains("panicked"), "{arguments}: {told}");
    }
    assert!(!folder.join("no").exists());
}

#[test]
fn outputs_destroy_neither_inputs_nor_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "1"]));
    std::fs::copy(folder.join("run/unet/diffusion_pytorch_model.safetensors"), folder.join("run/unet/w"))
        .expect("a copy");
    std::fs::copy(folder.join("pictures/1.png"), folder.join("in.png")).expect("a copy");
    let noise = ndarray::Array5::<f32>::zeros((5, 1, 1, 8, 8));
    performer_ddpm::output::write_npy(&folder.join("n.npy"), noise.view()).expect("a file");
    let bytes = |file: &str| std::fs::read(folder.join(file)).expect("a file");
    let before = (bytes("n.npy"), bytes("in.png"));
    for arguments in [
        "sample run -n 1 --out run/unet/w -q",
        "sample run -n 1 --out x.png --strip ./x.png -q",
        "sample run -n 1 --out x --npy pictures/../x -q",
        "sample run --noise n.npy --npy n.npy --steps 4 -q",
        "edit vary in.png --model run --out in.png -q",
        "edit inpaint in.png --mask pictures/2.png --model run --out pictures/2.png -q",
    ] {
        let (code, told) = status(&run(folder, &arguments.split(' ').collect::<Vec<_>>()));
        assert_eq!(code, Some(2), "{arguments}: {told}");
        assert!(told.contains("another file than"), "{arguments}: {told}");
    }
    assert!((bytes("n.npy"), bytes("in.png")) == before && !folder.join("x.png").exists());
}

/// Streams that are closed, gone or full change no status but where results cannot be written.
#[test]
fn streams_may_be_closed_and_readers_may_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "2"]));
    for (script, code) in [
        ("set -o pipefail; \"$P\" info run | head -1", 0),
        ("set -o pipefail; \"$P\" audit --help | head -1", 0),
        ("\"$P\" info run <&-", 0),
        ("\"$P\" info run 2>&-", 0),
        ("\"$P\" sample run -n 1 -q --out a.png >&-", 0),
        ("\"$P\" sample run -n 1 --out a.png 2>&- >&- <&-", 0),
        ("\"$P\" train --resume run --steps 4 2>/dev/full", 0),
        ("\"$P\" info run >/dev/full", 1),
        ("\"$P\" sample run -n 1 -q --out /dev/full", 2),
        // A file may be no larger than 1 KiB here, which is as a full disk.
        ("ulimit -f 1; \"$P\" sample run -n 64 -q --out b.png", 1),
        ("ulimit -f 1; \"$P\" train --resume run --steps 9 -q", 1),
    ] {
        let output = shell(folder, script).output().expect("an end");
        assert_eq!(output.status.code(), Some(code), "{script}: {}", status(&output).1);
        assert!(!status(&output).1.contains("panicked"), "{script}: {}", status(&output).1);
    }
    assert!(!folder.join("b.png").exists() && !folder.join(".b.png.tmp").exists());
    succeed(folder, &["train", "--resume", "run", "--steps", "9", "-q"]);
}

/// A run whose folder goes away while it trains says so, and makes no other.
#[test]
fn a_folder_that_vanishes_ends_the_run_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    let mut child = command(folder, &train(&["--steps", "1000000"]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a start");
    wait_for(&mut child, &folder.join("run/checkpoints/step-00000005.safetensors"));
    std::fs::rename(folder.join("run"), folder.join("elsewhere")).expect("it goes");
    let (code, told) = status(&child.wait_with_output().expect("an end"));
    assert!(code == Some(1) && told.contains("run"), "{code:?} {told}");
    succeed(folder, &["train", "--resume", "elsewhere", "--steps", "12", "-q"]);
}

/// What a killed process leaves is cleared away or finished by the next one.
#[test]
fn what_a_kill_left_is_made_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    succeed(folder, &train(&["--steps", "20"]));
    let run_folder = folder.join("run");
    // As if it had been killed before the grid of step 10 was whole, and while it saved.
    std::fs::remove_file(run_folder.join("checkpoints/step-00000020.safetensors")).expect("it goes");
    let newest = run_folder.join("checkpoints/step-00000015.safetensors");
    for old in [3, 4] {
        let copy = run_folder.join(format!("checkpoints/step-{old:08}.safetensors"));
        std::fs::copy(&newest, copy).expect("a copy");
    }
    let grid = run_folder.join("samples/step-00000020.png");
    std::fs::rename(&grid, run_folder.join("samples/.step-00000020.png.tmp")).expect("it goes");
    std::fs::write(folder.join("runs/.latest.tmp"), "left").expect("a file");
    succeed(folder, &["train", "--resume", "run", "-q"]);
    let names = |part: &str| {
        let entries = std::fs::read_dir(folder.join(part)).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    assert_eq!(names("run/checkpoints"), ["step-00000015.safetensors", "step-00000020.safetensors"]);
    assert_eq!(names("run/samples"), ["step-00000010.png", "step-00000020.png"]);
    assert_eq!(names("runs"), ["latest"]);
}

/// As if a run had been killed when its checkpoint was written and the grid that belongs to it was not.
#[test]
fn a_grid_that_a_kill_prevented_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    small(folder);
    let config = std::fs::read_to_string(folder.join("small.toml")).expect("a file");
    std::fs::write(
        folder.join("small.toml"),
        config.replace("checkpoint_every = 5", "checkpoint_every = 10"),
    )
    .expect("a file");
    succeed(folder, &train(&["--steps", "20"]));
    std::fs::remove_file(folder.join("run/checkpoints/step-00000020.safetensors")).expect("it goes");
    let grid = folder.join("run/samples/step-00000010.png");
    let before = std::fs::read(&grid).expect("a grid");
    std::fs::remove_file(&grid).expect("it goes");
    succeed(folder, &["train", "--resume", "run", "-q"]);
    assert!(std::fs::read(&grid).expect("a grid") == before);
}
