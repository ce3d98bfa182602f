//! `run --watch`.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Project, text};

/// The longest wait for an event on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const PIPELINE: &str = r#"
[pipeline]
name = "watched"

[stages.one]
kind = "command"
argv = ["sh", "one.sh", "{outputs.out}"]
outputs = { out = "out.txt" }
sources = ["one.sh", "lib"]

[stages.two]
kind = "command"
argv = ["cp", "{inputs.one}/out.txt", "{outputs.copy}"]
inputs = { one = "one" }
outputs = { copy = "copy.txt" }

[stages.other]
kind = "command"
argv = ["cp", "/dev/null", "{outputs.out}"]
outputs = { out = "empty" }
"#;

/// A running `run --watch`, with the lines of its standard output and standard error.
struct Watched {
    child: Child,
    events: Receiver<String>,
    stderr: Receiver<String>,
}

impl Watched {
    fn start(project: &Project, more: &[&str]) -> Self {
        let args: Vec<&str> = ["run", "p.toml", "--watch", "--json"].iter().chain(more).copied().collect();
        let mut child = project.start(&args);
        let lines = |stream: Box<dyn std::io::Read + Send>| {
            let (sender, receiver) = channel();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
            receiver
        };
        let events = lines(Box::new(child.stdout.take().expect("a pipe")));
        let stderr = lines(Box::new(child.stderr.take().expect("a pipe")));
        Self { child, events, stderr }
    }

    /// The stages that the next run executed.
    fn next_run(&self) -> Vec<String> {
        loop {
            let line = self.events.recv_timeout(PATIENCE).expect("a run ends");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["event"] == "run-finished" {
                return event["executed"].as_array().expect("a list").iter().map(text).collect();
            }
        }
    }

    /// Waits for a line of standard error that contains this text.
    fn wait_for(&self, text: &str) {
        while !self.stderr.recv_timeout(PATIENCE).expect("a line").contains(text) {}
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.write("one.sh", ". \"$(dirname \"$0\")/lib/name.sh\"; echo \"$name\" > \"$1\"\n");
    project.write("lib/name.sh", "name=first\n");
    project
}

#[test]
fn saved_edit_reruns_the_affected_stages() {
    let project = project();
    let watched = Watched::start(&project, &[]);
    assert_eq!(watched.next_run().len(), 3);
    watched.wait_for("watching p.toml and ");
    // A file whose digest is part of a key.
    project.write("lib/name.sh", "name=second\n");
    assert_eq!(watched.next_run(), ["one", "two"]);
    watched.wait_for("watching");
    // A new file in a folder of sources.
    project.write("lib/more.sh", "");
    assert_eq!(watched.next_run(), ["one"], "its output did not change, so `two` does not run");
    watched.wait_for("watching");
    // Many editors replace a file instead of writing into it.
    project.write("new", &PIPELINE.replace("\"cp\", \"/dev/null\"", "\"touch\""));
    std::fs::rename(project.path("new"), project.path("p.toml")).expect("renamed");
    watched.wait_for("changed: ");
    assert_eq!(watched.next_run(), ["other"]);
    watched.wait_for("watching");
    // An invalid edit is reported, and the next edit is used.
    project.write("p.toml", "[pipeline]\nname = \"watched\"\n[stages.one]\nkind = \"comand\"\n");
    watched.wait_for("comand");
    watched.wait_for("watching");
    project.write("p.toml", PIPELINE);
    assert_eq!(watched.next_run(), [""; 0], "everything is cached");
    watched.wait_for("watching");
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(0), "it ends between two runs");
}

#[test]
fn watch_that_is_interrupted_during_a_run_exits_with_130() {
    let project = project();
    project.write("one.sh", "echo started; sleep 60\n");
    let watched = Watched::start(&project, &["one"]);
    while !watched.events.recv_timeout(PATIENCE).expect("an event").contains("stage-started") {}
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(130));
}

#[test]
fn watch_continues_after_a_failed_run() {
    let project = project();
    project.write("one.sh", "exit 3\n");
    let watched = Watched::start(&project, &[]);
    assert!(!watched.next_run().contains(&"one".to_owned()));
    watched.wait_for("watching");
    project.write("one.sh", "echo fixed > \"$1\"\n");
    let executed = watched.next_run();
    assert!(["one", "two"].iter().all(|stage| executed.contains(&(*stage).to_owned())), "{executed:?}");
    watched.wait_for("watching");
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(0));
}

#[test]
fn saved_included_file_starts_a_run_even_if_it_was_wrong() {
    let project = Project::new(&format!(
        "include = [\"parts/mode.toml\"]\n{}",
        PIPELINE.replace("\"one.sh\", \"{out", "\"one.sh\", \"${params.word}\", \"{out")
    ));
    project.write("parts/mode.toml", "[params]\nword = \n");
    project.write("one.sh", "echo $1 > $2\n");
    project.write("lib/a.sh", "");
    let watched = Watched::start(&project, &["one"]);
    watched.wait_for("watching p.toml and 1 other file");
    project.write("parts/mode.toml", "[params]\nword = \"a\"\n");
    assert_eq!(watched.next_run(), ["one"]);
    watched.wait_for("watching p.toml and");
    project.write("parts/mode.toml", "[params]\nword = \"b\"\n");
    assert_eq!(watched.next_run(), ["one"]);
    watched.wait_for("watching");
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(0));
}
