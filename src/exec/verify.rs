//! Runs stages again without the cache and compares the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::artifact::{ElementType, Tensor, TensorError};
use crate::error::{Category, Error, Result};
use crate::event::Listener;
use crate::exec::device::Compute;
use crate::exec::worker::{Job, Shared};
use crate::plan::Planner;
use crate::stage::Cancel;
use crate::store::{Options, ResultRecord, Store, new_run_id};

/// What came of running one point again.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The point.
    pub name: String,
    /// The first thing that differs, in words; none if every byte is the same.
    pub difference: Option<String>,
}

/// Runs `points`, which must be cached, again from their cached inputs, into a cache of their own that is thrown away.
///
/// # Errors
/// If a point is not cached, or a stage fails.
#[expect(clippy::too_many_arguments, reason = "each is one thing that a run needs to know")]
pub fn verify(
    planner: &Planner<'_>,
    store: &Arc<Store>,
    compute: &Compute,
    points: &[usize],
    data_dirs: &[PathBuf],
    threads: usize,
    cancel: &Cancel,
    listener: &dyn Listener,
) -> Result<Vec<Verification>> {
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
        listener,
        compute,
        cancel,
        data_dirs,
        run: &run,
        threads,
        // No checkpoint but the last.
        checkpoint_interval: Duration::MAX,
    };
    let plan = planner.plan(&planner.graph.upstream(points.iter().copied()))?;
    let pruned = plan.pruned();
    let records = planner.records(&plan)?.into_iter().map(|(point, record)| (point, Arc::new(record))).collect();
    for point in points {
        comparable(planner, compute, &records, *point)?;
    }
    points.iter().map(|point| verify_one(&shared, &records, &pruned, *point)).collect()
}

/// A training's bytes depend on how the device rounds: only the same class can give them again.
fn comparable(
    planner: &Planner<'_>,
    compute: &Compute,
    records: &BTreeMap<usize, Arc<ResultRecord>>,
    point: usize,
) -> Result<()> {
    let Some(record) = records.get(&point) else { return Ok(()) };
    let made_on = &record.provenance.class;
    if record.components.segments.is_none() || *made_on == compute.numerics {
        return Ok(());
    }
    let name = &planner.spec.points[point].name;
    let message =
        format!("`{name}` was trained on {made_on}, this is {}: their bytes can't be compared", compute.numerics);
    Err(Error::bad_input(message).hint("verify it on a machine of the same class"))
}

fn verify_one(
    shared: &Shared<'_>,
    records: &BTreeMap<usize, Arc<ResultRecord>>,
    pruned: &BTreeSet<usize>,
    point: usize,
) -> Result<Verification> {
    let spec = &shared.spec.points[point];
    let record = |p: &usize| {
        let missing = || Error::bad_input(format!("`{}` is not in the cache", shared.spec.points[*p].name));
        records.get(p).cloned().ok_or_else(missing)
    };
    let stored = record(&point)?;
    let mut inputs = BTreeMap::new();
    for (role, input) in &spec.inputs {
        let left = input.indices().iter().filter(|p| !pruned.contains(p));
        let members = left.map(|p| Ok((*p, record(p)?))).collect::<Result<_>>()?;
        inputs.insert(role.clone(), members);
    }
    let components = stored.components.clone();
    let job = Job { point, components, inputs, pinned: BTreeSet::new(), fresh: true, threads: None, rung: None };
    let made = shared.execute(job).map_err(|failure| failure.error)?;
    let done = shared.commit(&[made]).pop();
    let again = done.ok_or_else(|| Error::storage("nothing was stored"))?.outcome.map_err(|failure| failure.error)?;
    let difference = if again.digest == stored.digest { None } else { Some(difference(shared, &stored, &again)?) };
    Ok(Verification { name: spec.name.clone(), difference })
}

/// Says in what two results differ, the first thing only.
fn difference(shared: &Shared<'_>, stored: &ResultRecord, again: &ResultRecord) -> Result<String> {
    let (old, new) = (&stored.manifest, &again.manifest);
    for (name, entry) in &old.tensors {
        match new.tensors.get(name) {
            None => return Ok(format!("tensor {name} was not made again")),
            Some(other) if other == entry => {}
            Some(other) => {
                let (a, b) = (shared.store.read_tensor(entry)?, shared.into.read_tensor(other)?);
                return Ok(format!("tensor {name}: {}", tensor_difference(&a, &b)));
            }
        }
    }
    if let Some(name) = new.tensors.keys().find(|n| !old.tensors.contains_key(*n)) {
        return Ok(format!("tensor {name} was not there before"));
    }
    if let Some((name, _)) = old.files.iter().find(|(name, blob)| new.files.get(*name) != Some(blob)) {
        return Ok(format!("file {name} has other bytes"));
    }
    if let Some((name, value)) = old.metrics.iter().find(|(name, value)| new.metrics.get(*name) != Some(value)) {
        let now = new.metrics.get(name).map_or("nothing".to_owned(), f64::to_string);
        return Ok(format!("metric {name}: {value} before, {now} now"));
    }
    Ok("other facts".to_owned())
}

fn tensor_difference(a: &Tensor, b: &Tensor) -> String {
    if a.shape() != b.shape() || a.element() != b.element() {
        return format!("{a:?} before, {b:?} now");
    }
    let Ok((a, b)) = numbers(a).and_then(|a| Ok((a, numbers(b)?))) else { return "other bytes".to_owned() };
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    let (count, most) = differences.filter(|d| *d != 0.0).fold((0, 0.0f64), |(n, m), d| (n + 1, m.max(d)));
    format!("{count} of {} elements differ, by {most:e} at most", a.len())
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let error = |e: TensorError| Error::new(Category::Storage, "a tensor can't be read").caused_by(e);
    let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
    match tensor.element() {
        ElementType::F32 => tensor.to_vec::<f32>().map(wide).map_err(error),
        ElementType::F64 => tensor.to_vec::<f64>().map_err(error),
        ElementType::U8 => tensor.to_vec::<u8>().map(|v| v.into_iter().map(f64::from).collect()).map_err(error),
        ElementType::U32 => tensor.to_vec::<u32>().map(|v| v.into_iter().map(f64::from).collect()).map_err(error),
        ElementType::I64 => tensor.to_vec::<i64>().map(|v| v.into_iter().map(|v| v as f64).collect()).map_err(error),
    }
}
