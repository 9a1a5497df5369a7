//! The fast versions: every pass written once over the [`Simd`] trait.

use super::{Affine, AffineBackward, Centred, Channels, Moments};
use crate::Isa;
use crate::simd::{Simd, VectorCode, array, dispatch};
use crate::vector::{silu, silu_slope};

/// A pass over \[rows, c\], by columns.
trait Pass {
    /// Takes `B` vectors of columns, from `first` on, through every row. A vector holds `width` columns:
    /// `LANES`, or fewer where `B` is 1.
    ///
    /// # Safety
    /// The pass's pointers are valid for those columns.
    unsafe fn columns<S: Simd, const B: usize>(&self, s: S, first: usize, width: usize);
}

/// A pass over all columns.
struct AllColumns<P> {
    c: usize,
    pass: P,
}

impl<P: Pass> VectorCode for AllColumns<P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: every column below c is taken once; the rest is the caller's promise.
        unsafe {
            let (c, mut i) = (self.c, 0);
            // Four vectors with their coefficients fit 32 registers, two fit 16.
            while S::REGISTERS == 32 && i + 4 * S::LANES <= c {
                self.pass.columns::<S, 4>(s, i, S::LANES);
                i += 4 * S::LANES;
            }
            while i + 2 * S::LANES <= c {
                self.pass.columns::<S, 2>(s, i, S::LANES);
                i += 2 * S::LANES;
            }
            while i + S::LANES <= c {
                self.pass.columns::<S, 1>(s, i, S::LANES);
                i += S::LANES;
            }
            if i < c {
                self.pass.columns::<S, 1>(s, i, c - i);
            }
        }
    }
}

/// `B` vectors of `width` floats each, from p on.
///
/// # Safety
/// `p` has them, to be read.
#[inline(always)]
unsafe fn load_all<S: Simd, const B: usize>(s: S, p: *const f32, width: usize) -> [S::V; B] {
    // SAFETY: the caller gives B vectors of `width` readable floats.
    array(|b| unsafe { s.load_up_to(p.add(b * S::LANES), width) })
}

/// `B` vectors of `width` floats each, from p on.
///
/// # Safety
/// `p` has them, to be written.
#[inline(always)]
unsafe fn store_all<S: Simd, const B: usize>(s: S, p: *mut f32, v: [S::V; B], width: usize) {
    for b in 0..B {
        // SAFETY: the caller gives B vectors of `width` writable floats.
        unsafe { s.store_up_to(p.add(b * S::LANES), v[b], width) }
    }
}

/// Rows of a chunk, whose moments are computed together: few enough to stay in the first-level cache.
const CHUNK: usize = 16;

struct MomentsPass {
    x: *const f32,
    rows: usize,
    c: usize,
    mean: *mut f32,
    deviations: *mut f32,
}

impl Pass for MomentsPass {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, s: S, first: usize, width: usize) {
        // SAFETY: rows and columns inside the matrix, by the trait's contract.
        unsafe {
            let zero = [s.splat(0.0); B];
            let (mut mean, mut deviations) = (zero, zero);
            let mut done = 0;
            while done < self.rows {
                let count = CHUNK.min(self.rows - done);
                let at = |row: usize, b: usize| {
                    s.load_up_to(self.x.add((done + row) * self.c + first + b * S::LANES), width)
                };
                let mut centre = zero;
                for row in 0..count {
                    for b in 0..B {
                        centre[b] = s.add(centre[b], at(row, b));
                    }
                }
                let mut own = zero;
                for centre in &mut centre {
                    *centre = s.mul(*centre, s.splat(1.0 / count as f32));
                }
                for row in 0..count {
                    for b in 0..B {
                        let d = s.sub(at(row, b), centre[b]);
                        own[b] = s.fma(d, d, own[b]);
                    }
                }
                let share = count as f32 / (done + count) as f32;
                for b in 0..B {
                    let step = s.sub(centre[b], mean[b]);
                    mean[b] = s.fma(step, s.splat(share), mean[b]);
                    own[b] = s.fma(s.mul(step, step), s.splat(share * done as f32), own[b]);
                    deviations[b] = s.add(deviations[b], own[b]);
                }
                done += count;
            }
            store_all::<S, B>(s, self.mean.add(first), mean, width);
            store_all::<S, B>(s, self.deviations.add(first), deviations, width);
        }
    }
}

struct AffinePass<const SILU: bool> {
    x: *const f32,
    rows: usize,
    c: usize,
    factor: *const f32,
    term: *const f32,
    y: *mut f32,
}

impl<const SILU: bool> Pass for AffinePass<SILU> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, s: S, first: usize, width: usize) {
        // SAFETY: rows and columns inside the matrices, by the trait's contract.
        unsafe {
            let factor = load_all::<S, B>(s, self.factor.add(first), width);
            let term = load_all::<S, B>(s, self.term.add(first), width);
            for row in 0..self.rows {
                let at = row * self.c + first;
                let mut y = load_all::<S, B>(s, self.x.add(at), width);
                for b in 0..B {
                    let z = s.fma(factor[b], y[b], term[b]);
                    y[b] = if SILU { silu(s, z) } else { z };
                }
                store_all::<S, B>(s, self.y.add(at), y, width);
            }
        }
    }
}

struct AffineBackwardPass<const SILU: bool> {
    x: *const f32,
    rows: usize,
    c: usize,
    factor: *const f32,
    term: *const f32,
    centre: *const f32,
    d: *mut f32,
    sum: *mut f32,
    sum_x: *mut f32,
}

impl<const SILU: bool> Pass for AffineBackwardPass<SILU> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, s: S, first: usize, width: usize) {
        // SAFETY: rows and columns inside the matrices, by the trait's contract.
        unsafe {
            let factor = load_all::<S, B>(s, self.factor.add(first), width);
            let term = load_all::<S, B>(s, self.term.add(first), width);
            let centre = load_all::<S, B>(s, self.centre.add(first), width);
            let mut sum = [s.splat(0.0); B];
            let mut sum_x = sum;
            for row in 0..self.rows {
                let at = row * self.c + first;
                let x = load_all::<S, B>(s, self.x.add(at), width);
                let mut d = load_all::<S, B>(s, self.d.add(at), width);
                for b in 0..B {
                    if SILU {
                        d[b] = s.mul(d[b], silu_slope(s, s.fma(factor[b], x[b], term[b])));
                    }
                    sum[b] = s.add(sum[b], d[b]);
                    sum_x[b] = s.fma(d[b], s.sub(x[b], centre[b]), sum_x[b]);
                }
                if SILU {
                    store_all::<S, B>(s, self.d.add(at), d, width);
                }
            }
            store_all::<S, B>(s, self.sum.add(first), sum, width);
            store_all::<S, B>(s, self.sum_x.add(first), sum_x, width);
        }
    }
}

struct CentredPass<const ADD: bool> {
    x: *const f32,
    rows: usize,
    c: usize,
    factor: *const f32,
    term: *const f32,
    centre: *const f32,
    slope: *const f32,
    d: *const f32,
    /// May be `d`: an element is read before it is written.
    d_x: *mut f32,
}

impl<const ADD: bool> Pass for CentredPass<ADD> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, s: S, first: usize, width: usize) {
        // SAFETY: rows and columns inside the matrices, by the trait's contract.
        unsafe {
            let factor = load_all::<S, B>(s, self.factor.add(first), width);
            let term = load_all::<S, B>(s, self.term.add(first), width);
            let centre = load_all::<S, B>(s, self.centre.add(first), width);
            let slope = load_all::<S, B>(s, self.slope.add(first), width);
            for row in 0..self.rows {
                let at = row * self.c + first;
                let x = load_all::<S, B>(s, self.x.add(at), width);
                let mut d = load_all::<S, B>(s, self.d.add(at), width);
                for b in 0..B {
                    let t = s.fma(slope[b], s.sub(x[b], centre[b]), term[b]);
                    d[b] = s.fma(factor[b], d[b], t);
                }
                if ADD {
                    let before = load_all::<S, B>(s, self.d_x.add(at), width);
                    for b in 0..B {
                        d[b] = s.add(before[b], d[b]);
                    }
                }
                store_all::<S, B>(s, self.d_x.add(at), d, width);
            }
        }
    }
}

/// Runs a pass over images of c channels.
///
/// # Safety
/// The pass's pointers are valid for its rows and c columns.
unsafe fn run(isa: Isa, c: usize, pass: impl Pass) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(isa, AllColumns { c, pass }) }
}

/// The coefficients' pointers.
fn pointers(channels: Channels<f32>) -> [*const f32; 3] {
    [channels.factor, channels.term, channels.centre].map(<[f32]>::as_ptr)
}

pub(super) fn moments(isa: Isa, Moments { x, mean, deviations }: Moments<f32>) {
    let c = mean.len();
    let (mean, deviations) = (mean.as_mut_ptr(), deviations.as_mut_ptr());
    let pass = MomentsPass { x: x.as_ptr(), rows: x.len() / c, c, mean, deviations };
    // SAFETY: `ChannelMoments::check` found x to be rows of c, and the others to have c elements.
    unsafe { run(isa, c, pass) }
}

pub(super) fn affine(isa: Isa, Affine { x, channels, silu, y }: Affine<f32>) {
    let c = channels.factor.len();
    let (rows, x, y) = (x.len() / c, x.as_ptr(), y.as_mut_ptr());
    let [factor, term, _] = pointers(channels);
    // SAFETY: `ChannelAffine::check` found x and y to be rows of c, and the others to have c elements.
    unsafe {
        if silu {
            run(isa, c, AffinePass::<true> { x, rows, c, factor, term, y });
        } else {
            run(isa, c, AffinePass::<false> { x, rows, c, factor, term, y });
        }
    }
}

pub(super) fn affine_backward(isa: Isa, operands: AffineBackward<f32>) {
    let AffineBackward { x, channels, silu, d, sum, sum_x } = operands;
    let c = channels.factor.len();
    let (rows, x, d) = (x.len() / c, x.as_ptr(), d.as_mut_ptr());
    let (sum, sum_x) = (sum.as_mut_ptr(), sum_x.as_mut_ptr());
    let [factor, term, centre] = pointers(channels);
    // SAFETY: `ChannelAffineBackward::check` found x and d to be rows of c, and the others to have c
    // elements.
    unsafe {
        if silu {
            run(isa, c, AffineBackwardPass::<true> { x, rows, c, factor, term, centre, d, sum, sum_x });
        } else {
            run(isa, c, AffineBackwardPass::<false> { x, rows, c, factor, term, centre, d, sum, sum_x });
        }
    }
}

pub(super) fn centred(isa: Isa, operands: Centred<f32>) {
    let Centred { x, channels, slope, d, d_x, accumulate } = operands;
    let c = channels.factor.len();
    let accumulate = accumulate && d_x.is_some();
    let d = d.as_mut_ptr();
    let d_x = d_x.map_or(d, |d_x| d_x.as_mut_ptr());
    let (rows, x, slope) = (x.len() / c, x.as_ptr(), slope.as_ptr());
    let [factor, term, centre] = pointers(channels);
    // SAFETY: `ChannelCentred::check` found x, d and d_x to be rows of c, and the others to have c elements.
    unsafe {
        if accumulate {
            run(isa, c, CentredPass::<true> { x, rows, c, factor, term, centre, slope, d, d_x });
        } else {
            run(isa, c, CentredPass::<false> { x, rows, c, factor, term, centre, slope, d, d_x });
        }
    }
}
