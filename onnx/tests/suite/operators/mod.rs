//! Every operator of the builder, in every available runtime, against plain arithmetic in f64.
//!
//! Tolerances: `EXACT` for operators that only move numbers, `ROUNDING` for one rounding or a library
//! function (a few units in the last place of f32, 6e-8), `SUMS` for sums of up to a few hundred products.

mod elementwise;
mod layout;
mod linear;
mod norm;
mod scan;

use crate::common::{f32s, floats};
use performer_ddpm_onnx::builder::{GraphBuilder, Value};
use performer_ddpm_onnx::{Dim, ElementType, Result, Tensor};

const EXACT: f32 = 0.0;
const ROUNDING: f32 = 1e-6;
const SUMS: f32 = 1e-5;

fn batch(g: &mut GraphBuilder, name: &str, lengths: &[usize]) -> Result<Value> {
    let mut dims = vec![Dim::from("N")];
    dims.extend(lengths.iter().copied().map(Dim::from));
    g.input(name, ElementType::F32, dims)
}

fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    f32s(x.shape(), floats(x).iter().map(|&x| f(f64::from(x)) as f32).collect())
}
