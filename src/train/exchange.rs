//! What the ranks of a [`Group`] exchange in a step: gradients, their norm, weights.
//!
//! A rank computes the gradients of its shards of the batch and adds up the subtrees that they make up
//! (`model/gradient_tree.rs`). Part r of every such sum travels to rank r, which adds up the rest of the tree
//! for its part, updates that part of the weights, their average and the moments, and gives its weights to
//! all. A part is some whole tensors. No sum depends on the number of ranks: those of gradients follow the
//! batch's tree, those of the norm the blocks of the tensors.

use super::optimizer::{blocks, norm, sums_of_squares};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::group::{Group, shares};
use crate::kernels::{Element, Isa};
use crate::model::clock::{Work, timed_for_all};
use crate::model::params::{Param, ParamTable};
use crate::model::{Engine, Node, Tree, roots, shard_count};
use crate::nn::add_to;
use rayon::prelude::*;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Elements that one task adds up.
const CHUNK: usize = 1 << 14;

/// Checks that a configuration can be trained in so many ranks.
///
/// # Errors
/// [`Error::Invalid`] for more ranks than the batch has shards, naming the numbers that work, and for several
/// where a runtime trains.
pub fn check_ranks(config: &Config, ranks: usize) -> Result<()> {
    let refuse =
        |expected: String, help: String| Err(Error::invalid("the ranks", expected, ranks.to_string(), help));
    let batch = config.train.batch;
    let count = shard_count(batch);
    if ranks > 1 && config.runtime.is_some() {
        return refuse("1 in a runtime".to_owned(), "train in ranks with the engine".to_owned());
    }
    if ranks > count {
        let enough = (batch..).find(|batch| shard_count(*batch) >= ranks).expect("batches grow");
        return refuse(
            format!("at most {count}, as a batch of {batch} has {count} shards"),
            format!("start fewer, or train with a `batch` of {enough} or more"),
        );
    }
    Ok(())
}

/// Who computes which shards of a batch, and who owns which part of the network.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// The shards of every rank.
    shards: Vec<Range<usize>>,
    /// The subtrees of the batch that they make up.
    roots: Vec<Vec<Node>>,
    /// The parameters of every rank: whole tensors.
    parts: Vec<Range<usize>>,
    /// The blocks of parameters that the norm is summed in, and which of them are every rank's.
    blocks: Vec<Range<usize>>,
    blocks_of: Vec<Range<usize>>,
}

impl Shares {
    /// Those of a batch and a network.
    ///
    /// # Errors
    /// Those of [`check_ranks`].
    pub(super) fn new(config: &Config, params: &ParamTable, ranks: usize) -> Result<Shares> {
        check_ranks(config, ranks)?;
        let count = shard_count(config.train.batch);
        let shards = shares(count, ranks);
        let parts = parts(params, ranks);
        let blocks = blocks(params.iter().map(Param::range));
        let begun = |place: usize| blocks.partition_point(|block| block.start < place);
        Ok(Shares {
            roots: shards.iter().map(|shards| roots(shards.clone(), count)).collect(),
            blocks_of: parts.iter().map(|part| begun(part.start)..begun(part.end)).collect(),
            shards,
            parts,
            blocks,
        })
    }

    /// The shards that a rank computes.
    pub(super) fn shards(&self, rank: usize) -> Range<usize> {
        self.shards[rank].clone()
    }

    /// The parameters that a rank owns.
    pub(super) fn part(&self, rank: usize) -> Range<usize> {
        self.parts[rank].clone()
    }

    /// Those of every rank.
    pub(super) fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    fn shard_count(&self) -> usize {
        self.shards.last().map_or(0, |shards| shards.end)
    }
}

/// The parameters shared out in whole tensors, as evenly as those allow.
fn parts(params: &ParamTable, ranks: usize) -> Vec<Range<usize>> {
    let ends: Vec<usize> = params.iter().map(|param| param.range().end).collect();
    let nearest = |place: usize| {
        let after = ends.partition_point(|end| *end < place);
        let around =
            [after.checked_sub(1).map_or(0, |before| ends[before]), ends.get(after).copied().unwrap_or(0)];
        around.into_iter().min_by_key(|end| end.abs_diff(place)).unwrap_or(0)
    };
    let even = shares(params.total(), ranks);
    even.into_iter().map(|part| nearest(part.start)..nearest(part.end)).collect()
}

/// Seconds of the last step that were no computing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Elsewhere {
    /// Waiting for ranks that were still at work on their shards.
    pub(super) waiting: Duration,
    /// Sending and receiving.
    pub(super) communication: Duration,
}

/// The memory of the exchanges of a step.
#[derive(Debug, Default)]
pub(super) struct Exchange<T> {
    losses: Vec<f64>,
    squares: Vec<f64>,
    received: Vec<Vec<T>>,
    /// What the last step's took.
    pub(super) elsewhere: Elsewhere,
}

impl<T: Element> Exchange<T> {
    /// The sum of all shards' losses.
    pub(super) fn losses(&mut self, group: &dyn Group<T>, shares: &Shares, engine: &mut Engine<T>) -> f64 {
        let start = Instant::now();
        self.losses.resize(shares.shard_count(), 0.0);
        self.losses[shares.shards(group.rank())].copy_from_slice(engine.shard_losses());
        group.all_gather_numbers(&mut self.losses, &shares.shards);
        self.elsewhere = Elsewhere { waiting: start.elapsed(), communication: Duration::ZERO };
        self.losses.iter().sum()
    }

    /// Sets `gradient` to the batch's gradient in the parameters that this rank owns.
    pub(super) fn gradient(
        &mut self,
        group: &dyn Group<T>,
        shares: &Shares,
        engine: &mut Engine<T>,
        gradient: &mut Vec<T>,
    ) {
        if group.ranks() == 1 {
            return engine.take_gradient(gradient);
        }
        let len = shares.part(group.rank()).len();
        let rounds = shares.roots.iter().map(Vec::len).max().unwrap_or(0);
        self.received.resize_with(rounds, Vec::new);
        let start = Instant::now();
        let mut roots = engine.gradient_roots();
        for (round, received) in self.received.iter_mut().enumerate() {
            let senders: Vec<bool> = shares.roots.iter().map(|roots| roots.len() > round).collect();
            received.resize(len * senders.iter().filter(|sends| **sends).count(), T::zero());
            let whole = roots.next().map_or(&[][..], |(_, sum)| sum);
            group.all_to_all(&senders, whole, &shares.parts, received);
        }
        drop(roots);
        self.elsewhere.communication += start.elapsed();
        let isa = engine.kernels().isa;
        let received = &mut self.received;
        let sum = timed_for_all(engine.clock(), Work::Reduction, || {
            engine.install(|| sum_up(isa, shares, len, received))
        });
        gradient.clear();
        gradient.extend_from_slice(sum);
    }

    /// The norm of the whole gradient, of which this rank has its part.
    pub(super) fn norm(
        &mut self,
        group: &dyn Group<T>,
        shares: &Shares,
        engine: &Engine<T>,
        gradient: &[T],
    ) -> f64 {
        self.squares.resize(shares.blocks.len(), 0.0);
        let own = shares.blocks_of[group.rank()].clone();
        let (blocks, squares) = (&shares.blocks[own.clone()], &mut self.squares[own]);
        timed_for_all(engine.clock(), Work::Reduction, || {
            engine.install(|| sums_of_squares(gradient, blocks, squares));
        });
        let start = Instant::now();
        group.all_gather_numbers(&mut self.squares, &shares.blocks_of);
        self.elsewhere.communication += start.elapsed();
        norm(&self.squares)
    }

    /// Every rank's part of a vector to all.
    pub(super) fn all_gather(&mut self, group: &dyn Group<T>, shares: &Shares, whole: &mut [T]) {
        let start = Instant::now();
        group.all_gather(whole, &shares.parts);
        self.elsewhere.communication += start.elapsed();
    }
}

/// The sum over the batch of this rank's part, of `len` elements, from the sums of subtrees that came in
/// rounds: the first of every rank's, the second of those that have two, and so on.
fn sum_up<'a, T: Element>(isa: Isa, shares: &Shares, len: usize, received: &'a mut [Vec<T>]) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    let mut rounds: Vec<_> = received.iter_mut().map(|received| received.chunks_exact_mut(len)).collect();
    let mut tree = Tree::new(shares.shard_count());
    for roots in &shares.roots {
        for (root, round) in roots.iter().zip(&mut rounds) {
            let sum = round.next().expect("every root of every rank was received");
            tree.push(*root, sum, |left, right| {
                left.par_chunks_mut(CHUNK).zip(right.par_chunks(CHUNK)).for_each(|(left, right)| {
                    add_to(isa, right, 1.0, left);
                });
                left
            });
        }
    }
    tree.finish().expect("the ranks have all shards")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::model::unet;

    #[test]
    fn every_rank_owns_whole_tensors_and_their_blocks() {
        for preset in [Preset::Tiny, Preset::Fashion, Preset::Cifar10] {
            let mut config = preset.config();
            let params = unet::build(&config.unet).expect("a network").params;
            for ranks in [1, 2, 3, 7, 64] {
                config.train.batch = 4 * ranks.max(2);
                let shares = Shares::new(&config, &params, ranks).expect("as many shards");
                assert_eq!((shares.parts[0].start, shares.parts[ranks - 1].end), (0, params.total()));
                assert!(shares.parts.windows(2).all(|pair| pair[0].end == pair[1].start));
                let longest = params.iter().map(|param| param.kind.len()).max().expect("tensors");
                for (part, own) in shares.parts.iter().zip(&shares.blocks_of) {
                    assert!(
                        part.end == params.total() || params.iter().any(|param| param.offset == part.end)
                    );
                    assert!(
                        part.len() <= params.total() / ranks + 1 + longest,
                        "{preset:?}, {ranks}: {part:?}"
                    );
                    let blocks = &shares.blocks[own.clone()];
                    assert_eq!(blocks.iter().map(Range::len).sum::<usize>(), part.len());
                    assert!(blocks.first().is_none_or(|block| block.start == part.start));
                }
            }
        }
    }
}
