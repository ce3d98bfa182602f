//! Points as a sealed graph: who reads whom, and an order to run in.
//!
//! [`Building`] takes points and edges; [`Building::seal`] checks that there is no cycle and gives a [`Graph`], which can't
//! change any more. Whoever executes sees only the latter. Points are the indices of [`crate::spec::Spec::points`]; every
//! operation is linear in the points and edges it touches (the order: times a logarithm).
//!
//! The order is topological; among points that are ready together, the one that stands first in the file comes first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use globset::GlobBuilder;
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::diagnostic::nearest;
use crate::error::Error;
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
    order: Vec<usize>,
}

impl Building {
    /// Adds a point and returns its index: 0, 1, 2, …
    pub fn add(&mut self, name: &str, stage: &str) -> usize {
        self.graph.add_node(Node { name: name.to_owned(), stage: stage.to_owned() }).index()
    }

    /// Says that `reader` reads the result of `input`. Both must have been added; otherwise nothing is connected.
    pub fn connect(&mut self, input: usize, reader: usize) {
        if input < self.graph.node_count() && reader < self.graph.node_count() {
            self.graph.add_edge(NodeIndex::new(input), NodeIndex::new(reader), ());
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
        let mut ready: BinaryHeap<Reverse<usize>> =
            missing.iter().enumerate().filter(|(_, n)| **n == 0).map(|(i, _)| Reverse(i)).collect();
        let mut order = Vec::with_capacity(graph.node_count());
        while let Some(Reverse(point)) = ready.pop() {
            order.push(point);
            for reader in graph.neighbors_directed(NodeIndex::new(point), Outgoing) {
                missing[reader.index()] -= 1;
                if missing[reader.index()] == 0 {
                    ready.push(Reverse(reader.index()));
                }
            }
        }
        if order.len() < graph.node_count() {
            return Err(GraphError::Cycle { members: ring(&graph) });
        }
        Ok(Graph { graph, order })
    }
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
        for (reader, point) in points.iter().enumerate() {
            let inputs: BTreeSet<usize> = point.inputs.values().flat_map(|i| i.indices()).copied().collect();
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
    pub fn name(&self, point: usize) -> &str {
        &self.graph[NodeIndex::new(point)].name
    }

    /// All points, each after everything it reads; ties in the order of the file. The order of every plan.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The points whose results this one reads, ascending, none twice.
    pub fn inputs(&self, point: usize) -> Vec<usize> {
        self.neighbours(point, Incoming)
    }

    /// The points that read this one's result, ascending, none twice.
    pub fn dependents(&self, point: usize) -> Vec<usize> {
        self.neighbours(point, Outgoing)
    }

    fn neighbours(&self, point: usize, direction: petgraph::Direction) -> Vec<usize> {
        let mut found: Vec<usize> =
            self.graph.neighbors_directed(NodeIndex::new(point), direction).map(NodeIndex::index).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// These points and everything that depends on them, directly or not.
    pub fn downstream(&self, points: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        self.reach(points, Outgoing)
    }

    /// These points and everything they need, directly or not.
    pub fn upstream(&self, points: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        self.reach(points, Incoming)
    }

    fn reach(&self, points: impl IntoIterator<Item = usize>, direction: petgraph::Direction) -> BTreeSet<usize> {
        let mut seen = vec![false; self.len()];
        let mut open: Vec<usize> = points.into_iter().collect();
        while let Some(point) = open.pop() {
            if !std::mem::replace(&mut seen[point], true) {
                let next = self.graph.neighbors_directed(NodeIndex::new(point), direction);
                open.extend(next.map(NodeIndex::index).filter(|n| !seen[*n]));
            }
        }
        seen.iter().enumerate().filter(|(_, s)| **s).map(|(i, _)| i).collect()
    }

    /// What targets name: stages (all their points), points, or globs over both; without what they need. `vad@*` is all
    /// of `vad` even where it has one point. No target at all is everything.
    ///
    /// # Errors
    /// For a target that matches nothing, or is no valid glob.
    pub fn targets(&self, targets: &[String]) -> Result<BTreeSet<usize>, GraphError> {
        if targets.is_empty() {
            return Ok((0..self.len()).collect());
        }
        let mut points: BTreeMap<&str, usize> = BTreeMap::new();
        let mut stages: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for index in self.graph.node_indices() {
            let node = &self.graph[index];
            points.insert(&node.name, index.index());
            stages.entry(&node.stage).or_default().push(index.index());
        }
        let mut found = BTreeSet::new();
        for target in targets {
            let stage = target.strip_suffix("@*").unwrap_or(target);
            if let Some(members) = stages.get(stage) {
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
        points: &BTreeMap<&str, usize>,
        stages: &BTreeMap<&str, Vec<usize>>,
    ) -> Result<BTreeSet<usize>, GraphError> {
        let glob = GlobBuilder::new(target)
            .literal_separator(true)
            .build()
            .map_err(|e| GraphError::BadPattern { target: target.to_owned(), why: e.kind().to_string() })?;
        let glob = glob.compile_matcher();
        let mut found: BTreeSet<usize> = points.iter().filter(|(n, _)| glob.is_match(n)).map(|(_, i)| *i).collect();
        found.extend(stages.iter().filter(|(n, _)| glob.is_match(n)).flat_map(|(_, i)| i));
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
    pub fn select(&self, targets: &[String]) -> Result<BTreeSet<usize>, GraphError> {
        Ok(self.upstream(self.targets(targets)?))
    }
}
