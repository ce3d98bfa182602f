//! A check of everything in the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::database::{Access, Opened};
use super::entries;
use super::error::Result;
use super::handle::Store;
use super::lock::Sharing;
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// What `doctor` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoctorReport {
    /// Results checked.
    pub results: usize,
    /// States checked.
    pub states: usize,
    /// Blobs read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A sentence for each damaged or missing blob and each unreadable entry.
    pub problems: Vec<String>,
    /// The results and states that need damaged or missing bytes, by names for users (`pipeline/point`, or a state's
    /// epoch and key).
    pub affected: Vec<String>,
    /// Whether those were forgotten.
    pub repaired: bool,
    /// Databases that were set aside earlier. The user can delete them once nothing more can be restored from them.
    pub set_aside: Vec<PathBuf>,
    /// Results in indexes that were set aside, whose bytes are still in the cache. A repair restores them.
    pub results_restored: usize,
    /// States, likewise.
    pub states_restored: usize,
}

impl DoctorReport {
    /// Whether nothing is damaged.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Store {
    /// Reads and verifies everything. With `repair`, forgets the results and states that need damaged bytes, and
    /// restores results and states from indexes that were set aside. Calls `progress` with the number of checked blobs
    /// and of all blobs.
    ///
    /// # Errors
    /// If a database can't be read at all.
    pub fn doctor(&self, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<DoctorReport> {
        let mut report = DoctorReport::default();
        (report.results_restored, report.states_restored) = self.restore(repair)?;
        self.check_databases(repair, &mut report)?;
        let (lineage, (results, bad_results), (states, bad_states)) =
            self.index.read(|db| Ok((entries::lineage(db)?, entries::all_results(db)?, entries::all_states(db)?)))?;
        (report.results, report.states) = (results.len(), states.len());
        let refused = [bad_results, bad_states].concat();
        if !refused.is_empty() {
            report.problems.push(format!("{} entries of the index can't be read or were altered", refused.len()));
        }
        // The names of the results and states that need each blob. Known losses are not reported again.
        let mut blobs: BTreeMap<BlobEntry, Vec<String>> = BTreeMap::new();
        for r in results.iter().filter(|r| !r.damaged && (r.lineage == lineage || self.index.needs_no_packs(r))) {
            r.blobs().for_each(|b| blobs.entry(b).or_default().push(format!("{}/{}", r.pipeline, r.point)));
        }
        for s in states.iter().filter(|s| s.lineage == lineage) {
            let name = format!("state {} step {} of {}", s.epoch, s.step, s.key.short());
            s.blobs().for_each(|b| blobs.entry(b).or_default().push(name.clone()));
        }
        let (mut lost, mut affected) = (BTreeSet::new(), BTreeSet::new());
        let total = blobs.len() as u64;
        for (entry, names) in blobs {
            match self.check_blob(entry, repair)? {
                None => report.bytes += entry.size,
                // A blob that was removed since the look-up is not damaged.
                Some(_) if !self.is_wanted(&entry.digest)? => {}
                Some(why) => {
                    report.problems.push(format!("blob {} of {}: {why}", entry.digest.short(), names.join(", ")));
                    affected.extend(names);
                    lost.insert(entry.digest);
                }
            }
            report.blobs += 1;
            progress(report.blobs, total);
        }
        report.set_aside = self.index.folder.set_aside();
        report.affected = affected.into_iter().collect();
        if repair && !refused.is_empty() {
            self.index.change(|_, changes| {
                refused.iter().for_each(|key| entries::remove_refused(changes, key));
                Ok(())
            })?;
        }
        if repair && !lost.is_empty() {
            self.index.lose(&lost)?;
        }
        report.repaired = repair && !report.problems.is_empty();
        Ok(report)
    }

    /// What is wrong with a blob, if anything.
    fn check_blob(&self, entry: BlobEntry, repair: bool) -> Result<Option<String>> {
        let Err(corruption) = self.blobs.find(&entry, 0)? else { return Ok(None) };
        if !repair {
            return Ok(Some(corruption.why));
        }
        // No process may write, move or remove blobs while this decides what is damaged.
        let _alone = self.index.folder.collect_lock(Sharing::Exclusive)?;
        let Err(corruption) = self.blobs.find(&entry, 0)? else { return Ok(None) };
        if self.is_wanted(&entry.digest)? {
            self.blobs.remove_corrupt(&entry, &corruption);
        }
        Ok(Some(corruption.why))
    }

    /// Whether a result or a state needs this blob now.
    fn is_wanted(&self, blob: &Digest) -> Result<bool> {
        let is_it = |b: BlobEntry| b.digest == *blob;
        self.index.read(|db| {
            let results = entries::all_results(db)?.0;
            let states = entries::all_states(db)?.0;
            let by_result = results.iter().any(|r| !r.damaged && r.blobs().any(is_it));
            Ok(by_result || states.iter().any(|s| s.blobs().any(is_it)))
        })
    }

    /// Compares each database with its journal.
    fn check_databases(&self, repair: bool, report: &mut DoctorReport) -> Result<()> {
        if self.index.exists()? {
            report.problems.extend(self.index.with(Access::Read, Opened::check)?);
        }
        if self.blobs.exist()? {
            report.problems.extend(self.blobs.look_up(Opened::check)?);
        }
        if !repair || report.problems.is_empty() {
            return Ok(());
        }
        self.index.folder.raise_format()?;
        if self.blobs.exist()? {
            self.blobs.database.rebuild(&self.blobs)?;
        }
        self.index.database.rebuild(&*self.index)
    }
}
