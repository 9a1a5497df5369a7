//! One vector of `f32` per instruction set behind one trait, so that every kernel is written once.
//!
//! A kernel's fast version implements [`VectorCode`] with `#[inline(always)] fn run<S: Simd>`; [`dispatch`]
//! enters it through a function compiled with the instruction set's features, into which all of it is
//! inlined.
//!
//! An instruction set is a value, a token of no size, that exists only where the processor has its features:
//! it is made of the proof that an [`Isa`] carries. Arithmetic takes the token and is safe; `unsafe` is left
//! for pointers.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;

use super::Isa;
use portable::Portable;

/// A vector of `LANES` floats and its operations. A lane is the place of one element in a vector.
///
/// A value of the type proves that the processor has its features. Pointers must be valid for `LANES`
/// elements (or for `n` of them, for the `partial` and `up_to` ones); no alignment is asked for.
pub(super) trait Simd: Copy {
    /// The vector register.
    type V: Copy;
    /// A register of as many 32-bit integers.
    type U: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Vector registers.
    const REGISTERS: usize;
    /// Rows of the matrix product's tile, whose sums stay in registers: as many as leave room for two vectors
    /// of B and one of A.
    const TILE_ROWS: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// `LANES` floats from memory.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// `LANES` floats to memory.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// `n < LANES` floats from memory, the other lanes 0.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::V;
    /// The first `n < LANES` floats to memory.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store_partial(self, p: *mut f32, v: Self::V, n: usize);
    /// `n <= LANES` floats from memory, the other lanes 0.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    unsafe fn load_up_to(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { if n == Self::LANES { self.load(p) } else { self.load_partial(p, n) } }
    }
    /// The first `n <= LANES` floats to memory.
    ///
    /// # Safety
    /// They are writable.
    #[inline(always)]
    unsafe fn store_up_to(self, p: *mut f32, v: Self::V, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { if n == Self::LANES { self.store(p, v) } else { self.store_partial(p, v, n) } }
    }
    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a b + c, rounded once where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller of `x` and `bound`, NaN where `x` is NaN.
    fn min(self, x: Self::V, bound: Self::V) -> Self::V;
    /// The larger of `x` and `bound`, NaN where `x` is NaN.
    fn max(self, x: Self::V, bound: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, x: Self::V) -> Self::V;
    /// 2^n for integral n in [-126, 127].
    fn exp2_int(self, n: Self::V) -> Self::V;
    /// x 2^n for integral n in [-252, 254], rounded down to subnormals and up to infinity.
    #[inline(always)]
    fn scale_exp2(self, x: Self::V, n: Self::V) -> Self::V {
        // Two factors, since one would leave the range.
        let half = self.round(self.mul(n, self.splat(0.5)));
        self.mul(self.mul(x, self.exp2_int(half)), self.exp2_int(self.sub(n, half)))
    }
    /// All lanes `x`.
    fn splat_u32(self, x: u32) -> Self::U;
    /// `LANES` integers from memory.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_u32(self, p: *const u32) -> Self::U;
    /// `LANES` integers to memory.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store_u32(self, p: *mut u32, v: Self::U);
    /// a + b modulo 2^32.
    fn add_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// a xor b, rotated left by `n` bits, 0 < n < 32.
    fn xor_rotate_u32(self, a: Self::U, b: Self::U, n: u32) -> Self::U;
    /// |x|.
    fn abs(self, x: Self::V) -> Self::V;
    /// `a` where x < 0, else `b`; either where x is NaN.
    fn select_negative(self, x: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// 1 / x for x in [1, 2], at most 1 ULP off; NaN for NaN.
    #[inline(always)]
    fn reciprocal(self, x: Self::V) -> Self::V {
        self.div(self.splat(1.0), x)
    }
}

/// Methods of a token, each an expression of intrinsics on registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! on_registers {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty: $expression:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $type),*) -> $result {
            // SAFETY: the token proves that the processor has the features, and no memory is touched.
            unsafe { $expression }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use on_registers;

/// Code that is written once over [`Simd`] and compiled for every instruction set.
pub(super) trait VectorCode {
    /// Runs it with the token's vectors; mark it `#[inline(always)]`.
    ///
    /// # Safety
    /// The code's own conditions.
    unsafe fn run<S: Simd>(self, s: S);
}

/// Runs `code` with `isa`'s vectors; the reference has none and gets the portable ones.
///
/// # Safety
/// The code's own conditions hold.
pub(super) unsafe fn dispatch<C: VectorCode>(isa: Isa, code: C) {
    // SAFETY of every arm: the code's conditions are the caller's promise.
    match isa {
        // SAFETY: as above.
        Isa::Reference | Isa::Portable => unsafe { code.run(Portable) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2(proof) => unsafe { avx2::run(proof, code) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512(proof) => unsafe { avx512::run(proof, code) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon(proof) => unsafe { code.run(neon::Neon::new(proof)) },
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        // SAFETY: as above.
        Isa::Simd128(proof) => unsafe { code.run(simd128::Simd128::new(proof)) },
        #[allow(unreachable_patterns)]
        _ => unreachable!("never detected on this processor"),
    }
}

/// Calls `f` compiled with `isa`'s features, for loops that the compiler vectorises by itself.
///
/// `f` is plain Rust, whose arithmetic is never reordered or fused: its results have the same bits on every
/// `isa`.
#[inline]
pub fn vectorised<R>(isa: Isa, f: impl FnOnce() -> R) -> R {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(proof) => avx2::call(proof, f),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(proof) => avx512::call(proof, f),
        _ => f(),
    }
}

/// `[f(0), f(1), ..]` of at least one element. `std::array::from_fn` calls a function for each, which is
/// inlined only where the crate is compiled with LTO.
#[inline(always)]
pub(super) fn array<T: Copy, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut all = [f(0); N];
    for i in 1..N {
        all[i] = f(i);
    }
    all
}

/// Calls `f` for every element of `y` and the one of `x` beside it, for loops inside [`vectorised`].
///
/// The standard library's `zip` calls functions there, which keep the loop from being vectorised unless the
/// crate is compiled with LTO.
#[inline(always)]
pub fn each_pair<Y, X>(y: &mut [Y], x: &[X], mut f: impl FnMut(&mut Y, &X)) {
    let len = y.len().min(x.len());
    let (y, x) = (&mut y[..len], &x[..len]);
    for i in 0..len {
        f(&mut y[i], &x[i]);
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
