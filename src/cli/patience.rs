//! How long `run` and `verify` wait for a cache that another process holds.
//!
//! A run waits however long it takes, since what it has computed must not be lost: until the user stops it. With
//! `--no-wait` it does not wait before its first stage starts, since nothing is computed yet.

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

/// Decides whether the cache goes on waiting.
#[derive(Clone, Default)]
pub(super) struct Patience {
    cancel: Cancel,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// `--no-wait`, and no stage has started.
    is_without: AtomicBool,
    /// Who held the cache, once a wait took longer than a moment while [`State::is_without`].
    holder: Mutex<Option<String>>,
}

impl Patience {
    /// Waits until `cancel`; with `no_wait`, not before the first stage starts.
    pub(super) fn new(cancel: &Cancel, no_wait: bool) -> Self {
        let state = State { is_without: AtomicBool::new(no_wait), ..State::default() };
        Self { cancel: cancel.clone(), state: Arc::new(state) }
    }

    /// How the cache is opened.
    pub(super) fn options(&self, ui: &Ui) -> Options {
        let (says, patience) = (*ui, self.clone());
        let waiting = move |holder: Option<&Holder>| {
            let who = holder.map_or_else(|| "another process".to_owned(), Holder::describe);
            if !patience.gives_up(&who) {
                says.note(&format!("waiting for the cache: held by {who}"));
            }
        };
        let patience = self.clone();
        let cancelled = move || patience.is_over();
        let (waiting, cancelled) = (Some(Arc::new(waiting) as _), Some(Arc::new(cancelled) as _));
        Options { wait: true, timeout: FOR_EVER, waiting, cancelled, ..Options::default() }
    }

    /// From now on the cache is waited for, since a result would be lost.
    pub(super) fn stage_starts(&self) {
        self.state.is_without.store(false, Ordering::SeqCst);
    }

    /// A wait takes longer than a moment. Returns whether it ends here.
    fn gives_up(&self, holder: &str) -> bool {
        let gives_up = self.state.is_without.load(Ordering::SeqCst);
        if gives_up {
            *self.holder() = Some(holder.to_owned());
        }
        gives_up
    }

    /// Whether a long wait for the cache is to end.
    fn is_over(&self) -> bool {
        let gave_up = || self.state.is_without.load(Ordering::SeqCst) && self.holder().is_some();
        self.cancel.is_cancelled() || gave_up()
    }

    /// An error of a wait that ended: whether the user stopped it, or nobody wanted to wait.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.category != Category::Interrupted || self.cancel.is_cancelled() {
            return error;
        }
        let Some(holder) = self.holder().clone() else { return error };
        let held = Error::new(Category::CacheHeld, format!("the cache is held by {holder}"));
        held.hint("leave out --no-wait to wait for it")
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.state.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes events on, and notes when the first stage starts.
pub(super) struct Attentive<'a> {
    pub(super) patience: &'a Patience,
    pub(super) listener: &'a dyn Listener,
}

impl Listener for Attentive<'_> {
    fn event(&self, event: &Event) {
        // `verify` reports no starts, but progress.
        if matches!(event, Event::StageStarted { .. } | Event::Progress { .. } | Event::Epoch { .. }) {
            self.patience.stage_starts();
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
    fn without_patience_a_wait_ends_before_the_first_stage_and_not_after_it() {
        let patience = Patience::new(&Cancel::default(), true);
        assert!(!patience.is_over(), "nothing is waited for yet");
        assert!(patience.gives_up("pid 7") && patience.is_over());
        let error = patience.explain(interrupted());
        assert_eq!((error.category, error.message.as_str()), (Category::CacheHeld, "the cache is held by pid 7"));
        let listener = patience.clone();
        let stage = "a".to_owned();
        struct Deaf;
        impl Listener for Deaf {
            fn event(&self, _: &Event) {}
        }
        let started =
            Event::StageStarted { stage, kind: String::new(), key: crate::key::Digest::of(b"a"), reason: None };
        Attentive { patience: &listener, listener: &Deaf }.event(&started);
        assert!(!patience.is_over() && !patience.gives_up("pid 8") && !patience.is_over());
    }

    #[test]
    fn the_user_ends_every_wait_and_is_told_so() {
        for no_wait in [false, true] {
            let cancel = Cancel::default();
            let patience = Patience::new(&cancel, no_wait);
            patience.gives_up("pid 7");
            cancel.cancel();
            assert!(patience.is_over());
            assert_eq!(patience.explain(interrupted()).category, Category::Interrupted);
        }
        let storage = Patience::new(&Cancel::default(), true).explain(Error::storage("a disk"));
        assert_eq!(storage.category, Category::Storage);
    }
}
