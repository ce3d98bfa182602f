//! Damage: wrong bytes are never returned, what is lost is a miss, and the store works on.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Category, Error};

pub(super) fn flip(file: &Path, position: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[position] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

pub(super) fn find(file: &Path, pattern: &[u8]) -> usize {
    let bytes = fs::read(file).unwrap();
    // The last copy: sled writes a node again as it grows.
    bytes.windows(pattern.len()).rposition(|w| w == pattern).unwrap()
}

/// Three results, written and closed.
pub(super) fn three(dir: &Path) -> Vec<(Components, Artifact)> {
    let store = store(dir);
    let all: Vec<_> = (0..3).map(|i| (components(&format!("c{i}"), 1), artifact(i, 150_000))).collect();
    all.iter().zip(["x0", "x1", "x2"]).for_each(|((c, a), point)| drop(commit(&store, point, c, a)));
    all
}

/// Each result is right, or a miss, or known to be damaged; and after it was made again, all are right.
pub(super) fn heals(dir: &Path, all: &[(Components, Artifact)]) -> Vec<String> {
    let first = store(dir);
    for (c, a) in all {
        if let Some(record) = first.result(&c.key()).unwrap()
            && first.is_present(&record).unwrap()
        {
            match read(&first, &record) {
                Ok(found) => assert_eq!(found, *a),
                Err(StoreError::Damaged { forgotten, .. }) => {
                    assert!(forgotten.contains(&c.key()));
                    assert!(!first.is_present(&first.result(&c.key()).unwrap().unwrap()).unwrap());
                }
                Err(other) => panic!("{other}"),
            }
        }
        commit(&first, "x", c, a);
    }
    let warnings = first.warnings();
    drop(first);
    let second = store(dir);
    for (c, a) in all {
        let record = second.result(&c.key()).unwrap().unwrap();
        assert!(second.is_present(&record).unwrap());
        assert_eq!(read(&second, &record).unwrap(), *a);
    }
    assert!(second.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    warnings
}

/// A result of so many bytes in blobs that are not large, so that they are in the database itself.
fn many(bytes: usize) -> Artifact {
    let mut many = Artifact::default();
    (0..bytes as u64 / 200_000).for_each(|i| drop(many.files.insert(format!("f{i}"), noise(1000 + i, 200_000))));
    many
}

/// One bit of a chunk flips; one result is lost, the others are not, and all are there when it was made again.
fn a_bit_flips(more: usize) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    if more > 0 {
        commit(&store(dir.path()), "more", &components("more", 1), &many(more));
    }
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
                assert!(matches!(&error, StoreError::Damaged { forgotten, .. } if forgotten.contains(&record(i).key)));
                assert_eq!(Error::from(error).category, Category::Storage);
                assert!(!store.is_present(&record(i)).unwrap());
                lost += 1;
            }
        }
    }
    assert!((1..=2).contains(&lost), "{lost} {:?}", store.warnings());
    all.iter().zip(["x0", "x1", "x2"]).for_each(|((c, a), point)| drop(commit(&store, point, c, a)));
    for (i, (_, a)) in all.iter().enumerate() {
        assert!(store.is_present(&record(i)).unwrap());
        assert_eq!(read(&store, &record(i)).unwrap(), *a);
    }
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().is_healthy());
    store.warnings()
}

#[test]
fn a_flipped_bit_near_the_end_of_the_log_costs_little() {
    // sled refuses to open, and does when it reads its log anew.
    let warnings = a_bit_flips(0);
    assert!(warnings[0].contains("blobs were saved"), "{warnings:?}");
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_log_costs_little() {
    let warnings = a_bit_flips(30 << 20);
    assert!(
        warnings[0].ends_with("can't be read (its file is corrupted); relied on by 1 result or state"),
        "{warnings:?}"
    );
    // The node that the bit is in can't be written either: the rest moves to a new database.
    assert!(warnings[1].contains("blobs were saved"), "{warnings:?}");
}

#[test]
fn a_database_that_several_threads_find_broken_is_replaced_once() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    commit(&store(dir.path()), "more", &components("more", 1), &many(20 << 20));
    assert!(store(dir.path()).doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    let file = dir.path().join("chunks-0/db");
    flip(&file, find(&file, &noise(1, 150_000)[70_000..70_100]));
    let stores = [store(dir.path()), store(dir.path())];
    assert!(!stores[0].doctor(true, &mut |_, _| ()).unwrap().is_healthy());
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (store, c, a) = (&stores[i % 2], &all[i % 3].0, &all[i % 3].1);
            scope.spawn(move || commit(store, &format!("x{}", i % 3), c, a));
        }
    });
    // The bit's node holds chunks of others, too.
    let more = stores[0].result(&components("more", 1).key()).unwrap().unwrap();
    match read(&stores[0], &more) {
        Ok(found) => assert_eq!(found, many(20 << 20)),
        Err(error) => assert!(more.damaged && matches!(error, StoreError::Damaged { .. }), "{error}"),
    }
    for (c, a) in &all {
        assert_eq!(read(&stores[1], &stores[1].result(&c.key()).unwrap().unwrap()).unwrap(), *a);
    }
    assert_eq!(stores[0].doctor(false, &mut |_, _| ()).unwrap().set_aside.len(), 1);
}

#[test]
fn doctor_repairs_by_forgetting() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let file = dir.path().join("chunks-0/db");
    flip(&file, find(&file, &noise(2, 150_000)[..100]));
    let store = store(dir.path());
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().repaired);
    assert!(store.result(&all[2].0.key()).unwrap().unwrap().damaged);
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().is_healthy());
}

#[test]
fn bits_flipped_anywhere_never_give_wrong_bytes() {
    let template = tempfile::tempdir().unwrap();
    let all = three(template.path());
    let mut state = 9_u64;
    for name in ["chunks-0/db", "index/db", "chunks-0/conf", "index/conf"] {
        let used = fs::read(template.path().join(name)).unwrap();
        let used = used.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
        for round in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            for _ in 0..=round {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                flip(&dir.path().join(name), (state >> 33) as usize % used);
            }
            heals(dir.path(), &all);
        }
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_truncated_database_is_no_catastrophe() {
    let template = tempfile::tempdir().unwrap();
    let all = three(template.path());
    for name in ["chunks-0/db", "index/db"] {
        let full = fs::metadata(template.path().join(name)).unwrap().len();
        for part in [0, 1, 20, 50, 99] {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            let file = fs::OpenOptions::new().write(true).open(dir.path().join(name)).unwrap();
            file.set_len(full * part / 100).unwrap();
            heals(dir.path(), &all);
        }
    }
}

#[test]
fn a_database_that_will_not_open_is_set_aside_and_kept() {
    for (name, aside) in [("index", "index-damaged-1"), ("chunks-0", "chunks-0-damaged-1")] {
        let dir = tempfile::tempdir().unwrap();
        let all = three(dir.path());
        // A configuration of another version, with its checksum left as it was.
        fs::write(dir.path().join(name).join("conf"), noise(5, 100)).unwrap();
        let warnings = heals(dir.path(), &all);
        assert!(warnings[0].contains("set aside"), "{warnings:?}");
        let aside: PathBuf = dir.path().join(aside);
        assert!(aside.join("db").exists());
        assert_eq!(store(dir.path()).doctor(false, &mut |_, _| ()).unwrap().set_aside, [aside]);
    }
}

#[test]
fn chunks_that_are_gone_are_misses_without_opening_anything() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    fs::remove_dir_all(dir.path().join("chunks-0")).unwrap();
    let before = store(dir.path());
    let record = before.result(&all[0].0.key()).unwrap().unwrap();
    assert!(!before.is_present(&record).unwrap());
    assert!(matches!(read(&before, &record), Err(StoreError::Damaged { .. })));
    assert!(!dir.path().join("chunks-0").exists());
    // A new result brings new chunks; the old ones are not taken for there.
    let other = before.result(&all[1].0.key()).unwrap().unwrap();
    commit(&before, "new", &components("new", 1), &artifact(5, 10));
    assert!(!before.is_present(&other).unwrap());
    drop(before);
    heals(dir.path(), &all);
}

#[test]
fn a_damaged_state_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let keys = chain(3).states();
    let first = store(dir.path());
    first.put_state(&keys, at(1, 0), "cpu", true, &state(1, 150_000)).unwrap();
    first.put_state(&keys, at(2, 0), "cpu", false, &state(2, 150_000)).unwrap();
    drop(first);
    let file = dir.path().join("chunks-0/db");
    flip(&file, find(&file, &noise(2, 150_000)[1000..1100]));
    let store = store(dir.path());
    let (record, tensors) = store.resume(&keys, "cpu").unwrap().unwrap();
    assert_eq!((record.epoch, tensors), (1, state(1, 150_000)));
    assert_eq!(store.states_present(&keys, "cpu").unwrap(), Some(at(1, 0)));
    assert_eq!(store.warnings().len(), 1);
}

#[test]
fn a_later_format_and_things_that_are_no_cache_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("FORMAT"), "3\n").unwrap();
    let error = Error::from(Store::open(dir.path(), Options::default()).err().unwrap());
    assert_eq!(error.category.exit_code(), 5);
    insta::assert_snapshot!(error.message.replace(&dir.path().display().to_string(), "DIR"), @"the cache DIR has format 3; this vadpipe reads formats up to 2");
    insta::assert_snapshot!(error.hint.unwrap(), @"use the vadpipe that wrote it or a later one, or give another folder with --cache");
    fs::write(dir.path().join("FORMAT"), "pears").unwrap();
    assert!(matches!(Store::open(dir.path(), Options::default()), Err(StoreError::NotACache { .. })));
    let error = Error::from(Store::open(&dir.path().join("FORMAT"), Options::default()).err().unwrap());
    assert_eq!(error.category.exit_code(), 2);
}

#[test]
fn a_cache_that_can_not_be_written_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    // A folder of the kernel's refuses new files even to root.
    for path in [Path::new("/proc/cache"), &dir.path().join("closed/cache")] {
        if let Some(parent) = path.parent().filter(|p| p.starts_with(dir.path())) {
            fs::create_dir(parent).unwrap();
            fs::set_permissions(parent, fs::Permissions::from_mode(0o555)).unwrap();
            if fs::write(parent.join("probe"), "").is_ok() {
                continue; // Root may write everywhere.
            }
        }
        let store = store(path);
        let new = NewResult {
            pipeline: "p",
            point: "x",
            components: &components("a", 1),
            artifact: &artifact(1, 10),
            provenance: Provenance::default(),
        };
        let error = Error::from(store.commit(new).unwrap_err());
        assert_eq!(error.category, Category::Storage);
        assert!(error.message.contains("cache"), "{error}");
    }
}
