//! A value of a point.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use crate::value::Value;

/// A value of a point: of an axis, or a metric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// A number.
    Number(f64),
    /// A string.
    Text(String),
    /// Several strings, such as tags. Equal to each of them, and unequal to all others.
    Set(BTreeSet<String>),
}

impl Cell {
    /// The value of an axis.
    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Int(v) => Self::Number(*v as f64),
            Value::Float(v) => Self::Number(*v),
            Value::Text(v) => Self::Text(v.clone()),
            other => Self::Text(other.to_string()),
        }
    }

    /// Whether it is NaN, which is neither less nor greater than a number.
    pub(crate) fn is_nan(&self) -> bool {
        matches!(self, Self::Number(v) if v.is_nan())
    }

    /// Numbers come before strings; each type has its own order.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Number(_), _) => Ordering::Less,
            (_, Self::Number(_)) => Ordering::Greater,
            (a, b) => a.to_string().cmp(&b.to_string()),
        }
    }
}

impl fmt::Display for Cell {
    /// A number has the shortest digits that parse to the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(v) => write!(f, "{v}"),
            Self::Text(v) => f.write_str(v),
            Self::Set(all) => f.write_str(&all.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        }
    }
}
