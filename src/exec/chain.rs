//! The stored states of a training: where it resumes, when it saves, and which states are kept.
//!
//! States that `keep` or a branch of the plan pins are kept. Of the others, only the newest and the final one are kept.
//! A state is removed only after its successor is durable.
//!
//! A training that a sweep may prune runs from rung to rung. At each rung the chain saves the state and asks the stage
//! to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::artifact::{FolderOnDisk, Tensor};
use crate::error::Error;
use crate::event::{Event, Listener};
use crate::file;
use crate::key::{Key, StateChain};
use crate::stage::{Cancel, Chain, Due, Position, Saved};
use crate::store::{FilesRead, NewState, Pace, StateQuery, StateRecord, Store, StoreError};

type TensorMap = BTreeMap<String, Tensor>;

/// The initial state. It is cheaper to make than to store.
const START: Position = Position { epoch: 0, step: 0 };

/// The chain of one training, in the store.
pub(crate) struct StoredChain<'a> {
    store: &'a Arc<Store>,
    listener: &'a dyn Listener,
    stage: &'a str,
    states: StateChain,
    result: Key,
    resumable: StateQuery<'a>,
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
    /// The best epoch so far, and its state if it is stored.
    best: (u64, Option<StateRecord>),
    at_rung: bool,
}

/// The settings of a chain.
pub(crate) struct ChainSettings<'a> {
    /// The states of the training.
    pub states: StateChain,
    /// The key of the result, as far as it is known.
    pub result: Key,
    /// The states that can be continued.
    pub resumable: StateQuery<'a>,
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
        let ChainSettings { states, result, resumable, kept, interval, fresh, rung, cancel } = settings;
        let moving = Mutex::new(Moving {
            last_save: Instant::now(),
            resumed_at: None,
            last: None,
            best: (0, None),
            at_rung: false,
        });
        Self { store, listener, stage, states, result, resumable, kept, interval, fresh, rung, cancel, moving }
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

    /// The number of epochs.
    pub(crate) fn total(&self) -> u64 {
        self.states.total()
    }

    /// The first epoch after this one whose state a program can continue from, or the last epoch.
    pub(crate) fn boundary_after(&self, epoch: u64) -> u64 {
        self.states.boundary_after(epoch, self.resumable.every)
    }

    /// The epoch at which this job stops: the rung, or the last one.
    pub(crate) fn stops_at(&self) -> u64 {
        self.rung.map_or(self.total(), |rung| rung.min(self.total()))
    }

    /// The key of the result, as far as it is known before the training ends.
    pub(crate) fn result(&self) -> Key {
        self.result
    }

    /// The numerics class of its states.
    pub(crate) fn class(&self) -> &str {
        self.resumable.class
    }

    /// The key of the state after this many epochs.
    pub(crate) fn key(&self, epoch: u64) -> Option<Key> {
        self.states.at(epoch)
    }

    /// The furthest stored state of a program. Its files are written below the folder `to`, which is empty.
    ///
    /// # Errors
    /// If the cache can't be read, or the folder can't be written.
    pub(crate) fn resume_files(&self, to: &Path) -> Result<Option<(StateRecord, TensorMap)>, Error> {
        if self.fresh {
            return Ok(None);
        }
        while let Some(state) = self.store.longest_state(self.states.keys(), &self.resumable)? {
            match self.store.read_state(&state).and_then(|curves| {
                self.store.write_folder(&state.folder, to)?;
                Ok(curves)
            }) {
                Ok(curves) => {
                    self.note_resumed(&state);
                    return Ok(Some((state, curves)));
                }
                // The store has removed the state. The next iteration finds the state before it.
                Err(StoreError::Damaged { .. }) => {
                    file::empty_folder(to)
                        .map_err(|e| Error::storage(format!("can't empty {}", to.display())).caused_by(e))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Notes and reports that the training continues from a state.
    fn note_resumed(&self, state: &StateRecord) {
        let position = state.position();
        let mut moving = self.lock();
        moving.resumed_at = Some(position.epoch);
        moving.last = Some(state.clone()).filter(|r| !r.pinned);
        drop(moving);
        self.stop_at_rung(position.epoch);
        let (stage, epochs, Position { epoch, step }) = (self.stage.to_owned(), self.total(), position);
        let state = Some(state.key);
        self.listener.event(&Event::Resumed { stage, epoch, step, epochs, resumed_at: epoch, state });
    }

    /// Removes a state that `newest` replaces.
    fn remove(&self, old: &StateRecord, newest: &StateRecord) {
        // The new state is durable, so a leftover of the old one must not fail the training.
        if let Err(error) = self.store.remove_superseded(old, newest) {
            let what = format!("an earlier state of {} could not be removed", self.stage);
            self.listener.event(&Event::Warning { message: format!("{what}: {error}; `vadpipe gc` removes it") });
        }
    }

    /// Keeps the state after this epoch, the best so far, until the training ends or another epoch is better.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub(crate) fn set_best(&self, epoch: u64) -> Result<(), Error> {
        let mut moving = self.lock();
        if moving.best.0 == epoch {
            return Ok(());
        }
        let (before, last) = (moving.best.1.take(), moving.last.clone());
        moving.best.0 = epoch;
        drop(moving);
        let stored = self.store.chain_states(self.states.keys())?;
        let is_best = |state: &StateRecord| state.epoch == epoch && state.class == self.resumable.class;
        let best = stored.into_iter().find(is_best);
        self.lock().best.1.clone_from(&best);
        if let Some(best) = best.filter(|_| self.resumed_at() == Some(self.total())) {
            self.store.pin_state(&best)?;
        }
        // The last state is removed when the next one is stored.
        if let (Some(before), Some(last)) = (before, last)
            && before.key != last.key
        {
            self.remove(&before, &last);
        }
        Ok(())
    }

    /// Stores a state, and removes the one that it replaces.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub(crate) fn store(
        &self,
        position: Position,
        tensors: &BTreeMap<String, Tensor>,
        folder: Option<&FolderOnDisk>,
        files_read: &FilesRead,
    ) -> Result<StateRecord, Error> {
        let started = Instant::now();
        self.lock().last_save = started;
        let (class, pinned) = (self.resumable.class, self.is_kept(position));
        let result = Some(self.result);
        // Most trainings go on while a checkpoint is saved. It is read only after a crash.
        let is_checkpoint = folder.is_none() && self.kind(position) == Due::Checkpoint && !self.cancel.is_cancelled();
        let pace = if is_checkpoint { Pace::Temporary } else { Pace::Fast };
        let new = NewState { position, class, pinned, tensors, folder, files_read, result, pace };
        let record = self.store.put_state(self.states.keys(), new)?;
        let mut moving = self.lock();
        let before = moving.last.take();
        // No epoch is the best before one has ended.
        if position.step == 0 && position.epoch > 0 && moving.best.0 == position.epoch {
            moving.best.1 = Some(record.clone());
        }
        let best = moving.best.1.clone();
        drop(moving);
        if let Some(old) = before.filter(|old| best.as_ref().is_none_or(|best| best.key != old.key)) {
            // The program has read more files. When one of them changes, the training continues from the old state.
            let read_more = old.files_read != record.files_read;
            match read_more {
                true => self.store.pin_state(&old)?,
                false => self.remove(&old, &record),
            }
        }
        if let Some(best) = best.filter(|_| position.epoch == self.total()) {
            self.store.pin_state(&best)?;
        }
        let mut moving = self.lock();
        moving.last = Some(record.clone()).filter(|r| !r.pinned);
        let resumed_at = moving.resumed_at;
        drop(moving);
        self.stop_at_rung(position.epoch);
        let (stage, Position { epoch, step }) = (self.stage.to_owned(), position);
        let (seconds, state) = (started.elapsed().as_secs_f64(), Some(record.key));
        self.listener.event(&Event::StateSaved { stage, epoch, step, seconds, resumed_at, state });
        Ok(record)
    }

    /// How a state at this position is due, once `checkpoint_seconds` have passed.
    fn kind(&self, position: Position) -> Due {
        let ends_epoch = position.step == 0;
        if ends_epoch && self.rung == Some(position.epoch) {
            Due::Stop
        } else if self.is_kept(position) {
            Due::Wanted
        } else if position == START {
            Due::No
        } else if !self.interval.is_zero() {
            Due::Checkpoint
        } else if ends_epoch {
            Due::Wanted
        } else {
            Due::No
        }
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
        let Some((record, tensors)) = self.store.resume(self.states.keys(), &self.resumable)? else { return Ok(None) };
        self.note_resumed(&record);
        Ok(Some(Saved { position: record.position(), tensors }))
    }

    fn due(&self, position: Position) -> Due {
        match self.kind(position) {
            Due::Checkpoint if self.lock().last_save.elapsed() < self.interval => Due::No,
            kind => kind,
        }
    }

    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        if position == START && !self.is_kept(position) {
            return Ok(());
        }
        self.store(position, tensors, None, &FilesRead::new()).map(drop)
    }
}
