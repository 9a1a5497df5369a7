//! Golden tensors: files that PyTorch, diffusers and performer-pytorch wrote.

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of golden files: the project's own, or another of the same layout.
pub fn folder() -> PathBuf {
    std::env::var_os("PERFORMER_DDPM_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

/// A file's tensors by name: shape and numbers, widened to f64.
pub fn tensors(file: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let numbers = |dtype: Dtype, data: &[u8]| -> Vec<f64> {
        match dtype {
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            other => panic!("golden files have no {other:?}"),
        }
    };
    tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.shape().to_vec(), numbers(view.dtype(), view.data()))))
        .collect()
}

/// NHWC from NCHW.
pub fn channels_last(x: &[f64], [n, c, h, w]: [usize; 4]) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for i in 0..n {
        for p in 0..h * w {
            out.extend((0..c).map(|k| x[(i * c + k) * h * w + p]));
        }
    }
    out
}
