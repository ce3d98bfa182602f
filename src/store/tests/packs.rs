//! Packs: interrupted writes, damage, shared pieces, and space.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::damage::{copy, flip, heals};
use super::*;
use crate::store::journal::Changes;
use crate::store::pack_writer::{Body, Pace, Source};
use crate::store::tree::PIECE;
use crate::store::{pack, pack_writer, pieces};

const MB: usize = 1 << 20;

pub(crate) fn pack_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|e| e.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(pack_files(&path)),
            false if path.parent().unwrap().ends_with("packs") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn bytes_of(files: &[PathBuf]) -> u64 {
    files.iter().map(|f| f.metadata().unwrap().len()).sum()
}

/// Stores results with large blobs and closes the store.
fn large(dir: &Path) -> Vec<(Components, Artifact)> {
    let store = store(dir);
    let all: Vec<_> =
        (0..3_u64).map(|i| (components(&format!("l{i}"), 1), artifact(i, MB + 1000 * i as usize))).collect();
    all.iter().zip(["y0", "y1", "y2"]).for_each(|((c, a), point)| drop(commit(&store, point, c, a)));
    all
}

pub(super) fn policy() -> GcPolicy {
    GcPolicy { keep_runs: 1, named: vec![], dry_run: false }
}

#[test]
fn blobs_of_sizes_around_a_piece_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Artifact::default();
    for (i, len) in [PIECE / 4 + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 9 * PIECE - 1, 9 * PIECE, 9 * PIECE + 1]
        .iter()
        .enumerate()
    {
        a.tensors.insert(format!("t{i}"), Tensor::vector(&noise(i as u64, *len)));
        a.files.insert(format!("f{i}"), noise(10 + i as u64, *len));
    }
    let record = commit(&store(dir.path()), "x", &components("a", 1), &a);
    // The digests are those of the whole blobs, as in caches without packs.
    for (name, entry) in &record.manifest.files {
        assert_eq!(entry.digest, Digest::of(&a.files[name]));
    }
    for (name, entry) in &record.manifest.tensors {
        assert_eq!(entry.blob.digest, Digest::of(&a.tensors[name].to_blob().unwrap()));
    }
    assert_eq!(read(&store(dir.path()), &record).unwrap(), a);
    // All large blobs are in one pack. Its name shows that its pieces are in the same order each time.
    let name = |dir: &Path| pack_files(dir).iter().map(|f| f.file_name().unwrap().to_owned()).collect::<Vec<_>>();
    let other = tempfile::tempdir().unwrap();
    commit(&store(other.path()), "x", &components("a", 1), &a);
    assert_eq!((name(dir.path()).len(), name(dir.path())), (1, name(other.path())));
}

#[test]
fn interrupted_write_costs_nothing_and_is_completed_later() {
    let keys = chain(3).chain().keys().to_vec();
    let tensors = BTreeMap::from([("w".to_owned(), Tensor::vector(&noise(7, 3 * MB)))]);
    for step in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        first.put_state(&keys, NewState::new(at(1, 0), "cpu", false, &state(1, MB))).unwrap();
        let blob = tensors["w"].to_blob().unwrap();
        let source = Source { head: Vec::new(), body: Body::Bytes(&blob) };
        let folder = pack::folder(&dir.path().join("chunks-0"));
        // What a killed process may leave: half a pack, an unnamed pack, one with locations, or one with locations and
        // lists. The index has no entry.
        let mut abandoned = None;
        if step == 0 {
            let half = folder.join(".tmpkilled");
            fs::write(&half, &blob[..MB]).unwrap();
            fs::File::open(&half).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            abandoned = Some(half);
        } else {
            let written = pack_writer::write(&[source], &folder, &|p| Ok(vec![false; p.len()]), Pace::Fast).unwrap();
            match step {
                1 => {}
                2 => {
                    let mut changes = Changes::default();
                    pieces::put_locations(&mut changes, &written.locations);
                    first.blobs.change(|o| o.write(&changes)).unwrap();
                }
                _ => assert!(first.blobs.change(|o| pieces::commit(o, &written)).unwrap()),
            }
        }
        drop(first);
        let again = store(dir.path());
        assert!(again.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
        assert_eq!(again.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap().1, state(1, MB));
        let record = again.put_state(&keys, NewState::new(at(2, 0), "cpu", false, &tensors)).unwrap();
        assert_eq!(again.read_state(&record).unwrap(), tensors);
        assert!(abandoned.is_none_or(|half| !half.exists()), "what was left is removed");
        assert_eq!(pack_files(dir.path()).len(), 2, "step {step}: nothing is stored twice");
        assert_eq!(again.warnings(), [""; 0]);
    }
}

#[test]
fn blob_is_written_with_the_same_bytes_at_any_pace() {
    let blob = noise(3, 5 * MB + 17);
    let written = [Pace::Fast, Pace::Background, Pace::Temporary].map(|pace| {
        let dir = tempfile::tempdir().unwrap();
        let source = Source { head: vec![1, 2, 3], body: Body::Bytes(&blob) };
        let written = pack_writer::write(&[source], dir.path(), &|p| Ok(vec![false; p.len()]), pace).unwrap();
        let packs = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        (written.lists[0].0, packs.map(|path| fs::read(path).unwrap()).collect::<Vec<_>>())
    });
    let whole = [&[1, 2, 3], blob.as_slice()].concat();
    assert!(written.iter().all(|(_, packs)| *packs == [whole.as_slice()]));
    assert_eq!([written[0].0, written[1].0], [Digest::of(&whole); 2]);
    assert_ne!(written[2].0, written[0].0, "checksums give another digest");
}

#[test]
fn damaged_state_with_checksums_is_forgotten() {
    let template = tempfile::tempdir().unwrap();
    let keys = chain(3).chain().keys().to_vec();
    let (good, partial) = (state(1, MB), state(2, 2 * MB + 5));
    let temporary =
        |position, tensors| NewState { pace: Pace::Temporary, ..NewState::new(position, "cpu", false, tensors) };
    let first = store(template.path());
    first.put_state(&keys, NewState::new(at(1, 0), "cpu", false, &good)).unwrap();
    let before = pack_files(template.path());
    first.put_state(&keys, temporary(at(1, 7), &partial)).unwrap();
    drop(first);
    let pack = pack_files(template.path()).into_iter().find(|pack| !before.contains(pack)).unwrap();
    // The large tensor comes last, and its blob ends with its elements.
    let length = fs::metadata(&pack).unwrap().len() as usize;
    let start = length - partial["w"].to_blob().unwrap().len();
    let places = [0, start - 1, start, start + PIECE - 1, start + PIECE, length - 1];
    for damage in places.into_iter().map(Some).chain([None]) {
        let dir = tempfile::tempdir().unwrap();
        copy(template.path(), dir.path());
        if let Some(position) = damage {
            flip(&dir.path().join(pack.strip_prefix(template.path()).unwrap()), position);
        }
        let store = store(dir.path());
        let resumed = || store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap();
        let (record, tensors) = resumed();
        let expected = if damage.is_some() { (at(1, 0), &good) } else { (at(1, 7), &partial) };
        assert!((record.position(), &tensors) == expected, "{damage:?}: {:?}", record.position());
        assert_eq!(store.warnings().len(), usize::from(damage.is_some()), "{damage:?}");
        store.put_state(&keys, temporary(at(1, 7), &partial)).unwrap();
        assert!(resumed().1 == partial, "{damage:?}: it is not repaired");
    }
}

#[test]
fn states_with_checksums_and_with_digests_do_not_accumulate() {
    let dir = tempfile::tempdir().unwrap();
    let (store, keys, tensors) = (store(dir.path()), chain(9).chain().keys().to_vec(), state(1, 3 * MB));
    let mut before: Option<StateRecord> = None;
    for epoch in 1..9 {
        // All have the same tensors, as in a training that changes nothing.
        for (step, pace) in [(0, Pace::Fast), (3, Pace::Temporary), (6, Pace::Temporary)] {
            let new = NewState { pace, ..NewState::new(at(epoch, step), "cpu", false, &tensors) };
            let record = store.put_state(&keys, new).unwrap();
            assert!(before.is_none_or(|old| store.remove_superseded(&old, &record).unwrap()));
            before = Some(record);
            assert!(bytes_of(&pack_files(dir.path())) < 4 * MB as u64);
        }
    }
    assert_eq!(store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap().1, tensors);
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().is_healthy());
}

#[test]
fn state_at_the_end_of_an_epoch_has_digests_at_any_pace() {
    let dir = tempfile::tempdir().unwrap();
    let (store, keys, tensors) = (store(dir.path()), chain(3).chain().keys().to_vec(), state(1, 3 * MB));
    let has_digests = |position| {
        let new = NewState { pace: Pace::Temporary, ..NewState::new(position, "cpu", false, &tensors) };
        let record = store.put_state(&keys, new).unwrap();
        let blob = tensors["w"].to_blob().unwrap();
        assert_eq!(store.read_state(&record).unwrap(), tensors);
        record.tensors["w"].blob.digest == Digest::of(&blob)
    };
    // It may go to another machine, which verifies the digest.
    assert!(has_digests(at(2, 0)));
    assert!(!has_digests(at(2, 5)));
}

#[test]
fn unnamed_pack_is_removed_with_a_superseded_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = chain(3).chain().keys().to_vec();
    let one = store.put_state(&keys, NewState::new(at(1, 0), "cpu", false, &state(1, MB))).unwrap();
    let blob = noise(9, MB);
    let source = Source { head: Vec::new(), body: Body::Bytes(&blob) };
    let folder = pack::folder(&dir.path().join("chunks-0"));
    pack_writer::write(&[source], &folder, &|p| Ok(vec![false; p.len()]), Pace::Fast).unwrap();
    let two = store.put_state(&keys, NewState::new(at(2, 0), "cpu", false, &state(2, MB))).unwrap();
    assert_eq!(pack_files(dir.path()).len(), 3);
    assert!(store.remove_superseded(&one, &two).unwrap());
    assert_eq!(pack_files(dir.path()).len(), 1);
    assert_eq!(store.read_state(&two).unwrap(), state(2, MB));
}

#[test]
fn damaged_pack_is_a_miss_and_is_repaired_by_storing_its_result_again() {
    let template = tempfile::tempdir().unwrap();
    let all = large(template.path());
    let files = pack_files(template.path());
    assert_eq!(files.len(), 3);
    for damage in ["flip", "cut", "empty", "gone", "swapped", "all gone"] {
        let dir = tempfile::tempdir().unwrap();
        copy(template.path(), dir.path());
        let there = |i: usize| dir.path().join(files[i].strip_prefix(template.path()).unwrap());
        let cut = |len| fs::OpenOptions::new().write(true).open(there(1)).unwrap().set_len(len).unwrap();
        match damage {
            "flip" => flip(&there(1), 700_000),
            "cut" => cut(300_000),
            "empty" => cut(0),
            "gone" => fs::remove_file(there(1)).unwrap(),
            "swapped" => drop(fs::copy(there(0), there(1)).unwrap()),
            _ => fs::remove_dir_all(there(1).parent().unwrap()).unwrap(),
        }
        let report = store(dir.path()).doctor(false, &mut |_, _| ()).unwrap();
        assert_eq!(report.affected.len(), if damage == "all gone" { 3 } else { 1 }, "{damage}: {report:?}");
        let warnings = heals(dir.path(), &all);
        // If all packs are gone, no read is needed to find out.
        let reported = warnings.first().is_some_and(|w| w.contains("is damaged: piece "));
        assert_eq!(reported, damage != "all gone", "{damage}: {warnings:?}");
        store(dir.path()).gc(&policy()).unwrap();
        heals(dir.path(), &all);
        let live: BTreeMap<Digest, u64> = all
            .iter()
            .flat_map(|(c, _)| store(dir.path()).result(&c.key()).unwrap().unwrap().blobs().collect::<Vec<_>>())
            .map(|b| (b.digest, b.size))
            .collect();
        let live: u64 = live.values().sum();
        assert_eq!(bytes_of(&pack_files(dir.path())), live, "{damage}: a collection leaves what lives");
    }
}

#[test]
fn results_whose_packs_are_gone_are_misses_and_can_be_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let all = large(dir.path());
    fs::remove_dir_all(dir.path().join("chunks-0/packs")).unwrap();
    let again = store(dir.path());
    for (c, a) in &all {
        // Storing one result again must not make the others hits.
        assert_eq!(again.look(|look| look.hit(&c.key())).unwrap(), None);
        // Nothing was read, so nothing was forgotten: the database still has the locations of all pieces.
        let record = commit(&again, "y", c, a);
        assert_eq!(read(&again, &record).unwrap(), *a);
    }
    for (c, a) in &all {
        assert_eq!(read(&again, &again.result(&c.key()).unwrap().unwrap()).unwrap(), *a);
    }
    assert!(again.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    assert_eq!(again.warnings(), [""; 0]);
}

#[test]
fn bits_flipped_anywhere_beside_packs_never_give_wrong_bytes() {
    let template = tempfile::tempdir().unwrap();
    let all = large(template.path());
    let pack = pack_files(template.path())[1].strip_prefix(template.path()).unwrap().to_owned();
    let mut state = 5_u64;
    for name in [PathBuf::from("chunks-0/db"), PathBuf::from("index/db"), pack] {
        let used = fs::read(template.path().join(&name)).unwrap();
        let used = used.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
        for round in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            for _ in 0..=round {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                flip(&dir.path().join(&name), (state >> 33) as usize % used);
            }
            heals(dir.path(), &all);
        }
    }
}

#[test]
fn collection_leaves_whole_packs_and_writes_sparse_ones_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    commit(&store, "whole", &components("whole", 1), &artifact(1, 5 * MB));
    let whole = pack_files(dir.path())[0].metadata().unwrap().ino();
    // The second result shares its first 2 MB with a result that is removed.
    let mut part = Artifact::default();
    part.files.insert("f".to_owned(), [noise(2, 2 * MB), noise(3, 4 * MB)].concat());
    commit(&store, "part", &components("goes", 1), &part);
    part.files.insert("f".to_owned(), noise(2, 2 * MB));
    commit(&store, "part", &components("stays", 1), &part);
    assert_eq!(bytes_of(&pack_files(dir.path())) / MB as u64, 11, "shared pieces are stored once");
    let report = store.gc(&policy()).unwrap();
    // 4 MB of packs, less what sled had not yet written.
    assert!(report.freed_bytes() * 2 >= 5 * MB as u64, "{report:?}");
    let files = pack_files(dir.path());
    assert_eq!((files.len(), bytes_of(&files) / MB as u64), (2, 7));
    assert!(files.iter().any(|f| f.metadata().unwrap().ino() == whole), "that one was left alone");
    for (point, name, a) in [("whole", "whole", &artifact(1, 5 * MB)), ("part", "stays", &part)] {
        assert_eq!(store.newest("p", point).unwrap().unwrap().key, components(name, 1).key());
        assert_eq!(read(&store, &store.newest("p", point).unwrap().unwrap()).unwrap(), *a);
    }
    // The pack is removed with its last result.
    commit(&store, "whole", &components("none", 1), &Artifact::default());
    store.gc(&policy()).unwrap();
    assert_eq!(bytes_of(&pack_files(dir.path())) / MB as u64, 2);
}

#[test]
fn checkpoints_with_shared_parts_do_not_accumulate() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = chain(60).chain().keys().to_vec();
    let mut sizes = Vec::new();
    let mut before: Option<StateRecord> = None;
    // Most of it changes each time, a part every seven times, and a part never.
    let tensors = |epoch: u64| {
        BTreeMap::from([
            ("changes".to_owned(), Tensor::vector(&noise(epoch, 3 * MB))),
            ("seldom".to_owned(), Tensor::vector(&noise(1000 + epoch / 7, MB))),
            ("never".to_owned(), Tensor::vector(&noise(2000, MB))),
        ])
    };
    for epoch in 0..=60 {
        let record = store.put_state(&keys, NewState::new(at(epoch, 0), "cpu", false, &tensors(epoch))).unwrap();
        assert!(before.is_none_or(|old| store.remove_superseded(&old, &record).unwrap()));
        before = Some(record);
        sizes.push(bytes_of(&pack_files(dir.path())) as usize);
        assert_eq!(store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap().1, tensors(epoch));
    }
    assert!(sizes.iter().all(|size| *size < 10 * MB + MB / 2), "{sizes:?}");
    assert_eq!(store.warnings(), [""; 0]);
}

#[test]
fn blob_of_a_tensor_begins_with_its_header() {
    for shape in [vec![0], vec![1], vec![], vec![3, 0, 7], vec![2, 3, 4], vec![100, 1000], vec![1; 12]] {
        let n: usize = shape.iter().product();
        let tensors = [
            Tensor::new(shape.clone(), &vec![1_f32; n]).unwrap(),
            Tensor::new(shape.clone(), &vec![1_f64; n]).unwrap(),
            Tensor::new(shape.clone(), &vec![1_u8; n]).unwrap(),
            Tensor::new(shape.clone(), &vec![1_i64; n]).unwrap(),
        ];
        for t in tensors {
            let blob = [Tensor::blob_header(t.element(), t.shape()).unwrap(), t.bytes().to_vec()].concat();
            assert_eq!(blob, t.to_blob().unwrap());
        }
    }
    assert!(Tensor::blob_header(crate::artifact::ElementType::F64, &[usize::MAX, 2]).is_err());
}
