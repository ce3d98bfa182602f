//! The run records of a cache, read without a lock.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::disk;
use super::error::{Result, StoreError};
use super::record::RunRecord;
use super::runs;

/// The folder with the run records of a cache.
#[derive(Clone, Debug)]
pub struct RunFolder {
    folder: PathBuf,
}

/// The record of a run on the disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunFile {
    /// The run's id.
    pub id: String,
    /// The size of the record and when it was written. Equal if the record is.
    pub stamp: (u64, SystemTime),
}

impl RunFolder {
    /// The folder of the cache in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { folder: dir.join("runs") }
    }

    /// When a record was last added, replaced or removed. None if there is no folder.
    pub fn changed_at(&self) -> Option<SystemTime> {
        self.folder.metadata().ok()?.modified().ok()
    }

    /// The ids of the runs that have a record, sorted, which sorts them by time.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let paths = disk::entries(&self.folder).map_err(StoreError::io("can't read", &self.folder))?;
        let id = |path: &PathBuf| disk::name(path).strip_suffix(".json").map(str::to_owned);
        let mut ids: Vec<String> = paths.iter().filter_map(id).collect();
        ids.sort();
        Ok(ids)
    }

    /// The state of a record; none if it was removed.
    pub fn file(&self, id: &str) -> Option<RunFile> {
        let file = self.path(id).metadata().ok()?;
        let stamp = (file.len(), file.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        Some(RunFile { id: id.to_owned(), stamp })
    }

    /// The record of a run; none if it can't be read or is that of another run.
    pub fn record(&self, id: &str) -> Option<RunRecord> {
        let record = runs::parse(&disk::read(&self.path(id), runs::LONGEST).ok()?).ok()?;
        Some(record).filter(|record| record.id == id)
    }

    /// The file with the events of a run.
    pub fn events_path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.ndjson"))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{run, store};

    #[test]
    fn record_with_the_id_of_another_run_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path()).write_run(&run("20260101-1", &[])).unwrap();
        let folder = RunFolder::new(dir.path());
        std::fs::copy(dir.path().join("runs/20260101-1.json"), dir.path().join("runs/20260102-2.json")).unwrap();
        assert_eq!(folder.ids().unwrap(), ["20260101-1", "20260102-2"]);
        assert!(folder.record("20260101-1").is_some() && folder.record("20260102-2").is_none());
    }
}
