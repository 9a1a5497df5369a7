//! The gradients against their definition, in `f64`.

use super::*;
use crate::export::testing::{difference, normal, runners};
use performer_ddpm_onnx::builder::ModelInfo;
use performer_ddpm_onnx::{ElementType, Tensor};

const N: usize = 3;
const C_IN: usize = 2;
const C_OUT: usize = 5;

/// Sets the gradients in x and in the weight by what each product of the convolution contributes.
fn expected(x: &[f32], w: &[f32], d_y: &[f32], window: &Window, sizes: [[usize; 2]; 2]) -> [Vec<f64>; 2] {
    let Window { kernel, stride, pad_before, .. } = *window;
    let [[h, wide], [rows, columns]] = sizes;
    let (mut d_x, mut d_w) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    for (i, slope) in d_y.iter().enumerate() {
        let (n, o) = (i / (C_OUT * rows * columns), i / (rows * columns) % C_OUT);
        let (y, z) = (i / columns % rows, i % columns);
        for (j, weight) in w[o * C_IN * kernel * kernel..][..C_IN * kernel * kernel].iter().enumerate() {
            let (c, v, u) = (j / (kernel * kernel), j / kernel % kernel, j % kernel);
            let (row, column) = (y * stride + v, z * stride + u);
            let inside = |at: usize, length: usize| at.checked_sub(pad_before).filter(|at| *at < length);
            if let (Some(row), Some(column)) = (inside(row, h), inside(column, wide)) {
                let at = ((n * C_IN + c) * h + row) * wide + column;
                d_x[at] += f64::from(*slope) * f64::from(*weight);
                d_w[o * C_IN * kernel * kernel + j] += f64::from(*slope) * f64::from(x[at]);
            }
        }
    }
    [d_x, d_w]
}

/// Every kind of window that networks have, on images of even and odd sides; both forms of the weight's
/// gradient. Tolerance: f32 rounding in sums of up to 300 terms.
#[test]
fn gradients_are_those_of_the_definition() {
    for (kernel, stride, pad_before, pad_after) in
        [(1, 1, 0, 0), (3, 1, 1, 1), (3, 2, 0, 1), (3, 2, 1, 1), (1, 2, 0, 0), (5, 2, 2, 1)]
    {
        for [h, w] in [[8, 10], [9, 7]] {
            let window = Window { kernel, stride, pad_before, pad_after };
            let sizes @ [rows, columns] = [h, w].map(|side| window.outputs(side).expect("it fits"));
            let (x, weight) = (normal(1, N * C_IN * h * w), normal(2, C_OUT * C_IN * kernel * kernel));
            let d_y = normal(3, N * C_OUT * rows * columns);
            let [d_x, d_w] = expected(&x, &weight, &d_y, &window, [[h, w], sizes]);

            let mut g = GraphBuilder::new("convolution");
            let mut write = || -> Result<()> {
                let [n, c_in, c_out] = [Dim::from("N"), C_IN.into(), C_OUT.into()];
                let x = g.input("x", ElementType::F32, [n.clone(), c_in, h.into(), w.into()])?;
                let weight = g.input("w", ElementType::F32, [C_OUT, C_IN, kernel, kernel])?;
                let d_y = g.input("d_y", ElementType::F32, [n, c_out, rows.into(), columns.into()])?;
                let shape = Shape { h, w, c: C_IN };
                let d_x = input_gradient(&mut g, d_y, weight, &window, shape)?;
                let forms = [
                    weight_gradient(&mut g, x, d_y, &window)?,
                    over_the_batch(&mut g, x, d_y, &window)?,
                    by_place(&mut g, x, d_y, &window)?,
                ];
                g.output("d_x", d_x)?;
                for (i, form) in forms.into_iter().enumerate() {
                    g.output(&format!("d_w{i}"), form)?;
                }
                Ok(())
            };
            write().expect("a graph");
            let model = g.into_model(ModelInfo::default()).expect("a model");
            let tensor = |shape: &[usize], data: &[f32]| Tensor::f32(shape, data).expect("whole tensors");
            let inputs = [
                ("x", &tensor(&[N, C_IN, h, w], &x)),
                ("w", &tensor(&[C_OUT, C_IN, kernel, kernel], &weight)),
                ("d_y", &tensor(&[N, C_OUT, rows, columns], &d_y)),
            ];
            // tract takes kernels of a known size only, and over the batch that is N.
            for mut runner in runners(&model.with_length("N", N)) {
                for (name, got) in runner.run(&inputs).expect("gradients") {
                    let off =
                        difference(got.as_f32().expect("floats"), if name == "d_x" { &d_x } else { &d_w });
                    assert!(off < 2e-6, "{name} of {window:?} on {h} x {w}: {off:e}");
                }
            }
        }
    }
}

/// Many channels on many pixels take the other form, which the graph shows.
#[test]
fn the_form_depends_on_the_size() {
    let window = Window { kernel: 3, stride: 1, pad_before: 1, pad_after: 1 };
    for (channels, side, is_convolution) in [(64, 32, true), (128, 16, true), (128, 32, false)] {
        let mut g = GraphBuilder::new("convolution");
        let shape = [Dim::from("N"), channels.into(), side.into(), side.into()];
        let x = g.input("x", ElementType::F32, shape.clone()).expect("an input");
        let d_y = g.input("d_y", ElementType::F32, shape).expect("an input");
        let d_w = weight_gradient(&mut g, x, d_y, &window).expect("a gradient");
        g.output("d_w", d_w).expect("an output");
        let summary = g.into_model(ModelInfo::default()).expect("a model").summary().expect("a summary");
        assert_eq!(summary.operators.contains_key("Conv"), is_convolution, "{channels} {side}");
    }
}
