//! Why a stage made no artifact.

use std::io;

use crate::artifact::TensorError;
use crate::error::{Category, EXHAUSTED_HINT, Error, is_exhausted};

const MEMORY_HINT: &str = "run fewer stages at a time (`--jobs`), give `memory` of `resources`, or use a smaller batch";

/// Why a stage made no artifact.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The kernel killed its program because memory ran out: exit code 1.
    #[error("{0}")]
    OutOfMemory(String),
    /// Its data or an input is wrong: exit code 2.
    #[error("{message}")]
    BadInput {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// It was asked to stop. Its state is saved.
    #[error("interrupted")]
    Interrupted,
    /// The cache or the disk failed, or an input is damaged.
    #[error(transparent)]
    Storage(#[from] Error),
    /// A file operation failed.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A tensor is malformed or has the wrong type.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl StageError {
    /// A plain failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// Wrong data or inputs, with a hint of what to do.
    pub fn bad_input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::BadInput { message: message.into(), hint: Some(hint.into()) }
    }

    /// For `map_err` on file operations: what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<candle_core::Error> for StageError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<StageError> for Error {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Storage(error) => error,
            StageError::BadInput { message, hint } => Error { hint, ..Error::bad_input(message) },
            StageError::OutOfMemory(message) => Error::new(Category::StageFailed, message).hint(MEMORY_HINT),
            StageError::Interrupted => Error::new(Category::Interrupted, "interrupted"),
            StageError::Io { what, source } => {
                let exhausted = is_exhausted(&source);
                let is_system = exhausted || source.kind() == io::ErrorKind::StorageFull;
                let category = if is_system { Category::Storage } else { Category::StageFailed };
                let error = Error::new(category, what).caused_by(source);
                if exhausted { error.hint(EXHAUSTED_HINT) } else { error }
            }
            other => Error::new(Category::StageFailed, other.to_string()),
        }
    }
}
