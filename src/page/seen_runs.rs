//! Which run records were read already, so that each is read only once in each of its states.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use crate::store::{RunFile, RunFolder, RunRecord};

/// The folder is listed when it has changed, and at least this often: its time of change may be coarse.
const SCAN: Duration = Duration::from_secs(2);
/// Changes that are closer together may have the same time.
const MOMENT: Duration = Duration::from_millis(50);
/// Bytes of the records of runs that are read, the newest ones first. A record of 40,000 points has about 10 MB.
const MOST_BYTES: u64 = 128 << 20;

/// When a folder was changed, unless that is so recent that a file written now would not change the time again.
pub(super) fn settled(changed_at: Option<SystemTime>) -> Option<SystemTime> {
    changed_at.filter(|at| at.elapsed().is_ok_and(|age| age > MOMENT))
}

/// The records that were read or left out.
pub(super) struct SeenRuns {
    folder: RunFolder,
    seen: BTreeMap<String, Seen>,
    changed_at: Option<SystemTime>,
    scanned_at: Option<Instant>,
}

/// A record that was seen, also if it could not be read.
struct Seen {
    file: RunFile,
    /// Whether it never changes again.
    is_final: bool,
}

/// What has changed in the folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RunChanges {
    /// New and changed records, sorted by id.
    pub(super) changed: Vec<RunFile>,
    /// The ids of runs whose records were removed.
    pub(super) removed: BTreeSet<String>,
}

impl SeenRuns {
    pub(super) fn new(folder: RunFolder) -> Self {
        Self { folder, seen: BTreeMap::new(), changed_at: None, scanned_at: None }
    }

    /// The folder of the records.
    pub(super) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Looks for changes, if there may be any.
    pub(super) fn look(&mut self) -> RunChanges {
        let changed_at = self.folder.changed_at();
        let is_due = self.scanned_at.is_none_or(|at| at.elapsed() >= SCAN);
        if !is_due && changed_at == self.changed_at {
            return RunChanges::default();
        }
        // A folder that can't be read says nothing.
        let Ok(ids) = self.folder.ids() else { return RunChanges::default() };
        self.changed_at = settled(changed_at);
        self.scanned_at = Some(Instant::now());
        self.scan(&ids)
    }

    fn scan(&mut self, ids: &[String]) -> RunChanges {
        let known: BTreeSet<&String> = ids.iter().collect();
        let is_removed = |id: &&String| !known.contains(id);
        let removed: BTreeSet<String> = self.seen.keys().filter(is_removed).cloned().collect();
        self.seen.retain(|id, _| !removed.contains(id));
        let mut changed = Vec::new();
        let mut bytes = 0u64;
        for id in ids.iter().rev() {
            let seen = self.seen.get(id);
            if let Some(seen) = seen.filter(|seen| seen.is_final) {
                bytes = bytes.saturating_add(seen.file.stamp.0);
                continue;
            }
            // It may have been removed meanwhile.
            let Some(file) = self.folder.file(id) else { continue };
            bytes = bytes.saturating_add(file.stamp.0);
            let is_left_out = seen.is_none() && bytes > MOST_BYTES;
            if seen.is_none_or(|seen| seen.file != file) && !is_left_out {
                changed.push(file.clone());
            }
            self.seen.insert(id.clone(), Seen { file, is_final: is_left_out });
        }
        changed.reverse();
        RunChanges { changed, removed }
    }

    /// Reads a record; none if it can't be read. That of a run that has finished is not looked at again.
    pub(super) fn read(&mut self, id: &str) -> Option<RunRecord> {
        let record = self.folder.record(id);
        if let Some(seen) = self.seen.get_mut(id) {
            seen.is_final = record.as_ref().is_some_and(|record| record.finished_at.is_some());
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CacheReader;
    use crate::store::tests::{run, store};

    #[test]
    fn record_is_read_once_in_each_of_its_states_even_if_it_is_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut open = run("20260102-2", &[]);
        open.finished_at = None;
        store.write_run(&run("20260101-1", &[])).unwrap();
        store.write_run(&open).unwrap();
        std::fs::write(dir.path().join("runs/20260103-3.json"), "{").unwrap();
        let mut seen = SeenRuns::new(CacheReader::open(dir.path()).unwrap().runs());
        let changed = |seen: &mut SeenRuns| {
            let changes = seen.look();
            changes.changed.iter().for_each(|file| drop(seen.read(&file.id)));
            (changes.changed.into_iter().map(|file| file.id).collect::<Vec<_>>(), changes.removed.into_iter().collect())
        };
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<String>>();
        assert_eq!(changed(&mut seen), (ids(&["20260101-1", "20260102-2", "20260103-3"]), ids(&[])));
        assert_eq!(changed(&mut seen), (ids(&[]), ids(&[])));
        open.finished_at = Some(2);
        store.write_run(&open).unwrap();
        std::fs::remove_file(dir.path().join("runs/20260101-1.json")).unwrap();
        assert_eq!(changed(&mut seen), (ids(&["20260102-2"]), ids(&["20260101-1"])));
        assert_eq!(changed(&mut seen), (ids(&[]), ids(&[])));
    }
}
