//! What the tests of single operations share.

use crate::rng::{Stream, fill_normal, rng};
use performer_ddpm_onnx::runner::ort::{OrtOptions, OrtRunner};
use performer_ddpm_onnx::runner::{Runner, TRACT_BUILT_IN, load_tract};
use performer_ddpm_onnx::{Error, Model};

/// The graph in every runtime that is available.
pub fn runners(model: &Model) -> Vec<Box<dyn Runner>> {
    let mut all = Vec::new();
    if TRACT_BUILT_IN {
        all.push(load_tract(model).unwrap());
    }
    match OrtRunner::load(model, &OrtOptions { threads: Some(1), ..OrtOptions::default() }) {
        Ok(runner) => all.push(Box::new(runner)),
        // Where there is no runtime, the tests of whole graphs report it.
        Err(Error::RuntimeMissing { .. }) => {}
        Err(error) => panic!("ONNX Runtime: {error}"),
    }
    all
}

/// Numbers from N(0, 1).
pub fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut x = vec![0.0; len];
    fill_normal(&mut rng(seed, Stream::Check, 0, 0), &mut x);
    x
}

/// The largest difference as a share of the largest value; NaN if there is one.
pub fn difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    let worst = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs());
    worst.fold(0.0, |m: f64, e| if m.is_nan() || e <= m { m } else { e }) / largest
}
