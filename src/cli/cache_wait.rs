//! How long `run` and `verify` wait for a cache that another process holds.
//!
//! A run waits until the user stops it, because its results must not be lost. With `--no-wait`, it does not wait before
//! its first stage starts, because it has no results yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ui::Ui;
use crate::error::{Category, Error};
use crate::event::{Event, Listener};
use crate::stage::Cancel;
use crate::store::{Holder, Options};

/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Decides whether to wait for the cache.
#[derive(Clone, Default)]
pub(super) struct CacheWait {
    cancel: Cancel,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// `--no-wait` was given, and no stage has started.
    ends: AtomicBool,
    /// The process that held the cache when a wait ended because of [`State::ends`].
    holder: Mutex<Option<String>>,
}

impl CacheWait {
    /// Waits until `cancel`; with `no_wait`, only after the first stage has started.
    pub(super) fn new(cancel: &Cancel, no_wait: bool) -> Self {
        let state = State { ends: AtomicBool::new(no_wait), ..State::default() };
        Self { cancel: cancel.clone(), state: Arc::new(state) }
    }

    /// The options to open the cache with.
    pub(super) fn options(&self, ui: &Ui) -> Options {
        let (ui, cache_wait) = (*ui, self.clone());
        let waiting = move |holder: Option<&Holder>| {
            let who = holder.map_or_else(|| "another process".to_owned(), Holder::describe);
            if !cache_wait.gives_up(&who) {
                ui.note(&format!("waiting for the cache, which {who} holds"));
            }
        };
        let cache_wait = self.clone();
        let cancelled = move || cache_wait.is_over();
        let (waiting, cancelled) = (Some(Arc::new(waiting) as _), Some(Arc::new(cancelled) as _));
        Options { wait: true, timeout: FOR_EVER, waiting, cancelled, ..Options::default() }
    }

    /// Waits for the cache from now on, because a result would be lost.
    pub(super) fn stage_starts(&self) {
        self.state.ends.store(false, Ordering::SeqCst);
    }

    /// Called when a wait takes longer than a moment. Returns whether to give up.
    fn gives_up(&self, holder: &str) -> bool {
        let gives_up = self.state.ends.load(Ordering::SeqCst);
        if gives_up {
            *self.holder() = Some(holder.to_owned());
        }
        gives_up
    }

    /// Whether to stop waiting.
    fn is_over(&self) -> bool {
        let gave_up = || self.state.ends.load(Ordering::SeqCst) && self.holder().is_some();
        self.cancel.is_cancelled() || gave_up()
    }

    /// Turns the error of a wait that was given up into one that names the holder.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.category != Category::Interrupted || self.cancel.is_cancelled() {
            return error;
        }
        let Some(holder) = self.holder().clone() else { return error };
        let held = Error::new(Category::CacheHeld, format!("the cache is held by {holder}"));
        held.hint("omit --no-wait to wait for it")
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.state.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forwards events and notices when the first stage starts.
pub(super) struct StartListener<'a> {
    pub(super) cache_wait: &'a CacheWait,
    pub(super) listener: &'a dyn Listener,
}

impl Listener for StartListener<'_> {
    fn event(&self, event: &Event) {
        // `verify` reports progress but no starts.
        if matches!(event, Event::StageStarted { .. } | Event::Progress { .. } | Event::Epoch { .. }) {
            self.cache_wait.stage_starts();
        }
        self.listener.event(event);
    }

    fn pause(&self) {
        self.listener.pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted() -> Error {
        Error::new(Category::Interrupted, "interrupted")
    }

    #[test]
    fn no_wait_ends_a_wait_only_before_the_first_stage() {
        let cache_wait = CacheWait::new(&Cancel::default(), true);
        assert!(!cache_wait.is_over(), "no wait has begun");
        assert!(cache_wait.gives_up("pid 7") && cache_wait.is_over());
        let error = cache_wait.explain(interrupted());
        assert_eq!((error.category, error.message.as_str()), (Category::CacheHeld, "the cache is held by pid 7"));
        let listener = cache_wait.clone();
        let stage = "a".to_owned();
        let started = Event::StageStarted {
            stage,
            kind: String::new(),
            key: crate::key::Digest::of(b"a"),
            reason: None,
            gpus: vec![],
            worker: None,
        };
        StartListener { cache_wait: &listener, listener: &crate::event::Silent }.event(&started);
        assert!(!cache_wait.is_over() && !cache_wait.gives_up("pid 8") && !cache_wait.is_over());
    }

    #[test]
    fn interruption_ends_every_wait() {
        for no_wait in [false, true] {
            let cancel = Cancel::default();
            let cache_wait = CacheWait::new(&cancel, no_wait);
            cache_wait.gives_up("pid 7");
            cancel.cancel();
            assert!(cache_wait.is_over());
            assert_eq!(cache_wait.explain(interrupted()).category, Category::Interrupted);
        }
        let storage = CacheWait::new(&Cancel::default(), true).explain(Error::storage("a disk"));
        assert_eq!(storage.category, Category::Storage);
    }
}
