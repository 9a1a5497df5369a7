//! Every entry of the kernels with hostile sizes: 0, 1, the largest numbers, products that wrap around,
//! slices that are too short or too long, instruction sets that may be absent. Each call is refused with an
//! error and writes nothing, or its result is complete, the same on every instruction set, and inside its
//! slices.

use performer_ddpm::config::Activation;
use performer_ddpm::kernels::Result;
use performer_ddpm::kernels::internals::*;
use performer_ddpm::kernels::{Context, Isa, MAX_THREADS, Team, peak_gflops};
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Mutex;

/// What stands around every slice: a NaN that no computation makes.
const GUARD: u32 = 0x7fc0_dead;
const GUARDS: usize = 64;

/// A slice between guards.
#[derive(Clone)]
struct Slice(Vec<f32>);

impl Slice {
    /// So many numbers in [-0.5, 0.5].
    fn numbers(len: usize) -> Slice {
        let number = |i: usize| (i * 7919 % 1000) as f32 / 1000.0 - 0.5;
        let guard = || std::iter::repeat_n(f32::from_bits(GUARD), GUARDS);
        Slice(guard().chain((0..len).map(number)).chain(guard()).collect())
    }

    /// So many numbers that have to be overwritten.
    fn empty(len: usize) -> Slice {
        let mut slice = Slice::numbers(len);
        slice.fill(f32::NAN);
        slice
    }

    fn bits(&self) -> Vec<u32> {
        self.0.iter().map(|x| x.to_bits()).collect()
    }

    fn is_guarded(&self) -> bool {
        let bits = self.bits();
        let (head, tail) = (&bits[..GUARDS], &bits[bits.len() - GUARDS..]);
        head.iter().chain(tail).all(|bits| *bits == GUARD)
    }
}

impl std::ops::Deref for Slice {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0[GUARDS..self.0.len() - GUARDS]
    }
}

impl std::ops::DerefMut for Slice {
    fn deref_mut(&mut self) -> &mut [f32] {
        let end = self.0.len() - GUARDS;
        &mut self.0[GUARDS..end]
    }
}

/// Runs a kernel over `outputs` on every instruction set, alone and on a team. Returns whether it accepted
/// its operands, and its results on the reference.
///
/// Results differ by rounding and by the vectors' exponentials: 1e-4 of one plus the value is far above both
/// for the few hundred terms here, and far below the values.
fn everywhere<const N: usize>(
    outputs: [Slice; N],
    run: impl Fn(Context, &mut [Slice; N]) -> Result<()> + Sync,
) -> Option<[Slice; N]> {
    everywhere_of(300, outputs, run)
}

/// The same for results that are sums of so many terms: rounding errors grow with their number.
fn everywhere_of<const N: usize>(
    terms: usize,
    outputs: [Slice; N],
    run: impl Fn(Context, &mut [Slice; N]) -> Result<()> + Sync,
) -> Option<[Slice; N]> {
    let bound = 1e-4 * (terms as f32 / 300.0).max(1.0);
    let call = |context: Context| {
        let mut results = outputs.clone();
        let accepted = run(context, &mut results).is_ok();
        for (result, before) in results.iter().zip(&outputs) {
            assert!(result.is_guarded(), "{context:?}: a write outside of the slice");
            assert!(accepted || result.bits() == before.bits(), "{context:?}: refused, and written");
        }
        accepted.then_some(results)
    };
    let want = call(Isa::Reference.into());
    let check = |context: Context| {
        let got = call(context);
        assert_eq!(got.is_some(), want.is_some(), "{context:?}");
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            for (i, (got, want)) in got.iter().zip(want.iter()).enumerate() {
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                let near = (got - want).abs() <= bound * (1.0 + want.abs());
                assert!(same || near, "{context:?} [{i}]: {got} for {want}");
            }
        }
    };
    for isa in Isa::available() {
        check(isa.into());
        Team::with_threads(3, |team| check((isa, team).into())).expect("three threads");
    }
    want
}

/// A size of a small problem, 0, or one that no problem has.
fn size() -> impl Strategy<Value = usize> {
    // The product of the fourth and the fifth is 1 modulo 2^64, as with 16 times that.
    let hostile = vec![
        usize::MAX,
        usize::MAX / 2 + 1,
        1 << 32,
        67_280_421_310_721,
        274_177,
        4 * 67_280_421_310_721,
        4 * 274_177,
        1 << 62,
    ];
    prop_oneof![12 => 1..10usize, 1 => Just(0), 2 => select(hostile)]
}

/// A length near the right one, which a few small ones replace where there is no slice as long.
fn length(right: Option<usize>) -> impl Strategy<Value = usize> {
    let right = right.filter(|len| *len < 1 << 22).unwrap_or(16);
    let wrong = vec![0, 1, right.saturating_sub(1), right + 1];
    prop_oneof![9 => Just(right), 1 => select(wrong)]
}

fn times(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size))
}

/// A product of any sizes and strides; most of them small enough to fit.
fn product() -> impl Strategy<Value = Product> {
    let stride = prop_oneof![8 => 0..40usize, 1 => select(vec![usize::MAX, usize::MAX / 2 + 1, 1 << 62])];
    let count = prop_oneof![12 => 1..4usize, 1 => Just(0), 1 => size()];
    (prop::collection::vec(count, 5), prop::collection::vec(stride, 9), any::<bool>(), any::<bool>())
        .prop_map(|(count, stride, accumulate, dense)| {
            let [outer, m, n, segments, k] = count[..] else { unreachable!("five") };
            if dense {
                return Product { accumulate, ..Product::dense(m, n, k) };
            }
            Product {
                outer,
                m,
                n,
                segments,
                k,
                a_outer: stride[0],
                b_outer: stride[1],
                c_outer: stride[2],
                a_row: stride[3],
                a_segment: stride[4],
                a_k: stride[5],
                b_segment: stride[6],
                b_k: stride[7],
                c_row: stride[8],
                accumulate,
            }
        })
}

/// The index after the last one of C, in numbers that do not wrap around.
fn end_of_c(p: &Product) -> u128 {
    let last = |count: usize, stride: usize| (count as u128 - 1) * stride as u128;
    last(p.outer, p.c_outer) + last(p.m, p.c_row) + p.n as u128
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products(p in product(), a in 0..300usize, b in 0..300usize, c in 0..300usize, b_is_weight: bool) {
        let (a, b) = (Slice::numbers(a), Slice::numbers(b));
        let outputs = [if p.accumulate { Slice::numbers(c) } else { Slice::empty(c) }];
        let done = everywhere(outputs, |context, [c]| {
            MatrixProduct::try_run(context, Multiply { shape: &p, a: &a, b: &b, c, b_is_weight })
        });
        if let Some([c]) = done && p.outer > 0 && p.m > 0 && p.n > 0 {
            prop_assert!(end_of_c(&p) <= c.len() as u128, "{p:?}");
            let rows = (0..p.outer).flat_map(|o| (0..p.m).map(move |i| o * p.c_outer + i * p.c_row));
            for row in rows {
                prop_assert!(c[row..row + p.n].iter().all(|c| c.is_finite()), "{p:?}: an element is missing");
            }
        }
    }

    #[test]
    fn dense_products_of_the_right_lengths_are_accepted(m in 0..40usize, n in 0..40usize, k in 0..40usize) {
        let (p, a, b) = (Product::dense(m, n, k), Slice::numbers(m * k), Slice::numbers(k * n));
        let done = everywhere([Slice::empty(m * n)], |context, [c]| {
            MatrixProduct::try_run(context, Multiply { shape: &p, a: &a, b: &b, c, b_is_weight: true })
        });
        prop_assert!(done.is_some_and(|[c]| c.iter().all(|c| c.is_finite())));
    }

    #[test]
    fn convolutions(
        (sizes, lens) in prop::collection::vec(size(), 5).prop_flat_map(|sizes| {
            let [h, w, c_in, c_out, n] = sizes[..] else { unreachable!("five") };
            let work = Winograd::new(h, w, c_in, c_out).ok().map(|layer| layer.work_len());
            let rights = [
                times(&[n, h, w, c_in]),
                times(&[n, h, w, c_out]),
                times(&[9, c_in, c_out]),
                Some(c_out),
                work,
            ];
            (Just(sizes), rights.map(length))
        }),
        accumulate: bool,
    ) {
        let [h, w, c_in, c_out, _] = sizes[..] else { unreachable!("five") };
        let Ok(layer) = Winograd::new(h, w, c_in, c_out) else {
            let products = [times(&[h, w, c_in]), times(&[h, w, c_out]), times(&[9, c_in, c_out])];
            // Whatever fits into a few gigabytes is accepted.
            let large = |len: &Option<usize>| len.is_none_or(|len| len > 1 << 30);
            let large = c_in.max(c_out) > 1 << 20 || products.iter().any(large);
            prop_assert!(large || [h, w, c_in, c_out].contains(&0), "{sizes:?}");
            return Ok(());
        };
        let [x, y, weight, bias, work] = lens;
        let (input, output) = (h * w * c_in, h * w * c_out);
        let fits = x % input == 0
            && y % output == 0
            && x / input == y / output
            && 9 * c_in * c_out == weight
            && work >= layer.work_len();
        let [x, d_y, weight, bias] = [x, y, weight, bias].map(Slice::numbers);
        let y = if accumulate { d_y.clone() } else { Slice::empty(d_y.len()) };
        let work = Mutex::new(vec![f32::NAN; work]);
        let done = everywhere([y], |context, [y]| {
            let mut work = work.lock().expect("no call panicked");
            let (layer, bias) = (&layer, Some(&*bias));
            let (x, weight, work) = (&*x, &*weight, &mut work[..]);
            let operands = Convolution { layer, x, weight, bias, y, accumulate, work };
            WinogradForward::try_run(context, operands)
        });
        prop_assert_eq!(done.is_some(), fits && bias.len() == c_out, "{:?}", layer);
        prop_assert!(done.is_none_or(|[y]| y.iter().all(|y| y.is_finite())));
        let pixels = d_y.len() / c_out.max(1);
        let done = everywhere_of(pixels, [weight.clone()], |context, [d_weight]| {
            let mut work = work.lock().expect("no call panicked");
            let operands = ConvolutionGradient { layer: &layer, x: &x, d_y: &d_y, d_weight, work: &mut work };
            WinogradWeightGradient::try_run(context, operands)
        });
        prop_assert_eq!(done.is_some(), fits, "{:?}", layer);
    }

    #[test]
    fn elementwise_functions(
        n in 0..70usize,
        lens in prop::collection::vec(0..70usize, 2),
        equal: bool,
        function in select(Activation::ALL.to_vec()),
    ) {
        let [second, third] = if equal { [n, n] } else { [lens[0], lens[1]] };
        let (x, d_y) = (Slice::numbers(n), Slice::numbers(second));
        let done = everywhere([Slice::empty(second)], |context, [y]| {
            Activate::try_run(context, Pointwise { function, x: &x, y })
        });
        prop_assert_eq!(done.is_some(), n == second);
        prop_assert!(done.is_none_or(|[y]| y.iter().all(|y| y.is_finite())));
        let done = everywhere([Slice::empty(third)], |context, [d_x]| {
            ActivateBackward::try_run(context, PointwiseBackward { function, x: &x, d_y: &d_y, d_x })
        });
        prop_assert_eq!(done.is_some(), n == second && n == third);
        prop_assert!(done.is_none_or(|[d_x]| d_x.iter().all(|d_x| d_x.is_finite())));
        let done = everywhere([x.clone(), Slice::empty(second)], |context, [x, cosines]| {
            SinCos::try_run(context, Angles { x, cosines })
        });
        prop_assert_eq!(done.is_some(), n == second);
        prop_assert!(done.is_none_or(|outputs| outputs.iter().all(|x| x.iter().all(|x| x.is_finite()))));
    }

    #[test]
    fn dropout(n in 0..1100usize, p: f64) {
        for p in [p, p.abs().fract(), 0.0, 1.0, -0.0, f64::NAN, f64::INFINITY] {
            let done = everywhere([Slice::numbers(n)], |context, [x]| {
                DropOut::try_run(context, Dropped { key: &[3; 32], p, x })
            });
            prop_assert_eq!(done.is_some(), (0.0..1.0).contains(&p), "{}", p);
        }
    }

    #[test]
    fn powers_of_two(
        (rows, width, stride) in (0..6usize, size(), size()),
        (len, by_row, by_column, weights) in (0..200usize, 0..8usize, 0..24usize, 0..24usize),
        right: bool,
        form in 0..3usize,
    ) {
        // With the right lengths, but for sizes that fit nothing.
        let needed = times(&[rows.saturating_sub(1), stride]).and_then(|len| len.checked_add(width));
        let (len, by_row, by_column, weights) = match needed {
            Some(needed) if right && needed < 1000 && width > 0 => {
                (if rows > 0 { needed } else { 0 }, rows, width, width)
            }
            _ => (len, by_row, by_column, weights),
        };
        let matrix = stride > 0 && width <= stride && len.div_ceil(stride) == by_row
            && (by_row == 0 || (by_row - 1) * stride + width <= len);
        let [shifts, columns, weights] = [by_row, by_column, weights].map(Slice::numbers);
        let done = everywhere([Slice::numbers(len)], |context, [x]| {
            let exponent = match form {
                0 => Exponent::Rows(&shifts),
                1 => Exponent::RowsThenColumns(&shifts, &columns),
                _ => Exponent::ColumnsThenRows(&columns, &shifts),
            };
            Exp2::try_run(context, Powers { x, width, stride, exponent })
        });
        prop_assert_eq!(done.is_some(), matrix && (form == 0 || by_column == width));
        for with_columns in [false, true] {
            let outputs = [Slice::numbers(len), Slice::empty(by_row), Slice::empty(by_row)];
            let done = everywhere(outputs, |context, [x, maxima, sums]| {
                let columns = with_columns.then_some(Columns { shifts: &columns, weights: &weights });
                let operands = PowersBelowMaxima { x, width, stride, columns, maxima, sums };
                Exp2BelowMaxima::try_run(context, operands)
            });
            let all = !with_columns || (by_column == width && weights.len() == width);
            prop_assert_eq!(done.is_some(), matrix && all);
            // The largest exponent of an empty row is minus infinity.
            prop_assert!(done.is_none_or(|[_, m, s]| m.iter().chain(s.iter()).all(|x| !x.is_nan())));
        }
        let short = Slice::empty(by_row.saturating_sub(1));
        let outputs = [Slice::numbers(len), Slice::empty(by_row), short];
        let done = everywhere(outputs, |context, [x, maxima, sums]| {
            let operands = PowersBelowMaxima { x, width, stride, columns: None, maxima, sums };
            Exp2BelowMaxima::try_run(context, operands)
        });
        prop_assert_eq!(done.is_some(), matrix && by_row == 0);
    }

    #[test]
    fn normalisations(
        (rows, c) in (0..40usize, 0..40usize),
        lens in prop::collection::vec(0..200usize, 8),
        wrong in 0..16usize,
        silu: bool,
        accumulate: bool,
    ) {
        // One length at most is another than the right one.
        let right = [rows * c, rows * c, rows * c, c, c, c, c, c];
        let len = |i: usize| if i == wrong { lens[i] } else { right[i] };
        let fits = |used: &[usize]| c > 0 && used.iter().all(|i| len(*i) == right[*i]);
        let [x, d, d_x, factor, term, centre, slope, sum] = std::array::from_fn(len).map(Slice::numbers);
        let channels = Channels { factor: &factor, term: &term, centre: &centre };
        let empty = |slice: &Slice| Slice::empty(slice.len());

        let done = everywhere([empty(&slope), empty(&sum)], |context, [mean, deviations]| {
            ChannelMoments::try_run(context, Moments { x: &x, mean, deviations })
        });
        prop_assert!(done.is_some() || !fits(&[0, 6, 7]) || rows == 0);
        prop_assert!(done.is_none_or(|[m, d]| m.iter().chain(d.iter()).all(|x| x.is_finite())));

        let done = everywhere([empty(&d)], |context, [y]| {
            ChannelAffine::try_run(context, Affine { x: &x, channels, silu, y })
        });
        prop_assert!(done.is_some() || !fits(&[0, 1, 3, 4, 5]));
        prop_assert!(done.is_none_or(|[y]| y.iter().all(|y| y.is_finite())));

        let done = everywhere([d.clone(), empty(&slope), empty(&sum)], |context, [d, sum, sum_x]| {
            let operands = AffineBackward { x: &x, channels, silu, d, sum, sum_x };
            ChannelAffineBackward::try_run(context, operands)
        });
        prop_assert!(done.is_some() || !fits(&[0, 1, 3, 4, 5, 6, 7]));
        prop_assert!(done.is_none_or(|[_, s, x]| s.iter().chain(x.iter()).all(|x| x.is_finite())));

        let done = everywhere([d.clone(), d_x.clone()], |context, [d, d_x]| {
            let d_x = Some(&mut **d_x);
            ChannelCentred::try_run(context, Centred { x: &x, channels, slope: &slope, d, d_x, accumulate })
        });
        prop_assert!(done.is_some() || !fits(&[0, 1, 2, 3, 4, 5, 6]));
        let done = everywhere([d.clone()], |context, [d]| {
            let operands = Centred { x: &x, channels, slope: &slope, d, d_x: None, accumulate };
            ChannelCentred::try_run(context, operands)
        });
        prop_assert!(done.is_some() || !fits(&[0, 1, 3, 4, 5, 6]));
    }

    #[test]
    fn names_of_instruction_sets(name in "(reference|portable|avx2|avx512|neon|sve|[a-zA-Z0-9]{0,8})") {
        let isa = name.parse::<Isa>();
        let is_there = |isa: Isa| isa.name() == name && Isa::available().contains(&isa);
        prop_assert!(isa.is_err() || isa.is_ok_and(is_there));
    }

    #[test]
    fn numbers_of_threads(threads in prop_oneof![Just(0), MAX_THREADS + 1..=usize::MAX]) {
        let errors = [Team::with_threads(threads, |_| ()).err(), peak_gflops(Isa::detect(), threads).err()];
        for error in errors {
            let error = error.expect("no system has as many threads");
            prop_assert!(error.to_string().starts_with("threads: expected"), "{}", error);
        }
    }
}

/// The sizes whose products are 16 modulo 2^64: this convolution once wrote beyond y.
#[test]
fn a_convolution_whose_sizes_wrap_around_is_refused() {
    let error = Winograd::new(4 * 67_280_421_310_721, 4 * 274_177, 1, 1).expect_err("no memory holds it");
    assert!(error.to_string().starts_with("a 3x3 convolution: expected"), "{error}");
}
