//! Which networks can be compared.

use crate::config::{BlockAttention, UnetConfig};

/// Whether a network has attention anywhere.
pub(super) fn attends(unet: &UnetConfig) -> bool {
    unet.attention_blocks().any(|block| block != BlockAttention::None)
}
