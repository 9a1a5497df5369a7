//! Sums and maxima of slices, in an order that the length alone decides: the same bits on every instruction
//! set.
//!
//! All are inline, for the loops that [`vectorised`](crate::kernels::vectorised) compiles.

use crate::kernels::Element;

/// Independent partial results in a reduction: what a vector register may hold.
const LANES: usize = 16;

/// sum a_i b_i.
#[inline(always)]
pub(super) fn dot<T: Element>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += *a * *b;
    }
    fold(lanes, |a, b| a + b)
}

/// c_j <- max(c_j, max_t (f_tj - rows_t)) for f \[rows, c.len()\]: columns by blocks that stay in registers.
#[inline(always)]
pub(super) fn raise_to_columns<T: Element>(c: &mut [T], f: &[T], rows: &[T]) {
    let len = c.len();
    let (blocks, rest) = c.as_chunks_mut::<LANES>();
    let whole = blocks.len() * LANES;
    for (i, c) in blocks.iter_mut().enumerate() {
        let mut lanes = *c;
        for (f, row) in f.chunks_exact(len).zip(rows) {
            let f = &f[i * LANES..][..LANES];
            for lane in 0..LANES {
                lanes[lane] = larger(lanes[lane], f[lane] - *row);
            }
        }
        *c = lanes;
    }
    for (f, row) in f.chunks_exact(len).zip(rows) {
        for (c, x) in rest.iter_mut().zip(&f[whole..]) {
            *c = larger(*c, *x - *row);
        }
    }
}

/// sums_j += sum_t weights_t f_tj for f \[rows, sums.len()\], without weights sum_t f_tj.
#[inline(always)]
pub(super) fn add_columns<T: Element>(sums: &mut [T], f: &[T], weights: Option<&[T]>) {
    let len = sums.len();
    let weight = |t: usize| weights.map_or(T::one(), |weights| weights[t]);
    let (blocks, rest) = sums.as_chunks_mut::<LANES>();
    let whole = blocks.len() * LANES;
    for (i, sums) in blocks.iter_mut().enumerate() {
        let mut lanes = [T::zero(); LANES];
        for (t, f) in f.chunks_exact(len).enumerate() {
            let (f, weight) = (&f[i * LANES..][..LANES], weight(t));
            for lane in 0..LANES {
                lanes[lane] += weight * f[lane];
            }
        }
        for lane in 0..LANES {
            sums[lane] += lanes[lane];
        }
    }
    for (t, f) in f.chunks_exact(len).enumerate() {
        for (sum, x) in rest.iter_mut().zip(&f[whole..]) {
            *sum += weight(t) * *x;
        }
    }
}

/// The larger of `max` and `x`; `max` where `x` is NaN. One instruction, unlike `Float::max`.
#[inline(always)]
pub(super) fn larger<T: Element>(max: T, x: T) -> T {
    if x > max { x } else { max }
}

#[inline(always)]
fn fold<T: Element>(mut lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}
