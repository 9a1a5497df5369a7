//! Kernels on the shapes of the `fashion` network, on every instruction set of this processor.
//!
//! `cargo bench --bench kernels`; items are multiply-adds, so twice the items per second are FLOP/s.

use divan::{Bencher, counter::ItemsCount};
use performer_ddpm::kernels::{Element, Isa, Product};

fn main() {
    divan::main();
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect()
}

/// m, n, k of linear layers, of attention's tiles and of 1x1 convolutions of both networks.
const PRODUCTS: [(usize, usize, usize); 7] = [
    (784, 32, 32),
    (64, 32, 16),
    (196, 64, 64),
    (3136, 32, 96),
    (196, 128, 256),
    (1024, 256, 512),
    (16, 256, 256),
];

#[divan::bench(args = PRODUCTS, consts = [0, 1, 2, 3])]
fn product<const ISA: usize>(bencher: Bencher, (m, n, k): (usize, usize, usize)) {
    let Some(&isa) = Isa::available().get(ISA) else { return };
    let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let shape = Product::dense(m, n, k);
    bencher
        .counter(ItemsCount::new(shape.multiply_adds()))
        .bench_local(|| f32::product(isa, &shape, divan::black_box(&a), &b, &mut c));
}
