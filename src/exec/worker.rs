//! Runs one job: creates the context of its stage, catches panics, and stores the result.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::ClockId;
use tempfile::TempDir;

use crate::artifact::Artifact;
use crate::error::Error;
use crate::exec::chain::{ChainSettings, StoredChain};
use crate::exec::checkpoint::Checkpoint;
use crate::exec::context::RunContext;
use crate::exec::inputs::{DamagedInputs, stored_inputs};
use crate::exec::job::{Ended, Job, StartOptions};
use crate::exec::mirror::Mirror;
use crate::exec::program_chain::StoredProgramChain;
use crate::exec::progress::StageProgress;
use crate::exec::stage_folders::StageFolders;
use crate::id::PointId;
use crate::key::Components;
use crate::rng::Streams;
use crate::stage::{Cancel, Chain, Context, ProgramChain, StageError};
use crate::store::{FilesRead, NewResult, Provenance, ResultRecord, Store, StoreError, host_name};
use crate::system::Usage;

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
    /// The name of this machine in results, if it is not that of the system.
    pub host: Option<&'a str>,
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
}

/// The chain that a stage uses, if it is a training.
#[derive(Clone, Copy)]
pub(crate) enum StageChain<'a> {
    None,
    /// That of the cache.
    Stored(&'a StoredChain<'a>),
    /// A part of it, for a comparison.
    Replay(&'a dyn Chain),
    /// A part of the chain of a program.
    ProgramReplay(&'a dyn ProgramChain),
}

impl<'a> StageChain<'a> {
    fn of_tensors(self) -> Option<&'a dyn Chain> {
        match self {
            Self::Stored(chain) => Some(chain),
            Self::Replay(chain) => Some(chain),
            Self::None | Self::ProgramReplay(_) => None,
        }
    }

    /// A stored chain becomes that of a program only with the folders of the program.
    fn of_a_program(self) -> Option<&'a dyn ProgramChain> {
        if let Self::ProgramReplay(chain) = self { Some(chain) } else { None }
    }
}

/// What a stage made.
pub(crate) struct StageRun {
    pub artifact: Artifact,
    /// See [`Components::files_read`].
    files_read: FilesRead,
    /// To be removed when the result is stored.
    checkpoint: Option<Checkpoint>,
    /// What it used, if that is known.
    usage: Option<Usage>,
    /// Holds the files of the artifact that are on the disk.
    scratch: TempDir,
}

/// The output of a stage before it is stored.
pub(crate) struct StageOutput {
    pub point: PointId,
    components: Components,
    /// See [`Job::class`].
    class: String,
    artifact: Artifact,
    /// Removed when the result is stored.
    checkpoint: Option<Checkpoint>,
    /// Holds the files of the artifact that are on the disk. Removed on drop.
    _scratch: TempDir,
    /// How long the stage ran.
    seconds: f64,
    /// What it used, if that is known.
    usage: Option<Usage>,
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
        Self { context, into: context.store, run, checkpoint_interval, host: None }
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
            Ok(StageRun { artifact, files_read, checkpoint, usage, scratch: _scratch }) => {
                let seconds = started.elapsed().as_secs_f64();
                let components = Components { files_read, ..job.components };
                let (point, class) = (job.point, job.class);
                let output = StageOutput { point, components, class, artifact, checkpoint, _scratch, seconds, usage };
                return Ok(output);
            }
            Err(error) => error,
        };
        let is_out_of_memory = matches!(error, StageError::OutOfMemory(_));
        let rung = job.options.rung.filter(|_| at_rung.load(Ordering::Relaxed));
        let error = match (Ended::with(Error::from(error)), rung) {
            (Ended::Interrupted, Some(epoch)) => return Err(Ended::AtRung(epoch)),
            (Ended::Failed(error), _) => error,
            (ended, _) => return Err(ended),
        };
        self.log_failure(job.point, &error);
        let damaged = std::mem::take(&mut *damaged.lock().unwrap_or_else(PoisonError::into_inner));
        Err(match is_out_of_memory {
            _ if !damaged.is_empty() => Ended::Damaged(damaged, error),
            true => Ended::OutOfMemory(error),
            false => Ended::Failed(error),
        })
    }

    fn try_execute(&self, job: &Job, damaged: &DamagedInputs, at_rung: &AtomicBool) -> Result<StageRun, StageError> {
        let cancel = self.context.cancel.for_one();
        let chain = job.components.segments.as_ref().map(|_| {
            let states = job.components.chain();
            let settings = ChainSettings {
                result: job.components.declared().key_on(&states),
                states,
                resumable: self.context.spec.resumable(job.point, &job.class),
                kept: job.kept.clone(),
                interval: self.checkpoint_interval,
                fresh: job.options.fresh,
                rung: job.options.rung,
                cancel: cancel.clone(),
            };
            StoredChain::new(self.into, self.context.listener, self.context.name(job.point), settings)
        });
        let made = self.run_stage(job, damaged, chain.as_ref().map_or(StageChain::None, StageChain::Stored), &cancel);
        at_rung.store(chain.as_ref().is_some_and(StoredChain::is_at_rung), Ordering::Relaxed);
        let made = made?;
        let artifact = self.context.point(job.point).parsed.kind.declare(made.artifact)?;
        Ok(StageRun { artifact, ..made })
    }

    /// Runs a stage.
    pub(crate) fn run_stage(
        &self,
        job: &Job,
        damaged: &DamagedInputs,
        chain: StageChain<'_>,
        cancel: &Cancel,
    ) -> Result<StageRun, StageError> {
        let RunContext { spec, compute, data_dirs, listener, .. } = self.context;
        let point = self.context.point(job.point);
        let stage = &point.parsed.stage;
        let log_path = self.log_path(job.point);
        let folders = StageFolders::create(self.context, self.run, job, log_path.clone())?;
        let stored = if let StageChain::Stored(chain) = chain { Some(chain) } else { None };
        let program = stored.filter(|_| folders.mirror.is_some());
        let program = program.map(|chain| StoredProgramChain::new(chain, &folders, self.into));
        // Each process of a training program has a checkpoint of its own.
        let checkpoint = match stage.uses_checkpoint() && program.is_none() {
            true => folders.open_checkpoint(self.into.dir(), &job.components.declared().key())?,
            false => None,
        };
        let (dep_file, saved) = (folders.dep_file(checkpoint.as_ref()), checkpoint.as_ref().map(Checkpoint::files));
        let progress = StageProgress::new(listener, &point.name, stored, &log_path);
        let context = Context {
            version: job.components.version,
            inputs: stored_inputs(&self.context, job, damaged),
            streams: Streams::new(point.seed),
            precision: spec.pipeline.precision,
            device: &compute.device,
            gpus: &job.gpus,
            scratch: folders.scratch.path(),
            base: &spec.base,
            mirror: folders.mirror.as_ref().map(Mirror::base),
            dep_file: stage.reads().files.then_some(&*dep_file),
            checkpoint: saved.as_deref(),
            data_dirs,
            log_path: &log_path,
            progress: &progress,
            cancel,
            chain: chain.of_tensors(),
            program_chain: chain.of_a_program().or(program.as_ref().map(|chain| chain as &dyn ProgramChain)),
        };
        let (made, threads) = measured(job.options, || stage.run(&context));
        folders.move_back();
        if let (Err(_), Some(checkpoint)) = (&made, &checkpoint) {
            folders.remember(checkpoint);
        }
        let artifact = made?;
        folders.check_files("while the stage ran")?;
        let (files_read, checkpoint) = match program {
            Some(program) => program.finish(),
            None => (folders.files_read(checkpoint.as_ref())?, checkpoint),
        };
        let usage = progress.usage().map(|programs| programs.and(threads.unwrap_or_default())).or(threads);
        Ok(StageRun { artifact, files_read, checkpoint, usage, scratch: folders.scratch })
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
            class: output.class.clone(),
            threads,
            seconds: output.seconds,
            usage: output.usage,
            finished_at: 0,
            run: self.run.to_owned(),
            host: self.host.map_or_else(host_name, str::to_owned),
            program: self.context.point(output.point).parsed.stage.program(&spec.base),
            accepted: None,
            pulled: false,
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

/// The number of stages that this process has started.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Runs a stage with the threads that it gets. Also returns what its threads used, if that can be told apart from what
/// other stages use.
fn measured<T: Send>(options: StartOptions, stage: impl FnOnce() -> T + Send) -> (T, Option<Usage>) {
    let since = |before: Usage, now: Usage| Usage { cpu_seconds: now.cpu_seconds - before.cpu_seconds, ..now };
    if let Some(pool) = options.threads.and_then(own_pool) {
        STARTED.fetch_add(1, Ordering::Relaxed);
        let used = || pool.broadcast(|_| Usage::of_clock(ClockId::ThreadCPUTime)).into_iter().reduce(Usage::and);
        let before = used().unwrap_or_default();
        let made = pool.install(stage);
        return (made, used().map(|now| since(before, now)));
    }
    let before = Usage::of_clock(ClockId::ProcessCPUTime);
    let started = STARTED.fetch_add(1, Ordering::Relaxed) + 1;
    let made = stage();
    // Another one may have become ready meanwhile.
    let was_alone = options.is_alone && STARTED.load(Ordering::Relaxed) == started;
    (made, was_alone.then(|| since(before, Usage::of_clock(ClockId::ProcessCPUTime))))
}

/// A pool for one stage. `None` if the system refuses threads: the stage then shares those of the process, and its
/// result is the same.
fn own_pool(threads: usize) -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()
}
