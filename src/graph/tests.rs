//! Tests of the graph.

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
fn ready_points_are_ordered_as_in_the_file() {
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
    insta::assert_snapshot!(Error::from(error), @"these points depend on each other in a cycle: a");
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
    assert_eq!(names(&graph, graph.select(&["fit@lr=0.1,d=a".to_owned()]).unwrap()), "data ad@lr=0.1 fit@lr=0.1,d=a");
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
