//! The attention's configuration: exact softmax attention or FAVOR+ and its features.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How tokens attend to each other: a layer of the network, a choice on the command line, a variant that
/// `compare` trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum AttentionKind {
    /// Exact softmax attention, equation (22).
    Softmax,
    /// FAVOR+ attention, equation (26), with the features of this map.
    Favor(FeatureMap),
}

impl AttentionKind {
    /// FAVOR+ with positive features, equations (25) and (26).
    pub const FAVOR: AttentionKind = AttentionKind::Favor(FeatureMap::Positive);

    /// Softmax, then FAVOR+ with every feature map.
    pub const ALL: [AttentionKind; 5] = [
        AttentionKind::Softmax,
        AttentionKind::FAVOR,
        AttentionKind::Favor(FeatureMap::Hyperbolic),
        AttentionKind::Favor(FeatureMap::Trigonometric),
        AttentionKind::Favor(FeatureMap::Relu),
    ];

    /// Its name on the command line, in reports and in the names of folders.
    pub fn name(self) -> &'static str {
        match self {
            AttentionKind::Softmax => "softmax",
            AttentionKind::Favor(FeatureMap::Positive) => "favor",
            AttentionKind::Favor(FeatureMap::Hyperbolic) => "favor-hyperbolic",
            AttentionKind::Favor(FeatureMap::Trigonometric) => "favor-trig",
            AttentionKind::Favor(FeatureMap::Relu) => "relu",
        }
    }

    /// What the name stands for, in a few words.
    pub fn summary(self) -> &'static str {
        match self {
            AttentionKind::Softmax => "Exact attention, equation (22)",
            AttentionKind::Favor(FeatureMap::Positive) => {
                "FAVOR+ with positive features, equations (25) and (26)"
            }
            AttentionKind::Favor(FeatureMap::Hyperbolic) => "FAVOR+ with hyperbolic positive features",
            AttentionKind::Favor(FeatureMap::Trigonometric) => "FAVOR+ with trigonometric features",
            AttentionKind::Favor(FeatureMap::Relu) => "FAVOR+ with ReLU features: a kernel of its own",
        }
    }

    /// The feature map; `None` for softmax.
    pub fn map(self) -> Option<FeatureMap> {
        match self {
            AttentionKind::Softmax => None,
            AttentionKind::Favor(map) => Some(map),
        }
    }
}

impl fmt::Display for AttentionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for AttentionKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<AttentionKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(AttentionKind::name).join(", ");
            Error::invalid("a kind of attention", format!("one of {names}"), name, "")
        })
    }
}

impl TryFrom<String> for AttentionKind {
    type Error = Error;

    fn try_from(name: String) -> Result<AttentionKind> {
        name.parse()
    }
}

impl From<AttentionKind> for String {
    fn from(kind: AttentionKind) -> String {
        kind.name().to_owned()
    }
}

/// The function f and the factor h of a feature map, equation (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMap {
    /// h = exp(-|x|^2/2), f = exp: positive features of the softmax kernel, equation (25).
    Positive,
    /// h = exp(-|x|^2/2)/sqrt(2), f = exp(u), exp(-u): positive; using w and -w together lowers the variance.
    Hyperbolic,
    /// h = exp(|x|^2/2), f = sin, cos: not positive, and useless where the kernel is small.
    Trigonometric,
    /// h = 1, f = max(u, 0) + 1e-3, the paper's generalised attention: a kernel of its own, not softmax.
    Relu,
}

impl FeatureMap {
    /// All four.
    pub const ALL: [FeatureMap; 4] =
        [FeatureMap::Positive, FeatureMap::Hyperbolic, FeatureMap::Trigonometric, FeatureMap::Relu];

    /// l, the number of functions f and so of features per projection.
    pub fn functions(self) -> usize {
        match self {
            FeatureMap::Positive | FeatureMap::Relu => 1,
            FeatureMap::Hyperbolic | FeatureMap::Trigonometric => 2,
        }
    }
}

/// How the projections w_1 .. w_m of (24) are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionKind {
    /// Haar-distributed orthogonal blocks of d rows, the last one cut.
    Orthogonal,
    /// Independent Gaussian rows.
    Iid,
}

/// The lengths of the rows of orthogonal projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowNorms {
    /// Drawn from the chi distribution with d degrees, like those of Gaussian vectors: the estimate stays
    /// unbiased.
    Chi,
    /// sqrt(d): a smaller variance, but a biased estimate; not the default.
    Fixed,
}

/// FAVOR+ attention's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FavorConfig {
    /// The feature map.
    pub map: FeatureMap,
    /// m, the number of projections (also where the map has two functions).
    pub features: usize,
    /// How the projections are drawn.
    pub projection: ProjectionKind,
    /// The rows' lengths.
    pub norms: RowNorms,
    /// Training steps between redraws of the projections; 0 keeps the first ones.
    pub redraw_every: u64,
}

impl Default for FavorConfig {
    /// Positive orthogonal features with chi norms, never redrawn.
    fn default() -> Self {
        FavorConfig {
            map: FeatureMap::Positive,
            features: 64,
            projection: ProjectionKind::Orthogonal,
            norms: RowNorms::Chi,
            redraw_every: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for kind in AttentionKind::ALL {
            assert_eq!(kind.name().parse::<AttentionKind>().expect("its name"), kind);
            let json = serde_json::to_string(&kind).expect("JSON");
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<AttentionKind>(&json).expect("its JSON"), kind);
        }
        let message = "favour".parse::<AttentionKind>().expect_err("no such kind").to_string();
        assert!(message.contains("favor-trig") && message.contains("favour"), "{message}");
    }
}
