//! Plain, validated configuration: the network, the diffusion process, the training run.
//!
//! A [`Preset`] is where most configurations begin; every field is public, and what cannot be is refused
//! where it is used, by its key.
//!
//! ```
//! use performer_ddpm::config::{BetaSchedule, Config, Preset};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! let mut config = Preset::Fashion.config().for_images([32, 32, 3]);
//! config.diffusion.schedule = BetaSchedule::Cosine;
//! config.train.batch = 32;
//! config.validate()?;
//! assert_eq!(Config::from_toml(&config.to_toml(), "here")?, config);
//! # Ok(())
//! # }
//! ```

mod attention;
mod classes;
mod data;
mod diffusion;
mod divergence;
mod images;
mod objective;
mod preset;
mod residual;
mod runtime;
mod toml_text;
mod training;
mod unet;

pub use crate::kernels::Activation;
pub use attention::{AttentionKind, FavorConfig, FeatureMap, ProjectionKind, RowNorms};
pub use classes::ClassEmbedding;
pub use data::{Background, DataConfig};
pub use diffusion::{BetaSchedule, DiffusionConfig, Prediction, VarianceKind};
pub use divergence::OnNan;
pub use objective::{LossWeight, TimestepSampling};
pub use preset::Preset;
pub use residual::{Resampling, TimeScaleShift};
pub use runtime::{RuntimeConfig, RuntimeName};
pub use training::{Averaging, Config, LrDecay, MuonConfig, PlanEntry, TrainConfig};
pub use unet::{BlockAttention, UnetConfig};
