//! The Frechet distance against scipy's.

use crate::support::golden;
use ndarray::Array2;
use performer_ddpm::evaluate::frechet::frechet_distance;
use std::path::Path;

/// `tests/golden/frechet.safetensors` holds features of 40 and 50 images, whose covariances have condition
/// numbers of 1e4 and 8e4, and the distance that `tests/golden/frechet.py` computed with scipy's `sqrtm`.
/// Tolerance: 1e-6, relative.
#[test]
fn the_frechet_distance_is_scipys() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/frechet.safetensors");
    let tensors = golden::tensors(&file);
    let features = |name: &str| {
        let (shape, values) = &tensors[name];
        Array2::from_shape_vec((shape[0], shape[1]), values.clone()).expect("a matrix")
    };
    let want = tensors["distance"].1[0];
    let got = frechet_distance(features("a").view(), features("b").view()).expect("a distance");
    assert!((got / want - 1.0).abs() < 1e-6, "{got} {want}");
}
