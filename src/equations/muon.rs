//! The numbers of Muon (Jordan et al. 2024), which makes the momentum of a weight matrix nearly orthogonal.
//!
//! With U, the momentum \[rows, columns\], O comes from U / |U| by five steps of a Newton-Schulz iteration, X
//! <- p(X X^T) X with p(y) = a + b y + c y^2. Each maps every singular value s to s p(s^2), and five of them map
//! what lies between 0.0045 and 1 to between 0.68 and 1.21; the singular vectors stay. All these polynomials
//! are of one matrix Y = U U^T / |U|^2, or of U^T U / |U|^2 where U has fewer columns than rows, and so commute:
//! with Y <- p(Y)^2 Y and P <- p(Y) P only small matrices are multiplied five times, and U once, O = P U / |U|.
//!
//! An exactly orthogonal O has the root-mean-square 1 / sqrt(max(rows, columns)). W <- W - lr 0.2 sqrt(max(rows,
//! columns)) O therefore moves by 0.2 lr, about as far as with Adam (Liu et al. 2025, section 2.2), and one
//! learning rate serves both.

/// a, b and c of p(y) = a + b y + c y^2 (Jordan et al. 2024).
pub const NEWTON_SCHULZ: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// Steps of the iteration.
pub const NEWTON_SCHULZ_STEPS: usize = 5;

/// The root-mean-square of a matrix's step in learning rates (Liu et al. 2025, section 2.2).
pub const STEP_SIZE: f64 = 0.2;

/// What is added to |U|^2, so that a matrix without gradient stays as it is.
pub const LEAST_SQUARE: f64 = 1e-20;

/// What a singular value between 0 and 1 becomes.
pub fn newton_schulz(singular_value: f64) -> f64 {
    let [a, b, c] = NEWTON_SCHULZ;
    (0..NEWTON_SCHULZ_STEPS).fold(singular_value, |s, _| s * (a + b * s * s + c * s.powi(4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a fine grid, with the bounds that the module's text has.
    #[test]
    fn singular_values_come_near_1() {
        for i in 0..=100_000 {
            let s = 0.0045 + (1.0 - 0.0045) * f64::from(i) / 1e5;
            assert!((0.68..=1.21).contains(&newton_schulz(s)), "{s}: {}", newton_schulz(s));
        }
        assert_eq!(newton_schulz(0.0), 0.0);
        assert!(newton_schulz(1e-6) < 4.9e-4);
    }
}
