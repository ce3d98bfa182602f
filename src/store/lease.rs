//! Leases: one process runs a key at a time.
//!
//! A lease is a locked file named by the key, with its holder's name in it. The kernel frees the lock when the holder
//! dies, and whoever asks next has it. A holder removes the file before it frees the
//! lock, so whoever gets a lock looks whether the file it locked is still the one of that name.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk;
use super::lock::{self, Sharing};
use super::{Holder, Result, Store, StoreError};
use crate::key::Key;

/// How long a holder may take to write its name.
const NAMELESS: Duration = Duration::from_millis(100);

/// What came of asking for a lease.
#[derive(Debug)]
pub enum LeaseOutcome {
    /// It is ours until it is dropped.
    Granted(Lease),
    /// Somebody else has it (another thread of this process included).
    HeldBy(Holder),
}

/// A key that nobody else runs meanwhile.
#[derive(Debug)]
pub struct Lease {
    /// Locked as long as it is open.
    _file: File,
    path: PathBuf,
}

impl Store {
    /// Takes the key, so that nobody else runs it meanwhile. A dead holder has it no more.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn lease(&self, key: &Key) -> Result<LeaseOutcome> {
        let folder = self.inner.dir.join("leases");
        if !folder.exists() {
            self.inner.prepare()?;
            fs::create_dir_all(&folder).map_err(StoreError::io("can't make", &folder))?;
        }
        let path = folder.join(key.to_string());
        let begin = Instant::now();
        loop {
            let file = lock::open(&path)?;
            if !lock::try_take(&file, &path, Sharing::Exclusive)? {
                // The holder may be just about to write its name, or to go.
                match lock::read_holder(&path) {
                    Some(holder) => return Ok(LeaseOutcome::HeldBy(holder)),
                    None if begin.elapsed() > NAMELESS => return Ok(LeaseOutcome::HeldBy(Holder::unknown())),
                    None => std::thread::sleep(Duration::from_millis(2)),
                }
            } else if is_same(&file, &path) {
                lock::write_holder(&file).map_err(StoreError::io("can't write", &path))?;
                return Ok(LeaseOutcome::Granted(Lease { _file: file, path }));
            }
        }
    }

    /// Who runs this key at the moment, if anybody.
    pub fn lease_holder(&self, key: &Key) -> Option<Holder> {
        let path = self.inner.dir.join("leases").join(key.to_string());
        let file = disk::open_regular(OpenOptions::new().read(true), &path).ok()?;
        let free = lock::try_take(&file, &path, Sharing::Shared).ok()?;
        if free { None } else { Some(lock::read_holder(&path).unwrap_or_else(Holder::unknown)) }
    }
}

impl Store {
    /// Removes the files that dead processes left.
    pub(super) fn sweep_leases(&self) {
        let Ok(entries) = fs::read_dir(self.inner.dir.join("leases")) else { return };
        for path in entries.flatten().map(|e| e.path()) {
            // As if it were taken and dropped. What can't be removed does no harm.
            let Ok(file) = lock::open(&path) else { continue };
            if matches!(lock::try_take(&file, &path, Sharing::Exclusive), Ok(true)) && is_same(&file, &path) {
                drop(Lease { _file: file, path });
            }
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let named = fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let opened = file.metadata().map(|m| (m.dev(), m.ino()));
    matches!((named, opened), (Ok(named), Ok(opened)) if named == opened)
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Left behind, it would only be an empty claim.
        let _ = fs::remove_file(&self.path);
    }
}
