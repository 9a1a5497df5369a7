//! The noise schedule: beta_t and what follows from it, in `f64`.

use super::{Level, Timestep, forward, posterior};
use crate::config::{BetaSchedule, DiffusionConfig};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How K of T timesteps are chosen for sampling in fewer steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Indices 0, s, 2 s, .. with s = floor(T / K): always holds t = 1, seldom t = T (DDIM's code; diffusers'
    /// default).
    Leading,
    /// Indices T - 1, T - 1 - T/K, .. rounded half to even: always holds t = T (Lin et al. 2024, section
    /// 3.3).
    Trailing,
    /// Indices evenly spaced from 0 to T - 1, both kept, rounded half to even (Nichol & Dhariwal 2021,
    /// section 4).
    Linspace,
}

impl Spacing {
    /// The K = `steps` kept timesteps of 1..=`total`, ascending.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 1 <= steps <= total.
    pub fn timesteps(self, total: usize, steps: usize) -> Result<Vec<Timestep>> {
        if steps == 0 || steps > total {
            return Err(Error::invalid("sampling steps", format!("1 to {total}"), steps.to_string(), ""));
        }
        let index = |k: usize| match self {
            Spacing::Leading => k * (total / steps),
            // In the order in which NumPy's arange rounds, so that halves fall as they do in diffusers.
            Spacing::Trailing => {
                let (end, stride) = (total as f64, total as f64 / steps as f64);
                let down = (end - stride) - end;
                (end + (steps - 1 - k) as f64 * down).round_ties_even() as usize - 1
            }
            Spacing::Linspace if steps == 1 => 0,
            Spacing::Linspace => {
                (k as f64 * ((total - 1) as f64 / (steps - 1) as f64)).round_ties_even() as usize
            }
        };
        Ok((0..steps).map(|k| Timestep::from_index(index(k))).collect())
    }
}

/// A forward process: one [`Level`] per step, ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    levels: Vec<Level>,
}

impl Schedule {
    /// The schedule that a configuration describes.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the configuration is out of range.
    pub fn from_config(config: &DiffusionConfig) -> Result<Self> {
        config.validate()?;
        let total = config.timesteps;
        let even =
            |start: f64, end: f64| move |i: usize| start + (end - start) * i as f64 / (total - 1) as f64;
        let betas: Vec<f64> = match &config.schedule {
            BetaSchedule::Linear { start, end } => (0..total).map(even(*start, *end)).collect(),
            BetaSchedule::ScaledLinear { start, end } => {
                (0..total).map(even(start.sqrt(), end.sqrt())).map(|root| root * root).collect()
            }
            BetaSchedule::Sigmoid { start, end } => {
                let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
                (0..total).map(even(-6.0, 6.0)).map(|u| start + (end - start) * sigmoid(u)).collect()
            }
            BetaSchedule::Trained { betas } => betas.clone(),
            BetaSchedule::Cosine => (1..=total)
                .map(|t| {
                    let now = squared_cosine(t as f64 / total as f64);
                    let before = squared_cosine((t - 1) as f64 / total as f64);
                    (1.0 - now / before).min(0.999)
                })
                .collect(),
        };
        let schedule = Self::from_betas(&betas)?;
        if config.zero_terminal_snr { schedule.with_zero_terminal_snr() } else { Ok(schedule) }
    }

    /// Zero terminal SNR: sqrt(abar_t) moved and scaled so that sqrt(abar_1) stays and sqrt(abar_T) = 0.
    ///
    /// Source: Lin et al. (2024), Algorithm 1.
    fn with_zero_terminal_snr(&self) -> Result<Self> {
        let [first, last] = [&self.levels[0], self.last()].map(|level| level.alpha_bar.sqrt());
        let moved = |level: &Level| {
            let root = (level.alpha_bar.sqrt() - last) * (first / (first - last));
            root * root
        };
        Self::from_alpha_bars(&self.levels.iter().map(moved).collect::<Vec<_>>())
    }

    /// The schedule with abar_1 .. abar_T = `alpha_bars`, the last of which may be 0 (zero terminal SNR).
    ///
    /// # Errors
    /// [`Error::Invalid`] unless they fall from below 1 and stay above 0 before the last.
    pub fn from_alpha_bars(alpha_bars: &[f64]) -> Result<Self> {
        let steps = alpha_bars.iter().enumerate().scan(1.0, |before, (index, alpha_bar)| {
            let alpha = alpha_bar / std::mem::replace(before, *alpha_bar);
            Some((Timestep::from_index(index), 1.0 - alpha, alpha, *alpha_bar))
        });
        Self::build(steps, true)
    }

    /// The schedule with beta_1 .. beta_T = `betas`, for instance read from a file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `betas` is empty, a beta is not strictly between 0 and 1, or abar_T underflows.
    pub fn from_betas(betas: &[f64]) -> Result<Self> {
        let alpha_bars = forward::eq03_alpha_bars(betas);
        Self::build(
            betas.iter().zip(alpha_bars).enumerate().map(|(index, (&beta, alpha_bar))| {
                (Timestep::from_index(index), beta, 1.0 - beta, alpha_bar)
            }),
            false,
        )
    }

    /// The process that visits only the `kept` timesteps of this one: abar keeps its values there and the
    /// betas are recomputed from it, beta = 1 - abar_t / abar_s with s the kept timestep before t (Nichol &
    /// Dhariwal 2021, section 4). Each level keeps the timestep that the network was trained with.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `kept` is empty, not strictly ascending, or names a timestep that is not here.
    pub fn respaced(&self, kept: &[Timestep]) -> Result<Self> {
        if !kept.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid("kept timesteps", "strictly ascending", format!("{kept:?}"), ""));
        }
        let mut before = 1.0;
        let mut steps = Vec::with_capacity(kept.len());
        for &t in kept {
            let alpha_bar = self.at(t)?.alpha_bar;
            // Not 1 - beta: over many timesteps alpha is small, and its digits would be lost.
            let alpha = alpha_bar / before;
            steps.push((t, 1.0 - alpha, alpha, alpha_bar));
            before = alpha_bar;
        }
        Self::build(steps, true)
    }

    /// All T steps, or `steps` evenly spaced ones by [`Schedule::respaced`]; T of T are this schedule itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 1 <= steps <= T.
    pub fn strided(&self, steps: Option<usize>, spacing: Spacing) -> Result<Self> {
        match steps {
            Some(steps) if steps != self.steps() => self.respaced(&spacing.timesteps(self.steps(), steps)?),
            _ => Ok(self.clone()),
        }
    }

    /// As [`Schedule::strided`], but each step leads down by floor(T/K) timesteps, or to x_0, whichever the
    /// next one is that is visited: the steps of diffusers' DDIM. For leading timesteps, and for trailing
    /// ones where K divides T, the two are the same.
    ///
    /// # Errors
    /// As [`Schedule::strided`].
    pub fn strided_down(&self, steps: Option<usize>, spacing: Spacing) -> Result<Self> {
        let steps = steps.unwrap_or(self.steps());
        let mut kept = self.strided(Some(steps), spacing)?;
        // Of a schedule that leaves timesteps out, the visited ones are all there is to lead to.
        if self.last().t.get() != self.steps() {
            return Ok(kept);
        }
        let stride = self.steps() / steps;
        for level in &mut kept.levels {
            let next = level.t.index().checked_sub(stride).map_or(1.0, |index| self.levels[index].alpha_bar);
            if next != level.alpha_bar_prev {
                level.alpha_bar_prev = next;
                level.alpha = level.alpha_bar / next;
                level.beta = 1.0 - level.alpha;
                level.log_posterior_variance = posterior::eq10_posterior_variance(level).ln();
            }
        }
        Ok(kept)
    }

    /// What is left of this process where x is the x_t of timestep `from` of `full`, the schedule that it was
    /// respaced from: its levels below t, and before them its own level of t or, where it visits no t, one
    /// that leads to the highest of those. Without a timestep it is the whole.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a timestep that `full` has not.
    pub fn begun_at(&self, full: &Schedule, from: Option<Timestep>) -> Result<Self> {
        let Some(from) = from else { return Ok(self.clone()) };
        let alpha_bar = full.at(from)?.alpha_bar;
        let mut levels: Vec<Level> = self.levels.iter().filter(|level| level.t <= from).copied().collect();
        if levels.last().is_none_or(|level| level.t != from) {
            let before = levels.last().map_or(1.0, |level| level.alpha_bar);
            let alpha = alpha_bar / before;
            levels.push(level(from, 1.0 - alpha, alpha, [alpha_bar, before]));
        }
        Ok(Schedule { levels })
    }

    /// The step of the `k`-th level, ascending from 0, alone.
    pub(crate) fn step_alone(&self, k: usize) -> Self {
        Schedule { levels: vec![self.levels[k]] }
    }

    /// abar before each step of the way down, and behind the last one.
    pub fn alpha_bars_down(&self) -> Vec<f64> {
        let before = self.levels.iter().rev().map(|level| level.alpha_bar);
        before.chain([self.levels[0].alpha_bar_prev]).collect()
    }

    /// The levels of (t, beta, alpha, abar), ascending. With `ends_at_0` the last abar may be 0.
    fn build(steps: impl IntoIterator<Item = (Timestep, f64, f64, f64)>, ends_at_0: bool) -> Result<Self> {
        let mut levels: Vec<Level> = Vec::new();
        let mut alpha_bar_prev = 1.0;
        for (t, beta, alpha, alpha_bar) in steps {
            // True for 0 < beta < 1, but for betas so small that 1 - beta is 1 and so large that abar
            // underflows; false for a NaN.
            let is_above_0 = alpha_bar > 0.0 || (ends_at_0 && alpha_bar == 0.0);
            if !(alpha_bar < alpha_bar_prev && is_above_0) {
                return Err(Error::invalid(
                    format!("noise schedule, beta at t = {t}"),
                    "a number strictly between 0 and 1 that leaves abar_t above 0",
                    format!("{beta}, with abar_t = {alpha_bar}"),
                    "",
                ));
            }
            levels.push(level(t, beta, alpha, [alpha_bar, alpha_bar_prev]));
            alpha_bar_prev = alpha_bar;
        }
        if levels.is_empty() {
            return Err(Error::invalid("noise schedule", "at least one timestep", "none", ""));
        }
        if let Some(second) = levels.get(1).map(|level| level.log_posterior_variance) {
            levels[0].log_posterior_variance = second;
        }
        Ok(Schedule { levels })
    }

    /// Every level, ascending in t.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The number of steps, T or, respaced, K.
    pub fn steps(&self) -> usize {
        self.levels.len()
    }

    /// The level of timestep `t`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if this schedule does not visit `t`.
    pub fn at(&self, t: Timestep) -> Result<&Level> {
        match self.levels.binary_search_by_key(&t, |level| level.t) {
            Ok(position) => Ok(&self.levels[position]),
            Err(_) => Err(Error::invalid(
                "timestep t",
                format!("one of this schedule's {}, 1 to {}", self.steps(), self.last().t),
                t.to_string(),
                "",
            )),
        }
    }

    /// abar_1 .. abar_T, for files.
    pub fn alpha_bars(&self) -> Vec<f64> {
        self.levels.iter().map(|level| level.alpha_bar).collect()
    }

    /// The noisiest level, t = T.
    pub fn last(&self) -> &Level {
        &self.levels[self.levels.len() - 1]
    }

    /// beta_1 .. beta_T, for files.
    pub fn betas(&self) -> Vec<f64> {
        self.levels.iter().map(|level| level.beta).collect()
    }
}

/// The level of a step from abar_t to abar_{t-1}. The log-variance of the first one is ln beta_1, as long as
/// no second is known.
fn level(t: Timestep, beta: f64, alpha: f64, [alpha_bar, alpha_bar_prev]: [f64; 2]) -> Level {
    let mut level = Level { t, beta, alpha, alpha_bar, alpha_bar_prev, log_posterior_variance: beta.ln() };
    if !level.is_first() {
        level.log_posterior_variance = posterior::eq10_posterior_variance(&level).ln();
    }
    level
}

/// abar at time u in [0, 1] (Nichol & Dhariwal 2021, equation 17) before it is divided by its value at 0.
fn squared_cosine(u: f64) -> f64 {
    ((u + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VarianceKind;
    use crate::equations::reverse::eq07_log_sigma2;

    const LINEAR_ABAR_T: f64 = 4.035_829_765_375_683e-5;
    const LINEAR_ABAR_500: f64 = 7.858_724_288_177_824e-2;
    const LINEAR_BETA_TILDE_2: f64 = 5.453_187_661_302_605e-5;
    const COSINE_ABAR_T: f64 = 2.428_766_907_034_468e-9;
    const COSINE_ABAR_500: f64 = 4.938_435_904_406_377e-1;

    fn schedule(schedule: BetaSchedule) -> Schedule {
        Schedule::from_config(&DiffusionConfig { schedule, ..DiffusionConfig::default() }).unwrap()
    }

    fn close(got: f64, want: f64, relative: f64) {
        assert!((got / want - 1.0).abs() <= relative, "{got} {want}");
    }

    /// Values computed with 40 digits; a product of 1000 rounded factors may be off by 1000 x 1.1e-16, and
    /// 1 - abar at t = 2 loses four more digits.
    #[test]
    fn eq03_eq10_golden_values_of_the_linear_schedule() {
        let linear = schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 });
        close(linear.last().alpha_bar, LINEAR_ABAR_T, 2e-13);
        close(linear.levels()[499].alpha_bar, LINEAR_ABAR_500, 2e-13);
        close(linear.levels()[1].log_posterior_variance.exp(), LINEAR_BETA_TILDE_2, 1e-11);
        assert_eq!((linear.levels()[0].beta, linear.last().beta), (1e-4, 0.02));
    }

    /// As above; 1 - f(t)/f(t-1) is 1e-5 or larger, so its own rounding adds at most 1e-16 per step.
    #[test]
    fn eq03_golden_values_of_the_cosine_schedule() {
        let cosine = schedule(BetaSchedule::Cosine);
        close(cosine.last().alpha_bar, COSINE_ABAR_T, 1e-12);
        close(cosine.levels()[499].alpha_bar, COSINE_ABAR_500, 1e-12);
        assert_eq!(cosine.betas().iter().filter(|&&b| b == 0.999).count(), 1);
    }

    /// Why schedules are `f64`: betas computed from `f32` tables of abar, as 1 - abar_t / abar_{t-1}, have
    /// relative errors of 1e-4 and more at small t (an ulp of 6e-8 in a beta of 1e-4). Ours are recovered up
    /// to the cancellation in 1 - abar_t.
    #[test]
    fn eq03_tables_in_f32_lose_the_small_betas() {
        let linear = schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 });
        let (mut ours, mut single) = (0f64, 0f64);
        let mut product = 1f32;
        for level in &linear.levels()[..10] {
            let before = product;
            product *= 1.0 - level.beta as f32;
            single = single.max((f64::from(1.0 - product / before) / level.beta - 1.0).abs());
            ours = ours.max(((1.0 - level.alpha_bar / level.alpha_bar_prev) / level.beta - 1.0).abs());
        }
        assert!((1e-4..1e-3).contains(&single), "{single}");
        assert!(ours < 1e-11, "{ours}");
    }

    #[test]
    fn a_schedule_survives_its_betas() {
        for kind in [BetaSchedule::Linear { start: 1e-4, end: 0.02 }, BetaSchedule::Cosine] {
            let original = schedule(kind);
            assert_eq!(Schedule::from_betas(&original.betas()).unwrap(), original);
        }
        let config = DiffusionConfig { zero_terminal_snr: true, ..DiffusionConfig::default() };
        let zero = Schedule::from_config(&config).unwrap();
        assert_eq!(Schedule::from_alpha_bars(&zero.alpha_bars()).unwrap(), zero);
        assert!(Schedule::from_alpha_bars(&[0.5, 0.0, 0.0]).is_err());
        assert!(Schedule::from_alpha_bars(&[1.0, 0.5]).is_err());
    }

    /// sqrt(abar_1) stays, sqrt(abar_T) is 0, and what is between moves in proportion.
    #[test]
    fn zero_terminal_snr_is_a_line_in_the_root_of_abar() {
        let plain = schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 });
        let config = DiffusionConfig { zero_terminal_snr: true, ..DiffusionConfig::default() };
        let zero = Schedule::from_config(&config).unwrap();
        assert_eq!((zero.last().alpha_bar, zero.last().beta), (0.0, 1.0));
        let root = |schedule: &Schedule, i: usize| schedule.levels()[i].alpha_bar.sqrt();
        close(root(&zero, 0), root(&plain, 0), 1e-15);
        let (first, last) = (root(&plain, 0), root(&plain, 999));
        for i in [1, 500, 998] {
            close(root(&zero, i), (root(&plain, i) - last) * first / (first - last), 1e-12);
        }
        assert_eq!(zero.respaced(&[zero.last().t]).unwrap().last().alpha_bar, 0.0);
    }

    /// At the first, the 500th and the last timestep, to some roundings.
    #[test]
    fn the_other_schedules_are_their_formulas() {
        let betas = |kind| schedule(kind).betas();
        let scaled = betas(BetaSchedule::ScaledLinear { start: 8.5e-4, end: 0.012 });
        let root = 8.5e-4f64.sqrt() + (0.012f64.sqrt() - 8.5e-4f64.sqrt()) * 499.0 / 999.0;
        let sigmoid = betas(BetaSchedule::Sigmoid { start: 1e-4, end: 0.02 });
        let at = |u: f64| 1e-4 + (0.02 - 1e-4) / (1.0 + (-u).exp());
        for (got, want) in [
            (scaled[0], 8.5e-4),
            (scaled[499], root * root),
            (scaled[999], 0.012),
            (sigmoid[0], at(-6.0)),
            (sigmoid[499], at(-6.0 + 12.0 * 499.0 / 999.0)),
            (sigmoid[999], at(6.0)),
        ] {
            close(got, want, 1e-13);
        }
        let trained = DiffusionConfig {
            timesteps: 2,
            schedule: BetaSchedule::Trained { betas: vec![0.1, 0.2] },
            ..DiffusionConfig::default()
        };
        assert_eq!(Schedule::from_config(&trained).unwrap().betas(), [0.1, 0.2]);
        assert!(Schedule::from_config(&DiffusionConfig { timesteps: 3, ..trained }).is_err());
    }

    #[test]
    fn unusable_betas_are_refused() {
        for betas in [
            &[][..],
            &[0.1, 0.0],
            &[0.1, 1.0],
            &[0.1, 1.5],
            &[0.1, f64::NAN],
            &[-0.1],
            &[1e-17],
            &[0.999_999; 60],
        ] {
            assert!(Schedule::from_betas(betas).is_err(), "{betas:?}");
        }
        assert!(Schedule::from_betas(&[0.5]).is_ok());
    }

    /// The same abar is once a product and once a ratio of products: 3 roundings apart.
    #[test]
    fn respacing_keeps_abar_and_recomputes_beta() {
        let full = schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 });
        let kept = [1, 400, 1000].map(|t| Timestep::new(t).unwrap());
        let short = full.respaced(&kept).unwrap();
        assert_eq!(short.levels().iter().map(|level| level.t).collect::<Vec<_>>(), kept);
        let mut product = 1.0;
        let mut before = 1.0;
        for level in short.levels() {
            assert_eq!(level.alpha_bar_prev, before);
            assert_eq!(level.alpha_bar, full.at(level.t).unwrap().alpha_bar);
            product *= level.alpha;
            close(level.alpha_bar, product, 1e-15);
            assert_eq!(level.beta, 1.0 - level.alpha);
            before = level.alpha_bar;
        }
        let all: Vec<_> = full.levels().iter().map(|level| level.t).collect();
        for (a, b) in full.respaced(&all).unwrap().levels().iter().zip(full.levels()) {
            // 1 - abar_t / abar_{t-1} has an absolute error of an ulp of 1 or two.
            assert!((a.beta - b.beta).abs() <= 4.5e-16);
        }
        assert!(full.respaced(&[]).is_err());
        for unordered in [[kept[1], kept[0]], [kept[0], kept[0]]] {
            let error = full.respaced(&unordered).unwrap_err().to_string();
            assert!(error.contains("strictly ascending"), "{error}");
        }
        assert!(full.respaced(&[Timestep::new(1001).unwrap()]).is_err());
        assert!(short.at(kept[1]).is_ok() && short.at(Timestep::new(2).unwrap()).is_err());
    }

    #[test]
    fn spacings_are_those_of_other_libraries() {
        let indices = |spacing: Spacing, total, steps| {
            spacing.timesteps(total, steps).unwrap().iter().map(|t| t.index()).collect::<Vec<_>>()
        };
        assert_eq!(indices(Spacing::Leading, 1000, 4), [0, 250, 500, 750]);
        assert_eq!(indices(Spacing::Leading, 1000, 3), [0, 333, 666]);
        assert_eq!(indices(Spacing::Trailing, 1000, 4), [249, 499, 749, 999]);
        assert_eq!(indices(Spacing::Trailing, 1000, 3), [332, 666, 999]);
        assert_eq!(indices(Spacing::Linspace, 1000, 4), [0, 333, 666, 999]);
        assert_eq!(indices(Spacing::Linspace, 11, 5), [0, 2, 5, 8, 10], "halves to even");
        assert_eq!(indices(Spacing::Linspace, 1000, 1), [0]);
        // Halves as NumPy's arange leaves them: 187.5 is a little less here, 62.5 is itself.
        let halves = indices(Spacing::Trailing, 1000, 48);
        assert_eq!((halves[2], halves[8]), (61, 186));
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            assert_eq!(indices(spacing, 7, 7), [0, 1, 2, 3, 4, 5, 6]);
            assert!(spacing.timesteps(10, 0).is_err());
            assert!(spacing.timesteps(10, 11).is_err());
        }
    }

    #[test]
    fn eq07_log_variance_of_the_first_step_is_that_of_the_second() {
        let linear = schedule(BetaSchedule::Linear { start: 1e-4, end: 0.02 });
        let (first, second) = (&linear.levels()[0], &linear.levels()[1]);
        for kind in [VarianceKind::FixedSmall, VarianceKind::FixedLarge] {
            close(eq07_log_sigma2(first, kind).exp(), LINEAR_BETA_TILDE_2, 1e-11);
        }
        assert_eq!(eq07_log_sigma2(second, VarianceKind::FixedLarge), second.beta.ln());
        let single = Schedule::from_betas(&[0.25]).unwrap();
        assert_eq!(single.last().log_posterior_variance, 0.25f64.ln());
    }
}
