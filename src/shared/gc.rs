//! Removes what nobody needs any more.
//!
//! What the newest runs of each pipeline need stays, and so does every object that was written within the grace period.
//! Machines may write at the same time. One that pushes a record writes blobs again that are older than half of
//! [`GRACE`], and looks again when the record is there. So a blob that a new record needs is not removed, as long as
//! the clocks of the machines differ by less than half of it. If that ever fails, the result is a miss and not wrong
//! bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::blobs::blob_name;
use super::contents::names;
use super::error::{Result, SharedError};
use super::handle::{RECORDS, SharedStore};
use super::objects::{GRACE, Listed};
use super::record::{self, ANYBODY, Named};
use super::roots::{ROOTS, Root};
use super::runs::SharedRun;
use crate::artifact::BlobEntry;
use crate::file;
use crate::store::{ResultRecord, StateRecord};

/// What `gc` removes and keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedGcReport {
    /// Results and states that were kept.
    pub records_kept: usize,
    /// Results, states, words and runs that were removed.
    pub records_removed: usize,
    /// Blobs that were kept.
    pub blobs_kept: usize,
    /// Blobs that were removed.
    pub blobs_removed: usize,
    /// Bytes that were removed.
    pub bytes_removed: u64,
    /// Bytes that were kept.
    pub bytes_kept: u64,
}

/// How `gc` decides.
#[derive(Clone, Copy, Debug)]
pub struct SharedGcPolicy {
    /// Keep what the newest N runs of each pipeline need.
    pub keep_runs: usize,
    /// Keep what was written within this time. Below [`GRACE`], no machine may write at the same time.
    pub grace: Duration,
    /// Only count.
    pub dry_run: bool,
}

impl SharedGcPolicy {
    /// Whether other machines may write at the same time.
    pub fn is_safe_beside_writers(&self) -> bool {
        self.grace >= GRACE
    }
}

impl SharedStore {
    /// Removes what no recent run needs, see the module's head.
    ///
    /// # Errors
    /// If the store can't be read or written, or if a record or a root that must be kept can't be read. Then nothing is
    /// removed, because it is unknown what it needs.
    pub fn gc(&self, policy: &SharedGcPolicy) -> Result<SharedGcReport> {
        let contents = self.contents()?;
        let is_young = |object: &Listed| object.age() < policy.grace;
        let (wanted, old_roots) = self.wanted(&contents.roots, policy)?;
        let old_names: BTreeSet<&String> = old_roots.iter().collect();
        let kept_roots = contents.roots.iter().filter(|root| !old_names.contains(&root.name));
        let kept_ids: BTreeSet<&str> = kept_roots.filter_map(|root| root.name.rsplit('/').next()).collect();
        let has_root = |run: &Listed| run.name.rsplit('/').next().is_some_and(|id| kept_ids.contains(id));
        let keep_run = |run: &&Listed| is_young(run) || has_root(run);
        let keep = |object: &&Listed| is_young(object) || wanted.contains(&object.name);
        let (results, old_results): (Vec<_>, Vec<_>) = contents.results.iter().partition(keep);
        let (states, old_states): (Vec<_>, Vec<_>) = contents.states.iter().partition(keep);
        let kept: BTreeSet<&str> = results.iter().map(|object| object.name.as_str()).collect();
        let has_result = |word: &&Listed| {
            let result = word.name.rsplitn(3, '/').nth(2).and_then(|name| name.strip_prefix("word/"));
            result.is_some_and(|result| kept.contains(format!("result/{result}").as_str()))
        };
        let old_words = contents.words.iter().filter(|word| !is_young(word) && !has_result(word));
        let mut blobs = BTreeSet::new();
        self.add_blobs::<ResultRecord>(&results, &mut blobs, |record| record.blobs().collect())?;
        self.add_blobs::<StateRecord>(&states, &mut blobs, |record| record.blobs().collect())?;
        let (runs, old_runs): (Vec<_>, Vec<_>) = contents.runs.iter().partition(keep_run);
        self.add_blobs::<SharedRun>(&runs, &mut blobs, |run| run.files.values().map(|file| file.blob).collect())?;
        let old_records: Vec<&Listed> =
            old_results.into_iter().chain(old_states).chain(old_words).chain(old_runs).collect();
        let keep = |blob: &&Listed| is_young(blob) || blobs.contains(&blob.name);
        let (kept_blobs, old_blobs): (Vec<_>, Vec<_>) = contents.blobs.iter().partition(keep);
        let bytes_removed = old_records.iter().chain(&old_blobs).map(|object| object.size).sum();
        if !policy.dry_run {
            self.require_writes()?;
            // Records before the blobs that they name.
            for old in [old_roots, names(old_records.iter().copied()), names(old_blobs.iter().copied())] {
                self.objects.remove_older_each(&old, policy.grace).into_iter().collect::<Result<Vec<()>>>()?;
            }
            if let Some(folder) = self.address().folder() {
                remove_unfinished(folder, policy.grace);
            }
        }
        Ok(SharedGcReport {
            records_kept: results.len() + states.len(),
            records_removed: old_records.len(),
            blobs_kept: kept_blobs.len(),
            blobs_removed: old_blobs.len(),
            bytes_removed,
            bytes_kept: contents.bytes.saturating_sub(bytes_removed),
        })
    }

    /// Adds the names of the blobs that these records need.
    fn add_blobs<T: Named>(
        &self,
        listed: &[&Listed],
        blobs: &mut BTreeSet<String>,
        of: impl Fn(&T) -> Vec<BlobEntry>,
    ) -> Result<()> {
        for names in names(listed.iter().copied()).chunks(RECORDS) {
            for (name, bytes) in names.iter().zip(self.objects.get_each(names)) {
                // Another collection may have removed it.
                let Some(bytes) = bytes? else { continue };
                let record = record::decode::<T>(&bytes, name, ANYBODY);
                let record = record.map_err(|why| self.unreadable(name, &why.to_string()))?;
                blobs.extend(of(&record.record).iter().map(blob_name));
            }
        }
        Ok(())
    }

    fn unreadable(&self, name: &str, why: &str) -> SharedError {
        let message = format!("can't collect in the store {}: {name} can't be read: {why}", self.address());
        SharedError::unusable(message, "`vadpipe store doctor` removes what is damaged")
    }

    /// The records that the newest runs need, and those of the grace period, and the roots of older runs.
    fn wanted(&self, roots: &[Listed], policy: &SharedGcPolicy) -> Result<(BTreeSet<String>, Vec<String>)> {
        let mut by_pipeline: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
        for root in roots {
            let pipeline = root.name.strip_prefix(ROOTS).and_then(|name| name.split('/').next());
            by_pipeline.entry(pipeline.unwrap_or_default()).or_default().push(root);
        }
        let (mut kept, mut old) = (Vec::new(), Vec::new());
        for mut roots in by_pipeline.into_values() {
            // Ids of runs sort by time.
            roots.sort_unstable_by(|a, b| b.name.cmp(&a.name));
            for (number, root) in roots.into_iter().enumerate() {
                let is_kept = number < policy.keep_runs || root.age() < policy.grace;
                if is_kept { &mut kept } else { &mut old }.push(root.name.clone());
            }
        }
        let mut wanted = BTreeSet::new();
        for (name, bytes) in kept.iter().zip(self.objects.get_each(&kept)) {
            let Some(bytes) = bytes? else { continue };
            let root = Root::decode(&bytes).ok_or_else(|| self.unreadable(name, "it is damaged"))?;
            wanted.extend(root.records);
        }
        Ok((wanted, old))
    }
}

/// Removes what writers that were killed have left in a folder: `NAME#1`. No listing shows these files. Errors are
/// ignored, because the next collection tries again.
fn remove_unfinished(folder: &Path, grace: Duration) {
    for path in file::files_below(folder).unwrap_or_default() {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('#'));
        let is_unfinished = name.is_some_and(|(_, number)| number.parse::<u32>().is_ok());
        let path = folder.join(&path);
        let age = path.metadata().and_then(|file| file.modified()).ok().and_then(|time| time.elapsed().ok());
        if is_unfinished && age.is_some_and(|age| age >= grace) {
            let _ = std::fs::remove_file(&path);
        }
    }
}
