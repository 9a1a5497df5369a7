//! Matrix products on the networks' shapes, this engine's beside `gemm`'s and matrixmultiply's, on one
//! thread: GFLOP/s.
//!
//! `cd benches/rust_peers && cargo run --release --bin products`

use gemm::Parallelism;
use performer_ddpm::kernels::Isa;
use performer_ddpm::kernels::internals::{Kernel, MatrixProduct, Multiply, Product};
use std::time::Instant;

/// Rows, columns and depth.
type Shape = (usize, usize, usize);

/// 1x1 convolutions, linear layers, attention's tiles, and one point of a Winograd block.
const SHAPES: [Shape; 9] = [
    (784, 32, 96),
    (196, 64, 64),
    (196, 64, 192),
    (49, 128, 256),
    (256, 256, 512),
    (1024, 128, 384),
    (32, 128, 32),
    (32, 32, 128),
    (64, 32, 64),
];

/// Rounds in which the programs run in turn; the fastest counts.
const ROUNDS: usize = 30;
/// Multiply-adds of one measurement: some milliseconds.
const WORK: usize = 200_000_000;

type Multiply<'a> = Box<dyn FnMut() + 'a>;

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect()
}

fn with_ours<'a>((m, n, k): Shape, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> Multiply<'a> {
    let (isa, shape) = (Isa::detect(), Product::dense(m, n, k));
    Box::new(move || {
        let operands = Multiply { shape: &shape, a, b, c: &mut *c, b_is_weight: false };
        MatrixProduct::try_run(isa, operands).expect("operands that fit");
    })
}

fn with_gemm<'a>((m, n, k): Shape, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> Multiply<'a> {
    let (cols, depth) = (n as isize, k as isize);
    let alone = Parallelism::None;
    Box::new(move || {
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        // SAFETY: m x k, k x n and m x n elements, row-major; C is borrowed alone.
        unsafe {
            gemm::gemm(
                m, n, k, c, 1, cols, false, a, 1, depth, b, 1, cols, 0.0, 1.0, false, false, false, alone,
            );
        }
    })
}

fn with_matrixmultiply<'a>((m, n, k): Shape, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> Multiply<'a> {
    let (cols, depth) = (n as isize, k as isize);
    Box::new(move || {
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        // SAFETY: as above.
        unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a, depth, 1, b, cols, 1, 0.0, c, cols, 1) };
    })
}

fn main() {
    // burn, in the same package, switches matrixmultiply's threads on.
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var("MATMUL_NUM_THREADS", "1") };
    println!("| m | n | k | ours | gemm | matrixmultiply |\n|---:|---:|---:|---:|---:|---:|");
    for shape in SHAPES {
        let (m, n, k) = shape;
        let (a, b) = (numbers(m * k), numbers(k * n));
        let [mut ours, mut of_gemm, mut of_matrixmultiply] = [(); 3].map(|()| vec![0.0; m * n]);
        let mut everyone = [
            with_ours(shape, &a, &b, &mut ours),
            with_gemm(shape, &a, &b, &mut of_gemm),
            with_matrixmultiply(shape, &a, &b, &mut of_matrixmultiply),
        ];
        let repeats = (WORK / (m * n * k)).max(1);
        let mut best = [f64::INFINITY; 3];
        for _ in 0..ROUNDS {
            for (multiply, best) in everyone.iter_mut().zip(&mut best) {
                let start = Instant::now();
                (0..repeats).for_each(|_| multiply());
                *best = best.min(start.elapsed().as_secs_f64() / repeats as f64);
            }
        }
        drop(everyone);
        // Two sums of k products of at most a quarter each err by at most k eps/2 of k/4 each (Higham 2002,
        // section 3.1).
        let bound = (k * k) as f32 / 4.0 * f32::EPSILON;
        for theirs in [&of_gemm, &of_matrixmultiply] {
            let agree = ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= bound);
            assert!(agree, "{shape:?}: the products differ");
        }
        let gflops = best.map(|seconds| format!("{:.0}", 2e-9 * (m * n * k) as f64 / seconds));
        println!("| {m} | {n} | {k} | {} |", gflops.join(" | "));
    }
}
