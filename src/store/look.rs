//! Many look-ups with one opening: what a plan asks of the index.
//!
//! Beside each result's record there is a compact entry with just what tells a hit: 'u' ‖ key → digest ‖ lineage ‖
//! whether it relies on blobs (41 bytes instead of some thousand, and nothing to parse). The two are written and removed
//! together, and the entry is removed when the result is found damaged, so it never promises what the record doesn't hold.
//! Records of earlier versions may have no such entry. They are read themselves.

use std::path::Path;
use std::sync::Arc;

use super::database::Access;
use super::disk::exists;
use super::engine::{Failure, failed};
use super::inner::Inner;
use super::{Result, ResultRecord, StatePosition, Store, index, journal, packs};
use crate::key::{Components, Digest, Key};

/// The index, held open for some look-ups.
pub struct Look<'a> {
    /// None where there is no index yet.
    db: Option<&'a sled::Db>,
    inner: &'a Arc<Inner>,
    lineage: u64,
    /// The bytes of blobs are there.
    chunks: bool,
}

/// Why a look-up failed: for [`Store::look`], which mends what can be mended.
#[derive(Debug)]
pub struct LookError(Failure);

impl From<Failure> for LookError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl Store {
    /// Opens the index, if there is one and nobody else has it, for look-ups that are about to follow: beside other work,
    /// since to open it takes the longer the more it holds. What fails here fails again where it matters.
    pub fn open_ahead(&self) {
        if self.inner.has_index().unwrap_or(false) && self.inner.index_is_free() {
            let _ = self.look(|_| Ok(()));
        }
    }

    /// Calls `f` with the index held open. It may be called again if the index had to be mended, and must not use the store
    /// otherwise.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn look<T>(&self, f: impl Fn(&Look<'_>) -> Result<T, LookError>) -> Result<T> {
        let inner = &self.inner;
        if !inner.has_index()? {
            let nothing = Look { db: None, inner, lineage: 0, chunks: false };
            return f(&nothing).map_err(|LookError(failure)| failed(failure, &inner.dir));
        }
        let answer = inner.index(Access::Read, |opened| {
            let db = &opened.db;
            let chunks = has_bytes(&inner.chunks_path_of(index::generation(db)?)?)?;
            let look = Look { db: Some(db), inner, lineage: index::lineage(db)?, chunks };
            f(&look).map_err(|LookError(failure)| failure)
        })?;
        inner.remove_altered();
        Ok(answer)
    }
}

/// Whether there are bytes of blobs beside or, in earlier versions, in a chunk database, as far as a look at its folder tells.
fn has_bytes(path: &Path) -> Result<bool> {
    Ok(exists(&packs::folder(path))? || (exists(path)? && !exists(&path.join(journal::FILE))?))
}

impl Look<'_> {
    /// Whether there is nothing to be found.
    pub fn is_empty(&self) -> bool {
        self.db.is_none()
    }

    /// The output digest of this key's result, if its bytes are there as far as the index knows: see
    /// [`Store::is_present`].
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn hit(&self, key: &Key) -> Result<Option<Digest>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        if let Some(usable) = index::usable(db, key)?
            && (!usable.blobs || (self.chunks && usable.lineage == self.lineage))
        {
            return Ok(Some(usable.digest));
        }
        Ok(self.result(key)?.filter(|r| self.is_present(r)).map(|r| r.digest))
    }

    /// [`Store::is_present`].
    pub(super) fn is_present(&self, record: &ResultRecord) -> bool {
        let among_chunks = self.chunks && record.lineage == self.lineage;
        !record.damaged && (among_chunks || self.inner.needs_no_chunks(record))
    }

    /// The records of these keys, in their order.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn results(&self, keys: &[Key]) -> Result<Vec<Option<ResultRecord>>, LookError> {
        keys.iter().map(|key| self.result(key)).collect()
    }

    /// The record of this key. One that was altered is none, and is removed after the look-ups.
    fn result(&self, key: &Key) -> Result<Option<ResultRecord>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let record = index::result(db, key)?;
        if record.is_none() && index::is_altered(db, key)? {
            self.inner.note_altered(*key);
        }
        Ok(record)
    }

    /// The result that this point of this pipeline used last.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn newest(&self, pipeline: &str, point: &str) -> Result<Option<ResultRecord>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let Some(key) = index::newest(db, pipeline, point)? else { return Ok(None) };
        self.result(&key)
    }

    /// Whether there is a result whose components equal these but for the digests of the inputs.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn exists_but_for_inputs(&self, components: &Components) -> Result<bool, LookError> {
        self.db.map_or(Ok(false), |db| Ok(index::has_similar(db, components)?))
    }

    /// The furthest stored state of this chain in this numerics class: see [`Store::longest_state`].
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn states_present(&self, states: &[Key], class: &str) -> Result<Option<StatePosition>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let longest = super::states::longest(db, states, class)?;
        Ok(longest.map(|s| StatePosition { epoch: s.epoch, step: s.step }))
    }
}
