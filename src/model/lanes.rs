//! Partial sums of a batch's gradient, so that neither their number nor their order depends on the threads.
//!
//! Shard s of a batch adds its gradient to the sum of lane s mod lanes, after shard s - lanes and before s +
//! lanes; any thread takes the next shard of any lane that no other works on. In the end the lanes are added
//! up in their order.

use crate::kernels::{Element, Isa};
use rayon::prelude::*;
use std::sync::{Mutex, RwLock};

/// Elements that the lanes' sums take together, unless [`FEWEST`] lanes take more.
const ELEMENTS: usize = 1 << 23;
/// Lanes that a network has however large it is.
const FEWEST: usize = 4;
/// Lanes that a network has however small it is.
const MOST: usize = 16;
/// Elements that one task adds up.
const CHUNK: usize = 1 << 14;

/// The number of lanes for a batch of so many shards of a network of so many parameters.
pub(super) fn lane_count(shards: usize, parameters: usize) -> usize {
    (ELEMENTS / parameters.max(1)).clamp(FEWEST, MOST).min(shards)
}

/// A partial sum, and what a shard needs beside its arena.
#[derive(Debug, Default)]
pub(super) struct Lane<T> {
    /// The gradient's partial sum.
    pub(super) sum: Vec<T>,
    /// The shard's noise.
    pub(super) eps: Vec<T>,
    /// The shard's timesteps, as indices.
    pub(super) indices: Vec<usize>,
}

/// Which shards are left, and the losses of those that are done.
#[derive(Debug, Default)]
struct Queue {
    next: Vec<usize>,
    busy: Vec<bool>,
    losses: Vec<f64>,
}

impl Queue {
    /// A lane that nobody works on, and its next shard: of the lanes that are furthest behind, the first.
    fn claim(&mut self) -> Option<(usize, usize)> {
        let idle = |lane: &usize| !self.busy[*lane] && self.next[*lane] < self.losses.len();
        let lane = (0..self.next.len()).filter(idle).min_by_key(|lane| self.next[*lane])?;
        let shard = self.next[lane];
        self.busy[lane] = true;
        self.next[lane] += self.next.len();
        Some((lane, shard))
    }
}

/// The lanes of a batch; their buffers stay from step to step.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: Vec<RwLock<Lane<T>>>,
    queue: Mutex<Queue>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Lanes { lanes: Vec::new(), queue: Mutex::default() }
    }
}

impl<T: Element> Lanes<T> {
    /// Makes ready for a batch of so many shards and for gradients of so many elements, the first lane's in
    /// `buffer`.
    pub(super) fn start(&mut self, shards: usize, parameters: usize, buffer: &mut Vec<T>) {
        let count = lane_count(shards, parameters);
        self.lanes.resize_with(count, Default::default);
        std::mem::swap(&mut self.lane(0).sum, buffer);
        for i in 0..count {
            self.lane(i).sum.resize(parameters, T::zero());
        }
        let queue = self.queue.get_mut().expect("no thread panicked");
        queue.next.clear();
        queue.next.extend(0..count);
        queue.busy.clear();
        queue.busy.resize(count, false);
        queue.losses.clear();
        queue.losses.resize(shards, 0.0);
    }

    /// The number of lanes.
    pub(super) fn count(&self) -> usize {
        self.lanes.len()
    }

    fn lane(&mut self, i: usize) -> &mut Lane<T> {
        self.lanes[i].get_mut().expect("no thread panicked")
    }

    /// Calls `f(shard, its lane, whether it is the lane's first)`, which gives the shard's loss, until no
    /// shard is left that no thread has begun; every thread of a pool may call this at once.
    pub(super) fn work(&self, f: impl Fn(usize, &mut Lane<T>, bool) -> f64) {
        let queue = || self.queue.lock().expect("no thread panicked");
        loop {
            let Some((lane, shard)) = queue().claim() else { return };
            let loss = {
                let mut lane = self.lanes[lane].write().expect("no thread panicked");
                f(shard, &mut lane, shard < self.lanes.len())
            };
            let mut queue = queue();
            queue.losses[shard] = loss;
            queue.busy[lane] = false;
        }
    }

    /// Adds the lanes up into `total`, by chunks over the pool that this runs in; gives the sum of the
    /// shards' losses.
    pub(super) fn finish(&mut self, isa: Isa, total: &mut Vec<T>) -> f64 {
        std::mem::swap(&mut self.lane(0).sum, total);
        let others = &self.lanes[1..];
        total.par_chunks_mut(CHUNK).enumerate().for_each(|(i, total)| {
            for lane in others {
                let lane = lane.read().expect("no thread panicked");
                crate::nn::add_to(isa, &lane.sum[i * CHUNK..][..total.len()], 1.0, total);
            }
        });
        self.queue.get_mut().expect("no thread panicked").losses.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_worked_on_once_in_its_lane_s_order() {
        let mut lanes: Lanes<f64> = Lanes::default();
        let mut total = Vec::new();
        for (shards, parameters) in [(1, 10), (7, 40_000), (16, 3_000_000), (5, 7)] {
            lanes.start(shards, parameters, &mut total);
            assert_eq!(lanes.count(), lane_count(shards, parameters));
            let order = Mutex::new(Vec::new());
            let ran = |shard: usize, lane: &mut Lane<f64>, first: bool| {
                if first {
                    lane.sum.fill(0.0);
                }
                lane.sum[0] = 10.0 * lane.sum[0] + shard as f64;
                lane.sum[parameters - 1] += 1.0;
                order.lock().expect("an order").push(shard);
                1.0
            };
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| lanes.work(ran));
                }
            });
            let loss = lanes.finish(Isa::Reference, &mut total);
            assert_eq!((loss, total.len()), (shards as f64, parameters));
            assert_eq!(total[parameters - 1], shards as f64);
            let lanes = lane_count(shards, parameters);
            let in_order =
                |lane: usize| (lane..shards).step_by(lanes).fold(0.0, |sum, s| 10.0 * sum + s as f64);
            assert_eq!(total[0], (0..lanes).map(in_order).sum::<f64>());
            let mut order = order.into_inner().expect("an order");
            order.sort_unstable();
            assert_eq!(order, (0..shards).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_networks_have_few_lanes_and_small_ones_many() {
        assert_eq!(lane_count(16, 35_746_307), FEWEST);
        assert_eq!(lane_count(16, 1_130_000), 7);
        assert_eq!(lane_count(32, 1000), MOST);
        assert_eq!(lane_count(3, 1000), 3);
    }
}
