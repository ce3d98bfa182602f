//! Ctrl-C, `kill -9`, and what comes after: the same bytes as undisturbed.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Desk, MINI, Said};

/// A run that lasts some seconds, nearly all of them in trainings.
fn longer() -> String {
    MINI.replace("epochs = 3", "epochs = 40")
        .replace("train = 40", "train = 160")
        .replace("[16, 12, 8, 8]", "[64, 48, 32, 16]")
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("the signal is sent");
}

/// Reads events until one of this kind comes.
fn wait_for(child: &mut Child, event: &str) {
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let wanted = format!("{{\"event\":\"{event}\"");
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|l| l.starts_with(&wanted)), "there is an event {event}");
    // Reading goes on, so that the program is not ended by a closed pipe.
    std::thread::spawn(move || lines.for_each(drop));
}

#[test]
fn ctrl_c_saves_and_the_next_run_goes_on() {
    let (stopped, undisturbed) = (Desk::new(&longer()), Desk::new(&longer()));
    let mut child = stopped.start(&["run", "p.toml", "ad", "--json"]);
    wait_for(&mut child, "epoch");
    let asked = Instant::now();
    signal(&child, Signal::INT);
    let code = child.wait().expect("it ends").code();
    assert_eq!(code, Some(130));
    assert!(asked.elapsed() < Duration::from_secs(5), "it stops soon: {:?}", asked.elapsed());
    let status = stopped.vadpipe(["status", "p.toml"]);
    assert!(status.out.contains("interrupted"), "{}", status.out);
    let again = stopped.run(&["ad"]);
    assert_eq!(again.of_kind("resumed").count(), 1);
    undisturbed.run(&["ad"]);
    assert_eq!(stopped.outputs(&["ad"]), undisturbed.outputs(&["ad"]));
}

#[test]
fn kill_9_at_any_moment_costs_time_and_nothing_else() {
    let moments = if std::env::var_os("CI").is_some() { 6 } else { 10 };
    let (killed, undisturbed) = (Desk::new(&longer()), Desk::new(&longer()));
    let started = Instant::now();
    undisturbed.run(&[]);
    let whole = started.elapsed();
    let mut resumed = 0;
    // Spread over the run by the golden ratio: no two moments alike, the same in every test run.
    let mut share = 0.5f64;
    for _ in 0..moments {
        share = (share + 0.618_034).fract();
        let mut child = killed.start(&["run", "p.toml", "--json"]);
        std::thread::sleep(Duration::from_millis(30) + whole.mul_f64(share * 0.35));
        child.kill().expect("killed");
        let said = Said::of(child.wait_with_output().expect("it ended"));
        resumed += said.out.matches("\"event\":\"resumed\"").count();
    }
    let last = killed.run(&[]);
    resumed += last.of_kind("resumed").count();
    assert_eq!(killed.digests(), undisturbed.digests());
    assert!(resumed > 0, "at least one training was taken up in its middle");
    let doctor = killed.vadpipe(["doctor"]);
    assert_eq!(doctor.code, 0, "{}{}", doctor.out, doctor.err);
}

#[test]
fn two_runs_at_once_share_one_cache_and_run_nothing_twice() {
    let desk = Desk::new(MINI);
    let start = || desk.start(&["run", "p.toml", "--json"]);
    let both = [start(), start()].map(|c| Said::of(c.wait_with_output().expect("it ends")));
    let mut finished = Vec::new();
    for said in &both {
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        let events = said.out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
        finished.extend(events.filter(|e| e["event"] == "stage-finished").map(|e| e["stage"].to_string()));
    }
    finished.sort();
    let all = finished.len();
    finished.dedup();
    assert_eq!((finished.len(), all), (7, 7), "each stage ran once: {finished:?}");
}

#[test]
fn plan_and_log_answer_beside_a_running_training() {
    let desk = Desk::new(&longer());
    let mut child = desk.start(&["run", "p.toml", "ad", "--json"]);
    wait_for(&mut child, "epoch");
    for args in [&["plan", "p.toml"][..], &["status", "p.toml"], &["log"]] {
        let said = desk.vadpipe(args);
        assert_eq!(said.code, 0, "{args:?}: {}", said.err);
    }
    assert!(desk.vadpipe(["log"]).out.contains("running"));
    signal(&child, Signal::KILL);
    child.wait().expect("it ends");
    assert!(desk.vadpipe(["log"]).out.contains("killed"));
}

#[test]
fn a_run_goes_on_when_nobody_listens_any_more() {
    let desk = Desk::new(MINI);
    let mut child = desk.start(&["run", "p.toml", "ad", "--json"]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut first).expect("a line");
    assert!(first.contains("run-started"));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(desk.vadpipe(["plan", "p.toml", "ad", "--check"]).code, 0);
}

#[test]
fn a_second_ctrl_c_leaves_at_once_and_takes_its_children_along() {
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.stubborn]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"trap '' TERM INT; echo $$ > \\\"$0\\\"; sleep 30; sleep 30\", \"{base}/pid\"]\n",
    );
    let mut child = desk.start(&["run", "p.toml", "--json"]);
    let pid = loop {
        match std::fs::read_to_string(desk.path("pid")).ok().and_then(|t| t.trim().parse::<i32>().ok()) {
            Some(pid) => break pid,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let state = state();
        state.is_empty() || state.contains(") Z ")
    });
    assert!(gone, "the command's shell is still there: {}", state());
}
