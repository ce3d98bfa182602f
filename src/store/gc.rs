//! Collection: removes what no kept run needs, and gives its space back to the disk.
//!
//! What lives is decided in `roots.rs`. What else nobody removes (records of old runs, what killed processes left) is
//! found in `sweep.rs`.
//!
//! A collection must work on a full disk, since it is what helps there. So it removes first what needs no database; then
//! it appends to the journals what is removed, which takes a few blocks (`reserve` holds some back for this); then it
//! removes the packs. (A cache of an earlier format has no journals, and needs some space.) Writing the rest compactly comes last, and is left out where there is no space for it. A kill at any
//! moment leaves what the journals say, and perhaps files that nothing names, which the next collection removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::database::{Access, is_database};
use super::disk;
use super::inner::things;
use super::journal::Changes;
use super::lock::Sharing;
use super::record::BlobEntries;
use super::roots::Live;
use super::{GcPolicy, GcReport, Result, ResultRecord, RunRecord, StateRecord, Store, StoreError, blobs, index, small};
use super::{folder_bytes, path_bytes};
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};

impl Store {
    /// Removes what no kept run needs.
    ///
    /// # Errors
    /// If the cache is in use (and we don't wait) or can't be written. Then only leftovers may have been removed.
    pub fn gc(&self, policy: &GcPolicy) -> Result<GcReport> {
        if !self.inner.has_index()? {
            return Ok(GcReport::default());
        }
        let _alone = match self.inner.collect_lock(Sharing::Exclusive) {
            // Whoever can't write here can still ask what would be removed.
            Err(StoreError::ReadOnly { .. } | StoreError::Full { .. }) if policy.dry_run => None,
            lock => Some(lock?),
        };
        let (runs, old_runs) = self.kept_runs(policy)?;
        let leftovers = self.leftovers(&runs, &old_runs);
        // What is read decides what is removed, so it must not come from a copy that may lack something.
        let access = if policy.dry_run { Access::Read } else { Access::Collect };
        let (results, states, newest) = self.inner.index(access, |o| {
            Ok((index::all_results(&o.db)?.0, index::all_states(&o.db)?.0, index::all_newest(&o.db)?))
        })?;
        let live = Live::new(&runs, &self.unreadable_runs()?, &results, &newest);
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
        leftovers.remove();
        self.sweep_leases();
        self.inner.with_reserve(|| self.inner.raise_format())?;
        self.forget(&dead, &dead_states)?;
        // Only now that nothing names them any more.
        old_small.iter().for_each(|path| drop(fs::remove_file(path)));
        self.collect(&in_chunks)?;
        report.bytes_after = self.disk_bytes();
        Ok(report)
    }

    /// About how many bytes the chunk database and its packs give back if only these blobs are kept.
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

    /// Removes results and states from the index.
    fn forget(&self, dead: &[ResultRecord], dead_states: &[StateRecord]) -> Result<()> {
        let inner = &self.inner;
        let keys: BTreeSet<Key> = dead.iter().map(|r| r.key).collect();
        let forget = || {
            inner.collect_index(|db, changes: &mut Changes| {
                dead.iter().for_each(|r| index::remove_result(changes, r));
                dead_states.iter().for_each(|s| index::remove_state(changes, s));
                for (pipeline, point, _) in index::all_newest(db)?.iter().filter(|(_, _, key)| keys.contains(key)) {
                    index::remove_newest(changes, pipeline, point);
                }
                Ok(())
            })
        };
        inner.with_reserve(forget)
    }

    /// Removes all blobs but these, and what else the databases don't need.
    fn collect(&self, keep: &BTreeSet<blobs::BlobKey>) -> Result<()> {
        let inner = &self.inner;
        let keep: BTreeSet<Digest> = keep.iter().map(|b| b.0).collect();
        if inner.has_chunks()? {
            inner.with_reserve(|| inner.collect_chunks(|o| blobs::remove(o, |blob| !keep.contains(blob))))?;
        }
        let compacted = self.move_old_chunks().and_then(|()| inner.compact());
        inner.reserve();
        match compacted {
            // It is only larger than it could be.
            Err(StoreError::Full { .. }) => {}
            other => other?,
        }
        self.remove_old_generations()
    }

    /// Moves chunks of earlier versions to packs.
    fn move_old_chunks(&self) -> Result<()> {
        let inner = &self.inner;
        if !inner.has_chunks()? {
            return Ok(());
        }
        let lost = inner.change_chunks(blobs::move_to_packs)?;
        if !lost.is_empty() {
            let affected = inner.lose(&lost)?.len();
            inner.warn(format!("{} damaged blobs were found; to be computed again: {}", lost.len(), things(affected)));
        }
        Ok(())
    }

    /// Removes databases that a collection of an earlier version had replaced, and did not come to remove. One that was
    /// replaced because it was damaged is set aside.
    fn remove_old_generations(&self) -> Result<()> {
        let inner = &self.inner;
        let current = inner.chunks_path()?;
        for path in inner.generations().into_iter().map(|g| inner.generation_path(g)).filter(|path| *path != current) {
            let is_damaged = disk::exists(&path.join("damaged"))?;
            let retired = match is_damaged {
                true => disk::set_aside(&path).map(|aside| {
                    inner.warn(format!("the damaged database {} was set aside as {}", path.display(), aside.display()));
                }),
                false if is_database(&path)? => disk::remove_folder(&path),
                // Not a database of ours.
                false => Ok(()),
            };
            // It is no longer in use. The next collection tries again.
            if let Err(error) = retired {
                inner.warn(format!("{} is left behind ({error})", path.display()));
            }
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
