//! Saves the states of a training on a thread of its own, one at a time, so that the training does not wait for hashing
//! and the disk. It waits only while its state is copied. A training has at most one such copy in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::artifact::Tensor;
use crate::error::Error;
use crate::stage::{Chain, Position};

/// Why a state was not saved.
pub(super) enum Unsaved {
    /// This tensor holds an infinity or a NaN.
    NotFinite(String),
    /// The cache failed.
    Failed(Error),
}

type State = BTreeMap<String, Tensor>;

/// A state that is being saved.
struct Saving<'scope> {
    position: Position,
    state: Arc<State>,
    thread: ScopedJoinHandle<'scope, Result<(), Unsaved>>,
}

/// Saves the states of one training.
pub(super) struct Saver<'scope, 'env> {
    chain: Option<&'env dyn Chain>,
    scope: &'scope Scope<'scope, 'env>,
    under_way: Option<Saving<'scope>>,
    /// The newest position whose state is saved.
    saved: Option<Position>,
    /// The state that was saved last, for its memory.
    spare: State,
}

impl<'scope, 'env> Saver<'scope, 'env> {
    /// A saver for a training that continues from the stored state `saved`, or from the start.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        chain: Option<&'env dyn Chain>,
        saved: Option<Position>,
    ) -> Self {
        Self { chain, scope, under_way: None, saved, spare: State::new() }
    }

    /// The newest position whose state is saved.
    pub(super) fn saved(&self) -> Option<Position> {
        self.saved
    }

    /// The newest position whose state is saved or being saved.
    pub(super) fn newest(&self) -> Option<Position> {
        self.under_way.as_ref().map(|saving| saving.position).or(self.saved)
    }

    /// Whether a state is being saved.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.as_ref().is_some_and(|saving| !saving.thread.is_finished())
    }

    /// A state whose memory the next one may use.
    pub(super) fn take_spare(&mut self) -> State {
        std::mem::take(&mut self.spare)
    }

    /// Saves a state while the training goes on. No other may be under way.
    ///
    /// # Errors
    /// As [`Saver::wait`], if the system refuses a thread.
    pub(super) fn start(&mut self, position: Position, state: State) -> Result<(), Unsaved> {
        let (chain, state) = (self.chain, Arc::new(state));
        let shared = Arc::clone(&state);
        match Builder::new().spawn_scoped(self.scope, move || save(chain, position, &shared)) {
            Ok(thread) => self.under_way = Some(Saving { position, state, thread }),
            Err(_) => {
                save(chain, position, &state)?;
                self.saved = Some(position);
            }
        }
        Ok(())
    }

    /// Waits until the state that is under way is saved.
    ///
    /// # Errors
    /// If the state is not finite or can't be saved, with its position.
    pub(super) fn wait(&mut self) -> Result<(), (Position, Unsaved)> {
        let Some(Saving { position, state, thread }) = self.under_way.take() else { return Ok(()) };
        let saved = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        saved.map_err(|why| (position, why))?;
        self.saved = Some(position);
        self.spare = Arc::try_unwrap(state).unwrap_or_default();
        Ok(())
    }
}

impl Drop for Saver<'_, '_> {
    fn drop(&mut self) {
        // The training has failed, and its own error counts.
        if let Some(saving) = self.under_way.take() {
            let _ = saving.thread.join();
        }
    }
}

fn save(chain: Option<&dyn Chain>, position: Position, state: &State) -> Result<(), Unsaved> {
    check(state)?;
    chain.map_or(Ok(()), |chain| chain.save(position, state)).map_err(Unsaved::Failed)
}

/// Refuses a state that is not finite. The loss does not always show it, because that is the loss before the last
/// update.
pub(super) fn check(state: &State) -> Result<(), Unsaved> {
    let bad = state.iter().find(|(_, tensor)| !tensor.is_finite());
    bad.map_or(Ok(()), |(name, _)| Err(Unsaved::NotFinite(name.clone())))
}
