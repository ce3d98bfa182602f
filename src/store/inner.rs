//! What the parts of the store share: its folder, its two databases, and how they are opened and closed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::blobs::{self, BlobKey};
use super::database::{Access, Database, Opened, is_database};
use super::disk::{self, exists};
use super::engine::Failure;
use super::index::{self, FileRecord};
use super::journal::Changes;
use super::lock::{self, Sharing};
use super::places::{ChunksPlace, IndexPlace, SAVED_INDEX};
use super::record::BlobEntries;
use super::{Options, Result, ResultRecord, StoreError, small};
use crate::key::{Digest, Key};

/// How often the closer looks at open databases.
const TICK: Duration = Duration::from_millis(10);
/// A file that a collection on a full disk removes, so that it can append to the journals.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 1 << 20;

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) index: Database,
    pub(super) chunks: Database,
    warnings: Mutex<Vec<String>>,
    /// Results whose entries were found to be altered.
    altered: Mutex<BTreeSet<Key>>,
    /// Whether FORMAT is known to hold ours.
    pub(super) current: AtomicBool,
    closing: AtomicBool,
    /// Files whose digest is known, with a `FileRecord` as in the index.
    pub(super) files: Mutex<BTreeMap<PathBuf, FileRecord>>,
}

impl Inner {
    pub(super) fn new(dir: PathBuf, options: Options) -> Result<Arc<Self>> {
        let inner = Self {
            index: Database::new(&dir, "index", index::SETUP, options.clone()),
            chunks: Database::new(&dir, "chunks", blobs::SETUP, options.clone()),
            options,
            dir,
            warnings: Mutex::default(),
            altered: Mutex::default(),
            current: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            files: Mutex::default(),
        };
        inner.check_format()?;
        Ok(Arc::new(inner))
    }

    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the index; where there is none, the answer is the default.
    pub(super) fn read_index<T: Default>(self: &Arc<Self>, f: impl Fn(&sled::Db) -> Result<T, Failure>) -> Result<T> {
        if !self.has_index()? {
            return Ok(T::default());
        }
        self.index(Access::Read, |o| f(&o.db))
    }

    /// Whether there is an index, be it one that an earlier version saved and did not put in its place.
    pub(super) fn has_index(&self) -> Result<bool> {
        Ok(is_database(&self.dir.join("index"))? || exists(&self.dir.join(SAVED_INDEX))?)
    }

    /// Changes the index in one piece, durably. It is created if there is none.
    pub(super) fn change_index(
        self: &Arc<Self>,
        f: impl Fn(&sled::Db, &mut Changes) -> Result<(), Failure>,
    ) -> Result<()> {
        self.raise_format()?;
        self.write_index(Access::Write, f)
    }

    /// [`Inner::change_index`] for a collection: on a full disk only the journal is written.
    pub(super) fn collect_index(
        self: &Arc<Self>,
        f: impl Fn(&sled::Db, &mut Changes) -> Result<(), Failure>,
    ) -> Result<()> {
        self.write_index(Access::Collect, f)
    }

    fn write_index(
        self: &Arc<Self>,
        access: Access,
        f: impl Fn(&sled::Db, &mut Changes) -> Result<(), Failure>,
    ) -> Result<()> {
        self.index(access, |o| {
            let mut changes = Changes::default();
            f(&o.db, &mut changes)?;
            o.write(&changes)
        })
    }

    /// Uses the index, which exists or is about to be written.
    pub(super) fn index<T>(self: &Arc<Self>, access: Access, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        let result = self.index.with(&IndexPlace(self), access, f);
        self.start_closer();
        result
    }

    /// Reads the chunk database, which must exist.
    pub(super) fn read_chunks<T>(self: &Arc<Self>, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.chunks(Access::Read, f)
    }

    /// Changes the chunk database, which is created if there is none.
    pub(super) fn change_chunks<T>(self: &Arc<Self>, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.raise_format()?;
        self.chunks(Access::Write, f)
    }

    /// [`Inner::change_chunks`] for a collection: on a full disk only the journal is written.
    pub(super) fn collect_chunks<T>(self: &Arc<Self>, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.chunks(Access::Collect, f)
    }

    fn chunks<T>(self: &Arc<Self>, access: Access, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        let result = self.chunks.with(&ChunksPlace(self), access, f);
        self.start_closer();
        result
    }

    /// Runs `f`, and once more without the reserve if the disk is full.
    pub(super) fn with_reserve<T>(&self, f: impl Fn() -> Result<T>) -> Result<T> {
        match f() {
            Err(StoreError::Full { .. }) if fs::remove_file(self.dir.join(RESERVE)).is_ok() => f(),
            other => other,
        }
    }

    /// Holds some space back for a collection on a full disk, if there is some.
    pub(super) fn reserve(&self) {
        let path = self.dir.join(RESERVE);
        // A copy of a cache may have a hole in its place.
        if fs::metadata(&path).is_ok_and(|m| m.len() == RESERVE_BYTES && m.blocks() * 512 >= RESERVE_BYTES) {
            return;
        }
        let allocate = || -> io::Result<()> {
            let file = disk::open_regular(File::options().create(true).truncate(true).write(true), &path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES)?;
            Ok(())
        };
        if allocate().is_err() {
            let _ = fs::remove_file(&path);
        }
    }

    /// Whether there is a chunk database.
    pub(super) fn has_chunks(self: &Arc<Self>) -> Result<bool> {
        is_database(&self.chunks_path()?)
    }

    /// Gives back the space that the databases no longer need.
    pub(super) fn compact(self: &Arc<Self>) -> Result<()> {
        self.chunks.compact(&ChunksPlace(self))?;
        let compacted = self.index.compact(&IndexPlace(self));
        self.start_closer();
        compacted
    }

    /// Repairs databases that differ from their journals.
    pub(super) fn rebuild(self: &Arc<Self>) -> Result<()> {
        self.raise_format()?;
        if self.has_chunks()? {
            self.chunks.rebuild(&ChunksPlace(self))?;
        }
        self.index.rebuild(&IndexPlace(self))
    }

    /// Keeps an open index open for another moment (unless somebody waits for it): a write that takes its time ends there.
    pub(super) fn touch_index(&self) {
        self.index.touch();
    }

    /// The folder of the current chunk database.
    pub(super) fn chunks_path(self: &Arc<Self>) -> Result<PathBuf> {
        self.chunks_path_of(self.read_index(index::generation)?)
    }

    /// The folder of the chunk database that the index names as current.
    pub(super) fn chunks_path_of(&self, generation: Option<u64>) -> Result<PathBuf> {
        if let Some(path) = generation.map(|generation| self.generation_path(generation))
            && exists(&path)?
        {
            return Ok(path);
        }
        // Blobs are named by their content, so the chunks that are there serve whatever index there is.
        Ok(self.generation_path(self.generations().last().copied().or(generation).unwrap_or(0)))
    }

    pub(super) fn generation_path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("chunks-{generation}"))
    }

    /// The numbers of the chunk databases that are there, ascending, without those set aside.
    pub(super) fn generations(&self) -> BTreeSet<u64> {
        let names = self.names();
        names.iter().filter_map(|n| n.strip_prefix("chunks-")?.parse().ok()).collect()
    }

    /// The names in the cache's folder.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return BTreeSet::new() };
        entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// A lock that lets many write results while nobody collects, or one collect. Free when dropped.
    pub(super) fn collect_lock(&self, sharing: Sharing) -> Result<File> {
        self.prepare()?;
        lock::take(&self.dir.join("gc.lock"), sharing, &self.options, &|| {})
    }

    /// The same, if it is to be had at once.
    pub(super) fn try_collect_lock(&self) -> Result<Option<File>> {
        self.prepare()?;
        let path = self.dir.join("gc.lock");
        let file = lock::open(&path)?;
        Ok(lock::try_take(&file, &path, Sharing::Exclusive)?.then_some(file))
    }

    /// Notes that the entry of a result was altered.
    pub(super) fn note_altered(&self, key: Key) {
        self.altered.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Removes the entries that were found to be altered, so that their results are computed again.
    pub(super) fn remove_altered(self: &Arc<Self>) {
        let altered = std::mem::take(&mut *self.altered.lock().unwrap_or_else(PoisonError::into_inner));
        if altered.is_empty() {
            return;
        }
        self.warn(format!("{} were altered in the index and will be computed again", things(altered.len())));
        // Where the index can't be written, they are refused each time.
        let _ = self.change_index(|_, changes| {
            altered.iter().for_each(|key| index::remove_refused(changes, &[b"r", key.0.as_slice()].concat()));
            Ok(())
        });
    }

    /// Marks the results that rely on these blobs as damaged, forgets the states that do, and returns their keys.
    pub(super) fn lose(self: &Arc<Self>, lost: &BTreeSet<Digest>) -> Result<Vec<Key>> {
        let keys = Mutex::new(BTreeSet::new());
        self.change_index(|db, batch| {
            let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            let relies = |blobs: Vec<crate::artifact::BlobEntry>| blobs.iter().any(|b| lost.contains(&b.digest));
            for mut record in index::all_results(db)?.0 {
                if relies(record.blobs()) {
                    record.damaged = true;
                    index::put_result(batch, &record)?;
                    keys.insert(record.key);
                }
            }
            for record in index::all_states(db)?.0 {
                if relies(record.blobs()) {
                    index::remove_state(batch, &record);
                    keys.insert(record.key);
                }
            }
            Ok(())
        })?;
        let keys = keys.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.into_iter().collect())
    }

    /// Whether all that a result is made of stands in files of its own (or it is made of nothing), whatever becomes of the
    /// chunks.
    pub(super) fn needs_no_chunks(&self, record: &ResultRecord) -> bool {
        record.blobs().iter().all(|b| small::has(&self.dir, b.digest, b.size))
    }

    /// All blobs among the chunks that results and states rely on, leaving out what is known to be lost.
    pub(super) fn wanted_blobs(self: &Arc<Self>) -> Result<BTreeSet<BlobKey>> {
        self.read_index(|db| {
            let lineage = index::lineage(db)?;
            let results = index::all_results(db)?.0.into_iter();
            let results = results.filter(|r| r.lineage == lineage && !r.damaged).flat_map(|r| r.blobs());
            let states = index::all_states(db)?.0.into_iter();
            let states = states.filter(|s| s.lineage == lineage).flat_map(|s| s.blobs());
            let chunked = results.chain(states).filter(|b| !small::has(&self.dir, b.digest, b.size));
            Ok(chunked.map(BlobKey::from).collect())
        })
    }

    /// Whether no other process has the index at this moment.
    pub(super) fn index_is_free(&self) -> bool {
        let path = self.dir.join("index.lock");
        let free = |file: File| lock::try_take(&file, &path, Sharing::Shared).unwrap_or(false);
        disk::open_regular(File::options().read(true), &path).is_ok_and(free)
    }

    /// Closes both databases once they are not in use.
    pub(super) fn close(&self) {
        self.chunks.close_now();
        self.index.close_now();
    }

    /// A thread that closes idle databases; it lives while one is open.
    fn start_closer(self: &Arc<Self>) {
        if self.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        let weak = Arc::downgrade(self);
        let spawned = std::thread::Builder::new().name("vadpipe-store".to_owned()).spawn(move || {
            while let Some(inner) = weak.upgrade() {
                let mut open = false;
                for database in [&inner.chunks, &inner.index] {
                    database.close_if_idle(inner.options.idle);
                    open |= database.is_open();
                }
                if !open {
                    inner.closing.store(false, Ordering::SeqCst);
                    // One that was opened since the look would find no closer.
                    let reopened = inner.chunks.is_open() || inner.index.is_open();
                    if !reopened || inner.closing.swap(true, Ordering::SeqCst) {
                        return;
                    }
                }
                drop(inner);
                std::thread::sleep(TICK);
            }
        });
        if spawned.is_err() {
            // No thread to be had: then they are closed at once.
            self.closing.store(false, Ordering::SeqCst);
            // One that is being opened by this thread can't be waited for.
            self.chunks.close_if_idle(Duration::ZERO);
            self.index.close_if_idle(Duration::ZERO);
        }
    }
}

/// "1 result or state", "2 results or states".
pub(super) fn things(n: usize) -> String {
    format!("{n} {}", if n == 1 { "result or state" } else { "results or states" })
}
