//! Runs after Ctrl-C or `kill -9` give the same bytes as an undisturbed run.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{CommandOutput, MINI, Project, signal};

/// A pipeline that runs for some seconds, nearly all of them in trainings.
fn longer() -> String {
    MINI.replace("epochs = 3", "epochs = 40")
        .replace("train = 40", "train = 160")
        .replace("[16, 12, 8, 8]", "[64, 48, 32, 16]")
}

/// Reads events until one has this kind.
fn wait_for(child: &mut Child, event: &str) {
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let wanted = format!("{{\"event\":\"{event}\"");
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|l| l.starts_with(&wanted)), "there is an event {event}");
    // Keeps the pipe open and reads the rest.
    std::thread::spawn(move || lines.for_each(drop));
}

#[test]
fn ctrl_c_saves_a_state_and_the_next_run_continues_from_it() {
    let (stopped, undisturbed) = (Project::new(&longer()), Project::new(&longer()));
    let mut child = stopped.start(&["run", "p.toml", "ad", "--json"]);
    wait_for(&mut child, "epoch");
    let interrupted = Instant::now();
    signal(&child, Signal::INT);
    let code = child.wait().expect("it ends").code();
    assert_eq!(code, Some(130));
    assert!(interrupted.elapsed() < Duration::from_secs(5), "it stops quickly: {:?}", interrupted.elapsed());
    let status = stopped.vadpipe(["status", "p.toml"]);
    assert!(status.stdout.contains("interrupted"), "{}", status.stdout);
    let log = stopped.vadpipe(["log", "last"]).stdout;
    let outcome = |name: &str| log.lines().find(|line| line.starts_with(name)).map(str::to_owned).unwrap_or_default();
    assert!(outcome("ad ").contains("interrupted") && outcome("data ").contains("executed"), "{log}");
    let again = stopped.run(&["ad"]);
    assert_eq!(again.of_kind("resumed").count(), 1);
    undisturbed.run(&["ad"]);
    assert_eq!(stopped.outputs(&["ad"]), undisturbed.outputs(&["ad"]));
}

#[test]
fn kills_at_any_moment_lose_no_result() {
    let moments = if std::env::var_os("CI").is_some() { 6 } else { 10 };
    let (killed, undisturbed) = (Project::new(&longer()), Project::new(&longer()));
    let started = Instant::now();
    undisturbed.run(&[]);
    let whole = started.elapsed();
    let mut resumed = 0;
    // The golden ratio spreads the moments over the run. They are distinct, and the same in every test run.
    let mut share = 0.5f64;
    for _ in 0..moments {
        share = (share + 0.618_034).fract();
        let mut child = killed.start(&["run", "p.toml", "--json"]);
        std::thread::sleep(Duration::from_millis(30) + whole.mul_f64(share * 0.35));
        child.kill().expect("killed");
        let output = CommandOutput::of(child.wait_with_output().expect("it ended"));
        resumed += output.stdout.matches("\"event\":\"resumed\"").count();
    }
    let last = killed.run(&[]);
    resumed += last.of_kind("resumed").count();
    assert_eq!(killed.digests(), undisturbed.digests());
    assert!(resumed > 0, "at least one training was resumed");
    let doctor = killed.vadpipe(["doctor"]);
    assert_eq!(doctor.code, 0, "{}{}", doctor.stdout, doctor.stderr);
}

#[test]
fn two_concurrent_runs_execute_each_stage_once() {
    let project = Project::new(MINI);
    let start = || project.start(&["run", "p.toml", "--json"]);
    let both = [start(), start()].map(|c| CommandOutput::of(c.wait_with_output().expect("it ends")));
    let mut finished = Vec::new();
    for output in &both {
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let events = output.stdout.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
        finished.extend(events.filter(|e| e["event"] == "stage-finished").map(|e| e["stage"].to_string()));
    }
    finished.sort();
    let all = finished.len();
    finished.dedup();
    assert_eq!((finished.len(), all), (7, 7), "each stage ran once: {finished:?}");
}

#[test]
fn plan_status_and_log_work_during_a_training() {
    let project = Project::new(&longer());
    let mut child = project.start(&["run", "p.toml", "ad", "--json"]);
    wait_for(&mut child, "epoch");
    for args in [&["plan", "p.toml"][..], &["status", "p.toml"], &["log"]] {
        let output = project.vadpipe(args);
        assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
    }
    assert!(project.vadpipe(["log"]).stdout.contains("running"));
    signal(&child, Signal::KILL);
    child.wait().expect("it ends");
    assert!(project.vadpipe(["log"]).stdout.contains("killed"));
}

#[test]
fn run_continues_after_its_output_is_closed() {
    let project = Project::new(MINI);
    let mut child = project.start(&["run", "p.toml", "ad", "--json"]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut first).expect("a line");
    assert!(first.contains("run-started"));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(project.vadpipe(["plan", "p.toml", "ad", "--check"]).code, 0);
}

#[test]
fn second_ctrl_c_exits_at_once_and_kills_child_processes() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.stubborn]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"trap '' TERM INT; echo $$ > \\\"$0\\\"; sleep 30; sleep 30\", \"{base}/pid\"]\n",
    );
    let mut child = project.start(&["run", "p.toml", "--json"]);
    let pid = loop {
        match std::fs::read_to_string(project.path("pid")).ok().and_then(|t| t.trim().parse::<i32>().ok()) {
            Some(pid) => break pid,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let state = state();
        state.is_empty() || state.contains(") Z ")
    });
    assert!(ended, "the shell of the command still runs: {}", state());
}
