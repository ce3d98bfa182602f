//! States of trainings.
//!
//! Under the key of state(e) there are the state itself (epoch e, step 0) and partial states on the way to it (epoch e
//! − 1, step s), each per numerics class. A partial state has the key of the state that it will become, because half an
//! epoch depends on that epoch's parameters: with other parameters a training finds state(e − 1) and not the half
//! epoch.

use std::collections::{BTreeMap, BTreeSet};

use super::database::Access;
use super::engine::Failure;
use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::holder::now_ms;
use super::lock::Sharing;
use super::record::StateRecord;
use crate::artifact::Tensor;
use crate::key::{Digest, Key, Position};

impl Store {
    /// The furthest stored state of this chain in this numerics class, as far as the index knows. `states` are the keys
    /// of state(0), state(1), … state(n) as [`crate::key::Components::chain`] returns them. Partial states count by
    /// their epoch and step.
    pub fn longest_state(&self, states: &[Key], class: &str) -> Result<Option<StateRecord>> {
        self.index.read(|db| entries::longest_state(db, states, class))
    }

    /// All stored states of this chain in any numerics class, as far as the index knows, in the order of the chain.
    pub fn chain_states(&self, states: &[Key]) -> Result<Vec<StateRecord>> {
        self.index.read(|db| {
            let lineage = entries::lineage(db)?;
            let mut found = Vec::new();
            for (i, key) in states.iter().enumerate() {
                let is_here = |s: &StateRecord| s.lineage == lineage && s.chain_index() == i as u64;
                found.extend(entries::states(db, key)?.into_iter().filter(is_here));
            }
            found.sort_by_key(|s: &StateRecord| (s.epoch, s.step));
            Ok(found)
        })
    }

    /// All stored states of all trainings, as far as the index knows.
    pub fn all_states(&self) -> Result<Vec<StateRecord>> {
        self.index.read(|db| {
            let lineage = entries::lineage(db)?;
            Ok(entries::all_states(db)?.0.into_iter().filter(|s| s.lineage == lineage).collect())
        })
    }

    /// The furthest readable state, with its content. Damaged states are forgotten and skipped.
    pub fn resume(&self, states: &[Key], class: &str) -> Result<Option<(StateRecord, BTreeMap<String, Tensor>)>> {
        while let Some(record) = self.longest_state(states, class)? {
            match self.read_state(&record) {
                Ok(tensors) => return Ok(Some((record, tensors))),
                // It was forgotten, so the next look-up finds the state before it.
                Err(StoreError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Stores a state of the chain `states` (the keys of state(0) … state(n)), durably. Its key is that of
    /// state(`epoch`), or of state(`epoch` + 1) if `step` is not 0. A pinned state stays pinned. A state that two
    /// trainings save is pinned too: their chains diverge after it.
    ///
    /// # Errors
    /// If the cache can't be written, or the chain has no such state.
    pub fn put_state(
        &self,
        states: &[Key],
        position: Position,
        class: &str,
        pinned: bool,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<StateRecord> {
        let index = usize::try_from(position.epoch).ok().and_then(|e| e.checked_add(usize::from(position.step > 0)));
        let (Some(key), Some(towards)) = (index.and_then(|index| states.get(index)), states.last().copied()) else {
            return Err(StoreError::NotFound(format!("the chain has no state {}+{}", position.epoch, position.step)));
        };
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        let tensors = self.write_tensors(tensors)?;
        let (before, lineage) = self.index.read(|db| Ok((entries::states(db, key)?, entries::lineage(db)?)))?;
        let same = before.into_iter().find(|s| s.step == position.step && s.class == class);
        let shared = same.as_ref().is_some_and(|s| s.towards.is_some_and(|other| other != towards));
        let record = StateRecord {
            key: *key,
            towards: Some(towards),
            epoch: position.epoch,
            step: position.step,
            class: class.to_owned(),
            pinned: pinned || shared || same.is_some_and(|s| s.pinned),
            tensors,
            saved_at: now_ms(),
            lineage,
        };
        self.index.change(|_, changes| entries::put_state(changes, &record))?;
        Ok(record)
    }

    /// A state's verified content.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_state(&self, record: &StateRecord) -> Result<BTreeMap<String, Tensor>> {
        record.tensors.iter().map(|(name, entry)| Ok((name.clone(), self.read_tensor(entry)?))).collect()
    }

    /// Removes `old`, which `newest` replaces, and returns whether it did. It stays if it is pinned, if another
    /// training saved it, or if `newest` is not stored. Frees the space of the blobs that nothing else uses, unless
    /// another process writes at this moment; then `gc` frees it.
    pub fn remove_superseded(&self, old: &StateRecord, newest: &StateRecord) -> Result<bool> {
        if old.has_name_of(newest) {
            return Ok(false);
        }
        let removable = self.index.read(|db| {
            let stored = |state: &StateRecord| -> Result<_, Failure> {
                Ok(entries::states(db, &state.key)?.into_iter().find(|s| s.has_name_of(state)))
            };
            // As it is stored now: another process may have pinned it, or saved it for its own training.
            let old = stored(old)?.filter(|s| !s.pinned && s.towards.is_none_or(|t| Some(t) == newest.towards));
            Ok(old.filter(|_| matches!(stored(newest), Ok(Some(_)))))
        })?;
        let Some(old) = removable else { return Ok(false) };
        let removal = self.index.folder.try_collect_lock()?;
        self.index.change(|_, changes| {
            entries::remove_state(changes, &old);
            Ok(())
        })?;
        if removal.is_some() {
            let live: BTreeSet<Digest> = self.index.wanted_blobs()?.into_iter().map(|b| b.digest).collect();
            let dead: BTreeSet<Digest> = old.blobs().map(|b| b.digest).filter(|b| !live.contains(b)).collect();
            self.blobs.remove(Access::Write, |blob| dead.contains(blob))?;
        }
        Ok(true)
    }
}
