//! An annex to the slides: classifier-free guidance, (G1) to (G3).
//!
//! m_c is what the network says of x_t where it is told the class, and m where it is told the null class.
//! Both are predictions of eps, of x_0 or of v. At one x_t each of the three is an affine function of the
//! others (S1), and (G1)'s two weights add up to 1: guiding any of them guides them all.
//!
//! | number | what | where |
//! |---|---|---|
//! | (G1) | m^ = m + w (m_c - m) | [`g01_guide`] |
//! | (G2) | only where lo < sigma_t <= hi | [`Guidance::g02_applies`] |
//! | (G3) | phi (s_c/s^) m^ + (1 - phi) m^, s the standard deviations over an image | [`g03_rescale`] |

use crate::error::{Error, Result};
use crate::real::Real;

/// How far images are led towards their classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// w of (G1): 1 for the network's prediction for the class, 0 for the one without it.
    pub weight: f64,
    /// lo and hi of (G2), noise levels sigma_t = sqrt((1 - abar_t)/abar_t). Where it does not apply, the
    /// prediction for the class is used as it is.
    pub interval: [f64; 2],
    /// phi of (G3), from 0 to 1.
    pub rescale: f64,
}

impl Default for Guidance {
    /// None: the network's prediction for the class.
    fn default() -> Self {
        Guidance { weight: 1.0, interval: [0.0, f64::INFINITY], rescale: 0.0 }
    }
}

impl Guidance {
    /// Guidance of weight w at every noise level.
    pub fn weight(weight: f64) -> Guidance {
        Guidance { weight, ..Guidance::default() }
    }

    /// Whether it changes anything: whether the prediction without the class is ever needed.
    pub fn is_some(&self) -> bool {
        self.weight != 1.0
    }

    /// (G2): whether it applies at a level of this abar. At lo = 0 and hi = infinity it does at all.
    ///
    /// Source: Kynkaanniemi et al. (2024), "Applying guidance in a limited interval improves sample and
    /// distribution quality in diffusion models", the interval (sigma_lo, sigma_hi].
    pub fn g02_applies(&self, alpha_bar: f64) -> bool {
        let sigma = ((1.0 - alpha_bar) / alpha_bar).sqrt();
        let [low, high] = self.interval;
        self.is_some() && low < sigma && sigma <= high
    }

    /// Checks every number's range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let [low, high] = self.interval;
        let refuse = |field: &str, expected: &str, got: String, help: &str| {
            Err(Error::invalid(format!("`Guidance::{field}`"), expected, got, help))
        };
        if !(self.weight >= 0.0 && self.weight.is_finite()) {
            let help = "1 is the prediction for the class, more leads further towards it";
            return refuse("weight", "a number of at least 0", self.weight.to_string(), help);
        }
        if !(0.0 <= low && low < high) {
            let expected =
                "two noise levels sigma = sqrt((1 - abar)/abar), the lower one first and at least 0";
            return refuse("interval", expected, format!("{low}, {high}"), "");
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return refuse("rescale", "a number from 0 to 1", self.rescale.to_string(), "0.7 is usual");
        }
        Ok(())
    }
}

/// (G1): `out` = m + w (m_c - m), m in `without_class` and m_c in `with_class`.
///
/// With w = 1 + w' this is Ho & Salimans' (1 + w') m_c - w' m.
///
/// Source: Ho & Salimans (2022), "Classifier-free diffusion guidance", equation 6.
///
/// # Panics
/// If the lengths differ.
pub fn g01_guide<T: Real>(weight: f64, with_class: &[T], without_class: &[T], out: &mut [T]) {
    assert!(with_class.len() == out.len() && without_class.len() == out.len());
    let w = T::of(weight);
    for ((out, &with), &without) in out.iter_mut().zip(with_class).zip(without_class) {
        *out = without + w * (with - without);
    }
}

/// (G3): scales the guided prediction m^ of one image towards the standard deviation of `with_class`, m_c.
///
/// Where all numbers of m^ are the same, nothing changes.
///
/// Source: Lin et al. (2023), "Common diffusion noise schedules and sample steps are flawed", equations 15
/// and 16.
///
/// # Panics
/// If the lengths differ.
pub fn g03_rescale<T: Real>(phi: f64, with_class: &[T], guided: &mut [T]) {
    assert_eq!(with_class.len(), guided.len());
    let (wanted, got) = (deviation(with_class), deviation(guided));
    if phi == 0.0 || got == 0.0 {
        return;
    }
    let factor = T::of(phi * wanted / got + (1.0 - phi));
    guided.iter_mut().for_each(|m| *m = factor * *m);
}

/// The standard deviation of numbers about their mean.
fn deviation<T: Real>(values: &[T]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| x.f64()).sum::<f64>() / n;
    (values.iter().map(|x| (x.f64() - mean).powi(2)).sum::<f64>() / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Prediction;
    use crate::equations::solver::{s01_predict_eps, s01_predict_x0};
    use crate::rng::{Stream, fill_normal, rng};

    fn normal(n: usize, id: u64) -> Vec<f64> {
        let mut values = vec![0.0; n];
        fill_normal(&mut rng(16, Stream::Check, 0, id), &mut values);
        values
    }

    /// To a rounding of each of three terms, 1e-15 for numbers of order 1.
    #[test]
    fn g01_is_ho_and_salimans_with_one_more_and_ends_at_both_predictions() {
        let (with, without) = (normal(40, 1), normal(40, 2));
        let guided = |weight| {
            let mut out = vec![f64::NAN; 40];
            g01_guide(weight, &with, &without, &mut out);
            out
        };
        for (i, m) in guided(3.5).into_iter().enumerate() {
            let theirs = (1.0 + 2.5) * with[i] - 2.5 * without[i];
            assert!((m - theirs).abs() < 1e-14, "{m} {theirs}");
        }
        assert_eq!(guided(0.0), without);
        assert!(guided(1.0).iter().zip(&with).all(|(m, with)| (m - with).abs() < 1e-15));
    }

    /// Guidance of one prediction is guidance of the others, to roundings of numbers of order 10: 1e-12.
    #[test]
    fn g01_guides_eps_x0_and_v_alike() {
        let (x, with, without) = (normal(9, 3), normal(9, 4), normal(9, 5));
        let (alpha, sigma) = (0.6, 0.8);
        let guided = |with: &[f64], without: &[f64]| {
            let mut out = vec![0.0; 9];
            g01_guide(2.5, with, without, &mut out);
            out
        };
        let of = |[a_x, a_m]: [f64; 2], m: &[f64]| -> Vec<f64> {
            x.iter().zip(m).map(|(x, m)| a_x * x + a_m * m).collect()
        };
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction] {
            for map in [s01_predict_x0(prediction, alpha, sigma), s01_predict_eps(prediction, alpha, sigma)] {
                let before = of(map, &guided(&with, &without));
                let after = guided(&of(map, &with), &of(map, &without));
                assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-12), "{prediction:?}");
            }
        }
    }

    /// sigma = 1 at abar = 1/2 and 3 at 1/10.
    #[test]
    fn g02_is_open_below_and_closed_above() {
        let guidance = |interval| Guidance { interval, ..Guidance::weight(2.0) };
        let applies = |interval| [0.5, 0.1].map(|alpha_bar| guidance(interval).g02_applies(alpha_bar));
        assert_eq!(applies([1.0, 2.9]), [false, false]);
        assert_eq!(applies([0.0, 1.0]), [true, false]);
        assert_eq!(applies([1.0, 3.1]), [false, true]);
        assert_eq!(applies(Guidance::default().interval), [true, true]);
        assert!(guidance([2.0, f64::INFINITY]).g02_applies(0.0), "abar = 0 is the highest level");
        assert!(!Guidance::default().g02_applies(0.5), "a weight of 1 is no guidance");
    }

    /// phi = 1 gives m_c's deviation, phi = 0 changes nothing, and between them the deviation is in between
    /// in proportion: 1e-14, roundings of sums over 50 numbers.
    #[test]
    fn g03_moves_the_deviation_to_the_conditional_ones() {
        let (with, guided) = (normal(50, 6), normal(50, 7).iter().map(|m| 3.0 * m + 1.0).collect::<Vec<_>>());
        let rescaled = |phi| {
            let mut out = guided.clone();
            g03_rescale(phi, &with, &mut out);
            deviation(&out)
        };
        let (wanted, before) = (deviation(&with), deviation(&guided));
        for phi in [0.0, 0.3, 0.7, 1.0] {
            let want = phi * wanted + (1.0 - phi) * before;
            assert!((rescaled(phi) - want).abs() < 1e-14 * before, "{phi}");
        }
        let mut flat = [2.0f32; 4];
        g03_rescale(0.7, &[1.0, 2.0, 3.0, 4.0], &mut flat);
        assert_eq!(flat, [2.0; 4]);
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_their_field() {
        let usual = Guidance::weight(2.0);
        assert!(usual.validate().is_ok() && Guidance::weight(0.0).validate().is_ok());
        for (guidance, field) in [
            (Guidance::weight(-1.0), "weight"),
            (Guidance::weight(f64::NAN), "weight"),
            (Guidance { interval: [2.0, 1.0], ..usual }, "interval"),
            (Guidance { interval: [-1.0, 1.0], ..usual }, "interval"),
            (Guidance { interval: [f64::NAN, 1.0], ..usual }, "interval"),
            (Guidance { rescale: 1.1, ..usual }, "rescale"),
        ] {
            let message = guidance.validate().expect_err(field).to_string();
            assert!(message.contains(&format!("`Guidance::{field}`")), "{message}");
        }
    }
}
