//! States of trainings: a chain's keys, and what is stored under them.
//!
//! Under the key of state(e) stand the state itself (epoch e, step 0) and partial ones on the way to it (epoch e − 1, step
//! s), each per numerics class. A partial state is under the key of what it will become, since half an epoch depends on
//! that epoch's parameters: whoever changes them finds state(e − 1) and not the half epoch.

use std::collections::{BTreeMap, BTreeSet};

use super::engine::Failure;
use super::lock::Sharing;
use super::record::{BlobEntries, now_ms};
use super::{Result, StatePosition, StateRecord, Store, StoreError, blobs, index};
use crate::artifact::Tensor;
use crate::key::{Digest, Key};

impl Store {
    /// The furthest stored state of this chain in this numerics class, by the index: `states` are the keys of state(0),
    /// state(1), … state(n) as [`crate::key::Components::states`] gives them. A partial state counts by its epoch and
    /// step.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn longest_state(&self, states: &[Key], class: &str) -> Result<Option<StateRecord>> {
        self.inner.read_index(|db| longest(db, states, class))
    }

    /// [`Store::longest_state`]'s position, for a plan.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn states_present(&self, states: &[Key], class: &str) -> Result<Option<StatePosition>> {
        let longest = self.longest_state(states, class)?;
        Ok(longest.map(|s| StatePosition { epoch: s.epoch, step: s.step }))
    }

    /// All stored states of this chain in any numerics class, by the index, in the order of the chain.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn chain_states(&self, states: &[Key]) -> Result<Vec<StateRecord>> {
        self.inner.read_index(|db| {
            let lineage = index::lineage(db)?;
            let mut found = Vec::new();
            for (epoch, key) in states.iter().enumerate() {
                let here = |s: &StateRecord| s.epoch + u64::from(s.step > 0) == epoch as u64;
                found.extend(index::states(db, key)?.into_iter().filter(|s| s.lineage == lineage && here(s)));
            }
            found.sort_by_key(|s: &StateRecord| (s.epoch, s.step));
            Ok(found)
        })
    }

    /// All stored states of all trainings, by the index.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn all_states(&self) -> Result<Vec<StateRecord>> {
        self.inner.read_index(|db| {
            let lineage = index::lineage(db)?;
            Ok(index::all_states(db)?.0.into_iter().filter(|s| s.lineage == lineage).collect())
        })
    }

    /// The furthest state that can be read, with its content: damaged ones are forgotten and passed over.
    ///
    /// # Errors
    /// If a database can't be read.
    pub fn resume(&self, states: &[Key], class: &str) -> Result<Option<(StateRecord, BTreeMap<String, Tensor>)>> {
        while let Some(record) = self.longest_state(states, class)? {
            match self.read_state(&record) {
                Ok(tensors) => return Ok(Some((record, tensors))),
                // It was forgotten, so that the next look finds the one before.
                Err(StoreError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Stores a state of the chain `states` (the keys of state(0) … state(n)). It goes under the key of state(`epoch`), or
    /// of state(`epoch` + 1) if `step` (the steps done after `epoch`) is not 0. A state that was pinned stays pinned, and
    /// one that two trainings save becomes so: their chains part behind it. Durable when this returns.
    ///
    /// # Errors
    /// If the cache can't be written, or the chain has no such state.
    pub fn put_state(
        &self,
        states: &[Key],
        position: StatePosition,
        class: &str,
        pinned: bool,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<StateRecord> {
        let place = usize::try_from(position.epoch).ok().and_then(|e| e.checked_add(usize::from(position.step > 0)));
        let (Some(key), Some(towards)) = (place.and_then(|place| states.get(place)), states.last().copied()) else {
            return Err(StoreError::NotFound(format!("the chain has no state {}+{}", position.epoch, position.step)));
        };
        let _collecting = self.inner.collect_lock(Sharing::Shared)?;
        let entries = self.write_tensors(tensors)?;
        let (before, lineage) = self.inner.read_index(|db| Ok((index::states(db, key)?, index::lineage(db)?)))?;
        let same = before.into_iter().find(|s| s.step == position.step && s.class == class);
        let shared = same.as_ref().is_some_and(|s| s.towards.is_some_and(|other| other != towards));
        let record = StateRecord {
            key: *key,
            towards: Some(towards),
            epoch: position.epoch,
            step: position.step,
            class: class.to_owned(),
            pinned: pinned || shared || same.is_some_and(|s| s.pinned),
            tensors: entries,
            saved_at: now_ms(),
            lineage,
        };
        self.inner.change_index(|_, batch| index::put_state(batch, &record))?;
        Ok(record)
    }

    /// A state's verified content.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_state(&self, record: &StateRecord) -> Result<BTreeMap<String, Tensor>> {
        record.tensors.iter().map(|(name, entry)| Ok((name.clone(), self.read_tensor(entry)?))).collect()
    }

    /// Removes `old`, which `newest` replaces, and returns whether it did. It stays if it is pinned, if another training
    /// saved it (whoever took it up from there leaves it to its owner, and to `gc`), or if `newest` is not stored. The space
    /// of what nothing else uses is used again (but for what others write at this moment: then it is left to `gc`).
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn remove_superseded(&self, old: &StateRecord, newest: &StateRecord) -> Result<bool> {
        let name = |s: &StateRecord| (s.key, s.step, s.class.clone());
        if name(old) == name(newest) {
            return Ok(false);
        }
        let removable = self.inner.read_index(|db| {
            let stored = |state: &StateRecord| -> Result<_, Failure> {
                Ok(index::states(db, &state.key)?.into_iter().find(|s| name(s) == name(state)))
            };
            // As it is stored now: another process may have pinned it, or saved it for its own training.
            let old = stored(old)?.filter(|s| !s.pinned && s.towards.is_none_or(|t| Some(t) == newest.towards));
            Ok(old.filter(|_| matches!(stored(newest), Ok(Some(_)))))
        })?;
        let Some(old) = removable else { return Ok(false) };
        let removal = self.inner.try_collect_lock()?;
        self.inner.change_index(|_, batch| {
            index::remove_state(batch, &old);
            Ok(())
        })?;
        if removal.is_some() {
            let live: BTreeSet<Digest> = self.inner.wanted_blobs()?.into_iter().map(|b| b.0).collect();
            let blobs = old.blobs().into_iter().map(|b| b.digest);
            let dead: BTreeSet<Digest> = blobs.filter(|b| !live.contains(b)).collect();
            self.inner.change_chunks(|o| blobs::remove(o, |blob| dead.contains(blob)))?;
        }
        Ok(true)
    }
}

/// [`Store::longest_state`] on an open index.
pub(super) fn longest(db: &sled::Db, states: &[Key], class: &str) -> Result<Option<StateRecord>, Failure> {
    let lineage = index::lineage(db)?;
    for (epoch, key) in states.iter().enumerate().rev() {
        let usable = |s: &StateRecord| {
            let here = if s.step == 0 { s.epoch } else { s.epoch + 1 };
            s.class == class && s.lineage == lineage && here == epoch as u64
        };
        let stored = index::states(db, key)?.into_iter().filter(usable);
        if let Some(state) = stored.max_by_key(|s| (s.epoch, s.step)) {
            return Ok(Some(state));
        }
    }
    Ok(None)
}
