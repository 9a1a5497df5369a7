//! What a run tells of itself while it goes on: its page, and TensorBoard's event files where asked for.

use super::folder::{EVENTS, REPORT};
use super::metrics::Metric;
use super::report;
use crate::error::{Error, Result};
use crate::output::Events;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A page is written again only after this many times the time that it took, so that pages take at most a
/// hundredth of a run's time.
const PATIENCE: u32 = 99;

/// Writes what a run tells. After an error, what failed is not tried again.
pub(super) struct Telling {
    folder: PathBuf,
    events: Option<Events>,
    /// When the page may be written again.
    next: Instant,
    has_failed: bool,
}

impl Telling {
    /// Begins after `step` steps.
    ///
    /// # Errors
    /// [`Error::Write`] where the event file cannot be made: it was asked for.
    pub(super) fn begin(folder: &Path, step: u64, tensorboard: bool) -> Result<Telling> {
        let events = tensorboard.then(|| Events::create(&folder.join(EVENTS), step + 1)).transpose()?;
        Ok(Telling { folder: folder.to_path_buf(), events, next: Instant::now(), has_failed: false })
    }

    /// A step was taken.
    pub(super) fn step(&mut self, metric: &Metric) -> Result<()> {
        let values = [
            ("loss", metric.loss),
            ("gradient_norm", metric.gradient_norm),
            ("learning_rate", metric.lr),
            ("images_per_second", metric.images_per_s),
        ];
        self.with_events(|events| events.scalars(metric.step, &values))
    }

    /// A sample grid was written.
    pub(super) fn samples(&mut self, step: u64, path: &Path) -> Result<()> {
        self.with_events(|events| {
            let png = fs::read(path).map_err(|e| Error::read(path, e))?;
            let grid = image::load_from_memory(&png)
                .map_err(|e| Error::invalid(path.display().to_string(), "a PNG file", e.to_string(), ""))?;
            events.picture(step, "samples", &png, (grid.height(), grid.width()))
        })
    }

    /// A checkpoint was written.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.with_events(Events::flush)?;
        if self.has_failed || Instant::now() < self.next { Ok(()) } else { self.page(true) }
    }

    /// The call ends.
    pub(super) fn end(&mut self) -> Result<()> {
        let events = self.with_events(Events::flush);
        self.page(false).and(events)
    }

    fn page(&mut self, is_going_on: bool) -> Result<()> {
        let start = Instant::now();
        let folders = std::slice::from_ref(&self.folder);
        let written = report::write(&self.folder.join(REPORT), folders, is_going_on);
        self.has_failed = written.is_err();
        self.next = Instant::now() + start.elapsed().max(Duration::from_millis(1)) * PATIENCE;
        written
    }

    fn with_events(&mut self, write: impl FnOnce(&mut Events) -> Result<()>) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let written = write(events);
        if written.is_err() {
            self.events = None;
        }
        written
    }
}
