//! The interface to a store that other machines reach: a directory on a network file system, or an object store.
//!
//! A remote store holds records under names such as `result/<key>`, and blobs under their digests. Objects never
//! change. Blobs are written before the record that names them. [`super::Store::push_result`] and
//! [`super::Store::pull_result`] use it. Nothing that comes from a remote store is trusted: every record and every blob
//! is verified.

use std::error::Error;
use std::io::Read;

use crate::artifact::BlobEntry;
use crate::key::Key;

/// Why an operation of a remote store failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// There is no such object.
    #[error("the remote store has no {0}")]
    Missing(String),
    /// The bytes of an object don't match its name.
    #[error("{0} of the remote store is altered")]
    Altered(String),
    /// The store can't be reached, or it refused, or the transfer was interrupted.
    #[error("can't {what}")]
    Failed {
        /// The operation and its object: "read result/…".
        what: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A store that other machines reach. Any number of threads and machines use it at the same time.
pub trait Remote: Send + Sync {
    /// The content of a record.
    ///
    /// # Errors
    /// [`RemoteError::Missing`] if there is no such record.
    fn get_record(&self, name: &str) -> Result<Vec<u8>, RemoteError>;

    /// Creates a record completely or not at all, durably. False if there is a record of this name; it stays as it is.
    ///
    /// # Errors
    /// If the store can't be written.
    fn put_record(&self, name: &str, record: &[u8]) -> Result<bool, RemoteError>;

    /// Whether there is a blob of this digest and size.
    ///
    /// # Errors
    /// If the store can't be read.
    fn has_blob(&self, blob: &BlobEntry) -> Result<bool, RemoteError>;

    /// A blob's bytes, as a stream. The caller verifies them.
    ///
    /// # Errors
    /// [`RemoteError::Missing`] if there is no such blob.
    fn get_blob(&self, blob: &BlobEntry) -> Result<Box<dyn Read + '_>, RemoteError>;

    /// Writes a blob from a stream, completely or not at all, durably. If the stream fails, nothing is written. An
    /// existing blob may be written again.
    ///
    /// # Errors
    /// If the store can't be written, or the stream fails.
    fn put_blob(&self, blob: &BlobEntry, bytes: &mut dyn Read) -> Result<(), RemoteError>;

    /// The names of all records that begin with this, in any order.
    ///
    /// # Errors
    /// If the store can't be read.
    fn list(&self, prefix: &str) -> Result<Vec<String>, RemoteError>;
}

/// The name of a result's record.
pub fn result_name(key: &Key) -> String {
    format!("result/{key}")
}
