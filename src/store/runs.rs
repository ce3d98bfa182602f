//! Run records: one JSON file each, so that they outlive every database and can be read beside a running one.
//!
//! The last field of a record is `check`, the digest of what stands before it. A collection keeps what a run names, so a
//! record that was damaged must not be taken for one that names less ([`Store::unreadable_runs`]).

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::disk::{self, write_atomically};
use super::{Result, RunRecord, Store, StoreError};
use crate::key::{Digest, Key};

/// What stands before the digest of a record.
const CHECK: &str = ",\"check\":\"";

/// Bytes of the longest run record: one of 40,000 stages has about 10 MB.
const LONGEST: u64 = 1 << 30;

/// Runs whose record can't be read.
#[derive(Debug, Default)]
pub(super) struct UnreadableRuns {
    /// Their ids, by the names of their files.
    pub(super) ids: BTreeSet<String>,
    /// The digests that can be made out in their files: more than the keys that they name, and perhaps not all.
    pub(super) keys: BTreeSet<Key>,
}

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
        let text = serde_json::to_string(record).map_err(|e| StoreError::io("can't write", &path)(e.into()))?;
        let body = text.strip_suffix('}').unwrap_or(&text);
        write_atomically(&path, format!("{body}{CHECK}{}\"}}", Digest::of(body.as_bytes())).as_bytes())
    }

    /// Runs whose record is damaged or missing, and what may be known of them.
    pub(super) fn unreadable_runs(&self) -> Result<UnreadableRuns> {
        let folder = self.inner.dir.join("runs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(UnreadableRuns::default()),
            Err(e) => return Err(StoreError::io("can't read", &folder)(e)),
        };
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        let id = |name: String| Some(name.strip_suffix(".json").or(name.strip_suffix(".ndjson"))?.to_owned());
        let mut unreadable = UnreadableRuns { ids: names.filter_map(id).collect(), keys: BTreeSet::new() };
        for run in self.runs()? {
            unreadable.ids.remove(&run.id);
        }
        for id in &unreadable.ids {
            for name in [format!("{id}.json"), format!("{id}.ndjson")] {
                // What can't be read names nothing.
                let content = disk::read(&folder.join(name), LONGEST).unwrap_or_default();
                unreadable.keys.extend(keys(&content));
            }
        }
        Ok(unreadable)
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
    let body = bytes.windows(CHECK.len()).rposition(|w| w == CHECK.as_bytes());
    // Records of earlier versions have no check.
    if let Some(body) = body {
        let check = bytes.get(body + CHECK.len()..).and_then(|rest| rest.strip_suffix(b"\"}"));
        if check != Some(Digest::of(&bytes[..body]).to_string().as_bytes()) {
            return Err("it was changed".to_owned());
        }
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

/// All digests in a text.
fn keys(text: &[u8]) -> impl Iterator<Item = Key> {
    let words = text.split(|byte| !byte.is_ascii_hexdigit()).filter(|word| word.len() == 64);
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}
