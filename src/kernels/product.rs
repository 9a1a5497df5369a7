//! The one matrix product behind convolutions, linear layers and attention.
//!
//! C(o, i, j) = sum over s < S, k < K of A(o, i, s, k) B(o, s, k, j), where every operand is addressed by
//! strides: A(o, i, s, k) = a\[o a_outer + i a_row + s a_segment + k a_k\], B(o, s, k, j) = b\[o b_outer + s
//! b_segment + k b_k + j\], C(o, i, j) = c\[o c_outer + i c_row + j\]. Rows have two indices and the sum runs
//! over S segments, so that a 3x3 convolution over a zero-bordered NHWC image is a product without an im2col
//! copy: o is an image row, i a pixel in it, and a segment is one kernel row, whose three taps times C
//! channels are contiguous in memory. With a matrix B for each o it is a batch of products.
//!
//! Each C(i, j) is summed over s, then k, in order, in one accumulator, whatever m and n are. So a row's bits
//! depend neither on the number of rows nor on the row's place among them, hence neither on the batch nor on
//! the number of threads.

use super::Isa;
use super::kernel::{Checked, Context, Element, Kernel, Run, ensure};
use super::simd::{LINE, Simd, VectorCode, array, dispatch, each_pair, prefetch};
use crate::error::Result;
use crate::real::Real;

/// Sizes and strides of a product; see the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Blocks of rows of A and C.
    pub outer: usize,
    /// Distance between A's blocks.
    pub a_outer: usize,
    /// Distance between the blocks' matrices B; 0 if they share one.
    pub b_outer: usize,
    /// Distance between C's blocks.
    pub c_outer: usize,
    /// Rows in a block.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// S, the number of segments of the reduction.
    pub segments: usize,
    /// K, the length of a segment.
    pub k: usize,
    /// Distance between A's rows.
    pub a_row: usize,
    /// Distance between A's segments.
    pub a_segment: usize,
    /// Distance along a segment of A.
    pub a_k: usize,
    /// Distance between B's segments.
    pub b_segment: usize,
    /// Distance along a segment of B: between its rows, which are contiguous.
    pub b_k: usize,
    /// Distance between C's rows, which are contiguous.
    pub c_row: usize,
    /// Whether to add to C instead of overwriting it.
    pub accumulate: bool,
}

impl Product {
    /// C \[m, n\] = A \[m, k\] B \[k, n\], all row-major and dense.
    pub fn dense(m: usize, n: usize, k: usize) -> Product {
        Product {
            outer: 1,
            a_outer: 0,
            b_outer: 0,
            c_outer: 0,
            m,
            n,
            segments: 1,
            k,
            a_row: k,
            a_segment: 0,
            a_k: 1,
            b_segment: 0,
            b_k: n,
            c_row: n,
            accumulate: false,
        }
    }

    /// C \[m, n\] = A^T B with A \[k, m\] and B \[k, n\], all row-major and dense.
    pub fn transposed_a(m: usize, n: usize, k: usize) -> Product {
        Product { a_row: 1, a_k: m, ..Product::dense(m, n, k) }
    }

    /// The same, added to C.
    pub fn accumulating(self) -> Product {
        Product { accumulate: true, ..self }
    }

    /// Multiply-adds in the product, at most as many as a `usize` counts.
    pub fn multiply_adds(&self) -> usize {
        let factors = [self.outer, self.m, self.n, self.segments, self.k];
        factors.into_iter().fold(1, usize::saturating_mul)
    }

    /// C = or += A B, on the calling thread.
    pub fn multiply<T: Element>(&self, isa: Isa, a: &[T], b: &[T], c: &mut [T]) {
        MatrixProduct::run(isa, Multiply { shape: self, a, b, c, b_is_weight: false });
    }

    /// The same with a layer's weight as B, shared out over a team: the same bits.
    pub fn multiply_weight<'c, T: Element>(
        &self,
        context: impl Into<Context<'c>>,
        a: &[T],
        weight: &[T],
        c: &mut [T],
    ) {
        MatrixProduct::run(context, Multiply { shape: self, a, b: weight, c, b_is_weight: true });
    }

    /// Whether slices of these lengths hold every index of the product, whose elements of C are all
    /// different ones.
    fn fits(&self, a: usize, b: usize, c: usize) -> bool {
        if self.is_empty() {
            return true;
        }
        // What leaves usize stays its largest number, which no slice is as long as.
        let end = |steps: &[(usize, usize)], row: usize| {
            let last = steps.iter().map(|(count, stride)| (count - 1).saturating_mul(*stride));
            last.fold(row, usize::saturating_add)
        };
        let (outer, m, segments, k) = (self.outer, self.m, self.segments, self.k);
        let block_end = end(&[(m, self.c_row)], self.n);
        let c_fits = end(&[(outer, self.c_outer)], block_end) <= c
            && (m == 1 || self.c_row >= self.n)
            && (outer == 1 || self.c_outer >= block_end);
        if self.has_no_terms() {
            return c_fits;
        }
        let a_end =
            end(&[(outer, self.a_outer), (m, self.a_row), (segments, self.a_segment), (k, self.a_k)], 1);
        let b_end = end(&[(outer, self.b_outer), (segments, self.b_segment), (k, self.b_k)], self.n);
        // Otherwise a sum of one and the same term would be as long as a `usize` can say.
        let sums_end = (k == 1 || self.a_k > 0 || self.b_k > 0)
            && (segments == 1 || self.a_segment > 0 || self.b_segment > 0);
        c_fits && sums_end && a_end <= a && b_end <= b
    }

    fn is_empty(&self) -> bool {
        self.outer == 0 || self.m == 0 || self.n == 0
    }

    fn has_no_terms(&self) -> bool {
        self.segments == 0 || self.k == 0
    }

    fn clear<T: Real>(&self, c: &mut [T]) {
        if !self.accumulate {
            for o in 0..self.outer {
                for i in 0..self.m {
                    c[o * self.c_outer + i * self.c_row..][..self.n].fill(T::zero());
                }
            }
        }
    }
}

/// dst \[cols, rows\] = the transpose of \[rows, cols\], which src begins with.
///
/// # Panics
/// If src is shorter or dst has another length.
pub fn transpose<T: Copy>(src: &[T], rows: usize, cols: usize, dst: &mut [T]) {
    let (from, to) = (src.len(), dst.len());
    let fits = rows.checked_mul(cols).is_some_and(|len| len <= from && len == to);
    assert!(fits, "transposing {rows} x {cols} from {from} elements to {to}");
    // In square blocks, whose cache lines stay in the first-level cache while they are read and written in
    // different directions.
    const BLOCK: usize = 16;
    for (i, j) in (0..rows).step_by(BLOCK).flat_map(|i| (0..cols).step_by(BLOCK).map(move |j| (i, j))) {
        let (i_end, j_end) = (rows.min(i + BLOCK), cols.min(j + BLOCK));
        for j in j..j_end {
            for (i, x) in (i..i_end).zip(&mut dst[j * rows + i..j * rows + i_end]) {
                *x = src[i * cols + j];
            }
        }
    }
}

/// The matrix product's operands.
#[derive(Debug)]
pub struct Multiply<'a, T> {
    /// The sizes and strides.
    pub shape: &'a Product,
    /// A.
    pub a: &'a [T],
    /// B.
    pub b: &'a [T],
    /// C, overwritten or added to as the shape says.
    pub c: &'a mut [T],
    /// Whether B is a layer's weight. It comes from main memory, so that the work is shared out over its
    /// columns, and where there are few rows to hide the reading behind B is prefetched.
    pub b_is_weight: bool,
}

/// C = or += A B; see the module's text.
#[derive(Debug)]
pub struct MatrixProduct;

impl Kernel for MatrixProduct {
    type Operands<'a, T: Real> = Multiply<'a, T>;

    fn check<T: Real>(Multiply { shape, a, b, c, .. }: &Multiply<T>) -> Result<()> {
        ensure(
            shape.fits(a.len(), b.len(), c.len()),
            "a matrix product",
            || "operands that hold its indices, and rows of C that do not overlap".to_owned(),
            || format!("{shape:?} over a[{}], b[{}], c[{}]", a.len(), b.len(), c.len()),
        )
    }

    fn reference<T: Real>(Checked(Multiply { shape: p, a, b, c, .. }): Checked<Self, T>) {
        if p.is_empty() {
            return;
        }
        p.clear(c);
        for (o, i) in (0..p.outer).flat_map(|o| (0..p.m).map(move |i| (o, i))) {
            let row = &mut c[o * p.c_outer + i * p.c_row..][..p.n];
            for s in 0..p.segments {
                for k in 0..p.k {
                    let a = a[o * p.a_outer + i * p.a_row + s * p.a_segment + k * p.a_k];
                    let b = &b[o * p.b_outer + s * p.b_segment + k * p.b_k..][..p.n];
                    each_pair(row, b, |c, b| *c += a * *b);
                }
            }
        }
    }

    /// Register tiles of up to `TILE_ROWS` rows by two vectors.
    fn fast(context: Context, Checked(Multiply { shape, a, b, c, b_is_weight }): Checked<Self, f32>) {
        if shape.is_empty() {
            return;
        }
        if shape.has_no_terms() {
            return shape.clear(c);
        }
        let all = Tiles { p: *shape, cold: false, a: a.as_ptr(), b: b.as_ptr(), c: c.as_mut_ptr() };
        if b_is_weight {
            share_out(context, all);
        } else {
            // SAFETY: `check` found that the slices hold every index that the tiles form.
            unsafe { dispatch(context.isa, all) }
        }
    }
}

/// Computes the tiles of a checked product on a team: the work is cut by columns first, so that B, a layer's
/// weight, is read once.
fn share_out(Context { isa, team }: Context, all: Tiles) {
    const COLUMNS: usize = 64;
    const ROWS: usize = 8;
    const TASKS: usize = 8;
    const FEW_ROWS: usize = 512;
    let p = all.p;
    // Eight multiply-adds take about as long as an element of other passes.
    let team = team.for_work(p.multiply_adds() / 8);
    let all = Tiles { cold: p.outer * p.m <= FEW_ROWS, ..all };
    if team.is_solo() {
        // SAFETY: `check` found that the slices hold every index that the tiles form.
        return unsafe { dispatch(isa, all) };
    }
    let (across, down) = (p.n.div_ceil(COLUMNS), TASKS.div_ceil(p.n.div_ceil(COLUMNS)));
    let (blocks, rows) = match p.outer {
        1 => (1, p.m.div_ceil(down).next_multiple_of(ROWS)),
        _ => (p.outer.div_ceil(down), p.m),
    };
    let down = p.outer.div_ceil(blocks) * p.m.div_ceil(rows);
    let all = Shared(all);
    team.run(across * down, |task| {
        let (i, j) = (task % down, task / down * COLUMNS);
        // Either the blocks or the rows of one block are cut.
        let (o, i) = if blocks == p.outer { (0, i * rows) } else { (i * blocks, 0) };
        let tiles = all.get();
        let part = Tiles {
            p: Product { outer: blocks.min(p.outer - o), m: rows.min(p.m - i), n: COLUMNS.min(p.n - j), ..p },
            a: tiles.a.wrapping_add(o * p.a_outer + i * p.a_row),
            b: tiles.b.wrapping_add(o * p.b_outer + j),
            c: tiles.c.wrapping_add(o * p.c_outer + i * p.c_row + j),
            ..tiles
        };
        // SAFETY: `check` found that the slices hold every index that the whole product's tiles form; the
        // parts are disjoint in C.
        unsafe { dispatch(isa, part) }
    });
}

/// Operands that the tasks of a team share; each task writes elements of its own.
struct Shared(Tiles);

impl Shared {
    fn get(&self) -> Tiles {
        self.0
    }
}

// SAFETY: A and B are only read, and the tasks' parts of C are disjoint.
unsafe impl Sync for Shared {}

#[derive(Clone, Copy)]
struct Tiles {
    p: Product,
    /// Whether B comes from main memory and is prefetched.
    cold: bool,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
}

impl VectorCode for Tiles {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let mut j = 0;
        while j < self.p.n {
            let left = self.p.n - j;
            if self.cold {
                self.prefetch_panel(j, left.min(2 * S::LANES));
            }
            // SAFETY: columns j .. j + min(left, 2 LANES) exist.
            unsafe {
                if left >= 2 * S::LANES {
                    self.panel::<S, 2, false>(s, j, S::LANES);
                } else if left > S::LANES {
                    self.panel::<S, 2, true>(s, j, left - S::LANES);
                } else if left == S::LANES {
                    self.panel::<S, 1, false>(s, j, S::LANES);
                } else {
                    self.panel::<S, 1, true>(s, j, left);
                }
            }
            j += 2 * S::LANES;
        }
    }
}

impl Tiles {
    /// Prefetches columns j .. j + n of the first block's B.
    #[inline(always)]
    fn prefetch_panel(self, j: usize, n: usize) {
        for (s, k) in (0..self.p.segments).flat_map(|s| (0..self.p.k).map(move |k| (s, k))) {
            let row = self.b.wrapping_add(s * self.p.b_segment + k * self.p.b_k + j);
            (0..n - 1).step_by(LINE).for_each(|i| prefetch(row.wrapping_add(i)));
            prefetch(row.wrapping_add(n - 1));
        }
    }

    /// All rows of V vectors of columns from j on, in tiles of nearly equal height. If TAIL, the last vector
    /// has `tail` columns.
    ///
    /// # Safety
    /// The columns exist.
    #[inline(always)]
    unsafe fn panel<S: Simd, const V: usize, const TAIL: bool>(self, s: S, j: usize, tail: usize) {
        let tiles = self.p.m.div_ceil(S::TILE_ROWS);
        let (height, taller) = (self.p.m / tiles, self.p.m % tiles);
        for (o, tile) in (0..self.p.outer).flat_map(|o| (0..tiles).map(move |tile| (o, tile))) {
            let rows = height + usize::from(tile < taller);
            let i = tile * height + tile.min(taller);
            let rest = Tiles {
                // SAFETY: block o exists.
                a: unsafe { self.a.add(o * self.p.a_outer) },
                // SAFETY: as above.
                b: unsafe { self.b.add(o * self.p.b_outer) },
                // SAFETY: as above.
                c: unsafe { self.c.add(o * self.p.c_outer) },
                ..self
            };
            // SAFETY: rows i .. i + rows exist, and rows <= TILE_ROWS <= 8.
            unsafe {
                match rows {
                    1 => rest.tile::<S, 1, V, TAIL>(s, i, j, tail),
                    2 => rest.tile::<S, 2, V, TAIL>(s, i, j, tail),
                    3 => rest.tile::<S, 3, V, TAIL>(s, i, j, tail),
                    4 => rest.tile::<S, 4, V, TAIL>(s, i, j, tail),
                    5 => rest.tile::<S, 5, V, TAIL>(s, i, j, tail),
                    6 => rest.tile::<S, 6, V, TAIL>(s, i, j, tail),
                    7 => rest.tile::<S, 7, V, TAIL>(s, i, j, tail),
                    _ => rest.tile::<S, 8, V, TAIL>(s, i, j, tail),
                }
            }
        }
    }

    /// The tile of R rows from i on by V vectors of columns from j on; its sums stay in registers until they
    /// are complete. If TAIL, the last vector has `tail` columns.
    ///
    /// # Safety
    /// The rows and columns exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize, const TAIL: bool>(
        self,
        s: S,
        i: usize,
        j: usize,
        tail: usize,
    ) {
        let Tiles { p, a, b, c, .. } = self;
        // SAFETY: the caller's rows and columns exist, the kernel's `check` found their indices to lie within
        // the slices, and the partial forms touch `tail` elements only.
        unsafe {
            let mut sum = [[s.splat(0.0); V]; R];
            for segment in 0..p.segments {
                let a = a.add(i * p.a_row + segment * p.a_segment);
                let b = b.add(segment * p.b_segment + j);
                for k in 0..p.k {
                    let (a, b) = (a.add(k * p.a_k), b.add(k * p.b_k));
                    let row: [S::V; V] = array(|v| {
                        if TAIL && v == V - 1 {
                            s.load_partial(b.add(v * S::LANES), tail)
                        } else {
                            s.load(b.add(v * S::LANES))
                        }
                    });
                    for r in 0..R {
                        let x = s.splat(*a.add(r * p.a_row));
                        for v in 0..V {
                            sum[r][v] = s.fma(x, row[v], sum[r][v]);
                        }
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let c = c.add((i + r) * p.c_row + j + v * S::LANES);
                    if TAIL && v == V - 1 {
                        let old = if p.accumulate { s.load_partial(c, tail) } else { s.splat(0.0) };
                        s.store_partial(c, s.add(old, sum[r][v]), tail);
                    } else {
                        let old = if p.accumulate { s.load(c) } else { s.splat(0.0) };
                        s.store(c, s.add(old, sum[r][v]));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Team;
    use crate::numbers::normal;
    use crate::team::with_crew;

    /// Bound: each of the two sums of `terms` products errs by at most terms * eps/2 times the sum of
    /// absolute products (Higham 2002, section 3.1); the comparison is against f64.
    fn compare(p: Product, a_len: usize, b_len: usize, c_len: usize) {
        let (a, b, c0) = (normal(a_len, 1), normal(b_len, 2), normal(c_len, 3));
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let absolute = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).collect::<Vec<_>>();
        let (mut exact, mut scale) = (wide(&c0), absolute(&c0));
        p.multiply(Isa::Reference, &wide(&a), &wide(&b), &mut exact);
        p.multiply(Isa::Reference, &absolute(&a), &absolute(&b), &mut scale);
        let terms = (p.segments * p.k + 1) as f64;
        for isa in Isa::available() {
            let mut c = c0.clone();
            p.multiply(isa, &a, &b, &mut c);
            for (i, ((got, want), scale)) in c.iter().zip(&exact).zip(&scale).enumerate() {
                let bound = terms * f64::from(f32::EPSILON) * scale;
                assert!((f64::from(*got) - want).abs() <= bound, "{isa} {p:?} [{i}]: {got} for {want}");
            }
        }
    }

    #[test]
    fn every_isa_agrees_with_f64_on_awkward_sizes() {
        for m in [1, 2, 5, 7, 8, 9, 17, 49] {
            for n in [1, 3, 8, 15, 16, 17, 31, 32, 33, 70] {
                for k in [1, 2, 9, 33] {
                    compare(Product::dense(m, n, k), m * k, k * n, m * n);
                    compare(Product::dense(m, n, k).accumulating(), m * k, k * n, m * n);
                    compare(Product::transposed_a(m, n, k), m * k, k * n, m * n);
                }
            }
        }
    }

    #[test]
    fn every_isa_agrees_with_f64_on_segments_and_gaps() {
        let p = Product {
            outer: 2,
            a_outer: 33,
            b_outer: 0,
            c_outer: 270,
            m: 11,
            n: 19,
            segments: 3,
            k: 6,
            a_row: 2,
            a_segment: 40,
            a_k: 1,
            b_segment: 130,
            b_k: 20,
            c_row: 23,
            accumulate: true,
        };
        compare(p, 200, 400, 600);
        compare(Product { accumulate: false, ..p }, 200, 400, 600);
        compare(Product { b_outer: 401, ..p }, 200, 801, 600);
    }

    #[test]
    fn a_row_has_the_same_bits_wherever_it_stands() {
        let (k, n) = (37, 41);
        let (a, b) = (normal(23 * k, 4), normal(k * n, 5));
        for isa in Isa::available() {
            let mut all = vec![0.0; 23 * n];
            Product::dense(23, n, k).multiply(isa, &a, &b, &mut all);
            for i in 0..23 {
                let mut one = vec![0.0; n];
                Product::dense(1, n, k).multiply(isa, &a[i * k..][..k], &b, &mut one);
                assert_eq!(one, all[i * n..][..n], "{isa} row {i}");
            }
        }
    }

    #[test]
    fn a_team_gives_the_same_bits() {
        let p = Product { outer: 3, a_outer: 4000, c_outer: 4310, a_row: 2, ..Product::dense(105, 41, 37) };
        for p in [
            p,
            Product { b_outer: 2, ..p }.accumulating(),
            Product::dense(370, 33, 30),
            Product::dense(1, 333, 400),
            Product::dense(30, 150, 33).accumulating(),
            Product::transposed_a(333, 33, 30).accumulating(),
        ] {
            let (a, b, c) = (normal(12000, 4), normal(140_000, 5), normal(13000, 6));
            for isa in Isa::available() {
                let (mut one, mut many) = (c.clone(), c.clone());
                p.multiply(isa, &a, &b, &mut one);
                with_crew(2, |team| p.multiply_weight((isa, team), &a, &b, &mut many));
                assert_eq!(one, many, "{isa} {p:?}");
                many.clone_from(&c);
                p.multiply_weight((isa, Team::Solo), &a, &b, &mut many);
                assert_eq!(one, many, "{isa} {p:?}");
                assert_ne!(one, c);
            }
        }
    }

    /// Each stride alone, and sums of strides, reach beyond usize; what is left of them modulo 2^64 fits the
    /// operands.
    #[test]
    fn strides_that_wrap_around_are_refused() {
        let half = usize::MAX / 2 + 1;
        let (tall, deep) = (Product::dense(3, 1, 1), Product::dense(1, 1, 3));
        for p in [
            Product { a_row: half, ..tall },
            Product { c_row: half, ..tall },
            Product { a_k: half, ..deep },
            Product { b_k: half, ..deep },
            Product { outer: 3, a_outer: half, c_outer: 1, ..Product::dense(1, 1, 1) },
            Product { outer: 3, b_outer: half, c_outer: 1, ..Product::dense(1, 1, 1) },
            Product { outer: 3, c_outer: half, ..Product::dense(1, 1, 1) },
            Product { segments: 3, a_segment: half, ..Product::dense(1, 1, 1) },
            Product { segments: 3, b_segment: half, ..Product::dense(1, 1, 1) },
            Product { a_row: usize::MAX, ..Product::dense(2, 1, 1) },
        ] {
            let operands =
                Multiply { shape: &p, a: &[0.0; 4], b: &[0.0; 4], c: &mut [0.0; 4], b_is_weight: false };
            let refused = MatrixProduct::try_run(Isa::detect(), operands).expect_err("an operand is short");
            assert!(refused.to_string().contains("over a[4]"), "{refused}");
        }
    }

    #[test]
    fn nothing_to_sum_clears_or_keeps_and_not_a_number_spreads() {
        for isa in Isa::available() {
            let mut c = [1.0f32; 4];
            Product::dense(2, 2, 0).accumulating().multiply(isa, &[], &[], &mut c);
            assert_eq!(c, [1.0; 4]);
            Product::dense(2, 2, 0).multiply(isa, &[], &[], &mut c);
            assert_eq!(c, [0.0; 4]);
            Product::dense(2, 1, 1).multiply(isa, &[f32::NAN, 2.0], &[3.0], &mut c[..2]);
            assert!(c[0].is_nan() && c[1] == 6.0, "{isa} {c:?}");
            Product::dense(1, 1, 2).multiply(isa, &[f32::INFINITY, 1.0], &[0.0, 1.0], &mut c[..1]);
            assert!(c[0].is_nan(), "{isa} {c:?}");
        }
    }

    #[test]
    fn transposing_twice_gives_the_matrix_back() {
        for (rows, cols) in [(3, 5), (1, 40), (33, 17)] {
            let a: Vec<usize> = (0..rows * cols).collect();
            let (mut t, mut b) = (vec![0; a.len()], vec![0; a.len()]);
            transpose(&a, rows, cols, &mut t);
            assert_eq!(t[..rows], a.iter().copied().step_by(cols).collect::<Vec<_>>());
            transpose(&t, cols, rows, &mut b);
            assert_eq!(a, b);
        }
    }
}
