//! The coordinates of a point: its values on the axes.

use std::collections::BTreeMap;

use super::cell::Cell;
use crate::id::PointName;
use crate::value::Value;

/// The value of an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Coordinate {
    /// The value, to compare.
    pub(crate) cell: Cell,
    /// As in the name of the point.
    pub(crate) text: String,
}

impl Coordinate {
    /// The coordinates of a point with this name. `values` are their values in the same order, if the point is in the
    /// pipeline. Else a value that reads as a number is one.
    pub(crate) fn all(name: &str, values: Option<&[(String, Value)]>) -> BTreeMap<String, Self> {
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
