//! The cache: content-addressed, and rebuildable by design. The only module that names sled.
//!
//! ```text
//! DIR/FORMAT                    the layout's version, as text
//! DIR/index/journal             every change of the index: results, states, newest result per point
//! DIR/index/                    sled: the same for look-ups, and digests of files
//! DIR/small/<digest>            small files of results, each a file of its own
//! DIR/chunks-<generation>/packs/<name>   the bytes of all other blobs, in pieces
//! DIR/chunks-<generation>/journal        every change of the pieces' locations, and of each blob's list of pieces
//! DIR/chunks-<generation>/      sled: the same for look-ups; blobs of earlier versions
//! DIR/runs/<id>.json            run records (`<id>.ndjson` beside them is the runner's)
//! DIR/verdicts/<key>.json       what `verify` found about a state or a result
//! DIR/checkpoints/<key>/        what an unfinished program has saved (the runner's)
//! DIR/leases/<key>              which process runs a key; a file lock, which the kernel frees when its holder dies
//! DIR/work.lock                 shared by processes that run stages
//! DIR/*.lock                    one per database: one process at a time, with the holder's name for those who wait
//! DIR/*.wanted                  another process waits for that lock
//! DIR/reserve                   space for a collection on a full disk
//! DIR/*-damaged-<n>/            databases that failed to open, set aside and never deleted
//! ```
//!
//! Packs, small files and the journals are the cache. sled is an index of them and can be rebuilt at any time, so a
//! kill or a full disk while sled writes costs nothing. Writes go in this order, with a sync after each: packs, the
//! chunk database's journal, the index's journal. So no entry refers to bytes or entries that may be missing.
//!
//! Every read is verified. Missing or altered bytes are an error ([`StoreError::Damaged`]); the results that need them
//! are forgotten and computed again. If the system refuses to open or read a file, the operation fails and changes
//! nothing. If the cache can't be written (another user's, a full disk), look-ups use a temporary copy of a database.
//!
//! No process keeps a database open while it only computes. Each is opened when needed and closed after an idle moment,
//! or at once when another process waits for it.
//!
//! The files are in layers, lowest first. Each uses only files above it in this list.

// Values and files.
mod holder;
mod error;
mod record;
mod options;
mod direct;
mod disk;
mod lock;
mod tree;
// A database: a journal, and sled as an index of it.
mod journal;
mod engine;
mod aside;
mod recovery;
mod folder;
mod database;
// Packs, and the database of their pieces.
mod pack;
mod pack_writer;
mod pieces;
mod old_chunks;
// The index, and all blobs.
mod small_files;
mod entries;
mod read_ahead;
mod index;
mod blobs;
// The handle and its operations.
mod handle;
mod files;
mod lease;
mod look;
mod results;
mod accept;
mod runs;
mod states;
mod clones;
mod state_files;
mod verdicts;
// A reader that takes no lock.
mod blob_reader;
mod followed;
mod notes;
mod run_folder;
mod reader;
// Maintenance of the whole cache.

mod roots;
mod sweep;
mod gc;
mod restore;
mod doctor;
// Exchange with other stores.
mod transfer;

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
#[cfg(test)]
pub(crate) mod tests;

pub use blob_reader::BlobReader;
pub use doctor::DoctorReport;
pub use engine::silence_caught_panics;
pub use entries::FilesRead;
pub use error::StoreError;
pub use files::digest_now;
pub use gc::{GcPolicy, GcReport};
pub use handle::Store;
pub use holder::{Holder, host_name, new_run_id};
pub use journal::FORMAT;
pub use lease::{Lease, LeaseOutcome};
pub use look::{Look, LookError};
pub use notes::{Note, Notes};
pub use options::{Cancelled, Options, Waiting};
pub use pack_writer::{NotReceived, Pace};
pub use reader::{CacheReader, Refreshed};
pub use record::{
    Accepted, Commit, Provenance, RUN_FORMAT, ResultRecord, RunLabel, RunRecord, StageRun, StateRecord, TrainingRate,
};
pub use results::NewResult;
pub use run_folder::{RunFile, RunFolder};
pub use state_files::create_below;
pub use states::{NewState, StateQuery};
pub use sweep::AtWork;
pub use transfer::Import;
pub use verdicts::{Difference, EpochRange, Finding, Part, Verdict, Verdicts};
