//! `train`'s report and event files, and `report`.

use crate::support::binary::{run, succeed};
use performer_ddpm::config::Preset;
use std::fs;
use std::path::Path;

/// Writes the tiny preset with a chain of 10 steps and one sample grid: grids take longer than training.
fn write_config(folder: &Path) {
    let mut config = Preset::Tiny.config();
    config.diffusion.timesteps = 10;
    config.train.grids = 1;
    fs::write(folder.join("short.toml"), config.to_toml()).unwrap();
}

fn train(folder: &Path, words: &[&str]) -> String {
    succeed(folder, &[&["train", "--quiet"], words].concat())
}

/// The event files of a run in their order.
fn events(run: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(run.join("tensorboard")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// How often a part is in a file.
fn count(file: &[u8], part: &[u8]) -> usize {
    file.windows(part.len()).filter(|window| *window == part).count()
}

#[test]
fn a_run_leaves_its_report_and_event_files_and_a_resumed_one_goes_on_with_both() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    write_config(folder);
    train(folder, &["--config", "short.toml", "--steps", "12", "--out", "run", "--tensorboard"]);
    let page = || fs::read_to_string(folder.join("run/report.html")).unwrap();
    assert!(page().contains("Done: 12 steps.") && page().contains("image/png;base64"), "{}", page());
    assert_eq!(page().matches("<th scope=\"row\">run</th>").count(), 2, "its figures and its call");
    let first = &events(&folder.join("run"))[0];
    for (tag, times) in [("loss", 12), ("gradient_norm", 12), ("images_per_second", 12), ("samples", 1)] {
        assert_eq!(count(first, tag.as_bytes()), times, "{tag}");
    }

    train(folder, &["--resume", "run", "--steps", "20", "--tensorboard"]);
    assert!(page().contains("Done: 20 steps."));
    assert_eq!(page().matches("<th scope=\"row\">run</th>").count(), 3, "its figures and two calls");
    let files = events(&folder.join("run"));
    assert_eq!(files.len(), 2);
    assert_eq!(count(&files[1], b"loss"), 8);
    // Step 13, and `session_log { status: START }`: what an earlier file has from there on is forgotten.
    assert_eq!(count(&files[1], b"\x10\x0d\x3a\x02\x08\x01"), 1);
    assert_eq!(files[0], *first);

    train(folder, &["--resume", "run", "--steps", "24"]);
    assert_eq!(events(&folder.join("run")).len(), 2, "not asked for");
}

#[test]
fn a_report_that_cannot_be_written_is_a_warning_and_changes_no_bit() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    write_config(folder);
    fs::create_dir_all(folder.join("bad/report.html")).unwrap();
    let words = ["train", "--config", "short.toml", "--steps", "12", "--out"];
    let output = run(folder, &[&words[..], &["bad"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("warning:") && told.contains("report.html"), "{told}");
    succeed(folder, &[&words[..], &["good", "--tensorboard"]].concat());
    let weights =
        |run: &str| fs::read(folder.join(run).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(weights("bad"), weights("good"));
}

#[test]
fn runs_are_reported_again_and_side_by_side() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    write_config(folder);
    train(folder, &["--config", "short.toml", "--steps", "5", "--out", "a"]);
    train(folder, &["--config", "short.toml", "--steps", "5", "--lr", "0.002", "--out", "b"]);
    fs::remove_file(folder.join("a/report.html")).unwrap();
    assert_eq!(succeed(folder, &["report", "a"]).trim(), "a/report.html");
    assert!(fs::read_to_string(folder.join("a/report.html")).unwrap().contains("Training run a"));
    // Without a name it is the newest.
    assert_eq!(succeed(folder, &["report"]).trim(), "runs/latest/report.html");
    assert!(fs::read_to_string(folder.join("b/report.html")).unwrap().contains("Training run b"));
    assert_eq!(succeed(folder, &["report", "a", "b"]).trim(), "report.html");
    let both = fs::read_to_string(folder.join("report.html")).unwrap();
    for part in ["2 training runs: a, b", "train.lr", "0.002", "The losses over time"] {
        assert!(both.contains(part), "{part}");
    }
    for (words, told) in [
        (&["report", "a", "nowhere"][..], "nowhere: expected a run's folder"),
        (&["report", "a", "--out", "x.png"], "--out: expected a .html file"),
    ] {
        let output = run(folder, words);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(told), "{message}");
    }
}
