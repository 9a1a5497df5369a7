//! An annex to the slides: every sampler that a diffusers scheduler file can name, as a table of steps.
//!
//! Its equations are numbered (S1) to (S13):
//!
//! | number | what | where |
//! |---|---|---|
//! | (S1) | x_0 and eps of a network that predicts eps, x_0 or v | [`s01_predict_x0`], [`s01_predict_eps`] |
//! | (S2) | clipping and dynamic thresholding | [`Limit::s02_limit`] |
//! | (S3), (S4) | one step of any sampler | [`State::advance`] |
//! | (S5), (S6) | Algorithm 2 and DDIM for all of these | [`s05_ddpm`], [`s06_ddim`] |
//! | (S7)-(S9) | DPM-Solver++ of first, second and third order | `dpm_solver` |
//! | (S10), (S11) | UniPC's predictor and corrector | `uni_pc` |
//! | (S12) | the noise levels of Karras et al. | `ladder` |
//! | (S13) | a step of DDIM run upwards | [`s13_ddim_up`] |
//!
//! A [`Scheduler`] is a sampler with its choices; its [`Plan`] for a schedule and a number of steps is what
//! is executed. ONNX graphs take the same steps, as the rows of a [`StepForm`].

mod dpm_solver;
mod form;
mod inverse;
mod ladder;
mod limit;
mod outputs;
mod single;
mod step;
mod uni_pc;

pub use form::{Learned, StepForm, UNBOUNDED};
pub use inverse::s13_ddim_up;
pub use limit::Limit;
pub use outputs::Outputs;
pub use single::{s01_predict_eps, s01_predict_x0, s05_ddpm, s06_ddim};
pub use step::{Next, NoiseScale, State, Step};

use super::ddim::{ClipX0, Ddim};
use super::reverse::Reverse;
use super::reverse_process::ReverseProcess;
use super::{Level, Schedule, Spacing, Timestep};
use crate::config::{DiffusionConfig, Prediction, VarianceKind};
use crate::error::{Error, Result};
use crate::real::Real;
use ladder::Ladder;
use serde::{Deserialize, Serialize};

/// A sampler with its choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// What the network predicts.
    pub prediction: Prediction,
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// What is added to the indices of [`Spacing::Leading`].
    pub steps_offset: usize,
    /// What becomes of a predicted x_0 out of range.
    pub limit: Limit,
    /// The reverse process.
    pub method: Method,
}

/// The reverse process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// Algorithm 2.
    Ddpm {
        /// sigma_t^2.
        variance: Variance,
        /// Whether the step to x_0 adds noise too where it does not leave t = 1: see [`s05_ddpm`].
        noise_at_last: bool,
    },
    /// DDIM (Song et al. 2021).
    Ddim(DdimChoice),
    /// DPM-Solver++ (Lu et al. 2022).
    DpmSolver(DpmSolver),
    /// UniPC (Zhao et al. 2023).
    UniPc(UniPc),
}

/// sigma_t^2 of Algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// beta~_t, (10).
    FixedSmall,
    /// beta_t.
    FixedLarge,
    /// The network's second output.
    Learned,
    /// Between the two, where the network's second output says (Nichol & Dhariwal 2021, equation 15).
    LearnedRange,
}

impl From<VarianceKind> for Variance {
    fn from(kind: VarianceKind) -> Self {
        match kind {
            VarianceKind::FixedSmall => Variance::FixedSmall,
            VarianceKind::FixedLarge => Variance::FixedLarge,
        }
    }
}

/// DDIM's choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DdimChoice {
    /// 0: no noise; 1: as much as Algorithm 2 with sigma_t^2 = beta~_t.
    pub eta: f64,
    /// Whether eps is derived again from the limited x_0: diffusers' `use_clipped_model_output`.
    pub rederive_eps: bool,
    /// Whether the last step leads to x_0; otherwise to x_1.
    pub set_alpha_to_one: bool,
}

impl Default for DdimChoice {
    /// diffusers' defaults.
    fn default() -> Self {
        DdimChoice { eta: 0.0, rederive_eps: false, set_alpha_to_one: true }
    }
}

/// DPM-Solver++'s choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpmSolver {
    /// 1 to 3.
    pub order: usize,
    /// The form of its second order.
    pub second_order: SecondOrder,
    /// Whether the SDE is solved instead of the ODE.
    pub sde: bool,
    /// Whether the noise levels are those of Karras et al. (2022).
    pub karras: bool,
    /// Whether the last step leads to x_0; otherwise to the lowest level, x_1.
    pub final_sigma_zero: bool,
    /// Whether the last step is of first order.
    pub euler_at_final: bool,
    /// Whether the last two steps of fewer than 15 are of lower order.
    pub lower_order_final: bool,
    /// Timesteps whose ln(alpha/sigma) is below this are not visited; minus infinity for none.
    #[serde(default = "all_lambdas", skip_serializing_if = "is_no_bound")]
    pub lambda_min: f64,
}

fn all_lambdas() -> f64 {
    f64::NEG_INFINITY
}

/// JSON has no infinity.
fn is_no_bound(lambda_min: &f64) -> bool {
    *lambda_min == f64::NEG_INFINITY
}

impl Default for DpmSolver {
    /// diffusers' defaults.
    fn default() -> Self {
        DpmSolver {
            order: 2,
            second_order: SecondOrder::Midpoint,
            sde: false,
            karras: false,
            final_sigma_zero: true,
            euler_at_final: false,
            lower_order_final: true,
            lambda_min: all_lambdas(),
        }
    }
}

/// The two forms of DPM-Solver++'s second order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondOrder {
    /// The difference of the x_0 weighed as at the step's middle.
    Midpoint,
    /// The difference integrated.
    Heun,
}

/// UniPC's choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniPc {
    /// 1 to 3.
    pub order: usize,
    /// B(h).
    pub b: Bh,
    /// Whether the noise levels are those of Karras et al. (2022).
    pub karras: bool,
    /// Karras' lowest level, where it is not the schedule's.
    pub sigma_min: Option<f64>,
    /// Karras' highest.
    pub sigma_max: Option<f64>,
    /// Whether the last step leads to x_0; otherwise to the lowest level. It is then of first order, since
    /// no other has a limit.
    pub final_sigma_zero: bool,
    /// Whether the last steps are of lower order.
    pub lower_order_final: bool,
    /// The steps, from 0, that are not corrected.
    pub corrector_off: StepSet,
}

impl Default for UniPc {
    /// diffusers' defaults.
    fn default() -> Self {
        UniPc {
            order: 2,
            b: Bh::Bh2,
            karras: false,
            sigma_min: None,
            sigma_max: None,
            final_sigma_zero: true,
            lower_order_final: true,
            corrector_off: StepSet::default(),
        }
    }
}

/// UniPC's B(h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bh {
    /// h.
    Bh1,
    /// e^h - 1.
    Bh2,
}

/// Some of the first 128 steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct StepSet(u128);

impl TryFrom<Vec<usize>> for StepSet {
    type Error = Error;

    fn try_from(steps: Vec<usize>) -> Result<StepSet> {
        StepSet::new(&steps)
    }
}

impl From<StepSet> for Vec<usize> {
    fn from(set: StepSet) -> Vec<usize> {
        (0..128).filter(|i| set.contains(*i)).collect()
    }
}

impl StepSet {
    /// The set of these steps, from 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a step of 128 or more.
    pub fn new(steps: &[usize]) -> Result<StepSet> {
        let add = |set: u128, step: &usize| match step {
            0..128 => Ok(set | 1 << step),
            _ => Err(Error::invalid("steps", "steps from 0 to 127", step.to_string(), "")),
        };
        steps.iter().try_fold(0, add).map(StepSet)
    }

    /// Whether step `i` is in it.
    pub fn contains(self, i: usize) -> bool {
        i < 128 && self.0 >> i & 1 == 1
    }
}

/// The largest offset: no schedule has more timesteps.
const MOST_OFFSET: usize = 100_000;

/// The usual steps of the multistep solvers: with the model that the library carries, more make no better
/// images.
const MULTISTEP_STEPS: usize = 15;

/// What the two multistep solvers have in common.
struct Multistep {
    spacing: Spacing,
    steps_offset: usize,
    karras: bool,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    final_sigma_zero: bool,
    /// Whether "the lowest level" is Karras' own, where they are used.
    ends_at_own_lowest: bool,
    lambda_min: f64,
}

impl Multistep {
    /// The lowest and the highest level of Karras et al.
    fn sigma_range(&self, table: &[f64]) -> [f64; 2] {
        [self.sigma_min.unwrap_or(table[0]), self.sigma_max.unwrap_or(table[table.len() - 1])]
    }
}

impl Scheduler {
    /// The sampler of the models that are trained here: DPM-Solver++ of second order over the trailing
    /// timesteps, which needs a fifth of DDIM's steps for better images; Algorithm 2 where the network has
    /// learned its variance. x_0 is clipped where the process says so: without that, what a solver makes of a
    /// network that has just begun to learn is black or white.
    pub fn of(diffusion: &DiffusionConfig) -> Scheduler {
        let method = match diffusion.learned_range {
            false => Method::DpmSolver(DpmSolver::default()),
            true => Method::Ddpm { variance: Variance::LearnedRange, noise_at_last: true },
        };
        Scheduler { method, ..Self::ddim_of(diffusion) }
    }

    /// DDIM without noise over the trailing timesteps, x_0 clipped and eps kept where the process says so.
    pub fn ddim_of(diffusion: &DiffusionConfig) -> Scheduler {
        Scheduler {
            prediction: diffusion.prediction,
            spacing: Spacing::Trailing,
            steps_offset: 0,
            limit: if diffusion.clip_x0 { Limit::Clip { range: 1.0 } } else { Limit::Off },
            method: Method::Ddim(DdimChoice::default()),
        }
    }

    /// Algorithm 2 or DDIM over the timesteps of a spacing, for a network that predicts eps: what
    /// [`Scheduler::text`] takes apart again.
    pub fn of_text(reverse: ReverseProcess, spacing: Spacing) -> Scheduler {
        let clip = |clips| if clips { Limit::Clip { range: 1.0 } } else { Limit::Off };
        let (limit, method) = match reverse {
            ReverseProcess::Alg2(Reverse { variance, clip_x0 }) => {
                (clip(clip_x0), Method::Ddpm { variance: variance.into(), noise_at_last: false })
            }
            ReverseProcess::Ddim(Ddim { eta, clip_x0 }) => {
                let rederive_eps = clip_x0 == ClipX0::RederiveEps;
                let choice = DdimChoice { eta, rederive_eps, set_alpha_to_one: true };
                (clip(clip_x0 != ClipX0::Off), Method::Ddim(choice))
            }
        };
        Scheduler { prediction: Prediction::Epsilon, spacing, steps_offset: 0, limit, method }
    }

    /// This sampler's network, timesteps and limit with another reverse process. The multistep solvers do not
    /// clip, and the others do where `clip_x0` says so (the process's), as in diffusers where one scheduler
    /// is made from another's file; dynamic thresholding stays.
    #[must_use]
    pub fn with_method(self, method: Method, clip_x0: bool) -> Scheduler {
        let is_multistep = |method| matches!(method, Method::DpmSolver(_) | Method::UniPc(_));
        let limit = match (is_multistep(self.method), is_multistep(method)) {
            (false, true) if !matches!(self.limit, Limit::Threshold { .. }) => Limit::Off,
            (true, false) if self.limit == Limit::Off && clip_x0 => Limit::Clip { range: 1.0 },
            _ => self.limit,
        };
        Scheduler { limit, method, ..self }
    }

    /// Checks every choice that does not depend on the schedule.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.limit.validate()?;
        if self.steps_offset > MOST_OFFSET {
            let expected = format!("at most {MOST_OFFSET}");
            return Err(Error::invalid("steps_offset", expected, self.steps_offset.to_string(), ""));
        }
        match self.method {
            Method::DpmSolver(DpmSolver { order, .. }) | Method::UniPc(UniPc { order, .. })
                if !(1..=3).contains(&order) =>
            {
                Err(Error::invalid("the solver's order", "1, 2 or 3", order.to_string(), ""))
            }
            Method::UniPc(UniPc { sigma_min, sigma_max, .. })
                if [sigma_min, sigma_max].iter().flatten().any(|s| !(*s > 0.0 && s.is_finite())) =>
            {
                let got = format!("{sigma_min:?} and {sigma_max:?}");
                Err(Error::invalid("sigma_min and sigma_max", "positive numbers", got, ""))
            }
            Method::Ddim(DdimChoice { eta, .. }) if !(0.0..=1.0).contains(&eta) => {
                Err(Error::invalid("eta", "a number from 0 to 1", eta.to_string(), "0 is DDIM, 1 is DDPM"))
            }
            _ => Ok(()),
        }
    }

    /// The steps that are taken where their number is not given: all T for Algorithm 2, 50 for DDIM, 15 for
    /// the multistep solvers.
    pub fn usual_steps(&self, timesteps: usize) -> usize {
        match self.method {
            Method::Ddpm { .. } => timesteps,
            Method::Ddim(_) => 50.min(timesteps),
            Method::DpmSolver(_) | Method::UniPc(_) => match self.spacing {
                Spacing::Trailing => MULTISTEP_STEPS.min(timesteps),
                Spacing::Leading | Spacing::Linspace => MULTISTEP_STEPS.min(timesteps - 1),
            },
        }
    }

    /// The table of the sampler's steps for a model trained with `schedule`, in `steps` calls of the network
    /// (DPM-Solver++'s bound on lambda may leave fewer).
    ///
    /// # Errors
    /// [`Error::Invalid`] for choices out of range, for more steps than there are timesteps, and for a
    /// network that predicts eps where the schedule has zero terminal SNR and the sampler starts there.
    pub fn plan(&self, schedule: &Schedule, steps: usize) -> Result<Plan> {
        self.plan_from(schedule, steps, None)
    }

    /// What is left of the same table where x is the x_t of timestep `from`: the steps below t and one that
    /// leads from t to the highest of them, which is the table's own where it visits t. A multistep solver
    /// begins there as it begins anywhere, with nothing to look back on.
    ///
    /// # Errors
    /// As [`Scheduler::plan`], and for a timestep that the schedule has not.
    pub fn plan_from(&self, schedule: &Schedule, steps: usize, from: Option<Timestep>) -> Result<Plan> {
        self.validate()?;
        let (mut steps, levels) = match self.method {
            Method::Ddpm { variance, noise_at_last } => {
                self.ddpm(schedule, steps, from, variance, noise_at_last)?
            }
            Method::Ddim(choice) => self.ddim(schedule, steps, from, choice)?,
            Method::DpmSolver(solver) => self.dpm_solver(schedule, steps, from, &solver)?,
            Method::UniPc(unipc) => self.uni_pc(schedule, steps, from, &unipc)?,
        };
        // Levels closer than timesteps share one; their noise must not be the same.
        let mut repeats = 0;
        for i in 1..steps.len() {
            repeats = if steps[i].t == steps[i - 1].t { repeats + 1 } else { 0 };
            steps[i].draw = Timestep::from_index(steps[i].t.index() + repeats * schedule.steps());
        }
        Ok(Plan { steps, alpha_bars: levels })
    }

    /// The same sampler without a memory: a multistep solver in its first order, every other one as it is. It
    /// is for uses that change x between the steps, after which what a solver would look back on no longer
    /// holds.
    #[must_use]
    pub fn without_history(self) -> Scheduler {
        let method = match self.method {
            Method::DpmSolver(solver) => Method::DpmSolver(DpmSolver { order: 1, ..solver }),
            Method::UniPc(unipc) => Method::UniPc(UniPc { order: 1, ..unipc }),
            Method::Ddpm { .. } | Method::Ddim(_) => self.method,
        };
        Scheduler { method, ..self }
    }

    /// The sampler as Algorithm 2 or DDIM over the timesteps of its spacing
    /// ([`ReverseProcess::strided`]), where that is what it is in `steps` of the schedule's steps: with a
    /// network that predicts eps, x_0 clipped to [-1, 1] or not, no offset, and the last step leading to x_0.
    pub fn text(&self, schedule: &Schedule, steps: usize) -> Option<ReverseProcess> {
        let timesteps = schedule.steps();
        let clips = match self.limit {
            Limit::Off => false,
            Limit::Clip { range: 1.0 } => true,
            Limit::Clip { .. } | Limit::Threshold { .. } => return None,
        };
        let is_all = steps == timesteps;
        let is_leading = self.spacing == Spacing::Leading;
        let divides_by_0 = schedule.last().alpha_bar == 0.0;
        if !self.prediction.is_epsilon() || divides_by_0 || (is_leading && self.steps_offset > 0) {
            return None;
        }
        match self.method {
            Method::Ddpm { variance, noise_at_last } => {
                let variance = match variance {
                    Variance::FixedSmall => VarianceKind::FixedSmall,
                    Variance::FixedLarge if is_all || self.spacing != Spacing::Trailing || !noise_at_last => {
                        VarianceKind::FixedLarge
                    }
                    Variance::FixedLarge | Variance::Learned | Variance::LearnedRange => return None,
                };
                Some(ReverseProcess::Alg2(Reverse { variance, clip_x0: clips }))
            }
            Method::Ddim(choice) if choice.set_alpha_to_one => {
                let clip_x0 = match (clips, choice.rederive_eps) {
                    (false, _) => ClipX0::Off,
                    (true, false) => ClipX0::KeepEps,
                    (true, true) => ClipX0::RederiveEps,
                };
                Some(ReverseProcess::Ddim(Ddim { eta: choice.eta, clip_x0 }))
            }
            Method::Ddim(_) | Method::DpmSolver(_) | Method::UniPc(_) => None,
        }
    }

    /// The visited timesteps of the samplers of one step, ascending.
    fn timesteps(&self, total: usize, steps: usize) -> Result<Vec<Timestep>> {
        let kept = self.spacing.timesteps(total, steps)?;
        if self.spacing != Spacing::Leading || self.steps_offset == 0 {
            return Ok(kept);
        }
        let last = kept.last().map_or(0, |t| t.index()) + self.steps_offset;
        if last >= total {
            return Err(Error::invalid(
                format!("timesteps with steps_offset {}", self.steps_offset),
                format!("indices below {total}"),
                last.to_string(),
                "take fewer steps",
            ));
        }
        Ok(kept.iter().map(|t| Timestep::from_index(t.index() + self.steps_offset)).collect())
    }

    /// Refuses to divide by sqrt(abar) = 0.
    fn check_start(&self, alpha_bar: f64) -> Result<()> {
        if alpha_bar > 0.0 || self.prediction != Prediction::Epsilon {
            return Ok(());
        }
        Err(Error::invalid(
            "a schedule with zero terminal SNR",
            "a network that predicts v or x_0",
            "one that predicts eps, which says nothing of x_0 where abar = 0",
            "take the leading timesteps, which leave t = T out",
        ))
    }

    fn ddpm(
        &self,
        schedule: &Schedule,
        steps: usize,
        from: Option<Timestep>,
        variance: Variance,
        noise_at_last: bool,
    ) -> Result<Table> {
        let kept = match steps == schedule.steps() && self.steps_offset == 0 {
            true => schedule.clone(),
            false => schedule.respaced(&self.timesteps(schedule.steps(), steps)?)?,
        };
        let kept = kept.begun_at(schedule, from)?;
        self.check_start(kept.last().alpha_bar)?;
        let step =
            |level: &Level| s05_ddpm(level, self.prediction, self.limit, variance, noise_at_last).collected();
        Ok((kept.levels().iter().rev().map(step).collect(), kept.alpha_bars_down()))
    }

    /// Each step leads down by floor(T/K) timesteps, as diffusers has it, whichever the next one is that is
    /// visited: the same where they are leading, or K divides T and they are trailing.
    fn ddim(
        &self,
        schedule: &Schedule,
        steps: usize,
        from: Option<Timestep>,
        choice: DdimChoice,
    ) -> Result<Table> {
        let levels = schedule.levels();
        let kept = self.timesteps(levels.len(), steps)?;
        let stride = levels.len() / steps;
        let last = if choice.set_alpha_to_one { 1.0 } else { levels[0].alpha_bar };
        let next = |t: &Timestep| t.index().checked_sub(stride).map_or(last, |index| levels[index].alpha_bar);
        let mut kept: Vec<_> = kept.iter().map(|t| (*t, levels[t.index()].alpha_bar, next(t))).collect();
        if let Some(from) = from {
            let level = schedule.at(from)?;
            kept.retain(|(t, ..)| *t <= from);
            let below = kept.last().map(|(t, alpha_bar, _)| (*t, *alpha_bar));
            if below.is_none_or(|(t, _)| t != from) {
                kept.push((from, level.alpha_bar, below.map_or(last, |(_, alpha_bar)| alpha_bar)));
            }
        }
        if let Some((_, alpha_bar, _)) = kept.last() {
            self.check_start(*alpha_bar)?;
        }
        let step = |&(t, alpha_bar, next): &(Timestep, f64, f64)| {
            let levels = [alpha_bar, next];
            s06_ddim(t, levels, single::between(levels), self.prediction, self.limit, choice).collected()
        };
        let end = kept.first().map(|(_, _, next)| *next);
        let alpha_bars = kept.iter().rev().map(|(_, alpha_bar, _)| *alpha_bar).chain(end).collect();
        Ok((kept.iter().rev().map(step).collect(), alpha_bars))
    }

    fn dpm_solver(
        &self,
        schedule: &Schedule,
        steps: usize,
        from: Option<Timestep>,
        solver: &DpmSolver,
    ) -> Result<Table> {
        let multistep = Multistep {
            spacing: self.spacing,
            steps_offset: self.steps_offset,
            karras: solver.karras,
            sigma_min: None,
            sigma_max: None,
            final_sigma_zero: solver.final_sigma_zero,
            ends_at_own_lowest: false,
            lambda_min: solver.lambda_min,
        };
        let (ladder, passed) = Ladder::new(&multistep, schedule, steps)?.begun_at(schedule, from)?;
        let steps = ladder.indices.len();
        let step = |i: usize| {
            let order = solver.order_at(passed + i, passed + steps).min(i + 1);
            let (next, noise) = dpm_solver::s07_s08_s09_dpm_solver(&ladder, i, order, solver);
            self.multistep(&ladder, i, None, next, noise)
        };
        Ok(((0..steps).map(step).collect(), ladder.alpha_bars()))
    }

    fn uni_pc(
        &self,
        schedule: &Schedule,
        steps: usize,
        from: Option<Timestep>,
        unipc: &UniPc,
    ) -> Result<Table> {
        let multistep = Multistep {
            spacing: self.spacing,
            steps_offset: self.steps_offset,
            karras: unipc.karras,
            sigma_min: unipc.sigma_min,
            sigma_max: unipc.sigma_max,
            final_sigma_zero: unipc.final_sigma_zero,
            ends_at_own_lowest: true,
            lambda_min: f64::NEG_INFINITY,
        };
        let (ladder, passed) = Ladder::new(&multistep, schedule, steps)?.begun_at(schedule, from)?;
        let steps = ladder.indices.len();
        let order = |i: usize| unipc.order_at(passed + i, passed + steps).min(i + 1);
        let step = |i: usize| {
            let corrects = i > 0 && unipc.corrects(passed + i);
            let correct = corrects.then(|| uni_pc::s11_uni_c(&ladder, i, order(i - 1), unipc));
            let next = uni_pc::s10_uni_p(&ladder, i, order(i), unipc);
            self.multistep(&ladder, i, correct, next, NoiseScale::None)
        };
        Ok(((0..steps).map(step).collect(), ladder.alpha_bars()))
    }

    fn multistep(
        &self,
        ladder: &Ladder,
        i: usize,
        correct: Option<[f64; 5]>,
        next: Next,
        noise: NoiseScale,
    ) -> Step {
        let t = Timestep::from_index(ladder.indices[i]);
        let x0 = s01_predict_x0(self.prediction, ladder.alpha(i), ladder.sigma(i));
        Step { t, draw: t, x0, limit: self.limit, correct, next, noise }
    }
}

/// The steps, and the levels as [`Plan::alpha_bars`] has them.
type Table = (Vec<Step>, Vec<f64>);

/// The table of a sampler's steps, in the order in which they are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    alpha_bars: Vec<f64>,
}

impl Plan {
    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// abar before each step, and behind the last one.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// The last step alone, without what went before.
    pub fn last_step(&self) -> Plan {
        self.step_alone(self.steps.len().saturating_sub(1))
    }

    /// Step `k`, from 0, alone: as the first one, which corrects nothing. None where there is no such step.
    pub fn step_alone(&self, k: usize) -> Plan {
        let step = self.steps.get(k).cloned().map(|step| Step { correct: None, ..step });
        let alpha_bars = self.alpha_bars.iter().copied().skip(k).take(2).collect();
        Plan { steps: step.into_iter().collect(), alpha_bars }
    }

    /// Takes the steps. `x` holds x_T of images of `image` values each on entry and x_0 on return;
    /// `z(k, t, out)` fills `out` with N(0, I) for the k-th step, where noise is added, `network(x_t, t,
    /// out)` writes what it says of x_t, and `observer(k, t, x)` sees every x_{t-1}.
    ///
    /// # Errors
    /// Those of `network`; `x` is then the last x_t.
    pub fn sample<T: Real>(
        &self,
        x: &mut [T],
        image: usize,
        mut z: impl FnMut(usize, Timestep, &mut [T]),
        mut network: impl FnMut(&[T], Timestep, Outputs<T>) -> Result<()>,
        mut observer: impl FnMut(usize, Timestep, &[T]),
    ) -> Result<()> {
        let mut state = State::new(x.to_vec(), image);
        let zeros = || vec![T::zero(); x.len()];
        let (mut output, mut learned, mut noise) = (zeros(), zeros(), zeros());
        for (k, step) in self.steps.iter().enumerate() {
            if step.noise.is_some() {
                z(k, step.draw, &mut noise);
            }
            network(&state.x, step.t, Outputs { prediction: &mut output, variance: &mut learned })?;
            state.advance(step, &output, &learned, &noise);
            x.copy_from_slice(&state.x);
            observer(k, step.t, x);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
