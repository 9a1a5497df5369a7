//! NEON, which every 64-bit Arm processor has: 128-bit vectors.

use super::{Simd, on_registers};
use crate::isa::HasNeon;
use std::arch::aarch64::*;

/// Four floats in a 128-bit register.
#[derive(Clone, Copy)]
pub(super) struct Neon(HasNeon);

impl Neon {
    /// The token.
    #[inline(always)]
    pub(super) fn new(proof: HasNeon) -> Neon {
        Neon(proof)
    }
}

impl Simd for Neon {
    type V = float32x4_t;
    type U = uint32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: the caller gives four readable floats.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: the caller gives four writable floats.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> float32x4_t {
        let mut x = [0.0; 4];
        for (i, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: the caller gives n readable floats.
            *x = unsafe { *p.add(i) };
        }
        // SAFETY: the array has four floats.
        unsafe { vld1q_f32(x.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: float32x4_t, n: usize) {
        let mut x = [0.0; 4];
        // SAFETY: the array has four floats.
        unsafe { vst1q_f32(x.as_mut_ptr(), v) };
        for (i, x) in x.into_iter().enumerate().take(n) {
            // SAFETY: the caller gives n writable floats.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> uint32x4_t {
        // SAFETY: the caller gives four readable integers.
        unsafe { vld1q_u32(p) }
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: uint32x4_t) {
        // SAFETY: the caller gives four writable integers.
        unsafe { vst1q_u32(p, v) }
    }

    on_registers! {
        splat(x: f32) -> float32x4_t: vdupq_n_f32(x);
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t: vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t: vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t: vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t: vdivq_f32(a, b);
        fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t: vfmaq_f32(c, a, b);
        // A comparison with NaN is false, which leaves x.
        min(x: float32x4_t, bound: float32x4_t) -> float32x4_t: vbslq_f32(vcltq_f32(bound, x), bound, x);
        max(x: float32x4_t, bound: float32x4_t) -> float32x4_t: vbslq_f32(vcgtq_f32(bound, x), bound, x);
        round(x: float32x4_t) -> float32x4_t: vrndnq_f32(x);
        exp2_int(n: float32x4_t) -> float32x4_t: {
            let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
        abs(x: float32x4_t) -> float32x4_t: vabsq_f32(x);
        select_negative(x: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t:
            vbslq_f32(vcltzq_f32(x), a, b);
        splat_u32(x: u32) -> uint32x4_t: vdupq_n_u32(x);
        add_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t: vaddq_u32(a, b);
        xor_rotate_u32(a: uint32x4_t, b: uint32x4_t, n: u32) -> uint32x4_t: {
            let x = veorq_u32(a, b);
            // A shift by a negative number of bits is one to the right.
            let left = vshlq_u32(x, vdupq_n_s32(n as i32));
            vorrq_u32(left, vshlq_u32(x, vdupq_n_s32(n as i32 - 32)))
        };
    }
}
