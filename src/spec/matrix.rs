//! Axes: their values, how a value is written in a point's name, and which combinations there are.
//!
//! An axis is known by its index: those of `[matrix]` first, then those of the stages in the order of the file, each in the
//! order it is written. That is also their order in names. A value is known by its index in its axis.
//!
//! `exclude` takes away from the product of `[matrix]` every combination that has all coordinates of one of its tables;
//! then `include` adds its tables, each a whole combination, whose values need not be in the axes' lists.

use std::collections::{BTreeMap, BTreeSet};

use super::errors::{check_name, suggest};
use super::template::as_text;
use crate::diagnostic::{Diagnostics, Origin};
use crate::value::{Data, Node, Table};

/// More combinations than this are a mistake, and would fill the memory before anybody sees it.
pub(super) const MAX_POINTS: usize = 1_000_000;

/// One axis.
#[derive(Debug)]
pub(super) struct Axis {
    /// Its name.
    pub(super) name: String,
    /// Where the name is declared.
    pub(super) origin: Origin,
    /// The index of the stage that declares it; none for `[matrix]`.
    pub(super) owner: Option<usize>,
    /// Its values. `include` can add some that the product has not.
    pub(super) values: Vec<AxisValue>,
}

/// One value of an axis.
#[derive(Debug)]
pub(super) struct AxisValue {
    /// As written, with its place.
    pub(super) node: Node,
    /// As it stands in names.
    pub(super) text: String,
}

impl Axis {
    /// The index of the value that a text names: as it stands in names, or another way to write the same number.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let exact = self.values.iter().position(|v| v.text == text);
        exact.or_else(|| {
            let int = text.parse().ok().map(Data::Int);
            let wanted = number(&int.or_else(|| text.parse().ok().map(Data::Float))?)?;
            self.values.iter().position(|v| number(&v.node.data).as_ref() == Some(&wanted))
        })
    }
}

/// A number in one form, whether it is written as an integer or as a float.
fn number(data: &Data) -> Option<String> {
    // Whole numbers beyond this are not all floats.
    const WHOLE: f64 = 9e15;
    match data {
        Data::Int(v) => Some(v.to_string()),
        Data::Float(v) if v.fract() == 0.0 && v.abs() < WHOLE => Some((*v as i64).to_string()),
        Data::Float(v) => Some(format!("{v:?}")),
        _ => None,
    }
}

/// All axes of the pipeline, and the combinations of those of `[matrix]` where they are fewer or more than the product.
#[derive(Debug, Default)]
pub(super) struct Matrix {
    /// All axes.
    pub(super) axes: Vec<Axis>,
    /// How many of them, from the start, are those of `[matrix]`.
    pub(super) shared: usize,
    /// With `include` or `exclude`: the combinations, in order, as indices of values.
    rows: Option<Vec<Vec<u32>>>,
}

impl Matrix {
    /// Reads the `[matrix]` section.
    pub(super) fn read(section: &Table, diagnostics: &mut Diagnostics) -> Self {
        let mut matrix = Self::default();
        matrix.declare(section, None, diagnostics);
        matrix.shared = matrix.axes.len();
        let exclude = picks_list(section, "exclude", diagnostics);
        let include = picks_list(section, "include", diagnostics);
        if exclude.is_empty() && include.is_empty() {
            return matrix;
        }
        let all: Vec<usize> = (0..matrix.shared).collect();
        let Some(mut rows) = matrix.combinations(&all) else {
            let place = section.0.first().map(|e| e.name_origin.clone());
            if let Some(place) = place {
                diagnostics.error(&place, format!("[matrix] has more than {MAX_POINTS} combinations"));
            }
            return matrix;
        };
        for table in exclude {
            matrix.exclude(table, &mut rows, diagnostics);
        }
        for node in include {
            matrix.include(node, &mut rows, diagnostics);
        }
        rows.sort_unstable();
        rows.dedup();
        matrix.rows = Some(rows);
        matrix
    }

    /// Adds the axes of a table and returns their indices. `owner` is the declaring stage, none for `[matrix]`.
    pub(super) fn declare(&mut self, table: &Table, owner: Option<usize>, diagnostics: &mut Diagnostics) -> Vec<usize> {
        let first = self.axes.len();
        for entry in &table.0 {
            let reserved = matches!(entry.name.as_str(), "include" | "exclude");
            if reserved && owner.is_some() {
                let message = format!("a stage's matrix has no `{}`", entry.name);
                diagnostics.error(&entry.name_origin, message).help("[matrix] has");
            }
            if !reserved && check_name("an axis", &entry.name, &entry.name_origin, diagnostics) {
                let values = values(&entry.name, &entry.node, diagnostics);
                let (name, origin) = (entry.name.clone(), entry.name_origin.clone());
                self.axes.push(Axis { name, origin, owner, values });
            }
        }
        (first..self.axes.len()).collect()
    }

    /// All combinations of values of some axes (ascending), the last axis fastest; `None` if they are too many.
    pub(super) fn combinations(&self, axes: &[usize]) -> Option<Vec<Vec<u32>>> {
        let shared = axes.partition_point(|a| *a < self.shared);
        let mut rows: Vec<Vec<u32>> = vec![vec![]];
        let mut rest = axes;
        if let Some(all) = &self.rows {
            let (own, others) = axes.split_at(shared);
            let seen: BTreeSet<Vec<u32>> = all.iter().map(|row| own.iter().map(|a| row[*a]).collect()).collect();
            rows = seen.into_iter().collect();
            rest = others;
        }
        for axis in rest {
            let count = self.axes[*axis].values.len();
            if rows.len().checked_mul(count).is_none_or(|n| n > MAX_POINTS) {
                return None;
            }
            let count = u32::try_from(count).ok()?;
            rows = rows.iter().flat_map(|row| (0..count).map(|v| [row.as_slice(), &[v]].concat())).collect();
        }
        Some(rows)
    }

    /// The index of the `[matrix]` axis of a name.
    pub(super) fn shared_axis(&self, name: &str) -> Option<usize> {
        self.axes.iter().take(self.shared).position(|a| a.name == name)
    }

    fn exclude(&self, node: &Node, rows: &mut Vec<Vec<u32>>, diagnostics: &mut Diagnostics) {
        let Some(table) = as_table(node, "exclude", diagnostics) else { return };
        let mut wanted = Vec::new();
        for entry in &table.0 {
            let Some(axis) = self.axis_of(&entry.name, &entry.name_origin, diagnostics) else { return };
            let text = as_text(&entry.node.data).unwrap_or_default();
            let Some(value) = self.axes[axis].find(&text) else {
                let message = format!("axis `{}` has no value {}", entry.name, entry.node.data.value());
                let known = self.axes[axis].values.iter().map(|v| v.text.as_str());
                suggest(diagnostics, &entry.node.origin, message, &text, known);
                return;
            };
            wanted.push((axis, value as u32));
        }
        let before = rows.len();
        rows.retain(|row| wanted.is_empty() || wanted.iter().any(|(axis, value)| row[*axis] != *value));
        if rows.len() == before {
            diagnostics.error(&node.origin, "this excludes nothing");
        } else if rows.is_empty() {
            diagnostics.error(&node.origin, "this excludes what was left of the matrix");
        }
    }

    fn include(&mut self, node: &Node, rows: &mut Vec<Vec<u32>>, diagnostics: &mut Diagnostics) {
        let Some(table) = as_table(node, "include", diagnostics) else { return };
        let mut row = BTreeMap::new();
        for entry in &table.0 {
            let Some(axis) = self.axis_of(&entry.name, &entry.name_origin, diagnostics) else { return };
            let Some(text) = value_text(&entry.node, diagnostics) else { return };
            let known = self.axes[axis].find(&text);
            let values = &mut self.axes[axis].values;
            let alike = values.iter().find(|v| v.text.to_lowercase() == text.to_lowercase());
            if let (None, Some(alike)) = (known, alike) {
                let message = format!("{text:?} and {:?} differ only in case", alike.text);
                diagnostics.error(&entry.node.origin, message);
                return;
            }
            let value = known.unwrap_or_else(|| {
                values.push(AxisValue { node: entry.node.clone(), text });
                values.len() - 1
            });
            row.insert(axis, value as u32);
        }
        let missing: Vec<&str> =
            (0..self.shared).filter(|a| !row.contains_key(a)).map(|a| self.axes[a].name.as_str()).collect();
        if missing.is_empty() {
            rows.push(row.into_values().collect());
        } else {
            let help = format!("give {} too", missing.join(", "));
            diagnostics.error(&node.origin, "an included combination has a value for every axis").help(help);
        }
    }

    fn axis_of(&self, name: &str, place: &Origin, diagnostics: &mut Diagnostics) -> Option<usize> {
        let found = self.shared_axis(name);
        if found.is_none() {
            let known = self.axes.iter().take(self.shared).map(|a| a.name.as_str());
            suggest(diagnostics, place, format!("[matrix] has no axis `{name}`"), name, known);
        }
        found
    }
}

fn picks_list<'a>(section: &'a Table, name: &str, diagnostics: &mut Diagnostics) -> &'a [Node] {
    match section.get(name) {
        None => &[],
        Some(Node { data: Data::List(items), .. }) => items,
        Some(node) => {
            let message = format!("`{name}` must be a list of tables, not {}", node.data.describe());
            diagnostics.error(&node.origin, message).help(format!("{name} = [{{ axis = value }}]"));
            &[]
        }
    }
}

fn as_table<'a>(node: &'a Node, name: &str, diagnostics: &mut Diagnostics) -> Option<&'a Table> {
    match &node.data {
        Data::Table(table) if !table.0.is_empty() => Some(table),
        Data::Table(_) => {
            diagnostics.error(&node.origin, format!("an empty table in `{name}`"));
            None
        }
        other => {
            let message = format!("`{name}` holds tables such as {{ axis = value }}, not {}", other.describe());
            diagnostics.error(&node.origin, message);
            None
        }
    }
}

fn values(name: &str, node: &Node, diagnostics: &mut Diagnostics) -> Vec<AxisValue> {
    let Data::List(items) = &node.data else {
        let message = format!("axis `{name}` must be a list of values, not {}", node.data.describe());
        diagnostics.error(&node.origin, message).help(format!("{name} = [value, value]"));
        return vec![];
    };
    if items.is_empty() {
        diagnostics.error(&node.origin, format!("axis `{name}` has no values")).help("give at least one");
    }
    // Names of points become names of files, where case may make no difference.
    let mut seen: BTreeMap<String, &Node> = BTreeMap::new();
    let mut numbers: BTreeMap<String, &Node> = BTreeMap::new();
    let mut values = Vec::new();
    for item in items {
        let Some(text) = value_text(item, diagnostics) else { continue };
        let same_number = number(&item.data).and_then(|n| numbers.insert(n, item));
        if let Some(first) = seen.insert(text.to_lowercase(), item).or(same_number) {
            let (first, again) = (first.data.value(), item.data.value());
            let message = if first == again {
                format!("axis `{name}` has {again} twice")
            } else {
                format!("axis `{name}` has {first} and {again}, which are too alike for the names of points")
            };
            diagnostics.error(&item.origin, message);
            continue;
        }
        values.push(AxisValue { node: item.clone(), text });
    }
    values
}

/// A value as it stands in a point's name. Names become files' names and are written in inputs, `at` and targets, so what
/// has a meaning in a path, in those or in a glob can't be in one.
fn value_text(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    let Some(text) = as_text(&node.data) else {
        let message = format!("an axis has texts, numbers and booleans, not {}", node.data.describe());
        let help = "name the variants, and set the parameter for each in the stage's `at`";
        diagnostics.error(&node.origin, message).help(help);
        return None;
    };
    let unsafe_char = |c: char| c.is_control() || "/\\,=@*?[]{}<>|\":".contains(c);
    let problem = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(c) = text.chars().find(|c| unsafe_char(*c)) {
        format!("it has {c:?} in it")
    } else if text.contains("..") {
        "it has \"..\" in it".to_owned()
    } else if text.trim() != text {
        "it begins or ends with white space".to_owned()
    } else {
        return Some(text);
    };
    diagnostics.error(&node.origin, format!("{text:?} can't be in the name of a point: {problem}"));
    None
}
