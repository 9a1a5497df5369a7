//! The convolutions of a small network (`fashion`: 28 x 28, 32 to 128 channels) and of Ho et al.'s
//! (`cifar10`: 32 x 32, 128 to 256 channels), a shard of four samples on one thread, direct and by Winograd's
//! algorithm.
//!
//! `cargo bench --bench convolutions`; items are the multiply-adds of the definition, so twice the items per
//! second are useful FLOP/s, and Winograd's may exceed the processor's peak.

use divan::{Bencher, counter::ItemsCount};
use performer_ddpm::kernels::{ConvAlgorithm, Isa, Kernels, Team};
use performer_ddpm::nn::{Affine, AffineGradient, Context, Conv, Update, Window};

fn main() {
    divan::main();
}

/// Height and width, input channels, output channels, stride.
type Shape = (usize, usize, usize, usize);

const SHAPES: [Shape; 22] = [
    (28, 1, 32, 1),
    (28, 32, 32, 1),
    (28, 64, 32, 1),
    (28, 96, 32, 1),
    (28, 64, 64, 1),
    (28, 32, 1, 1),
    (28, 32, 32, 2),
    (14, 64, 64, 1),
    (14, 128, 64, 1),
    (14, 192, 64, 1),
    (14, 128, 128, 1),
    (7, 128, 128, 1),
    (7, 256, 128, 1),
    (32, 3, 128, 1),
    (32, 128, 128, 1),
    (32, 256, 256, 1),
    (32, 384, 128, 1),
    (32, 128, 3, 1),
    (16, 256, 256, 1),
    (8, 256, 256, 1),
    (4, 256, 256, 1),
    (32, 128, 128, 2),
];

const SAMPLES: usize = 4;

struct Layer {
    conv: Conv,
    kernels: Kernels,
    x: Vec<f32>,
    y: Vec<f32>,
    weight: Vec<f32>,
    d_weight: Vec<f32>,
    bias: Vec<f32>,
    work: Vec<f32>,
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect()
}

fn layer((side, c_in, c_out, stride): Shape, algorithm: usize) -> Layer {
    let (pad_before, pad_after) = if stride == 1 { (1, 1) } else { (0, 1) };
    let window = Window { kernel: 3, stride, pad_before, pad_after };
    let conv = Conv::new([side, side], [c_in, c_out], window).expect("a layer");
    Layer {
        kernels: Kernels { isa: Isa::detect(), conv: ConvAlgorithm::ALL[algorithm] },
        x: numbers(SAMPLES * side * side * c_in),
        y: numbers(SAMPLES * conv.out_h() * conv.out_w() * c_out),
        weight: numbers(conv.weight_len()),
        d_weight: numbers(conv.weight_len()),
        bias: numbers(c_out),
        work: numbers(conv.work_len()),
        conv,
    }
}

fn items(conv: &Conv) -> ItemsCount {
    ItemsCount::new(SAMPLES * conv.out_h() * conv.out_w() * conv.weight_len())
}

fn context(kernels: Kernels, workspace: &mut [f32]) -> Context<'_, f32> {
    Context { kernels, team: Team::Solo, workspace }
}

#[divan::bench(args = SHAPES, consts = [0, 1])]
fn forward<const ALGORITHM: usize>(bencher: Bencher, shape: Shape) {
    let Layer { conv, kernels, x, mut y, weight, bias, mut work, .. } = layer(shape, ALGORITHM);
    let affine = Affine { weight: &weight, bias: &bias };
    bencher
        .counter(items(&conv))
        .bench_local(|| conv.forward(&mut context(kernels, &mut work), &x, affine, &mut y));
}

#[divan::bench(args = SHAPES, consts = [0, 1])]
fn input_gradient<const ALGORITHM: usize>(bencher: Bencher, shape: Shape) {
    let Layer { conv, kernels, mut x, y, weight, mut work, .. } = layer(shape, ALGORITHM);
    bencher.counter(items(&conv)).bench_local(|| {
        conv.backward_input(&mut context(kernels, &mut work), &weight, &y, &mut x, Update::Set)
    });
}

#[divan::bench(args = SHAPES, consts = [0, 1])]
fn weight_gradient<const ALGORITHM: usize>(bencher: Bencher, shape: Shape) {
    let Layer { conv, kernels, x, y, mut d_weight, mut bias, mut work, .. } = layer(shape, ALGORITHM);
    bencher.counter(items(&conv)).bench_local(|| {
        let gradient = AffineGradient { weight: &mut d_weight, bias: &mut bias };
        conv.backward_weight(&mut context(kernels, &mut work), &x, &y, gradient)
    });
}
