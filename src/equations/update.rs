//! The slides' Algorithm 2 and DDIM as rows of the [table](super::solver) of samplers: what an ONNX graph or
//! a GPU computes between two calls of the network.
//!
//! The rows are (15) and DDIM's step with their coefficients worked out in `f64`:
//! [`algorithms::alg2_sample`](super::algorithms::alg2_sample) and
//! [`ddim::ddim_sample`](super::ddim::ddim_sample) are the definitions, and the tests compare the two.

pub use super::reverse_process::ReverseProcess;

use super::ddim::{ClipX0, Ddim};
use super::reverse::Reverse;
use super::solver::{DdimChoice, Limit, Next, Scheduler, Step, s05_ddpm, s06_ddim};
use super::{Level, Schedule, Spacing, posterior};
use crate::config::Prediction;
use crate::error::{Error, Result};

impl ReverseProcess {
    /// The levels that the process visits in `steps` of the schedule's steps, or in all: DDIM's lead down as
    /// diffusers' do.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 1 <= steps <= T.
    pub fn strided(&self, schedule: &Schedule, steps: Option<usize>, spacing: Spacing) -> Result<Schedule> {
        match self {
            ReverseProcess::Alg2(_) => schedule.strided(steps, spacing),
            ReverseProcess::Ddim(_) => schedule.strided_down(steps, spacing),
        }
    }

    /// The steps in the order of sampling, from the schedule's last level to x_0.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 0 <= eta <= 1.
    pub fn steps(&self, schedule: &Schedule) -> Result<Vec<Step>> {
        let of: &dyn Fn(&Level) -> Step = match self {
            ReverseProcess::Alg2(reverse) => &|level| alg2(level, *reverse),
            ReverseProcess::Ddim(ddim) => {
                if !(0.0..=1.0).contains(&ddim.eta) {
                    return Err(Error::invalid(
                        "eta",
                        "a number from 0 to 1",
                        ddim.eta.to_string(),
                        "0 is DDIM, 1 is DDPM",
                    ));
                }
                &|level| ddim_step(level, *ddim)
            }
        };
        Ok(schedule.levels().iter().rev().map(of).collect())
    }
}

impl Scheduler {
    /// The steps of a model trained with `schedule`, in `steps` calls of the network: those of Algorithm 2 or
    /// DDIM where it [is](Scheduler::text) one of them, else those of its [plan](Scheduler::plan).
    ///
    /// # Errors
    /// As [`Scheduler::plan`].
    pub fn steps(&self, schedule: &Schedule, steps: usize) -> Result<Vec<Step>> {
        self.validate()?;
        match self.text(schedule, steps) {
            Some(reverse) => reverse.steps(&reverse.strided(schedule, Some(steps), self.spacing)?),
            None => Ok(self.plan(schedule, steps)?.steps().to_vec()),
        }
    }
}

/// (15): with (11) at the clipped x_0, [`s05_ddpm`]; where nothing is clipped the mean is (12), which needs
/// no x_0.
fn alg2(level: &Level, reverse: Reverse) -> Step {
    let limit = if reverse.clip_x0 { Limit::Clip { range: 1.0 } } else { Limit::Off };
    let step = s05_ddpm(level, Prediction::Epsilon, limit, reverse.variance.into(), false);
    if reverse.clip_x0 {
        return step;
    }
    let [base, output] = posterior::eq12_coefficients(level);
    Step { x0: [0.0; 2], next: Next { base, output, x0: [0.0; 3] }, ..step }
}

/// [`ddim_step`](super::ddim::ddim_step) likewise, [`s06_ddim`].
fn ddim_step(level: &Level, ddim: Ddim) -> Step {
    let limit = if ddim.clip_x0 == ClipX0::Off { Limit::Off } else { Limit::Clip { range: 1.0 } };
    let rederive_eps = ddim.clip_x0 == ClipX0::RederiveEps;
    let choice = DdimChoice { eta: ddim.eta, rederive_eps, set_alpha_to_one: true };
    let between = [level.alpha_bar, level.alpha_bar_prev];
    let beta_tilde = posterior::eq10_posterior_variance(level);
    s06_ddim(level.t, between, beta_tilde, Prediction::Epsilon, limit, choice).collected()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BetaSchedule, DiffusionConfig, VarianceKind};
    use crate::equations::Timestep;
    use crate::equations::algorithms::alg2_sample;
    use crate::equations::ddim::ddim_sample;
    use crate::equations::solver::{NoiseScale, State};
    use crate::rng::{Stream, fill_normal, rng};

    fn schedules() -> Vec<Schedule> {
        let mut all = Vec::new();
        for schedule in [BetaSchedule::Linear { start: 1e-4, end: 0.02 }, BetaSchedule::Cosine] {
            let full = Schedule::from_config(&DiffusionConfig { schedule, ..Default::default() }).unwrap();
            for spacing in [Spacing::Leading, Spacing::Trailing] {
                all.push(full.respaced(&spacing.timesteps(1000, 50).unwrap()).unwrap());
            }
            all.push(full);
        }
        all.push(Schedule::from_betas(&[0.3]).unwrap());
        all
    }

    fn processes() -> Vec<ReverseProcess> {
        let mut all = Vec::new();
        for clip_x0 in [false, true] {
            for variance in [VarianceKind::FixedSmall, VarianceKind::FixedLarge] {
                all.push(ReverseProcess::Alg2(Reverse { variance, clip_x0 }));
            }
        }
        for clip_x0 in [ClipX0::Off, ClipX0::KeepEps, ClipX0::RederiveEps] {
            all.extend([0.0, 0.3, 1.0].map(|eta| ReverseProcess::Ddim(Ddim { eta, clip_x0 })));
        }
        all
    }

    /// What the samplers compute at every step: the timestep, x_t, eps, z and x_{t-1}.
    fn trace(process: ReverseProcess, schedule: &Schedule) -> Vec<(Timestep, [Vec<f64>; 4])> {
        let mut states = Vec::new();
        let mut inputs = Vec::new();
        let mut noises = vec![vec![0.0; 6]; schedule.steps()];
        let mut x = vec![0.0; 6];
        fill_normal(&mut rng(1, Stream::Check, 0, 0), &mut x);
        let z = |k: usize, t: Timestep, out: &mut [f64]| {
            fill_normal(&mut rng(2, Stream::Check, t.get() as u64, 0), out);
            noises[k].copy_from_slice(out);
        };
        // It resembles a network in that x_0 is sometimes inside the bounds and sometimes outside.
        let network = |x: &[f64], t: Timestep, out: &mut [f64]| {
            for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
                *out = 0.9 * x + 0.05 * ((i * t.get()) as f64).sin();
            }
            inputs.push((t, x.to_vec(), out.to_vec()));
            Ok(())
        };
        let watch = |_: usize, _: Timestep, x: &[f64]| states.push(x.to_vec());
        match process {
            ReverseProcess::Alg2(reverse) => alg2_sample(schedule, reverse, &mut x, z, network, watch),
            ReverseProcess::Ddim(ddim) => ddim_sample(schedule, ddim, &mut x, z, network, watch),
        }
        .unwrap();
        let steps = inputs.into_iter().zip(noises).zip(states);
        steps.map(|(((t, x, eps), z), next)| (t, [x, eps, z, next])).collect()
    }

    /// Every step of both samplers with every option. Tolerance: 16 roundings of the terms that either form
    /// sums, the terms of the predicted x_0 among them, which a coefficient a_x = 1/sqrt(abar_t) of up to 2e4
    /// makes large. (A collected coefficient may be the difference of two larger ones, by at most 1.)
    #[test]
    fn one_formula_is_every_sampler_s_step() {
        let (mut clipped, mut unclipped) = (0, 0);
        for schedule in schedules() {
            for process in processes() {
                let steps = process.steps(&schedule).unwrap();
                let trace = trace(process, &schedule);
                assert_eq!((steps.len(), trace.len()), (schedule.steps(), schedule.steps()));
                for (step, (t_want, [x, eps, z, want])) in steps.iter().zip(&trace) {
                    assert_eq!(step.t, *t_want);
                    let mut state = State::new(x.clone(), x.len());
                    state.advance(step, eps, &[], z);
                    let ([a_x, a_eps], Next { base, output, x0: [b_x0, ..] }) = (step.x0, step.next);
                    for i in 0..x.len() {
                        let x0 = a_x * x[i] + a_eps * eps[i];
                        if step.limit != Limit::Off {
                            *if x0.abs() > 1.0 { &mut clipped } else { &mut unclipped } += 1;
                        }
                        // DDIM goes through x_0, of which an unclipped step's coefficients have nothing left.
                        let level = schedule.levels().iter().find(|level| level.t == step.t).unwrap();
                        let through_x0 = (level.alpha_bar_prev / level.alpha_bar).sqrt()
                            * (x[i].abs() + (1.0 - level.alpha_bar).sqrt() * eps[i].abs());
                        let predicted =
                            through_x0.max(b_x0.abs() * ((a_x * x[i]).abs() + (a_eps * eps[i]).abs()));
                        let direct = (base.abs() + 1.0) * x[i].abs() + (output.abs() + 1.0) * eps[i].abs();
                        let sigma = if let NoiseScale::Sigma(sigma) = step.noise { sigma } else { 0.0 };
                        let terms = predicted + direct + (sigma * z[i]).abs();
                        let (error, bound) = ((state.x[i] - want[i]).abs(), 16.0 * f64::EPSILON * terms);
                        assert!(error <= bound, "{process:?} t = {}: {} for {}", step.t, state.x[i], want[i]);
                    }
                }
            }
        }
        assert!(clipped > 1000 && unclipped > 1000, "{clipped} clipped, {unclipped} not");
    }

    #[test]
    fn the_last_step_adds_no_noise_and_what_is_not_a_number_stays() {
        for schedule in schedules() {
            for process in processes() {
                let steps = process.steps(&schedule).unwrap();
                assert_eq!(steps.last().unwrap().noise, NoiseScale::None);
                for step in steps {
                    for (x, eps, z) in [(f64::NAN, 0.1, 0.1), (0.1, f64::NAN, 0.1), (0.1, 0.1, f64::NAN)] {
                        let mut state = State::new(vec![x], 1);
                        state.advance(&step, &[eps], &[], &[z]);
                        let is_nan = !z.is_nan() || step.noise.is_some();
                        assert_eq!(state.x[0].is_nan(), is_nan, "{process:?} {x} {eps} {z}");
                    }
                }
            }
        }
    }

    #[test]
    fn eta_out_of_range_is_refused() {
        for eta in [-0.1, 1.1, f64::NAN] {
            let process = ReverseProcess::Ddim(Ddim { eta, clip_x0: ClipX0::Off });
            assert!(process.steps(&schedules()[0]).is_err());
        }
    }
}
