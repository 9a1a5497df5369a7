//! Sizes, axes and amounts that nobody means, given to every operator of the builder: a value or an error,
//! never a panic or an overflow.

use performer_ddpm_onnx::builder::{
    ConvSpec, ConvTransposeSpec, GraphBuilder, ModelInfo, PadMode, Reduction, ReshapeDim, SliceRange, Value,
};
use performer_ddpm_onnx::{Dim, ElementType, Result, Shape, Tensor};
use proptest::prelude::*;

fn size() -> impl Strategy<Value = usize> {
    let huge = vec![1 << 31, 1 << 32, 1 << 47, 1 << 60, (1 << 60) + 1, usize::MAX / 2 + 2, usize::MAX];
    prop_oneof![4 => 0..5usize, 2 => prop::sample::select(huge)]
}

fn sizes(most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(size(), 0..most)
}

fn input(g: &mut GraphBuilder, name: &str, lengths: &[usize]) -> Result<Value> {
    g.input(name, ElementType::F32, Shape::from(lengths))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn operators(
        x in sizes(5), k in sizes(5), spec in prop::array::uniform9(size()),
        axes in sizes(4), amounts in prop::collection::vec((size(), size()), 0..5),
    ) {
        let mut g = GraphBuilder::new("hostile");
        // What cannot be an input leaves the smaller ones.
        let x = input(&mut g, "x", &x).or_else(|_| input(&mut g, "small x", &[1, 4, 4, 4])).expect("an input");
        let k = input(&mut g, "k", &k).or_else(|_| input(&mut g, "small k", &[4, 4, 3, 3])).expect("an input");
        let [a, b, c, d, e, f, h, i, j] = spec;
        let conv = ConvSpec { strides: [a, b], pads: [c, d, e, f], dilations: [h, i], groups: j };
        let back = ConvTransposeSpec { strides: [a, b], pads: [c, d, e, f], output_padding: [h, i], groups: j };
        let _ = g.conv(x, k, None, &conv);
        let _ = g.conv_transpose(x, k, Some(k), &back);
        let _ = g.upsample_nearest(x, a);
        let _ = g.matmul(x, k);
        let _ = g.group_norm(x, a % 9, k, k, f32::NAN);
        let _ = g.layer_norm(x, a, k, Some(k), -1.0);
        let _ = g.transpose(x, &axes);
        let _ = g.concat(a, &[x, k, x]);
        let ranges: Vec<SliceRange> = axes.iter().map(|&axis| SliceRange { axis, start: a, end: b, step: c }).collect();
        let _ = g.slice(x, &ranges);
        let _ = g.split(x, a, &axes);
        let _ = g.pad(x, &amounts, PadMode::Edge);
        let _ = g.unsqueeze(x, &axes);
        let _ = g.squeeze(x, &axes);
        let _ = g.reduce(Reduction::Sum, x, &axes, a % 2 == 0);
        let _ = g.softmax(x, a);
        let _ = g.expand_like(x, k);
        let _ = g.add(x, k);
        let _ = g.clip(x, Some(f32::NAN), None);
        let indices = g.constant_i64(&[2], &[0, i64::MAX]).expect("a constant");
        let _ = g.gather(x, a, indices);
        let target: Vec<ReshapeDim> = axes
            .iter()
            .map(|&length| match length {
                0 => ReshapeDim::Copy,
                1 => ReshapeDim::Infer,
                length => ReshapeDim::To(length),
            })
            .collect();
        let _ = g.reshape(x, &target);
        let mut body = GraphBuilder::body("body");
        let state = input(&mut body, "state", &[1]).expect("an input");
        body.output("next", state).expect("an output");
        let _ = g.scan(body, &[x], &[k]);
        let _ = g.constant_f32(&axes, &[1.0; 3]);
        let _ = g.initializer_i64("w", &axes, &[1; 2]);
        let _ = Tensor::f32(axes.clone(), vec![0.0; 4]);
        let _ = Tensor::i64(axes, vec![0; 4]);
        let y = g.silu(x).expect("floats");
        g.output("y", y).expect("an output");
        let model = g.into_model(ModelInfo::default()).expect("a model");
        prop_assert!(model.with_length("N", a).summary().is_ok());
        prop_assert!(model.to_bytes().is_ok());
    }
}

#[test]
fn lengths_that_cannot_be_counted_are_refused_by_name() {
    let mut g = GraphBuilder::new("hostile");
    for lengths in [&[usize::MAX][..], &[1 << 31], &[1 << 30, 1 << 30]] {
        let message = input(&mut g, "x", lengths).expect_err("too large").to_string();
        assert!(message.contains("input x: expected lengths up to 2147483647"), "{message}");
    }
    let dims = [Dim::from("N"), Dim::from(1 << 30)];
    assert!(g.input("x", ElementType::F32, dims).is_ok());
}
