//! What Algorithm 1 draws for the samples of a step, whatever computes the step.

use super::classes::told_class;
use crate::config::{Config, TimestepSampling, TrainConfig};
use crate::data::Dataset;
use crate::equations::algorithms::{alg1_noise, alg1_timestep};
use crate::equations::objective::o08_stratified;
use crate::equations::{Level, Schedule};
use crate::error::Result;
use crate::model::Condition;
use crate::real::Real;
use crate::rng::{Stream, rng};
use rand::Rng;
use rand::seq::SliceRandom;

/// The draws of one step. All are functions of (seed, step, sample): whoever asks for them, in whatever
/// order, gets the same.
#[derive(Debug)]
pub(super) struct Draws<'a> {
    config: &'a Config,
    schedule: &'a Schedule,
    data: &'a Dataset,
    order: &'a Order,
    flips: bool,
    step: u64,
    /// The step's first sample, counted from the run's first.
    first: u64,
}

impl<'a> Draws<'a> {
    /// The image of a sample of the batch, \[h, w, c\] in [-1, 1], mirrored or not.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a picture that can no longer be decoded.
    pub(super) fn image<T: Real>(&self, sample: usize, x0: &mut [T]) -> Result<()> {
        let of_sample = || rng(self.config.train.seed, Stream::Flip, self.step, sample as u64);
        let flip = self.flips && of_sample().next_u32() % 2 == 1;
        self.data.image_into(self.index(sample), flip, x0)
    }

    /// A sample's noise, its x_t by (3), and what the network is told of it.
    pub(super) fn noise<T: Real>(
        &self,
        sample: usize,
        x0: &[T],
        eps: &mut [T],
        x_t: &mut [T],
    ) -> (&'a Level, Condition) {
        let TrainConfig { seed, batch, timesteps, .. } = self.config.train;
        let (index, sample) = (self.index(sample), sample as u64);
        let level = match timesteps {
            TimestepSampling::Uniform => alg1_timestep(seed, self.step, sample, self.schedule),
            TimestepSampling::Stratified => {
                o08_stratified(seed, self.step, sample, batch as u64, self.schedule)
            }
        };
        alg1_noise(seed, self.step, sample, level, x0, eps, x_t);
        let label = self.data.labels().map(|labels| labels[index]);
        let class = told_class(self.config, label, self.step, sample);
        (level, Condition { index: level.t.index(), class })
    }

    /// The place of a sample's image in the data.
    fn index(&self, sample: usize) -> usize {
        self.order.image(self.first + sample as u64)
    }
}

/// The order in which images are seen: a fresh permutation for every pass over the data, a function of the
/// seed alone.
#[derive(Debug, Default)]
pub(super) struct Order {
    images: u64,
    epochs: Vec<(u64, Vec<u32>)>,
}

impl Order {
    /// The draws of a step, counted from 1.
    pub(super) fn draws<'a>(
        &'a mut self,
        config: &'a Config,
        schedule: &'a Schedule,
        data: &'a Dataset,
        step: u64,
    ) -> Draws<'a> {
        let TrainConfig { seed, batch, flip, .. } = config.train;
        let first = (step - 1) * batch as u64;
        self.prepare(seed, data.len(), first, batch);
        let flips = flip && data.flip_makes_sense();
        Draws { config, schedule, data, order: self, flips, step, first }
    }

    /// Makes the permutations that samples first .. first + batch need.
    fn prepare(&mut self, seed: u64, images: usize, first: u64, batch: usize) {
        if self.images != images as u64 {
            self.images = images as u64;
            self.epochs.clear();
        }
        let needed = first / self.images..=(first + batch as u64 - 1) / self.images;
        for epoch in needed.clone() {
            if self.epochs.iter().any(|(kept, _)| *kept == epoch) {
                continue;
            }
            let past = self.epochs.iter().position(|(kept, _)| !needed.contains(kept));
            let place = past.unwrap_or_else(|| {
                self.epochs.push(Default::default());
                self.epochs.len() - 1
            });
            let (kept, order) = &mut self.epochs[place];
            *kept = epoch;
            order.clear();
            order.extend(0..images as u32);
            order.shuffle(&mut rng(seed, Stream::Order, epoch, 0));
        }
    }

    fn image(&self, sample: u64) -> usize {
        let epoch = sample / self.images;
        let (_, order) = self.epochs.iter().find(|(e, _)| *e == epoch).expect("the epoch was prepared");
        order[(sample % self.images) as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_shows_every_image_once_in_its_own_order() {
        let mut order = Order::default();
        let mut seen: Vec<Vec<usize>> = vec![Vec::new(); 3];
        for first in (0..30).step_by(4) {
            order.prepare(7, 10, first, 4);
            for sample in first..(first + 4).min(30) {
                seen[(sample / 10) as usize].push(order.image(sample));
            }
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
        for mut pass in seen {
            pass.sort_unstable();
            assert_eq!(pass, (0..10).collect::<Vec<_>>());
        }
        let mut again = Order::default();
        again.prepare(7, 10, 8, 4);
        order.prepare(7, 10, 8, 4);
        assert_eq!(
            (8..12).map(|s| again.image(s)).collect::<Vec<_>>(),
            (8..12).map(|s| order.image(s)).collect::<Vec<_>>()
        );
    }
}
