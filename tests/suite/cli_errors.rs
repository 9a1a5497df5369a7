//! Bad input through the binary: one clear message, exit status 2 (or 1 while working).

use crate::support::binary::{command, run};
use std::path::Path;

/// The message of a command that must fail with `status`, a single `error:` line.
fn refusal(folder: &Path, status: i32, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
    assert_eq!(message.matches("error:").count(), 1, "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    message
}

fn holds(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn damaged_data_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let train = |status| {
        refusal(folder.path(), status, &["train", "--preset", "tiny", "--steps", "1", "--data", "data"])
    };
    holds(&train(2), &["data", "expected"]);

    let images = data.join("train-images-idx3-ubyte");
    std::fs::write(&images, [9; 32]).expect("a file");
    holds(&train(2), &["train-images-idx3-ubyte"]);
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28];
    idx.resize(1000, 7);
    std::fs::write(&images, &idx).expect("a file");
    holds(&train(2), &["train-images-idx3-ubyte"]);
    std::fs::remove_file(&images).expect("the file goes");
    std::fs::write(data.join("train-images-idx3-ubyte.gz"), [0x1f, 0x8b, 8, 0, 0]).expect("a file");
    holds(&train(2), &["train-images-idx3-ubyte.gz"]);
    assert!(!folder.path().join("runs").exists(), "nothing is made for a run that cannot be");
}

#[test]
fn images_of_mixed_sizes_need_a_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("pictures");
    std::fs::create_dir(&data).expect("a folder");
    for (name, side) in [("a.png", 20), ("b.png", 28)] {
        image::GrayImage::new(side, side).save(data.join(name)).expect("a picture");
    }
    let arguments = ["train", "--preset", "tiny", "--steps", "1", "--batch", "2", "--data", "pictures"];
    holds(&refusal(folder.path(), 2, &arguments), &["--size"]);
    let output = run(folder.path(), &[&arguments[..], &["--size", "12x16", "--quiet"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let odd = [&arguments[..], &["--size", "13"]].concat();
    holds(&refusal(folder.path(), 2, &odd), &["12 or 14", "13 x 13"]);
}

#[test]
fn unknown_keys_and_impossible_options_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = performer_ddpm::config::Preset::Tiny.config().to_toml();
    std::fs::write(folder.path().join("c.toml"), text.replace("clip_norm", "clip_nrom")).expect("a file");
    holds(
        &refusal(folder.path(), 2, &["train", "--config", "c.toml"]),
        &["c.toml", "clip_nrom", "\"batch\""],
    );
    refusal(folder.path(), 2, &["train", "--config", "missing.toml"]);
    holds(&refusal(folder.path(), 2, &["train", "--minutes", "-1"]), &["--minutes"]);
    refusal(folder.path(), 2, &["train", "--steps", "0"]);
    holds(&refusal(folder.path(), 2, &["train", "--isa", "mmx"]), &["reference"]);
    holds(&refusal(folder.path(), 2, &["train", "--resume", "nowhere"]), &["nowhere", "config.toml"]);
}

#[test]
fn a_folder_that_is_no_model_and_a_model_that_is_damaged_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    holds(&refusal(folder.path(), 2, &["sample", "runs/latest"]), &["runs/latest", "fashion"]);
    std::fs::create_dir(folder.path().join("empty")).expect("a folder");
    holds(&refusal(folder.path(), 2, &["sample", "empty"]), &["empty"]);
    holds(&refusal(folder.path(), 2, &["info", "empty"]), &["empty"]);

    let train = ["train", "--preset", "tiny", "--steps", "2", "--batch", "2", "--out", "run", "--quiet"];
    let output = run(folder.path(), &train);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    holds(&refusal(folder.path(), 2, &train), &["run", "--resume"]);

    holds(&refusal(folder.path(), 2, &["sample", "run", "--steps", "1000"]), &["100"]);
    holds(&refusal(folder.path(), 2, &["sample", "run", "--eta", "2"]), &["eta"]);
    std::fs::write(folder.path().join("noise.npy"), b"\x93NUMPY").expect("a file");
    holds(&refusal(folder.path(), 2, &["sample", "run", "--noise", "noise.npy"]), &["noise.npy"]);

    let checkpoint = folder.path().join("run/checkpoints/step-00000002.safetensors");
    let bytes = std::fs::read(&checkpoint).expect("the checkpoint");
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).expect("it is cut");
    holds(&refusal(folder.path(), 2, &["train", "--resume", "run"]), &["step-00000002.safetensors"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_and_not_a_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("file"), "here before").expect("a file");
    let output = run(folder.path(), &["train", "--preset", "tiny", "--steps", "1", "--out", "file/run"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{message}");
    assert!(message.contains("file/run") && !message.contains("panicked"), "{message}");
    assert_eq!(std::fs::read_to_string(folder.path().join("file")).expect("the file"), "here before");
}

/// The command that trains a model in `out` in a moment.
fn train_in(out: &str) -> [&str; 10] {
    ["train", "--preset", "tiny", "--steps", "1", "--batch", "2", "--out", out, "--quiet"]
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_an_error_before_the_work() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked).expect("a folder");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).expect("permissions");
    if std::fs::write(locked.join("try"), "").is_ok() {
        println!("skipped: permissions do not bind this user");
        return;
    }
    holds(&refusal(folder.path(), 1, &train_in("locked/run")), &["locked/run"]);
    let output = run(&locked, &train_in("../run"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    holds(&message, &["warning: runs/latest"]);
    let sample = ["sample", "../run", "-n", "1", "--steps", "1", "--npy", "../images.npy"];
    holds(&refusal(&locked, 1, &sample), &["samples.png"]);
    assert!(!folder.path().join("images.npy").exists(), "nothing was sampled");
}

#[test]
fn a_run_needs_no_link_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("runs"), "here before").expect("a file");
    let output = run(folder.path(), &train_in("run"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert_eq!(message.contains("warning: runs/latest"), cfg!(unix), "{message}");
    assert!(folder.path().join("run/model_index.json").is_file());
}

#[test]
fn a_new_run_leaves_other_models_alone() {
    for name in ["checkpoints", "metrics.jsonl", "unet", "scheduler", "model_index.json", "config.json"] {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        std::fs::create_dir(&model).expect("a folder");
        match name.contains('.') {
            true => std::fs::write(model.join(name), "here before").expect("a file"),
            false => std::fs::create_dir(model.join(name)).expect("a folder"),
        }
        holds(&refusal(folder.path(), 2, &train_in("model")), &["model", name, "--out"]);
        assert_eq!(std::fs::read_dir(&model).expect("the folder").count(), 1, "{name}");
    }
}

#[test]
fn samples_that_could_not_be_kept_are_not_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &train_in("run"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let grid = folder.path().join("samples.png");
    std::fs::write(&grid, "here before").expect("a file");
    for option in ["--out", "--npy", "--gif", "--strip"] {
        let sample = ["sample", "run", "-n", "1", "--steps", "1", option];
        holds(&refusal(folder.path(), 1, &[&sample[..], &["missing/a"]].concat()), &["missing/a"]);
        holds(&refusal(folder.path(), 2, &[&sample[..], &["run"]].concat()), &["run: expected a file"]);
    }
    assert_eq!(std::fs::read_to_string(&grid).expect("the file"), "here before");
    for entry in std::fs::read_dir(folder.path()).expect("the folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name in UTF-8");
        assert!(["run", "runs", "samples.png"].contains(&name.as_str()), "{name} is left");
    }
}

#[test]
fn comparisons_that_cannot_be_are_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("features.onnx"), [1, 2, 3]).expect("a file");
    let compare = |arguments: &[&str], words: &[&str]| {
        let all = [&["compare", "--preset", "tiny", "--out", "out"], arguments].concat();
        holds(&refusal(folder.path(), 2, &all), words);
    };
    compare(&["--minutes", "-1"], &["--minutes", "a positive number"]);
    compare(&["--variants", "softmax,favour"], &["favour", "favor-trig"]);
    compare(&["--variants", "relu,relu"], &["--variants", "relu,relu"]);
    compare(&["--only", "cost,prices"], &["prices", "approximation"]);
    compare(&["--data", "nowhere"], &["nowhere"]);
    compare(&["--features", "features.onnx"], &["features.onnx"]);
    compare(&["--report-only"], &["out", "a comparison's folder"]);
    assert!(!folder.path().join("out").exists(), "nothing is made for a comparison that cannot be");
}

/// What MPI's launchers would start several of would each train the whole run.
#[test]
#[cfg(not(feature = "mpi"))]
fn one_of_several_processes_is_refused_without_mpi() {
    let folder = tempfile::tempdir().expect("a folder");
    let [open_mpi, pmi, slurm] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
    for (told, status) in [
        (&[(open_mpi, "3")][..], 2),
        (&[(pmi, "2")], 2),
        (&[(slurm, "2")], 2),
        // `mpirun -n 1` on two nodes of Slurm's.
        (&[(slurm, "2"), (open_mpi, "1")], 0),
    ] {
        let train = ["train", "--preset", "tiny", "--steps", "1", "--threads", "1", "--quiet"];
        let output =
            command(folder.path(), &train).envs(told.iter().copied()).output().expect("the program runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{told:?}: {message}");
        assert_eq!(message.contains("--features mpi"), status == 2, "{message}");
        assert_eq!(folder.path().join("runs").exists(), status == 0);
    }
}
