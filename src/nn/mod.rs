//! The layers: one file each, forward and backward side by side, the derivation in the doc comment.
//!
//! A layer works on one sample (or, where rows are independent, on any number of rows), channels last.
//! Scratch and saved values are lent by the executor, so no layer allocates. Parameters' gradients are added
//! to what is there; an input's is added or, where it is the first, set.

mod attention;
mod conv;
mod elementwise;
mod favor_attention;
mod favor_backward;
mod favor_features;
mod favor_shares;
mod group_norm;
mod linear;
mod reductions;
mod softmax_attention;
mod time_embedding;

pub use attention::{Attention, Projections};
pub use conv::Conv;
pub use elementwise::{
    add_channels, add_channels_backward, add_scaled, add_to, concat, concat_backward, pass, scale_by,
    silu_backward, upsample, upsample_backward,
};
pub use favor_features::{DENOMINATOR_GUARD, guarded};
pub use group_norm::GroupNorm;
pub use linear::Linear;
pub use time_embedding::time_embedding;

#[cfg(test)]
pub(crate) mod gradient_check;
