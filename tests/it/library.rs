//! vadpipe as a library: the README's stage kind, registered by a crate that is not ours.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vadpipe::artifact::{Artifact, Tensor};
use vadpipe::event::{Event, Listener};
use vadpipe::exec::{self, Options, choose};
use vadpipe::graph::Graph;
use vadpipe::model::{Decoder, DecoderShape};
use vadpipe::spec::{self, DeviceChoice, Precision};
use vadpipe::stage::{
    About, Bound, Cancel, Capability, Context, Params, Registry, Role, Roles, Stage, StageError, StageKind,
};
use vadpipe::status::RunStatus;
use vadpipe::store::{RunLabel, Store};

struct Mean;

impl StageKind for Mean {
    fn about(&self) -> About {
        let roles = Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }]);
        About { roles, ..About::new("mean", 1, "the mean of a split's pixels") }
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

/// The kinds of this file beside those of vadpipe.
fn registry() -> Registry {
    let mut registry = vadpipe::stages::builtin();
    registry.register(Mean).register(Average { makes_decoder: true });
    registry
}

/// Runs a pipeline in this folder, which must succeed. Returns its events.
fn run(folder: &Path, pipeline: &str) -> Vec<Event> {
    let (status, events) = try_run(folder, pipeline, &registry());
    assert_eq!(status, RunStatus::Ok, "{events:?}");
    events
}

fn try_run(folder: &Path, pipeline: &str, registry: &Registry) -> (RunStatus, Vec<Event>) {
    let spec = spec::load(pipeline, "means.toml", folder, &[], registry).expect("a pipeline");
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
        worker: None,
        part_of: None,
        isolate: None,
        reports: folder,
        file: "means.toml",
        args: &[],
        label: &RunLabel::default,
    };
    let heard = Heard::default();
    let context = exec::RunContext {
        spec: &spec,
        graph: &graph,
        store: &store,
        shared: None,
        compute: &compute,
        data_dirs: &[],
        relocation: None,
        threads: 1,
        memory: 1 << 30,
        cancel: &Cancel::default(),
        listener: &heard,
    };
    let outcome = exec::run(&context, &options).expect("a run");
    (outcome.status, heard.0.into_inner().expect("a list"))
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

/// A training of another crate: its decoder has random weights, and its latents are the mean brightness of the images.
struct Average {
    makes_decoder: bool,
}

const LATENT_DIM: usize = 4;

impl StageKind for Average {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }]),
            provides: &[Capability::DECODER, Capability::LATENTS, Capability::HISTORY],
            heading: "Averages",
            ..About::new("average", 1, "a decoder with random weights, and latents of mean brightness")
        }
    }
    fn parse(&self, _params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(Average { makes_decoder: self.makes_decoder })
    }
}

impl Stage for Average {
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let images = context.inputs.one("data")?.tensor("train.images")?.to_vec::<u8>()?;
        let brightness = |image: &[u8]| image.iter().map(|p| f32::from(*p)).sum::<f32>() / image.len() as f32 / 255.0;
        let latents: Vec<f32> = images.chunks(28 * 28).flat_map(|image| [brightness(image), 1.0, -1.0, 0.5]).collect();
        let mut artifact = Artifact::default();
        let shape = DecoderShape { latent_dim: LATENT_DIM, channels: [8, 8, 8, 8] };
        if self.makes_decoder {
            let weights = Decoder::new(shape, &context.streams).weights()?;
            artifact.tensors.extend(weights.into_iter().map(|(name, tensor)| (format!("decoder.{name}"), tensor)));
        }
        artifact.tensors.insert("latents".into(), Tensor::new([latents.len() / LATENT_DIM, LATENT_DIM], &latents)?);
        artifact.tensors.insert("history.loss".into(), Tensor::vector(&[0.9f64, 0.5, 0.4]));
        artifact.tensors.insert("attention".into(), Tensor::vector(&[1.0f32]));
        artifact.metrics.insert("loss".into(), 0.4);
        artifact.facts.insert("split".into(), "train".into());
        Ok(artifact)
    }
}

const AVERAGE: &str = r#"
[pipeline]
name = "averages"
[stages.data]
kind = "load-data"
source = "synthetic"
train = 24
test = 12
[stages.average]
kind = "average"
inputs = { data = "data" }
[stages.fit]
kind = "fit-latents"
inputs = { data = "data", model = "average" }
split = "train"
init = "trained"
epochs = 1
[stages.map]
kind = "tsne"
inputs = { data = "data", latents = "average" }
perplexity = 3
iterations = 20
[stages.way]
kind = "interpolate"
inputs = { data = "data", model = "average" }
from = "Trouser"
to = 3
[stages.given]
kind = "decode"
inputs = { model = "average", latents = "average" }
what = "latents"
[stages.report]
kind = "report"
inputs = { shown = ["data", "average", "fit", "map", "way", "given"] }
"#;

#[test]
fn training_of_another_crate_feeds_every_kind_that_needs_what_it_provides() {
    let folder = tempfile::tempdir().expect("a folder");
    let events = run(folder.path(), AVERAGE);
    let page = std::fs::read_to_string(folder.path().join("averages.report.html")).expect("a report");
    let section = |id: &str| {
        let start = page.split(&format!("<section id=\"{id}\">")).nth(1);
        start.unwrap_or_else(|| panic!("no section {id}")).split("</section>").next().unwrap_or_default().to_owned()
    };
    assert!(section("metrics").contains("<caption>Averages</caption>"));
    let training = section("training");
    assert!(training.contains("<h3>Averages</h3>") && training.contains("<title>average</title>"), "{training}");
    assert!(section("fitting").contains("<title>fit</title>"));
    let shown = [("embeddings", "<b>map</b>"), ("interpolations", "\"name\">way "), ("samples", "\"name\">given ")];
    for (id, wanted) in shown {
        assert!(section(id).contains(wanted), "{wanted} in {}", section(id));
    }
    let other = section("other");
    assert!(other.contains("attention") && !other.contains("decoder.") && !other.contains("history."), "{other}");

    assert_eq!(executed_and_cached(events).0.len(), 7);
    assert_eq!(executed_and_cached(run(folder.path(), AVERAGE)), (vec![], 7));
    let store = Store::open(&folder.path().join("cache"), Default::default()).expect("a cache");
    let record = store.newest("averages", "average").expect("the index").expect("a result");
    let provides = ["decoder", "history", "latents"].map(str::to_owned);
    assert_eq!(record.provides, Some(BTreeSet::from(provides)));
}

#[test]
fn role_without_what_it_needs_names_stages_that_provide_it() {
    let wrong = |from: &str, to: &str| {
        let text = AVERAGE.replace(from, to);
        spec::load(&text, "p.toml", Path::new("."), &[], &registry()).expect_err("a wrong role").message
    };
    insta::assert_snapshot!(wrong("model = \"average\" }\nfrom", "model = \"fit\" }\nfrom"), @r#"
    error: role `model` of kind `interpolate` needs `decoder`, which stage `fit` does not provide
      --> p.toml:25:35
       |
    25 | inputs = { data = "data", model = "fit" }
       |                                   ^^^^^
       |
       = help: stage `fit`, of kind `fit-latents`, provides `latents`, `fitted-latents`, `history`, `reconstructions`; stages that provide `decoder`, `latents`: `average`

    1 error in the pipeline
    "#);
    let only_data = AVERAGE.split("[stages.average]").next().unwrap_or_default();
    let text = format!("{only_data}[stages.given]\nkind = \"decode\"\ninputs = {{ model = \"data\" }}\n");
    let error = spec::load(&text, "p.toml", Path::new("."), &[], &registry()).expect_err("a wrong role");
    insta::assert_snapshot!(error.message, @r#"
    error: role `model` of kind `decode` needs `decoder`, which stage `data` does not provide
      --> p.toml:11:20
       |
    11 | inputs = { model = "data" }
       |                    ^^^^^^
       |
       = help: stage `data`, of kind `load-data`, provides `images`, `labels`, `examples`; kinds that provide `decoder`: `average`, `train-ad`, `train-vad`

    1 error in the pipeline
    "#);
}

#[test]
fn kind_that_does_not_make_what_it_provides_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut registry = registry();
    registry.register(Average { makes_decoder: false });
    let (status, events) = try_run(folder.path(), AVERAGE, &registry);
    assert_eq!(status, RunStatus::Failed);
    let errors =
        events.iter().filter_map(|e| if let Event::StageFailed { error, .. } = e { Some(error) } else { None });
    let errors: Vec<&String> = errors.collect();
    assert_eq!(errors, ["kind `average` provides `decoder`, but made no tensor `decoder.*`"]);
}
