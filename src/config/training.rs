//! The training run's configuration.

use super::{
    DataConfig, DiffusionConfig, LossWeight, OnNan, RuntimeConfig, TimestepSampling, UnetConfig, toml_text,
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up. Like everything else of a run it is a function of the step
/// and of the run's plan, never of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum LrDecay {
    /// It does not (Ho et al. 2020).
    Constant,
    /// lr / sqrt(1 + step / `steps`): good at whatever step training stops.
    InverseSqrt {
        /// The step at which the rate has fallen by sqrt(2).
        steps: u64,
    },
    /// lr until the share `from` of the run is done, then in a straight line to a hundredth of lr at its end.
    Linear {
        /// The share of the run, at least 0 and below 1.
        from: f64,
    },
}

/// How the weights that are sampled from are averaged over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Averaging {
    /// An exponential moving average (Ho et al. 2020, section 4): at update k = 1, 2, .. its decay is
    /// min(`decay`, (1 + k) / (10 + k)).
    Exponential {
        /// At least 0 and below 1.
        decay: f64,
    },
    /// A power function average (Karras et al. 2024, "Analyzing and improving the training dynamics of
    /// diffusion models", section 3.1): at update k its decay is (1 - 1/k)^(gamma + 1), so that it spans the
    /// same share of the run however many steps there are.
    Power {
        /// sigma_rel, the standard deviation of the averaged updates' times as a share of the run so far:
        /// above 0 and at most 0.25.
        width: f64,
    },
}

/// Muon's numbers (Jordan et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonConfig {
    /// The momentum's decay.
    pub momentum: f64,
    /// What the learning rate is multiplied by. With 1 a matrix moves by 0.2 of the learning rate in
    /// root-mean-square at every step, about as far as with Adam (Liu et al. 2025, section 2.2).
    pub rate: f64,
}

impl Averaging {
    /// The average's decay at an update, counted from 1.
    pub fn decay_at(self, update: u64) -> f64 {
        let k = update as f64;
        match self {
            Averaging::Exponential { decay } => decay.min((1.0 + k) / (10.0 + k)),
            Averaging::Power { .. } => (1.0 - 1.0 / k).powf(self.exponent()),
        }
    }

    /// The exponent gamma + 1 of a power function average; 0 for another.
    pub(crate) fn exponent(self) -> f64 {
        match self {
            Averaging::Exponential { .. } => 0.0,
            Averaging::Power { width } => gamma(width) + 1.0,
        }
    }
}

/// The exponent gamma whose power function has the relative width sigma_rel = (gamma + 1)^(1/2) (gamma +
/// 2)^-1 (gamma + 3)^(-1/2) (Karras et al. 2024, equation 126), by bisection: the width falls as gamma grows.
fn gamma(width: f64) -> f64 {
    let wider = |gamma: f64| ((gamma + 1.0) / (gamma + 3.0)).sqrt() / (gamma + 2.0) > width;
    let (mut low, mut high) = (0.0, 1.0);
    while wider(high) {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if wider(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// A decision about a run's length: after step `step` it was planned to end with step `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanEntry {
    /// The last step before the decision; 0 for one that was made before the first.
    pub step: u64,
    /// The run's last step from then on.
    pub end: u64,
}

/// Algorithm 1's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Images per step.
    pub batch: usize,
    /// The run's length in steps. Where it is left out, `minutes` decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The run's length in minutes, its last sample grid included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Adam's learning rate after the warm-up.
    pub lr: f64,
    /// Steps over which the rate rises in proportion to the step, which counts from 1.
    pub warmup_steps: u64,
    /// How it falls afterwards.
    pub lr_decay: LrDecay,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
    /// Adam's epsilon, added after the bias correction.
    pub adam_eps: f64,
    /// Muon for the weight matrices between the first convolution and the last; Adam for all else, and for
    /// these too where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon: Option<MuonConfig>,
    /// The gradient's largest global norm; 0 for no clipping.
    pub clip_norm: f64,
    /// How the weights are averaged.
    pub average: Averaging,
    /// Whether images are mirrored with probability 1/2 where the data allows it.
    pub flip: bool,
    /// How much the loss counts at each timestep.
    #[serde(default, skip_serializing_if = "LossWeight::is_none")]
    pub loss_weight: LossWeight,
    /// How timesteps are drawn.
    #[serde(default, skip_serializing_if = "TimestepSampling::is_uniform")]
    pub timesteps: TimestepSampling,
    /// The probability that an image counts as one of the [null class](UnetConfig::null_class) (Ho & Salimans
    /// 2022, p_uncond of Algorithm 1).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drop_label: f64,
    /// Steps between checkpoints; 0 for one at the end only.
    pub checkpoint_every: u64,
    /// Sample grids in equal shares of the run, the last at its end; 0 for none.
    pub grids: u64,
    /// What is done about a step that diverges.
    #[serde(default, skip_serializing_if = "OnNan::is_stop")]
    pub on_nan: OnNan,
    /// Steps after each of which the rate is half of what it was: those of the checkpoints that the run went
    /// back to by [`OnNan::Backtrack`], in order. A run that is given them takes the same steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub halved: Vec<u64>,
    /// The decisions about the run's length in their order; none for a run that was `steps` long from the
    /// start. A run by the clock records its own here, and one that is given them takes the same steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlanEntry>,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl TrainConfig {
    /// Checks every number's range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key out of range.
    pub fn validate(&self) -> Result<()> {
        let in_range = |key: &str, ok: bool, expected: &str, got: String| {
            if ok { Ok(()) } else { Err(Error::invalid(format!("train.{key}"), expected, got, "")) }
        };
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let unit = |x: f64| (0.0..1.0).contains(&x);
        in_range("batch", (1..=1 << 16).contains(&self.batch), "1 to 65536", self.batch.to_string())?;
        in_range("steps", self.steps != Some(0), "at least 1", "0".to_owned())?;
        if let Some(minutes) = self.minutes {
            in_range("minutes", positive(minutes), "a positive number", minutes.to_string())?;
        }
        let length = self.steps.is_some() || self.minutes.is_some();
        in_range("steps", length, "a number of steps, or minutes in train.minutes", "neither".to_owned())?;
        self.validate_plan()?;
        let halved = format!("{:?}", self.halved);
        in_range("halved", self.halved.is_sorted(), "steps in their order", halved)?;
        in_range("lr", positive(self.lr), "a positive number", self.lr.to_string())?;
        in_range("beta1", unit(self.beta1), "at least 0 and below 1", self.beta1.to_string())?;
        in_range("beta2", unit(self.beta2), "at least 0 and below 1", self.beta2.to_string())?;
        in_range("adam_eps", positive(self.adam_eps), "a positive number", self.adam_eps.to_string())?;
        let clip = self.clip_norm >= 0.0 && self.clip_norm.is_finite();
        if let Some(MuonConfig { momentum, rate }) = self.muon {
            in_range("muon.momentum", unit(momentum), "at least 0 and below 1", momentum.to_string())?;
            in_range("muon.rate", positive(rate), "a positive number", rate.to_string())?;
        }
        in_range("clip_norm", clip, "at least 0", self.clip_norm.to_string())?;
        self.loss_weight.validate()?;
        match self.average {
            Averaging::Exponential { decay } => {
                in_range("average.decay", unit(decay), "at least 0 and below 1", decay.to_string())?;
            }
            Averaging::Power { width } => {
                let ok = width > 1e-6 && width <= 0.25;
                in_range("average.width", ok, "above 0.000001 and at most 0.25", width.to_string())?;
            }
        }
        match self.lr_decay {
            LrDecay::Constant => Ok(()),
            LrDecay::InverseSqrt { steps } => {
                in_range("lr_decay.steps", steps > 0, "at least 1", steps.to_string())
            }
            LrDecay::Linear { from } => {
                in_range("lr_decay.from", unit(from), "at least 0 and below 1", from.to_string())
            }
        }
    }

    fn validate_plan(&self) -> Result<()> {
        let fail = |expected: &str, got: String| {
            let help = "leave the plan out to make a new one";
            Err(Error::invalid("train.plan", expected, got, help))
        };
        for entry in &self.plan {
            if entry.end <= entry.step {
                let PlanEntry { step, end } = entry;
                return fail("an end after the entry's step", format!("end {end} at step {step}"));
            }
        }
        for pair in self.plan.windows(2) {
            if pair[1].step <= pair[0].step {
                return fail(
                    "entries in the order of their steps",
                    format!("{} after {}", pair[1].step, pair[0].step),
                );
            }
        }
        match (self.steps, self.plan.last()) {
            (Some(steps), Some(last)) if last.end != steps => {
                fail(&format!("a last end of train.steps = {steps}"), last.end.to_string())
            }
            _ => Ok(()),
        }
    }

    /// The step that ends the run; `None` where the clock is still to say.
    pub fn end(&self) -> Option<u64> {
        self.plan.last().map(|entry| entry.end).or(self.steps)
    }

    /// The decisions about the run's length, the one that was made before the first step included.
    fn decisions(&self) -> impl Iterator<Item = PlanEntry> {
        let from_the_start = match (self.plan.is_empty(), self.steps) {
            (true, Some(end)) => Some(PlanEntry { step: 0, end }),
            _ => None,
        };
        from_the_start.into_iter().chain(self.plan.iter().copied())
    }

    /// Keeps what was decided up to step `step`, and the planned length as a decision of its own.
    pub(crate) fn keep_plan_up_to(&mut self, step: u64) {
        self.plan = self.decisions().filter(|entry| entry.step <= step).collect();
        self.steps = None;
    }

    /// The share of the run that is done after a step, from 0 to 1.
    ///
    /// Each decision leads in a straight line from the share that was done when it was made to 1 at its end.
    /// One that lengthens a run which was at its end already begins anew, at step / end. Before the first
    /// decision the share is 0.
    pub fn share_done(&self, step: u64) -> f64 {
        // At the end it is 1, where the sum may round to less.
        let line = |from: f64, PlanEntry { step: start, end }: PlanEntry, step: u64| match step {
            step if step >= end => 1.0,
            step => from + (1.0 - from) * ((step - start) as f64 / (end - start) as f64),
        };
        let mut current: Option<(f64, PlanEntry)> = None;
        for next in self.decisions().take_while(|entry| entry.step < step) {
            let from = match current {
                None => 0.0,
                Some((_, entry)) if next.step >= entry.end => next.step as f64 / next.end as f64,
                Some((from, entry)) => line(from, entry, next.step),
            };
            current = Some((from, next));
        }
        current.map_or(0.0, |(from, entry)| line(from, entry, step))
    }

    /// The learning rate of a step, counted from 1. A linear decay ends at a hundredth of the rate, exactly;
    /// of a run that ends during its warm-up that is multiplied by the share of the warm-up, as every rate
    /// is.
    pub fn lr_at(&self, step: u64) -> f64 {
        let warm = (step as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let fall = match self.lr_decay {
            LrDecay::Constant => 1.0,
            LrDecay::InverseSqrt { steps } => 1.0 / (1.0 + step as f64 / steps as f64).sqrt(),
            LrDecay::Linear { from } => {
                let left = (1.0 - self.share_done(step)) / (1.0 - from);
                left.clamp(0.01, 1.0)
            }
        };
        let halvings = self.halved.iter().filter(|after| **after < step).count();
        // In this order, so that what the decay ends at is rounded once, whatever the warm-up.
        self.lr * fall * warm * 0.5f64.powi(i32::try_from(halvings).unwrap_or(i32::MAX))
    }
}

/// Everything that determines a run's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The network.
    pub unet: UnetConfig,
    /// The forward process and the reverse variance.
    pub diffusion: DiffusionConfig,
    /// The optimisation.
    pub train: TrainConfig,
    /// The images.
    #[serde(default)]
    pub data: DataConfig,
    /// What computes the steps, where the engine does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeConfig>,
}

impl Config {
    /// Checks every part.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key out of range.
    pub fn validate(&self) -> Result<()> {
        self.unet.validate()?;
        self.diffusion.validate()?;
        self.data.validate()?;
        if self.diffusion.prediction.is_epsilon() && self.diffusion.zero_terminal_snr {
            return Err(Error::invalid(
                "diffusion.prediction",
                "sample or v_prediction where zero_terminal_snr is true",
                "epsilon, which says nothing of x_0 where abar = 0",
                "",
            ));
        }
        let outputs = self.diffusion.outputs() * self.unet.in_channels;
        if self.unet.out_channels != outputs {
            let learned = self.diffusion.learned_range;
            return Err(Error::invalid(
                "unet.out_channels",
                format!(
                    "{outputs} for in_channels = {} and diffusion.learned_range = {learned}",
                    self.unet.in_channels
                ),
                self.unet.out_channels.to_string(),
                "a network has twice the channels of its images where it learns the variance, else as many",
            ));
        }
        self.validate_dropped_labels()?;
        if self.runtime.is_some() && self.train.on_nan == OnNan::Skip {
            let help = "a runtime's step changes the weights before it is known to have diverged";
            return Err(Error::invalid("train.on_nan", "stop or backtrack in a runtime", "skip", help));
        }
        self.train.validate()
    }

    /// Reads the TOML text of a configuration file; `source` names it in errors.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that is no TOML, for missing or unknown keys and for values out of range.
    pub fn from_toml(text: &str, source: &str) -> Result<Config> {
        let config: Config = toml_text::read(text).map_err(|unreadable| {
            Error::invalid(
                format!("{source}, line {}", unreadable.line),
                "a configuration as written to a run's config.toml",
                unreadable.message,
                "start from a run's config.toml or a preset",
            )
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The TOML text of the configuration.
    pub fn to_toml(&self) -> String {
        toml_text::write(self).expect("a configuration has only what TOML can hold")
    }
}

#[cfg(test)]
mod tests {
    use super::{Averaging, LrDecay, PlanEntry, gamma};
    use crate::config::{Config, Preset};

    #[test]
    fn toml_round_trips_and_unknown_keys_are_named_with_their_line() {
        for preset in Preset::ALL {
            let config = preset.config();
            config.validate().expect("presets are valid");
            assert_eq!(Config::from_toml(&config.to_toml(), "x.toml").expect("round trip"), config);
        }
        let text = Preset::Tiny.config().to_toml().replace("warmup_steps", "warm_up");
        let message = Config::from_toml(&text, "x.toml").expect_err("unknown key").to_string();
        assert!(message.contains("warm_up") && message.contains("x.toml, line"), "{message}");
    }

    fn entries(plan: &[(u64, u64)]) -> Vec<PlanEntry> {
        plan.iter().map(|&(step, end)| PlanEntry { step, end }).collect()
    }

    #[test]
    fn rates_and_decays_follow_their_definitions() {
        let mut train = Preset::Tiny.config().train;
        (train.lr, train.warmup_steps, train.steps) = (0.5, 4, Some(10));
        train.lr_decay = LrDecay::Constant;
        assert_eq!([1, 2, 4, 9].map(|s| train.lr_at(s)), [0.125, 0.25, 0.5, 0.5]);
        train.lr_decay = LrDecay::InverseSqrt { steps: 3 };
        assert_eq!(train.lr_at(9), 0.25);
        train.lr_decay = LrDecay::Linear { from: 0.0 };
        assert_eq!([5, 10, 99].map(|s| train.lr_at(s)), [0.25, 0.005, 0.005]);
        train.lr_decay = LrDecay::Linear { from: 0.5 };
        assert_eq!([5, 6, 10].map(|s| train.lr_at(s)), [0.5, 0.4, 0.005]);
        train.warmup_steps = 0;
        train.lr_decay = LrDecay::Constant;
        assert_eq!(train.lr_at(1), 0.5);
        let average = Averaging::Exponential { decay: 0.9 };
        assert_eq!([1, 2, 1000].map(|k| average.decay_at(k)), [2.0 / 11.0, 0.25, 0.9]);
    }

    /// The average of w_k = k / n over n updates is its profile's mean time, (gamma + 1) / (gamma + 2), and
    /// the times' spread is the width. Tolerance 2 / n: a sum for an integral.
    #[test]
    fn power_averages_have_their_width_at_any_length() {
        for (width, n) in [(0.05, 2000), (0.1, 500), (0.1, 4000), (0.25, 1000)] {
            let average = Averaging::Power { width };
            let (mut mean, mut square) = (0.0, 0.0);
            for k in 1..=n {
                let (decay, time) = (average.decay_at(k), k as f64 / n as f64);
                mean = decay * mean + (1.0 - decay) * time;
                square = decay * square + (1.0 - decay) * time * time;
            }
            let got = (square - mean * mean).sqrt();
            assert!((got - width).abs() < 2.0 / n as f64, "{got} for {width}");
            let exponent = gamma(width) + 1.0;
            assert!((mean - exponent / (exponent + 1.0)).abs() < 2.0 / n as f64);
        }
        assert_eq!(Averaging::Power { width: 0.1 }.decay_at(1), 0.0);
    }

    /// Exact but for rounding, 1e-15.
    #[test]
    fn the_share_done_is_a_line_from_each_decision_to_its_end() {
        let mut train = Preset::Tiny.config().train;
        let mut check = |steps, plan: &[(u64, u64)], want: &[(u64, f64)]| {
            (train.steps, train.plan) = (steps, entries(plan));
            for (step, share) in want {
                let got = train.share_done(*step);
                assert!((got - share).abs() < 1e-15, "{plan:?}: {got} for {share} at {step}");
            }
        };
        check(Some(10), &[], &[(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (12, 1.0)]);
        check(None, &[], &[(0, 0.0), (7, 0.0)]);
        check(Some(10), &[(0, 10)], &[(5, 0.5)]);
        // Nothing is planned in the first two steps; at half of the run the machine gets half as fast.
        check(None, &[(2, 12), (7, 9)], &[(2, 0.0), (3, 0.1), (7, 0.5), (8, 0.75), (9, 1.0)]);
        // Lengthened on the way, and after its end.
        check(Some(20), &[(0, 10), (5, 20)], &[(5, 0.5), (8, 0.6), (20, 1.0)]);
        check(Some(20), &[(0, 10), (10, 20)], &[(10, 1.0), (11, 0.55), (20, 1.0)]);
    }

    #[test]
    fn plans_are_checked_and_kept_up_to_a_step() {
        let refused = |steps, plan: &[(u64, u64)]| {
            let mut train = Preset::Tiny.config().train;
            (train.steps, train.minutes, train.plan) = (steps, Some(1.0), entries(plan));
            train.validate().expect_err("a plan that cannot be").to_string()
        };
        assert!(refused(None, &[(3, 3)]).contains("train.plan: expected an end after the entry's step"));
        assert!(refused(None, &[(3, 9), (3, 8)]).contains("in the order of their steps, got 3 after 3"));
        assert!(refused(Some(7), &[(0, 8)]).contains("a last end of train.steps = 7, got 8"));
        let mut train = Preset::Tiny.config().train;
        (train.steps, train.minutes) = (None, None);
        assert!(train.validate().expect_err("no length").to_string().contains("train.minutes"));

        (train.steps, train.plan) = (Some(8), entries(&[(1, 9), (4, 8)]));
        train.keep_plan_up_to(3);
        assert_eq!((train.steps, train.end(), &train.plan), (None, Some(9), &entries(&[(1, 9)])));
        (train.steps, train.plan) = (Some(8), Vec::new());
        train.keep_plan_up_to(0);
        assert_eq!(train.plan, entries(&[(0, 8)]));
    }
}
