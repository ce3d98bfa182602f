//! Properties of what the store reads, for `crate::fuzzing`: records, packs, FORMAT and the journal.

mod journal;
mod packs;
mod records;

use std::fs;

use tempfile::TempDir;

use super::{FORMAT, Options, Store, StoreError};

pub(crate) use journal::check as journal;
pub(crate) use packs::check as packs;
pub(crate) use records::check as records;

/// An empty folder.
fn folder() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("can't create a folder: {e}"))
}

/// Calls `f` with a database that has these entries and no others. The database stays open for the next call.
fn with_database<T>(entries: &[(Vec<u8>, Vec<u8>)], f: impl FnOnce(&sled::Db) -> T) -> T {
    thread_local! {
        static DATABASE: (sled::Db, TempDir) = {
            let folder = folder();
            let db = sled::Config::new().path(folder.path()).flush_every_ms(None).open();
            (db.unwrap_or_else(|e| panic!("can't open a database: {e}")), folder)
        };
    }
    DATABASE.with(|(db, _)| {
        for (key, value) in entries {
            db.insert(key, value.as_slice()).unwrap_or_else(|e| panic!("can't write to the database: {e}"));
        }
        let result = f(db);
        for (key, _) in entries {
            db.remove(key).unwrap_or_else(|e| panic!("can't write to the database: {e}"));
        }
        result
    })
}

/// Opens a folder that has only the file FORMAT. This succeeds if this version can read FORMAT, and never changes it.
pub(crate) fn format(bytes: &[u8]) {
    /// No FORMAT is longer.
    const LIMIT: usize = 64;
    let folder = folder();
    let path = folder.path().join("FORMAT");
    fs::write(&path, bytes).unwrap_or_else(|e| panic!("can't write FORMAT: {e}"));
    let number = String::from_utf8_lossy(bytes).trim().parse::<u32>().ok();
    match Store::open(folder.path(), Options::default()) {
        Ok(_) => assert!(number.is_some_and(|n| n <= FORMAT), "opened with FORMAT {number:?}"),
        Err(StoreError::Newer { found, .. }) => assert!(number == Some(found) && found > FORMAT),
        Err(error) => assert!(number.is_none() || bytes.len() > LIMIT, "refused with FORMAT {number:?}: {error}"),
    }
    assert!(fs::read(&path).is_ok_and(|now| now == bytes), "FORMAT was changed");
    let names = fs::read_dir(folder.path()).map_or(0, Iterator::count);
    assert_eq!(names, 1, "opening created files");
}
