//! The plan of a comparison: made before it begins and saved with its results.

use super::budget::Budget;
use super::json::{first_difference, json};
use super::sizes::{ApproximationSizes, ConversionSizes, CostSizes, FullResolution, Measuring};

use super::variant::attends;
use crate::config::{AttentionKind, BlockAttention, Config, UnetConfig};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::str::FromStr;

/// A part of the comparison, which can be done without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The runs of the variants, and what is measured of them.
    Runs,
    /// Training at a higher resolution with attention at every pixel.
    FullResolution,
    /// Time and memory of the attention layer alone.
    Cost,
    /// The error of the random features.
    Approximation,
    /// Softmax weights run with FAVOR+.
    Conversion,
}

impl Part {
    /// In the order in which they are done.
    pub const ALL: [Part; 5] =
        [Part::Runs, Part::FullResolution, Part::Cost, Part::Approximation, Part::Conversion];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Part::Runs => "runs",
            Part::FullResolution => "full-resolution",
            Part::Cost => "cost",
            Part::Approximation => "approximation",
            Part::Conversion => "conversion",
        }
    }
}

impl Part {
    /// What the part does, in a few words.
    pub fn summary(self) -> &'static str {
        match self {
            Part::Runs => {
                "Each variant trained for the budget; loss, speed, memory, samples from the same noise"
            }
            Part::FullResolution => {
                "The images enlarged to 64x64 with attention at every pixel, FAVOR+ and softmax"
            }
            Part::Cost => "Time and memory of the attention layer, over L and m",
            Part::Approximation => "The error of the random features over m",
            Part::Conversion => {
                "The softmax run's weights run with FAVOR+, and what a short fine-tuning restores"
            }
        }
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(name: &str) -> Result<Part> {
        let found = Self::ALL.into_iter().find(|part| part.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Part::name).join(", ");
            Error::invalid("a part", format!("one of {names}"), name, "")
        })
    }
}

/// Everything that determines the result of a comparison, except the features network, which can be added
/// later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The preset's or the configuration file's name.
    pub name: String,
    /// The network, whose attention the variants exchange, the diffusion process and Algorithm 1's settings.
    pub config: Config,
    /// What is compared.
    pub variants: Vec<AttentionKind>,
    /// Each variant's budget.
    pub budget: Budget,
    /// Threads.
    pub threads: usize,
    /// The instruction set's name.
    pub isa: String,
    /// The convolutions' algorithm.
    pub conv: String,
    /// How the trained models are measured.
    pub measuring: Measuring,
    /// Training at a higher resolution.
    pub full_resolution: FullResolution,
    /// The attention layer alone.
    pub cost: CostSizes,
    /// The random features' error.
    pub approximation: ApproximationSizes,
    /// Softmax weights run with FAVOR+.
    pub conversion: ConversionSizes,
}

/// The longer side of images at full resolution.
const FULL_SIDE: usize = 64;

impl Plan {
    /// The plan for a budget: with a short budget, models are measured on fewer images and timesteps; the
    /// report states how many.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a budget of 0 steps or a number of minutes that is not positive, for no
    /// variants, and for a network without attention.
    pub fn new(
        name: impl Into<String>,
        config: &Config,
        variants: &[AttentionKind],
        budget: Budget,
        threads: usize,
        kernels: Kernels,
    ) -> Result<Plan> {
        config.validate()?;
        match budget {
            Budget::Steps(0) => return Err(Error::invalid("`Budget::Steps`", "at least 1", "0", "")),
            Budget::Minutes(minutes) if !(minutes > 0.0 && minutes.is_finite()) => {
                return Err(Error::invalid(
                    "`Budget::Minutes`",
                    "a positive number",
                    minutes.to_string(),
                    "",
                ));
            }
            _ => {}
        }
        let unique: BTreeSet<AttentionKind> = variants.iter().copied().collect();
        if variants.is_empty() || unique.len() != variants.len() {
            return Err(Error::invalid("`Plan::variants`", "one or more, each once", list(variants), ""));
        }
        if !attends(&config.unet) {
            return Err(Error::invalid(
                "the configuration",
                "a network that attends somewhere",
                "none of its blocks does",
                "set unet.down_attention, mid_attention or up_attention",
            ));
        }
        let short = budget.is_short();
        let choose = |quick: usize, thorough: usize| if short { quick } else { thorough };
        let unet = &config.unet;
        let steps = 50.min(config.diffusion.timesteps);
        let (heads, dim) = heads(unet);
        Ok(Plan {
            name: name.into(),
            variants: variants.to_vec(),
            budget,
            threads,
            isa: kernels.isa.to_string(),
            conv: kernels.conv.to_string(),
            measuring: Measuring {
                images: choose(64, 512),
                timesteps: choose(20, 100).min(config.diffusion.timesteps),
                samples: choose(500, 2000),
                steps,
                grid: 32,
            },
            full_resolution: FullResolution {
                size: full_size(unet),
                batch: config.train.batch.min(8),
                budget: match budget {
                    Budget::Minutes(minutes) => Budget::Minutes(minutes / 2.0),
                    Budget::Steps(steps) => Budget::Steps((steps / 20).clamp(10.min(steps), 400)),
                },
                grid: 8,
            },
            cost: CostSizes {
                tokens: (6..=14).map(|k| 1 << k).collect(),
                features: vec![16, 32, 64, 128, 256],
                heads,
                dim,
                seconds: if short { 0.1 } else { 0.5 },
                most_seconds: if short { 10.0 } else { 60.0 },
            },
            approximation: ApproximationSizes {
                tokens: 64,
                dim,
                features: (2..=10).map(|k| 1 << k).collect(),
                draws: choose(40, 200),
                spreads: vec![0.5, 1.0],
            },
            conversion: ConversionSizes {
                features: (3..=9).map(|k| 1 << k).collect(),
                draws: choose(2, 5),
                images: choose(32, 128),
                timesteps: 20.min(config.diffusion.timesteps),
                samples: 8,
                tuned: vec![unet.favor.features, 4 * unet.favor.features],
                share: 0.1,
            },
            config: config.clone(),
        })
    }

    /// The configuration of a variant's run.
    pub fn run_config(&self, variant: AttentionKind) -> Config {
        let mut config = self.config.clone();
        config.unet = config.unet.with_attention(variant);
        self.budget.give(&mut config);
        config
    }

    /// The same at full resolution: the level of all pixels attends too.
    pub fn full_resolution_config(&self, variant: AttentionKind) -> Config {
        let mut config = self.config.clone();
        let unet = &mut config.unet;
        unet.sample_size = self.full_resolution.size;
        *unet = attending_everywhere(unet);
        config.unet = config.unet.with_attention(variant);
        // The run can be resumed by hand, on the enlarged images.
        config.data.size = Some(self.full_resolution.size);
        config.train.batch = self.full_resolution.batch;
        self.full_resolution.budget.give(&mut config);
        config
    }

    /// The first difference from another plan: the key, the value here, the value there.
    pub fn difference(&self, other: &Plan) -> Option<(String, String, String)> {
        first_difference("", &json(self), &json(other))
    }
}

/// FAVOR+ at the first level and wherever `unet` compares.
fn attending_everywhere(unet: &UnetConfig) -> UnetConfig {
    let mut unet = unet.with_attention(AttentionKind::FAVOR);
    unet.down_attention[0] = BlockAttention::Favor;
    if let Some(last) = unet.up_attention.last_mut() {
        *last = BlockAttention::Favor;
    }
    unet
}

/// The number of heads and the channels of a head at the first level with attention, or at the last level
/// where only the middle block has attention.
fn heads(unet: &UnetConfig) -> (usize, usize) {
    let levels = unet.block_out_channels.len();
    let attends = |level: &usize| {
        unet.down_attention[*level] != BlockAttention::None
            || unet.up_attention[levels - 1 - level] != BlockAttention::None
    };
    let channels = unet.block_out_channels[(0..levels).find(attends).unwrap_or(levels - 1)];
    let dim = unet.attention_head_dim.unwrap_or(channels);
    (channels / dim, dim)
}

/// The longer side enlarged to [`FULL_SIDE`] (never shrunk), the other in proportion, both divisible as the
/// levels need.
fn full_size(unet: &UnetConfig) -> [usize; 2] {
    let factor = 1 << (unet.block_out_channels.len() - 1);
    let longest = unet.sample_size[0].max(unet.sample_size[1]);
    let wanted = FULL_SIDE.max(longest);
    unet.sample_size.map(|side| (side * wanted).div_ceil(longest).next_multiple_of(factor))
}

pub(super) fn list(variants: &[AttentionKind]) -> String {
    variants.iter().map(|variant| variant.name()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FeatureMap, Preset};
    use crate::kernels::Isa;

    fn plan(preset: Preset, budget: Budget) -> Plan {
        Plan::new(preset.name(), &preset.config(), &AttentionKind::ALL, budget, 2, Isa::Reference.into())
            .unwrap()
    }

    #[test]
    fn a_plan_survives_json_and_differences_are_named() {
        let plan = plan(Preset::Fashion, Budget::Minutes(2.0));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert_eq!(plan.difference(&plan), None);
        let mut other = plan.clone();
        other.config.train.seed = 7;
        let (at, here, there) = plan.difference(&other).unwrap();
        assert_eq!((at.as_str(), here.as_str(), there.as_str()), ("config.train.seed", "0", "7"));
        other.config.train.seed = 0;
        other.budget = Budget::Steps(9);
        assert!(plan.difference(&other).unwrap().0.starts_with("budget"));
    }

    #[test]
    fn every_presets_networks_are_valid_for_every_variant_at_both_resolutions() {
        for preset in Preset::ALL {
            let plan = plan(preset, Budget::Steps(40));
            for variant in AttentionKind::ALL {
                plan.run_config(variant).validate().unwrap();
                let full = plan.full_resolution_config(variant);
                full.validate().unwrap();
                assert_eq!(full.unet.sample_size, [64, 64]);
                assert_ne!(full.unet.down_attention[0], BlockAttention::None);
            }
        }
    }

    #[test]
    fn the_rate_falls_to_its_end_with_the_budget() {
        let train = plan(Preset::Fashion, Budget::Steps(500))
            .run_config(AttentionKind::Favor(FeatureMap::Relu))
            .train;
        assert_eq!((train.steps, train.minutes, train.warmup_steps), (Some(500), None, 50));
        assert_eq!(train.lr_at(500), 0.01 * train.lr);
        let train = plan(Preset::Fashion, Budget::Minutes(2.0))
            .run_config(AttentionKind::Favor(FeatureMap::Relu))
            .train;
        assert_eq!((train.steps, train.minutes, train.warmup_steps), (None, Some(2.0), 100));
    }

    #[test]
    fn sizes_are_enlarged_in_proportion_and_never_shrunk() {
        let mut unet = Preset::Fashion.config().unet;
        unet.sample_size = [28, 20];
        assert_eq!(full_size(&unet), [64, 48]);
        unet.sample_size = [96, 96];
        assert_eq!(full_size(&unet), [96, 96]);
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        let config = Preset::Tiny.config();
        let refused = |config: &Config, variants: &[AttentionKind], budget, part: &str| {
            let plan = Plan::new("x", config, variants, budget, 1, Isa::Reference.into());
            let message = plan.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(&config, &AttentionKind::ALL, Budget::Steps(0), "Budget::Steps");
        refused(&config, &AttentionKind::ALL, Budget::Minutes(f64::NAN), "Budget::Minutes");
        refused(&config, &[], Budget::Steps(1), "Plan::variants");
        refused(&config, &[AttentionKind::Favor(FeatureMap::Relu); 2], Budget::Steps(1), "Plan::variants");
        let mut plain = config.clone();
        plain.unet.down_attention.fill(BlockAttention::None);
        plain.unet.up_attention.fill(BlockAttention::None);
        plain.unet.mid_attention = BlockAttention::None;
        refused(&plain, &AttentionKind::ALL, Budget::Steps(1), "attends somewhere");
    }
}
