//! Caches of formats 1 and 2: without journals, with blobs in the database itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::damage::{find, flip, three};
use super::packs::{pack_files, policy};
use super::rebuilding::all_are_there;
use super::*;
use crate::artifact::BlobEntry;
use crate::store::blobs;
use crate::store::database::Opened;
use crate::store::engine::flush;
use crate::store::old_chunks::CHUNK;
use crate::store::pieces;

/// Turns a cache into one of an earlier format.
fn make_old(dir: &Path, format: u32) {
    let store = store(dir);
    let largest = if format == 1 { u64::MAX } else { 256 << 10 };
    let wanted = store.index.wanted_blobs().unwrap();
    let moved: Vec<(Digest, Vec<u8>)> = wanted
        .into_iter()
        .filter(|blob| blob.size <= largest)
        .map(|blob| (blob.digest, store.read_file(&blob).unwrap()))
        .collect();
    let names: BTreeSet<Digest> = moved.iter().map(|(digest, _)| *digest).collect();
    let write = |o: &Opened| {
        pieces::remove(o, |digest| names.contains(digest))?;
        for (digest, bytes) in &moved {
            let mut list = (bytes.len() as u64).to_le_bytes().to_vec();
            for chunk in bytes.chunks(CHUNK) {
                list.extend_from_slice(&Digest::of(chunk).0);
                o.db.insert(pieces::key(b'c', &Digest::of(chunk)), chunk)?;
            }
            o.db.insert(pieces::key(b'b', digest), list)?;
        }
        o.db.remove("j")?;
        flush(&o.db, o.path())
    };
    store.blobs.change(write).unwrap();
    store.index.with(crate::store::database::Access::Write, |o| Ok(o.db.remove("j").map(drop)?)).unwrap();
    drop(store);
    for folder in ["index", "chunks-0"] {
        fs::remove_file(dir.join(folder).join("journal")).unwrap();
    }
    fs::write(dir.join("FORMAT"), format!("{format}\n")).unwrap();
    let _ = fs::remove_file(dir.join("reserve"));
}

fn format(dir: &Path) -> String {
    fs::read_to_string(dir.join("FORMAT")).unwrap()
}

/// A result with this many bytes in blobs that formats before 3 stored in the database itself.
fn many(bytes: usize) -> Artifact {
    let mut many = Artifact::default();
    (0..bytes as u64 / 200_000).for_each(|i| drop(many.files.insert(format!("f{i}"), noise(1000 + i, 200_000))));
    many
}

#[test]
fn caches_of_earlier_formats_are_read_unchanged_and_move_to_packs_when_collected() {
    for old in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let mut all = three(dir.path());
        all.push((components("large", 1), artifact(4, 3 << 20)));
        commit(&store(dir.path()), "l", &all[3].0, &all[3].1);
        make_old(dir.path(), old);
        let store = store(dir.path());
        all_are_there(&store, &all, "read as it is");
        assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
        assert_eq!(format(dir.path()), format!("{old}\n"), "reading changes nothing");
        assert!(!dir.path().join("index/journal").exists());
        // Bytes that are stored in any format are not stored again.
        let packs = pack_files(dir.path()).len();
        commit(&store, "again", &components("again", 1), &all[0].1);
        assert_eq!((format(dir.path()).as_str(), pack_files(dir.path()).len()), ("3\n", packs + 1));
        all_are_there(&store, &all, "after a change");
        store.gc(&policy()).unwrap();
        all_are_there(&store, &all, "after a collection");
        let chunks = store.blobs.change(|o| Ok(o.db.scan_prefix("c").count() + o.db.scan_prefix("b").count()));
        assert_eq!(chunks.unwrap(), 0);
        assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
        assert_eq!(store.warnings(), [""; 0]);
    }
}

#[test]
fn collection_raises_the_format_before_it_begins_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    make_old(dir.path(), 2);
    store(dir.path()).gc(&policy()).unwrap();
    assert_eq!(format(dir.path()), "3\n");
    all_are_there(&store(dir.path()), &all, "after a collection");
}

#[test]
fn entries_that_a_whole_journal_removed_are_not_restored_from_set_aside_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = three(dir.path());
    make_old(dir.path(), 2);
    let first = store(dir.path());
    all.push((components("large", 1), artifact(4, 3 << 20)));
    let large = commit(&first, "l", &all[3].0, &all[3].1);
    first.close();
    // sled's files from before the removal, damaged.
    let chunks = dir.path().join("chunks-0");
    let older = tempfile::tempdir().unwrap();
    super::damage::copy(&chunks, older.path());
    let gone = large.manifest.files["noise"].digest;
    first.blobs.change(|o| pieces::remove(o, |digest| *digest == gone)).unwrap();
    drop(first);
    for entry in fs::read_dir(older.path()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "db" || name.starts_with("snap.") {
            fs::copy(entry.path(), chunks.join(name)).unwrap();
        }
    }
    fs::write(chunks.join("conf"), noise(5, 100)).unwrap();
    let second = store(dir.path());
    let has = second.blobs.change(|o| blobs::is_listed(o, &BlobEntry { digest: gone, size: 3 << 20 })).unwrap();
    assert!(!has, "the journal removed it");
    all_are_there(&second, &all[..3], "chunks of format 2");
}

#[test]
fn unfinished_snapshot_in_a_cache_of_format_2_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    make_old(dir.path(), 2);
    for folder in ["index", "chunks-0"] {
        fs::write(dir.path().join(folder).join("snap.FFFFFFFFFFFFFFFF.generating"), "").unwrap();
    }
    let store = store(dir.path());
    all_are_there(&store, &all, "unfinished snapshot");
    assert_eq!(store.warnings(), [""; 0]);
}

#[test]
fn damaged_index_of_format_2_is_kept_and_its_readable_entries_are_saved() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    make_old(dir.path(), 2);
    // Opening makes sled take a snapshot, which is then damaged.
    drop(store(dir.path()).result(&all[0].0.key()));
    let index = dir.path().join("index");
    let names = fs::read_dir(&index).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let snapshot = names.filter(|name| name.starts_with("snap.")).max().unwrap();
    fs::write(index.join(&snapshot), "").unwrap();
    let store = store(dir.path());
    all_are_there(&store, &all, "sled's log is whole");
    let warnings = store.warnings();
    assert!(warnings[0].contains("is kept as") && warnings[0].contains("index-damaged-1"), "{warnings:?}");
    assert!(dir.path().join("index-damaged-1/db").exists() && index.join("journal").exists());
    assert_eq!(format(dir.path()), "3\n");
}

#[test]
fn flipped_bit_in_chunks_of_format_2_costs_only_its_own_result() {
    for more in [0, 30 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let all = three(dir.path());
        if more > 0 {
            commit(&store(dir.path()), "more", &components("more", 1), &many(more));
        }
        make_old(dir.path(), 2);
        // Opening makes sled take a snapshot. In a log without one, a flipped bit looks like its torn end.
        assert!(store(dir.path()).doctor(false, &mut |_, _| ()).unwrap().is_healthy());
        let file = dir.path().join("chunks-0/db");
        flip(&file, find(&file, &noise(1, 150_000)[70_000..70_100]));
        let store = store(dir.path());
        let record = |i: usize| store.result(&all[i].0.key()).unwrap().unwrap();
        let mut lost = 0;
        for (i, (_, a)) in all.iter().enumerate() {
            match read(&store, &record(i)) {
                Ok(found) => assert_eq!(found, *a),
                Err(error) => {
                    assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
                    assert!(!is_present(&store, &record(i)));
                    lost += 1;
                }
            }
        }
        assert!((1..=2).contains(&lost), "{lost} {:?}", store.warnings());
        all.iter().zip(["x0", "x1", "x2"]).for_each(|((c, a), point)| drop(commit(&store, point, c, a)));
        all_are_there(&store, &all, "computed again");
        store.doctor(true, &mut |_, _| ()).unwrap();
        assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
        all_are_there(&store, &all, "after a repair");
    }
}

#[test]
fn doctor_restores_an_index_that_an_earlier_version_lost() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let keys = chain(3).chain().keys().to_vec();
    store(dir.path()).put_state(&keys, NewState::new(at(2, 0), "cpu", true, &state(2, 300_000))).unwrap();
    make_old(dir.path(), 2);
    // An earlier version found an empty snapshot, moved all snapshots away, and found nothing.
    let (index, aside) = (dir.path().join("index"), dir.path().join("index-damaged-1"));
    fs::write(index.join("snap.FFFFFFFFFFFFFFFF.generating"), "").unwrap();
    fs::create_dir(index.join("snapshots")).unwrap();
    for entry in fs::read_dir(&index).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::rename(entry.path(), index.join("snapshots").join(entry.file_name())).unwrap();
        }
    }
    fs::rename(&index, &aside).unwrap();
    let store = store(dir.path());
    assert_eq!(store.result(&all[0].0.key()).unwrap(), None);
    commit(&store, "x0", &all[0].0, &all[0].1);
    let report = store.doctor(false, &mut |_, _| ()).unwrap();
    assert_eq!((report.results, report.results_restored, report.states_restored), (1, 2, 1));
    assert_eq!(store.result(&all[1].0.key()).unwrap(), None, "only a repair changes something");
    store.doctor(true, &mut |_, _| ()).unwrap();
    all_are_there(&store, &all, "brought back");
    assert_eq!(store.newest("p", "x2").unwrap().unwrap().key, all[2].0.key());
    assert_eq!(store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap().1, state(2, 300_000));
    let report = store.doctor(true, &mut |_, _| ()).unwrap();
    assert_eq!((report.results_restored, report.states_restored, report.set_aside), (0, 0, vec![aside.clone()]));
    assert!(aside.join("db").exists() && !aside.join("snap.FFFFFFFFFFFFFFFF.generating").exists());
}
