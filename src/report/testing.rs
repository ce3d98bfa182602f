//! For tests: an input in memory, and all that a [`Context`] needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::stage::{Device, Precision};

use crate::artifact::{Artifact, BlobEntry, Manifest, Tensor, TensorEntry};
use crate::diagnostic::{Diagnostics, Origin, Sources};
use crate::error::Error;
use crate::rng::Streams;
use crate::stage::{Cancel, Context, Input, Inputs, Params, Progress, Stage, StageKind, Update};
use crate::value::{Data, Entry, Node, Table, Values};

/// An artifact in memory as another stage reads it.
pub(crate) struct FakeInput {
    label: String,
    kind: Option<Arc<dyn StageKind>>,
    provides: BTreeSet<String>,
    manifest: Manifest,
    artifact: Artifact,
}

impl FakeInput {
    /// An input of one of our kinds provides what the kind does; other inputs provide what the artifact says.
    pub(crate) fn shared(label: &str, kind: &str, artifact: Artifact) -> Arc<dyn Input> {
        let entry = |t: &Tensor| TensorEntry {
            element: t.element(),
            shape: t.shape().to_vec(),
            blob: BlobEntry::of(&t.to_blob().unwrap()),
        };
        let manifest = Manifest {
            kind: kind.to_owned(),
            tensors: artifact.tensors.iter().map(|(n, t)| (n.clone(), entry(t))).collect(),
            files: artifact.files.iter().map(|(n, f)| (n.clone(), BlobEntry::of(f))).collect(),
            metrics: artifact.metrics.clone(),
            facts: artifact.facts.clone(),
            ..Manifest::default()
        };
        let kind = crate::stages::builtin().get(kind);
        let names = |kind: &Arc<dyn StageKind>| kind.provides().iter().map(|c| c.name().to_owned()).collect();
        let provides = kind.as_ref().map_or_else(|| artifact.provides.clone(), names);
        Arc::new(Self { label: label.to_owned(), kind, provides, manifest, artifact })
    }
}

impl Input for FakeInput {
    fn label(&self) -> &str {
        &self.label
    }
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    fn provides(&self) -> &BTreeSet<String> {
        &self.provides
    }
    fn heading(&self) -> &str {
        self.kind.as_ref().map_or(&self.manifest.kind, |kind| kind.about().heading)
    }
    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let found = self.artifact.tensors.get(name).cloned();
        found.ok_or_else(|| Error::storage(format!("{} has no tensor {name}", self.label)))
    }
    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let found = self.artifact.files.get(name).cloned();
        found.ok_or_else(|| Error::storage(format!("{} has no file {name}", self.label)))
    }
}

/// A table from TOML. Every place in it is the start of the text.
fn table(text: &str) -> Table {
    fn node(value: toml::Value) -> Node {
        let data = match value {
            toml::Value::String(v) => Data::Text(v),
            toml::Value::Integer(v) => Data::Int(v),
            toml::Value::Float(v) => Data::Float(v),
            toml::Value::Boolean(v) => Data::Bool(v),
            toml::Value::Array(v) => Data::List(v.into_iter().map(node).collect()),
            toml::Value::Table(v) => Data::Table(entries(v)),
            toml::Value::Datetime(_) => unreachable!(),
        };
        Node { data, origin: Origin { source: 0, span: 0..1 } }
    }
    fn entries(table: toml::Table) -> Table {
        let entry = |(name, value)| Entry { name, name_origin: Origin { source: 0, span: 0..1 }, node: node(value) };
        Table(table.into_iter().map(entry).collect())
    }
    entries(toml::from_str(text).unwrap())
}

/// Parses a stage's table; errors as lines of message and help.
pub(crate) fn parse_stage(kind: &dyn StageKind, text: &str) -> Result<(Arc<dyn Stage>, Values), String> {
    let table = table(text);
    let mut diagnostics = Diagnostics::default();
    let mut params = Params::new(&table, Origin { source: 0, span: 0..1 }, &["kind"], &mut diagnostics);
    let stage = kind.parse(&mut params);
    let values = params.finish();
    if diagnostics.is_empty() {
        return Ok((stage, values));
    }
    assert!(diagnostics.clone().into_result(&Sources::default()).is_err());
    let lines = diagnostics.0.into_iter().map(|d| format!("{} ({})", d.message, d.help.unwrap_or_default()));
    Err(lines.collect::<Vec<_>>().join("\n"))
}

/// Remembers what is logged.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<String>>);

impl Progress for Log {
    fn update(&self, _update: Update) {}
    fn log(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Folders and listeners of one running stage; removed with it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    log_path: PathBuf,
    scratch: PathBuf,
    base: PathBuf,
    pub(crate) cancel: Cancel,
    log: Log,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [scratch, base] = ["scratch", "base"].map(|name| folder.path().join(name));
        std::fs::create_dir(&scratch).unwrap();
        std::fs::create_dir(&base).unwrap();
        let log_path = folder.path().join("stage.log");
        Self { folder, log_path, scratch, base, cancel: Cancel::default(), log: Log::default() }
    }

    /// A folder that is neither scratch nor the pipeline's.
    pub(crate) fn outside(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the pipeline file.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// What the stage's programs wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// What the stage itself logged.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }

    pub(crate) fn context(&self, inputs: Inputs) -> Context<'_> {
        Context {
            version: 1,
            inputs,
            streams: Streams::new(0),
            precision: Precision::F32,
            device: &Device::Cpu,
            gpus: &[],
            scratch: &self.scratch,
            base: &self.base,
            mirror: None,
            dep_file: None,
            checkpoint: None,
            data_dirs: &[],
            log_path: &self.log_path,
            progress: &self.log,
            cancel: &self.cancel,
            chain: None,
            program_chain: None,
        }
    }
}
