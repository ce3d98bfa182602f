//! A training as a pipeline runs it, with the code of the stage kind. Each turn is one epoch.
//!
//! The stage runs in its own thread. At the end of each epoch it reports its progress, and there it is held until its
//! next turn. A turn therefore includes everything in an epoch: shuffling, gathering images, drawing z, the step, Adam
//! for the latents, and the history.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use vadpipe::artifact::{BlobEntry, Manifest, Tensor, TensorEntry};
use vadpipe::diagnostic::{Diagnostics, Origin};
use vadpipe::error::Error;
use vadpipe::model::Decoder;
use vadpipe::rng::Streams;
use vadpipe::stage::{Cancel, Context, Device, Input, Inputs, Params, Precision, Progress, Stage, StageError, Update};
use vadpipe::stages::builtin;
use vadpipe::value::{Data, Entry, Node, Table};

use crate::{IMAGES, Outcome, SHAPE};

/// An artifact in memory.
struct InMemory {
    manifest: Manifest,
    tensors: BTreeMap<String, Tensor>,
}

impl InMemory {
    fn shared(kind: &str, tensors: BTreeMap<String, Tensor>) -> Arc<dyn Input> {
        let entry = |t: &Tensor| TensorEntry {
            element: t.element(),
            shape: t.shape().to_vec(),
            blob: BlobEntry::of(t.bytes()),
        };
        let manifest = Manifest {
            kind: kind.to_owned(),
            tensors: tensors.iter().map(|(name, t)| (name.clone(), entry(t))).collect(),
            ..Manifest::default()
        };
        Arc::new(Self { manifest, tensors })
    }
}

impl Input for InMemory {
    fn label(&self) -> &str {
        &self.manifest.kind
    }
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.tensors.get(name).cloned().ok_or_else(|| Error::storage(format!("there is no {name}")))
    }
    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        Err(Error::storage(format!("there is no {name}")))
    }
}

/// Images with random grey levels. The speed does not depend on the images.
pub(crate) fn data() -> Outcome<Arc<dyn Input>> {
    let mut tensors = BTreeMap::new();
    for split in ["train", "test"] {
        let mut pixels = vec![0u8; IMAGES * 784];
        blake3::Hasher::new().update(split.as_bytes()).finalize_xof().fill(&mut pixels);
        tensors.insert(format!("{split}.images"), Tensor::new([IMAGES, 28, 28], &pixels)?);
    }
    Ok(InMemory::shared("load-data", tensors))
}

/// An untrained decoder.
pub(crate) fn model() -> Outcome<Arc<dyn Input>> {
    let weights = Decoder::new(SHAPE, &Streams::new(0)).weights()?;
    let named = weights.into_iter().map(|(name, tensor)| (format!("decoder.{name}"), tensor));
    Ok(InMemory::shared("train-ad", named.collect()))
}

/// What to train: a stage kind with its parameters and inputs.
pub(crate) struct Work<'a> {
    pub(crate) kind: &'a str,
    /// The posterior's family, for `train-vad`.
    pub(crate) distribution: Option<&'a str>,
    pub(crate) batch: usize,
    pub(crate) epochs: usize,
    pub(crate) inputs: Vec<(&'a str, Arc<dyn Input>)>,
}

impl Work<'_> {
    fn stage(&self) -> Outcome<Arc<dyn Stage>> {
        let origin = Origin { source: 0, span: 0..0 };
        let entry = |(name, data): (&str, Data)| Entry {
            name: name.to_owned(),
            name_origin: origin.clone(),
            node: Node { data, origin: origin.clone() },
        };
        let numbers = [("batch", self.batch), ("epochs", self.epochs)].map(|(name, n)| (name, Data::Int(n as i64)));
        let family = self.distribution.map(|d| ("distribution", Data::Text(d.to_owned())));
        let table = Table(numbers.into_iter().chain(family).map(entry).collect());
        let kind = builtin().get(self.kind).ok_or("the kind does not exist")?;
        let mut wrong = Diagnostics::default();
        let mut params = Params::new(&table, origin.clone(), &[], &mut wrong);
        let stage = kind.parse(&mut params);
        params.finish();
        if wrong.is_empty() { Ok(stage) } else { Err(format!("{:?}", wrong.0).into()) }
    }
}

/// A training that waits for its turn.
pub(crate) struct Ours {
    go: Option<Sender<()>>,
    done: Receiver<f64>,
    cancel: Cancel,
    thread: Option<JoinHandle<Result<(), StageError>>>,
}

impl Ours {
    /// Starts the training and waits for the first epoch, which is not measured.
    pub(crate) fn begin(work: &Work<'_>) -> Outcome<Self> {
        let stage = work.stage()?;
        let inputs = work.inputs.iter().map(|(role, input)| ((*role).to_owned(), vec![input.clone()]));
        let inputs = Inputs(inputs.collect());
        let ((go, turn), (tell, done)) = (channel(), channel());
        let cancel = Cancel::default();
        let turns = Turns { state: Mutex::new((turn, tell, Instant::now())), cancel: cancel.clone() };
        let thread = std::thread::spawn(move || run(&*stage, inputs, &turns));
        let mut ours = Self { go: Some(go), done, cancel, thread: Some(thread) };
        ours.wait()?;
        Ok(ours)
    }

    /// Runs one epoch. Returns its seconds.
    pub(crate) fn epoch(&mut self) -> Outcome<f64> {
        self.resume();
        self.wait()
    }

    /// Lets the training run to its end, with evaluation and artifact.
    pub(crate) fn finish(mut self) -> Outcome {
        self.resume();
        self.ended()
    }

    fn resume(&self) {
        // An error means that the training has ended. `wait` reports the reason.
        let _ended = self.go.as_ref().map(|go| go.send(()));
    }

    fn wait(&mut self) -> Outcome<f64> {
        match self.done.recv() {
            Ok(seconds) => Ok(seconds),
            Err(_) => Err(self.ended().err().unwrap_or_else(|| "the training has ended".into())),
        }
    }

    fn ended(&mut self) -> Outcome {
        let thread = self.thread.take().ok_or("the training has been joined")?;
        Ok(thread.join().map_err(|_| "the training panicked")??)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.go = None;
        // The result is that of an interruption, or a panic that was printed already.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn run(stage: &dyn Stage, inputs: Inputs, turns: &Turns) -> Result<(), StageError> {
    let nowhere = Path::new("");
    let context = Context {
        version: 1,
        inputs,
        streams: Streams::new(0),
        precision: Precision::F32,
        device: &Device::Cpu,
        gpus: &[],
        scratch: nowhere,
        base: nowhere,
        mirror: None,
        dep_file: None,
        checkpoint: None,
        data_dirs: &[],
        log_path: nowhere,
        progress: turns,
        cancel: &turns.cancel,
        chain: None,
        program_chain: None,
    };
    stage.run(&context).map(drop)
}

/// Holds a training at the end of each epoch.
struct Turns {
    state: Mutex<(Receiver<()>, Sender<f64>, Instant)>,
    cancel: Cancel,
}

impl Progress for Turns {
    fn update(&self, update: Update) {
        if !update.epoch_end {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (turn, tell, begun) = &mut *state;
        if tell.send(begun.elapsed().as_secs_f64()).is_err() || turn.recv().is_err() {
            self.cancel.cancel();
        }
        *begun = Instant::now();
    }

    fn log(&self, _line: &str) {}
}
