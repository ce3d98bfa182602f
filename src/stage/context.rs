//! What a running stage may use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StageError;
use crate::artifact::{Manifest, Tensor};
use crate::error::Error;
use crate::rng::Streams;

/// An artifact that a stage reads, tensor by tensor, each verified against its digest.
pub trait Input: Send + Sync {
    /// The name of the point that made it.
    fn label(&self) -> &str;
    /// What is in it: names, shapes, metrics, facts.
    fn manifest(&self) -> &Manifest;
    /// The names of what it provides, see [`super::Capability`].
    fn provides(&self) -> &BTreeSet<String> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        &NONE
    }
    /// The heading of its kind, see [`super::About::heading`].
    fn heading(&self) -> &str {
        &self.manifest().kind
    }
    /// One tensor.
    ///
    /// # Errors
    /// If there is none of this name, or its bytes are missing or damaged.
    fn tensor(&self, name: &str) -> Result<Tensor, Error>;
    /// One file.
    ///
    /// # Errors
    /// If there is none of this name, or its bytes are missing or damaged.
    fn file(&self, name: &str) -> Result<Vec<u8>, Error>;
}

/// The inputs of a stage by role. A role that is a list has its members ordered by label.
#[derive(Clone, Default)]
pub struct Inputs(pub BTreeMap<String, Vec<Arc<dyn Input>>>);

impl Inputs {
    /// The one input of a role.
    ///
    /// # Errors
    /// If there is none.
    pub fn one(&self, role: &str) -> Result<&dyn Input, StageError> {
        self.optional(role).ok_or_else(|| StageError::failed(format!("there is no input `{role}`")))
    }

    /// The input of a role, if it is given.
    pub fn optional(&self, role: &str) -> Option<&dyn Input> {
        self.0.get(role).and_then(|list| list.first()).map(|i| &**i)
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda {
        /// Its number.
        ordinal: usize,
        /// Whether a step of a training is recorded as a CUDA graph and replayed: the same bytes, fewer orders.
        graph: bool,
    },
}

impl Device {
    /// Whether it is the processor.
    pub fn is_cpu(self) -> bool {
        self == Self::Cpu
    }
}

/// Asks running stages to stop.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    /// Stops all stages.
    all: Option<Box<Self>>,
}

impl Cancel {
    /// Stops every stage that has this or a copy of it.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.all.as_ref().is_some_and(|all| all.is_cancelled())
    }

    /// One for a single stage, which stops with it or together with all others.
    pub fn for_one(&self) -> Self {
        Self { asked: Arc::default(), all: Some(Box::new(self.clone())) }
    }

    /// `Err(Interrupted)` if the stage is to stop. Call `context.cancel.check()?` in every loop that takes more than 0.1 s.
    ///
    /// # Errors
    /// [`StageError::Interrupted`].
    pub fn check(&self) -> Result<(), StageError> {
        if self.is_cancelled() { Err(StageError::Interrupted) } else { Ok(()) }
    }
}

/// How far a stage is.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// "epochs", "iterations", "MB".
    pub unit: &'static str,
    /// Current figures, such as `("loss", 0.12)`.
    pub figures: Vec<(&'static str, f64)>,
    /// Samples per second, if that is meaningful.
    pub rate: Option<f64>,
    /// For a training: whether an epoch ends here. Then the figures are those of the epoch and enter the run's events.
    pub epoch_end: bool,
}

/// Where a stage reports its progress.
pub trait Progress: Send + Sync {
    /// Can be called often: the listener drops updates that come too fast.
    fn update(&self, update: Update);
    /// A line for the stage's log, which is kept.
    fn log(&self, line: &str);
}

/// A point in a chain: `epoch` epochs are finished, and of the next one `step` steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u64,
    /// Steps done in the epoch after them.
    pub step: u64,
}

/// A state as it was saved: named tensors, everything that the next step reads and any result shows.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Where in the chain.
    pub position: Position,
    /// The state.
    pub tensors: BTreeMap<String, Tensor>,
}

/// A training's chain of states. The stage walks it; keys, leases and what stays are the runner's.
pub trait Chain: Send + Sync {
    /// The furthest stored state on this chain, if any.
    ///
    /// # Errors
    /// If the cache fails. A damaged state is not an error: the one before it is returned.
    fn resume(&self) -> Result<Option<Saved>, Error>;
    /// Whether a state should be saved here: after the last epoch, where `keep` or a branch asks, or when
    /// `checkpoint_seconds` have passed. Cheap.
    fn due(&self, position: Position) -> bool;
    /// Saves a state. Ask [`Cancel`] again afterwards: the runner may want no more than this state, as where the points of a
    /// sweep are compared.
    ///
    /// # Errors
    /// If the cache fails.
    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error>;
}

/// All that a running stage may use.
pub struct Context<'a> {
    /// The artifacts it reads.
    pub inputs: Inputs,
    /// Random numbers. Use only if [`super::Reads::seed`] is set.
    pub streams: Streams,
    /// `f32`, `tf32` or `bf16`. Use only if [`super::Reads::precision`] is set.
    pub precision: String,
    /// Where to compute.
    pub device: &'a Device,
    /// An empty folder of its own, removed afterwards.
    pub scratch: &'a Path,
    /// The folder of the pipeline file: relative paths start there.
    pub base: &'a Path,
    /// Where to look for data files after the pipeline's own `path`: `--data-dir`, `VADPIPE_DATA_DIR`, the user's
    /// cache folder. Downloads go to the last one.
    pub data_dirs: &'a [PathBuf],
    /// The log of this stage and of the programs that it starts.
    pub log_path: &'a Path,
    /// Where to report progress.
    pub progress: &'a dyn Progress,
    /// Whether to stop.
    pub cancel: &'a Cancel,
    /// The chain, if [`super::Stage::epochs`] is some.
    pub chain: Option<&'a dyn Chain>,
}
