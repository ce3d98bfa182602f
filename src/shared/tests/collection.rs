//! Collections beside machines that push.

use std::time::Duration;

use super::super::record::Named as _;
use super::runs::{files, put_run, run};
use super::*;
use crate::store::tests::{artifact, commit, components};

const POLICY: SharedGcPolicy = SharedGcPolicy { keep_runs: 1, grace: GRACE, dry_run: false, force: false };

/// A store whose objects are all old and needed by nobody, and a machine that is about to push what needs them.
struct Scene {
    store: Arc<Faulty>,
    writer: Arc<Machine>,
    /// The first is in the store. The blobs of the second are there.
    results: [ResultRecord; 2],
}

impl Scene {
    fn new() -> Self {
        let store = faultless();
        let writer = Machine::new(&store);
        let [stored, first, second] = [("a", 1), ("b", 2), ("c", 2)]
            .map(|(name, number)| commit(&writer.cache, name, &components(name, 1), &artifact(number, 100)));
        writer.push_result(&stored);
        writer.push_result(&first);
        put_run(&writer, &run("r1", &files()), &files()).unwrap();
        remove(&store, &first.object());
        remove(&store, "run/r1");
        store.age(2 * GRACE);
        Self { store, writer: Arc::new(writer), results: [stored, second] }
    }

    /// What the writer does.
    fn push(&self) -> impl FnOnce() + Send + 'static {
        let (writer, results) = (Arc::clone(&self.writer), self.results.clone());
        move || {
            writer.shared.put_root("p", ("r2", None), &results, &[]).unwrap();
            writer.push(results.to_vec(), Vec::new()).unwrap();
            put_run(&writer, &run("r2", &files()), &files()).unwrap();
        }
    }

    /// What another machine does.
    fn collect(&self) -> impl FnOnce() + Send + 'static {
        let collector = Machine::new(&self.store);
        move || {
            if let Err(error) = collector.shared.gc(&POLICY) {
                assert!(error.to_string().contains("another collection"), "{error}");
            }
        }
    }

    fn assert_nothing_is_lost(&self, when: &str) {
        let reader = Machine::new(&self.store);
        let keys = self.results.each_ref().map(|result| result.key);
        assert_eq!(reader.pull(&keys).unwrap(), 2, "{when}: {:?}", reader.shared.warnings());
        let run = reader.shared.run("r2").unwrap();
        reader.shared.write_run(&run, &reader.dir.path().join("files")).unwrap();
    }

    fn trash(&self) -> Vec<String> {
        objects(&self.store).into_iter().filter(|name| name.starts_with("trash/")).collect()
    }
}

#[test]
fn old_objects_that_nobody_needs_are_removed() {
    let scene = Scene::new();
    assert_eq!(objects(&scene.store).len(), 8, "{:?}", objects(&scene.store));
    scene.collect()();
    assert_eq!(objects(&scene.store), ["vadpipe.json"]);
}

#[test]
fn collection_makes_no_store_where_there_is_none() {
    let store = faultless();
    assert_eq!(Machine::new(&store).shared.gc(&POLICY).unwrap().records_removed, 0);
    assert_eq!(objects(&store), [""; 0]);
}

#[test]
fn push_between_any_two_requests_of_a_collection_loses_nothing() {
    for after in 0.. {
        let scene = Scene::new();
        scene.store.meanwhile(after, scene.push());
        scene.collect()();
        if scene.store.forget_meanwhile() {
            assert!(after > 20, "{after} requests");
            break;
        }
        scene.assert_nothing_is_lost(&format!("after {after} requests"));
        assert_eq!(scene.trash(), [""; 0]);
    }
}

#[test]
fn collection_between_any_two_requests_of_a_push_loses_nothing() {
    for after in 0.. {
        let scene = Scene::new();
        scene.store.meanwhile(after, scene.collect());
        scene.push()();
        if scene.store.forget_meanwhile() {
            assert!(after > 20, "{after} requests");
            break;
        }
        scene.assert_nothing_is_lost(&format!("after {after} requests"));
    }
}

#[test]
fn collection_that_ended_early_loses_nothing_and_the_next_one_completes_it() {
    for after in 0.. {
        let scene = Scene::new();
        let store = Arc::clone(&scene.store);
        scene.store.meanwhile(after, move || store.set(Rates { fail: 100, ..Rates::default() }));
        let collector = Machine::new(&scene.store);
        let collected = collector.shared.gc(&POLICY);
        scene.store.set(Rates::default());
        if scene.store.forget_meanwhile() {
            break;
        }
        scene.push()();
        scene.assert_nothing_is_lost(&format!("after {after} requests: {collected:?}"));
        scene.store.age(2 * GRACE);
        scene.collect()();
        scene.assert_nothing_is_lost(&format!("after {after} requests and a second collection"));
        assert_eq!(scene.trash(), [""; 0]);
    }
}

#[test]
fn collection_beside_another_one_loses_nothing() {
    for after in 0.. {
        let scene = Scene::new();
        scene.store.meanwhile(after, scene.collect());
        let collector = Machine::new(&scene.store);
        collector.shared.gc(&POLICY).unwrap();
        if scene.store.forget_meanwhile() {
            break;
        }
        scene.push()();
        scene.assert_nothing_is_lost(&format!("after {after} requests"));
    }
}

#[test]
fn dry_run_changes_nothing() {
    let scene = Scene::new();
    let before = objects(&scene.store);
    let policy = SharedGcPolicy { grace: Duration::ZERO, dry_run: true, ..POLICY };
    let report = scene.writer.shared.gc(&policy).unwrap();
    assert_eq!((report.records_removed, report.blobs_removed), (1, 6), "{report:?}");
    assert_eq!(objects(&scene.store), before);
}
