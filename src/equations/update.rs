//! One formula for one step of every sampler: what a host loop, an ONNX graph or a GPU computes between two
//! calls of the network, from eight numbers per step.
//!
//! x0 = clamp(a_x x + a_eps eps, low, high), x_next = b_x0 x0 + b_x x + b_eps eps + sigma z. It is (15) and
//! DDIM's step with their coefficients worked out in `f64`:
//! [`algorithms::alg2_sample`](super::algorithms::alg2_sample) and
//! [`ddim::ddim_sample`](super::ddim::ddim_sample) are the definitions, and the tests compare the two.

pub use super::reverse_process::ReverseProcess;

use super::ddim::{ClipX0, Ddim};
use super::reverse::Reverse;
use super::solver::{DdimChoice, Limit, Next, NoiseScale, Step, s05_ddpm, s06_ddim};
use super::{Level, Schedule, Spacing, Timestep, posterior};
use crate::config::Prediction;
use crate::error::{Error, Result};
use crate::real::Real;

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

    /// The steps in the order of sampling, from the schedule's last level to x_0: the timestep that the
    /// network is given, and the coefficients.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless 0 <= eta <= 1.
    pub fn steps(&self, schedule: &Schedule) -> Result<Vec<(Timestep, StepCoefficients)>> {
        let of: &dyn Fn(&Level) -> StepCoefficients = match self {
            ReverseProcess::Alg2(reverse) => &|level| StepCoefficients::alg2(level, *reverse),
            ReverseProcess::Ddim(ddim) => {
                if !(0.0..=1.0).contains(&ddim.eta) {
                    return Err(Error::invalid(
                        "eta",
                        "a number from 0 to 1",
                        ddim.eta.to_string(),
                        "0 is DDIM, 1 is DDPM",
                    ));
                }
                &|level| StepCoefficients::ddim(level, *ddim)
            }
        };
        Ok(schedule.levels().iter().rev().map(|level| (level.t, of(level))).collect())
    }
}

/// The eight numbers of one step, in the order in which the ONNX graphs take them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCoefficients {
    /// The coefficient of x_t in the predicted x_0.
    pub a_x: f64,
    /// The coefficient of the predicted noise in the predicted x_0.
    pub a_eps: f64,
    /// The least x_0: -1, or -[`UNBOUNDED`] where nothing is clipped.
    pub low: f64,
    /// The largest x_0.
    pub high: f64,
    /// The coefficient of the clipped x_0 in x_{t-1}.
    pub b_x0: f64,
    /// The coefficient of x_t in x_{t-1}.
    pub b_x: f64,
    /// The coefficient of the predicted noise in x_{t-1}.
    pub b_eps: f64,
    /// The coefficient of the fresh noise; 0 at the last step, which adds none.
    pub sigma: f64,
}

/// The bound where nothing is clipped: the largest `f32`. An infinity would compute the same, but JSON cannot
/// store it.
pub const UNBOUNDED: f64 = f32::MAX as f64;

impl StepCoefficients {
    /// The step that leaves x_t as it is.
    pub const IDENTITY: StepCoefficients = StepCoefficients {
        a_x: 0.0,
        a_eps: 0.0,
        low: -UNBOUNDED,
        high: UNBOUNDED,
        b_x0: 0.0,
        b_x: 1.0,
        b_eps: 0.0,
        sigma: 0.0,
    };

    /// (15): with (11) at the clipped x_0 a row of the [table](super::solver) of samplers, [`s05_ddpm`]; where
    /// nothing is clipped the mean is (12), which needs no x_0.
    pub fn alg2(level: &Level, reverse: Reverse) -> Self {
        let limit = if reverse.clip_x0 { Limit::Clip { range: 1.0 } } else { Limit::Off };
        let step = s05_ddpm(level, Prediction::Epsilon, limit, reverse.variance.into(), false);
        let row = Self::of_single(&step);
        if reverse.clip_x0 {
            return row;
        }
        let [b_x, b_eps] = posterior::eq12_coefficients(level);
        StepCoefficients { b_x, b_eps, sigma: row.sigma, ..Self::IDENTITY }
    }

    /// [`ddim_step`](super::ddim::ddim_step) likewise, [`s06_ddim`].
    pub fn ddim(level: &Level, ddim: Ddim) -> Self {
        let limit = if ddim.clip_x0 == ClipX0::Off { Limit::Off } else { Limit::Clip { range: 1.0 } };
        let rederive_eps = ddim.clip_x0 == ClipX0::RederiveEps;
        let choice = DdimChoice { eta: ddim.eta, rederive_eps, set_alpha_to_one: true };
        let between = [level.alpha_bar, level.alpha_bar_prev];
        let beta_tilde = posterior::eq10_posterior_variance(level);
        let step = s06_ddim(level.t, between, beta_tilde, Prediction::Epsilon, limit, choice);
        Self::of_single(&step.collected())
    }

    /// A row of the table that needs no more than these eight numbers; b_eps is then the part of whatever the
    /// network predicts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a step that looks back, thresholds, or has a learned variance.
    pub fn of(step: &Step) -> Result<Self> {
        let obstacle = if step.looks_back() {
            "a multistep solver, whose steps look back"
        } else if matches!(step.limit, Limit::Threshold { .. }) {
            "dynamic thresholding"
        } else if step.noise.is_learned() {
            "a learned variance"
        } else {
            return Ok(Self::of_single(step));
        };
        Err(Error::invalid(
            "the steps of a graph",
            "steps of Algorithm 2 or DDIM, with x_0 clipped or not and a fixed variance",
            obstacle,
            "let the host take the steps: the denoiser graph, `--loop host`",
        ))
    }

    /// A row without history, whose limit is a range and whose variance is fixed.
    fn of_single(step: &Step) -> Self {
        let high = if let Limit::Clip { range } = step.limit { range } else { UNBOUNDED };
        let sigma = if let NoiseScale::Sigma(sigma) = step.noise { sigma } else { 0.0 };
        let ([a_x, a_eps], Next { base, output, x0 }) = (step.x0, step.next);
        StepCoefficients { a_x, a_eps, low: -high, high, b_x0: x0[0], b_x: base, b_eps: output, sigma }
    }

    /// \[a_x, a_eps, low, high, b_x0, b_x, b_eps, sigma\], each rounded once.
    pub fn to_array<T: Real>(&self) -> [T; 8] {
        [self.a_x, self.a_eps, self.low, self.high, self.b_x0, self.b_x, self.b_eps, self.sigma].map(T::of)
    }

    /// x_{t-1} from x_t, the predicted noise and fresh noise. `z` is read also where `sigma` is 0.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn apply<T: Real>(&self, x: &[T], eps: &[T], z: &[T], x_next: &mut [T]) {
        assert!(x.len() == x_next.len() && eps.len() == x_next.len() && z.len() == x_next.len());
        let [a_x, a_eps, low, high, b_x0, b_x, b_eps, sigma] = self.to_array::<T>();
        for (((out, &x), &eps), &z) in x_next.iter_mut().zip(x).zip(eps).zip(z) {
            let x0 = num_traits::clamp(a_x * x + a_eps * eps, low, high);
            *out = b_x0 * x0 + b_x * x + b_eps * eps + sigma * z;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BetaSchedule, DiffusionConfig, VarianceKind};
    use crate::equations::algorithms::alg2_sample;
    use crate::equations::ddim::ddim_sample;
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

    /// Exact: x is multiplied by 1, and all that is added is 0. The bounds must form an interval, which other
    /// implementations of the clamp may require.
    #[test]
    fn the_identity_changes_nothing() {
        let StepCoefficients { low, high, .. } = StepCoefficients::IDENTITY;
        assert_eq!((low, high), (-UNBOUNDED, UNBOUNDED));
        let (x, mut next) = ([0.1f32, -7.5, 3e30], [0.0; 3]);
        StepCoefficients::IDENTITY.apply(&x, &[2.0, -3.0, 1e30], &[1.0; 3], &mut next);
        assert_eq!(next, x);
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
                for ((t, c), (t_want, [x, eps, z, want])) in steps.iter().zip(&trace) {
                    assert_eq!(t, t_want);
                    let mut next = vec![0.0; x.len()];
                    c.apply(x, eps, z, &mut next);
                    for i in 0..x.len() {
                        let x0 = c.a_x * x[i] + c.a_eps * eps[i];
                        if c.high == 1.0 {
                            *if x0.abs() > 1.0 { &mut clipped } else { &mut unclipped } += 1;
                        }
                        // DDIM goes through x_0, of which an unclipped step's coefficients have nothing left.
                        let level = schedule.levels().iter().find(|level| level.t == *t).unwrap();
                        let through_x0 = (level.alpha_bar_prev / level.alpha_bar).sqrt()
                            * (x[i].abs() + (1.0 - level.alpha_bar).sqrt() * eps[i].abs());
                        let predicted =
                            through_x0.max(c.b_x0.abs() * ((c.a_x * x[i]).abs() + (c.a_eps * eps[i]).abs()));
                        let direct = (c.b_x.abs() + 1.0) * x[i].abs() + (c.b_eps.abs() + 1.0) * eps[i].abs();
                        let terms = predicted + direct + (c.sigma * z[i]).abs();
                        let (error, bound) = ((next[i] - want[i]).abs(), 16.0 * f64::EPSILON * terms);
                        assert!(error <= bound, "{process:?} t = {t}: {} for {}", next[i], want[i]);
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
                assert_eq!(steps.last().unwrap().1.sigma, 0.0);
                for (_, c) in steps {
                    assert!(c.to_array::<f32>().iter().all(|c| c.is_finite()), "{c:?}");
                    for (x, eps, z) in [(f32::NAN, 0.1, 0.1), (0.1, f32::NAN, 0.1), (0.1, 0.1, f32::NAN)] {
                        let mut next = [0.0];
                        c.apply(&[x], &[eps], &[z], &mut next);
                        assert!(next[0].is_nan(), "{process:?} {x} {eps} {z}");
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
