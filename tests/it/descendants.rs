//! All processes of a command end with it, including those that left its process group and session.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{CommandOutput, Project, signal};

/// Starts a process in its own session. It writes its process id to `$1.pid` and then keeps appending lines to `$1`.
const WRITER: &str = "setsid sh -c 'echo $$ > $0.new; mv $0.new $0.pid; while :; do echo x >> $0; sleep 0.02; done' $1 \
                      < /dev/null > /dev/null 2>&1 & while ! test -e $1.pid; do sleep 0.01; done";

fn pipeline(script: &str, more: &str) -> String {
    let argv = format!("argv = [\"\"\"{script}\"\"\", \"{{base}}/beat\"]");
    format!("[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nshell = true\n{argv}\n{more}")
}

fn pid(project: &Project) -> i32 {
    project.read("beat.pid").trim().parse().expect("a process id")
}

fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Asserts that the writer ended and writes nothing more.
fn assert_ended(project: &Project) {
    let pid = pid(project);
    assert!(!runs(pid), "process {pid} still runs");
    assert_silent(project);
}

/// Asserts that the writer ends soon, although vadpipe did not wait for it.
fn assert_ends(project: &Project) {
    let (pid, begin) = (pid(project), Instant::now());
    while runs(pid) {
        assert!(begin.elapsed() < Duration::from_secs(10), "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_silent(project);
}

fn assert_silent(project: &Project) {
    // It may have been killed before its first line.
    let length = || std::fs::metadata(project.path("beat")).map_or(0, |m| m.len());
    let written = length();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), written, "nothing more is written");
}

#[test]
fn process_in_its_own_session_ends_with_its_command() {
    let project = Project::new(&pipeline(WRITER, ""));
    let run = project.run(&[]);
    assert_eq!(run.executed(), ["a"]);
    assert_ended(&project);
    let run = run.last()["run"].as_str().expect("an id");
    let log = project.read(&format!("cache/logs/{run}/a.log"));
    assert!(log.contains("left processes running"), "{log}");
}

#[test]
fn process_with_a_cleared_environment_ends_with_its_command() {
    let project = Project::new(&pipeline(&format!("env -i PATH=\"$PATH\" {WRITER}"), ""));
    project.run(&[]);
    assert_ended(&project);
}

#[test]
fn process_in_its_own_session_ends_at_the_time_limit() {
    let project = Project::new(&pipeline(&format!("{WRITER}; sleep 60"), "timeout_seconds = 4\n"));
    let run = project.try_run(&[]);
    assert_eq!((run.output.code, run.failed()), (1, vec!["a".to_owned()]));
    assert_ended(&project);
}

/// Starts a run and waits until its writer runs.
fn started(project: &Project) -> std::process::Child {
    let child = project.start(&["run", "p.toml", "--json"]);
    let begin = Instant::now();
    while !project.path("beat.pid").exists() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the command starts");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

#[test]
fn process_in_its_own_session_ends_when_the_run_is_interrupted() {
    let project = Project::new(&pipeline(&format!("{WRITER}; sleep 60"), ""));
    let child = started(&project);
    signal(&child, Signal::TERM);
    let output = CommandOutput::of(child.wait_with_output().expect("it ends"));
    assert_eq!(output.code, 130, "{}", output.stderr);
    assert_ended(&project);
}

#[test]
fn process_in_its_own_session_ends_at_the_second_signal() {
    let project = Project::new(&pipeline(&format!("trap '' TERM INT; {WRITER}; sleep 60; sleep 60"), ""));
    let child = started(&project);
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::TERM);
    let output = CommandOutput::of(child.wait_with_output().expect("it ends"));
    assert_eq!(output.code, 130, "{}", output.stderr);
    assert_ends(&project);
}

#[test]
fn end_of_one_command_leaves_the_processes_of_another_alone() {
    for clear in ["", "env -i PATH=\"$PATH\" "] {
        // The result of the slow command comes from a process in its own session, after the quick command ended.
        let project = Project::new(&format!(
            "[pipeline]\nname = \"p\"\n\
             [stages.quick]\nkind = \"command\"\nshell = true\n\
             argv = [\"while ! test -e $1/up; do sleep 0.01; done\", \"{{base}}/shared\"]\n\
             [stages.slow]\nkind = \"command\"\nshell = true\noutputs = {{ out = \"out\" }}\n\
             argv = [\"\"\"{clear}setsid sh -c 'touch $0/up; sleep 1; echo done > $0/done' $1 < /dev/null > /dev/null 2>&1 &\n\
             while ! test -e $1/done; do sleep 0.02; n=$((n+1)); test $n -lt 300 || exit 1; done; cp $1/done out\"\"\", \
             \"{{base}}/shared\"]\n"
        ));
        project.write("shared/.keep", "");
        let run = project.run(&["-j", "2"]);
        let finished: Vec<_> = run.of_kind("stage-finished").map(|e| e["stage"].to_string()).collect();
        assert_eq!(finished, ["\"quick\"", "\"slow\""], "both ran side by side");
    }
}

#[test]
fn all_processes_end_when_vadpipe_is_killed() {
    let project = Project::new(&pipeline(&format!("env -i PATH=\"$PATH\" {WRITER}; sleep 60"), ""));
    let mut child = started(&project);
    signal(&child, Signal::KILL);
    child.wait().expect("it ends");
    assert_ends(&project);
}

#[test]
fn program_may_save_its_work_before_it_ends() {
    let script = "trap 'sleep 0.1; echo saved > $1; exit' TERM; echo $$ > $1.pid; while :; do sleep 0.01; done";
    let project = Project::new(&pipeline(script, ""));
    let child = started(&project);
    signal(&child, Signal::INT);
    assert_eq!(child.wait_with_output().expect("it ends").status.code(), Some(130));
    assert_eq!(project.read("beat"), "saved\n");
}
