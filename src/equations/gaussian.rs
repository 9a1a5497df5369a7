//! Gaussians with one variance for all components: the densities and divergences that the equations use.

/// ln N(x; mean, variance I).
///
/// # Panics
/// If the lengths differ.
pub fn log_density(x: &[f64], mean: &[f64], variance: f64) -> f64 {
    assert_eq!(x.len(), mean.len());
    let squares: f64 = x.iter().zip(mean).map(|(x, m)| (x - m) * (x - m)).sum();
    -0.5 * (squares / variance + x.len() as f64 * (std::f64::consts::TAU * variance).ln())
}

/// KL( N(mean_q, variance_q I) || N(mean_p, variance_p I) ) in nats.
///
/// # Panics
/// If the lengths differ.
pub fn kl_divergence(mean_q: &[f64], variance_q: f64, mean_p: &[f64], variance_p: f64) -> f64 {
    assert_eq!(mean_q.len(), mean_p.len());
    let squares: f64 = mean_q.iter().zip(mean_p).map(|(q, p)| (q - p) * (q - p)).sum();
    let ratio = variance_q / variance_p;
    0.5 * (squares / variance_p + mean_q.len() as f64 * (ratio - 1.0 - ratio.ln()))
}

/// The standard normal distribution function; its relative error is `f64` rounding on the whole line.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known values, to rounding.
    #[test]
    fn densities_divergences_and_the_distribution_function() {
        assert!((log_density(&[0.0, 0.0], &[0.0, 0.0], 1.0) + std::f64::consts::TAU.ln()).abs() < 1e-15);
        assert!(
            (log_density(&[2.0], &[0.0], 4.0) - (-0.5 - 0.5 * (4.0 * std::f64::consts::TAU).ln())).abs()
                < 1e-15
        );
        assert_eq!(kl_divergence(&[1.0, 2.0], 0.5, &[1.0, 2.0], 0.5), 0.0);
        assert!(
            (kl_divergence(&[3.0], 1.0, &[1.0], 2.0) - 0.5 * (2.0 + 0.5 - 1.0 + 2f64.ln())).abs() < 1e-15
        );
        assert_eq!(normal_cdf(0.0), 0.5);
        assert!((normal_cdf(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((normal_cdf(-8.0) / 6.220_960_574_271_785e-16 - 1.0).abs() < 1e-13);
        assert_eq!((normal_cdf(f64::NEG_INFINITY), normal_cdf(f64::INFINITY)), (0.0, 1.0));
    }
}
