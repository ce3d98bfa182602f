//! What can go wrong with a shared store.

use std::io;

use crate::error::{Category, Error};
use crate::store::StoreError;

pub(super) type Result<T, E = SharedError> = std::result::Result<T, E>;

/// What can go wrong with a shared store.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The address, a key or the credentials are wrong, or the store holds something else.
    #[error("{message}")]
    Unusable {
        /// What is wrong.
        message: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// The store can't be reached, or it refused an operation. The text names no credentials.
    #[error("can't {what} in the store {address}: {why}")]
    Failed {
        /// The operation and its object.
        what: String,
        /// The store.
        address: String,
        /// The cause.
        why: String,
    },
    /// The system refused a thread or a file.
    #[error("{0}")]
    System(String, #[source] io::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] StoreError),
    /// The user interrupted the transfer.
    #[error("interrupted during a transfer")]
    Cancelled,
}

impl SharedError {
    /// An error that the user has to fix.
    pub(super) fn unusable(message: impl Into<String>, hint: &'static str) -> Self {
        Self::Unusable { message: message.into(), hint }
    }
}

impl From<SharedError> for Error {
    fn from(error: SharedError) -> Self {
        match error {
            SharedError::Unusable { message, hint: "" } => Self::bad_input(message),
            SharedError::Unusable { message, hint } => Self::bad_input(message).hint(hint),
            SharedError::Failed { .. } => Self::new(Category::Storage, error.to_string()),
            SharedError::System(message, source) => Self::exhausted(message, source),
            SharedError::Cache(error) => error.into(),
            SharedError::Cancelled => Self::new(Category::Interrupted, error.to_string()),
        }
    }
}
