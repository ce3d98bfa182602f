//! The text of a pipeline and overrides: read, expanded, and planned against an empty cache.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::document;
use crate::error::{Category, Error};
use crate::graph::Graph;
use crate::id::PointId;
use crate::key::Key;
use crate::plan::{Planner, ResolvedInputs, State};
use crate::spec::{Spec, load_with};
use crate::stage::Compute;
use crate::stages::builtin;
use crate::store::{Options, Store};

/// There is nothing here: no files that a pipeline could name, and no cache.
const NOWHERE: &str = "/nonexistent/vadpipe-fuzz";
/// Pipelines with more points or epochs than this are expanded but not planned, to keep the fuzzer fast.
const POINTS: usize = 500;
/// See [`POINTS`].
const EPOCHS: u64 = 20_000;

/// Has every feature that an override can reach: parameters, axes, pruning, values for some points, lists, segments.
const BASE: &str = include_str!("base.toml");

fn read(text: &str, overrides: &[String]) -> Result<Spec, Error> {
    let no_files = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound).into());
    let found = load_with(text, "p.toml", Path::new(NOWHERE), overrides, &builtin(), &no_files);
    if let Err(error) = &found {
        assert_eq!(error.category, Category::BadInput, "{error}");
        assert!(!error.message.is_empty());
    }
    found
}

/// The text of a pipeline.
pub(super) fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(spec) = read(text, &[]) else { return };
    is_consistent(&spec);
    let Some(keys) = keys(&spec) else { return };
    is_planned(&spec, text);
    // Layout, comments, and how a name or a number is written change no key.
    let Some(document) = document::read(text) else { panic!("a pipeline was read from text that is not TOML") };
    let rewritten = document::write(&document);
    match read(&rewritten, &[]) {
        Ok(again) => assert_eq!(self::keys(&again), Some(keys), "other keys after formatting:\n{rewritten}"),
        Err(error) => panic!("refused after formatting:\n{rewritten}\n{error}"),
    }
}

/// Overrides, one in each line, of [`BASE`].
pub(super) fn overrides(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let overrides: Vec<String> = text.lines().map(str::to_owned).collect();
    let found = read(BASE, &overrides);
    if let Ok(spec) = &found {
        is_consistent(spec);
    }
    let [only] = overrides.as_slice() else { return };
    let twice = read(BASE, &[only.clone(), only.clone()]);
    assert_eq!(found.is_ok(), twice.is_ok(), "an override that is given twice");
    let keys = found.as_ref().ok().map(keys);
    assert_eq!(keys, twice.as_ref().ok().map(self::keys), "an override that is given twice");
    // An override does what the same text would do in the file. A comment would be part of an override's value.
    let change = document::read(only).filter(|_| !only.contains('#'));
    let (Some(change), Some(mut file)) = (change, document::read(BASE)) else { return };
    if document::set(&mut file, &change).is_none() {
        return;
    }
    let edited = document::write(&file);
    match (found, read(&edited, &[])) {
        (Ok(_), Ok(spec)) => assert_eq!(keys, Some(self::keys(&spec)), "other keys than the edited file:\n{edited}"),
        // The only errors that occur in just one of the two forms.
        (Err(e), Ok(_)) => {
            let known = [
                "nothing uses the parameter",
                "a name of the path is missing here",
                "`include` can't be overridden",
                "there is no group",
            ];
            assert!(known.iter().any(|text| e.message.contains(text)), "{e}\n{edited}");
        }
        (Ok(_), Err(e)) => assert!(e.message.contains("no stage uses the axis"), "{e}\n{edited}"),
        (Err(_), Err(_)) => {}
    }
}

/// Names are unique, and stages and inputs refer to existing points.
fn is_consistent(spec: &Spec) {
    let names: BTreeSet<&str> = spec.points.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names.len(), spec.points.len(), "two points have the same name");
    let mut next = 0;
    for stage in &spec.stages {
        let range = stage.range();
        assert!(range.start == next && !range.is_empty(), "stage {} has no points", stage.name);
        next = range.end;
        assert!(spec.points[range].iter().all(|p| p.stage == stage.name));
    }
    assert_eq!(next, spec.points.len(), "points of no stage");
    for point in &spec.points {
        let inputs = || point.inputs.values().flat_map(|input| input.points());
        assert!(inputs().all(|i| i.index() < spec.points.len()), "{} reads a point that does not exist", point.name);
        assert!(point.name.len() < 256 && !point.name.contains(['/', '\0']), "{:?} can't be a file's name", point.name);
    }
}

/// The name and the key of every point. The key of a point replaces the digest of its output. `None` if that would take
/// long.
fn keys(spec: &Spec) -> Option<Vec<(String, Key)>> {
    let epochs = |point: &crate::spec::Point| point.parsed.stage.epochs().map_or(0, |e| e.total());
    if spec.points.len() > POINTS || spec.points.iter().map(epochs).sum::<u64>() > EPOCHS {
        return None;
    }
    let graph = graph(spec);
    let store = no_cache();
    let forced = BTreeSet::new();
    let planner =
        Planner { spec, graph: &graph, store: &store, compute: &Compute::cpu("cpu"), forced: &forced, in_store: None };
    let mut known = ResolvedInputs::default();
    for point in graph.order() {
        let key = planner.components(*point, &known, &BTreeMap::new()).key();
        known.outputs.insert(*point, key);
    }
    Some(known.outputs.into_iter().map(|(point, key)| (spec.point(point).name.clone(), key)).collect())
}

fn graph(spec: &Spec) -> Graph {
    let graph = Graph::of(&spec.points).unwrap_or_else(|e| panic!("a pipeline that was read has a cycle: {e}"));
    let mut seen = vec![false; spec.points.len()];
    for point in graph.order() {
        assert!(graph.inputs(*point).iter().all(|i| seen[i.index()]), "a point comes before its input");
        assert!(!std::mem::replace(&mut seen[point.index()], true), "a point is in the order twice");
    }
    assert!(seen.iter().all(|s| *s), "a point is missing in the order");
    graph
}

fn no_cache() -> Store {
    let store = Store::open(Path::new(NOWHERE), Options::default());
    store.unwrap_or_else(|e| panic!("a cache that does not exist can't be opened: {e}"))
}

/// Against an empty cache every point is a miss, and planning creates nothing.
fn is_planned(spec: &Spec, text: &str) {
    // A text that may name files of this machine is not planned: planning reads them.
    let names_files = text.contains("command") || text.contains("idx");
    if names_files && text.contains(['/', '\\']) {
        return;
    }
    let (graph, store, forced) = (graph(spec), no_cache(), BTreeSet::new());
    let planner =
        Planner { spec, graph: &graph, store: &store, compute: &Compute::cpu("cpu"), forced: &forced, in_store: None };
    let all: BTreeSet<PointId> = spec.point_ids().collect();
    match planner.plan(&all) {
        Ok(plan) => {
            assert_eq!(plan.decisions.len(), spec.points.len());
            for decision in &plan.decisions {
                assert_eq!(decision.state, State::Miss);
                assert!(decision.output.is_none() && decision.reason.is_some());
                assert_eq!(decision.key, decision.components.as_ref().map(|c| c.key()));
            }
        }
        Err(error) => assert_eq!(error.category, Category::BadInput, "{error}"),
    }
    assert!(!Path::new(NOWHERE).exists(), "planning made a cache");
}
