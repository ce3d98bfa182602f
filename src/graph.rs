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
    #[error("these depend on each other: {}", members.join(" → "))]
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
        if targets.is_empty() {
            return Ok(PointId::first(self.len()).collect());
        }
        let mut points: BTreeMap<&str, PointId> = BTreeMap::new();
        let mut stages: BTreeMap<&str, Vec<PointId>> = BTreeMap::new();
        for index in self.graph.node_indices() {
            let node = &self.graph[index];
            points.insert(&node.name, point(index));
            stages.entry(&node.stage).or_default().push(point(index));
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
                found.extend(self.matching(target, &points, &stages)?);
            }
        }
        Ok(found)
    }

    fn matching(
        &self,
        target: &str,
        points: &BTreeMap<&str, PointId>,
        stages: &BTreeMap<&str, Vec<PointId>>,
    ) -> Result<BTreeSet<PointId>, GraphError> {
        let whole = glob(target, target)?;
        let mut found: BTreeSet<PointId> = points.iter().filter(|(n, _)| whole.is_match(n)).map(|(_, i)| *i).collect();
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

    /// The points that the targets match, and everything that they depend on.
    ///
    /// # Errors
    /// As [`Graph::targets`].
    pub fn select(&self, targets: &[String]) -> Result<BTreeSet<PointId>, GraphError> {
        Ok(self.upstream(self.targets(targets)?))
    }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A graph from lines such as `c a b` (`c` reads `a` and `b`), in the order of the file.
    fn building(lines: &[&str]) -> GraphBuilder {
        let mut builder = GraphBuilder::default();
        let words: Vec<Vec<&str>> = lines.iter().map(|l| l.split(' ').collect()).collect();
        for line in &words {
            builder.add(line[0], PointName::parse(line[0]).stage);
        }
        let index = |name: &str| PointId::new(words.iter().position(|w| w[0] == name).unwrap());
        for (reader, line) in PointId::first(words.len()).zip(&words) {
            line[1..].iter().for_each(|input| builder.connect(index(input), reader));
        }
        builder
    }

    fn names(graph: &Graph, points: impl IntoIterator<Item = PointId>) -> String {
        points.into_iter().map(|p| graph.name(p)).collect::<Vec<_>>().join(" ")
    }

    fn sweep() -> Graph {
        let lines = ["data", "ad@lr=0.001 data", "ad@lr=0.1 data", "fit@lr=0.001,d=a ad@lr=0.001 data"];
        let more = ["fit@lr=0.001,d=b ad@lr=0.001", "fit@lr=0.1,d=a ad@lr=0.1", "report ad@lr=0.001 ad@lr=0.1"];
        building(&[lines.as_slice(), &more].concat()).seal().unwrap()
    }

    fn select(targets: &[&str]) -> Result<String, GraphError> {
        let graph = sweep();
        let targets: Vec<String> = targets.iter().map(|t| (*t).to_owned()).collect();
        graph.targets(&targets).map(|found| names(&graph, found))
    }

    #[test]
    fn order_is_that_of_the_file_among_points_that_are_ready() {
        let graph = building(&["report c", "c b", "a", "b a", "free"]).seal().unwrap();
        assert_eq!(names(&graph, graph.order().iter().copied()), "a b c report free");
        let graph = building(&["a", "free", "b a", "c b"]).seal().unwrap();
        assert!(graph.order().iter().copied().eq(PointId::first(4)));
        assert!(GraphBuilder::default().seal().unwrap().is_empty());
    }

    #[test]
    fn cycle_error_names_its_members_but_not_their_dependents() {
        let error = building(&["a", "below c", "b a d", "c b", "d c"]).seal().unwrap_err();
        assert_eq!(error, GraphError::Cycle { members: ["b", "c", "d"].map(str::to_owned).to_vec() });
        let error = building(&["a a"]).seal().unwrap_err();
        insta::assert_snapshot!(Error::from(error), @"these depend on each other: a");
    }

    #[test]
    fn inputs_dependents_downstream_and_upstream() {
        let graph = sweep();
        assert_eq!(names(&graph, graph.inputs(PointId::new(3))), "data ad@lr=0.001");
        assert_eq!(names(&graph, graph.dependents(PointId::new(1))), "fit@lr=0.001,d=a fit@lr=0.001,d=b report");
        assert_eq!(names(&graph, graph.downstream([PointId::new(2)])), "ad@lr=0.1 fit@lr=0.1,d=a report");
        assert_eq!(names(&graph, graph.upstream([PointId::new(5)])), "data ad@lr=0.1 fit@lr=0.1,d=a");
    }

    #[test]
    fn target_matches_stages_points_coordinates_or_globs() {
        assert_eq!(select(&["ad"]).unwrap(), "ad@lr=0.001 ad@lr=0.1");
        assert_eq!(select(&["ad@lr=0.1", "data"]).unwrap(), "data ad@lr=0.1");
        assert_eq!(select(&["data@*"]).unwrap(), "data");
        assert_eq!(select(&["fit@*,d=a"]).unwrap(), "fit@lr=0.001,d=a fit@lr=0.1,d=a");
        assert_eq!(select(&["fit@d=a"]).unwrap(), "fit@lr=0.001,d=a fit@lr=0.1,d=a");
        assert_eq!(select(&["fit@d=b,lr=1e-3"]).unwrap(), "fit@lr=0.001,d=b");
        assert_eq!(select(&["?ata", "rep*"]).unwrap(), "data report");
        assert_eq!(select(&["*@lr=0.1"]).unwrap(), "ad@lr=0.1 fit@lr=0.1,d=a");
        assert_eq!(select(&[]).unwrap().split(' ').count(), 7);
    }

    #[test]
    fn target_that_matches_nothing_is_an_error_with_the_most_similar_name() {
        let error = |target: &str| Error::from(select(&[target]).unwrap_err());
        let shown = |target: &str| format!("{}; {}", error(target), error(target).hint.unwrap_or_default());
        insta::assert_snapshot!(shown("dta"), @"no stage and no point matches `dta`; did you mean `data`?");
        insta::assert_snapshot!(shown("fit@lr=0.2,d=a"), @"no stage and no point matches `fit@lr=0.2,d=a`; did you mean `fit@lr=0.1,d=a`?");
        insta::assert_snapshot!(shown("xyz*"), @"no stage and no point matches `xyz*`; a target is a stage (`vad`), a point (`vad@lr=0.1`) or a glob (`vad@*`)");
        insta::assert_snapshot!(shown("[a"), @"`[a` is not a valid pattern: unclosed character class; missing ']';");
        insta::assert_snapshot!(shown(""), @"no stage and no point matches ``; a target is a stage (`vad`), a point (`vad@lr=0.1`) or a glob (`vad@*`)");
    }

    #[test]
    fn selection_includes_dependencies() {
        let graph = sweep();
        assert_eq!(
            names(&graph, graph.select(&["fit@lr=0.1,d=a".to_owned()]).unwrap()),
            "data ad@lr=0.1 fit@lr=0.1,d=a"
        );
    }

    proptest! {
        #[test]
        fn order_respects_every_edge(edges in prop::collection::vec((0usize..30, 0usize..30), 0..80)) {
            let mut builder = GraphBuilder::default();
            for i in 0..30 {
                builder.add(&i.to_string(), "s");
            }
            // Acyclic edges, with the points permuted so that the order of the file is not topological.
            let edges: Vec<_> = edges.into_iter().filter(|(a, b)| a < b).map(|(a, b)| (a * 7 % 30, b * 7 % 30)).collect();
            edges.iter().for_each(|(a, b)| builder.connect(PointId::new(*a), PointId::new(*b)));
            let graph = builder.seal().unwrap();
            let mut place = [usize::MAX; 30];
            graph.order().iter().enumerate().for_each(|(i, p)| place[p.index()] = i);
            prop_assert!(place.iter().all(|p| *p < 30));
            prop_assert!(edges.iter().all(|(a, b)| place[*a] < place[*b]));
            let all = graph.upstream(PointId::first(30));
            prop_assert_eq!(all.len(), 30);
        }
    }
}
