//! Which axes each stage has, and which combinations of them: worked out in dependency order.
//!
//! axes(stage) = declared by it ∪ mentioned by it ∪ those of its inputs that are neither fixed nor gathered. A name
//! means one axis within a stage: redeclaring one that flows in, or joining two of one name, is an error.

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
    /// Its axes, ascending: the order in names.
    pub(super) axes: Vec<AxisId>,
    /// Those that its parameters depend on: the positions in `axes` of what they mention and what its `at` match on.
    pub(super) relevant: Vec<usize>,
    /// The combinations: for each of `axes` the index of a value.
    pub(super) rows: Vec<Vec<u32>>,
    /// Something about its axes is wrong and reported.
    pub(super) tainted: bool,
}

impl Shape {
    /// The position of an axis of this name.
    pub(super) fn position(&self, name: &str, matrix: &Matrix) -> Option<usize> {
        self.axes.iter().position(|a| matrix.axis(*a).name == name)
    }
}

/// The shapes of all stages. Rings of stages are reported; their members are then looked at as if they did not read
/// each other.
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
    // Components come in an order in which what is read stands before what reads it.
    for mut ring in kosaraju_scc(&graph) {
        ring.sort_unstable();
        let members: Vec<StageId> = ring.into_iter().map(|n| StageId::new(n.index())).collect();
        if members.len() > 1 {
            report_ring(&members, drafts, diagnostics);
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

/// Names the members of a ring in the order in which they read each other, and points at one of the inputs.
fn report_ring(members: &[StageId], drafts: &[Draft<'_>], diagnostics: &mut Diagnostics) {
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
    error.help("a stage can't need its own result; take one of these inputs away");
}

/// A stage's axes while they are gathered.
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

    /// Takes in the axes of an input that are neither fixed nor gathered.
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

    /// The axis that a mention means: one that is here already, or else one of `[matrix]`, which thereby comes in.
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
            let help = format!("stage `{owner}` declares one; it comes with an input that is not gathered over it");
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
            format!("if that is meant: `limit = {count}` in [matrix], or `-S matrix.limit={count}`")
        } else {
            format!("take values away: {} are the most that a limit allows", grouped(most))
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
            let message = format!("stage `{stage}` declares axis `{name}`, which also comes in with `{from}`");
            (message, &self.matrix.axis(first).origin)
        } else {
            let (first, second) = (declared(first), declared(second));
            (format!("two axes `{name}` meet in stage `{stage}`: of {first} and of {second}"), &member.origin)
        };
        let fixed = PointName::write(from, std::iter::once((name.as_str(), "…")));
        let help = format!("give one another name, or fix it in the input: `{fixed}`");
        diagnostics.error(place, message).help(help);
    }
}

/// Refuses axes of `[matrix]` that no stage has: what they were to vary does not vary.
pub(super) fn check_use(shapes: &[Shape], matrix: &Matrix, diagnostics: &mut Diagnostics) {
    let used: BTreeSet<AxisId> = shapes.iter().flat_map(|s| s.axes.iter().copied()).collect();
    for axis in AxisId::first(matrix.shared).filter(|a| !used.contains(a)).map(|a| matrix.axis(a)) {
        let help = format!("write `${{matrix.{}}}` where a stage is to vary with it, or take the axis away", axis.name);
        diagnostics.error(&axis.origin, format!("no stage mentions the axis `{}`", axis.name)).help(help);
    }
}

/// The axes of an input that flow on, ascending.
pub(super) fn flowing(member: &Member, shape: &Shape, matrix: &Matrix) -> Vec<AxisId> {
    if member.all {
        return vec![];
    }
    let picked = |axis: &AxisId| member.picks.iter().any(|(name, _)| *name == matrix.axis(*axis).name);
    shape.axes.iter().filter(|a| !picked(a)).copied().collect()
}
