//! `load-data` as a pipeline sees it: parameters in, artifact or message out.

use std::fs;
use std::io;
use std::sync::Mutex;

use crate::stage::{Device, Precision};
use serde_json::json;

use super::idx::tests::{gzip, images, labels};
use super::*;
use crate::diagnostic::{Diagnostics, Origin};
use crate::stage::{Cancel, Inputs, Progress, Update};
use crate::value::{Entry, Table};

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Progress for Log {
    fn update(&self, _: Update) {}
    fn log(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Files relative to a folder.
struct InFolder<'a>(&'a Path);

impl Files for InFolder<'_> {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        fs::read(path).map(|bytes| Digest::of(&bytes))
    }
    fn resolve(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

fn data(value: &serde_json::Value) -> Data {
    match value {
        serde_json::Value::String(s) => Data::Text(s.clone()),
        serde_json::Value::Array(a) => Data::List(a.iter().map(node).collect()),
        other => Data::Int(other.as_i64().unwrap()),
    }
}

fn node(value: &serde_json::Value) -> Node {
    Node { data: data(value), origin: Origin { source: 0, span: 0..0 } }
}

/// Parses the stage; an error as the user would see it, without places.
fn parse(parameters: serde_json::Value) -> Result<Arc<dyn Stage>, String> {
    let origin = Origin { source: 0, span: 0..0 };
    let entries = parameters.as_object().unwrap().iter().map(|(name, value)| Entry {
        name: name.clone(),
        name_origin: origin.clone(),
        node: node(value),
    });
    let table = Table(entries.collect());
    let mut diagnostics = Diagnostics::default();
    let mut params = Params::new(&table, origin, &[], &mut diagnostics);
    let stage = LoadData.parse(&mut params);
    params.finish();
    let lines = diagnostics.0.iter().map(|d| format!("{} ({})", d.message, d.help.as_deref().unwrap_or("-")));
    if diagnostics.is_empty() { Ok(stage) } else { Err(lines.collect::<Vec<_>>().join("\n")) }
}

fn run_in(
    base: &Path,
    data_dirs: &[PathBuf],
    seed: i64,
    parameters: serde_json::Value,
) -> Result<Artifact, StageError> {
    let context = Context {
        version: 1,
        inputs: Inputs::default(),
        streams: Streams::new(seed),
        precision: Precision::F32,
        device: &Device::Cpu,
        gpus: &[],
        scratch: base,
        base,
        mirror: None,
        dep_file: None,
        checkpoint: None,
        data_dirs,
        log_path: base,
        progress: &Log::default(),
        cancel: &Cancel::default(),
        chain: None,
        program_chain: None,
    };
    parse(parameters).unwrap().run(&context)
}

fn run(seed: i64, parameters: serde_json::Value) -> Artifact {
    run_in(Path::new("."), &[], seed, parameters).unwrap()
}

/// The message and the hint of a stage that finds its input wrong, with a placeholder for the folder.
fn refused(base: &Path, parameters: serde_json::Value) -> String {
    match run_in(base, &[], 0, parameters).unwrap_err() {
        StageError::BadInput { message, hint } => {
            let text = format!("{message} ({})", hint.as_deref().unwrap_or("-"));
            text.replace(base.to_str().unwrap(), "BASE")
        }
        other => panic!("{other:?}"),
    }
}

fn labels_of(artifact: &Artifact, split: &str) -> Vec<u8> {
    artifact.tensors[&format!("{split}.labels")].to_vec().unwrap()
}

/// A folder with an IDX data set: train labels 3, 5, 9 in turn, 40 of them, gzipped; 4 test images, plain. A train
/// image holds its index in every pixel.
fn idx_folder() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("mine");
    fs::create_dir(&folder).unwrap();
    let pixels: Vec<u8> = (0..40).flat_map(|i| [i; PIXELS]).collect();
    let train: Vec<u8> = (0..40).map(|i| [3, 5, 9][i % 3]).collect();
    fs::write(folder.join("train-images-idx3-ubyte.gz"), gzip(&images(40, &pixels))).unwrap();
    fs::write(folder.join("train-labels-idx1-ubyte.gz"), gzip(&labels(&train))).unwrap();
    fs::write(folder.join("t10k-images-idx3-ubyte"), images(4, &[1; 4 * PIXELS])).unwrap();
    fs::write(folder.join("t10k-labels-idx1-ubyte"), labels(&[9, 3, 9, 5])).unwrap();
    base
}

#[test]
fn drawn_garments_make_a_whole_artifact() {
    let artifact = run(7, json!({"source": "synthetic", "train": 120, "test": 40}));
    let shapes: Vec<String> = artifact.tensors.iter().map(|(name, t)| format!("{name} {t:?}")).collect();
    insta::assert_debug_snapshot!(shapes, @r#"
    [
        "examples Tensor(U8 [100, 28, 28])",
        "test.images Tensor(U8 [40, 28, 28])",
        "test.labels Tensor(U8 [40])",
        "train.images Tensor(U8 [120, 28, 28])",
        "train.labels Tensor(U8 [120])",
    ]
    "#);
    insta::assert_debug_snapshot!(artifact.metrics, @r#"
    {
        "classes": 10.0,
        "test": 40.0,
        "train": 120.0,
    }
    "#);
    assert_eq!(artifact.facts["classes"], json!(fashion_mnist::CLASSES));
    assert_eq!((&artifact.facts["source"], &artifact.facts["examples_per_class"]), (&json!("synthetic"), &json!(10)));
    for (split, per_class) in [("train", 12), ("test", 4)] {
        for class in 0..10 {
            assert_eq!(labels_of(&artifact, split).iter().filter(|l| **l == class).count(), per_class);
        }
    }
}

#[test]
fn images_depend_only_on_the_seed() {
    let parameters = json!({"source": "synthetic", "train": 30, "test": 10});
    let one = run(1, parameters.clone());
    assert_eq!(one, run(1, parameters.clone()));
    assert_ne!(one.tensors["train.images"], run(2, parameters).tensors["train.images"]);
    let first = run(1, json!({"source": "synthetic", "train": 30, "test": 30, "subset": "first"}));
    assert_eq!(labels_of(&first, "train"), labels_of(&first, "test"));
    assert_ne!(first.tensors["train.images"], first.tensors["test.images"], "train and test are drawn apart");
}

#[test]
fn the_seed_is_in_the_key_only_where_it_is_used() {
    let reads = |parameters| parse(parameters).unwrap().reads().seed;
    assert!(reads(json!({})));
    assert!(reads(json!({"subset": "random"})));
    assert!(!reads(json!({"subset": "first"})));
    assert!(reads(json!({"subset": "first", "source": "synthetic"})));
}

#[test]
fn labels_are_indices_into_the_chosen_classes() {
    let artifact =
        run(0, json!({"source": "synthetic", "train": 6, "test": 0, "subset": "first", "classes": ["Shirt", 1]}));
    assert_eq!(artifact.facts["classes"], json!(["Shirt", "Trouser"]));
    assert_eq!(labels_of(&artifact, "train"), [1, 0, 1, 0, 1, 0]);
    assert_eq!(artifact.tensors["test.images"].shape(), [0, 28, 28]);
    assert_eq!(artifact.facts["examples_per_class"], json!(3));
    let all: Vec<u8> = artifact.tensors["train.images"].to_vec().unwrap();
    let examples: Vec<u8> = artifact.tensors["examples"].to_vec().unwrap();
    assert_eq!(examples[..PIXELS], all[PIXELS..2 * PIXELS], "the first row is of the first class");
}

#[test]
fn a_class_with_fewer_examples_leaves_black_cells() {
    let base = idx_folder();
    let artifact =
        run_in(base.path(), &[], 0, json!({"source": "idx", "path": "mine", "train": 4, "test": 0, "subset": "first"}))
            .unwrap();
    assert_eq!(artifact.facts["examples_per_class"], json!(2));
    let examples: Vec<u8> = artifact.tensors["examples"].to_vec().unwrap();
    let firsts: Vec<u8> = examples.iter().step_by(PIXELS).copied().collect();
    assert_eq!(firsts, [0, 3, 1, 0, 2, 0]);
}

#[test]
fn idx_files_are_read_and_their_labels_renumbered() {
    let base = idx_folder();
    let artifact = run_in(
        base.path(),
        &[],
        0,
        json!({"source": "idx", "path": "mine", "train": 40, "test": 4, "subset": "first"}),
    )
    .unwrap();
    assert_eq!(artifact.facts["classes"], json!(["3", "5", "9"]));
    assert_eq!(labels_of(&artifact, "test"), [2, 0, 2, 1]);
    let pixels: Vec<u8> = artifact.tensors["train.images"].to_vec().unwrap();
    assert_eq!(pixels[39 * PIXELS], 39);
    let nine = json!({"source": "idx", "path": "mine", "train": 5, "test": 2, "classes": [9]});
    let artifact = run_in(base.path(), &[], 0, nine).unwrap();
    assert_eq!((labels_of(&artifact, "train"), labels_of(&artifact, "test")), (vec![0; 5], vec![0; 2]));
}

#[test]
fn only_sources_of_a_known_size_limit_the_number_of_images() {
    let many = |source: &str| json!({"source": source, "path": "mine", "train": 60_001, "test": 10_001});
    assert!(parse(many("idx")).is_ok());
    let refused = parse(many("fashion-mnist")).err().unwrap();
    assert!(refused.contains("from 1 to 60000") && refused.contains("from 0 to 10000"), "{refused}");
    assert!(parse(json!({"source": "synthetic", "train": 60_001})).is_err());
    let base = idx_folder();
    let few = run_in(base.path(), &[], 0, json!({"source": "idx", "path": "mine", "train": 60_001, "subset": "first"}));
    let Err(StageError::BadInput { message, .. }) = few else { panic!("there are only 40") };
    assert_eq!(message, "`train = 60001`: there are only 40 train images");
}

#[test]
fn key_has_digests_of_idx_files_and_published_checksums_of_fashion_mnist() {
    let base = idx_folder();
    let stage = parse(json!({"source": "idx", "path": "mine"})).unwrap();
    let before = stage.contents(&InFolder(base.path())).unwrap();
    assert_eq!(before.len(), 4);
    fs::write(base.path().join("mine/t10k-labels-idx1-ubyte"), labels(&[9, 3, 9, 3])).unwrap();
    let after = stage.contents(&InFolder(base.path())).unwrap();
    let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert_eq!(changed, ["t10k-labels-idx1-ubyte"]);

    let nowhere = InFolder(Path::new("nowhere"));
    let sums = parse(json!({"path": "elsewhere"})).unwrap().contents(&nowhere).unwrap();
    insta::assert_debug_snapshot!(sums, @r#"
    {
        "t10k-images-idx3-ubyte": 5b4141f0afba,
        "t10k-labels-idx1-ubyte": 0402a96d92fd,
        "train-images-idx3-ubyte": c59f468a2f67,
        "train-labels-idx1-ubyte": bad3541b69d9,
    }
    "#);
    assert_eq!(parse(json!({"test": 0})).unwrap().contents(&nowhere).unwrap().len(), 2);
}

#[test]
fn wrong_parameters_are_explained() {
    let wrong = |parameters| parse(parameters).err().unwrap();
    insta::assert_snapshot!(wrong(json!({"classes": ["Trousers"]})), @"there is no class \"Trousers\" (did you mean `Trouser`?)");
    insta::assert_snapshot!(wrong(json!({"classes": [10]})), @"there is no class 10 (there are T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot)");
    insta::assert_snapshot!(wrong(json!({"classes": [1, "Trouser"]})), @"class \"Trouser\" is given twice (name each class once)");
    insta::assert_snapshot!(wrong(json!({"classes": 3})), @r#"`classes` must be a list of class names or labels (for example `classes = ["Trouser", "Shirt"]` or `classes = [1, 6]`)"#);
    insta::assert_snapshot!(wrong(json!({"source": "idx"})), @r#"`source = "idx"` needs a `path` (write `path = "FOLDER"`: the folder with train-images-idx3-ubyte and its three companions, gzipped or not)"#);
    insta::assert_snapshot!(wrong(json!({"source": "synthetic", "path": "x"})), @r#"`source = "synthetic"` reads no files (leave `path` out)"#);
    insta::assert_snapshot!(wrong(json!({"train": 0, "test": 10_001})), @r#"
`train` must be an integer from 1 to 60000, not 0 (-)
`test` must be an integer from 0 to 10000, not 10001 (-)
"#);
}

#[test]
fn wrong_data_is_explained() {
    let base = idx_folder();
    let folder = base.path().join("mine");
    let idx = |train: i64, test: i64| json!({"source": "idx", "path": "mine", "train": train, "test": test});
    insta::assert_snapshot!(refused(base.path(), idx(41, 0)), @"`train = 41`: there are only 40 train images (write `train = 40` or less)");
    insta::assert_snapshot!(refused(base.path(), json!({"source": "idx", "path": "mine", "train": 20, "test": 0, "classes": ["3"]})), @"`train = 20`: there are only 14 train images of these classes (write `train = 14` or less)");
    insta::assert_snapshot!(refused(base.path(), json!({"source": "idx", "path": "mine", "classes": ["4"], "train": 1, "test": 1})), @r#"there is no class "4" (there are 3, 5, 9)"#);
    fs::write(folder.join("t10k-labels-idx1-ubyte"), labels(&[9, 3, 9, 4])).unwrap();
    insta::assert_snapshot!(refused(base.path(), idx(1, 1)), @"BASE/mine/t10k-labels-idx1-ubyte: label 4 does not occur among the train labels (-)");
    fs::write(folder.join("t10k-labels-idx1-ubyte"), labels(&[9, 3, 9])).unwrap();
    insta::assert_snapshot!(refused(base.path(), idx(1, 1)), @"BASE/mine/t10k-labels-idx1-ubyte: 3 labels for 4 images (-)");
    fs::write(folder.join("t10k-labels-idx1-ubyte"), b"oops").unwrap();
    insta::assert_snapshot!(refused(base.path(), idx(1, 1)), @"BASE/mine/t10k-labels-idx1-ubyte: not an IDX file of labels: it begins with 6f6f7073, not 00000801 (-)");
    fs::remove_file(folder.join("t10k-labels-idx1-ubyte")).unwrap();
    insta::assert_snapshot!(refused(base.path(), idx(1, 1)), @"there is no t10k-labels-idx1-ubyte and no t10k-labels-idx1-ubyte.gz in BASE/mine (`path` is relative to the pipeline file; if there is no test split, write `test = 0`)");
}

#[test]
fn special_file_among_the_data_is_refused() {
    let base = idx_folder();
    let labels = base.path().join("mine/t10k-labels-idx1-ubyte");
    fs::remove_file(&labels).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &labels, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let parameters = json!({"source": "idx", "path": "mine", "train": 1, "test": 1});
    let message = "BASE/mine/t10k-labels-idx1-ubyte: can't be read: it is a FIFO, not a regular file (-)";
    assert_eq!(refused(base.path(), parameters.clone()), message);
    let stage = parse(parameters).unwrap();
    let Err(StageError::BadInput { message, .. }) = stage.contents(&InFolder(base.path())) else { panic!("it waits") };
    assert!(message.ends_with("can't be read: it is a FIFO, not a regular file"), "{message}");
}

#[test]
fn files_that_only_look_like_fashion_mnist_are_refused() {
    let base = idx_folder();
    insta::assert_snapshot!(refused(base.path(), json!({"path": "mine"})), @r#"BASE/mine/train-images-idx3-ubyte.gz is not the published train-images-idx3-ubyte: its decompressed bytes have SHA-256 5d54d7be467f463be0a997031e89d37092cc3c4f16059f16953ddca9e1aabddd, not c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 (remove the file, so that it is downloaded again; for other data in this format write `source = "idx"`)"#);
}

/// Needs the real files: set VADPIPE_DATA_DIR. Skipped without.
#[test]
fn the_real_files_are_read_where_they_are() {
    let Some(folder) = std::env::var_os("VADPIPE_DATA_DIR") else { return };
    let artifact =
        run_in(Path::new("."), &[folder.into()], 0, json!({"train": 60_000, "test": 10_000, "subset": "first"}))
            .unwrap();
    assert_eq!(labels_of(&artifact, "train")[..5], [9, 0, 0, 3, 0]);
    assert_eq!(labels_of(&artifact, "test")[..5], [9, 2, 1, 1, 6]);
    let digest = Digest::of(artifact.tensors["train.images"].bytes());
    insta::assert_snapshot!(digest.short(), @"df49e97997a0");
}
