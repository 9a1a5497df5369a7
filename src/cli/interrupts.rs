//! Ctrl-C: the running work ends in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Counts Ctrl-C: the first asks the work to stop after its step, the third ends the process at once.
pub fn watch_interrupts() -> Arc<AtomicU8> {
    let count = Arc::new(AtomicU8::new(0));
    let seen = Arc::clone(&count);
    let watched = ctrlc::set_handler(move || match seen.fetch_add(1, Ordering::Relaxed) {
        0 => eprintln!("\nfinishing the step and saving; press Ctrl-C twice more to stop at once"),
        1 => {}
        _ => std::process::exit(130),
    });
    if let Err(error) = watched {
        eprintln!("warning: Ctrl-C will end the process at once: {error}");
    }
    count
}
