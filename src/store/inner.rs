//! What the parts of the store share: its folder, its two databases, and how they are opened and closed. How one that is
//! damaged is replaced: `rescue.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::blobs::{self, BlobKey};
use super::database::{Database, Failure, Opened};
use super::index::{self, FileRecord};
use super::lock::{self, Sharing};
use super::record::BlobEntries;
use super::rescue::{ChunksPlace, IndexPlace, SAVED_INDEX};
use super::{FORMAT, Options, Result, ResultRecord, StoreError, packs, small};
use crate::key::{Digest, Key};

/// How often the closer looks at open databases.
const TICK: Duration = Duration::from_millis(10);
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) index: Database,
    pub(super) chunks: Database,
    warnings: Mutex<Vec<String>>,
    /// Whether FORMAT is known to hold ours.
    current: AtomicBool,
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
            current: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            files: Mutex::default(),
        };
        inner.check_format()?;
        Ok(Arc::new(inner))
    }

    fn check_format(&self) -> Result<()> {
        let not_a_cache = |why: &str| StoreError::NotACache { dir: self.dir.clone(), why: why.to_owned() };
        let path = self.dir.join("FORMAT");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(found) if found > FORMAT => Err(StoreError::Newer { dir: self.dir.clone(), found, known: FORMAT }),
                Ok(_) => Ok(()),
                Err(_) => Err(not_a_cache("its file FORMAT holds no number")),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(not_a_cache("it is no folder")),
            Err(e) => Err(StoreError::io("can't read", &path)(e)),
        }
    }

    /// Makes the folder and its FORMAT, before the first write.
    pub(super) fn prepare(&self) -> Result<()> {
        let path = self.dir.join("FORMAT");
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).map_err(StoreError::io("can't make the cache", &self.dir))?;
        write_atomically(&path, format!("{FORMAT}\n").as_bytes())
    }

    /// Says in FORMAT that there may be packs, which an earlier vadpipe would not find: before the first is written.
    pub(super) fn raise_format(&self) -> Result<()> {
        if self.current.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.prepare()?;
        let path = self.dir.join("FORMAT");
        let ours = format!("{FORMAT}\n");
        if fs::read_to_string(&path).map_err(StoreError::io("can't read", &path))? != ours {
            write_atomically(&path, ours.as_bytes())?;
        }
        self.current.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// [`Inner::raise_format`] if some of these blobs belong in packs.
    pub(super) fn raise_format_for(&self, blobs: &BTreeSet<BlobKey>) -> Result<()> {
        if blobs.iter().any(|b| packs::is_packed(b.1)) { self.raise_format() } else { Ok(()) }
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

    /// Writes to the index, which is made if need be.
    pub(super) fn index<T>(self: &Arc<Self>, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.prepare()?;
        let result = self.index.with(&IndexPlace(self), f);
        self.start_closer();
        result
    }

    /// Reads the index; where there is none, that is the default.
    pub(super) fn read_index<T: Default>(self: &Arc<Self>, f: impl Fn(&sled::Db) -> Result<T, Failure>) -> Result<T> {
        if !self.has_index()? {
            return Ok(T::default());
        }
        self.index(|o| f(&o.db))
    }

    /// Whether there is an index, be it one that was saved from a damaged one and is not yet in its place.
    pub(super) fn has_index(&self) -> Result<bool> {
        Ok(is_there(&self.dir.join("index"))? || is_there(&self.dir.join(SAVED_INDEX))?)
    }

    /// Writes to the index in one piece, durably.
    pub(super) fn change_index(
        self: &Arc<Self>,
        f: impl Fn(&sled::Db, &mut sled::Batch) -> Result<(), Failure>,
    ) -> Result<()> {
        self.index(|o| {
            let mut batch = sled::Batch::default();
            f(&o.db, &mut batch)?;
            o.db.apply_batch(batch)?;
            o.flush()
        })
    }

    /// Uses the chunks, which are made if need be.
    pub(super) fn chunks<T>(self: &Arc<Self>, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.prepare()?;
        let result = self.chunks.with(&ChunksPlace(self), f);
        self.start_closer();
        result
    }

    /// Keeps an open index open for another moment (unless somebody waits for it): a write that takes its time ends there.
    pub(super) fn touch_index(&self) {
        self.index.touch();
    }

    /// Closes the chunks and works on their folder, which nobody else has meanwhile: `f` gets its path.
    pub(super) fn chunks_alone<T>(self: &Arc<Self>, f: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let path = || self.chunks_path();
        let result = self.chunks.alone(|| f(&path()?));
        self.start_closer();
        result
    }

    /// Opens a chunk database by its folder; only within [`Inner::chunks_alone`].
    pub(super) fn open_chunks(&self, path: &Path) -> Result<sled::Db> {
        self.chunks.open_apart(path).map_err(|f| failed(f, path))
    }

    /// The folder of the current chunk database.
    pub(super) fn chunks_path(self: &Arc<Self>) -> Result<PathBuf> {
        let generation = self.read_index(index::generation)?;
        // A new index goes on with the chunks that are there: they are named by content.
        let generation = generation.unwrap_or_else(|| self.generations().last().copied().unwrap_or(0));
        Ok(self.generation_path(generation))
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

    /// A number that no chunk database has or had.
    pub(super) fn next_generation(&self) -> u64 {
        let names = self.names();
        let numbers = names.iter().filter_map(|n| n.strip_prefix("chunks-")?.split('-').next()?.parse::<u64>().ok());
        numbers.max().map_or(0, |n| n + 1)
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
        File::open(&path).is_ok_and(free)
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
            self.close();
        }
    }
}

/// "1 result or state", "2 results or states".
pub(super) fn things(n: usize) -> String {
    format!("{n} {}", if n == 1 { "result or state" } else { "results or states" })
}

/// A failure outside of [`Database::with`].
pub(super) fn failed(failure: Failure, path: &Path) -> StoreError {
    match failure {
        Failure::Store(error) => error,
        Failure::Io(e) => StoreError::io("can't use the database", path)(e),
        Failure::Broken(why) => StoreError::Database { path: path.to_owned(), why },
    }
}

/// Whether there is something at this path. Where that can't be told (a folder that may not be read, say), it is an error:
/// what is taken for gone is made again.
pub(super) fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| StoreError::Io { what: format!("can't read {}", path.display()), source })
}

/// Writes a file so that it is there as a whole or not at all.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(StoreError::io("can't write", path))
}
