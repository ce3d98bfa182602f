//! What is known about a parameter from the way in which a kind reads it.

use crate::value::Value;

/// A parameter of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it is for; empty if the kind does not say. See [`super::Params::describe`].
    pub description: &'static str,
    /// The values that it takes: "an integer from 1 to 100".
    pub takes: String,
    /// The words that it takes, if it takes one of several.
    pub choices: Vec<String>,
    /// Its value if it is not given.
    pub default: Option<Value>,
    /// Whether a stage without it is an error.
    pub is_required: bool,
    /// Whether it may also be in a segment of a training.
    pub is_in_segments: bool,
}
