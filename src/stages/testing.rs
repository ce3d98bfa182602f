//! For the tests of stages: inputs and a chain in memory, and parameters without a pipeline file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::artifact::{Artifact, Tensor};
use crate::diagnostic::{Diagnostics, Origin};
use crate::error::Error;
use crate::report::testing::FakeInput;
use crate::rng::Streams;
use crate::stage::{
    Cancel, Chain, Context, Device, Due, Input, Inputs, Params, Position, Precision, Progress, Saved, Stage,
    StageError, StageKind, Update,
};
use crate::value::{Data, Entry, Node, Table, Values};

/// An artifact as an input of another stage.
pub(super) fn given(label: &str, kind: &str, artifact: &Artifact) -> Arc<dyn Input> {
    FakeInput::shared(label, kind, artifact.clone())
}

/// A chain in memory, which can stop the stage at a position.
#[derive(Default)]
pub(super) struct MemoryChain {
    /// States by position.
    pub(super) saved: Mutex<BTreeMap<Position, BTreeMap<String, Tensor>>>,
    /// The positions at which a state is wanted, in addition to `stop_at`.
    pub(super) wanted: Vec<Position>,
    /// Where to stop.
    pub(super) stop_at: Option<Position>,
    /// Cancelled at `stop_at`.
    pub(super) cancel: Cancel,
    /// If given, the chain wants a checkpoint after each step, and the first save waits until the training is here.
    pub(super) saves_until: Option<Position>,
    /// Whether saving fails.
    pub(super) is_full: bool,
    /// Where the training is.
    pub(super) at: (Mutex<Option<Position>>, Condvar),
}

impl MemoryChain {
    /// A chain that stops at this position.
    pub(super) fn stopping_at(epoch: u64, step: u64) -> Self {
        Self { stop_at: Some(Position { epoch, step }), ..Self::default() }
    }

    /// A chain that wants the states after these epochs.
    pub(super) fn keeping(epochs: &[u64]) -> Self {
        let wanted = epochs.iter().map(|epoch| Position { epoch: *epoch, step: 0 }).collect();
        Self { wanted, ..Self::default() }
    }

    /// The chain as a new process finds it, without a stop.
    pub(super) fn reopened(self) -> Self {
        Self { saved: self.saved, ..Self::default() }
    }

    /// The positions of the states.
    pub(super) fn positions(&self) -> Vec<(u64, u64)> {
        self.saved.lock().unwrap().keys().map(|p| (p.epoch, p.step)).collect()
    }
}

impl Chain for MemoryChain {
    fn resume(&self) -> Result<Option<Saved>, Error> {
        let saved = self.saved.lock().unwrap();
        Ok(saved.last_key_value().map(|(position, tensors)| Saved { position: *position, tensors: tensors.clone() }))
    }

    fn due(&self, position: Position) -> Due {
        if self.stop_at == Some(position) {
            self.cancel.cancel();
        }
        *self.at.0.lock().unwrap() = Some(position);
        self.at.1.notify_all();
        match self.saves_until {
            _ if self.wanted.contains(&position) => Due::Wanted,
            Some(_) if position.step > 0 => Due::Checkpoint,
            _ => Due::No,
        }
    }

    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        if self.is_full {
            return Err(Error::storage("the disk is full"));
        }
        let is_before = |at: &mut Option<Position>| *at < self.saves_until;
        let (at, waited) =
            self.at.1.wait_timeout_while(self.at.0.lock().unwrap(), Duration::from_secs(60), is_before).unwrap();
        assert!(!waited.timed_out(), "the training waits at {at:?}");
        drop(at);
        self.saved.lock().unwrap().insert(position, tensors.clone());
        Ok(())
    }
}

/// Records updates and lines.
#[derive(Default)]
pub(super) struct Told {
    pub(super) updates: Mutex<Vec<Update>>,
    pub(super) lines: Mutex<Vec<String>>,
}

impl Progress for Told {
    fn update(&self, update: Update) {
        self.updates.lock().unwrap().push(update);
    }

    fn log(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
}

/// Parameters by name, as a pipeline file would give them.
pub(super) fn table(entries: &[(&str, Data)]) -> Table {
    let origin = Origin { source: 0, span: 0..0 };
    let entry = |(name, data): &(&str, Data)| Entry {
        name: (*name).to_owned(),
        name_origin: origin.clone(),
        node: Node { data: data.clone(), origin: origin.clone() },
    };
    Table(entries.iter().map(entry).collect())
}

/// A list.
pub(super) fn list(items: impl IntoIterator<Item = Data>) -> Data {
    let origin = Origin { source: 0, span: 0..0 };
    Data::List(items.into_iter().map(|data| Node { data, origin: origin.clone() }).collect())
}

/// A string.
pub(super) fn text(text: &str) -> Data {
    Data::Text(text.to_owned())
}

/// Parses parameters. Returns the stage, the canonical parameters and the errors.
pub(super) fn parse(kind: &dyn StageKind, entries: &[(&str, Data)]) -> (Arc<dyn Stage>, Values, Vec<String>) {
    let (table, mut diagnostics) = (table(entries), Diagnostics::default());
    let mut params = Params::new(&table, Origin { source: 0, span: 0..0 }, &[], &mut diagnostics);
    let stage = kind.parse(&mut params);
    let canonical = params.finish();
    (stage, canonical, diagnostics.0.into_iter().map(|d| d.message).collect())
}

/// A stage about to run.
pub(super) struct Bench {
    stage: Arc<dyn Stage>,
    inputs: Inputs,
    pub(super) told: Told,
    pub(super) precision: Precision,
    pub(super) device: Device,
}

impl Bench {
    /// A stage with these parameters. Panics if one is invalid.
    pub(super) fn new(kind: &dyn StageKind, entries: &[(&str, Data)]) -> Self {
        let (stage, _, errors) = parse(kind, entries);
        assert!(errors.is_empty(), "{errors:?}");
        Self { stage, inputs: Inputs::default(), told: Told::default(), precision: Precision::F32, device: Device::Cpu }
    }

    /// Adds an input.
    pub(super) fn input(mut self, role: &str, input: &Arc<dyn Input>) -> Self {
        self.inputs.0.insert(role.to_owned(), vec![input.clone()]);
        self
    }

    /// Runs without a chain.
    pub(super) fn run(&self) -> Result<Artifact, StageError> {
        self.go(None, &Cancel::default())
    }

    /// Runs on a chain.
    pub(super) fn run_on(&self, chain: &MemoryChain) -> Result<Artifact, StageError> {
        self.go(Some(chain), &chain.cancel)
    }

    fn go(&self, chain: Option<&MemoryChain>, cancel: &Cancel) -> Result<Artifact, StageError> {
        let nowhere = Path::new("");
        self.stage.run(&Context {
            version: 1,
            inputs: self.inputs.clone(),
            streams: Streams::new(7),
            precision: self.precision,
            device: &self.device,
            gpus: &[],
            scratch: nowhere,
            base: nowhere,
            mirror: None,
            dep_file: None,
            checkpoint: None,
            data_dirs: &[],
            log_path: nowhere,
            progress: &self.told,
            cancel,
            chain: chain.map(|c| c as &dyn Chain),
            program_chain: None,
        })
    }
}

/// The error as the user sees it: message, and hint after an arrow.
pub(super) fn complaint(result: Result<Artifact, StageError>) -> String {
    match result {
        Ok(_) => "it went well".to_owned(),
        Err(StageError::BadInput { message, hint }) => format!("{message} → {}", hint.unwrap_or_default()),
        Err(other) => other.to_string(),
    }
}

/// Names of the two classes of [`data`], and of one that has no image.
pub(super) const CLASSES: [&str; 3] = ["Trouser", "Shirt", "Ankle boot"];

/// Simple data: alternately vertical (class 0) and horizontal bars (class 1) at different places.
pub(super) fn data(train: usize, test: usize) -> Arc<dyn Input> {
    let mut artifact = Artifact::default();
    for (split, count, shift) in [("train", train, 0), ("test", test, 5)] {
        let bar = |i: usize, y: usize, x: usize| {
            let (across, middle) = (if i.is_multiple_of(2) { x } else { y }, 6 + (i * 3 + shift) % 16);
            if across.abs_diff(middle) < 4 { 220 - 5 * (i % 8) as u8 } else { 10 }
        };
        let pixels: Vec<u8> = (0..count).flat_map(|i| (0..784).map(move |p| bar(i, p / 28, p % 28))).collect();
        let labels: Vec<u8> = (0..count).map(|i| (i % 2) as u8).collect();
        artifact.tensors.insert(format!("{split}.images"), Tensor::new([count, 28, 28], &pixels).unwrap());
        artifact.tensors.insert(format!("{split}.labels"), Tensor::vector(&labels));
    }
    artifact.facts.insert("classes".to_owned(), CLASSES.to_vec().into());
    given("data", "load-data", &artifact)
}
