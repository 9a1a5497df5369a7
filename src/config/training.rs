//! The training run's configuration.

use super::{DiffusionConfig, UnetConfig};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the learning rate falls after the warm-up. It depends on the step alone, never on the clock.
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
    /// lr (1 - step / `steps`), never below a hundredth of lr.
    Linear {
        /// The step at which it would be zero.
        steps: u64,
    },
}

/// Algorithm 1's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Images per step.
    pub batch: usize,
    /// Steps of a run for which neither steps nor minutes are given.
    pub steps: u64,
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
    /// The gradient's largest global norm; 0 for no clipping.
    pub clip_norm: f64,
    /// The exponential moving average's decay; at update k = 1, 2, .. it is min(this, (1 + k) / (10 + k)).
    pub ema_decay: f64,
    /// Whether images are mirrored with probability 1/2 where the data allows it.
    pub flip: bool,
    /// Steps between checkpoints; 0 for one at the end only.
    pub checkpoint_every: u64,
    /// Steps between sample grids; 0 for one at the end only.
    pub sample_every: u64,
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
        in_range("steps", self.steps > 0, "at least 1", self.steps.to_string())?;
        in_range("lr", positive(self.lr), "a positive number", self.lr.to_string())?;
        in_range("beta1", unit(self.beta1), "at least 0 and below 1", self.beta1.to_string())?;
        in_range("beta2", unit(self.beta2), "at least 0 and below 1", self.beta2.to_string())?;
        in_range("adam_eps", positive(self.adam_eps), "a positive number", self.adam_eps.to_string())?;
        let clip = self.clip_norm >= 0.0 && self.clip_norm.is_finite();
        in_range("clip_norm", clip, "at least 0", self.clip_norm.to_string())?;
        in_range("ema_decay", unit(self.ema_decay), "at least 0 and below 1", self.ema_decay.to_string())?;
        match self.lr_decay {
            LrDecay::Constant => Ok(()),
            LrDecay::InverseSqrt { steps } | LrDecay::Linear { steps } => {
                in_range("lr_decay.steps", steps > 0, "at least 1", steps.to_string())
            }
        }
    }

    /// The learning rate of a step, counted from 1.
    pub fn lr_at(&self, step: u64) -> f64 {
        let warm = (step as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let fall = match self.lr_decay {
            LrDecay::Constant => 1.0,
            LrDecay::InverseSqrt { steps } => 1.0 / (1.0 + step as f64 / steps as f64).sqrt(),
            LrDecay::Linear { steps } => (1.0 - step as f64 / steps as f64).max(0.01),
        };
        self.lr * warm * fall
    }

    /// The average's decay at an update, counted from 1.
    pub fn ema_decay_at(&self, update: u64) -> f64 {
        let k = update as f64;
        self.ema_decay.min((1.0 + k) / (10.0 + k))
    }
}

/// Where the training images come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A folder; the embedded images where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Height and width to resize and crop a folder of images to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
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
}

impl Config {
    /// Checks every part.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key out of range.
    pub fn validate(&self) -> Result<()> {
        self.unet.validate()?;
        self.diffusion.validate()?;
        if !self.diffusion.prediction.is_epsilon() {
            return Err(Error::invalid(
                "diffusion.prediction",
                "epsilon, which is what training teaches",
                format!("{:?}", self.diffusion.prediction),
                "networks that predict x_0 or v can be sampled from",
            ));
        }
        self.train.validate()
    }

    /// Reads the TOML text of a configuration file; `source` names it in errors.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that is no TOML, for missing or unknown keys and for values out of range.
    pub fn from_toml(text: &str, source: &str) -> Result<Config> {
        let config: Config = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            Error::invalid(
                format!("{source}, line {line}"),
                "a configuration as written to a run's config.toml",
                e.message(),
                "start from a run's config.toml or a preset",
            )
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The TOML text of the configuration.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration has only what TOML can hold")
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, LrDecay, Preset};

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

    #[test]
    fn rates_and_decays_follow_their_definitions() {
        let mut train = Preset::Tiny.config().train;
        (train.lr, train.warmup_steps, train.ema_decay) = (0.5, 4, 0.9);
        train.lr_decay = LrDecay::Constant;
        assert_eq!([1, 2, 4, 9].map(|s| train.lr_at(s)), [0.125, 0.25, 0.5, 0.5]);
        train.lr_decay = LrDecay::InverseSqrt { steps: 3 };
        assert_eq!(train.lr_at(9), 0.25);
        train.lr_decay = LrDecay::Linear { steps: 10 };
        assert_eq!([5, 10, 99].map(|s| train.lr_at(s)), [0.25, 0.005, 0.005]);
        assert_eq!([1, 2, 1000].map(|k| train.ema_decay_at(k)), [2.0 / 11.0, 0.25, 0.9]);
        train.warmup_steps = 0;
        train.lr_decay = LrDecay::Constant;
        assert_eq!(train.lr_at(1), 0.5);
    }
}
