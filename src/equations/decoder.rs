//! The discretised Gaussian decoder of L_0: p_theta(x_0 | x_1) for pixels that take 256 values.

use super::gaussian::normal_cdf;
use crate::real::Real;

/// The smallest probability that a pixel is given, as in the code of Ho et al. (2020), so that no logarithm
/// is infinite.
pub const PROBABILITY_FLOOR: f64 = 1e-12;

/// Half the width of a pixel value's bin.
pub(crate) const HALF_BIN: f64 = 1.0 / 255.0;
/// A number between the last two pixel values, since data may differ from them by rounding.
pub(crate) const LAST: f64 = 0.999;

/// The value in [-1, 1] of a pixel's byte.
pub fn pixel(byte: u8) -> f64 {
    f64::from(byte) / 127.5 - 1.0
}

/// The probability that N(mean, sigma^2) gives the pixel value `x0`: its mass on (x0 - 1/255, x0 + 1/255),
/// where the bins of -1 and of 1 reach to infinity; at least [`PROBABILITY_FLOOR`]. The normal distribution
/// function is exact here; the code of Ho et al. approximates it by a tanh.
///
/// Source: Ho et al. (2020), section 3.3, equation 13.
pub fn eq17_pixel_probability(x0: f64, mean: f64, sigma: f64) -> f64 {
    let [low, high] = bin(x0, mean, sigma);
    // Far above the mean the distribution function rounds to 1 at both ends of the bin: use the mirror image.
    let mass =
        if low > 0.0 { normal_cdf(-low) - normal_cdf(-high) } else { normal_cdf(high) - normal_cdf(low) };
    mass.max(PROBABILITY_FLOOR)
}

/// The derivative of the logarithm of [`eq17_pixel_probability`] in ln sigma^2: with the bin's ends l and h
/// in standard deviations from the mean and phi the normal density, ( l phi(l) - h phi(h) ) / 2 over the
/// probability; 0 where the probability is the floor.
pub fn eq17_pixel_slope(x0: f64, mean: f64, sigma: f64) -> f64 {
    let mass = eq17_pixel_probability(x0, mean, sigma);
    if mass == PROBABILITY_FLOOR {
        return 0.0;
    }
    let part = |end: f64| {
        let density = (-0.5 * end * end).exp() / std::f64::consts::TAU.sqrt();
        if end.is_infinite() { 0.0 } else { end * density }
    };
    let [low, high] = bin(x0, mean, sigma).map(part);
    0.5 * (low - high) / mass
}

/// The ends of a pixel value's bin in standard deviations from the mean.
fn bin(x0: f64, mean: f64, sigma: f64) -> [f64; 2] {
    let low = if x0 < -LAST { f64::NEG_INFINITY } else { (x0 - HALF_BIN - mean) / sigma };
    let high = if x0 > LAST { f64::INFINITY } else { (x0 + HALF_BIN - mean) / sigma };
    [low, high]
}

/// ln p_theta(x_0 | x_1): the sum of the pixels' log-probabilities around `mean`, in nats.
///
/// # Panics
/// If the lengths differ.
pub fn eq17_log_decoder<T: Real>(x0: &[T], mean: &[T], sigma: f64) -> f64 {
    assert_eq!(x0.len(), mean.len());
    x0.iter().zip(mean).map(|(x, m)| eq17_pixel_probability(x.f64(), m.f64(), sigma).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eq17_pixels_reach_from_minus_one_to_one() {
        assert_eq!((pixel(0), pixel(255)), (-1.0, 1.0));
        assert!((pixel(1) - pixel(0) - 2.0 / 255.0).abs() < 1e-16);
    }

    /// The edge bins take all the mass beyond them, vanishing probabilities are raised to the floor, and
    /// mirror images agree (up to rounding).
    #[test]
    fn eq17_edges_floor_and_symmetry() {
        assert!((eq17_pixel_probability(1.0, 50.0, 0.5) - 1.0).abs() < 1e-15);
        assert!((eq17_pixel_probability(-1.0, -50.0, 0.5) - 1.0).abs() < 1e-15);
        // Data that has been through f32 may miss the edge by an ulp; its bin is still the last one.
        assert!(eq17_pixel_probability(f64::from(1.0f32 - 1e-7), 50.0, 0.5) > 0.99);
        assert_eq!(eq17_pixel_probability(0.0, 3.0, 0.1), PROBABILITY_FLOOR);
        // The second-last pixel is an inner bin.
        assert_eq!(eq17_pixel_probability(pixel(254), 3.0, 0.1), PROBABILITY_FLOOR);
        assert_eq!(eq17_pixel_probability(pixel(1), -3.0, 0.1), PROBABILITY_FLOOR);
        for byte in 0..128 {
            let (left, right) = (pixel(byte), pixel(255 - byte));
            let (a, b) = (eq17_pixel_probability(left, 0.3, 0.12), eq17_pixel_probability(right, -0.3, 0.12));
            assert!((a / b - 1.0).abs() < 1e-9, "{byte}: {a} {b}");
        }
    }

    #[test]
    fn eq17_log_probabilities_add_up() {
        let both = eq17_log_decoder(&[pixel(3), pixel(200)], &[-0.9, 0.5], 0.1);
        let each = eq17_log_decoder(&[pixel(3)], &[-0.9], 0.1) + eq17_log_decoder(&[pixel(200)], &[0.5], 0.1);
        assert!((both - each).abs() < 1e-14);
    }
}
