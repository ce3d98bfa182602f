//! The points that are compared: those of a pipeline, or those of a run.
//!
//! A point's [`Components`] are the parts of its key. Those of a run contain the digests of its inputs. Those of a
//! pipeline contain, in place of an input's digest, the key that the components of the input give. So two pipelines can
//! be compared before they run.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::log::command_line;
use crate::cli::project::Project;
use crate::cli::results::{PointResult, Results};
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::id::{PointId, PointName};
use crate::key::{Components, Digest, InputDigest, Key, Segment};
use crate::plan::{Decision, PipelineFiles, State, content};
use crate::report::{Change, Comparison, Figure, Pair};
use crate::spec::PointInput;
use crate::stage::Registry;
use crate::status::{RunStatus, StageStatus};
use crate::store::{ResultRecord, RunRecord, StageRun, Store};
use crate::value::Value;

/// One point on one side.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// The point's name.
    pub(super) name: String,
    /// The parts of its key; `None` if they are no longer in the cache.
    components: Option<Components>,
    /// The names of its inputs, by role.
    inputs: BTreeMap<String, Vec<String>>,
    /// Its key, if it is known.
    key: Option<Key>,
    /// Its result, if it is cached.
    pub(super) record: Option<ResultRecord>,
    /// Its outcome in a run.
    outcome: Option<String>,
    /// Its metrics that are shown as facts.
    facts: &'static [&'static str],
}

impl Side {
    /// A point that has no result.
    fn without_result(name: String, status: StageStatus) -> Self {
        let (components, inputs, key, record, facts) = (None, BTreeMap::new(), None, None, &[][..]);
        Self { name, components, inputs, key, record, outcome: Some(status.word().to_owned()), facts }
    }
}

/// The points of a pipeline, by id.
pub(super) fn of_project(project: &Project, ui: &Ui) -> Result<BTreeMap<PointId, Side>> {
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let mut records = project.planner(&BTreeSet::new()).records(&plan)?;
    let keys: BTreeMap<PointId, Key> = plan.decisions.iter().filter_map(|d| Some((d.point, d.key?))).collect();
    let mut sides: BTreeMap<PointId, Side> = BTreeMap::new();
    let mut identity: BTreeMap<PointId, Key> = BTreeMap::new();
    let files = PipelineFiles { store: &project.store, base: &project.spec.base };
    for index in project.graph.order().iter().copied().filter(|p| project.wanted.contains(p)) {
        let point = project.spec.point(index);
        let stage = &point.parsed.stage;
        let reads = stage.reads();
        let of = |i: &PointId| identity.get(i).copied().unwrap_or(Digest([0; 32]));
        let digest = |input: &PointInput| match input {
            PointInput::One(i) => InputDigest::One(of(i)),
            PointInput::Many { points, .. } => {
                InputDigest::Many(points.iter().map(|i| (project.name(*i).to_owned(), of(i))).collect())
            }
        };
        let components = Components {
            kind: point.parsed.kind.name().to_owned(),
            version: project.spec.version(point),
            params: point.parsed.params.clone(),
            seed: reads.seed.then_some(point.seed),
            precision: reads.precision.then(|| project.spec.pipeline.precision.to_string()),
            inputs: point.inputs.iter().map(|(role, input)| (role.clone(), digest(input))).collect(),
            contents: stage.contents(&files)?,
            files_read: records.get(&index).map(|r| r.components.files_read.clone()).unwrap_or_default(),
            segments: stage.epochs().map(|e| e.segments),
            result: stage.result_params(),
        };
        identity.insert(index, components.key());
        let names = |input: &PointInput| input.points().iter().map(|i| project.name(*i).to_owned()).collect();
        let inputs = point.inputs.iter().map(|(role, input)| (role.clone(), names(input))).collect();
        let (key, record) = (keys.get(&index).copied(), records.remove(&index));
        let (name, components) = (point.name.clone(), Some(components));
        let facts = point.parsed.kind.about().facts;
        sides.insert(index, Side { name, components, inputs, key, record, outcome: None, facts });
    }
    Ok(sides)
}

/// These results and pruned points.
pub(super) fn of_results(results: Results, kinds: &Registry) -> Vec<Side> {
    let side = |(name, result)| match result {
        PointResult::Pruned(_) => Side::without_result(name, StageStatus::Pruned),
        PointResult::Stored(record) => Side {
            name,
            components: Some(record.components.clone()),
            inputs: BTreeMap::new(),
            key: Some(record.key),
            facts: kinds.facts(&record.manifest.kind),
            record: Some(*record),
            outcome: Some("finished".to_owned()),
        },
    };
    results.points.into_iter().map(side).collect()
}

/// The points of a pipeline that these targets match, as a plan sees them. Their components contain the digests of
/// their inputs, as those of results do.
pub(super) fn of_plan(project: &Project, targets: &[String], ui: &Ui) -> Result<Vec<Side>> {
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let mut records = project.planner(&BTreeSet::new()).records(&plan)?;
    // A target that only the earlier run has matches no point here.
    let wanted = project.graph.targets(targets).unwrap_or_default();
    let side = |decision: &Decision| {
        let point = project.spec.point(decision.point);
        if decision.state == State::Pruned {
            return Side::without_result(point.name.clone(), StageStatus::Pruned);
        }
        let outcome = if decision.output.is_some() { "finished" } else { "not finished" };
        Side {
            name: point.name.clone(),
            components: decision.components.clone(),
            inputs: BTreeMap::new(),
            key: decision.key,
            record: records.remove(&decision.point),
            outcome: Some(outcome.to_owned()),
            facts: point.parsed.kind.about().facts,
        }
    };
    Ok(plan.decisions.iter().filter(|d| wanted.contains(&d.point)).map(side).collect())
}

/// The points of a run, with what the cache still contains of them.
pub(super) fn of_run(store: &Store, run: &RunRecord, kinds: &Registry) -> Result<Vec<Side>> {
    let keys: Vec<Key> = run.stages.iter().filter_map(|s| s.key).collect();
    let records: BTreeMap<Key, ResultRecord> =
        store.results(&keys)?.into_iter().flatten().map(|r| (r.key, r)).collect();
    let side = |stage: &StageRun| {
        // Points with the same key share a result.
        let record = stage.key.and_then(|key| records.get(&key).cloned());
        Side {
            name: stage.name.clone(),
            components: record.as_ref().map(|r| r.components.clone()),
            inputs: BTreeMap::new(),
            key: stage.key,
            record,
            outcome: Some(stage.outcome.word().to_owned()),
            facts: kinds.facts(&stage.kind),
        }
    };
    Ok(run.stages.iter().map(side).collect())
}

fn change(name: &str, a: Option<String>, b: Option<String>) -> Option<Change> {
    (a != b).then(|| Change { name: name.to_owned(), a, b })
}

/// Differences between two runs as a whole.
pub(super) fn run_facts(a: &RunRecord, b: &RunRecord) -> Vec<Change> {
    let status = |r: &RunRecord| match r.status {
        RunStatus::Running => "not finished",
        status => status.word(),
    };
    type Fact = fn(&RunRecord) -> String;
    let facts: [(&str, Fact); 6] = [
        ("pipeline", |r| r.pipeline.clone()),
        ("command", command_line),
        ("device", |r| format!("{} ({})", r.device, r.class)),
        ("threads", |r| r.threads.to_string()),
        ("machine", |r| r.holder.host.clone()),
        ("vadpipe", |r| r.version.clone()),
    ];
    let facts = facts.iter().filter_map(|(name, of)| change(name, Some(of(a)), Some(of(b))));
    facts.chain(change("status", Some(status(a).to_owned()), Some(status(b).to_owned()))).collect()
}

/// Differences between two pipelines as a whole.
pub(super) fn headers(a: &Project, b: &Project) -> Vec<Change> {
    let (a, b) = (&a.spec.pipeline, &b.spec.pipeline);
    let text = |v: &dyn ToString| Some(v.to_string());
    [
        change("name", Some(a.name.clone()), Some(b.name.clone())),
        change("seed", text(&a.seed), text(&b.seed)),
        change("precision", text(&a.precision), text(&b.precision)),
        change("device", text(&a.device), text(&b.device)),
        change("checkpoint_seconds", text(&a.checkpoint_seconds), text(&b.checkpoint_seconds)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Compares points of the same name. Also returns the pairs of changed points, in the order of [`Comparison::changed`].
pub(super) fn compare(
    a: &str,
    b: &str,
    facts: Vec<Change>,
    first: Vec<Side>,
    second: Vec<Side>,
) -> (Comparison, Vec<[Side; 2]>) {
    let mut found = Comparison { a: a.to_owned(), b: b.to_owned(), facts, ..Comparison::default() };
    let mut others: BTreeMap<String, Side> = second.iter().map(|s| (s.name.clone(), s.clone())).collect();
    let mut pairs = Vec::new();
    for side in first {
        match others.remove(&side.name) {
            None => found.only_a.push(side.name),
            Some(other) => {
                let pair = pair(&side, &other);
                if is_same(&side, &other, &pair) {
                    found.same.push(side.name);
                } else {
                    found.changed.push(pair);
                    pairs.push([side, other]);
                }
            }
        }
    }
    found.only_b = second.into_iter().map(|s| s.name).filter(|name| others.contains_key(name)).collect();
    (found, pairs)
}

/// Compares the points of two targets whose axes have the same values, or the only point of each.
pub(super) fn pair_up(a: &str, b: &str, first: Vec<Side>, second: Vec<Side>) -> (Comparison, Vec<[Side; 2]>) {
    let mut found = Comparison { a: a.to_owned(), b: b.to_owned(), ..Comparison::default() };
    let single = first.len() == 1 && second.len() == 1;
    let mut others: Vec<Option<Side>> = second.into_iter().map(Some).collect();
    let mut pairs = Vec::new();
    for side in first {
        let matches =
            |o: &&mut Option<Side>| o.as_ref().is_some_and(|o| single || coordinates(o) == coordinates(&side));
        match others.iter_mut().find(matches).and_then(Option::take) {
            None => found.only_a.push(side.name),
            Some(other) => {
                found.changed.push(pair(&side, &other));
                pairs.push([side, other]);
            }
        }
    }
    found.only_b = others.into_iter().flatten().map(|s| s.name).collect();
    (found, pairs)
}

fn coordinates(side: &Side) -> Option<&str> {
    PointName::parse(&side.name).coordinates
}

fn is_same(a: &Side, b: &Side, pair: &Pair) -> bool {
    let keys = match (a.key, b.key) {
        (Some(a), Some(b)) => a == b,
        (None, None) => true,
        _ => a.components.is_some() && b.components.is_some(),
    };
    keys && pair.parameters.is_empty() && pair.same_output != Some(false)
}

fn pair(a: &Side, b: &Side) -> Pair {
    let mut parameters = match (&a.components, &b.components) {
        // The files that a program read are unknown without a result.
        (Some(x), Some(y)) if a.record.is_none() || b.record.is_none() => {
            differing(&flat(&x.declared()), &flat(&y.declared()))
        }
        (Some(x), Some(y)) => differing(&flat(x), &flat(y)),
        _ => Vec::new(),
    };
    parameters.extend(inputs(a, b));
    if a.components.is_none() || b.components.is_none() {
        parameters.extend(change("outcome", a.outcome.clone(), b.outcome.clone()));
    }
    let same_output = a.record.as_ref().zip(b.record.as_ref()).map(|(a, b)| a.digest == b.digest);
    let (name, keys) = ((a.name.clone(), b.name.clone()), [a.key, b.key]);
    let (metrics, pictures, curves) = (metrics(a, b), Vec::new(), Vec::new());
    Pair { a: name.0, b: name.1, keys, parameters, metrics, same_output, pictures, curves }
}

fn metrics(a: &Side, b: &Side) -> Vec<Figure> {
    let of = |side: &Side| side.record.as_ref().map(|r| r.manifest.metrics.clone()).unwrap_or_default();
    let is_fact = |name: &String| [a, b].iter().any(|side| side.facts.contains(&name.as_str()));
    let (a, b) = (of(a), of(b));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let value = |metrics: &BTreeMap<String, f64>, name: &String| metrics.get(name).copied();
    let figure =
        |name: &String| Figure { name: name.clone(), a: value(&a, name), b: value(&b, name), is_fact: is_fact(name) };
    names.into_iter().map(figure).collect()
}

/// The parts of a key without the inputs, as text by name.
fn flat(components: &Components) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> =
        components.params.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
    all.insert("kind".to_owned(), components.kind.clone());
    all.insert("version of the kind".to_owned(), components.version.to_string());
    all.extend(components.seed.map(|seed| ("seed".to_owned(), seed.to_string())));
    all.extend(components.precision.iter().map(|precision| ("precision".to_owned(), precision.clone())));
    all.extend(components.contents.iter().map(|(entry, digest)| {
        let (what, name) = content(entry);
        (format!("{what} {name}"), digest.short())
    }));
    all.extend(components.files_read.iter().map(|(name, digest)| (format!("file {name}"), digest.short())));
    if let Some(segments) = &components.segments {
        let total: u64 = segments.iter().map(|s| s.epochs).sum();
        all.insert("epochs".to_owned(), total.to_string());
        match segments.as_slice() {
            [only] => all.extend(only.params.iter().map(|(name, value)| (name.clone(), value.to_string()))),
            several => {
                let table = |s: &Segment| {
                    let mut table = s.params.clone();
                    table.insert("epochs".to_owned(), Value::Int(s.epochs as i64));
                    Value::Table(table)
                };
                let list = Value::List(several.iter().map(table).collect());
                all.insert("segments".to_owned(), list.to_string());
            }
        }
    }
    all
}

fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Change> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter_map(|name| change(name, a.get(name).cloned(), b.get(name).cloned())).collect()
}

/// The roles with different inputs. Inputs are given by name or, for runs, by digest.
fn inputs(a: &Side, b: &Side) -> Vec<Change> {
    let of = |side: &Side| side.components.as_ref().map(|c| c.inputs.clone()).unwrap_or_default();
    let (x, y) = (of(a), of(b));
    if a.components.is_none() || b.components.is_none() {
        return Vec::new();
    }
    let roles: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
    let mut changes = Vec::new();
    for role in roles.into_iter().filter(|role| x.get(*role) != y.get(*role)) {
        let (was, now) = (described(a, role, x.get(role)), described(b, role, y.get(role)));
        // The names are the same, so the points behind them differ.
        let now = if was == now { now.map(|now| format!("{now}, which differs")) } else { now };
        changes.push(Change { name: format!("input {role}"), a: was, b: now });
    }
    changes
}

fn described(side: &Side, role: &str, input: Option<&InputDigest>) -> Option<String> {
    if let Some(names) = side.inputs.get(role) {
        return Some(names.join(", "));
    }
    Some(match input? {
        InputDigest::One(digest) => digest.short(),
        InputDigest::Many(many) => {
            many.iter().map(|(label, digest)| format!("{label} {}", digest.short())).collect::<Vec<_>>().join(", ")
        }
    })
}
