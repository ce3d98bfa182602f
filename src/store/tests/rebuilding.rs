//! sled is an index of the journal. Damage to only one of them loses nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::damage::{copy, flip, three};
use super::*;
use crate::store::database::{Access, Opened};
use crate::store::journal::{Changes, Journal};
use crate::store::{entries, recovery};

/// Checks that every result is a hit and has its bytes.
pub(super) fn all_are_there(store: &Store, all: &[(Components, Artifact)], what: &str) {
    for (c, a) in all {
        assert!(store.look(|look| look.hit(&c.key())).unwrap().is_some(), "{what}: lost");
        let record = store.result(&c.key()).unwrap().unwrap();
        assert_eq!(read(store, &record).unwrap(), *a, "{what}");
    }
}

/// Files of both databases, without the journals.
fn sled_files(dir: &Path) -> Vec<PathBuf> {
    let entries = ["index", "chunks-0"].map(|folder| fs::read_dir(dir.join(folder)).unwrap());
    let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|p| p.is_file() && !p.ends_with("journal")).collect();
    files.sort();
    files
}

#[test]
fn removing_any_of_sleds_files_loses_nothing() {
    let template = tempfile::tempdir().unwrap();
    let all = three(template.path());
    let files = sled_files(template.path());
    assert!(files.len() >= 4, "{files:?}");
    for file in &files {
        let name = file.strip_prefix(template.path()).unwrap();
        for how in ["removed", "emptied", "all but it removed"] {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            match how {
                "removed" => fs::remove_file(dir.path().join(name)).unwrap(),
                "emptied" => fs::write(dir.path().join(name), "").unwrap(),
                _ => sled_files(dir.path())
                    .iter()
                    .filter(|f| f.parent() == dir.path().join(name).parent() && !f.ends_with(name))
                    .for_each(|f| fs::remove_file(f).unwrap()),
            }
            let store = store(dir.path());
            all_are_there(&store, &all, &format!("{} {how}", name.display()));
            assert_eq!(store.warnings(), [""; 0], "{} {how}", name.display());
            assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
        }
    }
}

#[test]
fn bits_flipped_in_sleds_files_lose_nothing() {
    let template = tempfile::tempdir().unwrap();
    let all = three(template.path());
    let mut state = 77_u64;
    for file in sled_files(template.path()) {
        let name = file.strip_prefix(template.path()).unwrap();
        let used = fs::read(&file).unwrap().iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
        for round in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            for _ in 0..=round {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                flip(&dir.path().join(name), (state >> 33) as usize % used);
            }
            let store = store(dir.path());
            all_are_there(&store, &all, &name.display().to_string());
            store.doctor(true, &mut |_, _| ()).unwrap();
            assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
            all_are_there(&store, &all, &name.display().to_string());
        }
    }
}

#[test]
fn unfinished_snapshot_of_sled_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    for folder in ["index", "chunks-0"] {
        for name in ["snap.FFFFFFFFFFFFFFFF.generating", "snap.0000000000000001.generating"] {
            fs::write(dir.path().join(folder).join(name), "").unwrap();
        }
    }
    let store = store(dir.path());
    all_are_there(&store, &all, "unfinished snapshot");
    assert_eq!(store.warnings(), [""; 0]);
}

#[test]
fn damaged_journal_is_written_again_from_sled() {
    let template = tempfile::tempdir().unwrap();
    let all = three(template.path());
    for folder in ["index", "chunks-0"] {
        let length = fs::metadata(template.path().join(folder).join("journal")).unwrap().len() as usize;
        for how in ["removed", "emptied", "header", "middle", "end", "cut"] {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            let journal = dir.path().join(folder).join("journal");
            match how {
                "removed" => fs::remove_file(&journal).unwrap(),
                "emptied" => fs::write(&journal, "").unwrap(),
                "header" => flip(&journal, 3),
                "middle" => flip(&journal, length / 2),
                "end" => flip(&journal, length - 2),
                _ => fs::File::options().write(true).open(&journal).unwrap().set_len(length as u64 / 2).unwrap(),
            }
            let what = format!("{folder}: {how}");
            let store = store(dir.path());
            all_are_there(&store, &all, &what);
            // The next change or `doctor` completes the journal.
            commit(&store, "more", &components("more", 1), &artifact(9, 100));
            store.doctor(true, &mut |_, _| ()).unwrap();
            assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy(), "{what}");
            store.close();
            sled_files(dir.path()).iter().for_each(|file| fs::remove_file(file).unwrap());
            all_are_there(&store, &all, &what);
        }
    }
}

#[test]
fn damage_of_sled_and_journal_costs_only_entries_that_both_lack() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let journal = dir.path().join("index/journal");
    // The frame of the second result.
    let key = all[1].0.key().to_string();
    let place = fs::read(&journal).unwrap().windows(64).position(|w| w == key.as_bytes()).unwrap();
    flip(&journal, place);
    fs::write(dir.path().join("index/conf"), noise(5, 100)).unwrap();
    fs::remove_file(dir.path().join("index/db")).unwrap();
    let store = store(dir.path());
    for i in [0, 2] {
        all_are_there(&store, &all[i..=i], "the other frames are whole");
    }
    assert_eq!(store.result(&all[1].0.key()).unwrap(), None);
    let warnings = store.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("was damaged in 1 places"), "{warnings:?}");
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
}

#[test]
fn interrupted_setting_aside_is_completed() {
    for step in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let all = three(dir.path());
        // Without a journal, only sled's files have the entries.
        let (index, aside) = (dir.path().join("index"), dir.path().join("index-damaged-1"));
        fs::remove_file(index.join("journal")).unwrap();
        fs::create_dir(&aside).unwrap();
        let note = "index-damaged-1\nit would not open\n";
        fs::write(index.join("set-aside"), note).unwrap();
        if step > 0 {
            fs::rename(index.join("db"), aside.join("db")).unwrap();
        }
        if step > 1 {
            for name in ["conf", "blobs"] {
                fs::rename(index.join(name), aside.join(name)).unwrap();
            }
        }
        if step > 2 {
            for file in sled_files(dir.path()).iter().filter(|f| f.starts_with(&index) && !f.ends_with("set-aside")) {
                fs::rename(file, aside.join(file.file_name().unwrap())).unwrap();
            }
            fs::rename(index.join("set-aside"), index.join("set-aside-complete")).unwrap();
            // The new database is incomplete.
            sled::Config::new().path(&index).segment_size(1 << 20).open().unwrap().insert("r", "half").unwrap();
        }
        let store = store(dir.path());
        all_are_there(&store, &all, &format!("step {step}"));
        let warnings = store.warnings();
        assert!(warnings[0].contains("is kept as") && warnings[0].contains("entries were saved"), "{warnings:?}");
        assert!(
            aside.join("db").exists()
                && !index.join("set-aside").exists()
                && !index.join("set-aside-complete").exists()
        );
    }
}

#[test]
fn sled_behind_its_journal_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let old = tempfile::tempdir().unwrap();
    copy(&dir.path().join("index"), old.path());
    commit(&store(dir.path()), "x1", &components("later", 1), &artifact(8, 100));
    // A killed process can leave a change in the journal that sled lacks.
    let index = dir.path().join("index");
    let journal = fs::read(index.join("journal")).unwrap();
    fs::remove_dir_all(&index).unwrap();
    copy(old.path(), &index);
    fs::write(index.join("journal"), &journal).unwrap();
    let store = store(dir.path());
    all_are_there(&store, &all, "lagging");
    all_are_there(&store, &[(components("later", 1), artifact(8, 100))], "lagging");
    assert_eq!(store.newest("p", "x1").unwrap().unwrap().components, components("later", 1));
}

#[test]
fn damaged_header_loses_no_change_that_sled_has_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let (old, index) = (tempfile::tempdir().unwrap(), dir.path().join("index"));
    copy(&index, old.path());
    commit(&store(dir.path()), "x1", &components("later", 1), &artifact(8, 100));
    let journal = fs::read(index.join("journal")).unwrap();
    fs::remove_dir_all(&index).unwrap();
    copy(old.path(), &index);
    fs::write(index.join("journal"), &journal).unwrap();
    flip(&index.join("journal"), 20);
    let store = store(dir.path());
    all_are_there(&store, &all, "before");
    all_are_there(&store, &[(components("later", 1), artifact(8, 100))], "not followed");
    assert!(store.warnings()[0].contains("had a damaged header"));
}

#[test]
fn sled_of_another_journal_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let path = dir.path().join("index");
    // A kill during a collection can leave the new journal, which lacks the removed entries, beside the old sled.
    let gone = all[0].0.key();
    let (db, _, _) = recovery::open(&path, entries::SETUP, &|| Ok(())).unwrap();
    let entries: Vec<_> = db.iter().map(Result::unwrap).filter(|(key, _)| **key != *b"j").collect();
    drop(db);
    Journal::create(&path, 0, |journal| {
        let mut changes = Changes::default();
        let is_gone = |key: &[u8]| key.len() > 32 && key[1..33] == gone.0;
        entries.iter().filter(|(key, _)| !is_gone(key)).for_each(|(key, value)| changes.insert(key, value));
        journal.append(&changes, true).map(drop)
    })
    .unwrap();
    let store = store(dir.path());
    assert_eq!(store.result(&gone).unwrap(), None);
    all_are_there(&store, &all[1..], "another journal");
}

#[test]
fn altered_record_is_refused_and_its_result_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let store = store(dir.path());
    let key = all[1].0.key();
    let name = [b"r".as_slice(), &key.0].concat();
    // A tool that knows the format changes a metric.
    let alter = |o: &Opened| {
        let record = String::from_utf8(o.db.get(&name)?.unwrap().to_vec()).unwrap();
        let altered = record.replace("\"loss\":1.0", "\"loss\":0.5");
        assert_ne!(record, altered);
        let mut changes = Changes::default();
        changes.insert(&name, altered);
        o.write(&changes)
    };
    store.index.with(Access::Write, alter).unwrap();
    let report = store.doctor(false, &mut |_, _| ()).unwrap();
    assert_eq!(report.problems, ["1 entries of the index can't be read or were altered"]);
    assert_eq!(store.result(&key).unwrap(), None);
    assert_eq!(store.warnings(), ["1 result or state were altered in the index and will be computed again"]);
    assert_eq!(store.look(|look| look.hit(&key)).unwrap(), None);
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    commit(&store, "x1", &all[1].0, &all[1].1);
    all_are_there(&store, &all, "computed again");
}

#[test]
fn altered_record_of_a_state_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let keys = chain(3).chain().keys().to_vec();
    store.put_state(&keys, NewState::new(at(1, 0), "cpu", true, &state(1, 1000))).unwrap();
    let good = store.put_state(&keys, NewState::new(at(2, 0), "cpu", true, &state(2, 1000))).unwrap();
    // Two tensors are swapped.
    let alter = |o: &Opened| {
        let (name, value) = o.db.scan_prefix([b"t".as_slice(), &good.key.0].concat()).next().unwrap()?;
        let record = String::from_utf8(value.to_vec()).unwrap();
        let altered =
            record.replace("\"w\":", "\"x\":").replace("\"step\":{", "\"w\":{").replace("\"x\":", "\"step\":");
        assert_ne!(record, altered);
        let mut changes = Changes::default();
        changes.insert(name, altered);
        o.write(&changes)
    };
    store.index.with(Access::Write, alter).unwrap();
    assert_eq!(furthest(&store, &keys, "cpu"), Some(at(1, 0)));
    assert_eq!(store.doctor(true, &mut |_, _| ()).unwrap().problems.len(), 1);
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
}

#[test]
fn database_that_differs_from_its_journal_is_found_and_repaired_by_doctor() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let store = store(dir.path());
    let alter = |o: &Opened| {
        let keys: Vec<_> = o.db.scan_prefix("u").keys().map(Result::unwrap).collect();
        o.db.remove(&keys[0])?;
        o.db.insert(&keys[1], "other")?;
        Ok(())
    };
    store.index.with(Access::Write, alter).unwrap();
    let report = store.doctor(false, &mut |_, _| ()).unwrap();
    assert_eq!(report.problems, ["2 entries of the database `index` differ from its journal"]);
    assert!(store.doctor(true, &mut |_, _| ()).unwrap().repaired);
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    all_are_there(&store, &all, "repaired");
}

#[test]
fn doctor_does_not_report_states_that_a_training_removes_during_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let (store, trainer) = (store(dir.path()), store(dir.path()));
    let keys = chain(20).chain().keys().to_vec();
    let states: Vec<_> = (0..8)
        .map(|e| trainer.put_state(&keys, NewState::new(at(e, 0), "cpu", false, &state(e, 300_000))).unwrap())
        .collect();
    let mut left: BTreeSet<usize> = (0..7).collect();
    let mut remove_the_others = |_, _| {
        while let Some(i) = left.pop_first() {
            assert!(trainer.remove_superseded(&states[i], &states[7]).unwrap());
        }
    };
    let report = store.doctor(false, &mut remove_the_others).unwrap();
    assert_eq!(report.states, 8);
    assert!(report.is_healthy(), "{report:?}");
}

#[test]
fn batch_that_fails_halfway_is_applied_again_from_the_journal() {
    let template = tempfile::tempdir().unwrap();
    let key = |n: u32| [b"r".as_slice(), &n.to_be_bytes()].concat();
    let (all, setup) = (0..2000, entries::SETUP);
    {
        let (db, journal, _) = recovery::open(template.path(), setup, &|| Ok(())).unwrap();
        let mut changes = Changes::default();
        all.clone().for_each(|n| changes.insert(key(n), [7; 300]));
        let position = journal.unwrap().append(&changes, true).unwrap();
        recovery::apply(&db, &changes.iter(), position).unwrap();
    }
    // sled applies the changes of a batch in an order of its own. The position was among the first for some of these.
    for trial in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        copy(template.path(), dir.path());
        let mut changes = Changes::default();
        all.clone().filter(|n| n % 50 == trial).for_each(|n| changes.remove(key(n)));
        {
            let (db, journal, _) = recovery::open(dir.path(), setup, &|| Ok(())).unwrap();
            let file = dir.path().join("db");
            let whole = fs::read(&file).unwrap();
            // Some nodes can't be read for a while.
            fs::File::options().write(true).open(&file).unwrap().set_len(whole.len() as u64 / 2).unwrap();
            let position = journal.unwrap().append(&changes, true).unwrap();
            let applied = crate::store::engine::catch(|| recovery::apply(&db, &changes.iter(), position));
            assert!(applied.is_err(), "every node was read");
            let written = fs::read(&file).unwrap();
            let restored: Vec<u8> = written
                .iter()
                .enumerate()
                .map(|(at, byte)| if *byte == 0 && at < whole.len() { whole[at] } else { *byte })
                .chain(whole.iter().skip(written.len()).copied())
                .collect();
            fs::write(&file, restored).unwrap();
        }
        let (db, _, _) = recovery::open(dir.path(), setup, &|| Ok(())).unwrap();
        assert_eq!(recovery::check(&db, dir.path(), setup).unwrap(), [""; 0]);
        assert_eq!(db.scan_prefix(b"r").count(), 2000 - 40);
    }
}
