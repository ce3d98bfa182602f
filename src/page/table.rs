//! The table of points: its columns, its lines, and which lines meet a condition.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::model::Model;
use super::point::Point;
use crate::artifact::metrics::nonfinite_name;
use crate::error::{Error, Result};
use crate::filter::{Cell, Column, Filter, Names};
use crate::id::PointName;

/// Names of columns that every point has, besides `stage`. A condition may use them, unless an axis has the name.
const OF_EVERY_POINT: [&str; 4] = ["kind", "pipeline", "status", "tag"];

/// A parameter by (pipeline, stage): a value of it, and whether there are others.
type OfStages<'a> = BTreeMap<(&'a str, &'a str), (&'a Cell, bool)>;

/// The columns of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Columns {
    axes: Vec<String>,
    metrics: Vec<String>,
    /// Parameters that differ between points of a stage.
    parameters: Vec<String>,
}

impl Columns {
    /// The columns that the points of a model need.
    pub(super) fn of(model: &Model) -> Self {
        let mut axes: Vec<String> = Vec::new();
        let mut metrics: BTreeSet<&String> = BTreeSet::new();
        let mut parameters: BTreeMap<&str, OfStages<'_>> = BTreeMap::new();
        for (_, point) in model.shown() {
            // As they are declared: in the order of the point's name.
            let coordinates =
                PointName::parse(&point.name).coordinates.into_iter().flat_map(PointName::split_coordinates);
            for (axis, _) in coordinates.filter_map(PointName::split_coordinate) {
                if !axes.iter().any(|known| known == axis) {
                    axes.push(axis.to_owned());
                }
            }
            metrics.extend(point.metrics());
            let stage = (&*point.pipeline, point.stage.as_str());
            for (name, cell) in point.result.iter().flat_map(|result| &result.parameters) {
                let of_name = parameters.entry(name).or_default();
                let (first, differs) = of_name.entry(stage).or_insert((cell, false));
                *differs |= *first != cell;
            }
        }
        let differs = |(name, stages): (&str, OfStages<'_>)| {
            let is_new = !axes.iter().any(|axis| axis == name);
            (is_new && stages.values().any(|(_, differs)| *differs)).then(|| name.to_owned())
        };
        let parameters = parameters.into_iter().filter_map(differs).collect();
        Self { metrics: metrics.into_iter().cloned().collect(), parameters, axes }
    }

    /// The names that conditions use.
    fn names(&self) -> Names {
        let more = OF_EVERY_POINT.iter().map(|name| (*name).to_owned()).filter(|name| !self.axes.contains(name));
        let axes = self.axes.iter().chain(&self.parameters).cloned().chain(more).collect();
        Names { axes, metrics: self.metrics.iter().cloned().collect() }
    }

    /// The columns as JSON: name, label and kind.
    pub(super) fn json(&self) -> Value {
        let names = self.names();
        let axis = |name: &String| (Column::Axis(name.clone()), "axis");
        let metric = |name: &String| (Column::Metric(name.clone()), "metric");
        let parameter = |name: &String| (Column::Axis(name.clone()), "parameter");
        let all = self.axes.iter().map(axis).chain(self.metrics.iter().map(metric));
        let column = |(column, kind): (Column, &str)| {
            let (Column::Axis(name) | Column::Metric(name)) = &column else { return Value::Null };
            json!({ "name": name, "label": names.label(&column), "kind": kind })
        };
        all.chain(self.parameters.iter().map(parameter)).map(column).collect()
    }

    /// A line of the table.
    pub(super) fn row<'a>(&self, model: &'a Model, number: usize) -> Row<'a> {
        let point = &model.points[number];
        let note = model.note(point);
        let axes = self.axes.iter().map(|name| Entry::of(point.axes.get(name).map(|coordinate| &coordinate.cell)));
        let metrics = self.metrics.iter().map(|name| point.metric(name).map_or(Entry::None, Entry::number));
        let parameters = self.parameters.iter().map(|name| Entry::of(point.parameter(name)));
        let (result, live) = (point.result.as_ref().filter(|_| point.is_done()), point.current());
        let epochs = live.and_then(|live| live.epochs).or_else(|| result?.epochs.map(|epochs| (epochs, epochs)));
        Row {
            id: number,
            pipeline: &point.pipeline,
            point: &point.name,
            stage: &point.stage,
            kind: point.kind(),
            status: point.status(),
            epoch: epochs.map(|(done, _)| done),
            epochs: epochs.map(|(_, total)| total),
            seconds: result.map(|result| result.seconds),
            finished_at: result.map(|result| result.finished_at),
            run: point.live.as_ref().map(|live| &*live.run).or(result.map(|result| result.run.as_str())),
            tags: note.map(|note| &note.tags).filter(|tags| !tags.is_empty()),
            note: note.map(|note| start(&note.text)).filter(|text| !text.is_empty()),
            why: live.and_then(|live| live.waits_for.as_deref().or(live.why.as_deref())),
            values: axes.chain(metrics).chain(parameters).collect(),
        }
    }

    /// The points that meet these conditions. Empty text meets all points.
    ///
    /// # Errors
    /// If the text is not a valid condition.
    pub(super) fn select(&self, model: &Model, conditions: &str) -> Result<Selected> {
        let mut rows: Vec<(usize, &Point)> = model.shown().collect();
        let mut reads_metrics = false;
        if !conditions.trim().is_empty() {
            let (filter, names) = (Filter::parse(&[conditions.to_owned()])?, self.names());
            filter.retain(&mut rows, &names, |(_, point), column| value(model, point, column))?;
            reads_metrics = filter.columns(&names)?.iter().any(|column| matches!(column, Column::Metric(_)));
        }
        let ids = rows.into_iter().map(|(number, _)| number).collect();
        Ok(Selected { version: model.version, ids, reads_metrics })
    }
}

/// The points that meet conditions.
#[derive(Serialize)]
pub(super) struct Selected {
    version: u64,
    /// The numbers of the points.
    pub(super) ids: Vec<usize>,
    /// Whether an epoch of a training may change which points meet them.
    reads_metrics: bool,
}

/// The value of a column, as conditions see it.
fn value(model: &Model, point: &Point, column: &Column) -> Option<Cell> {
    match column {
        Column::Stage => Some(Cell::Text(point.stage.clone())),
        Column::Metric(name) => point.metric(name).map(Cell::Number),
        Column::Axis(name) => match (point.axes.get(name), point.parameter(name), name.as_str()) {
            (Some(coordinate), ..) => Some(coordinate.cell.clone()),
            (None, Some(cell), _) => Some(cell.clone()),
            (.., "kind") => point.kind().map(|kind| Cell::Text(kind.to_owned())),
            (.., "pipeline") => Some(Cell::Text(point.pipeline.to_string())),
            (.., "tag") => Some(Cell::Set(model.note(point).map(|note| note.tags.clone()).unwrap_or_default())),
            (.., "status") => Some(Cell::Text(point.status().to_owned())),
            _ => None,
        },
    }
}

/// A line of the table.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    id: usize,
    pipeline: &'a str,
    point: &'a str,
    stage: &'a str,
    kind: Option<&'a str>,
    status: &'static str,
    epoch: Option<u64>,
    epochs: Option<u64>,
    seconds: Option<f64>,
    finished_at: Option<i64>,
    run: Option<&'a str>,
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a BTreeSet<String>>,
    /// The beginning of the note.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    /// The values of the columns, in their order.
    values: Vec<Entry<'a>>,
}

/// The beginning of a text.
fn start(text: &str) -> &str {
    const LONGEST: usize = 200;
    text.char_indices().nth(LONGEST).map_or(text, |(at, _)| &text[..at])
}

/// A value of a line.
enum Entry<'a> {
    None,
    Number(f64),
    Text(&'a str),
}

impl<'a> Entry<'a> {
    fn of(cell: Option<&'a Cell>) -> Self {
        match cell {
            Some(Cell::Number(number)) => Self::number(*number),
            Some(Cell::Text(text)) => Self::Text(text),
            Some(Cell::Set(_)) | None => Self::None,
        }
    }

    fn number(value: f64) -> Self {
        nonfinite_name(value).map_or(Self::Number(value), Self::Text)
    }
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::None => to.serialize_none(),
            Self::Number(number) => to.serialize_f64(*number),
            Self::Text(text) => to.serialize_str(text),
        }
    }
}

/// A number as JSON: `"nan"`, `"inf"` or `"-inf"` if it is not finite.
pub(super) fn figure(value: f64) -> Value {
    nonfinite_name(value).map_or_else(|| json!(value), |name| json!(name))
}

/// The whole table.
#[derive(Serialize)]
struct Table<'a> {
    version: u64,
    columns: Value,
    rows: Vec<Row<'a>>,
}

/// The whole table, or the points that meet these conditions, as JSON.
///
/// # Errors
/// If the text is not a valid condition.
pub(super) fn table(model: &Model, columns: &Columns, conditions: &str) -> Result<Vec<u8>> {
    let selected = columns.select(model, conditions)?;
    let rows = selected.ids.iter().map(|number| columns.row(model, *number)).collect();
    let table = Table { version: model.version, columns: columns.json(), rows };
    serde_json::to_vec(&table).map_err(|e| Error::storage("can't write JSON").caused_by(e))
}
