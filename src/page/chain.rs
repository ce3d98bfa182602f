//! The chains of trainings as trees: which epochs trainings share, where they part, and which run trained them.
//!
//! Trainings with the same start are in one tree. They share an epoch if all epochs up to it have the same parameters,
//! so the tree follows from the segments of the trainings, and no key of an epoch has to be computed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::model::Model;
use super::point::Point;
use crate::key::{Components, Key, Segment};
use crate::store::ResultRecord;
use crate::value::Values;

/// Trainings in one answer; the newest ones.
const MOST: usize = 2_000;

/// A stored training.
struct Stored {
    record: ResultRecord,
    /// The key of state 0.
    start: Key,
    segments: Vec<Segment>,
    total: u64,
    /// The epoch at which its run resumed it.
    resumed_at: u64,
    seconds_per_epoch: Option<f64>,
}

impl Stored {
    fn new(model: &Model, record: ResultRecord) -> Option<Self> {
        let segments = record.components.segments.clone()?;
        let total = segments.iter().map(|segment| segment.epochs).sum();
        let start = Components { segments: Some(vec![]), ..record.components.clone() }.chain().at(0)?;
        let training = model.trainings.get(&(record.provenance.run.clone(), record.point.clone()));
        let resumed_at = training.map_or(0, |training| training.resumed_at).min(total);
        let trained = total - resumed_at;
        // Without the record of its run, it is unknown how many epochs it has trained.
        let is_known = training.is_some() && trained > 0;
        let seconds_per_epoch = is_known.then(|| record.provenance.seconds / trained as f64);
        Some(Self { record, start, segments, total, resumed_at, seconds_per_epoch })
    }

    /// The parameters of an epoch, from 1.
    fn parameters(&self, epoch: u64) -> Option<&Values> {
        let mut end = 0;
        let segment = self.segments.iter().find(|segment| {
            end += segment.epochs;
            epoch <= end
        });
        segment.map(|segment| &segment.params)
    }

    /// The last epoch up to which both have the same parameters.
    fn shared_with(&self, other: &Self) -> u64 {
        let ends = |training: &Self| {
            let mut end = 0;
            training.segments.iter().map(|s| (end += s.epochs, end).1).collect::<Vec<_>>()
        };
        let boundaries: BTreeSet<u64> = ends(self).into_iter().chain(ends(other)).collect();
        let mut shared = 0;
        for end in boundaries {
            match (self.parameters(end), other.parameters(end)) {
                (Some(a), Some(b)) if a == b => shared = end,
                _ => break,
            }
        }
        shared
    }
}

/// Epochs that the same trainings have in common.
struct Branch {
    parent: Option<usize>,
    /// The epochs from `from` + 1 to `to`.
    from: u64,
    to: u64,
    members: Vec<usize>,
    /// What it has that its siblings don't have.
    label: String,
}

/// Adds the branches of these trainings, which share the first `from` epochs.
fn grow(all: &[Stored], members: Vec<usize>, from: u64, parent: Option<usize>, label: String, tree: &mut Vec<Branch>) {
    let Some(first) = members.first().map(|first| &all[*first]) else { return };
    let ends = members.iter().map(|member| all[*member].total.min(first.shared_with(&all[*member])));
    let to = ends.min().unwrap_or(from).max(from);
    let at = tree.len();
    tree.push(Branch { parent, from, to, members: members.clone(), label });
    let mut parts: Vec<(&Values, Vec<usize>)> = Vec::new();
    for member in members {
        let Some(parameters) = all[member].parameters(to + 1) else { continue };
        match parts.iter_mut().find(|(known, _)| *known == parameters) {
            Some((_, part)) => part.push(member),
            None => parts.push((parameters, vec![member])),
        }
    }
    let labels = differing(&parts.iter().map(|(parameters, _)| *parameters).collect::<Vec<_>>());
    for ((_, part), label) in parts.into_iter().zip(labels) {
        grow(all, part, to, Some(at), label, tree);
    }
}

/// For each of these parameters: those that differ, in words.
fn differing(all: &[&Values]) -> Vec<String> {
    let names: BTreeSet<&String> = all.iter().flat_map(|values| values.keys()).collect();
    let differs = |name: &&String| all.iter().any(|values| values.get(*name) != all[0].get(*name));
    let names: Vec<&String> = names.into_iter().filter(differs).collect();
    let word = |values: &&Values| {
        let word =
            |name: &&String| format!("{name} {}", values.get(*name).map_or("unset".to_owned(), |v| v.to_string()));
        names.iter().map(word).collect::<Vec<_>>().join(", ")
    };
    all.iter().map(word).collect()
}

/// The trees of a pipeline.
pub(super) fn chain(model: &Model, pipeline: &str) -> Value {
    let newest = model.newest_run(pipeline).map(|run| run.id.to_string());
    let of_pipeline = model.results_of_pipeline(pipeline);
    let mut all: Vec<Stored> = of_pipeline.filter_map(|record| Stored::new(model, record)).collect();
    all.sort_by_key(|training| Reverse(training.record.provenance.finished_at));
    let left_out = all.len().saturating_sub(MOST);
    all.truncate(MOST);
    // As in the table. The results of a point stay in their order.
    all.sort_by_key(|training| model.find(pipeline, &training.record.point));
    let mut starts: BTreeMap<(&str, Key), Vec<usize>> = BTreeMap::new();
    for (number, training) in all.iter().enumerate() {
        starts.entry((training.record.manifest.kind.as_str(), training.start)).or_default().push(number);
    }
    let labels = start_labels(&all, &starts);
    let mut trees = Vec::new();
    let (mut epochs_saved, mut seconds_saved) = (0, 0.0);
    for ((members, label), (kind, _)) in starts.values().zip(labels).zip(starts.keys()) {
        let mut tree = Vec::new();
        grow(&all, members.clone(), 0, None, label, &mut tree);
        let stages: BTreeSet<&str> = members.iter().map(|m| stage_of(&all[*m].record.point)).collect();
        for branch in &tree {
            let (epochs, seconds) = reused(&all, branch, |training| is_rung(model, training));
            epochs_saved += epochs;
            seconds_saved += seconds;
        }
        let is_new =
            |training: &Stored| is_rung(model, training) && newest.as_deref() == Some(&training.record.provenance.run);
        let branches: Vec<Value> =
            tree.iter().map(|branch| branch_json(&all, branch, newest.as_deref(), is_new)).collect();
        trees.push(json!({ "kind": kind, "stages": stages, "branches": branches }));
    }
    let trainings: Vec<Value> = all.iter().map(|training| training_json(model, training, newest.as_deref())).collect();
    let open = model.shown().filter(|(_, point)| *point.pipeline == *pipeline);
    let open: Vec<Value> = open.filter_map(|(number, point)| open_json(number, point)).collect();
    json!({
        "pipeline": pipeline, "trees": trees, "trainings": trainings, "open": open, "left_out": left_out,
        "epochs": all.iter().map(|t| t.total).sum::<u64>(),
        "epochs_saved": epochs_saved, "seconds_saved": seconds_saved, "newest_run": newest,
    })
}

/// The epochs of a branch that its trainings took from earlier ones, and the seconds that training these would take.
/// A training that was resumed at a rung of its own run has trained the epochs before, too.
fn reused(all: &[Stored], branch: &Branch, is_rung: impl Fn(&Stored) -> bool) -> (u64, f64) {
    let members = || branch.members.iter().map(|member| &all[*member]);
    let resumed = members().filter(|training| !is_rung(training));
    let epochs = resumed.map(|training| training.resumed_at.min(branch.to).saturating_sub(branch.from)).sum::<u64>();
    let paces: Vec<f64> = members().filter_map(|training| training.seconds_per_epoch).collect();
    let mean = paces.iter().sum::<f64>() / paces.len().max(1) as f64;
    (epochs, epochs as f64 * mean)
}

fn stage_of(point: &str) -> &str {
    crate::id::PointName::parse(point).stage
}

/// What distinguishes the starts of a kind.
fn start_labels(all: &[Stored], starts: &BTreeMap<(&str, Key), Vec<usize>>) -> Vec<String> {
    let with_seed = |members: &Vec<usize>| {
        let components = &all[members[0]].record.components;
        let mut values = Values::clone(&components.params);
        values.extend(components.seed.map(|seed| ("seed".to_owned(), seed.into())));
        values
    };
    let values: Vec<(&str, Values)> = starts.iter().map(|((kind, _), members)| (*kind, with_seed(members))).collect();
    let mut kinds: BTreeMap<&str, Vec<&Values>> = BTreeMap::new();
    values.iter().for_each(|(kind, values)| kinds.entry(kind).or_default().push(values));
    // The order of `starts` is that of the kinds.
    kinds.values().flat_map(|of_kind| differing(of_kind)).collect()
}

/// Whether a training was last resumed at a rung of its own run, so that this run has trained the epochs before, too.
fn is_rung(model: &Model, training: &Stored) -> bool {
    let number = model.find(&training.record.pipeline, &training.record.point);
    let live = number.and_then(|number| model.points[number].live.as_ref());
    live.is_some_and(|live| *live.run == training.record.provenance.run && live.rungs.contains(&training.resumed_at))
}

/// `is_new` says whether epochs before the one at which a training was resumed were trained by the newest run.
fn branch_json(all: &[Stored], branch: &Branch, newest: Option<&str>, is_new: impl Fn(&Stored) -> bool) -> Value {
    // Who trained which of its epochs: each training trained those from where it was resumed.
    let mut trained: Vec<Value> = Vec::new();
    for member in &branch.members {
        let training = &all[*member];
        let (from, to) = (training.resumed_at.max(branch.from), training.total.min(branch.to));
        if from < to {
            let is_new = newest == Some(training.record.provenance.run.as_str());
            trained.push(json!({ "from": from, "to": to, "training": member, "is_new": is_new }));
        }
    }
    // Those that no result accounts for were trained for one of its members, by a run that was interrupted or before a
    // rung.
    let covered = branch.members.iter().map(|m| all[*m].resumed_at.max(branch.from)).min().unwrap_or(branch.to);
    if let Some(member) = branch.members.last().filter(|_| covered.min(branch.to) > branch.from) {
        let to = covered.min(branch.to);
        trained.push(json!({ "from": branch.from, "to": to, "training": member, "is_new": is_new(&all[*member]) }));
    }
    let ends: Vec<&usize> = branch.members.iter().filter(|m| all[**m].total == branch.to).collect();
    json!({
        "parent": branch.parent, "from": branch.from, "to": branch.to, "label": branch.label,
        "members": branch.members.len(), "trained": trained, "ends": ends,
    })
}

fn training_json(model: &Model, training: &Stored, newest: Option<&str>) -> Value {
    let record = &training.record;
    let number = model.find(&record.pipeline, &record.point);
    let is_current = number.is_some_and(|n| model.points[n].result.as_ref().is_some_and(|r| r.key == record.key));
    json!({
        "point": number, "name": record.point, "key": record.key.short(), "epochs": training.total,
        "resumed_at": training.resumed_at, "seconds": record.provenance.seconds, "run": record.provenance.run,
        "finished_at": record.provenance.finished_at, "is_current": is_current,
        "is_new": newest == Some(record.provenance.run.as_str()), "is_rung": is_rung(model, training),
    })
}

/// A training without a result: it runs, or was stopped.
fn open_json(number: usize, point: &Point) -> Option<Value> {
    let live = point.current()?;
    let (done, total) = live.epochs?;
    Some(json!({
        "point": number, "name": point.name, "status": point.status(), "epoch": done, "epochs": total,
        "resumed_at": live.resumed_at, "rungs": live.rungs, "why": live.why,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Provenance;

    fn stored(segments: &[(u64, f64)], resumed_at: u64) -> Stored {
        let segment =
            |(epochs, lr): &(u64, f64)| Segment { epochs: *epochs, params: [("lr".to_owned(), (*lr).into())].into() };
        let components = Components { segments: Some(segments.iter().map(segment).collect()), ..Components::default() };
        let record = ResultRecord {
            key: components.key(),
            pipeline: "p".to_owned(),
            point: "net".to_owned(),
            manifest: Default::default(),
            digest: components.key(),
            provides: None,
            provenance: Provenance::default(),
            damaged: false,
            lineage: 0,
            components: components.clone(),
        };
        let segments = components.segments.unwrap_or_default();
        let total = segments.iter().map(|segment| segment.epochs).sum();
        Stored { record, start: Key::of(b""), segments, total, resumed_at, seconds_per_epoch: Some(1.0) }
    }

    #[test]
    fn trainings_share_epochs_as_their_keys_say() {
        let all = [
            stored(&[(100, 0.1)], 0),
            stored(&[(200, 0.1)], 100),
            stored(&[(50, 0.1), (50, 0.01)], 50),
            // The same parameters in two segments.
            stored(&[(60, 0.1), (60, 0.1)], 100),
            stored(&[(10, 0.5)], 0),
        ];
        for (a, b) in [(0, 1), (0, 2), (1, 2), (1, 3), (0, 4)] {
            let keys = all[a].record.components.chain().shared_prefix(&all[b].record.components.chain()) as u64;
            assert_eq!(all[a].shared_with(&all[b]) + 1, keys, "{a} and {b}");
        }
    }

    #[test]
    fn tree_has_a_branch_where_trainings_part_or_end() {
        let all = [stored(&[(100, 0.1)], 0), stored(&[(200, 0.1)], 100), stored(&[(50, 0.1), (50, 0.01)], 50)];
        let mut tree = Vec::new();
        grow(&all, vec![0, 1, 2], 0, None, String::new(), &mut tree);
        let lines = tree.iter().map(|b| format!("{:?} {}–{} {:?} {}", b.parent, b.from, b.to, b.members, b.label));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
        None 0–50 [0, 1, 2] 
        Some(0) 50–100 [0, 1] lr 0.1
        Some(1) 100–200 [1] 
        Some(0) 50–100 [2] lr 0.01
        ");
        let shared = branch_json(&all, &tree[0], None, |_| false);
        assert_eq!(shared["trained"].as_array().unwrap().len(), 1, "one training trained what three share");
    }

    #[test]
    fn epochs_are_saved_by_trainings_that_were_resumed_and_not_by_their_shape() {
        let mut all = [
            stored(&[(100, 0.1)], 0),
            stored(&[(200, 0.1)], 100),
            // It shares 50 epochs with the others, but was trained from the beginning.
            stored(&[(50, 0.1), (50, 0.01)], 0),
        ];
        let saved = |all: &[Stored], rung: u64| {
            let mut tree = Vec::new();
            grow(all, vec![0, 1, 2], 0, None, String::new(), &mut tree);
            let each = tree.iter().map(|branch| reused(all, branch, |training| training.resumed_at == rung));
            each.fold((0, 0.0), |(epochs, seconds), (e, s)| (epochs + e, seconds + s))
        };
        assert_eq!(saved(&all, 0), (100, 100.0));
        assert_eq!(saved(&all, 100), (0, 0.0), "it was resumed at a rung of its own run");
        all.iter_mut().for_each(|training| training.seconds_per_epoch = None);
        assert_eq!(saved(&all, 0), (100, 0.0), "no record says how fast they were");
    }
}
