//! A learned reverse variance.

use crate::real::Real;

/// (O5) ln sigma_t^2 = w ln beta_t + (1 - w) ln beta~_t with w = (u + 1)/2, for the network's second output u
/// and \[ln beta~_t, ln beta_t\]. u = -1 and u = 1 are the two choices of (7).
///
/// Source: Nichol & Dhariwal (2021), section 3.1, equation 15; w from u in \[-1, 1\]: their code.
pub fn o05_log_variance<T: Real>(u: T, [ln_small, ln_large]: [f64; 2]) -> T {
    let w = (u + T::one()) / T::of(2.0);
    w * T::of(ln_large) + (T::one() - w) * T::of(ln_small)
}
