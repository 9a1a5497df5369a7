//! Where a step's time goes: thread-seconds by kind of work, for `bench`.

use super::graph::Op;
use crate::kernels::Team;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// 3x3 convolutions.
    Conv,
    /// Linear layers and 1x1 convolutions.
    Linear,
    /// Group normalisations with their SiLU.
    Norm,
    /// Attention between the projections.
    Attention,
    /// Everything else in the graph: additions, concatenations, resampling, dropout, the embeddings of
    /// the timestep and of the class.
    ElementWise,
}

impl OpKind {
    /// The kind of an operation.
    pub fn of(op: &Op) -> OpKind {
        match op {
            Op::Conv { .. } => OpKind::Conv,
            Op::Linear { .. } => OpKind::Linear,
            Op::GroupNorm { .. } => OpKind::Norm,
            Op::Attention { .. } => OpKind::Attention,
            Op::TimeEmbedding { .. }
            | Op::ClassEmbedding { .. }
            | Op::Center
            | Op::Activate { .. }
            | Op::AddChannels
            | Op::ScaleShift
            | Op::Add { .. }
            | Op::Concat
            | Op::Upsample
            | Op::AveragePool
            | Op::Dropout { .. } => OpKind::ElementWise,
        }
    }
}

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Operations in the forward sweep.
    Forward(OpKind),
    /// Operations in the backward sweep.
    Backward(OpKind),
    /// Images, timesteps and noise: x_t and eps.
    Batch,
    /// The loss and its gradient in the output.
    Loss,
    /// Bringing the weights into the layout that the sweeps want.
    Weights,
    /// Adding up the shards' gradients, and their norm.
    Reduction,
    /// Adam and the moving average.
    Optimiser,
}

impl Work {
    /// Every part, in the order of a report.
    pub const ALL: [Work; 15] = [
        Work::Batch,
        Work::Weights,
        Work::Forward(OpKind::Conv),
        Work::Forward(OpKind::Linear),
        Work::Forward(OpKind::Norm),
        Work::Forward(OpKind::Attention),
        Work::Forward(OpKind::ElementWise),
        Work::Loss,
        Work::Backward(OpKind::Conv),
        Work::Backward(OpKind::Linear),
        Work::Backward(OpKind::Norm),
        Work::Backward(OpKind::Attention),
        Work::Backward(OpKind::ElementWise),
        Work::Reduction,
        Work::Optimiser,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Work::Forward(OpKind::Conv) => "forward_conv",
            Work::Forward(OpKind::Linear) => "forward_linear",
            Work::Forward(OpKind::Norm) => "forward_norm",
            Work::Forward(OpKind::Attention) => "forward_attention",
            Work::Forward(OpKind::ElementWise) => "forward_element_wise",
            Work::Backward(OpKind::Conv) => "backward_conv",
            Work::Backward(OpKind::Linear) => "backward_linear",
            Work::Backward(OpKind::Norm) => "backward_norm",
            Work::Backward(OpKind::Attention) => "backward_attention",
            Work::Backward(OpKind::ElementWise) => "backward_element_wise",
            Work::Batch => "batch",
            Work::Loss => "loss",
            Work::Weights => "weights",
            Work::Reduction => "reduction",
            Work::Optimiser => "optimiser",
        }
    }

    fn index(self) -> usize {
        Work::ALL.iter().position(|work| *work == self).expect("every part is listed")
    }
}

/// Thread-seconds spent on each part since it was made, by threads that work on it or wait for it; they add
/// to it side by side. Divided by the number of threads they add up to the time of the steps, less what
/// threads spent without a shard to work on.
#[derive(Debug)]
pub struct OpClock {
    threads: u64,
    nanoseconds: [AtomicU64; Work::ALL.len()],
}

impl OpClock {
    /// A clock at zero for a pool of so many threads.
    pub fn new(threads: usize) -> OpClock {
        OpClock { threads: threads as u64, nanoseconds: Default::default() }
    }

    /// The sum over threads of the seconds spent on a part.
    pub fn seconds(&self, work: Work) -> f64 {
        self.nanoseconds[work.index()].load(Ordering::Relaxed) as f64 * 1e-9
    }

    fn count<R>(&self, work: Work, times: u64, f: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = f();
        let elapsed = start.elapsed().as_nanos() as u64;
        self.nanoseconds[work.index()].fetch_add(times * elapsed, Ordering::Relaxed);
        result
    }
}

/// Runs `f`, and counts its time for each thread of the team if there is a clock.
#[inline]
pub(crate) fn timed<R>(clock: Option<&OpClock>, team: Team, work: Work, f: impl FnOnce() -> R) -> R {
    let Some(clock) = clock else { return f() };
    clock.count(work, team.threads() as u64, f)
}

/// The same for the whole pool.
#[inline]
pub(crate) fn timed_for_all<R>(clock: Option<&OpClock>, work: Work, f: impl FnOnce() -> R) -> R {
    let Some(clock) = clock else { return f() };
    clock.count(work, clock.threads, f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Crew;
    use std::time::Duration;

    fn nap() {
        std::thread::sleep(Duration::from_millis(1));
    }

    #[test]
    fn every_part_has_a_place_and_a_name_of_its_own() {
        let clock = OpClock::new(3);
        for (i, work) in Work::ALL.into_iter().enumerate() {
            assert_eq!(work.index(), i);
            assert!(Work::ALL[..i].iter().all(|other| other.name() != work.name()));
            let slept = timed(Some(&clock), Team::Solo, work, || {
                nap();
                7
            });
            assert_eq!(slept, 7);
            assert!(clock.seconds(work) >= 1e-3);
        }
        assert_eq!(timed(None, Team::Solo, Work::Loss, || 8), 8);
    }

    #[test]
    fn time_counts_for_every_thread_that_works_or_waits() {
        let clock = OpClock::new(3);
        timed_for_all(Some(&clock), Work::Reduction, nap);
        assert!(clock.seconds(Work::Reduction) >= 3e-3);
        Crew::new(5).lead(|team| timed(Some(&clock), team, Work::Loss, nap));
        assert!(clock.seconds(Work::Loss) >= 5e-3);
    }
}
