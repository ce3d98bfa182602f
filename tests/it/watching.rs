//! `run --watch`.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Desk, text};

/// How long a busy machine may take for anything.
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

/// A `run --watch` under way, and its standard output and error line by line.
struct Watched {
    child: Child,
    events: Receiver<String>,
    said: Receiver<String>,
}

impl Watched {
    fn start(desk: &Desk, more: &[&str]) -> Self {
        let args: Vec<&str> = ["run", "p.toml", "--watch", "--json"].iter().chain(more).copied().collect();
        let mut child = desk.start(&args);
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
        let said = lines(Box::new(child.stderr.take().expect("a pipe")));
        Self { child, events, said }
    }

    /// What the next run executed.
    fn next_run(&self) -> Vec<String> {
        loop {
            let line = self.events.recv_timeout(PATIENCE).expect("a run ends");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["event"] == "run-finished" {
                return event["executed"].as_array().expect("a list").iter().map(text).collect();
            }
        }
    }

    /// Waits until it says something with these words.
    fn until_it_says(&self, words: &str) {
        while !self.said.recv_timeout(PATIENCE).expect("it says something").contains(words) {}
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

fn desk() -> Desk {
    let desk = Desk::new(PIPELINE);
    desk.write("one.sh", ". \"$(dirname \"$0\")/lib/name.sh\"; echo \"$name\" > \"$1\"\n");
    desk.write("lib/name.sh", "name=first\n");
    desk
}

#[test]
fn edit_reruns_the_stages_that_it_affects() {
    let desk = desk();
    let watched = Watched::start(&desk, &[]);
    assert_eq!(watched.next_run().len(), 3);
    watched.until_it_says("watching p.toml and ");
    // A file that enters a key.
    desk.write("lib/name.sh", "name=second\n");
    assert_eq!(watched.next_run(), ["one", "two"]);
    watched.until_it_says("watching");
    // A file that comes anew into a folder of sources.
    desk.write("lib/more.sh", "");
    assert_eq!(watched.next_run(), ["one"], "it came out the same, so the wave stops");
    watched.until_it_says("watching");
    // The pipeline, replaced as many editors do.
    desk.write("new", &PIPELINE.replace("\"cp\", \"/dev/null\"", "\"touch\""));
    std::fs::rename(desk.path("new"), desk.path("p.toml")).expect("renamed");
    watched.until_it_says("changed: ");
    assert_eq!(watched.next_run(), ["other"]);
    watched.until_it_says("watching");
    // A broken edit says what is wrong, and the next one heals it.
    desk.write("p.toml", "[pipeline]\nname = \"watched\"\n[stages.one]\nkind = \"comand\"\n");
    watched.until_it_says("comand");
    watched.until_it_says("watching");
    desk.write("p.toml", PIPELINE);
    assert_eq!(watched.next_run(), [""; 0], "all of it was made before");
    watched.until_it_says("watching");
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(0), "it ends while nothing runs");
}

#[test]
fn interruption_during_a_watched_run_exits_with_130() {
    let desk = desk();
    desk.write("one.sh", "echo started; sleep 60\n");
    let watched = Watched::start(&desk, &["one"]);
    while !watched.events.recv_timeout(PATIENCE).expect("an event").contains("stage-started") {}
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(130));
}

#[test]
fn watch_continues_after_a_failed_run() {
    let desk = desk();
    desk.write("one.sh", "exit 3\n");
    let watched = Watched::start(&desk, &[]);
    assert!(!watched.next_run().contains(&"one".to_owned()));
    watched.until_it_says("watching");
    desk.write("one.sh", "echo mended > \"$1\"\n");
    let mended = watched.next_run();
    assert!(["one", "two"].iter().all(|stage| mended.contains(&(*stage).to_owned())), "{mended:?}");
    watched.until_it_says("watching");
    watched.signal("-INT");
    assert_eq!(watched.code(), Some(0));
}
