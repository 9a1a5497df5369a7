//! The five transforms of [`super`], one text for all: y = M x M^T over grids of pixels, vectors along channels.

use super::points::*;
use crate::kernels::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// One of the algorithm's matrices, OUT x IN, as the shortest sequence of vector operations.
pub(super) trait Matrix<const IN: usize, const OUT: usize> {
    /// M x.
    ///
    /// # Safety
    /// The processor has `S`'s features.
    unsafe fn apply<S: Simd>(x: [S::V; IN]) -> [S::V; OUT];
}

/// B^T: six input pixels to six points.
pub(super) struct Input;
/// G: three taps to six points.
pub(super) struct Kernel3;
/// A^T: six points to four output pixels.
pub(super) struct Output;
/// A: four output gradients to six points.
pub(super) struct OutputGradient;
/// G^T: six points to three taps' gradients.
pub(super) struct Kernel3Gradient;

impl Matrix<6, 6> for Input {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 6]) -> [S::V; 6] {
        // SAFETY: arithmetic on registers, with the caller's promise of S's features; so in all five.
        unsafe {
            let pair = |p: f32, other: f32| {
                let even = S::fma(x[2], S::splat(-other * other), x[4]);
                let odd = S::fma(x[1], S::splat(-other * other), x[3]);
                (S::fma(odd, S::splat(p), even), S::fma(odd, S::splat(-p), even))
            };
            let end = |low: S::V, middle: S::V, high: S::V| {
                S::fma(low, S::splat(P * P * Q * Q), S::fma(middle, S::splat(-P * P - Q * Q), high))
            };
            let ((y1, y2), (y3, y4)) = (pair(P, Q), pair(Q, P));
            [end(x[0], x[2], x[4]), y1, y2, y3, y4, end(x[1], x[3], x[5])]
        }
    }
}

impl Matrix<3, 6> for Kernel3 {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 3]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let pair = |p: f32, share: f32| {
                let even = S::fma(x[2], S::splat(p * p * share), S::mul(x[0], S::splat(share)));
                let odd = S::splat(p * share);
                (S::fma(x[1], odd, even), S::fma(x[1], S::sub(S::splat(0.0), odd), even))
            };
            let ((y1, y2), (y3, y4)) = (pair(P, SHARE_P), pair(Q, SHARE_Q));
            [S::mul(x[0], S::splat(SHARE_0)), y1, y2, y3, y4, x[2]]
        }
    }
}

impl Matrix<6, 4> for Output {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 6]) -> [S::V; 4] {
        // SAFETY: as above.
        unsafe {
            let (even_p, odd_p) = (S::add(x[1], x[2]), S::sub(x[1], x[2]));
            let (even_q, odd_q) = (S::add(x[3], x[4]), S::sub(x[3], x[4]));
            let both =
                |p: S::V, q: S::V, by_p: f32, by_q: f32| S::fma(p, S::splat(by_p), S::mul(q, S::splat(by_q)));
            [
                S::add(x[0], S::add(even_p, even_q)),
                both(odd_p, odd_q, P, Q),
                both(even_p, even_q, P * P, Q * Q),
                S::fma(odd_p, S::splat(P * P * P), S::fma(odd_q, S::splat(Q * Q * Q), x[5])),
            ]
        }
    }
}

impl Matrix<4, 6> for OutputGradient {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 4]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let pair = |p: f32| {
                let even = S::fma(x[2], S::splat(p * p), x[0]);
                let odd = S::fma(x[3], S::splat(p * p * p), S::mul(x[1], S::splat(p)));
                (S::add(even, odd), S::sub(even, odd))
            };
            let ((y1, y2), (y3, y4)) = (pair(P), pair(Q));
            [x[0], y1, y2, y3, y4, x[3]]
        }
    }
}

impl Matrix<6, 3> for Kernel3Gradient {
    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 6]) -> [S::V; 3] {
        // SAFETY: as above.
        unsafe {
            let (even_p, odd_p) = (S::add(x[1], x[2]), S::sub(x[1], x[2]));
            let (even_q, odd_q) = (S::add(x[3], x[4]), S::sub(x[3], x[4]));
            let both = |p: S::V, q: S::V, by_p: f32, by_q: f32, rest: S::V| {
                S::fma(p, S::splat(by_p * SHARE_P), S::fma(q, S::splat(by_q * SHARE_Q), rest))
            };
            [
                both(even_p, even_q, 1.0, 1.0, S::mul(x[0], S::splat(SHARE_0))),
                both(odd_p, odd_q, P, Q, S::splat(0.0)),
                both(even_p, even_q, P * P, Q * Q, x[5]),
            ]
        }
    }
}

/// A square of pixels, each some channels long, in a larger array: where one item of a transform is read or written.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Pixel (0, 0), channel 0; that pixel need not exist.
    pub origin: *mut f32,
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
    /// Rows from the first to before the second exist.
    pub rows: (usize, usize),
    /// Columns from the first to before the second exist.
    pub cols: (usize, usize),
}

impl Grid {
    #[inline(always)]
    fn is_whole(&self, n: usize) -> bool {
        self.rows == (0, n) && self.cols == (0, n)
    }

    #[inline(always)]
    fn holds(&self, i: usize, j: usize) -> bool {
        self.rows.0 <= i && i < self.rows.1 && self.cols.0 <= j && j < self.cols.1
    }

    #[inline(always)]
    fn at(&self, i: usize, j: usize, channel: usize) -> *mut f32 {
        self.origin.wrapping_add(i * self.row + j * self.col + channel)
    }
}

/// y = M x M^T for every item and channel; pixels that do not exist read as 0 and are not written.
pub(super) struct Transform<M, F, const IN: usize, const OUT: usize> {
    items: usize,
    channels: usize,
    place: F,
    bias: Option<*const f32>,
    add: bool,
    matrix: PhantomData<M>,
}

impl<M, F, const IN: usize, const OUT: usize> Transform<M, F, IN, OUT>
where
    M: Matrix<IN, OUT>,
    F: Fn(usize) -> (Grid, Grid),
{
    /// `place(i)` says where item i is read and where it is written.
    pub fn new(_: M, items: usize, channels: usize, place: F) -> Self {
        Transform { items, channels, place, bias: None, add: false, matrix: PhantomData }
    }

    /// Adds `bias`, one number per channel, to every pixel written.
    pub fn with_bias(self, bias: Option<*const f32>) -> Self {
        Transform { bias, ..self }
    }

    /// If `add`, adds to what is there instead of overwriting it.
    pub fn adding(self, add: bool) -> Self {
        Transform { add, ..self }
    }

    #[inline(always)]
    unsafe fn item<S: Simd, const WHOLE: bool>(&self, from: Grid, to: Grid) {
        let mut c = 0;
        // SAFETY: the channels c .. c + LANES, or the `left` last ones, exist in every pixel that the grids hold.
        unsafe {
            while c + S::LANES <= self.channels {
                self.vector::<S, WHOLE, false>(from, to, c, S::LANES);
                c += S::LANES;
            }
            if c < self.channels {
                self.vector::<S, WHOLE, true>(from, to, c, self.channels - c);
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd, const WHOLE: bool, const TAIL: bool>(
        &self,
        from: Grid,
        to: Grid,
        c: usize,
        n: usize,
    ) {
        // SAFETY: only pixels that exist are touched, `n` channels of each if TAIL and LANES otherwise.
        unsafe {
            let load = |p: *const f32| if TAIL { S::load_partial(p, n) } else { S::load(p) };
            let zero = S::splat(0.0);
            let bias = self.bias.map(|bias| load(bias.add(c)));
            let mut half = [[zero; IN]; OUT];
            for j in 0..IN {
                let mut x = [zero; IN];
                for i in 0..IN {
                    if WHOLE || from.holds(i, j) {
                        x[i] = load(from.at(i, j, c));
                    }
                }
                let y = M::apply::<S>(x);
                for i in 0..OUT {
                    half[i][j] = y[i];
                }
            }
            for i in 0..OUT {
                let y = M::apply::<S>(half[i]);
                for j in 0..OUT {
                    if WHOLE || to.holds(i, j) {
                        let p = to.at(i, j, c);
                        let y = bias.map_or(y[j], |bias| S::add(y[j], bias));
                        let y = if self.add { S::add(load(p), y) } else { y };
                        if TAIL { S::store_partial(p, y, n) } else { S::store(p, y) }
                    }
                }
            }
        }
    }
}

impl<M, F, const IN: usize, const OUT: usize> Kernel for Transform<M, F, IN, OUT>
where
    M: Matrix<IN, OUT>,
    F: Fn(usize) -> (Grid, Grid),
{
    /// # Safety
    /// Every pixel that a grid from `place` holds has `channels` elements, which nothing else writes meanwhile, and so
    /// has the bias.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for item in 0..self.items {
            let (from, to) = (self.place)(item);
            // SAFETY: the caller's promise.
            unsafe {
                if from.is_whole(IN) && to.is_whole(OUT) {
                    self.item::<S, true>(from, to);
                } else {
                    self.item::<S, false>(from, to);
                }
            }
        }
    }
}
