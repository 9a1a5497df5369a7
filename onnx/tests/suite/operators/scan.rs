//! Scan: one session run for a whole recurrence.

use super::ROUNDING;
use crate::common::{check, f32s, floats, random};
use performer_ddpm_onnx::builder::{GraphBuilder, ModelInfo, Reduction};
use performer_ddpm_onnx::{Dim, ElementType, Model, Result};

/// x <- a x + w + z_k for every step k, with the sums of the states stacked; the weight lies inside the body.
fn recurrence() -> Result<Model> {
    let mut body = GraphBuilder::body("step");
    let x = body.input("step/x", ElementType::F32, [Dim::from("N"), Dim::from(3)])?;
    let a = body.input("step/a", ElementType::F32, [Dim::from("N")])?;
    let z = body.input("step/z", ElementType::F32, [Dim::from("N"), Dim::from(3)])?;
    let w = body.initializer_f32("w", &[3], &[0.5, -0.25, 0.125])?;
    let a = body.unsqueeze(a, &[1])?;
    let x = body.mul(a, x)?;
    let x = body.add(x, w)?;
    let x = body.add(x, z)?;
    let sum = body.reduce(Reduction::Sum, x, &[1], false)?;
    body.output("step/x_next", x)?;
    body.output("step/sum", sum)?;
    let mut g = GraphBuilder::new("recurrence");
    let x = g.input("x", ElementType::F32, [Dim::from("N"), Dim::from(3)])?;
    let a = g.input("a", ElementType::F32, [Dim::from("K"), Dim::from("N")])?;
    let z = g.input("z", ElementType::F32, [Dim::from("K"), Dim::from("N"), Dim::from(3)])?;
    let outputs = g.scan(body, &[x], &[a, z])?;
    g.output("last", outputs.states[0])?;
    g.output("sums", outputs.stacked[0])?;
    g.into_model(ModelInfo::default())
}

#[test]
fn scan_carries_state_and_stacks() {
    let graph = recurrence().expect("a graph that fits together");
    for (steps, n) in [(1, 2), (4, 1), (6, 3)] {
        let (x, a, z) = (random(26, &[n, 3]), random(27, &[steps, n]), random(28, &[steps, n, 3]));
        let mut state: Vec<f64> = floats(&x).iter().map(|&x| f64::from(x)).collect();
        let mut sums = Vec::new();
        for k in 0..steps {
            for (i, x) in state.iter_mut().enumerate() {
                let w = [0.5, -0.25, 0.125][i % 3];
                *x = f64::from(floats(&a)[k * n + i / 3]) * *x + w + f64::from(floats(&z)[k * n * 3 + i]);
            }
            sums.extend(state.chunks(3).map(|row| row.iter().sum::<f64>() as f32));
        }
        let last = f32s(&[n, 3], state.iter().map(|&x| x as f32).collect());
        check(graph.clone(), &[("x", x), ("a", a), ("z", z)], vec![last, f32s(&[steps, n], sums)], ROUNDING);
    }
}
