//! How much the loss at each timestep counts, (O2)-(O4).
//!
//! An error of the prediction is one of x_0, by (S1): |x_0 - x_0^|^2 is |eps - eps^|^2 / snr and |v - v^|^2 /
//! (snr + 1). A weight that is stated for one of them is therefore known for the others.

use crate::config::{LossWeight, Prediction};

/// (O2) snr_t = abar_t / (1 - abar_t), the signal-to-noise ratio of x_t.
///
/// Source: Kingma et al. (2021), equation 2, for the process of Ho et al.
pub fn o02_snr(alpha_bar: f64) -> f64 {
    alpha_bar / (1.0 - alpha_bar)
}

/// (O3) min-SNR-gamma: min(snr, gamma) on the error of x_0, which is min(snr, gamma)/snr on that of eps and
/// min(snr, gamma)/(snr + 1) on that of v.
///
/// Source: Hang et al. (2023), section 3.4.
pub fn o03_min_snr(prediction: Prediction, snr: f64, gamma: f64) -> f64 {
    match prediction {
        // Not a quotient of two numbers that may both be 0.
        Prediction::Epsilon => (gamma / snr).min(1.0),
        Prediction::Sample => snr.min(gamma),
        Prediction::VPrediction => snr.min(gamma) / (snr + 1.0),
    }
}

/// (O4) P2: 1/(k + snr)^gamma on the error of eps, which is snr times that on the error of x_0 and snr/(snr +
/// 1) times that on the error of v.
///
/// Source: Choi et al. (2022), section 3, on L_simple.
pub fn o04_p2(prediction: Prediction, snr: f64, k: f64, gamma: f64) -> f64 {
    let on_eps = (k + snr).powf(-gamma);
    match prediction {
        Prediction::Epsilon => on_eps,
        Prediction::Sample => on_eps * snr,
        Prediction::VPrediction => on_eps * (snr / (snr + 1.0)),
    }
}

/// The weight of a configuration.
pub(super) fn weight(kind: LossWeight, prediction: Prediction, snr: f64) -> f64 {
    match kind {
        LossWeight::None => 1.0,
        LossWeight::MinSnr { gamma } => o03_min_snr(prediction, snr, gamma),
        LossWeight::P2 { k, gamma } => o04_p2(prediction, snr, k, gamma),
    }
}
