//! One sled database: opened when needed, closed after an idle moment, set aside when it won't open.
//!
//! Beside each database stands a lock file of ours. sled locks its own file too, but may free it only some time after
//! the database was dropped, and can't say who holds it. A process that waits for the lock leaves a `.wanted` file;
//! whoever holds the database closes it then as soon as nothing uses it, and gives way for a moment.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lock::{self, Sharing};
use super::{Options, Result, StoreError, quiet};

/// How long whoever gave way waits before it opens the database again: several polls of a waiting process.
const GIVE_WAY: Duration = Duration::from_millis(20);
/// How long sled's own lock may outlive the database, or be somebody's who doesn't know of ours.
const SLED_LOCK: Duration = Duration::from_secs(5);

/// Where a database is, and what to do when it has to be given up.
pub(super) trait Place {
    /// Its folder, at this moment. Called with the database's lock held.
    fn path(&self) -> Result<PathBuf>;
    /// The database in `path` is unusable: puts it out of the way, so that [`Place::path`] names another or an empty
    /// folder. Called with the database's lock held and the database closed.
    fn replace(&self, path: &Path, why: &str) -> Result<()>;
}

/// How sled is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Bytes of a segment. Nodes of sled's tree (16 to 26 values) above a quarter of it become files of their own.
    pub(super) segment: usize,
    /// Bytes of sled's cache.
    pub(super) cache: u64,
}

/// Why an operation on an open database failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database itself is at fault: an inconsistency or a panic.
    Broken(String),
    /// The file system is at fault.
    Io(io::Error),
    /// Ours.
    Store(StoreError),
}

impl From<sled::Error> for Failure {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(e) if !damage(&e) => Self::Io(e),
            // One of sled's threads panicked, and sled refuses to work in this process. No database is at fault.
            sled::Error::ReportableBug(text) if text.contains("IO thread") => Self::Io(io::Error::other(text)),
            sled::Error::Corruption { .. } => Self::Broken("its file is corrupted".to_owned()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Errors of the file system that speak of what is in the file rather than of the disk.
fn damage(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::UnexpectedEof | K::InvalidData | K::InvalidInput | K::Other | K::NotFound)
}

/// An open database and the lock that makes it ours.
pub(super) struct Opened {
    /// The database.
    pub(super) db: sled::Db,
    path: PathBuf,
    /// Device and inode of its file.
    identity: Option<(u64, u64)>,
    since: Instant,
    /// Dropped last.
    _lock: File,
}

impl Opened {
    /// The folder it is in.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything written so far durable.
    pub(super) fn flush(&self) -> Result<(), Failure> {
        flush(&self.db, &self.path)
    }
}

#[derive(Default)]
struct Slot {
    open: Option<Arc<Opened>>,
    users: usize,
    /// Somebody is opening or closing it, or has it alone.
    busy: bool,
    /// No new users until it was closed.
    draining: bool,
    last_use: Option<Instant>,
    give_way_until: Option<Instant>,
}

/// One sled database.
pub(super) struct Database {
    lock: PathBuf,
    wanted: PathBuf,
    setup: Setup,
    options: Options,
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Database {
    /// Opens nothing yet. `name` is that of the lock file.
    pub(super) fn new(dir: &Path, name: &str, setup: Setup, options: Options) -> Self {
        Self {
            lock: dir.join(format!("{name}.lock")),
            wanted: dir.join(format!("{name}.wanted")),
            setup,
            options,
            slot: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Runs `f` on the open database. If the database is at fault it is reopened and `f` runs again; if it still is,
    /// it is replaced, and `f` runs a last time on the new one.
    pub(super) fn with<T>(&self, place: &dyn Place, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        let mut attempt = 0;
        loop {
            let opened = self.enter(place)?;
            let result = quiet::catch(|| f(&opened)).unwrap_or_else(|panic| Err(Failure::Broken(panic)));
            let (path, identity) = (opened.path.clone(), opened.identity);
            self.leave(opened, matches!(result, Err(Failure::Broken(_) | Failure::Io(_))));
            let why = match result {
                Ok(value) => return Ok(value),
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Io(e)) => return Err(StoreError::io("can't use the database", &path)(e)),
                Err(Failure::Broken(why)) => why,
            };
            match attempt {
                0 => {}
                // Unless another thread or process has done so meanwhile.
                1 => self.alone(|| if identity_of(&path) == identity { place.replace(&path, &why) } else { Ok(()) })?,
                _ => return Err(StoreError::Database { path, why }),
            }
            attempt += 1;
        }
    }

    /// Counts as a use if it is open: it is about to be used again.
    pub(super) fn touch(&self) {
        let mut slot = self.slot();
        if slot.open.is_some() {
            slot.last_use = Some(Instant::now());
        }
    }

    /// Whether it is open in this process.
    pub(super) fn is_open(&self) -> bool {
        let slot = self.slot();
        slot.open.is_some() || slot.busy
    }

    /// Closes it if nothing has used it for so long, or if somebody else waits for it.
    pub(super) fn close_if_idle(&self, idle: Duration) {
        let mut slot = self.slot();
        let Some(opened) = &slot.open else { return };
        let wanted = self.wanted.exists();
        if wanted && slot.users > 0 && opened.since.elapsed() > Duration::from_millis(100) {
            slot.draining = true;
        }
        let quiet = slot.last_use.is_none_or(|t| t.elapsed() >= idle);
        if slot.users > 0 || slot.busy || !(wanted || quiet) {
            return;
        }
        if wanted {
            let _ = fs::remove_file(&self.wanted);
            slot.give_way_until = Some(Instant::now() + GIVE_WAY);
        }
        self.close(slot);
    }

    /// Closes it once nobody uses it any more.
    pub(super) fn close_now(&self) {
        let slot = self.wait(self.slot(), |s| s.busy || s.users > 0);
        self.close(slot);
    }

    /// Waits until nobody uses it, closes it, and runs `f` with its lock held: for work on its folder.
    pub(super) fn alone<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut slot = self.slot();
        slot.draining = true;
        let mut slot = self.wait(slot, |s| s.busy || s.users > 0);
        slot.busy = true;
        let opened = slot.open.take();
        drop(slot);
        opened.into_iter().for_each(drop_opened);
        let result = self.take_lock().and_then(|lock| {
            let result = f();
            drop(lock);
            result
        });
        self.settle();
        result
    }

    /// Opens the database in this folder apart from the one that is shared; the caller sees to it that it is alone.
    pub(super) fn open_apart(&self, path: &Path) -> Result<sled::Db, Failure> {
        open_sled(path, self.setup)
    }

    /// Opens a database that failed, as far as it goes: without its snapshots, if need be, so that sled reads its log
    /// again up to the first flaw. The snapshots stay, in a folder of their own.
    pub(super) fn open_failed(&self, path: &Path) -> Result<sled::Db, Failure> {
        self.open_apart(path).or_else(|failure| {
            if !matches!(failure, Failure::Broken(_)) {
                return Err(failure);
            }
            let aside = path.join("snapshots");
            fs::create_dir_all(&aside).map_err(Failure::Io)?;
            for entry in fs::read_dir(path).map_err(Failure::Io)?.flatten() {
                let name = entry.file_name();
                if name.to_string_lossy().starts_with("snap.") {
                    fs::rename(entry.path(), aside.join(name)).map_err(Failure::Io)?;
                }
            }
            self.open_apart(path)
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, slot: MutexGuard<'a, Slot>, while_: impl Fn(&Slot) -> bool) -> MutexGuard<'a, Slot> {
        self.changed.wait_while(slot, |s| while_(s)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a time of being busy.
    fn settle(&self) {
        let mut slot = self.slot();
        slot.busy = false;
        slot.draining = false;
        drop(slot);
        self.changed.notify_all();
    }

    fn take_lock(&self) -> Result<File> {
        let wanted = || {
            let _ = File::create(&self.wanted);
        };
        let lock = lock::take(&self.lock, Sharing::Exclusive, &self.options, &wanted)?;
        let _ = fs::remove_file(&self.wanted);
        Ok(lock)
    }

    fn enter(&self, place: &dyn Place) -> Result<Arc<Opened>> {
        let mut slot = self.wait(self.slot(), |s| s.busy || s.draining);
        if let Some(opened) = slot.open.clone() {
            slot.users += 1;
            return Ok(opened);
        }
        slot.busy = true;
        let give_way = slot.give_way_until.take();
        drop(slot);
        if let Some(rest) = give_way.and_then(|until| until.checked_duration_since(Instant::now())) {
            std::thread::sleep(rest);
        }
        let opened = self.take_lock().and_then(|lock| self.open_or_replace(lock, place)).map(Arc::new);
        let mut slot = self.slot();
        slot.busy = false;
        if let Ok(opened) = &opened {
            slot.open = Some(opened.clone());
            slot.users += 1;
            slot.last_use = Some(Instant::now());
        }
        drop(slot);
        self.changed.notify_all();
        opened
    }

    fn leave(&self, opened: Arc<Opened>, broken: bool) {
        drop(opened);
        let mut slot = self.slot();
        slot.users -= 1;
        slot.last_use = Some(Instant::now());
        // sled refuses everything after an error: whoever comes next gets it opened anew.
        slot.draining |= broken;
        if slot.draining && slot.users == 0 && !slot.busy {
            self.close(slot);
        } else {
            drop(slot);
            self.changed.notify_all();
        }
    }

    /// Closes it outside of the slot's lock; others wait meanwhile.
    fn close(&self, mut slot: MutexGuard<'_, Slot>) {
        let Some(opened) = slot.open.take() else {
            slot.draining = false;
            drop(slot);
            self.changed.notify_all();
            return;
        };
        slot.busy = true;
        drop(slot);
        drop_opened(opened);
        self.settle();
    }

    fn open_or_replace(&self, lock: File, place: &dyn Place) -> Result<Opened> {
        let mut replaced = false;
        loop {
            let path = place.path()?;
            match open_sled(&path, self.setup) {
                Ok(db) => {
                    let identity = identity_of(&path);
                    return Ok(Opened { db, path, identity, since: Instant::now(), _lock: lock });
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Io(e)) => return Err(StoreError::io("can't open the database", &path)(e)),
                Err(Failure::Broken(why)) if replaced => return Err(StoreError::Database { path, why }),
                Err(Failure::Broken(why)) => place.replace(&path, &why)?,
            }
            replaced = true;
        }
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path.join("db")).ok().map(|m| (m.dev(), m.ino()))
}

fn drop_opened(opened: Arc<Opened>) {
    // A database that failed may panic while it is dropped, too. There is nothing left to save then.
    let _ = quiet::catch(|| drop(opened));
}

/// Opens sled, waiting for its own lock, which may outlive a database that was just dropped.
fn open_sled(path: &Path, setup: Setup) -> Result<sled::Db, Failure> {
    let begin = Instant::now();
    loop {
        let config = sled::Config::new().path(path).cache_capacity(setup.cache).segment_size(setup.segment);
        let opened = quiet::catch(|| config.flush_every_ms(None).open());
        match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
                if begin.elapsed() > SLED_LOCK {
                    return Err(StoreError::Held { holder: None }.into());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(Err(e)) => return Err(e.into()),
            Err(panic) => return Err(Failure::Broken(panic)),
        }
    }
}

/// Makes everything written so far durable. sled's flush alone is no barrier against a power loss, and never syncs the
/// files that it makes for large nodes.
pub(super) fn flush(db: &sled::Db, path: &Path) -> Result<(), Failure> {
    db.flush()?;
    File::open(path.join("db")).and_then(|f| f.sync_all()).map_err(Failure::Io)?;
    let blobs = path.join("blobs");
    let Ok(entries) = fs::read_dir(&blobs) else { return Ok(()) };
    let mut any = false;
    for entry in entries.flatten() {
        any = true;
        // sled may remove one at any moment; then it is not needed.
        let _ = File::open(entry.path()).and_then(|f| f.sync_all());
    }
    if any {
        File::open(&blobs).and_then(|f| f.sync_all()).map_err(Failure::Io)?;
    }
    Ok(())
}

/// Renames a folder to `<name>-damaged-<n>`, the first that is free, and returns the new path.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut n = 1;
    loop {
        let aside = path.with_file_name(format!("{name}-damaged-{n}"));
        if !aside.exists() {
            let folder = path.parent().unwrap_or(Path::new("."));
            let renamed = fs::rename(path, &aside).and_then(|()| File::open(folder)?.sync_all());
            renamed.map_err(StoreError::io("can't set aside", path))?;
            return Ok(aside);
        }
        n += 1;
    }
}
