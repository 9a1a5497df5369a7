//! AVX2 with fused multiply-add: 256-bit vectors.

use super::{Simd, VectorCode, on_registers};
use crate::isa::HasAvx2;
use std::arch::x86_64::*;

/// Eight floats in a 256-bit register.
#[derive(Clone, Copy)]
pub(super) struct Avx2(HasAvx2);

/// Runs `code`, compiled with the features.
///
/// # Safety
/// The code's own conditions hold.
#[inline]
pub(super) unsafe fn run<C: VectorCode>(proof: HasAvx2, code: C) {
    #[target_feature(enable = "avx2,fma")]
    unsafe fn enter<C: VectorCode>(proof: HasAvx2, code: C) {
        // SAFETY: the code's conditions are the caller's promise.
        unsafe { code.run(Avx2(proof)) }
    }
    // SAFETY: the proof of the features; the code's conditions are the caller's promise.
    unsafe { enter(proof, code) }
}

/// Calls `f`, compiled with the features.
#[inline]
pub(super) fn call<R>(_: HasAvx2, f: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx2,fma")]
    fn enter<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    // SAFETY: the proof of the features.
    unsafe { enter(f) }
}

/// The mask of the first `n` lanes.
#[inline(always)]
fn first(_: Avx2, n: usize) -> __m256i {
    // SAFETY: the token proves AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

impl Simd for Avx2 {
    type V = __m256;
    type U = __m256i;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller gives eight readable floats.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller gives eight writable floats.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: the caller gives n readable floats, and lanes beyond the mask are not read.
        unsafe { _mm256_maskload_ps(p, first(self, n)) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: the caller gives n writable floats, and lanes beyond the mask are not written.
        unsafe { _mm256_maskstore_ps(p, first(self, n), v) }
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> __m256i {
        // SAFETY: the caller gives eight readable integers.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: __m256i) {
        // SAFETY: the caller gives eight writable integers.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }

    on_registers! {
        splat(x: f32) -> __m256: _mm256_set1_ps(x);
        add(a: __m256, b: __m256) -> __m256: _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256: _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256: _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256: _mm256_div_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256: _mm256_fmadd_ps(a, b, c);
        // Both return their second operand where either is NaN.
        min(x: __m256, bound: __m256) -> __m256: _mm256_min_ps(bound, x);
        max(x: __m256, bound: __m256) -> __m256: _mm256_max_ps(bound, x);
        round(x: __m256) -> __m256: _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        exp2_int(n: __m256) -> __m256: {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        };
        abs(x: __m256) -> __m256: _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
        // It looks at x's sign bit.
        select_negative(x: __m256, a: __m256, b: __m256) -> __m256: _mm256_blendv_ps(b, a, x);
        splat_u32(x: u32) -> __m256i: _mm256_set1_epi32(x as i32);
        add_u32(a: __m256i, b: __m256i) -> __m256i: _mm256_add_epi32(a, b);
        xor_rotate_u32(a: __m256i, b: __m256i, n: u32) -> __m256i: {
            let x = _mm256_xor_si256(a, b);
            let left = _mm256_sllv_epi32(x, _mm256_set1_epi32(n as i32));
            _mm256_or_si256(left, _mm256_srlv_epi32(x, _mm256_set1_epi32(32 - n as i32)))
        };
    }
}
