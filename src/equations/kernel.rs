//! What random features estimate: the kernels of (23).

use super::features::{FeatureMap, RELU_CONSTANT};
use ndarray::ArrayView1;
use std::f64::consts::PI;

/// (23) the kernel K(x, y) that `map` estimates: K(x, y) = E[ phi(x)^T phi(y) ] over w ~ N(0, I).
///
/// The softmax kernel exp(x^T y) for the positive, hyperbolic and trigonometric maps; for ReLU with constant
/// c
/// |x||y| (sin th + (pi - th) cos th)/(2 pi) + c (|x| + |y|)/sqrt(2 pi) + c^2, th the angle between x and y.
/// Attention's exp(q^T k / sqrt(d)) is the softmax kernel at x = q/d^(1/4), y = k/d^(1/4).
///
/// Source: Choromanski et al. (2021), section 2.2, equation 3 and Lemma 1; the ReLU term: Cho & Saul (2009),
/// degree 1.
///
/// # Panics
/// If the lengths differ.
pub fn eq23_kernel(map: FeatureMap, x: ArrayView1<f64>, y: ArrayView1<f64>) -> f64 {
    let dot = x.dot(&y);
    match map {
        FeatureMap::Positive | FeatureMap::Hyperbolic | FeatureMap::Trigonometric => dot.exp(),
        FeatureMap::Relu => {
            let (norm_x, norm_y) = (x.dot(&x).sqrt(), y.dot(&y).sqrt());
            let product = norm_x * norm_y;
            let angle = if product > 0.0 { (dot / product).clamp(-1.0, 1.0).acos() } else { 0.0 };
            let both = product * (angle.sin() + (PI - angle) * angle.cos()) / (2.0 * PI);
            both + RELU_CONSTANT * (norm_x + norm_y) / (2.0 * PI).sqrt() + RELU_CONSTANT * RELU_CONSTANT
        }
    }
}

/// (23)'s estimate phi(x)^T phi(y) of the kernel, from one draw of the projections.
///
/// # Panics
/// If the lengths differ.
pub fn eq23_estimate(phi_x: ArrayView1<f64>, phi_y: ArrayView1<f64>) -> f64 {
    phi_x.dot(&phi_y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// Angles of 0, 90 and 180 degrees: the arc-cosine kernel's known values 1/2, 1/(2 pi) and 0 of |x||y|,
    /// to rounding.
    #[test]
    fn eq23_relu_kernel_at_known_angles() {
        let c = RELU_CONSTANT;
        let rest = |norms: f64| c * norms / (2.0 * PI).sqrt() + c * c;
        let kernel = |x: [f64; 2], y: [f64; 2]| {
            eq23_kernel(FeatureMap::Relu, array![x[0], x[1]].view(), array![y[0], y[1]].view())
        };
        assert!((kernel([2.0, 0.0], [3.0, 0.0]) - 3.0 - rest(5.0)).abs() < 1e-14);
        assert!((kernel([2.0, 0.0], [0.0, 3.0]) - 3.0 / PI - rest(5.0)).abs() < 1e-14);
        assert!((kernel([2.0, 0.0], [-3.0, 0.0]) - rest(5.0)).abs() < 1e-14);
        assert!((kernel([2.0, 0.0], [0.0, 0.0]) - rest(2.0)).abs() < 1e-16);
    }
}
