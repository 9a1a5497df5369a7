//! The networks that are compared: one architecture with different kinds of attention.

use crate::config::{BlockAttention, FeatureMap, UnetConfig};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A kind of attention under comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Exact attention, equation (22).
    Softmax,
    /// FAVOR+ with positive features, equations (25) and (26).
    Favor,
    /// FAVOR+ with hyperbolic positive features.
    FavorHyperbolic,
    /// FAVOR+ with trigonometric features.
    FavorTrig,
    /// FAVOR+ with ReLU features: a kernel of its own.
    Relu,
}

impl Variant {
    /// Softmax first, then the feature maps.
    pub const ALL: [Variant; 5] =
        [Variant::Softmax, Variant::Favor, Variant::FavorHyperbolic, Variant::FavorTrig, Variant::Relu];

    /// Its name, and that of its run's folder.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Softmax => "softmax",
            Variant::Favor => "favor",
            Variant::FavorHyperbolic => "favor-hyperbolic",
            Variant::FavorTrig => "favor-trig",
            Variant::Relu => "relu",
        }
    }

    /// Its feature map; `None` for softmax.
    pub fn map(self) -> Option<FeatureMap> {
        match self {
            Variant::Softmax => None,
            Variant::Favor => Some(FeatureMap::Positive),
            Variant::FavorHyperbolic => Some(FeatureMap::Hyperbolic),
            Variant::FavorTrig => Some(FeatureMap::Trigonometric),
            Variant::Relu => Some(FeatureMap::Relu),
        }
    }

    /// `base` with this attention in the blocks that are compared: those with FAVOR+ in `base`, or all blocks
    /// with attention where none has FAVOR+. So a block that uses softmax because it has few tokens keeps it
    /// in every variant.
    pub fn of(self, base: &UnetConfig) -> UnetConfig {
        let compared = if blocks(base).any(|block| block == BlockAttention::Favor) {
            BlockAttention::Favor
        } else {
            BlockAttention::Softmax
        };
        let mut unet = base.clone();
        let kind = match self.map() {
            None => BlockAttention::Softmax,
            Some(map) => {
                unet.favor.map = map;
                BlockAttention::Favor
            }
        };
        let all =
            unet.down_attention.iter_mut().chain(&mut unet.up_attention).chain([&mut unet.mid_attention]);
        all.filter(|block| **block == compared).for_each(|block| *block = kind);
        unet
    }
}

fn blocks(unet: &UnetConfig) -> impl Iterator<Item = BlockAttention> {
    unet.down_attention.iter().chain(&unet.up_attention).chain([&unet.mid_attention]).copied()
}

/// Whether a network has attention anywhere.
pub(super) fn attends(unet: &UnetConfig) -> bool {
    blocks(unet).any(|block| block != BlockAttention::None)
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(name: &str) -> Result<Variant> {
        let found = Self::ALL.into_iter().find(|variant| variant.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Variant::name).join(", ");
            Error::invalid("a variant", format!("one of {names}"), name, "")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use BlockAttention::{Favor, None as Plain, Softmax};

    #[test]
    fn the_blocks_with_favor_are_exchanged_and_others_stay() {
        let base = Preset::Fashion.config().unet;
        let softmax = Variant::Softmax.of(&base);
        assert_eq!(softmax, Preset::FashionSoftmax.config().unet);
        let relu = Variant::Relu.of(&base);
        assert_eq!(
            (relu.down_attention, relu.mid_attention, relu.favor.map),
            (vec![Favor, Favor, Plain], Softmax, FeatureMap::Relu)
        );
    }

    #[test]
    fn without_favor_every_attending_block_is_exchanged() {
        let favor = Variant::Favor.of(&Preset::FashionSoftmax.config().unet);
        assert_eq!((favor.down_attention, favor.mid_attention), (vec![Favor, Favor, Plain], Favor));
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for variant in Variant::ALL {
            assert_eq!(variant.name().parse::<Variant>().unwrap(), variant);
            let json = serde_json::to_string(&variant).unwrap();
            assert_eq!(json, format!("\"{variant}\""));
        }
        let message = "favour".parse::<Variant>().unwrap_err().to_string();
        assert!(message.contains("favor-trig") && message.contains("favour"), "{message}");
    }
}
