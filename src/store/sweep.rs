//! Leftovers in the cache's folder: records, events and logs of runs that are no longer kept, and the folders and
//! incomplete files of killed processes.
//!
//! The checkpoint of a program stays as long as the run that last used it. Its folder is named by the key of the
//! result, without the files that the program read.
//!
//! A process that runs or verifies stages holds a shared lock on `work.lock` ([`Store::at_work`]). Scratch folders and
//! caches of `verify` are removed only while no process holds it. Files that belong to no run record (logs of `verify`,
//! incomplete files) are removed when they are a day old.
//!
//! Only files with names that this program gives are removed. A user may have put other files into the folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::disk::{self, is_temporary, name};
use super::error::Result;
use super::handle::Store;
use super::lock::{self, Sharing};
use super::record::RunRecord;
use crate::file;

/// Bytes of the longest `about.json` of a checkpoint.
const LONGEST_ABOUT: u64 = 1 << 20;
/// How long files without an owner are kept.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Held by a process that runs stages, so that scratch folders stay.
#[derive(Debug)]
pub struct AtWork {
    _lock: File,
}

/// What a collection removes besides database entries.
pub(super) struct Leftovers {
    paths: Vec<PathBuf>,
    /// Held so that no process starts to run stages while work folders are removed.
    _alone: Option<File>,
}

impl Leftovers {
    /// Bytes that they take on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.paths.iter().map(|path| disk::bytes_below(path)).sum()
    }

    /// Removes them. A file that can't be removed stays for the next time.
    pub(super) fn remove(self) {
        for path in &self.paths {
            let _ = if path.is_dir() { file::remove_folder(path) } else { fs::remove_file(path) };
        }
    }
}

impl Store {
    /// Announces that this process runs stages, until the returned value is dropped.
    ///
    /// # Errors
    /// If the cache can't be written, or is held by a collection for too long.
    pub fn at_work(&self) -> Result<AtWork> {
        self.index.folder.prepare()?;
        let path = self.dir().join("work.lock");
        Ok(AtWork { _lock: lock::take(&path, Sharing::Shared, &self.index.folder.options, &|| {})? })
    }

    pub(super) fn leftovers(&self, kept: &[RunRecord], old: &[RunRecord]) -> Leftovers {
        let entries = |folder: PathBuf| disk::entries(&folder).unwrap_or_default();
        let dir = self.dir();
        let (runs, logs) = (dir.join("runs"), dir.join("logs"));
        let mut paths = Vec::new();
        for run in old {
            let file = |extension: &str| runs.join(format!("{}.{extension}", run.id));
            // The record comes last, so that an interrupted removal continues the next time.
            let parts = [logs.join(&run.id), file("ndjson"), file("json")];
            paths.extend(parts.into_iter().filter(|path| path.exists()));
        }
        // An unreadable record still owns its files.
        let run_files = entries(runs);
        let known: BTreeSet<String> = run_files.iter().filter_map(|path| stem(path, "json")).collect();
        let is_orphan = |id: &str| is_run_id(id) && !known.contains(id);
        let orphans = run_files.into_iter().filter(|path| stem(path, "ndjson").is_some_and(|id| is_orphan(&id)));
        let orphans = orphans.chain(entries(logs).into_iter().filter(|path| is_orphan(&name(path))));
        let folders = [dir.to_owned(), dir.join("runs"), dir.join("small"), dir.join("verdicts")];
        let temporary = folders.into_iter().flat_map(entries).filter(|path| is_temporary(path));
        paths.extend(orphans.chain(temporary).filter(|path| disk::is_older(path, OLD)));
        paths.extend(entries(dir.join("checkpoints")).into_iter().filter(|path| {
            let is_kept = |id: &str| known.contains(id) && !old.iter().any(|run| run.id == id);
            // A lock goes after its folder.
            let is_lock = stem(path, "lock").is_some() && path.with_extension("").exists();
            !is_lock && !last_run(path).is_some_and(|id| is_kept(&id)) && disk::is_older(path, OLD)
        }));
        let alone = self.alone(kept);
        if alone.is_some() {
            let caches_of_verify = entries(dir.to_owned()).into_iter().filter(|path| name(path).starts_with("verify-"));
            let of_work = entries(dir.join("scratch")).into_iter().chain(caches_of_verify);
            paths.extend(of_work.filter(|path| is_folder_of_work(path)));
        }
        Leftovers { paths, _alone: alone }
    }

    /// The exclusive lock, if no other process is at work and no run is in progress.
    fn alone(&self, kept: &[RunRecord]) -> Option<File> {
        if kept.iter().any(RunRecord::is_running) {
            return None;
        }
        lock::take_if_free(&self.dir().join("work.lock")).ok()?
    }
}

/// The run that last used a checkpoint.
fn last_run(checkpoint: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct About {
        run: String,
    }
    let about = disk::read(&checkpoint.join("about.json"), LONGEST_ABOUT).ok()?;
    serde_json::from_slice(&about).ok().map(|about: About| about.run)
}

fn stem(path: &Path, extension: &str) -> Option<String> {
    Some(name(path).strip_suffix(extension)?.strip_suffix('.')?.to_owned())
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
