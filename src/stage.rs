//! What a stage is to the runner: a kind that parses parameters, and a stage that turns inputs into an artifact.
//!
//! A new kind is one file in `stages/` with a type that implements [`StageKind`] and one that implements [`Stage`], and
//! one line in the registry. Everything a stage may see of the world is in its [`Context`]: its inputs, the device, the
//! seeded streams, a scratch folder, a log, and, for a training, its chain of states.

mod context;
mod params;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use context::{Cancel, Chain, Context, Device, Input, Inputs, Position, Precision, Progress, Saved, Update};
pub use params::{Bound, Params};

use crate::artifact::{Artifact, TensorError};
use crate::error::{Category, EXHAUSTED_HINT, Error, is_exhausted};
use crate::key::{Digest, Segment};
use crate::value::Values;

/// A kind of stage: a row of the table in the documentation, and a parser.
pub trait StageKind: Send + Sync {
    /// The name that `kind = "…"` gives.
    fn name(&self) -> &'static str;
    /// Raised whenever the same parameters and inputs give other bytes than before. A golden test watches.
    fn version(&self) -> u32;
    /// One line for `vadpipe kinds`.
    fn summary(&self) -> &'static str;
    /// The roles of its inputs.
    fn roles(&self) -> Roles;
    /// Reads the parameters. Errors go into `params`, with their places; what is returned then is never run.
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage>;
}

/// The inputs that a kind takes.
#[derive(Clone, Copy, Debug)]
pub enum Roles {
    /// These and no others.
    Fixed(&'static [Role]),
    /// Any names, single or lists.
    Any,
}

/// One input of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// Whether the stage can do without.
    pub optional: bool,
    /// The stage kinds that may stand there; empty for any.
    pub kinds: &'static [&'static str],
}

/// A stage with its parameters.
pub trait Stage: Send + Sync {
    /// What enters its key besides parameters and inputs.
    fn reads(&self) -> Reads {
        Reads::default()
    }
    /// For a training: its epochs. The parameters of its start are those it read outside of [`Params::segments`].
    fn epochs(&self) -> Option<Epochs> {
        None
    }
    /// For a training: the figures that its states and its result hold for every finished epoch, `loss` as the vector
    /// `history.loss` of f64. Sweeps can be pruned by them.
    fn curves(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether it fills all cores by itself.
    fn parallel(&self) -> bool {
        false
    }
    /// Of a stage that is [`Stage::parallel`]: how many of `all` threads it makes good use of. With fewer than all, several
    /// such stages run beside each other.
    fn threads(&self, all: usize) -> usize {
        all
    }
    /// Whether it computes on the pipeline's device (and so needs the GPU token where that is a GPU).
    fn uses_device(&self) -> bool {
        false
    }
    /// Digests of the files it reads, by a name that is part of the pipeline. Called while planning: must be quick.
    ///
    /// # Errors
    /// If a file that the pipeline names is not there or can't be read.
    fn contents(&self, _files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        Ok(BTreeMap::new())
    }
    /// Does the work.
    ///
    /// # Errors
    /// See [`StageError`].
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError>;
}

/// What a stage reads besides its parameters and inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// It draws random numbers.
    pub seed: bool,
    /// It computes with the pipeline's precision.
    pub precision: bool,
}

/// The epochs of a training: see `key.rs` for what is hashed and what is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epochs {
    /// Neighbouring stretches of equal epochs.
    pub segments: Vec<Segment>,
    /// Epochs whose states stay in the store (`keep`, `keep_every`). Not hashed.
    pub keep: Vec<u64>,
}

impl Epochs {
    /// How many epochs in all.
    pub fn total(&self) -> u64 {
        self.segments.iter().map(|s| s.epochs).sum()
    }
}

/// Access to files that enter keys.
pub trait Files {
    /// The digest of a file's content; remembered by size, modification time and inode.
    ///
    /// # Errors
    /// As reading the file.
    fn digest(&self, path: &Path) -> io::Result<Digest>;
    /// A path as written in the pipeline, made absolute: relative ones are relative to the pipeline file's folder.
    fn resolve(&self, path: &str) -> PathBuf;
}

/// Why a stage did not make its artifact.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// What it was given is wrong (data, an input that doesn't fit): exit code 2. With a hint of what to do.
    #[error("{message}")]
    BadInput {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// It was asked to stop, and stopped. Its state is saved.
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
    /// A tensor is not what it should be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl StageError {
    /// A plain failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// Wrong data or inputs, with what to do about it.
    pub fn bad_input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::BadInput { message: message.into(), hint: Some(hint.into()) }
    }

    /// For `map_err` on file operations: what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<StageError> for Error {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Storage(error) => error,
            StageError::BadInput { message, hint } => Error { hint, ..Error::bad_input(message) },
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

/// The stage kinds that a pipeline may use.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<&'static str, Arc<dyn StageKind>>);

impl Registry {
    /// Adds a kind; a second of the same name replaces the first.
    pub fn register(&mut self, kind: impl StageKind + 'static) -> &mut Self {
        self.0.insert(kind.name(), Arc::new(kind));
        self
    }

    /// The kind of this name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn StageKind>> {
        self.0.get(name).cloned()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn StageKind>> {
        self.0.values()
    }
}

/// A stage as parsed from its table: what `spec` hands on.
#[derive(Clone)]
pub struct ParsedStage {
    /// Its kind.
    pub kind: Arc<dyn StageKind>,
    /// What it does.
    pub stage: Arc<dyn Stage>,
    /// Its parameters in canonical form, without those of epochs.
    pub params: Values,
}
