//! The index: the database with the entries of `entries.rs`, and what happens when blobs are lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::database::{Access, Database, Host, Opened, is_database};
use super::disk::{self, exists};
use super::engine::Failure;
use super::entries;
use super::error::{Result, StoreError};
use super::folder::Folder;
use super::journal::Changes;
use super::lock::{self, Sharing};
use super::read_ahead::ReadAhead;
use super::record::ResultRecord;
use super::recovery::Recovery;
use super::small_files::SmallFiles;
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};

/// Versions before format 3 saved the readable entries of a damaged index here, and then renamed it.
const SAVED_INDEX: &str = "index-saved";

/// The index of a cache.
pub(super) struct Index {
    pub(super) folder: Arc<Folder>,
    pub(super) small: SmallFiles,
    pub(super) database: Arc<Database>,
    pub(super) read_ahead: ReadAhead,
}

impl Host for Index {
    fn path(&self) -> Result<PathBuf> {
        let (path, saved) = (self.folder.dir.join("index"), self.folder.dir.join(SAVED_INDEX));
        if !exists(&path)? && exists(&saved)? {
            match disk::rename(&saved, &path) {
                // It is read where it is.
                Err(error) if error.is_refusal() => return Ok(saved),
                other => other?,
            }
        }
        Ok(path)
    }

    fn recovered(&self, opened: &Opened, recovery: &Recovery) -> Result<()> {
        self.folder.warn(recovery.describe(opened.path()));
        Ok(())
    }
}

impl Index {
    pub(super) fn new(folder: Arc<Folder>) -> Self {
        let database = Database::new(folder.clone(), "index", entries::SETUP);
        Self { small: SmallFiles::new(&folder.dir), folder, database, read_ahead: ReadAhead::default() }
    }

    pub(super) fn exists(&self) -> Result<bool> {
        Ok(is_database(&self.folder.dir.join("index"))? || exists(&self.folder.dir.join(SAVED_INDEX))?)
    }

    /// Whether no other process has the index at this moment.
    pub(super) fn is_free(&self) -> bool {
        let path = self.folder.dir.join("index.lock");
        let is_free = |file: File| lock::try_take(&file, &path, Sharing::Shared).unwrap_or(false);
        disk::open_regular(File::options().read(true), &path).is_ok_and(is_free)
    }

    /// Uses the index, which exists or is about to be written.
    pub(super) fn with<T>(&self, access: Access, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.database.with(self, access, f)
    }

    /// Reads the index. If there is none, the answer is the default.
    pub(super) fn read<T: Default>(&self, f: impl Fn(&sled::Db) -> Result<T, Failure>) -> Result<T> {
        if !self.exists()? {
            return Ok(T::default());
        }
        self.with(Access::Read, |o| f(&o.db))
    }

    /// Applies changes to the index together, durably. It is created if there is none.
    pub(super) fn change<T>(&self, f: impl Fn(&sled::Db, &mut Changes) -> Result<T, Failure>) -> Result<T> {
        self.change_for(Access::Write, f)
    }

    /// As [`Index::change`]. On a full disk, [`Access::Collect`] writes to the journal only.
    pub(super) fn change_for<T>(
        &self,
        access: Access,
        f: impl Fn(&sled::Db, &mut Changes) -> Result<T, Failure>,
    ) -> Result<T> {
        self.folder.raise_format()?;
        self.with(access, |o| {
            let mut changes = Changes::default();
            let answer = f(&o.db, &mut changes)?;
            o.write(&changes)?;
            Ok(answer)
        })
    }

    /// The folder of the current chunk database.
    pub(super) fn chunks_path(&self) -> Result<PathBuf> {
        self.folder.chunks_path(self.read(entries::generation)?)
    }

    /// Raises the lineage: results and states that need packs are misses from now on, because all packs are gone.
    pub(super) fn raise_lineage(&self) -> Result<()> {
        self.change(|db, changes| {
            let last = || self.folder.generations().last().copied().unwrap_or(0);
            let generation = entries::generation(db)?.unwrap_or_else(last);
            entries::set_chunks(changes, generation, entries::lineage(db)? + 1);
            Ok(())
        })
    }

    /// Removes the entries of results that were found to be altered, so that the results are computed again.
    pub(super) fn remove_altered(&self, altered: &BTreeSet<Key>) {
        if altered.is_empty() {
            return;
        }
        let count = count_affected(altered.len());
        self.folder.warn(format!("{count} were altered in the index and will be computed again"));
        // If the index can't be written, the entries are refused at each look-up.
        let _ = self.change(|_, changes| {
            altered.iter().for_each(|key| entries::remove_refused(changes, &[b"r", key.0.as_slice()].concat()));
            Ok(())
        });
    }

    /// Marks the results that need these blobs as damaged, removes the states that need them, and returns the keys of
    /// both.
    pub(super) fn lose(&self, lost: &BTreeSet<Digest>) -> Result<Vec<Key>> {
        self.change(|db, changes| {
            let mut keys = BTreeSet::new();
            let is_lost = |blob: BlobEntry| lost.contains(&blob.digest);
            for mut record in entries::all_results(db)?.0 {
                if record.blobs().any(is_lost) {
                    record.damaged = true;
                    entries::put_result(changes, &record)?;
                    keys.insert(record.key);
                }
            }
            for record in entries::all_states(db)?.0 {
                if record.blobs().any(is_lost) {
                    entries::remove_state(changes, &record);
                    keys.insert(record.key);
                }
            }
            Ok(keys.into_iter().collect())
        })
    }

    /// Whether all blobs of a result are small files (or it has none), so that it doesn't need the packs.
    pub(super) fn needs_no_packs(&self, record: &ResultRecord) -> bool {
        record.blobs().all(|blob| self.small.has(&blob))
    }

    /// The blobs in packs that results and states need, without those that are known to be lost.
    pub(super) fn wanted_blobs(&self) -> Result<BTreeSet<BlobEntry>> {
        self.read(|db| {
            let lineage = entries::lineage(db)?;
            let mut wanted = BTreeSet::new();
            for record in entries::all_results(db)?.0.iter().filter(|r| r.lineage == lineage && !r.damaged) {
                wanted.extend(record.blobs());
            }
            for record in entries::all_states(db)?.0.iter().filter(|s| s.lineage == lineage) {
                wanted.extend(record.blobs());
            }
            wanted.retain(|blob| !self.small.has(blob));
            Ok(wanted)
        })
    }

    /// Warns about lost blobs and makes all results and states that need them misses. Returns the error for `blob`.
    pub(super) fn damaged(&self, blob: &Digest, why: String, lost: &BTreeSet<Digest>) -> StoreError {
        let what = format!("blob {}", blob.short());
        match self.lose(lost) {
            Ok(forgotten) => {
                let count = count_affected(forgotten.len());
                self.folder.warn(format!("{what} is damaged: {why}; relied on by {count}"));
                StoreError::Damaged { what, why, blob: *blob, forgotten }
            }
            Err(error) => error,
        }
    }
}

/// "1 result or state", "2 results or states".
pub(super) fn count_affected(n: usize) -> String {
    format!("{n} {}", if n == 1 { "result or state" } else { "results or states" })
}
