//! The attention's configuration: exact softmax attention or FAVOR+ and its features.

use serde::{Deserialize, Serialize};

/// The function f and the factor h of a feature map, equation (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
