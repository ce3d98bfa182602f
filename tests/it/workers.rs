//! Several workers on one store: each point runs once, whoever dies, and the results are those of a plain run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{CommandOutput, Project, Run, has_python, signal, text, wait_for};

/// Twelve points, each of which appends its name to a file, and twelve that read them.
const SWEEP: &str = r#"
[pipeline]
name = "sweep"

[matrix]
i = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]

[stages.first]
kind = "command"
argv = ["sh", "-c", "echo first-$0 >> \"$1/signals/ran\"; echo $0 > out; echo made $0; sleep 0.05", "i${matrix.i}", "{base}"]
outputs = { out = "out" }

[stages.second]
kind = "command"
inputs = { before = "first" }
argv = ["sh", "-c", "echo second-$0 >> \"$1/signals/ran\"; cat \"$2/out\" > out", "i${matrix.i}", "{base}", "{inputs.before}"]
outputs = { out = "out" }
"#;

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

/// Half of the points go on at each rung.
const PRUNED: &str = r#"
[pipeline]
name = "sweep"
seed = 7

[matrix]
lr = [1e-3, 1e-5, 1e-2, 3e-3, 1e-4, 3e-2]

[matrix.prune]
metric = "ad.loss"
rungs = [1, 3]
reduction = 2

[stages.data]
kind = "load-data"
source = "synthetic"
train = 40
test = 20

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = 5
lr = "${matrix.lr}"
latent_dim = 6
channels = [16, 12, 8, 8]
batch = 16
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

pub(crate) fn training() -> Option<Project> {
    has_python().then(|| {
        let project = project(TRAINING);
        project.write("train.py", &format!("{HOOK}\n{}", include_str!("training/train.py")));
        project
    })
}

/// The digests of a run without workers in another cache.
pub(crate) fn plain_digests(project: &Project) -> std::collections::BTreeMap<String, String> {
    let plain = self::project(&project.read("p.toml"));
    if project.path("train.py").exists() {
        plain.write("train.py", &project.read("train.py"));
    }
    plain.run(&[]);
    plain.digests()
}

/// The executions that the points have noted, sorted.
fn ran(project: &Project) -> Vec<String> {
    let mut lines: Vec<String> = project.read("signals/ran").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn each_once(project: &Project) {
    let ran = ran(project);
    let mut once = ran.clone();
    once.dedup();
    assert_eq!((once.len(), ran.len()), (24, 24), "{ran:?}");
}

pub(crate) fn ended(child: std::process::Child) -> CommandOutput {
    CommandOutput::of(child.wait_with_output().expect("it ends"))
}

fn worker(project: &Project, more: &[&str]) -> Run {
    Run::of(project.vadpipe(["worker", "p.toml", "--store", "store", "--json"].iter().chain(more)))
}

/// The number of keys in a folder of a store.
fn objects(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The number of claims in a store. A kill may leave a part of a file, whose name is not a number.
fn claims(store: &Path) -> usize {
    let keys = fs::read_dir(store.join("claim")).into_iter().flatten().flatten();
    let names = keys.flat_map(|key| fs::read_dir(key.path()).into_iter().flatten().flatten());
    names.filter(|file| file.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok())).count()
}

#[test]
fn sweep_in_four_workers_runs_each_point_once_with_the_digests_of_a_plain_run() {
    let project = project(SWEEP);
    let run = project.run(&["--on", "local:4"]);
    each_once(&project);
    assert_eq!((run.executed().len(), run.cached().len()), (24, 0));
    assert_eq!(run.of_kind("stage-finished").count(), 24);
    assert_eq!(run.of_kind("run-started").count(), 1);
    assert!(run.of_kind("stage-started").all(|event| text(&event["worker"]).starts_with("worker-")));
    assert_eq!(project.digests(), plain_digests(&project));
    // The record of the run, its logs and the results say who ran what.
    let id = text(&run.last()["run"]);
    let log = project.vadpipe(["log", "last"]);
    assert!(log.stdout.contains(" on worker-"), "{}", log.stdout);
    let log = project.vadpipe(["log", "last", "--stage", "first@i=3"]);
    assert!(log.stdout.contains("made i3"), "{}{}", log.stdout, log.stderr);
    let shown = project.vadpipe(["show", "p.toml", "first@i=3", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let made = &shown["first@i=3"]["provenance"];
    assert!(text(&made["host"]).contains("/worker-"), "{made}");
    assert_eq!(text(&made["run"]), id);
    // Nothing is left over, and the next run needs no workers.
    assert!(!project.path("cache/workers/store").exists());
    let again = project.run(&["--on", "local:4"]);
    assert_eq!((again.executed().len(), again.cached().len()), (0, 24));
    each_once(&project);
}

#[test]
fn two_drivers_of_one_run_share_its_points() {
    let project = project(SWEEP);
    let drivers = [0, 1].map(|_| project.start(&["run", "p.toml", "--on", "local:2", "--json"]));
    for output in drivers.map(ended) {
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    }
    each_once(&project);
    assert_eq!(project.digests(), plain_digests(&project));
}

#[test]
fn workers_reuse_what_the_cache_has_and_extend_a_training() {
    let Some(project) = training() else { return };
    project.edit("epochs = 40", "epochs = 20");
    project.run(&[]);
    project.edit("epochs = 20", "epochs = 40");
    let run = project.run(&["--on", "local:2"]);
    assert_eq!(run.trained(), (21..=40).collect::<Vec<_>>());
    assert_eq!(project.digests(), plain_digests(&project));
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
fn killed_worker_of_a_run_is_started_again() {
    let Some(project) = training() else { return };
    let expected = plain_digests(&project);
    project.write("signals/block", "");
    let driver = project.start(&["run", "p.toml", "--on", "local:1", "--json"]);
    wait_for(&project.path("signals/blocked"));
    let claim = fs::read_dir(project.path("cache/workers/store/claim")).expect("claims").next().expect("a claim");
    let claim = fs::read_to_string(claim.expect("a claim").path().join("1")).expect("a claim");
    let claim: Value = serde_json::from_str(&claim).expect("JSON");
    let pid = claim["holder"]["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it is killed");
    fs::remove_file(project.path("signals/block")).expect("removed");
    let run = Run::of(ended(driver));
    assert_eq!(run.output.code, 0, "{}", run.output.stderr);
    let warnings: Vec<String> = run.of_kind("warning").map(|event| text(&event["message"])).collect();
    assert!(warnings.contains(&"worker-1: was killed by signal 9; it is started again".to_owned()), "{warnings:?}");
    assert_eq!(project.digests(), expected);
}

#[test]
fn pruned_sweep_in_workers_makes_the_decisions_of_a_plain_run() {
    let project = Project::new(PRUNED);
    let run = project.run(&["--on", "local:2"]);
    let plain = Project::new(PRUNED);
    let expected = plain.run(&[]);
    assert_eq!(run.last()["pruned"], expected.last()["pruned"]);
    assert_ne!(run.last()["pruned"], Value::from(Vec::<Value>::new()));
    assert_eq!(project.digests(), plain.digests());
}

#[test]
fn interrupted_run_with_workers_is_continued_by_a_plain_run() {
    let Some(project) = training() else { return };
    let expected = plain_digests(&project);
    project.write("signals/block", "");
    let driver = project.start(&["run", "p.toml", "--on", "local:2", "--json"]);
    wait_for(&project.path("signals/blocked"));
    signal(&driver, Signal::INT);
    let run = Run::of(ended(driver));
    assert_eq!((run.output.code, &run.last()["status"]), (130, &Value::from("interrupted")), "{}", run.output.stderr);
    fs::remove_file(project.path("signals/block")).expect("removed");
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
    assert_eq!(project.digests(), expected);
}

/// Kills a driver of two workers while one point is left, and lets the point go on.
fn kill_driver_before_the_last_point(project: &Project) {
    project.edit(
        "sleep 0.05",
        "if [ $0 = i7 ]; then while [ -e \\\"$1/signals/block\\\" ]; do touch \\\"$1/signals/blocked\\\"; sleep 0.01; done; fi",
    );
    project.write("signals/block", "");
    let mut driver = project.start(&["run", "p.toml", "--on", "local:2", "--json"]);
    wait_for(&project.path("signals/blocked"));
    let begun = Instant::now();
    while objects(&project.path("cache/workers/store/result")) < 22 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the other points never ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    driver.kill().expect("it is killed");
    driver.wait().expect("it has ended");
    fs::remove_file(project.path("signals/block")).expect("removed");
}

#[test]
fn run_whose_driver_was_killed_goes_on_where_it_was() {
    let project = project(SWEEP);
    kill_driver_before_the_last_point(&project);
    let run = project.run(&["--on", "local:2"]);
    assert_eq!(run.executed().len() + run.cached().len(), 24);
    let mut ran = ran(&project);
    ran.retain(|name| name != "first-i7");
    let mut once = ran.clone();
    once.dedup();
    assert_eq!((once.len(), ran.len()), (23, 23), "{ran:?}");
    assert_eq!(project.digests(), plain_digests(&project));
}

#[test]
fn training_of_workers_can_be_extended_by_a_plain_run() {
    let Some(project) = training() else { return };
    project.run(&["--on", "local:2"]);
    project.edit("epochs = 40", "epochs = 45");
    assert_eq!(project.run(&[]).trained(), (41..=45).collect::<Vec<_>>());
}

#[test]
fn plain_run_takes_what_a_killed_driver_left() {
    let project = project(SWEEP);
    kill_driver_before_the_last_point(&project);
    let run = project.run(&[]);
    assert!(run.executed().len() <= 2 && run.cached().len() >= 22, "{:?}", run.executed());
}

#[test]
fn failing_stage_fails_the_run_with_its_log() {
    let project = Project::new(
        r#"
[pipeline]
name = "p"

[matrix]
i = [1, 2, 3]

[stages.good]
kind = "command"
argv = ["sh", "-c", "echo ${matrix.i} > out"]
outputs = { out = "out" }

[stages.bad]
kind = "command"
inputs = { good = "good@i=2" }
argv = ["sh", "-c", "echo the disk is on fire >&2; exit 3"]

[stages.after]
kind = "command"
inputs = { bad = "bad" }
argv = ["true"]
"#,
    );
    project.edit("[matrix]\ni = [1, 2, 3]\n", "");
    project.edit("[stages.good]\n", "[stages.good]\nmatrix = { i = [1, 2, 3] }\n");
    let run = project.try_run(&["--on", "local:2", "-k"]);
    assert_eq!(run.output.code, 1, "{}", run.output.stderr);
    assert_eq!((run.failed(), run.skipped()), (vec!["bad".to_owned()], vec!["after".to_owned()]));
    assert_eq!(run.executed().len(), 3);
    let failed: Vec<&Value> = run.of_kind("stage-failed").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let log = fs::read_to_string(project.path(&text(&failed[0]["log"]))).expect("the log");
    assert!(log.contains("the disk is on fire"), "{log}");
    let log = project.vadpipe(["log", "last", "--stage", "bad"]);
    assert!(log.stdout.contains("the disk is on fire"), "{}", log.stdout);
    // After the fix, only what is missing runs.
    project.edit("exit 3", "exit 0");
    assert_eq!(project.run(&["--on", "local:2"]).executed().len(), 2);
}

#[test]
fn claim_that_cannot_be_read_does_not_block_a_point() {
    let project = Project::new("[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"true\"]\n");
    let key = text(&project.plan(&[])["a"]["key"]);
    // A later version may write another claim.
    project.write("store/vadpipe.json", r#"{"format":1,"is":"a store of vadpipe, format 1"}"#);
    project.write(&format!("store/claim/{key}/4"), "of a later version");
    let run = worker(&project, &["--heartbeat", "0.05"]);
    assert_eq!((run.output.code, run.executed()), (0, vec!["a".to_owned()]), "{}", run.output.stderr);
    assert_eq!(claims(&project.path("store")), 0);
}

#[test]
fn wrong_options_are_refused_before_anything_runs() {
    let project = project(SWEEP);
    let refused = |args: &[&str], message: &str| {
        let output = project.vadpipe(args);
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(message), "{args:?}: {}", output.stderr);
        assert!(!project.path("signals/ran").exists() && !project.path("cache").exists(), "{args:?}: nothing ran");
    };
    refused(&["worker", "p.toml"], "no shared store is named");
    refused(&["worker", "p.toml", "--store", "store", "--until", "noon"], "give a duration such as `50m`");
    refused(&["worker", "p.toml", "--store", "store", "--until", "2020-01-01T00:00"], "is over");
    refused(&["worker", "p.toml", "nothing", "--store", "store"], "no stage and no point matches `nothing`");
    for engine in ["local", "local:0", "local:x", "local:-1"] {
        refused(&["run", "p.toml", "--on", engine], "`local:N`, such as `local:4`");
    }
    refused(&["run", "p.toml", "--on", "local:2", "-f"], "cannot be used with");
}

/// A program that reads a module that the pipeline does not name.
const UNNAMED: &str = r#"
[pipeline]
name = "p"

[params]
greeting = "hello"

[stages.say]
kind = "command"
argv = ["python3", "say.py", "${params.greeting}"]
outputs = { out = "out" }
"#;

fn run_with_files() -> Option<Project> {
    has_python().then(|| {
        let project = Project::new(UNNAMED);
        let script = "import sys\nfrom words import NAME\nopen('out', 'w').write(f'{sys.argv[1]} {NAME}')\n";
        project.write("say.py", script);
        project.write("words.py", "NAME = 'first'\n");
        project.write(".gitignore", "ignored/\n");
        project.write("ignored/data.txt", "data");
        project.write(".secret", "token");
        project
    })
}

/// Pushes the pipeline as a run. Returns its id.
fn pushed_run(project: &Project, more: &[&str]) -> String {
    let fixed = ["push", "p.toml", "--store", "store", "--run", "--json"];
    let output = project.vadpipe(fixed.iter().chain(more));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let pushed: Value = serde_json::from_str(&output.stdout).expect("JSON");
    text(&pushed["run"])
}

#[test]
fn pushed_run_has_the_files_as_they_were() {
    let Some(project) = run_with_files() else { return };
    let id = pushed_run(&project, &["-S", "params.greeting=\"good morning\""]);
    project.edit("hello", "good night");
    project.write("words.py", "NAME = 'second'\n");
    project.write("say.py", "raise SystemExit(1)\n");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let store = project.path("store").display().to_string();
    let mut command = project.command(["worker", "--run", &id, "--store", &store, "--json"]);
    command.current_dir(elsewhere.path());
    let worked = Run::of(CommandOutput::of(command.output().expect("it runs")));
    assert_eq!(worked.executed(), ["say"], "{}", worked.output.stderr);
    // The same files again: the result is in the store.
    let original = run_with_files().expect("Python");
    let run = original.run(&["--store", &store, "-S", "params.greeting=\"good morning\""]);
    assert_eq!(run.cached(), ["say"]);
    let exported = original.vadpipe(["export", "p.toml", "--to", "out", "-S", "params.greeting=\"good morning\""]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    assert_eq!(original.read("out/say/out"), "good morning first");
    let record = fs::read_to_string(project.path("store/run").join(&id)).expect("a record");
    assert!(record.contains("words.py") && !record.contains("ignored") && !record.contains("secret"), "{record}");
    // A module that is edited later is a file that the program read.
    original.write("words.py", "NAME = 'third'\n");
    let run = original.run(&["--store", &store, "-S", "params.greeting=\"good morning\""]);
    assert_eq!(run.executed(), ["say"]);
}

#[test]
fn run_that_the_store_does_not_have_is_an_error() {
    let Some(project) = run_with_files() else { return };
    let id = pushed_run(&project, &[]);
    let worker = |id: &str| project.vadpipe(["worker", "--run", id, "--store", "store"]);
    let missing = worker("20260101-000000-000000");
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("has no run 20260101-000000-000000"), "{}", missing.stderr);
    let record = project.path("store/run").join(&id);
    let altered = fs::read_to_string(&record).expect("a record").replace("say.py", "say.pz");
    fs::write(&record, altered).expect("written");
    let damaged = worker(&id);
    assert_eq!(damaged.code, 2);
    assert!(damaged.stderr.contains("it is altered or cut off"), "{}", damaged.stderr);
    // Pushing it again takes another id, and the blobs that are there.
    let id = pushed_run(&project, &[]);
    fs::remove_dir_all(project.path("store/blob")).expect("removed");
    let lost = worker(&id);
    assert_eq!(lost.code, 2);
    assert!(lost.stderr.contains("has lost the file"), "{}", lost.stderr);
}

#[test]
fn worker_takes_either_a_file_or_a_run() {
    let project = Project::new(SWEEP);
    let missing = "required arguments were not provided";
    let conflict = "cannot be used with";
    let cases = [(&[][..], missing), (&["p.toml", "--run", "x"], conflict), (&["--run", "x", "-S", "a=1"], conflict)];
    for (arguments, message) in cases {
        let output = project.vadpipe(["worker", "--store", "store"].iter().chain(arguments));
        assert_eq!(output.code, 2, "{arguments:?}");
        assert!(output.stderr.contains(message), "{}", output.stderr);
    }
}

#[test]
fn pushed_run_has_included_files_scripts_of_other_folders_and_named_folders() {
    if !has_python() {
        return;
    }
    let project = Project::new("");
    let pipeline = "include = [\"../common.toml\"]\n[pipeline]\nname = \"p\"\n[stages.say]\nkind = \"command\"\n\
        argv = [\"python3\", \"../src/say.py\", \"{inputs.data}\", \"${params.greeting}\"]\n\
        paths = { data = \"data\" }\noutputs = { out = \"out\" }\n";
    project.write("exp/p.toml", pipeline);
    project.write("exp/data/deep/words.txt", "first");
    project.write("common.toml", "[params]\ngreeting = \"hello\"\n");
    project.write("src/names.py", "NAME = 'Ada'\n");
    let script = "import os, sys\nfrom names import NAME\n\
        words = open(os.path.join(sys.argv[1], 'deep/words.txt')).read()\n\
        open('out', 'w').write(f'{sys.argv[2]} {NAME} {words}')\n";
    project.write("src/say.py", script);
    let store = project.path("store").display().to_string();
    let pushed = project.vadpipe(["push", "exp/p.toml", "--store", &store, "--run", "--json"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let id = text(&serde_json::from_str::<Value>(&pushed.stdout).expect("JSON")["run"]);
    // On a machine that does not have the files.
    let moved = project.path("elsewhere");
    fs::create_dir(&moved).expect("a folder");
    for name in ["exp", "src", "common.toml"] {
        fs::rename(project.path(name), moved.join(name)).expect("moved");
    }
    let worked = Run::of(project.vadpipe(["worker", "--run", &id, "--store", &store, "--json"]));
    assert_eq!(worked.executed(), ["say"], "{}{}", worked.output.stdout, worked.output.stderr);
    let run = project.vadpipe(["run", "elsewhere/exp/p.toml", "--store", &store, "--json"]);
    assert_eq!(Run::of(run).cached(), ["say"], "the key is that of a plain run");
}

#[test]
fn file_far_above_the_pipeline_cannot_be_part_of_a_run() {
    let Some(project) = run_with_files() else { return };
    let pipeline = UNNAMED.replace("\"say.py\"", "\"../../../../say.py\"");
    project.write("a/b/c/d/p.toml", &pipeline);
    let pushed = project.vadpipe(["push", "a/b/c/d/p.toml", "--store", "store", "--run"]);
    assert_eq!(pushed.code, 2, "{}", pushed.stderr);
    assert!(pushed.stderr.contains("is too far above"), "{}", pushed.stderr);
    assert!(!project.path("store/run").exists());
}

#[test]
fn original_that_a_pushed_run_reads_by_itself_is_a_file_that_it_read() {
    let Some(project) = run_with_files() else { return };
    // As an installed package does, the script finds the folder from which the run comes.
    let origin = project.path("");
    let script = format!("import sys\nsys.path.insert(0, {:?})\n{}", origin.display(), project.read("say.py"));
    project.write("say.py", &script);
    let id = pushed_run(&project, &[]);
    let worker = || Run::of(project.vadpipe(["worker", "--run", &id, "--store", "store", "--json"]));
    project.write("words.py", "NAME = 'second'\n");
    let edited = worker();
    assert_eq!(edited.executed(), ["say"], "{}", edited.output.stderr);
    let warnings: Vec<String> = edited.of_kind("warning").map(|event| text(&event["message"])).collect();
    assert!(warnings.iter().any(|warning| warning.contains("words.py changed while `say` ran")), "{warnings:?}");
    // The result does not count, not even for the edited file.
    assert_eq!(project.run(&["--store", "store"]).executed(), ["say"]);
}

#[test]
fn run_in_workers_is_in_the_log_from_its_start() {
    let Some(project) = training() else { return };
    project.write("signals/block", "");
    let mut driver = project.start(&["run", "p.toml", "--on", "local:1", "--json"]);
    wait_for(&project.path("signals/blocked"));
    let log = || project.vadpipe(["log"]).stdout;
    assert!(log().contains("running"), "{}", log());
    let events = project.vadpipe(["log", "last", "--events"]).stdout;
    assert!(events.contains("worker-1") && events.contains("\"event\":\"epoch\""), "{events}");
    driver.kill().expect("it is killed");
    driver.wait().expect("it has ended");
    fs::remove_file(project.path("signals/block")).expect("removed");
    assert!(log().contains("killed"), "{}", log());
}
