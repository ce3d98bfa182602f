//! A command's processes end with the command, also those that left its process group and session.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Desk, Said};

/// Starts a process in a session of its own: it writes its number to `$1.pid` and then a line to `$1` again and again.
const WRITER: &str = "setsid sh -c 'echo $$ > $0.new; mv $0.new $0.pid; while :; do echo x >> $0; sleep 0.02; done' $1 \
                      < /dev/null > /dev/null 2>&1 & while ! test -e $1.pid; do sleep 0.01; done";

fn pipeline(script: &str, more: &str) -> String {
    let argv = format!("argv = [\"\"\"{script}\"\"\", \"{{base}}/beat\"]");
    format!("[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nshell = true\n{argv}\n{more}")
}

fn pid(desk: &Desk) -> i32 {
    desk.read("beat.pid").trim().parse().expect("a process's number")
}

fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// The writer is gone and writes no more.
fn assert_ended(desk: &Desk) {
    let pid = pid(desk);
    assert!(!runs(pid), "process {pid} still runs");
    // It may have been ended before its first line.
    let length = || std::fs::metadata(desk.path("beat")).map_or(0, |m| m.len());
    let written = length();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), written, "nothing is written any more");
}

#[test]
fn process_in_its_own_session_ends_with_its_command() {
    let desk = Desk::new(&pipeline(WRITER, ""));
    let ran = desk.run(&[]);
    assert_eq!(ran.executed(), ["a"]);
    assert_ended(&desk);
    let run = ran.last()["run"].as_str().expect("an id");
    let log = desk.read(&format!("cache/logs/{run}/a.log"));
    assert!(log.contains("left processes running"), "{log}");
}

#[test]
fn process_with_a_cleared_environment_ends_with_its_command() {
    let desk = Desk::new(&pipeline(&format!("env -i PATH=\"$PATH\" {WRITER}"), ""));
    desk.run(&[]);
    assert_ended(&desk);
}

#[test]
fn process_in_its_own_session_ends_at_the_time_limit() {
    let desk = Desk::new(&pipeline(&format!("{WRITER}; sleep 60"), "timeout_seconds = 1\n"));
    let ran = desk.try_run(&[]);
    assert_eq!((ran.said.code, ran.failed()), (1, vec!["a".to_owned()]));
    assert_ended(&desk);
}

/// Starts a run whose writer is up.
fn started(desk: &Desk) -> std::process::Child {
    let child = desk.start(&["run", "p.toml", "--json"]);
    let begin = Instant::now();
    while !desk.path("beat.pid").exists() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the command starts");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn signal(child: &std::process::Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("the signal is sent");
}

#[test]
fn process_in_its_own_session_ends_when_the_run_is_interrupted() {
    let desk = Desk::new(&pipeline(&format!("{WRITER}; sleep 60"), ""));
    let child = started(&desk);
    signal(&child, Signal::TERM);
    let said = Said::of(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 130, "{}", said.err);
    assert_ended(&desk);
}

#[test]
fn process_in_its_own_session_ends_when_the_run_is_left_at_once() {
    let desk = Desk::new(&pipeline(&format!("trap '' TERM INT; {WRITER}; sleep 60; sleep 60"), ""));
    let child = started(&desk);
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::TERM);
    let said = Said::of(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 130, "{}", said.err);
    assert_ended(&desk);
}

#[test]
fn end_of_one_command_leaves_the_processes_of_another_alone() {
    for clear in ["", "env -i PATH=\"$PATH\" "] {
        // The slow command's result comes from a process in a session of its own, after the quick one has ended.
        let desk = Desk::new(&format!(
            "[pipeline]\nname = \"p\"\n\
             [stages.quick]\nkind = \"command\"\nshell = true\n\
             argv = [\"while ! test -e $1/up; do sleep 0.01; done\", \"{{base}}\"]\n\
             [stages.slow]\nkind = \"command\"\nshell = true\noutputs = {{ out = \"out\" }}\n\
             argv = [\"\"\"{clear}setsid sh -c 'touch $0/up; sleep 1; echo done > $0/done' $1 < /dev/null > /dev/null 2>&1 &\n\
             while ! test -e $1/done; do sleep 0.02; n=$((n+1)); test $n -lt 300 || exit 1; done; cp $1/done out\"\"\", \
             \"{{base}}\"]\n"
        ));
        let ran = desk.run(&["-j", "2"]);
        let finished: Vec<_> = ran.of_kind("stage-finished").map(|e| e["stage"].to_string()).collect();
        assert_eq!(finished, ["\"quick\"", "\"slow\""], "both ran side by side");
    }
}
