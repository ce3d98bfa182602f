//! `load-data`: loads the images and labels of a data set.
//!
//! | in the artifact | what |
//! |---|---|
//! | `train.images`, `test.images` | u8 [n, 28, 28], grey levels |
//! | `train.labels`, `test.labels` | `u8 [n]`, indices into the fact `classes` (0…9 if no class is left out) |
//! | `examples` | u8 [classes·k, 28, 28]: the first k train images of each class by row; black if fewer |
//! | facts | `classes` (names in order), `source`, `examples_per_class` (k, at most 10) |
//! | metrics | `train`, `test` (images), `classes` (their number) |
//!
//! For Fashion-MNIST, the published checksums of the files enter the key, so a plan needs no data.

mod download;
pub mod fashion_mnist;
pub mod idx;
mod subset;
pub mod synthetic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use idx::{Form, Idx, PIXELS, SIDE};
use subset::{Subset, select};

use crate::artifact::{Artifact, Tensor};
use crate::diagnostic::nearest;
use crate::file;
use crate::key::Digest;
use crate::rng::Streams;
use crate::stage::{About, Capability, Context, Files, Params, Reads, Stage, StageError, StageKind};
use crate::value::{Data, Node};

/// The number of images in Fashion-MNIST's train split, and the most that `synthetic` draws.
const TRAIN: usize = 60_000;
/// See [`TRAIN`].
const TEST: usize = 10_000;
/// The most images in an IDX file: its header counts them in 32 bits.
const IDX: i64 = u32::MAX as i64;
/// The most images of a class in the grid of examples.
const EXAMPLES: usize = 10;

/// The stage kind `load-data`.
pub struct LoadData;

impl StageKind for LoadData {
    fn about(&self) -> About {
        About {
            provides: &[Capability::IMAGES, Capability::LABELS, Capability::EXAMPLES],
            facts: &["train", "test", "classes"],
            heading: "Data",
            ..About::new("load-data", 1, "images and labels: Fashion-MNIST, any pair of IDX files, or drawn garments")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let kinds = [("fashion-mnist", Source::FashionMnist), ("synthetic", Source::Synthetic), ("idx", Source::Idx)];
        let source = params.describe("where the images come from; `synthetic` draws them").choice(
            "source",
            "fashion-mnist",
            &kinds,
        );
        // The digests of the files are in the key, the path is not.
        params.describe("the folder of the files; without it, Fashion-MNIST is found or downloaded");
        let path = params.text_unhashed("path");
        match (source, &path) {
            (Source::Synthetic, Some(_)) => {
                params.error("path", "`source = \"synthetic\"` reads no files", "leave `path` out");
            }
            (Source::Idx, None) => params.error(
                "source",
                "`source = \"idx\"` needs a `path`",
                "write `path = \"FOLDER\"`: the folder with train-images-idx3-ubyte and its three companions, gzipped or not",
            ),
            _ => {}
        }
        // The number of images in an IDX file is known when it is read.
        let (most_train, most_test) = if source == Source::Idx { (IDX, IDX) } else { (TRAIN as i64, TEST as i64) };
        let subsets = [("balanced", Subset::Balanced), ("first", Subset::First), ("random", Subset::Random)];
        let stage = Load {
            source,
            path,
            train: params.describe("the number of train images").int("train", 1000, 1..=most_train) as usize,
            test: params.describe("the number of test images").int("test", 1000, 0..=most_test) as usize,
            subset: params.describe("which images are taken").choice("subset", "balanced", &subsets),
            classes: params
                .describe("only these classes: a list of names or labels")
                .node("classes")
                .and_then(|node| choices(params, &node)),
        };
        // The classes of an IDX file are known when it is read.
        if let (Some(chosen), true) = (&stage.classes, source != Source::Idx)
            && let Err(wrong) = resolve(chosen, &named())
        {
            params.error("classes", wrong.message, wrong.help);
        }
        Arc::new(stage)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    FashionMnist,
    Synthetic,
    Idx,
}

/// A class as the pipeline names it.
#[derive(Clone, Debug, PartialEq)]
enum Choice {
    Label(i64),
    Name(String),
}

/// A class of a source: its label there, and its name.
#[derive(Clone, Debug, PartialEq)]
struct Class {
    label: u8,
    name: String,
}

struct Load {
    source: Source,
    path: Option<String>,
    train: usize,
    test: usize,
    subset: Subset,
    classes: Option<Vec<Choice>>,
}

impl Stage for Load {
    fn reads(&self) -> Reads {
        Reads { seed: self.source == Source::Synthetic || self.subset != Subset::First, precision: false, files: false }
    }

    fn contents(&self, files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        match (self.source, &self.path) {
            (Source::FashionMnist, _) => Ok(fashion_mnist::contents(self.test > 0)),
            (Source::Idx, Some(path)) => {
                let folder = files.resolve(path);
                let digest = |(name, _): &(&'static str, Form)| {
                    let path = idx_file(&folder, name)?;
                    file::open(&path).map_err(|e| idx::IdxError::from(e).in_file(&path, None))?;
                    let digest =
                        files.digest(&path).map_err(StageError::io(format!("can't read {}", path.display())))?;
                    Ok(((*name).to_owned(), digest))
                };
                idx_names(self.test > 0).iter().map(digest).collect()
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let (train, test, available) = self.pools(context)?;
        let classes = match &self.classes {
            Some(chosen) => resolve(chosen, &available).map_err(|w| StageError::bad_input(w.message, w.help))?,
            None => available,
        };
        let train = self.split("train", &train, self.train, &classes, context)?;
        let test = self.split("test", &test, self.test, &classes, context)?;
        let (examples, per_class) = examples(&train, classes.len());

        let mut artifact = Artifact::default();
        for (split, part) in [("train", &train), ("test", &test)] {
            let n = part.labels.len();
            artifact.tensors.insert(format!("{split}.images"), Tensor::new([n, SIDE, SIDE], &part.images)?);
            artifact.tensors.insert(format!("{split}.labels"), Tensor::vector(&part.labels));
            artifact.metrics.insert(split.to_owned(), n as f64);
        }
        let rows = classes.len() * per_class;
        artifact.tensors.insert("examples".to_owned(), Tensor::new([rows, SIDE, SIDE], &examples)?);
        artifact.metrics.insert("classes".to_owned(), classes.len() as f64);
        let names: Vec<&str> = classes.iter().map(|c| c.name.as_str()).collect();
        let source = match self.source {
            Source::FashionMnist => "fashion-mnist",
            Source::Synthetic => "synthetic",
            Source::Idx => "idx",
        };
        artifact.facts.insert("classes".to_owned(), names.into());
        artifact.facts.insert("source".to_owned(), source.into());
        artifact.facts.insert("examples_per_class".to_owned(), per_class.into());
        Ok(artifact)
    }
}

impl Load {
    /// All images of the source, train and test, and their classes.
    fn pools(&self, context: &Context<'_>) -> Result<(Pool, Pool, Vec<Class>), StageError> {
        let path = self.path.as_deref();
        match self.source {
            Source::Synthetic => {
                let drawn = |split, n| Pool {
                    labels: (0..n).map(|i| (i % 10) as u8).collect(),
                    images: Images::Drawn(context.streams, split),
                };
                Ok((drawn("train", TRAIN), drawn("test", TEST), named()))
            }
            Source::FashionMnist => {
                let files = fashion_mnist::open(context, path, self.test > 0)?;
                let (train, test) = pools_of(files)?;
                Ok((train, test, named()))
            }
            Source::Idx => {
                let folder = context.base.join(path.unwrap_or("."));
                let mut files = vec![];
                for (name, form) in idx_names(self.test > 0) {
                    context.cancel.check()?;
                    let path = idx_file(&folder, name)?;
                    let idx = idx::open(&path, *form).map_err(|e| e.in_file(&path, None))?;
                    files.push((idx, path));
                }
                let (train, test) = pools_of(files)?;
                let mut labels = train.labels.clone();
                labels.sort_unstable();
                labels.dedup();
                let classes = labels.into_iter().map(|label| Class { label, name: label.to_string() }).collect();
                Ok((train, test, classes))
            }
        }
    }

    fn split(
        &self,
        split: &'static str,
        pool: &Pool,
        count: usize,
        classes: &[Class],
        context: &Context<'_>,
    ) -> Result<Split, StageError> {
        // From labels of the source to indices of classes.
        let mut index = [None; 256];
        for (i, class) in classes.iter().enumerate() {
            index[usize::from(class.label)] = Some(i as u8);
        }
        let labels: Vec<Option<u8>> = pool.labels.iter().map(|l| index[usize::from(*l)]).collect();
        let mut stream = context.streams.stream(&format!("subset {split}"), 0, 0);
        let chosen = select(&labels, classes.len(), count, self.subset, &mut stream).map_err(|few| {
            let of = if self.classes.is_some() { " of these classes" } else { "" };
            StageError::bad_input(
                format!("`{split} = {}`: there are only {} {split} images{of}", few.wanted, few.found),
                format!("write `{split} = {}` or less", few.found),
            )
        })?;
        let mut images = Vec::with_capacity(count * PIXELS);
        for (done, i) in chosen.iter().enumerate() {
            if done % 256 == 0 {
                context.cancel.check()?;
            }
            match &pool.images {
                Images::Read(pixels) => images.extend_from_slice(&pixels[i * PIXELS..(i + 1) * PIXELS]),
                Images::Drawn(streams, split) => images.extend_from_slice(&synthetic::image(*streams, split, *i)),
            }
        }
        Ok(Split { images, labels: chosen.iter().filter_map(|i| labels[*i]).collect() })
    }
}

/// The images of a split in a source.
struct Pool {
    labels: Vec<u8>,
    images: Images,
}

enum Images {
    Read(Vec<u8>),
    Drawn(Streams, &'static str),
}

/// The chosen images of a split, and their indices into the chosen classes.
struct Split {
    images: Vec<u8>,
    labels: Vec<u8>,
}

fn named() -> Vec<Class> {
    (0..).zip(fashion_mnist::CLASSES).map(|(label, name)| Class { label, name: name.to_owned() }).collect()
}

/// The files of an IDX data set in the order images, labels; those of the test split only if `test`.
fn idx_names(test: bool) -> &'static [(&'static str, Form)] {
    const NAMES: [(&str, Form); 4] = [
        ("train-images-idx3-ubyte", Form::Images),
        ("train-labels-idx1-ubyte", Form::Labels),
        ("t10k-images-idx3-ubyte", Form::Images),
        ("t10k-labels-idx1-ubyte", Form::Labels),
    ];
    if test { &NAMES } else { &NAMES[..2] }
}

fn idx_file(folder: &Path, name: &str) -> Result<PathBuf, StageError> {
    idx::find(folder, name).or_else(|| idx::find_special(folder, name)).ok_or_else(|| {
        StageError::bad_input(
            format!("there is no {name} and no {name}.gz in {}", folder.display()),
            "`path` is relative to the pipeline file; if there is no test split, write `test = 0`",
        )
    })
}

/// Pairs of images and labels as pools: train, and test if it was read. Labels that occur in test only are refused.
fn pools_of(files: Vec<(Idx, PathBuf)>) -> Result<(Pool, Pool), StageError> {
    let mut files = files.into_iter();
    let mut known = [false; 256];
    let mut pools = vec![];
    while let (Some((images, _)), Some((labels, path))) = (files.next(), files.next()) {
        let bad =
            |message: String| StageError::BadInput { message: format!("{}: {message}", path.display()), hint: None };
        if labels.count != images.count {
            return Err(bad(format!("{} labels for {} images", labels.count, images.count)));
        }
        match labels.data.iter().find(|l| !known[usize::from(**l)]) {
            Some(label) if !pools.is_empty() => {
                return Err(bad(format!("label {label} does not occur among the train labels")));
            }
            _ => labels.data.iter().for_each(|l| known[usize::from(*l)] = true),
        }
        pools.push(Pool { labels: labels.data, images: Images::Read(images.data) });
    }
    let mut pools = pools.into_iter();
    let mut next = || pools.next().unwrap_or(Pool { labels: vec![], images: Images::Read(vec![]) });
    Ok((next(), next()))
}

/// The first images of each class, one row per class, and the length of a row.
fn examples(train: &Split, classes: usize) -> (Vec<u8>, usize) {
    let of =
        |class: usize| train.labels.iter().enumerate().filter(move |(_, l)| usize::from(**l) == class).map(|(i, _)| i);
    let width = (0..classes).map(|c| of(c).take(EXAMPLES).count()).max().unwrap_or(0);
    let mut grid = vec![0; classes * width * PIXELS];
    for class in 0..classes {
        for (column, i) in of(class).take(width).enumerate() {
            let at = (class * width + column) * PIXELS;
            grid[at..at + PIXELS].copy_from_slice(&train.images[i * PIXELS..(i + 1) * PIXELS]);
        }
    }
    (grid, width)
}

fn choices(params: &mut Params<'_>, node: &Node) -> Option<Vec<Choice>> {
    let list = match &node.data {
        Data::List(list) => list.iter().map(choice).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    if list.is_none() {
        let help = "for example `classes = [\"Trouser\", \"Shirt\"]` or `classes = [1, 6]`";
        params.error("classes", "`classes` must be a list of class names or labels", help);
    }
    list
}

fn choice(node: &Node) -> Option<Choice> {
    match &node.data {
        Data::Int(label) => Some(Choice::Label(*label)),
        Data::Text(name) => Some(Choice::Name(name.clone())),
        _ => None,
    }
}

/// An error in the choice of classes, and what to do.
#[derive(Debug)]
struct WrongClasses {
    message: String,
    help: String,
}

/// The chosen classes, in the order in which they are written.
fn resolve(chosen: &[Choice], available: &[Class]) -> Result<Vec<Class>, WrongClasses> {
    let names = || available.iter().map(|c| c.name.as_str());
    let known = || format!("there are {}", names().collect::<Vec<_>>().join(", "));
    let mut classes: Vec<Class> = vec![];
    for choice in chosen {
        let (found, written, help) = match choice {
            Choice::Label(label) => {
                (available.iter().find(|c| i64::from(c.label) == *label), label.to_string(), known())
            }
            Choice::Name(name) => {
                let help = nearest(name, names()).map_or_else(known, |near| format!("did you mean `{near}`?"));
                (available.iter().find(|c| c.name == *name), format!("{name:?}"), help)
            }
        };
        let class = found.ok_or_else(|| WrongClasses { message: format!("there is no class {written}"), help })?;
        if classes.contains(class) {
            let message = format!("class {written} is given twice");
            return Err(WrongClasses { message, help: "name each class once".to_owned() });
        }
        classes.push(class.clone());
    }
    if classes.is_empty() {
        let message = "`classes` is empty".to_owned();
        return Err(WrongClasses { message, help: known() });
    }
    Ok(classes)
}

#[cfg(test)]
mod tests;
