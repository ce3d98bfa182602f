//! vadpipe as a library: the README's stage kind, registered by a crate that is not ours.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use vadpipe::artifact::Artifact;
use vadpipe::event::{Event, Listener, Status};
use vadpipe::exec::{self, Options, choose};
use vadpipe::graph::Graph;
use vadpipe::spec::{self, DeviceChoice, Precision};
use vadpipe::stage::{Bound, Cancel, Context, Params, Role, Roles, Stage, StageError, StageKind};
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
        Roles::Fixed(&[Role { name: "data", optional: false, kinds: &["load-data"] }])
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

#[test]
fn a_kind_from_another_crate_runs_and_is_cached_like_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut registry = vadpipe::stages::builtin();
    registry.register(Mean);
    let spec = spec::load(PIPELINE, "means.toml", folder.path(), &[], &registry).expect("a pipeline");
    let graph = Graph::of(&spec.points).expect("a graph");
    let store = Arc::new(Store::open(&folder.path().join("cache"), Default::default()).expect("a cache"));
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
        reports: folder.path(),
        file: "means.toml",
        args: &[],
    };
    let run = || {
        let heard = Heard::default();
        let outcome = exec::run(&spec, &graph, &store, &options, &Cancel::default(), &heard).expect("a run");
        assert_eq!(outcome.status, Status::Ok);
        heard.0.into_inner().expect("a list")
    };
    let means: Vec<f64> = run()
        .into_iter()
        .filter_map(|e| if let Event::StageFinished { metrics, .. } = e { metrics.get("mean").copied() } else { None })
        .collect();
    assert_eq!(means.len(), 2);
    assert!(means.contains(&(2.0 * means[0])) || means.contains(&(means[0] / 2.0)), "{means:?}");
    let Some(Event::RunFinished { executed, cached, .. }) = run().pop() else { panic!("the last event ends the run") };
    assert_eq!((executed.len(), cached.len()), (0, 3));
}
