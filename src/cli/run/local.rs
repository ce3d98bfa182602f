//! `run --on local:N`: several workers on this machine.
//!
//! The workers are ordinary `vadpipe worker` processes on one shared store. At the end, the ordinary run on the
//! project's own cache pulls what they have made, runs what is missing, and writes the reports.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::fleet::Fleet;
use super::gathering::{Gathering, push};
use crate::cli::project::Project;
use crate::cli::session::own_program;
use crate::cli::shared::open_folder;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::exec::{self, Capacity, RunContext, check_resources, fill, pull_states};
use crate::plan::Plan;
use crate::shared::{SharedStore, Transfer};
use crate::stage::Device;
use crate::status::RunStatus;
use crate::store::new_run_id;

/// The time between two signs of life of a worker, in seconds. The workers see at once when one of them dies.
const HEARTBEAT: &str = "2";
/// A worker that has nothing to do may be needed when another one dies. Longer than any run, in seconds.
const IDLE: &str = "31536000";

/// The workers of a run.
pub(super) struct Workers<'a> {
    /// How many.
    pub(super) count: u16,
    /// Cores of each.
    pub(super) threads: usize,
    /// Bytes of memory of each.
    pub(super) memory: u64,
    /// The arguments of `vadpipe worker` that all of them get.
    pub(super) arguments: Vec<OsString>,
    /// The address of the shared store, if the command line names it.
    pub(super) store: Option<&'a str>,
    pub(super) ui: &'a Ui,
}

impl Workers<'_> {
    /// The share of a worker in these GPUs.
    fn share(&self, gpus: &[String], worker: usize) -> String {
        let share: Vec<&str> = gpus.iter().skip(worker).step_by(self.count.into()).map(String::as_str).collect();
        share.join(",")
    }
}

/// Runs the pipeline in workers. `context` may have a shared store.
pub(super) fn run(
    workers: &Workers<'_>,
    project: &Project,
    context: &RunContext<'_>,
    options: &exec::Options<'_>,
) -> Result<exec::Outcome> {
    let planner = project.planner(options.forced);
    let (plan, _) = fill(context, &planner, &|| options.plan(&planner))?;
    if plan.is_complete() {
        return exec::run(context, options);
    }
    check(workers, project, &plan)?;
    // Makes the folder a cache, before anything else is in it.
    let _at_work = project.store.at_work()?;
    let own = match context.shared {
        Some(shared) if shared.writes() => None,
        _ => Some(OwnStore::open(project.store.dir())?),
    };
    let shared = own.as_ref().map(|own| &own.shared).or(context.shared);
    let Some(shared) = shared else { return exec::run(context, options) };
    let id = new_run_id();
    push(project, &plan, (shared, &id), &Transfer::silent(&|| context.cancel.is_cancelled()))?;
    let store = own.as_ref().map(|own| own.folder.as_os_str()).or(workers.store.map(OsStr::new));
    let outcome =
        run_over((workers, store, &id), (project, &plan), &RunContext { shared: Some(shared), ..*context }, options)?;
    if let Some(own) = own.filter(|_| outcome.status == RunStatus::Ok) {
        // The next run may extend the trainings.
        let plan = options.plan(&planner)?;
        pull_states(context, &own.shared, &plan)?;
        own.remove();
    }
    Ok(outcome)
}

/// Refuses a plan with a stage that no worker can run.
///
/// # Errors
/// As [`check_resources`].
pub(super) fn check(workers: &Workers<'_>, project: &Project, plan: &Plan) -> Result<()> {
    let owner = format!("a worker of `--on local:{}`", workers.count);
    let gpus = shared_gpus(project).map(|gpus| gpus.len().div_ceil(usize::from(workers.count)));
    let capacity = Capacity { cpus: Some(workers.threads), memory: workers.memory, gpus, owner: &owner };
    check_resources(&project.spec, plan, &project.compute, capacity)
}

/// The GPUs that the workers share out, if a program needs any. A pipeline that computes on a GPU itself names it by
/// its number among all of them, so its workers get all.
fn shared_gpus(project: &Project) -> Option<&[String]> {
    let needs_gpus = project.wanted.iter().any(|point| project.spec.point(*point).parsed.stage.gpus() > 0);
    (needs_gpus && project.compute.device == Device::Cpu).then(|| project.compute.gpus().ids.as_slice())
}

/// Runs a plan in workers over the shared store of `context`, whose address is `store` if the workers don't know it,
/// and then as an ordinary run, which takes what the workers have made.
fn run_over(
    (workers, store, id): (&Workers<'_>, Option<&OsStr>, &str),
    (project, plan): (&Project, &Plan),
    context: &RunContext<'_>,
    options: &exec::Options<'_>,
) -> Result<exec::Outcome> {
    let gathering = Gathering::start(id, jiff::Timestamp::now().as_millisecond(), context, options, plan)?;
    let folder = tempfile::Builder::new().prefix("vadpipe-workers-").tempdir();
    let folder = folder.map_err(|e| Error::storage("can't create a folder for the workers").caused_by(e))?;
    let (program, gpus) = (own_program()?, shared_gpus(project));
    let command = |index: usize, name: &str, cache: &Path| {
        let mut command = Command::new(&program);
        if let Some(share) = gpus.map(|gpus| workers.share(gpus, index)) {
            command.env("CUDA_VISIBLE_DEVICES", share);
        }
        command.args(["worker", "--json", "--attached", "--heartbeat", HEARTBEAT, "--idle", IDLE]);
        command.args(["--part-of", id, "--name", name]).arg("--cache").arg(cache);
        command.args(store.iter().flat_map(|store| ["--store".as_ref(), *store])).args(&workers.arguments);
        command
    };
    Fleet {
        command: &command,
        folder: folder.path(),
        run: id,
        logs: &project.store.dir().join("logs").join(id),
        keep_going: options.keep_going,
        cancel: context.cancel,
        merged: &gathering.merged,
    }
    .run(workers.count)?;
    gathering.finish(project, context, options, workers.ui)
}

/// The store of the workers if the user names none. It stays if the run does not succeed, so that the next one goes on
/// from there.
struct OwnStore {
    folder: PathBuf,
    shared: SharedStore,
    /// Locked while it is in use: shared by all runs, exclusively to remove the store.
    lock: File,
}

/// The store of an earlier run with workers that was killed, to be read.
pub(super) fn left_store(cache: &Path) -> Result<Option<SharedStore>> {
    let folder = cache.join("workers/store");
    if !folder.is_dir() {
        return Ok(None);
    }
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    open_folder(&folder, false).map(Some)
}

impl OwnStore {
    fn open(cache: &Path) -> Result<Self> {
        let folder = cache.join("workers");
        let failed = |e| Error::storage(format!("can't create {}", folder.display())).caused_by(e);
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        lock.lock_shared().map_err(failed)?;
        let folder = std::path::absolute(folder.join("store")).map_err(failed)?;
        let shared = open_folder(&folder, true)?;
        // Nobody needs to know that it is new.
        shared.mark()?;
        shared.warnings();
        Ok(Self { shared, folder, lock })
    }

    /// Removes the store, unless another run uses it.
    fn remove(self) {
        // What stays is reused.
        let is_last = self.lock.unlock().is_ok() && self.lock.try_lock().is_ok();
        if is_last {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
