//! DDIM (Song et al. 2021): sampling in few steps, with a chosen amount of noise. Not on the slides.

use super::reverse::clip;
use super::{Level, Schedule, Timestep, forward, posterior};
use crate::error::{Error, Result};
use crate::real::Real;

/// What is done with a predicted x_0 outside [-1, 1]. The last two are different samplers, and libraries
/// differ in which one they implement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipX0 {
    /// It is used as it is.
    Off,
    /// It is clipped; the noise stays as predicted (diffusers' default).
    KeepEps,
    /// It is clipped and the noise is derived from it again by (3), so that the two agree with x_t. With
    /// eta = 1 this is Algorithm 2 with its x_0 clipped.
    RederiveEps,
}

/// DDIM's choices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ddim {
    /// 0: no noise; 1: as much as Algorithm 2 with sigma_t^2 = beta~_t.
    pub eta: f64,
    /// Clipping of the predicted x_0.
    pub clip_x0: ClipX0,
}

/// x_{t-1} = sqrt(abar_{t-1}) x0^ + sqrt(1 - abar_{t-1} - sigma_t^2) eps^ + sigma_t z with x0^ the x_0 that
/// eps_theta implies and sigma_t^2 = eta^2 beta~_t. `t - 1` is the step before in the (respaced) schedule;
/// the step to x_0 has no noise.
///
/// Source: Song, Meng & Ermon (2021), equations 12 and 16.
///
/// # Panics
/// If the lengths differ.
pub fn ddim_step<T: Real>(x_t: &[T], eps_theta: &[T], z: &[T], level: &Level, ddim: Ddim, x_prev: &mut [T]) {
    assert!(z.len() == x_prev.len() && eps_theta.len() == x_prev.len());
    forward::eq03_predict_x0(x_t, eps_theta, level.alpha_bar, x_prev);
    let sigma2 = ddim.eta * ddim.eta * posterior::eq10_posterior_variance(level);
    // sigma_t^2 <= 1 - abar_{t-1} for eta <= 1; rounding must not make the root's argument negative.
    let direction = (1.0 - level.alpha_bar_prev - sigma2).max(0.0).sqrt();
    let [from_x0, direction, sigma] = [level.alpha_bar_prev.sqrt(), direction, sigma2.sqrt()].map(T::of);
    let [root, root_rest] = [level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt()].map(T::of);
    for (((x, &x_t), &eps), &z) in x_prev.iter_mut().zip(x_t).zip(eps_theta).zip(z) {
        let (x0, eps) = match ddim.clip_x0 {
            ClipX0::Off => (*x, eps),
            ClipX0::KeepEps => (clip(*x), eps),
            ClipX0::RederiveEps => (clip(*x), (x_t - root * clip(*x)) / root_rest),
        };
        *x = from_x0 * x0 + direction * eps + sigma * z;
    }
}

/// DDIM's loop over `schedule`, usually [respaced](Schedule::respaced); arguments as for
/// [`alg2_sample`](super::algorithms::alg2_sample). `z` is called only where noise is added: never with eta =
/// 0.
///
/// # Errors
/// [`Error::Invalid`] unless 0 <= eta <= 1; those of `eps_theta`, `x` then being the last x_t.
pub fn ddim_sample<T: Real>(
    schedule: &Schedule,
    ddim: Ddim,
    x: &mut [T],
    mut z: impl FnMut(usize, Timestep, &mut [T]),
    mut eps_theta: impl FnMut(&[T], Timestep, &mut [T]) -> Result<()>,
    mut observer: impl FnMut(usize, Timestep, &[T]),
) -> Result<()> {
    if !(0.0..=1.0).contains(&ddim.eta) {
        return Err(Error::invalid(
            "eta",
            "a number from 0 to 1",
            ddim.eta.to_string(),
            "0 is DDIM, 1 is DDPM",
        ));
    }
    let zeros = || vec![T::zero(); x.len()];
    let (mut eps, mut noise, mut x_prev) = (zeros(), zeros(), zeros());
    for (k, level) in schedule.levels().iter().rev().enumerate() {
        if ddim.eta > 0.0 && !level.is_first() {
            z(k, level.t, &mut noise);
        }
        eps_theta(x, level.t, &mut eps)?;
        ddim_step(x, &eps, &noise, level, ddim, &mut x_prev);
        x.copy_from_slice(&x_prev);
        observer(k, level.t, x);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiffusionConfig;
    use crate::equations::Spacing;

    fn short() -> Schedule {
        let full = Schedule::from_config(&DiffusionConfig::default()).unwrap();
        full.respaced(&Spacing::Trailing.timesteps(1000, 10).unwrap()).unwrap()
    }

    /// Given the true noise, each noiseless step arrives at (3) of the step before, and the last one at x_0,
    /// with every kind of clipping, since x_0 is in range. 1e-12: rounding times 1/sqrt(abar_T) = 157.
    #[test]
    fn ddim_without_noise_follows_the_true_noise_back() {
        let schedule = short();
        let (x0, eps) = ([0.6, -0.3], [1.1, -0.4]);
        for clip_x0 in [ClipX0::Off, ClipX0::KeepEps, ClipX0::RederiveEps] {
            let mut x = [0.0; 2];
            forward::eq03_q_sample(&x0, &eps, schedule.last().alpha_bar, &mut x);
            let network = |_: &[f64], _: Timestep, out: &mut [f64]| {
                out.copy_from_slice(&eps);
                Ok(())
            };
            let mut states = Vec::new();
            let z = |_: usize, _: Timestep, _: &mut [f64]| panic!("eta = 0 needs no noise");
            ddim_sample(&schedule, Ddim { eta: 0.0, clip_x0 }, &mut x, z, network, |k, t, x| {
                states.push((k, t, [x[0], x[1]]));
            })
            .unwrap();
            assert_eq!(states.len(), 10);
            for (level, (k, t, state)) in schedule.levels().iter().rev().zip(states) {
                assert_eq!((k, t), (10 - (level.t.get() / 100), level.t));
                let mut want = [0.0; 2];
                forward::eq03_q_sample(&x0, &eps, level.alpha_bar_prev, &mut want);
                assert!((0..2).all(|i| (state[i] - want[i]).abs() < 1e-12), "{t}: {state:?} {want:?}");
            }
            assert!((x[0] - x0[0]).abs() < 1e-12 && (x[1] - x0[1]).abs() < 1e-12);
        }
    }

    /// One step by hand: abar_t = 0.36, abar_{t-1} = 0.64, x_t = 0.6 x0^ + 0.8 eps with x0^ = 2, eps = 0.5.
    /// Clipped, x0^ = 1; the noise that agrees with it is (1.6 - 0.6)/0.8 = 1.25. To rounding.
    #[test]
    fn ddim_clips_in_the_way_it_says() {
        let schedule = Schedule::from_betas(&[0.36, 1.0 - 0.36 / 0.64]).unwrap();
        let step = |clip_x0| {
            let mut x = [0.0f64];
            ddim_step(&[1.6], &[0.5], &[9.0], schedule.last(), Ddim { eta: 0.0, clip_x0 }, &mut x);
            x[0]
        };
        for (clip, want) in [
            (ClipX0::Off, 0.8 * 2.0 + 0.6 * 0.5),
            (ClipX0::KeepEps, 0.8 + 0.6 * 0.5),
            (ClipX0::RederiveEps, 0.8 + 0.6 * 1.25),
        ] {
            assert!((step(clip) - want).abs() < 1e-14, "{clip:?}");
        }
    }

    /// The coefficient of z is eta sqrt(beta~_t), and the rest of the variance 1 - abar_{t-1} belongs to eps.
    #[test]
    fn ddim_noise_is_scaled_by_eta() {
        let schedule = short();
        let level = schedule.levels()[4];
        for eta in [0.0, 0.5, 1.0] {
            let step = |eps: f64, z: f64| {
                let mut x = [0.0];
                ddim_step(
                    &[level.alpha_bar.sqrt() * 0.5 + (1.0 - level.alpha_bar).sqrt() * eps],
                    &[eps],
                    &[z],
                    &level,
                    Ddim { eta, clip_x0: ClipX0::Off },
                    &mut x,
                );
                x[0]
            };
            let sigma = step(0.3, 1.0) - step(0.3, 0.0);
            let direction = step(1.0, 0.0) - step(0.0, 0.0);
            assert!((sigma * sigma - eta * eta * posterior::eq10_posterior_variance(&level)).abs() < 1e-14);
            assert!((sigma * sigma + direction * direction - (1.0 - level.alpha_bar_prev)).abs() < 1e-14);
        }
    }

    #[test]
    fn ddim_asks_for_noise_where_it_adds_some() {
        let schedule = short();
        let run = |eta: f64| {
            let (mut asked, mut x) = (Vec::new(), [0.1]);
            let network = |_: &[f64], _: Timestep, out: &mut [f64]| {
                out.fill(0.0);
                Ok(())
            };
            let ddim = Ddim { eta, clip_x0: ClipX0::Off };
            let z = |k: usize, t: Timestep, out: &mut [f64]| {
                out.fill(0.0);
                asked.push((k, t.get()));
            };
            let outcome = ddim_sample(&schedule, ddim, &mut x, z, network, |_, _, _| {});
            outcome.map(|()| asked)
        };
        assert_eq!(run(0.5).unwrap(), (0..9).map(|k| (k, 1000 - 100 * k)).collect::<Vec<_>>());
        assert!(run(0.0).unwrap().is_empty());
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(run(eta).is_err(), "{eta}");
        }
    }
}
