//! Points as a sealed graph: who reads whom, and an order to run in.
//!
//! [`Building`] takes points and edges; [`Building::seal`] checks that there is no cycle and gives a [`Graph`], which can't
//! change any more. Whoever executes sees only the latter. Every
//! operation is linear in the points and edges it touches (the order: times a logarithm).
//!
//! The order is topological; among points that are ready together, the one that stands first in the file comes first.

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

/// What can be wrong with a graph or with the targets that are looked up in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GraphError {
    /// Points that read each other in a ring.
    #[error("these depend on each other: {}", members.join(" → "))]
    Cycle {
        /// Their names, in the order of the file.
        members: Vec<String>,
    },
    /// A target that is the name of nothing here.
    #[error("no stage and no point matches `{target}`")]
    NoTarget {
        /// As given.
        target: String,
        /// The most likely meant name.
        nearest: Option<String>,
    },
    /// A target that is no valid glob.
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

/// A graph that still grows.
#[derive(Debug, Default)]
pub struct Building {
    graph: DiGraph<Node, ()>,
}

#[derive(Debug)]
struct Node {
    name: String,
    stage: String,
}

/// A graph that can't change any more and has no cycle.
#[derive(Debug)]
pub struct Graph {
    graph: DiGraph<Node, ()>,
    order: Vec<PointId>,
}

impl Building {
    /// Adds a point and returns its id: 0, 1, 2, …
    pub fn add(&mut self, name: &str, stage: &str) -> PointId {
        point(self.graph.add_node(Node { name: name.to_owned(), stage: stage.to_owned() }))
    }

    /// Says that `reader` reads the result of `input`. Both must have been added; otherwise nothing is connected.
    pub fn connect(&mut self, input: PointId, reader: PointId) {
        if input.index().max(reader.index()) < self.graph.node_count() {
            self.graph.add_edge(node(input), node(reader), ());
        }
    }

    /// Closes the graph.
    ///
    /// # Errors
    /// If points depend on each other in a ring.
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
            return Err(GraphError::Cycle { members: ring(&graph) });
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

/// The names of the first ring in the order of the file.
fn ring(graph: &DiGraph<Node, ()>) -> Vec<String> {
    let mut rings = kosaraju_scc(graph);
    rings.retain(|r| r.len() > 1 || r.iter().any(|n| graph.contains_edge(*n, *n)));
    for ring in &mut rings {
        ring.sort_unstable();
    }
    rings.sort_unstable();
    let first = rings.into_iter().next().unwrap_or_default();
    first.into_iter().map(|n| graph[n].name.clone()).collect()
}

impl Graph {
    /// The graph of these points.
    ///
    /// # Errors
    /// If points depend on each other in a ring; what [`crate::spec::load`] returns does not.
    pub fn of(points: &[Point]) -> Result<Self, GraphError> {
        let mut building = Building::default();
        for point in points {
            building.add(&point.name, &point.stage);
        }
        for (reader, point) in PointId::first(points.len()).zip(points) {
            let inputs: BTreeSet<PointId> = point.inputs.values().flat_map(|i| i.points()).copied().collect();
            for input in inputs {
                building.connect(input, reader);
            }
        }
        building.seal()
    }

    /// How many points there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A point's name.
    pub fn name(&self, point: PointId) -> &str {
        &self.graph[node(point)].name
    }

    /// All points, each after everything it reads; ties in the order of the file. The order of every plan.
    pub fn order(&self) -> &[PointId] {
        &self.order
    }

    /// The points whose results this one reads, ascending, none twice.
    pub fn inputs(&self, point: PointId) -> Vec<PointId> {
        self.neighbours(point, Incoming)
    }

    /// The points that read this one's result, ascending, none twice.
    pub fn dependents(&self, point: PointId) -> Vec<PointId> {
        self.neighbours(point, Outgoing)
    }

    fn neighbours(&self, of: PointId, direction: petgraph::Direction) -> Vec<PointId> {
        let mut found: Vec<PointId> = self.graph.neighbors_directed(node(of), direction).map(point).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// These points and everything that depends on them, directly or not.
    pub fn downstream(&self, points: impl IntoIterator<Item = PointId>) -> BTreeSet<PointId> {
        self.reach(points, Outgoing)
    }

    /// These points and everything they need, directly or not.
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

    /// What targets name, without what it needs: stages (all their points), points, some coordinates of points
    /// (`fit@lr=0.1` where there are more axes), or globs. `vad@*` is all of `vad` even where that has one point. No target
    /// at all is everything.
    ///
    /// # Errors
    /// For a target that matches nothing, or is no valid glob.
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

    /// [`Graph::targets`] and everything they need.
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

/// An axis and its value, where that is a number.
fn number(coordinate: &str) -> Option<(&str, f64)> {
    let (axis, value) = PointName::split_coordinate(coordinate)?;
    Some((axis, value.parse().ok()?))
}

/// Whether a point's name has all these coordinates, each compared as a glob or as a number.
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

    /// A graph from lines such as `c a b` (c reads a and b), in the order of the file.
    fn building(lines: &[&str]) -> Building {
        let mut building = Building::default();
        let words: Vec<Vec<&str>> = lines.iter().map(|l| l.split(' ').collect()).collect();
        for line in &words {
            building.add(line[0], PointName::parse(line[0]).stage);
        }
        let index = |name: &str| PointId::new(words.iter().position(|w| w[0] == name).unwrap());
        for (reader, line) in PointId::first(words.len()).zip(&words) {
            line[1..].iter().for_each(|input| building.connect(index(input), reader));
        }
        building
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
    fn the_order_is_that_of_the_file_wherever_it_can_be() {
        let graph = building(&["report c", "c b", "a", "b a", "free"]).seal().unwrap();
        assert_eq!(names(&graph, graph.order().iter().copied()), "a b c report free");
        let graph = building(&["a", "free", "b a", "c b"]).seal().unwrap();
        assert!(graph.order().iter().copied().eq(PointId::first(4)));
        assert!(Building::default().seal().unwrap().is_empty());
    }

    #[test]
    fn a_ring_is_named_and_what_only_hangs_on_it_is_not() {
        let error = building(&["a", "below c", "b a d", "c b", "d c"]).seal().unwrap_err();
        assert_eq!(error, GraphError::Cycle { members: ["b", "c", "d"].map(str::to_owned).to_vec() });
        let error = building(&["a a"]).seal().unwrap_err();
        insta::assert_snapshot!(Error::from(error), @"these depend on each other: a");
    }

    #[test]
    fn neighbours_and_reach() {
        let graph = sweep();
        assert_eq!(names(&graph, graph.inputs(PointId::new(3))), "data ad@lr=0.001");
        assert_eq!(names(&graph, graph.dependents(PointId::new(1))), "fit@lr=0.001,d=a fit@lr=0.001,d=b report");
        assert_eq!(names(&graph, graph.downstream([PointId::new(2)])), "ad@lr=0.1 fit@lr=0.1,d=a report");
        assert_eq!(names(&graph, graph.upstream([PointId::new(5)])), "data ad@lr=0.1 fit@lr=0.1,d=a");
    }

    #[test]
    fn targets_are_stages_points_coordinates_or_globs() {
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
    fn a_target_that_names_nothing_is_refused_with_the_nearest() {
        let error = |target: &str| Error::from(select(&[target]).unwrap_err());
        let told = |target: &str| format!("{}; {}", error(target), error(target).hint.unwrap_or_default());
        insta::assert_snapshot!(told("dta"), @"no stage and no point matches `dta`; did you mean `data`?");
        insta::assert_snapshot!(told("fit@lr=0.2,d=a"), @"no stage and no point matches `fit@lr=0.2,d=a`; did you mean `fit@lr=0.1,d=a`?");
        insta::assert_snapshot!(told("xyz*"), @"no stage and no point matches `xyz*`; a target is a stage (`vad`), a point (`vad@lr=0.1`) or a glob (`vad@*`)");
        insta::assert_snapshot!(told("[a"), @"`[a` is not a valid pattern: unclosed character class; missing ']';");
        insta::assert_snapshot!(told(""), @"no stage and no point matches ``; a target is a stage (`vad`), a point (`vad@lr=0.1`) or a glob (`vad@*`)");
    }

    #[test]
    fn selecting_takes_what_is_needed() {
        let graph = sweep();
        assert_eq!(
            names(&graph, graph.select(&["fit@lr=0.1,d=a".to_owned()]).unwrap()),
            "data ad@lr=0.1 fit@lr=0.1,d=a"
        );
    }

    proptest! {
        #[test]
        fn the_order_respects_every_edge(edges in prop::collection::vec((0usize..30, 0usize..30), 0..80)) {
            let mut building = Building::default();
            for i in 0..30 {
                building.add(&i.to_string(), "s");
            }
            // Edges of a graph without rings, under a fixed permutation so that the file's order is not yet one.
            let edges: Vec<_> = edges.into_iter().filter(|(a, b)| a < b).map(|(a, b)| (a * 7 % 30, b * 7 % 30)).collect();
            edges.iter().for_each(|(a, b)| building.connect(PointId::new(*a), PointId::new(*b)));
            let graph = building.seal().unwrap();
            let mut place = [usize::MAX; 30];
            graph.order().iter().enumerate().for_each(|(i, p)| place[p.index()] = i);
            prop_assert!(place.iter().all(|p| *p < 30));
            prop_assert!(edges.iter().all(|(a, b)| place[*a] < place[*b]));
            let all = graph.upstream(PointId::first(30));
            prop_assert_eq!(all.len(), 30);
        }
    }
}
