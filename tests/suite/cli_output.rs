//! What `info` prints about a model, and commands whose output nobody reads.

use crate::support::binary::command;
use performer_ddpm::checkpoint::model_folder;
use performer_ddpm::config::{DiffusionConfig, FeatureMap, Preset};
use performer_ddpm::model::Model;
use std::process::{Output, Stdio};

/// A folder with the tiny preset's network and these features under `model`.
fn folder(map: FeatureMap) -> tempfile::TempDir {
    let mut config = Preset::Tiny.config().unet;
    config.favor.map = map;
    let model: Model<f32> = Model::new(&config, 1).expect("a network");
    let folder = tempfile::tempdir().expect("a folder");
    model_folder::save(&folder.path().join("model"), &model, None, &DiffusionConfig::default())
        .expect("a model");
    folder
}

/// A pipe that its reader has closed, as after `| head -1`.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let folder = folder(FeatureMap::Positive);
    for arguments in [&["info", "model"][..], &["info", "model", "--json"], &["audit"], &["--help"]] {
        let output = command(folder.path(), arguments).stdout(closed()).stderr(Stdio::piped()).output();
        let output = output.expect("the binary starts");
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
    let status = command(folder.path(), &["info", "nothing"]).stderr(closed()).status();
    assert_eq!(status.expect("the binary starts").code(), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_for_another_reason_is_an_error() {
    let folder = folder(FeatureMap::Positive);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
    let output = command(folder.path(), &["info", "model"]).stdout(full).stderr(Stdio::piped()).output();
    let output = output.expect("the binary starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).starts_with("error: cannot write to stdout"), "{}", text(&output));
}

#[test]
fn info_warns_of_trigonometric_features() {
    for map in FeatureMap::ALL {
        let folder = folder(map);
        let output = command(folder.path(), &["info", "model"]).output().expect("the binary starts");
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told.contains("so may denominators"), map == FeatureMap::Trigonometric, "{map:?}: {told}");
        assert_eq!(told.contains("relative variance"), map != FeatureMap::Relu, "{map:?}: {told}");
    }
}
