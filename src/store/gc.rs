//! Collection: what no kept run needs goes, and the disk gets its space back.
//!
//! What lives is decided in `roots.rs`, and what else nobody removes (records of old runs, what killed processes left) is
//! found in `sweep.rs`.
//!
//! The chunks that live are copied into a new generation, and packs of which all lives are linked into it; the index is
//! flipped to it in one batch, and only then the old folder is removed. A crash leaves a folder that the next collection removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::inner::{failed, is_there, things};
use super::lock::Sharing;
use super::record::BlobEntries;
use super::rescue::retire;
use super::roots::Live;
use super::{GcPolicy, GcReport, Result, ResultRecord, RunRecord, StateRecord, Store, blobs, index, small};
use super::{folder_bytes, path_bytes};
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};

impl Store {
    /// Copies what lives into a new generation, flips the index to it and removes the old one.
    ///
    /// # Errors
    /// If the cache is in use (and we don't wait) or can't be written. Then nothing has been removed.
    pub fn gc(&self, policy: &GcPolicy) -> Result<GcReport> {
        if !self.inner.has_index()? {
            return Ok(GcReport::default());
        }
        let _alone = self.inner.collect_lock(Sharing::Exclusive)?;
        let (runs, old_runs) = self.kept_runs(policy)?;
        let leftovers = self.leftovers(&runs, &old_runs);
        let (results, states, newest) = self
            .inner
            .read_index(|db| Ok((index::all_results(db)?.0, index::all_states(db)?.0, index::all_newest(db)?)))?;
        let live = Live::new(&runs, &results, &newest);
        let (kept, dead): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| live.results.contains(&r.key));
        let (kept_states, dead_states) = live.split_states(states, &kept, &dead);
        let mut report = GcReport {
            bytes_before: self.disk_bytes(),
            bytes_after: 0,
            results_kept: kept.len(),
            results_removed: dead.len(),
            states_kept: kept_states.len(),
            states_removed: dead_states.len(),
            states_bytes_kept: state_bytes(&kept_states, &BTreeSet::new()),
            states_bytes_removed: state_bytes(&dead_states, &blobs_of_states(&kept_states)),
            runs_removed: old_runs.len(),
        };
        let blobs_of = |results: &[ResultRecord], states: &[StateRecord]| -> BTreeMap<Digest, u64> {
            let all = results.iter().flat_map(BlobEntries::blobs).chain(states.iter().flat_map(BlobEntries::blobs));
            all.map(|BlobEntry { digest, size }| (digest, size)).collect()
        };
        let keep = blobs_of(&kept, &kept_states);
        let old_small = small::others(&self.inner.dir, &keep);
        let keep = keep.into_iter().map(|(digest, size)| blobs::BlobKey(digest, size));
        let in_chunks = keep.filter(|b| !small::has(&self.inner.dir, b.0, b.1)).collect();
        if policy.dry_run {
            let files = leftovers.bytes() + old_small.iter().map(|p| path_bytes(p)).sum::<u64>();
            let after = report.bytes_before.saturating_sub(files + self.chunk_savings(&in_chunks));
            report.bytes_after = after;
            return Ok(report);
        }
        self.collect(&in_chunks, &dead, &dead_states)?;
        self.sweep_leases();
        // Only now that nothing names them any more.
        old_small.iter().for_each(|path| drop(fs::remove_file(path)));
        leftovers.remove();
        report.bytes_after = self.disk_bytes();
        Ok(report)
    }

    /// About how many bytes a new generation saves that holds only these.
    fn chunk_savings(&self, keep: &BTreeSet<blobs::BlobKey>) -> u64 {
        let generations = self.inner.generations().into_iter();
        let now: u64 = generations.map(|g| folder_bytes(&self.inner.generation_path(g))).sum();
        now.saturating_sub(blobs::fresh_bytes(keep))
    }

    /// The runs that are roots, and the others. Whatever the policy, the newest of each pipeline is kept.
    fn kept_runs(&self, policy: &GcPolicy) -> Result<(Vec<RunRecord>, Vec<RunRecord>)> {
        for id in &policy.named {
            self.run(id)?;
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        Ok(self.runs()?.into_iter().rev().partition(|run| {
            let count = counts.entry(run.pipeline.clone()).or_default();
            *count += 1;
            let named = policy.named.iter().any(|id| run.id.starts_with(id.as_str()) || run.id.ends_with(id.as_str()));
            *count <= policy.keep_runs.max(1) || named || run.is_running()
        }))
    }

    fn collect(
        &self,
        keep: &BTreeSet<blobs::BlobKey>,
        dead: &[ResultRecord],
        dead_states: &[StateRecord],
    ) -> Result<()> {
        let inner = &self.inner;
        let lost = inner.chunks_alone(|old_path| {
            let generation = inner.next_generation();
            let new_path = inner.generation_path(generation);
            let lost = match is_there(old_path)? {
                true => copy_chunks(self, old_path, &new_path, keep).inspect_err(|_| {
                    // What was begun only takes space, which may be what is short.
                    let _ = fs::remove_dir_all(&new_path);
                })?,
                false => BTreeSet::new(),
            };
            let newest = inner.read_index(index::all_newest)?;
            inner.change_index(|db, batch| {
                let lineage = index::lineage(db)?;
                index::set_chunks(batch, generation, lineage);
                dead.iter().for_each(|r| index::remove_result(batch, r));
                dead_states.iter().for_each(|s| index::remove_state(batch, s));
                let dead: BTreeSet<Key> = dead.iter().map(|r| r.key).collect();
                for (pipeline, point, _) in newest.iter().filter(|(_, _, key)| dead.contains(key)) {
                    index::remove_newest(batch, pipeline, point);
                }
                Ok(())
            })?;
            for old in inner.generations().into_iter().filter(|g| *g != generation) {
                let path = inner.generation_path(old);
                match retire(&path) {
                    Ok(None) => {}
                    Ok(Some(aside)) => inner.warn(format!(
                        "the database {} was damaged and replaced before: it was set aside as {}",
                        path.display(),
                        aside.display()
                    )),
                    // It is no more in use: the next collection tries again.
                    Err(error) => inner.warn(format!("{} is left behind ({error})", path.display())),
                }
            }
            Ok(lost)
        })?;
        if !lost.is_empty() {
            let n = inner.lose(&lost)?.len();
            inner.warn(format!("{} damaged blobs were found; to be made again: {}", lost.len(), things(n)));
        }
        Ok(())
    }
}

fn blobs_of_states(states: &[StateRecord]) -> BTreeSet<Digest> {
    states.iter().flat_map(BlobEntries::blobs).map(|b| b.digest).collect()
}

/// Bytes of the blobs of these states, but for those that others have, too.
fn state_bytes(states: &[StateRecord], others: &BTreeSet<Digest>) -> u64 {
    let blobs: BTreeMap<Digest, u64> =
        states.iter().flat_map(BlobEntries::blobs).map(|BlobEntry { digest, size }| (digest, size)).collect();
    blobs.iter().filter(|(digest, _)| !others.contains(digest)).map(|(_, size)| size).sum()
}

fn copy_chunks(store: &Store, from: &Path, to: &Path, keep: &BTreeSet<blobs::BlobKey>) -> Result<BTreeSet<Digest>> {
    store.inner.raise_format_for(keep)?;
    let old = store.inner.open_chunks(from)?;
    let new = store.inner.open_chunks(to)?;
    let (from, to) = (blobs::At { db: &old, path: from }, blobs::At { db: &new, path: to });
    blobs::copy(&from, &to, keep).map_err(|f| failed(f, to.path))
}
