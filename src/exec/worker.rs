//! Runs one stage: gives it its context and catches what may happen; and commits what stages made, several at a time.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::artifact::{Artifact, Manifest, Tensor};
use crate::error::{Category, Error};
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
    pub inputs: BTreeMap<String, Vec<(usize, Arc<ResultRecord>)>>,
    /// Epochs whose states stay.
    pub pinned: BTreeSet<u64>,
    /// Make it again, whatever is stored.
    pub fresh: bool,
    /// Threads for it alone; none to share those of the process.
    pub threads: Option<usize>,
    /// Train no further than to this epoch, where the point is compared with others; there is no result then.
    pub rung: Option<u64>,
}

/// Why a job made nothing.
pub(crate) struct Failure {
    pub error: Error,
    pub interrupted: bool,
    /// It stopped because it is at this rung.
    pub at_rung: Option<u64>,
    /// Points whose stored results turned out to be missing or damaged.
    pub damaged: BTreeSet<usize>,
}

impl Failure {
    /// It failed with this.
    pub(crate) fn of(error: Error) -> Self {
        let interrupted = error.category == Category::Interrupted;
        Self { error, interrupted, at_rung: None, damaged: BTreeSet::new() }
    }
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
}

/// What a job made, not yet in the store.
pub(crate) struct Made {
    pub point: usize,
    components: Components,
    artifact: Artifact,
    /// Seconds it ran.
    pub seconds: f64,
}

impl Made {
    /// Bytes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let tensors = self.artifact.tensors.values().map(|t| t.bytes().len());
        tensors.chain(self.artifact.files.values().map(Vec::len)).sum()
    }
}

/// A job that ended: its result is in the store, or there is none.
pub(crate) struct Done {
    pub point: usize,
    pub outcome: Result<ResultRecord, Failure>,
}

impl Shared<'_> {
    /// Where the log of a point is.
    pub(crate) fn log_path(&self, point: &Point) -> PathBuf {
        self.store.dir().join("logs").join(self.run).join(format!("{}.log", point.name))
    }

    /// Runs a stage. What it made is for [`Shared::commit`].
    pub(crate) fn execute(&self, job: Job) -> Result<Made, Failure> {
        let damaged = Arc::new(Mutex::new(BTreeSet::new()));
        let at_rung = AtomicBool::new(false);
        let started = Instant::now();
        // Whatever happens in there, the scheduler must hear that the job ended.
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.try_execute(&job, &damaged, &at_rung))).unwrap_or_else(|panic| {
                let said = said(&*panic).unwrap_or("the stage panicked");
                Err(StageError::failed(format!("internal error: {said}")))
            });
        match outcome {
            Ok(artifact) => {
                let seconds = started.elapsed().as_secs_f64();
                Ok(Made { point: job.point, components: job.components, artifact, seconds })
            }
            Err(error) => {
                let mut failure = Failure::of(Error::from(error));
                if !failure.interrupted {
                    self.log_failure(job.point, &failure.error);
                }
                failure.damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner).clone();
                failure.at_rung = job.rung.filter(|_| failure.interrupted && at_rung.load(Ordering::Relaxed));
                Err(failure)
            }
        }
    }

    fn try_execute(
        &self,
        job: &Job,
        damaged: &Arc<Mutex<BTreeSet<usize>>>,
        at_rung: &AtomicBool,
    ) -> Result<Artifact, StageError> {
        let cancel = self.cancel.for_one();
        let chain = job.components.segments.as_ref().map(|_| {
            let settings = ChainSettings {
                states: job.components.states(),
                numerics: &self.compute.numerics,
                pinned: job.pinned.clone(),
                interval: self.checkpoint_interval,
                fresh: job.fresh,
                rung: job.rung,
                cancel: cancel.clone(),
            };
            StoredChain::new(self.into, self.listener, &self.spec.points[job.point].name, settings)
        });
        let (walked, stored) = (chain.as_ref().map(|c| c as &dyn Chain), chain.as_ref());
        let made = self.run_stage(job, damaged, walked, stored, &cancel);
        at_rung.store(chain.as_ref().is_some_and(StoredChain::is_at_rung), Ordering::Relaxed);
        let artifact = self.spec.points[job.point].parsed.kind.declare(made?)?;
        check_metrics(&artifact)?;
        self.check_files(job)?;
        Ok(artifact)
    }

    /// Runs a stage on a chain, if it is a training. `stored` is that chain where it is one of the store: progress says where
    /// it was taken up.
    pub(crate) fn run_stage(
        &self,
        job: &Job,
        damaged: &Arc<Mutex<BTreeSet<usize>>>,
        chain: Option<&dyn Chain>,
        stored: Option<&StoredChain<'_>>,
        cancel: &Cancel,
    ) -> Result<Artifact, StageError> {
        let point = &self.spec.points[job.point];
        let log_path = self.log_path(point);
        let scratch_root = self.store.dir().join("scratch");
        let make = |folder: &Path| {
            let error = |e| Error::storage(format!("can't create {}", folder.display())).caused_by(e);
            if folder.exists() { Ok(()) } else { fs::create_dir_all(folder).map_err(error) }
        };
        make(log_path.parent().unwrap_or(Path::new(".")))?;
        make(&scratch_root)?;
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{}-", point.stage))
            .tempdir_in(&scratch_root)
            .map_err(|e| Error::storage(format!("can't create a folder in {}", scratch_root.display())).caused_by(e))?;
        let progress = StageProgress::new(self.listener, &point.name, stored, &log_path);
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
        match job.threads.and_then(threads_of_its_own) {
            None => point.parsed.stage.run(&context),
            Some(threads) => threads.install(|| point.parsed.stage.run(&context)),
        }
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

    fn log_failure(&self, point: usize, error: &Error) {
        let log = File::options().create(true).append(true).open(self.log_path(&self.spec.points[point]));
        let Ok(mut log) = log else { return };
        // The failure itself is told elsewhere: here it only completes the log.
        let _ = writeln!(log, "failed: {}", error.with_causes());
        if let Some(hint) = &error.hint {
            let _ = writeln!(log, "hint: {hint}");
        }
    }

    /// Puts what stages made into the store, all of it durable together. If that fails for what may be one's own fault, each
    /// is tried by itself, so that one can't spoil the others; what fails the cache fails all of them.
    pub(crate) fn commit(&self, made: &[Made]) -> Vec<Done> {
        let done = |made: &Made, outcome: Result<ResultRecord, Error>| Done {
            point: made.point,
            outcome: outcome.map_err(Failure::of),
        };
        match self.into.commit_all(made.iter().map(|m| self.new_result(m)).collect()) {
            Ok(records) => made.iter().zip(records).map(|(m, record)| done(m, Ok(record))).collect(),
            // A full disk may have room for the small ones.
            Err(StoreError::Full { .. } | StoreError::NotFound(_) | StoreError::Damaged { .. }) if made.len() > 1 => {
                let alone = |m| done(m, self.into.commit(self.new_result(m)).map_err(Error::from));
                made.iter().map(alone).collect()
            }
            Err(error) => {
                let error = Error::from(error);
                let same = || Error { hint: error.hint.clone(), ..Error::new(error.category, error.with_causes()) };
                made.iter().map(|m| done(m, Err(same()))).collect()
            }
        }
    }

    fn new_result<'m>(&'m self, made: &'m Made) -> NewResult<'m> {
        let provenance = Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.compute.name.clone(),
            class: self.compute.numerics.clone(),
            threads: self.threads,
            seconds: made.seconds,
            finished_at: 0,
            run: self.run.to_owned(),
            host: host_name(),
        };
        NewResult {
            pipeline: &self.spec.pipeline.name,
            point: &self.spec.points[made.point].name,
            components: &made.components,
            artifact: &made.artifact,
            provenance,
        }
    }

    fn inputs(&self, job: &Job, damaged: &Arc<Mutex<BTreeSet<usize>>>) -> Inputs {
        let open = |(point, record): &(usize, Arc<ResultRecord>)| -> Arc<dyn Input> {
            let kind = &self.spec.points[*point].parsed.kind;
            Arc::new(StoredInput {
                store: Arc::clone(self.store),
                label: self.spec.points[*point].name.clone(),
                provides: record.provides(kind.provides()),
                heading: kind.about().heading,
                record: Arc::clone(record),
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

/// None if the system gives no more threads: then the stage shares those of the process. Results are the same for any
/// number of threads.
fn threads_of_its_own(threads: usize) -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()
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
    provides: BTreeSet<String>,
    heading: &'static str,
    record: Arc<ResultRecord>,
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
        &self.record.manifest
    }

    fn provides(&self) -> &BTreeSet<String> {
        &self.provides
    }

    fn heading(&self) -> &str {
        self.heading
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let entry = self.record.manifest.tensors.get(name).ok_or_else(|| self.lacks("tensor", name));
        self.noting_damage(entry.and_then(|entry| self.store.read_tensor(entry)))
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let entry = self.record.manifest.files.get(name).ok_or_else(|| self.lacks("file", name));
        self.noting_damage(entry.and_then(|entry| self.store.read_file(entry)))
    }
}

/// Turns what a stage says into events and lines of its log. The log is made with its first line.
struct StageProgress<'a> {
    listener: &'a dyn Listener,
    stage: &'a str,
    chain: Option<&'a StoredChain<'a>>,
    log_path: &'a Path,
    log: Mutex<Option<File>>,
}

impl<'a> StageProgress<'a> {
    fn new(listener: &'a dyn Listener, stage: &'a str, chain: Option<&'a StoredChain<'a>>, log_path: &'a Path) -> Self {
        Self { listener, stage, chain, log_path, log: Mutex::new(None) }
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
        if log.is_none() {
            // A command's own output is appended to the same file.
            *log = File::options().create(true).append(true).open(self.log_path).ok();
        }
        // The log is a help, not a result: a full disk will be reported where it matters.
        let _ = log.as_mut().map(|log| writeln!(log, "{line}"));
    }
}
