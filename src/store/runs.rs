//! Run records: one JSON file each, so that they outlive every database and can be read while a database is in use.
//!
//! The last field of a record is `check`, the digest of the text before it. A collection keeps what a run names, so a
//! damaged record must not pass for one that names less ([`Store::unreadable_runs`]).

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::disk::{self, write_atomically};
use super::error::{Result, StoreError};
use super::handle::Store;
use super::record::RunRecord;
use crate::key::{Digest, Key};

/// The text before the digest of a record.
const CHECK: &str = ",\"check\":\"";

/// Bytes of the longest run record: one of 40,000 stages has about 10 MB.
pub(super) const LONGEST: u64 = 1 << 30;

/// Runs whose record can't be read.
#[derive(Debug, Default)]
pub(super) struct UnreadableRuns {
    /// Their ids, by the names of their files.
    pub(super) ids: BTreeSet<String>,
    /// All digests in their files: perhaps more than the keys that they name, and perhaps not all of them.
    pub(super) keys: BTreeSet<Key>,
}

impl Store {
    /// Writes or replaces a run record, durably.
    pub fn write_run(&self, record: &RunRecord) -> Result<()> {
        let path = self.index.folder.create("runs")?.join(format!("{}.json", record.id));
        let mut text = serde_json::to_string(record).map_err(|e| StoreError::io("can't write", &path)(e.into()))?;
        // The brace that ends it. It follows the check.
        text.pop();
        let digest = Digest::of(text.as_bytes());
        text.extend([CHECK, &digest.to_string(), "\"}"]);
        write_atomically(&path, text.as_bytes())
    }

    /// Runs whose record is damaged or missing, and what may be known about them.
    pub(super) fn unreadable_runs(&self) -> Result<UnreadableRuns> {
        let mut unreadable = UnreadableRuns::default();
        for path in self.run_files()? {
            let name = disk::name(&path);
            let id = name.strip_suffix(".json").or(name.strip_suffix(".ndjson"));
            unreadable.ids.extend(id.map(str::to_owned));
        }
        for run in self.runs()? {
            unreadable.ids.remove(&run.id);
        }
        for id in &unreadable.ids {
            for name in [format!("{id}.json"), format!("{id}.ndjson")] {
                // A file that can't be read names nothing.
                let content = disk::read(&self.runs_folder().join(name), LONGEST).unwrap_or_default();
                unreadable.keys.extend(digests(&content));
            }
        }
        Ok(unreadable)
    }

    fn runs_folder(&self) -> PathBuf {
        self.dir().join("runs")
    }

    /// The run records and the files beside them, sorted by id.
    fn run_files(&self) -> Result<Vec<PathBuf>> {
        let folder = self.runs_folder();
        disk::entries(&folder).map_err(StoreError::io("can't read", &folder))
    }

    /// All run records, newest last. One that can't be read is left out, with a warning.
    pub fn runs(&self) -> Result<Vec<RunRecord>> {
        let mut runs = Vec::new();
        for path in self.run_files()?.iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
            match disk::read(path, LONGEST).map_err(|e| e.to_string()).and_then(|b| parse(&b)) {
                Ok(run) => runs.push(run),
                Err(why) => self.index.folder.warn(format!("the run record {} can't be read: {why}", path.display())),
            }
        }
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(runs)
    }

    /// The newest run records, newest first: as many as take at most `bytes` bytes together, but at least one.
    /// Unreadable records are left out; [`Store::runs`] warns about them.
    pub fn newest_runs(&self, bytes: u64) -> Result<Vec<RunRecord>> {
        let (mut runs, mut left) = (Vec::new(), bytes);
        // Ids sort by time.
        for path in self.run_files()?.iter().rev().filter(|path| path.extension().is_some_and(|e| e == "json")) {
            let Ok(content) = disk::read(path, LONGEST) else { continue };
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
        if let Some(named) = runs.iter().rposition(|r| r.label.name.as_deref() == Some(id)) {
            return Ok(runs.swap_remove(named));
        }
        runs.retain(|r| r.id.starts_with(id) || r.id.ends_with(id));
        match (runs.len(), runs.pop()) {
            (1, Some(run)) => Ok(run),
            (0, _) => Err(StoreError::NotFound(format!("there is no run `{id}`"))),
            (n, _) => Err(StoreError::NotFound(format!("{n} runs have ids that begin or end with `{id}`"))),
        }
    }
}

/// Parses a run record and checks its digest.
pub(super) fn parse(bytes: &[u8]) -> Result<RunRecord, String> {
    // Records of earlier versions have no check.
    if let Some(body) = bytes.windows(CHECK.len()).rposition(|w| w == CHECK.as_bytes()) {
        let check = bytes.get(body + CHECK.len()..).and_then(|rest| rest.strip_suffix(b"\"}"));
        if check != Some(Digest::of(&bytes[..body]).to_string().as_bytes()) {
            return Err("it was changed".to_owned());
        }
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

/// All digests in a text.
fn digests(text: &[u8]) -> impl Iterator<Item = Digest> {
    let words = text.split(|byte| !byte.is_ascii_hexdigit()).filter(|word| word.len() == 64);
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}
