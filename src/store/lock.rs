//! Locks between processes: `flock` on small files that also hold their holder's name.
//!
//! The kernel frees such a lock when its holder dies, however it dies, so there are no stale locks. Two descriptors of
//! one process exclude each other as well, so the same locks serve threads.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::record::Holder;
use super::{Options, Result, StoreError, disk};

/// How often a waiting process asks.
const POLL: Duration = Duration::from_millis(5);
/// A wait that lasts longer than this is told; one of a process that was told not to wait ends here, since databases
/// are held for moments by everybody.
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

/// Opens a lock file, making it if need be, without taking the lock.
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

/// Takes the lock, waiting as the options say. `meanwhile` is called between attempts. It is free again when the file
/// is dropped.
pub(super) fn take(path: &Path, sharing: Sharing, options: &Options, meanwhile: &dyn Fn()) -> Result<File> {
    let file = open(path)?;
    wait(&file, path, sharing, options, meanwhile)?;
    if sharing == Sharing::Exclusive {
        // Only for those who wait: that it can't be written (a full disk) is no reason to fail.
        let _ = write_holder(&file);
    }
    Ok(file)
}

/// Takes the lock for us alone without writing anything; none if nobody ever took it, or if we may not read it.
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
        // A training that saves its state after an interruption may have to wait for a moment.
        if waited >= GRACE && options.cancelled.as_ref().is_some_and(|cancelled| cancelled()) {
            return Err(StoreError::Cancelled);
        }
        if waited >= GRACE && (!options.wait || waited >= options.timeout) {
            return Err(StoreError::Held { holder: read_holder(path) });
        }
        if let (false, true, Some(waiting)) = (reported, waited >= GRACE, &options.waiting) {
            reported = true;
            waiting(read_holder(path).as_ref());
            continue;
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

/// Who left its name in a lock file.
pub(super) fn read_holder(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&disk::read(path, LONGEST).ok()?).ok()
}
