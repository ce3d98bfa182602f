//! A cache that another process holds: `--no-wait` gives up soon, and a signal ends every wait.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Desk, MINI, Said};

const PIPELINE: &str = "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"touch\", \"{base}/ran\"]\n";

/// A desk with a cache, in which the next run finds everything to do.
fn desk() -> Desk {
    let desk = Desk::new(PIPELINE);
    desk.run(&[]);
    desk.edit("/ran", "/ran-again");
    desk
}

/// Holds a lock file of the cache as a stopped process would.
fn hold(desk: &Desk, lock: &str) -> File {
    let path = desk.path("cache").join(lock);
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("a lock file");
    file.lock().expect("the lock");
    file
}

/// Waits until `child` ends; panics after some seconds.
fn ended(mut child: Child, within: Duration) -> Said {
    let begin = Instant::now();
    while child.try_wait().expect("it can be asked").is_none() {
        if begin.elapsed() > within {
            child.kill().expect("killed");
            let said = Said::of(child.wait_with_output().expect("it ends"));
            panic!("it still runs after {within:?}\n{}\n{}", said.out, said.err);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Said::of(child.wait_with_output().expect("it ends"))
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("the signal is sent");
}

/// The half second after which a wait counts as one, and something for a busy machine.
const SOON: Duration = Duration::from_millis(2500);

#[test]
fn no_wait_gives_up_on_a_held_cache_before_the_first_stage() {
    for lock in ["index.lock", "work.lock"] {
        let desk = desk();
        let _held = hold(&desk, lock);
        for command in [&["run", "p.toml", "--no-wait"][..], &["verify", "p.toml", "--no-wait"]] {
            let said = ended(desk.start(command), SOON);
            // Nothing is cached under the new key: with a free index, `verify` gets as far as that.
            let expected = if command[0] == "verify" && lock == "work.lock" { 2 } else { 4 };
            assert_eq!(said.code, expected, "{command:?} with {lock}: {}", said.err);
            assert!(expected != 4 || said.err.contains("the cache is held by"), "{}", said.err);
        }
        assert!(!desk.path("ran-again").exists());
    }
}

#[test]
fn no_wait_gives_up_on_a_held_key() {
    let desk = desk();
    let key = desk.plan(&[])["a"]["key"].as_str().expect("a key").to_owned();
    std::fs::create_dir_all(desk.path("cache/leases")).expect("a folder");
    let _held = hold(&desk, &format!("leases/{key}"));
    let said = ended(desk.start(&["run", "p.toml", "--no-wait"]), SOON);
    assert_eq!(said.code, 4, "{}", said.err);
}

#[test]
fn no_wait_waits_once_a_stage_has_started() {
    let desk = desk();
    // Taken to store a result.
    let held = hold(&desk, "gc.lock");
    let child = desk.start(&["run", "p.toml", "--no-wait"]);
    while !desk.path("ran-again").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(1500));
    drop(held);
    let said = ended(child, Duration::from_secs(20));
    assert_eq!(said.code, 0, "{}", said.err);
}

#[test]
fn signal_ends_a_wait_for_the_cache() {
    for lock in ["index.lock", "work.lock", "gc.lock"] {
        for sent in [Signal::TERM, Signal::INT] {
            let desk = desk();
            let _held = hold(&desk, lock);
            let child = desk.start(&["run", "p.toml"]);
            std::thread::sleep(Duration::from_millis(1000));
            signal(&child, sent);
            let said = ended(child, SOON);
            assert_eq!(said.code, 130, "{lock}: {}", said.err);
        }
    }
}

#[test]
fn signal_ends_a_wait_for_a_key() {
    let desk = desk();
    let key = desk.plan(&[])["a"]["key"].as_str().expect("a key").to_owned();
    std::fs::create_dir_all(desk.path("cache/leases")).expect("a folder");
    let _held = hold(&desk, &format!("leases/{key}"));
    let child = desk.start(&["run", "p.toml"]);
    std::thread::sleep(Duration::from_millis(1000));
    signal(&child, Signal::TERM);
    assert_eq!(ended(child, SOON).code, 130);
}

#[test]
fn training_saves_its_state_after_a_signal_although_the_cache_is_held_for_a_moment() {
    let pipeline =
        MINI.replace("checkpoint_seconds = 0", "checkpoint_seconds = 600").replace("epochs = 3", "epochs = 5000");
    let desk = Desk::new(&pipeline);
    let mut child = desk.start(&["run", "p.toml", "ad", "--json"]);
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("{\"event\":\"epoch\"")), "it trains");
    // Taken to save a state.
    let held = hold(&desk, "gc.lock");
    signal(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(250));
    drop(held);
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let plan = desk.plan(&["ad"]);
    assert!(plan["ad"]["epochs"]["cached"].as_u64() >= Some(1), "{}", plan["ad"]);
}
