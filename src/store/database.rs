//! One sled database with its journal: opened when needed, closed after an idle moment.
//!
//! Beside each database there is a lock file of ours. sled locks its own file too, but may free that lock some time
//! after the database is dropped, and can't say which process holds it. A process that waits for the lock leaves a
//! `.wanted` file. The holder then closes the database as soon as no thread uses it, and waits a moment before it opens
//! it again.
//!
//! Changes go to the journal first and then to sled ([`Opened::write`]). For what happens when sled fails, see
//! `recovery.rs`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::aside;
use super::disk;
use super::engine::{Failure, Setup, catch, flush};
use super::error::{Result, StoreError};
use super::folder::Folder;
use super::journal::{self, Changes, Journal};
use super::lock::{self, Sharing};
use super::recovery::{self, Recovery, TemporaryCopy};

/// How often an open database is checked for being idle or wanted.
const TICK: Duration = Duration::from_millis(10);
/// How long a process that gave way waits before it opens the database again: several polls of a waiting process.
const GIVE_WAY: Duration = Duration::from_millis(20);
/// How long a database that another process wants may be in use before new uses have to wait.
const FAIR_USE: Duration = Duration::from_millis(100);

/// The last version of an open database.
static LAST_VERSION: AtomicU64 = AtomicU64::new(0);

/// A version that no open database has had.
fn new_version() -> u64 {
    LAST_VERSION.fetch_add(1, Ordering::Relaxed) + 1
}

/// Where a database is, and what happens when it is created or recovered.
pub(super) trait Host {
    /// The database's folder. Called with its lock held.
    fn path(&self) -> Result<PathBuf>;
    /// Called before a database is created in a folder that has none.
    fn create(&self) -> Result<()> {
        Ok(())
    }
    /// Called after the database is opened, if entries may have been lost.
    fn recovered(&self, opened: &Opened, recovery: &Recovery) -> Result<()>;
}

/// What a database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Look-ups only. If the database can't be written (no permission, a full disk), a temporary copy is used.
    Read,
    /// Look-ups and changes.
    Write,
    /// The same for a collection. On a full disk a temporary copy is used, but its changes go to the journal.
    Collect,
}

/// An open database and the lock that makes it ours.
pub(super) struct Opened {
    /// The database. Changes go through [`Opened::write`].
    pub(super) db: sled::Db,
    /// None until the first change, in a database of an earlier version.
    journal: Mutex<Option<Journal>>,
    setup: Setup,
    path: PathBuf,
    /// Device and inode of its file.
    identity: Option<(u64, u64)>,
    since: Instant,
    /// See [`Opened::version`].
    version: AtomicU64,
    has_changed: AtomicBool,
    /// sled refuses everything after an error, so the database is opened again for the next user.
    has_failed: AtomicBool,
    /// Set if this is a temporary copy.
    copy: Option<TemporaryCopy>,
    /// Dropped last.
    _lock: Option<File>,
}

impl Opened {
    /// The database's folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A number that is another one after each change. No two open databases have the same.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Applies changes together. They are durable when this returns.
    pub(super) fn write(&self, changes: &Changes) -> Result<(), Failure> {
        self.append(changes, true)
    }

    /// Applies changes together without waiting for the disk.
    pub(super) fn write_soon(&self, changes: &Changes) -> Result<(), Failure> {
        self.append(changes, false)
    }

    fn append(&self, changes: &Changes, sync: bool) -> Result<(), Failure> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let journal = match (&mut *journal, &self.copy) {
            // This fails even without changes, so that the caller does not take its next step.
            (None, Some(copy)) => return Err(copy.refusal().into()),
            _ if changes.is_empty() => return Ok(()),
            (Some(journal), _) => journal,
            (None, None) => {
                let started = recovery::start_journal(&self.db, &self.path, self.setup);
                self.note_change();
                journal.insert(started?)
            }
        };
        // If sled lacks an earlier change, its position must not pass that change.
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(Failure::Broken("an earlier change failed".to_owned()));
        }
        let position = journal.append(changes, sync)?;
        let applied = catch(|| recovery::apply(&self.db, &changes.iter(), position));
        self.note_change();
        self.has_failed.fetch_or(applied.is_err(), Ordering::Relaxed);
        applied
    }

    /// Sets an entry that is not in the journal, because it can be computed again.
    pub(super) fn remember(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        debug_assert!(key.first().is_some_and(|letter| self.setup.unjournaled.contains(letter)));
        let inserted = self.db.insert(key, value);
        self.note_change();
        inserted?;
        Ok(())
    }

    /// Compares the database with its journal. Returns the differences.
    pub(super) fn check(&self) -> Result<Vec<String>, Failure> {
        recovery::check(&self.db, &self.path, self.setup)
    }

    /// Removes entries that are not in the journal, durably. In a temporary copy, nothing is removed: the next
    /// collection does it.
    pub(super) fn remove_unjournaled(&self, keys: &[Vec<u8>]) -> Result<(), Failure> {
        if self.copy.is_some() || keys.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        keys.iter().for_each(|key| batch.remove(key.as_slice()));
        let applied = self.db.apply_batch(batch);
        self.note_change();
        applied?;
        flush(&self.db, &self.path)
    }

    /// Call it after each change of sled.
    fn note_change(&self) {
        self.has_changed.store(true, Ordering::Relaxed);
        self.version.store(new_version(), Ordering::Release);
    }

    fn serves(&self, access: Access) -> bool {
        let is_fit = match (access, &self.copy) {
            (_, None) | (Access::Read, _) => true,
            (Access::Write, Some(_)) => false,
            (Access::Collect, Some(copy)) => copy.is_for_collection,
        };
        is_fit && !self.has_failed.load(Ordering::Relaxed)
    }
}

/// One sled database.
pub(super) struct Database {
    lock: PathBuf,
    wanted: PathBuf,
    setup: Setup,
    folder: Arc<Folder>,
    /// Users hold it for reading. Opening, closing and work on the database's folder hold it for writing.
    opened: RwLock<Option<Opened>>,
    last_use: Mutex<Instant>,
    give_way_until: Mutex<Option<Instant>>,
    /// Whether a thread will close the database.
    has_closer: AtomicBool,
}

impl Database {
    /// Opens nothing yet. The lock file is `{name}.lock`.
    pub(super) fn new(folder: Arc<Folder>, name: &str, setup: Setup) -> Arc<Self> {
        Arc::new(Self {
            lock: folder.dir.join(format!("{name}.lock")),
            wanted: folder.dir.join(format!("{name}.wanted")),
            setup,
            folder,
            opened: RwLock::default(),
            last_use: Mutex::new(Instant::now()),
            give_way_until: Mutex::default(),
            has_closer: AtomicBool::new(false),
        })
    }

    /// Runs `f` on the open database. If the database fails, it is opened again and `f` runs again. If it still fails,
    /// it is rebuilt, and `f` runs a last time. `f` must not use the database in any other way.
    pub(super) fn with<T>(
        self: &Arc<Self>,
        host: &dyn Host,
        access: Access,
        f: impl Fn(&Opened) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            let (result, path, identity) = self.enter(host, access, |opened| {
                let result = catch(|| f(opened));
                let has_failed = matches!(result, Err(Failure::Broken(_) | Failure::Io(_)));
                opened.has_failed.fetch_or(has_failed, Ordering::Relaxed);
                (result, opened.path.clone(), opened.identity)
            })?;
            self.touch();
            if !self.has_closer.load(Ordering::Relaxed) {
                self.close();
            }
            let why = match result {
                Ok(value) => return Ok(value),
                Err(Failure::Broken(why)) => why,
                Err(other) => return Err(other.at(&path)),
            };
            match attempt {
                0 => {}
                // Unless another thread or process has rebuilt it meanwhile.
                1 => self.alone(|| match identity_of(&path) == identity {
                    true => recovery::discard(&path, &why).map_err(|f| f.at(&path)),
                    false => Ok(()),
                })?,
                _ => return Err(StoreError::Database { path, why }),
            }
            attempt += 1;
        }
    }

    /// Writes the journal again without the removed entries, and frees the space that sled no longer needs.
    pub(super) fn compact(&self, host: &dyn Host) -> Result<()> {
        self.alone(|| {
            let path = host.path()?;
            match is_database(&path)? {
                true => recovery::compact(&path, self.setup).map_err(|f| f.at(&path)),
                false => Ok(()),
            }
        })
    }

    /// Repairs a database that differs from its journal.
    pub(super) fn rebuild(&self, host: &dyn Host) -> Result<()> {
        self.alone(|| {
            let path = host.path()?;
            recovery::rebuild(&path, self.setup).map_err(|f| f.at(&path))
        })
    }

    /// Counts as a use, to keep an open database open for another moment.
    pub(super) fn touch(&self) {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Closes the database when its present users are done.
    pub(super) fn close(&self) {
        aside::close(self.write().take());
    }

    /// Leaves an unchanged database to the kernel, which closes it faster when the process ends. A changed one is
    /// closed, so that sled writes its changes.
    pub(super) fn leave(&self) {
        match self.write().take() {
            Some(opened) if opened.copy.is_none() && !opened.has_changed.load(Ordering::Relaxed) => {
                std::mem::forget(opened);
            }
            other => aside::close(other),
        }
    }

    /// Closes the database and runs `f` with its lock held, for work on its folder.
    fn alone<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut opened = self.write();
        aside::close(opened.take());
        let _lock = self.take_lock()?;
        f()
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Opened>> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Opened>> {
        self.opened.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_lock(&self) -> Result<File> {
        let wanted = || {
            let _ = disk::open_regular(File::options().create(true).truncate(true).write(true), &self.wanted);
        };
        let lock = lock::take(&self.lock, Sharing::Exclusive, &self.folder.options, &wanted)?;
        let _ = fs::remove_file(&self.wanted);
        Ok(lock)
    }

    /// Calls `f` with the database, which is opened if need be.
    fn enter<T>(self: &Arc<Self>, host: &dyn Host, access: Access, f: impl Fn(&Opened) -> T) -> Result<T> {
        loop {
            if let Some(opened) = self.read().as_ref().filter(|opened| opened.serves(access)) {
                return Ok(f(opened));
            }
            let mut slot = self.write();
            if slot.as_ref().is_some_and(|opened| opened.serves(access)) {
                continue;
            }
            aside::close(slot.take());
            let give_way = self.give_way_until.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(rest) = give_way.and_then(|until| until.checked_duration_since(Instant::now())) {
                std::thread::sleep(rest);
            }
            *slot = Some(self.open(host, access)?);
            self.touch();
            self.start_closer();
        }
    }

    fn open(&self, host: &dyn Host, access: Access) -> Result<Opened> {
        match self.take_lock().and_then(|lock| self.open_in_place(lock, host)) {
            Err(refusal) if refusal.is_refusal() && access != Access::Write => self.open_copy(host, refusal, access),
            other => other,
        }
    }

    fn open_in_place(&self, lock: File, host: &dyn Host) -> Result<Opened> {
        let path = host.path()?;
        if !is_database(&path)? {
            host.create()?;
        }
        let open = recovery::open(&path, self.setup, &|| self.folder.raise_format());
        let (db, journal, recovery) = open.map_err(|f| f.at(&path))?;
        let opened = self.opened(db, journal, path, None, Some(lock));
        if recovery.was_behind || recovery.has_lost_entries() {
            opened.note_change();
        }
        if recovery.has_lost_entries() {
            catch(|| Ok(host.recovered(&opened, &recovery)?)).map_err(|f| f.at(&opened.path))?;
            recovery::finish(&opened.path, &recovery).map_err(|f| f.at(&opened.path))?;
        }
        Ok(opened)
    }

    /// Opens a temporary copy of a database that can't be written. A collection keeps the lock, because it writes to
    /// the journal.
    fn open_copy(&self, host: &dyn Host, refusal: StoreError, access: Access) -> Result<Opened> {
        let path = host.path()?;
        let is_collection = access == Access::Collect;
        // Where no process may write, none holds the lock either.
        let lock = lock::take_existing(&self.lock, &self.folder.options)?;
        if is_collection && lock.is_none() {
            return Err(refusal);
        }
        let open = recovery::open_copy(&path, self.setup, refusal, is_collection);
        let (db, journal, copy) = open.map_err(|f| f.at(&path))?;
        Ok(self.opened(db, journal, path, Some(copy), lock.filter(|_| is_collection)))
    }

    fn opened(
        &self,
        db: sled::Db,
        journal: Option<Journal>,
        path: PathBuf,
        copy: Option<TemporaryCopy>,
        lock: Option<File>,
    ) -> Opened {
        Opened {
            db,
            version: new_version().into(),
            has_changed: AtomicBool::new(false),
            journal: Mutex::new(journal),
            setup: self.setup,
            identity: identity_of(&path),
            path,
            since: Instant::now(),
            has_failed: AtomicBool::new(false),
            copy,
            _lock: lock,
        }
    }

    /// Starts a thread that closes the database. Called while it is held for writing.
    fn start_closer(self: &Arc<Self>) {
        if self.has_closer.swap(true, Ordering::Relaxed) {
            return;
        }
        let database = self.clone();
        let spawned =
            std::thread::Builder::new().name("vadpipe-store".to_owned()).spawn(move || database.close_when_idle());
        // Without a thread, the first user closes it.
        self.has_closer.store(spawned.is_ok(), Ordering::Relaxed);
    }

    /// Waits until the database is unused for a moment, or until another process wants it, and closes it.
    fn close_when_idle(&self) {
        loop {
            std::thread::sleep(TICK);
            let is_wanted = self.wanted.exists();
            let since = self.opened.try_read().ok().and_then(|opened| opened.as_ref().map(|o| o.since));
            let slot = match since {
                // This makes new users wait.
                Some(since) if is_wanted && since.elapsed() > FAIR_USE => Some(self.write()),
                _ => self.opened.try_write().ok(),
            };
            let Some(mut slot) = slot else { continue };
            let last_use = *self.last_use.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_some() && !is_wanted && last_use.elapsed() < self.folder.options.idle {
                continue;
            }
            if slot.is_some() && is_wanted {
                let _ = fs::remove_file(&self.wanted);
                *self.give_way_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + GIVE_WAY);
            }
            aside::close(slot.take());
            self.has_closer.store(false, Ordering::Relaxed);
            return;
        }
    }
}

/// Whether there is a database in this folder, or files to build one from.
pub(super) fn is_database(path: &Path) -> Result<bool> {
    for name in [journal::FILE, "db", aside::MOVING, aside::SAVING] {
        if disk::exists(&path.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path.join("db")).ok().map(|m| (m.dev(), m.ino()))
}
