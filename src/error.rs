//! Errors for the user, and the exit code of each category.
//!
//! Each module has its own error types (`thiserror`). A `From<ItsError> for Error` beside them maps each error to a
//! [`Category`]. Exit codes are defined only here.

use std::error::Error as StdError;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The kind of error, which a script sees as the exit code. Exit codes are part of the command-line interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Category {
    /// A stage failed: exit code 1.
    StageFailed,
    /// The pipeline, the data or the command line is wrong: exit code 2.
    BadInput,
    /// `verify` found a difference: exit code 3.
    Differs,
    /// Another process holds the cache, and `--no-wait` was given: exit code 4.
    CacheHeld,
    /// The cache, the disk or another system resource failed: exit code 5.
    Storage,
    /// `plan --check`: a stage would run: exit code 10.
    WouldRun,
    /// Interrupted by the user: exit code 130.
    Interrupted,
}

impl Category {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::StageFailed => 1,
            Self::BadInput => 2,
            Self::Differs => 3,
            Self::CacheHeld => 4,
            Self::Storage => 5,
            Self::WouldRun => 10,
            Self::Interrupted => 130,
        }
    }
}

/// The hint for errors that [`is_exhausted`] recognises.
pub const EXHAUSTED_HINT: &str = "a system limit is reached: see `ulimit -a`, or use a smaller `--jobs`";

/// Whether the system refused an operation because of a limit on open files, memory, threads or processes.
pub fn is_exhausted(error: &io::Error) -> bool {
    let limits = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    limits.iter().any(|limit| error.raw_os_error() == Some(limit.raw_os_error()))
        || error.kind() == io::ErrorKind::OutOfMemory
}

/// An error for the user: a category, a message, a hint and the causes.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Determines the exit code.
    pub category: Category,
    /// One sentence without a full stop, or several rendered diagnostics.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// The error that caused this one.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result with an error for the user.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this category with this message.
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self { category, message: message.into(), hint: None, source: None }
    }

    /// The pipeline, the data or the command line is wrong.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::new(Category::BadInput, message)
    }

    /// The cache or the disk failed.
    pub fn storage(message: impl Into<String>) -> Self {
        Self::new(Category::Storage, message)
    }

    /// The error that caused this one, the cause of that one, and so on.
    pub fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(StdError::source(self), |&cause| cause.source())
    }

    /// The system refused a resource, such as a thread.
    pub fn exhausted(message: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::storage(message).caused_by(source).hint(EXHAUSTED_HINT)
    }

    /// The message and its causes in one line.
    pub fn with_causes(&self) -> String {
        self.causes().fold(self.message.clone(), |text, cause| format!("{text}: {cause}"))
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}
