//! Errors that are not damage: a file that can't be read or written for a moment loses no result.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::damage::{copy, three};
use super::packs::{pack_files, policy};
use super::*;
use crate::store::pack_writer::{Body, Pace, Source};
use crate::store::{pack, pack_writer, pieces};

const MB: usize = 1 << 20;

/// A result whose two tensors, of 1 and 4 MiB, share a pack; and the folder of packs.
fn two_in_a_pack(dir: &Path, seed: u64) -> (ResultRecord, Artifact, PathBuf) {
    let store = store(dir);
    let mut a = Artifact::default();
    a.tensors.insert("a".to_owned(), Tensor::vector(&noise(seed, MB)));
    a.tensors.insert("b".to_owned(), Tensor::vector(&noise(100 + seed, 4 * MB)));
    (commit(&store, "x", &components("a", 1), &a), a, pack::folder(&dir.join("chunks-0")))
}

/// Removes the tensor `b`, so that little of its pack is left.
fn remove_b(dir: &Path, record: &ResultRecord) {
    let b = BTreeSet::from([record.manifest.tensors["b"].blob.digest]);
    store(dir).blobs.change(|o| pieces::remove(o, |blob| b.contains(blob))).unwrap();
}

/// Writes a pack with the tensor `a` alone that no location names, like one that a process leaves if it is killed while
/// it rewrites a pack.
fn orphan(folder: &Path, a: &Artifact) {
    let blob = a.tensors["a"].to_blob().unwrap();
    let source = Source { head: Vec::new(), body: Body::Bytes(&blob) };
    pack_writer::write(&[source], folder, &|p| Ok(vec![false; p.len()]), Pace::Fast).unwrap();
}

#[test]
fn pack_of_a_killed_process_is_not_mistaken_for_a_rewritten_one() {
    for seed in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        // The file system lists a folder's entries in any order.
        let folder = pack::folder(&dir.path().join("chunks-0"));
        let (record, a) = if seed % 2 == 0 {
            let (record, a, _) = two_in_a_pack(dir.path(), seed);
            orphan(&folder, &a);
            (record, a)
        } else {
            let a = two_in_a_pack(tempfile::tempdir().unwrap().path(), seed).1;
            commit(&store(dir.path()), "y", &components("y", 1), &artifact(1, 10));
            orphan(&folder, &a);
            (two_in_a_pack(dir.path(), seed).0, a)
        };
        // The result `y` has a pack of its own.
        let others = seed as usize % 2;
        assert_eq!(pack_files(dir.path()).len(), 2 + others);
        remove_b(dir.path(), &record);
        assert_eq!(pack_files(dir.path()).len(), 1 + others);
        assert_eq!(store(dir.path()).read_tensor(&record.manifest.tensors["a"]).unwrap(), a.tensors["a"], "{seed}");
    }
}

#[test]
fn pack_that_can_not_be_rewritten_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (record, a, folder) = two_in_a_pack(dir.path(), 1);
    // A folder has the name of the new pack.
    let before = pack_files(dir.path());
    orphan(&folder, &a);
    let name = pack_files(dir.path()).into_iter().find(|p| !before.contains(p)).unwrap();
    fs::remove_file(&name).unwrap();
    fs::create_dir_all(name.join("full")).unwrap();
    remove_b(dir.path(), &record);
    let store = store(dir.path());
    assert_eq!(store.read_tensor(&record.manifest.tensors["a"]).unwrap(), a.tensors["a"]);
    fs::remove_dir_all(&name).unwrap();
    assert_eq!(pack_files(dir.path()), before);
}

#[test]
fn unreadable_pack_is_an_error_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (record, a, _) = two_in_a_pack(dir.path(), 1);
    let pack = pack_files(dir.path()).remove(0);
    let aside = dir.path().join("pack");
    fs::rename(&pack, &aside).unwrap();
    // Nobody can read a folder like a file, not even root.
    fs::create_dir(&pack).unwrap();
    let store = store(dir.path());
    let refused = |error: StoreError| assert!(matches!(error, StoreError::Io { .. }), "{error}");
    refused(store.read_tensor(&record.manifest.tensors["a"]).unwrap_err());
    refused(store.doctor(true, &mut |_, _| ()).unwrap_err());
    store.gc(&policy()).unwrap();
    fs::remove_dir(&pack).unwrap();
    fs::rename(&aside, &pack).unwrap();
    assert_eq!(store.result(&record.key).unwrap().unwrap(), record);
    assert_eq!(read(&store, &record).unwrap(), a);
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    store.gc(&policy()).unwrap();
    assert_eq!(read(&store, &record).unwrap(), a);
    assert_eq!(store.warnings(), [""; 0]);
}

#[test]
fn unreadable_small_file_is_an_error_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let a = artifact(1, 1000);
    let record = commit(&store, "x", &components("a", 1), &a);
    let file = dir.path().join("small").join(record.manifest.files["noise"].digest.to_string());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(matches!(read(&store, &record), Err(StoreError::Io { .. })));
    fs::remove_dir(&file).unwrap();
    fs::write(&file, &a.files["noise"]).unwrap();
    assert_eq!(read(&store, &record).unwrap(), a);
    assert_eq!(store.result(&record.key).unwrap().unwrap(), record);
}

#[test]
fn saved_index_of_an_earlier_version_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let index = dir.path().join("index");
    copy(&index, &dir.path().join("index-saved"));
    fs::rename(&index, dir.path().join("index-damaged-1")).unwrap();
    let store = store(dir.path());
    for (c, a) in &all {
        assert_eq!(read(&store, &store.result(&c.key()).unwrap().unwrap()).unwrap(), *a);
    }
    assert!(index.exists() && !dir.path().join("index-saved").exists());
}

#[test]
fn read_beside_collections_and_removals_finds_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (record, a, _) = two_in_a_pack(dir.path(), 1);
    let reader = store(dir.path());
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let store = store(dir.path());
            let keys = chain(20).chain().keys().to_vec();
            let mut before: Option<StateRecord> = None;
            for i in 0..12 {
                let state = store.put_state(&keys, NewState::new(at(i, 0), "cpu", false, &state(i, MB))).unwrap();
                if let Some(old) = before.replace(state.clone()) {
                    store.remove_superseded(&old, &state).unwrap();
                }
                store.gc(&policy()).unwrap();
            }
        });
        while !collector.is_finished() {
            assert_eq!(read(&reader, &record).unwrap(), a);
        }
        collector.join().unwrap();
    });
    assert_eq!(reader.warnings(), [""; 0]);
    assert_eq!(reader.result(&record.key).unwrap().unwrap(), record);
}

#[test]
fn failed_thread_ends_the_writing_of_a_pack() {
    let dir = tempfile::tempdir().unwrap();
    let blob = vec![0; 80 * MB];
    let source = Source { head: Vec::new(), body: Body::Bytes(&blob) };
    // Many groups, so that the other threads are at work when one fails.
    let write = || pack_writer::write(&[source], dir.path(), &|_| panic!("as it should"), Pace::Fast);
    let ended = catch_unwind(AssertUnwindSafe(write));
    assert!(ended.is_err() || ended.is_ok_and(|written| written.is_err()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
