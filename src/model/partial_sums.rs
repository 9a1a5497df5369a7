//! The partial sums of a batch's gradient. Neither their number nor the order of any addition depends on the
//! threads.
//!
//! With p partial sums, shard s of a batch adds its gradient to sum s mod p, after shard s - p and before
//! shard s + p. A thread that is free takes the next shard of any sum that no other thread works on. In the
//! end the partial sums are added up in their order.

use crate::kernels::{Element, Isa};
use crate::nn::Update;
use rayon::prelude::*;
use std::sync::{Mutex, RwLock};

/// Elements that the sums take together, unless [`FEWEST`] sums take more.
const ELEMENTS: usize = 1 << 23;
/// The number of sums of the largest networks.
const FEWEST: usize = 4;
/// The number of sums of the smallest networks.
const MOST: usize = 16;
/// Elements that one task adds up.
const CHUNK: usize = 1 << 14;

/// The number of partial sums for a batch of so many shards of a network of so many parameters.
pub(super) fn sum_count(shards: usize, parameters: usize) -> usize {
    (ELEMENTS / parameters.max(1)).clamp(FEWEST, MOST).min(shards)
}

/// A partial sum, with the memory that a shard needs beside its arena.
#[derive(Debug, Default)]
pub(super) struct PartialSum<T> {
    /// The sum of gradients.
    pub(super) sum: Vec<T>,
    /// What the shard's losses need to know beside the network's output.
    pub(super) notes: Vec<T>,
    /// The samples' timesteps' indices.
    pub(super) indices: Vec<usize>,
}

/// Which shards are left, and the losses of those that are done.
#[derive(Debug, Default)]
struct Queue {
    /// For each sum, its next shard.
    next: Vec<usize>,
    /// For each sum, whether a thread works on it.
    busy: Vec<bool>,
    losses: Vec<f64>,
}

impl Queue {
    /// A sum that no thread works on, and its next shard. Of the sums that are furthest behind, it is the
    /// first.
    fn claim(&mut self) -> Option<(usize, usize)> {
        let idle = |i: &usize| !self.busy[*i] && self.next[*i] < self.losses.len();
        let i = (0..self.next.len()).filter(idle).min_by_key(|i| self.next[*i])?;
        let shard = self.next[i];
        self.busy[i] = true;
        self.next[i] += self.next.len();
        Some((i, shard))
    }
}

/// The partial sums of a batch; their memory stays from step to step.
#[derive(Debug)]
pub(super) struct PartialSums<T> {
    sums: Vec<RwLock<PartialSum<T>>>,
    queue: Mutex<Queue>,
}

impl<T> Default for PartialSums<T> {
    fn default() -> Self {
        PartialSums { sums: Vec::new(), queue: Mutex::default() }
    }
}

impl<T: Element> PartialSums<T> {
    /// Prepares for a batch of so many shards and for gradients of so many elements. `buffer` becomes the
    /// memory of the first sum, until [`PartialSums::finish`] gives it back.
    pub(super) fn start(&mut self, shards: usize, parameters: usize, buffer: &mut Vec<T>) {
        let count = sum_count(shards, parameters);
        self.sums.resize_with(count, Default::default);
        std::mem::swap(&mut self.sum(0).sum, buffer);
        for i in 0..count {
            self.sum(i).sum.resize(parameters, T::zero());
        }
        let queue = self.queue.get_mut().expect("no thread panicked");
        queue.next.clear();
        queue.next.extend(0..count);
        queue.busy.clear();
        queue.busy.resize(count, false);
        queue.losses.clear();
        queue.losses.resize(shards, 0.0);
    }

    /// The number of partial sums.
    pub(super) fn count(&self) -> usize {
        self.sums.len()
    }

    fn sum(&mut self, i: usize) -> &mut PartialSum<T> {
        self.sums[i].get_mut().expect("no thread panicked")
    }

    /// Calls `f(shard, its sum, how it changes the sum)`, which returns the shard's loss, until every shard
    /// was begun by some thread. The first shard of a sum sets it. All threads of a pool may call this at
    /// once.
    pub(super) fn work(&self, f: impl Fn(usize, &mut PartialSum<T>, Update) -> f64) {
        let queue = || self.queue.lock().expect("no thread panicked");
        loop {
            let Some((i, shard)) = queue().claim() else { return };
            let update = if shard < self.sums.len() { Update::Set } else { Update::Add };
            let loss = f(shard, &mut self.sums[i].write().expect("no thread panicked"), update);
            let mut queue = queue();
            queue.losses[shard] = loss;
            queue.busy[i] = false;
        }
    }

    /// Adds the partial sums up into `total`, in chunks over the thread pool that this runs in. Returns the
    /// sum of the shards' losses.
    pub(super) fn finish(&mut self, isa: Isa, total: &mut Vec<T>) -> f64 {
        std::mem::swap(&mut self.sum(0).sum, total);
        let others = &self.sums[1..];
        total.par_chunks_mut(CHUNK).enumerate().for_each(|(i, total)| {
            for other in others {
                let other = other.read().expect("no thread panicked");
                crate::nn::add_to(isa, &other.sum[i * CHUNK..][..total.len()], 1.0, total);
            }
        });
        self.queue.get_mut().expect("no thread panicked").losses.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_worked_on_once_in_the_order_of_its_sum() {
        let mut sums: PartialSums<f64> = PartialSums::default();
        let mut total = Vec::new();
        for (shards, parameters) in [(1, 10), (7, 40_000), (16, 3_000_000), (5, 7)] {
            sums.start(shards, parameters, &mut total);
            let count = sum_count(shards, parameters);
            assert_eq!(sums.count(), count);
            let order = Mutex::new(Vec::new());
            let ran = |shard: usize, part: &mut PartialSum<f64>, update: Update| {
                if update == Update::Set {
                    part.sum.fill(0.0);
                }
                part.sum[0] = 10.0 * part.sum[0] + shard as f64;
                part.sum[parameters - 1] += 1.0;
                order.lock().expect("an order").push(shard);
                1.0
            };
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| sums.work(ran));
                }
            });
            let loss = sums.finish(Isa::Reference, &mut total);
            assert_eq!((loss, total.len()), (shards as f64, parameters));
            assert_eq!(total[parameters - 1], shards as f64);
            let in_order =
                |first: usize| (first..shards).step_by(count).fold(0.0, |sum, s| 10.0 * sum + s as f64);
            assert_eq!(total[0], (0..count).map(in_order).sum::<f64>());
            let mut order = order.into_inner().expect("an order");
            order.sort_unstable();
            assert_eq!(order, (0..shards).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_networks_have_few_partial_sums_and_small_ones_many() {
        assert_eq!(sum_count(16, 35_746_307), FEWEST);
        assert_eq!(sum_count(16, 1_130_000), 7);
        assert_eq!(sum_count(32, 1000), MOST);
        assert_eq!(sum_count(3, 1000), 3);
    }
}
