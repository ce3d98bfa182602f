//! A pipeline's text, typed: TOML → a tree with places → overrides (`-S`) → stages with axes → points.
//!
//! ```text
//! text ─read──► Node tree ─overrides──► Node tree ─header, params, matrix, stages──► axes of every stage ─expand──► points
//! ```
//!
//! - `read`: the TOML text as a tree of nodes with places; all syntax errors at once.
//! - `overrides`: each `-S path=value` is a little text of its own and is put into the tree before anything is typed.
//! - `template`: `${params.x}` and `${matrix.axis}`. What a reference brings in is never scanned again.
//! - `values`: the values of an axis (lists, ranges, samples), and how a value is written in a point's name.
//! - `matrix`: all axes, and which combinations of their values there are.
//! - `prune`: which of them are stopped early.
//! - `stages`: the runner's own fields of a stage's table (`kind`, `inputs`, `matrix`, `at`, `seed`).
//! - `roles`: whether inputs provide what the roles of their stage need.
//! - `axes`: which axes each stage has, in dependency order, and which combinations.
//! - `parameters`: a stage's parameters with its `at` laid over them, parsed by its kind.
//! - `expand`: one point for each combination, its inputs linked.
//!
//! Whoever finds something wrong adds a diagnostic and goes on with the rest, so that all errors are reported together.
//! Cost is linear in the text and in the number of points: a stage's parameters are
//! parsed once for each combination of those axes that its parameters mention, not once for each point.

mod axes;
mod errors;
mod expand;
mod header;
mod matrix;
mod overrides;
mod parameters;
mod prune;
mod read;
mod roles;
mod stages;
mod template;
mod values;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::stage::Precision;
pub use prune::{Mode, Prune};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostics, Origin, Sources};
use crate::error::Error;
use crate::id::{PointId, StageId};
use crate::stage::{ParsedStage, Registry};
use crate::value::{Data, Entry, Node, Table, Value};

/// A pipeline: typed, expanded, and known to be right as far as its text tells.
#[derive(Debug)]
pub struct Spec {
    /// The texts it was made of: the file, then each override.
    pub sources: Sources,
    /// The `[pipeline]` section.
    pub pipeline: Header,
    /// The stages in the order of the file.
    pub stages: Vec<StageSpec>,
    /// The points of all stages: stages in the order of the file, points in the order of their axes' values, the last axis
    /// fastest. An input may stand after what reads it; see [`crate::graph::Graph`] for an order to run in.
    pub points: Vec<Point>,
    /// How a sweep is pruned, if it is.
    pub prune: Option<Prune>,
    /// The folder that relative paths in the pipeline are relative to.
    pub base: PathBuf,
}

impl Spec {
    /// The point with this id, which must be one of this pipeline's.
    pub fn point(&self, id: PointId) -> &Point {
        &self.points[id.index()]
    }

    /// The stage with this id, which must be one of this pipeline's.
    pub fn stage(&self, id: StageId) -> &StageSpec {
        &self.stages[id.index()]
    }

    /// The ids of all points, in the order of [`Spec::points`].
    pub fn point_ids(&self) -> impl ExactSizeIterator<Item = PointId> + DoubleEndedIterator + Clone + use<> {
        PointId::first(self.points.len())
    }
}

/// The `[pipeline]` section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The pipeline's name: `[A-Za-z0-9_-]+`.
    pub name: String,
    /// The seed of every stage that sets none of its own.
    pub seed: i64,
    /// Where to compute; never part of a key.
    pub device: DeviceChoice,
    /// What to compute with; part of the keys of the stages that read it.
    pub precision: Precision,
    /// Seconds between checkpoints of a training; 0 is after every epoch. Never part of a key.
    pub checkpoint_seconds: f64,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number; `cuda` alone is number 0.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    /// Reads `auto`, `cpu`, `cuda` or `cuda:N`: for the pipeline file and for `--device`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("a device must be auto, cpu, cuda or cuda:N, not {text:?}")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// A stage as written, and where its points are.
#[derive(Clone, Debug, PartialEq)]
pub struct StageSpec {
    /// Its name: `[A-Za-z0-9_-]+`.
    pub name: String,
    /// The name of its kind.
    pub kind: String,
    /// The names of its axes in the order of declaration (the order in its points' names).
    pub axes: Vec<String>,
    /// Its points. Never empty.
    pub points: Range<PointId>,
    /// Where its name is written.
    pub origin: Origin,
}

impl StageSpec {
    /// Where its points are in [`Spec::points`].
    pub fn range(&self) -> Range<usize> {
        self.points.start.index()..self.points.end.index()
    }
}

/// One combination of a stage's axes: what is planned, run and cached.
#[derive(Clone)]
pub struct Point {
    /// The stage's name, and for a stage with axes `@axis=value,axis=value`. Safe as the name of a file.
    pub name: String,
    /// The stage's name.
    pub stage: String,
    /// The value of each axis, axes in the order of declaration.
    pub coordinates: Vec<(String, Value)>,
    /// Its kind, parameters and what to run.
    pub parsed: ParsedStage,
    /// The stage's own seed, or else the pipeline's.
    pub seed: i64,
    /// What it reads, by role.
    pub inputs: BTreeMap<String, PointInput>,
    /// Where the stage's name is written.
    pub origin: Origin,
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, parsed, seed, inputs, .. } = self;
        let mut out = f.debug_struct("Point");
        out.field("name", name).field("kind", &parsed.kind.name()).field("params", &parsed.params);
        out.field("seed", seed).field("inputs", inputs).finish_non_exhaustive()
    }
}

/// What stands in a role of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointInput {
    /// One point.
    One(PointId),
    /// A list of points, labelled by their names; no point twice, in the order of the list in the file.
    Many(Vec<PointId>),
}

impl PointInput {
    /// The points.
    pub fn points(&self) -> &[PointId] {
        match self {
            Self::One(point) => std::slice::from_ref(point),
            Self::Many(points) => points,
        }
    }
}

/// Reads a pipeline. `file_name` is for messages, `base` is the folder that relative paths start from, `overrides` are the
/// values of `-S` in their order.
///
/// # Errors
/// Everything that is wrong with the text, in one error (exit code 2) that quotes each offending place.
pub fn load(
    text: &str,
    file_name: &str,
    base: &Path,
    overrides: &[String],
    registry: &Registry,
) -> Result<Spec, Error> {
    let mut sources = Sources::default();
    let mut diagnostics = Diagnostics::default();
    let file = sources.add(file_name, text);
    let mut root = read::document(text, file, &mut diagnostics);
    let broken = !diagnostics.is_empty();
    overrides::apply(overrides, &mut root, &mut sources, &mut diagnostics);
    if broken {
        // What a broken text seems to say would only bring errors that are none.
        std::mem::take(&mut diagnostics).into_result(&sources)?;
    }
    overrides::report_unheeded(&root, file, &sources, &mut diagnostics);
    let found = typed(&root, &sources, registry, &mut diagnostics);
    diagnostics.into_result(&sources)?;
    let Typed { pipeline, stages, points, prune } = found;
    Ok(Spec { sources, pipeline, stages, points, prune, base: base.to_owned() })
}

const SECTIONS: [&str; 4] = ["pipeline", "params", "matrix", "stages"];

/// What [`typed`] finds.
struct Typed {
    pipeline: Header,
    stages: Vec<StageSpec>,
    points: Vec<Point>,
    prune: Option<Prune>,
}

/// The whole tree, typed and expanded. What is returned after an error is not to be used.
fn typed(root: &Table, sources: &Sources, registry: &Registry, diagnostics: &mut Diagnostics) -> Typed {
    let known = |e: &&Entry| SECTIONS.contains(&e.name.as_str());
    for entry in root.0.iter().filter(|e| !known(e)) {
        let message = format!("unknown section `{}`", entry.name);
        errors::suggest(diagnostics, &entry.name_origin, message, &entry.name, SECTIONS.into_iter());
    }
    let params = template::params(&section(root, "params", diagnostics).unwrap_or_default(), sources, diagnostics);
    let filled = |name: &str, diagnostics: &mut Diagnostics| {
        let section = section(root, name, diagnostics)?;
        Some(template::Scope::of_params(&params, sources).fill_table(&section, diagnostics).unwrap_or_default())
    };
    let place = root.entry("pipeline").map_or(Origin { source: 0, span: 0..0 }, |e| e.name_origin.clone());
    let pipeline = filled("pipeline", diagnostics);
    let header = pipeline.map_or_else(Header::default, |section| header::read(&section, &place, diagnostics));
    let swept = filled("matrix", diagnostics).unwrap_or_default();
    let mut matrix = matrix::Matrix::read(&swept, diagnostics);

    let stages = section(root, "stages", diagnostics);
    let missing = stages.as_ref().is_some_and(|s| s.0.is_empty());
    let written = stages.unwrap_or_default();
    // Beside a misspelt section this would be noise.
    if missing && root.0.iter().all(|e| known(&e)) {
        let error = diagnostics.error(&place, "the pipeline has no stages");
        error.help("add a table such as [stages.data]");
    }
    let names = written.0.iter().map(|e| e.name.as_str()).zip(StageId::first(written.0.len())).collect();
    let reader = stages::Reader { registry, sources, params: &params, names };
    let drafts = reader.stages(&written, &mut matrix, diagnostics);
    roles::check(&drafts, registry, diagnostics);
    let shapes = axes::shapes(&drafts, &matrix, diagnostics);
    let seed = header.seed;
    let expansion =
        expand::Expansion { sources, params: &params, matrix: &matrix, drafts: &drafts, shapes: &shapes, seed };
    let (points, ranges) = expansion.points(diagnostics);
    // An override may have taken the place of what mentions an axis: whoever fixes a value for once leaves the axis there.
    let fixed = sources.0.iter().skip(1).any(|s| s.text.trim_start().starts_with("stages"));
    if diagnostics.is_empty() && !fixed {
        axes::check_use(&shapes, &matrix, diagnostics);
    }
    let stages = drafts.iter().zip(&shapes).zip(ranges).map(|((draft, shape), points)| StageSpec {
        name: draft.name.to_owned(),
        kind: draft.kind_name.clone(),
        axes: shape.axes.iter().map(|a| matrix.axis(*a).name.clone()).collect(),
        points,
        origin: draft.origin.clone(),
    });
    let stages: Vec<StageSpec> = stages.collect();
    let prune = prune::read(&swept, &stages, &points, diagnostics);
    Typed { pipeline: header, stages, points, prune }
}

/// A section of the file; an empty one where there is none, `None` where something else stands there, which is reported.
fn section<'a>(root: &'a Table, name: &str, diagnostics: &mut Diagnostics) -> Option<Cow<'a, Table>> {
    match root.get(name) {
        None => Some(Cow::Owned(Table::default())),
        Some(Node { data: Data::Table(table), .. }) => Some(Cow::Borrowed(table)),
        Some(node) => {
            diagnostics.error(&node.origin, format!("`{name}` must be a table, not {}", node.data.describe()));
            None
        }
    }
}
