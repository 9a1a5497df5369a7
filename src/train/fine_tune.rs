//! Training that begins from weights which were trained before, such as softmax weights under FAVOR+.

use crate::checkpoint::state::{self, TrainingState};
use crate::config::{Config, LrDecay, TrainConfig};
use crate::error::Result;
use crate::model::Model;
use std::path::Path;

/// Steps of the warm-up where the length of the training is not known.
const WARMUP: u64 = 100;

/// Makes the settings of training from the start those of fine-tuning: a fifth of the learning rate, decaying
/// to the end, after a warm-up of a tenth of the steps, on other batches than the run began with.
pub fn settings(train: &mut TrainConfig, steps: Option<u64>) {
    train.lr /= 5.0;
    train.seed = train.seed.wrapping_add(1);
    train.lr_decay = LrDecay::Linear { from: 0.0 };
    train.warmup_steps = steps.map_or(WARMUP, |steps| steps / 10);
}

/// Writes a checkpoint of step 0 with a model's weights into a run's folder, from which the run begins.
///
/// # Errors
/// Those of [`state::save`].
pub fn begin_from(folder: &Path, config: &Config, model: &Model<f32>) -> Result<()> {
    let zeros = vec![0.0; model.weights.len()];
    let state = TrainingState {
        config: config.clone(),
        step: 0,
        images_seen: 0,
        metrics_len: 0,
        weights: model.weights.clone(),
        ema: model.weights.clone(),
        first_moment: zeros.clone(),
        second_moment: zeros,
        projections: model.projections.clone(),
    };
    state::save(folder, &state)?;
    Ok(())
}
