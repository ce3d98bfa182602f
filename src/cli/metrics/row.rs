//! The values of a point.

use std::collections::BTreeMap;

use crate::cli::filter::{Cell, Column};

/// A point with its values.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) axes: BTreeMap<String, Cell>,
    pub(super) metrics: BTreeMap<String, f64>,
}

impl Row {
    /// The value of a column.
    pub(super) fn get(&self, column: &Column) -> Option<Cell> {
        match column {
            Column::Stage => Some(Cell::Text(self.stage.clone())),
            Column::Axis(name) => self.axes.get(name).cloned(),
            Column::Metric(name) => self.metrics.get(name).map(|v| Cell::Number(*v)),
        }
    }
}
