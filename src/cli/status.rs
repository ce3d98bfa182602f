//! `vadpipe status`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::args::{Global, PipelineArgs};
use super::failed::FailedPoints;
use super::project::Project;
use super::ui::{Ui, bytes, count, seconds, when};
use super::verdicts::PointVerdicts;
use super::{log, plan};
use crate::error::Result;
use crate::event::WorkerCounts;
use crate::id::PointId;
use crate::key::{Digest, Key};
use crate::plan::{CachedEpochs, Decision, Plan, State};
use crate::status::RunStatus;
use crate::store::{Holder, RunRecord, StateRecord};

/// Arguments of `status`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe status full.toml
  vadpipe status full.toml --json | jq '.stages[] | select(.running)'

You can use it while a training runs. The size of states includes the checkpoints and the kept states of trainings; \
`vadpipe gc` removes those that recent runs do not need.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// The stored states of one training. States that several trainings share are counted for each.
#[derive(Clone, Debug, Serialize)]
struct Stored {
    /// Number of states.
    count: usize,
    /// Their size.
    bytes: u64,
    /// The epochs after which they were saved.
    epochs: BTreeSet<u64>,
}

/// Disk space of the cache.
#[derive(Clone, Copy, Debug, Serialize)]
struct Disk {
    /// Allocated disk space of the whole cache.
    bytes: u64,
    /// Bytes of all stored states, each blob once.
    states_bytes: u64,
    /// Number of states.
    states: usize,
}

/// Prints the status of a pipeline.
pub(super) fn status(args: &StatusArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let runs = project.store.runs()?;
    let failed = FailedPoints::of(&project.spec.pipeline.name, runs.iter().rev());
    let last = runs.into_iter().rfind(|r| r.pipeline == project.spec.pipeline.name);
    let workers =
        last.as_ref().and_then(|run| WorkerCounts::of(&log::events(&project.store, run, "\"event\":\"worker")));
    let states = project.store.all_states()?;
    let stored = stored(&plan, &states);
    let disk = disk(&project, &states);
    let verdicts = PointVerdicts::of(&project, &plan.decisions);
    let running: BTreeMap<PointId, Holder> =
        plan.decisions.iter().filter_map(|d| Some((d.point, holder(&project, d)?))).collect();
    if ui.json {
        let stages = plan.decisions.iter().map(|d| {
            let mut stage = point(&project, d, &failed, running.get(&d.point), stored.get(&d.point));
            stage["verdict"] = json!(verdicts.get(d.point));
            stage
        });
        let stages: Vec<_> = stages.collect();
        let count = |state| plan.decisions.iter().filter(|d| d.state == state).count();
        let pruned = plan.pruned();
        let pruned: Vec<&str> = pruned.iter().map(|p| project.name(*p)).collect();
        return ui.object(&json!({
            "pipeline": project.spec.pipeline.name, "complete": plan.is_complete(), "hit": count(State::Hit),
            "miss": count(State::Miss), "maybe": count(State::Maybe), "pruned": pruned, "stages": stages, "disk": disk,
            "last_run": last, "workers": workers,
        }));
    }
    let mut lines = vec![plan::summary(&plan)];
    for d in plan.decisions.iter().filter(|d| d.state != State::Hit) {
        let why = plan::why(&project, d, &failed).unwrap_or_default();
        let now = running.get(&d.point).map(|h| format!(" [running: {}]", h.describe())).unwrap_or_default();
        lines.push(format!("  {}: {why}{now}", project.name(d.point)));
    }
    lines.extend(verdicts.lines(&project, &plan));
    lines.extend(disk_lines(&project, disk, &stored));
    lines.extend(last.map(|run| last_run(&run)));
    lines.extend(workers.map(|workers| format!("its workers: {}", workers.words(seconds))));
    ui.text(&lines.join("\n"));
    Ok(())
}

/// The process that computes a point now, if any.
fn holder(project: &Project, decision: &Decision) -> Option<Holder> {
    let key = decision.key.as_ref().filter(|_| decision.state != State::Hit)?;
    project.store.lease_holder(key)
}

fn point(
    project: &Project,
    decision: &Decision,
    failed: &FailedPoints,
    running: Option<&Holder>,
    stored: Option<&Stored>,
) -> serde_json::Value {
    let spec = project.spec.point(decision.point);
    // A cached training has all its epochs.
    let total = spec.parsed.stage.epochs().map(|e| e.total());
    let done = total.filter(|_| decision.output.is_some()).map(|total| CachedEpochs { cached: total, total });
    let unknown = total.map(|total| CachedEpochs { cached: 0, total });
    let running = running.map(|h| json!({ "pid": h.pid, "host": h.host, "since": when(h.since) }));
    json!({
        "name": spec.name, "kind": spec.parsed.kind.name(), "key": decision.key, "state": decision.state,
        "reason": decision.reason, "epochs": done.or(decision.epochs).or(unknown), "running": running,
        "states": stored, "failed_in": failed.run(&spec.name),
    })
}

/// The stored states of each training, by point.
fn stored(plan: &Plan, states: &[StateRecord]) -> BTreeMap<PointId, Stored> {
    let mut by_key: BTreeMap<Key, Vec<&StateRecord>> = BTreeMap::new();
    for state in states {
        by_key.entry(state.key).or_default().push(state);
    }
    let mut stored = BTreeMap::new();
    for decision in plan.decisions.iter().filter(|_| !by_key.is_empty()) {
        let chain = decision.components.as_ref().map(|c| c.chain()).unwrap_or_default();
        let found: Vec<&StateRecord> =
            chain.keys().iter().filter_map(|key| by_key.get(key)).flatten().copied().collect();
        if !found.is_empty() {
            let epochs = found.iter().map(|s| s.epoch).collect();
            let bytes = blob_bytes(found.iter().copied());
            stored.insert(decision.point, Stored { count: found.len(), bytes, epochs });
        }
    }
    stored
}

fn disk(project: &Project, states: &[StateRecord]) -> Disk {
    Disk { bytes: project.store.disk_bytes(), states_bytes: blob_bytes(states), states: states.len() }
}

/// The size of the blobs of these states; a shared blob counts once.
fn blob_bytes<'a>(states: impl IntoIterator<Item = &'a StateRecord>) -> u64 {
    let blobs: BTreeMap<Digest, u64> =
        states.into_iter().flat_map(StateRecord::blobs).map(|blob| (blob.digest, blob.size)).collect();
    blobs.values().sum()
}

fn disk_lines(project: &Project, disk: Disk, stored: &BTreeMap<PointId, Stored>) -> Vec<String> {
    /// A longer list would hide everything else.
    const SHOWN: usize = 8;
    let all = match disk.states {
        0 => String::new(),
        n => format!(", of which {} for {} of trainings", bytes(disk.states_bytes), count(n, "state")),
    };
    let mut lines = vec![format!("disk: {}{all}", bytes(disk.bytes))];
    let mut largest: Vec<_> = stored.iter().collect();
    largest.sort_by_key(|(point, s)| (std::cmp::Reverse(s.bytes), **point));
    lines.extend(largest.iter().take(SHOWN).map(|(point, s)| {
        let epochs: Vec<_> = s.epochs.iter().map(ToString::to_string).collect();
        let (name, size) = (project.name(**point), bytes(s.bytes));
        let after = if s.count == 1 { "epoch" } else { "epochs" };
        format!("  {name}: {size} in {}, after {after} {}", count(s.count, "state"), shortened(&epochs))
    }));
    if largest.len() > SHOWN {
        lines.push(format!("  and {} more trainings", largest.len() - SHOWN));
    }
    lines
}

fn shortened(epochs: &[String]) -> String {
    const ENDS: usize = 4;
    if epochs.len() <= 2 * ENDS + 1 {
        return epochs.join(", ");
    }
    format!("{}, …, {}", epochs[..ENDS].join(", "), epochs[epochs.len() - ENDS..].join(", "))
}

fn last_run(run: &RunRecord) -> String {
    let ended = match run.status {
        RunStatus::Running if run.is_running() => format!("running in {}", run.holder.describe()),
        RunStatus::Running => "was killed; the next run continues from what is saved".to_owned(),
        _ => log::word(run).to_owned(),
    };
    let took = run.finished_at.map(|end| format!(" after {}", seconds((end - run.started_at) as f64 / 1000.0)));
    format!("last run {}: {ended}{}", run.id, took.unwrap_or_default())
}
