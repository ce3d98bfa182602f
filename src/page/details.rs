//! A point: what its key is made of, what changed, and what its result holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::kept::is_decodable;
use super::model::Model;
use super::point::Point;
use super::table::figure;
use crate::artifact::{Capability, ElementType, TensorEntry};
use crate::key::{Components, InputDigest};
use crate::plan::{content, differences};
use crate::report::is_picture;
use crate::store::{BlobReader, ResultRecord, StateRecord};

/// The name of the images that a state decodes, as in results.
pub(super) const RECONSTRUCTIONS: &str = "reconstructions";
/// An embedding with more bytes is not sent: a million places.
const LARGEST_EMBEDDING: u64 = 8 << 20;
/// Images of a stack that can be shown. A larger stack is a data set.
const MOST_IMAGES: usize = 2_000;

/// Everything about a point, and what differs from `other`, or else from its result before.
pub(super) fn details(model: &Model, number: usize, other: Option<usize>) -> Option<Value> {
    let point = model.points.get(number).filter(|point| point.is_shown())?;
    let record = point.result.as_ref().and_then(|result| model.reader.result(&result.key));
    let earlier = earlier(model, number);
    let against = match other {
        Some(other) => model.points.get(other).and_then(|p| model.reader.result(&p.result.as_ref()?.key)),
        None => earlier.first().cloned(),
    };
    let mut details = json!({
        "id": number, "pipeline": &*point.pipeline, "point": point.name, "stage": point.stage, "kind": point.kind(),
        "status": point.status(), "live": live(point), "log": point.log_run(),
        "can_note": point.noted_keys().next().is_some(),
        "note": model.note(point).map(|note| json!({ "tags": note.tags, "text": note.text })),
        "earlier": earlier.iter().map(summary).collect::<Vec<_>>(),
    });
    if let Some(record) = &record {
        details["result"] = result(model, record);
        details["states"] = states(model, record);
        details["changes"] = json!(against.as_ref().map(|against| changes(against, record)));
        details["against"] = json!(against.as_ref().map(summary));
    }
    Some(details)
}

/// Results of the point before the newest one, the newest first.
fn earlier(model: &Model, number: usize) -> Vec<ResultRecord> {
    let newest = model.points[number].result.as_ref().map(|result| result.key);
    let mut earlier: Vec<ResultRecord> = model.results_of(number).filter(|record| Some(record.key) != newest).collect();
    earlier.sort_by_key(|record| Reverse(record.provenance.finished_at));
    earlier
}

fn summary(record: &ResultRecord) -> Value {
    json!({
        "point": record.point, "key": record.key, "run": record.provenance.run,
        "finished_at": record.provenance.finished_at, "seconds": record.provenance.seconds,
        "metrics": record.manifest.metrics.iter().map(|(n, v)| (n.clone(), figure(*v))).collect::<BTreeMap<_, _>>(),
    })
}

fn live(point: &Point) -> Value {
    let Some(live) = &point.live else { return Value::Null };
    json!({
        "run": &*live.run, "status": live.status.word(), "key": live.key, "why": live.why, "worker": live.worker,
        "waits_for": live.waits_for, "epochs": live.epochs, "resumed_at": live.resumed_at, "rungs": live.rungs,
        "figures": live.figures.iter().map(|(n, v)| (n.clone(), figure(*v))).collect::<BTreeMap<_, _>>(),
        "seconds": live.seconds, "seen_at": live.seen_at,
    })
}

fn result(model: &Model, record: &ResultRecord) -> Value {
    let manifest = &record.manifest;
    let metrics: BTreeMap<&String, Value> = manifest.metrics.iter().map(|(n, v)| (n, figure(*v))).collect();
    let tensors = manifest.tensors.iter().map(|(name, entry)| {
        let view = if is_stack(entry) { "images" } else { "" };
        json!({
            "name": name, "element": format!("{:?}", entry.element).to_lowercase(), "shape": entry.shape,
            "bytes": entry.blob.size, "view": view,
        })
    });
    let files = manifest.files.iter().map(|(name, blob)| {
        let view = if is_picture(name) {
            "picture"
        } else if is_text(name) {
            "text"
        } else {
            ""
        };
        json!({ "name": name, "bytes": blob.size, "view": view })
    });
    let provides = record.provides(&[]);
    json!({
        "key": record.key, "digest": record.digest, "metrics": metrics, "facts": manifest.facts,
        "tensors": tensors.collect::<Vec<_>>(), "files": files.collect::<Vec<_>>(),
        "provenance": record.provenance, "components": components(&record.components),
        "inputs": inputs(model, record), "provides": provides,
        "has_embedding": manifest.tensors.get("embedding").is_some_and(is_embedding),
    })
}

/// The inputs by role, each with the points that have this output.
fn inputs(model: &Model, record: &ResultRecord) -> Value {
    let by_digest: BTreeMap<_, _> =
        model.shown().filter_map(|(number, point)| Some((point.result.as_ref()?.digest, (number, point)))).collect();
    let mut inputs = Vec::new();
    for (role, input) in &record.components.inputs {
        let digests: Vec<(Option<&String>, _)> = match input {
            InputDigest::One(digest) => vec![(None, digest)],
            InputDigest::Many(many) => many.iter().map(|(label, digest)| (Some(label), digest)).collect(),
        };
        for (label, digest) in digests {
            let known = by_digest.get(digest);
            let name = known.map(|(_, point)| point.name.as_str()).or(label.map(String::as_str));
            let number = known.map(|(number, _)| number);
            inputs.push(json!({ "role": role, "point": name, "id": number, "digest": digest.short() }));
        }
    }
    json!(inputs)
}

/// The parts of a key: (group, name, value).
fn components(components: &Components) -> Value {
    let mut parts: Vec<Value> = Vec::new();
    let mut add = |group: &str, name: &str, value: String| {
        parts.push(json!({ "group": group, "name": name, "value": value }));
    };
    add("kind", &components.kind, format!("version {}", components.version));
    components.params.iter().for_each(|(name, value)| add("parameter", name, value.to_string()));
    let mut end = 0;
    for segment in components.segments.iter().flatten() {
        let from = end + 1;
        end += segment.epochs;
        let epochs = format!("epochs {from}–{end}");
        segment.params.iter().for_each(|(name, value)| add(&epochs, name, value.to_string()));
        if segment.params.is_empty() {
            add(&epochs, "", String::new());
        }
    }
    components.seed.iter().for_each(|seed| add("seed", "", seed.to_string()));
    components.precision.iter().for_each(|precision| add("precision", "", precision.clone()));
    for (entry, digest) in &components.contents {
        let (what, name) = content(entry);
        add(what, name, digest.short());
    }
    components.files_read.iter().for_each(|(name, digest)| add("file read", name, digest.short()));
    components.result.iter().for_each(|(name, value)| add("output", name, value.to_string()));
    Value::Array(parts)
}

/// What differs between two results: parts of the key in words, and metrics.
fn changes(before: &ResultRecord, now: &ResultRecord) -> Value {
    let causes: Vec<String> =
        differences(&before.components, &now.components).iter().map(ToString::to_string).collect();
    let names = before.manifest.metrics.keys().chain(now.manifest.metrics.keys());
    let names: BTreeSet<&String> = names.collect();
    let metric = |name: &&String| {
        let value = |record: &ResultRecord| record.manifest.metrics.get(*name).copied();
        let (a, b) = (value(before), value(now));
        json!({ "name": name, "before": a.map(figure), "now": b.map(figure) })
    };
    let metrics: Vec<Value> = names.iter().map(metric).collect();
    json!({ "causes": causes, "metrics": metrics, "same_bytes": before.digest == now.digest })
}

/// The states that are kept of a training, in the order of their epochs.
fn states(model: &Model, record: &ResultRecord) -> Value {
    if record.components.segments.is_none() {
        return Value::Null;
    }
    let chain = record.components.chain();
    let is_own = |state: &StateRecord| state.step == 0 && chain.at(state.epoch) == Some(state.key);
    let of_chain = chain.keys().iter().flat_map(|key| model.reader.states(key));
    let mut states: Vec<StateRecord> = of_chain.filter(is_own).collect();
    states.sort_by_key(|state| state.epoch);
    let json = |state: &StateRecord| {
        let images = state.tensors.iter().filter(|(_, entry)| is_stack(entry)).map(|(name, _)| name.as_str());
        let images = images.chain(is_decodable(record, state).then_some(RECONSTRUCTIONS));
        let pictures = state.folder.files.keys().filter(|name| is_picture(name));
        json!({
            "epoch": state.epoch, "bytes": state.bytes(), "is_pinned": state.pinned, "class": state.class,
            "saved_at": state.saved_at, "images": images.collect::<Vec<_>>(), "pictures": pictures.collect::<Vec<_>>(),
        })
    };
    json!(states.iter().map(json).collect::<Vec<_>>())
}

/// Whether a tensor has places in the plane, and few enough to draw them.
fn is_embedding(entry: &TensorEntry) -> bool {
    entry.shape.len() == 2 && entry.shape[1] == 2 && entry.blob.size <= LARGEST_EMBEDDING
}

/// Whether a tensor is a stack of grey images.
fn is_stack(entry: &TensorEntry) -> bool {
    entry.element == ElementType::U8 && entry.shape.len() == 3 && (1..=MOST_IMAGES).contains(&entry.shape[0])
}

/// Whether a file can be shown as text.
pub(super) fn is_text(name: &str) -> bool {
    [".txt", ".csv", ".json", ".log", ".md", ".toml", ".tsv", ".yaml", ".yml"].iter().any(|end| name.ends_with(end))
}

/// An embedding, before its places are read.
pub(super) struct Embedding {
    places: TensorEntry,
    labels: Option<TensorEntry>,
    classes: Option<Value>,
    /// Where the images are.
    images: Value,
}

/// The embedding of a point.
pub(super) fn embedding(model: &Model, number: usize) -> Option<Embedding> {
    let point = model.points.get(number)?;
    let mut record = model.reader.result(&point.result.as_ref()?.key)?;
    let split = record.manifest.facts.get("split").and_then(Value::as_str).unwrap_or("train");
    let images = format!("{split}.images");
    let has_images = |p: &Point| {
        let record = p.result.as_ref().and_then(|result| model.reader.result(&result.key));
        record.is_some_and(|record| record.manifest.tensors.get(&images).is_some_and(|t| t.shape.len() == 3))
    };
    let data = match record.components.inputs.get("data") {
        Some(InputDigest::One(digest)) => {
            model.shown().find(|(_, p)| p.result.as_ref().is_some_and(|r| r.digest == *digest) && has_images(p))
        }
        _ => None,
    };
    let images = data.map(|(number, _)| json!({ "id": number, "tensor": images }));
    let mut tensor = |name: &str| record.manifest.tensors.remove(name).filter(|t| t.blob.size <= LARGEST_EMBEDDING);
    let (places, labels) = (tensor("embedding")?, tensor("labels"));
    Some(Embedding { places, labels, classes: record.manifest.facts.remove("classes"), images: json!(images) })
}

impl Embedding {
    /// Its places (x, y, class), the names of the classes, and where the images are. None if it can't be read.
    pub(super) fn read(self, blobs: &BlobReader) -> Option<Value> {
        let places = blobs.tensor(&self.places).ok()?.to_vec::<f32>().ok()?;
        let labels = self.labels.and_then(|labels| blobs.tensor(&labels).ok()?.to_vec::<u8>().ok()).unwrap_or_default();
        let places: Vec<Value> =
            places.chunks_exact(2).enumerate().map(|(at, place)| json!([place[0], place[1], labels.get(at)])).collect();
        let kind = Capability::EMBEDDING.name();
        Some(json!({ "kind": kind, "places": places, "classes": self.classes, "images": self.images }))
    }
}
