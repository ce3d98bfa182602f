//! vadpipe as a library: the README's stage kind, registered by a crate that is not ours.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vadpipe::artifact::Artifact;
use vadpipe::event::{Event, Listener, Status};
use vadpipe::exec::{self, Options, choose};
use vadpipe::graph::Graph;
use vadpipe::spec::{self, DeviceChoice, Precision};
use vadpipe::stage::{Bound, Cancel, Capability, Context, Params, Role, Roles, Stage, StageError, StageKind};
use vadpipe::store::Store;

struct Mean;

impl StageKind for Mean {
    fn name(&self) -> &'static str {
        "mean"
    }
    fn version(&self) -> u32 {
        1
    }
    fn summary(&self) -> &'static str {
        "the mean of a split's pixels"
    }
    fn roles(&self) -> Roles {
        Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }])
    }
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(MeanOf(params.float("scale", 1.0, Bound::Positive)))
    }
}

struct MeanOf(f64);

impl Stage for MeanOf {
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let pixels = context.inputs.one("data")?.tensor("train.images")?.to_vec::<u8>()?;
        let mean = pixels.iter().map(|p| f64::from(*p)).sum::<f64>() / pixels.len() as f64;
        let mut artifact = Artifact::default();
        artifact.metrics.insert("mean".into(), mean * self.0);
        Ok(artifact)
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Listener for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().expect("a list").push(event.clone());
    }
}

const PIPELINE: &str = "
[pipeline]
name = \"means\"
[stages.data]
kind = \"load-data\"
source = \"synthetic\"
train = 20
test = 10
[stages.mean]
kind = \"mean\"
inputs = { data = \"data\" }
matrix = { scale = [1.0, 2.0] }
scale = \"${matrix.scale}\"
";

/// Runs a pipeline in this folder with our kind: what was told.
fn run(folder: &Path, pipeline: &str) -> Vec<Event> {
    let mut registry = vadpipe::stages::builtin();
    registry.register(Mean);
    let spec = spec::load(pipeline, "means.toml", folder, &[], &registry).expect("a pipeline");
    let graph = Graph::of(&spec.points).expect("a graph");
    let store = Arc::new(Store::open(&folder.join("cache"), Default::default()).expect("a cache"));
    let compute = choose(DeviceChoice::Cpu, Precision::F32).expect("a CPU");
    let (wanted, forced) = (graph.select(&[]).expect("all"), BTreeSet::new());
    let options = Options {
        wanted: &wanted,
        forced: &forced,
        jobs: 2,
        keep_going: false,
        wait: true,
        threads: 1,
        compute: &compute,
        data_dirs: &[],
        reports: folder,
        file: "means.toml",
        args: &[],
    };
    let heard = Heard::default();
    let outcome = exec::run(&spec, &graph, &store, &options, &Cancel::default(), &heard).expect("a run");
    assert_eq!(outcome.status, Status::Ok);
    heard.0.into_inner().expect("a list")
}

/// The last event's lists: what was executed, and how much was cached.
fn executed_and_cached(mut events: Vec<Event>) -> (Vec<String>, usize) {
    match events.pop() {
        Some(Event::RunFinished { executed, cached, .. }) => (executed, cached.len()),
        other => panic!("the last event ends the run, not {other:?}"),
    }
}

#[test]
fn a_kind_from_another_crate_runs_and_is_cached_like_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let means: Vec<f64> = run(folder.path(), PIPELINE)
        .into_iter()
        .filter_map(|e| if let Event::StageFinished { metrics, .. } = e { metrics.get("mean").copied() } else { None })
        .collect();
    assert_eq!(means.len(), 2);
    assert!(means.contains(&(2.0 * means[0])) || means.contains(&(means[0] / 2.0)), "{means:?}");
    assert_eq!(executed_and_cached(run(folder.path(), PIPELINE)), (vec![], 3));
}

#[test]
fn a_thousand_points_run_once_each_and_an_edit_runs_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let scales: Vec<String> = (1..=1000).map(|i| format!("{i}.0")).collect();
    let sweep = PIPELINE.replace("1.0, 2.0", &scales.join(", "));
    let (executed, cached) = executed_and_cached(run(folder.path(), &sweep));
    assert_eq!((executed.iter().collect::<BTreeSet<_>>().len(), executed.len(), cached), (1001, 1001, 0));
    assert_eq!(executed_and_cached(run(folder.path(), &sweep)), (vec![], 1001));
    let edited = sweep.replace(", 500.0,", ", 500.5,");
    assert_eq!(executed_and_cached(run(folder.path(), &edited)), (vec!["mean@scale=500.5".to_owned()], 1000));
}
