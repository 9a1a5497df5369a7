//! A sampler's steps as rows of equal length: what the ONNX graphs are given for each step.

use super::limit::Limit;
use super::step::{Next, NoiseScale, Step};
use super::{Method, Scheduler, Variance};
use crate::equations::Timestep;
use std::fmt;

/// What a sampler's steps need beside x, the network's output and fresh noise. It decides which numbers a row
/// holds, and what is carried from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepForm {
    /// How many x0 of the steps before: 0 to 3.
    pub history: usize,
    /// Whether a step may begin by correcting the one before, (S3), for which the base is carried.
    pub corrects: bool,
    /// Dynamic thresholding, (S2): its ratio and its largest s.
    pub threshold: Option<[f64; 2]>,
    /// How the network's second output is its variance, where the noise depends on it.
    pub learned: Option<Learned>,
}

/// How a learned variance is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// [`NoiseScale::LearnedRange`].
    Range,
    /// [`NoiseScale::Learned`].
    Variance,
}

/// The bound where nothing is clipped: the largest `f32`. An infinity would compute the same, but not every
/// runtime takes one, and JSON cannot store it.
pub const UNBOUNDED: f64 = f32::MAX as f64;

impl StepForm {
    /// The least that these steps of one sampler need.
    pub fn of(steps: &[Step]) -> StepForm {
        let history = |step: &Step| {
            let last = |numbers: &[f64]| numbers.iter().rposition(|c| *c != 0.0).map_or(0, |i| i + 1);
            last(&step.next.x0[1..]).max(step.correct.map_or(0, |c| last(&c[2..])))
        };
        StepForm {
            history: steps.iter().map(history).max().unwrap_or(0),
            corrects: steps.iter().any(|step| step.correct.is_some()),
            threshold: steps.iter().find_map(|step| threshold(step.limit)),
            learned: steps.iter().find_map(|step| match step.noise {
                NoiseScale::None | NoiseScale::Sigma(_) => None,
                NoiseScale::LearnedRange { .. } => Some(Learned::Range),
                NoiseScale::Learned => Some(Learned::Variance),
            }),
        }
    }

    /// Whether steps of the form `other` can be written as rows of this one.
    pub fn covers(&self, other: &StepForm) -> bool {
        self.history >= other.history
            && (self.corrects || !other.corrects)
            && self.threshold == other.threshold
            && (other.learned.is_none() || self.learned == other.learned)
    }

    /// The names of a row's numbers: those of every step, then what the form adds.
    ///
    /// ```text
    /// x0     = limit( clamp( a_x x + a_m m, low, high ) )
    /// base   = c_x x + c_base base + c_x0 x0 + c_x0_1 x0' + ..     where steps correct, else x
    /// x_next = b_x0 x0 + b_x base + b_m m + b_x0_1 x0' + b_x0_2 x0'' + (sigma + learns s(u)) z
    /// ```
    ///
    /// with s(u) the root of e^(w ln_large + (1 - w) ln_small), w = (u + 1)/2, or of u, for the network's
    /// second output u.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = vec!["a_x", "a_m", "low", "high", "b_x0", "b_x", "b_m", "sigma"];
        names.extend(&["b_x0_1", "b_x0_2"][..self.history.min(2)]);
        if self.corrects {
            names.extend(["c_x", "c_base", "c_x0"]);
            names.extend(&["c_x0_1", "c_x0_2", "c_x0_3"][..self.history]);
        }
        match self.learned {
            None => {}
            Some(Learned::Range) => names.extend(["learns", "ln_small", "ln_large"]),
            Some(Learned::Variance) => names.push("learns"),
        }
        names
    }

    /// The names of what is carried from step to step beside x, the newest x0 first. A graph's output for
    /// `NAME` is `NAME_next`.
    pub fn carried(&self) -> Vec<&'static str> {
        let x0 = ["x0_1", "x0_2", "x0_3"].into_iter().take(self.history);
        x0.chain(self.corrects.then_some("base")).collect()
    }

    /// The numbers of a step whose form this one [covers](StepForm::covers), in the order of the
    /// [names](StepForm::names).
    pub fn row(&self, step: &Step) -> Vec<f64> {
        let high = if let Limit::Clip { range } = step.limit { range } else { UNBOUNDED };
        let (sigma, learned) = match step.noise {
            NoiseScale::None => (0.0, [0.0; 3]),
            NoiseScale::Sigma(sigma) => (sigma, [0.0; 3]),
            NoiseScale::LearnedRange { ln_small, ln_large } => (0.0, [1.0, ln_small, ln_large]),
            NoiseScale::Learned => (0.0, [1.0, 0.0, 0.0]),
        };
        let ([a_x, a_m], Next { base, output, x0 }) = (step.x0, step.next);
        let mut row = vec![a_x, a_m, -high, high, x0[0], base, output, sigma];
        row.extend(&x0[1..][..self.history.min(2)]);
        if self.corrects {
            let c = step.correct.unwrap_or_default();
            row.push(if step.correct.is_some() { 0.0 } else { 1.0 });
            row.extend(&c[..2 + self.history]);
        }
        match self.learned {
            None => {}
            Some(Learned::Range) => row.extend(learned),
            Some(Learned::Variance) => row.push(learned[0]),
        }
        row
    }

    /// The same, each number rounded once.
    pub fn row_f32(&self, step: &Step) -> Vec<f32> {
        self.row(step).into_iter().map(|c| c as f32).collect()
    }
}

impl fmt::Display for StepForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.history {
            0 => f.write_str("x alone")?,
            1 => f.write_str("x and the x0 of the step before")?,
            n => write!(f, "x and the x0 of the {n} steps before")?,
        }
        if self.corrects {
            f.write_str(", each step corrected by the next")?;
        }
        if let Some([ratio, max]) = self.threshold {
            write!(f, ", dynamic thresholding at {ratio} up to {max}")?;
        }
        match self.learned {
            None => Ok(()),
            Some(Learned::Range) => f.write_str(", a learned variance between two bounds"),
            Some(Learned::Variance) => f.write_str(", a learned variance"),
        }
    }
}

impl Step {
    /// The step that leaves x as it is.
    pub fn identity() -> Step {
        let t = Timestep::from_index(0);
        let next = Next { base: 1.0, ..Next::default() };
        Step { t, draw: t, x0: [0.0; 2], limit: Limit::Off, correct: None, next, noise: NoiseScale::None }
    }
}

impl Scheduler {
    /// What the steps of this sampler need, in whatever number they are.
    pub fn form(&self) -> StepForm {
        let (history, corrects, variance) = match self.method {
            Method::Ddpm { variance, .. } => (0, false, Some(variance)),
            Method::Ddim(_) => (0, false, None),
            Method::DpmSolver(solver) => (solver.order.saturating_sub(1), false, None),
            Method::UniPc(unipc) => (unipc.order, true, None),
        };
        StepForm {
            history,
            corrects,
            threshold: threshold(self.limit),
            learned: match variance {
                None | Some(Variance::FixedSmall | Variance::FixedLarge) => None,
                Some(Variance::LearnedRange) => Some(Learned::Range),
                Some(Variance::Learned) => Some(Learned::Variance),
            },
        }
    }
}

fn threshold(limit: Limit) -> Option<[f64; 2]> {
    match limit {
        Limit::Off | Limit::Clip { .. } => None,
        Limit::Threshold { ratio, max } => Some([ratio, max]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BetaSchedule, DiffusionConfig, Prediction};
    use crate::equations::Schedule;
    use crate::equations::solver::{DdimChoice, DpmSolver, State, UniPc};
    use crate::rng::{Stream, fill_normal, rng};

    fn schedulers() -> Vec<Scheduler> {
        let usual = Scheduler::of(&DiffusionConfig::default());
        let mut methods = vec![Method::Ddim(DdimChoice { eta: 0.5, ..DdimChoice::default() })];
        for variance in
            [Variance::FixedSmall, Variance::FixedLarge, Variance::Learned, Variance::LearnedRange]
        {
            methods.push(Method::Ddpm { variance, noise_at_last: true });
        }
        for order in 1..=3 {
            for sde in [false, true] {
                methods.push(Method::DpmSolver(DpmSolver { order, sde, ..DpmSolver::default() }));
            }
            methods.push(Method::UniPc(UniPc { order, ..UniPc::default() }));
        }
        let mut all = Vec::new();
        for method in methods {
            for limit in [Limit::Off, Limit::Clip { range: 1.5 }, Limit::Threshold { ratio: 0.8, max: 2.0 }] {
                for prediction in [Prediction::Epsilon, Prediction::VPrediction] {
                    all.push(Scheduler { method, limit, prediction, ..usual });
                }
            }
        }
        all
    }

    fn normal(id: u64, n: usize) -> Vec<f64> {
        let mut values = vec![0.0; n];
        fill_normal(&mut rng(23, Stream::Check, 0, id), &mut values);
        values
    }

    /// A step from its row by the text of [`StepForm::names`]: x_next, and what is carried on.
    fn by_row(
        form: &StepForm,
        row: &[f64],
        [x, m, u, z]: [&[f64]; 4],
        carried: &[Vec<f64>],
    ) -> (Vec<f64>, Vec<Vec<f64>>) {
        let names = form.names();
        let c = |name: &str| names.iter().position(|n| *n == name).map_or(0.0, |place| row[place]);
        let mut x0: Vec<f64> = x.iter().zip(m).map(|(x, m)| c("a_x") * x + c("a_m") * m).collect();
        x0.iter_mut().for_each(|x| *x = x.clamp(c("low"), c("high")));
        if let Some([ratio, max]) = form.threshold {
            Limit::Threshold { ratio, max }.s02_limit(&mut x0);
        }
        let earlier =
            |k: usize, i: usize| carried.get(k).filter(|_| k < form.history).map_or(0.0, |x0| x0[i]);
        let base: Vec<f64> = (0..x.len())
            .map(|i| {
                if !form.corrects {
                    return x[i];
                }
                let past: f64 =
                    (0..form.history).map(|k| c(&format!("c_x0_{}", k + 1)) * earlier(k, i)).sum();
                c("c_x") * x[i] + c("c_base") * carried[form.history][i] + c("c_x0") * x0[i] + past
            })
            .collect();
        let next = (0..x.len())
            .map(|i| {
                let w = (u[i] + 1.0) / 2.0;
                let learned = match form.learned {
                    Some(Learned::Variance) => u[i].sqrt(),
                    _ => ((w * c("ln_large") + (1.0 - w) * c("ln_small")) / 2.0).exp(),
                };
                let past = c("b_x0_1") * earlier(0, i) + c("b_x0_2") * earlier(1, i);
                let sigma = c("sigma") + c("learns") * learned;
                c("b_x0") * x0[i] + c("b_x") * base[i] + c("b_m") * m[i] + past + sigma * z[i]
            })
            .collect();
        let newest = (form.history > 0).then_some(x0);
        let kept = carried[..form.history].iter().take(form.history.saturating_sub(1)).cloned();
        (next, newest.into_iter().chain(kept).chain(form.corrects.then_some(base)).collect())
    }

    /// The rows of a whole run, in the form of its steps and in that of its sampler, against the engine's
    /// [`State`]: the same sums in another order, so to 1e-12 of numbers below 1e3.
    #[test]
    fn s03_s04_a_row_says_what_its_step_does() {
        let schedule = Schedule::from_config(&DiffusionConfig {
            schedule: BetaSchedule::Cosine,
            ..DiffusionConfig::default()
        })
        .unwrap();
        for scheduler in schedulers() {
            let steps = scheduler.steps(&schedule, 7).unwrap();
            let least = StepForm::of(&steps);
            assert!(scheduler.form().covers(&least), "{scheduler:?}");
            for form in [least, scheduler.form()] {
                assert_eq!(form.row(&steps[0]).len(), form.names().len());
                let mut state = State::new(normal(0, 8), 8);
                let mut carried = vec![vec![0.0; 8]; form.carried().len()];
                for (k, step) in steps.iter().enumerate() {
                    assert!(form.row_f32(step).iter().all(|c| c.is_finite()), "{step:?}");
                    let x = state.x.clone();
                    let m: Vec<f64> = x.iter().map(|x| (3.0 * x).sin()).collect();
                    let (u, z) = (normal(1, 8), normal(k as u64 + 2, 8));
                    let u: Vec<f64> = u.iter().map(|u| u.abs()).collect();
                    state.advance(step, &m, &u, &z);
                    let (next, kept) = by_row(&form, &form.row(step), [&x, &m, &u, &z], &carried);
                    carried = kept;
                    for (got, want) in next.iter().zip(&state.x) {
                        assert!((got - want).abs() < 1e-12 * want.abs().max(1e3), "{scheduler:?} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_identity_changes_nothing() {
        let form = StepForm { history: 2, corrects: true, ..StepForm::default() };
        let row = form.row(&Step::identity());
        let x = [0.1, -7.5, 3e30];
        let carried = vec![vec![1.0; 3]; 3];
        let (next, _) = by_row(&form, &row, [&x, &[2.0, -3.0, 1e30], &[0.0; 3], &[1.0; 3]], &carried);
        assert_eq!(next, x);
    }

    #[test]
    fn a_form_covers_what_needs_no_more() {
        let plain = StepForm::default();
        let unipc = StepForm { history: 2, corrects: true, ..plain };
        let cut = StepForm { threshold: Some([0.9, 1.0]), ..plain };
        let learned = StepForm { learned: Some(Learned::Range), ..plain };
        assert_eq!(plain.names().len(), 8);
        assert!(unipc.covers(&plain) && unipc.covers(&StepForm { history: 1, ..plain }));
        assert!(!plain.covers(&unipc) && !unipc.covers(&StepForm { history: 3, ..unipc }));
        assert!(!cut.covers(&plain) && !plain.covers(&cut), "the limit is the graph's");
        assert!(learned.covers(&plain) && !plain.covers(&learned));
        assert_eq!(unipc.carried(), ["x0_1", "x0_2", "base"]);
    }
}
