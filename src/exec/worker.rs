//! Runs one stage: gives it its context, catches what may happen, and commits what it made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::artifact::{Artifact, Manifest, Tensor};
use crate::error::Error;
use crate::event::{Event, Listener};
use crate::exec::chain::{ChainSettings, StoredChain};
use crate::exec::device::Compute;
use crate::key::Components;
use crate::plan::PipelineFiles;
use crate::rng::Streams;
use crate::spec::{Point, Spec};
use crate::stage::{Cancel, Chain, Context, Input, Inputs, Progress, StageError, Update};
use crate::store::{NewResult, Provenance, ResultRecord, Store, StoreError, host_name};

/// What all stages of a run have in common.
pub(crate) struct Shared<'a> {
    pub spec: &'a Spec,
    /// Where inputs are read and files about the run are kept.
    pub store: &'a Arc<Store>,
    /// Where results and states go: the same, but for `verify`.
    pub into: &'a Arc<Store>,
    pub listener: &'a dyn Listener,
    pub compute: &'a Compute,
    pub cancel: &'a Cancel,
    pub data_dirs: &'a [PathBuf],
    pub run: &'a str,
    pub threads: usize,
    pub checkpoint_interval: Duration,
}

/// One stage to run.
pub(crate) struct Job {
    pub point: usize,
    pub components: Components,
    /// By role: the label, the point and its result.
    pub inputs: BTreeMap<String, Vec<(usize, ResultRecord)>>,
    /// Epochs whose states stay.
    pub pinned: BTreeSet<u64>,
    /// Make it again, whatever is stored.
    pub fresh: bool,
}

/// Why a job made nothing.
pub(crate) struct Failure {
    pub error: Error,
    pub interrupted: bool,
    /// Points whose stored results turned out to be missing or damaged.
    pub damaged: BTreeSet<usize>,
}

/// A job that ended.
pub(crate) struct Done {
    pub point: usize,
    pub outcome: Result<ResultRecord, Failure>,
}

impl Shared<'_> {
    /// Where the log of a point is.
    pub(crate) fn log_path(&self, point: &Point) -> PathBuf {
        self.store.dir().join("logs").join(self.run).join(format!("{}.log", point.name))
    }

    pub(crate) fn execute(&self, job: &Job) -> Done {
        let damaged = Arc::new(Mutex::new(BTreeSet::new()));
        // Whatever happens in there, the scheduler must hear that the job ended.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_execute(job, &damaged))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(StageError::failed(format!("internal error: {}", said.unwrap_or("the stage panicked"))))
        });
        let outcome = outcome.map_err(|error| {
            let interrupted = matches!(error, StageError::Interrupted);
            let damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let error = Error::from(error);
            if !interrupted {
                self.log_failure(job, &error);
            }
            Failure { error, interrupted, damaged }
        });
        Done { point: job.point, outcome }
    }

    fn try_execute(&self, job: &Job, damaged: &Arc<Mutex<BTreeSet<usize>>>) -> Result<ResultRecord, StageError> {
        let chain = job.components.segments.as_ref().map(|_| {
            let settings = ChainSettings {
                states: job.components.states(),
                numerics: &self.compute.numerics,
                pinned: job.pinned.clone(),
                interval: self.checkpoint_interval,
                fresh: job.fresh,
            };
            StoredChain::new(self.into, self.listener, &self.spec.points[job.point].name, settings)
        });
        let (walked, stored) = (chain.as_ref().map(|c| c as &dyn Chain), chain.as_ref());
        let (artifact, seconds) = self.run_stage(job, damaged, walked, stored, self.cancel)?;
        check_metrics(&artifact)?;
        self.check_files(job)?;
        Ok(self.commit(job, &artifact, seconds)?)
    }

    /// Runs a stage on a chain, if it is a training, and says how long it took. `stored` is that chain where it is one of
    /// the store: progress says where it was taken up.
    pub(crate) fn run_stage(
        &self,
        job: &Job,
        damaged: &Arc<Mutex<BTreeSet<usize>>>,
        chain: Option<&dyn Chain>,
        stored: Option<&StoredChain<'_>>,
        cancel: &Cancel,
    ) -> Result<(Artifact, f64), StageError> {
        let point = &self.spec.points[job.point];
        let log_path = self.log_path(point);
        let folder = log_path.parent().unwrap_or(Path::new("."));
        let storage = |what: String, e| StageError::Storage(Error::storage(what).caused_by(e));
        let make = |p: &Path| fs::create_dir_all(p).map_err(|e| storage(format!("can't create {}", p.display()), e));
        make(folder)?;
        // A command's own output is appended to the same file.
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(|e| storage(format!("can't write {}", log_path.display()), e))?;
        let scratch_root = self.store.dir().join("scratch");
        make(&scratch_root)?;
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{}-", point.stage))
            .tempdir_in(&scratch_root)
            .map_err(|e| storage(format!("can't create a folder in {}", scratch_root.display()), e))?;
        let progress = StageProgress::new(self.listener, &point.name, stored, log);
        let started = Instant::now();
        let context = Context {
            inputs: self.inputs(job, damaged),
            streams: Streams::new(point.seed),
            precision: self.spec.pipeline.precision.to_string(),
            device: &self.compute.device,
            scratch: scratch.path(),
            base: &self.spec.base,
            data_dirs: self.data_dirs,
            log_path: &log_path,
            progress: &progress,
            cancel,
            chain,
        };
        let artifact = point.parsed.stage.run(&context)?;
        Ok((artifact, started.elapsed().as_secs_f64()))
    }

    /// The key holds what files held when it was made: if they changed meanwhile, the result belongs to no key.
    fn check_files(&self, job: &Job) -> Result<(), StageError> {
        let files = PipelineFiles { store: self.store, base: &self.spec.base };
        let now = self.spec.points[job.point].parsed.stage.contents(&files)?;
        let before = &job.components.contents;
        let changed = now.keys().chain(before.keys()).find(|name| now.get(*name) != before.get(*name));
        match changed {
            Some(name) => {
                let message = format!("{name} changed while the stage ran: its result was not kept");
                Err(StageError::bad_input(message, "run again"))
            }
            None => Ok(()),
        }
    }

    fn log_failure(&self, job: &Job, error: &Error) {
        let Ok(mut log) = File::options().append(true).open(self.log_path(&self.spec.points[job.point])) else {
            return;
        };
        // The failure itself is told elsewhere: here it only completes the log.
        let _ = writeln!(log, "failed: {}", error.with_causes());
        if let Some(hint) = &error.hint {
            let _ = writeln!(log, "hint: {hint}");
        }
    }

    fn commit(&self, job: &Job, artifact: &Artifact, seconds: f64) -> Result<ResultRecord, Error> {
        let point = &self.spec.points[job.point];
        let provenance = Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.compute.name.clone(),
            class: self.compute.numerics.clone(),
            threads: self.threads,
            seconds,
            finished_at: 0,
            run: self.run.to_owned(),
            host: host_name(),
        };
        let new = NewResult {
            pipeline: &self.spec.pipeline.name,
            point: &point.name,
            components: &job.components,
            artifact,
            provenance,
        };
        Ok(self.into.commit(new)?)
    }

    fn inputs(&self, job: &Job, damaged: &Arc<Mutex<BTreeSet<usize>>>) -> Inputs {
        let open = |(point, record): &(usize, ResultRecord)| -> Arc<dyn Input> {
            Arc::new(StoredInput {
                store: Arc::clone(self.store),
                label: self.spec.points[*point].name.clone(),
                manifest: record.manifest.clone(),
                point: *point,
                damaged: Arc::clone(damaged),
            })
        };
        let mut inputs = BTreeMap::new();
        for (role, members) in &job.inputs {
            let mut list: Vec<_> = members.iter().map(open).collect();
            list.sort_by(|a, b| a.label().cmp(b.label()));
            inputs.insert(role.clone(), list);
        }
        Inputs(inputs)
    }
}

/// A metric is a number that can be compared and written as JSON.
fn check_metrics(artifact: &Artifact) -> Result<(), StageError> {
    match artifact.metrics.iter().find(|(_, v)| !v.is_finite()) {
        Some((name, value)) => Err(StageError::failed(format!("the metric `{name}` is {value}"))),
        None => Ok(()),
    }
}

/// An artifact in the store, as a stage reads it. It remembers damage, so that the runner can mend it.
struct StoredInput {
    store: Arc<Store>,
    label: String,
    manifest: Manifest,
    point: usize,
    damaged: Arc<Mutex<BTreeSet<usize>>>,
}

impl StoredInput {
    fn lacks(&self, what: &str, name: &str) -> StoreError {
        StoreError::NotFound(format!("`{}` holds no {what} `{name}`", self.label))
    }

    fn noting_damage<T>(&self, read: Result<T, StoreError>) -> Result<T, Error> {
        read.map_err(|error| {
            if matches!(error, StoreError::Damaged { .. }) {
                self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(self.point);
            }
            error.into()
        })
    }
}

impl Input for StoredInput {
    fn label(&self) -> &str {
        &self.label
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let entry = self.manifest.tensors.get(name).ok_or_else(|| self.lacks("tensor", name));
        self.noting_damage(entry.and_then(|entry| self.store.read_tensor(entry)))
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let entry = self.manifest.files.get(name).ok_or_else(|| self.lacks("file", name));
        self.noting_damage(entry.and_then(|entry| self.store.read_file(entry)))
    }
}

/// Turns what a stage says into events and lines of its log.
struct StageProgress<'a> {
    listener: &'a dyn Listener,
    stage: &'a str,
    chain: Option<&'a StoredChain<'a>>,
    log: Mutex<File>,
}

impl<'a> StageProgress<'a> {
    fn new(listener: &'a dyn Listener, stage: &'a str, chain: Option<&'a StoredChain<'a>>, log: File) -> Self {
        Self { listener, stage, chain, log: Mutex::new(log) }
    }
}

impl Progress for StageProgress<'_> {
    fn update(&self, update: Update) {
        let Update { done, total, unit, figures, rate, epoch_end } = update;
        let figures: BTreeMap<_, _> = figures.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        let stage = self.stage.to_owned();
        let resumed_at = self.chain.and_then(StoredChain::resumed_at);
        let event = if epoch_end {
            let words: Vec<_> = figures.iter().map(|(n, v)| format!("{n} {v:.6}")).collect();
            self.log(&format!("epoch {done}/{total} {}", words.join(" ")));
            Event::Epoch { stage, epoch: done, epochs: total, figures, resumed_at }
        } else {
            Event::Progress { stage, done, total, unit: unit.to_owned(), figures, rate, resumed_at }
        };
        self.listener.event(&event);
    }

    fn log(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // The log is a help, not a result: a full disk will be reported where it matters.
        let _ = writeln!(log, "{line}");
    }
}
