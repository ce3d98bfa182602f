//! `Store`: the handle that the rest of the crate uses.
//!
//! Its methods are in files by subject: look-ups (`look.rs`), results (`results.rs`), states of trainings
//! (`states.rs`), leases (`lease.rs`), run records (`runs.rs`), digests of files (`files.rs`), collection (`gc.rs`),
//! checks (`doctor.rs`) and exchange with a remote store (`transfer.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::blobs::Blobs;
use super::clones::Clones;
use super::disk;
use super::entries::FileRecord;
use super::error::Result;
use super::folder::Folder;
use super::index::Index;
use super::options::Options;
use crate::key::Digest;

/// A cache. Any number of threads may use it through `&self`, and any number of processes may open the same folder.
///
/// # Errors
/// Every method fails if the cache can't be read, and a method that changes something fails if the cache can't be
/// written. Methods with other errors say so.
pub struct Store {
    pub(super) index: Arc<Index>,
    pub(super) blobs: Blobs,
    /// Files whose digest is known.
    pub(super) files: Mutex<BTreeMap<PathBuf, FileRecord>>,
    pub(super) clones: Clones,
    /// Blobs of superseded states that could not be removed yet, because others were storing something.
    pub(super) superseded: Mutex<BTreeSet<Digest>>,
}

impl Store {
    /// A cache in this folder, which is created at the first write. A cache that doesn't exist reads as empty. No
    /// database is opened yet.
    ///
    /// # Errors
    /// If a later vadpipe wrote it, or if something else is at this path.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let index = Arc::new(Index::new(Arc::new(Folder::new(dir, options)?)));
        let (blobs, files, clones) = (Blobs::new(index.clone()), Mutex::default(), Clones::default());
        Ok(Self { index, blobs, files, clones, superseded: Mutex::default() })
    }

    /// The cache's folder.
    pub fn dir(&self) -> &Path {
        &self.index.folder.dir
    }

    /// Warnings for the user since the last call: a database was set aside, results were lost. Each is a sentence
    /// without a full stop.
    pub fn warnings(&self) -> Vec<String> {
        self.index.folder.take_warnings()
    }

    /// Closes the databases now rather than after an idle moment.
    pub fn close(&self) {
        self.blobs.database.close();
        self.index.database.close();
    }

    /// Closes the databases of a process that is about to exit. An unchanged one stays locked until then.
    pub(crate) fn leave(&self) {
        self.blobs.database.leave();
        self.index.database.leave();
    }

    /// Bytes that the whole cache takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        disk::bytes_below(self.dir())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}
