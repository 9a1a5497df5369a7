//! Sums and maxima of slices. Their order depends only on the length, so that every instruction set gives the
//! same bits.
//!
//! All but the last are inline, for loops inside [`vectorised`].

use crate::kernels::{Element, Isa, vectorised};
use crate::real::Real;

/// The number of independent partial results of a reduction, as many as a vector register may hold.
const PARTS: usize = 16;

/// The sum of a_i b_i.
#[inline(always)]
pub(super) fn dot<T: Element>(a: &[T], b: &[T]) -> T {
    let mut parts = [T::zero(); PARTS];
    let (a, a_rest) = a.as_chunks::<PARTS>();
    let (b, b_rest) = b.as_chunks::<PARTS>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..PARTS {
            parts[i] += a[i] * b[i];
        }
    }
    for (part, (a, b)) in parts.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *part += *a * *b;
    }
    fold(parts, |a, b| a + b)
}

/// Raises c_j to max_t (f_tj - rows_t) where that is larger, for f \[rows, c.len()\]. Columns go by blocks
/// that stay in registers.
#[inline(always)]
pub(super) fn raise_to_columns<T: Element>(c: &mut [T], f: &[T], rows: &[T]) {
    let len = c.len();
    let (blocks, rest) = c.as_chunks_mut::<PARTS>();
    let whole = blocks.len() * PARTS;
    for (i, c) in blocks.iter_mut().enumerate() {
        let mut parts = *c;
        for (f, row) in f.chunks_exact(len).zip(rows) {
            let f = &f[i * PARTS..][..PARTS];
            for j in 0..PARTS {
                parts[j] = larger(parts[j], f[j] - *row);
            }
        }
        *c = parts;
    }
    for (f, row) in f.chunks_exact(len).zip(rows) {
        for (c, x) in rest.iter_mut().zip(&f[whole..]) {
            *c = larger(*c, *x - *row);
        }
    }
}

/// Adds sum_t weights_t f_tj to sums_j, for f \[rows, sums.len()\]; without weights, sum_t f_tj.
#[inline(always)]
pub(super) fn add_columns<T: Element>(sums: &mut [T], f: &[T], weights: Option<&[T]>) {
    let len = sums.len();
    let weight = |t: usize| weights.map_or(T::one(), |weights| weights[t]);
    let (blocks, rest) = sums.as_chunks_mut::<PARTS>();
    let whole = blocks.len() * PARTS;
    for (i, sums) in blocks.iter_mut().enumerate() {
        let mut parts = [T::zero(); PARTS];
        for (t, f) in f.chunks_exact(len).enumerate() {
            let (f, weight) = (&f[i * PARTS..][..PARTS], weight(t));
            for j in 0..PARTS {
                parts[j] += weight * f[j];
            }
        }
        for j in 0..PARTS {
            sums[j] += parts[j];
        }
    }
    for (t, f) in f.chunks_exact(len).enumerate() {
        for (sum, x) in rest.iter_mut().zip(&f[whole..]) {
            *sum += weight(t) * *x;
        }
    }
}

/// The larger of `max` and `x`, and `max` where `x` is NaN. Unlike `Float::max` this is one instruction.
#[inline(always)]
pub(super) fn larger<T: Element>(max: T, x: T) -> T {
    if x > max { x } else { max }
}

/// Combines the partial results pairwise.
#[inline(always)]
fn fold<T: Element>(mut parts: [T; PARTS], f: impl Fn(T, T) -> T) -> T {
    let mut width = PARTS / 2;
    while width > 0 {
        for i in 0..width {
            parts[i] = f(parts[i], parts[i + width]);
        }
        width /= 2;
    }
    parts[0]
}

/// Adds to sums\[j\] the sum over rows i of a\[i, j\].
pub(super) fn add_column_sums<T: Real>(isa: Isa, a: &[T], sums: &mut [T]) {
    vectorised(
        isa,
        #[inline(always)]
        || {
            for row in a.chunks_exact(sums.len()) {
                for (sum, a) in sums.iter_mut().zip(row) {
                    *sum += *a;
                }
            }
        },
    );
}
