//! The progress bar of a command that does not run a pipeline.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::progress::{Steps, simple_line};
use super::screen;

/// The shortest time between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// A progress bar. Removed on drop.
pub(in crate::cli) struct Bar {
    what: &'static str,
    hidden: bool,
    started: Instant,
    drawn: Cell<Option<Instant>>,
}

impl Bar {
    pub(super) fn new(what: &'static str, hidden: bool) -> Self {
        Self { what, hidden, started: Instant::now(), drawn: Cell::new(None) }
    }

    /// Shows how far the command is.
    pub(in crate::cli) fn show(&self, done: u64, total: u64) {
        let now = Instant::now();
        if self.hidden || self.drawn.get().is_some_and(|drawn| now - drawn < PAUSE) {
            return;
        }
        let Some((columns, _)) = screen::available() else { return };
        self.drawn.set(Some(now));
        let mut steps = Steps::begin(0, total, self.started);
        steps.advance(done, total, 0.0);
        screen::draw(&[simple_line(self.what, &steps, columns - 1, now)]);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        screen::above(|| ());
    }
}
