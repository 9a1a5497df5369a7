//! Algorithm 1 (training) and Algorithm 2 (sampling).

use super::reverse::{Reverse, eq15_step};
use super::{Level, Schedule, Timestep, forward};
use crate::error::Result;
use crate::real::Real;
use crate::rng::{self, Stream};
use rand::RngExt;

/// Algorithm 1's draws for one training sample: t ~ Uniform{1..T}, eps ~ N(0, I), and x_t by (3); returns t.
/// They are [`alg1_timestep`] and [`alg1_noise`].
///
/// The draws are a function of (`seed`, `step`, `sample`) alone, whichever thread makes them. The algorithm's
/// last line, the gradient step on || eps - eps_theta(x_t, t) ||^2, is
/// [`eq21_gradient`](super::loss::eq21_gradient) and what follows it in the network.
///
/// Source: Ho et al. (2020), Algorithm 1.
///
/// # Panics
/// If the lengths differ.
pub fn alg1_draw<T: Real>(
    seed: u64,
    step: u64,
    sample: u64,
    schedule: &Schedule,
    x0: &[T],
    eps: &mut [T],
    x_t: &mut [T],
) -> Timestep {
    let level = alg1_timestep(seed, step, sample, schedule);
    alg1_noise(seed, step, sample, level, x0, eps, x_t);
    level.t
}

/// The level of Algorithm 1's t ~ Uniform{1..T}.
pub fn alg1_timestep(seed: u64, step: u64, sample: u64, schedule: &Schedule) -> &Level {
    // A u32 is drawn the same way on every platform, a usize is not.
    let choice = rng::rng(seed, Stream::Timestep, step, sample).random_range(0..schedule.steps() as u32);
    &schedule.levels()[choice as usize]
}

/// Algorithm 1's eps ~ N(0, I), and x_t by (3).
///
/// # Panics
/// If the lengths differ.
pub fn alg1_noise<T: Real>(
    seed: u64,
    step: u64,
    sample: u64,
    level: &Level,
    x0: &[T],
    eps: &mut [T],
    x_t: &mut [T],
) {
    rng::fill_normal(&mut rng::rng(seed, Stream::Noise, step, sample), eps);
    forward::eq03_q_sample(x0, eps, level.alpha_bar, x_t);
}

/// Algorithm 2: for t = T..1, x_{t-1} by (15). `x` holds x_T ~ N(0, I) on entry and x_0 on return; it may be
/// a whole batch, one sample after the other.
///
/// `z(k, t, out)` fills `out` with N(0, I) for the k-th step, counted from 0; it is not called at the last
/// step, where z = 0. `eps_theta(x_t, t, out)` writes the predicted noise. `observer(k, t, x)` sees every
/// x_{t-1}. For a respaced schedule t is the timestep that the network was trained with.
///
/// Source: Ho et al. (2020), Algorithm 2.
///
/// # Errors
/// Those of `eps_theta`; `x` is then the last x_t.
pub fn alg2_sample<T: Real>(
    schedule: &Schedule,
    reverse: Reverse,
    x: &mut [T],
    mut z: impl FnMut(usize, Timestep, &mut [T]),
    mut eps_theta: impl FnMut(&[T], Timestep, &mut [T]) -> Result<()>,
    mut observer: impl FnMut(usize, Timestep, &[T]),
) -> Result<()> {
    let zeros = || vec![T::zero(); x.len()];
    let (mut eps, mut noise, mut x_prev) = (zeros(), zeros(), zeros());
    for (k, level) in schedule.levels().iter().rev().enumerate() {
        if !level.is_first() {
            z(k, level.t, &mut noise);
        }
        eps_theta(x, level.t, &mut eps)?;
        eq15_step(x, &eps, &noise, level, reverse, &mut x_prev);
        x.copy_from_slice(&x_prev);
        observer(k, level.t, x);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VarianceKind;
    use crate::error::Error;

    fn schedule() -> Schedule {
        Schedule::from_betas(&[0.1; 50]).unwrap()
    }

    #[test]
    fn alg1_is_a_function_of_seed_step_and_sample() {
        let draw = |seed, step, sample| {
            let (mut eps, mut x_t) = ([0.0; 3], [0.0; 3]);
            let t = alg1_draw(seed, step, sample, &schedule(), &[0.1, 0.2, 0.3], &mut eps, &mut x_t);
            (t, eps, x_t)
        };
        let base = draw(1, 2, 3);
        assert_eq!(base, draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)] {
            assert!(other.1 != base.1 && other.2 != base.2);
        }
        let timesteps: std::collections::HashSet<_> = (0..20).map(|sample| draw(1, 2, sample).0).collect();
        assert!(timesteps.len() > 10);
    }

    /// `f32` and `f64` draw the same numbers, and a respaced schedule trains on its own timesteps only.
    #[test]
    fn alg1_draws_the_same_in_both_types_and_from_the_schedules_timesteps() {
        let kept = [3, 20, 50].map(|t| Timestep::new(t).unwrap());
        let schedule = schedule().respaced(&kept).unwrap();
        let (mut eps, mut x_t) = ([0.0; 2], [0.0; 2]);
        let (mut eps32, mut x_t32) = ([0f32; 2], [0f32; 2]);
        for sample in 0..30 {
            let t = alg1_draw(9, 0, sample, &schedule, &[0.5, -0.5], &mut eps, &mut x_t);
            assert_eq!(t, alg1_draw(9, 0, sample, &schedule, &[0.5f32, -0.5], &mut eps32, &mut x_t32));
            assert!(kept.contains(&t));
            assert_eq!(eps.map(|e| e as f32), eps32);
        }
    }

    #[test]
    fn alg2_stops_where_the_network_fails() {
        let mut seen = Vec::new();
        let network = |_: &[f64], t: Timestep, out: &mut [f64]| {
            out.fill(0.0);
            if t.get() == 48 { Err(Error::invalid("network", "", "", "")) } else { Ok(()) }
        };
        let reverse = Reverse { variance: VarianceKind::FixedSmall, clip_x0: false };
        let mut x = [0.4];
        assert!(
            alg2_sample(
                &schedule(),
                reverse,
                &mut x,
                |_, _, z| z.fill(0.0),
                network,
                |_, t, _| seen.push(t.get())
            )
            .is_err()
        );
        assert_eq!(seen, [50, 49]);
        // With eps_theta = z = 0 each step divides by sqrt(alpha): two of them by alpha, to a rounding or
        // two.
        assert!((x[0] - 0.4 / 0.9).abs() < 1e-15);
    }
}
