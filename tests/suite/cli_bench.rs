//! `bench` through the binary: accepted and refused arguments.

use crate::support::binary::run;
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::config::{DiffusionConfig, Preset};
use performer_ddpm::model::Model;
use std::path::Path;
use std::process::Output;

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    let fixed = ["bench", "--batch", "2", "--runs", "1", "--threads", "1", "--json"];
    run(folder, &[&fixed[..], arguments].concat())
}

/// The name of the measured network, and its predicted memory, which differs between networks.
fn measured(folder: &Path, arguments: &[&str]) -> (String, f64) {
    let output = bench(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    for key in ["train_images_per_s", "forward_images_per_s"] {
        assert!(figures[key].as_f64().is_some_and(|speed| speed > 0.0), "{figures}");
    }
    let name = figures["model"].as_str().expect("a name").to_owned();
    (name, figures["predicted_train_mib"].as_f64().expect("a number"))
}

/// A run that was killed has checkpoints and no model folder.
#[cfg(unix)]
#[test]
fn the_newest_run_is_measured_or_a_preset() {
    let folder = tempfile::tempdir().expect("a folder");
    let (name, fashion) = measured(folder.path(), &[]);
    assert_eq!(name, "preset fashion");
    let (name, tiny) = measured(folder.path(), &["--preset", "tiny"]);
    assert_eq!(name, "preset tiny");
    assert!(tiny < fashion, "{tiny} {fashion}");

    let train = ["train", "--preset", "tiny", "--steps", "2", "--batch", "2", "--quiet"];
    let output = run(folder.path(), &train);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = ("runs/latest".to_owned(), tiny);
    assert_eq!(measured(folder.path(), &[]), run);
    std::fs::remove_dir_all(folder.path().join("runs/latest/unet")).expect("the model goes");
    assert_eq!(measured(folder.path(), &[]), run);
    let checkpoint = "runs/latest/checkpoints/step-00000002.safetensors";
    assert_eq!(measured(folder.path(), &[checkpoint]), (checkpoint.to_owned(), tiny));
    assert_eq!(measured(folder.path(), &["--preset", "tiny"]).0, "preset tiny");
}

#[test]
fn any_channels_are_measured_if_as_many_come_out_as_go_in_or_twice_as_many() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, in_channels: usize, out_channels: usize| {
        let mut config = Preset::Tiny.config().unet;
        (config.in_channels, config.out_channels) = (in_channels, out_channels);
        let model: Model<f32> = Model::new(&config, 1).expect("a network");
        model_folder::save(&folder.path().join(name), &model, None, &DiffusionConfig::default())
            .expect("a model");
    };
    write("latent", 4, 4);
    assert_eq!(measured(folder.path(), &["latent"]).0, "latent");
    write("both", 3, 6);
    assert_eq!(measured(folder.path(), &["both"]).0, "both", "with a learned variance");
    write("more", 3, 9);
    let output = bench(folder.path(), &["more"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("more: out_channels: expected 3, like in_channels, or 6"), "{message}");
    assert_eq!(message.matches("error:").count(), 1, "{message}");
}
