//! Dropout's masks: sixteen blocks of ChaCha8 (Bernstein 2008) at a time, side by side in vectors.
//!
//! The numbers are those of `chacha20::ChaCha8Rng` with the same key. They are used in another order, in
//! which no word has to move to another place in its vector. An element takes 16 random bits. Of the 256
//! words of blocks 16 r .. 16 r + 15, the lower half of word w of block b decides over element 512 r + 32 w +
//! b, and its upper half over element 512 r + 32 w + 16 + b. The arithmetic is on integers, so every
//! instruction set makes the same mask.

use super::kernel::{Checked, Context, Kernel, ensure};
use super::simd::{Simd, VectorCode, dispatch};
use super::{Isa, vectorised};
use crate::error::Result;
use crate::real::Real;

/// Blocks made side by side.
const BLOCKS: usize = 16;

/// Words w of blocks b as \[w\]\[b\].
type Words = [[u32; BLOCKS]; 16];

/// The words that each quarter round mixes: four columns, then four diagonals.
const QUARTERS: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

/// Elements that one set of blocks decides over.
const ELEMENTS: usize = 2 * 16 * BLOCKS;

/// Replaces the initial states of sixteen blocks, `words` \[w\]\[b\], by the blocks' words.
struct Blocks<'a> {
    words: &'a mut Words,
}

impl VectorCode for Blocks<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        for b in (0..BLOCKS).step_by(S::LANES) {
            let mut v = [s.splat_u32(0); 16];
            for (v, row) in v.iter_mut().zip(&*self.words) {
                // SAFETY: a row has BLOCKS integers, which LANES divides; so below.
                *v = unsafe { s.load_u32(row.as_ptr().add(b)) };
            }
            for _ in 0..4 {
                for [a, b, c, d] in QUARTERS {
                    for (to, with, mixed, bits) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]
                    {
                        v[to] = s.add_u32(v[to], v[with]);
                        v[mixed] = s.xor_rotate_u32(v[mixed], v[to], bits);
                    }
                }
            }
            for (v, row) in v.into_iter().zip(&mut *self.words) {
                // SAFETY: as above.
                unsafe {
                    let start = s.load_u32(row.as_ptr().add(b));
                    s.store_u32(row.as_mut_ptr().add(b), s.add_u32(v, start));
                }
            }
        }
    }
}

/// The words of blocks `first` .. `first` + 15.
fn blocks(isa: Isa, key: &[u8; 32], first: u64) -> Words {
    let mut words: Words = [[0; BLOCKS]; 16];
    for (word, constant) in words.iter_mut().zip([0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]) {
        *word = [constant; BLOCKS];
    }
    for (word, bytes) in words[4..12].iter_mut().zip(key.as_chunks::<4>().0) {
        *word = [u32::from_le_bytes(*bytes); BLOCKS];
    }
    for b in 0..BLOCKS {
        let counter = first + b as u64;
        words[12][b] = counter as u32;
        words[13][b] = (counter >> 32) as u32;
    }
    // SAFETY: the code touches no memory but the words.
    unsafe { dispatch(isa, Blocks { words: &mut words }) };
    words
}

/// x scaled, or 0 where the random bits say to drop it.
#[inline(always)]
fn keep<T: Real>(bits: u32, threshold: u32, scale: T, x: &mut T) {
    *x = if bits >= threshold { *x * scale } else { T::zero() };
}

/// The operands of [`DropOut`].
#[derive(Debug)]
pub struct Dropped<'a, T> {
    /// The mask is a function of the key alone.
    pub key: &'a [u8; 32],
    /// The probability of dropping an element, in [0, 1).
    pub p: f64,
    /// The elements.
    pub x: &'a mut [T],
}

/// Drops each element with probability q and divides the others by 1 - q, where q is p rounded to a multiple
/// of 2^-16: the expectation is kept exactly.
#[derive(Debug)]
pub struct DropOut;

impl Kernel for DropOut {
    type Operands<'a, T: Real> = Dropped<'a, T>;

    fn check<T: Real>(Dropped { p, .. }: &Dropped<T>) -> Result<()> {
        let fits = (0.0..1.0).contains(p);
        ensure(fits, "a dropout's probability", || "a number in [0, 1)".to_owned(), || p.to_string())
    }

    fn reference<T: Real>(Checked(Dropped { key, p, x }): Checked<Self, T>) {
        drop_out(Isa::Reference, key, p, x);
    }

    fn fast(context: Context, Checked(Dropped { key, p, x }): Checked<Self, f32>) {
        drop_out(context.isa, key, p, x);
    }
}

/// 65536 q for a probability p, at most 65535.
fn threshold(p: f64) -> u32 {
    (p * 65536.0).round().min(65535.0) as u32
}

/// What [`DropOut`] multiplies the elements by that it does not drop: 1 / (1 - q).
pub fn dropped_scale(p: f64) -> f64 {
    65536.0 / (65536.0 - f64::from(threshold(p)))
}

fn drop_out<T: Real>(isa: Isa, key: &[u8; 32], p: f64, x: &mut [T]) {
    let (threshold, scale) = (threshold(p), T::of(dropped_scale(p)));
    for (r, x) in x.chunks_mut(ELEMENTS).enumerate() {
        let words = blocks(isa, key, (r * BLOCKS) as u64);
        vectorised(
            isa,
            #[inline(always)]
            || {
                if let Ok(x) = <&mut [T; ELEMENTS]>::try_from(&mut *x) {
                    for (words, x) in words.iter().zip(x.as_chunks_mut::<{ 2 * BLOCKS }>().0) {
                        for b in 0..BLOCKS {
                            keep(words[b] & 0xffff, threshold, scale, &mut x[b]);
                            keep(words[b] >> 16, threshold, scale, &mut x[BLOCKS + b]);
                        }
                    }
                } else {
                    for (i, x) in x.iter_mut().enumerate() {
                        let word = words[i / (2 * BLOCKS)][i % BLOCKS];
                        let bits = if (i / BLOCKS).is_multiple_of(2) { word & 0xffff } else { word >> 16 };
                        keep(bits, threshold, scale, x);
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Run;
    use chacha20::ChaCha8Rng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn the_words_are_chacha8_s() {
        let key: [u8; 32] = std::array::from_fn(|i| (7 * i + 3) as u8);
        for isa in Isa::available() {
            let mut rng = ChaCha8Rng::from_seed(key);
            for first in [0, 16] {
                let words = blocks(isa, &key, first);
                for b in 0..BLOCKS {
                    for w in 0..16 {
                        assert_eq!(words[w][b], rng.next_u32(), "{isa} block {}, word {w}", first + b as u64);
                    }
                }
            }
            let beyond = blocks(isa, &key, (1 << 32) - 8);
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_word_pos(16 << 32);
            assert_eq!(beyond[0][8], rng.next_u32(), "{isa}");
        }
    }

    #[test]
    fn every_isa_makes_the_mask_that_the_words_say() {
        let key: [u8; 32] = std::array::from_fn(|i| (5 * i + 1) as u8);
        let mut rng = ChaCha8Rng::from_seed(key);
        let stream: Vec<u32> = (0..768).map(|_| rng.next_u32()).collect();
        let p = 0.3;
        for n in [1, 15, 16, 33, 511, 512, 513, 1300] {
            for isa in Isa::available() {
                let mut x = vec![1f32; n];
                x[n / 2] = f32::NAN;
                DropOut::run(isa, Dropped { key: &key, p, x: &mut x });
                for (i, x) in x.iter().enumerate() {
                    let (r, w, b) = (i / 512, i % 512 / 32, i % 16);
                    let word = stream[(r * 16 + b) * 16 + w];
                    let bits = if i % 32 < 16 { word & 0xffff } else { word >> 16 };
                    let kept = if i == n / 2 { f32::NAN } else { (1.0 / 0.7) as f32 };
                    if bits < 19661 {
                        assert_eq!(*x, 0.0, "{isa} {n} {i}");
                    } else {
                        // 19661 / 65536 for 0.3: 7e-6 of 1 / 0.7.
                        assert!((x - kept).abs() < 2e-5 || kept.is_nan() && x.is_nan(), "{isa} {n} {i}: {x}");
                    }
                }
            }
        }
    }

    /// The share kept is within five standard errors sqrt(p (1 - p) / n) of 1 - p; probabilities of 0 and
    /// nearly 1 work.
    #[test]
    fn the_share_kept_is_one_minus_p() {
        let n = 100_000;
        for p in [0.0, 0.1, 0.5, 0.999_99] {
            let mut x = vec![1f64; n];
            DropOut::run(Isa::detect(), Dropped { key: &[9; 32], p, x: &mut x });
            let kept = x.iter().filter(|x| **x != 0.0).count() as f64 / n as f64;
            assert!(
                (kept - (1.0 - p)).abs() <= 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-5,
                "{p}: {kept}"
            );
            assert!(x.iter().all(|x| x.is_finite()));
        }
    }
}
