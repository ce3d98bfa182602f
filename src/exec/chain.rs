//! The stored states of a training: where it resumes, when it saves, and which states are kept.
//!
//! States that `keep` or a branch of the plan pins are kept. Of the others, only the newest and the final one are kept.
//! A state is removed only after its successor is durable.
//!
//! A training that a sweep may prune runs from rung to rung. At each rung the chain saves the state and asks the stage
//! to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::artifact::Tensor;
use crate::error::Error;
use crate::event::{Event, Listener};
use crate::key::StateChain;
use crate::stage::{Cancel, Chain, Position, Saved};
use crate::store::{StateRecord, Store};

/// The initial state. It is cheaper to make than to store.
const START: Position = Position { epoch: 0, step: 0 };

/// The chain of one training, in the store.
pub(crate) struct StoredChain<'a> {
    store: &'a Arc<Store>,
    listener: &'a dyn Listener,
    stage: &'a str,
    states: StateChain,
    numerics: &'a str,
    kept: BTreeSet<u64>,
    interval: Duration,
    fresh: bool,
    rung: Option<u64>,
    cancel: Cancel,
    moving: Mutex<Moving>,
}

struct Moving {
    last_save: Instant,
    resumed_at: Option<u64>,
    /// The state that this job saved last or resumed from, unless it is pinned.
    last: Option<StateRecord>,
    at_rung: bool,
}

/// The settings of a chain.
pub(crate) struct ChainSettings<'a> {
    /// The states of the training.
    pub states: StateChain,
    /// Only states of this class are continued.
    pub numerics: &'a str,
    /// Epochs whose states are kept.
    pub kept: BTreeSet<u64>,
    /// Time between checkpoints; zero for one after every epoch.
    pub interval: Duration,
    /// Ignore stored states (`-f`, `-R`, `verify`).
    pub fresh: bool,
    /// Stop at this epoch.
    pub rung: Option<u64>,
    /// Stops this training alone.
    pub cancel: Cancel,
}

impl<'a> StoredChain<'a> {
    /// The chain of `stage`.
    pub(crate) fn new(
        store: &'a Arc<Store>,
        listener: &'a dyn Listener,
        stage: &'a str,
        settings: ChainSettings<'a>,
    ) -> Self {
        let ChainSettings { states, numerics, kept, interval, fresh, rung, cancel } = settings;
        let moving = Mutex::new(Moving { last_save: Instant::now(), resumed_at: None, last: None, at_rung: false });
        Self { store, listener, stage, states, numerics, kept, interval, fresh, rung, cancel, moving }
    }

    /// Whether a state at the rung or after it is stored.
    pub(crate) fn is_at_rung(&self) -> bool {
        self.lock().at_rung
    }

    /// Stops the training if this epoch, whose state is stored, is at the rung or after it.
    fn stop_at_rung(&self, epoch: u64) {
        if self.rung.is_some_and(|rung| epoch >= rung) {
            self.lock().at_rung = true;
            self.cancel.cancel();
        }
    }

    /// The epoch from which this run resumed the training, if it did.
    pub(crate) fn resumed_at(&self) -> Option<u64> {
        self.lock().resumed_at
    }

    fn total(&self) -> u64 {
        self.states.total()
    }

    fn is_kept(&self, position: Position) -> bool {
        position.step == 0 && (position.epoch == self.total() || self.kept.contains(&position.epoch))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain for StoredChain<'_> {
    fn resume(&self) -> Result<Option<Saved>, Error> {
        if self.fresh {
            return Ok(None);
        }
        // The store removes damaged states, warns about them, and returns an earlier one.
        let Some((record, tensors)) = self.store.resume(self.states.keys(), self.numerics)? else { return Ok(None) };
        let position = record.position();
        let mut moving = self.lock();
        moving.resumed_at = Some(position.epoch);
        moving.last = Some(record).filter(|r| !r.pinned);
        drop(moving);
        self.stop_at_rung(position.epoch);
        let (stage, epochs, Position { epoch, step }) = (self.stage.to_owned(), self.total(), position);
        self.listener.event(&Event::Resumed { stage, epoch, step, epochs, resumed_at: epoch });
        Ok(Some(Saved { position, tensors }))
    }

    fn due(&self, position: Position) -> bool {
        if self.is_kept(position) || (position.step == 0 && self.rung == Some(position.epoch)) {
            return true;
        }
        if position == START {
            return false;
        }
        if self.interval.is_zero() { position.step == 0 } else { self.lock().last_save.elapsed() >= self.interval }
    }

    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        if position == START && !self.is_kept(position) {
            return Ok(());
        }
        let started = Instant::now();
        let kept = self.is_kept(position);
        let record = self.store.put_state(self.states.keys(), position, self.numerics, kept, tensors)?;
        let before = self.lock().last.take();
        if let Some(old) = before {
            // The new state is durable, so a leftover of the old one must not fail the training.
            if let Err(error) = self.store.remove_superseded(&old, &record) {
                let what = format!("an earlier state of {} could not be removed", self.stage);
                self.listener.event(&Event::Warning { message: format!("{what}: {error}; `vadpipe gc` removes it") });
            }
        }
        let mut moving = self.lock();
        moving.last = Some(record).filter(|r| !r.pinned);
        moving.last_save = Instant::now();
        let resumed_at = moving.resumed_at;
        drop(moving);
        self.stop_at_rung(position.epoch);
        let (stage, Position { epoch, step }) = (self.stage.to_owned(), position);
        let seconds = started.elapsed().as_secs_f64();
        self.listener.event(&Event::StateSaved { stage, epoch, step, seconds, resumed_at });
        Ok(())
    }
}
