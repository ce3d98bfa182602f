//! The one mapping from kinds of error to exit codes.
//!
//! Each module has its own typed errors (`thiserror`) and says beside them, in a `From<ItsError> for Error`, which
//! [`Category`] each belongs to. Nothing else in the program knows an exit code.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What went wrong, as far as a script that called us cares. The exit codes are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Category {
    /// A stage failed while it ran: exit code 1.
    StageFailed,
    /// The pipeline, the data or the command line is wrong: exit code 2.
    BadInput,
    /// `verify` found other bytes: exit code 3.
    Differs,
    /// Another process holds the cache and we were told not to wait: exit code 4.
    CacheHeld,
    /// The cache, the disk or another resource of the system failed: exit code 5.
    Storage,
    /// `plan --check`: something would run: exit code 10.
    WouldRun,
    /// Interrupted by the user: exit code 130.
    Interrupted,
}

impl Category {
    /// The process's exit code.
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

/// What to do when [`is_exhausted`].
pub const EXHAUSTED_HINT: &str = "a limit of the system is reached: see `ulimit -a`, or run with a smaller `--jobs`";

/// Whether the system refused an operation because a limit is reached: of open files, memory, threads or processes.
pub fn is_exhausted(error: &io::Error) -> bool {
    let limits = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    limits.iter().any(|limit| error.raw_os_error() == Some(limit.raw_os_error()))
        || error.kind() == io::ErrorKind::OutOfMemory
}

/// An error on its way to the user: a category, a sentence, what to do about it, and the causes below it.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit code.
    pub category: Category,
    /// One sentence, without a trailing full stop; or several rendered diagnostics.
    pub message: String,
    /// What the user can do, if we know it.
    pub hint: Option<String>,
    /// The error that caused this one.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of what may fail in front of the user.
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

    /// The message and what caused it, in one line.
    pub fn with_causes(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = StdError::source(self);
        while let Some(below) = cause {
            text.push_str(&format!(": {below}"));
            cause = below.source();
        }
        text
    }

    /// Adds what the user can do about it.
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| &**e as &(dyn StdError + 'static))
    }
}
