//! Progress on stderr: a bar on a terminal, otherwise a plain line from time to time.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shows how far the work is.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    quiet: bool,
    /// When the current work began, and its finished share at that time: a resumed run does not begin at 0.
    /// Where the share decreases, new work has begun.
    begun: Option<(Instant, f64)>,
    done: f64,
    last: Option<Instant>,
}

/// The resolution of the bar.
const PARTS: u64 = 1000;
/// Time between plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

impl Progress {
    /// Shows progress; nothing if `quiet`.
    pub fn new(quiet: bool) -> Progress {
        let plain = !std::io::stderr().is_terminal();
        let target = if quiet || plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(PARTS), target);
        let style = ProgressStyle::with_template("{wide_bar} {percent:>3}%  {msg}  {elapsed} < {prefix}");
        bar.set_style(style.expect("the template is valid"));
        Progress { bar, plain, quiet, begun: None, done: 0.0, last: None }
    }

    /// Updates the finished share, from 0 to 1, and the text beside it.
    pub fn update(&mut self, done: f64, message: impl FnOnce() -> String) {
        if self.quiet {
            return;
        }
        if done < self.done {
            self.begun = None;
        }
        self.done = done;
        let (start, from) = *self.begun.get_or_insert_with(|| (Instant::now(), done));
        let left = seconds_left(start.elapsed().as_secs_f64(), from, done);
        if !self.plain {
            self.bar.set_position((done * PARTS as f64) as u64);
            self.bar.set_prefix(clock(left));
            self.bar.set_message(message());
        } else if self.last.is_none_or(|last| last.elapsed() >= INTERVAL) || done >= 1.0 {
            eprintln!("{:3.0}%  {}  {} left", 100.0 * done.min(1.0), message(), clock(left));
            self.last = Some(Instant::now());
        }
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        match (self.quiet, self.plain) {
            (true, _) => {}
            (false, true) => eprintln!("{line}"),
            (false, false) => self.bar.println(line),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Seconds until everything is done, at the pace since `from`; NaN before anything is done.
fn seconds_left(elapsed: f64, from: f64, done: f64) -> f64 {
    if done > from { elapsed * (1.0 - done).max(0.0) / (done - from) } else { f64::NAN }
}

fn clock(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    let s = seconds.round() as u64;
    if s < 3600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_at_the_pace_of_this_piece_of_work() {
        assert_eq!(seconds_left(10.0, 0.0, 0.25), 30.0);
        assert_eq!(seconds_left(10.0, 0.5, 0.75), 10.0);
        assert!(seconds_left(10.0, 0.5, 0.5).is_nan());
        let mut progress = Progress::new(false);
        progress.plain = true;
        for (done, from) in [(0.5, 0.5), (0.75, 0.5), (1.0, 0.5), (0.25, 0.25)] {
            progress.update(done, String::new);
            assert_eq!(progress.begun.map(|(_, from)| from), Some(from));
        }
    }
}
