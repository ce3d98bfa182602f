//! Tests of the store, and helpers that they share.

mod access;
mod care;
pub(crate) mod damage;
mod earlier_formats;
pub(crate) mod packs;
mod processes;
mod rebuilding;
mod trouble;

use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use care::run;

use super::error::Result;
use super::*;
use crate::artifact::{Artifact, Tensor};
use crate::key::{Components, Digest, InputDigest, Key, Position, Segment};

pub(crate) fn store(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap()
}

pub(crate) fn components(name: &str, input: u8) -> Components {
    Components {
        kind: "test".to_owned(),
        version: 1,
        params: BTreeMap::from([("name".to_owned(), name.into())]).into(),
        inputs: BTreeMap::from([("data".to_owned(), InputDigest::One(Digest([input; 32])))]),
        ..Components::default()
    }
}

/// Bytes that no compression or deduplication makes smaller.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn artifact(seed: u64, len: usize) -> Artifact {
    let mut artifact = Artifact::default();
    // Small files are not in packs. Most of these tests are about packs.
    match len {
        50_000..=1_048_576 => drop(artifact.tensors.insert("noise".to_owned(), Tensor::vector(&noise(seed, len)))),
        _ => drop(artifact.files.insert("noise".to_owned(), noise(seed, len))),
    }
    artifact.tensors.insert("t".to_owned(), Tensor::vector(&[seed as f32, 1.0]));
    artifact.metrics.insert("loss".to_owned(), seed as f64);
    artifact
}

pub(crate) fn commit(store: &Store, point: &str, components: &Components, artifact: &Artifact) -> ResultRecord {
    let provenance = Provenance { run: "run-1".to_owned(), ..Provenance::default() };
    store.commit(NewResult { pipeline: "p", point, components, artifact, provenance }).unwrap()
}

/// Whether a look-up considers this result present.
pub(crate) fn is_present(store: &Store, record: &ResultRecord) -> bool {
    store.are_present(&[record]).unwrap()[0]
}

/// The furthest stored state of a chain, as a look-up finds it.
pub(crate) fn furthest(store: &Store, keys: &[Key], class: &str) -> Option<Position> {
    store.longest_state(keys, &StateQuery::new(class)).unwrap().map(|state| state.position())
}

pub(crate) fn read(store: &Store, record: &ResultRecord) -> Result<Artifact> {
    let mut artifact = Artifact { metrics: record.manifest.metrics.clone(), ..Artifact::default() };
    for (name, entry) in &record.manifest.files {
        artifact.files.insert(name.clone(), store.read_file(entry)?);
    }
    for (name, entry) in &record.manifest.tensors {
        artifact.tensors.insert(name.clone(), store.read_tensor(entry)?);
    }
    Ok(artifact)
}

#[test]
fn stored_result_is_read_by_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let (c, a) = (components("a", 1), artifact(7, 200_000));
    let written = commit(&store(dir.path()), "x", &c, &a);
    let store = store(dir.path());
    let found = store.result(&c.key()).unwrap().unwrap();
    assert_eq!(found, written);
    assert_eq!(found.digest, found.manifest.digest());
    assert!(is_present(&store, &found));
    assert_eq!(read(&store, &found).unwrap(), a);
    assert_eq!(store.warnings(), [""; 0]);
}

#[test]
fn missing_cache_reads_as_empty_and_is_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("cache"));
    let key = components("a", 1).key();
    assert_eq!(store.result(&key).unwrap(), None);
    assert_eq!(store.results(&[key, key]).unwrap(), [None, None]);
    assert_eq!(store.newest("p", "x").unwrap(), None);
    assert_eq!(store.longest_state(&[key], &StateQuery::new("cpu")).unwrap(), None);
    assert!(store.runs().unwrap().is_empty());
    assert_eq!(store.disk_bytes(), 0);
    assert_eq!(store.gc(&GcPolicy { keep_runs: 1, named: vec![], dry_run: false }).unwrap(), GcReport::default());
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().is_healthy());
    assert!(!store.dir().exists());
}

#[test]
fn newest_result_of_a_point_follows_hits_and_similar_results_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (old, new) = (components("old", 1), components("new", 1));
    let first = commit(&store, "x", &old, &artifact(1, 10));
    commit(&store, "x", &new, &artifact(2, 10));
    assert_eq!(store.newest("p", "x").unwrap().unwrap().components, new);
    store.note_hits("p", &[("x", first.key), ("y", first.key)]).unwrap();
    assert_eq!(store.newest("p", "x").unwrap().unwrap().components, old);
    assert_eq!(store.newest("p", "y").unwrap().unwrap().components, old);
    assert!(store.look(|look| look.exists_but_for_inputs(&components("old", 99))).unwrap());
    assert!(!store.look(|look| look.exists_but_for_inputs(&components("other", 1))).unwrap());
}

#[test]
fn results_stored_together_equal_results_stored_one_by_one() {
    let (together, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let all: Vec<_> = (0..5).map(|i| (components(&format!("c{i}"), 1), artifact(i % 3, 60_000 * i as usize))).collect();
    let new = |(components, artifact)| {
        let provenance = Provenance { run: "run-1".to_owned(), finished_at: 1, ..Provenance::default() };
        NewResult { pipeline: "p", point: "x", components, artifact, provenance }
    };
    let group = store(together.path());
    let records = group.commit_all(all.iter().map(|(c, a)| new((c, a))).collect()).unwrap();
    let one_by_one = store(apart.path());
    for ((c, a), record) in all.iter().zip(&records) {
        assert_eq!(one_by_one.commit(new((c, a))).unwrap(), *record);
        assert_eq!(group.result(&c.key()).unwrap().as_ref(), Some(record));
        assert_eq!(read(&group, record).unwrap(), *a);
    }
    assert_eq!(group.newest("p", "x").unwrap().unwrap(), records[4]);
    assert_eq!(group.commit_all(Vec::new()).unwrap(), []);
}

#[test]
fn hit_needs_no_record_but_needs_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let hit = |store: &Store, c: &Components| store.look(|look| look.hit(&c.key())).unwrap();
    let (c, other) = (components("a", 1), components("b", 1));
    let store = store(dir.path());
    assert_eq!(hit(&store, &c), None, "there is no index yet");
    let record = commit(&store, "x", &c, &artifact(1, 100_000));
    assert_eq!((hit(&store, &c), hit(&store, &other)), (Some(record.digest), None));
    // A result of an earlier version has no short entry.
    let usable = [b"u".as_slice(), &c.key().0].concat();
    let forget = |_: &sled::Db, batch: &mut crate::store::journal::Changes| {
        batch.remove(usable.as_slice());
        Ok(())
    };
    store.index.change(forget).unwrap();
    assert_eq!(hit(&store, &c), Some(record.digest));
    let again = commit(&store, "x", &c, &artifact(1, 100_000));
    let blob = again.manifest.tensors["noise"].blob.digest;
    store.index.lose(&[blob].into()).unwrap();
    assert_eq!(hit(&store, &c), None, "its bytes are known to be damaged");
    commit(&store, "x", &c, &artifact(1, 100_000));
    assert_eq!(hit(&store, &c), Some(record.digest), "and were made again");
    store.close();
    std::fs::remove_dir_all(dir.path().join("chunks-0")).unwrap();
    assert_eq!(hit(&store, &c), None, "the chunks are gone");
}

#[test]
fn equal_blobs_and_pieces_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut big = artifact(1, 12 << 20);
    commit(&store, "x", &components("a", 1), &big);
    store.close();
    let before = store.disk_bytes();
    // The same bytes under another name, and the same bytes with some more after them.
    big.files.insert("again".to_owned(), noise(1, 12 << 20));
    big.files.insert("longer".to_owned(), [noise(1, 12 << 20), noise(2, 1000)].concat());
    let record = commit(&store, "y", &components("b", 1), &big);
    store.close();
    assert!(store.disk_bytes() - before < 10 << 20, "{before} → {}", store.disk_bytes());
    assert_eq!(read(&store, &record).unwrap(), big);
}

pub(crate) fn chain(epochs: u64) -> Components {
    Components { segments: Some(vec![Segment { epochs, params: BTreeMap::new() }]), ..components("chain", 1) }
}

pub(crate) fn state(seed: u64, len: usize) -> BTreeMap<String, Tensor> {
    BTreeMap::from([
        ("w".to_owned(), Tensor::vector(&noise(seed, len))),
        ("step".to_owned(), Tensor::vector(&[seed as u32])),
    ])
}

pub(crate) fn at(epoch: u64, step: u64) -> Position {
    Position { epoch, step }
}

#[test]
fn training_resumes_from_furthest_state_of_its_class() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = chain(5).chain().keys().to_vec();
    assert_eq!(furthest(&store, &keys, "cpu"), None);
    store.put_state(&keys, NewState::new(at(2, 0), "cpu", true, &state(2, 1000))).unwrap();
    store.put_state(&keys, NewState::new(at(3, 0), "cpu", false, &state(3, 1000))).unwrap();
    // A partial state has the key of the state that it will become.
    store.put_state(&keys, NewState::new(at(3, 9), "cpu", false, &state(39, 1000))).unwrap();
    store.put_state(&keys, NewState::new(at(3, 17), "cpu", false, &state(317, 1000))).unwrap();
    store.put_state(&keys, NewState::new(at(4, 0), "cuda", false, &state(4, 1000))).unwrap();
    assert_eq!(furthest(&store, &keys, "cpu"), Some(at(3, 17)));
    assert_eq!(furthest(&store, &keys, "cuda"), Some(at(4, 0)));
    // A chain that ends at epoch 3 uses no later state.
    assert_eq!(furthest(&store, &keys[..4], "cpu"), Some(at(3, 0)));
    let (record, tensors) = store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap();
    assert_eq!(tensors, state(317, 1000));
    let state_at = |chain: &[Key]| store.longest_state(chain, &StateQuery::new("cpu")).unwrap().unwrap();
    assert!(store.remove_superseded(&state_at(&keys[..4]), &record).unwrap());
    assert_eq!(furthest(&store, &keys[..4], "cpu"), Some(at(2, 0)));
    assert!(!store.remove_superseded(&state_at(&keys[..4]), &record).unwrap());
    assert_eq!(furthest(&store, &keys[..4], "cpu"), Some(at(2, 0)), "a pinned state stays");
    assert_eq!(furthest(&store, &keys, "cpu"), Some(at(3, 17)));
    assert_eq!(furthest(&store, &keys, "cuda"), Some(at(4, 0)), "another class is left alone");
}

#[test]
fn superseded_states_free_their_space() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = chain(40).chain().keys().to_vec();
    let mut sizes = Vec::new();
    let mut before: Option<StateRecord> = None;
    for epoch in 0..=40 {
        let record = store.put_state(&keys, NewState::new(at(epoch, 0), "cpu", false, &state(epoch, 4 << 20))).unwrap();
        assert!(before.is_none_or(|old| store.remove_superseded(&old, &record).unwrap()));
        before = Some(record);
        sizes.push(store.disk_bytes() >> 20);
    }
    assert_eq!(store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap().1, state(40, 4 << 20));
    // 164 MB were written; 4 MB are needed.
    assert!(sizes[40] < 80, "{sizes:?}");
    let policy = GcPolicy { keep_runs: 1, named: vec![], dry_run: false };
    let report = store.gc(&policy).unwrap();
    assert_eq!((report.states_removed, furthest(&store, &keys, "cpu")), (1, None));
}
