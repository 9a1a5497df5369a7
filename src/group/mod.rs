//! The processes that work on one thing together, each a rank: what they tell each other.
//!
//! Whatever is computed in a [`Group`] is written once and has the same bits for any number of ranks: a rank
//! computes its share, and what is added up is added up in an order that the ranks do not change. [`Solo`] is
//! a group of one. Built with the feature `mpi`, `mpi::World` is the group of the processes that `mpirun` or
//! `srun` has started.

#[cfg(test)]
pub(crate) mod local;
#[cfg(feature = "mpi")]
pub mod mpi;

use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::ops::Range;

/// Processes that work together. All of them call the same methods in the same order; each call waits for
/// the others as far as it needs them.
pub trait Group<T>: Debug + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// How many of them share this machine's memory, this one included.
    fn ranks_here(&self) -> usize {
        self.ranks()
    }

    /// Sends part r of `whole` to every rank r, if this rank is among `senders`, and sets `received` to what
    /// they send of this rank's part, in their order.
    fn all_to_all(&self, senders: &[bool], whole: &[T], parts: &[Range<usize>], received: &mut [T]);

    /// Sets part r of `whole` to what rank r has there, for all r. The parts are adjacent.
    fn all_gather(&self, whole: &mut [T], parts: &[Range<usize>]);

    /// [`Group::all_gather`] for numbers of control.
    fn all_gather_numbers(&self, whole: &mut [f64], parts: &[Range<usize>]);

    /// Sets `values` to what rank 0 has there.
    fn broadcast(&self, values: &mut [T]);

    /// The bytes that rank 0 has.
    fn broadcast_bytes(&self, bytes: Vec<u8>) -> Vec<u8>;

    /// Whether this rank writes files and speaks with the user.
    fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// What every rank says, in their order.
    fn gather_number(&self, number: f64) -> Vec<f64> {
        let mut all = vec![0.0; self.ranks()];
        all[self.rank()] = number;
        self.all_gather_numbers(&mut all, &shares(self.ranks(), self.ranks()));
        all
    }

    /// Whether any rank says so.
    fn any(&self, says: bool) -> bool {
        match self.ranks() {
            1 => says,
            _ => self.gather_number(f64::from(u8::from(says))).contains(&1.0),
        }
    }
}

/// What rank 0 says, on every rank; the others say nothing.
///
/// # Errors
/// [`Error::Invalid`] for what has no JSON form, such as a path that is no Unicode, and where rank 0 is
/// another program.
pub fn told<R: Serialize + DeserializeOwned, T>(group: &dyn Group<T>, says: Option<R>) -> Result<R> {
    if group.ranks() == 1
        && let Some(says) = says
    {
        return Ok(says);
    }
    let refuse = |error: serde_json::Error| {
        let help = "start the same program on every machine, and name files in Unicode";
        Error::invalid("what rank 0 says", "what this program would say", error.to_string(), help)
    };
    let text = says.map_or(Ok(String::new()), |says| serde_json::to_string(&says)).map_err(refuse)?;
    let text = String::from_utf8_lossy(&group.broadcast_bytes(text.into_bytes())).into_owned();
    serde_json::from_str(&text).map_err(refuse)
}

/// A rank's outcome, or, where another rank failed, an error that names it: no rank goes on and waits for one
/// that does not.
///
/// # Errors
/// The outcome's own, and [`Error::OtherRank`].
pub fn agreed<R, T>(group: &dyn Group<T>, outcome: Result<R>) -> Result<R> {
    if group.ranks() == 1 {
        return outcome;
    }
    const NOT_FINITE: f64 = 2.0;
    let mine = match &outcome {
        Ok(_) => 0.0,
        Err(Error::NotFinite { .. }) => NOT_FINITE,
        Err(_) => 1.0,
    };
    let all = group.gather_number(mine);
    match (outcome, all.iter().position(|failed| *failed > 0.0)) {
        (Ok(_), Some(rank)) => Err(Error::OtherRank { rank, not_finite: all[rank] == NOT_FINITE }),
        (outcome, _) => outcome,
    }
}

/// `items` shared out over `ranks` in order, as evenly as can be.
pub fn shares(items: usize, ranks: usize) -> Vec<Range<usize>> {
    let first = |rank: usize| (rank as u128 * items as u128 / ranks as u128) as usize;
    (0..ranks).map(|rank| first(rank)..first(rank + 1)).collect()
}

/// A group of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solo;

impl<T: Copy> Group<T> for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn all_to_all(&self, _: &[bool], whole: &[T], _: &[Range<usize>], received: &mut [T]) {
        received.copy_from_slice(whole);
    }

    fn all_gather(&self, _: &mut [T], _: &[Range<usize>]) {}

    fn all_gather_numbers(&self, _: &mut [f64], _: &[Range<usize>]) {}

    fn broadcast(&self, _: &mut [T]) {}

    fn broadcast_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::local::Local;
    use super::*;

    #[test]
    fn all_know_what_rank_0_says() {
        for ranks in 1..=3 {
            let told = Local::with_ranks(ranks, |group| {
                let group: &dyn Group<f32> = &group;
                told(group, group.leads().then(|| vec![0.1, 2.0]))
            });
            for told in told {
                assert_eq!(told.expect("numbers"), [0.1, 2.0]);
            }
        }
    }

    #[test]
    fn a_rank_that_fails_fails_the_others_by_its_number() {
        let outcomes = Local::with_ranks(3, |group| {
            let group: &dyn Group<f32> = &group;
            let fails = group.rank() == 1;
            agreed(group, if fails { Err(Error::invalid("a", "b", "c", "")) } else { Ok(group.rank()) })
        });
        let text = |outcome: &Result<usize>| outcome.as_ref().expect_err("a failure").to_string();
        let texts: Vec<String> = outcomes.iter().map(text).collect();
        assert_eq!(texts, ["rank 1 failed", "a: expected b, got c", "rank 1 failed"]);
        let diverges = |group: Local| {
            let group: &dyn Group<f32> = &group;
            let error = || Error::NotFinite { what: "x".to_owned(), step: 1, help: String::new() };
            agreed(group, if group.rank() == 1 { Err(error()) } else { Ok(()) })
        };
        let [first, _] = Local::with_ranks(2, diverges).try_into().expect("two outcomes");
        assert!(matches!(first, Err(Error::OtherRank { rank: 1, not_finite: true })), "{first:?}");
        let outcomes = Local::with_ranks(2, |group| agreed::<_, f32>(&group, Ok(7)));
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(7))), "{outcomes:?}");
    }

    #[test]
    fn shares_are_even_and_leave_nothing_out() {
        for (items, ranks) in [(32, 3), (4, 4), (7, 2), (2, 5), (0, 3)] {
            let shares = shares(items, ranks);
            assert_eq!((shares[0].start, shares[ranks - 1].end), (0, items));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            let lengths = shares.iter().map(Range::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "{shares:?}");
        }
    }
}
