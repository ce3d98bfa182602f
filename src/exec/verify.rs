//! Runs stages again without the cache and compares the bytes: the whole stage, or parts of a training's chain.

mod difference;
mod programs;
mod sample;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use programs::ProgramVerdict;
pub use sample::{Sample, Sampled, Stretch};
use verdict::NewVerdict;

use crate::error::{Error, Result};
use crate::exec::context::RunContext;
use crate::exec::executor::local::LocalExecutor;
use crate::exec::executor::{Executor, ExecutorEvent};
use crate::exec::job::{Job, JobInput, StartOptions};
use crate::exec::resources::gpus_for;
use crate::exec::worker::Worker;
use crate::id::PointId;
use crate::key::InputDigest;
pub use crate::store::{Difference, Part};
use crate::store::{Options, ResultRecord, Store, Verdict, new_run_id};

/// The outcome of running one point again.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The point.
    pub name: String,
    /// The first difference. `None` if every byte is the same.
    pub difference: Option<Difference>,
    /// The stretches that were trained again. `None` if the whole stage ran again.
    pub sampled: Option<Sampled>,
    /// What was found about a training program that ran again as a whole.
    pub program: Option<ProgramVerdict>,
    /// What is recorded about it.
    pub verdict: Verdict,
    /// The result that was made again, if the whole stage ran again.
    pub again: Option<ResultRecord>,
}

/// The longest wait for one event.
const TICK: Duration = Duration::from_millis(200);

/// Runs `points`, which must be cached, again from their cached inputs, into a temporary cache. With `sample`, trains
/// only this many stretches between stored states of each training. Records what it finds: see [`Store::verdicts`].
///
/// # Errors
/// If a point is not cached, a training has no stored state to compare with, or a stage fails.
pub fn verify(context: &RunContext<'_>, points: &[PointId], sample: Option<Sample>) -> Result<Vec<Verification>> {
    let RunContext { graph, store, .. } = *context;
    let forced = BTreeSet::new();
    let planner = context.planner(&forced);
    // Protects the temporary folder from `gc`.
    let _at_work = store.at_work()?;
    let folder = tempfile::Builder::new()
        .prefix("verify-")
        .tempdir_in(store.dir())
        .map_err(|e| Error::storage(format!("can't create a folder in {}", store.dir().display())).caused_by(e))?;
    let into = Arc::new(Store::open(folder.path(), Options::default())?);
    let run = new_run_id();
    // The last state is the only checkpoint.
    let worker = Worker { context: *context, into: &into, run: &run, checkpoint_interval: Duration::MAX, host: None };
    let plan = planner.plan(&graph.upstream(points.iter().copied()))?;
    let records = planner.records(&plan)?.into_iter().map(|(point, record)| (point, Arc::new(record))).collect();
    let cached = Cached { records };
    for point in points {
        cached.check_class(context, *point)?;
    }
    std::thread::scope(|scope| {
        let mut executor = LocalExecutor::new(scope, worker)?;
        points.iter().map(|point| verify_one(&worker, &cached, *point, sample, &mut executor)).collect::<Result<_>>()
    })
}

/// The stored results of the points and of their inputs.
struct Cached {
    records: BTreeMap<PointId, Arc<ResultRecord>>,
}

impl Cached {
    /// The rounding of a training depends on the device, so only a device of the same class makes the same bytes.
    fn check_class(&self, context: &RunContext<'_>, point: PointId) -> Result<()> {
        let Some(record) = self.records.get(&point) else { return Ok(()) };
        let (made_on, here) = (&record.provenance.class, context.spec.class(point, context.compute));
        if record.components.segments.is_none() || *made_on == here {
            return Ok(());
        }
        let name = context.name(point);
        let message = format!("`{name}` was trained on {made_on}, this is {here}: their bytes can't be compared");
        Err(Error::bad_input(message).hint("verify it on a machine of the same class"))
    }

    fn record(&self, context: &RunContext<'_>, point: PointId) -> Result<Arc<ResultRecord>> {
        let missing = || Error::bad_input(format!("`{}` is not in the cache", context.name(point)));
        self.records.get(&point).cloned().ok_or_else(missing)
    }

    /// The job that made a stored result.
    fn job(&self, context: &RunContext<'_>, point: PointId, stored: &ResultRecord) -> Result<Job> {
        let mut inputs = BTreeMap::new();
        for (role, input) in &context.point(point).inputs {
            // It was made without points that were pruned or missing then.
            let was_read = |p: &&PointId| match stored.components.inputs.get(role) {
                Some(InputDigest::Many(members)) => members.contains_key(context.name(**p)),
                _ => true,
            };
            let members = input.points().iter().filter(was_read);
            let members = members.map(|p| Ok(JobInput { point: *p, record: self.record(context, *p)? }));
            inputs.insert(role.clone(), members.collect::<Result<_>>()?);
        }
        let options = StartOptions { fresh: true, ..StartOptions::default() };
        let first: Vec<usize> = (0..context.point(point).parsed.stage.gpus()).collect();
        let gpus = gpus_for(context.point(point), context.compute, &first)?;
        let (components, class) = (stored.components.clone(), context.compute.class(gpus.len()));
        Ok(Job { point, components, inputs, kept: BTreeSet::new(), gpus, class, options })
    }
}

fn verify_one(
    worker: &Worker<'_>,
    cached: &Cached,
    point: PointId,
    sample: Option<Sample>,
    executor: &mut dyn Executor,
) -> Result<Verification> {
    let name = worker.context.name(point).to_owned();
    let stored = cached.record(&worker.context, point)?;
    let mut job = cached.job(&worker.context, point, &stored)?;
    let verdict = NewVerdict { worker, job: &job.clone(), stored: &stored };
    if let (Some(sample), Some(_)) = (sample, &job.components.segments) {
        let sampled = sample.check(worker, &job)?;
        let difference = sampled.stretches.iter().find_map(|s| s.difference.clone());
        let verdict = verdict.of_sample(&sampled)?;
        return Ok(Verification { name, difference, sampled: Some(sampled), program: None, verdict, again: None });
    }
    let stage = &worker.context.point(point).parsed.stage;
    let is_program = stage.reads().files && job.components.segments.is_some();
    if is_program {
        let every = worker.context.spec.resumable(point, "").every;
        job.kept = programs::needed_states(worker, &job, every)?;
    }
    executor.start(job.clone());
    let made_again = loop {
        if let Some(ExecutorEvent::Ended(_, ended)) = executor.poll(TICK) {
            break ended.into_result()?;
        }
    };
    let (difference, program) = if is_program {
        let again = worker.into.result(&made_again.key)?;
        let again = again.ok_or_else(|| Error::storage(format!("the second result of `{name}` is missing")))?;
        let (difference, program) = programs::judge(worker, &job, &stored, &again)?;
        (difference, Some(program))
    } else if made_again.digest == stored.digest {
        (None, None)
    } else {
        (Some(difference::of_results(worker, &stored, &made_again)?), None)
    };
    let verdict = verdict.of_all(difference.clone(), program.as_ref())?;
    Ok(Verification { name, difference, sampled: None, program, verdict, again: Some(*made_again) })
}
