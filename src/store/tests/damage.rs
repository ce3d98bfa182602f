//! Damage: wrong bytes are never returned, lost results are misses, and the store keeps working.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Category, Error};

pub(crate) fn flip(file: &Path, position: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[position] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

pub(super) fn find(file: &Path, pattern: &[u8]) -> usize {
    let bytes = fs::read(file).unwrap();
    // The last copy, because sled writes a growing node again.
    bytes.windows(pattern.len()).rposition(|w| w == pattern).unwrap()
}

/// Stores three results and closes the store.
pub(super) fn three(dir: &Path) -> Vec<(Components, Artifact)> {
    let store = store(dir);
    let all: Vec<_> = (0..3).map(|i| (components(&format!("c{i}"), 1), artifact(i, 150_000))).collect();
    all.iter().zip(["x0", "x1", "x2"]).for_each(|((c, a), point)| drop(commit(&store, point, c, a)));
    all
}

/// Checks that each result is right, a miss, or known to be damaged, and that all are right after they were stored
/// again.
pub(super) fn heals(dir: &Path, all: &[(Components, Artifact)]) -> Vec<String> {
    let first = store(dir);
    for (c, a) in all {
        if let Some(record) = first.result(&c.key()).unwrap()
            && is_present(&first, &record)
        {
            match read(&first, &record) {
                Ok(found) => assert_eq!(found, *a),
                Err(StoreError::Damaged { forgotten, .. }) => {
                    assert!(forgotten.contains(&c.key()));
                    assert!(!is_present(&first, &first.result(&c.key()).unwrap().unwrap()));
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
        assert!(is_present(&second, &record));
        assert_eq!(read(&second, &record).unwrap(), *a);
    }
    // A damaged journal is found when it is needed, or by `doctor`.
    second.doctor(true, &mut |_, _| ()).unwrap();
    assert!(second.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    warnings
}

#[test]
fn doctor_forgets_damaged_results() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    flip_blob(dir.path(), &noise(2, 150_000)[..100]);
    let store = store(dir.path());
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().repaired);
    assert!(store.result(&all[2].0.key()).unwrap().unwrap().damaged);
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().is_healthy());
}

/// Flips a bit of these bytes in the pack that holds them.
fn flip_blob(dir: &Path, bytes: &[u8]) {
    let holds = |file: &PathBuf| fs::read(file).unwrap().windows(bytes.len()).any(|w| w == bytes);
    let file = super::packs::pack_files(dir).into_iter().find(holds).unwrap();
    flip(&file, find(&file, bytes));
}

#[test]
fn bits_flipped_anywhere_never_give_wrong_bytes() {
    let template = tempfile::tempdir().unwrap();
    let all = three(template.path());
    let mut state = 9_u64;
    for name in ["chunks-0/db", "index/db", "chunks-0/conf", "index/conf", "chunks-0/journal", "index/journal"] {
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
fn truncated_database_is_rebuilt() {
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
fn results_are_misses_when_the_chunk_database_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    fs::remove_dir_all(dir.path().join("chunks-0")).unwrap();
    let before = store(dir.path());
    let record = before.result(&all[0].0.key()).unwrap().unwrap();
    assert!(!is_present(&before, &record));
    assert!(matches!(read(&before, &record), Err(StoreError::Damaged { .. })));
    assert!(!dir.path().join("chunks-0").exists());
    // A new result creates a new chunk database. The old results stay misses.
    let other = before.result(&all[1].0.key()).unwrap().unwrap();
    commit(&before, "new", &components("new", 1), &artifact(5, 10));
    assert!(!is_present(&before, &other));
    drop(before);
    heals(dir.path(), &all);
}

#[test]
fn damaged_state_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let keys = chain(3).chain().keys().to_vec();
    let first = store(dir.path());
    first.put_state(&keys, NewState::new(at(1, 0), "cpu", true, &state(1, 150_000))).unwrap();
    first.put_state(&keys, NewState::new(at(2, 0), "cpu", false, &state(2, 150_000))).unwrap();
    drop(first);
    flip_blob(dir.path(), &noise(2, 150_000)[1000..1100]);
    let store = store(dir.path());
    let (record, tensors) = store.resume(&keys, &StateQuery::new("cpu")).unwrap().unwrap();
    assert_eq!((record.epoch, tensors), (1, state(1, 150_000)));
    assert_eq!(furthest(&store, &keys, "cpu"), Some(at(1, 0)));
    assert_eq!(store.warnings().len(), 1);
}

#[test]
fn later_formats_and_other_folders_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("FORMAT"), "4\n").unwrap();
    let error = Error::from(Store::open(dir.path(), Options::default()).err().unwrap());
    assert_eq!(error.category.exit_code(), 5);
    insta::assert_snapshot!(error.message.replace(&dir.path().display().to_string(), "DIR"), @"the cache DIR has format 4; this vadpipe reads formats up to 3");
    insta::assert_snapshot!(error.hint.unwrap(), @"use the vadpipe that wrote it or a later one, or give another folder with --cache");
    fs::write(dir.path().join("FORMAT"), "pears").unwrap();
    assert!(matches!(Store::open(dir.path(), Options::default()), Err(StoreError::NotACache { .. })));
    let error = Error::from(Store::open(&dir.path().join("FORMAT"), Options::default()).err().unwrap());
    assert_eq!(error.category.exit_code(), 2);
}

#[test]
fn commit_to_a_read_only_cache_fails_with_a_message() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    // `/proc` refuses new files even to root.
    for path in [Path::new("/proc/cache"), &dir.path().join("closed/cache")] {
        if let Some(parent) = path.parent().filter(|p| p.starts_with(dir.path())) {
            fs::create_dir(parent).unwrap();
            fs::set_permissions(parent, fs::Permissions::from_mode(0o555)).unwrap();
            if fs::write(parent.join("probe"), "").is_ok() {
                continue; // Root may write anywhere.
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
