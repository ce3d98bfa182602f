//! A parsed pipeline: stages, points and settings.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use super::resources::Resources;
use crate::diagnostic::{Diagnostic, Origin, Sources};
use crate::id::{PointId, StageId};
use crate::stage::{Compute, ParsedStage, Precision};
use crate::store::StateQuery;
use crate::value::Value;

/// A pipeline, typed, expanded and without errors in its text.
#[derive(Debug)]
pub struct Spec {
    /// Its texts: the file, then those that it includes, then each override.
    pub sources: Sources,
    /// The `[pipeline]` section.
    pub pipeline: Header,
    /// The stages in the order of the file.
    pub stages: Vec<StageSpec>,
    /// The points of all stages: stages in the order of the file, points in the order of their axes' values, the last
    /// axis fastest. An input may come after the point that reads it. [`crate::graph::Graph`] has an order to run in.
    pub points: Vec<Point>,
    /// How the sweep is pruned, if it is.
    pub prune: Option<Prune>,
    /// The folder for relative paths.
    pub base: PathBuf,
    /// What is valid but probably not intended.
    pub warnings: Vec<Diagnostic>,
}

impl Spec {
    /// The point with this id, which must be one of this pipeline's.
    pub fn point(&self, id: PointId) -> &Point {
        &self.points[id.index()]
    }

    /// The numerics class of the states of a training.
    pub fn class(&self, point: PointId, compute: &Compute) -> String {
        compute.class(self.point(point).parsed.stage.gpus())
    }

    /// The version of a point's kind in the point's key.
    pub fn version(&self, point: &Point) -> u32 {
        let inputs = point.inputs.values().flat_map(PointInput::points);
        let mut stages = inputs.map(|input| &*self.point(*input).parsed.stage);
        point.parsed.stage.version(&mut stages).unwrap_or_else(|| point.parsed.kind.version())
    }

    /// The stored states of this numerics class that a training can continue from.
    pub fn resumable<'a>(&'a self, point: PointId, class: &'a str) -> StateQuery<'a> {
        let every = self.point(point).parsed.stage.epochs().map_or(1, |epochs| epochs.every);
        StateQuery { class, every, base: &self.base }
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
    /// The seed of stages without their own.
    pub seed: i64,
    /// The device to compute on; not part of any key.
    pub device: DeviceChoice,
    /// The precision; part of the keys of stages that read it.
    pub precision: Precision,
    /// Seconds between checkpoints of a training; 0 saves after every epoch. Not part of any key.
    pub checkpoint_seconds: f64,
}

/// The device to compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this build supports it and this machine has one; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number; `cuda` is number 0.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    /// Parses `auto`, `cpu`, `cuda` or `cuda:N`, for the pipeline file and `--device`.
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

/// A stage as written, and its points.
#[derive(Clone, Debug, PartialEq)]
pub struct StageSpec {
    /// Its name: `[A-Za-z0-9_-]+`.
    pub name: String,
    /// The name of its kind.
    pub kind: String,
    /// The names of its axes in the order of declaration, as in the names of its points.
    pub axes: Vec<String>,
    /// Its points. Never empty.
    pub points: Range<PointId>,
    /// The place of its name.
    pub origin: Origin,
}

impl StageSpec {
    /// The positions of its points in [`Spec::points`].
    pub fn range(&self) -> Range<usize> {
        self.points.start.index()..self.points.end.index()
    }
}

/// A stage with one combination of the values of its axes: the unit that is planned, run and cached.
#[derive(Clone)]
pub struct Point {
    /// The name of the stage, followed by `@axis=value,axis=value` if it has axes. Safe as a file name.
    pub name: String,
    /// The stage's name.
    pub stage: String,
    /// The value of each axis, axes in the order of declaration. A list or a table is given by its label.
    pub coordinates: Vec<(String, Value)>,
    /// Its kind, its parameters and the stage to run.
    pub parsed: ParsedStage,
    /// The seed of the stage, or that of the pipeline.
    pub seed: i64,
    /// What it needs of the machine that runs it; not part of the key.
    pub resources: Resources,
    /// Its inputs, by role.
    pub inputs: BTreeMap<String, PointInput>,
    /// The place of the stage's name.
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

/// The input of a point in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointInput {
    /// One point.
    One(PointId),
    /// A list.
    Many {
        /// Different points in the order of the file. Their names are their labels.
        points: Vec<PointId>,
        /// Whether it leaves out points that failed or were skipped (`missing = "skip"`).
        skips_missing: bool,
    },
}

impl PointInput {
    /// The points.
    pub fn points(&self) -> &[PointId] {
        match self {
            Self::One(point) => std::slice::from_ref(point),
            Self::Many { points, .. } => points,
        }
    }

    /// Whether it is a list that leaves out points that failed or were skipped.
    pub fn skips_missing(&self) -> bool {
        matches!(self, Self::Many { skips_missing: true, .. })
    }
}

/// How a sweep is pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prune {
    /// The stage whose points are compared.
    pub stage: StageId,
    /// The measure that they are compared by, as in the states: `loss` for `history.loss`.
    pub curve: String,
    /// Whether the smallest or the largest is the best.
    pub mode: Mode,
    /// The epochs after which points are compared, ascending; never empty.
    pub rungs: Vec<u64>,
    /// One of this many points continues; at least 2.
    pub reduction: u64,
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Smaller ones.
    Min,
    /// Larger ones.
    Max,
}
