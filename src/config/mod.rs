//! Plain, validated configuration: the network, the diffusion process, the training run.

mod diffusion;

pub use diffusion::{BetaSchedule, DiffusionConfig, VarianceKind};
