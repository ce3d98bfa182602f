//! Axes: their values, their form in point names, and the combinations of values.
//!
//! Axes are identified by ids. The axes of `[matrix]` come first, then those of the stages in the order of the file,
//! each in the order in which they are written. Point names use the same order. A value is identified by its index in
//! its axis.
//!
//! `exclude` removes from the product of `[matrix]` every combination that has all coordinates of one of its tables.
//! Then `include` adds each of its tables as a whole combination. Its values need not be in the axes' lists, except for
//! lists and tables, which have no label elsewhere. This differs from GitHub Actions, where an `include` may leave
//! variables out, or add variables to existing combinations. Here a combination has a value for every axis and nothing
//! else; a stage's `at` sets other values for some points. An `exclude` that excludes nothing is an error.
//!
//! Axes that are drawn together (see `values`) form one factor of the product. Its combinations are the draws.
//!
//! A stage can't have more points than `limit` in `[matrix]`, 10,000 by default. The number of points is checked before
//! the combinations are built. `limit` and `prune` in `[matrix]` are settings, unless their value is a list: then they
//! are axes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::axis::{Asked, Axis, AxisValue, MAX_POINTS};
use super::errors::{check_name, suggest};
use super::include::INCLUDE;
use super::listed::value_text;
use super::values::{Values, check_together, values};
use crate::diagnostic::{Diagnostic, Diagnostics, Origin};
use crate::id::{AxisId, StageId};
use crate::value::{Data, Entry, Node, Table};

/// The default `limit`.
const LIMIT: usize = 10_000;

/// All axes of the pipeline, and the combinations of the `[matrix]` axes if these differ from the product.
#[derive(Debug)]
pub(super) struct Matrix {
    /// All axes.
    pub(super) axes: Vec<Axis>,
    /// The number of `[matrix]` axes. They come first in `axes`.
    pub(super) shared: usize,
    /// The combinations as indices of values, in order, if there is an `include` or an `exclude`.
    rows: Option<Vec<Vec<u32>>>,
    /// The largest number of points of a stage.
    limit: usize,
}

/// Error: a product has too many combinations.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    /// The product in full: `20 × 30 = 600`.
    pub(super) product: String,
    /// The number of combinations.
    pub(super) count: u128,
    /// The largest number allowed.
    pub(super) limit: usize,
}

/// A factor of a product: a single axis, or several axes whose values are combined already.
struct Factor {
    /// The positions of its axes among the requested axes.
    positions: Vec<usize>,
    /// The combinations of their values.
    tuples: Vec<Vec<u32>>,
}

impl Matrix {
    /// Reads the `[matrix]` section, except for `prune`.
    pub(super) fn read(section: &Table, diagnostics: &mut Diagnostics) -> Self {
        let limit = limit(section, diagnostics);
        let mut matrix = Self { axes: vec![], shared: 0, rows: None, limit };
        matrix.declare(section, None, diagnostics);
        matrix.shared = matrix.axes.len();
        let exclude = picks_list(section, "exclude", diagnostics);
        let include = picks_list(section, "include", diagnostics);
        if exclude.is_empty() && include.is_empty() {
            return matrix;
        }
        let all: Vec<AxisId> = AxisId::first(matrix.shared).collect();
        let mut rows = match matrix.product(&all, MAX_POINTS) {
            Ok(rows) => rows,
            Err(TooMany { product, limit, .. }) => {
                if let Some(place) = section.0.first().map(|e| e.name_origin.clone()) {
                    let message = format!("[matrix] has {product} combinations, more than {}", grouped(limit as u128));
                    diagnostics.error(&place, message);
                }
                return matrix;
            }
        };
        for table in exclude {
            matrix.exclude(table, &mut rows, diagnostics);
        }
        for node in include {
            matrix.include(node, &mut rows, diagnostics);
        }
        matrix.rows = Some(matrix.distinct(rows));
        matrix
    }

    /// The axis with this id.
    pub(super) fn axis(&self, id: AxisId) -> &Axis {
        &self.axes[id.index()]
    }

    /// Adds the axes of a table and returns their ids. `owner` is the declaring stage, `None` for `[matrix]`.
    pub(super) fn declare(
        &mut self,
        table: &Table,
        owner: Option<StageId>,
        diagnostics: &mut Diagnostics,
    ) -> Vec<AxisId> {
        let first = self.axes.len();
        for entry in &table.0 {
            let reserved = is_setting(entry);
            if reserved && owner.is_some() {
                let message = format!("a stage's `matrix` can't have `{}`", entry.name);
                diagnostics.error(&entry.name_origin, message).help("only [matrix] can");
            }
            if !reserved && check_name("an axis", &entry.name, &entry.name_origin, diagnostics) {
                let (name, origin) = (entry.name.clone(), entry.name_origin.clone());
                let Values { values, together, asked } = values(&entry.name, &entry.node, diagnostics);
                self.axes.push(Axis { name, origin, owner, values, together, asked });
            }
        }
        check_together(&self.axes[first..], diagnostics);
        AxisId::first(self.axes.len()).skip(first).collect()
    }

    /// All combinations of the values of some axes (ascending), the last axis fastest.
    ///
    /// # Errors
    /// If there are more than `limit`.
    pub(super) fn combinations(&self, axes: &[AxisId]) -> Result<Vec<Vec<u32>>, TooMany> {
        self.product(axes, self.limit)
    }

    fn product(&self, axes: &[AxisId], limit: usize) -> Result<Vec<Vec<u32>>, TooMany> {
        let factors = self.factors(axes);
        let sizes = || factors.iter().map(|f| f.tuples.len() as u128);
        let count = sizes().fold(1u128, u128::saturating_mul);
        if count > limit as u128 {
            let sizes: Vec<String> = sizes().filter(|n| *n > 1).map(grouped).collect();
            let total = grouped(count);
            let product = if sizes.len() > 1 { format!("{} = {total}", sizes.join(" × ")) } else { total };
            return Err(TooMany { product, count, limit });
        }
        let mut rows = vec![vec![0; axes.len()]];
        for Factor { positions, tuples } in &factors {
            let with = |row: &Vec<u32>, tuple: &Vec<u32>| {
                let mut row = row.clone();
                positions.iter().zip(tuple).for_each(|(position, value)| row[*position] = *value);
                row
            };
            rows = rows.iter().flat_map(|row| tuples.iter().map(move |tuple| with(row, tuple))).collect();
        }
        Ok(rows)
    }

    fn factors(&self, axes: &[AxisId]) -> Vec<Factor> {
        let mut factors = Vec::new();
        let mut done = 0;
        if let Some(all) = &self.rows {
            done = axes.partition_point(|a| a.index() < self.shared);
            let tuples = all.iter().map(|row| axes[..done].iter().map(|a| row[a.index()]).collect()).collect();
            factors.push(Factor { positions: (0..done).collect(), tuples: self.distinct(tuples) });
        }
        let mut groups: BTreeMap<(Option<StageId>, &str), usize> = BTreeMap::new();
        for (position, axis) in axes.iter().map(|a| self.axis(*a)).enumerate().skip(done) {
            let Some(together) = &axis.together else {
                let tuples = (0..axis.values.len() as u32).map(|v| vec![v]).collect();
                factors.push(Factor { positions: vec![position], tuples });
                continue;
            };
            let factor = *groups.entry((axis.owner, &together.name)).or_insert_with(|| {
                factors.push(Factor { positions: vec![], tuples: vec![vec![]; together.draws.len()] });
                factors.len() - 1
            });
            let Factor { positions, tuples } = &mut factors[factor];
            positions.push(position);
            // An axis with an error has no draws. Then the whole group has no combinations.
            tuples.truncate(together.draws.len());
            tuples.iter_mut().zip(&together.draws).for_each(|(tuple, value)| tuple.push(*value));
        }
        for factor in groups.into_values() {
            first_of_each(&mut factors[factor].tuples);
        }
        factors
    }

    /// Removes duplicate combinations and sorts the rest by their values. With draws, keeps the order in which they are
    /// drawn, so that additional samples come last.
    fn distinct(&self, mut rows: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
        if self.axes[..self.shared].iter().any(|a| a.together.is_some()) {
            first_of_each(&mut rows);
        } else {
            rows.sort_unstable();
            rows.dedup();
        }
        rows
    }

    /// The `[matrix]` axis with this name.
    pub(super) fn shared_axis(&self, name: &str) -> Option<AxisId> {
        self.axes.iter().take(self.shared).position(|a| a.name == name).map(AxisId::new)
    }

    /// Warnings about ranges and samples that give fewer different values, or combinations, than they ask for.
    pub(super) fn warnings(&self) -> Vec<Diagnostic> {
        let mut groups: BTreeMap<(Option<StageId>, &str), Vec<&Axis>> = BTreeMap::new();
        let mut warnings = Diagnostics::default();
        for axis in &self.axes {
            match &axis.together {
                Some(together) => groups.entry((axis.owner, &together.name)).or_default().push(axis),
                None => {
                    warn_of_few(&format!("axis `{}` has", axis.name), "value", axis.values.len(), axis, &mut warnings)
                }
            }
        }
        for axes in groups.values() {
            let draws = |at| axes.iter().map(|axis| axis.together.as_ref()?.draws.get(at).copied()).collect();
            let tuples: BTreeSet<Option<Vec<u32>>> =
                (0..axes[0].asked.as_ref().map_or(0, |a| a.count)).map(draws).collect();
            let names: Vec<String> = axes.iter().map(|axis| format!("`{}`", axis.name)).collect();
            let (subject, noun) = match names.as_slice() {
                [only] => (format!("axis {only} has"), "value"),
                several => (format!("the axes {} have", several.join(", ")), "combination"),
            };
            warn_of_few(&subject, noun, tuples.len(), axes[0], &mut warnings);
        }
        warnings.0
    }

    fn exclude(&self, node: &Node, rows: &mut Vec<Vec<u32>>, diagnostics: &mut Diagnostics) {
        let Some(table) = as_table(node, "exclude", diagnostics) else { return };
        let mut wanted = Vec::new();
        for entry in &table.0 {
            let Some(axis) = self.axis_of(&entry.name, &entry.name_origin, diagnostics) else { return };
            let Some(value) = self.axis(axis).find_data(&entry.node.data) else {
                return report_no_value(self.axis(axis), &entry.node, diagnostics);
            };
            wanted.push((axis, value as u32));
        }
        let before = rows.len();
        rows.retain(|row| wanted.is_empty() || wanted.iter().any(|(axis, value)| row[axis.index()] != *value));
        if rows.len() == before {
            diagnostics.error(&node.origin, "this excludes no combination");
        } else if rows.is_empty() {
            diagnostics.error(&node.origin, "this excludes all remaining combinations");
        }
    }

    fn include(&mut self, node: &Node, rows: &mut Vec<Vec<u32>>, diagnostics: &mut Diagnostics) {
        let Some(table) = as_table(node, "include", diagnostics) else { return };
        let mut row = BTreeMap::new();
        for entry in &table.0 {
            let Some(axis) = self.axis_of(&entry.name, &entry.name_origin, diagnostics) else { return };
            if let Some(value) = self.axis(axis).find_data(&entry.node.data) {
                row.insert(axis, value as u32);
                continue;
            }
            if self.axis(axis).values.iter().any(AxisValue::has_label) {
                return report_no_value(self.axis(axis), &entry.node, diagnostics);
            }
            let Some(text) = value_text(&entry.node, diagnostics) else { return };
            let values = &mut self.axes[axis.index()].values;
            let alike = values.iter().find(|v| v.text.to_lowercase() == text.to_lowercase());
            if let Some(alike) = alike {
                let message = format!("{text:?} and {:?} differ only in case", alike.text);
                diagnostics.error(&entry.node.origin, message);
                return;
            }
            values.push(AxisValue { node: entry.node.clone(), name: None, text });
            row.insert(axis, values.len() as u32 - 1);
        }
        let missing: Vec<&str> =
            AxisId::first(self.shared).filter(|a| !row.contains_key(a)).map(|a| self.axis(a).name.as_str()).collect();
        if missing.is_empty() {
            rows.push(row.into_values().collect());
        } else {
            let help = format!("add {}", missing.join(", "));
            diagnostics.error(&node.origin, "an included combination needs a value for every axis").help(help);
        }
    }

    fn axis_of(&self, name: &str, place: &Origin, diagnostics: &mut Diagnostics) -> Option<AxisId> {
        let found = self.shared_axis(name);
        if found.is_none() {
            let known = self.axes.iter().take(self.shared).map(|a| a.name.as_str());
            suggest(diagnostics, place, format!("[matrix] has no axis `{name}`"), name, known);
        }
        found
    }
}

fn report_no_value(axis: &Axis, node: &Node, diagnostics: &mut Diagnostics) {
    let message = format!("axis `{}` has no value {}", axis.name, node.data.value());
    let known = axis.values.iter().map(|v| v.text.as_str());
    suggest(diagnostics, &node.origin, message, &node.data.as_text().unwrap_or_default(), known);
}

/// Adds a warning if there are fewer values than the axis asks for.
fn warn_of_few(subject: &str, noun: &str, count: usize, axis: &Axis, warnings: &mut Diagnostics) {
    let Some(Asked { count: asked, field, origin }) = axis.asked.as_ref().filter(|asked| count < asked.count) else {
        return;
    };
    let plural = if count == 1 { "" } else { "s" };
    let (few, many) = (grouped(count as u128), grouped(*asked as u128));
    let message = format!("{subject} only {few} different {noun}{plural}, but `{field}` asks for {many}");
    let help = match *field {
        "steps" => "steps that round to the same value count once".to_owned(),
        _ => format!("a {noun} that is drawn again counts once"),
    };
    warnings.error(origin, message).help(help);
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
            diagnostics.error(&node.origin, format!("`{name}` holds an empty table"));
            None
        }
        other => {
            let message = format!("`{name}` must hold tables such as {{ axis = value }}, not {}", other.describe());
            let error = diagnostics.error(&node.origin, message);
            if name == INCLUDE {
                error.help("to include a file, write `include` above the first table of this file");
            }
            None
        }
    }
}

/// Whether an entry of a matrix is a setting and not an axis.
fn is_setting(entry: &Entry) -> bool {
    match entry.name.as_str() {
        "include" | "exclude" => true,
        "limit" | "prune" => !matches!(entry.node.data, Data::List(_)),
        _ => false,
    }
}

fn limit(section: &Table, diagnostics: &mut Diagnostics) -> usize {
    let Some(entry) = section.entry("limit").filter(|e| is_setting(e)) else { return LIMIT };
    match entry.node.data {
        Data::Int(limit) if (1..=MAX_POINTS as i64).contains(&limit) => limit as usize,
        ref other => {
            let most = grouped(MAX_POINTS as u128);
            let message = format!("`limit` must be an integer from 1 to {most}, not {}", other.value());
            diagnostics.error(&entry.node.origin, message).help("`limit` is the largest number of points of a stage");
            LIMIT
        }
    }
}

fn first_of_each(rows: &mut Vec<Vec<u32>>) {
    let mut seen = HashSet::new();
    rows.retain(|row| seen.insert(row.clone()));
}

/// Formats 24000 as `24,000`.
pub(super) fn grouped(n: u128) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
