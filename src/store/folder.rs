//! The cache's folder: its file FORMAT, the locks and the reserve of space, and the warnings about it.
//!
//! FORMAT makes a folder a cache, and says which versions can read it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::disk::{self, exists, write_atomically};
use super::error::{Result, StoreError};
use super::journal::{FORMAT, Journal};
use super::lock::{self, Sharing};
use super::options::Options;

/// Bytes of the longest FORMAT.
const LONGEST: u64 = 64;
/// A file that a collection on a full disk removes, so that it can append to the journals.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 1 << 20;

/// The cache's folder.
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    warnings: Mutex<Vec<String>>,
    /// Whether FORMAT is known to be [`FORMAT`].
    is_current: AtomicBool,
}

impl Folder {
    /// A folder that is a cache that this version can read, or that may become one.
    pub(super) fn new(dir: &Path, options: Options) -> Result<Self> {
        let folder =
            Self { dir: dir.to_owned(), options, warnings: Mutex::default(), is_current: AtomicBool::new(false) };
        folder.check_format()?;
        Ok(folder)
    }

    /// Notes a warning for the user: a sentence without a full stop.
    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check_format(&self) -> Result<()> {
        let not_a_cache = |why: String| StoreError::NotACache { dir: self.dir.clone(), why };
        let path = self.dir.join("FORMAT");
        match disk::read(&path, LONGEST).map(|bytes| number(&bytes)) {
            Ok(Some(found)) if found <= FORMAT => Ok(()),
            Ok(_) if self.has_our_index() => self.restore_format("was damaged"),
            Ok(Some(found)) => Err(StoreError::Newer { dir: self.dir.clone(), found, known: FORMAT }),
            Ok(None) => Err(not_a_cache("its file FORMAT holds no number".to_owned())),
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound => match self.foreign_name()? {
                    None => Ok(()),
                    // Another process has created the cache meanwhile.
                    Some(_) if exists(&path)? => self.check_format(),
                    Some(_) if self.has_our_index() => self.restore_format("was missing"),
                    Some(name) => Err(not_a_cache(format!("it has no file FORMAT, but holds `{name}`"))),
                },
                // It is longer than any FORMAT.
                io::ErrorKind::InvalidData if self.has_our_index() => self.restore_format("was damaged"),
                io::ErrorKind::InvalidData => Err(not_a_cache("its file FORMAT holds no number".to_owned())),
                io::ErrorKind::NotADirectory => Err(not_a_cache("it is not a folder".to_owned())),
                io::ErrorKind::InvalidInput => Err(not_a_cache(format!("FORMAT: {e}"))),
                _ => Err(StoreError::io("can't read", &path)(e)),
            },
        }
    }

    /// Whether the index has a journal that this version can write, whatever FORMAT says.
    fn has_our_index(&self) -> bool {
        Journal::open(&self.dir.join("index"), false).is_ok_and(|journal| journal.is_some_and(|j| j.is_ours()))
    }

    fn restore_format(&self, what: &str) -> Result<()> {
        self.warn(format!("the file FORMAT of the cache {} {what}; it was written again", self.dir.display()));
        // A cache that can't be written is read as it is.
        self.write_format().or_else(|error| if error.is_refusal() { Ok(()) } else { Err(error) })
    }

    /// A name in the folder that a cache without FORMAT can't have. Without such a name, the folder is empty, or a
    /// process was killed while it created a cache.
    fn foreign_name(&self) -> Result<Option<String>> {
        let is_half_format = |path: &Path| match fs::symlink_metadata(path) {
            Ok(m) => m.is_file() && m.len() <= LONGEST,
            // It was renamed meanwhile.
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        let entries = disk::entries(&self.dir).map_err(StoreError::io("can't read", &self.dir))?;
        let is_ours =
            |path: &Path| (disk::is_temporary(path) && is_half_format(path)) || disk::name(path) == ".gitignore";
        Ok(entries.iter().find(|path| !is_ours(path)).map(|path| disk::name(path)))
    }

    fn write_format(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(StoreError::io("can't create the cache", &self.dir))?;
        write_atomically(&self.dir.join("FORMAT"), format!("{FORMAT}\n").as_bytes())
    }

    /// Creates the folder and its FORMAT. Called before the first write.
    pub(super) fn prepare(&self) -> Result<()> {
        if exists(&self.dir.join("FORMAT"))? { Ok(()) } else { self.write_format() }
    }

    /// A folder in the cache, which is created if there is none.
    pub(super) fn create(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if !path.exists() {
            self.prepare()?;
            fs::create_dir_all(&path).map_err(StoreError::io("can't make", &path))?;
        }
        Ok(path)
    }

    /// Raises FORMAT to ours, so that an earlier version doesn't change a database without its journal. Called before
    /// each change.
    pub(super) fn raise_format(&self) -> Result<()> {
        if self.is_current.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.prepare()?;
        let path = self.dir.join("FORMAT");
        match number(&disk::read(&path, LONGEST).map_err(StoreError::io("can't read", &path))?) {
            Some(FORMAT) => {}
            // A later version has raised it since this process opened the cache.
            Some(found) if found > FORMAT => {
                return Err(StoreError::Newer { dir: self.dir.clone(), found, known: FORMAT });
            }
            _ => self.write_format()?,
        }
        self.reserve();
        self.is_current.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `f`. If the disk is full, removes the reserve and runs `f` again.
    pub(super) fn with_reserve<T>(&self, f: impl Fn() -> Result<T>) -> Result<T> {
        match f() {
            Err(StoreError::Full { .. }) if fs::remove_file(self.dir.join(RESERVE)).is_ok() => f(),
            other => other,
        }
    }

    /// Reserves space for a collection on a full disk, if there is enough.
    pub(super) fn reserve(&self) {
        let path = self.dir.join(RESERVE);
        // In a copy of a cache, this file may be sparse.
        if fs::metadata(&path).is_ok_and(|m| m.len() == RESERVE_BYTES && m.blocks() * 512 >= RESERVE_BYTES) {
            return;
        }
        let allocate = || -> io::Result<()> {
            let file = disk::open_regular(File::options().create(true).truncate(true).write(true), &path)?;
            Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES)?)
        };
        if allocate().is_err() {
            let _ = fs::remove_file(&path);
        }
    }

    /// A lock that lets many processes write results, or one process collect.
    pub(super) fn collect_lock(&self, sharing: Sharing) -> Result<File> {
        self.prepare()?;
        lock::take(&self.dir.join("gc.lock"), sharing, &self.options, &|| {})
    }

    /// The same lock for a collection, if it is free.
    pub(super) fn try_collect_lock(&self) -> Result<Option<File>> {
        self.prepare()?;
        lock::take_if_free(&self.dir.join("gc.lock"))
    }

    /// The folder of the chunk database that the index names as current.
    pub(super) fn chunks_path(&self, generation: Option<u64>) -> Result<PathBuf> {
        if let Some(path) = generation.map(|generation| self.generation_path(generation))
            && exists(&path)?
        {
            return Ok(path);
        }
        // Blobs are named by their content, so any chunk database serves any index.
        Ok(self.generation_path(self.generations().last().copied().or(generation).unwrap_or(0)))
    }

    pub(super) fn generation_path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("chunks-{generation}"))
    }

    /// The numbers of the chunk databases, without those that were set aside.
    pub(super) fn generations(&self) -> BTreeSet<u64> {
        self.names().iter().filter_map(|n| n.strip_prefix("chunks-")?.parse().ok()).collect()
    }

    /// The databases that were set aside earlier.
    pub(super) fn set_aside(&self) -> Vec<PathBuf> {
        let is_set_aside = |name: &String| {
            name.split_once("-damaged-").is_some_and(|(database, n)| {
                let is_number = |text: &str| text.parse::<u64>().is_ok();
                (database == "index" || database.strip_prefix("chunks-").is_some_and(is_number)) && is_number(n)
            })
        };
        self.names().iter().filter(|name| is_set_aside(name)).map(|name| self.dir.join(name)).collect()
    }

    fn names(&self) -> Vec<String> {
        disk::entries(&self.dir).unwrap_or_default().iter().map(|path| disk::name(path)).collect()
    }
}

fn number(format: &[u8]) -> Option<u32> {
    String::from_utf8_lossy(format).trim().parse().ok()
}
