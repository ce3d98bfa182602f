//! Plans of pipelines whose files can't be read, with the built-in kinds and a real store.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::error::Category;
use crate::graph::Graph;
use crate::id::PointId;
use crate::spec::load;
use crate::stage::Compute;
use crate::stages::builtin;
use crate::store::{Options, Store};

/// The files of `own` and `summary` are missing, and `summary` has two points that read the same file. `drawn` and
/// `below` read no files.
const PIPELINE: &str = r#"[pipeline]
name = "p"

[stages.own]
kind = "load-data"
source = "idx"
path = "nowhere"

[stages.summary]
kind = "command"
matrix = { size = ["s", "l"] }
argv = ["true", "${matrix.size}"]
sources = ["helper.py"]

[stages.drawn]
kind = "load-data"
source = "synthetic"

[stages.below]
kind = "command"
inputs = { data = "own" }
argv = ["true"]
"#;

/// Calls `f` with a planner for this pipeline and with the pipeline's folder, which contains only the cache.
fn with_planner<T>(f: impl FnOnce(&Planner<'_>, &Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let spec = load(PIPELINE, "p.toml", dir.path(), &[], &builtin()).unwrap();
    let graph = Graph::of(&spec.points).unwrap();
    let store = Store::open(&dir.path().join("cache"), Options::default()).unwrap();
    let forced = BTreeSet::new();
    f(
        &Planner {
            spec: &spec,
            graph: &graph,
            store: &store,
            compute: &Compute::cpu("cpu"),
            forced: &forced,
            in_store: None,
        },
        dir.path(),
    )
}

fn points(planner: &Planner<'_>, stages: &[&str]) -> BTreeSet<PointId> {
    planner.spec.point_ids().filter(|p| stages.contains(&planner.spec.point(*p).stage.as_str())).collect()
}

#[test]
fn one_error_lists_all_missing_files_with_the_places_of_their_stages() {
    with_planner(|planner, base| {
        let all = planner.spec.point_ids().collect();
        let error = planner.plan(&all).unwrap_err();
        assert_eq!(error.category, Category::BadInput);
        let message = error.message.replace(base.to_str().unwrap(), "BASE");
        let wanted = [
            "error: stage `own`: there is no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz in BASE/nowhere",
            "p.toml:4:9",
            "error: stage `summary`: the source `helper.py` can't be read",
            "p.toml:9:9",
            "2 errors in the pipeline",
        ];
        let found: Vec<_> = wanted.iter().filter_map(|w| message.find(w)).collect();
        assert!(found.len() == wanted.len() && found.is_sorted(), "{message}");
    });
}

#[test]
fn missing_files_of_points_that_are_not_requested_are_ignored() {
    with_planner(|planner, _| {
        assert_eq!(planner.plan(&points(planner, &["drawn"])).unwrap().decisions.len(), 1);
        let message = planner.plan(&points(planner, &["drawn", "summary"])).unwrap_err().message;
        assert!(message.contains("helper.py") && !message.contains("ubyte"), "{message}");
    });
}

#[test]
fn with_keep_going_unreadable_files_fail_only_their_point() {
    with_planner(|planner, base| {
        let all: BTreeSet<PointId> = planner.spec.point_ids().collect();
        let plan = planner.plan_around(&all).unwrap();
        assert_eq!(plan.decisions.iter().map(|d| d.point).collect::<BTreeSet<_>>(), all);
        assert!(plan.decisions.iter().all(|d| d.state == State::Miss));
        let own = points(planner, &["own"]).into_iter().next().unwrap();
        let error = planner.decide(own, &ResolvedInputs::default()).unwrap_err();
        let message = error.message.replace(base.to_str().unwrap(), "BASE");
        let wanted = "p.toml:4:9: stage `own`: there is no train-images-idx3-ubyte";
        assert!(message.starts_with(wanted) && !message.contains('\n'), "{message}");
        assert_eq!(error.category, Category::BadInput);
        let drawn = points(planner, &["drawn"]).into_iter().next().unwrap();
        assert!(planner.decide(drawn, &ResolvedInputs::default()).unwrap().0.key.is_some());
    });
}
