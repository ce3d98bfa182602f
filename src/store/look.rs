//! Look-ups of a plan: many of them while the index is held open.
//!
//! Beside each result's record there is a short entry for look-ups: 'u' ‖ key → digest ‖ lineage ‖ whether it needs
//! blobs (41 bytes instead of some thousand, and nothing to parse). The two are written and removed together, and the
//! short entry is removed when the result is found damaged, so it never promises more than the record. A [`Look`] keeps
//! the entries that were read ahead when it began. Results of earlier versions may have no short entry. Then the record
//! itself is read.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::database::{Access, Opened};
use super::disk::exists;
use super::engine::{Failure, catch};
use super::entries::{self, Altered, FileRecord, FilesRead};
use super::error::Result;
use super::files::digest_now;
use super::handle::Store;
use super::index::Index;
use super::journal;
use super::pack;
use super::read_ahead::UsableResults;
use super::record::{ResultRecord, StateRecord};
use super::states::StateQuery;
use crate::key::{Components, Digest, Key, StoredResult};

/// This many records and more are read by several threads.
const MANY: usize = 512;

/// The index, held open for look-ups.
pub struct Look<'a> {
    /// `None` before the index is created.
    db: Option<&'a sled::Db>,
    store: &'a Store,
    index: &'a Index,
    /// The short entries that were read ahead.
    usable: Option<Arc<UsableResults>>,
    /// The lineage of the packs, if there are any. Determined for the first result that needs them.
    packs: OnceCell<Option<u64>>,
    /// Results whose entries were found to be altered.
    altered: RefCell<BTreeSet<Key>>,
    /// The digests of paths that look-ups have asked for.
    digests: RefCell<BTreeMap<PathBuf, Option<Digest>>>,
    /// Digests of files that were computed. They are written after the look-ups.
    computed: RefCell<Vec<(PathBuf, FileRecord)>>,
}

/// Why a look-up failed. [`Store::look`] repairs the index if it can.
#[derive(Debug)]
pub struct LookError(Failure);

impl From<Failure> for LookError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl Store {
    /// Opens the index if there is one and no other process has it, and reads ahead in it until `is_needed`. Call it in
    /// parallel with other work, before look-ups: opening takes longer the more the index holds. Errors are ignored,
    /// because the look-ups report them.
    pub fn open_ahead(&self, is_needed: &AtomicBool) {
        let index = &*self.index;
        if !index.exists().unwrap_or(false) || !index.is_free() {
            return;
        }
        let is_needed = || is_needed.load(Ordering::Relaxed);
        let _ = index.with(Access::Read, |opened| {
            // Errors are ignored here, too, because they would make `with` repair the index. A look-up repairs what it
            // needs.
            let _ = catch(|| {
                let version = opened.version();
                index.read_ahead.keep(version, UsableResults::read(&opened.db, is_needed)?);
                entries::touch_newest(&opened.db, is_needed)
            });
            Ok(())
        });
    }

    /// Calls `f` with the index held open. If the index had to be repaired, `f` is called again. It must not use the
    /// store in any other way.
    pub fn look<T>(&self, f: impl Fn(&Look<'_>) -> Result<T, LookError>) -> Result<T> {
        let index = &*self.index;
        if !index.exists()? {
            return f(&Look::new(self, None)).map_err(|LookError(failure)| failure.at(self.dir()));
        }
        let (answer, altered, computed) = index.with(Access::Read, |opened| {
            let look = Look::new(self, Some(opened));
            let answer = f(&look).map_err(|LookError(failure)| failure)?;
            Ok((answer, look.altered.into_inner(), look.computed.into_inner()))
        })?;
        index.remove_altered(&altered);
        self.remember_files(computed);
        Ok(answer)
    }

    /// The result of this key, whether or not its bytes are there: see [`Store::are_present`].
    pub fn result(&self, key: &Key) -> Result<Option<ResultRecord>> {
        self.look(|look| look.result(key))
    }

    /// The results of these keys in their order.
    pub fn results(&self, keys: &[Key]) -> Result<Vec<Option<ResultRecord>>> {
        self.look(|look| look.results(keys))
    }

    /// The newest result of this point, which explains a miss (old → new).
    pub fn newest(&self, pipeline: &str, point: &str) -> Result<Option<ResultRecord>> {
        self.look(|look| look.newest(pipeline, point))
    }

    /// Whether the bytes of these results are there, as far as the index knows. False if they were found damaged, or if
    /// the packs are gone. True for a result without tensors and files. Opens no chunk database, so it is fast.
    pub fn are_present(&self, records: &[&ResultRecord]) -> Result<Vec<bool>> {
        self.look(|look| records.iter().map(|r| look.is_present(r)).collect())
    }
}

/// Whether there are packs beside, or (in earlier versions) chunks in, a chunk database. Judges by its folder only.
fn has_packs(path: &Path) -> Result<bool> {
    Ok(exists(&pack::folder(path))? || (exists(path)? && !exists(&path.join(journal::FILE))?))
}

impl<'a> Look<'a> {
    fn new(store: &'a Store, opened: Option<&'a Opened>) -> Self {
        let index = &*store.index;
        let usable = opened.and_then(|opened| index.read_ahead.results(opened.version()));
        let db = opened.map(|opened| &opened.db);
        let (altered, digests, computed) = Default::default();
        Self { db, store, index, usable, packs: OnceCell::new(), altered, digests, computed }
    }

    /// Whether there are packs of this lineage.
    fn has_packs(&self, lineage: u64) -> Result<bool, LookError> {
        if let Some(packs) = self.packs.get() {
            return Ok(*packs == Some(lineage));
        }
        let packs = match self.db {
            Some(db) => {
                let path = self.index.folder.chunks_path(entries::generation(db)?).map_err(Failure::from)?;
                if has_packs(&path).map_err(Failure::from)? { Some(entries::lineage(db)?) } else { None }
            }
            None => None,
        };
        Ok(*self.packs.get_or_init(|| packs) == Some(lineage))
    }

    /// Whether there is no index.
    pub fn is_empty(&self) -> bool {
        self.db.is_none()
    }

    /// The output digest of this key's result, if its bytes are there: see [`Store::are_present`].
    pub fn hit(&self, key: &Key) -> Result<Option<Digest>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let usable = match self.usable.as_ref().and_then(|usable| usable.get(key)) {
            None => entries::usable(db, key)?,
            read_ahead => read_ahead,
        };
        if let Some(usable) = usable
            && (!usable.blobs || self.has_packs(usable.lineage)?)
        {
            return Ok(Some(usable.digest));
        }
        match self.result(key)? {
            Some(record) if self.is_present(&record)? => Ok(Some(record.digest)),
            _ => Ok(None),
        }
    }

    /// The result of a stage that runs a program, if its bytes are there. `declared` is the key without the files that
    /// the program read. If results with such files exist, only those count, and only if `digest` returns the stored
    /// digest for each file. If several count, the newest result of `point` in `pipeline` wins. Also returns these
    /// files.
    pub fn hit_with_files(
        &self,
        declared: &Key,
        (pipeline, point): (&str, &str),
        digest: impl Fn(&str) -> Option<Digest>,
    ) -> Result<Option<(StoredResult, FilesRead)>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let found = entries::files_read(db, declared)?;
        if found.is_empty() {
            let stored = self.hit(declared)?.map(|output| StoredResult { key: *declared, output });
            return Ok(stored.map(|stored| (stored, FilesRead::new())));
        }
        let mut hits = Vec::new();
        for (key, files) in found {
            if files.iter().all(|(name, stored)| digest(name).as_ref() == Some(stored))
                && let Some(output) = self.hit(&key)?
            {
                hits.push((StoredResult { key, output }, files));
            }
        }
        if hits.len() > 1 {
            let newest = entries::newest(db, pipeline, point)?;
            hits.sort_by_key(|(hit, _)| Some(hit.key) != newest);
        }
        Ok(hits.into_iter().next())
    }

    /// [`Store::digest_now`] during the look-ups. Computed once for each path.
    pub fn digest_now(&self, path: &Path) -> Option<Digest> {
        if let Some(known) = self.digests.borrow().get(path) {
            return *known;
        }
        let stored = |name: &[u8]| entries::file(self.db?, name).ok().flatten();
        let file_digest = |path: &Path| {
            let found = self.store.find_file_digest(path, stored)?;
            Ok(found.take(&mut self.computed.borrow_mut()))
        };
        let digest = digest_now(path, &file_digest).ok();
        self.digests.borrow_mut().insert(path.to_owned(), digest);
        digest
    }

    fn is_present(&self, record: &ResultRecord) -> Result<bool, LookError> {
        Ok(!record.damaged && (self.has_packs(record.lineage)? || self.index.needs_no_packs(record)))
    }

    /// The records of these keys, in their order.
    pub fn results(&self, keys: &[Key]) -> Result<Vec<Option<ResultRecord>>, LookError> {
        let Some(db) = self.db else { return Ok(vec![None; keys.len()]) };
        let read = |keys: &[Key]| keys.iter().map(|key| entries::result(db, key)).collect::<Result<Vec<_>, _>>();
        // Reading a record is mostly parsing.
        let found: Vec<_> = match keys.len() {
            ..MANY => vec![read(keys)?],
            _ => keys.par_chunks(MANY / 4).map(|keys| catch(|| read(keys))).collect::<Result<_, _>>()?,
        };
        let found = keys.iter().zip(found.into_iter().flatten());
        Ok(found.map(|(key, record)| self.unless_altered(key, record)).collect())
    }

    /// The record of this key. An altered one counts as missing, and is removed after the look-ups.
    fn result(&self, key: &Key) -> Result<Option<ResultRecord>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        Ok(self.unless_altered(key, entries::result(db, key)?))
    }

    fn unless_altered(&self, key: &Key, record: Option<Result<ResultRecord, Altered>>) -> Option<ResultRecord> {
        if let Some(Err(Altered)) = record {
            self.altered.borrow_mut().insert(*key);
        }
        record?.ok()
    }

    /// The newest result of this point.
    pub fn newest(&self, pipeline: &str, point: &str) -> Result<Option<ResultRecord>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let Some(key) = entries::newest(db, pipeline, point)? else { return Ok(None) };
        self.result(&key)
    }

    /// Whether there is a result whose components differ from these at most in the digests of the inputs.
    pub fn exists_but_for_inputs(&self, components: &Components) -> Result<bool, LookError> {
        self.db.map_or(Ok(false), |db| Ok(entries::has_similar(db, components)?))
    }

    /// See [`Store::longest_state`].
    pub fn longest_state(&self, states: &[Key], query: &StateQuery<'_>) -> Result<Option<StateRecord>, LookError> {
        let Some(db) = self.db else { return Ok(None) };
        let total = states.len().saturating_sub(1) as u64;
        let accepts = |state: &StateRecord| query.accepts(state, total, |path| self.digest_now(path));
        Ok(entries::longest_state(db, states, accepts)?)
    }
}
