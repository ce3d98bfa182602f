//! Runs, files, collection, and round trips of any size.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

use crate::status::{RunStatus, StageStatus};
use crate::store::old_chunks::CHUNK;

pub(crate) fn run(id: &str, keys: &[(&str, Key)]) -> RunRecord {
    let stage = |(name, key): &(&str, Key)| StageRun {
        name: (*name).to_owned(),
        kind: "test".to_owned(),
        key: Some(*key),
        outcome: StageStatus::Executed,
        seconds: 1.0,
        digest: None,
        resumed_at: None,
        rate: None,
        worker: None,
    };
    RunRecord {
        format: RUN_FORMAT,
        id: id.to_owned(),
        pipeline: "p".to_owned(),
        file: "p.toml".to_owned(),
        args: vec![],
        label: RunLabel::default(),
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
    fn any_artifact_is_read_back(sizes in proptest::collection::vec((0_usize..4, -2_i64..3), 1..5), equal: bool) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_record_is_read_back_to_the_last_bit(
        numbers in proptest::collection::vec(proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL, 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut c, mut a) = (chain(2), Artifact::default());
        for (i, x) in numbers.iter().enumerate() {
            Arc::make_mut(&mut c.params).insert(format!("p{i}"), (*x).into());
            a.metrics.insert(format!("m{i}"), *x);
        }
        let written = commit(&store(dir.path()), "x", &c, &a);
        let found = store(dir.path()).result(&c.key()).unwrap().unwrap();
        prop_assert_eq!(found.components.chain().keys().to_vec(), c.chain().keys().to_vec());
        for (name, x) in &a.metrics {
            prop_assert_eq!(found.manifest.metrics[name].to_bits(), x.to_bits());
        }
        prop_assert_eq!(found, written);
    }
}

#[test]
fn gc_frees_space_and_keeps_results_of_recent_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut keys = Vec::new();
    for i in 0..4 {
        // All four are results of one point, which uses the last one.
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
    assert!(planned.freed_bytes() >= 30 << 20, "{planned:?}");
    assert_eq!(store.results(&keys).unwrap().iter().flatten().count(), 4, "a dry run removes nothing");
    let report = store.gc(&GcPolicy { dry_run: false, ..policy.clone() }).unwrap();
    assert_eq!((report.results_kept, report.results_removed), (2, 2));
    assert!(report.freed_bytes() >= 30 << 20, "{report:?}");
    let kept: Vec<bool> = store.results(&keys).unwrap().iter().map(Option::is_some).collect();
    let hits = store
        .look(|look| keys.iter().map(|key| Ok(look.hit(key)?.is_some())).collect::<Result<Vec<bool>, LookError>>());
    assert_eq!(hits.unwrap(), kept, "removed results are not hits");
    assert_eq!(kept, [false, true, false, true]);
    for i in [1, 3] {
        let record = store.result(&keys[i]).unwrap().unwrap();
        assert!(is_present(&store, &record));
        assert_eq!(read(&store, &record).unwrap(), artifact(i as u64, 16 << 20));
    }
    let again = store.gc(&GcPolicy { dry_run: false, ..policy.clone() }).unwrap();
    assert_eq!((again.results_kept, again.results_removed), (2, 0));
    assert!(store.gc(&GcPolicy { named: vec!["run-9".to_owned()], ..policy }).is_err(), "run-9 does not exist");
    assert_eq!(fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().join("db").exists()).count(), 2);
}

#[test]
fn gc_keeps_results_of_a_run_whose_record_is_damaged_or_missing() {
    for damage in ["flipped", "cut", "emptied", "gone"] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let of = |i: u64| (components(&format!("c{i}"), 1), artifact(i, 100));
        let made = |i: u64, id: &str| {
            let (c, a) = of(i);
            let provenance = Provenance { run: id.to_owned(), ..Provenance::default() };
            store.commit(NewResult { pipeline: "p", point: "x", components: &c, artifact: &a, provenance }).unwrap().key
        };
        // The first run's results are named by the second run only.
        let (used, own) = (made(0, "20260101-101010101-1"), made(1, "20260102-101010101-2"));
        let id = "20260102-101010101-2";
        store.write_run(&run(id, &[("x", used), ("y", own)])).unwrap();
        let path = dir.path().join(format!("runs/{id}.json"));
        fs::write(path.with_extension("ndjson"), format!("{{\"key\":\"{used}\"}}\n")).unwrap();
        let bytes = fs::read(&path).unwrap();
        match damage {
            "flipped" => {
                // A digit of a key: still JSON, and still a key.
                let at = bytes.windows(64).position(|w| w == used.to_string().as_bytes()).unwrap();
                let mut bytes = bytes.clone();
                bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
                fs::write(&path, bytes).unwrap();
            }
            "cut" => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            "emptied" => fs::write(&path, "").unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let newest = made(2, "20260103-101010101-3");
        store.write_run(&run("20260103-101010101-3", &[("x", newest)])).unwrap();
        store.gc(&GcPolicy { keep_runs: 1, named: vec![], dry_run: false }).unwrap();
        let kept: Vec<_> = store.results(&[used, own, newest]).unwrap().iter().map(Option::is_some).collect();
        assert_eq!(kept, [true; 3], "{damage}");
    }
}

#[test]
fn gc_keeps_states_of_living_chains_and_newest_states_of_unfinished_trainings() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let c = chain(3);
    let keys = c.chain().keys().to_vec();
    commit(&store, "x", &c, &artifact(1, 10));
    for (epoch, pinned) in [(1, true), (2, false), (3, false)] {
        store.put_state(&keys, NewState::new(at(epoch, 0), "cpu", pinned, &state(epoch, 1000))).unwrap();
    }
    let policy = GcPolicy { keep_runs: 5, named: vec![], dry_run: true };
    assert_eq!(store.gc(&policy).unwrap().states_kept, 2, "without any record, the newest result and its states stay");
    // Three more trainings. A killed run knew the key of the first, and was in progress when the second saved its
    // states. No run knows the third.
    let (longer, unknown, nobodys) = (
        chain(9).chain().keys().to_vec(),
        another_chain(7).chain().keys().to_vec(),
        another_chain(8).chain().keys().to_vec(),
    );
    for (states, at) in [(&longer, at(4, 0)), (&longer, at(5, 2)), (&unknown, at(1, 0)), (&unknown, at(2, 0))] {
        store.put_state(states, NewState::new(at, "cpu", false, &state(at.epoch, 1000))).unwrap();
    }
    store.put_state(&longer, NewState::new(at(1, 0), "cuda", false, &state(1, 1000))).unwrap();
    let mut killed = run("run-1", &[("x", longer[9])]);
    (killed.status, killed.finished_at, killed.holder.start_ticks) = (RunStatus::Running, None, 1);
    store.write_run(&killed).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    killed.finished_at = Some(crate::store::holder::now_ms());
    store.write_run(&killed).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    store.put_state(&nobodys, NewState::new(at(1, 0), "cpu", false, &state(11, 1000))).unwrap();
    let report = store.gc(&GcPolicy { dry_run: false, ..policy.clone() }).unwrap();
    assert_eq!((report.states_kept, report.states_removed), (5, 4));
    let (record, tensors) = store.resume(&longer, &StateQuery::new("cpu")).unwrap().unwrap();
    assert_eq!(((record.epoch, record.step), tensors), ((5, 2), state(5, 1000)), "the same bytes");
    assert_eq!(furthest(&store, &longer, "cuda"), Some(at(1, 0)));
    assert_eq!(furthest(&store, &longer[..5], "cpu"), Some(at(3, 0)), "state 4 was superseded");
    assert_eq!(furthest(&store, &unknown, "cpu"), Some(at(2, 0)));
    assert_eq!(furthest(&store, &nobodys, "cpu"), None);
    assert_eq!(store.gc(&policy).unwrap().states_removed, 0);
}

fn another_chain(input: u8) -> Components {
    Components { inputs: components("", input).inputs, ..chain(6) }
}

#[test]
fn trainings_do_not_remove_states_of_trainings_that_share_a_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (short, long) = (chain(5).chain().keys().to_vec(), chain(9).chain().keys().to_vec());
    assert_eq!(short[3], long[3]);
    let put = |states: &[Key], epoch| {
        store.put_state(states, NewState::new(at(epoch, 0), "cpu", false, &state(epoch, 1000))).unwrap()
    };
    let theirs = put(&short, 3);
    // The other training resumes from that state and saves its own.
    let (taken_up, _) = store.resume(&long, &StateQuery::new("cpu")).unwrap().unwrap();
    assert_eq!(taken_up, theirs);
    let mine = put(&long, 6);
    assert!(!store.remove_superseded(&taken_up, &mine).unwrap());
    assert_eq!(furthest(&store, &short, "cpu"), Some(at(3, 0)));
    // Both save the last state that they share, so it is pinned.
    let (both, next) = (put(&short, 4), put(&short, 5));
    assert!(put(&long, 4).pinned && !both.pinned);
    assert!(!store.remove_superseded(&both, &next).unwrap());
    // A state that was never stored replaces nothing.
    let lost = StateRecord { key: long[8], epoch: 8, ..mine.clone() };
    assert!(!store.remove_superseded(&mine, &lost).unwrap());
    assert!(!store.remove_superseded(&mine, &mine).unwrap());
    assert!(store.remove_superseded(&mine, &put(&long, 8)).unwrap());
    assert!(
        store.put_state(&long, NewState::new(at(9, 1), "cpu", false, &state(1, 10))).is_err(),
        "beyond the chain's end"
    );
}

#[test]
fn gc_removes_leftovers_of_old_runs_and_dead_processes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let has = |path: &str| dir.path().join(path).exists();
    let make = |path: &str, days: u64| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, noise(1, 1 << 20)).unwrap();
        let time = SystemTime::now() - Duration::from_secs(days * 24 * 3600 + 60);
        fs::File::open(path.parent().unwrap()).unwrap().set_modified(time).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    commit(&store, "x", &components("a", 1), &artifact(1, 10));
    for id in ["run-1", "run-2", "run-3"] {
        store.write_run(&run(id, &[])).unwrap();
        make(&format!("runs/{id}.ndjson"), 0);
        make(&format!("logs/{id}/x.log"), 0);
    }
    let mut under_way = run("run-0", &[]);
    (under_way.status, under_way.finished_at) = (RunStatus::Running, None);
    store.write_run(&under_way).unwrap();
    make("scratch/x-aB3dE6/file", 0);
    make("verify-Zz09aa/file", 0);
    make("logs/20261120-101500123-1f3a0/x.log", 0);
    make("logs/20261110-101500123-1f3a0/x.log", 3);
    // Files of the user stay, however old they are.
    let others =
        ["scratch/notes.txt", "verify-plan/file", "verify-123456.txt", "logs/lab/x.log", "small/readme", "data.csv"];
    others.iter().for_each(|path| make(path, 30));
    store.close();
    let policy = GcPolicy { keep_runs: 0, named: vec!["run-2".to_owned()], dry_run: false };
    let planned = store.gc(&GcPolicy { dry_run: true, ..policy.clone() }).unwrap();
    let report = store.gc(&policy).unwrap();
    assert_eq!((planned.runs_removed, report.runs_removed), (1, 1));
    assert!(planned.freed_bytes() >= 3 << 20 && planned.freed_bytes() < 4 << 20, "{planned:?}");
    let ids = |store: &Store| store.runs().unwrap().into_iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(ids(&store), ["run-0", "run-2", "run-3"], "the newest run and running ones are always kept");
    assert!(!has("logs/run-1") && !has("runs/run-1.ndjson") && has("logs/run-2/x.log") && has("runs/run-3.ndjson"));
    assert!(has("logs/20261120-101500123-1f3a0") && !has("logs/20261110-101500123-1f3a0"));
    assert!(has("scratch/x-aB3dE6/file") && has("verify-Zz09aa/file"), "a run is under way");
    store.write_run(&run("run-0", &[])).unwrap();
    let at_work = store.at_work().unwrap();
    store.gc(&policy).unwrap();
    assert!(has("scratch/x-aB3dE6/file") && has("verify-Zz09aa/file"), "a verification is in progress");
    drop(at_work);
    store.gc(&policy).unwrap();
    assert!(!has("scratch/x-aB3dE6") && !has("verify-Zz09aa") && has("scratch"));
    assert!(others.iter().all(|path| has(path)));
}

#[test]
fn dry_run_estimates_the_freed_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = chain(30).chain().keys().to_vec();
    let c = components("a", 1);
    commit(&store, "x", &c, &artifact(1, 20 << 20));
    let mut before: Option<StateRecord> = None;
    // Superseded states leave holes that only a collection closes.
    for epoch in 1..=12 {
        let record =
            store.put_state(&keys, NewState::new(at(epoch, 0), "cpu", false, &state(epoch, 10 << 20))).unwrap();
        before.replace(record.clone()).map(|old| store.remove_superseded(&old, &record).unwrap());
    }
    store.close();
    let policy = GcPolicy { keep_runs: 1, named: vec![], dry_run: true };
    let planned = store.gc(&policy).unwrap();
    let report = store.gc(&GcPolicy { dry_run: false, ..policy }).unwrap();
    store.close();
    let (planned, freed) = (planned.freed_bytes() as f64, report.freed_bytes() as f64);
    assert!(planned > 10e6 && (planned - freed).abs() < 0.3 * freed.max(40e6), "{planned} {freed} {report:?}");
}

#[test]
fn small_files_need_no_packs_and_are_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (c, a) = (components("a", 1), {
        let mut a = Artifact::default();
        a.files.insert("report.html".to_owned(), noise(1, 300_000));
        a.files.insert("empty".to_owned(), vec![]);
        a
    });
    let first = store(dir.path());
    let record = commit(&first, "x", &c, &a);
    assert!(!dir.path().join("chunks-0").exists(), "nothing went there");
    assert!(is_present(&first, &record));
    assert_eq!(read(&first, &record).unwrap(), a);
    // This result doesn't depend on the chunk database.
    commit(&first, "y", &components("b", 1), &artifact(2, 100_000));
    assert!(is_present(&first, &first.result(&c.key()).unwrap().unwrap()));
    let policy = GcPolicy { keep_runs: 1, named: vec![], dry_run: false };
    first.gc(&policy).unwrap();
    assert_eq!(read(&first, &record).unwrap(), a);
    assert_eq!(first.warnings(), [""; 0]);
    assert!(first.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    // A flipped bit is found and reported. Storing the result again repairs it.
    let path = dir.path().join("small").join(Digest::of(&a.files["report.html"]).to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(first.doctor(false, &mut |_, _| ()).unwrap().affected, ["p/x"]);
    assert!(matches!(read(&first, &record), Err(StoreError::Damaged { .. })));
    assert!(!is_present(&first, &first.result(&c.key()).unwrap().unwrap()));
    let record = commit(&first, "x", &c, &a);
    assert_eq!(read(&first, &record).unwrap(), a);
    // The file is removed with the last result that needs it.
    commit(&first, "x", &components("other", 1), &artifact(3, 10));
    first.gc(&policy).unwrap();
    assert!(!path.exists());
    // Many files of one artifact go to a pack.
    let mut many = Artifact::default();
    (0..40).for_each(|i| drop(many.files.insert(format!("f{i}"), noise(100 + i, 1000))));
    let record = commit(&first, "m", &components("many", 1), &many);
    assert_eq!(read(&first, &record).unwrap(), many);
    assert!(fs::read_dir(dir.path().join("small")).unwrap().count() < 5);
}

#[test]
fn run_records_are_found_by_beginning_or_end_of_their_ids() {
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
fn digest_of_a_file_is_remembered_until_the_file_changes() {
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
    // Old: remembered, in the index too. So a change of the content alone is not seen.
    let time = write("old", 100);
    assert_eq!(digest(&fresh()), Digest::of(b"old"));
    fs::write(&path, "new").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(digest(&fresh()), Digest::of(b"old"), "by size, time and inode it is the same file");
    write("new", 50);
    assert_eq!(digest(&fresh()), Digest::of(b"new"));
    assert!(fresh().file_digest(&dir.path().join("none")).is_err());
}
