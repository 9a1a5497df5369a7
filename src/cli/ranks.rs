//! The processes that a launcher of MPI has started: one speaks for all, and all end together.

use super::flags;
#[cfg(feature = "mpi")]
use crate::group::mpi::World;
use crate::group::{Group, Solo};
use crate::{Error, Result};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The ranks of a command.
pub type Ranks = dyn Group<f32>;

/// What the launchers of Open MPI, MPICH and Slurm tell a process of how many they have started.
#[cfg(not(feature = "mpi"))]
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// How long a rank keeps an error to itself: one that all have is told by rank 0 alone, which ends the
/// others. A rank that fails only because another has leaves it twice as long to tell.
const PATIENCE: Duration = Duration::from_secs(3);

/// The group of this process: those that `mpirun` or `srun` has started, or it alone.
///
/// # Errors
/// [`Error::Invalid`] for one of several processes in a program that was built without MPI.
#[cfg(not(feature = "mpi"))]
pub fn join() -> Result<Box<Ranks>> {
    let several = |name: &&&str| std::env::var(name).is_ok_and(|n| n.parse().is_ok_and(|n: u32| n > 1));
    match SIZES.iter().find(several) {
        None => Ok(Box::new(Solo)),
        Some(name) => Err(Error::invalid(
            "the processes that were started together",
            "one, as this program was built without MPI",
            std::env::var(name).unwrap_or_default(),
            "build it with `cargo build --release --features mpi`",
        )),
    }
}

/// The same in a program that was built with MPI. A panic in any thread of any rank ends all of them.
#[cfg(feature = "mpi")]
pub fn join() -> Result<Box<Ranks>> {
    let Some(world) = World::launched() else { return Ok(Box::new(Solo)) };
    let (rank, ranks) = (Group::<f32>::rank(&world), Group::<f32>::ranks(&world));
    if ranks > 1 {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            eprintln!("rank {rank} of {ranks} panicked, which ends all");
            World::abort(101);
        }));
    }
    Ok(Box::new(world))
}

/// How the names of the variables begin by which launchers tell a process that it is a rank.
const OF_RANKS: [&str; 3] = ["OMPI_", "PMI_", "PMIX_"];

/// Makes a command one of its own, which is no rank where this process is one.
pub fn leave_ranks(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if OF_RANKS.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// Refuses more than one rank for a command that does not share its work out.
pub fn only_one(ranks: &Ranks, command: &str) -> Result<()> {
    if ranks.ranks() == 1 {
        return Ok(());
    }
    let got = format!("{} processes that were started together", ranks.ranks());
    Err(Error::invalid(command, "one process", got, "start train, sample, evaluate or compare in ranks"))
}

/// Reports an error; where there are several ranks this ends all of them.
pub fn fail(ranks: &Ranks, error: &Error) -> ExitCode {
    let (rank, count) = (ranks.rank(), ranks.ranks());
    let (message, status) = (flags::message(error), error.exit_status());
    if count == 1 {
        eprintln!("error: {message}");
        return ExitCode::from(status);
    }
    match error {
        Error::OtherRank { .. } => std::thread::sleep(2 * PATIENCE),
        _ if rank > 0 => std::thread::sleep(PATIENCE),
        _ => {}
    }
    eprintln!("error on rank {rank} of {count}: {message}");
    #[cfg(feature = "mpi")]
    World::abort(status);
    #[cfg(not(feature = "mpi"))]
    ExitCode::from(status)
}
