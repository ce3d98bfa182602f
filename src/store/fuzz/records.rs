//! Records of results, states and runs.

use std::fs;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{folder, with_database};
use crate::store::{FORMAT, Holder, Options, ResultRecord, RunRecord, StateRecord, Store, entries};

/// Records of longer trainings are only read and written, to keep the fuzzer fast.
const EPOCHS: u64 = 20_000;

/// A record that is read and written again is the same. The index returns only records whose digests are right. A run
/// record is listed, or the user is warned.
pub(crate) fn check(bytes: &[u8]) {
    is_read_again::<Holder>(bytes);
    if let Some(record) = is_read_again::<ResultRecord>(bytes) {
        result(record);
    }
    if let Some(record) = is_read_again::<StateRecord>(bytes) {
        state(record);
    }
    let run = is_read_again::<RunRecord>(bytes);
    run_file(bytes, run.as_ref());
}

fn is_read_again<T>(bytes: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let record: T = serde_json::from_slice(bytes).ok()?;
    for text in [serde_json::to_vec(&record), serde_json::to_vec_pretty(&record)] {
        let text = text.unwrap_or_else(|e| panic!("a record that was read can't be written: {e}"));
        let again: T = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("a written record is refused: {e}"));
        assert_eq!(again, record);
    }
    Some(record)
}

fn json<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_else(|e| panic!("a record can't be written: {e}"))
}

/// What the index returns for an entry of a result.
fn indexed(record: &ResultRecord) -> Option<ResultRecord> {
    let name = [b"r".as_slice(), &record.key.0].concat();
    with_database(&[(name, json(record))], |db| {
        let (Ok(found), Ok(all)) = (entries::result(db, &record.key), entries::all_results(db)) else {
            panic!("a record makes the index fail")
        };
        let found = found.and_then(Result::ok);
        assert_eq!(all.0.len(), usize::from(found.is_some()), "one result and all results differ");
        found
    })
}

fn result(mut record: ResultRecord) {
    let segments = record.components.segments.iter().flatten();
    if segments.map(|s| s.epochs).fold(0, u64::saturating_add) > EPOCHS {
        return;
    }
    let (key, digest) = (record.components.key(), record.manifest.digest());
    let is_right = record.key == key && record.digest == digest;
    assert_eq!(indexed(&record), is_right.then(|| record.clone()));
    (record.key, record.digest) = (key, digest);
    assert_eq!(indexed(&record).as_ref(), Some(&record), "a right record is refused");
    record.manifest.metrics.insert("altered".to_owned(), 0.5);
    let is_altered = record.manifest.digest() != digest;
    assert!(!is_altered || indexed(&record).is_none(), "an altered record is returned");
    assert_eq!(record.components.key(), key);
}

/// What the index returns for an entry of a state.
fn indexed_state(record: &StateRecord, entry: Vec<u8>) -> Option<StateRecord> {
    let name = [b"t".as_slice(), &record.key.0, &record.step.to_be_bytes(), record.class.as_bytes()].concat();
    with_database(&[(name, entry)], |db| {
        let Ok(found) = entries::states(db, &record.key) else { panic!("a record makes the index fail") };
        assert!(found.len() <= 1);
        found.into_iter().next()
    })
}

fn state(record: StateRecord) {
    assert_eq!(indexed_state(&record, json(&record)).as_ref(), Some(&record), "one of an earlier version is refused");
    let Ok(mut entry) = entries::checked(&record) else { panic!("a record can't be written") };
    assert_eq!(indexed_state(&record, entry.clone()).as_ref(), Some(&record), "a right record is refused");
    let middle = entry.len() / 2;
    entry[middle] ^= 1;
    assert_eq!(indexed_state(&record, entry), None, "an altered record is returned");
}

/// A run record in its file is listed; one that can't be read is a warning.
fn run_file(bytes: &[u8], record: Option<&RunRecord>) {
    let folder = folder();
    let runs = folder.path().join("runs");
    let written = fs::write(folder.path().join("FORMAT"), FORMAT.to_string())
        .and_then(|()| fs::create_dir(&runs))
        .and_then(|()| fs::write(runs.join("a.json"), bytes));
    written.unwrap_or_else(|e| panic!("can't write: {e}"));
    let store = Store::open(folder.path(), Options::default());
    let store = store.unwrap_or_else(|e| panic!("can't open the cache: {e}"));
    let found = store.runs().unwrap_or_else(|e| panic!("a run record makes the list of runs fail: {e}"));
    assert_eq!(found.first(), record);
    assert_eq!(store.warnings().len(), usize::from(record.is_none()));
    let newest =
        store.newest_runs(u64::MAX).unwrap_or_else(|e| panic!("a run record makes the list of runs fail: {e}"));
    assert_eq!(newest.first(), record);
}
