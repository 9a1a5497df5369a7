//! Splitting one layer's work over threads when there are fewer samples than threads.

use rayon::prelude::*;

/// Who works on a layer: one thread, or all of the pool that the caller runs in.
///
/// The cut into chunks is the caller's and never depends on the number of threads, and every chunk's arithmetic is its
/// own, so the result has the same bits either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Team {
    /// The calling thread alone.
    Solo,
    /// Every thread of the current rayon pool.
    Pool,
}

impl Team {
    /// Calls `f(i, chunk i of a)` for every chunk of `chunk` elements (the last may be shorter).
    pub fn each<A: Send>(self, a: &mut [A], chunk: usize, f: impl Fn(usize, &mut [A]) + Sync + Send) {
        match self {
            Team::Solo => a.chunks_mut(chunk).enumerate().for_each(|(i, a)| f(i, a)),
            Team::Pool => a.par_chunks_mut(chunk).enumerate().for_each(|(i, a)| f(i, a)),
        }
    }

    /// [`Team::each`] over two slices cut side by side, each with its own chunk length; stops with the shorter.
    pub fn each2<A: Send, B: Send>(
        self,
        (a, chunk_a): (&mut [A], usize),
        (b, chunk_b): (&mut [B], usize),
        f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
    ) {
        match self {
            Team::Solo => {
                a.chunks_mut(chunk_a)
                    .zip(b.chunks_mut(chunk_b))
                    .enumerate()
                    .for_each(|(i, (a, b))| f(i, a, b));
            }
            Team::Pool => {
                a.par_chunks_mut(chunk_a)
                    .zip(b.par_chunks_mut(chunk_b))
                    .enumerate()
                    .for_each(|(i, (a, b))| f(i, a, b));
            }
        }
    }

    /// [`Team::each2`] over three slices.
    pub fn each3<A: Send, B: Send, C: Send>(
        self,
        (a, chunk_a): (&mut [A], usize),
        (b, chunk_b): (&mut [B], usize),
        (c, chunk_c): (&mut [C], usize),
        f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync + Send,
    ) {
        match self {
            Team::Solo => {
                a.chunks_mut(chunk_a)
                    .zip(b.chunks_mut(chunk_b))
                    .zip(c.chunks_mut(chunk_c))
                    .enumerate()
                    .for_each(|(i, ((a, b), c))| f(i, a, b, c));
            }
            Team::Pool => {
                a.par_chunks_mut(chunk_a)
                    .zip(b.par_chunks_mut(chunk_b))
                    .zip(c.par_chunks_mut(chunk_c))
                    .enumerate()
                    .for_each(|(i, ((a, b), c))| f(i, a, b, c));
            }
        }
    }
}
