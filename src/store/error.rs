//! What can go wrong with the cache, and what the user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::record::Holder;
use crate::error::{Category, Error};
use crate::key::{Digest, Key};

/// What can go wrong with the cache.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has a database open, and we were told not to wait (or waited long enough).
    #[error("the cache is held by {}", holder.as_ref().map_or_else(|| "another process".to_owned(), Holder::describe))]
    Held {
        /// Who, if it left its name.
        holder: Option<Holder>,
    },
    /// The user interrupted the wait for another process.
    #[error("interrupted while waiting for the cache")]
    Cancelled,
    /// A later vadpipe wrote this cache.
    #[error("the cache {} has format {found}; this vadpipe reads formats up to {known}", dir.display())]
    Newer {
        /// The cache.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The latest that we know.
        known: u32,
    },
    /// The folder holds something else, or can't be made one.
    #[error("{} is not a cache: {why}", dir.display())]
    NotACache {
        /// What was given.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// We may not write there.
    #[error("the cache {} can't be written", path.display())]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full.
    #[error("the disk is full while writing the cache {}", path.display())]
    Full {
        /// The file or folder.
        path: PathBuf,
    },
    /// Bytes are missing or not what they were. What relied on them has been forgotten and will be made again.
    #[error("{what} is damaged in the cache: {why}")]
    Damaged {
        /// What was asked for.
        what: String,
        /// Missing, or other bytes.
        why: String,
        /// The blob.
        blob: Digest,
        /// The results and states that are misses now.
        forgotten: Vec<Key>,
    },
    /// Another operation on a file failed.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The database failed in a way that a retry did not mend.
    #[error("the cache's database {} failed: {why}", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// No such thing in the artifact or in the run records, or more than one.
    #[error("{0}")]
    NotFound(String),
}

impl StoreError {
    /// For `map_err` on file operations: a full disk and a read-only folder are told apart from the rest.
    pub(super) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { path }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, source },
            _ => Self::Io { what, source },
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let category = match &error {
            StoreError::Held { .. } => Category::CacheHeld,
            StoreError::Cancelled => Category::Interrupted,
            StoreError::NotACache { .. } | StoreError::NotFound(_) => Category::BadInput,
            _ => Category::Storage,
        };
        let hint = match &error {
            StoreError::Held { .. } => Some("leave out --no-wait to wait for it".to_owned()),
            StoreError::Newer { .. } => {
                Some("use the vadpipe that wrote it or a later one, or give another folder with --cache".to_owned())
            }
            StoreError::NotACache { .. } => Some("give another folder with --cache".to_owned()),
            StoreError::ReadOnly { .. } => {
                Some("make the folder writable, or give another one with --cache".to_owned())
            }
            StoreError::Full { .. } => Some(
                "free some space (`vadpipe gc` removes what no recent run needs); what was finished is kept".to_owned(),
            ),
            StoreError::Damaged { .. } => Some("run the pipeline again: what was lost is made anew".to_owned()),
            StoreError::Database { .. } => Some("`vadpipe doctor` looks for the damage".to_owned()),
            StoreError::Io { .. } | StoreError::NotFound(_) | StoreError::Cancelled => None,
        };
        let made = Self::new(category, error.to_string());
        let made = match hint {
            Some(hint) => made.hint(hint),
            None => made,
        };
        match error {
            StoreError::ReadOnly { source, .. } | StoreError::Io { source, .. } => made.caused_by(source),
            _ => made,
        }
    }
}
