//! How long a run is: a number of steps, or minutes that the clock turns into steps.
//!
//! The clock only decides numbers of steps. Each decision is an entry of the run's plan, recorded with the
//! run, and learning rates, sample grids and the end follow the plan ([`TrainConfig::share_done`]): a run
//! that is given the recorded plan takes the same steps without a clock.

use crate::config::{PlanEntry, TrainConfig};
use crate::error::{Error, Result};
use std::collections::VecDeque;

/// When a call of [`Run::train`](super::Run::train) ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Limit {
    /// At the end of the run as its configuration has it. A run by the clock that was stopped has the minutes
    /// that it had left.
    #[default]
    Configured,
    /// After this many steps in all, those of earlier calls included.
    Steps(u64),
    /// After this many minutes of this call.
    Minutes(f64),
}

impl Limit {
    /// Makes it the run's own limit, for a run that has taken `step` steps in `seconds`. What was decided
    /// about later steps by a clock, or for another length, is forgotten.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no steps, and for minutes that are no positive number.
    pub(super) fn apply(self, train: &mut TrainConfig, step: u64, seconds: f64) -> Result<()> {
        match self {
            Limit::Configured => {
                if train.steps.is_none() {
                    train.keep_plan_up_to(step);
                }
            }
            Limit::Steps(0) => {
                return Err(Error::invalid("Limit::Steps", "at least 1", "0", ""));
            }
            Limit::Steps(steps) => {
                let as_planned = train.plan.last().is_some_and(|last| last.end == steps);
                if train.steps != Some(steps) && !as_planned && steps > step {
                    train.keep_plan_up_to(step);
                    if step == 0 {
                        train.plan.clear();
                    } else {
                        decide_at(train, step, steps);
                    }
                }
                // No fewer steps than were taken: such a limit only ends the call.
                train.steps = Some(train.end().unwrap_or(steps));
            }
            Limit::Minutes(minutes) => {
                if !(minutes > 0.0 && minutes.is_finite()) {
                    return Err(Error::invalid(
                        "Limit::Minutes",
                        "a positive number",
                        minutes.to_string(),
                        "",
                    ));
                }
                train.keep_plan_up_to(step);
                if step == 0 {
                    train.plan.clear();
                } else {
                    // As many steps as the time holds at the pace so far, until this call's clock knows
                    // better.
                    let more = (60.0 * minutes * step as f64 / seconds) as u64;
                    decide_at(train, step, step + more.clamp(1, 1 << 40));
                }
                train.minutes = Some(seconds / 60.0 + minutes);
            }
        }
        Ok(())
    }
}

/// Adds a decision to the plan, in the place of one that was made after the same step.
pub(super) fn decide_at(train: &mut TrainConfig, step: u64, end: u64) {
    train.plan.retain(|entry| entry.step < step);
    train.plan.push(PlanEntry { step, end });
}

/// A deviation from the budget that is worth a new decision, as a share of the budget.
const TOLERANCE: f64 = 0.01;
/// Time between two decisions: at most these shares of the budget and of what is left of it. The less is
/// left, the less a hasty decision can harm and the more a late one.
const BETWEEN: (f64, f64) = (0.04, 0.2);
/// The speed is taken from at least this share of the budget and this share of what is left: the more is to
/// come, the less it should depend on the last moments.
const STRETCH: (f64, f64) = (0.02, 0.1);
/// The share of the budget after which the first decision is made, if enough steps are done by then.
const FIRST: f64 = 0.01;
/// The share after which it is made in any case.
const FIRST_AT_LAST: f64 = 0.1;
/// Steps that the speed is taken from at least, where there are so many.
const ENOUGH: usize = 8;

/// Steers a run by the clock so that it ends when its time does: it measures the steps of late, and says at
/// which step the run has to end.
#[derive(Debug)]
pub(super) struct Clock {
    /// Seconds that the steps of the run may take, pauses included.
    seconds: f64,
    /// Steps of late and the seconds of work up to them, pauses left out.
    recent: VecDeque<(u64, f64)>,
    /// Seconds that were no steps.
    paused: f64,
    /// When the last decision was made.
    decided: f64,
}

impl Clock {
    /// A clock for a run that may take `seconds` in all, `now` of which are over.
    pub(super) fn new(seconds: f64, now: f64) -> Clock {
        Clock { seconds, recent: VecDeque::new(), paused: 0.0, decided: now }
    }

    /// Leaves a pause of so many seconds out of the speed.
    pub(super) fn pause(&mut self, seconds: f64) {
        self.paused += seconds;
    }

    /// Seconds that a step takes of late; `None` before two are done.
    pub(super) fn seconds_a_step(&self) -> Option<f64> {
        let ((first, begin), (last, end)) = (self.recent.front()?, self.recent.back()?);
        (last > first).then(|| (end - begin) / (last - first) as f64)
    }

    /// The new end of the run, if it has to be another than `planned`, after `step` at `now`, seconds of the
    /// run; `ahead` are the seconds of pauses before the end and of what follows it.
    pub(super) fn decide(&mut self, step: u64, now: f64, ahead: f64, planned: Option<u64>) -> Option<u64> {
        let work = now - self.paused;
        self.recent.push_back((step, work));
        // No more than half of the time goes to anything else than steps.
        let left = (self.seconds - ahead.min(0.5 * self.seconds) - now).max(0.0);
        let stretch = (STRETCH.0 * self.seconds).max(STRETCH.1 * left);
        while self.recent.len() > ENOUGH && work - self.recent[1].1 > stretch {
            self.recent.pop_front();
        }
        let end = match self.seconds_a_step() {
            Some(pace) => step + ((left / pace).round() as u64).max(1),
            // The only step may have taken all the time there is.
            None if left == 0.0 => step + 1,
            None => return None,
        };
        let worth_it = match planned {
            None => {
                let enough = self.recent.len() > ENOUGH && now >= FIRST * self.seconds;
                enough || now >= FIRST_AT_LAST * self.seconds
            }
            Some(planned) => {
                let steps = planned.abs_diff(end);
                let seconds = steps as f64 * self.seconds_a_step().unwrap_or(f64::INFINITY);
                let between = (BETWEEN.0 * self.seconds).min(BETWEEN.1 * left);
                steps > 1 && seconds > TOLERANCE * self.seconds && now - self.decided >= between
            }
        };
        worth_it.then(|| {
            self.decided = now;
            end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LrDecay, Preset};
    use crate::rng::{Stream, rng};
    use rand::RngExt;

    /// The time that a run takes on a machine whose steps take `pace(seconds)`, and the plan that it leads
    /// to.
    fn run(budget: f64, ahead: f64, pause: f64, pace: impl Fn(f64) -> f64) -> (f64, Vec<PlanEntry>) {
        let mut clock = Clock::new(budget, 0.0);
        let (mut now, mut step, mut plan) = (0.0, 0, Vec::<PlanEntry>::new());
        let end = |plan: &[PlanEntry]| plan.last().map(|entry| entry.end);
        while end(&plan).is_none_or(|end| step < end) {
            step += 1;
            now += pace(now);
            if pause > 0.0 && step == 100 {
                now += pause;
                clock.pause(pause);
            }
            if let Some(end) = clock.decide(step, now, ahead, end(&plan)) {
                plan.push(PlanEntry { step, end });
            }
        }
        (now + ahead, plan)
    }

    /// The bounds are those that a run by the clock promises: 3 % of its time.
    #[test]
    fn runs_end_when_their_time_does() {
        let noisy = |pace: f64| {
            move |now: f64| pace * (0.7 + 0.6 * (43758.5453 * (12.9898 * now).sin()).fract().abs())
        };
        for (budget, pace, ahead) in
            [(600.0, 0.09, 5.0), (60.0, 0.3, 2.0), (600.0, 20.0, 0.0), (3.0, 0.002, 0.1)]
        {
            for pause in [0.0, 0.02 * budget] {
                let (now, plan) = run(budget, ahead, pause, noisy(pace));
                let bound = (0.03 * budget).max(2.0 * pace);
                assert!((now - budget).abs() < bound, "{now} for {budget}, steps of {pace}: {plan:?}");
                assert!(plan[0].step as f64 * pace <= (0.02 * budget).max(10.0 * pace), "{plan:?}");
                assert!(plan.len() < 25, "{plan:?}");
            }
        }
    }

    #[test]
    fn a_machine_that_gets_slower_or_faster_ends_in_time_too() {
        for at in [0.1, 0.5, 0.9, 0.97] {
            for factor in [0.5, 2.0] {
                let pace = |now: f64| 0.08 * if now > at * 180.0 { factor } else { 1.0 };
                let (now, plan) = run(180.0, 4.0, 0.0, pace);
                assert!((now - 180.0).abs() < 0.03 * 180.0, "{now}, {factor} times at {at}: {plan:?}");
                assert!(plan.windows(2).all(|pair| pair[0].step < pair[1].step));
            }
        }
    }

    #[test]
    fn a_time_shorter_than_a_step_still_ends_after_one_more() {
        let (now, plan) = run(1.0, 0.0, 0.0, |_| 7.0);
        assert_eq!((now, plan), (14.0, vec![PlanEntry { step: 1, end: 2 }]));
        // What follows the steps has at most half of the time.
        assert_eq!(run(100.0, 80.0, 0.0, |_| 1.0).0, 130.0);
    }

    fn entries(plan: &[(u64, u64)]) -> Vec<PlanEntry> {
        plan.iter().map(|&(step, end)| PlanEntry { step, end }).collect()
    }

    /// To the last bit, over plans of up to four decisions at any steps, whatever the decay begins at.
    #[test]
    fn the_last_rate_of_any_plan_is_a_hundredth() {
        let mut train = Preset::Tiny.config().train;
        train.steps = None;
        let mut draws = rng(5, Stream::Check, 0, 0);
        let mut below = |n: u64| draws.random_range(0..n);
        for _ in 0..20_000 {
            train.plan.clear();
            let mut step = below(40);
            for _ in 0..=below(4) {
                train.plan.push(PlanEntry { step, end: step + 1 + below(5000) });
                step += 1 + below(900);
            }
            let end = train.end().expect("a plan");
            train.lr = 1e-5 * (1 + below(1000)) as f64;
            train.warmup_steps = [0, 1, 20, 500][below(4) as usize];
            train.lr_decay = LrDecay::Linear { from: [0.0, 0.25, 0.3, 0.9][below(4) as usize] };
            let warm = (end as f64 / train.warmup_steps.max(1) as f64).min(1.0);
            assert_eq!(train.share_done(end), 1.0, "{:?}", train.plan);
            assert_eq!(train.lr_at(end), 0.01 * train.lr * warm, "{train:?}");
        }
    }

    /// (steps, minutes, plan) after a limit was applied to a run with (steps, plan) after `step` steps in 120
    /// seconds.
    fn applied(
        limit: Limit,
        (steps, plan): (Option<u64>, &[(u64, u64)]),
        step: u64,
    ) -> (Option<u64>, Option<f64>, Vec<PlanEntry>) {
        let mut train = Preset::Tiny.config().train;
        (train.steps, train.minutes, train.plan) = (steps, Some(9.0), entries(plan));
        limit.apply(&mut train, step, 120.0).expect("a limit");
        train.validate().expect("a configuration that can be written");
        (train.steps, train.minutes, train.plan)
    }

    #[test]
    fn a_limit_becomes_the_runs_own() {
        let clock: (Option<u64>, &[(u64, u64)]) = (None, &[(3, 90), (50, 70)]);
        let done: (Option<u64>, &[(u64, u64)]) = (Some(70), &[(3, 90), (50, 70)]);
        let nine = Some(9.0);
        // A run by the clock forgets what was decided after its checkpoint; one with a plan follows it.
        assert_eq!(applied(Limit::Configured, clock, 40), (None, nine, entries(&[(3, 90)])));
        assert_eq!(applied(Limit::Configured, done, 40), (Some(70), nine, entries(done.1)));
        // The recorded plan is followed by its number of steps, whoever made it.
        assert_eq!(applied(Limit::Steps(70), done, 0), (Some(70), nine, entries(done.1)));
        assert_eq!(applied(Limit::Steps(70), clock, 0), (Some(70), nine, entries(clock.1)));
        // Another number is another plan.
        assert_eq!(applied(Limit::Steps(80), done, 0), (Some(80), nine, vec![]));
        assert_eq!(applied(Limit::Steps(80), (Some(40), &[]), 0), (Some(80), nine, vec![]));
        assert_eq!(
            applied(Limit::Steps(80), (Some(40), &[]), 40),
            (Some(80), nine, entries(&[(0, 40), (40, 80)]))
        );
        assert_eq!(applied(Limit::Steps(60), done, 50), (Some(60), nine, entries(&[(3, 90), (50, 60)])));
        // A limit that is passed already changes nothing.
        assert_eq!(applied(Limit::Steps(20), (Some(40), &[]), 40), (Some(40), nine, vec![]));
        // Five minutes more at the pace of 70 steps in two.
        let more = entries(&[(3, 90), (50, 70), (70, 245)]);
        assert_eq!(applied(Limit::Minutes(5.0), done, 70), (None, Some(7.0), more));
        assert_eq!(applied(Limit::Minutes(5.0), (Some(40), &[]), 0), (None, Some(7.0), vec![]));
    }

    #[test]
    fn limits_that_are_none_are_refused() {
        let mut train = Preset::Tiny.config().train;
        for limit in [Limit::Steps(0), Limit::Minutes(0.0), Limit::Minutes(-1.0), Limit::Minutes(f64::NAN)] {
            assert!(limit.apply(&mut train, 0, 0.0).is_err(), "{limit:?}");
        }
    }
}
