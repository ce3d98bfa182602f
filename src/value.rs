//! Values of a pipeline: [`Node`] as read, with its place in the source, and [`Value`] as hashed, without a place.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::diagnostic::Origin;

/// A typed value in canonical form, as it is hashed, stored with a result and shown in reasons. Its spelling in the
/// file does not matter: `1e-3` and `0.001` are the same value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite number. An integer for a parameter that is a float becomes a float.
    Float(f64),
    /// A string.
    Text(String),
    /// An ordered list.
    List(Vec<Value>),
    /// A table, ordered by name.
    Table(BTreeMap<String, Value>),
}

/// Canonical parameters by name.
pub type Values = BTreeMap<String, Value>;

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}
impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}
impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Float(v)
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Self {
        Self::List(v.into_iter().map(Into::into).collect())
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(v) => Self::from(*v),
            Value::Int(v) => Self::from(*v),
            Value::Float(v) => Self::from(*v),
            Value::Text(v) => Self::from(v.as_str()),
            Value::List(v) => v.iter().map(Self::from).collect(),
            Value::Table(v) => v.iter().map(|(name, value)| (name.clone(), Self::from(value))).collect(),
        }
    }
}

impl fmt::Display for Value {
    /// Writes the value as inline TOML, and floats in the shortest form that parses to the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => write!(f, "{v}"),
            Self::Int(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v:?}"),
            Self::Text(v) => write!(f, "{v:?}"),
            Self::List(v) => {
                f.write_str("[")?;
                for (i, item) in v.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Table(v) => {
                f.write_str("{ ")?;
                for (i, (name, item)) in v.iter().enumerate() {
                    write!(f, "{}{name} = {item}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(" }")
            }
        }
    }
}

/// A value and its place in the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub data: Data,
    /// Where it is written.
    pub origin: Origin,
}

/// The types of value that a pipeline file can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

/// A table, in the order in which it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub Vec<Entry>);

/// One `name = value` of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Where the name is written.
    pub name_origin: Origin,
    /// The value.
    pub node: Node,
}

impl Table {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|e| &e.node)
    }

    /// The whole entry of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|e| e.name == name)
    }

    /// Replaces or adds an entry.
    pub fn set(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|e| e.name == entry.name) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
    }
}

impl Data {
    /// The type for messages: "an integer", "a list", …
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// A string, a number or a boolean as text, with floats in the shortest form that parses to the same number. `None`
    /// for a list or a table.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Text(v) => Some(v.clone()),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => Some(self.value().to_string()),
            Self::List(_) | Self::Table(_) => None,
        }
    }

    /// The value without places.
    pub fn value(&self) -> Value {
        match self {
            Self::Bool(v) => Value::Bool(*v),
            Self::Int(v) => Value::Int(*v),
            Self::Float(v) => Value::Float(*v),
            Self::Text(v) => Value::Text(v.clone()),
            Self::List(v) => Value::List(v.iter().map(|n| n.data.value()).collect()),
            Self::Table(t) => Value::Table(t.0.iter().map(|e| (e.name.clone(), e.node.data.value())).collect()),
        }
    }
}
