//! `run --isolate`: each stage in a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{MINI, Project};

/// The small pipeline with trainings that run for some seconds.
fn longer() -> String {
    MINI.replace("epochs = 3", "epochs = 60").replace("[16, 12, 8, 8]", "[64, 48, 32, 16]")
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("a pid")).expect("a pid")
}

/// The ids of the processes that run jobs for a driver.
fn workers(driver: u32) -> Vec<u32> {
    let is_worker = |number: &u32| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        let arguments = fs::read_to_string(format!("/proc/{number}/cmdline")).unwrap_or_default();
        parent == Some(&driver.to_string()) && arguments.contains("\0work\0")
    };
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    numbers.filter(is_worker).collect()
}

/// The events of a run, as they arrive.
fn events(child: &mut Child) -> impl Iterator<Item = Value> + use<> {
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}

#[test]
fn isolated_run_makes_the_same_results() {
    let (isolated, ordinary) = (Project::new(MINI), Project::new(MINI));
    let run = isolated.run(&["--isolate"]);
    let same = ordinary.run(&[]);
    assert_eq!(isolated.digests(), ordinary.digests());
    let epochs = run.of_kind("epoch").count();
    assert_eq!(epochs, same.of_kind("epoch").count(), "the epochs of isolated stages are events of the run");
    assert!(isolated.run(&["--isolate"]).executed().is_empty());
}

#[test]
fn crash_of_a_process_fails_only_its_stage_and_is_named() {
    let project = Project::new(&longer());
    let mut child = project.start(&["run", "p.toml", "ad", "vad", "--isolate", "-k", "-j", "1", "--json"]);
    let mut events = events(&mut child);
    assert!(events.any(|e| e["event"] == "state-saved" && e["stage"] == "ad"), "the first training runs");
    let workers = workers(child.id());
    assert_eq!(workers.len(), 1);
    kill_process(pid(workers[0]), Signal::ABORT).expect("the signal is sent");
    let rest: Vec<Value> = events.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    let failed: Vec<&Value> = rest.iter().filter(|e| e["event"] == "stage-failed").collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["stage"], "ad");
    assert_eq!(failed[0]["error"], "its process aborted (SIGABRT)");
    let finished = rest.iter().filter(|e| e["event"] == "stage-finished").count();
    assert_eq!(finished, 2, "both points of `vad` are made");
    let again = project.run(&["ad", "--isolate"]);
    assert_eq!(again.of_kind("resumed").count(), 1, "the training continues from its last checkpoint");
}

#[test]
fn interrupted_isolated_training_saves_its_state() {
    let project = Project::new(&longer().replace("checkpoint_seconds = 0", "checkpoint_seconds = 1000"));
    let mut child = project.start(&["run", "p.toml", "ad", "--isolate", "--json"]);
    let mut events = events(&mut child);
    assert!(events.any(|e| e["event"] == "epoch"));
    kill_process(pid(child.id()), Signal::INT).expect("the signal is sent");
    let rest: Vec<Value> = events.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(rest.iter().any(|e| e["event"] == "state-saved"));
    assert_eq!(project.run(&["ad", "--isolate"]).of_kind("resumed").count(), 1);
}

#[test]
fn process_of_a_stage_ends_with_its_driver() {
    let project = Project::new(&longer().replace("checkpoint_seconds = 0", "checkpoint_seconds = 1000"));
    let mut child = project.start(&["run", "p.toml", "ad", "--isolate", "--json"]);
    let mut events = events(&mut child);
    assert!(events.any(|e| e["event"] == "epoch"));
    let workers = workers(child.id());
    assert_eq!(workers.len(), 1);
    child.kill().expect("killed");
    child.wait().expect("it ends");
    let killed = Instant::now();
    while fs::exists(format!("/proc/{}", workers[0])).expect("/proc") {
        assert!(killed.elapsed() < Duration::from_secs(30), "the process still runs without its driver");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(project.run(&["ad"]).of_kind("resumed").count(), 1, "it saved its state before it ended");
}
