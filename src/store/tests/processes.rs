//! Several processes, some of which are killed. The child processes run this test program.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::store::database::Access;

/// Runs a part of [`in_a_child`] in another process.
fn child(what: &str, dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store::tests::processes::in_a_child", "--nocapture"]);
    command.env("VADPIPE_STORE_TEST", what).env("VADPIPE_STORE_TEST_DIR", dir);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Waits for a line of a child's output.
fn wait_for(child: &mut Child, line: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains(line)), "the child never printed `{line}`");
}

#[test]
fn in_a_child() {
    let Ok(what) = std::env::var("VADPIPE_STORE_TEST") else { return };
    let dir = std::env::var("VADPIPE_STORE_TEST_DIR").unwrap();
    let store = store(Path::new(&dir));
    match what.as_str() {
        "write for ever" => {
            println!("ready");
            let mut before: Option<StateRecord> = None;
            for i in 0_u64.. {
                let c = components(&format!("{}-{i}", std::process::id()), 1);
                commit(&store, &format!("x{}", i % 3), &c, &artifact(i, 100_000 + 1000 * (i as usize % 300)));
                let keys = chain(1000).chain().keys().to_vec();
                let i = i % 1000;
                let state =
                    store.put_state(&keys, NewState::new(at(i, 0), "cpu", i.is_multiple_of(10), &state(i, 300_000)));
                let state = state.unwrap();
                if let Some(old) = before.replace(state.clone()) {
                    store.remove_superseded(&old, &state).unwrap();
                }
            }
        }
        "write ten" => {
            for i in 0..10 {
                commit(&store, "x", &components(&format!("child {i}"), 1), &artifact(100 + i, 100_000));
            }
        }
        "hold a lease" => {
            let _lease = store.lease(&components("a", 1).key()).unwrap();
            println!("ready");
            std::thread::sleep(Duration::from_secs(60));
        }
        "hold the index" => store
            .index
            .with(Access::Read, |_| {
                println!("ready");
                std::thread::sleep(Duration::from_secs(60));
                Ok(())
            })
            .unwrap(),
        "fill the disk" => fill_the_disk(&store),
        other => panic!("{other}"),
    }
}

#[test]
fn results_of_killed_processes_are_intact() {
    let dir = tempfile::tempdir().unwrap();
    let mut found = 0;
    for kill in 0..10_u64 {
        let mut child = child("write for ever", dir.path());
        wait_for(&mut child, "ready");
        std::thread::sleep(Duration::from_millis(60 + 37 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = store(dir.path());
        let report = store.doctor(false, &mut |_, _| ()).unwrap();
        assert!(report.is_healthy(), "{report:?}");
        assert!(report.results >= found, "results that were there are gone");
        found = report.results;
        assert_eq!(store.warnings(), [""; 0]);
        let newest = store.newest("p", "x0").unwrap();
        assert!(newest.is_none_or(|r| read(&store, &r).is_ok()));
    }
    assert!(found > 10, "{found}");
}

#[test]
fn two_processes_and_several_threads_share_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("write ten", dir.path());
    let store = Arc::new(store(dir.path()));
    let threads: Vec<_> = (0..3_u64)
        .map(|t| {
            let store = store.clone();
            std::thread::spawn(move || {
                for i in 0..5 {
                    let c = components(&format!("{t} {i}"), 1);
                    let record = commit(&store, "y", &c, &artifact(t * 10 + i, 100_000));
                    assert_eq!(read(&store, &record).unwrap(), artifact(t * 10 + i, 100_000));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert!(child.wait().unwrap().success());
    for i in 0..10 {
        let record = store.result(&components(&format!("child {i}"), 1).key()).unwrap().unwrap();
        assert_eq!(read(&store, &record).unwrap(), artifact(100 + i, 100_000));
    }
    assert_eq!(store.doctor(false, &mut |_, _| ()).unwrap().results, 25);
}

#[test]
fn gc_beside_a_writer_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    commit(&store, "y", &components("mine", 1), &artifact(1, 100_000));
    let mut child = child("write ten", dir.path());
    let policy = GcPolicy { keep_runs: 1, named: vec![], dry_run: false };
    while child.try_wait().unwrap().is_none() {
        store.gc(&policy).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    // Without run records, the newest result of each point stays.
    assert_eq!(store.gc(&policy).unwrap().results_kept, 2);
    let newest = store.newest("p", "x").unwrap().unwrap();
    assert_eq!((newest.key, read(&store, &newest).unwrap()), (components("child 9", 1).key(), artifact(109, 100_000)));
    assert_eq!(read(&store, &store.newest("p", "y").unwrap().unwrap()).unwrap(), artifact(1, 100_000));
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    assert_eq!(store.warnings(), [""; 0]);
}

#[test]
fn idle_store_lets_other_processes_in() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (store(dir.path()), store(dir.path()));
    for i in 0..6_u64 {
        let (writer, reader) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let record = commit(writer, "x", &components(&i.to_string(), 1), &artifact(i, 1000));
        assert_eq!(reader.result(&record.key).unwrap().unwrap(), record);
    }
    // An idle store closes its databases, so sled's own lock is free.
    let path = dir.path().join("index");
    let open = || sled::Config::new().path(&path).segment_size(crate::store::entries::SETUP.segment).open().is_ok();
    assert!((0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        open()
    }));
}

#[test]
fn wait_for_a_held_cache_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    commit(&store(dir.path()), "x", &components("a", 1), &artifact(1, 10));
    let mut child = child("hold the index", dir.path());
    wait_for(&mut child, "ready");
    let pid = child.id();
    let impatient = Store::open(dir.path(), Options { wait: false, ..Options::default() }).unwrap();
    let error = impatient.newest("p", "x").unwrap_err();
    assert!(matches!(&error, StoreError::Held { holder: Some(h) } if h.pid == pid), "{error}");
    assert_eq!(crate::error::Error::from(error).category.exit_code(), 4);
    let told = Arc::new(AtomicUsize::new(0));
    let waiting: Waiting = {
        let told = told.clone();
        Arc::new(move |holder| {
            assert_eq!(holder.unwrap().pid, pid);
            told.fetch_add(1, Ordering::SeqCst);
        })
    };
    let patient = Store::open(dir.path(), Options { waiting: Some(waiting), ..Options::default() }).unwrap();
    let waiter = std::thread::spawn(move || patient.newest("p", "x").unwrap().is_some());
    while told.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(waiter.join().unwrap());
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[test]
fn lease_is_exclusive_and_ends_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (key, other) = (components("a", 1).key(), components("b", 1).key());
    let LeaseOutcome::Granted(lease) = store.lease(&key).unwrap() else { panic!("nobody has it") };
    let LeaseOutcome::HeldBy(holder) = store.lease(&key).unwrap() else { panic!("we have it") };
    assert_eq!(holder.pid, std::process::id());
    assert!(holder.may_live());
    assert_eq!(store.lease_holder(&key), Some(holder));
    assert!(matches!(store.lease(&other).unwrap(), LeaseOutcome::Granted(_)));
    drop(lease);
    assert_eq!(store.lease_holder(&key), None);
    let mut child = child("hold a lease", dir.path());
    wait_for(&mut child, "ready");
    let pid = child.id();
    assert!(matches!(store.lease(&key).unwrap(), LeaseOutcome::HeldBy(h) if h.pid == pid));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(store.lease(&key).unwrap(), LeaseOutcome::Granted(_)), "its holder is dead");
}

#[test]
fn lease_without_a_name_is_held_by_an_unknown_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let key = components("a", 1).key();
    let LeaseOutcome::Granted(lease) = store.lease(&key).unwrap() else { panic!("nobody has it") };
    fs::write(dir.path().join("leases").join(key.to_string()), "").unwrap();
    let LeaseOutcome::HeldBy(holder) = store.lease(&key).unwrap() else { panic!("we have it") };
    assert_eq!(holder.describe(), "an unknown process");
    assert!(holder.may_live() && store.lease_holder(&key).is_some());
    drop(lease);
}

/// The kernel refuses to let files grow beyond a limit, as a full disk would.
fn fill_the_disk(store: &Store) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Otherwise the signal would end the process.
    signal_hook::flag::register(25, Arc::default()).unwrap();
    commit(store, "x", &components("before", 1), &artifact(1, 100_000));
    store.close();
    let limit = 20 << 20;
    setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum: None }).unwrap();
    let c = components("too large", 1);
    let big = artifact(2, 40 << 20);
    let new =
        NewResult { pipeline: "p", point: "x", components: &c, artifact: &big, provenance: Provenance::default() };
    let error = store.commit(new).unwrap_err();
    println!("error: {error:?}");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.result(&c.key()).unwrap(), None);
    // sled may have to write when it opens a database, so the limit ends before the next read.
    setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    let before = store.result(&components("before", 1).key()).unwrap().unwrap();
    assert_eq!(read(store, &before).unwrap(), artifact(1, 100_000));
    commit(store, "x", &c, &big);
    println!("warnings: {:?}", store.warnings());
}

#[test]
fn full_disk_is_an_error_and_loses_no_stored_result() {
    let dir = tempfile::tempdir().unwrap();
    let output = child("fill the disk", dir.path()).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!fs::read_dir(dir.path()).unwrap().flatten().any(|e| e.path().display().to_string().contains("damaged")));
    let report = store(dir.path()).doctor(false, &mut |_, _| ()).unwrap();
    assert!(report.is_healthy() && report.results == 2, "{report:?}");
}
