//! The values of an axis that are written as a list, and their form in point names.
//!
//! ```toml
//! lr = [1e-3, 1e-2]                                      # net@lr=0.001
//! channels = [[64, 32], [128, 64]]                       # net@channels=0, net@channels=1
//! model = [{ name = "small", width = 64 }, { name = "wide", width = 256 }]     # net@model=small
//! ```
//!
//! A string, a number or a boolean is its own form. A list or a table has a label: the `name` of a table, or else the
//! position in the list, counted from 0. Labels stand for values in point names, inputs, `at`, `exclude` and targets,
//! and in tables of metrics. A label is not part of the value: `${matrix.model}` is a table without `name`, and
//! `${matrix.model.name}` is the name. So another label changes no key, unless a stage uses the name or gathers points.
//!
//! The values of an axis are all lists, or all tables with the same fields, or none of them is a list or a table. Then
//! a missing or misspelled field is found, and a reference finds its field in all values.

use std::collections::HashMap;

use super::axis::{AxisValue, number};
use super::errors::suggest;
use crate::diagnostic::{Diagnostics, Origin};
use crate::value::{Data, Node, Table};

/// The field of a table that is its label.
pub(super) const NAME: &str = "name";

/// The values of a list without those that have an error.
pub(super) fn list(axis: &str, items: &[Node], place: &Origin, diagnostics: &mut Diagnostics) -> Vec<AxisValue> {
    let Some(first) = items.first() else {
        diagnostics.error(place, format!("axis `{axis}` has no values")).help("give at least one");
        return vec![];
    };
    let read = items.iter().enumerate().filter_map(|(position, item)| {
        let is_like_first = has_form(axis, item, first, diagnostics);
        value(item, position, diagnostics).filter(|_| is_like_first)
    });
    let values: Vec<AxisValue> = read.collect();
    let mut seen: HashMap<String, &AxisValue> = HashMap::with_capacity(values.len());
    let mut numbers: HashMap<String, &AxisValue> = HashMap::new();
    let is_new = values.iter().map(|value| {
        // Point names become file names, and some file systems ignore case. No two values have the same position.
        let unnamed = value.has_label() && value.name.is_none();
        let id = if unnamed { value.node.data.value().to_string() } else { value.text.to_lowercase() };
        let same_number = number(&value.node.data).and_then(|n| numbers.insert(n, value));
        let first = seen.insert(id, value).or(same_number);
        first.inspect(|first| report_twice(axis, first, value, diagnostics)).is_none()
    });
    let is_new: Vec<bool> = is_new.collect();
    values.into_iter().zip(is_new).filter_map(|(value, is_new)| is_new.then_some(value)).collect()
}

fn report_twice(axis: &str, first: &AxisValue, again: &AxisValue, diagnostics: &mut Diagnostics) {
    let shown = |value: &AxisValue| value.name.as_ref().unwrap_or(&value.node).data.value();
    let place = &again.name.as_ref().unwrap_or(&again.node).origin;
    let (first, second) = (shown(first), shown(again));
    let message = match (first == second, &again.name) {
        (true, Some(_)) => format!("axis `{axis}` has two values with the name {second}"),
        (true, None) => format!("axis `{axis}` has {second} twice"),
        (false, _) => format!("axis `{axis}` has {first} and {second}, which are too similar for point names"),
    };
    diagnostics.error(place, message);
}

/// Whether a value has the form of the first one. Reports the difference.
fn has_form(axis: &str, item: &Node, first: &Node, diagnostics: &mut Diagnostics) -> bool {
    match (&first.data, &item.data) {
        (Data::Table(first), Data::Table(table)) => has_fields(axis, table, &item.origin, first, diagnostics),
        (Data::List(_), Data::List(_)) => true,
        (Data::List(_) | Data::Table(_), _) | (_, Data::List(_) | Data::Table(_)) => {
            let (known, found) = (first.data.describe(), item.data.describe());
            let message = format!("axis `{axis}` mixes {known} and {found}");
            let help = "the values of an axis are all lists, or all tables, or none of them is one";
            diagnostics.error(&item.origin, message).help(help);
            false
        }
        _ => true,
    }
}

/// Whether a table has the fields of the first one.
fn has_fields(axis: &str, table: &Table, place: &Origin, first: &Table, diagnostics: &mut Diagnostics) -> bool {
    let before = diagnostics.0.len();
    for extra in table.0.iter().filter(|e| first.get(&e.name).is_none()) {
        let message = format!("the first value of axis `{axis}` has no field `{}`", extra.name);
        let missing = first.0.iter().map(|e| e.name.as_str()).filter(|name| table.get(name).is_none());
        suggest(diagnostics, &extra.name_origin, message, &extra.name, missing);
    }
    if diagnostics.0.len() > before {
        // A missing field may be misspelled.
        return false;
    }
    for missing in first.0.iter().filter(|e| table.get(&e.name).is_none()) {
        let message = format!("this value of axis `{axis}` has no field `{}`", missing.name);
        diagnostics.error(place, message).help("all values of an axis have the same fields");
    }
    diagnostics.0.len() == before
}

/// The value at this position of a list.
fn value(item: &Node, position: usize, diagnostics: &mut Diagnostics) -> Option<AxisValue> {
    let Data::Table(table) = &item.data else {
        let is_list = matches!(item.data, Data::List(_));
        let text = if is_list { position.to_string() } else { value_text(item, diagnostics)? };
        return Some(AxisValue { node: item.clone(), name: None, text });
    };
    let name = table.get(NAME).cloned();
    let text = match &name {
        None => position.to_string(),
        Some(node @ Node { data: Data::Text(_), .. }) => value_text(node, diagnostics)?,
        Some(node) => {
            let message = format!("`{NAME}` must be a string, not {}", node.data.describe());
            diagnostics.error(&node.origin, message).help("it is shown in the names of points");
            return None;
        }
    };
    let fields = table.0.iter().filter(|e| e.name != NAME).cloned().collect();
    Some(AxisValue { node: Node { data: Data::Table(Table(fields)), origin: item.origin.clone() }, name, text })
}

/// The form of a string, a number or a boolean in point names. Point names become file names and are written in inputs,
/// `at` and targets, so they must not contain characters that have a meaning there, in a path or in a glob.
pub(super) fn value_text(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    let Some(text) = node.data.as_text() else {
        let message = format!("an axis value must be a string, a number or a boolean, not {}", node.data.describe());
        diagnostics.error(&node.origin, message);
        return None;
    };
    let unsafe_char = |c: char| c.is_control() || "/\\,=@*?[]{}<>|\":".contains(c);
    let problem = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(c) = text.chars().find(|c| unsafe_char(*c)) {
        format!("it contains {c:?}")
    } else if text.contains("..") {
        "it contains \"..\"".to_owned()
    } else if text.trim() != text {
        "it begins or ends with white space".to_owned()
    } else {
        return Some(text);
    };
    diagnostics.error(&node.origin, format!("{text:?} can't be part of a point's name: {problem}"));
    None
}
