//! The program of `examples/`, as a user's crate would be: its candle network trains on the chain of states.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use crate::support::{CommandOutput, Project, Run};

/// The example, which `cargo test` builds beside the folder of this test's program.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let folder = test.parent().and_then(Path::parent).expect("the folder of the profile");
    let program = folder.join("examples/classifier");
    assert!(program.exists(), "build the example first: `cargo build --example classifier`");
    program
}

/// The example's pipeline with 6 epochs and a state after each.
fn project() -> Project {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/classifier.toml");
    let project = Project::with_program(program(), &std::fs::read_to_string(file).expect("the example's pipeline"));
    project.edit("seed = 7", "seed = 7\ncheckpoint_seconds = 0");
    project.edit("epochs = 100", "epochs = 6");
    project
}

const LONGER: [&str; 2] = ["-S", "params.epochs=12"];

fn net_for(epochs: &[&'static str]) -> Vec<&'static str> {
    [&["net"], epochs].concat()
}

/// The epochs that a run trained, and the epoch that it continued from.
fn trained(run: &Run) -> (usize, Vec<u64>) {
    let resumed = run.of_kind("resumed").map(|event| event["epoch"].as_u64().expect("an epoch"));
    (run.of_kind("epoch").count(), resumed.collect())
}

#[test]
fn longer_training_of_a_candle_network_trains_only_the_difference() {
    let (extended, at_once) = (project(), project());
    let first = extended.run(&[]);
    assert_eq!(trained(&first), (6, vec![]));
    let last = first.of_kind("epoch").last().expect("an epoch");
    assert!(last["figures"]["test_accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.5), "{last}");

    assert_eq!(trained(&extended.run(&LONGER)), (6, vec![6]));
    assert_eq!(trained(&at_once.run(&LONGER)), (12, vec![]));
    assert_eq!(extended.outputs(&LONGER), at_once.outputs(&LONGER));
    assert_ne!(extended.outputs(&LONGER)["net"], extended.outputs(&[])["net"]);
    // The report has the curves.
    assert!(extended.read("reports/classifier.report.html").contains("test_accuracy"));
    let verified = at_once.vadpipe(["verify", "p.toml"].into_iter().chain(net_for(&LONGER)));
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}

#[test]
fn killed_training_of_a_candle_network_ends_with_the_bytes_of_one_go() {
    let (killed, at_once) = (project(), project());
    at_once.run(&net_for(&LONGER));
    let mut child = killed.start(&[&["run", "p.toml", "--json", "net"], &LONGER[..]].concat());
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let third = lines.filter(|line| line.starts_with("{\"event\":\"state-saved\"")).nth(2);
    child.kill().expect("killed");
    let ended = CommandOutput::of(child.wait_with_output().expect("it ended"));
    assert!(third.is_some() && ended.code == -1, "it is killed in mid-training: {}", ended.stderr);

    let (epochs, resumed) = trained(&killed.run(&net_for(&LONGER)));
    assert!(resumed[0] >= 3 && epochs as u64 == 12 - resumed[0], "{epochs} epochs after {resumed:?}");
    assert_eq!(killed.outputs(&net_for(&LONGER)), at_once.outputs(&net_for(&LONGER)));
}

#[test]
fn branches_of_a_candle_network_share_the_epochs_before() {
    let branched = || {
        let project = project();
        let segments = "segments = [{ epochs = 4 }, { epochs = 2, lr = \"${matrix.late}\" }]";
        project.edit("epochs = \"${params.epochs}\"", &format!("matrix = {{ late = [1e-3, 1e-4] }}\n{segments}"));
        project.edit("[\"net\"]", "[\"net@*\"]");
        project
    };
    let together = branched();
    assert_eq!(trained(&together.run(&["net"])).0, 4 + 2 + 2);
    for point in ["net@late=0.001", "net@late=0.0001"] {
        let alone = branched();
        alone.run(&[point]);
        assert_eq!(alone.outputs(&[point]), together.outputs(&[point]));
    }
}
