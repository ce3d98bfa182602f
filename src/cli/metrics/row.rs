//! The values of a point.

use std::collections::BTreeMap;

use crate::cli::filter::{Cell, Column};
use crate::cli::ui::{figure, shorten};
use crate::id::PointName;
use crate::plan::Cause;
use crate::value::Value;

/// A point with its values.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) axes: BTreeMap<String, Coordinate>,
    pub(super) metrics: BTreeMap<String, f64>,
    /// Metrics that only describe the result. They are shown in one column, and conditions can use them.
    pub(super) facts: BTreeMap<String, f64>,
    /// Set if it is pruned, with the reason if that is known. Then it has no metrics.
    pub(super) pruned: Option<Option<Cause>>,
}

/// The value of an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Coordinate {
    /// The value, to compare.
    pub(super) cell: Cell,
    /// As in the name of the point.
    pub(super) text: String,
}

impl Coordinate {
    /// The coordinates of a point with this name. `values` are their values in the same order, if the point is in the
    /// pipeline. Else a value that reads as a number is one.
    pub(super) fn all(name: &str, values: Option<&[(String, Value)]>) -> BTreeMap<String, Self> {
        let texts = PointName::parse(name).coordinates.into_iter().flat_map(PointName::split_coordinates);
        let texts = texts.filter_map(PointName::split_coordinate).enumerate();
        let one = |(at, (axis, text)): (usize, (&str, &str))| {
            let typed = values.and_then(|values| values.get(at)).map(|(_, value)| Cell::of(value));
            let read = || text.parse().map_or_else(|_| Cell::Text(text.to_owned()), Cell::Number);
            (axis.to_owned(), Self { cell: typed.unwrap_or_else(read), text: text.to_owned() })
        };
        texts.map(one).collect()
    }
}

impl Row {
    /// The value of a column.
    pub(super) fn get(&self, column: &Column) -> Option<Cell> {
        match column {
            Column::Stage => Some(Cell::Text(self.stage.clone())),
            Column::Axis(name) => self.axes.get(name).map(|coordinate| coordinate.cell.clone()),
            Column::Metric(name) => self.metrics.get(name).or(self.facts.get(name)).map(|v| Cell::Number(*v)),
        }
    }

    /// Whether a table has a line for it.
    pub(super) fn is_shown(&self) -> bool {
        !self.metrics.is_empty() || !self.facts.is_empty() || self.pruned.is_some()
    }

    /// Whether a table has a value of it in this column.
    pub(super) fn has(&self, column: &Column) -> bool {
        match column {
            Column::Stage => true,
            Column::Axis(name) => self.axes.contains_key(name),
            Column::Metric(name) => self.metrics.contains_key(name),
        }
    }

    /// The text of a column; a metric with all digits if `exact`.
    pub(super) fn text(&self, column: &Column, exact: bool) -> String {
        let number = |v: &f64| if exact { v.to_string() } else { figure(*v) };
        let text = match column {
            Column::Stage => Some(self.stage.clone()),
            Column::Axis(name) => self.axes.get(name).map(|coordinate| coordinate.text.clone()),
            Column::Metric(name) => self.metrics.get(name).map(number),
        };
        text.unwrap_or_default()
    }

    /// Its facts: `train 200, test 50`.
    pub(super) fn facts(&self) -> String {
        let facts = self.facts.iter().map(|(name, value)| format!("{} {}", shorten(name), figure(*value)));
        facts.collect::<Vec<_>>().join(", ")
    }

    /// Why it is pruned, in a few words; with all digits if `exact`.
    pub(super) fn pruned(&self, exact: bool) -> String {
        match &self.pruned {
            Some(Some(Cause::Pruned { epoch, figure: name, value, place, of, .. })) => {
                let value = if exact { value.to_string() } else { figure(*value) };
                format!("after epoch {epoch}: {name} {value} ranks {place} of {of}")
            }
            Some(Some(_)) => "its inputs are pruned".to_owned(),
            Some(None) => "pruned".to_owned(),
            None => String::new(),
        }
    }
}
