//! Leases: one process runs a key at a time.
//!
//! A lease is a locked file that is named by the key and holds the name of its holder. The kernel frees the lock when
//! the holder dies, and the next process that asks gets it. A holder removes the file before it frees the lock, so a
//! process that gets a lock checks that its file still has that name.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::holder::Holder;
use super::lock::{self, Sharing};
use crate::key::Key;

/// How long a holder may take to write its name.
const NAMELESS: Duration = Duration::from_millis(100);

/// The answer to a request for a lease.
#[derive(Debug)]
pub enum LeaseOutcome {
    /// It is ours until it is dropped.
    Granted(Lease),
    /// Another process has it, or another thread of this one.
    HeldBy(Holder),
}

/// A key that only this process runs.
#[derive(Debug)]
pub struct Lease {
    /// Locked while it is open.
    _file: File,
    path: PathBuf,
}

impl Store {
    /// Takes the key, so that no other process runs it meanwhile. A dead process holds no key.
    pub fn lease(&self, key: &Key) -> Result<LeaseOutcome> {
        let path = self.index.folder.create("leases")?.join(key.to_string());
        let begin = Instant::now();
        loop {
            let file = lock::open(&path)?;
            if !lock::try_take(&file, &path, Sharing::Exclusive)? {
                // The holder may be about to write its name, or to remove the file.
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

    /// The process that runs this key at the moment, if any.
    pub fn lease_holder(&self, key: &Key) -> Option<Holder> {
        let path = self.leases().join(key.to_string());
        let file = disk::open_regular(OpenOptions::new().read(true), &path).ok()?;
        let is_free = lock::try_take(&file, &path, Sharing::Shared).ok()?;
        if is_free { None } else { Some(lock::read_holder(&path).unwrap_or_else(Holder::unknown)) }
    }

    /// Removes the files that dead processes left.
    pub(super) fn sweep_leases(&self) {
        for path in disk::entries(&self.leases()).unwrap_or_default() {
            // As if the lease were taken and dropped. A file that can't be removed does no harm.
            if let Ok(Some(file)) = lock::take_if_free(&path)
                && is_same(&file, &path)
            {
                drop(Lease { _file: file, path });
            }
        }
    }

    fn leases(&self) -> PathBuf {
        self.dir().join("leases")
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let named = fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let opened = file.metadata().map(|m| (m.dev(), m.ino()));
    matches!((named, opened), (Ok(named), Ok(opened)) if named == opened)
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A file that stays has no lock, so the next process takes it.
        let _ = fs::remove_file(&self.path);
    }
}
