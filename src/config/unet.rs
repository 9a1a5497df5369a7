//! The U-Net's configuration, with diffusers' names and meaning (`UNet2DModel`; Ho et al. 2020, appendix B).

use super::{Activation, AttentionKind, FavorConfig, Resampling, TimeScaleShift};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A level's entry in a configuration: whether its blocks attend, and how. The feature map of FAVOR+ is the
/// whole network's; [`UnetConfig::attention_kind`] puts the two together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockAttention {
    /// No attention.
    None,
    /// Exact softmax attention, equation (22).
    Softmax,
    /// FAVOR+ attention, equation (26), with the network's [`FavorConfig`].
    Favor,
}

impl From<AttentionKind> for BlockAttention {
    fn from(kind: AttentionKind) -> BlockAttention {
        match kind {
            AttentionKind::Softmax => BlockAttention::Softmax,
            AttentionKind::Favor(_) => BlockAttention::Favor,
        }
    }
}

/// A U-Net of residual blocks with attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Image height and width in pixels.
    pub sample_size: [usize; 2],
    /// Channels of x_t.
    pub in_channels: usize,
    /// Channels of the output: those of x_t, or twice as many where the network predicts a variance too.
    pub out_channels: usize,
    /// Channels of each level, the full resolution first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Attention of each level on the way down.
    pub down_attention: Vec<BlockAttention>,
    /// Attention of the middle block.
    pub mid_attention: BlockAttention,
    /// Attention of each level on the way up, the lowest resolution first.
    pub up_attention: Vec<BlockAttention>,
    /// Channels of an attention head; `None` for one head over all channels.
    pub attention_head_dim: Option<usize>,
    /// Settings of FAVOR+ wherever a block uses it.
    pub favor: FavorConfig,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Groups of the middle attention's normalisation, where they differ. As in diffusers, the middle
    /// attention has no normalisation where this is `None` and `resnet_time_scale_shift` is `scale_shift`.
    pub attn_norm_num_groups: Option<usize>,
    /// The constant added to a normalisation's variance.
    pub norm_eps: f64,
    /// Zero border of a downsampling convolution: 1 on every side, or 0 for one row below and one column to
    /// the right.
    pub downsample_padding: usize,
    /// Whether the time embedding is \[cos, sin\] (true) or Ho's \[sin, cos\] (false).
    pub flip_sin_to_cos: bool,
    /// Subtracted from the denominator of the time embedding's frequencies: 1 in Ho's code.
    pub freq_shift: f64,
    /// Divisor of the middle block's residual sums.
    pub mid_block_scale_factor: f64,
    /// Dropout between a residual block's second activation and convolution.
    pub dropout: f64,
    /// The activation function of the residual blocks. The one in the time embedding and the one before the
    /// last convolution are SiLU in every network.
    #[serde(default)]
    pub act_fn: Activation,
    /// How the time embedding enters the residual blocks.
    #[serde(default)]
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How each level on the way down halves the resolution; no entries for convolutions everywhere. The
    /// levels that attend have to agree: diffusers has one `downsample_type` for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downsampling: Vec<Resampling>,
    /// How each level on the way up, the lowest resolution first, doubles the resolution; likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upsampling: Vec<Resampling>,
    /// Whether the network takes images in \[0, 1\] and computes with 2 x - 1.
    #[serde(default)]
    pub center_input_sample: bool,
    /// The number of classes, one for "none of them" included where there is one; `None` for a network that
    /// takes no classes. Each has a trained vector, which is added to the time embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_class_embeds: Option<usize>,
    /// What the classes are called, by their indices; one fewer than `num_class_embeds` where the last of
    /// those is the [null class](UnetConfig::null_class). None for classes without names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
}

impl UnetConfig {
    /// The kind of attention that an entry stands for in this network; `None` where nothing attends.
    pub fn attention_kind(&self, block: BlockAttention) -> Option<AttentionKind> {
        match block {
            BlockAttention::None => None,
            BlockAttention::Softmax => Some(AttentionKind::Softmax),
            BlockAttention::Favor => Some(AttentionKind::Favor(self.favor.map)),
        }
    }

    /// How a level on the way down halves the resolution.
    pub fn downsampling_of(&self, level: usize) -> Resampling {
        self.downsampling.get(level).copied().unwrap_or_default()
    }

    /// How a level on the way up, counted from the lowest resolution, doubles the resolution.
    pub fn upsampling_of(&self, level: usize) -> Resampling {
        self.upsampling.get(level).copied().unwrap_or_default()
    }

    /// Groups of the middle attention's normalisation; `None` where it has none.
    pub fn mid_attention_groups(&self) -> Option<usize> {
        self.attn_norm_num_groups.or(match self.resnet_time_scale_shift {
            TimeScaleShift::Default => Some(self.norm_num_groups),
            TimeScaleShift::ScaleShift => None,
        })
    }

    /// Every entry: the levels on the way down, those on the way up, the middle block.
    pub fn attention_blocks(&self) -> impl Iterator<Item = BlockAttention> {
        self.down_attention.iter().chain(&self.up_attention).chain([&self.mid_attention]).copied()
    }

    /// Gives the blocks whose entry `chosen` picks attention of this kind; a feature map becomes the whole
    /// network's.
    pub fn set_attention(&mut self, kind: AttentionKind, chosen: impl Fn(BlockAttention) -> bool) {
        self.favor.map = kind.map().unwrap_or(self.favor.map);
        let blocks =
            self.down_attention.iter_mut().chain(&mut self.up_attention).chain([&mut self.mid_attention]);
        blocks.filter(|block| chosen(**block)).for_each(|block| *block = kind.into());
    }

    /// The same network with attention of this kind in the blocks that are compared: those that attend by
    /// FAVOR+, or, where none does, all that attend. A block whose few tokens are better served by softmax so
    /// keeps it in every variant.
    #[must_use]
    pub fn with_attention(&self, kind: AttentionKind) -> UnetConfig {
        let favor = self.attention_blocks().any(|block| block == BlockAttention::Favor);
        let compared = if favor { BlockAttention::Favor } else { BlockAttention::Softmax };
        let mut unet = self.clone();
        unet.set_attention(kind, |block| block == compared);
        unet
    }

    /// Checks sizes against each other.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key that does not fit, and the sizes that would.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, expected: String, got: String, help: &str| {
            Err(Error::invalid(format!("unet.{key}"), expected, got, help))
        };
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 12 {
            return fail("block_out_channels", "1 to 12 levels".into(), levels.to_string(), "");
        }
        for (key, n) in
            [("down_attention", self.down_attention.len()), ("up_attention", self.up_attention.len())]
        {
            if n != levels {
                return fail(key, format!("{levels} entries, one per level"), n.to_string(), "");
            }
        }
        for (key, ways, attention) in [
            ("downsampling", &self.downsampling, &self.down_attention),
            ("upsampling", &self.upsampling, &self.up_attention),
        ] {
            if !ways.is_empty() && ways.len() != levels {
                let expected = format!("{levels} entries, one per level, or none for convolutions");
                return fail(key, expected, ways.len().to_string(), "");
            }
            let mut attending =
                ways.iter().zip(attention).filter(|(_, attention)| **attention != BlockAttention::None);
            let first = attending.next();
            if attending.any(|(way, _)| Some(way) != first.map(|(way, _)| way)) {
                return fail(
                    key,
                    "the same at all levels that attend".into(),
                    format!("{ways:?}"),
                    "levels without attention may differ",
                );
            }
        }
        if let Some(classes) = self.num_class_embeds
            && !(1..=1 << 20).contains(&classes)
        {
            let help = "leave it out for a network without classes";
            return fail("num_class_embeds", "1 to 1048576".into(), classes.to_string(), help);
        }
        self.validate_class_names()?;
        let channels = self.block_out_channels.iter().map(|n| ("block_out_channels", *n, 1 << 14));
        let numbers = [
            ("in_channels", self.in_channels, 1 << 10),
            ("out_channels", self.out_channels, 1 << 10),
            ("layers_per_block", self.layers_per_block, 64),
            ("norm_num_groups", self.norm_num_groups, 1 << 14),
            ("sample_size", self.sample_size[0], 1 << 12),
            ("sample_size", self.sample_size[1], 1 << 12),
        ];
        for (key, n, most) in numbers.into_iter().chain(channels) {
            if n == 0 || n > most {
                return fail(key, format!("1 to {most}"), n.to_string(), "");
            }
        }
        let factor = 1 << (levels - 1);
        for side in self.sample_size {
            if side % factor != 0 {
                let (below, above) = (side / factor * factor, side.div_ceil(factor) * factor);
                let near = if below == 0 { above.to_string() } else { format!("{below} or {above}") };
                return fail(
                    "sample_size",
                    format!(
                        "height and width divisible by {factor} for {levels} levels (near {side}: {near})"
                    ),
                    format!("{} x {}", self.sample_size[0], self.sample_size[1]),
                    "give the images another `size` or use fewer levels",
                );
            }
        }
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            if channels % self.norm_num_groups != 0 {
                return fail(
                    "block_out_channels",
                    format!("multiples of norm_num_groups = {}", self.norm_num_groups),
                    channels.to_string(),
                    "",
                );
            }
            let attends = self.down_attention[i] != BlockAttention::None
                || self.up_attention[levels - 1 - i] != BlockAttention::None
                || (i == levels - 1 && self.mid_attention != BlockAttention::None);
            let head = self.attention_head_dim.unwrap_or(channels);
            if attends && (head == 0 || channels % head != 0) {
                return fail(
                    "attention_head_dim",
                    format!("a divisor of the level's {channels} channels"),
                    head.to_string(),
                    "",
                );
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) || self.block_out_channels[0] < 4 {
            return fail(
                "block_out_channels",
                "an even number of at least 4 channels at the first level (the time embedding's sine and \
                 cosine halves)"
                    .into(),
                self.block_out_channels[0].to_string(),
                "",
            );
        }
        if let Some(groups) = self.attn_norm_num_groups
            && (groups == 0 || !self.block_out_channels[levels - 1].is_multiple_of(groups))
        {
            return fail(
                "attn_norm_num_groups",
                "a divisor of the last level's channels".into(),
                groups.to_string(),
                "",
            );
        }
        if self.downsample_padding > 1 {
            return fail("downsample_padding", "0 or 1".into(), self.downsample_padding.to_string(), "");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", "at least 0 and below 1".into(), self.dropout.to_string(), "");
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return fail("norm_eps", "a positive number".into(), self.norm_eps.to_string(), "");
        }
        if !(self.mid_block_scale_factor > 0.0 && self.mid_block_scale_factor.is_finite()) {
            return fail(
                "mid_block_scale_factor",
                "a positive number".into(),
                self.mid_block_scale_factor.to_string(),
                "",
            );
        }
        let half = (self.block_out_channels[0] / 2) as f64;
        if !(self.freq_shift.is_finite() && self.freq_shift < half) {
            return fail("freq_shift", format!("below {half}"), self.freq_shift.to_string(), "");
        }
        if self.favor.features == 0 || self.favor.features > 1 << 16 {
            return fail("favor.features", "1 to 65536".into(), self.favor.features.to_string(), "");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FeatureMap, Preset};
    use BlockAttention::{Favor, None as Plain, Softmax};

    #[test]
    fn the_blocks_with_favor_are_exchanged_and_others_stay() {
        let base = Preset::Fashion.config().unet;
        let softmax = base.with_attention(AttentionKind::Softmax);
        assert_eq!(softmax, Preset::FashionSoftmax.config().unet);
        let relu = base.with_attention(AttentionKind::Favor(FeatureMap::Relu));
        assert_eq!(
            (relu.down_attention, relu.mid_attention, relu.favor.map),
            (vec![Favor, Favor, Plain], Softmax, FeatureMap::Relu)
        );
    }

    #[test]
    fn without_favor_every_attending_block_is_exchanged() {
        let favor = Preset::FashionSoftmax.config().unet.with_attention(AttentionKind::FAVOR);
        assert_eq!((favor.down_attention, favor.mid_attention), (vec![Favor, Favor, Plain], Favor));
    }
}
