//! Removes what nobody needs any more.
//!
//! What the newest runs of each pipeline need stays, and so does every object that was written within the grace period.
//! Machines may write at the same time. One that pushes a record writes blobs again that are older than half of
//! [`GRACE`], and looks for them again when the record is there. The collection removes by way of the trash, see
//! `trash`. So nothing that a new record needs is lost, as long as the clocks of the machines differ by less than half
//! of [`GRACE`]. If that ever fails, the result is a miss and not wrong bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::blobs::blob_name;
use super::contents::{Contents, names};
use super::error::{Result, SharedError};
use super::handle::{RECORDS, SharedStore};
use super::objects::{GRACE, Listed};
use super::record::{self, ANYBODY, Named};
use super::roots::{ROOTS, Root, WORKER};
use super::runs::SharedRun;
use super::trash::{Collecting, Trash};
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
    /// Collect although another collection seems to be under way.
    pub force: bool,
}

impl SharedGcPolicy {
    /// Whether other machines may write at the same time.
    pub fn is_safe_beside_writers(&self) -> bool {
        self.grace >= GRACE
    }
}

/// What a collection keeps and removes.
struct Decision<'c> {
    /// Records that stay, with their versions.
    kept: BTreeMap<&'c str, &'c str>,
    /// Roots that stay, with their versions.
    kept_roots: BTreeMap<&'c str, &'c str>,
    kept_blobs: usize,
    old_roots: Vec<String>,
    /// Results, states and runs.
    old_records: Vec<&'c Listed>,
    /// Words, events and logs.
    old_words: Vec<&'c Listed>,
    old_blobs: Vec<&'c Listed>,
}

impl SharedStore {
    /// Removes what no recent run needs, see the module's head.
    ///
    /// # Errors
    /// If the store can't be read or written, or if a record or a root that must be kept can't be read. Then nothing is
    /// removed, because it is unknown what it needs.
    pub fn gc(&self, policy: &SharedGcPolicy) -> Result<SharedGcReport> {
        let mut collecting = None;
        if !policy.dry_run {
            self.require_writes()?;
            self.check()?;
            // A wrong address must not become a store.
            if self.objects.first("")?.is_none() {
                return Ok(SharedGcReport::default());
            }
            collecting = Some(Collecting::begin(&self.objects, policy.force)?);
            Trash::put_back_left(&self.objects)?;
        }
        let contents = self.contents()?;
        let decision = self.decide(&contents, policy)?;
        let removed = decision.old_records.iter().chain(&decision.old_words).chain(&decision.old_blobs);
        let bytes_removed = removed.map(|object| object.size).sum();
        if !policy.dry_run {
            self.carry_out(&decision, policy)?;
        }
        drop(collecting);
        Ok(SharedGcReport {
            records_kept: decision.kept.keys().filter(|name| !name.starts_with("run/")).count(),
            records_removed: decision.old_records.len() + decision.old_words.len(),
            blobs_kept: decision.kept_blobs,
            blobs_removed: decision.old_blobs.len(),
            bytes_removed,
            bytes_kept: contents.bytes.saturating_sub(bytes_removed),
        })
    }

    fn decide<'c>(&self, contents: &'c Contents, policy: &SharedGcPolicy) -> Result<Decision<'c>> {
        let is_young = |object: &Listed| object.age() < policy.grace;
        let (kept_roots, old_roots) = sort_roots(&contents.roots, policy);
        let wanted = self.wanted(&kept_roots.iter().cloned().collect::<Vec<_>>())?;
        let kept_ids: BTreeSet<&str> = kept_roots.iter().map(|root| run_of(root)).collect();
        let keep = |record: &&Listed| is_young(record) || wanted.contains(&record.name);
        let has_root = |run: &Listed| run.name.rsplit('/').next().is_some_and(|id| kept_ids.contains(id));
        let (results, old_results): (Vec<_>, Vec<_>) = contents.results.iter().partition(keep);
        let (states, old_states): (Vec<_>, Vec<_>) = contents.states.iter().partition(keep);
        let (runs, old_runs): (Vec<_>, Vec<_>) = contents.runs.iter().partition(|run| is_young(run) || has_root(run));
        let kept_records: Vec<&Listed> = results.into_iter().chain(states).chain(runs).collect();
        let kept: BTreeMap<_, _> =
            kept_records.iter().map(|record| (record.name.as_str(), record.version.as_str())).collect();
        let has_result =
            |word: &&Listed| result_of_word(&word.name).is_some_and(|result| kept.contains_key(result.as_str()));
        let old_words = contents.words.iter().filter(|word| !is_young(word) && !has_result(word));
        let is_of_kept_run = |told: &Listed| told.name.split('/').nth(1).is_some_and(|id| kept_ids.contains(id));
        let old_told = contents.told.iter().filter(|told| !is_young(told) && !is_of_kept_run(told));
        let blobs = self.blobs_of(kept_records)?;
        let keep = |blob: &&Listed| is_young(blob) || blobs.contains(&blob.name);
        let (kept_blobs, old_blobs): (Vec<_>, Vec<_>) = contents.blobs.iter().partition(keep);
        Ok(Decision {
            kept_blobs: kept_blobs.len(),
            old_roots,
            old_records: old_results.into_iter().chain(old_states).chain(old_runs).collect(),
            old_words: old_words.chain(old_told).collect(),
            old_blobs,
            kept_roots: contents
                .roots
                .iter()
                .filter(|root| kept_roots.contains(&root.name))
                .map(|root| (root.name.as_str(), root.version.as_str()))
                .collect(),
            kept,
        })
    }

    /// Removes what is old, and puts back what machines have needed meanwhile.
    fn carry_out(&self, decision: &Decision<'_>, policy: &SharedGcPolicy) -> Result<()> {
        let removed = self.objects.remove_older_each(&decision.old_roots, policy.grace);
        removed.into_iter().collect::<Result<Vec<()>>>()?;
        let mut trash = Trash::new(&self.objects);
        match self.collect_into(&mut trash, decision, policy) {
            Ok(old) => {
                trash.empty(policy.grace)?;
                self.objects.remove_older_each(&old, policy.grace).into_iter().collect::<Result<Vec<()>>>()?;
            }
            Err(error) => {
                // If this fails, too, the next collection does it.
                let _ = trash.put_back(|_| true);
                return Err(error);
            }
        }
        if let Some(folder) = self.address().folder() {
            remove_unfinished(folder, policy.grace);
        }
        Ok(())
    }

    /// Moves what is old to the trash, first records, then blobs, and puts back what is needed. Returns the words,
    /// events and logs that nobody needs.
    fn collect_into(
        &self,
        trash: &mut Trash<'_>,
        decision: &Decision<'_>,
        policy: &SharedGcPolicy,
    ) -> Result<Vec<String>> {
        trash.add(&decision.old_records, policy.grace)?;
        let new_roots = names(&self.new_objects(&[ROOTS], &decision.kept_roots)?);
        let wanted = self.wanted(&new_roots)?;
        let ids: BTreeSet<&str> = new_roots.iter().map(|root| run_of(root)).collect();
        let is_of_new_run = |name: &str| name.split('/').nth(1).is_some_and(|id| ids.contains(id));
        let is_needed = |name: &String| wanted.contains(name) || (name.starts_with("run/") && is_of_new_run(name));
        let put_back: BTreeSet<String> = trash.put_back(is_needed)?.into_iter().collect();
        trash.add(&decision.old_blobs, policy.grace)?;
        let needed = self.blobs_of(&self.new_objects(&["result/", "state/", "run/"], &decision.kept)?)?;
        trash.put_back(|name| needed.contains(name))?;
        let is_old = |name: &String| match result_of_word(name) {
            Some(result) => !put_back.contains(&result),
            None => !is_of_new_run(name),
        };
        Ok(names(decision.old_words.iter().copied()).into_iter().filter(is_old).collect())
    }

    /// The objects whose names begin with one of these and which are not known in this version.
    fn new_objects(&self, prefixes: &[&str], known: &BTreeMap<&str, &str>) -> Result<Vec<Listed>> {
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let listed = self.objects.list_each(&prefixes).into_iter().collect::<Result<Vec<_>>>()?;
        let is_new = |object: &Listed| known.get(object.name.as_str()) != Some(&object.version.as_str());
        Ok(listed.into_iter().flatten().filter(is_new).collect())
    }

    /// The names of the blobs that these results, states and runs need.
    fn blobs_of<'c>(&self, records: impl IntoIterator<Item = &'c Listed>) -> Result<BTreeSet<String>> {
        let mut by_kind: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for record in records {
            by_kind.entry(record.name.split('/').next().unwrap_or_default()).or_default().push(record.name.clone());
        }
        let mut names = |kind| by_kind.remove(kind).unwrap_or_default();
        let mut blobs = BTreeSet::new();
        self.add_blobs::<ResultRecord>(&names("result"), &mut blobs, |record| record.blobs().collect())?;
        self.add_blobs::<StateRecord>(&names("state"), &mut blobs, |record| record.blobs().collect())?;
        let files = |run: &SharedRun| run.files.values().map(|file| file.blob).collect();
        self.add_blobs::<SharedRun>(&names("run"), &mut blobs, files)?;
        Ok(blobs)
    }

    /// Adds the names of the blobs that these records need.
    fn add_blobs<T: Named>(
        &self,
        names: &[String],
        blobs: &mut BTreeSet<String>,
        of: impl Fn(&T) -> Vec<BlobEntry>,
    ) -> Result<()> {
        for names in names.chunks(RECORDS) {
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

    /// The records that these roots name.
    fn wanted(&self, roots: &[String]) -> Result<BTreeSet<String>> {
        let mut wanted = BTreeSet::new();
        for (name, bytes) in roots.iter().zip(self.objects.get_each(roots)) {
            let Some(bytes) = bytes? else { continue };
            let root = Root::decode(&bytes).ok_or_else(|| self.unreadable(name, "it is damaged"))?;
            wanted.extend(root.records);
        }
        Ok(wanted)
    }
}

/// The id of the run that a root is of. Each worker of a run has its own root.
fn run_of(root: &str) -> &str {
    let name = root.rsplit('/').next().unwrap_or_default();
    name.split(WORKER).next().unwrap_or_default()
}

/// The result that a word is about.
fn result_of_word(name: &str) -> Option<String> {
    let result = name.rsplitn(3, '/').nth(2)?.strip_prefix("word/")?;
    Some(format!("result/{result}"))
}

/// The roots of the newest runs and those of the grace period, and the roots of older runs.
fn sort_roots(roots: &[Listed], policy: &SharedGcPolicy) -> (BTreeSet<String>, Vec<String>) {
    let mut by_pipeline: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for root in roots {
        let pipeline = root.name.strip_prefix(ROOTS).and_then(|name| name.split('/').next());
        by_pipeline.entry(pipeline.unwrap_or_default()).or_default().push(root);
    }
    let (mut kept, mut old) = (BTreeSet::new(), BTreeSet::new());
    for roots in by_pipeline.into_values() {
        // Ids of runs sort by time.
        let runs: BTreeSet<&str> = roots.iter().map(|root| run_of(&root.name)).collect();
        let newest: BTreeSet<&str> = runs.into_iter().rev().take(policy.keep_runs).collect();
        for root in roots {
            let is_kept = newest.contains(run_of(&root.name)) || root.age() < policy.grace;
            if is_kept { &mut kept } else { &mut old }.insert(root.name.clone());
        }
    }
    (kept, old.into_iter().collect())
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
