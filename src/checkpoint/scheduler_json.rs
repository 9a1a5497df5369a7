//! Reads `scheduler_config.json` of diffusers' `DDPMScheduler` and `DDIMScheduler`, and writes the former.

use super::keys::Keys;
use crate::config::{BetaSchedule, DiffusionConfig, VarianceKind};
use crate::error::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Reads a `scheduler_config.json`. A missing key has the default of diffusers' constructors.
///
/// A DDIM scheduler has no variance of its own; sigma^2 = beta~ is taken, which is DDIM's at eta = 1.
///
/// # Errors
/// [`crate::Error::Invalid`] naming the file and the first key or value that is not supported.
pub(super) fn read(file: &Path) -> Result<DiffusionConfig> {
    let mut keys = Keys::read(file)?;
    let class = "DDPMScheduler or DDIMScheduler";
    let name: String = keys.require("_class_name", class, "")?;
    match name.as_str() {
        "DDPMScheduler" => {}
        "DDIMScheduler" => keys.fixed("set_alpha_to_one", &[json!(true)])?,
        other => return Err(keys.refuse("_class_name", class, other, "other schedulers are not supported")),
    }
    keys.tolerate(&["_diffusers_version"]);
    keys.fixed("trained_betas", &[Value::Null])?;
    keys.fixed("prediction_type", &[json!("epsilon")])?;
    keys.fixed("rescale_betas_zero_snr", &[json!(false)])?;
    // Settings of diffusers' strided sampling: with other values its users would get other images than ours.
    keys.fixed("timestep_spacing", &[json!("leading")])?;
    keys.fixed("steps_offset", &[json!(0)])?;
    keys.fixed("thresholding", &[json!(false)])?;
    // Without thresholding these two change nothing.
    keys.tolerate(&["dynamic_thresholding_ratio", "sample_max_value"]);

    let start: f64 = keys.get("beta_start", 1e-4, "a number")?;
    let end: f64 = keys.get("beta_end", 0.02, "a number")?;
    let schedule: String = keys.get("beta_schedule", "linear".into(), "a schedule's name")?;
    let schedule = match schedule.as_str() {
        "linear" => BetaSchedule::Linear { start, end },
        "squaredcos_cap_v2" => BetaSchedule::Cosine,
        other => {
            return Err(keys.refuse("beta_schedule", "linear or squaredcos_cap_v2", other, ""));
        }
    };
    let variance = if name == "DDIMScheduler" {
        VarianceKind::FixedSmall
    } else {
        let kind: String = keys.get("variance_type", "fixed_small".into(), "a variance's name")?;
        match kind.as_str() {
            // The latter is the exponential of the former's logarithm: the same numbers.
            "fixed_small" | "fixed_small_log" => VarianceKind::FixedSmall,
            "fixed_large" => VarianceKind::FixedLarge,
            other => {
                return Err(keys.refuse("variance_type", "fixed_small or fixed_large", other, ""));
            }
        }
    };
    let clip_x0 = keys.get("clip_sample", true, "true or false")?;
    if clip_x0 {
        let range: f64 = keys.get("clip_sample_range", 1.0, "a number")?;
        if range != 1.0 {
            return Err(keys.refuse("clip_sample_range", "1", range.to_string(), ""));
        }
    } else {
        keys.tolerate(&["clip_sample_range"]);
    }
    let timesteps = keys.get("num_train_timesteps", 1000, "a positive whole number")?;
    let config = DiffusionConfig { timesteps, schedule, variance, clip_x0 };
    config.validate().map_err(|e| keys.in_file(e))?;
    keys.finish()?;
    Ok(config)
}

/// The text of a `scheduler_config.json` for diffusers' `DDPMScheduler`.
pub(super) fn text(config: &DiffusionConfig) -> String {
    let (name, start, end) = match config.schedule {
        BetaSchedule::Linear { start, end } => ("linear", start, end),
        // diffusers does not use the two numbers here; these are its defaults.
        BetaSchedule::Cosine => ("squaredcos_cap_v2", 1e-4, 0.02),
    };
    let variance = match config.variance {
        VarianceKind::FixedSmall => "fixed_small",
        VarianceKind::FixedLarge => "fixed_large",
    };
    let value = json!({
        "_class_name": "DDPMScheduler",
        "beta_end": end,
        "beta_schedule": name,
        "beta_start": start,
        "clip_sample": config.clip_x0,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": config.timesteps,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": false,
        "sample_max_value": 1.0,
        "steps_offset": 0,
        "thresholding": false,
        "timestep_spacing": "leading",
        "trained_betas": null,
        "variance_type": variance,
    });
    format!("{value:#}\n")
}
