//! A check of everything in the cache.

use std::collections::{BTreeMap, BTreeSet};

use super::database::{Access, Opened};
use super::lock::Sharing;
use super::record::BlobEntries;
use super::restore::is_set_aside;
use super::{DoctorReport, Result, Store, blobs, index};
use crate::artifact::BlobEntry;
use crate::key::Digest;

impl Store {
    /// Reads and verifies everything. With `repair`, what relies on damaged bytes is forgotten, and what indexes that were set
    /// aside still hold is brought back. `progress` is called with how many blobs of how many are done.
    ///
    /// # Errors
    /// If a database can't be read at all.
    pub fn doctor(&self, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<DoctorReport> {
        let mut report = DoctorReport::default();
        self.restore(repair, &mut report)?;
        self.check_databases(repair, &mut report)?;
        let (lineage, (results, bad_results), (states, bad_states)) =
            self.inner.read_index(|db| Ok((index::lineage(db)?, index::all_results(db)?, index::all_states(db)?)))?;
        (report.results, report.states) = (results.len(), states.len());
        let refused = [bad_results, bad_states].concat();
        if !refused.is_empty() {
            report.problems.push(format!("{} entries of the index can't be read or were altered", refused.len()));
        }
        // Who relies on each blob, as people know them. What is known to be lost is no news.
        let mut blobs: BTreeMap<blobs::BlobKey, Vec<String>> = BTreeMap::new();
        for r in results.iter().filter(|r| !r.damaged && (r.lineage == lineage || self.inner.needs_no_chunks(r))) {
            let name = format!("{}/{}", r.pipeline, r.point);
            r.blobs().into_iter().for_each(|b| blobs.entry(b.into()).or_default().push(name.clone()));
        }
        for s in states.iter().filter(|s| s.lineage == lineage) {
            let name = format!("state {} step {} of {}", s.epoch, s.step, s.key.short());
            s.blobs().into_iter().for_each(|b| blobs.entry(b.into()).or_default().push(name.clone()));
        }
        let mut lost = BTreeSet::new();
        let mut affected = BTreeSet::new();
        let total = blobs.len() as u64;
        for (blobs::BlobKey(digest, size), names) in blobs {
            match self.check_blob(BlobEntry { digest, size }, repair) {
                Ok(None) => report.bytes += size,
                // What was removed since the look-up is not damaged.
                Ok(Some(_)) if !self.is_wanted(&digest)? => {}
                Ok(Some(why)) => {
                    report.problems.push(format!("blob {} of {}: {why}", digest.short(), names.join(", ")));
                    affected.extend(names);
                    lost.insert(digest);
                }
                Err(error) => return Err(error),
            }
            report.blobs += 1;
            progress(report.blobs, total);
        }
        report.set_aside = self.set_aside();
        report.affected = affected.into_iter().collect();
        if repair && !refused.is_empty() {
            self.inner.change_index(|_, changes| {
                refused.iter().for_each(|key| index::remove_refused(changes, key));
                Ok(())
            })?;
        }
        if repair && !lost.is_empty() {
            self.inner.lose(&lost)?;
        }
        report.repaired = repair && !report.problems.is_empty();
        Ok(report)
    }

    /// What is wrong with a blob, if anything.
    fn check_blob(&self, entry: BlobEntry, repair: bool) -> Result<Option<String>> {
        let Err(flaw) = self.find_blob(&entry, 0)? else { return Ok(None) };
        if !repair {
            return Ok(Some(flaw.why));
        }
        // Nobody writes, moves or removes blobs while it is decided what is damaged.
        let _alone = self.inner.collect_lock(Sharing::Exclusive)?;
        let Err(flaw) = self.find_blob(&entry, 0)? else { return Ok(None) };
        if self.is_wanted(&entry.digest)? {
            self.remove_flawed(&entry, &flaw);
        }
        Ok(Some(flaw.why))
    }

    /// Whether a result or a state relies on this blob now.
    fn is_wanted(&self, blob: &Digest) -> Result<bool> {
        let relies = |blobs: Vec<BlobEntry>| blobs.iter().any(|b| b.digest == *blob);
        self.inner.read_index(|db| {
            let results = index::all_results(db)?.0;
            let states = index::all_states(db)?.0;
            Ok(results.iter().any(|r| !r.damaged && relies(r.blobs())) || states.iter().any(|s| relies(s.blobs())))
        })
    }

    /// Compares each database with its journal.
    fn check_databases(&self, repair: bool, report: &mut DoctorReport) -> Result<()> {
        let inner = &self.inner;
        if inner.has_index()? {
            report.problems.extend(inner.index(Access::Read, Opened::check)?);
        }
        if inner.has_chunks()? {
            report.problems.extend(inner.read_chunks(Opened::check)?);
        }
        if repair && !report.problems.is_empty() {
            inner.rebuild()?;
        }
        Ok(())
    }

    pub(super) fn set_aside(&self) -> Vec<std::path::PathBuf> {
        let names = self.inner.names();
        names.iter().filter(|n| is_set_aside(n)).map(|n| self.inner.dir.join(n)).collect()
    }
}
