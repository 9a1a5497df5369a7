//! WebAssembly's vectors: 128 bits, without a fused multiply-add.

use super::Simd;
use crate::isa::HasSimd128;
use std::arch::wasm32::*;

/// Four floats in a 128-bit vector.
///
/// Its operations on registers are safe functions: an engine refuses a module with instructions that it does
/// not have before any of it runs. (`relaxed-simd` has a multiply-add, but leaves to the machine whether it
/// is fused, and the same seed would give other images on another one.)
#[derive(Clone, Copy)]
pub(super) struct Simd128(HasSimd128);

impl Simd128 {
    /// The token.
    #[inline(always)]
    pub(super) fn new(proof: HasSimd128) -> Simd128 {
        Simd128(proof)
    }
}

/// Methods of the token, each an expression of intrinsics on registers.
macro_rules! on_registers {
    ($($name:ident($($argument:ident: $type:ty),*): $expression:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $type),*) -> v128 {
            $expression
        }
    )*};
}

impl Simd for Simd128 {
    type V = v128;
    type U = v128;
    const LANES: usize = 4;
    // What x86-64 has, on which most browsers run.
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> v128 {
        // SAFETY: the caller gives four readable floats; no alignment is needed.
        unsafe { v128_load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: v128) {
        // SAFETY: the caller gives four writable floats; no alignment is needed.
        unsafe { v128_store(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> v128 {
        let mut x = [0.0; 4];
        for (i, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: the caller gives n readable floats.
            *x = unsafe { *p.add(i) };
        }
        f32x4(x[0], x[1], x[2], x[3])
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: v128, n: usize) {
        let x = [
            f32x4_extract_lane::<0>(v),
            f32x4_extract_lane::<1>(v),
            f32x4_extract_lane::<2>(v),
            f32x4_extract_lane::<3>(v),
        ];
        for (i, x) in x.into_iter().enumerate().take(n) {
            // SAFETY: the caller gives n writable floats.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> v128 {
        // SAFETY: the caller gives four readable integers; no alignment is needed.
        unsafe { v128_load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: v128) {
        // SAFETY: the caller gives four writable integers; no alignment is needed.
        unsafe { v128_store(p.cast(), v) }
    }

    on_registers! {
        splat(x: f32): f32x4_splat(x);
        add(a: v128, b: v128): f32x4_add(a, b);
        sub(a: v128, b: v128): f32x4_sub(a, b);
        mul(a: v128, b: v128): f32x4_mul(a, b);
        div(a: v128, b: v128): f32x4_div(a, b);
        fma(a: v128, b: v128, c: v128): f32x4_add(f32x4_mul(a, b), c);
        // bound < x ? bound : x; a comparison with NaN is false, which leaves x.
        min(x: v128, bound: v128): f32x4_pmin(x, bound);
        max(x: v128, bound: v128): f32x4_pmax(x, bound);
        round(x: v128): f32x4_nearest(x);
        exp2_int(n: v128): i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(n), i32x4_splat(127)), 23);
        abs(x: v128): f32x4_abs(x);
        select_negative(x: v128, a: v128, b: v128): v128_bitselect(a, b, f32x4_lt(x, f32x4_splat(0.0)));
        splat_u32(x: u32): u32x4_splat(x);
        add_u32(a: v128, b: v128): i32x4_add(a, b);
        xor_rotate_u32(a: v128, b: v128, n: u32): {
            let x = v128_xor(a, b);
            v128_or(u32x4_shl(x, n), u32x4_shr(x, 32 - n))
        };
    }
}
