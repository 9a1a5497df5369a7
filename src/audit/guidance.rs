//! Checks of the annex on classes, (G1)-(G3).

use super::Check;
use super::measure::{absolute, draws, normals, worst};
use super::toy::{ho, walk};
use crate::equations::guidance::{Guidance, g01_guide, g03_rescale};

/// Classes of images that are numbers: their shares, means and standard deviations.
const CLASSES: [(f64, f64, f64); 3] = [(0.5, -0.6, 0.2), (0.3, 0.1, 0.4), (0.2, 0.8, 0.1)];

/// p(x_t, class), but for a constant factor, where x_t = signal x_0 + noise of this variance.
fn joint(x: f64, class: usize, (signal, variance): (f64, f64)) -> f64 {
    let (share, mean, deviation) = CLASSES[class];
    let variance = signal * signal * deviation * deviation + variance;
    share * (-(x - signal * mean).powi(2) / (2.0 * variance)).exp() / variance.sqrt()
}

/// The derivative of a logarithm, by central differences of step 1e-4.
fn slope(x: f64, ln: impl Fn(f64) -> f64) -> f64 {
    (ln(x + 1e-4) - ln(x - 1e-4)) / 2e-4
}

/// (G1): what is best said of the noise is -sqrt(variance) times the slope of the logarithm of a density.
/// Said of x_t and of x_t given the class and guided, it is the slope for p(x_t) p(class | x_t)^w (Ho &
/// Salimans 2022, section 3). 1e-6 of the largest: the differences' truncation.
pub fn g01() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let weights = [0.0, 1.0, 2.5, 7.0];
    let errors = weights.map(|w| {
        worst((1..schedule.steps()).step_by(97).flat_map(|t| {
            let level = walk[t];
            let noise = -level.1.sqrt();
            [-1.3, -0.2, 0.7].map(|x| {
                let p = |x: f64| (0..CLASSES.len()).map(|class| joint(x, class, level)).sum::<f64>();
                let with = noise * slope(x, |x| joint(x, 1, level).ln());
                let without = noise * slope(x, |x| p(x).ln());
                let want = noise * slope(x, |x| p(x).ln() + w * (joint(x, 1, level) / p(x)).ln());
                let mut guided = [f64::NAN];
                g01_guide(w, &[with], &[without], &mut guided);
                absolute(guided[0], want)
            })
        }))
    });
    let names = weights.map(|w| format!("the slope of ln p(x_t) p(class | x_t)^{w}"));
    names.into_iter().zip(errors).map(|(name, error)| Check::new(name, error, 1e-6)).collect()
}

/// (G2) by the noise and signal of (2) iterated: the number of timesteps that are judged otherwise.
pub fn g02() -> Vec<Check> {
    let (schedule, walk) = (ho(), walk(&ho()));
    let interval @ [low, high] = [0.3, 5.0];
    let guidance = Guidance { interval, ..Guidance::weight(2.0) };
    let judged = schedule.levels().iter().zip(&walk[1..]).map(|(level, &(signal, variance))| {
        let sigma = variance.sqrt() / signal;
        (guidance.g02_applies(level.alpha_bar), low < sigma && sigma <= high)
    });
    let judged: Vec<(bool, bool)> = judged.collect();
    let otherwise = judged.iter().filter(|(got, want)| got != want).count();
    let inside = judged.iter().filter(|(got, _)| *got).count();
    vec![
        Check::new("timesteps of 1000 that are judged otherwise", otherwise as f64, 0.0),
        Check::new("there are some inside and some outside", f64::from(u8::from(inside % 1000 == 0)), 0.0),
    ]
}

/// (G3) as Lin et al. write it, the deviations from the differences of all pairs. 1e-12: roundings of sums of
/// 10,000 squares.
pub fn g03() -> Vec<Check> {
    let deviation = |x: &[f64]| {
        let pairs = x.iter().flat_map(|a| x.iter().map(move |b| (a - b).powi(2)));
        (pairs.sum::<f64>() / (2.0 * (x.len() * x.len()) as f64)).sqrt()
    };
    let mut rng = draws(303);
    let (with, guided) = (normals(&mut rng, 100), normals(&mut rng, 100));
    let guided: Vec<f64> = guided.iter().map(|m| 2.3 * m - 0.4).collect();
    let checks = [0.0, 0.7, 1.0].map(|phi| {
        let mut got = guided.clone();
        g03_rescale(phi, &with, &mut got);
        let rescaled = guided.iter().map(|m| m * deviation(&with) / deviation(&guided));
        let want = rescaled.zip(&guided).map(|(rescaled, m)| phi * rescaled + (1.0 - phi) * m);
        let error = worst(got.iter().zip(want).map(|(got, want)| absolute(*got, want)));
        Check::new(format!("the two predictions mixed, phi = {phi}"), error, 1e-12)
    });
    checks.into()
}

#[cfg(test)]
mod tests {
    use super::super::assert_all;

    #[test]
    fn g01_g02_g03_hold() {
        [super::g01(), super::g02(), super::g03()].iter().for_each(|checks| assert_all(checks));
    }
}
