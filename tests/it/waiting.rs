//! While another process holds the cache, `--no-wait` fails soon, and a signal ends every wait.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{CommandOutput, MINI, Project, signal};

const PIPELINE: &str = "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"touch\", \"{base}/ran\"]\n";

/// A project with a cache. The next run must execute its stage.
fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project.edit("/ran", "/ran-again");
    project
}

/// Locks a file of the cache, as a stopped process would.
fn hold(project: &Project, lock: &str) -> File {
    let path = project.path("cache").join(lock);
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("a lock file");
    file.lock().expect("the lock");
    file
}

/// Waits until `child` ends. Panics if it takes too long.
fn ended(mut child: Child, within: Duration) -> CommandOutput {
    let begin = Instant::now();
    while child.try_wait().expect("its status").is_none() {
        if begin.elapsed() > within {
            child.kill().expect("killed");
            let output = CommandOutput::of(child.wait_with_output().expect("it ends"));
            panic!("it still runs after {within:?}\n{}\n{}", output.stdout, output.stderr);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    CommandOutput::of(child.wait_with_output().expect("it ends"))
}

/// The half second after which a command counts as waiting, and some time for a busy machine.
const SOON: Duration = Duration::from_millis(2500);

#[test]
fn no_wait_fails_on_a_held_cache_before_the_first_stage() {
    for lock in ["index.lock", "work.lock"] {
        let project = project();
        let _held = hold(&project, lock);
        for command in [&["run", "p.toml", "--no-wait"][..], &["verify", "p.toml", "--no-wait"]] {
            let output = ended(project.start(command), SOON);
            // `verify` needs only the index to find that nothing is cached under the new key.
            let expected = if command[0] == "verify" && lock == "work.lock" { 2 } else { 4 };
            assert_eq!(output.code, expected, "{command:?} with {lock}: {}", output.stderr);
            assert!(expected != 4 || output.stderr.contains("the cache is held by"), "{}", output.stderr);
        }
        assert!(!project.path("ran-again").exists());
    }
}

#[test]
fn no_wait_fails_on_a_held_key() {
    let project = project();
    let key = project.plan(&[])["a"]["key"].as_str().expect("a key").to_owned();
    std::fs::create_dir_all(project.path("cache/leases")).expect("a folder");
    let _held = hold(&project, &format!("leases/{key}"));
    let output = ended(project.start(&["run", "p.toml", "--no-wait"]), SOON);
    assert_eq!(output.code, 4, "{}", output.stderr);
}

#[test]
fn no_wait_still_waits_to_store_the_result_of_a_started_stage() {
    let project = project();
    // A process takes this lock to store a result.
    let held = hold(&project, "gc.lock");
    let child = project.start(&["run", "p.toml", "--no-wait"]);
    while !project.path("ran-again").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(1500));
    drop(held);
    let output = ended(child, Duration::from_secs(20));
    assert_eq!(output.code, 0, "{}", output.stderr);
}

#[test]
fn signal_ends_a_wait_for_the_cache() {
    for lock in ["index.lock", "work.lock", "gc.lock"] {
        for sent in [Signal::TERM, Signal::INT] {
            let project = project();
            let _held = hold(&project, lock);
            let child = project.start(&["run", "p.toml"]);
            std::thread::sleep(Duration::from_millis(1000));
            signal(&child, sent);
            let output = ended(child, SOON);
            assert_eq!(output.code, 130, "{lock}: {}", output.stderr);
        }
    }
}

#[test]
fn signal_ends_a_wait_for_a_key() {
    let project = project();
    let key = project.plan(&[])["a"]["key"].as_str().expect("a key").to_owned();
    std::fs::create_dir_all(project.path("cache/leases")).expect("a folder");
    let _held = hold(&project, &format!("leases/{key}"));
    let child = project.start(&["run", "p.toml"]);
    std::thread::sleep(Duration::from_millis(1000));
    signal(&child, Signal::TERM);
    assert_eq!(ended(child, SOON).code, 130);
}

#[test]
fn interrupted_training_saves_its_state_when_a_held_cache_becomes_free() {
    let pipeline =
        MINI.replace("checkpoint_seconds = 0", "checkpoint_seconds = 600").replace("epochs = 3", "epochs = 5000");
    let project = Project::new(&pipeline);
    let mut child = project.start(&["run", "p.toml", "ad", "--json"]);
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("{\"event\":\"epoch\"")), "it trains");
    // A process takes this lock to save a state.
    let held = hold(&project, "gc.lock");
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(250));
    drop(held);
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let plan = project.plan(&["ad"]);
    assert!(plan["ad"]["epochs"]["cached"].as_u64() >= Some(1), "{}", plan["ad"]);
}
