//! The model that the program carries, where there is no run.

use crate::support::binary::{run, succeed};
use performer_ddpm::checkpoint::{SHIPPED, model_folder};
use performer_ddpm::{Pipeline, SampleOptions};
use std::path::Path;

/// The package's limit for the weights.
const MOST_BYTES: u64 = 5_000_000;

#[test]
fn it_is_the_folder_in_the_repository_and_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-model");
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    assert!(weights.metadata().expect("weights").len() <= MOST_BYTES);
    let (there, carried) = (
        model_folder::load::<f32>(&folder).expect("a model folder"),
        model_folder::load::<f32>(SHIPPED.as_ref()).expect("a model"),
    );
    assert_eq!(there.model, carried.model);
    assert_eq!((there.diffusion, there.note), (carried.diffusion, carried.note));
}

/// Two images in ten steps are garments already: a dark background around something brighter.
#[test]
fn it_samples_in_three_lines() {
    let mut pipeline = Pipeline::load(SHIPPED).expect("a model");
    let options = SampleOptions { count: 2, steps: Some(10), ..pipeline.options() };
    let images = pipeline.sample(&options).expect("images");
    assert_eq!(images.dim(), (2, 28, 28, 1));
    for image in images.outer_iter() {
        assert!(image.iter().all(|x| x.is_finite()));
        let border = image.rows().into_iter().map(|row| row[0]).sum::<f32>() / 28.0;
        let brightest = image.iter().copied().fold(f32::MIN, f32::max);
        assert!(border < -0.8 && brightest > 0.0, "border {border}, brightest {brightest}");
    }
}

#[test]
fn commands_use_it_and_say_so_where_no_run_exists() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let told = |arguments: &[&str]| {
        let output = run(folder, arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        assert!(text.contains("the model that the program carries"), "{arguments:?}: {text}");
    };
    told(&["sample", "-n", "1", "--steps", "2"]);
    assert!(folder.join("samples.png").is_file());
    told(&["info", "--quiet"]);
    told(&["export", "model.onnx", "--check", "none"]);
    told(&["evaluate", "--nll", "-n", "4", "--strata", "2"]);
    let named = succeed(folder, &["info", SHIPPED, "--json"]);
    assert!(named.contains("\"model\":\"fashion\"") || named.contains("\"model\": \"fashion\""), "{named}");

    // A folder of that name comes first.
    std::fs::create_dir(folder.join(SHIPPED)).expect("a folder");
    let output = run(folder, &["info", SHIPPED]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
