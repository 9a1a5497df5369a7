//! Powers of two of a matrix's elements, shifted so that no result exceeds 1: the step between the two matrix
//! products of softmax attention, and the last step of FAVOR+'s features.
//!
//! The base is 2 and not e. The matrix is a product, one of whose factors is scaled anyway, so log2(e) joins
//! that scale at no cost. An exponent then splits exactly into its nearest integer n and a rest r with |r| <=
//! 1/2, without the two pieces of ln 2 that exp needs (see `vector.rs`). 2^r is a polynomial of degree 6 that
//! is 1 at 0, fitted for the least maximum relative error: 2^-25 with rounded coefficients. 2^n is written
//! into the exponent's bits. A result below 2^-126 becomes 0.
//!
//! [`Exp2`] takes the shifts as given; [`Exponent`] lists the forms. [`Exp2BelowMaxima`] first finds each
//! row's largest exponent, shifts the row by it, and sums the results:
//!
//! - softmax: maxima_t = max_j x_tj, x_tj <- 2^(x_tj - maxima_t), sums_t = sum_j x_tj;
//! - FAVOR+'s queries: maxima_t = max_j (x_tj + shifts_j), x_tj <- 2^((x_tj + shifts_j) - maxima_t), sums_t =
//!   sum_j weights_j x_tj. With the sums of the keys' features as weights, sums_t is the denominator.
//!
//! A maximum ignores NaN; the NaN's own exponential is still NaN. A row is summed in one partial sum per
//! element of a vector, and the partial sums are added in halves; this order depends only on the row's length
//! and on the instruction set.

use super::kernel::{Checked, Context, Kernel, ensure, ensure_len};
use super::simd::{Simd, VectorCode, dispatch};
use crate::error::Result;
use crate::real::Real;
use std::marker::PhantomData;

/// How an exponent is formed from the matrix's element x_tj.
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
    /// The shift of each row, and the shift of each column where the form has these.
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

/// The operands of [`Exp2`].
#[derive(Debug)]
pub struct Powers<'a, T> {
    /// The matrix: a row begins at every `stride`-th element.
    pub x: &'a mut [T],
    /// Elements of a row; those between the end of a row and the next one are left as they are.
    pub width: usize,
    /// Distance between the beginnings of two rows.
    pub stride: usize,
    /// The exponent's form, with a shift for every row and, in some forms, for every column.
    pub exponent: Exponent<'a, T>,
}

impl<'a, T> Powers<'a, T> {
    /// The operands for rows of `width` elements that follow each other without a gap.
    pub fn dense(x: &'a mut [T], width: usize, exponent: Exponent<'a, T>) -> Self {
        Powers { x, width, stride: width, exponent }
    }
}

/// x_tj <- 2 to the power of its [`Exponent`].
#[derive(Debug)]
pub struct Exp2;

impl Kernel for Exp2 {
    type Operands<'a, T: Real> = Powers<'a, T>;

    fn check<T: Real>(Powers { x, width, stride, exponent }: &Powers<T>) -> Result<()> {
        let (rows, columns) = exponent.shifts();
        check_matrix(x.len(), *width, *stride, rows.len())?;
        columns.map_or(Ok(()), |columns| ensure_len("the shifts of the columns", columns.len(), *width))
    }

    fn reference<T: Real>(Checked(Powers { x, width, stride, exponent }): Checked<Self, T>) {
        for (t, row) in x.chunks_mut(stride).enumerate() {
            for (j, x) in row[..width].iter_mut().enumerate() {
                *x = exponent.of(*x, t, j).exp2();
            }
        }
    }

    fn fast(context: Context, Checked(Powers { x, width, stride, exponent }): Checked<Self, f32>) {
        let (isa, (rows, columns)) = (context.isa, exponent.shifts());
        let columns = columns.unwrap_or_default().as_ptr();
        let matrix = Matrix { x: x.as_mut_ptr(), rows: rows.len(), width, stride, columns };
        let rows = rows.as_ptr();
        // SAFETY: `check` found as many shifts as rows and columns; without shifts of columns none are read.
        unsafe {
            match exponent {
                Exponent::Rows(_) => dispatch(isa, Exp2Code::<ByRow> { matrix, rows, form: PhantomData }),
                Exponent::RowsThenColumns(..) => {
                    dispatch(isa, Exp2Code::<ByRowThenColumn> { matrix, rows, form: PhantomData });
                }
                Exponent::ColumnsThenRows(..) => {
                    dispatch(isa, Exp2Code::<ByColumnThenRow> { matrix, rows, form: PhantomData });
                }
            }
        }
    }
}

/// What [`Exp2BelowMaxima`] has for every column, \[width\] both.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a, T> {
    /// Added to the elements before their row's maximum is found.
    pub shifts: &'a [T],
    /// The weights of the results in their row's sum.
    pub weights: &'a [T],
}

/// The operands of [`Exp2BelowMaxima`].
#[derive(Debug)]
pub struct PowersBelowMaxima<'a, T> {
    /// The matrix: a row begins at every `stride`-th element.
    pub x: &'a mut [T],
    /// Elements of a row; those between the end of a row and the next one are left as they are.
    pub width: usize,
    /// Distance between the beginnings of two rows.
    pub stride: usize,
    /// Shifts and weights of the columns; without them shifts are 0 and weights 1.
    pub columns: Option<Columns<'a, T>>,
    /// Takes each row's largest exponent.
    pub maxima: &'a mut [T],
    /// Takes each row's weighted sum of results.
    pub sums: &'a mut [T],
}

/// x_tj <- 2^(x_tj + shifts_j - maxima_t), where maxima_t is the row's largest exponent x_tj + shifts_j, and
/// sums_t <- sum_j weights_j x_tj of the results; see the module's text.
#[derive(Debug)]
pub struct Exp2BelowMaxima;

impl Kernel for Exp2BelowMaxima {
    type Operands<'a, T: Real> = PowersBelowMaxima<'a, T>;

    fn check<T: Real>(operands: &PowersBelowMaxima<T>) -> Result<()> {
        let PowersBelowMaxima { x, width, stride, columns, maxima, sums } = operands;
        check_matrix(x.len(), *width, *stride, maxima.len())?;
        ensure_len("the rows' sums", sums.len(), maxima.len())?;
        columns.map_or(Ok(()), |Columns { shifts, weights }| {
            ensure_len("the shifts of the columns", shifts.len(), *width)?;
            ensure_len("the weights of the columns", weights.len(), *width)
        })
    }

    fn reference<T: Real>(Checked(operands): Checked<Self, T>) {
        let PowersBelowMaxima { x, width, stride, columns, maxima, sums } = operands;
        for ((row, max), sum) in x.chunks_mut(stride).zip(maxima).zip(sums) {
            (*max, *sum) = (T::neg_infinity(), T::zero());
            let exponent = |x, j: usize| columns.map_or(x, |columns| x + columns.shifts[j]);
            for (j, x) in row[..width].iter_mut().enumerate() {
                let exponent = exponent(*x, j);
                *max = if exponent > *max { exponent } else { *max };
            }
            for (j, x) in row[..width].iter_mut().enumerate() {
                *x = (exponent(*x, j) - *max).exp2();
                *sum += columns.map_or(T::one(), |columns| columns.weights[j]) * *x;
            }
        }
    }

    fn fast(context: Context, Checked(operands): Checked<Self, f32>) {
        let PowersBelowMaxima { x, width, stride, columns, maxima, sums } = operands;
        let shifts = columns.map_or(&[][..], |columns| columns.shifts).as_ptr();
        let weights = columns.map_or(&[][..], |columns| columns.weights).as_ptr();
        let matrix = Matrix { x: x.as_mut_ptr(), rows: maxima.len(), width, stride, columns: shifts };
        let (isa, maxima, sums) = (context.isa, maxima.as_mut_ptr(), sums.as_mut_ptr());
        // SAFETY: `check` found one maximum and one sum for every row, and a shift and a weight for every
        // column or none, which then are not read.
        unsafe {
            if columns.is_some() {
                let form = PhantomData::<ByColumnThenRow>;
                dispatch(isa, Exp2BelowMaximaCode { matrix, weights, maxima, sums, form });
            } else {
                let form = PhantomData::<ByRow>;
                dispatch(isa, Exp2BelowMaximaCode { matrix, weights, maxima, sums, form });
            }
        }
    }
}

/// Refuses a slice of `len` elements that is not `rows` rows of `width` elements, `stride` apart.
fn check_matrix(len: usize, width: usize, stride: usize, rows: usize) -> Result<()> {
    // The last row may end with the slice, wherever that is after its `width` elements. Where the number of
    // rows is right, (rows - 1) stride is less than the length, and nothing overflows.
    let fits = width <= stride
        && stride > 0
        && len.div_ceil(stride) == rows
        && (rows == 0 || width <= len - (rows - 1) * stride);
    let expected = || format!("{rows} rows of {width}, {stride} apart");
    ensure(fits, "a matrix of exponents", expected, || format!("{len} elements"))
}

/// 2^x of every element of a vector, at most 2 ULP off for -126 <= x < 127.5; 0 below and infinity above.
#[inline(always)]
fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    // Written as exponent bits, 2^-127 is 0 and 2^128 is infinity.
    let x = s.max(s.min(x, s.splat(128.0)), s.splat(-127.0));
    let n = s.round(x);
    let r = s.sub(x, n);
    let mut y = s.splat(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        y = s.fma(y, r, s.splat(*c));
    }
    s.mul(y, s.exp2_int(n))
}

/// The coefficients of 2^r from r^6 down to 1.
const POLYNOMIAL: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_4e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];

/// The exponent's form as a type, so that each form is compiled to a loop of its own.
trait Form {
    /// Whether the columns have shifts.
    const COLUMNS: bool;
    /// The exponents of a vector of elements, from the shifts of their row and of their columns.
    fn of<S: Simd>(s: S, x: S::V, row: S::V, column: S::V) -> S::V;
}

struct ByRow;
struct ByRowThenColumn;
struct ByColumnThenRow;

impl Form for ByRow {
    const COLUMNS: bool = false;
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V, row: S::V, _: S::V) -> S::V {
        s.sub(x, row)
    }
}

impl Form for ByRowThenColumn {
    const COLUMNS: bool = true;
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V, row: S::V, column: S::V) -> S::V {
        s.sub(s.sub(x, row), column)
    }
}

impl Form for ByColumnThenRow {
    const COLUMNS: bool = true;
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V, row: S::V, column: S::V) -> S::V {
        s.sub(s.add(x, column), row)
    }
}

/// The matrix, and the shifts of its columns.
#[derive(Clone, Copy)]
struct Matrix {
    x: *mut f32,
    rows: usize,
    width: usize,
    stride: usize,
    columns: *const f32,
}

impl Matrix {
    /// Calls `f(pointer, first column, n)` for every vector of row t. n is the number of elements: `LANES`,
    /// or fewer in the last vector.
    ///
    /// # Safety
    /// Row t exists.
    #[inline(always)]
    unsafe fn for_row<S: Simd>(&self, t: usize, mut f: impl FnMut(*mut f32, usize, usize)) {
        // SAFETY: the caller's promise.
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

    /// The shifts of `n` columns from j on; 0 in a form without them.
    ///
    /// # Safety
    /// The columns exist, and have shifts if the form reads them.
    #[inline(always)]
    unsafe fn column<S: Simd, F: Form>(&self, s: S, j: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { if F::COLUMNS { s.load_up_to(self.columns.add(j), n) } else { s.splat(0.0) } }
    }
}

/// The most elements that a vector of any instruction set has.
const MOST_LANES: usize = 16;

/// Combines a vector's elements into one: the second half with the first, and so on with the half that is
/// left.
#[inline(always)]
fn fold<S: Simd>(s: S, v: S::V, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut elements = [0.0; MOST_LANES];
    const { assert!(S::LANES <= MOST_LANES) };
    // SAFETY: the array has room for a vector.
    unsafe { s.store(elements.as_mut_ptr(), v) };
    let mut width = S::LANES / 2;
    while width > 0 {
        for i in 0..width {
            elements[i] = f(elements[i], elements[i + width]);
        }
        width /= 2;
    }
    elements[0]
}

struct Exp2Code<F> {
    matrix: Matrix,
    rows: *const f32,
    form: PhantomData<F>,
}

impl<F: Form> VectorCode for Exp2Code<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the rows t exist and have shifts.
        unsafe {
            for t in 0..self.matrix.rows {
                let row = s.splat(*self.rows.add(t));
                self.matrix.for_row::<S>(
                    t,
                    #[inline(always)]
                    |x, j, n| {
                        let column = self.matrix.column::<S, F>(s, j, n);
                        s.store_up_to(x, exp2(s, F::of(s, s.load_up_to(x, n), row, column)), n);
                    },
                );
            }
        }
    }
}

struct Exp2BelowMaximaCode<F> {
    matrix: Matrix,
    weights: *const f32,
    maxima: *mut f32,
    sums: *mut f32,
    form: PhantomData<F>,
}

/// Rows whose maxima are found before the exponentials of any of them are taken. Folding a vector is a chain
/// of dependent steps; this way the processor works on the chains of several rows at a time.
const BLOCK: usize = 4;

impl<F: Form> VectorCode for Exp2BelowMaximaCode<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let rows = self.matrix.rows;
        for start in (0..rows).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(rows);
            // SAFETY: the rows t exist, each with a maximum and a sum.
            unsafe {
                for t in block.clone() {
                    *self.maxima.add(t) = self.largest(s, t);
                }
                for t in block {
                    *self.sums.add(t) = self.exponentials(s, t, *self.maxima.add(t));
                }
            }
        }
    }
}

impl<F: Form> Exp2BelowMaximaCode<F> {
    /// Row t's largest exponent.
    ///
    /// # Safety
    /// Row t exists.
    #[inline(always)]
    unsafe fn largest<S: Simd>(&self, s: S, t: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut largest = s.splat(f32::NEG_INFINITY);
            self.matrix.for_row::<S>(
                t,
                #[inline(always)]
                |x, j, n| {
                    let column = self.matrix.column::<S, F>(s, j, n);
                    let mut exponent = F::of(s, s.load_up_to(x, n), s.splat(0.0), column);
                    if n < S::LANES {
                        let mut elements = [f32::NEG_INFINITY; MOST_LANES];
                        s.store_partial(elements.as_mut_ptr(), exponent, n);
                        exponent = s.load(elements.as_ptr());
                    }
                    // Where the exponent is NaN, `largest` stays.
                    largest = s.max(largest, exponent);
                },
            );
            fold(
                s,
                largest,
                #[inline(always)]
                |max, x| if x > max { x } else { max },
            )
        }
    }

    /// Replaces row t by its exponentials, given its largest exponent, and returns their weighted sum.
    ///
    /// # Safety
    /// Row t exists.
    #[inline(always)]
    unsafe fn exponentials<S: Simd>(&self, s: S, t: usize, max: f32) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let row = s.splat(max);
            let mut sum = s.splat(0.0);
            self.matrix.for_row::<S>(
                t,
                #[inline(always)]
                |x, j, n| {
                    let column = self.matrix.column::<S, F>(s, j, n);
                    let y = exp2(s, F::of(s, s.load_up_to(x, n), row, column));
                    s.store_up_to(x, y, n);
                    // The vector's elements beyond the row's end are no results: read the row again.
                    let y = if n == S::LANES { y } else { s.load_partial(x, n) };
                    sum = if F::COLUMNS {
                        s.fma(s.load_up_to(self.weights.add(j), n), y, sum)
                    } else {
                        s.add(sum, y)
                    };
                },
            );
            fold(
                s,
                sum,
                #[inline(always)]
                |a, b| a + b,
            )
        }
    }
}

#[cfg(test)]
mod tests;
