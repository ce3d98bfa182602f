//! Runs one job: creates the context of its stage, catches panics, and stores the result.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::artifact::Artifact;
use crate::error::Error;
use crate::event::Event;
use crate::exec::chain::{ChainSettings, StoredChain};
use crate::exec::checkpoint::Checkpoint;
use crate::exec::context::RunContext;
use crate::exec::files_read::{FileTime, Scan};
use crate::exec::inputs::{DamagedInputs, stored_inputs};
use crate::exec::job::{Ended, Job};
use crate::exec::mirror::Mirror;
use crate::exec::progress::StageProgress;
use crate::id::PointId;
use crate::key::{Components, Digest};
use crate::plan::PipelineFiles;
use crate::rng::Streams;
use crate::stage::{Cancel, Chain, Context, Progress as _, StageError};
use crate::store::{NewResult, Provenance, ResultRecord, Store, StoreError, host_name};

/// A larger file that a program read at its last run is not copied for the next one.
const MAX_COPIED_BYTES: u64 = 1 << 20;

/// Runs the jobs of one run.
#[derive(Clone, Copy)]
pub(crate) struct Worker<'a> {
    pub context: RunContext<'a>,
    /// Where results and states are stored: the cache, except for `verify`.
    pub into: &'a Arc<Store>,
    /// The run's id.
    pub run: &'a str,
    /// The time between two checkpoints of a training.
    pub checkpoint_interval: Duration,
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
}

/// The folders of a running stage. Removed on drop.
struct StageFolders {
    /// For a stage that runs a program.
    mirror: Option<Mirror>,
    /// The files that the pipeline names for the program.
    named: BTreeSet<String>,
    /// Before the mirror was created.
    started: FileTime,
    /// If the stage asks for it.
    checkpoint: Option<Checkpoint>,
    scratch: TempDir,
}

impl StageFolders {
    /// Where the program lists the files that it reads.
    fn dep_file(&self) -> PathBuf {
        self.checkpoint.as_ref().map_or_else(|| self.scratch.path().join("files-read"), Checkpoint::dep_file)
    }

    /// Finds the files that the program in these folders reads. `None` without a program.
    fn scan<'a>(&'a self, store: &'a Store) -> Option<Scan<'a>> {
        let mirror = self.mirror.as_ref()?;
        let checkpoint = self.checkpoint.as_ref();
        let started = checkpoint.map_or(self.started, |checkpoint| checkpoint.started);
        let mirrors = checkpoint.map(|checkpoint| checkpoint.mirrors.clone()).unwrap_or_default();
        Some(Scan { store, mirror, named: &self.named, started, mirrors })
    }
}

/// What a stage made.
pub(crate) struct StageRun {
    pub artifact: Artifact,
    /// See [`Components::files_read`].
    files_read: BTreeMap<String, Digest>,
    /// To be removed when the result is stored.
    checkpoint: Option<Checkpoint>,
}

/// The output of a stage before it is stored.
pub(crate) struct StageOutput {
    pub point: PointId,
    components: Components,
    artifact: Artifact,
    /// Removed when the result is stored.
    checkpoint: Option<Checkpoint>,
    /// How long the stage ran.
    seconds: f64,
}

impl StageOutput {
    /// About how many bytes it occupies in memory.
    pub(crate) fn bytes(&self) -> usize {
        let tensors = self.artifact.tensors.values().map(|t| t.bytes().len());
        tensors.chain(self.artifact.files.values().map(Vec::len)).sum()
    }
}

impl<'a> Worker<'a> {
    /// A worker with the checkpoint interval of the pipeline.
    pub(crate) fn new(context: RunContext<'a>, run: &'a str) -> Self {
        let seconds = context.spec.pipeline.checkpoint_seconds;
        let checkpoint_interval = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Self { context, into: context.store, run, checkpoint_interval }
    }

    /// Runs a job and returns its output for [`Worker::commit`]. Without an output, returns how the job ended.
    pub(crate) fn execute(&self, job: Job) -> Result<StageOutput, Ended<Box<ResultRecord>>> {
        let damaged = DamagedInputs::default();
        let at_rung = AtomicBool::new(false);
        let started = Instant::now();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.try_execute(&job, &damaged, &at_rung))).unwrap_or_else(|panic| {
                let text = panic_message(&*panic).unwrap_or("the stage panicked");
                Err(StageError::failed(format!("internal error: {text}")))
            });
        let error = match outcome {
            Ok(StageRun { artifact, files_read, checkpoint }) => {
                let seconds = started.elapsed().as_secs_f64();
                let components = Components { files_read, ..job.components };
                return Ok(StageOutput { point: job.point, components, artifact, checkpoint, seconds });
            }
            Err(error) => error,
        };
        let rung = job.options.rung.filter(|_| at_rung.load(Ordering::Relaxed));
        let error = match (Ended::with(Error::from(error)), rung) {
            (Ended::Interrupted, Some(epoch)) => return Err(Ended::AtRung(epoch)),
            (Ended::Failed(error), _) => error,
            (ended, _) => return Err(ended),
        };
        self.log_failure(job.point, &error);
        let damaged = std::mem::take(&mut *damaged.lock().unwrap_or_else(PoisonError::into_inner));
        Err(if damaged.is_empty() { Ended::Failed(error) } else { Ended::Damaged(damaged, error) })
    }

    fn try_execute(&self, job: &Job, damaged: &DamagedInputs, at_rung: &AtomicBool) -> Result<StageRun, StageError> {
        let cancel = self.context.cancel.for_one();
        let chain = job.components.segments.as_ref().map(|_| {
            let settings = ChainSettings {
                states: job.components.chain(),
                numerics: &self.context.compute.numerics,
                kept: job.kept.clone(),
                interval: self.checkpoint_interval,
                fresh: job.options.fresh,
                rung: job.options.rung,
                cancel: cancel.clone(),
            };
            StoredChain::new(self.into, self.context.listener, self.context.name(job.point), settings)
        });
        let (for_stage, for_progress) = (chain.as_ref().map(|c| c as &dyn Chain), chain.as_ref());
        let made = self.run_stage(job, damaged, for_stage, for_progress, &cancel);
        at_rung.store(chain.as_ref().is_some_and(StoredChain::is_at_rung), Ordering::Relaxed);
        let made = made?;
        let artifact = self.context.point(job.point).parsed.kind.declare(made.artifact)?;
        Ok(StageRun { artifact, ..made })
    }

    /// Runs a stage. A training uses `chain`. `stored` is the same chain if it is a [`StoredChain`]; progress events
    /// contain the epoch at which it resumed the training.
    pub(crate) fn run_stage(
        &self,
        job: &Job,
        damaged: &DamagedInputs,
        chain: Option<&dyn Chain>,
        stored: Option<&StoredChain<'_>>,
        cancel: &Cancel,
    ) -> Result<StageRun, StageError> {
        let RunContext { spec, compute, data_dirs, listener, .. } = self.context;
        let point = self.context.point(job.point);
        let log_path = self.log_path(job.point);
        let folders = self.create_folders(job, &log_path)?;
        let dep_file = folders.dep_file();
        let checkpoint = folders.checkpoint.as_ref().map(Checkpoint::files);
        let progress = StageProgress::new(listener, &point.name, stored, &log_path);
        let context = Context {
            inputs: stored_inputs(&self.context, job, damaged),
            streams: Streams::new(point.seed),
            precision: spec.pipeline.precision,
            device: &compute.device,
            gpus: &job.gpus,
            scratch: folders.scratch.path(),
            base: &spec.base,
            mirror: folders.mirror.as_ref().map(Mirror::base),
            dep_file: point.parsed.stage.reads().files.then_some(&*dep_file),
            checkpoint: checkpoint.as_deref(),
            data_dirs,
            log_path: &log_path,
            progress: &progress,
            cancel,
            chain,
        };
        let made = match job.options.threads.and_then(own_pool) {
            None => point.parsed.stage.run(&context),
            Some(pool) => pool.install(|| point.parsed.stage.run(&context)),
        };
        let left = folders.mirror.as_ref().map(Mirror::move_back).unwrap_or_default();
        if !left.is_empty() {
            let names = left.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
            progress.log(&format!("written by the program, but could not be moved from its mirror: {names}"));
        }
        if let (Err(_), Some(checkpoint)) = (&made, &folders.checkpoint) {
            // If this fails, the next attempt judges the files by their times.
            let found = folders.scan(self.context.store).and_then(|scan| scan.files_read(&folders.dep_file()).ok());
            let _ = found.map(|found| checkpoint.remember(&found.digests));
        }
        let artifact = made?;
        self.check_files(job, folders.mirror.as_ref(), "while the stage ran")?;
        let files_read = self.files_read(job.point, &folders)?;
        Ok(StageRun { artifact, files_read, checkpoint: folders.checkpoint })
    }

    /// The files that a program read although the pipeline does not name them. Warns if one changed while it ran.
    fn files_read(&self, point: PointId, folders: &StageFolders) -> Result<BTreeMap<String, Digest>, StageError> {
        let Some(scan) = folders.scan(self.context.store) else { return Ok(BTreeMap::new()) };
        let what = format!("can't read which files `{}` read", self.context.name(point));
        let found = scan.files_read(&folders.dep_file()).map_err(StageError::io(what))?;
        if let [first, others @ ..] = &*found.changed {
            let name = self.context.name(point);
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            let message = format!("{first}{more} changed while `{name}` ran, so its result won't be reused");
            self.append_to_log(point, &message);
            self.context.listener.event(&Event::Warning { message });
        }
        Ok(found.digests)
    }

    /// Creates the folders that a stage needs while it runs.
    fn create_folders(&self, job: &Job, log_path: &Path) -> Result<StageFolders, StageError> {
        let RunContext { spec, store, .. } = self.context;
        let point = self.context.point(job.point);
        let all_scratch = store.dir().join("scratch");
        let failed = |folder: &Path| {
            let message = format!("can't create {}", folder.display());
            move |error| StageError::from(Error::storage(message).caused_by(error))
        };
        for folder in [log_path.parent().unwrap_or(Path::new(".")), &all_scratch] {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        let temporary = |suffix: &str| {
            let prefix = format!("{}-{suffix}", point.stage);
            tempfile::Builder::new().prefix(&prefix).tempdir_in(&all_scratch).map_err(failed(&all_scratch.join(prefix)))
        };
        let named = point.parsed.stage.program_files(&PipelineFiles { store, base: &spec.base })?;
        let started = FileTime::now();
        let mirror = match &named {
            Some(named) => {
                let copied = named.union(&self.read_before(job.point, named)?).cloned().collect();
                Some(Mirror::create(&spec.base, &copied, temporary("mirror-")?)?)
            }
            None => None,
        };
        if mirror.is_some() {
            self.check_files(job, mirror.as_ref(), "just before the stage started")?;
        }
        let named = job.components.contents.keys().filter_map(|name| Some(name.strip_prefix("file ")?.to_owned()));
        let named = named.collect();
        let mut folders = StageFolders { mirror, named, started, checkpoint: None, scratch: temporary("")? };
        if point.parsed.stage.uses_checkpoint()
            && let Some(scan) = folders.scan(store)
        {
            folders.checkpoint = Some(self.open_checkpoint(job, &scan)?);
        }
        Ok(folders)
    }

    /// The checkpoint of a program. Reports if an earlier attempt left files in it.
    fn open_checkpoint(&self, job: &Job, scan: &Scan<'_>) -> Result<Checkpoint, StageError> {
        let stage = self.context.name(job.point).to_owned();
        let key = job.components.declared().key();
        let checkpoint = Checkpoint::open(self.into.dir(), &key, self.run, job.options.fresh, scan)
            .map_err(StageError::io(format!("can't open the checkpoint of `{stage}`")))?;
        if let Some(run) = checkpoint.resumed.clone() {
            self.append_to_log(job.point, &format!("resuming from the checkpoint of run {run}"));
            self.context.listener.event(&Event::CheckpointFound { stage, run });
        }
        if let Some(file) = &checkpoint.changed {
            let message = format!("{file} changed: the checkpoint of `{}` was dropped", self.context.name(job.point));
            self.append_to_log(job.point, &message);
            self.context.listener.event(&Event::Warning { message });
        }
        Ok(checkpoint)
    }

    /// The small files that the program of a point read when it last ran. Copying them into the mirror protects the
    /// program from edits while it runs. Only files in folders that are real folders of the mirror anyway: what a
    /// program finds in the mirror must not depend on the run before.
    fn read_before(&self, point: PointId, named: &BTreeSet<String>) -> Result<BTreeSet<String>, StageError> {
        let RunContext { spec, store, .. } = self.context;
        let newest = store.newest(&spec.pipeline.name, self.context.name(point)).map_err(Error::from)?;
        let names = newest.into_iter().flat_map(|record| record.components.files_read.into_keys());
        let folders: BTreeSet<&Path> = named.iter().filter_map(|name| Path::new(name).parent()).collect();
        let is_in_real_folder = |name: &String| {
            Path::new(name).parent().is_some_and(|folder| folder == Path::new("") || folders.contains(folder))
        };
        let is_small = |name: &String| {
            fs::metadata(spec.base.join(name)).is_ok_and(|file| file.is_file() && file.len() <= MAX_COPIED_BYTES)
        };
        Ok(names.filter(is_in_real_folder).filter(is_small).collect())
    }

    /// The key contains the digests of files as they were at the look-up. If a file changed since, the result belongs
    /// to no key.
    fn check_files(&self, job: &Job, mirror: Option<&Mirror>, when: &str) -> Result<(), StageError> {
        let (store, stage) = (self.context.store, &self.context.point(job.point).parsed.stage);
        let now = match mirror {
            Some(mirror) => stage.contents(&mirror.files(store)),
            None => stage.contents(&PipelineFiles { store, base: &self.context.spec.base }),
        }?;
        let before = &job.components.contents;
        let changed = now.keys().chain(before.keys()).find(|name| now.get(*name) != before.get(*name));
        match changed {
            Some(name) => {
                let message = format!("{name} changed {when}: its result was not kept");
                Err(StageError::bad_input(message, "run again"))
            }
            None => Ok(()),
        }
    }

    /// The log of a point in this run.
    pub(crate) fn log_path(&self, point: PointId) -> PathBuf {
        let name = format!("{}.log", self.context.name(point));
        self.context.store.dir().join("logs").join(self.run).join(name)
    }

    /// Opens the log of a point, to append to it.
    pub(crate) fn open_log(&self, point: PointId) -> io::Result<File> {
        let path = self.log_path(point);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::options().create(true).append(true).open(path)
    }

    /// Appends lines to the log of a point. Errors are ignored, because the log is not a result.
    pub(crate) fn append_to_log(&self, point: PointId, lines: &str) {
        let _ = self.open_log(point).and_then(|mut log| writeln!(log, "{lines}"));
    }

    /// Appends an error to the log of a point.
    pub(crate) fn log_failure(&self, point: PointId, error: &Error) {
        let hint = error.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        self.append_to_log(point, &format!("failed: {}{hint}", error.with_causes()));
    }

    /// Stores the outputs of stages together. If one result may be at fault, stores each separately, so that
    /// it does not fail the others. Returns one record or error for each, in the same order.
    pub(crate) fn commit(&self, outputs: &[StageOutput]) -> Vec<Result<ResultRecord, Error>> {
        let stored = self.try_commit(outputs);
        let is_stored = stored.iter().zip(outputs).filter(|(result, _)| result.is_ok());
        is_stored.filter_map(|(_, output)| output.checkpoint.as_ref()).for_each(Checkpoint::remove);
        stored
    }

    fn try_commit(&self, outputs: &[StageOutput]) -> Vec<Result<ResultRecord, Error>> {
        match self.into.commit_all(outputs.iter().map(|output| self.new_result(output)).collect()) {
            Ok(records) => records.into_iter().map(Ok).collect(),
            // A full disk may have room for the small results.
            Err(StoreError::Full { .. } | StoreError::NotFound(_) | StoreError::Damaged { .. })
                if outputs.len() > 1 =>
            {
                let commit = |output| self.into.commit(self.new_result(output)).map_err(Error::from);
                outputs.iter().map(commit).collect()
            }
            Err(error) => {
                let error = Error::from(error);
                let copy = || Error { hint: error.hint.clone(), ..Error::new(error.category, error.with_causes()) };
                outputs.iter().map(|_| Err(copy())).collect()
            }
        }
    }

    fn new_result<'m>(&'m self, output: &'m StageOutput) -> NewResult<'m> {
        let RunContext { spec, compute, threads, .. } = self.context;
        let provenance = Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: compute.name.clone(),
            class: compute.numerics.clone(),
            threads,
            seconds: output.seconds,
            finished_at: 0,
            run: self.run.to_owned(),
            host: host_name(),
            program: self.context.point(output.point).parsed.stage.program(),
        };
        NewResult {
            pipeline: &spec.pipeline.name,
            point: self.context.name(output.point),
            components: &output.components,
            artifact: &output.artifact,
            provenance,
        }
    }
}

/// A pool for one stage. `None` if the system refuses threads: the stage then shares those of the process, and its
/// result is the same.
fn own_pool(threads: usize) -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()
}
