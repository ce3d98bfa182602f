//! What a store holds, what of it is damaged, and what nobody needs any more.
//!
//! `gc` must be safe beside machines that write. A record or a blob that was written within the grace period stays. A
//! machine that pushes a record writes blobs again that are older than half of it. So a blob that a new record needs is
//! never removed, as long as the clocks of the machines differ by less than half the grace period.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::blobs::{self, blob_name};
use super::error::Result;
use super::exchange::SharedStore;
use super::objects::Listed;
use super::record::{Named, Signed};
use super::roots::{ROOTS, Root};
use crate::artifact::BlobEntry;
use crate::file;
use crate::store::{ResultRecord, StateRecord};

/// The shortest grace period: transfers and clocks that differ take less.
pub const SHORTEST_GRACE: Duration = Duration::from_secs(24 * 3600);
/// Creates that race in a test of the store.
const RACERS: usize = 32;

/// What a store holds: the number of objects of each kind and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Results.
    pub results: usize,
    /// States of trainings.
    pub states: usize,
    /// Tensors and files.
    pub blobs: usize,
    /// Words of other machines about results.
    pub words: usize,
    /// Bytes of all objects.
    pub bytes: u64,
}

/// What `gc` removes and keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedGcReport {
    /// Results and states that were kept.
    pub records_kept: usize,
    /// Results, states and words that were removed.
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
    /// Keep what was written within this time.
    pub grace: Duration,
    /// Only count.
    pub dry_run: bool,
}

/// What is wrong with a store.
#[derive(Debug, Default)]
pub struct SharedDoctorReport {
    /// What was checked.
    pub counts: Counts,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// Damaged objects that were removed, so that the next push writes them again.
    pub removed: usize,
    /// Whether exactly one of several creates of the same object succeeded. `None` if it was not tried.
    pub is_atomic: Option<bool>,
}

/// The objects of a store, by kind.
#[derive(Default)]
struct Contents {
    results: Vec<Listed>,
    states: Vec<Listed>,
    words: Vec<Listed>,
    blobs: Vec<Listed>,
    roots: Vec<Listed>,
    bytes: u64,
}

impl Contents {
    fn counts(&self) -> Counts {
        Counts {
            results: self.results.len(),
            states: self.states.len(),
            blobs: self.blobs.len(),
            words: self.words.len(),
            bytes: self.bytes,
        }
    }
}

fn names(objects: &[Listed]) -> Vec<String> {
    objects.iter().map(|object| object.name.clone()).collect()
}

impl SharedStore {
    fn contents(&self) -> Result<Contents> {
        self.check()?;
        let mut contents = Contents::default();
        for object in self.objects.list_each(&[String::new()]).pop().unwrap_or(Ok(Vec::new()))? {
            contents.bytes += object.size;
            match object.name.split('/').next() {
                Some("result") => contents.results.push(object),
                Some("state") => contents.states.push(object),
                Some("word") => contents.words.push(object),
                Some("blob") => contents.blobs.push(object),
                Some("root") => contents.roots.push(object),
                _ => {}
            }
        }
        Ok(contents)
    }

    /// Counts the objects of the store.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn counts(&self) -> Result<Counts> {
        Ok(self.contents()?.counts())
    }

    /// Removes what no recent run needs, see the module's head.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub fn gc(&self, policy: &SharedGcPolicy) -> Result<SharedGcReport> {
        let contents = self.contents()?;
        let is_young = |object: &Listed| object.age() < policy.grace;
        let (wanted, mut removed) = self.wanted(&contents.roots, policy)?;
        let keep = |object: &&Listed| is_young(object) || wanted.contains(&object.name);
        let (results, old_results): (Vec<_>, Vec<_>) = contents.results.iter().partition(keep);
        let (states, old_states): (Vec<_>, Vec<_>) = contents.states.iter().partition(keep);
        let kept: BTreeSet<&str> = results.iter().map(|object| object.name.as_str()).collect();
        let has_result = |word: &&Listed| {
            let result = word.name.rsplitn(3, '/').nth(2).and_then(|name| name.strip_prefix("word/"));
            result.is_some_and(|result| kept.contains(format!("result/{result}").as_str()))
        };
        let old_words = contents.words.iter().filter(|word| !is_young(word) && !has_result(word));
        let gone: Vec<&Listed> = old_results.into_iter().chain(old_states).chain(old_words).collect();
        let mut blobs = BTreeSet::new();
        let kept_results: Vec<String> = results.iter().map(|object| object.name.clone()).collect();
        let kept_states: Vec<String> = states.iter().map(|object| object.name.clone()).collect();
        for record in self.read::<ResultRecord>(&kept_results)?.into_iter().flatten() {
            blobs.extend(record.record.blobs().map(|blob| blob_name(&blob)));
        }
        for record in self.read::<StateRecord>(&kept_states)?.into_iter().flatten() {
            blobs.extend(record.record.blobs().map(|blob| blob_name(&blob)));
        }
        let keep = |blob: &&Listed| is_young(blob) || blobs.contains(&blob.name);
        let (kept_blobs, old_blobs): (Vec<_>, Vec<_>) = contents.blobs.iter().partition(keep);
        let bytes_removed = gone.iter().chain(&old_blobs).map(|object| object.size).sum();
        let report = SharedGcReport {
            records_kept: results.len() + states.len(),
            records_removed: gone.len(),
            blobs_kept: kept_blobs.len(),
            blobs_removed: old_blobs.len(),
            bytes_removed,
            bytes_kept: contents.bytes.saturating_sub(bytes_removed),
        };
        if !policy.dry_run {
            self.require_writes()?;
            // Records before the blobs that they name.
            removed.extend(gone.iter().map(|object| object.name.clone()));
            let old_blobs: Vec<String> = old_blobs.iter().map(|blob| blob.name.clone()).collect();
            for old in [removed, old_blobs] {
                self.objects.remove_older_each(&old, policy.grace).into_iter().collect::<Result<Vec<()>>>()?;
            }
            if let Some(folder) = self.address().folder() {
                remove_unfinished(folder, policy.grace);
            }
        }
        Ok(report)
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
        for bytes in self.objects.get_each(&kept) {
            let root = bytes?.and_then(|bytes| serde_json::from_slice::<Root>(&bytes).ok());
            wanted.extend(root.unwrap_or_default().records);
        }
        Ok((wanted, old))
    }

    /// Checks every record, whether its blobs are there and, with `read_blobs`, their bytes. With `repair`, removes what
    /// is damaged, and tests with creates that race whether the store is atomic. `progress` gets the number of checked
    /// objects and of all.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub fn doctor(&self, repair: bool, read_blobs: bool, progress: &dyn Fn(u64, u64)) -> Result<SharedDoctorReport> {
        if repair {
            self.require_writes()?;
        }
        let contents = self.contents()?;
        let mut checkup = Checkup {
            store: self,
            sizes: BTreeMap::new(),
            bad_blobs: BTreeSet::new(),
            damaged: Vec::new(),
            problems: Vec::new(),
        };
        checkup.sizes = contents.blobs.iter().map(|blob| (blob.name.clone(), blob.size)).collect();
        let all = (contents.results.len() + contents.states.len() + contents.blobs.len()) as u64;
        if read_blobs {
            checkup.check_blobs(&contents.blobs, &|done| progress(done, all))?;
        }
        checkup.check_records::<ResultRecord>(&contents.results, |record| record.blobs().collect())?;
        checkup.check_records::<StateRecord>(&contents.states, |record| record.blobs().collect())?;
        progress(all, all);
        let Checkup { damaged, problems, .. } = checkup;
        let mut report = SharedDoctorReport { counts: contents.counts(), problems, ..SharedDoctorReport::default() };
        if repair {
            self.objects.remove_each(&damaged).into_iter().collect::<Result<Vec<()>>>()?;
            report.removed = damaged.len();
            self.restore_marker()?;
            report.is_atomic = Some(self.is_atomic()?);
        }
        Ok(report)
    }

    /// Whether exactly one of several creates of the same object succeeds.
    fn is_atomic(&self) -> Result<bool> {
        self.mark()?;
        let name = format!("doctor/{}", crate::store::new_run_id());
        let racers = (0..RACERS).map(|racer| (name.clone(), racer.to_string().into_bytes())).collect();
        let created = self.objects.create_each(racers).into_iter().collect::<Result<Vec<bool>>>()?;
        self.objects.remove_each(&[name]).into_iter().collect::<Result<Vec<()>>>()?;
        Ok(created.into_iter().filter(|created| *created).count() == 1)
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

/// A check of the whole store.
struct Checkup<'a> {
    store: &'a SharedStore,
    /// The size of each blob by its name.
    sizes: BTreeMap<String, u64>,
    bad_blobs: BTreeSet<String>,
    damaged: Vec<String>,
    problems: Vec<String>,
}

impl Checkup<'_> {
    fn check_records<T: Named>(&mut self, listed: &[Listed], blobs: impl Fn(&T) -> Vec<BlobEntry>) -> Result<()> {
        let names = names(listed);
        for (name, bytes) in names.iter().zip(self.store.objects.get_each(&names)) {
            let Some(bytes) = bytes? else { continue };
            let record = match super::record::decode::<T>(&bytes, name, true) {
                Ok(Signed { record, .. }) => record,
                Err(why) => {
                    self.note(name, &why);
                    continue;
                }
            };
            let is_bad = |blob: &BlobEntry| {
                let name = blob_name(blob);
                self.sizes.get(&name) != Some(&blob.size) || self.bad_blobs.contains(&name)
            };
            if let Some(blob) = blobs(&record).iter().find(|blob| is_bad(blob)) {
                self.note(name, &format!("{} is missing or damaged", blob_name(blob)));
                let name = blob_name(blob);
                // Of the wrong size: nothing else needs it.
                if self.sizes.contains_key(&name) && self.bad_blobs.insert(name.clone()) {
                    self.damaged.push(name);
                }
            }
        }
        Ok(())
    }

    /// Reads every blob.
    fn check_blobs(&mut self, listed: &[Listed], progress: &dyn Fn(u64)) -> Result<()> {
        for (done, blob) in listed.iter().enumerate() {
            let digest = blobs::digest(&self.store.objects, &blob.name, blob.size)?;
            if digest.is_some_and(|digest| blob.name != format!("blob/{digest}")) {
                self.note(&blob.name, "its bytes are not those of its name");
                self.bad_blobs.insert(blob.name.clone());
            }
            progress(done as u64 + 1);
        }
        Ok(())
    }

    fn note(&mut self, name: &str, why: &str) {
        self.problems.push(format!("{name}: {why}"));
        self.damaged.push(name.to_owned());
    }
}
