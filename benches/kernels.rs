//! Kernels on the shapes of both networks, on one thread, on every instruction set of this processor (0 to 3,
//! slowest first).
//!
//! `cargo bench --bench kernels`. Products count operations, so that Gitem/s are GFLOP/s; passes over memory
//! count the bytes that they read and write. In the last row, GHz mean per cent: of the measured peak of
//! multiply-adds for products, and of the speed of copying as many bytes for the others.

use divan::counter::{BytesCount, CyclesCount, ItemsCount};
use divan::{Bencher, black_box};
use performer_ddpm::config::{Activation, Preset};
use performer_ddpm::kernels::internals::*;
use performer_ddpm::kernels::{Isa, Team, peak_gflops};
use performer_ddpm::nn::{self, Affine, AffineGradient, Context, GroupNorm, GroupNormGradient, Linear};
use performer_ddpm::train::{Adam, Update};
use std::sync::LazyLock;
use std::time::Instant;

fn main() {
    // For the optimiser, which uses all threads of the pool that it is called in.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    alone.install(divan::main);
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect()
}

/// The work of a call.
enum Work {
    /// Additions and multiplications.
    Operations(usize),
    /// Floats read and floats written.
    Memory(usize),
}

static PEAK: LazyLock<f64> = LazyLock::new(|| peak_gflops(Isa::detect(), 1).expect("one thread"));

/// GB/s of a copy that reads and writes this many bytes in total: the best of many.
fn copy_rate(bytes: usize) -> f64 {
    let (from, mut to) = (vec![1u8; bytes / 2], vec![0u8; bytes / 2]);
    let mut copy = || {
        let start = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        start.elapsed().as_secs_f64()
    };
    1e-9 * bytes as f64 / (0..200).map(|_| copy()).fold(f64::INFINITY, f64::min)
}

fn measure(bencher: Bencher, isa: usize, work: Work, mut kernel: impl FnMut(Isa)) {
    let Some(&isa) = Isa::available().get(isa) else { return };
    let (bencher, nanoseconds) = match work {
        Work::Operations(n) => (bencher.counter(ItemsCount::new(n)), n as f64 / *PEAK),
        Work::Memory(floats) => {
            let bytes = size_of::<f32>() * floats;
            (bencher.counter(BytesCount::new(bytes)), bytes as f64 / copy_rate(bytes))
        }
    };
    bencher.counter(CyclesCount::new((100.0 * nanoseconds) as u64)).bench_local(|| kernel(isa));
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
    let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let shape = Product::dense(m, n, k);
    let work = Work::Operations(2 * shape.multiply_adds());
    measure(bencher, ISA, work, |isa| {
        let operands = Multiply { shape: &shape, a: black_box(&a), b: &b, c: &mut c, b_is_weight: false };
        MatrixProduct::try_run(isa, operands).expect("operands that fit");
    });
}

fn context(isa: Isa, workspace: &mut [f32]) -> Context<'_, f32> {
    Context { kernels: isa.into(), team: Team::Solo, workspace }
}

/// Rows, features in, features out: shortcuts, attention's projections, a timestep's.
const LINEAR: [(usize, usize, usize); 4] = [(784, 64, 32), (196, 64, 64), (1024, 384, 128), (1, 512, 256)];

#[divan::bench(args = LINEAR, consts = [0, 1, 2, 3])]
fn linear_forward<const ISA: usize>(bencher: Bencher, (rows, c_in, c_out): (usize, usize, usize)) {
    let layer = Linear::new(rows, c_in, c_out).expect("a layer");
    let (x, weight, bias) = (numbers(rows * c_in), numbers(c_in * c_out), numbers(c_out));
    let mut y = numbers(rows * c_out);
    measure(bencher, ISA, Work::Operations(2 * rows * c_in * c_out), |isa| {
        let affine = Affine { weight: &weight, bias: &bias };
        layer.forward(&mut context(isa, &mut []), black_box(&x), affine, &mut y).expect("lengths that fit");
    });
}

/// The gradients in the input, in the weight and in the bias.
#[divan::bench(args = LINEAR, consts = [0, 1, 2, 3])]
fn linear_backward<const ISA: usize>(bencher: Bencher, (rows, c_in, c_out): (usize, usize, usize)) {
    let layer = Linear::new(rows, c_in, c_out).expect("a layer");
    let (x, d_y, transposed) = (numbers(rows * c_in), numbers(rows * c_out), numbers(c_in * c_out));
    let (mut d_x, mut d_weight, mut d_bias) = (x.clone(), transposed.clone(), numbers(c_out));
    measure(bencher, ISA, Work::Operations(4 * rows * c_in * c_out), |isa| {
        let context = &mut context(isa, &mut []);
        let gradient = AffineGradient { weight: &mut d_weight, bias: &mut d_bias };
        layer
            .backward_input(context, &transposed, black_box(&d_y), &mut d_x, nn::Update::Set)
            .expect("lengths that fit");
        layer.backward_weight(context, black_box(&x), &d_y, gradient).expect("lengths that fit");
    });
}

/// Rows and columns of attention's tiles: FAVOR+'s features, softmax's scores.
const TILES: [(usize, usize); 3] = [(64, 64), (32, 128), (32, 1024)];

/// Keys' features. Shifts of 1 keep the numbers at 1 when the pass is repeated in place.
#[divan::bench(args = TILES, consts = [0, 1, 2, 3])]
fn exp2_of<const ISA: usize>(bencher: Bencher, (rows, columns): (usize, usize)) {
    let (mut x, by_row, by_column) = (numbers(rows * columns), vec![1.0; rows], vec![0.0; columns]);
    measure(bencher, ISA, Work::Memory(2 * rows * columns), |isa| {
        let exponent = Exponent::RowsThenColumns(&by_row, &by_column);
        let powers = Powers { x: black_box(&mut x), width: columns, stride: columns, exponent };
        Exp2::try_run(isa, powers).expect("operands that fit");
    });
}

/// Queries' features: two passes, over rows that stay in cache.
#[divan::bench(args = TILES, consts = [0, 1, 2, 3])]
fn exp2_below_maxima<const ISA: usize>(bencher: Bencher, (rows, columns): (usize, usize)) {
    let (mut x, shifts, weights) = (numbers(rows * columns), vec![0.0; columns], vec![1.0; columns]);
    let (mut maxima, mut sums) = (vec![0.0; rows], vec![0.0; rows]);
    measure(bencher, ISA, Work::Memory(3 * rows * columns), |isa| {
        let powers = PowersBelowMaxima {
            x: black_box(&mut x),
            width: columns,
            stride: columns,
            columns: Some(Columns { shifts: &shifts, weights: &weights }),
            maxima: &mut maxima,
            sums: &mut sums,
        };
        Exp2BelowMaxima::try_run(isa, powers).expect("operands that fit");
    });
}

#[divan::bench(args = TILES, consts = [0, 1, 2, 3])]
fn sin_cos<const ISA: usize>(bencher: Bencher, (rows, columns): (usize, usize)) {
    let (mut x, mut y) = (numbers(rows * columns), numbers(rows * columns));
    measure(bencher, ISA, Work::Memory(3 * rows * columns), |isa| {
        let angles = Angles { x: black_box(&mut x), cosines: &mut y };
        SinCos::try_run(isa, angles).expect("operands that fit");
    });
}

/// Pixels and channels of one image.
const IMAGES: [(usize, usize); 4] = [(784, 32), (196, 64), (49, 128), (1024, 128)];

#[divan::bench(args = IMAGES, consts = [0, 1, 2, 3])]
fn silu<const ISA: usize>(bencher: Bencher, (pixels, channels): (usize, usize)) {
    let (x, mut y) = (numbers(pixels * channels), numbers(pixels * channels));
    measure(bencher, ISA, Work::Memory(2 * x.len()), |isa| {
        let operands = Pointwise { function: Activation::Silu, x: black_box(&x), y: &mut y };
        Activate::try_run(isa, operands).expect("operands that fit");
    });
}

#[divan::bench(args = IMAGES, consts = [0, 1, 2, 3])]
fn silu_backward<const ISA: usize>(bencher: Bencher, (pixels, channels): (usize, usize)) {
    let [x, d_y, mut d_x] = [(); 3].map(|()| numbers(pixels * channels));
    measure(bencher, ISA, Work::Memory(3 * x.len()), |isa| {
        let function = Activation::Silu;
        let operands = PointwiseBackward { function, x: black_box(&x), d_y: &d_y, d_x: &mut d_x };
        ActivateBackward::try_run(isa, operands).expect("operands that fit");
    });
}

fn group_norm((pixels, channels): (usize, usize)) -> GroupNorm {
    GroupNorm::new(pixels, channels, 32, 1e-6, true).expect("a layer")
}

/// Moments, then the affine map with its SiLU: x is read twice.
#[divan::bench(args = IMAGES, consts = [0, 1, 2, 3])]
fn group_norm_forward<const ISA: usize>(bencher: Bencher, image: (usize, usize)) {
    let layer = group_norm(image);
    let (len, c) = (image.0 * image.1, image.1);
    let (x, gamma, beta) = (numbers(len), numbers(c), numbers(c));
    let (mut y, mut saved, mut work) = (numbers(len), numbers(layer.saved_len()), numbers(layer.work_len()));
    measure(bencher, ISA, Work::Memory(3 * len), |isa| {
        let affine = Affine { weight: &gamma, bias: &beta };
        layer
            .forward(&mut context(isa, &mut work), black_box(&x), affine, &mut y, &mut saved)
            .expect("lengths that fit");
    });
}

/// A copy of d_y, which is overwritten; SiLU's slope in place with the sums; the gradient in x.
#[divan::bench(args = IMAGES, consts = [0, 1, 2, 3])]
fn group_norm_backward<const ISA: usize>(bencher: Bencher, image: (usize, usize)) {
    let layer = group_norm(image);
    let (len, c) = (image.0 * image.1, image.1);
    let [x, before, mut d_y, mut d_x] = [(); 4].map(|()| numbers(len));
    let [gamma, beta, mut d_gamma, mut d_beta] = [(); 4].map(|()| numbers(c));
    let (mut saved, mut work) = (numbers(layer.saved_len()), numbers(layer.work_len()));
    let affine = Affine { weight: &gamma, bias: &beta };
    layer
        .forward(&mut context(Isa::detect(), &mut work), &x, affine, &mut d_x, &mut saved)
        .expect("lengths that fit");
    measure(bencher, ISA, Work::Memory(8 * len), |isa| {
        d_y.copy_from_slice(black_box(&before));
        let gradient = GroupNormGradient {
            d_x: Some((&mut d_x, nn::Update::Set)),
            affine: AffineGradient { weight: &mut d_gamma, bias: &mut d_beta },
        };
        layer
            .backward(&mut context(isa, &mut work), &x, affine, &saved, &mut d_y, gradient)
            .expect("lengths that fit");
    });
}

#[divan::bench(args = IMAGES, consts = [0, 1, 2, 3])]
fn dropout<const ISA: usize>(bencher: Bencher, (pixels, channels): (usize, usize)) {
    let mut x = numbers(pixels * channels);
    measure(bencher, ISA, Work::Memory(2 * x.len()), |isa| {
        let dropped = Dropped { key: &[7; 32], p: 0.1, x: black_box(&mut x) };
        DropOut::try_run(isa, dropped).expect("a probability");
    });
}

/// Parameters of one layer, and of a small network.
const PARAMETERS: [usize; 2] = [1 << 16, 1 << 20];

/// Adam with the moving average: m, v, the weights and their average are read and written, the gradient is
/// read.
#[divan::bench(args = PARAMETERS, consts = [0, 1, 2, 3])]
fn adam<const ISA: usize>(bencher: Bencher, len: usize) {
    let config = Preset::Fashion.config().train;
    let update = Update { lr: 1e-3, number: 1, clip: 1.0, ema_decay: 0.999 };
    let (mut adam, gradient) = (Adam::new(len), numbers(len));
    let (mut weights, mut average) = (numbers(len), numbers(len));
    measure(bencher, ISA, Work::Memory(9 * len), |isa| {
        adam.update(isa, &config, update, black_box(&gradient), &mut weights, &mut average);
    });
}
