//! The layers: one file each, forward and backward side by side, the derivation in the doc comment.
//!
//! A layer works on one sample, or, where rows are independent, on any number of rows; channels come last. It
//! is made with its sizes, which are checked once, and refuses operands of other lengths. The caller lends
//! the [workspace](Context) and the memory for what is saved for the backward pass, so no layer allocates.
//! The gradients of parameters are added to what is there; the gradient of an input is added or, where it is
//! the first one written, [set](Update).

mod attention;
mod average_pool;
mod class_embedding;
mod conv;
mod elementwise;
mod favor_attention;
mod favor_backward;
mod favor_features;
mod favor_shares;
mod group_norm;
mod heads;
mod linear;
mod operands;
mod reductions;
mod scale_shift;
mod softmax_attention;
mod time_embedding;

pub use attention::Attention;
pub use conv::{Conv, Window};
pub use group_norm::{GroupNorm, GroupNormGradient};
pub use heads::{AttentionOutput, AttentionShape, Projections, Qkv, QkvGradient};
pub use linear::Linear;
pub use operands::{Affine, AffineGradient, Context, Update};

pub(crate) use average_pool::{average_pool, average_pool_backward};
pub(crate) use class_embedding::{class_embedding, class_embedding_backward};
pub(crate) use elementwise::{
    activate_backward, add_channels, add_channels_backward, add_scaled, add_to, center, concat,
    concat_backward, pass, scale_by, upsample, upsample_backward,
};
pub(crate) use favor_features::DENOMINATOR_GUARD;
pub(crate) use scale_shift::{scale_shift, scale_shift_backward_v, scale_shift_backward_x};
pub(crate) use time_embedding::time_embedding;

#[cfg(test)]
pub(crate) mod gradient_check;
