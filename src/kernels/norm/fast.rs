//! The fast versions: every pass written once over the [`Simd`] trait.

use super::Channels;
use crate::kernels::Isa;
use crate::kernels::simd::{Simd, VectorCode, dispatch};
use crate::kernels::vector::{silu, silu_slope};

/// A pass over \[rows, c\], by columns.
trait Pass {
    /// Takes `B` vectors of columns from `first` on through every row; the vectors hold `lanes` columns each,
    /// `LANES` unless `B` is 1.
    ///
    /// # Safety
    /// The processor has S's features, and the pass's pointers are valid for those columns.
    unsafe fn columns<S: Simd, const B: usize>(&self, first: usize, lanes: usize);
}

struct AllColumns<P> {
    c: usize,
    pass: P,
}

impl<P: Pass> VectorCode for AllColumns<P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: every column below c is taken once; the rest is the caller's promise.
        unsafe {
            let (c, mut i) = (self.c, 0);
            // Four vectors with their coefficients fit 32 registers, two fit 16.
            while S::LANES == 16 && i + 4 * S::LANES <= c {
                self.pass.columns::<S, 4>(i, S::LANES);
                i += 4 * S::LANES;
            }
            while i + 2 * S::LANES <= c {
                self.pass.columns::<S, 2>(i, S::LANES);
                i += 2 * S::LANES;
            }
            while i + S::LANES <= c {
                self.pass.columns::<S, 1>(i, S::LANES);
                i += S::LANES;
            }
            if i < c {
                self.pass.columns::<S, 1>(i, c - i);
            }
        }
    }
}

#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, lanes: usize) -> S::V {
    // SAFETY: the caller gives `lanes` readable floats.
    unsafe { if lanes == S::LANES { S::load(p) } else { S::load_partial(p, lanes) } }
}

#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, v: S::V, lanes: usize) {
    // SAFETY: the caller gives `lanes` writable floats.
    unsafe { if lanes == S::LANES { S::store(p, v) } else { S::store_partial(p, v, lanes) } }
}

/// `B` vectors from p on.
#[inline(always)]
unsafe fn load_all<S: Simd, const B: usize>(p: *const f32, lanes: usize) -> [S::V; B] {
    // SAFETY: the caller gives B vectors of `lanes` readable floats.
    std::array::from_fn(|b| unsafe { load::<S>(p.add(b * S::LANES), lanes) })
}

#[inline(always)]
unsafe fn store_all<S: Simd, const B: usize>(p: *mut f32, v: [S::V; B], lanes: usize) {
    for (b, v) in v.into_iter().enumerate() {
        // SAFETY: the caller gives B vectors of `lanes` writable floats.
        unsafe { store::<S>(p.add(b * S::LANES), v, lanes) }
    }
}

/// Rows whose moments are taken at once: few enough to stay in the first cache.
const CHUNK: usize = 16;

struct Moments {
    x: *const f32,
    rows: usize,
    c: usize,
    mean: *mut f32,
    deviations: *mut f32,
}

impl Pass for Moments {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, first: usize, lanes: usize) {
        // SAFETY: rows and columns inside the matrix, by the trait's contract.
        unsafe {
            let zero = [S::splat(0.0); B];
            let (mut mean, mut deviations) = (zero, zero);
            let mut done = 0;
            while done < self.rows {
                let count = CHUNK.min(self.rows - done);
                let at = |row: usize, b: usize| {
                    load::<S>(self.x.add((done + row) * self.c + first + b * S::LANES), lanes)
                };
                let mut centre = zero;
                for row in 0..count {
                    for b in 0..B {
                        centre[b] = S::add(centre[b], at(row, b));
                    }
                }
                let mut own = zero;
                for centre in &mut centre {
                    *centre = S::mul(*centre, S::splat(1.0 / count as f32));
                }
                for row in 0..count {
                    for b in 0..B {
                        let d = S::sub(at(row, b), centre[b]);
                        own[b] = S::fma(d, d, own[b]);
                    }
                }
                let share = count as f32 / (done + count) as f32;
                for b in 0..B {
                    let step = S::sub(centre[b], mean[b]);
                    mean[b] = S::fma(step, S::splat(share), mean[b]);
                    own[b] = S::fma(S::mul(step, step), S::splat(share * done as f32), own[b]);
                    deviations[b] = S::add(deviations[b], own[b]);
                }
                done += count;
            }
            store_all::<S, B>(self.mean.add(first), mean, lanes);
            store_all::<S, B>(self.deviations.add(first), deviations, lanes);
        }
    }
}

struct Affine<const SILU: bool> {
    x: *const f32,
    rows: usize,
    c: usize,
    factor: *const f32,
    term: *const f32,
    y: *mut f32,
}

impl<const SILU: bool> Pass for Affine<SILU> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, first: usize, lanes: usize) {
        // SAFETY: rows and columns inside the matrices, by the trait's contract.
        unsafe {
            let factor = load_all::<S, B>(self.factor.add(first), lanes);
            let term = load_all::<S, B>(self.term.add(first), lanes);
            for row in 0..self.rows {
                let at = row * self.c + first;
                let mut y = load_all::<S, B>(self.x.add(at), lanes);
                for b in 0..B {
                    let z = S::fma(factor[b], y[b], term[b]);
                    y[b] = if SILU { silu::<S>(z) } else { z };
                }
                store_all::<S, B>(self.y.add(at), y, lanes);
            }
        }
    }
}

struct AffineBackward<const SILU: bool> {
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

impl<const SILU: bool> Pass for AffineBackward<SILU> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, first: usize, lanes: usize) {
        // SAFETY: rows and columns inside the matrices, by the trait's contract.
        unsafe {
            let factor = load_all::<S, B>(self.factor.add(first), lanes);
            let term = load_all::<S, B>(self.term.add(first), lanes);
            let centre = load_all::<S, B>(self.centre.add(first), lanes);
            let mut sum = [S::splat(0.0); B];
            let mut sum_x = sum;
            for row in 0..self.rows {
                let at = row * self.c + first;
                let x = load_all::<S, B>(self.x.add(at), lanes);
                let mut d = load_all::<S, B>(self.d.add(at), lanes);
                for b in 0..B {
                    if SILU {
                        d[b] = S::mul(d[b], silu_slope::<S>(S::fma(factor[b], x[b], term[b])));
                    }
                    sum[b] = S::add(sum[b], d[b]);
                    sum_x[b] = S::fma(d[b], S::sub(x[b], centre[b]), sum_x[b]);
                }
                if SILU {
                    store_all::<S, B>(self.d.add(at), d, lanes);
                }
            }
            store_all::<S, B>(self.sum.add(first), sum, lanes);
            store_all::<S, B>(self.sum_x.add(first), sum_x, lanes);
        }
    }
}

struct Centred<const ADD: bool> {
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

impl<const ADD: bool> Pass for Centred<ADD> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const B: usize>(&self, first: usize, lanes: usize) {
        // SAFETY: rows and columns inside the matrices, by the trait's contract.
        unsafe {
            let factor = load_all::<S, B>(self.factor.add(first), lanes);
            let term = load_all::<S, B>(self.term.add(first), lanes);
            let centre = load_all::<S, B>(self.centre.add(first), lanes);
            let slope = load_all::<S, B>(self.slope.add(first), lanes);
            for row in 0..self.rows {
                let at = row * self.c + first;
                let x = load_all::<S, B>(self.x.add(at), lanes);
                let mut d = load_all::<S, B>(self.d.add(at), lanes);
                for b in 0..B {
                    let t = S::fma(slope[b], S::sub(x[b], centre[b]), term[b]);
                    d[b] = S::fma(factor[b], d[b], t);
                }
                if ADD {
                    let before = load_all::<S, B>(self.d_x.add(at), lanes);
                    for b in 0..B {
                        d[b] = S::add(before[b], d[b]);
                    }
                }
                store_all::<S, B>(self.d_x.add(at), d, lanes);
            }
        }
    }
}

/// The number of rows of \[rows, c\] slices.
///
/// # Panics
/// If a length is another: the safety of the kernels rests on it.
fn rows(c: usize, images: &[usize], channels: &[usize]) -> usize {
    assert!(c > 0 && channels.iter().all(|len| *len == c), "{c} channels, {channels:?}");
    let rows = images[0] / c;
    assert!(images.iter().all(|len| *len == rows * c), "{rows} rows of {c}, {images:?}");
    rows
}

pub(in crate::kernels) fn moments_fast(isa: Isa, x: &[f32], mean: &mut [f32], deviations: &mut [f32]) {
    let c = mean.len();
    let rows = rows(c, &[x.len()], &[deviations.len()]);
    let (mean, deviations) = (mean.as_mut_ptr(), deviations.as_mut_ptr());
    let pass = Moments { x: x.as_ptr(), rows, c, mean, deviations };
    // SAFETY: the lengths were checked.
    unsafe { dispatch(isa, AllColumns { c, pass }) }
}

pub(in crate::kernels) fn affine_fast(
    isa: Isa,
    x: &[f32],
    channels: Channels<f32>,
    silu: bool,
    y: &mut [f32],
) {
    let c = channels.factor.len();
    let rows = rows(c, &[x.len(), y.len()], &[channels.term.len()]);
    let (x, y) = (x.as_ptr(), y.as_mut_ptr());
    let (factor, term) = (channels.factor.as_ptr(), channels.term.as_ptr());
    // SAFETY: the lengths were checked.
    unsafe {
        if silu {
            dispatch(isa, AllColumns { c, pass: Affine::<true> { x, rows, c, factor, term, y } });
        } else {
            dispatch(isa, AllColumns { c, pass: Affine::<false> { x, rows, c, factor, term, y } });
        }
    }
}

pub(in crate::kernels) fn affine_backward_fast(
    isa: Isa,
    x: &[f32],
    channels: Channels<f32>,
    silu: bool,
    d: &mut [f32],
    sum: &mut [f32],
    sum_x: &mut [f32],
) {
    let c = channels.factor.len();
    let lens = [channels.term.len(), channels.centre.len(), sum.len(), sum_x.len()];
    let rows = rows(c, &[x.len(), d.len()], &lens);
    let (x, d, sum, sum_x) = (x.as_ptr(), d.as_mut_ptr(), sum.as_mut_ptr(), sum_x.as_mut_ptr());
    let (factor, term) = (channels.factor.as_ptr(), channels.term.as_ptr());
    let centre = channels.centre.as_ptr();
    // SAFETY: the lengths were checked.
    unsafe {
        if silu {
            let pass = AffineBackward::<true> { x, rows, c, factor, term, centre, d, sum, sum_x };
            dispatch(isa, AllColumns { c, pass });
        } else {
            let pass = AffineBackward::<false> { x, rows, c, factor, term, centre, d, sum, sum_x };
            dispatch(isa, AllColumns { c, pass });
        }
    }
}

pub(in crate::kernels) fn centred_fast(
    isa: Isa,
    x: &[f32],
    channels: Channels<f32>,
    slope: &[f32],
    d: &mut [f32],
    d_x: Option<&mut [f32]>,
    add: bool,
) {
    let c = channels.factor.len();
    let len = d_x.as_ref().map_or(d.len(), |d_x| d_x.len());
    let lens = [channels.term.len(), channels.centre.len(), slope.len()];
    let rows = rows(c, &[x.len(), d.len(), len], &lens);
    let add = add && d_x.is_some();
    let d = d.as_mut_ptr();
    let d_x = d_x.map_or(d, |d_x| d_x.as_mut_ptr());
    let (x, slope, centre) = (x.as_ptr(), slope.as_ptr(), channels.centre.as_ptr());
    let (factor, term) = (channels.factor.as_ptr(), channels.term.as_ptr());
    // SAFETY: the lengths were checked.
    unsafe {
        if add {
            let pass = Centred::<true> { x, rows, c, factor, term, centre, slope, d, d_x };
            dispatch(isa, AllColumns { c, pass });
        } else {
            let pass = Centred::<false> { x, rows, c, factor, term, centre, slope, d, d_x };
            dispatch(isa, AllColumns { c, pass });
        }
    }
}
