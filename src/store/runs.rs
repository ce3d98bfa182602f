//! Run records: one JSON file each, so that they outlive every database and can be read beside a running one.

use std::fs;
use std::io;

use super::disk::{self, write_atomically};
use super::{Result, RunRecord, Store, StoreError};

/// Bytes of the longest run record: one of 40,000 stages has about 10 MB.
const LONGEST: u64 = 1 << 30;

impl Store {
    /// Writes or replaces a run record; durable when this returns.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub fn write_run(&self, record: &RunRecord) -> Result<()> {
        self.inner.prepare()?;
        let folder = self.inner.dir.join("runs");
        fs::create_dir_all(&folder).map_err(StoreError::io("can't make", &folder))?;
        let path = folder.join(format!("{}.json", record.id));
        let bytes = serde_json::to_vec(record).map_err(|e| StoreError::io("can't write", &path)(e.into()))?;
        write_atomically(&path, &bytes)
    }

    /// All run records, newest last. One that can't be read is left out, with a warning.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn runs(&self) -> Result<Vec<RunRecord>> {
        let folder = self.inner.dir.join("runs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::io("can't read", &folder)(e)),
        };
        let mut runs = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match disk::read(&path, LONGEST).map_err(|e| e.to_string()).and_then(|b| parse(&b)) {
                Ok(run) => runs.push(run),
                Err(why) => self.inner.warn(format!("the run record {} can't be read: {why}", path.display())),
            }
        }
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(runs)
    }

    /// The newest run records, newest first, as many as have together no more than so many bytes; one at least. Those that
    /// can't be read are left out: [`Store::runs`] says so.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn newest_runs(&self, bytes: u64) -> Result<Vec<RunRecord>> {
        let folder = self.inner.dir.join("runs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::io("can't read", &folder)(e)),
        };
        let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        // Ids sort by time.
        paths.sort_unstable_by(|a, b| b.cmp(a));
        let (mut runs, mut left) = (Vec::new(), bytes);
        for path in paths {
            let Ok(content) = disk::read(&path, LONGEST) else { continue };
            let size = content.len() as u64;
            if size > left && !runs.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            runs.extend(parse(&content).ok());
        }
        Ok(runs)
    }

    /// The run whose id begins or ends with this; `last` is the newest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is none, or more than one.
    pub fn run(&self, id: &str) -> Result<RunRecord> {
        let mut runs = self.runs()?;
        if id == "last" {
            return runs.pop().ok_or_else(|| StoreError::NotFound("there is no run yet".to_owned()));
        }
        runs.retain(|r| r.id.starts_with(id) || r.id.ends_with(id));
        match (runs.len(), runs.pop()) {
            (1, Some(run)) => Ok(run),
            (0, _) => Err(StoreError::NotFound(format!("there is no run `{id}`"))),
            (n, _) => Err(StoreError::NotFound(format!("{n} runs have ids that begin or end with `{id}`"))),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<RunRecord, String> {
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}
