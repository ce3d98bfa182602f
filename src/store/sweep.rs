//! What is left in the cache's folder and nobody else removes: records, events and logs of runs that are no longer kept,
//! and the folders that killed processes left.
//!
//! A process that runs or verifies stages holds a shared lock on `work.lock` ([`Store::at_work`]). Scratch folders and
//! caches of `verify` are removed only while nobody holds it. What belongs to no run record (logs of `verify`, files whose
//! writer was killed) is removed when it is a day old.
//!
//! Only names that this program gives are removed. A user may have put other files into the folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::disk::TEMPORARY;
use super::lock::{self, Sharing};
use super::{Result, RunRecord, Store, path_bytes};

/// What belongs to nobody is left alone for so long.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Held by whoever runs stages: scratch folders stay while it is.
#[derive(Debug)]
pub struct AtWork {
    _lock: File,
}

/// What a collection removes besides what the databases hold.
pub(super) struct Leftovers {
    paths: Vec<PathBuf>,
    /// Nobody begins to work while folders of work are removed.
    _alone: Option<File>,
}

impl Leftovers {
    /// Their bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.paths.iter().map(|p| path_bytes(p)).sum()
    }

    /// Removes them. What can't be removed stays for the next time.
    pub(super) fn remove(self) {
        for path in &self.paths {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

impl Store {
    /// Says that this process runs stages, until the answer is dropped.
    ///
    /// # Errors
    /// If the cache can't be written, or is held by a collection for too long.
    pub fn at_work(&self) -> Result<AtWork> {
        self.inner.prepare()?;
        let path = self.inner.dir.join("work.lock");
        Ok(AtWork { _lock: lock::take(&path, Sharing::Shared, &self.inner.options, &|| {})? })
    }

    pub(super) fn leftovers(&self, kept: &[RunRecord], old: &[RunRecord]) -> Leftovers {
        let dir = &self.inner.dir;
        let (runs, logs) = (dir.join("runs"), dir.join("logs"));
        let mut paths = Vec::new();
        for run in old {
            // The record last, so that what is left is found again if this is cut short.
            let parts =
                [logs.join(&run.id), runs.join(format!("{}.ndjson", run.id)), runs.join(format!("{}.json", run.id))];
            paths.extend(parts.into_iter().filter(|p| p.exists()));
        }
        // Records that can't be read keep what is theirs.
        let entries = entries(&runs);
        let known: BTreeSet<String> = entries.iter().filter_map(|p| stem(p, "json")).collect();
        let is_orphan = |id: String| is_run_id(&id) && !known.contains(&id);
        let orphan = |p: &&PathBuf| is_temporary(p) || stem(p, "ndjson").is_some_and(is_orphan);
        paths.extend(entries.iter().filter(orphan).filter(|p| is_old(p)).cloned());
        let nobodys = self::entries(&logs).into_iter().filter(|p| is_run_id(&name(p)) && !known.contains(&name(p)));
        paths.extend(nobodys.filter(|p| is_old(p)));
        let temporary = self::entries(dir).into_iter().chain(self::entries(&dir.join("small")));
        paths.extend(temporary.filter(|p| is_temporary(p) && is_old(p)));
        let alone = self.nobody_works(kept);
        if alone.is_some() {
            paths.extend(self::entries(&dir.join("scratch")).into_iter().filter(|p| is_folder_of_work(p)));
            let is_cache_of_verify = |p: &PathBuf| name(p).starts_with("verify-") && is_folder_of_work(p);
            paths.extend(self::entries(dir).into_iter().filter(is_cache_of_verify));
        }
        Leftovers { paths, _alone: alone }
    }

    /// The lock, if nobody else has it and no run is under way.
    fn nobody_works(&self, kept: &[RunRecord]) -> Option<File> {
        if kept.iter().any(RunRecord::is_running) {
            return None;
        }
        let path = self.inner.dir.join("work.lock");
        let file = lock::open(&path).ok()?;
        lock::try_take(&file, &path, Sharing::Exclusive).ok()?.then_some(file)
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path, extension: &str) -> Option<String> {
    Some(name(path).strip_suffix(extension)?.strip_suffix('.')?.to_owned())
}

/// A file that was to be renamed when it was complete.
fn is_temporary(path: &Path) -> bool {
    name(path).starts_with(TEMPORARY)
}

/// Whether a name has the form of a run's id: see [`super::new_run_id`].
fn is_run_id(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [day, time, process] = parts[..] else { return false };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let is_hex = !process.is_empty() && process.bytes().all(|b| b.is_ascii_hexdigit());
    day.len() == 8 && (6..=9).contains(&time.len()) && digits(day) && digits(time) && is_hex
}

/// Whether this is a folder that a stage or `verify` works in: `<name>-<six letters or digits>`.
fn is_folder_of_work(path: &Path) -> bool {
    let is_random = |end: &str| end.len() == 6 && end.bytes().all(|b| b.is_ascii_alphanumeric());
    name(path).rsplit_once('-').is_some_and(|(_, end)| is_random(end)) && path.is_dir() && !path.is_symlink()
}

fn is_old(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|m| m.modified());
    changed.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > OLD))
}
