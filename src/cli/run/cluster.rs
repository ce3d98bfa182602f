//! `run --on slurm`: workers on the nodes of a cluster.
//!
//! The pipeline and its files are pushed as a run, so that edits while jobs wait change nothing. The workers are
//! ordinary `vadpipe worker --run ID` processes. At the end, the ordinary run on the project's own cache pulls what
//! they have made and writes the reports. It reads the files of the run, too, and not those that were edited since.
//!
//! A file in the cache says which run of the store it is. The same command finds it again, after a crash or
//! `--detach`, and goes on.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gathering::{Gathering, push};
use super::jobs::{Course, Jobs};
use crate::cli::args::{Global, PipelineArgs};
use crate::cli::project::Project;
use crate::cli::shared::transfer_bar;
use crate::cli::slurm::{Client, Site};
use crate::cli::ui::{Ui, count};
use crate::error::{Category, Error, Result};
use crate::exec::{self, Relocation, RunContext, RunFiles, fill};
use crate::file;
use crate::key::{Digest, Hash};
use crate::plan::{Plan, some_of};
use crate::shared::{SharedRun, SharedStore, Transfer};
use crate::store::new_run_id;

/// The largest file about a run.
const MAX_BYTES: u64 = 1 << 20;

/// A run on a cluster, as the command line asks for it.
pub(super) struct Cluster<'a> {
    pub(super) site: Site,
    /// Whether to leave when the first workers are submitted.
    pub(super) detach: bool,
    pub(super) pipeline: &'a PipelineArgs,
    pub(super) global: &'a Global,
    /// The options of a worker, without those that say which run and which store.
    pub(super) arguments: Vec<String>,
    /// The address of the store.
    pub(super) store: String,
    /// Where vadpipe is on this machine.
    pub(super) program: String,
    pub(super) ui: &'a Ui,
}

/// What a file in the cache says about a run on a cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cli) struct ClusterRun {
    /// The id of the run.
    pub(in crate::cli) run: String,
    /// When it started, in Unix milliseconds.
    started_at: i64,
    /// Its pipeline's file.
    pub(in crate::cli) file: PathBuf,
}

impl ClusterRun {
    /// Those in a cache, with the files that say so.
    pub(in crate::cli) fn all(cache: &Path) -> Vec<(PathBuf, Self)> {
        let files = fs::read_dir(folder(cache)).into_iter().flatten().flatten().map(|file| file.path());
        let read = |path: PathBuf| {
            let run = serde_json::from_slice(&file::read(&path, MAX_BYTES).ok()?).ok()?;
            Some((path, run))
        };
        files.filter_map(read).collect()
    }
}

/// The name of the jobs of a run.
pub(in crate::cli) fn job_name(run: &str) -> String {
    format!("vadpipe-{run}")
}

/// The folder for runs on clusters in a cache.
fn folder(cache: &Path) -> PathBuf {
    cache.join("workers").join("slurm")
}

/// Runs the pipeline on the cluster. `None` if it goes on without this process.
pub(super) fn run(
    cluster: &Cluster<'_>,
    project: &Project,
    context: &RunContext<'_>,
    options: &exec::Options<'_>,
) -> Result<Option<exec::Outcome>> {
    let client = Client::new(&cluster.site);
    client.check()?;
    let Some(shared) = context.shared.filter(|shared| shared.writes()) else {
        let hint = "give --store URL --store-write, or set `url` and `write` under [store] in the configuration";
        return Err(Error::bad_input("the workers need a shared store that they may write to").hint(hint));
    };
    let planner = project.planner(options.forced);
    let (plan, _) = fill(context, &planner, &|| options.plan(&planner))?;
    // Makes the folder a cache, before anything else is in it.
    let _at_work = project.store.at_work()?;
    let Some(note) = cluster.prepare((project, &plan), shared, context)? else {
        return exec::run(context, options).map(Some);
    };
    let scratch = tempfile::Builder::new().prefix("vadpipe-run-").tempdir();
    let scratch = scratch.map_err(|e| Error::storage("can't create a folder for the files of the run").caused_by(e))?;
    let relocation = Relocation::lay_out(&shared.run(&note.content.run)?, shared, scratch.path())?;
    let pipeline = PipelineArgs { file: relocation.pipeline.clone(), ..cluster.pipeline.clone() };
    let copy = project.in_another_folder(&pipeline, cluster.global)?;
    let (spec, graph, compute) = (&copy.spec, &copy.graph, &copy.compute);
    let context = RunContext { spec, graph, compute, relocation: Some(&relocation), ..*context };
    let options = exec::Options { wanted: &copy.wanted, ..*options };
    cluster.run_jobs(&client, note, (&copy, shared), &context, &options)
}

impl Cluster<'_> {
    /// Says that a run goes on, and which of its files were edited since.
    fn say_that_it_goes_on(&self, run: &SharedRun, now: &SharedRun) {
        let edited: Vec<String> = run
            .files
            .iter()
            .filter(|(name, file)| now.files.get(*name) != Some(file))
            .map(|(name, _)| name.clone())
            .collect();
        let id = &run.id;
        self.ui.note(&match edited.is_empty() {
            true => format!("run {id} goes on"),
            false => format!(
                "run {id} goes on with its files as they were, without later edits of {}; `vadpipe cancel {id}` ends it",
                some_of(&edited)
            ),
        });
    }

    /// Runs the workers of a run, whose files are those of `project`, and gathers what they have made.
    fn run_jobs(
        &self,
        client: &Client<'_>,
        note: Note,
        (project, shared): (&Project, &SharedStore),
        context: &RunContext<'_>,
        options: &exec::Options<'_>,
    ) -> Result<Option<exec::Outcome>> {
        let ClusterRun { run, started_at, .. } = &note.content;
        let planner = project.planner(options.forced);
        let replan = || fill(context, &planner, &|| options.plan(&planner)).map(|(plan, _)| plan);
        // The cache has been filled already.
        let plan = options.plan(&planner)?;
        let cache = std::path::absolute(project.store.dir()).unwrap_or_else(|_| project.store.dir().to_owned());
        let outputs = folder(&cache).join(run);
        fs::create_dir_all(&outputs).map_err(|e| cannot_write(&outputs, e))?;
        let first = ["worker", "--run", run, "--store", &self.store].map(str::to_owned);
        let arguments: Vec<String> = first.into_iter().chain(self.arguments.iter().cloned()).collect();
        let jobs = Jobs {
            project,
            site: &self.site,
            client,
            shared,
            run,
            name: &job_name(run),
            outputs: &outputs,
            logs: &cache.join("logs").join(run),
            arguments: &arguments,
            program: &self.program,
            keep_going: options.keep_going,
            is_cancelled: &|| !note.path.exists(),
            cancel: context.cancel,
        };
        let mut course = Course::new(&jobs, &plan);
        if self.detach {
            let workers = count(jobs.submit_only(&mut course)?, "worker");
            self.ui.text(&format!(
                "run {run}: {workers} wait or run; the same command without --detach shows it, replaces workers and \
                 gathers the results, and `vadpipe cancel {run}` ends it"
            ));
            return Ok(None);
        }
        let gathering = Gathering::start(run, *started_at, context, options, &plan)?;
        if let Err(error) = jobs.run(&mut course, &gathering.merged, &replan) {
            // If they can't be stopped, the next command finds them.
            if client.stop(jobs.name).is_ok() {
                note.remove();
            }
            return Err(error);
        }
        if !context.cancel.is_cancelled() && !course.has_failures() {
            require_all(&replan()?)?;
        }
        let outcome = gathering.finish(project, context, options, self.ui)?;
        note.remove();
        Ok(Some(outcome))
    }

    /// Finds the run that goes on, or pushes a new one. `None` if nothing is left to run, and no workers are there.
    fn prepare(
        &self,
        (project, plan): (&Project, &Plan),
        shared: &SharedStore,
        context: &RunContext<'_>,
    ) -> Result<Option<Note>> {
        let files = RunFiles::find(&project.spec, &self.pipeline.file)?;
        let run = files.run(new_run_id(), self.pipeline.targets.clone(), self.pipeline.set.clone())?;
        let file = std::path::absolute(&self.pipeline.file).unwrap_or_else(|_| self.pipeline.file.clone());
        let others = ClusterRun::all(project.store.dir());
        let digest = digest(&run, &files.named, &self.store);
        let mut note = Note::open(&folder(project.store.dir()), &digest, &run.id, file.clone())?;
        if note.is_found {
            self.say_that_it_goes_on(&shared.run(&note.content.run)?, &run);
            return Ok(Some(note));
        }
        if plan.is_complete() {
            note.remove();
            return Ok(None);
        }
        for (_, other) in others.iter().filter(|(_, other)| other.file == file) {
            let ClusterRun { run, .. } = other;
            self.ui.note(&format!("run {run} of other files or targets goes on; `vadpipe cancel {run}` ends it"));
        }
        files.warnings.iter().for_each(|warning| self.ui.warn(warning));
        let show = transfer_bar(self.ui, "pushing (kB)");
        let cancelled = || context.cancel.is_cancelled();
        let transfer = Transfer::new(&cancelled, &show);
        push(project, plan, (shared, &run.id), &transfer)?;
        shared.put_run(&run, &|name| files.read(name), &transfer)?;
        // From now on, jobs may be submitted that the next command has to find.
        note.keep()?;
        Ok(Some(note))
    }
}

/// Fails if a plan would run anything. It would run here, and a login node is not the place for it.
fn require_all(plan: &Plan) -> Result<()> {
    if plan.is_complete() {
        return Ok(());
    }
    let left = count(plan.open().count(), "result");
    let message = format!("the workers have ended, but the store lacks {left}");
    Err(Error::storage(message).hint("run the same command again: it goes on from there"))
}

/// Tells runs of different pipelines, targets, values and stores apart, and of different contents of the files that the
/// pipeline names. Other files may change for any reason.
fn digest(run: &SharedRun, named: &BTreeSet<String>, store: &str) -> Digest {
    let mut hash = Hash::new("run on a cluster");
    hash.text(&run.folder).text(&run.pipeline).text(store);
    for list in [&run.targets, &run.set] {
        hash.text(&format!("{list:?}"));
    }
    for (name, file) in run.files.iter().filter(|(name, _)| named.contains(*name)) {
        hash.text(name).digest(&file.blob.digest);
    }
    hash.finish()
}

/// The file about a run, locked.
struct Note {
    path: PathBuf,
    file: File,
    content: ClusterRun,
    /// Whether the run goes on.
    is_found: bool,
}

impl Note {
    /// Opens that of the run with this digest. A new run has this id.
    fn open(folder: &Path, digest: &Digest, id: &str, pipeline: PathBuf) -> Result<Self> {
        let path = folder.join(format!("{}.json", digest.short()));
        fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(|e| cannot_write(&path, e))?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::new(Category::CacheHeld, "another vadpipe watches this run")
                .hint("`vadpipe log last --follow` shows what it does"));
        }
        let mut text = String::new();
        // A file that can't be read is that of a run that had not begun.
        let _ = (&mut file).take(MAX_BYTES).read_to_string(&mut text);
        let found: Option<ClusterRun> = serde_json::from_str(&text).ok();
        let is_found = found.is_some();
        let started_at = jiff::Timestamp::now().as_millisecond();
        let new = || ClusterRun { run: id.to_owned(), started_at, file: pipeline };
        Ok(Self { path, file, content: found.unwrap_or_else(new), is_found })
    }

    /// Lets the next command find the run.
    fn keep(&mut self) -> Result<()> {
        let text = serde_json::to_vec(&self.content).unwrap_or_default();
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write(&mut self.file).map_err(|e| cannot_write(&self.path, e))
    }

    /// The run has ended.
    fn remove(self) {
        // After `vadpipe cancel`, it may be that of the next run. If it stays, the next run finds that nothing is left.
        let found = fs::read(&self.path).ok().and_then(|text| serde_json::from_slice::<ClusterRun>(&text).ok());
        if found.is_none_or(|found| found.run == self.content.run) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::storage(format!("can't write {}", path.display())).caused_by(error)
}
