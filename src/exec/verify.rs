//! Runs stages again without the cache and compares the bytes: the whole stage, or stretches of a training's chain.

mod difference;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use difference::{Difference, Part};
pub use sample::{Sample, Sampled, Stretch};

use crate::error::{Error, Result};
use crate::event::Listener;
use crate::exec::device::Compute;
use crate::exec::worker::{Job, Shared};
use crate::id::PointId;
use crate::plan::Planner;
use crate::stage::Cancel;
use crate::store::{Options, ResultRecord, Store, new_run_id};

/// What came of running one point again.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The point.
    pub name: String,
    /// The first thing that differs; none if every byte is the same.
    pub difference: Option<Difference>,
    /// What was re-trained, if that was not the whole stage.
    pub sampled: Option<Sampled>,
}

/// What is needed to run points again.
pub struct Verifier<'a> {
    /// Answers for the pipeline and its cache.
    pub planner: &'a Planner<'a>,
    /// The cache.
    pub store: &'a Arc<Store>,
    /// What computes.
    pub compute: &'a Compute,
    /// Where to look for data files.
    pub data_dirs: &'a [PathBuf],
    /// Worker threads.
    pub threads: usize,
    /// Whether to stop.
    pub cancel: &'a Cancel,
    /// Told of progress.
    pub listener: &'a dyn Listener,
}

impl Verifier<'_> {
    /// Runs `points`, which must be cached, again from their cached inputs, into a cache of their own that is thrown away.
    /// With `sample`, of each training only so many stretches between stored states.
    ///
    /// # Errors
    /// If a point is not cached, a training has no stored state to compare with, or a stage fails.
    pub fn verify(&self, points: &[PointId], sample: Option<Sample>) -> Result<Vec<Verification>> {
        let Self { planner, store, compute, .. } = *self;
        // Nobody removes its folders meanwhile.
        let _at_work = store.at_work()?;
        let apart = tempfile::Builder::new()
            .prefix("verify-")
            .tempdir_in(store.dir())
            .map_err(|e| Error::storage(format!("can't create a folder in {}", store.dir().display())).caused_by(e))?;
        let into = Arc::new(Store::open(apart.path(), Options::default())?);
        let run = new_run_id();
        let shared = Shared {
            spec: planner.spec,
            store,
            into: &into,
            listener: self.listener,
            compute,
            cancel: self.cancel,
            data_dirs: self.data_dirs,
            run: &run,
            threads: self.threads,
            // No checkpoint but the last.
            checkpoint_interval: Duration::MAX,
        };
        let plan = planner.plan(&planner.graph.upstream(points.iter().copied()))?;
        let pruned = plan.pruned();
        let records = planner.records(&plan)?.into_iter().map(|(point, record)| (point, Arc::new(record))).collect();
        for point in points {
            comparable(planner, compute, &records, *point)?;
        }
        points.iter().map(|point| verify_one(&shared, &records, &pruned, *point, sample)).collect()
    }
}

/// A training's bytes depend on how the device rounds: only the same class can give them again.
fn comparable(
    planner: &Planner<'_>,
    compute: &Compute,
    records: &BTreeMap<PointId, Arc<ResultRecord>>,
    point: PointId,
) -> Result<()> {
    let Some(record) = records.get(&point) else { return Ok(()) };
    let made_on = &record.provenance.class;
    if record.components.segments.is_none() || *made_on == compute.numerics {
        return Ok(());
    }
    let name = &planner.spec.point(point).name;
    let message =
        format!("`{name}` was trained on {made_on}, this is {}: their bytes can't be compared", compute.numerics);
    Err(Error::bad_input(message).hint("verify it on a machine of the same class"))
}

fn verify_one(
    shared: &Shared<'_>,
    records: &BTreeMap<PointId, Arc<ResultRecord>>,
    pruned: &BTreeSet<PointId>,
    point: PointId,
    sample: Option<Sample>,
) -> Result<Verification> {
    let spec = shared.spec.point(point);
    let record = |p: &PointId| {
        let missing = || Error::bad_input(format!("`{}` is not in the cache", shared.spec.point(*p).name));
        records.get(p).cloned().ok_or_else(missing)
    };
    let stored = record(&point)?;
    let mut inputs = BTreeMap::new();
    for (role, input) in &spec.inputs {
        let left = input.points().iter().filter(|p| !pruned.contains(p));
        let members = left.map(|p| Ok((*p, record(p)?))).collect::<Result<_>>()?;
        inputs.insert(role.clone(), members);
    }
    let components = stored.components.clone();
    let job = Job { point, components, inputs, pinned: BTreeSet::new(), fresh: true, threads: None, rung: None };
    let name = spec.name.clone();
    if let (Some(sample), Some(_)) = (sample, &job.components.segments) {
        let sampled = sample.check(shared, &job)?;
        let difference = sampled.stretches.iter().find_map(|s| s.difference.clone());
        return Ok(Verification { name, difference, sampled: Some(sampled) });
    }
    let made = shared.execute(job).map_err(|failure| failure.error)?;
    let done = shared.commit(&[made]).pop();
    let again = done.ok_or_else(|| Error::storage("nothing was stored"))?.outcome.map_err(|failure| failure.error)?;
    let difference = match again.digest == stored.digest {
        true => None,
        false => Some(difference::of_results(shared, &stored, &again)?),
    };
    Ok(Verification { name, difference, sampled: None })
}
