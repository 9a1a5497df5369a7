//! What a run does about a step whose loss or gradient is no finite number.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is done about a step that diverges. Each way is a function of the run's configuration alone, and exact
/// at a resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNan {
    /// The run ends with an error.
    #[default]
    Stop,
    /// The step changes nothing, and the next one goes on with the next batch.
    Skip,
    /// The run goes back to its last checkpoint and on from there at half the rate, which is recorded as
    /// [`TrainConfig::halved`](super::TrainConfig::halved).
    Backtrack,
}

impl OnNan {
    /// Every way.
    pub const ALL: [OnNan; 3] = [OnNan::Stop, OnNan::Skip, OnNan::Backtrack];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            OnNan::Stop => "stop",
            OnNan::Skip => "skip",
            OnNan::Backtrack => "backtrack",
        }
    }

    pub(super) fn is_stop(&self) -> bool {
        *self == OnNan::Stop
    }
}

impl fmt::Display for OnNan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OnNan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = OnNan::ALL.into_iter().find(|way| way.name() == text);
        known.ok_or_else(|| format!("expected {}", OnNan::ALL.map(OnNan::name).join(", ")))
    }
}
