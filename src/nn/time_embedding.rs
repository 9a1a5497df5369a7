//! The sinusoidal embedding of the timestep (Vaswani et al. 2017; Ho et al. 2020).

use crate::real::Real;

/// out = \[sin(t w_0), .., sin(t w_{h-1}), cos(t w_0), .., cos(t w_{h-1})\] with h = out.len() / 2 and
/// w_i = exp(-i ln 10000 / (h - freq_shift)); cosines first if `flip_sin_to_cos`.
///
/// `index` is t - 1, as the paper's code and diffusers feed it. The angle is computed in f64 and the result
/// rounded once: in f32 the angle alone would be off by 6e-5 at t = 1000.
pub fn time_embedding<T: Real>(index: usize, flip_sin_to_cos: bool, freq_shift: f64, out: &mut [T]) {
    let half = out.len() / 2;
    let (first, second) = out.split_at_mut(half);
    for i in 0..half {
        let frequency = (-(i as f64) * 10000f64.ln() / (half as f64 - freq_shift)).exp();
        let (sin, cos) = (index as f64 * frequency).sin_cos();
        let (a, b) = if flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
        (first[i], second[i]) = (T::of(a), T::of(b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tolerance 1e-15: one rounding of sine and cosine.
    #[test]
    fn embeddings_are_the_definitions() {
        let mut out = [0f64; 6];
        time_embedding(7, false, 1.0, &mut out);
        let w: [f64; 3] = [1.0, 1e-2, 1e-4];
        for i in 0..3 {
            assert!((out[i] - (7.0 * w[i]).sin()).abs() < 1e-15);
            assert!((out[3 + i] - (7.0 * w[i]).cos()).abs() < 1e-15);
        }
        let mut flipped = [0f64; 6];
        time_embedding(7, true, 1.0, &mut flipped);
        assert_eq!((&flipped[..3], &flipped[3..]), (&out[3..], &out[..3]));
        time_embedding(7, false, 0.0, &mut out);
        assert!((out[1] - (7.0 * (-(10000f64.ln()) / 3.0).exp()).sin()).abs() < 1e-15);
    }
}
