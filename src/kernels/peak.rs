//! A loop of nothing but multiply-adds. Its speed is the processor's peak, to which `bench` compares the
//! speed of a network.

use super::Isa;
use super::simd::{Simd, VectorCode, dispatch};
use super::team::{cannot_start, check_threads};
use crate::error::Result;
use std::hint::black_box;
use std::io;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Independent sums. A multiply-add takes four cycles and two units start one every cycle, so that at least
/// eight have to be under way.
const CHAINS: usize = 12;

struct Chains<'a> {
    rounds: usize,
    multiply_adds: &'a mut usize,
    sum: &'a mut f32,
}

impl VectorCode for Chains<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let mut sums = [0.0f32; 64];
        const { assert!(S::LANES <= 64) };
        let (factor, term) = (s.splat(0.999), s.splat(1e-3));
        let mut chains = [factor; CHAINS];
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = s.splat(1.0 + 1e-3 * i as f32);
        }
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = s.fma(*chain, factor, term);
            }
        }
        let mut total = s.splat(0.0);
        for chain in chains {
            total = s.add(total, chain);
        }
        // SAFETY: the array holds LANES floats.
        unsafe { s.store(sums.as_mut_ptr(), total) };
        *self.multiply_adds = self.rounds * CHAINS * S::LANES;
        *self.sum = sums[..S::LANES].iter().sum();
    }
}

/// How long the loop is tried.
const SEARCH: Duration = Duration::from_millis(500);

/// Rounds of a try: some milliseconds, beside which the start of the threads does not count.
const ROUNDS: usize = 4_000_000;

/// The peak speed of `isa`'s multiply-adds on `threads` threads at a time, in GFLOP/s. The loop is tried for
/// half a second and the best try counts, since other programs slow most of them.
///
/// # Errors
/// [`Error`](crate::Error) unless there are from 1 to [`MAX_THREADS`](super::MAX_THREADS) threads and this
/// system can start them.
pub fn peak_gflops(isa: Isa, threads: usize) -> Result<f64> {
    check_threads(threads)?;
    let alone = || black_box(multiply_adds(isa, black_box(ROUNDS))).0;
    let rate = || -> Result<f64> {
        let start = Instant::now();
        let count = std::thread::scope(|scope| -> Result<usize> {
            let workers = (0..threads).map(|_| Builder::new().spawn_scoped(scope, alone));
            let workers = workers.collect::<io::Result<Vec<_>>>().map_err(|e| cannot_start(threads, &e))?;
            let counts = workers.into_iter().map(|worker| worker.join().expect("a loop of multiply-adds"));
            Ok(counts.sum())
        })?;
        Ok(2.0 * count as f64 / start.elapsed().as_secs_f64() * 1e-9)
    };
    let start = Instant::now();
    let mut best: f64 = 0.0;
    while start.elapsed() < SEARCH {
        best = best.max(rate()?);
    }
    Ok(best)
}

/// Does `rounds` rounds of multiply-adds in registers. Returns the number of multiply-adds, and a sum that
/// depends on each of them.
fn multiply_adds(isa: Isa, rounds: usize) -> (usize, f32) {
    let (mut multiply_adds, mut sum) = (0, 0.0);
    // SAFETY: the kernel touches no memory but its own.
    unsafe { dispatch(isa, Chains { rounds, multiply_adds: &mut multiply_adds, sum: &mut sum }) };
    (multiply_adds, sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 is the fixed point of x -> 0.999 x + 0.001, and the chains begin within 0.011 of it; ten thousand
    /// rounds leave 0.999^10000 = 5e-5 of that. Tolerance 1e-4: roundings of 6e-8 that add up to 1 / (1 -
    /// 0.999) times as much.
    #[test]
    fn every_round_is_counted_and_done() {
        for isa in Isa::available() {
            let (count, sum) = multiply_adds(isa, 10_000);
            assert!([4, 8, 16].map(|lanes| 10_000 * CHAINS * lanes).contains(&count), "{isa}: {count}");
            let want = count as f32 / 10_000.0;
            assert!((sum - want).abs() <= 1e-4 * want, "{isa}: {sum} for {want}");
        }
    }
}
