//! The cache: content-addressed and rebuildable by design. The only place that names sled.
//!
//! ```text
//! DIR/FORMAT                    the layout's version, as text
//! DIR/index/                    sled: results, states, newest result per point, digests of files
//! DIR/chunks-<generation>/      sled: chunks of 64 KiB, and for each blob the list of its chunks
//! DIR/runs/<id>.json            run records (`<id>.ndjson` beside them is the runner's)
//! DIR/leases/<key>              who runs a key; held by a file lock, so that the kernel frees it when its holder dies
//! DIR/*.lock                    one per database: one process at a time, with the holder's name for those who wait
//! DIR/*-damaged-<n>/            databases that would not open, set aside and never deleted
//! ```
//!
//! What is written is written in this order, with a flush after each: chunks, the blob's list of chunks, the index's
//! entry. Nothing refers to what may be missing. Every read is verified; what is missing or has other bytes is an error
//! ([`StoreError::Damaged`]) whose victims are forgotten, so that they are made again. A database that won't open (sled
//! may return an error or panic after a hard kill) is set aside, and an empty one begun.
//!
//! No process keeps a database open while it only computes: each is opened when needed and closed after a moment
//! without use, or at once when somebody else waits for it.

mod error;
mod record;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::StoreError;
pub use record::{
    Holder, Provenance, RUN_FORMAT, ResultRecord, RunRecord, RunStatus, StageOutcome, StageRun, StatePosition,
    StateRecord, host_name, new_run_id,
};

use crate::artifact::{Artifact, BlobEntry, Manifest, Tensor, TensorEntry};
use crate::key::{Components, Digest, Key};

/// The version of the cache's layout.
pub const FORMAT: u32 = 1;

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Called when somebody else has the cache: once at the beginning of a wait that lasts longer than a moment.
pub type Waiting = Arc<dyn Fn(Option<&Holder>) + Send + Sync>;

/// How to open a cache.
#[derive(Clone)]
pub struct Options {
    /// Whether to wait while another process has a database open; else that is [`StoreError::Held`] at once.
    pub wait: bool,
    /// How long at most to wait.
    pub timeout: Duration,
    /// How long a database stays open without use.
    pub idle: Duration,
    /// Told of long waits.
    pub waiting: Option<Waiting>,
}

impl Default for Options {
    fn default() -> Self {
        Self { wait: true, timeout: Duration::from_secs(600), idle: Duration::from_millis(150), waiting: None }
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
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// A cache in this folder, which is made at the first write: one that doesn't exist reads as empty. No database is
    /// opened yet.
    ///
    /// # Errors
    /// If a later vadpipe wrote it, or there is something else at this path.
    pub fn open(dir: &Path, _options: Options) -> Result<Self> {
        Ok(Self { dir: dir.to_owned() })
    }

    /// The cache's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What happened to the cache that the user should hear of (a database set aside, results forgotten), since the
    /// last call. Each is a sentence.
    pub fn warnings(&self) -> Vec<String> {
        todo!()
    }

    /// Closes the databases now rather than after an idle moment.
    pub fn close(&self) {
        todo!()
    }

    // ---- results ----

    /// The result of this key, whether or not its bytes are still there: see [`Store::is_present`].
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn result(&self, _key: &Key) -> Result<Option<ResultRecord>> {
        todo!()
    }

    /// The results of these keys in their order; one opening for all.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn results(&self, _keys: &[Key]) -> Result<Vec<Option<ResultRecord>>> {
        todo!()
    }

    /// The result that this point of this pipeline used last: what a miss is explained with (old → new).
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn newest(&self, _pipeline: &str, _point: &str) -> Result<Option<ResultRecord>> {
        todo!()
    }

    /// Whether there is a result whose components equal these but for the digests of the inputs.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn exists_but_for_inputs(&self, _components: &Components) -> Result<bool> {
        todo!()
    }

    /// Whether, as far as the index knows, the bytes of this result are there. Opens no chunks, so it is what a plan
    /// asks. False after the chunks were set aside. A result without tensors and files is always present.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn is_present(&self, _record: &ResultRecord) -> Result<bool> {
        todo!()
    }

    /// Whether all chunks of this result exist. Opens the chunks, reads no content.
    ///
    /// # Errors
    /// If a database can't be read.
    pub fn verify_present(&self, _record: &ResultRecord) -> Result<bool> {
        todo!()
    }

    /// Stores a result. Equal blobs and chunks are stored once.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn commit(&self, _new: NewResult<'_>) -> Result<ResultRecord> {
        todo!()
    }

    /// Notes that these points used these results, so that [`Store::newest`] follows: `(point, key)`. Writes only what
    /// is not so already, in one batch.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn note_hits(&self, _pipeline: &str, _hits: &[(&str, Key)]) -> Result<()> {
        todo!()
    }

    /// Makes a result a miss, as `-f` and `-R` and a failed verification want.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn forget(&self, _key: &Key) -> Result<()> {
        todo!()
    }

    /// A tensor's verified content.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is missing or has other bytes: what relies on it is forgotten.
    pub fn read_tensor(&self, _entry: &TensorEntry) -> Result<Tensor> {
        todo!()
    }

    /// A blob's verified bytes.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_file(&self, _entry: &BlobEntry) -> Result<Vec<u8>> {
        todo!()
    }

    /// A result to be read as a stage's input.
    pub fn open_input(self: &Arc<Self>, record: &ResultRecord, label: &str) -> StoredArtifact {
        StoredArtifact { store: Arc::clone(self), label: label.to_owned(), manifest: record.manifest.clone() }
    }

    // ---- states of trainings ----

    /// The furthest stored state of this chain in this numerics class, by the index: `states` are the keys of state(0),
    /// state(1), … state(n) as [`Components::states`] gives them. A partial state counts by its epoch and step.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn longest_state(&self, _states: &[Key], _class: &str) -> Result<Option<StateRecord>> {
        todo!()
    }

    /// [`Store::longest_state`]'s position, for a plan.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn states_present(&self, states: &[Key], class: &str) -> Result<Option<StatePosition>> {
        let longest = self.longest_state(states, class)?;
        Ok(longest.map(|s| StatePosition { epoch: s.epoch, step: s.step }))
    }

    /// The furthest state that can be read, with its content: damaged ones are forgotten and passed over.
    ///
    /// # Errors
    /// If a database can't be read.
    pub fn resume(&self, _states: &[Key], _class: &str) -> Result<Option<(StateRecord, BTreeMap<String, Tensor>)>> {
        todo!()
    }

    /// Stores a state: `key` is that of state(`epoch`), `step` counts the steps done after it. A state that was pinned
    /// stays pinned. Durable when this returns.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn put_state(
        &self,
        _key: &Key,
        _position: StatePosition,
        _class: &str,
        _pinned: bool,
        _tensors: &BTreeMap<String, Tensor>,
    ) -> Result<StateRecord> {
        todo!()
    }

    /// A state's verified content.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn read_state(&self, _record: &StateRecord) -> Result<BTreeMap<String, Tensor>> {
        todo!()
    }

    /// Removes the states of this chain and class that are not pinned and lie before `newest`, which must be stored, and
    /// returns how many. The space of what nothing else uses is used again.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn remove_superseded(&self, _states: &[Key], _newest: &StateRecord) -> Result<usize> {
        todo!()
    }

    // ---- leases ----

    /// Takes the key, so that nobody else runs it meanwhile. A dead holder's lease is taken over.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn lease(&self, _key: &Key) -> Result<LeaseOutcome> {
        todo!()
    }

    // ---- runs ----

    /// Writes or replaces a run record; durable when this returns.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn write_run(&self, _record: &RunRecord) -> Result<()> {
        todo!()
    }

    /// All run records, newest last. One that can't be read is left out, with a warning.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn runs(&self) -> Result<Vec<RunRecord>> {
        todo!()
    }

    /// The run whose id begins (or ends) with this; `last` is the newest.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn run(&self, _id: &str) -> Result<RunRecord> {
        todo!()
    }

    // ---- files ----

    /// The digest of a file's content; remembered by size, modification time and inode, as git does.
    ///
    /// # Errors
    /// As reading the file. A failing index is no error: then the file is read.
    pub fn file_digest(&self, _path: &Path) -> io::Result<Digest> {
        todo!()
    }

    // ---- care ----

    /// Copies what lives into a new generation, flips the index to it and removes the old one.
    ///
    /// # Errors
    /// If the cache is in use (and we don't wait) or can't be written. Then nothing has been removed.
    pub fn gc(&self, _policy: &GcPolicy) -> Result<GcReport> {
        todo!()
    }

    /// Reads and verifies everything. With `repair`, what relies on damaged bytes is forgotten. `progress` is told how
    /// many blobs of how many are done.
    ///
    /// # Errors
    /// If a database can't be read at all.
    pub fn doctor(&self, _repair: bool, _progress: &mut dyn FnMut(u64, u64)) -> Result<DoctorReport> {
        todo!()
    }

    /// Bytes on disk of the whole cache.
    pub fn disk_bytes(&self) -> u64 {
        todo!()
    }
}

/// An artifact in the cache, read tensor by tensor.
pub struct StoredArtifact {
    store: Arc<Store>,
    label: String,
    manifest: Manifest,
}

impl StoredArtifact {
    /// The name of the point that made it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What is in it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// One tensor, verified.
    ///
    /// # Errors
    /// If there is none of this name, or it is damaged.
    pub fn tensor(&self, name: &str) -> crate::error::Result<Tensor> {
        let Some(entry) = self.manifest.tensors.get(name) else {
            return Err(StoreError::NotFound(format!("`{}` holds no tensor `{name}`", self.label)).into());
        };
        Ok(self.store.read_tensor(entry)?)
    }

    /// One file, verified.
    ///
    /// # Errors
    /// As [`StoredArtifact::tensor`].
    pub fn file(&self, name: &str) -> crate::error::Result<Vec<u8>> {
        let Some(entry) = self.manifest.files.get(name) else {
            return Err(StoreError::NotFound(format!("`{}` holds no file `{name}`", self.label)).into());
        };
        Ok(self.store.read_file(entry)?)
    }
}

/// What came of asking for a lease.
pub enum LeaseOutcome {
    /// It is ours until it is dropped.
    Granted(Lease),
    /// Somebody else has it (another thread of this process included).
    HeldBy(Holder),
}

/// A key that nobody else runs meanwhile.
pub struct Lease {
    /// A dead process that had held it.
    pub taken_over: Option<Holder>,
}

impl Lease {
    /// Shows those who wait that we are alive. The lease is ours without it, too.
    pub fn heartbeat(&self) {
        todo!()
    }
}

/// What `gc` keeps.
#[derive(Clone, Debug)]
pub struct GcPolicy {
    /// What the newest so many runs of each pipeline name (those still under way always).
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
    /// Run records removed.
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
    /// Databases that were set aside earlier and can be deleted by hand.
    pub set_aside: Vec<PathBuf>,
}

impl DoctorReport {
    /// Whether nothing is damaged.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}
