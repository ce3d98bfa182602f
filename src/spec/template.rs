//! References in strings: `${params.x}`, `${matrix.axis}` and `${pipeline.seed}`. `$${` is a literal `${`. More names
//! reach into tables: `${params.model.width}`, `${matrix.model.width}`.
//!
//! A string that is only a reference is replaced by the value, which keeps its type and its place, so that an error
//! about it quotes where the value is written. In a longer string the value is inserted as text. Inserted text is not
//! scanned again, so a value can't bring in further references. Parameters may refer to parameters in any order, but
//! not in a cycle.

use std::borrow::Cow;
use std::collections::BTreeMap;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::axis::AxisValue;
use super::errors::suggest;
use crate::diagnostic::{Diagnostics, Origin, Sources};
use crate::value::{Data, Entry, Node, Table};

/// The largest total size of replacements, in bytes and nodes. Without a limit, parameters that double each other would
/// exhaust the memory.
const MAX_GROWTH: usize = 16_000_000;

/// A piece of a string.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// Literal text.
    Literal(&'a str),
    /// `${…}`: with the braces, and without.
    Reference { whole: &'a str, inner: &'a str },
    /// A `${` that is not closed, with the rest of the string.
    Open(&'a str),
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            found.extend([Piece::Literal(literal), Piece::Literal("${")]);
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        found.push(Piece::Literal(before));
        let Some(end) = from.find('}') else {
            found.push(Piece::Open(from));
            return found;
        };
        let whole = from.get(..=end).unwrap_or_default();
        found.push(Piece::Reference { whole, inner: from.get(2..end).unwrap_or_default().trim() });
        rest = from.get(end + 1..).unwrap_or_default();
    }
    found.push(Piece::Literal(rest));
    found.retain(|p| *p != Piece::Literal(""));
    found
}

/// The target of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target<'a> {
    /// A parameter, or a value inside one: `model.size`.
    Param(&'a str),
    /// An axis, or a value inside one of its values.
    Axis(&'a str),
    /// The seed of the pipeline.
    Seed,
}

/// The first name of a path, and the others.
fn first(path: &str) -> (&str, std::str::Split<'_, char>) {
    let mut names = path.split('.');
    (names.next().unwrap_or_default(), names)
}

fn target(inner: &str) -> Option<Target<'_>> {
    match inner.split_once('.')? {
        ("params", path) => Some(Target::Param(path)),
        ("matrix", path) => Some(Target::Axis(path)),
        ("pipeline", "seed") => Some(Target::Seed),
        _ => None,
    }
}

/// Calls `found` for every axis that a node uses.
pub(super) fn mentions(node: &Node, sources: &Sources, found: &mut impl FnMut(&str, Origin)) {
    references(node, &mut |node, whole, target| {
        if let Target::Axis(path) = target {
            found(first(path).0, part_of(sources, &node.origin, whole));
        }
    });
}

fn references(node: &Node, found: &mut impl FnMut(&Node, &str, Target<'_>)) {
    match &node.data {
        Data::Text(text) if text.contains("${") => {
            for piece in pieces(text) {
                if let Piece::Reference { whole, inner } = piece
                    && let Some(target) = target(inner)
                {
                    found(node, whole, target);
                }
            }
        }
        Data::List(items) => items.iter().for_each(|i| references(i, found)),
        Data::Table(table) => table.0.iter().for_each(|e| references(&e.node, found)),
        _ => {}
    }
}

/// The place of a part of a string, if the source contains it verbatim. Otherwise the place of the whole string.
pub(super) fn part_of(sources: &Sources, origin: &Origin, part: &str) -> Origin {
    let written = sources.0.get(origin.source).and_then(|s| s.text.get(origin.span.clone()));
    match written.and_then(|w| w.find(part)) {
        Some(at) if !part.is_empty() => {
            let start = origin.span.start + at;
            Origin { source: origin.source, span: start..start + part.len() }
        }
        _ => origin.clone(),
    }
}

/// The values that references can use.
pub(super) struct Scope<'a> {
    /// Resolved parameters by name.
    pub(super) params: &'a BTreeMap<String, Node>,
    /// All texts, for exact places.
    pub(super) sources: &'a Sources,
    /// The values of the axes. `None` where axes can't be used.
    pub(super) axes: Option<&'a BTreeMap<&'a str, &'a AxisValue>>,
    /// The seed of the pipeline. `None` where it can't be used.
    pub(super) seed: Option<&'a Node>,
    /// The size that replacements may still add.
    pub(super) budget: usize,
}

impl<'a> Scope<'a> {
    /// A scope in which only parameters can be used.
    pub(super) fn of_params(params: &'a BTreeMap<String, Node>, sources: &'a Sources) -> Self {
        Self { params, sources, axes: None, seed: None, budget: MAX_GROWTH }
    }

    /// The node with all references replaced. `None` after an error.
    pub(super) fn fill(&mut self, node: &Node, diagnostics: &mut Diagnostics) -> Option<Node> {
        let data = match &node.data {
            Data::Text(text) if text.contains("${") => return self.fill_text(node, text, diagnostics),
            Data::List(items) => {
                let filled: Vec<Option<Node>> = items.iter().map(|i| self.fill(i, diagnostics)).collect();
                Data::List(filled.into_iter().collect::<Option<_>>()?)
            }
            Data::Table(table) => Data::Table(self.fill_table(table, diagnostics)?),
            other => other.clone(),
        };
        Some(Node { data, origin: node.origin.clone() })
    }

    /// A table with all references replaced. `None` after an error.
    pub(super) fn fill_table(&mut self, table: &Table, diagnostics: &mut Diagnostics) -> Option<Table> {
        let filled: Vec<Option<Entry>> = table
            .0
            .iter()
            .map(|e| {
                let node = self.fill(&e.node, diagnostics)?;
                Some(Entry { name: e.name.clone(), name_origin: e.name_origin.clone(), node })
            })
            .collect();
        Some(Table(filled.into_iter().collect::<Option<_>>()?))
    }

    fn fill_text(&mut self, node: &Node, text: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
        let pieces = pieces(text);
        if let [Piece::Reference { whole, inner }] = pieces.as_slice() {
            let place = part_of(self.sources, &node.origin, whole);
            let value = self.look_up(inner, &place, diagnostics)?;
            self.spend(size(value), &place, diagnostics)?;
            return Some(value.clone());
        }
        let parts: Vec<Option<Cow<'_, str>>> =
            pieces.into_iter().map(|p| self.part(p, &node.origin, diagnostics)).collect();
        let filled = parts.into_iter().collect::<Option<String>>()?;
        Some(Node { data: Data::Text(filled), origin: node.origin.clone() })
    }

    /// The text of a piece of a longer string.
    fn part<'t>(&mut self, piece: Piece<'t>, origin: &Origin, diagnostics: &mut Diagnostics) -> Option<Cow<'t, str>> {
        match piece {
            Piece::Literal(literal) => Some(Cow::Borrowed(literal)),
            Piece::Open(rest) => {
                let place = part_of(self.sources, origin, rest);
                diagnostics.error(&place, "this `${` is not closed").help("write `$${` for a literal `${`");
                None
            }
            Piece::Reference { whole, inner } => {
                let place = part_of(self.sources, origin, whole);
                let value = self.look_up(inner, &place, diagnostics)?;
                let Some(text) = value.data.as_text() else {
                    let what = value.data.describe();
                    let message = format!("`{whole}` is {what}, which can't be part of a longer string");
                    let error = diagnostics.error(&place, message);
                    if let Data::Table(Table(fields)) = &value.data
                        && let Some(field) = fields.first()
                    {
                        error.help(format!("use one of its fields, such as `${{{inner}.{}}}`", field.name));
                    }
                    return None;
                };
                self.spend(text.len(), &place, diagnostics)?;
                Some(Cow::Owned(text))
            }
        }
    }

    fn spend(&mut self, size: usize, place: &Origin, diagnostics: &mut Diagnostics) -> Option<()> {
        if let Some(left) = self.budget.checked_sub(size) {
            self.budget = left;
            return Some(());
        }
        diagnostics.error(place, "the references up to here expand to more than 16 MB");
        None
    }

    fn look_up(&self, inner: &str, place: &Origin, diagnostics: &mut Diagnostics) -> Option<&'a Node> {
        match target(inner) {
            Some(Target::Param(path)) => self.param(path, place, diagnostics),
            Some(Target::Axis(path)) => match self.axes {
                Some(axes) => axis_value(axes, path, place, diagnostics),
                None => {
                    let help = "only a stage's parameters and `seed` can use an axis";
                    diagnostics.error(place, "an axis can't be used here").help(help);
                    None
                }
            },
            Some(Target::Seed) => {
                if self.seed.is_none() {
                    let help = "only a stage's parameters can use it";
                    diagnostics.error(place, "the seed of the pipeline can't be used here").help(help);
                }
                self.seed
            }
            None => {
                let help = "use `${params.x}`, `${matrix.axis}` or `${pipeline.seed}`; write `$${` for a literal `${`";
                diagnostics.error(place, format!("`{inner}` is not a valid reference")).help(help);
                None
            }
        }
    }

    fn param(&self, path: &str, place: &Origin, diagnostics: &mut Diagnostics) -> Option<&'a Node> {
        let (name, rest) = first(path);
        let Some(node) = self.params.get(name) else {
            let error = format!("[params] has no parameter `{name}`");
            suggest(diagnostics, place, error, name, self.params.keys().map(String::as_str));
            return None;
        };
        inside(node, path, rest, place, diagnostics)
    }
}

/// The value of an axis, or a value inside it. `name` is the name of a table.
fn axis_value<'a>(
    axes: &BTreeMap<&str, &'a AxisValue>,
    path: &str,
    place: &Origin,
    diagnostics: &mut Diagnostics,
) -> Option<&'a Node> {
    let (axis, rest) = first(path);
    // A missing axis was reported when the stage's axes were found.
    let value = axes.get(axis)?;
    match &value.name {
        Some(name) if rest.clone().eq(["name"]) => Some(name),
        _ => inside(&value.node, path, rest, place, diagnostics),
    }
}

/// The value inside a node that `names` lead to. `path` is the whole path, for messages.
fn inside<'a, 'n>(
    mut node: &'a Node,
    path: &str,
    names: impl Iterator<Item = &'n str>,
    place: &Origin,
    diagnostics: &mut Diagnostics,
) -> Option<&'a Node> {
    for name in names {
        let Data::Table(table) = &node.data else {
            diagnostics.error(place, format!("`{path}`: {} has no `{name}`", node.data.describe()));
            return None;
        };
        let Some(next) = table.get(name) else {
            let error = format!("there is no `{name}` in `{path}`");
            suggest(diagnostics, place, error, name, table.0.iter().map(|e| e.name.as_str()));
            return None;
        };
        node = next;
    }
    Some(node)
}

fn size(node: &Node) -> usize {
    16 + match &node.data {
        Data::Text(text) => text.len(),
        Data::List(items) => items.iter().map(size).sum(),
        Data::Table(table) => table.0.iter().map(|e| e.name.len() + size(&e.node)).sum(),
        _ => 0,
    }
}

/// The `[params]` section with all references between parameters replaced.
pub(super) fn params(section: &Table, sources: &Sources, diagnostics: &mut Diagnostics) -> BTreeMap<String, Node> {
    let index: BTreeMap<&str, usize> = section.0.iter().enumerate().map(|(i, e)| (e.name.as_str(), i)).collect();
    let mut graph: DiGraph<(), ()> = DiGraph::new();
    for _ in &section.0 {
        graph.add_node(());
    }
    for (from, entry) in section.0.iter().enumerate() {
        references(&entry.node, &mut |_, _, target| {
            if let Target::Param(path) = target
                && let Some(to) = index.get(first(path).0)
            {
                graph.add_edge(NodeIndex::new(from), NodeIndex::new(*to), ());
            }
        });
    }
    let mut resolved = BTreeMap::new();
    let mut broken: Vec<bool> = vec![false; section.0.len()];
    let mut budget = MAX_GROWTH;
    // Components are ordered so that a parameter comes after those that it refers to.
    for mut cycle in kosaraju_scc(&graph) {
        cycle.sort_unstable();
        let first = cycle[0];
        let entry = &section.0[first.index()];
        if cycle.len() > 1 || graph.contains_edge(first, first) {
            let members: Vec<&str> = cycle.iter().map(|n| section.0[n.index()].name.as_str()).collect();
            let message = format!("parameters refer to each other in a cycle: {}", members.join(", "));
            diagnostics.error(&entry.node.origin, message);
            cycle.iter().for_each(|n| broken[n.index()] = true);
            continue;
        }
        if graph.neighbors(first).any(|n| broken[n.index()]) {
            broken[first.index()] = true;
            continue;
        }
        let mut scope = Scope { budget, ..Scope::of_params(&resolved, sources) };
        let filled = scope.fill(&entry.node, diagnostics);
        budget = scope.budget;
        match filled {
            Some(node) => drop(resolved.insert(entry.name.clone(), node)),
            None => broken[first.index()] = true,
        }
    }
    // Keep broken parameters unresolved, so that references to them are not reported as unknown.
    for (entry, _) in section.0.iter().zip(&broken).filter(|(_, b)| **b) {
        resolved.insert(entry.name.clone(), Node { data: entry.node.data.clone(), origin: entry.node.origin.clone() });
    }
    resolved
}
