//! Runs a plan.
//!
//! ```text
//! plan ─► RunState ◄──inputs── Driver ◄──events── Executor ─► Worker ─► Stage
//!         (pure)  ──commands─►        ──jobs────►
//! ```
//!
//! - `state`: decides what happens next. No I/O.
//! - `driver`: executes the decisions: look-ups, leases, events.
//! - `executor`: where jobs run: threads, or processes with `--isolate`.
//! - `worker`: runs one job and stores its result.
//! - `mirror`: the copy of the pipeline's folder in which programs run.
//! - `checkpoint`: what a program keeps until its result is stored.
//! - `files_read`: the files that a program read although its stage does not name them.
//! - `reporter`: converts decisions into events and errors.
//! - `filling`: completes the cache from the shared store before the run.
//! - `fetching`: asks the shared store during the run.
//! - `roots`: tells the shared store what the run needs.
//! - `claiming`: several workers on one shared store.
//! - `feed`: a worker's events for whoever watches the run.
//! - `run_files`: the files of a run that workers on other machines take part in.
//! - `run_log`: the run's record and its events.
//! - `reports`: writes the pages of report stages at the end.
//!
//! A result is durable when its stage is reported as finished, and a state when it is reported as saved. After an
//! interruption the next run continues from them.

mod chain;
mod checkpoint;
mod claiming;
mod context;
mod device;
mod driver;
mod executor;
mod feed;
mod fetching;
mod files_read;
mod filling;
mod inputs;
mod job;
mod kept;
mod mirror;
mod program_chain;
mod progress;
mod reporter;
mod reports;
mod resources;
mod roots;
mod run_files;
mod run_log;
mod stage_folders;
mod state;
mod verify;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::Scope;
use std::time::Instant;

pub use claiming::RunWorker;
pub use context::RunContext;
pub use device::choose;
pub use executor::process::{JobEnd, Message, WorkOrder};
pub use feed::{Feed, WorkerEnd};
pub use filling::{Filled, fill, plan_with_store, pull_states};
pub use resources::{Capacity, check_resources};
pub use roots::stored_states;
pub use run_files::{Relocation, RunFiles};
pub(crate) use run_log::{RunInfo, RunLog};
pub use verify::{Difference, Part, ProgramVerdict, Sample, Sampled, Stretch, Verification, verify};

use crate::error::{Category, Error, Result};
use crate::event::{Event, Listener, VERSION};
use crate::exec::driver::Driver;
use crate::exec::executor::Executor;
use crate::exec::executor::local::LocalExecutor;
use crate::exec::executor::process::ProcessExecutor;
use crate::exec::executor::sharing::SharingExecutor;
use crate::exec::fetching::Fetcher;
use crate::exec::resources::{Demand, Gpus, ResourcePool};
use crate::exec::roots::{RootOwner, put_root};
use crate::exec::run_log::StageEnd;
use crate::exec::state::point::{Dependencies, RoleInput};
use crate::exec::state::table::PointTable;
use crate::exec::state::{Planned, Policy, RunState};
use crate::exec::worker::Worker;
use crate::id::PointId;
use crate::key::{Key, StoredResult};
use crate::plan::{Decision, Plan, Planner, State};
use crate::shared::HEARTBEAT;
use crate::stage::Device;
use crate::status::{RunStatus, StageStatus};
use crate::store::{RunLabel, new_run_id};
use crate::system::set_up_heap_for_work;

/// The options of a run.
pub struct Options<'a> {
    /// The points to make, including all points that they depend on.
    pub wanted: &'a BTreeSet<PointId>,
    /// The points to execute even if they are cached.
    pub forced: &'a BTreeSet<PointId>,
    /// The maximum number of stages that run at a time, without those that have GPUs of their own.
    pub jobs: usize,
    /// Continue with the stages that do not depend on a failed stage.
    pub keep_going: bool,
    /// Wait for keys that other processes compute.
    pub wait: bool,
    /// This process as one of several workers, which leave out what others run. It needs a shared store that it may
    /// write to, and writes no reports. `None` for a run by itself.
    pub worker: Option<RunWorker<'a>>,
    /// The run that this one is a part of. `None` for a run by itself.
    pub part_of: Option<PartOf<'a>>,
    /// The program that runs each stage in a process of its own (`vadpipe`, or one with the same stage kinds). `None`
    /// to run stages in threads of this process.
    pub isolate: Option<&'a Path>,
    /// The folder for reports.
    pub reports: &'a Path,
    /// The pipeline's file as given, for the record.
    pub file: &'a str,
    /// The command line after the program's name, for the record.
    pub args: &'a [String],
    /// Its name, its note and its commit, for the record.
    pub label: &'a (dyn Fn() -> RunLabel + Sync),
}

/// A run that several workers share.
#[derive(Clone, Copy, Debug)]
pub struct PartOf<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it started, in Unix milliseconds.
    pub started_at: i64,
    /// The events of its workers so far. What they ran counts as run, and what failed in them does not run again.
    pub events: &'a [Event],
}

impl<'a> PartOf<'a> {
    /// Counts the points that its workers ran as run, not as cached.
    fn count_what_ran(self, context: &RunContext<'_>, ends: &mut [StageEnd]) {
        let stage =
            |event: &'a Event| if let Event::StageFinished { stage, .. } = event { Some(&**stage) } else { None };
        let ran: BTreeSet<&str> = self.events.iter().filter_map(stage).collect();
        for end in ends.iter_mut().filter(|end| end.status == StageStatus::Cached) {
            if ran.contains(context.name(end.point)) {
                end.status = StageStatus::Executed;
            }
        }
    }

    /// The points that failed in its workers.
    fn failed(self) -> BTreeMap<&'a str, Error> {
        let failure = |event: &'a Event| match event {
            Event::StageFailed { stage, error, hint, .. } => {
                Some((&**stage, Error { hint: hint.clone(), ..Error::new(Category::StageFailed, error) }))
            }
            _ => None,
        };
        self.events.iter().filter_map(failure).collect()
    }
}

impl Options<'_> {
    /// Plans the wanted points with what the cache has.
    ///
    /// # Errors
    /// As [`Planner::plan`], or with `keep_going` as [`Planner::plan_around`].
    pub fn plan(&self, planner: &Planner<'_>) -> Result<Plan> {
        if self.keep_going { planner.plan_around(self.wanted) } else { planner.plan(self.wanted) }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// [`RunStatus::Ok`] if all wanted points have a result or are pruned.
    pub status: RunStatus,
    /// The run's id.
    pub run: String,
    /// The first failure, which decides the exit code.
    pub error: Option<Error>,
    /// The point for which this worker had too little memory, so that it left.
    pub lacked_memory: Option<String>,
}

/// Makes the wanted points. A failed stage is reported in the outcome, not as an error.
///
/// # Errors
/// If the cache fails, another process holds it and the run must not wait, or a report can't be written.
pub fn run(context: &RunContext<'_>, options: &Options<'_>) -> Result<Outcome> {
    let started = Instant::now();
    let (spec, compute) = (context.spec, context.compute);
    let planner = context.planner(options.forced);
    let (plan, filled) = fill(context, &planner, &|| options.plan(&planner))?;
    if !plan.is_complete() {
        set_up_heap_for_work();
    }
    // The workers of a run have other resources than this machine.
    if options.worker.is_none() && options.part_of.is_none() {
        check_resources(spec, &plan, compute, Capacity::of_run(context.memory))?;
    }
    let id = options.part_of.map_or_else(new_run_id, |part| part.id.to_owned());
    let started_at = options.part_of.map_or_else(|| jiff::Timestamp::now().as_millisecond(), |part| part.started_at);
    let log = RunLog::start(
        *context,
        RunInfo { id: &id, file: options.file, args: options.args, label: options.label, started_at },
        &plan,
    )?;
    options.part_of.into_iter().for_each(|part| log.note(part.events));
    log.event(&run_started(context, &id, &plan));
    let asked = report(&log, filled);
    let worker = options.worker.map(|worker| worker.owner.id());
    let owner = RootOwner { run: &id, worker, is_part: options.part_of.is_some() };
    put_root(context, owner, &plan, &[])?;
    // An error cancels the stages of this run, but not later work of the caller.
    let cancel = context.cancel.for_one();
    let worker = Worker::new(RunContext { listener: &log, cancel: &cancel, ..*context }, &id);
    let worker = Worker { host: options.worker.map(|worker| worker.owner.name.as_str()), ..worker };
    let state = RunState::new(table(context, options, &plan), policy(options), plan.bracket.clone());
    let mut driver = Driver::new(&planner, worker, &log, state);
    driver.set_worker(options.worker);
    let worked = std::thread::scope(|scope| {
        let worked = execute(scope, &mut driver, worker, options, &plan, asked);
        // Otherwise the scope waits for its thread.
        driver.stop_fetching();
        worked
    });
    driver.finish();
    log.warn_of_the_store();
    let mut ends = driver.ends();
    put_root(context, owner, &plan, &ends)?;
    if let Some(part) = options.part_of {
        part.count_what_ran(context, &mut ends);
    }
    let status = match &worked {
        Ok(()) => status(&ends, driver.error(), context.cancel.is_cancelled() || driver.has_left()),
        Err(error) if error.category == Category::Interrupted => RunStatus::Interrupted,
        Err(_) => RunStatus::Failed,
    };
    log.event(&finished(context, &ends, status, &log, started));
    let recorded = log.end(&ends, status);
    worked?;
    recorded?;
    let lacked_memory = driver.lacked_memory().map(|point| context.name(point).to_owned());
    let (error, state) = driver.into_parts();
    free_in_background((plan, state));
    Ok(Outcome { status, error, run: id, lacked_memory })
}

/// Frees thousands of small blocks, which takes milliseconds, while the caller goes on.
fn free_in_background(garbage: impl Send + 'static) {
    // If the system refuses a thread, they are freed here.
    let _ = std::thread::Builder::new().spawn(move || drop(garbage));
}

/// The first event of a run.
pub fn run_started(context: &RunContext<'_>, run: &str, plan: &Plan) -> Event {
    let RunContext { spec, compute, threads, .. } = *context;
    Event::RunStarted {
        version: VERSION,
        run: run.to_owned(),
        pipeline: spec.pipeline.name.clone(),
        stages: plan.decisions.len(),
        device: compute.name.clone(),
        numerics: compute.numerics.clone(),
        threads,
    }
}

/// Runs the stages of a plan. The shared store was `asked` for these keys.
fn execute<'scope>(
    scope: &'scope Scope<'scope, '_>,
    driver: &mut Driver<'_>,
    worker: Worker<'scope>,
    options: &'scope Options<'_>,
    plan: &Plan,
    asked: BTreeSet<Key>,
) -> Result<()> {
    let mut executor: Box<dyn Executor> = match options.isolate {
        Some(program) => Box::new(ProcessExecutor::new(scope, worker, program)),
        None => Box::new(LocalExecutor::new(scope, worker)?),
    };
    if let Some(shared) = worker.context.shared {
        driver.fetch_with(Fetcher::start(scope, worker.context, shared, options.worker)?, asked);
        if shared.writes() {
            let heartbeat = options.worker.map_or(HEARTBEAT, |worker| worker.owner.period);
            executor = Box::new(SharingExecutor::new(scope, executor, worker.context, shared, heartbeat)?);
        }
    }
    let reports = Some(options.reports).filter(|_| options.worker.is_none());
    let mut failed = options.part_of.map(PartOf::failed).unwrap_or_default();
    let mut planned = |d: &Decision| match planned(d) {
        Planned::Open => failed.remove(worker.context.name(d.point)).map_or(Planned::Open, Planned::Failed),
        planned => planned,
    };
    let known = plan.decisions.iter().map(|d| (d.point, planned(d))).collect();
    work(driver, &worker, known, reports, &mut *executor)
}

/// Reports what was copied from the shared store. Returns the keys that were asked for.
fn report(log: &RunLog<'_>, filled: Filled) -> BTreeSet<Key> {
    let is_empty = filled.is_empty();
    let Filled { results, states, bytes, warnings, asked } = filled;
    warnings.into_iter().for_each(|message| log.event(&Event::Warning { message }));
    if !is_empty {
        log.event(&Event::Pulled { results, states, bytes });
    }
    asked
}

fn policy(options: &Options<'_>) -> Policy {
    Policy { forced: options.forced.clone(), keep_going: options.keep_going, wait: options.wait }
}

fn table(context: &RunContext<'_>, options: &Options<'_>, plan: &Plan) -> PointTable {
    let spec = context.spec;
    let wanted: BTreeSet<PointId> = plan.decisions.iter().map(|d| d.point).collect();
    let roles = |id: PointId| match wanted.contains(&id) {
        true => spec.point(id).inputs.values().map(RoleInput::of).collect(),
        false => Vec::new(),
    };
    let dependencies = Dependencies {
        roles: spec.point_ids().map(roles).collect(),
        order: plan.decisions.iter().map(|d| d.point).collect(),
    };
    let device = match context.compute.device {
        Device::Cuda { ordinal, .. } => Some(ordinal),
        Device::Cpu => None,
    };
    // Otherwise the GPUs are not looked up.
    let has_gpus = spec.points.iter().any(|point| point.parsed.stage.gpus() > 0);
    let gpus = Gpus { count: if has_gpus { context.compute.gpus().ids.len() } else { 0 }, device };
    let pool = ResourcePool::within_limits(context.threads, options.jobs, gpus).with_memory(context.memory);
    let mut demands = pool.demands(spec);
    if let Some(worker) = options.worker {
        // They do not run here, so looking for their results must not wait until the others leave room for them.
        let lacking = plan.decisions.iter().map(|d| d.point).filter(|point| worker.lack(context, *point).is_some());
        lacking.for_each(|point| demands[point.index()] = Demand::default());
    }
    let mut table = PointTable::new(dependencies, &demands, pool);
    if let Some(worker) = options.worker {
        let continues = |d: &Decision| d.epochs.is_some_and(|epochs| epochs.cached > 0);
        table.start_in_order(
            worker.order(plan.decisions.iter().map(|d| (d.point, context.name(d.point), continues(d)))),
        );
    }
    table
}

fn planned(decision: &Decision) -> Planned {
    let cause = decision.reason.as_ref().and_then(|reason| reason.causes.first());
    match (decision.state, decision.key, decision.output, cause) {
        (State::Hit, Some(key), Some(output), _) => Planned::Hit(StoredResult { key, output }),
        (State::Pruned, key, _, Some(cause)) => Planned::Pruned { key, cause: cause.clone() },
        _ => Planned::Open,
    }
}

/// Runs the stages and writes the reports. Results that are lost during the run are made again.
fn work(
    driver: &mut Driver<'_>,
    worker: &Worker<'_>,
    plan: Vec<(PointId, Planned)>,
    reports: Option<&Path>,
    executor: &mut dyn Executor,
) -> Result<()> {
    driver.run(plan, executor)?;
    loop {
        // Each point is repaired a limited number of times, so this loop ends.
        while driver.remake_lost(executor)? {}
        let Some(reports) = reports else { return Ok(()) };
        let damaged = reports::write_reports(&worker.context, driver, worker.run, reports)?;
        if !driver.remake(damaged, executor)? && !driver.remake_lost(executor)? {
            return Ok(());
        }
    }
}

fn status(ends: &[StageEnd], error: Option<&Error>, interrupted: bool) -> RunStatus {
    let storage_failed = error.is_some_and(|e| e.category == Category::Storage);
    let is_fine =
        |end: &StageEnd| matches!(end.status, StageStatus::Cached | StageStatus::Executed | StageStatus::Pruned);
    if ends.iter().all(is_fine) {
        RunStatus::Ok
    } else if interrupted && !storage_failed {
        RunStatus::Interrupted
    } else {
        RunStatus::Failed
    }
}

fn finished(
    context: &RunContext<'_>,
    ends: &[StageEnd],
    status: RunStatus,
    log: &RunLog<'_>,
    started: Instant,
) -> Event {
    let with_result = ends.iter().filter(|end| matches!(end.status, StageStatus::Executed | StageStatus::Cached));
    let (mut epochs, mut epochs_trained) = (0, 0);
    for end in with_result {
        let total = context.point(end.point).parsed.stage.epochs().map_or(0, |epochs| epochs.total());
        epochs += total;
        epochs_trained += log.epochs_trained(context.name(end.point)).min(total);
    }
    let named = |status: StageStatus| {
        let ends = ends.iter().filter(|end| end.status == status);
        ends.map(|end| context.name(end.point).to_owned()).collect()
    };
    Event::RunFinished {
        status,
        run: log.run(),
        executed: named(StageStatus::Executed),
        cached: named(StageStatus::Cached),
        failed: named(StageStatus::Failed),
        skipped: named(StageStatus::Skipped),
        pruned: named(StageStatus::Pruned),
        epochs_trained,
        epochs_cached: epochs - epochs_trained,
        seconds: started.elapsed().as_secs_f64(),
    }
}
