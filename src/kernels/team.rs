//! Thread teams: several threads that share the work of one layer, where there are fewer samples than
//! threads.
//!
//! A layer of one small image takes tens of microseconds, about as long as waking a sleeping thread. The
//! threads of a [`Crew`] therefore stay awake from the first layer to the last. One thread walks the graph
//! and opens a job of numbered tasks for each layer; the others wait for it in [`Crew::serve`]; and every
//! thread that is free takes the next task. A thread that the system has stopped takes no task, so a core
//! that is busy elsewhere holds up the others for one task at most.

use crate::error::{Error, Result};
use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Builder;

/// The most threads that may be asked for.
pub const MAX_THREADS: usize = 4096;

/// Refuses a number of threads that no team can have.
pub(super) fn check_threads(threads: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        return Ok(());
    }
    Err(Error::invalid("threads", format!("a number from 1 to {MAX_THREADS}"), threads.to_string(), ""))
}

pub(super) fn cannot_start(threads: usize, reason: &io::Error) -> Error {
    let expected = "a number of threads that this system can start";
    Error::invalid("threads", expected, format!("{threads} ({reason})"), "ask for fewer")
}

/// The threads that work on a layer: the calling one, or a crew.
///
/// The caller cuts the work into tasks, never depending on the number of threads, and no task reads another's
/// results. So the results have the same bits on any team.
#[derive(Clone, Copy, Debug)]
pub enum Team<'a> {
    /// The calling thread alone.
    Solo,
    /// The calling thread, which leads, and those that serve the crew.
    Crew(&'a Crew),
}

impl<'a> Team<'a> {
    /// Calls `f` with a team of `threads` threads: the calling one, and others that are started for the call.
    ///
    /// # Errors
    /// [`Error`] unless there are from 1 to [`MAX_THREADS`] threads and this system can start them.
    pub fn with_threads<R>(threads: usize, f: impl FnOnce(Team<'_>) -> R) -> Result<R> {
        check_threads(threads)?;
        let crew = Crew::new(threads);
        std::thread::scope(|scope| {
            // Those that were started before one could not be are let go, since `lead` is left.
            crew.lead(|team| {
                for _ in 1..threads {
                    let started = Builder::new().spawn_scoped(scope, || crew.serve());
                    started.map_err(|e| cannot_start(threads, &e))?;
                }
                Ok(f(team))
            })
        })
    }

    /// Whether the calling thread works alone.
    pub fn is_solo(self) -> bool {
        matches!(self, Team::Solo)
    }

    /// The threads that work on the layer, or wait for those that do.
    pub fn threads(self) -> usize {
        match self {
            Team::Solo => 1,
            Team::Crew(crew) => crew.threads,
        }
    }

    /// The team for a pass over that many elements: the calling thread alone where they are few, since
    /// sharing out a microsecond of work costs more than it saves.
    pub fn for_work(self, elements: usize) -> Team<'a> {
        const LEAST: usize = 1 << 14;
        if elements < LEAST { Team::Solo } else { self }
    }

    /// Calls `f(i)` for every i below `tasks`.
    pub fn run(self, tasks: usize, f: impl Fn(usize) + Sync) {
        match self {
            Team::Solo => (0..tasks).for_each(f),
            Team::Crew(crew) => crew.run(tasks, &f),
        }
    }

    /// Calls `f(i, chunk i of a)` for every chunk of `chunk` elements (the last may be shorter).
    pub fn each<A: Send>(self, a: &mut [A], chunk: usize, f: impl Fn(usize, &mut [A]) + Sync) {
        let a = Chunks::new(a, chunk);
        // SAFETY: every task takes its own chunk, once.
        self.run(a.count(), |i| f(i, unsafe { a.take(i) }));
    }

    /// Cuts `a`, rows of `row` elements, into a few parts and calls `f(first row, part)` for each; a short
    /// `a` is one part.
    pub fn rows<A: Send>(self, a: &mut [A], row: usize, f: impl Fn(usize, &mut [A]) + Sync) {
        const PARTS: usize = 8;
        let team = self.for_work(a.len());
        let parts = if team.is_solo() { 1 } else { PARTS };
        let rows = a.len().div_ceil(row).div_ceil(parts).max(1);
        team.each(a, rows * row, |i, part| f(i * rows, part));
    }

    /// [`Team::each`] over two slices, each with its own chunk length: `f(i, chunk i of a, chunk i of b)`, as
    /// long as both have a chunk i.
    pub fn each2<A: Send, B: Send>(
        self,
        (a, chunk_a): (&mut [A], usize),
        (b, chunk_b): (&mut [B], usize),
        f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (Chunks::new(a, chunk_a), Chunks::new(b, chunk_b));
        // SAFETY: every task takes its own chunks, once.
        self.run(a.count().min(b.count()), |i| unsafe { f(i, a.take(i), b.take(i)) });
    }

    /// [`Team::each2`] over three slices.
    pub fn each3<A: Send, B: Send, C: Send>(
        self,
        (a, chunk_a): (&mut [A], usize),
        (b, chunk_b): (&mut [B], usize),
        (c, chunk_c): (&mut [C], usize),
        f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
    ) {
        let (a, b, c) = (Chunks::new(a, chunk_a), Chunks::new(b, chunk_b), Chunks::new(c, chunk_c));
        let tasks = a.count().min(b.count()).min(c.count());
        // SAFETY: every task takes its own chunks, once.
        self.run(tasks, |i| unsafe { f(i, a.take(i), b.take(i), c.take(i)) });
    }
}

/// A slice cut into chunks, which the tasks of a team take.
struct Chunks<A> {
    start: *mut A,
    len: usize,
    chunk: usize,
}

// SAFETY: a chunk is taken by one thread only, which `take`'s callers see to, and its elements may go to
// another thread.
unsafe impl<A: Send> Sync for Chunks<A> {}

impl<A> Chunks<A> {
    fn new(slice: &mut [A], chunk: usize) -> Chunks<A> {
        assert!(chunk > 0, "chunks of nothing");
        Chunks { start: slice.as_mut_ptr(), len: slice.len(), chunk }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// Chunk i, of those below `count`.
    ///
    /// # Safety
    /// The slice that was cut is still borrowed, and nobody else has this chunk.
    #[expect(clippy::mut_from_ref, reason = "chunks do not overlap, and each is taken once")]
    unsafe fn take(&self, i: usize) -> &mut [A] {
        let first = i * self.chunk;
        let len = self.chunk.min(self.len - first);
        // SAFETY: first + len <= self.len, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

type Job<'f> = &'f (dyn Fn(usize) + Sync);

/// What the threads of a team share: one job of numbered tasks at a time.
pub struct Crew {
    threads: usize,
    /// The open job's number of tasks in the upper half, and in the lower half how many of them are taken.
    taken: AtomicU64,
    /// How many of the open job's tasks are done.
    done: AtomicUsize,
    job: UnsafeCell<Option<Job<'static>>>,
    /// Whether a job is open.
    at_work: AtomicBool,
    /// Whether the leader is done, so that those who serve return.
    dismissed: AtomicBool,
}

// SAFETY: `job` is written by the one thread that has set `at_work`, while no task is open, and read by those
// who have taken a task: the writer waits until their tasks are done.
unsafe impl Sync for Crew {}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("at_work", &self.at_work).finish_non_exhaustive()
    }
}

impl Crew {
    /// A crew of `threads` threads. One of them has to call [`Crew::lead`], the others [`Crew::serve`].
    pub fn new(threads: usize) -> Crew {
        Crew {
            threads,
            taken: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            at_work: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
        }
    }

    /// Calls `f` with the crew as its team. When it returns or panics, the threads that serve are let go.
    pub fn lead<R>(&self, f: impl FnOnce(Team<'_>) -> R) -> R {
        let _dismiss = OnDrop(|| self.dismissed.store(true, Ordering::Release));
        f(Team::Crew(self))
    }

    /// Takes tasks until the leader is done.
    pub fn serve(&self) {
        let mut wait = Wait::for_a_job();
        while !self.dismissed.load(Ordering::Acquire) {
            if self.work() {
                wait = Wait::for_a_job();
            } else {
                wait.a_moment();
            }
        }
    }

    /// Calls `f(i)` for every i below `tasks`, on whoever is free; alone where a task of the crew calls it.
    fn run(&self, tasks: usize, f: Job<'_>) {
        self.run_in_jobs(u32::MAX, tasks, f);
    }

    /// The same in jobs of at most `most` tasks.
    fn run_in_jobs(&self, most: u32, tasks: usize, f: Job<'_>) {
        let most_tasks = usize::try_from(most).unwrap_or(usize::MAX);
        let mut first = 0;
        while tasks - first > most_tasks {
            self.run_job(most, &|i| f(first + i));
            first += most_tasks;
        }
        let rest = u32::try_from(tasks - first).expect("at most `most` tasks are left");
        self.run_job(rest, &|i| f(first + i));
    }

    /// One job, whose number of tasks fits its half of [`Crew::taken`].
    fn run_job(&self, tasks: u32, f: Job<'_>) {
        if tasks < 2 || self.at_work.swap(true, Ordering::Acquire) {
            return (0..tasks as usize).for_each(f);
        }
        // SAFETY: the lifetime alone changes, and `finish` keeps this call from returning while a task is at
        // work. The cell is this thread's: it has set `at_work`, and no task is open.
        unsafe { *self.job.get() = Some(std::mem::transmute::<Job<'_>, Job<'static>>(f)) };
        self.done.store(0, Ordering::Relaxed);
        self.taken.store(u64::from(tasks) << 32, Ordering::Release);
        let _finish = OnDrop(|| {
            // After a panic some tasks may be left; nobody shall take them any more.
            let taken = self.taken.swap(0, Ordering::Relaxed) as u32 as usize;
            let mut wait = Wait::for_a_task();
            while self.done.load(Ordering::Acquire) < taken {
                wait.a_moment();
            }
            // SAFETY: as above: every task that was taken is done, and no other can be taken. What was
            // borrowed for this call is not kept beyond it.
            unsafe { *self.job.get() = None };
            self.at_work.store(false, Ordering::Release);
        });
        self.work();
    }

    /// Does tasks of the open job until all are taken; whether there was one.
    fn work(&self) -> bool {
        let mut worked = false;
        while let Some(task) = self.take_task() {
            worked = true;
            let _done = OnDrop(|| {
                self.done.fetch_add(1, Ordering::Release);
            });
            // SAFETY: taking the task, which acquires what its publisher released, keeps the job open until
            // it is done.
            let job = unsafe { *self.job.get() }.expect("an open job");
            job(task);
        }
        worked
    }

    fn take_task(&self) -> Option<usize> {
        let next = |word: u64| ((word as u32) < (word >> 32) as u32).then_some(word + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        taken.ok().map(|word| word as u32 as usize)
    }
}

/// Calls its function when it goes out of scope, in a panic too.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Waits for something that takes microseconds: first, for a number of steps, without leaving the core, since
/// another program that gets the core may keep it for milliseconds; then by letting others run.
struct Wait(usize);

impl Wait {
    /// For the next job, which opens after some tens of microseconds.
    fn for_a_job() -> Wait {
        Wait(2_000)
    }

    /// For the other threads' last tasks, some hundreds of microseconds; only this thread can open the next
    /// job.
    fn for_a_task() -> Wait {
        Wait(10_000)
    }

    fn a_moment(&mut self) {
        if self.0 > 0 {
            self.0 -= 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Calls `f` with a team of the calling thread and `others` more, where there can be others.
///
/// # Panics
/// If this system cannot start them.
pub fn with_crew<R>(others: usize, f: impl FnOnce(Team<'_>) -> R) -> R {
    let others = if cfg!(target_family = "wasm") { 0 } else { others };
    Team::with_threads(1 + others, f).expect("a few threads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_in_job_after_job() {
        for others in [0, 1, 3] {
            with_crew(others, |team| {
                let mut counts = vec![0usize; 100];
                for round in 1..=500 {
                    let tasks = round % 90;
                    team.each(&mut counts[..tasks], 1, |i, count| count[0] += i);
                    counts[tasks..].iter_mut().enumerate().for_each(|(i, count)| *count += tasks + i);
                    assert!(counts.iter().enumerate().all(|(i, count)| *count == round * i), "round {round}");
                }
            });
        }
    }

    /// As many tasks as do not fit one job, here of 7 tasks where a real one takes 2^32 - 1.
    #[test]
    fn more_tasks_than_a_job_holds_are_done_in_several() {
        for tasks in [0, 1, 6, 7, 8, 14, 100] {
            let done: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            with_crew(2, |team| {
                let Team::Crew(crew) = team else { panic!("a crew leads") };
                crew.run_in_jobs(7, tasks, &|i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks} tasks: {done:?}");
        }
    }

    #[test]
    fn a_team_that_no_system_has_is_refused() {
        for threads in [0, MAX_THREADS + 1, usize::MAX / 2, usize::MAX] {
            let error = Team::with_threads(threads, |_| ()).expect_err("a number of threads");
            assert!(error.to_string().contains("from 1 to 4096"), "{error}");
        }
    }

    #[test]
    fn chunks_are_cut_side_by_side() {
        for others in [0, 2] {
            let (mut a, mut b, mut c) = ([0; 10], [0; 7], [0; 9]);
            with_crew(others, |team| {
                team.each3((&mut a, 4), (&mut b, 3), (&mut c, 3), |i, a, b, c| {
                    a.fill(i + 1);
                    b.fill(10 * (i + 1));
                    c.fill(100 * a.len() + b.len());
                });
            });
            assert_eq!(a, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
            assert_eq!(b, [10, 10, 10, 20, 20, 20, 30]);
            assert_eq!(c, [403, 403, 403, 403, 403, 403, 201, 201, 201]);
        }
    }

    #[test]
    fn a_task_that_shares_out_again_does_it_alone() {
        let mut sums = [0; 8];
        with_crew(2, |team| {
            team.each(&mut sums, 1, |i, sum| {
                let mut parts = [0; 5];
                team.each(&mut parts, 2, |j, parts| parts.fill(i * j));
                sum[0] = parts.iter().sum();
            });
        });
        assert_eq!(sums, std::array::from_fn(|i| 4 * i));
    }

    #[cfg(panic = "unwind")]
    #[test]
    fn a_panicking_task_ends_the_crew() {
        let caught = std::panic::catch_unwind(|| {
            with_crew(2, |team| team.run(64, |i| assert!(i != 40, "task 40")));
        });
        assert!(caught.is_err());
    }
}
