//! The graph of a pipeline by stages: what runs, what waits for what, and the time that is left.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::model::Model;
use super::point::Point;
use crate::key::{Digest, InputDigest};
use crate::spec::PointInput;

/// The points of a stage.
#[derive(Default)]
struct Stage<'a> {
    kind: Option<&'a str>,
    counts: BTreeMap<&'static str, usize>,
    /// The seconds of points that are done.
    seconds: Vec<f64>,
    /// Estimated seconds of points that run or wait.
    left: f64,
    /// Points that run or wait and have no estimate.
    unknown: usize,
    running: Vec<Value>,
}

/// The graph of a pipeline.
pub(super) fn graph(model: &Model, pipeline: &str, now: i64) -> Value {
    let points: Vec<(usize, &Point)> = model.shown().filter(|(_, point)| *point.pipeline == *pipeline).collect();
    let mut stages: BTreeMap<&str, Stage<'_>> = BTreeMap::new();
    for (_, point) in &points {
        let stage = stages.entry(&point.stage).or_default();
        stage.kind = stage.kind.or(point.kind());
        *stage.counts.entry(point.status()).or_default() += 1;
        stage.seconds.extend(point.result.as_ref().map(|result| result.seconds));
    }
    let mut at_once = 0usize;
    for (number, point) in &points {
        let Some(live) = point.current().filter(|live| live.is_open()) else { continue };
        let Some(stage) = stages.get_mut(point.stage.as_str()) else { continue };
        let mean = (!stage.seconds.is_empty()).then(|| stage.seconds.iter().sum::<f64>() / stage.seconds.len() as f64);
        let is_running = point.status() == "running";
        let left = if is_running { live.seconds_left(now).or(mean) } else { mean };
        match left {
            Some(left) => stage.left += left,
            None => stage.unknown += 1,
        }
        if is_running || live.waits_for.is_some() {
            at_once += usize::from(is_running);
            stage.running.push(json!({
                "id": number, "point": point.name, "status": point.status(), "worker": live.worker,
                "waits_for": live.waits_for, "epochs": live.epochs, "left": left, "seen_at": live.seen_at,
            }));
        }
    }
    let edges: Vec<Value> = edges(model, pipeline, &points).iter().map(|(from, to)| json!([from, to])).collect();
    let unknown = stages.values().map(|stage| stage.unknown).sum::<usize>();
    let left = stages.values().map(|stage| stage.left).sum::<f64>() / at_once.max(1) as f64;
    let node = |(name, stage): (&&str, &Stage<'_>)| {
        json!({
            "stage": name, "kind": stage.kind, "counts": stage.counts, "running": stage.running,
            "seconds": stage.seconds.iter().sum::<f64>(), "left": stage.left, "without_estimate": stage.unknown,
        })
    };
    let nodes: Vec<Value> = stages.iter().map(node).collect();
    json!({ "pipeline": pipeline, "stages": nodes, "edges": edges, "left": left, "without_estimate": unknown })
}

/// The stages that read each other: from the pipeline file, or else from the inputs of stored results.
fn edges(model: &Model, pipeline: &str, points: &[(usize, &Point)]) -> BTreeSet<(String, String)> {
    let mut edges = BTreeSet::new();
    if let Some(spec) = model.spec(pipeline) {
        for point in &spec.points {
            let inputs = point.inputs.values().flat_map(PointInput::points);
            edges.extend(inputs.map(|input| (spec.point(*input).stage.clone(), point.stage.clone())));
        }
        return edges;
    }
    let outputs: BTreeMap<Digest, &str> =
        points.iter().filter_map(|(_, p)| Some((p.result.as_ref()?.digest, p.stage.as_str()))).collect();
    // All points of a stage read the same stages.
    let mut stages = BTreeSet::new();
    for (_, point) in points {
        let Some(result) = point.result.as_ref().filter(|_| stages.insert(&point.stage)) else { continue };
        let Some(record) = model.reader.result(&result.key) else { continue };
        for input in record.components.inputs.values() {
            let digests: Vec<&Digest> = match input {
                InputDigest::One(digest) => vec![digest],
                InputDigest::Many(many) => many.values().collect(),
            };
            let from = digests.into_iter().filter_map(|digest| outputs.get(digest));
            edges.extend(from.map(|from| ((*from).to_owned(), point.stage.clone())));
        }
    }
    edges
}
