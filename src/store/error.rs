//! What can go wrong with the cache, and what the user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::holder::Holder;
use crate::error::{Category, Error};
use crate::key::{Digest, Key};

pub(super) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What can go wrong with the cache.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has a database open, and the options say not to wait, or the wait timed out.
    #[error("the cache is held by {}", holder.as_ref().map_or_else(|| "another process".to_owned(), Holder::describe))]
    Held {
        /// The other process, if it left its name.
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
        /// The latest format that this version knows.
        known: u32,
    },
    /// The folder holds something else, or can't be created.
    #[error("{} is not a cache: {why}", dir.display())]
    NotACache {
        /// The folder that was given.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// This process may not write there.
    #[error("the cache {} can't be written", path.display())]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk is full.
    #[error("the disk is full while writing the cache {}", path.display())]
    Full {
        /// The file or folder.
        path: PathBuf,
    },
    /// Bytes are missing or altered. The results and states that need them are misses from now on.
    #[error("{what} is damaged in the cache: {why}")]
    Damaged {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
        /// The blob.
        blob: Digest,
        /// The results and states that are misses now.
        forgotten: Vec<Key>,
    },
    /// Another operation on a file failed.
    #[error("{what}")]
    Io {
        /// The operation and its path.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// The database failed, and failed again after it was rebuilt.
    #[error("the cache's database {} failed: {why}", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// Its own error.
        why: String,
    },
    /// An artifact, a run record or a chain has no such entry, or more than one.
    #[error("{0}")]
    NotFound(String),
}

impl StoreError {
    /// For `map_err` on file operations. A full disk and a read-only folder have variants of their own.
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

    /// For `map_err` if a file can't be read. Such an error says nothing about the file's content or the free space, so
    /// it is always [`StoreError::Io`].
    pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("can't read {}", path.display());
        |source| Self::Io { what, source }
    }

    /// Whether the cache can't be written: no permission, or no space.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::ReadOnly { .. } | Self::Full { .. })
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (category, hint) = match &error {
            StoreError::Held { .. } => (Category::CacheHeld, "leave out --no-wait to wait for it"),
            StoreError::Cancelled => (Category::Interrupted, ""),
            StoreError::Newer { .. } => {
                (Category::Storage, "use the vadpipe that wrote it or a later one, or give another folder with --cache")
            }
            StoreError::NotACache { .. } => (Category::BadInput, "give another folder with --cache"),
            StoreError::ReadOnly { .. } => {
                (Category::Storage, "make the folder writable, or give another one with --cache")
            }
            StoreError::Full { .. } => (
                Category::Storage,
                "free some space (`vadpipe gc` removes what no recent run needs); finished results are kept",
            ),
            StoreError::Damaged { .. } => (Category::Storage, "run the pipeline again to rebuild what was lost"),
            StoreError::Database { .. } => (Category::Storage, "`vadpipe doctor` looks for the damage"),
            StoreError::NotFound(_) => (Category::BadInput, ""),
            StoreError::Io { .. } => (Category::Storage, ""),
        };
        let made = Self::new(category, error.to_string());
        let made = if hint.is_empty() { made } else { made.hint(hint) };
        match error {
            StoreError::ReadOnly { source, .. } | StoreError::Io { source, .. } => made.caused_by(source),
            _ => made,
        }
    }
}
