//! The order in which a batch's gradients are added: a binary tree over its shards, which the batch alone
//! decides. Neither threads nor the machines that share the shards change it.
//!
//! A node of level l is the sum over 2^l shards, of which the last nodes of a batch may lack some; it is its
//! left half plus its right half. Whoever computes the shards of an aligned subtree can add its sum up, and
//! the rest of the tree needs nothing but that sum. A thread that is free takes the next shard; when it is
//! done, it adds whatever is complete, for as long as both halves of a node are.

use super::clock::{OpClock, Work, timed};
use crate::kernels::{Element, Isa, Team};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Elements that the gradients of all shards in work take together, unless [`FEWEST`] take more.
const ELEMENTS: usize = 1 << 23;
/// How many shards of the largest networks are in work at a time.
const FEWEST: usize = 4;
/// The same of the smallest networks.
const MOST: usize = 16;
/// Elements that one task adds up.
const CHUNK: usize = 1 << 14;

/// How many shards of a network of so many parameters are in work at a time, each with a team of threads.
pub(super) fn at_once(shards: usize, parameters: usize, threads: usize) -> usize {
    (ELEMENTS / parameters.max(1)).clamp(FEWEST, MOST).min(shards).min(threads)
}

/// How many gradients are kept for some shards: so many that one is free whenever no shard is in work,
/// whatever waits to be added.
pub(super) fn gradients_kept(shards: &Shards) -> usize {
    let Shards { range, of, at_once } = shards;
    let mut begun = Tree::new(*of);
    let mut waiting = 0;
    for shard in range.start..range.end.saturating_sub(1) {
        begun.push(Node::leaf(shard), (), |(), ()| {});
        waiting = waiting.max(begun.complete.len());
    }
    (waiting + at_once).min(range.len())
}

/// The largest subtrees that consist of `shards` of a batch of `of` shards.
pub(crate) fn roots(shards: Range<usize>, of: usize) -> Vec<Node> {
    let mut tree = Tree::new(of);
    shards.for_each(|shard| tree.push(Node::leaf(shard), (), |(), ()| {}));
    tree.complete.into_iter().map(|(node, ())| node).collect()
}

/// A node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    level: u32,
    /// Its place among those of its level.
    index: usize,
}

impl Node {
    fn leaf(shard: usize) -> Node {
        Node { level: 0, index: shard }
    }

    fn first_shard(self) -> usize {
        self.index << self.level
    }

    fn beside(self) -> Node {
        Node { index: self.index ^ 1, ..self }
    }

    fn above(self) -> Node {
        Node { level: self.level + 1, index: self.index / 2 }
    }

    /// The highest node of a batch of so many shards that has the same shards: where there is nothing on its
    /// right, a node is its left half.
    fn raised(mut self, shards: usize) -> Node {
        while self.first_shard() + (1 << self.level) >= shards
            && self.index.is_multiple_of(2)
            && self.index > 0
        {
            self = self.above();
        }
        self
    }
}

/// Sums of nodes that are added up as they come, in the order of their shards.
#[derive(Debug)]
pub(crate) struct Tree<V> {
    shards: usize,
    complete: Vec<(Node, V)>,
}

impl<V> Tree<V> {
    /// An empty tree over so many shards.
    pub(crate) fn new(shards: usize) -> Tree<V> {
        Tree { shards, complete: Vec::new() }
    }

    /// Takes a node, and adds up by `add(left, right)` whatever it completes.
    pub(crate) fn push(&mut self, node: Node, mut value: V, mut add: impl FnMut(V, V) -> V) {
        let mut node = node.raised(self.shards);
        while let Some((_, left)) = self.complete.pop_if(|(last, _)| *last == node.beside()) {
            value = add(left, value);
            node = node.above().raised(self.shards);
        }
        self.complete.push((node, value));
    }

    /// The sum over all shards, once all are there.
    pub(crate) fn finish(mut self) -> Option<V> {
        self.complete.pop().filter(|_| self.complete.is_empty()).map(|(_, value)| value)
    }
}

/// A shard's gradient, with the memory that its computation needs beside its arena.
#[derive(Debug, Default)]
pub(super) struct ShardGradient<T> {
    /// Its gradient, or a sum of gradients.
    pub(super) gradient: Vec<T>,
    /// What the shard's losses need to know beside the network's output.
    pub(super) notes: Vec<T>,
    /// The samples' timesteps' indices.
    pub(super) indices: Vec<usize>,
}

/// Which shards are worked on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shards {
    /// These,
    pub(super) range: Range<usize>,
    /// of a batch of so many,
    pub(super) of: usize,
    /// so many at a time.
    pub(super) at_once: usize,
}

#[derive(Debug)]
struct State<T> {
    shards: Shards,
    /// The number of gradients that are kept.
    kept: usize,
    /// The next shard to be begun.
    next: usize,
    free: Vec<ShardGradient<T>>,
    /// Sums that wait for what is beside them.
    complete: Vec<(Node, ShardGradient<T>)>,
    /// The losses of `shards`.
    losses: Vec<f64>,
}

/// The gradients of some shards of a batch; their memory stays from step to step.
#[derive(Debug)]
pub(super) struct GradientTree<T> {
    state: Mutex<State<T>>,
    freed: Condvar,
}

impl<T> Default for GradientTree<T> {
    fn default() -> Self {
        let (free, complete, losses) = (Vec::new(), Vec::new(), Vec::new());
        let state = State { shards: Shards::default(), kept: 0, next: 0, free, complete, losses };
        GradientTree { state: Mutex::new(state), freed: Condvar::new() }
    }
}

impl<T: Element> GradientTree<T> {
    fn now(&mut self) -> &mut State<T> {
        self.state.get_mut().expect("no thread panicked")
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no thread panicked")
    }

    /// Prepares for some shards, and for gradients of so many elements. `buffer` becomes the memory of one of
    /// them, until [`GradientTree::finish`] gives it back.
    pub(super) fn start(&mut self, shards: Shards, parameters: usize, buffer: &mut Vec<T>) {
        let state = self.now();
        state.free.extend(state.complete.drain(..).map(|(_, work)| work));
        if state.shards != shards {
            state.kept = gradients_kept(&shards);
            state.shards = shards;
        }
        state.free.resize_with(state.kept, Default::default);
        for ShardGradient { gradient, .. } in &mut state.free {
            if gradient.is_empty() {
                std::mem::swap(gradient, buffer);
            }
            if gradient.len() != parameters {
                // Zeros come from the system, which gives no memory for those that nobody writes over.
                *gradient = vec![T::zero(); parameters];
            }
        }
        state.losses.clear();
        state.losses.resize(state.shards.range.len(), 0.0);
        state.next = state.shards.range.start;
    }

    /// Calls `f(shard, its memory)`, which sets the gradient and returns the loss, until every shard was begun
    /// by some thread, and adds up what is complete. Teams of all threads of a pool may call this at once.
    pub(super) fn work(
        &self,
        isa: Isa,
        team: Team,
        clock: Option<&OpClock>,
        f: impl Fn(usize, &mut ShardGradient<T>) -> f64,
    ) {
        while let Some((shard, mut work)) = self.claim() {
            let loss = f(shard, &mut work);
            let mut state = self.lock();
            let (first, of) = (state.shards.range.start, state.shards.of);
            state.losses[shard - first] = loss;
            let mut node = Node::leaf(shard).raised(of);
            while let Some(i) = state.complete.iter().position(|(other, _)| *other == node.beside()) {
                let (other, beside) = state.complete.swap_remove(i);
                drop(state);
                let (mut left, right) =
                    if other.index < node.index { (beside, work) } else { (work, beside) };
                timed(clock, team, Work::Reduction, || {
                    add(isa, team, &mut left.gradient, &right.gradient);
                });
                work = left;
                state = self.lock();
                state.free.push(right);
                self.freed.notify_one();
                node = node.above().raised(of);
            }
            state.complete.push((node, work));
        }
    }

    /// The next shard, with memory for it. Where all memory waits to be added to what other threads compute,
    /// this waits for them.
    fn claim(&self) -> Option<(usize, ShardGradient<T>)> {
        let mut state = self.lock();
        while state.next < state.shards.range.end {
            if let Some(work) = state.free.pop() {
                state.next += 1;
                return Some((state.next - 1, work));
            }
            state = self.freed.wait(state).expect("no thread panicked");
        }
        None
    }

    /// The sums of the largest subtrees that the shards make up, in their order, once the work is done.
    pub(super) fn roots(&mut self) -> impl Iterator<Item = (Node, &[T])> {
        let complete = &mut self.now().complete;
        complete.sort_unstable_by_key(|(node, _)| node.first_shard());
        complete.iter().map(|(node, work)| (*node, work.gradient.as_slice()))
    }

    /// The sum over the whole batch, where this was given all of its shards, into `total`.
    pub(super) fn finish(&mut self, total: &mut Vec<T>) {
        if let [(_, work)] = self.now().complete.as_mut_slice() {
            std::mem::swap(&mut work.gradient, total);
        }
    }

    /// The losses of the shards, in their order.
    pub(super) fn losses(&mut self) -> &[f64] {
        &self.now().losses
    }
}

/// left += right.
fn add<T: Element>(isa: Isa, team: Team, left: &mut [T], right: &[T]) {
    team.each(left, CHUNK, |i, left| {
        crate::nn::add_to(isa, &right[i * CHUNK..][..left.len()], 1.0, left);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, rng};
    use rand::RngExt;

    const ELEMENTS_HERE: usize = CHUNK + 3;

    /// A shard's gradient: numbers of many sizes, whose sum depends on the order.
    fn gradient_of(shard: usize) -> Vec<f64> {
        let mut rng = rng(11, Stream::Check, 0, shard as u64);
        (0..ELEMENTS_HERE).map(|_| (rng.random::<f64>() - 0.5) * 2f64.powi(rng.random_range(0..60))).collect()
    }

    /// The sum as the words say it: the left half of a power of two, and the rest.
    fn sum(shards: Range<usize>, level: u32) -> Vec<f64> {
        if level == 0 {
            return gradient_of(shards.start);
        }
        let middle = shards.start + (1 << (level - 1));
        let mut left = sum(shards.start..shards.end.min(middle), level - 1);
        if middle < shards.end {
            left.iter_mut().zip(sum(middle..shards.end, level - 1)).for_each(|(a, b)| *a += b);
        }
        left
    }

    fn whole_sum(of: usize) -> Vec<f64> {
        sum(0..of, of.next_power_of_two().ilog2())
    }

    fn start(
        tree: &mut GradientTree<f64>,
        range: Range<usize>,
        of: usize,
        at_once: usize,
        total: &mut Vec<f64>,
    ) {
        tree.start(Shards { range, of, at_once }, ELEMENTS_HERE, total);
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    tree.work(Isa::Reference, Team::Solo, None, |shard, of_shard| {
                        of_shard.gradient.copy_from_slice(&gradient_of(shard));
                        shard as f64
                    });
                });
            }
        });
    }

    #[test]
    fn gradients_are_added_in_the_order_of_the_tree_by_any_number_of_threads() {
        let (mut tree, mut total) = (GradientTree::default(), Vec::new());
        for (of, at_once) in [(1, 1), (2, 1), (4, 3), (7, 2), (13, 1), (13, 4), (32, 3), (5, 5)] {
            start(&mut tree, 0..of, of, at_once, &mut total);
            assert_eq!(tree.losses(), (0..of).map(|shard| shard as f64).collect::<Vec<_>>());
            tree.finish(&mut total);
            assert_eq!(total, whole_sum(of), "{of} shards, {at_once} at once");
            let state = tree.now();
            assert_eq!(state.free.len() + state.complete.len(), state.kept);
        }
    }

    #[test]
    fn the_sums_of_any_cut_make_up_the_same_tree() {
        for of in [1, 2, 3, 5, 8, 11, 16] {
            let want = whole_sum(of);
            for ranks in 1..=of {
                let mut whole = Tree::new(of);
                for rank in 0..ranks {
                    let range = rank * of / ranks..(rank + 1) * of / ranks;
                    let mut tree = GradientTree::default();
                    start(&mut tree, range.clone(), of, 2.min(range.len()), &mut Vec::new());
                    let found: Vec<_> = tree.roots().map(|(node, sum)| (node, sum.to_vec())).collect();
                    assert_eq!(found.iter().map(|(node, _)| *node).collect::<Vec<_>>(), roots(range, of));
                    for (node, sum) in found {
                        whole.push(node, sum, |mut left: Vec<f64>, right| {
                            left.iter_mut().zip(right).for_each(|(a, b)| *a += b);
                            left
                        });
                    }
                }
                assert!(whole.finish().expect("all shards") == want, "{of} shards, {ranks} ranks");
            }
        }
    }

    #[test]
    fn few_gradients_are_kept() {
        let kept = |range: Range<usize>, of, at_once| gradients_kept(&Shards { range, of, at_once });
        assert_eq!(kept(0..32, 32, 1), 6);
        assert_eq!(kept(0..32, 32, 4), 9);
        assert_eq!(kept(0..4, 4, 4), 4);
        assert_eq!(kept(0..1, 1, 1), 1);
        assert_eq!(kept(5..11, 32, 1), 4);
    }

    #[test]
    fn shards_of_large_networks_are_in_work_few_at_a_time() {
        assert_eq!(at_once(16, 35_746_307, 16), FEWEST);
        assert_eq!(at_once(16, 1_130_000, 16), 7);
        assert_eq!(at_once(32, 1000, 64), MOST);
        assert_eq!(at_once(3, 1000, 64), 3);
        assert_eq!(at_once(16, 1000, 2), 2);
    }
}
