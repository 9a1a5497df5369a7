//! An annex to the slides: what a network may be trained on beside (21).
//!
//! Its equations are numbered (O1) to (O8):
//!
//! | number | what | where |
//! |---|---|---|
//! | (O1) | the target: eps, x_0 or v | [`o01_target`] |
//! | (O2) | the signal-to-noise ratio | [`o02_snr`] |
//! | (O3), (O4) | min-SNR-gamma's and P2's weights of the loss | [`o03_min_snr`], [`o04_p2`] |
//! | (O5) | a learned variance between beta~_t and beta_t | [`o05_log_variance`] |
//! | (O6) | the bound's term at t with such a variance | [`LearnedRange::o06_term`] |
//! | (O7) | the loss, with the bound's term for the variance, and its gradient | [`Objective::o07_gradient`] |
//! | (O8) | timesteps from strata | [`o08_stratified`] |
//!
//! (21) and Algorithm 1 are what they are without all of this; [`Objective::default`] is (21).

mod learned;
mod loss;
mod target;
mod timesteps;
mod variance;
mod weight;

pub use learned::LearnedRange;
pub use loss::{Objective, Shard, VARIANCE_SHARE};
pub use target::{Parameterisation, o01_target};
pub use timesteps::o08_stratified;
pub use variance::o05_log_variance;
pub use weight::{o02_snr, o03_min_snr, o04_p2};

#[cfg(test)]
mod tests;
