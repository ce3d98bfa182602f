//! What a running stage may use.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::StageError;
use crate::artifact::{Folder, FolderOnDisk, Manifest, Tensor, to_safetensors};
use crate::error::Error;
pub use crate::key::Position;
use crate::rng::Streams;
use crate::store::create_below;
use crate::system::Usage;
use crate::value::Value;

/// An artifact that a stage reads, tensor by tensor, each verified against its digest.
pub trait Input: Send + Sync {
    /// The name of the point that made it.
    fn label(&self) -> &str;
    /// The values of its axes, in the order of declaration. Only for a member of a list: the names of members, which
    /// contain these values, are part of the key.
    fn axes(&self) -> &[(String, Value)] {
        &[]
    }
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
    /// Writes the artifact below a folder: the tensors as `artifact.safetensors`, its files under their names, and the
    /// last state of a training program below `state/`. An artifact in the cache is not held in memory.
    ///
    /// # Errors
    /// If something is missing or damaged, or can't be written.
    fn write_to(&self, folder: &Path) -> Result<(), Error> {
        let tensors = self.manifest().tensors.keys().map(|name| Ok((name.as_str(), self.tensor(name)?)));
        let tensors = tensors.collect::<Result<Vec<_>, Error>>()?;
        let bytes = to_safetensors(tensors.iter().map(|(name, tensor)| (*name, tensor)));
        let bytes = bytes.map_err(|e| Error::storage("the tensors can't be written to a file").caused_by(e))?;
        let write = |name: &str, bytes: &[u8]| -> Result<(), Error> {
            let mut file = create_below(folder, name)?;
            let written = io::Write::write_all(&mut file, bytes);
            written.map_err(|e| Error::storage(format!("can't write {}", folder.join(name).display())).caused_by(e))
        };
        write(ARTIFACT_FILE, &bytes)?;
        self.manifest().files.keys().try_for_each(|name| write(name, &self.file(name)?))
    }
}

/// The file with an artifact's tensors, see [`Input::write_to`].
pub(crate) const ARTIFACT_FILE: &str = "artifact.safetensors";
/// The folder of the last state, see [`Input::write_to`].
pub(crate) const STATE_FOLDER: &str = "state";

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

/// Where a stage computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda {
        /// Its number.
        ordinal: usize,
        /// Whether a training step is recorded as a CUDA graph and replayed: the same bytes with fewer calls to the
        /// driver.
        graph: bool,
    },
}

/// The number format of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 32-bit floats whose factors are rounded to 10 bits of mantissa in products (tensor cores).
    Tf32,
    /// 16-bit floats with 8 bits of exponent.
    Bf16,
}

impl Precision {
    /// Its name in pipeline files and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { ordinal, .. } => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl Device {
    /// Whether stages compute with this precision on it. No kernel computes with 16 bits, and only NVIDIA's GPUs have
    /// TF32.
    pub fn supports(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => true,
            Precision::Tf32 => !self.is_cpu(),
            Precision::Bf16 => false,
        }
    }

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
    /// Stops every stage that has this token or a clone of it.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.all.as_ref().is_some_and(|all| all.is_cancelled())
    }

    /// A token for a single stage, which stops if either this token or `self` is cancelled.
    pub fn for_one(&self) -> Self {
        Self { asked: Arc::default(), all: Some(Box::new(self.clone())) }
    }

    /// `Err(Interrupted)` if the stage should stop. Call `context.cancel.check()?` in every loop that takes more than
    /// 0.1 s.
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
    /// Units in total.
    pub total: u64,
    /// "epochs", "iterations", "MB".
    pub unit: &'static str,
    /// Current figures, such as `("loss", 0.12)`.
    pub figures: Vec<(Cow<'static, str>, f64)>,
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
    /// What a program of the stage has used, once it has ended.
    fn used(&self, usage: Usage) {
        let _ = usage;
    }
}

/// A saved state: everything that the next step reads and that the result is made of.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its place on the chain.
    pub position: Position,
    /// Its tensors, by name.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Whether a state is to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// No.
    No,
    /// `checkpoint_seconds` have passed. It may be skipped while an earlier state is still being saved.
    Checkpoint,
    /// It must be saved: after the last epoch, at an epoch that `keep` or another training asks for, or after each
    /// epoch if
    /// `checkpoint_seconds` is 0.
    Wanted,
    /// It must be saved, and the runner may stop the training at this state, for example to compare the points of a
    /// sweep. Check [`Cancel`] once it is saved, before the training goes on.
    Stop,
}

/// A training's chain of states. The stage advances along it; the runner keeps the keys and the leases, and decides
/// which states stay in the store.
pub trait Chain: Send + Sync {
    /// The furthest stored state on this chain, if any.
    ///
    /// # Errors
    /// If the cache fails. A damaged state is not an error: the state before it is returned.
    fn resume(&self) -> Result<Option<Saved>, Error>;
    /// Whether to save the state at this position. Called after every step, so it must be cheap.
    fn due(&self, position: Position) -> Due;
    /// Saves a state. The training may go on meanwhile, but there is one call at a time, in the order of the positions.
    ///
    /// # Errors
    /// If the cache fails.
    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error>;
}

/// A stored state of a training program.
#[derive(Clone, Debug)]
pub struct ProgramState {
    /// Finished epochs.
    pub epoch: u64,
    /// The curves up to it: `f64 [epoch]` tensors by name.
    pub curves: BTreeMap<String, Tensor>,
    /// Its files.
    pub files: Folder,
}

/// What one process of a training program may use.
#[derive(Clone, Debug)]
pub struct ProcessFolders {
    /// A folder that survives a kill and an interruption until the state of this process is stored.
    pub checkpoint: Option<PathBuf>,
    /// Where the process lists the files that it reads, see [`Context::dep_file`].
    pub dep_file: PathBuf,
}

/// The chain of a training program, whose states are folders. Every process of the program trains from one state to the
/// next.
pub trait ProgramChain: Send + Sync {
    /// The furthest stored state that the program can continue from, if any. Its files are written below the folder
    /// `to`, which must be empty.
    ///
    /// # Errors
    /// If the cache fails, or the folder can't be written. A damaged state is not an error: the state before it is
    /// used.
    fn resume(&self, to: &Path) -> Result<Option<ProgramState>, Error>;
    /// The epoch to which the process trains that starts after `epoch` epochs.
    fn boundary_after(&self, epoch: u64) -> u64;
    /// The last epoch that a process trains which trains to the end: that of the training, or one at which the runner
    /// compares points.
    fn stops_at(&self) -> u64;
    /// Prepares the process that trains to this epoch. `None` is the process that writes the outputs. It gets a
    /// checkpoint if `has_checkpoint`.
    ///
    /// # Errors
    /// If its folders can't be created.
    fn begin(&self, to: Option<u64>, has_checkpoint: bool) -> Result<ProcessFolders, StageError>;
    /// Notes which files the process has read so far. Call it before [`ProgramChain::save`] while the process runs.
    ///
    /// # Errors
    /// If the list of files can't be read.
    fn note_files(&self) -> Result<(), StageError>;
    /// Notes which files the process has read. Call it when the process has ended, before [`ProgramChain::save`].
    ///
    /// # Errors
    /// If the list of files can't be read.
    fn end(&self, succeeded: bool) -> Result<(), StageError>;
    /// Stores the state after this epoch. Check [`Cancel`] afterwards, as after [`Chain::save`].
    ///
    /// # Errors
    /// If the cache fails.
    fn save(&self, epoch: u64, curves: &BTreeMap<String, Tensor>, files: &FolderOnDisk) -> Result<Folder, Error>;
    /// Keeps the state after this epoch, the best so far, if there is one or it is the next to be saved. The state of
    /// the epoch that was the best before is no longer kept for that.
    ///
    /// # Errors
    /// If the cache fails.
    fn set_best(&self, epoch: u64) -> Result<(), Error>;
    /// Writes the files of a state below the folder `to`, which must be empty.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the folder can't be written.
    fn write(&self, files: &Folder, to: &Path) -> Result<(), Error>;
}

/// All that a running stage may use.
pub struct Context<'a> {
    /// The version in the key of the result: see [`super::Stage::version`].
    pub version: u32,
    /// The artifacts it reads.
    pub inputs: Inputs,
    /// Random numbers. Use only if [`super::Reads::seed`] is set.
    pub streams: Streams,
    /// The precision to compute with. Use only if [`super::Reads::precision`] is set.
    pub precision: Precision,
    /// Where to compute.
    pub device: &'a Device,
    /// The GPUs that its program gets, as many as [`super::Stage::gpus`], named as in `CUDA_VISIBLE_DEVICES`.
    pub gpus: &'a [String],
    /// An empty folder of its own, removed afterwards.
    pub scratch: &'a Path,
    /// The folder of the pipeline file: relative paths start there.
    pub base: &'a Path,
    /// The mirror of that folder, if [`super::Stage::program_files`] are some.
    pub mirror: Option<&'a Path>,
    /// Where the program lists the files that it reads, one path a line, absolute or relative to the pipeline's folder.
    /// Those of the project enter the key of the result. Used if [`super::Reads::files`] is set.
    pub dep_file: Option<&'a Path>,
    /// A folder that survives a kill and an interruption until the result is stored, if
    /// [`super::Stage::uses_checkpoint`].
    pub checkpoint: Option<&'a Path>,
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
    /// The chain of a training program, if [`super::Stage::program_files`] are some as well.
    pub program_chain: Option<&'a dyn ProgramChain>,
}
