//! One vector of `f32` per instruction set behind one trait, so that every kernel is written once.
//!
//! A kernel's fast version implements [`VectorCode`] with `#[inline(always)] fn run<S: Simd>`; [`dispatch`]
//! enters it through a function compiled with the instruction set's features, into which all of it is
//! inlined.

use super::Isa;

/// A vector of `LANES` floats and its operations. A lane is the place of one element in a vector.
///
/// # Safety
/// Methods must only run on a processor with the implementor's features; [`dispatch`] sees to it. Pointers
/// must be valid for `LANES` elements (or for `n` of them, for the `partial` ones); no alignment is asked
/// for.
pub(super) trait Simd: Copy {
    /// The vector register.
    type V: Copy;
    /// A register of as many 32-bit integers.
    type U: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Rows of the matrix product's tile, whose sums stay in registers: as many as leave room for two vectors
    /// of B and one of A.
    const TILE_ROWS: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// `LANES` floats from memory.
    unsafe fn load(p: *const f32) -> Self::V;
    /// `LANES` floats to memory.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `n < LANES` floats from memory, the other lanes 0.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::V;
    /// The first `n < LANES` floats to memory.
    unsafe fn store_partial(p: *mut f32, v: Self::V, n: usize);
    /// a + b.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a b.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a b + c, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller of `x` and `bound`, NaN where `x` is NaN.
    unsafe fn min(x: Self::V, bound: Self::V) -> Self::V;
    /// The larger of `x` and `bound`, NaN where `x` is NaN.
    unsafe fn max(x: Self::V, bound: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    unsafe fn round(x: Self::V) -> Self::V;
    /// 2^n for integral n in [-126, 127].
    unsafe fn exp2_int(n: Self::V) -> Self::V;
    /// x 2^n for integral n in [-252, 254], rounded down to subnormals and up to infinity.
    #[inline(always)]
    unsafe fn scale_exp2(x: Self::V, n: Self::V) -> Self::V {
        // SAFETY: arithmetic on registers; two factors, since one would leave the range.
        unsafe {
            let half = Self::round(Self::mul(n, Self::splat(0.5)));
            Self::mul(Self::mul(x, Self::exp2_int(half)), Self::exp2_int(Self::sub(n, half)))
        }
    }
    /// All lanes `x`.
    unsafe fn splat_u32(x: u32) -> Self::U;
    /// `LANES` integers from memory.
    unsafe fn load_u32(p: *const u32) -> Self::U;
    /// `LANES` integers to memory.
    unsafe fn store_u32(p: *mut u32, v: Self::U);
    /// a + b modulo 2^32.
    unsafe fn add_u32(a: Self::U, b: Self::U) -> Self::U;
    /// a xor b, rotated left by `n` bits.
    unsafe fn xor_rotate_u32(a: Self::U, b: Self::U, n: u32) -> Self::U;
    /// |x|.
    unsafe fn abs(x: Self::V) -> Self::V;
    /// `a` where x < 0, else `b`; either where x is NaN.
    unsafe fn select_negative(x: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// 1 / x for x in [1, 2], at most 1 ULP off; NaN for NaN.
    #[inline(always)]
    unsafe fn reciprocal(x: Self::V) -> Self::V {
        // SAFETY: arithmetic on registers.
        unsafe { Self::div(Self::splat(1.0), x) }
    }
}

/// Code that is written once over [`Simd`] and compiled for every instruction set.
pub(super) trait VectorCode {
    /// Runs it with `S`'s vectors; mark it `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has `S`'s features; other conditions are the code's own.
    unsafe fn run<S: Simd>(self);
}

/// Runs `code` with `isa`'s vectors; the reference has none and gets the portable ones.
///
/// # Safety
/// The code's own conditions hold.
pub(super) unsafe fn dispatch<C: VectorCode>(isa: Isa, code: C) {
    match isa {
        // SAFETY: the portable vectors need no features; the code's conditions are the caller's.
        Isa::Reference | Isa::Portable => unsafe { code.run::<Portable>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` exists only where its features were detected; the code's conditions are the
        // caller's.
        Isa::Avx2(_) => unsafe { x86::avx2(code) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512(_) => unsafe { x86::avx512(code) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2(_) | Isa::Avx512(_) => unreachable!("never detected on this processor"),
    }
}

/// Calls `f` compiled with `isa`'s features, for loops that the compiler vectorises by itself.
///
/// `f` is plain Rust, whose arithmetic is never reordered or fused: its results have the same bits on every
/// `isa`.
#[inline]
pub(crate) fn vectorised<R>(isa: Isa, f: impl FnOnce() -> R) -> R {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` exists only where its features were detected; `f` is safe.
        Isa::Avx2(_) => unsafe { x86::avx2_call(f) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512(_) => unsafe { x86::avx512_call(f) },
        _ => f(),
    }
}

/// Floats in a cache line.
pub(super) const LINE: usize = 16;

/// Prefetches the cache line at `p`, which need not be readable, on processors that can.
#[inline(always)]
pub(super) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and the instruction faults on no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Eight floats in an array, left to the compiler to vectorise.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; 8] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; 8];
    type U = [u32; 8];
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller gives eight readable floats.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller gives eight writable floats.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> [f32; 8] {
        // SAFETY: the caller gives n readable floats.
        lanes(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: [f32; 8], n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller gives n writable floats.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Two roundings: without the fused instruction `mul_add` is a slow call.
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn min(x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        lanes(|i| if bound[i] < x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn max(x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        lanes(|i| if bound[i] > x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn round(x: [f32; 8]) -> [f32; 8] {
        // Adding and taking away 1.5 * 2^23 leaves the integer nearest to |x| < 2^22.
        const MAGIC: f32 = 12_582_912.0;
        lanes(|i| (x[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn exp2_int(n: [f32; 8]) -> [f32; 8] {
        lanes(|i| f32::from_bits((((n[i] as i32) + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn splat_u32(x: u32) -> [u32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load_u32(p: *const u32) -> [u32; 8] {
        // SAFETY: the caller gives eight readable integers.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_u32(p: *mut u32, v: [u32; 8]) {
        // SAFETY: the caller gives eight writable integers.
        unsafe { p.cast::<[u32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add_u32(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn xor_rotate_u32(a: [u32; 8], b: [u32; 8], n: u32) -> [u32; 8] {
        std::array::from_fn(|i| (a[i] ^ b[i]).rotate_left(n))
    }
    #[inline(always)]
    unsafe fn abs(x: [f32; 8]) -> [f32; 8] {
        lanes(|i| x[i].abs())
    }
    #[inline(always)]
    unsafe fn select_negative(x: [f32; 8], a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| if x[i] < 0.0 { a[i] } else { b[i] })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Simd, VectorCode};
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX2 and FMA; the code's own conditions hold.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<C: VectorCode>(code: C) {
        // SAFETY: the caller's promises.
        unsafe { code.run::<Avx2>() }
    }

    /// # Safety
    /// The processor has AVX-512F, AVX2 and FMA; the code's own conditions hold.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn avx512<C: VectorCode>(code: C) {
        // SAFETY: the caller's promises.
        unsafe { code.run::<Avx512>() }
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2_call<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    /// # Safety
    /// The processor has AVX-512F, AVX2 and FMA.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn avx512_call<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    /// Eight floats in a 256-bit register.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2;

    #[inline(always)]
    unsafe fn mask8(n: usize) -> __m256i {
        // SAFETY: AVX2 is there by the trait's contract.
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }

    // SAFETY of every block below: the trait's contract gives the processor features and the pointers.
    impl Simd for Avx2 {
        type V = __m256;
        type U = __m256i;
        const LANES: usize = 8;
        const TILE_ROWS: usize = 6;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            // SAFETY: the trait's contract.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_partial(p: *const f32, n: usize) -> __m256 {
            // SAFETY: masked lanes are not read.
            unsafe { _mm256_maskload_ps(p, mask8(n)) }
        }
        #[inline(always)]
        unsafe fn store_partial(p: *mut f32, v: __m256, n: usize) {
            // SAFETY: masked lanes are not written.
            unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn min(x: __m256, bound: __m256) -> __m256 {
            // SAFETY: the trait's contract. The instruction returns its second operand where either is NaN.
            unsafe { _mm256_min_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn max(x: __m256, bound: __m256) -> __m256 {
            // SAFETY: as for `min`.
            unsafe { _mm256_max_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn round(x: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        unsafe fn exp2_int(n: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        unsafe fn splat_u32(x: u32) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe { _mm256_set1_epi32(x as i32) }
        }
        #[inline(always)]
        unsafe fn load_u32(p: *const u32) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_u32(p: *mut u32, v: __m256i) {
            // SAFETY: the trait's contract.
            unsafe { _mm256_storeu_si256(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn add_u32(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn xor_rotate_u32(a: __m256i, b: __m256i, n: u32) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe {
                let x = _mm256_xor_si256(a, b);
                let left = _mm256_sllv_epi32(x, _mm256_set1_epi32(n as i32));
                _mm256_or_si256(left, _mm256_srlv_epi32(x, _mm256_set1_epi32(32 - n as i32)))
            }
        }
        #[inline(always)]
        unsafe fn abs(x: __m256) -> __m256 {
            // SAFETY: the trait's contract.
            unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
        }
        #[inline(always)]
        unsafe fn select_negative(x: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the trait's contract. The instruction looks at x's sign bit.
            unsafe { _mm256_blendv_ps(b, a, x) }
        }
    }

    /// Sixteen floats in a 512-bit register.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        type U = __m512i;
        const LANES: usize = 16;
        const TILE_ROWS: usize = 8;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            // SAFETY: the trait's contract.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_partial(p: *const f32, n: usize) -> __m512 {
            // SAFETY: masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, p) }
        }
        #[inline(always)]
        unsafe fn store_partial(p: *mut f32, v: __m512, n: usize) {
            // SAFETY: masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(p, (1u16 << n) - 1, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn min(x: __m512, bound: __m512) -> __m512 {
            // SAFETY: the trait's contract. The instruction returns its second operand where either is NaN.
            unsafe { _mm512_min_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn max(x: __m512, bound: __m512) -> __m512 {
            // SAFETY: as for `min`.
            unsafe { _mm512_max_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn round(x: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        unsafe fn exp2_int(n: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        unsafe fn scale_exp2(x: __m512, n: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_scalef_ps(x, n) }
        }
        #[inline(always)]
        unsafe fn splat_u32(x: u32) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_set1_epi32(x as i32) }
        }
        #[inline(always)]
        unsafe fn load_u32(p: *const u32) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_u32(p: *mut u32, v: __m512i) {
            // SAFETY: the trait's contract.
            unsafe { _mm512_storeu_si512(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn add_u32(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn xor_rotate_u32(a: __m512i, b: __m512i, n: u32) -> __m512i {
            // SAFETY: the trait's contract.
            unsafe { _mm512_rolv_epi32(_mm512_xor_si512(a, b), _mm512_set1_epi32(n as i32)) }
        }
        #[inline(always)]
        unsafe fn abs(x: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe { _mm512_abs_ps(x) }
        }
        #[inline(always)]
        unsafe fn select_negative(x: __m512, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the trait's contract.
            unsafe {
                let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
                _mm512_mask_blend_ps(negative, b, a)
            }
        }
        #[inline(always)]
        unsafe fn reciprocal(x: __m512) -> __m512 {
            // SAFETY: the trait's contract. An estimate of 14 bits and one step of Newton's, r + r (1 - x r).
            unsafe {
                let r = _mm512_rcp14_ps(x);
                let error = _mm512_fnmadd_ps(x, r, _mm512_set1_ps(1.0));
                _mm512_fmadd_ps(r, error, r)
            }
        }
    }
}
