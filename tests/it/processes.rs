//! Several processes on one cache: each key runs once, nobody fails, and nobody waits for the dead.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::support::{Desk, MINI, Said, text};

/// Two stages of twelve points each; every execution appends its name to a file.
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

fn events(said: &Said) -> Vec<Value> {
    // A killed process may have been cut off in its last line.
    said.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn stages(events: &[Value], kind: &str) -> Vec<String> {
    events.iter().filter(|e| e["event"] == kind).map(|e| text(&e["stage"])).collect()
}

fn ended(child: Child) -> Said {
    Said::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn eight_runs_at_once_all_finish_and_run_no_key_twice() {
    let desk = Desk::new(COUNTED);
    let start = || desk.start(&["run", "p.toml", "--json", "-j", "2"]);
    let children: Vec<Child> = (0..8).map(|_| start()).collect();
    let mut finished = Vec::new();
    for said in children.into_iter().map(ended) {
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        let events = events(&said);
        assert_eq!(events.last().map(|e| &e["status"]), Some(&Value::from("ok")));
        finished.extend(stages(&events, "stage-finished"));
    }
    let ran = desk.read("ran");
    let once: BTreeSet<&str> = ran.lines().collect();
    assert_eq!((once.len(), ran.lines().count()), (24, 24), "each ran once:\n{ran}");
    finished.sort();
    assert_eq!(finished.len(), 24, "each was told once: {finished:?}");
    assert!(desk.run(&[]).executed().is_empty());
}

#[test]
fn many_ask_beside_a_training_and_all_are_answered_while_it_runs() {
    let desk = Desk::new(&MINI.replace("epochs = 3", "epochs = 100000").replace("train = 40", "train = 160"));
    let mut training = desk.start(&["run", "p.toml", "ad", "--json"]);
    let runs = || std::fs::read_dir(desk.path("cache/runs")).map_or(0, Iterator::count);
    while runs() < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let questions: [&[&str]; 8] = [
        &["plan", "p.toml"],
        &["status", "p.toml"],
        &["log"],
        &["log", "last", "--events"],
        &["explain", "p.toml", "ad"],
        &["metrics", "p.toml"],
        &["plan", "p.toml", "--json"],
        &["status", "p.toml", "--json"],
    ];
    let asked: Vec<Child> = questions.iter().map(|args| desk.start(args)).collect();
    for (said, args) in asked.into_iter().map(ended).zip(questions) {
        assert_eq!(said.code, 0, "{args:?}: {}", said.err);
    }
    assert!(training.try_wait().expect("it can be asked").is_none(), "the training runs on");
    training.kill().expect("killed");
    training.wait().expect("it ends");
}

#[test]
fn a_killed_holder_lets_the_one_that_waits_go_on() {
    // The first to run it takes very long, the second no time.
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.slow]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"test -e \\\"$0.pid\\\" || { echo $$ > \\\"$0.pid\\\"; sleep 60; }\", \"{base}/slow\"]\n",
    );
    let mut holder = desk.start(&["run", "p.toml", "--json"]);
    let group = loop {
        match std::fs::read_to_string(desk.path("slow.pid")).ok().and_then(|t| t.trim().parse().ok()) {
            Some(pid) => break Pid::from_raw(pid).expect("a pid"),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let waiting: Vec<Child> = (0..3).map(|_| desk.start(&["run", "p.toml", "--json"])).collect();
    let told = |said: &Said| stages(&events(said), "stage-waiting").len();
    // Long enough for all of them to ask for the key, as their events say.
    std::thread::sleep(Duration::from_millis(500));
    holder.kill().expect("killed");
    holder.wait().expect("it ends");
    let said: Vec<Said> = waiting.into_iter().map(ended).collect();
    // What the holder had started lives on, without a lease.
    let _ = kill_process_group(group, Signal::KILL);
    assert!(said.iter().all(|s| s.code == 0), "{}", said.iter().map(|s| s.err.as_str()).collect::<String>());
    let ran: usize = said.iter().map(|s| stages(&events(s), "stage-finished").len()).sum();
    assert_eq!(ran, 1, "one of them took it over");
    assert!(said.iter().any(|s| told(s) > 0), "they waited for the holder");
}

#[test]
fn a_training_whose_process_was_killed_is_taken_over_where_it_was() {
    let pipeline = MINI.replace("epochs = 3", "epochs = 300").replace("train = 40", "train = 160");
    let (desk, undisturbed) = (Desk::new(&pipeline), Desk::new(&pipeline));
    undisturbed.run(&["ad"]);
    let start = || {
        let mut child = desk.start(&["run", "p.toml", "ad", "--json"]);
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        (child, lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok()))
    };
    let (mut holder, mut told) = start();
    assert_eq!(told.by_ref().filter(|e| e["event"] == "epoch").take(3).count(), 3);
    let (mut waiting, mut heard) = start();
    assert!(heard.any(|e| e["event"] == "stage-waiting"), "it waits for the holder");
    holder.kill().expect("killed");
    holder.wait().expect("it ends");
    let rest: Vec<Value> = heard.collect();
    assert_eq!(waiting.wait().expect("it ends").code(), Some(0));
    let resumed = rest.iter().find(|e| e["event"] == "resumed").expect("it goes on")["epoch"].as_u64();
    // An epoch is told before it is saved.
    assert!(resumed >= Some(2), "every epoch was saved: {resumed:?}");
    let first = rest.iter().find(|e| e["event"] == "epoch").expect("an epoch")["epoch"].as_u64();
    assert_eq!(first, resumed.map(|epoch| epoch + 1));
    assert_eq!(desk.outputs(&["ad"]), undisturbed.outputs(&["ad"]));
}

#[test]
fn what_was_told_as_finished_is_there_after_a_kill() {
    let many: Vec<String> = (0..60).map(|i| i.to_string()).collect();
    let desk = Desk::new(
        &COUNTED.replace("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12", &many.join(", ")).replace("sleep 0.02", ":"),
    );
    let mut told = BTreeSet::new();
    for milliseconds in [60, 120, 35, 90, 150, 75] {
        let mut child = desk.start(&["run", "p.toml", "--json", "-j", "4"]);
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("killed");
        told.extend(stages(&events(&ended(child)), "stage-finished"));
        let plan = desk.plan(&[]);
        let lost: Vec<_> = told.iter().filter(|name| plan[*name]["state"] != "hit").collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    let last = desk.run(&["-j", "4"]);
    assert_eq!(last.executed().len() + last.cached().len(), 120);
    assert!(told.iter().all(|name| last.cached().contains(name)));
    let doctor = desk.vadpipe(["doctor"]);
    assert_eq!(doctor.code, 0, "{}{}", doctor.out, doctor.err);
}
