//! Sums and maxima of slices. Their order depends only on the length, so that every instruction set gives the
//! same bits.
//!
//! All but the last are inline, for loops inside [`vectorised`].

use crate::kernels::{Element, Isa, each_pair, vectorised};
use crate::real::Real;

/// The number of independent partial results of a reduction, as many as a vector register may hold.
const PARTS: usize = 16;

/// The sum of a_i b_i.
#[inline(always)]
pub(super) fn dot<T: Element>(a: &[T], b: &[T]) -> T {
    let mut parts = [T::zero(); PARTS];
    let (a, a_rest) = a.as_chunks::<PARTS>();
    let (b, b_rest) = b.as_chunks::<PARTS>();
    for block in 0..a.len().min(b.len()) {
        for i in 0..PARTS {
            parts[i] += a[block][i] * b[block][i];
        }
    }
    for i in 0..a_rest.len().min(b_rest.len()) {
        parts[i] += a_rest[i] * b_rest[i];
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
        for (t, f) in f.chunks_exact(len).enumerate() {
            let (f, row) = (&f[i * PARTS..][..PARTS], rows[t]);
            for j in 0..PARTS {
                parts[j] = larger(parts[j], f[j] - row);
            }
        }
        *c = parts;
    }
    for (t, f) in f.chunks_exact(len).enumerate() {
        each_pair(rest, &f[whole..], |c, x| *c = larger(*c, *x - rows[t]));
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
        each_pair(rest, &f[whole..], |sum, x| *sum += weight(t) * *x);
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
                each_pair(sums, row, |sum, a| *sum += *a);
            }
        },
    );
}
