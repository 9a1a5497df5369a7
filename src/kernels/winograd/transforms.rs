//! The five transforms of [`super`], y = M x M^T, with one code for all: x and y are small squares of pixels,
//! and the vectors run along the channels.

use super::points::*;
use crate::simd::{LINE, Simd, VectorCode, prefetch};
use std::marker::PhantomData;

/// Multiplication by one of the algorithm's matrices, OUT x IN, in as few vector operations as possible.
pub(super) trait Matrix<const IN: usize, const OUT: usize> {
    /// Whether pixels may lie outside of their image, so that they are neither read nor written.
    const HAS_BORDERS: bool;
    /// Whether a result may get a bias or be added to what is in memory.
    const ADDS: bool;
    /// Whether a result may be written as it is.
    const WRITES: bool = true;

    /// M x.
    fn apply<S: Simd>(s: S, x: [S::V; IN]) -> [S::V; OUT];
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

/// even + point odd and even - point odd: a polynomial at a point and at its negative, whose even and odd
/// parts are computed once for both.
#[inline(always)]
fn opposite<S: Simd>(s: S, even: S::V, odd: S::V, point: f32) -> (S::V, S::V) {
    (s.fma(odd, s.splat(point), even), s.fma(odd, s.splat(-point), even))
}

/// a x + b y + z.
#[inline(always)]
fn combine<S: Simd>(s: S, a: f32, x: S::V, b: f32, y: S::V, z: S::V) -> S::V {
    s.fma(x, s.splat(a), s.fma(y, s.splat(b), z))
}

impl Matrix<6, 6> for Input {
    const HAS_BORDERS: bool = true;
    const ADDS: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(s: S, x: [S::V; 6]) -> [S::V; 6] {
        let (p2, q2) = (s.splat(-P * P), s.splat(-Q * Q));
        let (y1, y2) = opposite(s, s.fma(x[2], q2, x[4]), s.fma(x[1], q2, x[3]), P);
        let (y3, y4) = opposite(s, s.fma(x[2], p2, x[4]), s.fma(x[1], p2, x[3]), Q);
        let y0 = combine(s, P * P * Q * Q, x[0], -P * P - Q * Q, x[2], x[4]);
        let y5 = combine(s, P * P * Q * Q, x[1], -P * P - Q * Q, x[3], x[5]);
        [y0, y1, y2, y3, y4, y5]
    }
}

impl Matrix<3, 6> for Kernel3 {
    const HAS_BORDERS: bool = false;
    const ADDS: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(s: S, x: [S::V; 3]) -> [S::V; 6] {
        let even_p = s.fma(x[2], s.splat(P * P * SHARE_P), s.mul(x[0], s.splat(SHARE_P)));
        let even_q = s.fma(x[2], s.splat(Q * Q * SHARE_Q), s.mul(x[0], s.splat(SHARE_Q)));
        let (y1, y2) = opposite(s, even_p, x[1], P * SHARE_P);
        let (y3, y4) = opposite(s, even_q, x[1], Q * SHARE_Q);
        [s.mul(x[0], s.splat(SHARE_0)), y1, y2, y3, y4, x[2]]
    }
}

impl Matrix<6, 4> for Output {
    const HAS_BORDERS: bool = true;
    const ADDS: bool = true;

    #[inline(always)]
    fn apply<S: Simd>(s: S, x: [S::V; 6]) -> [S::V; 4] {
        let (even_p, odd_p) = (s.add(x[1], x[2]), s.sub(x[1], x[2]));
        let (even_q, odd_q) = (s.add(x[3], x[4]), s.sub(x[3], x[4]));
        [
            s.add(x[0], s.add(even_p, even_q)),
            s.fma(odd_p, s.splat(P), s.mul(odd_q, s.splat(Q))),
            s.fma(even_p, s.splat(P * P), s.mul(even_q, s.splat(Q * Q))),
            combine(s, P * P * P, odd_p, Q * Q * Q, odd_q, x[5]),
        ]
    }
}

impl Matrix<4, 6> for OutputGradient {
    const HAS_BORDERS: bool = true;
    const ADDS: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(s: S, x: [S::V; 4]) -> [S::V; 6] {
        let odd_p = s.fma(x[3], s.splat(P * P), x[1]);
        let odd_q = s.fma(x[3], s.splat(Q * Q), x[1]);
        let (y1, y2) = opposite(s, s.fma(x[2], s.splat(P * P), x[0]), odd_p, P);
        let (y3, y4) = opposite(s, s.fma(x[2], s.splat(Q * Q), x[0]), odd_q, Q);
        [x[0], y1, y2, y3, y4, x[3]]
    }
}

impl Matrix<6, 3> for Kernel3Gradient {
    const HAS_BORDERS: bool = false;
    const ADDS: bool = true;
    const WRITES: bool = false;

    #[inline(always)]
    fn apply<S: Simd>(s: S, x: [S::V; 6]) -> [S::V; 3] {
        let (even_p, odd_p) = (s.add(x[1], x[2]), s.sub(x[1], x[2]));
        let (even_q, odd_q) = (s.add(x[3], x[4]), s.sub(x[3], x[4]));
        [
            combine(s, SHARE_P, even_p, SHARE_Q, even_q, s.mul(x[0], s.splat(SHARE_0))),
            s.fma(odd_p, s.splat(P * SHARE_P), s.mul(odd_q, s.splat(Q * SHARE_Q))),
            combine(s, P * P * SHARE_P, even_p, Q * Q * SHARE_Q, even_q, x[5]),
        ]
    }
}

/// A square of pixels in a larger array, from which a transform reads one x or to which it writes one y. A
/// pixel is a row of channels.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Channel 0 of pixel (0, 0). That pixel may lie outside of the array: the pointer is for arithmetic.
    pub origin: *mut f32,
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
    /// The rows that exist: from the first number up to and without the second.
    pub rows: (usize, usize),
    /// The columns that exist, in the same way.
    pub cols: (usize, usize),
}

impl Grid {
    /// Whether all n x n pixels exist.
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

/// Repeats `$body` for every `$i` below `$n`, which is at most 6. `$i` is a constant in each copy, so that
/// arrays indexed by it stay in registers.
macro_rules! unrolled {
    ($i:ident < $n:expr, $body:expr) => {
        unrolled!(@ $i, $n, $body, 0 1 2 3 4 5)
    };
    (@ $i:ident, $n:expr, $body:expr, $($k:literal)*) => {
        $({
            const $i: usize = $k;
            if $i < $n {
                $body
            }
        })*
    };
}

/// A vector from memory, or, if TAIL, n < LANES floats followed by zeros.
///
/// # Safety
/// `p` has that many readable floats.
#[inline(always)]
unsafe fn load<S: Simd, const TAIL: bool>(s: S, p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if TAIL { s.load_partial(p, n) } else { s.load(p) } }
}

/// y = M x M^T for a number of items (tiles, or pairs of channels) and for all channels of their pixels.
/// Pixels that do not exist are read as 0 and are not written.
pub(super) struct Transform<M, F, const IN: usize, const OUT: usize> {
    items: usize,
    channels: usize,
    place: F,
    bias: Option<*const f32>,
    add: bool,
    ahead: usize,
    matrix: PhantomData<M>,
}

impl<M, F, const IN: usize, const OUT: usize> Transform<M, F, IN, OUT>
where
    M: Matrix<IN, OUT>,
    F: Fn(usize) -> (Grid, Grid),
{
    /// A transform of that many items and channels; `place(i)` is where item i is read and where it is
    /// written.
    pub fn new(_: M, items: usize, channels: usize, place: F) -> Self {
        Transform { items, channels, place, bias: None, add: false, ahead: 0, matrix: PhantomData }
    }

    /// Adds a bias, one number for each channel, to every pixel written.
    pub fn with_bias(self, bias: *const f32) -> Self {
        const { assert!(M::ADDS) };
        Transform { bias: Some(bias), ..self }
    }

    /// Adds the results to what is in memory instead of overwriting it.
    pub fn adding(self) -> Self {
        const { assert!(M::ADDS) };
        Transform { add: true, ..self }
    }

    /// Before each item, prefetches what the item `ahead` places after it will read; that need not exist.
    pub fn prefetching(self, ahead: usize) -> Self {
        Transform { ahead, ..self }
    }

    #[inline(always)]
    fn prefetch(&self, from: Grid) {
        // A pixel that begins within a cache line ends in one line more than its length suggests.
        let last = self.channels - 1;
        for (i, j) in (0..IN).flat_map(|i| (0..IN).map(move |j| (i, j))) {
            (0..last).step_by(LINE).for_each(|c| prefetch(from.at(i, j, c)));
            prefetch(from.at(i, j, last));
        }
    }

    /// One item. PLAIN says that there is no bias and nothing is added, WHOLE that all pixels exist. The last
    /// channels, where they do not fill a vector, take the general code.
    ///
    /// # Safety
    /// As for [`VectorCode::run`], and PLAIN and WHOLE are true only where they hold.
    #[inline(always)]
    unsafe fn item<S: Simd, const PLAIN: bool, const WHOLE: bool>(&self, s: S, from: Grid, to: Grid) {
        let mut c = 0;
        // SAFETY: the channels c .. c + LANES, or the `left` last ones, exist in every pixel that the grids
        // hold.
        unsafe {
            while c + S::LANES <= self.channels {
                self.vector::<S, PLAIN, WHOLE, false>(s, from, to, c, S::LANES);
                c += S::LANES;
            }
            if c < self.channels {
                self.vector::<S, false, false, true>(s, from, to, c, self.channels - c);
            }
        }
    }

    /// The n channels of one item from c on: a vector of them, or fewer if TAIL.
    ///
    /// # Safety
    /// As for `item`, and the channels exist.
    #[inline(always)]
    unsafe fn vector<S: Simd, const PLAIN: bool, const WHOLE: bool, const TAIL: bool>(
        &self,
        s: S,
        from: Grid,
        to: Grid,
        c: usize,
        n: usize,
    ) {
        // SAFETY: only pixels that exist are touched, `n` channels of each if TAIL and LANES otherwise.
        unsafe {
            let zero = s.splat(0.0);
            let mut half = [[zero; IN]; OUT];
            unrolled!(J < IN, {
                let mut x = [zero; IN];
                unrolled!(I < IN, {
                    if WHOLE || from.holds(I, J) {
                        x[I] = load::<S, TAIL>(s, from.at(I, J, c), n);
                    }
                });
                let y = M::apply(s, x);
                unrolled!(I < OUT, half[I][J] = y[I]);
            });
            let bias = match self.bias {
                Some(bias) => load::<S, TAIL>(s, bias.add(c), n),
                None => zero,
            };
            unrolled!(I < OUT, {
                let y = M::apply(s, half[I]);
                unrolled!(J < OUT, {
                    if WHOLE || to.holds(I, J) {
                        let p = to.at(I, J, c);
                        let mut y = y[J];
                        if !PLAIN {
                            y = s.add(y, bias);
                            if self.add {
                                y = s.add(load::<S, TAIL>(s, p, n), y);
                            }
                        }
                        if TAIL { s.store_partial(p, y, n) } else { s.store(p, y) }
                    }
                });
            });
        }
    }
}

impl<M, F, const IN: usize, const OUT: usize> VectorCode for Transform<M, F, IN, OUT>
where
    M: Matrix<IN, OUT>,
    F: Fn(usize) -> (Grid, Grid),
{
    /// # Safety
    /// The grids from `place` are whole where the matrix has no borders. Every pixel that they hold has
    /// `channels` elements, which nothing else writes meanwhile, and so has the bias.
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        for item in 0..self.items {
            let (from, to) = (self.place)(item);
            if self.ahead > 0 {
                self.prefetch((self.place)(item + self.ahead).0);
            }
            let is_plain = self.bias.is_none() && !self.add;
            let is_whole = from.is_whole(IN) && to.is_whole(OUT);
            // HAS_BORDERS, ADDS and WRITES are constants: the variants that a matrix never needs are not
            // compiled. The code is long, and there are five matrices on three kinds of vectors. SAFETY: the
            // caller's promise.
            unsafe {
                if M::HAS_BORDERS && !is_whole {
                    if M::ADDS {
                        self.item::<S, false, false>(s, from, to);
                    } else {
                        self.item::<S, true, false>(s, from, to);
                    }
                } else if M::ADDS && (!M::WRITES || !is_plain) {
                    self.item::<S, false, true>(s, from, to);
                } else {
                    self.item::<S, true, true>(s, from, to);
                }
            }
        }
    }
}
