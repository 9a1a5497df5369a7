//! Which noise levels a multistep solver visits.

use super::Multistep;
use crate::equations::{Level, Schedule, Spacing, Timestep};
use crate::error::{Error, Result};

/// The steps' timesteps and noise levels from the noisiest down, and the level that the last one leads to.
///
/// A level is s = sqrt(1 - abar) / sqrt(abar), "sigma" in Karras et al. (2022); alpha = 1/sqrt(1 + s^2) and
/// the noise's share is s alpha, so that lambda = ln(alpha / (s alpha)) = -ln s.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ladder {
    /// The index that the network is told at each step.
    pub indices: Vec<usize>,
    /// One more than the steps.
    levels: Vec<f64>,
}

impl Ladder {
    pub(super) fn new(multistep: &Multistep, schedule: &Schedule, steps: usize) -> Result<Ladder> {
        let table: Vec<f64> = schedule.levels().iter().map(level_of).collect();
        let indices = indices(multistep, &table, steps)?;
        let lowest = table[0];
        let (indices, mut levels, end) = if multistep.karras {
            let levels = s12_karras(multistep.sigma_range(&table), steps);
            let time = |level: &f64| index_of(&table, *level).round_ties_even() as usize;
            let end = if multistep.ends_at_own_lowest { levels[steps - 1] } else { lowest };
            (levels.iter().map(time).collect(), levels, end)
        } else {
            let levels = indices.iter().map(|index| table[*index]).collect();
            (indices, levels, lowest)
        };
        levels.push(if multistep.final_sigma_zero { 0.0 } else { end });
        Ok(Ladder { indices, levels })
    }

    /// The ladder from timestep `from` on, with the number of its steps that are passed over: the levels
    /// below that of t, and t's own before them where it is not among them.
    pub(super) fn begun_at(self, schedule: &Schedule, from: Option<Timestep>) -> Result<(Ladder, usize)> {
        let Some(from) = from else { return Ok((self, 0)) };
        let level = level_of(schedule.at(from)?);
        let steps = self.indices.len();
        // Karras' levels are off by roundings; two levels of a schedule differ by much more.
        const SAME: f64 = 1.0 + 1e-9;
        let first = self.levels[..steps].partition_point(|s| *s > level * SAME);
        let (mut indices, mut levels) = (self.indices[first..].to_vec(), self.levels[first..].to_vec());
        if indices.is_empty() || levels[0] * SAME < level {
            indices.insert(0, from.index());
            levels.insert(0, level);
        }
        let passed = steps.saturating_sub(indices.len());
        Ok((Ladder { indices, levels }, passed))
    }

    /// abar at each level.
    pub(super) fn alpha_bars(&self) -> Vec<f64> {
        (0..self.levels.len()).map(|i| self.alpha(i).powi(2)).collect()
    }

    /// s before step `i`, from 0; of the number of steps: where the last one leads.
    pub(super) fn level(&self, i: usize) -> f64 {
        self.levels[i]
    }

    /// alpha at that level.
    pub(super) fn alpha(&self, i: usize) -> f64 {
        1.0 / (1.0 + self.levels[i] * self.levels[i]).sqrt()
    }

    /// The noise's share at that level.
    pub(super) fn sigma(&self, i: usize) -> f64 {
        self.levels[i] * self.alpha(i)
    }

    /// lambda there less lambda at `from`.
    pub(super) fn h(&self, from: usize, to: usize) -> f64 {
        self.levels[from].ln() - self.levels[to].ln()
    }
}

/// s of a timestep.
fn level_of(level: &Level) -> f64 {
    // Zero terminal SNR would be an infinite level; diffusers' stand-in for it.
    let alpha_bar = if level.alpha_bar == 0.0 { (-24f64).exp2() } else { level.alpha_bar };
    ((1.0 - alpha_bar) / alpha_bar).sqrt()
}

/// (S12) The levels of Karras et al.: evenly spaced in s^(1/7) from the highest to the lowest.
///
/// Source: Karras et al. (2022), equation 5, with their rho = 7.
pub(super) fn s12_karras([low, high]: [f64; 2], steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (low.powf(1.0 / RHO), high.powf(1.0 / RHO));
    let last = steps.saturating_sub(1).max(1) as f64;
    (0..steps).map(|i| (high + i as f64 / last * (low - high)).powf(RHO)).collect()
}

/// The place of a level in the ascending table, linear in its logarithm between two of them.
fn index_of(table: &[f64], level: f64) -> f64 {
    let low = table.partition_point(|s| s.ln() <= level.ln()).saturating_sub(1).min(table.len() - 2);
    let (below, above) = (table[low].ln(), table[low + 1].ln());
    low as f64 + ((level.ln() - below) / (above - below)).clamp(0.0, 1.0)
}

/// The evenly spaced indices from the noisiest down: as for the samplers of one step, but where they are not
/// trailing for one more, the lowest, which is where the last step leads and not visited.
fn indices(multistep: &Multistep, table: &[f64], steps: usize) -> Result<Vec<usize>> {
    let total = table.len();
    // Levels whose lambda is below the bound are left out.
    let kept = table.partition_point(|s| -s.ln() >= multistep.lambda_min);
    let refuse =
        |expected: String, got: usize| Err(Error::invalid("sampling steps", expected, got.to_string(), ""));
    // The other spacings have one more index than steps, and Karras' levels lie between two.
    let is_trailing = multistep.spacing == Spacing::Trailing;
    let fewest = if is_trailing && !multistep.karras { 1 } else { 2 };
    if kept < fewest {
        return refuse(format!("a smallest lambda that leaves {fewest} timesteps"), kept);
    }
    let most = if is_trailing { total } else { total - 1 };
    if !(1..=most).contains(&steps) {
        return refuse(format!("1 to {most}"), steps);
    }
    let mut indices: Vec<usize> = match multistep.spacing {
        Spacing::Linspace => {
            let stride = (kept - 1) as f64 / steps as f64;
            (1..=steps).map(|k| (k as f64 * stride).round_ties_even() as usize).collect()
        }
        Spacing::Leading => {
            let stride = kept / (steps + 1);
            (1..=steps).map(|k| k * stride + multistep.steps_offset).collect()
        }
        Spacing::Trailing => {
            let (end, stride) = (kept as f64, total as f64 / steps as f64);
            let down = (end - stride) - end;
            let places = (0..steps).map(|i| (end + i as f64 * down).round_ties_even());
            let mut indices: Vec<_> = places.filter(|p| *p >= 1.0).map(|p| p as usize - 1).collect();
            indices.reverse();
            indices
        }
    };
    indices.reverse();
    match indices.first() {
        Some(&first) if first >= total => {
            refuse(format!("indices below {total}, with steps_offset {}", multistep.steps_offset), first)
        }
        _ => Ok(indices),
    }
}
