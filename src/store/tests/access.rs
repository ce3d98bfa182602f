//! Access: foreign folders, special files, read-only caches, and waits for other processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::damage::three;
use super::packs::policy;
use super::rebuilding::all_are_there;
use super::*;
use crate::error::{Category, Error};
use crate::store::engine::Failure;
use crate::store::{entries, recovery};

fn open(dir: &Path) -> Result<Store> {
    Store::open(dir, Options::default())
}

fn pipe(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
}

#[test]
fn folder_with_other_files_is_not_taken_for_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("scratch")).unwrap();
    fs::write(dir.path().join("scratch/thesis.txt"), "three years").unwrap();
    let error = Error::from(open(dir.path()).err().unwrap());
    assert_eq!(error.category, Category::BadInput);
    let message = error.message.replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(message, @"DIR is not a cache: it has no file FORMAT, but holds `scratch`");
    assert!(dir.path().join("scratch/thesis.txt").exists() && !dir.path().join("FORMAT").exists());
}

#[test]
fn folder_of_a_cache_whose_creation_was_interrupted_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".gitignore"), "*\n").unwrap();
    fs::write(dir.path().join(".tmpAbC123"), "3").unwrap();
    commit(&open(dir.path()).unwrap(), "x", &components("a", 1), &artifact(1, 10));
    // A larger temporary file is another program's.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join(".tmp.docx"), noise(1, 1000)).unwrap();
    assert!(matches!(open(other.path()), Err(StoreError::NotACache { .. })));
}

#[test]
fn lost_or_damaged_format_is_written_again_where_the_index_is_ours() {
    for found in [
        None,
        Some("pears"),
        Some("7\n"),
        Some(""),
        Some("a text that is longer than any version of the cache's format would be"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let all = three(dir.path());
        let format = dir.path().join("FORMAT");
        match found {
            None => fs::remove_file(&format).unwrap(),
            Some(text) => fs::write(&format, text).unwrap(),
        }
        let store = open(dir.path()).unwrap();
        assert!(store.warnings()[0].contains("it was written again"));
        all_are_there(&store, &all, "FORMAT");
        assert_eq!(fs::read_to_string(&format).unwrap(), "3\n");
    }
}

#[test]
fn pipes_and_folders_instead_of_files_are_errors_without_waiting() {
    for name in ["FORMAT", "index.lock", "index/journal", "small", "runs/20260101-101010-1.json"] {
        for make in [pipe, |path: &Path| fs::create_dir(path).unwrap()] {
            let dir = tempfile::tempdir().unwrap();
            let all = three(dir.path());
            store(dir.path()).write_run(&super::care::run("20260101-101010-1", &[])).unwrap();
            let mut path = dir.path().join(name);
            if name == "small" {
                path = fs::read_dir(&path)
                    .map_or(path.join("x"), |mut e| e.next().map_or(path.join("x"), |e| e.unwrap().path()));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
            let _ = fs::remove_file(&path);
            make(&path);
            let begin = Instant::now();
            let answer = open(dir.path()).and_then(|store| {
                let found = store.result(&all[0].0.key())?;
                found.map(|record| read(&store, &record)).transpose()?;
                store.runs()?;
                Ok(store.warnings())
            });
            assert!(begin.elapsed() < Duration::from_secs(5), "{name}");
            match name {
                // Results don't depend on these.
                "small" => assert!(answer.is_ok()),
                "runs/20260101-101010-1.json" => assert_eq!(answer.unwrap().len(), 1),
                _ => assert!(answer.is_err(), "{name}: {answer:?}"),
            }
        }
    }
}

#[test]
fn modes_of_new_files_follow_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut a = artifact(1, 10);
    a.files.insert("page.html".to_owned(), noise(3, 1000));
    commit(&store, "x", &components("a", 1), &a);
    store.write_run(&super::care::run("run-1", &[])).unwrap();
    store.close();
    fn check(folder: &Path, umask: u32) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o444, 0o444 & !umask, "{}", entry.path().display());
            if entry.path().is_dir() {
                check(&entry.path(), umask);
            }
        }
    }
    let probe = dir.path().join("probe");
    fs::write(&probe, "").unwrap();
    let umask = 0o666 & !fs::metadata(&probe).unwrap().permissions().mode();
    check(dir.path(), umask);
}

#[test]
fn copy_of_a_read_only_database_answers_look_ups_and_refuses_changes() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let path = dir.path().join("index");
    let refusal = || StoreError::Full { path: path.clone() };
    let before: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
    for broken in [false, true] {
        if broken {
            fs::write(path.join("conf"), noise(5, 100)).unwrap();
        }
        let (db, journal, copy) = recovery::open_copy(&path, entries::SETUP, refusal(), false).unwrap();
        for (c, _) in &all {
            assert!(matches!(entries::result(&db, &c.key()).unwrap(), Some(Ok(_))));
        }
        assert!(journal.is_none() && matches!(copy.refusal(), StoreError::Full { .. }));
    }
    assert_eq!(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>(), before);
}

#[test]
fn collection_is_refused_a_copy_that_may_lack_entries() {
    for what in ["set-aside", "set-aside-complete", "no journal", "damaged journal"] {
        let dir = tempfile::tempdir().unwrap();
        three(dir.path());
        let path = dir.path().join("index");
        match what {
            "no journal" => fs::remove_file(path.join("journal")).unwrap(),
            "damaged journal" => {
                super::damage::flip(&path.join("journal"), 20);
                fs::remove_file(path.join("db")).unwrap();
            }
            marker => fs::write(path.join(marker), "index-damaged-1\nit would not open\n").unwrap(),
        }
        let refused = recovery::open_copy(&path, entries::SETUP, StoreError::Full { path: path.clone() }, true);
        assert!(matches!(refused, Err(Failure::Store(StoreError::Full { .. }))), "{what}");
    }
}

#[test]
fn collection_on_a_full_disk_writes_to_the_journal_only() {
    let dir = tempfile::tempdir().unwrap();
    let all = three(dir.path());
    let path = dir.path().join("index");
    let refusal = StoreError::Full { path: path.clone() };
    let (db, journal, _copy) = recovery::open_copy(&path, entries::SETUP, refusal, true).unwrap();
    let record = entries::result(&db, &all[0].0.key()).unwrap().unwrap().unwrap();
    let mut changes = crate::store::journal::Changes::default();
    entries::remove_result(&mut changes, &record);
    journal.unwrap().append(&changes, true).unwrap();
    let store = store(dir.path());
    assert_eq!(store.result(&record.key).unwrap(), None);
    all_are_there(&store, &all[1..], "the others");
    store.gc(&policy()).unwrap();
    all_are_there(&store, &all[1..], "the others");
}

#[test]
fn wait_for_a_held_cache_ends_when_it_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let lock = fs::File::open(dir.path().join("index.lock")).unwrap();
    lock.lock().unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    let options = Options {
        cancelled: Some(Arc::new({
            let cancelled = cancelled.clone();
            move || cancelled.load(Ordering::SeqCst)
        })),
        ..Options::default()
    };
    let store = Store::open(dir.path(), options).unwrap();
    let waiting = std::thread::spawn(move || store.newest("p", "x0"));
    std::thread::sleep(Duration::from_millis(50));
    cancelled.store(true, Ordering::SeqCst);
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Cancelled));
    assert_eq!(Error::from(error).category, Category::Interrupted);
}

/// Reads ahead until the end, as if the pipeline took long to parse.
fn read_ahead(store: &Store) {
    store.open_ahead(&AtomicBool::new(false));
}

fn hit(store: &Store, key: &Key) -> Option<Digest> {
    store.look(|look| look.hit(key)).unwrap()
}

fn lose(store: &Store, result: &ResultRecord) {
    store.index.lose(&result.blobs().map(|blob| blob.digest).collect()).unwrap();
}

#[test]
fn entries_that_were_read_ahead_do_not_hide_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let a = components("a", 1);
    let first = commit(&store(dir.path()), "x", &a, &artifact(1, 100_000));
    let store = store(dir.path());
    read_ahead(&store);
    assert_eq!(hit(&store, &first.key), Some(first.digest));
    assert_eq!(hit(&store, &Digest([7; 32])), None);
    // Another result with the same key, as `--force` makes it.
    let again = commit(&store, "x", &a, &artifact(2, 100_000));
    assert_ne!(again.digest, first.digest);
    assert_eq!(hit(&store, &first.key), Some(again.digest));
    // A result that turns out to be damaged.
    read_ahead(&store);
    lose(&store, &again);
    assert_eq!(hit(&store, &first.key), None);
    // A result whose packs are lost.
    let second = commit(&store, "y", &components("b", 1), &artifact(3, 100_000));
    read_ahead(&store);
    assert_eq!(hit(&store, &second.key), Some(second.digest));
    store.index.raise_lineage().unwrap();
    assert_eq!(hit(&store, &second.key), None);
}

#[test]
fn entries_that_were_read_ahead_do_not_outlive_their_opening() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (store(dir.path()), store(dir.path()));
    let first = commit(&ours, "x", &components("a", 1), &artifact(1, 100_000));
    read_ahead(&ours);
    assert_eq!(hit(&ours, &first.key), Some(first.digest));
    ours.close();
    // Another process finds it damaged.
    lose(&theirs, &first);
    theirs.close();
    assert_eq!(hit(&ours, &first.key), None);
}

#[test]
fn read_ahead_that_is_cut_short_hides_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let first = commit(&store(dir.path()), "x", &components("a", 1), &artifact(1, 100));
    let store = store(dir.path());
    store.open_ahead(&AtomicBool::new(true));
    assert_eq!(hit(&store, &first.key), Some(first.digest));
}

#[test]
fn only_an_unchanged_index_is_left_open() {
    let leave = |use_it: &dyn Fn(&Store)| {
        let dir = tempfile::tempdir().unwrap();
        commit(&store(dir.path()), "x", &components("a", 1), &artifact(1, 100));
        let store = store(dir.path());
        read_ahead(&store);
        use_it(&store);
        store.leave();
        open(dir.path()).unwrap().index.is_free()
    };
    assert!(!leave(&|_| ()), "the end of the process closes it");
    assert!(leave(&|store| drop(commit(store, "y", &components("b", 1), &artifact(2, 100)))));
    assert!(leave(&|store| store.note_hits("p", &[("z", Digest([1; 32]))]).unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    // The digest of a new file is not remembered, because it may still change.
    file.as_file().set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    let digest = |store: &Store| assert!(store.file_digest(file.path()).is_ok());
    assert!(leave(&digest), "a file's digest is remembered");
}
