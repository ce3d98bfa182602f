//! One sled database with its journal: opened when needed, closed after an idle moment.
//!
//! Beside each database there is a lock file of ours. sled locks its own file too, but may free it only some time after
//! the database was dropped, and can't say who holds it. A process that waits for the lock leaves a `.wanted` file;
//! the holder then closes the database as soon as nothing uses it, and gives way for a moment.
//!
//! Changes go to the journal first and then to sled ([`Opened::write`]). What happens when sled fails: `recovery.rs`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::aside;
use super::engine::{Failure, Setup, failed, flush};
use super::journal::{self, Changes, Journal};
use super::lock::{self, Sharing};
use super::recovery::{self, Recovery, TemporaryCopy};
use super::{Options, Result, StoreError, disk, quiet};

/// How long whoever gave way waits before it opens the database again: several polls of a waiting process.
const GIVE_WAY: Duration = Duration::from_millis(20);

/// Where a database is, and what to do when it is created or recovered.
pub(super) trait Place {
    /// Its folder. Called with the database's lock held.
    fn path(&self) -> Result<PathBuf>;
    /// Called before a database is created in a folder that has none.
    fn create(&self) -> Result<()>;
    /// Called before the first journal of a database is written.
    fn before_journal(&self) -> Result<()>;
    /// Called after the database was opened, if entries may have been lost on the way.
    fn recovered(&self, opened: &Opened, recovery: &Recovery) -> Result<()>;
}

/// Whether changes are about to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Only look-ups. Where the database can't be written (no permission, a full disk), a temporary copy serves.
    Read,
    /// Look-ups and changes.
    Write,
    /// The same for a collection. On a full disk a temporary copy serves, but its changes go to the journal.
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
    /// Set if this is a temporary copy for reading.
    copy: Option<TemporaryCopy>,
    /// Dropped last.
    _lock: Option<File>,
}

impl Opened {
    /// The folder it is in.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Applies changes together; they are durable when this returns.
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
            // Also without changes: what depends on them must not be done either.
            (None, Some(copy)) => return Err(copy.refusal().into()),
            _ if changes.is_empty() => return Ok(()),
            (Some(journal), _) => journal,
            (None, None) => journal.insert(recovery::start_journal(&self.db, &self.path, self.setup)?),
        };
        let position = journal.append(changes, sync)?;
        recovery::apply(&self.db, &changes.iter(), position)
    }

    /// Sets an entry that is not in the journal, because it can be computed again.
    pub(super) fn remember(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        debug_assert!(key.first().is_some_and(|letter| self.setup.unjournaled.contains(letter)));
        self.db.insert(key, value)?;
        Ok(())
    }

    /// Compares the database with its journal, and returns what is wrong.
    pub(super) fn check(&self) -> Result<Vec<String>, Failure> {
        recovery::check(&self.db, &self.path, self.setup)
    }

    /// Removes entries that are not in the journal, durably.
    pub(super) fn remove_unjournaled(&self, keys: &[Vec<u8>]) -> Result<(), Failure> {
        if self.copy.is_some() {
            // They stay until there is space again.
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        keys.iter().for_each(|key| batch.remove(key.as_slice()));
        self.db.apply_batch(batch)?;
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

    /// Runs `f` on the open database. If the database fails, it is opened again and `f` runs again; if it still fails,
    /// it is rebuilt, and `f` runs a last time.
    pub(super) fn with<T>(
        &self,
        place: &dyn Place,
        access: Access,
        f: impl Fn(&Opened) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            let opened = self.enter(place, access)?;
            let result = quiet::catch(|| f(&opened)).unwrap_or_else(|panic| Err(Failure::Broken(panic)));
            let (path, identity) = (opened.path.clone(), opened.identity);
            self.leave(opened, matches!(result, Err(Failure::Broken(_) | Failure::Io(_))));
            let why = match result {
                Ok(value) => return Ok(value),
                Err(Failure::Broken(why)) => why,
                Err(other) => return Err(failed(other, &path)),
            };
            match attempt {
                0 => {}
                // Unless another thread or process has done so meanwhile.
                1 => self.alone(|| match identity_of(&path) == identity {
                    true => recovery::discard(&path, &why).map_err(|f| failed(f, &path)),
                    false => Ok(()),
                })?,
                _ => return Err(StoreError::Database { path, why }),
            }
            attempt += 1;
        }
    }

    /// Writes the journal again without what was removed, and gives back the space that sled no longer needs.
    pub(super) fn compact(&self, place: &dyn Place) -> Result<()> {
        self.alone(|| {
            let path = place.path()?;
            match is_database(&path)? {
                true => recovery::compact(&path, self.setup).map_err(|f| failed(f, &path)),
                false => Ok(()),
            }
        })
    }

    /// Repairs a database that differs from its journal: from the journal if that is whole, else the other way.
    pub(super) fn rebuild(&self, place: &dyn Place) -> Result<()> {
        self.alone(|| {
            let path = place.path()?;
            recovery::rebuild(&path, self.setup).map_err(|f| failed(f, &path))
        })
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
            slot.give_way_until = Some(Instant::now() + GIVE_WAY);
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
            let _ = disk::open_regular(File::options().create(true).truncate(true).write(true), &self.wanted);
        };
        let lock = lock::take(&self.lock, Sharing::Exclusive, &self.options, &wanted)?;
        let _ = fs::remove_file(&self.wanted);
        Ok(lock)
    }

    fn enter(&self, place: &dyn Place, access: Access) -> Result<Arc<Opened>> {
        let mut slot = loop {
            let mut slot = self.wait(self.slot(), |s| s.busy || s.draining);
            let Some(opened) = slot.open.clone() else { break slot };
            let serves = match (access, &opened.copy) {
                (_, None) | (Access::Read, _) => true,
                (Access::Write, Some(_)) => false,
                (Access::Collect, Some(copy)) => copy.is_for_collection,
            };
            if serves {
                slot.users += 1;
                return Ok(opened);
            }
            // A copy can't be written. When its readers are done, the database itself is opened.
            drop(opened);
            slot.draining = slot.users > 0;
            if slot.users == 0 {
                self.close(slot);
            }
        };
        slot.busy = true;
        let give_way = slot.give_way_until.take();
        drop(slot);
        if let Some(rest) = give_way.and_then(|until| until.checked_duration_since(Instant::now())) {
            std::thread::sleep(rest);
        }
        let opened = self.open(place, access).map(Arc::new);
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

    fn open(&self, place: &dyn Place, access: Access) -> Result<Opened> {
        let in_place = self.take_lock().and_then(|lock| self.open_in_place(lock, place));
        match (in_place, access) {
            (
                Err(refusal @ (StoreError::ReadOnly { .. } | StoreError::Full { .. })),
                Access::Read | Access::Collect,
            ) => self.open_copy(place, refusal, access),
            (other, _) => other,
        }
    }

    fn open_in_place(&self, lock: File, place: &dyn Place) -> Result<Opened> {
        let path = place.path()?;
        if !is_database(&path)? {
            place.create()?;
        }
        let open = recovery::open(&path, self.setup, &|| place.before_journal());
        let (db, journal, recovery) = open.map_err(|f| failed(f, &path))?;
        let opened = self.opened(db, journal, path, None, Some(lock));
        if recovery.has_lost_entries() {
            place.recovered(&opened, &recovery)?;
            recovery::finish(&opened.path, &recovery).map_err(|f| failed(f, &opened.path))?;
        }
        Ok(opened)
    }

    /// Opens a temporary copy of a database that can't be written. A collection keeps the lock, since it writes to the
    /// journal.
    fn open_copy(&self, place: &dyn Place, refusal: StoreError, access: Access) -> Result<Opened> {
        let path = place.path()?;
        // Where nobody may write, nobody holds the lock either.
        let lock = lock::take_existing(&self.lock, &self.options)?;
        if access == Access::Collect && lock.is_none() {
            return Err(refusal);
        }
        let open = recovery::open_copy(&path, self.setup, refusal, access == Access::Collect);
        let (db, journal, copy) = open.map_err(|f| failed(f, &path))?;
        let lock = lock.filter(|_| access == Access::Collect);
        Ok(self.opened(db, journal, path, Some(copy), lock))
    }

    fn opened(
        &self,
        db: sled::Db,
        journal: Option<Journal>,
        path: PathBuf,
        copy: Option<TemporaryCopy>,
        lock: Option<File>,
    ) -> Opened {
        let (identity, since) = (identity_of(&path), Instant::now());
        Opened { db, journal: Mutex::new(journal), setup: self.setup, path, identity, since, copy, _lock: lock }
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
}

/// Whether there is a database in this folder, or what one can be built of.
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

fn drop_opened(opened: Arc<Opened>) {
    // A database that failed may panic while it is dropped, too. There is nothing left to save then.
    let _ = quiet::catch(|| drop(opened));
}
