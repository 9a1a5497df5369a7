//! The five transforms of [`super`], one text for all: y = M x M^T over grids of pixels, vectors along
//! channels.

use super::points::*;
use crate::kernels::simd::{LINE, Simd, VectorCode, prefetch};
use std::marker::PhantomData;

/// One of the algorithm's matrices, OUT x IN, as the shortest sequence of vector operations.
pub(super) trait Matrix<const IN: usize, const OUT: usize> {
    /// Whether some of the pixels read or written may not exist.
    const HAS_BORDERS: bool;
    /// Whether what is written may take a bias or be added to what is there.
    const ADDS: bool;

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

/// even + point odd and even - point odd: what a pair of opposite points has in common is computed once.
///
/// # Safety
/// The processor has `S`'s features; so below.
#[inline(always)]
unsafe fn opposite<S: Simd>(even: S::V, odd: S::V, point: f32) -> (S::V, S::V) {
    // SAFETY: arithmetic on registers, with the caller's promise of S's features; so in all of these
    // functions.
    unsafe { (S::fma(odd, S::splat(point), even), S::fma(odd, S::splat(-point), even)) }
}

/// a x + b y + z.
#[inline(always)]
unsafe fn combine<S: Simd>(a: f32, x: S::V, b: f32, y: S::V, z: S::V) -> S::V {
    // SAFETY: as above.
    unsafe { S::fma(x, S::splat(a), S::fma(y, S::splat(b), z)) }
}

impl Matrix<6, 6> for Input {
    const HAS_BORDERS: bool = true;
    const ADDS: bool = false;

    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 6]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let (p2, q2) = (S::splat(-P * P), S::splat(-Q * Q));
            let (y1, y2) = opposite::<S>(S::fma(x[2], q2, x[4]), S::fma(x[1], q2, x[3]), P);
            let (y3, y4) = opposite::<S>(S::fma(x[2], p2, x[4]), S::fma(x[1], p2, x[3]), Q);
            let y0 = combine::<S>(P * P * Q * Q, x[0], -P * P - Q * Q, x[2], x[4]);
            let y5 = combine::<S>(P * P * Q * Q, x[1], -P * P - Q * Q, x[3], x[5]);
            [y0, y1, y2, y3, y4, y5]
        }
    }
}

impl Matrix<3, 6> for Kernel3 {
    const HAS_BORDERS: bool = false;
    const ADDS: bool = false;

    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 3]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let even_p = S::fma(x[2], S::splat(P * P * SHARE_P), S::mul(x[0], S::splat(SHARE_P)));
            let even_q = S::fma(x[2], S::splat(Q * Q * SHARE_Q), S::mul(x[0], S::splat(SHARE_Q)));
            let (y1, y2) = opposite::<S>(even_p, x[1], P * SHARE_P);
            let (y3, y4) = opposite::<S>(even_q, x[1], Q * SHARE_Q);
            [S::mul(x[0], S::splat(SHARE_0)), y1, y2, y3, y4, x[2]]
        }
    }
}

impl Matrix<6, 4> for Output {
    const HAS_BORDERS: bool = true;
    const ADDS: bool = true;

    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 6]) -> [S::V; 4] {
        // SAFETY: as above.
        unsafe {
            let (even_p, odd_p) = (S::add(x[1], x[2]), S::sub(x[1], x[2]));
            let (even_q, odd_q) = (S::add(x[3], x[4]), S::sub(x[3], x[4]));
            [
                S::add(x[0], S::add(even_p, even_q)),
                S::fma(odd_p, S::splat(P), S::mul(odd_q, S::splat(Q))),
                S::fma(even_p, S::splat(P * P), S::mul(even_q, S::splat(Q * Q))),
                combine::<S>(P * P * P, odd_p, Q * Q * Q, odd_q, x[5]),
            ]
        }
    }
}

impl Matrix<4, 6> for OutputGradient {
    const HAS_BORDERS: bool = true;
    const ADDS: bool = false;

    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 4]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let odd_p = S::fma(x[3], S::splat(P * P), x[1]);
            let odd_q = S::fma(x[3], S::splat(Q * Q), x[1]);
            let (y1, y2) = opposite::<S>(S::fma(x[2], S::splat(P * P), x[0]), odd_p, P);
            let (y3, y4) = opposite::<S>(S::fma(x[2], S::splat(Q * Q), x[0]), odd_q, Q);
            [x[0], y1, y2, y3, y4, x[3]]
        }
    }
}

impl Matrix<6, 3> for Kernel3Gradient {
    const HAS_BORDERS: bool = false;
    const ADDS: bool = true;

    #[inline(always)]
    unsafe fn apply<S: Simd>(x: [S::V; 6]) -> [S::V; 3] {
        // SAFETY: as above.
        unsafe {
            let (even_p, odd_p) = (S::add(x[1], x[2]), S::sub(x[1], x[2]));
            let (even_q, odd_q) = (S::add(x[3], x[4]), S::sub(x[3], x[4]));
            [
                combine::<S>(SHARE_P, even_p, SHARE_Q, even_q, S::mul(x[0], S::splat(SHARE_0))),
                S::fma(odd_p, S::splat(P * SHARE_P), S::mul(odd_q, S::splat(Q * SHARE_Q))),
                combine::<S>(P * P * SHARE_P, even_p, Q * Q * SHARE_Q, even_q, x[5]),
            ]
        }
    }
}

/// A square of pixels, each some channels long, in a larger array: where one item of a transform is read or
/// written.
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

/// `$body` for every `$i` below `$n`, at most 6, as so many copies with a constant: what it indexes stays in
/// registers.
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

#[inline(always)]
unsafe fn load<S: Simd, const TAIL: bool>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller gives `n` readable floats if TAIL, LANES otherwise.
    unsafe { if TAIL { S::load_partial(p, n) } else { S::load(p) } }
}

/// y = M x M^T for every item and channel; pixels that do not exist read as 0 and are not written.
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
    /// `place(i)` says where item i is read and where it is written.
    pub fn new(_: M, items: usize, channels: usize, place: F) -> Self {
        Transform { items, channels, place, bias: None, add: false, ahead: 0, matrix: PhantomData }
    }

    /// Adds one number per channel to every pixel written.
    pub fn with_bias(self, bias: *const f32) -> Self {
        const { assert!(M::ADDS) };
        Transform { bias: Some(bias), ..self }
    }

    /// Adds to what is there instead of overwriting it.
    pub fn adding(self) -> Self {
        const { assert!(M::ADDS) };
        Transform { add: true, ..self }
    }

    /// Asks for the pixels that the item `ahead` of each will read; they need not exist.
    pub fn prefetching(self, ahead: usize) -> Self {
        Transform { ahead, ..self }
    }

    #[inline(always)]
    fn prefetch(&self, from: Grid) {
        // Where a pixel begins in the middle of a cache line, its last element is in one more line.
        let last = self.channels - 1;
        for (i, j) in (0..IN).flat_map(|i| (0..IN).map(move |j| (i, j))) {
            (0..last).step_by(LINE).for_each(|c| prefetch(from.at(i, j, c)));
            prefetch(from.at(i, j, last));
        }
    }

    /// The last channels, where no whole vector of them is left, may take the slower way of what has borders
    /// and is added.
    #[inline(always)]
    unsafe fn item<S: Simd, const PLAIN: bool, const WHOLE: bool>(&self, from: Grid, to: Grid) {
        let mut c = 0;
        // SAFETY: the channels c .. c + LANES, or the `left` last ones, exist in every pixel that the grids
        // hold.
        unsafe {
            while c + S::LANES <= self.channels {
                self.vector::<S, PLAIN, WHOLE, false>(from, to, c, S::LANES);
                c += S::LANES;
            }
            if c < self.channels {
                self.vector::<S, false, false, true>(from, to, c, self.channels - c);
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd, const PLAIN: bool, const WHOLE: bool, const TAIL: bool>(
        &self,
        from: Grid,
        to: Grid,
        c: usize,
        n: usize,
    ) {
        // SAFETY: only pixels that exist are touched, `n` channels of each if TAIL and LANES otherwise.
        unsafe {
            let zero = S::splat(0.0);
            let mut half = [[zero; IN]; OUT];
            unrolled!(J < IN, {
                let mut x = [zero; IN];
                unrolled!(I < IN, {
                    if WHOLE || from.holds(I, J) {
                        x[I] = load::<S, TAIL>(from.at(I, J, c), n);
                    }
                });
                let y = M::apply::<S>(x);
                unrolled!(I < OUT, half[I][J] = y[I]);
            });
            let bias = match self.bias {
                Some(bias) => load::<S, TAIL>(bias.add(c), n),
                None => zero,
            };
            unrolled!(I < OUT, {
                let y = M::apply::<S>(half[I]);
                unrolled!(J < OUT, {
                    if WHOLE || to.holds(I, J) {
                        let p = to.at(I, J, c);
                        let mut y = y[J];
                        if !PLAIN {
                            y = S::add(y, bias);
                            if self.add {
                                y = S::add(load::<S, TAIL>(p, n), y);
                            }
                        }
                        if TAIL { S::store_partial(p, y, n) } else { S::store(p, y) }
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
    unsafe fn run<S: Simd>(self) {
        for item in 0..self.items {
            let (from, to) = (self.place)(item);
            if self.ahead > 0 {
                self.prefetch((self.place)(item + self.ahead).0);
            }
            let is_plain = self.bias.is_none() && !self.add;
            let is_whole = from.is_whole(IN) && to.is_whole(OUT);
            // What a matrix never needs is not compiled: the transforms are long, and there are five in three
            // vector sizes. SAFETY: the caller's promise.
            unsafe {
                if M::HAS_BORDERS && !is_whole {
                    if M::ADDS {
                        self.item::<S, false, false>(from, to);
                    } else {
                        self.item::<S, true, false>(from, to);
                    }
                } else if M::ADDS && !is_plain {
                    self.item::<S, false, true>(from, to);
                } else {
                    self.item::<S, true, true>(from, to);
                }
            }
        }
    }
}
