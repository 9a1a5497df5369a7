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

/// Where the launchers of Open MPI, MPICH and Slurm tell a process how many they have started. `mpirun` may
/// have been started by `srun`, so that the first of these counts.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// How long a rank keeps an error to itself: one that all have is told by rank 0 alone, which ends the
/// others. A rank that fails only because another has leaves it twice as long to tell.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many processes a launcher has started together with this one.
fn started() -> usize {
    let told = SIZES.iter().find_map(|name| std::env::var(name).ok());
    told.and_then(|told| told.parse().ok()).unwrap_or(1)
}

/// Refuses several processes that do not hear of each other: each would train a run of its own.
fn refuse_strangers(ranks: usize, help: &str) -> Result<()> {
    match started() {
        several if several > 1 && ranks == 1 => Err(Error::invalid(
            "the processes that were started together",
            "one, or several that MPI knows of",
            several.to_string(),
            help,
        )),
        _ => Ok(()),
    }
}

/// The group of this process: those that `mpirun` or `srun` has started, or it alone.
///
/// # Errors
/// [`Error::Invalid`] for one of several processes in a program that was built without MPI.
#[cfg(not(feature = "mpi"))]
pub fn join() -> Result<Box<Ranks>> {
    refuse_strangers(1, "this program was built without MPI: `cargo build --release --features mpi`")?;
    Ok(Box::new(Solo))
}

/// The same in a program that was built with MPI. A panic in any thread of any rank ends all of them.
///
/// # Errors
/// [`Error::Invalid`] for one of several processes that MPI does not know of.
#[cfg(feature = "mpi")]
pub fn join() -> Result<Box<Ranks>> {
    let world = World::launched();
    let ranks = world.as_ref().map_or(1, Group::<f32>::ranks);
    let help = "start it by `mpirun` of the MPI that it is linked with, or by `srun --mpi=pmix` (Open MPI) \
                or `srun --mpi=pmi2` (MPICH)";
    refuse_strangers(ranks, help)?;
    let Some(world) = world else { return Ok(Box::new(Solo)) };
    let rank = Group::<f32>::rank(&world);
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
const OF_RANKS: [&str; 4] = ["OMPI_", "PMI_", "PMIX_", "SLURM_STEP_"];

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
