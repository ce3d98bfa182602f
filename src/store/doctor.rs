//! A check of everything in the cache.

use std::collections::{BTreeMap, BTreeSet};

use super::record::BlobEntries;
use super::{DoctorReport, Result, Store, StoreError, blobs, index};
use crate::artifact::BlobEntry;
use crate::key::Digest;

impl Store {
    /// Reads and verifies everything. With `repair`, what relies on damaged bytes is forgotten. `progress` is told how
    /// many blobs of how many are done.
    ///
    /// # Errors
    /// If a database can't be read at all.
    pub fn doctor(&self, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<DoctorReport> {
        let mut report = DoctorReport::default();
        let (lineage, (results, bad_results), (states, bad_states)) =
            self.inner.read_index(|db| Ok((index::lineage(db)?, index::all_results(db)?, index::all_states(db)?)))?;
        (report.results, report.states) = (results.len(), states.len());
        if bad_results + bad_states > 0 {
            report.problems.push(format!("{} entries of the index can't be read", bad_results + bad_states));
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
        if repair && !lost.is_empty() {
            self.forget_blobs(&lost)?;
            report.repaired = true;
        }
        Ok(report)
    }

    /// What is wrong with a blob, if anything.
    fn check_blob(&self, entry: BlobEntry, repair: bool) -> Result<Option<String>> {
        let flaw = self.find_blob(&entry, 0)?.err();
        if let (Some(flaw), true) = (&flaw, repair) {
            self.remove_flawed(&entry, flaw);
        }
        Ok(flaw.map(|flaw| flaw.why))
    }

    fn forget_blobs(&self, lost: &BTreeSet<Digest>) -> Result<(), StoreError> {
        self.inner.lose(lost).map(|_| ())
    }

    fn set_aside(&self) -> Vec<std::path::PathBuf> {
        let names = self.inner.names();
        names.iter().filter(|n| n.contains("-damaged-")).map(|n| self.inner.dir.join(n)).collect()
    }
}
