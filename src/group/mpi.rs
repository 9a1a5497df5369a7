//! The processes that `mpirun` or `srun` has started, by the collectives of MPI.
//!
//! MPI's own way with errors stays: one that it finds, such as a rank that is gone, ends all ranks.

use super::Group;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};
use mpi::{Count, Threading};
use std::ops::Range;

/// What the launchers of Open MPI, MPICH and Slurm leave in a process's environment.
const LAUNCHED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"];

/// All ranks of the job. MPI ends when this is dropped.
pub struct World {
    _universe: Universe,
    rank: usize,
    ranks: usize,
    here: usize,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("rank", &self.rank).field("ranks", &self.ranks).finish()
    }
}

impl World {
    /// The group of a process that a launcher of MPI has started; `None` for any other, and where this was
    /// called before.
    pub fn launched() -> Option<World> {
        LAUNCHED.iter().find(|name| std::env::var_os(name).is_some())?;
        // One thread at a time, not always the first: a panicking one ends the job.
        let (universe, _) = mpi::initialize_with_threading(Threading::Serialized)?;
        let world = universe.world();
        let numbers = [world.rank(), world.size(), world.split_shared(0).size()];
        let [rank, ranks, here] = numbers.map(|n| n.try_into().expect("MPI counts from 0"));
        Some(World { _universe: universe, rank, ranks, here })
    }

    /// Ends all ranks with an exit status, from any thread.
    pub fn abort(status: u8) -> ! {
        SimpleCommunicator::world().abort(status.into())
    }
}

fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

/// MPI's lengths and places of adjacent or empty parts.
fn counts(parts: impl Iterator<Item = Range<usize>>) -> (Vec<Count>, Vec<Count>) {
    let count = |n: usize| Count::try_from(n).expect("networks have fewer than 2^31 parameters");
    parts.map(|part| (count(part.len()), count(part.start))).unzip()
}

fn gather<S: Equivalence + Copy>(whole: &mut [S], parts: &[Range<usize>], rank: usize) {
    let sent = whole[parts[rank].clone()].to_vec();
    let (lengths, places) = counts(parts.iter().cloned());
    world().all_gather_varcount_into(&sent[..], &mut PartitionMut::new(whole, lengths, places));
}

impl<T: Equivalence + Copy> Group<T> for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn ranks_here(&self) -> usize {
        self.here
    }

    fn all_to_all(&self, senders: &[bool], whole: &[T], parts: &[Range<usize>], received: &mut [T]) {
        let sends = senders[self.rank];
        let (lengths, places) = counts(parts.iter().map(|part| if sends { part.clone() } else { 0..0 }));
        let sent = Partition::new(whole, lengths, places);
        let mut end = 0;
        let (lengths, places) = counts(senders.iter().map(|sends| {
            let start = end;
            end += if *sends { parts[self.rank].len() } else { 0 };
            start..end
        }));
        world().all_to_all_varcount_into(&sent, &mut PartitionMut::new(received, lengths, places));
    }

    fn all_gather(&self, whole: &mut [T], parts: &[Range<usize>]) {
        gather(whole, parts, self.rank);
    }

    fn all_gather_numbers(&self, whole: &mut [f64], parts: &[Range<usize>]) {
        gather(whole, parts, self.rank);
    }

    fn broadcast(&self, values: &mut [T]) {
        world().process_at_rank(0).broadcast_into(values);
    }

    fn broadcast_bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut len = bytes.len() as u64;
        world().process_at_rank(0).broadcast_into(&mut len);
        bytes.resize(len as usize, 0);
        world().process_at_rank(0).broadcast_into(&mut bytes[..]);
        bytes
    }
}
