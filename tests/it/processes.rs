//! Several processes on one cache: each key runs once, no process fails, and none waits for a dead one.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::support::{CommandOutput, MINI, Project, text};

/// Two stages of twelve points each. Every execution appends its name to a file.
const COUNTED: &str = r#"
[pipeline]
name = "counted"

[matrix]
i = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]

[stages.first]
kind = "command"
argv = ["sh", "-c", "echo first-$0 >> \"$1\"; sleep 0.02", "i${matrix.i}", "{base}/ran"]

[stages.second]
kind = "command"
inputs = { before = "first" }
argv = ["sh", "-c", "echo second-$0 >> \"$1\"", "i${matrix.i}", "{base}/ran"]
"#;

fn events(output: &CommandOutput) -> Vec<Value> {
    // The last line of a killed process may be incomplete.
    output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn stages(events: &[Value], kind: &str) -> Vec<String> {
    events.iter().filter(|e| e["event"] == kind).map(|e| text(&e["stage"])).collect()
}

fn ended(child: Child) -> CommandOutput {
    CommandOutput::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn eight_concurrent_runs_finish_and_execute_each_key_once() {
    let project = Project::new(COUNTED);
    let start = || project.start(&["run", "p.toml", "--json", "-j", "2"]);
    let children: Vec<Child> = (0..8).map(|_| start()).collect();
    let mut finished = Vec::new();
    for output in children.into_iter().map(ended) {
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let events = events(&output);
        assert_eq!(events.last().map(|e| &e["status"]), Some(&Value::from("ok")));
        finished.extend(stages(&events, "stage-finished"));
    }
    let executions = project.read("ran");
    let once: BTreeSet<&str> = executions.lines().collect();
    assert_eq!((once.len(), executions.lines().count()), (24, 24), "each ran once:\n{executions}");
    finished.sort();
    assert_eq!(finished.len(), 24, "each was reported once: {finished:?}");
    assert!(project.run(&[]).executed().is_empty());
}

#[test]
fn reading_commands_work_while_a_training_runs() {
    let project = Project::new(&MINI.replace("epochs = 3", "epochs = 100000").replace("train = 40", "train = 160"));
    let mut training = project.start(&["run", "p.toml", "ad", "--json"]);
    let runs = || std::fs::read_dir(project.path("cache/runs")).map_or(0, Iterator::count);
    while runs() < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let commands: [&[&str]; 8] = [
        &["plan", "p.toml"],
        &["status", "p.toml"],
        &["log"],
        &["log", "last", "--events"],
        &["explain", "p.toml", "ad"],
        &["metrics", "p.toml"],
        &["plan", "p.toml", "--json"],
        &["status", "p.toml", "--json"],
    ];
    let children: Vec<Child> = commands.iter().map(|args| project.start(args)).collect();
    for (output, args) in children.into_iter().map(ended).zip(commands) {
        assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
    }
    assert!(training.try_wait().expect("its status").is_none(), "the training still runs");
    training.kill().expect("killed");
    training.wait().expect("it ends");
}

#[test]
fn waiting_run_takes_over_when_the_holder_is_killed() {
    // The first execution takes a minute. The second ends at once.
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.slow]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"test -e \\\"$0.pid\\\" || { echo $$ > \\\"$0.pid\\\"; sleep 60; }\", \"{base}/slow\"]\n",
    );
    let mut holder = project.start(&["run", "p.toml", "--json"]);
    let group = loop {
        match std::fs::read_to_string(project.path("slow.pid")).ok().and_then(|t| t.trim().parse().ok()) {
            Some(pid) => break Pid::from_raw(pid).expect("a pid"),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let waiting: Vec<Child> = (0..3).map(|_| project.start(&["run", "p.toml", "--json"])).collect();
    let waits = |output: &CommandOutput| stages(&events(output), "stage-waiting").len();
    // Time for all of them to request the key.
    std::thread::sleep(Duration::from_millis(500));
    holder.kill().expect("killed");
    holder.wait().expect("it ends");
    let outputs: Vec<CommandOutput> = waiting.into_iter().map(ended).collect();
    // The child of the holder survives it, without a lease.
    let _ = kill_process_group(group, Signal::KILL);
    assert!(outputs.iter().all(|s| s.code == 0), "{}", outputs.iter().map(|s| s.stderr.as_str()).collect::<String>());
    let executions: usize = outputs.iter().map(|s| stages(&events(s), "stage-finished").len()).sum();
    assert_eq!(executions, 1, "one of them ran the stage");
    assert!(outputs.iter().any(|s| waits(s) > 0), "they waited for the holder");
}

#[test]
fn waiting_run_continues_the_training_of_a_killed_process() {
    let pipeline = MINI.replace("epochs = 3", "epochs = 300").replace("train = 40", "train = 160");
    let (project, undisturbed) = (Project::new(&pipeline), Project::new(&pipeline));
    undisturbed.run(&["ad"]);
    let start = || {
        let mut child = project.start(&["run", "p.toml", "ad", "--json"]);
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        (child, lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok()))
    };
    let (mut holder, mut events) = start();
    assert_eq!(events.by_ref().filter(|e| e["event"] == "epoch").take(3).count(), 3);
    let (mut waiting, mut events) = start();
    assert!(events.any(|e| e["event"] == "stage-waiting"), "it waits for the holder");
    holder.kill().expect("killed");
    holder.wait().expect("it ends");
    let rest: Vec<Value> = events.collect();
    assert_eq!(waiting.wait().expect("it ends").code(), Some(0));
    let resumed = rest.iter().find(|e| e["event"] == "resumed").expect("it resumes")["epoch"].as_u64();
    // An epoch is reported before it is saved.
    assert!(resumed >= Some(2), "every epoch was saved: {resumed:?}");
    let first = rest.iter().find(|e| e["event"] == "epoch").expect("an epoch")["epoch"].as_u64();
    assert_eq!(first, resumed.map(|epoch| epoch + 1));
    assert_eq!(project.outputs(&["ad"]), undisturbed.outputs(&["ad"]));
}

#[test]
fn stages_reported_as_finished_are_cached_after_a_kill() {
    let many: Vec<String> = (0..60).map(|i| i.to_string()).collect();
    let project = Project::new(
        &COUNTED.replace("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12", &many.join(", ")).replace("sleep 0.02", ":"),
    );
    let mut reported = BTreeSet::new();
    for milliseconds in [60, 120, 35, 90, 150, 75] {
        let mut child = project.start(&["run", "p.toml", "--json", "-j", "4"]);
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("killed");
        reported.extend(stages(&events(&ended(child)), "stage-finished"));
        let plan = project.plan(&[]);
        let lost: Vec<_> = reported.iter().filter(|name| plan[*name]["state"] != "hit").collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    let last = project.run(&["-j", "4"]);
    assert_eq!(last.executed().len() + last.cached().len(), 120);
    assert!(reported.iter().all(|name| last.cached().contains(name)));
    let doctor = project.vadpipe(["doctor"]);
    assert_eq!(doctor.code, 0, "{}{}", doctor.stdout, doctor.stderr);
}
