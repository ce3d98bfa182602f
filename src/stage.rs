//! The interface between the runner and the stages: a kind parses parameters, and its stage turns inputs into an
//! artifact.
//!
//! A new kind is one file in `stages/` with a type that implements [`StageKind`] and one that implements [`Stage`], and
//! one line in the registry. A [`Context`] gives a stage all that it may use: its inputs, the device, the seeded
//! streams, a scratch folder, a log, and, for a training, its chain of states.
//!
//! Kinds know nothing of each other. A kind says what its artifacts provide, and a [`Role`] says what it needs: see
//! [`Capability`].

pub mod candle;
mod compute;
mod context;
mod epochs;
mod error;
mod params;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use compute::{Compute, ProgramGpus};
pub(crate) use context::{ARTIFACT_FILE, STATE_FOLDER};
pub use context::{
    Cancel, Chain, Context, Device, Due, Input, Inputs, Position, Precision, ProcessFolders, ProgramChain,
    ProgramState, Progress, Saved, Update,
};
pub use epochs::Epochs;
pub use error::StageError;
pub use params::{Bound, GivenInput, Parameter, Params};

use crate::artifact::Artifact;
pub use crate::artifact::Capability;
use crate::diagnostic::{Diagnostics, Origin};
use crate::key::Digest;
use crate::store::digest_now;
use crate::value::{Table, Values};

/// A kind of stage: its description, and the parser of its parameters.
pub trait StageKind: Send + Sync {
    /// Describes the kind.
    fn about(&self) -> About;
    /// Reads the parameters. Errors go into `params`, with their places; the returned stage then never runs.
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage>;
    /// See [`About::name`].
    fn name(&self) -> &'static str {
        self.about().name
    }
    /// See [`About::version`].
    fn version(&self) -> u32 {
        self.about().version
    }
    /// See [`About::provides`].
    fn provides(&self) -> &'static [Capability] {
        self.about().provides
    }
    /// The parameters in the order in which the kind reads them: what it reads from an empty table.
    fn parameters(&self) -> Vec<Parameter> {
        let (table, mut ignored) = (Table::default(), Diagnostics::default());
        let mut params = Params::new(&table, Origin { source: 0, span: 0..0 }, &[], &mut ignored).recording();
        self.parse(&mut params);
        params.recorded()
    }
}

/// The description of a kind.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The name that `kind = "…"` gives.
    pub name: &'static str,
    /// Raise it if the same parameters and inputs give different bytes than before. A golden test checks it.
    pub version: u32,
    /// One line for `vadpipe kinds`.
    pub summary: &'static str,
    /// The roles of its inputs.
    pub roles: Roles,
    /// What its artifacts provide. A stage fails if its artifact lacks a tensor that one of these requires.
    ///
    /// Not part of any key. A result keeps what its kind provided when the result was made, and a cached report shows
    /// only that.
    pub provides: &'static [Capability],
    /// Its metrics that describe a result, such as a number of images, and don't rate it. Commands show them as facts.
    pub facts: &'static [&'static str],
    /// The heading of its results in a report, in the plural.
    pub heading: &'static str,
    /// The file of its artifacts that is an HTML page. A run writes it to the folder of reports.
    pub page: Option<&'static str>,
}

impl About {
    /// A kind that takes no inputs and provides nothing, with its name as the heading.
    pub const fn new(name: &'static str, version: u32, summary: &'static str) -> Self {
        let (provides, facts): (&[_], &[_]) = (&[], &[]);
        Self { name, version, summary, roles: Roles::Fixed(&[]), provides, facts, heading: name, page: None }
    }
}

impl dyn StageKind {
    /// Records what this kind provides in an artifact that a stage of this kind made.
    ///
    /// # Errors
    /// If the artifact lacks a tensor that its kind provides.
    pub fn declare(&self, mut artifact: Artifact) -> Result<Artifact, StageError> {
        for capability in self.provides() {
            if let Some(tensor) = capability.missing(artifact.tensors.keys()) {
                let message = format!("kind `{}` provides `{capability}`, but made no tensor `{tensor}`", self.name());
                return Err(StageError::failed(message));
            }
            artifact.provides.insert(capability.name().to_owned());
        }
        Ok(artifact)
    }
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
    /// Whether the stage can do without it.
    pub optional: bool,
    /// What the input must provide; empty if any stage will do.
    pub needs: &'static [Capability],
}

impl Role {
    /// The capabilities that the role needs and the kind does not provide.
    pub fn unmet(&self, kind: &dyn StageKind) -> Vec<Capability> {
        self.needs.iter().filter(|need| !kind.provides().contains(need)).copied().collect()
    }
}

/// A stage with its parameters.
pub trait Stage: Send + Sync {
    /// What enters its key besides parameters and inputs.
    fn reads(&self) -> Reads {
        Reads::default()
    }
    /// For a training: its epochs. The parameters of its start are those that it read outside of [`Params::segments`].
    fn epochs(&self) -> Option<Epochs> {
        None
    }
    /// For a training: the parameters that change its result, but none of its states.
    fn result_params(&self) -> Values {
        Values::new()
    }
    /// For a training: the figures that its states and its result hold for each finished epoch: `loss` is the f64
    /// vector `history.loss`. Sweeps can be pruned by them.
    fn curves(&self) -> Curves {
        Curves::Named(&[])
    }
    /// Whether it fills all cores by itself.
    fn parallel(&self) -> bool {
        false
    }
    /// For a [`Stage::parallel`] stage: how many of `all` threads it uses well. If fewer than all, several such stages
    /// run at the same time.
    fn threads(&self, all: usize) -> usize {
        all
    }
    /// Whether it computes on the pipeline's device.
    fn uses_device(&self) -> bool {
        false
    }
    /// For a stage that computes on the pipeline's device: how many stages of its size share a GPU. 1 if it fills the
    /// GPU by itself.
    fn beside_on_gpu(&self) -> usize {
        1
    }
    /// For a stage that runs a program: how many GPUs the program gets for itself. Part of no key.
    fn gpus(&self) -> usize {
        0
    }
    /// Digests of the files it reads, by a name that is part of the pipeline. Called while planning, so it must be
    /// quick.
    ///
    /// # Errors
    /// If a file that the pipeline names does not exist or can't be read.
    fn contents(&self, _files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        Ok(BTreeMap::new())
    }
    /// For a stage that runs a program: the files that the pipeline names for it, as written there. The program runs in
    /// [`Context::mirror`], which has copies of these files, so that an edit changes only what starts later.
    ///
    /// # Errors
    /// As [`Stage::contents`].
    fn program_files(&self, _files: &dyn Files) -> Result<Option<BTreeSet<String>>, StageError> {
        Ok(None)
    }
    /// For a stage that runs a program that is looked up in `PATH`, or from `base` on, the pipeline's folder, upwards:
    /// the program's file. Part of no key.
    fn program(&self, _base: &Path) -> Option<String> {
        None
    }
    /// For a stage that runs a program: the folder above `base`, the pipeline's, whose files belong to the project as
    /// those of the pipeline's folder do.
    fn project(&self, _base: &Path) -> Option<PathBuf> {
        None
    }
    /// For a stage that runs a program: whether the program gets [`Context::checkpoint`].
    fn uses_checkpoint(&self) -> bool {
        false
    }
    /// For a stage that runs a program: the paths of its outputs. The path of a folder ends with `/`.
    fn output_paths(&self) -> Vec<&str> {
        Vec::new()
    }
    /// The version in its key, if that is not the version of its kind: a change of the kind that matters only to some
    /// inputs leaves the keys of all others as they are. `_inputs` are the stages that it reads.
    fn version(&self, _inputs: &mut dyn Iterator<Item = &dyn Stage>) -> Option<u32> {
        None
    }
    /// Does the work.
    ///
    /// # Errors
    /// See [`StageError`].
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError>;
}

/// The figures that a training has for each epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curves {
    /// These.
    Named(&'static [&'static str]),
    /// Those that a program logs.
    Any,
}

/// What a stage reads besides its parameters and inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// It draws random numbers.
    pub seed: bool,
    /// It computes with the pipeline's precision.
    pub precision: bool,
    /// It runs a program, which may read files that the pipeline does not name: see [`Context::dep_file`].
    pub files: bool,
}

/// Access to files that enter keys.
pub trait Files {
    /// The digest of a file's content; remembered by size, modification time and inode.
    ///
    /// # Errors
    /// If the file can't be read.
    fn digest(&self, path: &Path) -> io::Result<Digest>;
    /// The digest of a file, or of all files below a folder.
    ///
    /// # Errors
    /// If a file or a folder can't be read.
    fn digest_all(&self, path: &Path) -> io::Result<Digest> {
        digest_now(path, &|path| self.digest(path))
    }
    /// A path as written in the pipeline, made absolute: relative ones are relative to the pipeline file's folder.
    fn resolve(&self, path: &str) -> PathBuf;
    /// The pipeline file's folder, also if [`Files::resolve`] finds files in a mirror of it.
    fn base(&self) -> PathBuf {
        self.resolve("")
    }
}

/// The stage kinds that a pipeline may use.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<&'static str, Arc<dyn StageKind>>);

impl Registry {
    /// Adds a kind. It replaces a kind of the same name.
    pub fn register(&mut self, kind: impl StageKind + 'static) -> &mut Self {
        self.0.insert(kind.name(), Arc::new(kind));
        self
    }

    /// The kind of this name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn StageKind>> {
        self.0.get(name).cloned()
    }

    /// The metrics of a kind that are shown as facts: see [`About::facts`]. None if the kind is not known.
    pub fn facts(&self, kind: &str) -> &'static [&'static str] {
        self.0.get(kind).map_or(&[], |kind| kind.about().facts)
    }

    /// All kinds, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn StageKind>> {
        self.0.values()
    }
}

/// A stage as parsed from its table.
#[derive(Clone)]
pub struct ParsedStage {
    /// Its kind.
    pub kind: Arc<dyn StageKind>,
    /// What it does.
    pub stage: Arc<dyn Stage>,
    /// Its parameters in canonical form, without those of epochs.
    pub params: Arc<Values>,
}
