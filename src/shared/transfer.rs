//! How far a transfer is, and whether it goes on.

use std::sync::atomic::{AtomicU64, Ordering};

/// A transfer under way.
#[derive(Default)]
pub struct Transfer<'a> {
    /// Whether the user has interrupted it.
    cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Called with the bytes that were moved and those of the whole transfer, as far as they are known.
    progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    moved: AtomicU64,
    total: AtomicU64,
}

impl<'a> Transfer<'a> {
    /// A transfer that reports its progress.
    pub fn new(cancelled: &'a (dyn Fn() -> bool + Sync), progress: &'a (dyn Fn(u64, u64) + Sync)) -> Self {
        Self { cancelled: Some(cancelled), progress: Some(progress), ..Self::default() }
    }

    /// A transfer that reports nothing.
    pub fn silent(cancelled: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { cancelled: Some(cancelled), ..Self::default() }
    }

    /// Bytes that were moved so far.
    pub fn bytes(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether the user has interrupted it.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled())
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: u64) {
        let moved = self.moved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = self.progress {
            progress(moved, self.total.load(Ordering::Relaxed).max(moved));
        }
    }
}
