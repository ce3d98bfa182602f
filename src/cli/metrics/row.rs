//! The values of a point.

use std::collections::BTreeMap;

use crate::cli::filter::{Cell, Column};
use crate::cli::ui::figure;
use crate::plan::Cause;

/// A point with its values.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) axes: BTreeMap<String, Cell>,
    pub(super) metrics: BTreeMap<String, f64>,
    /// Why it is pruned. Then it has no metrics.
    pub(super) pruned: Option<Cause>,
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

    /// Whether a table has a line for it.
    pub(super) fn is_shown(&self) -> bool {
        !self.metrics.is_empty() || self.pruned.is_some()
    }

    /// Why it is pruned, in a few words; with all digits if `exact`.
    pub(super) fn pruned(&self, exact: bool) -> String {
        match &self.pruned {
            Some(Cause::Pruned { epoch, figure: name, value, place, of, .. }) => {
                let value = if exact { value.to_string() } else { figure(*value) };
                format!("after epoch {epoch}: {name} {value} ranks {place} of {of}")
            }
            Some(_) => "its inputs are pruned".to_owned(),
            None => String::new(),
        }
    }
}
