//! Finds the axes of each stage, and their combinations, in dependency order.
//!
//! axes(stage) = the axes it declares ∪ the axes it uses ∪ the axes of its inputs that are neither fixed nor gathered.
//! The axes of a stage have distinct names: two axes with the same name, declared or from inputs, are an error.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::axis::MAX_POINTS;
use super::errors::suggest;
use super::matrix::{Matrix, TooMany, grouped};
use super::stages::{Draft, Member, Pick};
use crate::diagnostic::{Diagnostics, Origin};
use crate::id::{AxisId, PointName, StageId};

/// A stage's axes and combinations.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// Its axes, ascending. This is their order in point names.
    pub(super) axes: Vec<AxisId>,
    /// The positions in `axes` of those that its parameters depend on, because they use them or an `at` matches on
    /// them.
    pub(super) relevant: Vec<usize>,
    /// The combinations. Each holds the index of a value for each of `axes`.
    pub(super) rows: Vec<Vec<u32>>,
    /// An error in its axes was reported.
    pub(super) tainted: bool,
}

impl Shape {
    /// The position of the axis with this name.
    pub(super) fn position(&self, name: &str, matrix: &Matrix) -> Option<usize> {
        self.axes.iter().position(|a| matrix.axis(*a).name == name)
    }
}

/// The shapes of all stages. Reports stages that depend on each other in a cycle, and then treats them as if they did
/// not read each other.
pub(super) fn shapes(drafts: &[Draft<'_>], matrix: &Matrix, diagnostics: &mut Diagnostics) -> Vec<Shape> {
    let mut graph: DiGraph<(), ()> = DiGraph::with_capacity(drafts.len(), drafts.len());
    for _ in drafts {
        graph.add_node(());
    }
    for (reader, draft) in drafts.iter().enumerate() {
        for member in draft.inputs.iter().flat_map(|i| &i.members) {
            graph.add_edge(NodeIndex::new(reader), NodeIndex::new(member.stage.index()), ());
        }
    }
    let mut shapes: Vec<Shape> = Vec::new();
    shapes.resize_with(drafts.len(), Shape::default);
    // Components are ordered so that a stage comes after its inputs.
    for mut cycle in kosaraju_scc(&graph) {
        cycle.sort_unstable();
        let members: Vec<StageId> = cycle.into_iter().map(|n| StageId::new(n.index())).collect();
        if members.len() > 1 {
            report_cycle(&members, drafts, diagnostics);
            members.iter().for_each(|m| shapes[m.index()].tainted = true);
        }
        for stage in members {
            let tainted = shapes[stage.index()].tainted || drafts[stage.index()].tainted;
            shapes[stage.index()] =
                Join { matrix, drafts, shapes: &shapes, stage, found: BTreeMap::new() }.shape(tainted, diagnostics);
        }
    }
    shapes
}

/// Reports a cycle. Names its members in the order in which they read each other, and quotes one of the inputs.
fn report_cycle(members: &[StageId], drafts: &[Draft<'_>], diagnostics: &mut Diagnostics) {
    let next = |stage: StageId| {
        let inputs = drafts[stage.index()].inputs.iter().flat_map(|i| &i.members);
        inputs.filter(|m| members.binary_search(&m.stage).is_ok()).map(|m| (m.stage, &m.origin)).next()
    };
    let mut walk = vec![members[0]];
    let mut place = drafts[members[0].index()].origin;
    while let Some((stage, origin)) = walk.last().and_then(|last| next(*last)) {
        place = if walk.len() == 1 { origin } else { place };
        if walk.contains(&stage) || walk.len() > 20 {
            break;
        }
        walk.push(stage);
    }
    let mut names: Vec<&str> = members.iter().map(|m| drafts[m.index()].name).collect();
    if walk.len() == members.len() {
        names = walk.iter().chain(&walk[..1]).map(|m| drafts[m.index()].name).collect();
    }
    let joined = names.join(if walk.len() == members.len() { " → " } else { ", " });
    let error = diagnostics.error(place, format!("these stages depend on each other: {joined}"));
    error.help("a stage can't depend on itself; remove one of these inputs");
}

/// Collects the axes of a stage.
struct Join<'a, 'b> {
    matrix: &'a Matrix,
    drafts: &'a [Draft<'b>],
    shapes: &'a [Shape],
    stage: StageId,
    /// Axis by name.
    found: BTreeMap<&'a str, AxisId>,
}

impl<'a> Join<'a, '_> {
    fn shape(mut self, mut tainted: bool, diagnostics: &mut Diagnostics) -> Shape {
        let before = diagnostics.0.len();
        let draft = &self.drafts[self.stage.index()];
        for axis in &draft.own_axes {
            self.found.insert(&self.matrix.axis(*axis).name, *axis);
        }
        for member in draft.inputs.iter().flat_map(|i| &i.members) {
            tainted |= self.shapes[member.stage.index()].tainted;
            self.flow_in(member, diagnostics);
        }
        tainted |= diagnostics.0.len() > before;
        let mut relevant: Vec<AxisId> = Vec::new();
        for (name, place) in &draft.mentions {
            match self.mention(name) {
                Some(axis) => relevant.push(axis),
                None if tainted => {}
                None => self.report_mention(name, place, diagnostics),
            }
        }
        for (name, place) in draft.at.iter().flat_map(|at| at.coordinates.iter().map(|c| (&c.0, at.origin))) {
            match self.found.get(name.as_str()) {
                Some(axis) => relevant.push(*axis),
                None if tainted => {}
                None => self.report_no_axis(self.stage, name, place, diagnostics),
            }
        }
        tainted |= diagnostics.0.len() > before;
        let mut axes: Vec<AxisId> = self.found.values().copied().collect();
        axes.sort_unstable();
        // The error of an axis without values was reported where it is declared.
        tainted |= axes.iter().any(|axis| self.matrix.axis(*axis).values.is_empty());
        relevant.sort_unstable();
        relevant.dedup();
        let relevant = relevant.iter().filter_map(|a| axes.binary_search(a).ok()).collect();
        let rows = self.matrix.combinations(&axes).unwrap_or_else(|many| {
            self.report_too_many(&axes, &many, diagnostics);
            tainted = true;
            vec![]
        });
        Shape { axes, relevant, rows, tainted }
    }

    /// Adds the axes of an input that are neither fixed nor gathered.
    fn flow_in(&mut self, member: &Member, diagnostics: &mut Diagnostics) {
        let shape = &self.shapes[member.stage.index()];
        let matrix = self.matrix;
        for (name, pick) in &member.picks {
            let Some(position) = shape.position(name, matrix) else {
                if !shape.tainted {
                    self.report_no_axis(member.stage, name, &member.origin, diagnostics);
                }
                continue;
            };
            let axis = matrix.axis(shape.axes[position]);
            if let Pick::Value(value) = pick
                && axis.find(value).is_none()
                && !axis.values.is_empty()
            {
                let message = format!("axis `{name}` has no value `{value}`");
                let known = axis.values.iter().map(|v| v.text.as_str());
                suggest(diagnostics, &member.origin, message, value, known);
            }
        }
        for id in flowing(member, shape, matrix) {
            match self.found.insert(&matrix.axis(id).name, id) {
                Some(other) if other != id => self.report_clash(other, id, member, diagnostics),
                _ => {}
            }
        }
    }

    /// The axis with this name: one that the stage has already, or else one of `[matrix]`, which is added.
    fn mention(&mut self, name: &str) -> Option<AxisId> {
        if let Some(axis) = self.found.get(name) {
            return Some(*axis);
        }
        let axis = self.matrix.shared_axis(name)?;
        self.found.insert(&self.matrix.axis(axis).name, axis);
        Some(axis)
    }

    fn report_mention(&self, name: &str, place: &Origin, diagnostics: &mut Diagnostics) {
        let message = format!("stage `{}` has no axis `{name}`", self.drafts[self.stage.index()].name);
        if let Some(elsewhere) = self.matrix.axes.iter().find(|a| a.name == name).and_then(|a| a.owner) {
            let owner = self.drafts[elsewhere.index()].name;
            let help = format!("stage `{owner}` declares it; read that stage without gathering over this axis");
            diagnostics.error(place, message).help(help);
            return;
        }
        let shared = self.matrix.axes[..self.matrix.shared].iter().map(|a| a.name.as_str());
        suggest(diagnostics, place, message, name, self.found.keys().copied().chain(shared));
    }

    fn report_too_many(&self, axes: &[AxisId], many: &TooMany, diagnostics: &mut Diagnostics) {
        let TooMany { product, count, limit } = many;
        let draft = &self.drafts[self.stage.index()];
        let names: Vec<&str> = axes.iter().map(|a| self.matrix.axis(*a).name.as_str()).collect();
        let (names, limit) = (names.join(" × "), grouped(*limit as u128));
        let message = format!("stage `{}` has {product} points ({names}), more than the limit of {limit}", draft.name);
        let most = MAX_POINTS as u128;
        let help = if *count <= most {
            format!("if this is intended, set `limit = {count}` in [matrix] or use `-S matrix.limit={count}`")
        } else {
            format!("remove values: `limit` can be at most {}", grouped(most))
        };
        diagnostics.error(draft.origin, message).help(help);
    }

    fn report_no_axis(&self, stage: StageId, name: &str, place: &Origin, diagnostics: &mut Diagnostics) {
        let message = format!("stage `{}` has no axis `{name}`", self.drafts[stage.index()].name);
        let own: Vec<&str> = if stage == self.stage {
            self.found.keys().copied().collect()
        } else {
            self.shapes[stage.index()].axes.iter().map(|a| self.matrix.axis(*a).name.as_str()).collect()
        };
        suggest(diagnostics, place, message, name, own.into_iter());
    }

    fn report_clash(&self, first: AxisId, second: AxisId, member: &Member, diagnostics: &mut Diagnostics) {
        let name = &self.matrix.axis(first).name;
        let declared = |axis: AxisId| match self.matrix.axis(axis).owner {
            None => "[matrix]".to_owned(),
            Some(stage) => format!("stage `{}`", self.drafts[stage.index()].name),
        };
        let own = self.matrix.axis(first).owner == Some(self.stage);
        let (from, stage) = (self.drafts[member.stage.index()].name, self.drafts[self.stage.index()].name);
        let (message, place) = if own {
            let message =
                format!("stage `{stage}` declares axis `{name}`, but its input `{from}` has an axis of that name");
            (message, &self.matrix.axis(first).origin)
        } else {
            let (first, second) = (declared(first), declared(second));
            (format!("stage `{stage}` would have two axes `{name}`: from {first} and from {second}"), &member.origin)
        };
        let fixed = PointName::write(from, std::iter::once((name.as_str(), "…")));
        let help = format!("rename one of them, or fix it in the input: `{fixed}`");
        diagnostics.error(place, message).help(help);
    }
}

/// Reports axes of `[matrix]` that no stage uses, since they vary nothing.
pub(super) fn check_use(shapes: &[Shape], matrix: &Matrix, diagnostics: &mut Diagnostics) {
    let used: BTreeSet<AxisId> = shapes.iter().flat_map(|s| s.axes.iter().copied()).collect();
    for axis in AxisId::first(matrix.shared).filter(|a| !used.contains(a)).map(|a| matrix.axis(a)) {
        let help = format!("use `${{matrix.{}}}` in a stage, or remove the axis", axis.name);
        diagnostics.error(&axis.origin, format!("no stage uses the axis `{}`", axis.name)).help(help);
    }
}

/// The axes that an input passes on to its reader, ascending.
pub(super) fn flowing(member: &Member, shape: &Shape, matrix: &Matrix) -> Vec<AxisId> {
    if member.all {
        return vec![];
    }
    let picked = |axis: &AxisId| member.picks.iter().any(|(name, _)| *name == matrix.axis(*axis).name);
    shape.axes.iter().filter(|a| !picked(a)).copied().collect()
}
