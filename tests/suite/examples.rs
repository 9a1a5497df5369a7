//! The examples, each called on a network of a few thousand parameters.

use crate::support::peers;
use crate::support::pictures::decoded;
use performer_ddpm::sample::{Compute, onnx::Runtime};
use performer_ddpm::{Error, Pipeline, SampleOptions};
use performer_ddpm_onnx::Error as OnnxError;
use performer_ddpm_onnx::runner::{Device, TRACT_BUILT_IN};
use std::path::Path;
use std::sync::OnceLock;

#[allow(dead_code)]
#[path = "../../examples/evaluate.rs"]
mod evaluate;
#[allow(dead_code)]
#[path = "../../examples/export.rs"]
mod export;
#[allow(dead_code)]
#[path = "../../examples/inpaint.rs"]
mod inpaint;
#[allow(dead_code)]
#[path = "../../examples/load_and_sample.rs"]
mod load_and_sample;
#[allow(dead_code)]
#[path = "../../examples/sample_on_gpu.rs"]
mod sample_on_gpu;
#[allow(dead_code)]
#[path = "../../examples/train_on_my_images.rs"]
mod train_on_my_images;

/// A run of twenty steps on rings, trained once for all tests.
fn run() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let rings = train_on_my_images::rings(60).expect("images");
        let mut lines = Vec::new();
        let pipeline = train_on_my_images::train(&rings, folder.path(), 20, |line| lines.push(line));
        assert_eq!(pipeline.expect("training works").step(), Some(20));
        assert_eq!(lines.iter().filter(|line| line.contains(": loss ")).count(), 2, "{lines:?}");
        folder
    });
    folder.path()
}

#[test]
fn a_run_is_loaded_and_sampled() {
    let folder = tempfile::tempdir().expect("a folder");
    let grid = folder.path().join("grid.png");
    load_and_sample::load_and_sample(run(), &grid).expect("images");
    // Four 16x16 images a side, each pixel 4 wide, gutters of 2.
    let grid = decoded(&grid);
    assert_eq!((grid.width(), grid.height()), (2 + 4 * 66, 2 + 4 * 66));
}

#[test]
fn a_picture_is_painted_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (picture, rows) = (folder.path().join("in.png"), folder.path().join("rows.png"));
    image::GrayImage::from_pixel(16, 16, image::Luma([200])).save(&picture).expect("a picture");
    inpaint::inpaint_and_vary(&picture, run(), &rows).expect("two rows");
    let rows = decoded(&rows).into_luma8();
    assert_eq!(rows.dimensions(), (2 + 8 * 66, 2 + 2 * 66));
    // The upper half of a painting is the picture's, and its lower half is not.
    let at = |y: u32| rows.get_pixel(2 + 3 * 66 + 30, 2 + y).0[0];
    assert!((0..32).all(|y| at(y) == 200) && (32..64).any(|y| at(y) != 200));
}

#[test]
fn a_model_is_evaluated() {
    let mut pipeline = Pipeline::load(run()).expect("the run");
    let rings = train_on_my_images::rings(60).expect("images");
    let (bits, error) = evaluate::bits_per_dim(&mut pipeline, &rings, 8).expect("a bound");
    assert!(bits > 0.0 && error > 0.0 && bits.is_finite() && error.is_finite(), "{bits} {error}");
    let found = evaluate::compare(&mut pipeline, &rings, 30).expect("a comparison");
    assert_eq!((found.samples, found.images, found.features), (30, 30, 9));
    assert!(found.frechet_distance.is_some_and(f64::is_finite), "{found:?}");
}

#[test]
fn a_model_is_exported_and_the_file_gives_the_same_images() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sampler.onnx");
    let exported = export::export(run(), &file, 3).expect("a file");
    assert_eq!(exported.bytes, std::fs::metadata(&file).expect("the file").len());
    let native = Pipeline::load(run()).and_then(|mut pipeline| {
        pipeline.sample(&SampleOptions { count: 3, steps: Some(3), ..pipeline.options() })
    });
    let tract = TRACT_BUILT_IN.then_some(Runtime::Tract);
    for runtime in tract.into_iter().chain([Runtime::default()]) {
        let mut pipeline = match Pipeline::load_with(&file, &Compute::runtime(runtime)) {
            Err(Error::Onnx(error @ OnnxError::RuntimeMissing { .. })) => {
                peers::skipped(error);
                continue;
            }
            loaded => loaded.expect("the file loads"),
        };
        let options = SampleOptions { count: 3, ..pipeline.options() };
        assert_eq!(options.steps, Some(3));
        let images = pipeline.sample(&options).expect("images");
        let native = native.as_ref().expect("images");
        let difference = (&images - native).mapv(f32::abs).fold(0.0, |a: f32, b| a.max(*b));
        // The bound on a sampler graph's images, in `export::check`.
        assert!(difference < 1e-3, "{difference}");
    }
}

#[test]
fn the_gpu_s_example_runs_on_the_processor() {
    let folder = tempfile::tempdir().expect("a folder");
    match sample_on_gpu::sample(run(), Device::Cpu, &folder.path().join("grid.png")) {
        Err(Error::Onnx(error @ OnnxError::RuntimeMissing { .. })) => peers::skipped(error),
        told => assert!(told.expect("images").contains("ONNX Runtime")),
    }
}
