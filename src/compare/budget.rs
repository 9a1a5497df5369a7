//! How long each network of a comparison trains.

use crate::config::{Config, TrainConfig};
use serde::{Deserialize, Serialize};

/// How long each variant trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// This many steps.
    Steps(u64),
    /// This many minutes of training, with as many steps as they hold.
    Minutes(f64),
}

impl Budget {
    /// The length that a configuration gives a run.
    pub fn of(train: &TrainConfig) -> Budget {
        match (train.end(), train.minutes) {
            (Some(steps), _) => Budget::Steps(steps),
            (None, minutes) => Budget::Minutes(minutes.unwrap_or_default()),
        }
    }

    /// Makes it the length of a run.
    pub(super) fn give(self, config: &mut Config) {
        let train = &mut config.train;
        train.plan.clear();
        (train.steps, train.minutes) = match self {
            Budget::Steps(steps) => {
                train.warmup_steps = train.warmup_steps.min(steps / 10);
                (Some(steps), None)
            }
            Budget::Minutes(minutes) => (None, Some(minutes)),
        };
    }

    /// "2 minutes" or "500 steps".
    pub fn describe(self) -> String {
        let plural = |one: bool| if one { "" } else { "s" };
        match self {
            Budget::Steps(steps) => format!("{steps} step{}", plural(steps == 1)),
            Budget::Minutes(minutes) => format!("{minutes} minute{}", plural(minutes == 1.0)),
        }
    }

    /// Whether the comparison is meant to be quick, with measurements on fewer images.
    pub(super) fn is_short(self) -> bool {
        match self {
            Budget::Steps(steps) => steps < 2000,
            Budget::Minutes(minutes) => minutes < 5.0,
        }
    }
}
