//! DDIM run upwards: from an image to the x_t from which DDIM without noise leads back to it.

use super::limit::Limit;
use super::single::{s01_predict_eps, s06_ddim};
use super::step::{Next, Step};
use super::{DdimChoice, Plan};
use crate::config::Prediction;
use crate::equations::Timestep;

/// (S13) The step of DDIM without noise ([`s06_ddim`]) from abar = `from` up to `to`, the level of timestep
/// t: x_to = sqrt(to) x_0 + sqrt(1 - to) eps with x_0 that of x_from and eps.
///
/// eps is what the network says of x_from where it is told t. The step down from t uses what it says of x_t,
/// so that the two are inverse to each other up to the difference that x_from in place of x_t makes, which
/// falls with the length of the step. Nothing is clipped: a clipped step has no inverse.
///
/// Source: Song, Meng & Ermon (2021), section 4.3 and equation 14, whose Euler steps are taken upwards; the
/// timestep that the network is told: diffusers' `DDIMInverseScheduler`.
pub fn s13_ddim_up(t: Timestep, [from, to]: [f64; 2], prediction: Prediction) -> Step {
    let choice = DdimChoice::default();
    let up = s06_ddim(t, [from, to], 0.0, Prediction::Epsilon, Limit::Off, choice).collected();
    let [e_x, e_m] = s01_predict_eps(prediction, to.sqrt(), (1.0 - to).sqrt());
    let Next { base, output, .. } = up.next;
    Step { next: Next { base: base + output * e_x, output: output * e_m, ..Next::default() }, ..up }
}

impl Plan {
    /// The way up (S13) over the levels of a way down: `timesteps` are those that the network is told on the
    /// way down, in its order, and `alpha_bars` the levels before each of its steps and behind the last.
    pub fn upwards(prediction: Prediction, timesteps: &[Timestep], alpha_bars: &[f64]) -> Plan {
        let step = |(t, levels): (&Timestep, &[f64])| s13_ddim_up(*t, [levels[1], levels[0]], prediction);
        let steps = timesteps.iter().zip(alpha_bars.windows(2)).rev().map(step).collect();
        Plan { steps, alpha_bars: alpha_bars.iter().rev().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiffusionConfig;
    use crate::equations::Schedule;
    use crate::equations::solver::{Outputs, Scheduler};

    /// Against diffusers 0.42.1 in f64: `DDIMInverseScheduler`, trailing, without clipping, ten steps up with
    /// a network that says 0.9 x + 0.05 sin t. To roundings of sums of numbers near one.
    #[test]
    fn s13_is_diffusers_inverse_scheduler_for_eps() {
        let config = DiffusionConfig::default();
        let schedule = Schedule::from_config(&config).unwrap();
        let down = Scheduler::ddim_of(&config).plan(&schedule, 10).unwrap();
        let timesteps: Vec<Timestep> = down.steps().iter().map(|step| step.t).collect();
        let up = Plan::upwards(Prediction::Epsilon, &timesteps, down.alpha_bars());
        let mut x = [0.6, -0.9, 0.1];
        let network = |x: &[f64], t: Timestep, out: Outputs<f64>| {
            let bias = 0.05 * (t.get() as f64).sin();
            out.prediction.iter_mut().zip(x).for_each(|(out, x)| *out = 0.9 * x + bias);
            Ok(())
        };
        up.sample(&mut x, 3, |_, _, _| panic!("no noise"), network, |_, _, _| {}).unwrap();
        let want = [0.733_180_846_289_383_7, -1.011_162_121_152_569, 0.151_733_190_475_399_65];
        assert!(x.iter().zip(want).all(|(x, want)| (x - want).abs() < 1e-13), "{x:?}");
        assert_eq!((up.alpha_bars()[0], up.alpha_bars()[10]), (1.0, schedule.last().alpha_bar));
    }

    /// A network that knows the noise: (3) of every level on the way up, whatever it predicts. To rounding
    /// over the smallest alpha, 0.006.
    #[test]
    fn s13_follows_the_true_noise_up() {
        let config = DiffusionConfig::default();
        let schedule = Schedule::from_config(&config).unwrap();
        let (x0, eps): (f64, f64) = (0.7, -1.3);
        for prediction in [Prediction::Epsilon, Prediction::VPrediction] {
            for (from, to) in [(1.0, 0.9), (0.9, 0.3), (0.3, schedule.last().alpha_bar)] {
                let x = f64::sqrt(from) * x0 + f64::sqrt(1.0 - from) * eps;
                let (alpha, sigma) = (f64::sqrt(to), f64::sqrt(1.0 - to));
                // What v is where the network takes x for an x_to whose noise is eps.
                let m = match prediction {
                    Prediction::VPrediction => (eps - sigma * x) / alpha,
                    _ => eps,
                };
                let Next { base, output, .. } = s13_ddim_up(schedule.last().t, [from, to], prediction).next;
                assert!((base * x + output * m - (alpha * x0 + sigma * eps)).abs() < 1e-12, "{from} {to}");
            }
        }
    }
}
