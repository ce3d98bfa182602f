//! Runs, files, collection, and round trips of any size.

use std::fs;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::key::Key;
use crate::store::blobs::CHUNK;

pub(super) fn run(id: &str, keys: &[(&str, Key)]) -> RunRecord {
    let stage = |(name, key): &(&str, Key)| StageRun {
        name: (*name).to_owned(),
        kind: "test".to_owned(),
        key: Some(*key),
        outcome: StageOutcome::Executed,
        seconds: 1.0,
        digest: None,
        resumed_at: None,
    };
    RunRecord {
        format: RUN_FORMAT,
        id: id.to_owned(),
        pipeline: "p".to_owned(),
        file: "p.toml".to_owned(),
        args: vec![],
        started_at: 1,
        finished_at: Some(2),
        status: RunStatus::Ok,
        holder: Holder::this_process(),
        device: "cpu".to_owned(),
        class: "cpu".to_owned(),
        threads: 1,
        version: "0".to_owned(),
        stages: keys.iter().map(stage).collect(),
        states: vec![],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_artifact_comes_back(sizes in proptest::collection::vec((0_usize..4, -2_i64..3), 1..5), equal: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut a = Artifact::default();
        for (i, (chunks, rest)) in sizes.iter().enumerate() {
            let len = usize::try_from((chunks * CHUNK) as i64 + rest).unwrap_or(0);
            a.files.insert(format!("f{i}"), noise(if equal { 0 } else { i as u64 }, len));
            a.tensors.insert(format!("t{i}"), Tensor::vector(&noise(0, len)));
        }
        let record = commit(&store(dir.path()), "x", &components("a", 1), &a);
        let store = store(dir.path());
        prop_assert_eq!(store.result(&record.key).unwrap().unwrap(), record.clone());
        prop_assert_eq!(read(&store, &record).unwrap().files, a.files);
        prop_assert_eq!(read(&store, &record).unwrap().tensors, a.tensors);
    }
}

#[test]
fn gc_frees_the_disk_and_keeps_what_recent_runs_need() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut keys = Vec::new();
    for i in 0..4 {
        // All four were the same point's, which now uses the last one.
        let c = components(&format!("c{i}"), 1);
        let provenance = Provenance { run: format!("run-{i}"), ..Provenance::default() };
        let new = NewResult { pipeline: "p", point: "x", components: &c, artifact: &artifact(i, 16 << 20), provenance };
        store.commit(new).unwrap();
        store.write_run(&run(&format!("run-{i}"), &[("x", c.key())])).unwrap();
        keys.push(c.key());
    }
    let policy = GcPolicy { keep_runs: 1, named: vec!["run-1".to_owned()], dry_run: true };
    let planned = store.gc(&policy).unwrap();
    assert_eq!((planned.results_kept, planned.results_removed), (2, 2));
    assert!(planned.freed_bytes() >= 32 << 20);
    assert_eq!(store.results(&keys).unwrap().iter().flatten().count(), 4, "a dry run removes nothing");
    let report = store.gc(&GcPolicy { dry_run: false, ..policy.clone() }).unwrap();
    assert_eq!((report.results_kept, report.results_removed), (2, 2));
    assert!(report.freed_bytes() >= 30 << 20, "{report:?}");
    let kept: Vec<bool> = store.results(&keys).unwrap().iter().map(Option::is_some).collect();
    assert_eq!(kept, [false, true, false, true]);
    for i in [1, 3] {
        let record = store.result(&keys[i]).unwrap().unwrap();
        assert!(store.is_present(&record).unwrap());
        assert_eq!(read(&store, &record).unwrap(), artifact(i as u64, 16 << 20));
    }
    let again = store.gc(&GcPolicy { dry_run: false, ..policy.clone() }).unwrap();
    assert_eq!((again.results_kept, again.results_removed), (2, 0));
    assert!(store.gc(&GcPolicy { named: vec!["run-9".to_owned()], ..policy }).is_err(), "a run that is not there");
    assert_eq!(fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().join("db").exists()).count(), 2);
}

#[test]
fn gc_keeps_states_of_living_chains_and_of_runs_that_did_not_finish() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let c = chain(3);
    let keys = c.states();
    commit(&store, "x", &c, &artifact(1, 10));
    for (epoch, pinned) in [(1, true), (2, false), (3, false)] {
        store.put_state(&keys[epoch as usize], at(epoch, 0), "cpu", pinned, &state(epoch, 1000)).unwrap();
    }
    let policy = GcPolicy { keep_runs: 5, named: vec![], dry_run: true };
    assert_eq!(store.gc(&policy).unwrap().states_kept, 2, "without any record, the newest result and its states stay");
    let mut killed = run("run-1", &[("x", c.key())]);
    (killed.status, killed.finished_at) = (RunStatus::Running, None);
    store.write_run(&killed).unwrap();
    assert_eq!(store.gc(&policy).unwrap().states_kept, 3);
}

#[test]
fn run_records_are_found_by_the_ends_of_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut first = run("20260101-1", &[]);
    store.write_run(&first).unwrap();
    store.write_run(&run("20260102-2", &[])).unwrap();
    first.status = RunStatus::Failed;
    store.write_run(&first).unwrap();
    fs::write(dir.path().join("runs/20260103-3.json"), "{").unwrap();
    fs::write(dir.path().join("runs/20260102-2.ndjson"), "{}").unwrap();
    assert_eq!(store.runs().unwrap().iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["20260101-1", "20260102-2"]);
    assert_eq!(store.warnings().len(), 1);
    assert_eq!(store.run("20260101").unwrap(), first);
    assert_eq!(store.run("last").unwrap().id, "20260102-2");
    assert_eq!(store.run("-2").unwrap().id, "20260102-2");
    assert!(store.run("2026").is_err() && store.run("x").is_err());
    let (a, b) = (new_run_id(), new_run_id());
    assert_ne!(a, b);
    assert!(a.len() < 32 && a.starts_with("20"), "{a}");
}

#[test]
fn a_files_digest_is_remembered_until_the_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    commit(&store(&dir.path().join("cache")), "x", &components("a", 1), &artifact(1, 10));
    let path = dir.path().join("data");
    let write = |content: &str, age: u64| {
        fs::write(&path, content).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        fs::metadata(&path).unwrap().modified().unwrap()
    };
    let fresh = || store(&dir.path().join("cache"));
    let digest = |s: &Store| s.file_digest(&path).unwrap();
    // Young: not remembered, so that a change within the clock's resolution is seen.
    write("one", 0);
    let young = fresh();
    assert_eq!(digest(&young), Digest::of(b"one"));
    fs::write(&path, "two").unwrap();
    assert_eq!(digest(&young), Digest::of(b"two"));
    drop(young);
    // Old: remembered, in the index too; which shows when content changes and nothing else does.
    let time = write("old", 100);
    assert_eq!(digest(&fresh()), Digest::of(b"old"));
    fs::write(&path, "new").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(digest(&fresh()), Digest::of(b"old"), "by size, time and inode it is the same file");
    write("new", 50);
    assert_eq!(digest(&fresh()), Digest::of(b"new"));
    assert!(fresh().file_digest(&dir.path().join("none")).is_err());
}
