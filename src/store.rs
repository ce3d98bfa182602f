//! The cache: content-addressed, and rebuildable by design. The only place that names sled.
//!
//! ```text
//! DIR/FORMAT                    the layout's version, as text
//! DIR/index/journal             every change of the index: results, states, newest result per point
//! DIR/index/                    sled: the same for look-ups, and digests of files
//! DIR/small/<digest>            small files of results, each a file of its own
//! DIR/chunks-<generation>/packs/<name>   the bytes of all other blobs, in pieces
//! DIR/chunks-<generation>/journal        every change of the places of pieces, and of the list of each blob's pieces
//! DIR/chunks-<generation>/      sled: the same for look-ups; small blobs of earlier versions
//! DIR/runs/<id>.json            run records (`<id>.ndjson` beside them is the runner's)
//! DIR/leases/<key>              who runs a key; held by a file lock, so that the kernel frees it when its holder dies
//! DIR/work.lock                 shared by processes that run stages
//! DIR/*.lock                    one per database: one process at a time, with the holder's name for those who wait
//! DIR/*.wanted                  somebody waits for that lock
//! DIR/reserve                   space for a collection on a full disk
//! DIR/*-damaged-<n>/            databases that would not open, set aside and never deleted
//! ```
//!
//! Packs, small files and the journals are the cache. sled is an index of them and can be rebuilt at any time, so a kill
//! or a full disk while sled writes costs nothing. What is written is written in this order, with a sync after each: packs,
//! the journal of the places of their pieces, the journal of the index. Nothing refers to what may be missing.
//!
//! Every read is verified. What is missing or has other bytes is an error ([`StoreError::Damaged`]); what relied on it is
//! forgotten and computed again. What the system refuses to open or read is an error that changes nothing. Where the cache
//! can't be written (another user's, a full disk), look-ups use a temporary copy of a database.
//!
//! No process keeps a database open while it only computes: each is opened when needed and closed after a moment
//! without use, or at once when another process waits for it.

mod aside;
mod blobs;
mod content;
mod database;
mod disk;
mod doctor;
mod engine;
mod error;
mod files;
mod format;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod gc;
mod index;
mod inner;
mod journal;
mod lease;
mod lock;
mod look;
mod pack_writer;
mod packs;
mod places;
mod quiet;
mod record;
mod recovery;
mod restore;
mod results;
mod roots;
mod runs;
mod small;
mod states;
mod sweep;
#[cfg(test)]
mod tests;
mod tree;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::StoreError;
use inner::Inner;
pub use lease::{Lease, LeaseOutcome};
pub use look::{Look, LookError};
pub use record::{
    Holder, Provenance, RUN_FORMAT, ResultRecord, RunRecord, RunStatus, StageOutcome, StageRun, StatePosition,
    StateRecord, TrainingRate, host_name, new_run_id,
};
pub use sweep::AtWork;

use crate::artifact::Artifact;
use crate::key::Components;

/// The version of the cache's layout: 2 since large blobs are in packs, 3 since databases have journals. Caches of formats
/// 1 and 2 are read as they are, and become format 3 at the first change.
pub const FORMAT: u32 = 3;

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Called when somebody else has the cache: once at the beginning of a wait that lasts longer than a moment.
pub type Waiting = Arc<dyn Fn(Option<&Holder>) + Send + Sync>;

/// Whether the user has interrupted the program.
pub type Cancelled = Arc<dyn Fn() -> bool + Send + Sync>;

/// How to open a cache.
#[derive(Clone)]
pub struct Options {
    /// Whether to wait while another process has a database open. Everybody has one open for moments, so without
    /// waiting it is [`StoreError::Held`] after half a second.
    pub wait: bool,
    /// How long at most to wait.
    pub timeout: Duration,
    /// How long a database stays open without use.
    pub idle: Duration,
    /// Called once for each long wait.
    pub waiting: Option<Waiting>,
    /// Asked during long waits: whether to give up with [`StoreError::Cancelled`].
    pub cancelled: Option<Cancelled>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wait: true,
            timeout: Duration::from_secs(600),
            idle: Duration::from_millis(150),
            waiting: None,
            cancelled: None,
        }
    }
}

/// A result about to be stored.
pub struct NewResult<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The point's name.
    pub point: &'a str,
    /// What entered its key.
    pub components: &'a Components,
    /// What was made. Its manifest's kind is `components.kind`.
    pub artifact: &'a Artifact,
    /// How it was come by. `finished_at` is filled in if it is 0.
    pub provenance: Provenance,
}

/// A cache. Used through `&self` from any number of threads; any number of processes may have one on the same folder.
///
/// What it does stands by subject: results (`results.rs`), their bytes (`content.rs`), states of trainings (`states.rs`), leases (`lease.rs`), run
/// records (`runs.rs`), files (`files.rs`), collection (`gc.rs`) and examination (`doctor.rs`).
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// A cache in this folder, which is made at the first write: one that doesn't exist reads as empty. No database is
    /// opened yet.
    ///
    /// # Errors
    /// If a later vadpipe wrote it, or there is something else at this path.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        Ok(Self { inner: Inner::new(dir.to_owned(), options)? })
    }

    /// The cache's folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// What happened to the cache that the user should hear of (a database set aside, results lost), since the last
    /// call. Each is a sentence without a full stop.
    pub fn warnings(&self) -> Vec<String> {
        self.inner.take_warnings()
    }

    /// Closes the databases now rather than after an idle moment.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Bytes on disk of the whole cache.
    pub fn disk_bytes(&self) -> u64 {
        folder_bytes(&self.inner.dir)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.inner.close();
    }
}

/// Blocks on disk of everything below a folder; what vanishes meanwhile counts nothing.
fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => folder_bytes(&entry.path()),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// Blocks on disk of a file, or of everything in a folder.
fn path_bytes(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => folder_bytes(path),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    }
}

/// What `gc` keeps.
#[derive(Clone, Debug)]
pub struct GcPolicy {
    /// What the newest so many runs of each pipeline name (those still under way always, and the newest).
    pub keep_runs: usize,
    /// What is left in place besides: ids of runs.
    pub named: Vec<String>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What `gc` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Bytes on disk before.
    pub bytes_before: u64,
    /// Bytes on disk afterwards; an estimate for a dry run.
    pub bytes_after: u64,
    /// Results kept.
    pub results_kept: usize,
    /// Results removed.
    pub results_removed: usize,
    /// States kept.
    pub states_kept: usize,
    /// States removed.
    pub states_removed: usize,
    /// Bytes of the states kept, each blob once.
    pub states_bytes_kept: u64,
    /// Bytes that only states removed had, each blob once.
    pub states_bytes_removed: u64,
    /// Runs whose record, events and logs were removed.
    pub runs_removed: usize,
}

impl GcReport {
    /// Bytes that the disk got back.
    pub fn freed_bytes(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }
}

/// What `doctor` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoctorReport {
    /// Results looked at.
    pub results: usize,
    /// States looked at.
    pub states: usize,
    /// Blobs read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A sentence for each damaged or missing blob and each unreadable entry.
    pub problems: Vec<String>,
    /// Results and states that rely on damaged or missing bytes, as people know them (`pipeline/point`, or a state's
    /// epoch and key).
    pub affected: Vec<String>,
    /// Whether those were forgotten.
    pub repaired: bool,
    /// Databases that were set aside earlier. They can be deleted by hand once nothing can be brought back from them.
    pub set_aside: Vec<PathBuf>,
    /// Results that were found in indexes set aside earlier, whose bytes are still here: brought back by a repair.
    pub results_restored: usize,
    /// States, likewise.
    pub states_restored: usize,
}

impl DoctorReport {
    /// Whether nothing is damaged.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}
