//! Vectors for any processor.

use super::Simd;

/// Eight floats in an array, left to the compiler to vectorise.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// `[f(0), f(1), .. f(7)]`. Written out, since a kernel has hundreds of these: as loops they took half of the
/// crate's compilation.
#[inline(always)]
fn lanes<T>(f: impl Fn(usize) -> T) -> [T; 8] {
    [f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)]
}

impl Simd for Portable {
    type V = [f32; 8];
    type U = [u32; 8];
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 8] {
        // SAFETY: the caller gives eight readable floats.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller gives eight writable floats.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> [f32; 8] {
        let mut v = [0.0; 8];
        // SAFETY: the caller gives n < 8 readable floats.
        unsafe { p.copy_to_nonoverlapping(v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: [f32; 8], n: usize) {
        // SAFETY: the caller gives n < 8 writable floats.
        unsafe { p.copy_from_nonoverlapping(v.as_ptr(), n) }
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Two roundings: without the fused instruction `mul_add` is a slow call.
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn min(self, x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        lanes(|i| if bound[i] < x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    fn max(self, x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        lanes(|i| if bound[i] > x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    fn round(self, x: [f32; 8]) -> [f32; 8] {
        // Adding and taking away 1.5 * 2^23 leaves the integer nearest to |x| < 2^22.
        const MAGIC: f32 = 12_582_912.0;
        lanes(|i| (x[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn exp2_int(self, n: [f32; 8]) -> [f32; 8] {
        lanes(|i| f32::from_bits((((n[i] as i32) + 127) << 23) as u32))
    }
    #[inline(always)]
    fn splat_u32(self, x: u32) -> [u32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load_u32(self, p: *const u32) -> [u32; 8] {
        // SAFETY: the caller gives eight readable integers.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_u32(self, p: *mut u32, v: [u32; 8]) {
        // SAFETY: the caller gives eight writable integers.
        unsafe { p.cast::<[u32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add_u32(self, a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        lanes(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn xor_rotate_u32(self, a: [u32; 8], b: [u32; 8], n: u32) -> [u32; 8] {
        lanes(|i| (a[i] ^ b[i]).rotate_left(n))
    }
    #[inline(always)]
    fn abs(self, x: [f32; 8]) -> [f32; 8] {
        lanes(|i| x[i].abs())
    }
    #[inline(always)]
    fn select_negative(self, x: [f32; 8], a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| if x[i] < 0.0 { a[i] } else { b[i] })
    }
}
