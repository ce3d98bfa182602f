//! Push and pull over a store that works, with objects that are missing or altered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::blobs::blob_name;
use super::super::record::{self, ANYBODY, Named as _};
use super::*;
use crate::artifact::{Artifact, Tensor};
use crate::key::Components;
use crate::store::tests::damage::flip;
use crate::store::tests::packs::pack_files;
use crate::store::tests::{artifact, at, chain, commit, components, noise, read, state};
use crate::store::{NewState, Pace};

/// A machine with a result of a small file, a small tensor and a tensor of several pieces, which also is larger than a
/// part and a range.
fn with_result(store: &Arc<Faulty>) -> (Machine, ResultRecord, Artifact) {
    let machine = Machine::new(store);
    let mut a = artifact(1, 1000);
    a.tensors.insert("large".to_owned(), Tensor::vector(&noise(2, (9 << 20) + 7)));
    let record = commit(&machine.cache, "x", &components("a", 1), &a);
    (machine, record, a)
}

#[test]
fn pushed_result_is_a_hit_on_another_machine_with_the_same_bytes() {
    let store = faultless();
    let (first, record, a) = with_result(&store);
    let pushed = first.push_result(&record);
    assert_eq!((pushed.results, pushed.others.len()), (1, 0));
    let second = Machine::new(&store);
    // The other cache has a different history.
    commit(&second.cache, "y", &components("b", 1), &artifact(5, 200_000));
    assert_eq!(second.pull(&[record.key]).unwrap(), 1);
    assert_eq!(second.hit(&record.key), Some(record.digest));
    let pulled = second.cache.result(&record.key).unwrap().unwrap();
    assert_eq!(read(&second.cache, &pulled).unwrap(), a);
    let mut expected = record;
    expected.provenance.pulled = true;
    assert_eq!(pulled, ResultRecord { lineage: pulled.lineage, ..expected });
    assert!(second.is_healthy());
    assert_eq!(first.shared.warnings(), ["there was no store memory:: this is a new one"]);
    assert_eq!(second.shared.warnings(), [""; 0]);
}

#[test]
fn push_skips_objects_that_are_there_and_completes_a_push_that_broke_off() {
    let store = faultless();
    let (machine, record, _) = with_result(&store);
    machine.push_result(&record);
    let complete = objects(&store);
    assert_eq!(complete.len(), 5, "the marker, three blobs and the record: {complete:?}");
    let push = || {
        store.requests();
        let pushed = machine.push_result(&record);
        (pushed.results, store.requests().get("put").copied().unwrap_or(0) + store.requests().len() as u64)
    };
    assert_eq!(push(), (0, 0));
    let large = blob_name(&record.manifest.tensors["large"].blob);
    remove(&store, &record.object());
    remove(&store, &large);
    assert_eq!(push().0, 1);
    assert_eq!(objects(&store), complete);
    // Someone has deleted or cut off a blob, and the record that names it is there.
    for how in ["deleted", "cut off"] {
        let bytes = get(&store, &large);
        if how == "deleted" {
            remove(&store, &large)
        } else {
            put(&store, &large, bytes[..1000].to_vec())
        }
        assert_eq!(push().0, 0, "{how}");
        assert_eq!(get(&store, &large), bytes, "{how}");
    }
}

#[test]
fn old_blobs_are_written_again_only_for_new_records() {
    let store = faultless();
    let (machine, record, a) = with_result(&store);
    machine.push_result(&record);
    store.age(GRACE);
    store.requests();
    machine.push_result(&record);
    assert_eq!(store.requests().get("put"), None, "nothing is new");
    let same = commit(&machine.cache, "y", &components("b", 1), &a);
    store.requests();
    assert_eq!(machine.push_result(&same).results, 1);
    let requests = store.requests();
    assert_eq!((requests["put"], requests["multipart"]), (3, 1), "two small blobs, a large one and a record");
}

#[test]
fn altered_or_missing_object_is_a_miss_and_is_reported_and_is_replaced_by_a_push() {
    let store = faultless();
    let (first, record, a) = with_result(&store);
    first.push_result(&record);
    for name in objects(&store).into_iter().filter(|name| name != "vadpipe.json") {
        let intact = get(&store, &name);
        for how in ["flipped", "cut", "empty", "missing"] {
            let mut bytes = intact.clone();
            match how {
                "flipped" => bytes[intact.len() / 2] ^= 1,
                "cut" => bytes.truncate(intact.len() / 3),
                _ => bytes.clear(),
            }
            if how == "missing" {
                remove(&store, &name)
            } else {
                put(&store, &name, bytes)
            }
            let second = Machine::new(&store);
            assert_eq!(second.pull(&[record.key]).unwrap(), 0, "{name} {how}");
            assert_eq!(second.cache.result(&record.key).unwrap(), None, "{name} {how}");
            // A record that is not there is an ordinary miss.
            let is_reported = !(name.starts_with("result/") && how == "missing");
            let warnings = second.shared.warnings();
            assert_eq!(warnings.len(), usize::from(is_reported), "{name} {how}: {warnings:?}");
            assert!(warnings.iter().all(|warning| warning.contains(&name)), "{name} {how}: {warnings:?}");
            // It makes the result itself.
            let own = commit(&second.cache, "x", &components("a", 1), &a);
            second.push_result(&own);
            let third = Machine::new(&store);
            assert_eq!(third.pull(&[record.key]).unwrap(), 1, "{name} {how}: {:?}", third.shared.warnings());
            assert_eq!(read(&third.cache, &third.cache.result(&record.key).unwrap().unwrap()).unwrap(), a);
            assert!(second.is_healthy() && third.is_healthy(), "{name} {how}");
        }
    }
}

#[test]
fn any_altered_byte_of_a_record_is_found() {
    let store = faultless();
    let machine = Machine::new(&store);
    let tensors = state(1, 10);
    let keys = chain(2).chain().keys().to_vec();
    let state = machine.cache.put_state(&keys, NewState::new(at(1, 0), "cpu", true, &tensors)).unwrap();
    let record = StateRecord { lineage: 0, ..state };
    let name = record.object();
    let key = SecretKey::generate().unwrap();
    for key in [None, Some(&key)] {
        let bytes = record::encode(&record, &name, key);
        assert_eq!(record::decode::<StateRecord>(&bytes, &name, ANYBODY).unwrap().record, record);
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            assert!(record::decode::<StateRecord>(&altered, &name, ANYBODY).is_err(), "byte {i}");
            assert!(record::decode::<StateRecord>(&bytes[..i], &name, ANYBODY).is_err(), "cut at {i}");
        }
        assert!(
            record::decode::<StateRecord>(&bytes, &name.replace("/1/", "/2/"), ANYBODY).is_err()
                || !name.contains("/1/")
        );
    }
}

#[test]
fn pull_repairs_a_damaged_result() {
    let store = faultless();
    let (machine, record, a) = with_result(&store);
    machine.push_result(&record);
    flip(&pack_files(machine.dir.path())[0], 2 << 20);
    assert!(read(&machine.cache, &record).is_err());
    assert_eq!(machine.pull(&[record.key]).unwrap(), 1);
    let repaired = machine.cache.result(&record.key).unwrap().unwrap();
    assert_eq!((repaired.damaged, read(&machine.cache, &repaired).unwrap()), (false, a));
    assert!(machine.is_healthy());
}

#[test]
fn damaged_blob_is_not_pushed_and_the_other_results_are() {
    let store = faultless();
    let (machine, record, _) = with_result(&store);
    flip(&pack_files(machine.dir.path())[0], 2 << 20);
    let other = commit(&machine.cache, "y", &components("b", 1), &artifact(5, 200_000));
    let pushed = machine.push(vec![record.clone(), other.clone()], Vec::new()).unwrap();
    assert_eq!(pushed.results, 1);
    let names = objects(&store);
    assert!(names.contains(&other.object()) && !names.contains(&record.object()), "{names:?}");
    assert!(!names.contains(&blob_name(&record.manifest.tensors["large"].blob)), "{names:?}");
    let warnings = machine.shared.warnings();
    assert!(warnings.iter().any(|warning| warning.contains("is damaged in the cache")), "{warnings:?}");
    assert!(machine.cache.result(&record.key).unwrap().unwrap().damaged);
}

#[test]
fn blobs_of_any_size_are_copied() {
    let store = faultless();
    let machine = Machine::new(&store);
    let mut a = Artifact::default();
    a.files.insert("empty".to_owned(), Vec::new());
    a.tensors.insert("no rows".to_owned(), Tensor::vector::<u8>(&[]));
    for (i, size) in
        [1, (1 << 20) - 1, 4 << 20, (4 << 20) + 1, 8 << 20, (8 << 20) + 1, 25 << 20].into_iter().enumerate()
    {
        a.tensors.insert(format!("t{i}"), Tensor::vector(&noise(i as u64, size)));
    }
    let record = commit(&machine.cache, "x", &components("a", 1), &a);
    let begun = std::time::Instant::now();
    machine.push_result(&record);
    let second = Machine::new(&store);
    assert_eq!(second.pull(&[record.key]).unwrap(), 1);
    assert!(begun.elapsed().as_secs() < 60);
    let pulled = second.cache.result(&record.key).unwrap().unwrap();
    assert_eq!(read(&second.cache, &pulled).unwrap(), a);
}

#[test]
fn thousands_of_small_blobs_are_copied_and_one_pull_finds_all_that_are_missing() {
    let store = faultless();
    let machine = Machine::new(&store);
    let many: Vec<_> = (0..50_u8)
        .map(|i| {
            let tensor = |n: u64| (format!("t{n}"), Tensor::vector(&noise(u64::from(i) << 16 | n, 100)));
            let a = Artifact { tensors: (0..60).map(tensor).collect(), ..Artifact::default() };
            (components("many", i), a)
        })
        .collect();
    let records: Vec<_> = many.iter().map(|(c, a)| commit(&machine.cache, "x", c, a)).collect();
    assert_eq!(machine.push(records.clone(), Vec::new()).unwrap().results, 50);
    let keys: Vec<Key> = records.iter().map(|record| record.key).collect();
    for record in &records[..10] {
        remove(&store, &blob_name(&record.blobs().nth(3).unwrap()));
    }
    store.requests();
    let second = Machine::new(&store);
    assert_eq!(second.pull(&keys).unwrap(), 40);
    let requests = store.requests();
    assert!(requests["get"] < 3300, "nothing is read twice: {requests:?}");
    let warnings = second.shared.warnings();
    assert!(warnings.len() == 6 && warnings[5].starts_with("5 more such objects"), "{warnings:?}");
    for (record, (_, a)) in records.iter().zip(&many).skip(10) {
        assert_eq!(read(&second.cache, record).unwrap(), *a);
    }
    assert!(second.is_healthy());
}

#[test]
fn what_arrived_before_an_interruption_stays() {
    let store = faultless();
    let machine = Machine::new(&store);
    let records: Vec<_> = (0..6)
        .map(|i| {
            let a = Artifact {
                tensors: [("t".to_owned(), Tensor::vector(&noise(i, 5 << 20)))].into(),
                ..Artifact::default()
            };
            commit(&machine.cache, "x", &components("a", i as u8), &a)
        })
        .collect();
    let keys: Vec<Key> = records.iter().map(|record| record.key).collect();
    // The second range of the third result is the last one.
    let moved = AtomicU64::new(0);
    let is_over = || moved.load(Ordering::Relaxed) > 16 << 20;
    let progress = |done, _| moved.store(done, Ordering::Relaxed);
    let interrupted = |machine: &Machine, push: bool| {
        moved.store(0, Ordering::Relaxed);
        let transfer = Transfer::new(&is_over, &progress);
        let asked: Vec<_> = keys.iter().map(|key| Asked { declared: *key, reads_files: false }).collect();
        match push {
            true => {
                let records = Import { results: records.clone(), states: Vec::new() };
                machine.shared.push(&machine.cache, records, &transfer).map(drop)
            }
            false => machine.shared.pull_results(&machine.cache, &asked, &|_| true, &transfer).map(drop),
        }
    };
    assert!(matches!(interrupted(&machine, true), Err(SharedError::Cancelled)));
    let blobs = objects(&store).iter().filter(|name| name.starts_with("blob/")).count();
    assert!((1..6).contains(&blobs), "{blobs}");
    assert_eq!(machine.push(records.clone(), Vec::new()).unwrap().results, 6);
    let second = Machine::new(&store);
    assert!(matches!(interrupted(&second, false), Err(SharedError::Cancelled)));
    let arrived = keys.iter().filter(|key| second.hit(key).is_some()).count();
    assert!((1..6).contains(&arrived), "{arrived}");
    assert!(second.is_healthy());
    assert_eq!(second.pull(&keys).unwrap(), 6);
    assert!(Transfer::silent(&|| true).is_cancelled());
}

#[test]
fn sizes_that_lie_are_misses_and_cost_no_memory() {
    let store = faultless();
    let (machine, record, _) = with_result(&store);
    machine.push_result(&record);
    for size in [0, 5, 1 << 60, u64::MAX] {
        let mut lying = ResultRecord { lineage: 0, ..record.clone() };
        for tensor in lying.manifest.tensors.values_mut() {
            tensor.blob.size = size;
        }
        lying.digest = lying.manifest.digest();
        let name = lying.object();
        put(&store, &name, record::encode(&lying, &name, None));
        let second = Machine::new(&store);
        assert_eq!(second.pull(&[record.key]).unwrap(), 0, "{size}");
        assert_eq!(second.cache.result(&record.key).unwrap(), None);
        assert!(second.shared.warnings()[0].contains("can't be used"), "{size}");
    }
    // A record that is no record, and one of a later format.
    let name = record.object();
    put(&store, &name, vec![b'x'; 1 << 20]);
    let second = Machine::new(&store);
    assert_eq!(second.pull(&[record.key]).unwrap(), 0);
    let later = b"vadpipe record 2\nformat 2\n{}".to_vec();
    put(&store, &name, later.clone());
    assert_eq!(second.pull(&[record.key]).unwrap(), 0);
    let own = commit(&second.cache, "x", &components("a", 1), &artifact(1, 1000));
    second.push_result(&own);
    assert!(second.shared.warnings().iter().any(|w| w.contains("it has format 2, of a later vadpipe")));
    assert_eq!(get(&store, &name), later, "the record of a later vadpipe stays");
}

#[test]
fn one_of_two_results_under_a_key_wins() {
    for is_same in [true, false] {
        let store = faultless();
        let machines = [Machine::new(&store), Machine::new(&store)];
        let made: Vec<_> = (0..2)
            .map(|i| {
                let a = artifact(if is_same { 0 } else { i }, 60_000);
                (commit(&machines[i as usize].cache, "x", &components("a", 1), &a), a)
            })
            .collect();
        let pushed: Vec<Pushed> = std::thread::scope(|scope| {
            let threads = [0, 1].map(|i| {
                scope.spawn({
                    let (m, r) = (&machines[i], &made[i].0);
                    move || m.push_result(r)
                })
            });
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(pushed.iter().map(|pushed| pushed.results).sum::<usize>(), 1);
        let third = Machine::new(&store);
        let key = made[0].0.key;
        assert_eq!(third.pull(&[key]).unwrap(), 1);
        let winner = third.cache.result(&key).unwrap().unwrap();
        let (_, expected) = made.iter().find(|(record, _)| record.digest == winner.digest).unwrap();
        assert_eq!(read(&third.cache, &winner).unwrap(), *expected);
        let others: Vec<_> = pushed.iter().flat_map(|pushed| &pushed.others).collect();
        assert_eq!(others.len(), usize::from(!is_same));
        assert!(others.iter().all(|other| other.digest == winner.digest));
        assert_eq!(objects(&store).iter().any(|name| name.starts_with("word/")), !is_same);
    }
}

#[test]
fn result_whose_bytes_are_lost_gives_way_to_another_one() {
    for how in ["missing", "altered"] {
        let store = faultless();
        let [first, second] = [0, 1].map(|i| {
            let machine = Machine::new(&store);
            let record = commit(&machine.cache, "x", &components("a", 1), &artifact(i, 60_000));
            (machine, record)
        });
        first.0.push_result(&first.1);
        let blob = blob_name(&first.1.manifest.tensors["noise"].blob);
        if how == "missing" {
            remove(&store, &blob)
        } else {
            put(&store, &blob, vec![0; get(&store, &blob).len()])
        }
        let pushed = second.0.push_result(&second.1);
        if how == "altered" {
            // As a run does, which finds the damage.
            let [other] = &pushed.others[..] else { panic!("{pushed:?}") };
            let pulled = second.0.shared.pull_record(&second.0.cache, other.clone(), &Transfer::default()).unwrap();
            assert_eq!(pulled, None);
            assert_eq!(second.0.push_result(&second.1).results, 1);
        }
        let third = Machine::new(&store);
        assert_eq!(third.pull(&[first.1.key]).unwrap(), 1, "{how}: {:?}", third.shared.warnings());
        assert_eq!(third.hit(&first.1.key), Some(second.1.digest), "{how}");
    }
}

fn query(machine: &Machine) -> StateQuery<'_> {
    StateQuery { class: "cpu", every: 1, base: machine.dir.path() }
}

#[test]
fn training_continues_from_the_furthest_state_that_counts() {
    let store = faultless();
    let first = Machine::new(&store);
    let keys = chain(200).chain().keys().to_vec();
    let file = Digest::of(b"text");
    let saved: Vec<StateRecord> = [(2, None), (100, None), (150, Some(file)), (180, Some(Digest::of(b"other")))]
        .into_iter()
        .map(|(epoch, file)| {
            let files_read = file.map(|digest| ("data.txt".to_owned(), digest)).into_iter().collect();
            let tensors = state(epoch, 10_000);
            let new = NewState::new(at(epoch, 0), "cpu", true, &tensors);
            first.cache.put_state(&keys, NewState { files_read: &files_read, ..new }).unwrap()
        })
        .collect();
    first.push(Vec::new(), saved.clone()).unwrap();
    assert_eq!(first.push(Vec::new(), saved).unwrap().states, 0, "they are there");
    let second = Machine::new(&store);
    let digest = |path: &Path| second.cache.digest_now(path);
    let find = |query: &StateQuery<'_>, cached| {
        let found = second.shared.find_state(&keys, query, cached, &digest).unwrap();
        found.map(|state| state.epoch)
    };
    assert_eq!(find(&query(&second), 0), Some(100), "the file does not exist here");
    std::fs::write(second.dir.path().join("data.txt"), "text").unwrap();
    assert_eq!(find(&query(&second), 0), Some(150));
    assert_eq!(find(&query(&second), 150), None, "the cache has more");
    assert_eq!(find(&StateQuery { class: "cuda", ..query(&second) }, 0), None);
    let wanted = [WantedState { states: &keys, query: query(&second), cached: 0 }];
    let pull = || second.shared.pull_states(&second.cache, &wanted, &digest, &Transfer::default()).unwrap();
    assert_eq!(pull(), 1);
    let (record, tensors) = second.cache.resume(&keys, &query(&second)).unwrap().unwrap();
    assert_eq!((record.epoch, tensors), (150, state(150, 10_000)));
    assert!(second.is_healthy());
}

#[test]
fn state_in_mid_epoch_stays_in_its_cache() {
    let store = faultless();
    let (machine, keys) = (Machine::new(&store), chain(3).chain().keys().to_vec());
    let save = |position| {
        let tensors = state(1, 3 << 20);
        let new = NewState { pace: Pace::Temporary, ..NewState::new(position, "cpu", false, &tensors) };
        machine.cache.put_state(&keys, new).unwrap()
    };
    assert_eq!(machine.push(Vec::new(), vec![save(at(1, 7))]).unwrap().states, 0);
    assert_eq!(objects(&store).len(), 1, "only the marker");
    assert_eq!(machine.push(Vec::new(), vec![save(at(2, 0)), save(at(2, 7))]).unwrap().states, 1);
    assert!(machine.is_healthy());
}

#[test]
fn states_of_many_trainings_are_asked_for_together() {
    let store = faultless();
    let machine = Machine::new(&store);
    let chains: Vec<Vec<Key>> =
        (0..20).map(|i| Components { seed: Some(i), ..chain(70) }.chain().keys().to_vec()).collect();
    let save =
        |chain: &Vec<Key>| machine.cache.put_state(chain, NewState::new(at(3, 0), "cpu", true, &state(3, 10))).unwrap();
    let states: Vec<_> = chains.iter().take(10).map(save).collect();
    machine.push(Vec::new(), states).unwrap();
    let all: Vec<_> =
        chains.iter().map(|chain| WantedState { states: chain, query: query(&machine), cached: 0 }).collect();
    for (trainings, lists) in [(5, 5 * 70), (20, 1)] {
        let twice: Vec<_> = all[..trainings].iter().chain(&all[..trainings]).copied().collect();
        store.requests();
        let found = machine.shared.find_states(&twice, &|_| None).unwrap();
        assert_eq!(store.requests()["list"], lists, "each epoch once, or all states in one list");
        assert_eq!(found.iter().flatten().count(), 2 * trainings.min(10));
        let fits = |(found, wanted): (&Option<StateRecord>, &WantedState<'_>)| {
            found.as_ref().is_none_or(|found| found.key == wanted.states[3])
        };
        assert!(found.iter().zip(&twice).all(fits));
    }
}

#[test]
fn nothing_asked_for_makes_no_request() {
    let store = faultless();
    let machine = Machine::new(&store);
    let keys = chain(3).chain().keys().to_vec();
    assert_eq!(machine.pull(&[]).unwrap(), 0);
    assert_eq!(machine.shared.find_states(&[], &|_| None).unwrap(), []);
    assert_eq!(machine.shared.find_state(&keys, &query(&machine), 3, &|_| None).unwrap(), None);
    assert_eq!(machine.shared.pull_states(&machine.cache, &[], &|_| None, &Transfer::default()).unwrap(), 0);
    assert_eq!(store.requests(), BTreeMap::new());
    assert_eq!(std::fs::read_dir(machine.dir.path()).unwrap().count(), 0, "the cache is not created either");
}

#[test]
fn result_of_a_program_is_found_for_the_files_that_it_read() {
    let store = faultless();
    let machine = Machine::new(&store);
    let made: Vec<_> = (0..2_u8)
        .map(|i| {
            let files_read = [("data.txt".to_owned(), Digest([i; 32]))].into();
            let c = Components { files_read, ..components("a", 1) };
            commit(&machine.cache, "x", &c, &artifact(u64::from(i), 60_000))
        })
        .collect();
    assert_eq!(machine.push(made.clone(), Vec::new()).unwrap().results, 2);
    let second = Machine::new(&store);
    let asked = Asked { declared: components("a", 1).key(), reads_files: true };
    let is_current = |files: &crate::store::FilesRead| files["data.txt"] == Digest([1; 32]);
    let pulled = second.shared.pull_results(&second.cache, &[asked], &is_current, &Transfer::default()).unwrap();
    assert_eq!(pulled, 1);
    assert_eq!(second.hit(&made[0].key), None);
    assert_eq!(second.hit(&made[1].key), Some(made[1].digest));
}

#[test]
fn store_without_its_marker_is_still_one_and_gets_it_back() {
    let store = faultless();
    let (machine, record, _) = with_result(&store);
    machine.push_result(&record);
    remove(&store, "vadpipe.json");
    let second = Machine::new(&store);
    assert_eq!(second.pull(&[record.key]).unwrap(), 1);
    second.push_result(&record);
    assert!(objects(&store).contains(&"vadpipe.json".to_owned()));
    put(&store, "a/thesis.tex", Vec::new());
    remove(&store, "vadpipe.json");
    let error = Machine::new(&store).pull(&[record.key]).unwrap_err().to_string();
    assert!(error.contains("is not a store of vadpipe: it holds a/thesis.tex"), "{error}");
}

#[test]
fn training_continues_from_the_furthest_state_that_is_whole() {
    let store = faultless();
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let keys = chain(3).chain().keys().to_vec();
    let save = |epoch: u64| {
        first.cache.put_state(&keys, NewState::new(at(epoch, 0), "cpu", true, &state(epoch, 100_000))).unwrap()
    };
    let states = [1, 2, 3].map(save).to_vec();
    first.push(Vec::new(), states.clone()).unwrap();
    let of_epoch = |epoch: u64| states.iter().find(|state| state.epoch == epoch).unwrap();
    let shared: Vec<_> = of_epoch(1).blobs().collect();
    for epoch in [2, 3] {
        let own = of_epoch(epoch).blobs().find(|blob| !shared.contains(blob)).unwrap();
        remove(&store, &blob_name(&own));
    }
    let query = StateQuery { class: "cpu", every: 1, base: second.dir.path() };
    let wanted = [WantedState { states: &keys, query, cached: 0 }];
    let pulled = second.shared.pull_states(&second.cache, &wanted, &|_| None, &Transfer::default()).unwrap();
    assert_eq!((pulled, second.cache.resume(&keys, &query).unwrap().unwrap().0.epoch), (1, 1));
    assert_eq!(second.shared.warnings().len(), 2, "both damages are reported");
}

#[test]
fn two_machines_may_make_the_same_store_at_the_same_time() {
    for after in 0.. {
        let store = faultless();
        let (first, second) = (Machine::new(&store), Machine::new(&store));
        store.meanwhile(after, move || second.shared.mark().unwrap());
        first.shared.mark().unwrap();
        if store.forget_meanwhile() {
            assert!(after > 2, "{after} requests");
            break;
        }
        assert_eq!(objects(&store), ["vadpipe.json"]);
    }
}
