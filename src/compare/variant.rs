//! The networks that are compared: one architecture with different kinds of attention.

use crate::config::{AttentionKind, BlockAttention, UnetConfig};

/// `base` with attention of this kind in the blocks that are compared: those that attend by FAVOR+ in `base`,
/// or, where none does, all that attend. A block whose few tokens are better served by softmax so keeps it in
/// every variant.
pub(super) fn with_attention(kind: AttentionKind, base: &UnetConfig) -> UnetConfig {
    let favor = base.attention_blocks().any(|block| block == BlockAttention::Favor);
    let compared = if favor { BlockAttention::Favor } else { BlockAttention::Softmax };
    let mut unet = base.clone();
    unet.set_attention(kind, |block| block == compared);
    unet
}

/// Whether a network has attention anywhere.
pub(super) fn attends(unet: &UnetConfig) -> bool {
    unet.attention_blocks().any(|block| block != BlockAttention::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FeatureMap, Preset};
    use BlockAttention::{Favor, None as Plain, Softmax};

    #[test]
    fn the_blocks_with_favor_are_exchanged_and_others_stay() {
        let base = Preset::Fashion.config().unet;
        let softmax = with_attention(AttentionKind::Softmax, &base);
        assert_eq!(softmax, Preset::FashionSoftmax.config().unet);
        let relu = with_attention(AttentionKind::Favor(FeatureMap::Relu), &base);
        assert_eq!(
            (relu.down_attention, relu.mid_attention, relu.favor.map),
            (vec![Favor, Favor, Plain], Softmax, FeatureMap::Relu)
        );
    }

    #[test]
    fn without_favor_every_attending_block_is_exchanged() {
        let favor = with_attention(AttentionKind::FAVOR, &Preset::FashionSoftmax.config().unet);
        assert_eq!((favor.down_attention, favor.mid_attention), (vec![Favor, Favor, Plain], Favor));
    }
}
