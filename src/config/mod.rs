//! Plain, validated configuration: the network, the diffusion process, the training run.

mod attention;
mod diffusion;
mod images;
mod preset;
mod training;
mod unet;

pub use attention::{FavorConfig, FeatureMap, ProjectionKind, RowNorms};
pub use diffusion::{BetaSchedule, DiffusionConfig, VarianceKind};
pub use preset::Preset;
pub use training::{Config, DataConfig, LrDecay, TrainConfig};
pub use unet::{BlockAttention, UnetConfig};
