//! AVX-512F: 512-bit vectors.

use super::{Simd, VectorCode, on_registers};
use crate::isa::HasAvx512;
use std::arch::x86_64::*;

/// Sixteen floats in a 512-bit register.
#[derive(Clone, Copy)]
pub(super) struct Avx512(HasAvx512);

/// Runs `code`, compiled with the features.
///
/// # Safety
/// The code's own conditions hold.
#[inline]
pub(super) unsafe fn run<C: VectorCode>(proof: HasAvx512, code: C) {
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn enter<C: VectorCode>(proof: HasAvx512, code: C) {
        // SAFETY: the code's conditions are the caller's promise.
        unsafe { code.run(Avx512(proof)) }
    }
    // SAFETY: the proof of the features; the code's conditions are the caller's promise.
    unsafe { enter(proof, code) }
}

/// Calls `f`, compiled with the features.
#[inline]
pub(super) fn call<R>(_: HasAvx512, f: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn enter<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    // SAFETY: the proof of the features.
    unsafe { enter(f) }
}

/// The mask of the first `n < 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    (1 << n) - 1
}

impl Simd for Avx512 {
    type V = __m512;
    type U = __m512i;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller gives sixteen readable floats.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller gives sixteen writable floats.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the caller gives n readable floats, and lanes beyond the mask are not read.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: the caller gives n writable floats, and lanes beyond the mask are not written.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> __m512i {
        // SAFETY: the caller gives sixteen readable integers.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: __m512i) {
        // SAFETY: the caller gives sixteen writable integers.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    on_registers! {
        splat(x: f32) -> __m512: _mm512_set1_ps(x);
        add(a: __m512, b: __m512) -> __m512: _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512: _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512: _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512: _mm512_div_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512: _mm512_fmadd_ps(a, b, c);
        // Both return their second operand where either is NaN.
        min(x: __m512, bound: __m512) -> __m512: _mm512_min_ps(bound, x);
        max(x: __m512, bound: __m512) -> __m512: _mm512_max_ps(bound, x);
        round(x: __m512) -> __m512:
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        exp2_int(n: __m512) -> __m512: {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        };
        scale_exp2(x: __m512, n: __m512) -> __m512: _mm512_scalef_ps(x, n);
        abs(x: __m512) -> __m512: _mm512_abs_ps(x);
        select_negative(x: __m512, a: __m512, b: __m512) -> __m512: {
            let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
            _mm512_mask_blend_ps(negative, b, a)
        };
        // An estimate of 14 bits and one step of Newton's, r + r (1 - x r).
        reciprocal(x: __m512) -> __m512: {
            let r = _mm512_rcp14_ps(x);
            let error = _mm512_fnmadd_ps(x, r, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(r, error, r)
        };
        splat_u32(x: u32) -> __m512i: _mm512_set1_epi32(x as i32);
        add_u32(a: __m512i, b: __m512i) -> __m512i: _mm512_add_epi32(a, b);
        xor_rotate_u32(a: __m512i, b: __m512i, n: u32) -> __m512i:
            _mm512_rolv_epi32(_mm512_xor_si512(a, b), _mm512_set1_epi32(n as i32));
    }
}
