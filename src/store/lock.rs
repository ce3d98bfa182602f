//! Locks between processes: `flock` on small files that also hold their holder's name.
//!
//! The kernel frees such a lock when its holder dies, however it dies, so there are no stale locks. Two descriptors of
//! one process exclude each other as well, so the same locks serve threads.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::record::Holder;
use super::{Options, Result, StoreError};

/// How often a waiting process asks.
const POLL: Duration = Duration::from_millis(5);
/// A wait that lasts longer than this is told; one of a process that was told not to wait ends here, since databases
/// are held for moments by everybody.
const GRACE: Duration = Duration::from_millis(500);

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
    options.open(path).map_err(StoreError::io("can't open", path))
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
    let begin = Instant::now();
    let mut told = false;
    while !try_take(&file, path, sharing)? {
        let waited = begin.elapsed();
        if waited >= GRACE && (!options.wait || waited >= options.timeout) {
            return Err(StoreError::Held { holder: read_holder(path) });
        }
        if let (false, true, Some(waiting)) = (told, waited >= GRACE, &options.waiting) {
            told = true;
            waiting(read_holder(path).as_ref());
        }
        meanwhile();
        std::thread::sleep(POLL);
    }
    if sharing == Sharing::Exclusive {
        // Only for those who wait: that it can't be written (a full disk) is no reason to fail.
        let _ = write_holder(&file);
    }
    Ok(file)
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
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
