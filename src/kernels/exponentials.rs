//! Powers of two of a matrix less what makes them at most 1, in one pass: the middle of softmax and of
//! FAVOR+'s features.
//!
//! The base is 2 and not e, since the matrix is a product of which one factor is scaled anyway, there by
//! log2(e) too: then the integral part n of an exponent is taken off exactly, without Cody's and Waite's two
//! pieces of ln 2. 2^r for what is left, |r| <= 1/2, is a polynomial of degree 6, 1 at 0, fitted to the least
//! largest relative error, with rounded coefficients 2^-25. Below 2^-126 the result is 0.
//!
//! An exponent is the matrix's element x_tj and a shift by row and, where there are any, by column: see
//! [`Exponent`]. With [`exp2_below_maxima_reference`] the shift by row is the row's largest exponent, and the
//! row's weighted sum is found beside:
//!
//! - softmax: maxima_t = max_j x_tj, x_tj <- 2^(x_tj - maxima_t), sums_t = sum_j x_tj;
//! - FAVOR+'s queries: maxima_t = max_j (x_tj + columns_j), x_tj <- 2^((x_tj + columns_j) - maxima_t),
//!   sums_t = sum_j weights_j x_tj, the denominator if the weights are the sums of the keys' features.
//!
//! Maxima pass over NaN, which the exponentials still see. A row's sum is taken in as many partial sums as a
//! vector has lanes, in an order that its length and the instruction set decide.

use super::Isa;
use super::simd::{Simd, VectorCode, dispatch};
use crate::real::Real;
use std::marker::PhantomData;

/// How an exponent comes from the matrix's element x_tj.
#[derive(Clone, Copy, Debug)]
pub enum Exponent<'a, T> {
    /// x_tj - rows_t.
    Rows(&'a [T]),
    /// (x_tj - rows_t) - columns_j.
    RowsThenColumns(&'a [T], &'a [T]),
    /// (x_tj + columns_j) - rows_t; columns first.
    ColumnsThenRows(&'a [T], &'a [T]),
}

impl<T: Real> Exponent<'_, T> {
    /// The shifts by row, and those by column where the form has any.
    fn shifts(&self) -> (&[T], Option<&[T]>) {
        match *self {
            Exponent::Rows(rows) => (rows, None),
            Exponent::RowsThenColumns(rows, columns) | Exponent::ColumnsThenRows(columns, rows) => {
                (rows, Some(columns))
            }
        }
    }

    fn of(&self, x: T, t: usize, j: usize) -> T {
        match self {
            Exponent::Rows(rows) => x - rows[t],
            Exponent::RowsThenColumns(rows, columns) => (x - rows[t]) - columns[j],
            Exponent::ColumnsThenRows(columns, rows) => (x + columns[j]) - rows[t],
        }
    }
}

/// x_tj <- 2 to its [`Exponent`] for the first `width` elements of every `stride`.
pub(super) fn exp2_of_reference<T: Real>(x: &mut [T], width: usize, stride: usize, exponent: Exponent<T>) {
    for (t, row) in x.chunks_mut(stride).enumerate() {
        for (j, x) in row[..width].iter_mut().enumerate() {
            *x = exponent.of(*x, t, j).exp2();
        }
    }
}

/// A row's shifts by column and the weights of its sum, \[width\] both: 0 and 1 without.
pub type Columns<'a, T> = Option<(&'a [T], &'a [T])>;

/// See the module's text.
pub(super) fn exp2_below_maxima_reference<T: Real>(
    x: &mut [T],
    width: usize,
    stride: usize,
    columns: Columns<T>,
    maxima: &mut [T],
    sums: &mut [T],
) {
    for ((row, max), sum) in x.chunks_mut(stride).zip(maxima).zip(sums) {
        (*max, *sum) = (T::neg_infinity(), T::zero());
        let of = |x, j: usize| columns.map_or(x, |(shifts, _)| x + shifts[j]);
        for (j, x) in row[..width].iter_mut().enumerate() {
            let exponent = of(*x, j);
            *max = if exponent > *max { exponent } else { *max };
        }
        for (j, x) in row[..width].iter_mut().enumerate() {
            *x = (of(*x, j) - *max).exp2();
            *sum += columns.map_or(T::one(), |(_, weights)| weights[j]) * *x;
        }
    }
}

/// Panics unless the matrix's rows and the shifts have the lengths that the loops below take for granted.
fn check<T>(x: &[T], width: usize, stride: usize, rows: usize, columns: Option<usize>) {
    let fits = rows == 0 || (width <= stride && (rows - 1) * stride + width <= x.len());
    assert!(fits, "{rows} rows of {width}, {stride} apart, in {}", x.len());
    assert!(x.len().div_ceil(stride) == rows, "{} is not {rows} rows, {stride} apart", x.len());
    assert!(columns.is_none_or(|columns| columns == width), "{columns:?} columns of {width}");
}

pub(super) fn exp2_of_fast(isa: Isa, x: &mut [f32], width: usize, stride: usize, exponent: Exponent<f32>) {
    let (rows, columns) = exponent.shifts();
    check(x, width, stride, rows.len(), columns.map(<[f32]>::len));
    let columns = columns.unwrap_or_default().as_ptr();
    let matrix = Matrix { x: x.as_mut_ptr(), rows: rows.len(), width, stride, columns };
    let rows = rows.as_ptr();
    // SAFETY: `check` holds the matrix's and the shifts' lengths; the form without shifts by column reads
    // none.
    unsafe {
        match exponent {
            Exponent::Rows(_) => dispatch(isa, Exp2Of::<ByRow> { matrix, rows, form: PhantomData }),
            Exponent::RowsThenColumns(..) => {
                dispatch(isa, Exp2Of::<ByRowThenColumn> { matrix, rows, form: PhantomData });
            }
            Exponent::ColumnsThenRows(..) => {
                dispatch(isa, Exp2Of::<ByColumnThenRow> { matrix, rows, form: PhantomData });
            }
        }
    }
}

pub(super) fn exp2_below_maxima_fast(
    isa: Isa,
    x: &mut [f32],
    width: usize,
    stride: usize,
    columns: Columns<f32>,
    maxima: &mut [f32],
    sums: &mut [f32],
) {
    check(x, width, stride, maxima.len(), columns.map(|(shifts, _)| shifts.len()));
    check(x, width, stride, sums.len(), columns.map(|(_, weights)| weights.len()));
    let (shifts, weights) = columns.unwrap_or_default();
    let matrix = Matrix { x: x.as_mut_ptr(), rows: maxima.len(), width, stride, columns: shifts.as_ptr() };
    let (weights, maxima, sums) = (weights.as_ptr(), maxima.as_mut_ptr(), sums.as_mut_ptr());
    // SAFETY: `check` holds the lengths; without columns neither they nor the weights are read.
    unsafe {
        if columns.is_some() {
            dispatch(
                isa,
                Exp2BelowMaxima::<ByColumnThenRow> { matrix, weights, maxima, sums, form: PhantomData },
            );
        } else {
            dispatch(isa, Exp2BelowMaxima::<ByRow> { matrix, weights, maxima, sums, form: PhantomData });
        }
    }
}

/// 2^x of every lane, at most 2 ULP off for -126 <= x < 127.5; 0 below and infinity above.
#[inline(always)]
unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: arithmetic on registers; the processor has S's features by the caller's promise.
    unsafe {
        // The fields of 2^-127 and 2^128 are those of 0 and infinity.
        let x = S::max(S::min(x, S::splat(128.0)), S::splat(-127.0));
        let n = S::round(x);
        let r = S::sub(x, n);
        let mut y = S::splat(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            y = S::fma(y, r, S::splat(*c));
        }
        S::mul(y, S::exp2_int(n))
    }
}

/// The coefficients of 2^r from r^6 down to 1.
const POLYNOMIAL: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_4e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];

/// The exponent's form, known to the compiler.
trait Form {
    /// Whether there are shifts by column.
    const COLUMNS: bool;
    /// The exponent.
    unsafe fn of<S: Simd>(x: S::V, row: S::V, column: S::V) -> S::V;
}

struct ByRow;
struct ByRowThenColumn;
struct ByColumnThenRow;

impl Form for ByRow {
    const COLUMNS: bool = false;
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V, row: S::V, _: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { S::sub(x, row) }
    }
}

impl Form for ByRowThenColumn {
    const COLUMNS: bool = true;
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V, row: S::V, column: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { S::sub(S::sub(x, row), column) }
    }
}

impl Form for ByColumnThenRow {
    const COLUMNS: bool = true;
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V, row: S::V, column: S::V) -> S::V {
        // SAFETY: the caller's promise of S's features.
        unsafe { S::sub(S::add(x, column), row) }
    }
}

#[derive(Clone, Copy)]
struct Matrix {
    x: *mut f32,
    rows: usize,
    width: usize,
    stride: usize,
    columns: *const f32,
}

impl Matrix {
    /// Calls `f(x, columns' offset, elements)` for the row's vectors, the last one partial if
    /// `elements < LANES`.
    #[inline(always)]
    unsafe fn for_row<S: Simd>(&self, t: usize, mut f: impl FnMut(*mut f32, usize, usize)) {
        // SAFETY: row t exists.
        let x = unsafe { self.x.add(t * self.stride) };
        let mut j = 0;
        while j + S::LANES <= self.width {
            // SAFETY: j < width.
            f(unsafe { x.add(j) }, j, S::LANES);
            j += S::LANES;
        }
        if j < self.width {
            // SAFETY: as above.
            f(unsafe { x.add(j) }, j, self.width - j);
        }
    }
}

impl Matrix {
    /// The shifts of `n` columns from j on, 0 where there are none.
    #[inline(always)]
    unsafe fn column<S: Simd, F: Form>(&self, j: usize, n: usize) -> S::V {
        // SAFETY: the columns exist if the form has any.
        unsafe { if F::COLUMNS { load::<S>(self.columns.add(j), n) } else { S::splat(0.0) } }
    }
}

/// `n` floats, the other lanes 0.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller gives n readable floats.
    unsafe { if n == S::LANES { S::load(p) } else { S::load_partial(p, n) } }
}

#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller gives n writable floats.
    unsafe { if n == S::LANES { S::store(p, v) } else { S::store_partial(p, v, n) } }
}

/// The most lanes a vector has.
const LANES: usize = 16;

/// Folds the vector's lanes, halves upon halves.
#[inline(always)]
unsafe fn fold<S: Simd>(v: S::V, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: a vector has at most LANES lanes.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    let mut width = S::LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

struct Exp2Of<F> {
    matrix: Matrix,
    rows: *const f32,
    form: PhantomData<F>,
}

impl<F: Form> VectorCode for Exp2Of<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: `check` holds the rows', the columns' and the matrix's lengths.
        unsafe {
            for t in 0..self.matrix.rows {
                let row = S::splat(*self.rows.add(t));
                self.matrix.for_row::<S>(
                    t,
                    #[inline(always)]
                    |x, j, n| {
                        let column = self.matrix.column::<S, F>(j, n);
                        store::<S>(x, exp2::<S>(F::of::<S>(load::<S>(x, n), row, column)), n);
                    },
                );
            }
        }
    }
}

struct Exp2BelowMaxima<F> {
    matrix: Matrix,
    weights: *const f32,
    maxima: *mut f32,
    sums: *mut f32,
    form: PhantomData<F>,
}

/// Rows whose maxima are found before their exponentials are taken, so that the folds of one wait for no
/// other.
const BLOCK: usize = 4;

impl<F: Form> VectorCode for Exp2BelowMaxima<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.matrix.rows;
        for start in (0..rows).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(rows);
            // SAFETY: `check` holds the rows', the columns' and the matrix's lengths.
            unsafe {
                for t in block.clone() {
                    *self.maxima.add(t) = self.largest::<S>(t);
                }
                for t in block {
                    *self.sums.add(t) = self.exponentials::<S>(t, *self.maxima.add(t));
                }
            }
        }
    }
}

impl<F: Form> Exp2BelowMaxima<F> {
    /// Row t's largest exponent.
    #[inline(always)]
    unsafe fn largest<S: Simd>(&self, t: usize) -> f32 {
        // SAFETY: row t exists.
        unsafe {
            let mut largest = S::splat(f32::NEG_INFINITY);
            self.matrix.for_row::<S>(
                t,
                #[inline(always)]
                |x, j, n| {
                    let column = self.matrix.column::<S, F>(j, n);
                    let mut exponent = F::of::<S>(load::<S>(x, n), S::splat(0.0), column);
                    if n < S::LANES {
                        let mut lanes = [f32::NEG_INFINITY; LANES];
                        S::store_partial(lanes.as_mut_ptr(), exponent, n);
                        exponent = S::load(lanes.as_ptr());
                    }
                    // NaN in the exponent leaves `largest`.
                    largest = S::max(largest, exponent);
                },
            );
            fold::<S>(
                largest,
                #[inline(always)]
                |max, x| if x > max { x } else { max },
            )
        }
    }

    /// Row t's exponentials, and their weighted sum.
    #[inline(always)]
    unsafe fn exponentials<S: Simd>(&self, t: usize, max: f32) -> f32 {
        // SAFETY: row t exists.
        unsafe {
            let row = S::splat(max);
            let mut sum = S::splat(0.0);
            self.matrix.for_row::<S>(
                t,
                #[inline(always)]
                |x, j, n| {
                    let column = self.matrix.column::<S, F>(j, n);
                    let y = exp2::<S>(F::of::<S>(load::<S>(x, n), row, column));
                    store::<S>(x, y, n);
                    // Lanes beyond the row hold exponentials of nothing.
                    let y = if n == S::LANES { y } else { S::load_partial(x, n) };
                    sum = if F::COLUMNS {
                        S::fma(load::<S>(self.weights.add(j), n), y, sum)
                    } else {
                        S::add(sum, y)
                    };
                },
            );
            fold::<S>(
                sum,
                #[inline(always)]
                |a, b| a + b,
            )
        }
    }
}

#[cfg(test)]
mod tests;
