//! Several workers on one store: each point runs once, whoever dies, and the results are those of a plain run.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::support::{CommandOutput, Project, Run, has_python, signal, text, wait_for};

const TRAINING: &str = r#"
[pipeline]
name = "p"
seed = 3

[stages.net]
kind = "train-command"
argv = ["python3", "train.py", "{base}"]
segment_epochs = 5
epochs = 40

[stages.net.start]
width = 4

[stages.net.epoch]
lr = 0.05
"#;

/// Epochs take a while, and the one after epoch 20 waits while there is a file `block`.
const HOOK: &str = r#"
import os
import time
import sys

def HOOK(epoch):
    time.sleep(0.02)
    block = os.path.join(sys.argv[1], "signals", "block")
    if epoch == 20 and os.path.exists(block):
        open(os.path.join(sys.argv[1], "signals", "blocked"), "w").close()
        while os.path.exists(block):
            time.sleep(0.01)
"#;

/// What a program writes in a folder that exists is there at once.
fn project(pipeline: &str) -> Project {
    let project = Project::new(pipeline);
    project.write("signals/.keep", "");
    project
}

fn training() -> Option<Project> {
    has_python().then(|| {
        let project = project(TRAINING);
        project.write("train.py", &format!("{HOOK}\n{}", include_str!("training/train.py")));
        project
    })
}

/// The digests of a run without workers in another cache.
fn plain_digests(project: &Project) -> std::collections::BTreeMap<String, String> {
    let plain = self::project(&project.read("p.toml"));
    if project.path("train.py").exists() {
        plain.write("train.py", &project.read("train.py"));
    }
    plain.run(&[]);
    plain.digests()
}

fn ended(child: std::process::Child) -> CommandOutput {
    CommandOutput::of(child.wait_with_output().expect("it ends"))
}

fn worker(project: &Project, more: &[&str]) -> Run {
    Run::of(project.vadpipe(["worker", "p.toml", "--store", "store", "--json"].iter().chain(more)))
}

/// The number of keys in a folder of a store.
fn objects(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The number of claims in a store.
fn claims(store: &Path) -> usize {
    objects(&store.join("claim"))
}

#[test]
fn killed_worker_is_replaced_by_one_that_continues_from_its_last_pushed_state() {
    let Some(project) = training() else { return };
    let expected = plain_digests(&project);
    project.write("signals/block", "");
    // A short heartbeat, so that states are pushed often.
    let mut first = project.start(&["worker", "p.toml", "--store", "store", "--heartbeat", "0.01"]);
    wait_for(&project.path("signals/blocked"));
    wait_for(&project.path("store/state"));
    // While it lives, another worker has nothing to do.
    let idle = worker(&project, &["--idle", "0.1"]);
    assert_eq!((idle.output.code, idle.executed()), (0, vec![]), "{}", idle.output.stderr);
    assert_eq!(idle.of_kind("stage-waiting").count(), 1);
    first.kill().expect("it is killed");
    first.wait().expect("it has ended");
    fs::remove_file(project.path("signals/block")).expect("removed");
    assert_eq!(claims(&project.path("store")), 1, "the dead worker left its claim");
    let second = worker(&project, &[]);
    assert_eq!(second.output.code, 0, "{}", second.output.stderr);
    let resumed = second.of_kind("resumed").next().expect("it continues")["epoch"].as_u64().expect("an epoch");
    assert_eq!(second.trained(), (resumed + 1..=40).collect::<Vec<_>>());
    assert_eq!(claims(&project.path("store")), 0);
    project.run(&["--store", "store"]);
    assert_eq!(project.digests(), expected);
}

#[test]
fn worker_that_is_told_to_leave_pushes_its_states() {
    let Some(project) = training() else { return };
    let expected = plain_digests(&project);
    project.write("signals/block", "");
    let first = project.start(&["worker", "p.toml", "--store", "store"]);
    wait_for(&project.path("signals/blocked"));
    signal(&first, Signal::TERM);
    let output = ended(first);
    assert_eq!(output.code, 0, "{}", output.stderr);
    // At its end, another one saves again.
    let second = worker(&project, &["--until", "1s"]);
    assert_eq!(second.output.code, 0, "{}", second.output.stderr);
    fs::remove_file(project.path("signals/block")).expect("removed");
    let third = worker(&project, &[]);
    assert_eq!(third.trained(), (21..=40).collect::<Vec<_>>());
    project.run(&["--store", "store"]);
    assert_eq!(project.digests(), expected);
}

#[test]
fn claim_that_cannot_be_read_does_not_block_a_point() {
    let project = Project::new("[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"true\"]\n");
    let key = text(&project.plan(&[])["a"]["key"]);
    // A later version may write another claim.
    project.write("store/vadpipe.json", r#"{"format":1}"#);
    project.write(&format!("store/claim/{key}/4"), "of a later version");
    let run = worker(&project, &["--heartbeat", "0.05"]);
    assert_eq!((run.output.code, run.executed()), (0, vec!["a".to_owned()]), "{}", run.output.stderr);
    assert_eq!(claims(&project.path("store")), 0);
}

#[test]
fn wrong_options_are_refused_before_anything_runs() {
    let project = project(TRAINING);
    let refused = |args: &[&str], message: &str| {
        let output = project.vadpipe(args);
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(message), "{args:?}: {}", output.stderr);
        assert!(!project.path("cache").exists(), "{args:?}: nothing ran");
    };
    refused(&["worker", "p.toml"], "no shared store is named");
    refused(&["worker", "p.toml", "--store", "store", "--until", "noon"], "give a duration such as `50m`");
    refused(&["worker", "p.toml", "--store", "store", "--until", "2020-01-01T00:00"], "is over");
    refused(&["worker", "p.toml", "nothing", "--store", "store"], "no stage and no point matches `nothing`");
}
