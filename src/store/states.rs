//! States of trainings.
//!
//! Under the key of state(e) there are the state itself (epoch e, step 0) and partial states on the way to it (epoch e
//! − 1, step s), each per numerics class. A partial state has the key of the state that it will become, because half an
//! epoch depends on that epoch's parameters: with other parameters a training finds state(e − 1) and not the half
//! epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;

use super::database::Access;
use super::engine::Failure;
use super::entries::{self, FilesRead};
use super::error::{Result, StoreError};
use super::handle::Store;
use super::holder::now_ms;
use super::lock::Sharing;
use super::pack_writer::Pace;
use super::record::StateRecord;
use crate::artifact::{FolderOnDisk, Tensor};
use crate::key::{Digest, Key, Position};

/// Which stored states of a chain a training can continue from.
#[derive(Clone, Copy, Debug)]
pub struct StateQuery<'a> {
    /// Those of this numerics class.
    pub class: &'a str,
    /// Those after a multiple of this many epochs, and the last one of the chain.
    pub every: u64,
    /// The pipeline's folder. The files that a program read before it saved the state must be as they were then.
    pub base: &'a Path,
}

/// A state about to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewState<'a> {
    /// Its place on the chain.
    pub position: Position,
    /// Its numerics class.
    pub class: &'a str,
    /// Whether it stays when a later one is stored.
    pub pinned: bool,
    /// Its tensors.
    pub tensors: &'a BTreeMap<String, Tensor>,
    /// Its files, if it is the state of a program.
    pub folder: Option<&'a FolderOnDisk>,
    /// See [`StateRecord::files_read`].
    pub files_read: &'a FilesRead,
    /// See [`StateRecord::result`].
    pub result: Option<Key>,
    /// How its tensors are written. Only states in mid-epoch, which never leave this cache, are [`Pace::Temporary`].
    pub pace: Pace,
}

impl<'a> NewState<'a> {
    /// A state that consists of tensors.
    pub fn new(position: Position, class: &'a str, pinned: bool, tensors: &'a BTreeMap<String, Tensor>) -> Self {
        static NONE: FilesRead = BTreeMap::new();
        Self { position, class, pinned, tensors, folder: None, files_read: &NONE, result: None, pace: Pace::Fast }
    }
}

impl<'a> StateQuery<'a> {
    /// Any state of this numerics class, if it has no files.
    pub fn new(class: &'a str) -> Self {
        Self { class, every: 1, base: Path::new("") }
    }

    /// Whether a state can be continued. `digest` returns the digest that a file has now.
    pub fn accepts(&self, state: &StateRecord, total: u64, digest: impl Fn(&Path) -> Option<Digest>) -> bool {
        state.class == self.class
            && (state.epoch.is_multiple_of(self.every) || state.epoch == total)
            && state.files_read.iter().all(|(name, stored)| digest(&self.base.join(name)).as_ref() == Some(stored))
    }
}

impl Store {
    /// The furthest stored state of this chain that can be continued, as far as the index knows. `states` are the keys
    /// of state(0), state(1), … state(n) as [`crate::key::Components::chain`] returns them. Partial states count by
    /// their epoch and step.
    pub fn longest_state(&self, states: &[Key], query: &StateQuery<'_>) -> Result<Option<StateRecord>> {
        self.look(|look| look.longest_state(states, query))
    }

    /// All stored states of this chain that can be continued, as far as the index knows, in the order of the chain.
    pub fn resumable_states(&self, states: &[Key], query: &StateQuery<'_>) -> Result<Vec<StateRecord>> {
        let (all, total) = (self.chain_states(states)?, states.len().saturating_sub(1) as u64);
        Ok(all.into_iter().filter(|state| query.accepts(state, total, |path| self.digest_now(path))).collect())
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

    /// The furthest readable state, with its tensors. Damaged states are forgotten and skipped.
    pub fn resume(
        &self,
        states: &[Key],
        query: &StateQuery<'_>,
    ) -> Result<Option<(StateRecord, BTreeMap<String, Tensor>)>> {
        while let Some(record) = self.longest_state(states, query)? {
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
    pub fn put_state(&self, states: &[Key], new: NewState<'_>) -> Result<StateRecord> {
        let NewState { position, class, pinned, .. } = new;
        let index = usize::try_from(position.epoch).ok().and_then(|e| e.checked_add(usize::from(position.step > 0)));
        let (Some(key), Some(towards)) = (index.and_then(|index| states.get(index)), states.last().copied()) else {
            return Err(StoreError::NotFound(format!("the chain has no state {}+{}", position.epoch, position.step)));
        };
        let _collecting = self.index.folder.collect_lock(Sharing::Shared)?;
        let pace = match new.pace {
            Pace::Temporary if position.step == 0 => Pace::Background,
            pace => pace,
        };
        let tensors = self.write_tensors(new.tensors, pace)?;
        let folder = new.folder.map(|folder| self.put_folder(folder)).transpose()?.unwrap_or_default();
        let (before, lineage) = self.index.read(|db| Ok((entries::states(db, key)?, entries::lineage(db)?)))?;
        let is_same =
            |s: &StateRecord| (s.step, s.class.as_str(), &s.files_read) == (position.step, class, new.files_read);
        let same = before.into_iter().find(is_same);
        let result = new.result.filter(|result| *result != towards);
        let owner = result.unwrap_or(towards);
        let shared = same.as_ref().is_some_and(|s| s.owner().is_some_and(|other| other != owner));
        let record = StateRecord {
            key: *key,
            towards: Some(towards),
            result,
            epoch: position.epoch,
            step: position.step,
            class: class.to_owned(),
            pinned: pinned || shared || same.is_some_and(|s| s.pinned),
            tensors,
            folder,
            files_read: new.files_read.clone(),
            saved_at: now_ms(),
            pulled: false,
            lineage,
        };
        self.index.change(|_, changes| entries::put_state(changes, &record))?;
        Ok(record)
    }

    /// A state's verified tensors.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_state(&self, record: &StateRecord) -> Result<BTreeMap<String, Tensor>> {
        record.tensors.iter().map(|(name, entry)| Ok((name.clone(), self.read_tensor(entry)?))).collect()
    }

    /// Keeps a state when a later one is stored.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn pin_state(&self, state: &StateRecord) -> Result<()> {
        self.index.change(|db, changes| {
            let stored = entries::states(db, &state.key)?.into_iter().find(|stored| stored.has_name_of(state));
            stored.map_or(Ok(()), |stored| entries::put_state(changes, &StateRecord { pinned: true, ..stored }))
        })
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
            let old = stored(old)?.filter(|s| !s.pinned && s.owner().is_none_or(|t| Some(t) == newest.owner()));
            Ok(old.filter(|_| matches!(stored(newest), Ok(Some(_)))))
        })?;
        let Some(old) = removable else { return Ok(false) };
        let removal = self.index.folder.try_collect_lock()?;
        self.index.change(|_, changes| {
            entries::remove_state(changes, &old);
            Ok(())
        })?;
        let mut superseded = self.superseded.lock().unwrap_or_else(PoisonError::into_inner);
        superseded.extend(old.blobs().map(|blob| blob.digest));
        if removal.is_some() {
            let live: BTreeSet<Digest> = self.index.wanted_blobs()?.into_iter().map(|b| b.digest).collect();
            let dead = &*superseded - &live;
            self.blobs.remove(Access::Write, |blob| dead.contains(blob))?;
            superseded.clear();
        }
        Ok(true)
    }
}
