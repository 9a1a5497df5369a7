//! What becomes of a predicted x_0 that no image can be.

use crate::error::{Error, Result};
use crate::real::Real;
use serde::{Deserialize, Serialize};

/// How the predicted x_0 is kept in range, image by image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Limit {
    /// It is used as it is.
    Off,
    /// It is cut to [-range, range].
    Clip {
        /// The largest magnitude.
        range: f64,
    },
    /// (S2) Dynamic thresholding: with s the `ratio`-quantile of an image's magnitudes, but at least 1 and at
    /// most `max`, x_0 is cut to [-s, s] and divided by s.
    Threshold {
        /// The share of an image's values that are not cut, 0 to 1.
        ratio: f64,
        /// The largest s.
        max: f64,
    },
}

impl Limit {
    /// Checks the numbers.
    pub(super) fn validate(self) -> Result<()> {
        let refuse =
            |what: &str, expected: &str, got: f64| Err(Error::invalid(what, expected, got.to_string(), ""));
        match self {
            Limit::Clip { range } if !(range > 0.0 && range.is_finite()) => {
                refuse("range of clipping", "a positive number", range)
            }
            Limit::Threshold { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                refuse("ratio of dynamic thresholding", "a number from 0 to 1", ratio)
            }
            Limit::Threshold { max, .. } if !(max > 0.0 && max.is_finite()) => {
                refuse("largest value of dynamic thresholding", "a positive number", max)
            }
            _ => Ok(()),
        }
    }

    /// (S2) Keeps one image's x_0 in range. What is not a number stays so.
    ///
    /// Source: Saharia et al. (2022), section 2.3 (dynamic thresholding).
    pub fn s02_limit<T: Real>(self, x0: &mut [T]) {
        match self {
            Limit::Off => {}
            Limit::Clip { range } => clamp(x0, range),
            Limit::Threshold { ratio, max } => {
                // Their 1 is the edge of the data: values inside it are never pushed outwards.
                let s = quantile(x0, ratio).max(1.0).min(max);
                clamp(x0, s);
                let s = T::of(s);
                x0.iter_mut().for_each(|x| *x /= s);
            }
        }
    }
}

fn clamp<T: Real>(x0: &mut [T], range: f64) {
    let range = T::of(range);
    x0.iter_mut().for_each(|x| *x = num_traits::clamp(*x, -range, range));
}

/// The `ratio`-quantile of the magnitudes, linear between the two nearest; 0 of nothing.
fn quantile<T: Real>(values: &[T], ratio: f64) -> f64 {
    let mut sizes: Vec<f64> = values.iter().map(|x| x.f64().abs()).collect();
    let Some(last) = sizes.len().checked_sub(1) else { return 0.0 };
    let rank = ratio * last as f64;
    let below = rank.floor() as usize;
    let (_, low, above) = sizes.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (rank - below as f64) * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: magnitudes 0, 1, 2, 3, 4; the 0.9-quantile is at rank 3.6.
    #[test]
    fn s02_thresholds_at_the_quantile() {
        let threshold = |max: f64| {
            let mut x0 = [-4.0f64, 1.0, 0.0, 3.0, -2.0];
            Limit::Threshold { ratio: 0.9, max }.s02_limit(&mut x0);
            x0
        };
        let close = |got: [f64; 5], want: [f64; 5]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-15), "{got:?} {want:?}");
        };
        close(threshold(10.0), [-1.0, 1.0 / 3.6, 0.0, 3.0 / 3.6, -2.0 / 3.6]);
        close(threshold(2.0), [-1.0, 0.5, 0.0, 1.0, -1.0]);
        close(threshold(1.0), [-1.0, 1.0, 0.0, 1.0, -1.0]);
    }

    #[test]
    fn s02_leaves_what_is_in_range_and_what_is_not_a_number() {
        for limit in [Limit::Off, Limit::Clip { range: 1.0 }, Limit::Threshold { ratio: 0.5, max: 3.0 }] {
            let mut inside = [0.5f32, -0.9, 0.0];
            limit.s02_limit(&mut inside);
            assert_eq!(inside, [0.5, -0.9, 0.0], "{limit:?}");
            let mut broken = [f32::NAN, 0.2];
            limit.s02_limit(&mut broken);
            assert!(broken[0].is_nan(), "{limit:?}");
        }
        let mut wide = [2.5f32, -0.9, -7.0];
        Limit::Clip { range: 2.0 }.s02_limit(&mut wide);
        assert_eq!(wide, [2.0, -0.9, -2.0]);
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        for limit in [
            Limit::Clip { range: 0.0 },
            Limit::Clip { range: f64::NAN },
            Limit::Threshold { ratio: 1.1, max: 1.0 },
            Limit::Threshold { ratio: 0.9, max: f64::INFINITY },
        ] {
            assert!(limit.validate().is_err(), "{limit:?}");
        }
        assert!(Limit::Threshold { ratio: 0.995, max: 1.0 }.validate().is_ok());
    }
}
