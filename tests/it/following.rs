//! `log -f FILE STAGE`: the output of programs while they run.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{CommandOutput, Project, signal, text};

const PATIENCE: Duration = Duration::from_secs(60);

/// `last` needs `first`. Each prints a line, waits for a file, and prints another one. They also end when the test has
/// ended.
const TWO: &str = r#"
[pipeline]
name = "two"

[params]
end = "true"

[stages.first]
kind = "command"
argv = ["sh", "wait.sh", "-", "first", "${params.end}"]
pass_env = ["FOLDER"]

[stages.last]
kind = "command"
inputs = { first = "first" }
argv = ["sh", "wait.sh", "-", "last", "true"]
pass_env = ["FOLDER"]
"#;

const WAIT: &str = "echo $2 begins; echo $2 complains >&2
while [ ! -e \"$FOLDER/$2.go\" ] && [ -d \"$FOLDER\" ]; do sleep 0.02; done
echo $2 ends; $3\n";

fn two() -> Project {
    let project = Project::new(TWO);
    project.write("wait.sh", WAIT);
    project
}

fn start(project: &Project, args: &[&str]) -> Child {
    let mut command = project.command(args);
    command.env("FOLDER", project.path("")).spawn().expect("vadpipe starts")
}

/// Starts a command whose output goes to `NAME.out` and `NAME.err`.
fn follow(project: &Project, name: &str, args: &[&str]) -> Child {
    let file = |end: &str| Stdio::from(std::fs::File::create(project.path(&format!("{name}.{end}"))).expect("a file"));
    project.command(args).stdout(file("out")).stderr(file("err")).spawn().expect("vadpipe starts")
}

fn ended(child: Child) -> CommandOutput {
    CommandOutput::of(child.wait_with_output().expect("it ends"))
}

/// Waits until a file has this text.
fn wait_for_text(project: &Project, name: &str, text: &str) {
    let begun = Instant::now();
    while !std::fs::read_to_string(project.path(name)).is_ok_and(|all| all.contains(text)) {
        assert!(begun.elapsed() < PATIENCE, "{name} never had {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_run(project: &Project) {
    let begun = Instant::now();
    while !project.vadpipe(["log", "p.toml"]).stdout.contains("running") {
        assert!(begun.elapsed() < PATIENCE, "no run started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn log_follows_a_stage_from_its_start_to_its_end() {
    let project = two();
    let run = start(&project, &["run", "p.toml", "--json"]);
    wait_for_run(&project);
    let last = follow(&project, "last", &["log", "-f", "p.toml", "last"]);
    let both = follow(&project, "both", &["log", "-f", "p.toml", "first", "last"]);
    // A stage that has not started is waited for.
    wait_for_text(&project, "last.err", "waiting for `last` to start");
    wait_for_text(&project, "both.out", "first | first begins\nfirst | first complains\n");
    project.write("first.go", "");
    wait_for_text(&project, "last.out", "last begins\nlast complains\n");
    // The run holds the cache.
    let one = ended(project.command(["log", "-f", "p.toml", "first", "--no-wait"]).spawn().expect("it starts"));
    assert_eq!((one.code, &*one.stdout), (0, "first begins\nfirst complains\nfirst ends\n"), "{}", one.stderr);
    project.write("last.go", "");
    assert_eq!(ended(last).code, 0);
    assert_eq!(ended(both).code, 0);
    assert_eq!(project.read("last.out"), "last begins\nlast complains\nlast ends\n");
    assert!(project.read("both.out").ends_with("last | last ends\n"), "{}", project.read("both.out"));
    assert!(ended(run).code == 0);
}

#[test]
fn log_prints_what_there_is_if_nothing_runs() {
    let project = two();
    project.write("first.go", "");
    project.write("last.go", "");
    let none = project.vadpipe(["log", "-f", "p.toml", "first"]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("the pipeline `two` has not run yet"), "{}", none.stderr);
    assert_eq!(ended(start(&project, &["run", "p.toml", "--json"])).code, 0);
    // All is cached. The logs are those of the run before.
    assert_eq!(ended(start(&project, &["run", "p.toml", "--json"])).code, 0);
    let follows = project.vadpipe(["log", "-f", "p.toml", "first"]);
    assert_eq!(
        (follows.code, &*follows.stdout),
        (0, "first begins\nfirst complains\nfirst ends\n"),
        "{}",
        follows.stderr
    );
    // The first line on standard error says that nothing runs.
    let noted = follows.stderr.starts_with("`first` is not running; waiting 3 seconds for a run to start\n");
    assert!(noted && follows.stderr.contains(" has ended: ok\n"), "{}", follows.stderr);
    let prints = project.vadpipe(["log", "p.toml", "first"]);
    assert_eq!((prints.code, &*prints.stdout), (0, &*follows.stdout));
    let run = project.vadpipe(["log", "p.toml"]);
    assert!(run.code == 0 && run.stdout.starts_with("run "), "{}", run.stdout);
    let wrong = project.vadpipe(["log", "p.toml", "fist"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("did you mean `first`?"), "{}", wrong.stderr);
}

#[test]
fn log_of_a_stage_that_fails_exits_with_1() {
    let project = two();
    let run = start(&project, &["run", "p.toml", "--json", "-S", "params.end=exit 3"]);
    wait_for_run(&project);
    let first = start(&project, &["log", "-f", "p.toml", "first"]);
    let last = start(&project, &["log", "-f", "p.toml", "last"]);
    project.write("first.go", "");
    assert_eq!(ended(run).code, 1);
    let (first, last) = (ended(first), ended(last));
    assert_eq!(first.code, 1);
    assert!(first.stdout.contains("first ends\nfailed: `sh` exited with code 3"), "{}", first.stdout);
    assert!(first.stderr.contains("`first` failed in run "), "{}", first.stderr);
    // It was skipped.
    assert_eq!((last.code, &*last.stdout), (1, ""), "{}", last.stderr);
    assert!(last.stderr.contains("`last` was skipped in run "), "{}", last.stderr);
    let later = project.vadpipe(["log", "-f", "p.toml", "first"]);
    assert!(later.code == 1 && later.stdout == first.stdout, "{}{}", later.stdout, later.stderr);
}

#[test]
fn newest_log_is_that_of_the_run_that_made_the_result() {
    let project = Project::new(
        "[pipeline]\nname = \"one\"\n[params]\nrate = 1\n[stages.net]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"echo rate $0\", \"${params.rate}\"]\n",
    );
    let first = text(&project.run(&[]).last()["run"]);
    project.run(&["-S", "params.rate=2"]);
    assert_eq!(project.run(&[]).cached(), ["net"]);
    let log = project.vadpipe(["log", "p.toml", "net"]);
    assert_eq!((&*log.stdout, log.stderr), ("rate 1\n", format!("log of `net` in run {first}:\n")));
}

#[test]
fn failure_of_an_earlier_run_is_not_the_log_of_a_stage_that_ran_well() {
    let pipeline = TWO
        .replace("[\"sh\", \"wait.sh\", \"-\", \"first\", \"${params.end}\"]", "[\"sh\", \"-c\", \"${params.end}\"]");
    let project = Project::new(&pipeline);
    project.write("wait.sh", WAIT);
    assert_eq!(ended(start(&project, &["run", "p.toml", "--json", "-S", "params.end=exit 3"])).code, 1);
    let log = project.vadpipe(["log", "p.toml", "first"]);
    assert!(log.stdout.starts_with("failed: `sh` exited with code 3"), "{}{}", log.stdout, log.stderr);
    let run = start(&project, &["run", "p.toml", "--json"]);
    wait_for_run(&project);
    let last = follow(&project, "last", &["log", "-f", "p.toml", "last"]);
    wait_for_text(&project, "last.out", "last begins\n");
    let during = project.vadpipe(["log", "p.toml", "first"]);
    project.write("last.go", "");
    assert!(ended(run).code == 0 && ended(last).code == 0);
    // A built-in stage that logs nothing has no file.
    let id = during.stderr.trim().rsplit(' ').next().expect("the run's id");
    std::fs::remove_file(project.path(&format!("cache/logs/{id}/first.log"))).expect("an empty log");
    let after = project.vadpipe(["log", "p.toml", "first"]);
    for log in [&during, &after] {
        assert_eq!((log.code, &*log.stdout), (0, ""));
        assert!(log.stderr.starts_with("`first` logged nothing in run "), "{}", log.stderr);
    }
}

#[test]
fn log_waits_for_a_run_that_starts_after_it() {
    let project = two();
    project.write("first.go", "");
    assert_eq!(ended(start(&project, &["run", "p.toml", "--json", "-S", "params.end=exit 3"])).code, 1);
    let log = follow(&project, "early", &["log", "-f", "p.toml", "first"]);
    wait_for_text(&project, "early.err", "`first` is not running; waiting 3 seconds for a run to start");
    assert_eq!(ended(start(&project, &["run", "p.toml", "first", "--json"])).code, 0);
    assert_eq!(ended(log).code, 0);
    assert_eq!(project.read("early.out"), "first begins\nfirst complains\nfirst ends\n");
}

#[test]
fn runs_of_another_file_with_the_same_pipeline_name_are_left_out() {
    let pipeline = |word: &str| {
        format!("[pipeline]\nname = \"one\"\n[stages.net]\nkind = \"command\"\nargv = [\"echo\", \"{word}\"]\n")
    };
    let project = Project::new(&pipeline("p"));
    project.write("q.toml", &pipeline("q"));
    project.run(&[]);
    // This file has no run yet, so it may have had another name.
    assert_eq!(project.vadpipe(["log", "q.toml", "net"]).stdout, "p\n");
    assert_eq!(project.vadpipe(["run", "q.toml"]).code, 0);
    assert_eq!(project.vadpipe(["log", "p.toml", "net"]).stdout, "p\n");
    assert_eq!(project.vadpipe(["log", "q.toml", "net"]).stdout, "q\n");
}

#[test]
fn interrupted_log_exits_with_130_and_leaves_the_run_alone() {
    let project = two();
    let run = start(&project, &["run", "p.toml", "first", "--json"]);
    wait_for_run(&project);
    let follower = follow(&project, "first", &["log", "-f", "p.toml", "first"]);
    wait_for_text(&project, "first.out", "first begins");
    signal(&follower, Signal::INT);
    assert_eq!(ended(follower).code, 130);
    project.write("first.go", "");
    let run = ended(run);
    assert!(run.code == 0 && run.stdout.contains("\"executed\":[\"first\"]"), "{}", run.stdout);
}

#[test]
fn lines_of_a_python_program_are_shown_at_once_and_its_processes_one_after_another() {
    let pipeline = r#"
[pipeline]
name = "python"

[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
pass_env = ["FOLDER"]
segment_epochs = 1
epochs = 2
"#;
    let script = r#"
import json, os, time
to = os.environ["VADPIPE_TO"]
print("epoch", to, "begins")
while not os.path.exists(os.environ["FOLDER"] + "/go" + to) and os.path.exists(os.environ["FOLDER"]):
    time.sleep(0.02)
print("epoch", to, "ends")
open(os.environ["VADPIPE_LOG"], "a").write(json.dumps({"epoch": int(to), "loss": 0.5}) + "\n")
open(os.environ["VADPIPE_STATE_OUT"] + "/state", "w").write(to)
"#;
    let Some(project) = Project::with_script(pipeline, script) else { return };
    let run = start(&project, &["run", "p.toml", "--json"]);
    wait_for_run(&project);
    let follower = follow(&project, "net", &["log", "-f", "p.toml", "net"]);
    wait_for_text(&project, "net.out", "epoch 1 begins\n");
    project.write("go1", "");
    wait_for_text(&project, "net.out", "epoch 2 begins\n");
    project.write("go2", "");
    assert_eq!(ended(follower).code, 0);
    assert!(project.read("net.out").contains("\nepoch 2 ends\n"), "{}", project.read("net.out"));
    assert_eq!(ended(run).code, 0);
}
