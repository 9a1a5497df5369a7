//! Sums and maxima of slices, in an order that the length alone decides: the same bits on every instruction set.
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

/// sum a_i.
#[inline(always)]
pub(super) fn sum<T: Element>(a: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a, rest) = a.as_chunks::<LANES>();
    for a in a {
        for i in 0..LANES {
            lanes[i] += a[i];
        }
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane += *a;
    }
    fold(lanes, |a, b| a + b)
}

/// The largest a_i; passes over NaN, which its caller's exponentials still see.
#[inline(always)]
pub(super) fn max<T: Element>(a: &[T]) -> T {
    let mut lanes = [T::neg_infinity(); LANES];
    let (a, rest) = a.as_chunks::<LANES>();
    for a in a {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], a[i]);
        }
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *a);
    }
    fold(lanes, larger)
}

/// c_j <- max(c_j, max_t f_tj) for f \[rows, c.len()\]: columns by blocks that stay in registers.
#[inline(always)]
pub(super) fn raise_to_columns<T: Element>(c: &mut [T], f: &[T]) {
    let len = c.len();
    let (blocks, rest) = c.as_chunks_mut::<LANES>();
    let whole = blocks.len() * LANES;
    for (i, c) in blocks.iter_mut().enumerate() {
        let mut lanes = *c;
        for row in f.chunks_exact(len) {
            let row = &row[i * LANES..][..LANES];
            for lane in 0..LANES {
                lanes[lane] = larger(lanes[lane], row[lane]);
            }
        }
        *c = lanes;
    }
    for row in f.chunks_exact(len) {
        for (c, x) in rest.iter_mut().zip(&row[whole..]) {
            *c = larger(*c, *x);
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
