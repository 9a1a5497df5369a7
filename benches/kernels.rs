//! Kernels on the shapes of the `fashion` network, on every instruction set of this processor.
//!
//! `cargo bench --bench kernels`; items are multiply-adds, so twice the items per second are FLOP/s.

use divan::{Bencher, counter::ItemsCount};
use performer_ddpm::kernels::{Element, Isa, Product, Team};
use performer_ddpm::nn::Conv;

fn main() {
    divan::main();
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect()
}

/// m, n, k of linear layers and of attention's tiles.
const PRODUCTS: [(usize, usize, usize); 3] = [(784, 32, 32), (64, 32, 16), (196, 64, 64)];

#[divan::bench(args = PRODUCTS, consts = [0, 1, 2, 3])]
fn product<const ISA: usize>(bencher: Bencher, (m, n, k): (usize, usize, usize)) {
    let Some(&isa) = Isa::available().get(ISA) else { return };
    let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let shape = Product::dense(m, n, k);
    bencher
        .counter(ItemsCount::new(shape.multiply_adds()))
        .bench_local(|| f32::product(isa, &shape, divan::black_box(&a), &b, &mut c));
}

/// Height and width, input channels, output channels of 3x3 convolutions.
const CONVS: [(usize, usize, usize); 4] = [(28, 32, 32), (28, 64, 64), (14, 64, 64), (7, 128, 64)];

fn conv(side: usize, c_in: usize, c_out: usize) -> Conv {
    Conv { h: side, w: side, c_in, c_out, kernel: 3, stride: 1, pad_before: 1, pad_after: 1 }
}

#[divan::bench(args = CONVS)]
fn conv_forward(bencher: Bencher, (side, c_in, c_out): (usize, usize, usize)) {
    let layer = conv(side, c_in, c_out);
    let (x, weight, bias) = (numbers(side * side * c_in), numbers(layer.weight_len()), numbers(c_out));
    let (mut y, mut work) = (numbers(side * side * c_out), numbers(layer.work_len()));
    let items = ItemsCount::new(side * side * layer.weight_len());
    bencher.counter(items).bench_local(|| {
        layer.forward(Isa::detect(), Team::Solo, divan::black_box(&x), &weight, &bias, &mut y, &mut work);
    });
}

#[divan::bench(args = CONVS)]
fn conv_backward(bencher: Bencher, (side, c_in, c_out): (usize, usize, usize)) {
    let layer = conv(side, c_in, c_out);
    let (x, d_y) = (numbers(side * side * c_in), numbers(side * side * c_out));
    let (turned, mut d_weight) = (numbers(layer.weight_len()), numbers(layer.weight_len()));
    let (mut d_x, mut d_bias, mut work) = (numbers(x.len()), numbers(c_out), numbers(layer.work_len()));
    let (isa, team) = (Isa::detect(), Team::Solo);
    bencher.counter(ItemsCount::new(2 * side * side * layer.weight_len())).bench_local(|| {
        layer.backward_weight(isa, team, divan::black_box(&x), &d_y, &mut d_weight, &mut d_bias, &mut work);
        layer.backward_input(isa, team, &turned, &d_y, &mut d_x, false, &mut work);
    });
}
