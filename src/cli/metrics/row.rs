//! The values of a point.

use std::collections::BTreeMap;

use crate::cli::ui::{figure, shorten};
use crate::filter::{Cell, Column, Coordinate};
use crate::plan::Cause;

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
