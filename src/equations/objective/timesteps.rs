//! Timesteps drawn otherwise than in Algorithm 1.

use crate::equations::{Level, Schedule};
use crate::rng::{self, Stream};
use rand::Rng;

/// (O8) The level of sample `sample` of a batch of `batch`: the timesteps are cut into as many equal strata
/// as there are samples, and each sample's t is drawn from its own. Over samples in random order each t is as
/// likely as in Algorithm 1.
///
/// t = floor(T (sample + r) / batch) + 1 with r ~ Uniform\[0, 1), a function of (`seed`, `step`, `sample`)
/// and of the two sizes.
///
/// Source: Kingma et al. (2021), appendix (low-discrepancy sampler), with a draw of its own in each
/// stratum.
pub fn o08_stratified(seed: u64, step: u64, sample: u64, batch: u64, schedule: &Schedule) -> &Level {
    let levels = schedule.levels();
    // In whole numbers, so that no platform rounds it otherwise: r in units of 2^-32.
    let r = rng::rng(seed, Stream::Timestep, step, sample).next_u32();
    let place = (u128::from(sample) << 32) + u128::from(r);
    let index = place * levels.len() as u128 / (u128::from(batch.max(1)) << 32);
    &levels[(index as usize).min(levels.len() - 1)]
}
