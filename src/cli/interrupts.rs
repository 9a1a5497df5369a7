//! Signals that ask the work to end: it ends in order, with an exit status that says so.

use crate::train::Interrupt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How often a process is asked before it ends at once. A closed terminal asks twice.
const AT_ONCE: u8 = 3;
/// The status of a process that a signal ended is the signal's number and this.
const OF_SIGNALS: u8 = 128;
/// Ctrl-C's number.
const INTERRUPT: u8 = 2;

/// Counts the signals that ask to end: Ctrl-C's, SIGTERM and SIGHUP.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    count: Arc<AtomicU8>,
    asked: Interrupt,
    /// The first signal's number.
    first: Arc<AtomicU8>,
}

impl Interrupts {
    /// Takes the signals over, except those that the process was started to ignore, as `nohup` and a shell's
    /// background jobs are: the first asks the work to stop, the third ends the process.
    pub fn watch() -> Interrupts {
        let interrupts = Interrupts::default();
        if let Err(error) = take_over(interrupts.clone()) {
            eprintln!("warning: Ctrl-C will end the process at once: {error}");
        }
        interrupts
    }

    /// Whether the work was asked to stop.
    pub fn stop(&self) -> bool {
        self.asked.is_set()
    }

    /// The same as a flag, for what stops within a step.
    pub fn flag(&self) -> Interrupt {
        self.asked.clone()
    }

    /// The status of work that was asked to stop: a shell's for a process that the signal ended, 130 for
    /// Ctrl-C and 143 for SIGTERM, so that `train && evaluate` does not go on.
    pub fn status(&self) -> ExitCode {
        ExitCode::from(OF_SIGNALS + self.first.load(Ordering::Relaxed))
    }

    fn seen(&self, signal: u8) {
        match self.count.fetch_add(1, Ordering::Relaxed) + 1 {
            1 => {
                self.first.store(signal, Ordering::Relaxed);
                self.asked.set();
                eprintln!("\nstopping and saving; press Ctrl-C twice more to stop at once");
            }
            AT_ONCE.. => std::process::exit((OF_SIGNALS + signal).into()),
            _ => {}
        }
    }
}

#[cfg(unix)]
fn take_over(interrupts: Interrupts) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored();
    let wanted = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        signals.forever().for_each(|signal| interrupts.seen(u8::try_from(signal).unwrap_or(INTERRUPT)));
    })?;
    Ok(())
}

/// The signals that the process ignores, signal n as bit n - 1; none where the system does not tell.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(windows)]
fn take_over(interrupts: Interrupts) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || interrupts.seen(INTERRUPT))
}

/// Makes a write beyond the largest size of a file (`ulimit -f`) an error like any other, instead of the
/// process's end.
pub fn survive_large_files() {
    #[cfg(unix)]
    {
        let unread = Arc::default();
        // Where it cannot be done, such a write ends the process as before.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, unread);
    }
}
