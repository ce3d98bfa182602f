//! `tsne` as a pipeline sees it.

use std::path::Path;
use std::sync::Mutex;

use crate::stage::{Device, Precision};
use serde_json::json;

use super::*;
use crate::artifact::{BlobEntry, Manifest, TensorEntry};
use crate::diagnostic::{Diagnostics, Origin};
use crate::error::Error;
use crate::rng::Streams;
use crate::stage::{Cancel, Inputs, Progress};
use crate::value::{Data, Entry, Node, Table};

/// An artifact in memory, as an input.
struct Made(&'static str, Artifact, Manifest);

impl Made {
    fn input(label: &'static str, artifact: Artifact) -> Arc<dyn Input> {
        let entry = |t: &Tensor| TensorEntry {
            element: t.element(),
            shape: t.shape().to_vec(),
            blob: BlobEntry::of(t.bytes()),
        };
        let manifest = Manifest {
            kind: String::new(),
            tensors: artifact.tensors.iter().map(|(n, t)| (n.clone(), entry(t))).collect(),
            metrics: artifact.metrics.clone(),
            facts: artifact.facts.clone(),
            ..Manifest::default()
        };
        Arc::new(Self(label, artifact, manifest))
    }
}

impl Input for Made {
    fn label(&self) -> &str {
        self.0
    }
    fn manifest(&self) -> &Manifest {
        &self.2
    }
    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.1.tensors.get(name).cloned().ok_or_else(|| Error::storage(format!("no tensor {name}")))
    }
    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        Err(Error::storage(format!("no file {name}")))
    }
}

#[derive(Default)]
struct Heard(Mutex<(Vec<Update>, Vec<String>)>);

impl Progress for Heard {
    fn update(&self, update: Update) {
        self.0.lock().unwrap().0.push(update);
    }
    fn log(&self, line: &str) {
        self.0.lock().unwrap().1.push(line.to_owned());
    }
}

fn parse(parameters: &[(&str, Data)]) -> Result<Arc<dyn Stage>, String> {
    let origin = Origin { source: 0, span: 0..0 };
    let entry = |(name, data): &(&str, Data)| Entry {
        name: (*name).to_owned(),
        name_origin: origin.clone(),
        node: Node { data: data.clone(), origin: origin.clone() },
    };
    let table = Table(parameters.iter().map(entry).collect());
    let mut diagnostics = Diagnostics::default();
    let mut params = Params::new(&table, origin.clone(), &[], &mut diagnostics);
    let stage = Tsne.parse(&mut params);
    params.finish();
    let lines = diagnostics.0.iter().map(|d| format!("{} ({})", d.message, d.help.as_deref().unwrap_or("-")));
    if diagnostics.is_empty() { Ok(stage) } else { Err(lines.collect::<Vec<_>>().join("\n")) }
}

/// Data with these test labels, and latents.
fn inputs(labels: &[u8], shape: [usize; 2], latents: &[f32], split: Option<&str>) -> Inputs {
    let mut data = Artifact::default();
    data.tensors.insert("test.labels".to_owned(), Tensor::vector(labels));
    data.facts.insert("classes".to_owned(), json!(["Trouser", "Bag", "Shirt"]));
    let mut fit = Artifact::default();
    fit.tensors.insert("latents".to_owned(), Tensor::new(shape, latents).unwrap());
    fit.facts.extend(split.map(|s| ("split".to_owned(), json!(s))));
    let one = |label, artifact| vec![Made::input(label, artifact)];
    Inputs([("data".to_owned(), one("data", data)), ("latents".to_owned(), one("fit", fit))].into())
}

fn run(stage: &dyn Stage, inputs: Inputs, heard: &Heard, cancel: &Cancel) -> Result<Artifact, StageError> {
    stage.run(&Context {
        version: 1,
        inputs,
        streams: Streams::new(3),
        precision: Precision::F32,
        device: &Device::Cpu,
        gpus: &[],
        scratch: Path::new("."),
        base: Path::new("."),
        mirror: None,
        dep_file: None,
        checkpoint: None,
        data_dirs: &[],
        log_path: Path::new("."),
        progress: heard,
        cancel,
        chain: None,
        program_chain: None,
    })
}

/// Three blobs of `each` latents in eight dimensions, in turn.
fn blobs(each: usize) -> (Vec<u8>, Vec<f32>) {
    let labels: Vec<u8> = (0..3 * each).map(|i| (i % 3) as u8).collect();
    let mut latents = vec![0.0; labels.len() * 8];
    Streams::new(1).stream("latents", 0, 0).normals(&mut latents);
    for (latent, label) in latents.chunks_exact_mut(8).zip(&labels) {
        latent[usize::from(*label)] += 30.0;
    }
    (labels, latents)
}

fn refused(stage: &dyn Stage, inputs: Inputs) -> String {
    match run(stage, inputs, &Heard::default(), &Cancel::default()).unwrap_err() {
        StageError::BadInput { message, hint } => format!("{message} ({})", hint.as_deref().unwrap_or("-")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn map_of_three_blobs_has_high_purity() {
    let (labels, latents) = blobs(100);
    let heard = Heard::default();
    let stage = parse(&[("iterations", Data::Int(400))]).unwrap();
    let artifact = run(&*stage, inputs(&labels, [300, 8], &latents, Some("test")), &heard, &Cancel::default()).unwrap();
    assert_eq!(artifact.tensors["embedding"].shape(), [300, 2]);
    assert_eq!(artifact.tensors["labels"].to_vec::<u8>().unwrap(), labels);
    assert_eq!(artifact.metrics["knn_purity"], 1.0);
    assert!((0.3..0.9).contains(&artifact.metrics["knn_recall"]), "{:?}", artifact.metrics);
    assert!((0.1..2.0).contains(&artifact.metrics["kl"]), "{:?}", artifact.metrics);
    assert_eq!(
        json!(artifact.facts),
        json!({"classes": ["Trouser", "Bag", "Shirt"], "split": "test", "perplexity": 30.0})
    );
    let (updates, log) = &*heard.0.lock().unwrap();
    let last = updates.last().unwrap();
    assert_eq!((last.done, last.total, last.unit), (400, 400, "iterations"));
    assert_eq!(last.figures, [("kl".into(), artifact.metrics["kl"])]);
    assert!(log.is_empty());
}

#[test]
fn perplexity_is_lowered_for_few_latents_and_no_latents_are_accepted() {
    let heard = Heard::default();
    for n in [0, 1, 2, 4, 16] {
        let (labels, latents) = blobs(6);
        let given = inputs(&labels[..n], [n, 8], &latents[..8 * n], Some("test"));
        let stage = parse(&[("iterations", Data::Int(300))]).unwrap();
        let artifact = run(&*stage, given, &heard, &Cancel::default()).unwrap();
        assert_eq!(artifact.tensors["embedding"].shape(), [n, 2]);
        assert!(artifact.metrics.values().all(|v| v.is_finite()), "{n}: {:?}", artifact.metrics);
        assert_eq!(artifact.facts["perplexity"], json!((n.max(1) as f64 - 1.0).max(3.0) / 3.0));
    }
    insta::assert_snapshot!(heard.0.lock().unwrap().1.last().unwrap(), @"perplexity lowered from 30 to 5.00: there are only 16 latents");
}

#[test]
fn inputs_that_do_not_fit_are_explained() {
    let (labels, mut latents) = blobs(4);
    let plain = parse(&[]).unwrap();
    let train = parse(&[("split", Data::Text("train".to_owned()))]).unwrap();
    insta::assert_snapshot!(refused(&*train, inputs(&labels, [12, 8], &latents, Some("test"))), @r#"`split = "train"`, but the latents of fit are of the test split (leave `split` out, or name a stage that fits that split)"#);
    insta::assert_snapshot!(refused(&*plain, inputs(&labels, [12, 8], &latents, None)), @r#"fit does not record the split of its latents (write `split = "train"` or `split = "test"`)"#);
    insta::assert_snapshot!(refused(&*plain, inputs(&labels[..9], [12, 8], &latents, Some("test"))), @"fit has 12 latents, but data has 9 test labels (as `data`, use the stage that the latents were trained on)");
    latents[17] = 1e30;
    assert!(refused(&*plain, inputs(&labels, [12, 8], &latents, Some("test"))).starts_with("latent 2 of fit is 1"));
    latents[17] = f32::NAN;
    insta::assert_snapshot!(refused(&*plain, inputs(&labels, [12, 8], &latents, Some("test"))), @"latent 2 of fit is NaN (the training that made it has diverged; lower its learning rate)");
}

#[test]
fn wrong_parameters_are_explained() {
    let wrong = |parameters: &[(&str, Data)]| parse(parameters).err().unwrap();
    insta::assert_snapshot!(wrong(&[("split", Data::Text("tests".to_owned())), ("perplexity", Data::Float(0.5)), ("iterations", Data::Int(0))]), @r#"
`split` must be one of train, test, not "tests" (write "train" or "test", or leave it out: the latents record their split)
`perplexity` must be 1 or more, not 0.5 (the usual value is 30)
`iterations` must be an integer from 1 to 100000, not 0 (-)
"#);
    insta::assert_snapshot!(wrong(&[("perplexty", Data::Int(30))]), @"unknown field `perplexty` (did you mean `perplexity`?)");
}

#[test]
fn it_stops_when_it_is_cancelled() {
    let (labels, latents) = blobs(20);
    let cancel = Cancel::default();
    cancel.cancel();
    let heard = Heard::default();
    let outcome = run(&*parse(&[]).unwrap(), inputs(&labels, [60, 8], &latents, Some("test")), &heard, &cancel);
    assert!(matches!(outcome, Err(StageError::Interrupted)));
    assert!(heard.0.lock().unwrap().0.len() <= 1);
}
