//! What a network is trained to say and how its loss is weighed, from the command line.

use crate::config::{Config, LossWeight, Prediction, TimestepSampling, VarianceKind};
use crate::{Error, Result};
use clap::{Args, ValueEnum};

/// What a network is trained on, where it is not what the configuration says.
#[derive(Debug, Args)]
#[command(next_help_heading = "Objective")]
pub struct ObjectiveArgs {
    /// What the network predicts [default: epsilon, or what --config says; so with the others here]
    #[arg(long, value_enum, value_name = "NAME")]
    prediction: Option<PredictionName>,
    /// The reverse variance: a fixed one, which samplers take, or learned between the two (twice the
    /// channels)
    #[arg(long, value_enum, value_name = "NAME")]
    variance: Option<VarianceName>,
    /// How much the loss counts at each timestep
    #[arg(long, value_enum, value_name = "NAME")]
    loss_weight: Option<WeightName>,
    /// gamma of the weight [default: 5 for min-snr, 1 for p2]
    #[arg(long, value_name = "X", requires = "loss_weight", allow_negative_numbers = true)]
    loss_gamma: Option<f64>,
    /// k of the weight p2 [default: 1]
    #[arg(long, value_name = "X", requires = "loss_weight", allow_negative_numbers = true)]
    loss_k: Option<f64>,
    /// How timesteps are drawn
    #[arg(long, value_enum, value_name = "NAME")]
    timesteps: Option<TimestepsName>,
}

/// The names of the arguments, for those that do not go with them.
pub const OBJECTIVE: [&str; 6] =
    ["prediction", "variance", "loss_weight", "loss_gamma", "loss_k", "timesteps"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PredictionName {
    /// The noise, eps (Ho et al. 2020)
    #[value(alias = "eps")]
    Epsilon,
    /// The image, x_0
    #[value(alias = "x0", alias = "x_0")]
    Sample,
    /// v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans & Ho 2022)
    #[value(alias = "v-prediction", alias = "v_prediction")]
    V,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VarianceName {
    /// beta~_t, the posterior's
    #[value(alias = "fixed_small")]
    FixedSmall,
    /// beta_t
    #[value(alias = "fixed_large")]
    FixedLarge,
    /// What the network's second output says, by the hybrid loss (Nichol & Dhariwal 2021)
    #[value(alias = "learned_range")]
    LearnedRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WeightName {
    /// 1 on what the network predicts
    None,
    /// min(snr, gamma) on the error of x_0 (Hang et al. 2023)
    #[value(alias = "min_snr")]
    MinSnr,
    /// 1/(k + snr)^gamma on the error of eps (Choi et al. 2022)
    P2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TimestepsName {
    /// Each uniformly from all
    Uniform,
    /// One from each of as many equal strata as the batch has images
    Stratified,
}

impl ObjectiveArgs {
    /// Puts what was given into a configuration; the network's outputs follow its images' channels.
    pub fn apply(&self, config: &mut Config) -> Result<()> {
        if let Some(prediction) = self.prediction {
            config.diffusion.prediction = match prediction {
                PredictionName::Epsilon => Prediction::Epsilon,
                PredictionName::Sample => Prediction::Sample,
                PredictionName::V => Prediction::VPrediction,
            };
        }
        if let Some(variance) = self.variance {
            let diffusion = &mut config.diffusion;
            diffusion.learned_range = variance == VarianceName::LearnedRange;
            diffusion.variance = match variance {
                VarianceName::FixedSmall => VarianceKind::FixedSmall,
                VarianceName::FixedLarge => VarianceKind::FixedLarge,
                VarianceName::LearnedRange => diffusion.variance,
            };
            config.unet.out_channels = config.unet.in_channels * diffusion.outputs();
        }
        if let Some(timesteps) = self.timesteps {
            config.train.timesteps = match timesteps {
                TimestepsName::Uniform => TimestepSampling::Uniform,
                TimestepsName::Stratified => TimestepSampling::Stratified,
            };
        }
        if let Some(weight) = self.loss_weight {
            config.train.loss_weight = self.weight(weight)?;
        }
        Ok(())
    }

    fn weight(&self, name: WeightName) -> Result<LossWeight> {
        let unused = |flag: &str, given: Option<f64>, needed: &str| match given {
            None => Ok(()),
            Some(got) => Err(Error::invalid(
                flag,
                format!("to be given with --loss-weight {needed} only"),
                got.to_string(),
                "leave it out",
            )),
        };
        match name {
            WeightName::None => {
                unused("--loss-gamma", self.loss_gamma, "min-snr or p2")?;
                unused("--loss-k", self.loss_k, "p2")?;
                Ok(LossWeight::None)
            }
            WeightName::MinSnr => {
                unused("--loss-k", self.loss_k, "p2")?;
                Ok(LossWeight::MinSnr { gamma: self.loss_gamma.unwrap_or(5.0) })
            }
            WeightName::P2 => {
                Ok(LossWeight::P2 { k: self.loss_k.unwrap_or(1.0), gamma: self.loss_gamma.unwrap_or(1.0) })
            }
        }
    }
}
