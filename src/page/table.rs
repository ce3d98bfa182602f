//! The table of points: its columns, its lines, and which lines meet a condition.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::model::{Model, Point};
use crate::artifact::metrics::nonfinite_name;
use crate::error::Result;
use crate::filter::{Cell, Column, Filter, Names};

/// Names of columns that every point has, besides `stage`. A condition may use them, unless an axis has the name.
const OF_EVERY_POINT: [&str; 3] = ["kind", "pipeline", "status"];

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
            for axis in point.axes.keys().filter(|axis| !axes.contains(axis)).cloned().collect::<Vec<_>>() {
                axes.push(axis);
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
    pub(super) fn row(&self, number: usize, point: &Point) -> Value {
        let axes = self.axes.iter().map(|name| cell(point.axes.get(name).map(|coordinate| &coordinate.cell)));
        let metrics = self.metrics.iter().map(|name| point.metric(name).map_or(Value::Null, figure));
        let parameters = self.parameters.iter().map(|name| cell(point.parameter(name)));
        let values: Vec<Value> = axes.chain(metrics).chain(parameters).collect();
        let (result, live) = (point.result.as_ref().filter(|_| point.is_done()), point.current());
        let epochs = live.and_then(|live| live.epochs).or_else(|| result?.epochs.map(|epochs| (epochs, epochs)));
        let mut row = Map::new();
        let mut put = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
        put("id", json!(number));
        put("pipeline", json!(&*point.pipeline));
        put("point", json!(point.name));
        put("stage", json!(point.stage));
        put("kind", json!(point.kind()));
        put("status", json!(point.status()));
        put("epoch", json!(epochs.map(|(done, _)| done)));
        put("epochs", json!(epochs.map(|(_, total)| total)));
        put("seconds", json!(result.map(|result| result.seconds)));
        put("finished_at", json!(result.map(|result| result.finished_at)));
        put("run", json!(point.live.as_ref().map(|live| &*live.run).or(result.map(|result| result.run.as_str()))));
        put("why", json!(live.and_then(|live| live.waits_for.as_ref().or(live.why.as_ref()))));
        put("values", Value::Array(values));
        Value::Object(row)
    }

    /// The numbers of the points that meet these conditions. Empty text meets all points.
    ///
    /// # Errors
    /// If the text is not a valid condition.
    pub(super) fn select(&self, model: &Model, conditions: &str) -> Result<Vec<usize>> {
        let mut rows: Vec<(usize, &Point)> = model.shown().collect();
        if !conditions.trim().is_empty() {
            let filter = Filter::parse(&[conditions.to_owned()])?;
            filter.retain(&mut rows, &self.names(), |(_, point), column| value(point, column))?;
        }
        Ok(rows.into_iter().map(|(number, _)| number).collect())
    }
}

/// The value of a column, as conditions see it.
fn value(point: &Point, column: &Column) -> Option<Cell> {
    match column {
        Column::Stage => Some(Cell::Text(point.stage.clone())),
        Column::Metric(name) => point.metric(name).map(Cell::Number),
        Column::Axis(name) => match (point.axes.get(name), point.parameter(name), name.as_str()) {
            (Some(coordinate), ..) => Some(coordinate.cell.clone()),
            (None, Some(cell), _) => Some(cell.clone()),
            (.., "kind") => point.kind().map(|kind| Cell::Text(kind.to_owned())),
            (.., "pipeline") => Some(Cell::Text(point.pipeline.to_string())),
            (.., "status") => Some(Cell::Text(point.status().to_owned())),
            _ => None,
        },
    }
}

fn cell(cell: Option<&Cell>) -> Value {
    match cell {
        Some(Cell::Number(number)) => figure(*number),
        Some(Cell::Text(text)) => json!(text),
        None => Value::Null,
    }
}

/// A number as JSON: `"nan"`, `"inf"` or `"-inf"` if it is not finite.
pub(super) fn figure(value: f64) -> Value {
    nonfinite_name(value).map_or_else(|| json!(value), |name| json!(name))
}

/// The whole table, or the points that meet these conditions.
///
/// # Errors
/// If the text is not a valid condition.
pub(super) fn table(model: &Model, columns: &Columns, conditions: &str) -> Result<Value> {
    let numbers = columns.select(model, conditions)?;
    let rows: Vec<Value> = numbers.iter().map(|number| columns.row(*number, &model.points[*number])).collect();
    Ok(json!({ "version": model.version, "columns": columns.json(), "rows": rows }))
}
