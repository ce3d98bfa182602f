//! What the page shows of runs, as their records and events change.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::page::guard::Guard;
use crate::page::live::PointRun;
use crate::stages::builtin;
use crate::status::{RunStatus, StageStatus};
use crate::store::tests::{components, run, store};
use crate::store::{CacheReader, Holder, RunRecord, Store};

/// A run that has not ended. All its points wait.
fn open_run(id: &str, points: &[&str], is_alive: bool) -> RunRecord {
    let keys: Vec<_> = points.iter().map(|point| (*point, components(point, 1).key())).collect();
    let mut record = run(id, &keys);
    for stage in &mut record.stages {
        (stage.outcome, stage.key, stage.seconds) = (StageStatus::Pending, None, 0.0);
    }
    (record.finished_at, record.status) = (None, RunStatus::Running);
    if !is_alive {
        record.holder = Holder { start_ticks: 1, ..record.holder };
    }
    record
}

/// A cache with these runs, and what follows it.
fn watch(dir: &Path, runs: &[RunRecord]) -> (Store, Watcher) {
    let store = store(dir);
    for run in runs {
        store.write_run(run).unwrap();
    }
    let reader = CacheReader::open(dir).unwrap();
    let app = App::new(Model::new(reader, vec![], Arc::new(builtin())), Guard::new(vec![]).unwrap(), None);
    let watcher = Watcher::load(Arc::new(app));
    (store, watcher)
}

fn write_events(dir: &Path, run: &str, events: &[&str]) {
    let path = dir.join("runs").join(format!("{run}.ndjson"));
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(path, before + &lines).unwrap();
}

fn status(watcher: &Watcher, point: &str) -> &'static str {
    let model = watcher.app.model();
    model.points[model.find("p", point).unwrap()].status()
}

fn started(point: &str) -> String {
    let key = components(point, 1).key();
    format!(r#"{{"event":"stage-started","stage":"{point}","kind":"test","key":"{key}","reason":null}}"#)
}

fn epoch(point: &str, epoch: u64) -> String {
    format!(r#"{{"event":"epoch","stage":"{point}","epoch":{epoch},"epochs":10,"figures":{{"loss":0.5}}}}"#)
}

/// Lets the process of a run seem to be gone.
fn kill(watcher: &Watcher, run: &str) {
    watcher.app.model_mut().runs.get_mut(run).unwrap().holder.start_ticks = 1;
    note_killed(&watcher.app);
}

#[test]
fn new_points_come_as_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut watcher) = watch(dir.path(), &[open_run("run-1", &["net@lr=0.1"], true)]);
    let mut updates = watcher.app.updates.subscribe();
    store.write_run(&open_run("run-2", &["net@lr=0.1", "net@lr=0.2"], true)).unwrap();
    watcher.look();
    let message: Value = serde_json::from_str(&updates.try_recv().unwrap()).unwrap();
    let names: Vec<_> = message["rows"].as_array().unwrap().iter().map(|row| row["point"].as_str().unwrap()).collect();
    assert_eq!((message["table"].as_bool(), names), (Some(false), vec!["net@lr=0.1", "net@lr=0.2"]), "{message}");
}

#[test]
fn points_of_a_killed_run_are_closed_even_if_a_later_run_of_other_points_is_newer() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (open_run("20260101-1", &["a"], false), open_run("20260102-2", &["b"], true));
    let (_store, mut watcher) = watch(dir.path(), &[old, new]);
    watcher.look();
    assert_eq!((status(&watcher, "a"), status(&watcher, "b")), ("skipped", "pending"));
}

#[test]
fn older_of_two_live_runs_is_read_to_its_end_after_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (open_run("20260101-1", &["a"], true), open_run("20260102-2", &["b"], true));
    let (_store, mut watcher) = watch(dir.path(), &[old, new]);
    write_events(dir.path(), "20260101-1", &[&started("a")]);
    watcher.look();
    assert_eq!(status(&watcher, "a"), "running");
    kill(&watcher, "20260101-1");
    watcher.look();
    assert_eq!((status(&watcher, "a"), status(&watcher, "b")), ("interrupted", "pending"));
    let model = watcher.app.model();
    assert!(model.runs["20260101-1"].events.is_none() && model.runs["20260102-2"].events.is_some());
}

#[test]
fn unreadable_events_of_a_killed_run_are_published_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut watcher) = watch(dir.path(), &[open_run("20260101-1", &["a"], false)]);
    std::fs::create_dir(dir.path().join("runs/20260101-1.ndjson")).unwrap();
    watcher.look();
    let version = watcher.app.model().version;
    watcher.look();
    assert_eq!(watcher.app.model().version, version);
}

#[test]
fn problem_ends_when_the_cache_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (_store, mut watcher) = watch(&cache, &[run("20260101-1", &[])]);
    assert_eq!(watcher.app.problem(), None);
    std::fs::rename(&cache, dir.path().join("moved")).unwrap();
    watcher.look();
    let problem = watcher.app.problem().unwrap();
    assert!(problem.ends_with("is not a cache: there is no such folder"), "{problem}");
    let version = watcher.app.model().version;
    std::fs::rename(dir.path().join("moved"), &cache).unwrap();
    watcher.look();
    assert_eq!(watcher.app.problem(), None);
    assert!(watcher.app.model().version > version, "pages get a message");
}

#[test]
fn removed_run_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let finished = run("20260101-1", &[("a", components("a", 1).key())]);
    let (_store, mut watcher) = watch(dir.path(), &[finished]);
    assert_eq!(watcher.app.model().trainings.len(), 1);
    std::fs::remove_file(dir.path().join("runs/20260101-1.json")).unwrap();
    watcher.look();
    let model = watcher.app.model();
    assert!(model.trainings.is_empty() && model.runs.is_empty() && model.shown().next().is_none());
}

#[test]
fn time_left_is_measured_from_the_epochs_that_were_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut watcher) = watch(dir.path(), &[open_run("20260101-1", &["a"], true)]);
    write_events(dir.path(), "20260101-1", &[&started("a"), &epoch("a", 1), &epoch("a", 5)]);
    watcher.look();
    let left = |watcher: &Watcher, change: Option<(i64, i64)>, now: i64| {
        let mut model = watcher.app.model_mut();
        let live = model.points[0].live.as_mut().unwrap();
        if let Some((from, epoch_at)) = change {
            (live.measured_from, live.epoch_at) = (live.measured_from.map(|(_, done)| (from, done)), Some(epoch_at));
        }
        live.seconds_left(now)
    };
    assert_eq!(left(&watcher, None, 9_000), None, "the page was started in mid-run");
    write_events(dir.path(), "20260101-1", &[&epoch("a", 6), &epoch("a", 7)]);
    watcher.look();
    // Epochs 6 and 7 took four seconds, and epoch 8 began a second ago.
    assert_eq!(left(&watcher, Some((1_000, 5_000)), 6_000), Some(5.0));
    write_events(dir.path(), "20260101-1", &[&started("a")]);
    watcher.look();
    assert_eq!(left(&watcher, None, 9_000), None, "it began again");
}

#[test]
fn rung_that_is_read_twice_is_shown_once() {
    let mut live =
        PointRun::new(&Arc::from("20260101-1"), &run("20260101-1", &[("a", components("a", 1).key())]).stages[0]);
    let rung = r#"{"event":"rung-reached","stage":"a","epoch":3,"seconds":1.0}"#;
    for _ in 0..2 {
        live.apply(serde_json::from_str(rung).unwrap(), None);
    }
    assert_eq!(live.rungs, [3]);
}

#[test]
fn running_run_counts_its_points_by_their_present_status() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut watcher) = watch(dir.path(), &[open_run("20260101-1", &["a", "b"], true)]);
    let counts = |watcher: &Watcher| {
        let model = watcher.app.model();
        model.runs_json()[0]["points"].clone()
    };
    assert_eq!(counts(&watcher), json!({ "pending": 2 }));
    write_events(dir.path(), "20260101-1", &[&started("b")]);
    watcher.look();
    assert_eq!(counts(&watcher), json!({ "pending": 1, "running": 1 }));
}
