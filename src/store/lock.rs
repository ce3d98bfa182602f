//! Locks between processes: `flock` on small files that hold the name of their holder.
//!
//! The kernel frees such a lock when its holder dies, so no lock is ever stale. Two descriptors of one process exclude
//! each other as well, so the same locks serve threads.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::disk;
use super::error::{Result, StoreError};
use super::holder::Holder;
use super::options::Options;

/// How often a waiting process polls.
const POLL: Duration = Duration::from_millis(5);
/// A wait that lasts longer than this is reported. If the options say not to wait, it ends here: processes hold a
/// database only for moments.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes of the longest name of a holder.
const LONGEST: u64 = 4096;

/// Whether others may have the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Any number of these.
    Shared,
    /// Only one of these, and no other.
    Exclusive,
}

/// Opens a lock file without taking the lock. It is created if there is none.
pub(super) fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    disk::open_regular(&options, path).map_err(StoreError::io("can't open", path))
}

/// Takes the lock if it is free.
pub(super) fn try_take(file: &File, path: &Path, sharing: Sharing) -> Result<bool> {
    let taken = match sharing {
        Sharing::Shared => file.try_lock_shared(),
        Sharing::Exclusive => file.try_lock(),
    };
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(StoreError::io("can't lock", path)(source)),
    }
}

/// Takes the lock if it is free; `None` if it is not.
pub(super) fn take_if_free(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    Ok(try_take(&file, path, Sharing::Exclusive)?.then_some(file))
}

/// Takes the lock, waiting as the options say. `meanwhile` is called between attempts. The lock is free again when the
/// file is dropped.
pub(super) fn take(path: &Path, sharing: Sharing, options: &Options, meanwhile: &dyn Fn()) -> Result<File> {
    let file = open(path)?;
    wait(&file, path, sharing, options, meanwhile)?;
    if sharing == Sharing::Exclusive {
        // Others only read it to say who holds the lock, so a full disk is no reason to fail.
        let _ = write_holder(&file);
    }
    Ok(file)
}

/// Takes the lock exclusively without writing anything; `None` if nobody ever took it, or if we may not read it.
pub(super) fn take_existing(path: &Path, options: &Options) -> Result<Option<File>> {
    let file = match disk::open_regular(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(None),
        Err(e) => return Err(StoreError::io("can't open", path)(e)),
    };
    wait(&file, path, Sharing::Exclusive, options, &|| {})?;
    Ok(Some(file))
}

fn wait(file: &File, path: &Path, sharing: Sharing, options: &Options, meanwhile: &dyn Fn()) -> Result<()> {
    let begin = Instant::now();
    let mut reported = false;
    while !try_take(file, path, sharing)? {
        let waited = begin.elapsed();
        if waited >= GRACE {
            // Not before: an interrupted training that saves its state may have to wait for a moment.
            if options.cancelled.as_ref().is_some_and(|cancelled| cancelled()) {
                return Err(StoreError::Cancelled);
            }
            if !options.wait || waited >= options.timeout {
                return Err(StoreError::Held { holder: read_holder(path) });
            }
            if let (false, Some(waiting)) = (reported, &options.waiting) {
                waiting(read_holder(path).as_ref());
            }
            reported = true;
        }
        meanwhile();
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Leaves our name in a lock file that we hold.
pub(super) fn write_holder(mut file: &File) -> std::io::Result<()> {
    let text = serde_json::to_string(&Holder::this_process())?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// The holder that left its name in a lock file.
pub(super) fn read_holder(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&disk::read(path, LONGEST).ok()?).ok()
}
