//! The points of a pipeline as an acyclic graph: which points each one reads, and an order to run them in.
//!
//! [`GraphBuilder`] takes points and edges. [`GraphBuilder::seal`] checks that there is no cycle and returns a
//! [`Graph`], which can't be changed. Every operation is linear in the points and edges that it touches; finding the
//! order takes a logarithmic factor more.
//!
//! The order is topological. Among points that are ready at the same time, the one that comes first in the file comes
//! first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use globset::{GlobBuilder, GlobMatcher};
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::diagnostic::nearest;
use crate::error::Error;
use crate::id::{PointId, PointName};
use crate::spec::Point;

/// What can be wrong with a graph, or with a target.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GraphError {
    /// Points that depend on each other in a cycle.
    #[error("these points depend on each other in a cycle: {}", members.join(", "))]
    Cycle {
        /// Their names, in the order of the file.
        members: Vec<String>,
    },
    /// A target that matches no stage and no point.
    #[error("no stage and no point matches `{target}`")]
    NoTarget {
        /// As given.
        target: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A target that is not a valid glob.
    #[error("`{target}` is not a valid pattern: {why}")]
    BadPattern {
        /// As given.
        target: String,
        /// What is wrong with it.
        why: String,
    },
}

impl From<GraphError> for Error {
    fn from(error: GraphError) -> Self {
        let hint = match &error {
            GraphError::NoTarget { nearest: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            GraphError::NoTarget { nearest: None, .. } => {
                Some("a target is a stage (`vad`), a point (`vad@lr=0.1`) or a glob (`vad@*`)".to_owned())
            }
            _ => None,
        };
        Error { hint, ..Error::bad_input(error.to_string()) }
    }
}

/// Collects the points and edges of a [`Graph`].
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: DiGraph<Node, ()>,
}

#[derive(Debug)]
struct Node {
    name: String,
    stage: String,
}

/// An acyclic graph of points. It can't be changed.
#[derive(Debug)]
pub struct Graph {
    graph: DiGraph<Node, ()>,
    order: Vec<PointId>,
}

impl GraphBuilder {
    /// Adds a point and returns its id: 0, 1, 2, …
    pub fn add(&mut self, name: &str, stage: &str) -> PointId {
        point(self.graph.add_node(Node { name: name.to_owned(), stage: stage.to_owned() }))
    }

    /// Records that `reader` reads the result of `input`. Does nothing unless both points have been added.
    pub fn connect(&mut self, input: PointId, reader: PointId) {
        if input.index().max(reader.index()) < self.graph.node_count() {
            self.graph.add_edge(node(input), node(reader), ());
        }
    }

    /// Finds the order and returns the graph.
    ///
    /// # Errors
    /// If points depend on each other in a cycle.
    pub fn seal(self) -> Result<Graph, GraphError> {
        let graph = self.graph;
        let mut missing: Vec<usize> =
            graph.node_indices().map(|n| graph.neighbors_directed(n, Incoming).count()).collect();
        let mut ready: BinaryHeap<Reverse<NodeIndex>> =
            graph.node_indices().filter(|n| missing[n.index()] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(graph.node_count());
        while let Some(Reverse(next)) = ready.pop() {
            order.push(point(next));
            for reader in graph.neighbors_directed(next, Outgoing) {
                missing[reader.index()] -= 1;
                if missing[reader.index()] == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
        if order.len() < graph.node_count() {
            return Err(GraphError::Cycle { members: first_cycle(&graph) });
        }
        Ok(Graph { graph, order })
    }
}

fn node(point: PointId) -> NodeIndex {
    NodeIndex::new(point.index())
}

fn point(node: NodeIndex) -> PointId {
    PointId::new(node.index())
}

/// The names of the points in the first cycle, in the order of the file.
fn first_cycle(graph: &DiGraph<Node, ()>) -> Vec<String> {
    let mut cycles = kosaraju_scc(graph);
    cycles.retain(|c| c.len() > 1 || c.iter().any(|n| graph.contains_edge(*n, *n)));
    for cycle in &mut cycles {
        cycle.sort_unstable();
    }
    cycles.sort_unstable();
    let first = cycles.into_iter().next().unwrap_or_default();
    first.into_iter().map(|n| graph[n].name.clone()).collect()
}

impl Graph {
    /// The graph of these points.
    ///
    /// # Errors
    /// If points depend on each other in a cycle. Points that [`crate::spec::load`] returns never do.
    pub fn of(points: &[Point]) -> Result<Self, GraphError> {
        let mut builder = GraphBuilder::default();
        for point in points {
            builder.add(&point.name, &point.stage);
        }
        for (reader, point) in PointId::first(points.len()).zip(points) {
            let inputs: BTreeSet<PointId> = point.inputs.values().flat_map(|i| i.points()).copied().collect();
            for input in inputs {
                builder.connect(input, reader);
            }
        }
        builder.seal()
    }

    /// The number of points.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A point's name.
    pub fn name(&self, point: PointId) -> &str {
        &self.graph[node(point)].name
    }

    /// All points, each after the points that it reads. Ties are in the order of the file. This is the order of every
    /// plan.
    pub fn order(&self) -> &[PointId] {
        &self.order
    }

    /// The points that this one reads, ascending, without duplicates.
    pub fn inputs(&self, point: PointId) -> Vec<PointId> {
        self.neighbours(point, Incoming)
    }

    /// The points that read this one, ascending, without duplicates.
    pub fn dependents(&self, point: PointId) -> Vec<PointId> {
        self.neighbours(point, Outgoing)
    }

    fn neighbours(&self, of: PointId, direction: petgraph::Direction) -> Vec<PointId> {
        let mut found: Vec<PointId> = self.graph.neighbors_directed(node(of), direction).map(point).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// These points and everything that depends on them, directly or indirectly.
    pub fn downstream(&self, points: impl IntoIterator<Item = PointId>) -> BTreeSet<PointId> {
        self.reach(points, Outgoing)
    }

    /// These points and everything that they depend on, directly or indirectly.
    pub fn upstream(&self, points: impl IntoIterator<Item = PointId>) -> BTreeSet<PointId> {
        self.reach(points, Incoming)
    }

    fn reach(&self, points: impl IntoIterator<Item = PointId>, direction: petgraph::Direction) -> BTreeSet<PointId> {
        let mut seen = vec![false; self.len()];
        let mut open: Vec<NodeIndex> = points.into_iter().map(node).collect();
        while let Some(next) = open.pop() {
            if !std::mem::replace(&mut seen[next.index()], true) {
                open.extend(self.graph.neighbors_directed(next, direction).filter(|n| !seen[n.index()]));
            }
        }
        PointId::first(seen.len()).filter(|p| seen[p.index()]).collect()
    }

    /// The points that the targets match, without the points that they depend on. A target is a stage (all its
    /// points), a point, some of the coordinates of points (`fit@lr=0.1` where `fit` has more axes), or a glob.
    /// `vad@*` matches all points of `vad`, even if `vad` has no axes. Without targets, all points match.
    ///
    /// # Errors
    /// If a target matches nothing or is not a valid glob.
    pub fn targets(&self, targets: &[String]) -> Result<BTreeSet<PointId>, GraphError> {
        let points = self.graph.node_weights().map(|node| (node.name.as_str(), node.stage.as_str()));
        Ok(matching(points, targets)?.into_iter().map(PointId::new).collect())
    }

    /// The points that the targets match, and everything that they depend on.
    ///
    /// # Errors
    /// As [`Graph::targets`].
    pub fn select(&self, targets: &[String]) -> Result<BTreeSet<PointId>, GraphError> {
        Ok(self.upstream(self.targets(targets)?))
    }
}

/// The positions of the points that the targets match, as in [`Graph::targets`]. `all` has the name and the stage of
/// each point.
///
/// # Errors
/// As [`Graph::targets`].
pub fn matching<'a>(
    all: impl IntoIterator<Item = (&'a str, &'a str)>,
    targets: &[String],
) -> Result<BTreeSet<usize>, GraphError> {
    if targets.is_empty() {
        return Ok((0..all.into_iter().count()).collect());
    }
    let mut points: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stages: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, (name, stage)) in all.into_iter().enumerate() {
        points.insert(name, position);
        stages.entry(stage).or_default().push(position);
    }
    let mut found = BTreeSet::new();
    for target in targets {
        let name = PointName::parse(target);
        let whole = name.coordinates.is_none_or(|coordinates| coordinates == "*");
        if let Some(members) = stages.get(name.stage).filter(|_| whole) {
            found.extend(members);
        } else if let Some(point) = points.get(target.as_str()) {
            found.insert(*point);
        } else {
            found.extend(matching_glob(target, &points, &stages)?);
        }
    }
    Ok(found)
}

fn matching_glob(
    target: &str,
    points: &BTreeMap<&str, usize>,
    stages: &BTreeMap<&str, Vec<usize>>,
) -> Result<BTreeSet<usize>, GraphError> {
    let whole = glob(target, target)?;
    let mut found: BTreeSet<usize> = points.iter().filter(|(n, _)| whole.is_match(n)).map(|(_, i)| *i).collect();
    found.extend(stages.iter().filter(|(n, _)| whole.is_match(n)).flat_map(|(_, i)| i));
    if let PointName { stage, coordinates: Some(coordinates) } = PointName::parse(target) {
        let stage = glob(stage, target)?;
        let coordinates = PointName::split_coordinates(coordinates);
        let wanted: Result<Vec<_>, _> = coordinates.map(|c| Ok((c, glob(c, target)?))).collect();
        let wanted = wanted?;
        found.extend(points.iter().filter(|(name, _)| has(name, &stage, &wanted)).map(|(_, i)| *i));
    }
    if found.is_empty() {
        let known = stages.keys().chain(points.keys()).copied();
        let nearest = nearest(target, known).map(str::to_owned);
        return Err(GraphError::NoTarget { target: target.to_owned(), nearest });
    }
    Ok(found)
}

fn glob(pattern: &str, target: &str) -> Result<GlobMatcher, GraphError> {
    let glob = GlobBuilder::new(pattern).build();
    glob.map(|g| g.compile_matcher())
        .map_err(|e| GraphError::BadPattern { target: target.to_owned(), why: e.kind().to_string() })
}

/// The axis and the value of a coordinate, if the value is a number.
fn number(coordinate: &str) -> Option<(&str, f64)> {
    let (axis, value) = PointName::split_coordinate(coordinate)?;
    Some((axis, value.parse().ok()?))
}

/// Whether a point's name has all these coordinates. Each matches as a glob or as an equal number.
fn has(name: &str, stage: &GlobMatcher, wanted: &[(&str, GlobMatcher)]) -> bool {
    let PointName { stage: of, coordinates: Some(coordinates) } = PointName::parse(name) else { return false };
    let is_among = |(text, glob): &(&str, GlobMatcher)| {
        let wanted = number(text);
        PointName::split_coordinates(coordinates)
            .any(|c| glob.is_match(c) || wanted.is_some_and(|wanted| number(c) == Some(wanted)))
    };
    stage.is_match(of) && wanted.iter().all(is_among)
}

#[cfg(test)]
mod tests;
