//! Runs a plan: scheduler, workers, cancellation, run records; and only sends events about it.
//!
//! [`run`] plans, starts what is not there, and ends with everything durable: results are committed as stages end, states
//! of trainings as they are saved, the run's record at its start and at its end. Whatever interrupts it, the next run
//! takes up from there.

mod chain;
mod crew;
mod device;
mod journal;
mod outcome;
mod overlay;
mod pinned;
mod pruning;
mod repair;
mod room;
mod schedule;
mod verify;
mod worker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use device::{Compute, choose};
pub use verify::{Difference, Part, Sample, Sampled, Stretch, Verification, Verifier};

use crate::error::{Category, Error, Result};
use crate::event::{Event, Listener, Status, VERSION};
use crate::exec::journal::Journal;
use crate::exec::outcome::Fate;
use crate::exec::schedule::{Scheduler, Wishes};
use crate::exec::worker::Shared;
use crate::graph::Graph;
use crate::plan::Planner;
use crate::spec::Spec;
use crate::stage::Cancel;
use crate::store::{Store, new_run_id};

/// What the user wants of a run.
pub struct Options<'a> {
    /// The points to make, with everything they need.
    pub wanted: &'a BTreeSet<usize>,
    /// The points to make again, whatever is there.
    pub forced: &'a BTreeSet<usize>,
    /// Stages at the same time.
    pub jobs: usize,
    /// Go on with what does not depend on a failure.
    pub keep_going: bool,
    /// Wait for keys that other processes compute.
    pub wait: bool,
    /// Worker threads, for the record.
    pub threads: usize,
    /// What computes.
    pub compute: &'a Compute,
    /// Where to look for data files.
    pub data_dirs: &'a [PathBuf],
    /// Where reports are written.
    pub reports: &'a Path,
    /// The pipeline's file as given, and the command line: for the record.
    pub file: &'a str,
    /// The command line after the program's name.
    pub args: &'a [String],
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// How.
    pub status: Status,
    /// The run's id.
    pub run: String,
    /// The first failure, which decides the exit code.
    pub error: Option<Error>,
}

/// Makes what is wanted. A stage's failure is in the outcome, not an error of this function.
///
/// # Errors
/// If the cache fails, is held and we don't wait, or a report can't be written.
pub fn run(
    spec: &Spec,
    graph: &Graph,
    store: &Arc<Store>,
    options: &Options<'_>,
    cancel: &Cancel,
    listener: &dyn Listener,
) -> Result<Outcome> {
    let started = Instant::now();
    // A run that fails stops what still runs, and not whatever the caller does next.
    let own = cancel.for_one();
    let compute = options.compute;
    let planner = Planner { spec, graph, store, numerics: &compute.numerics, forced: options.forced };
    let plan = if options.keep_going { planner.plan_around(options.wanted) } else { planner.plan(options.wanted) }?;
    let id = new_run_id();
    let journal = Journal::begin(store, &id, spec, options, &plan, listener)?;
    journal.event(&Event::RunStarted {
        version: VERSION,
        run: id.clone(),
        pipeline: spec.pipeline.name.clone(),
        stages: plan.decisions.len(),
        device: compute.name.clone(),
        numerics: compute.numerics.clone(),
        threads: options.threads,
    });
    let shared = Shared {
        spec,
        store,
        into: store,
        listener: &journal,
        compute,
        cancel: &own,
        data_dirs: options.data_dirs,
        run: &id,
        threads: options.threads,
        checkpoint_interval: Duration::try_from_secs_f64(spec.pipeline.checkpoint_seconds).unwrap_or(Duration::MAX),
    };
    let wishes =
        Wishes { forced: options.forced, jobs: options.jobs, keep_going: options.keep_going, wait: options.wait };
    let mut scheduler = Scheduler::new(&planner, &shared, wishes, &plan);
    let worked = work(&mut scheduler, &shared, &journal, options.reports);
    scheduler.skip_the_rest();
    journal.warn_of_the_store();
    let status = match &worked {
        Ok(()) => scheduler.status(cancel),
        Err(error) if error.category == Category::Interrupted => Status::Interrupted,
        Err(_) => Status::Failed,
    };
    journal.event(&finished(&scheduler, spec, &id, status, started));
    let kept = journal.end(&scheduler, status);
    worked?;
    kept?;
    let error = scheduler.error.take();
    Ok(Outcome { status, run: id.clone(), error })
}

/// Runs the stages and writes the reports. Results that turned out to be lost meanwhile are made again.
fn work(scheduler: &mut Scheduler<'_>, shared: &Shared<'_>, journal: &Journal<'_>, reports: &Path) -> Result<()> {
    scheduler.run()?;
    loop {
        // Each point is repaired only so often, so this ends.
        while scheduler.remake_lost(journal.warn_of_the_store())? {}
        overlay::write_reports(scheduler, shared, reports)?;
        if !scheduler.remake_lost(journal.warn_of_the_store())? {
            return Ok(());
        }
    }
}

fn finished(scheduler: &Scheduler<'_>, spec: &Spec, run: &str, status: Status, started: Instant) -> Event {
    let named = |wanted: fn(&Fate) -> bool| {
        let points = scheduler.order().iter().filter(|p| wanted(&scheduler.fates[p]));
        points.map(|p| spec.points[*p].name.clone()).collect()
    };
    Event::RunFinished {
        status,
        run: run.to_owned(),
        executed: named(|f| *f == Fate::Executed),
        cached: named(|f| *f == Fate::Cached),
        failed: named(|f| *f == Fate::Failed),
        skipped: named(|f| matches!(f, Fate::Skipped(_) | Fate::Waiting | Fate::Running)),
        pruned: named(|f| *f == Fate::Pruned),
        seconds: started.elapsed().as_secs_f64(),
    }
}
