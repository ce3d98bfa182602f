//! Collection: removes what no kept run needs, and frees its space on disk.
//!
//! `roots.rs` decides what lives. `sweep.rs` finds leftovers in the folder.
//!
//! A collection must work on a full disk, where it is needed most. So it first removes what can be removed without a
//! database. Then it appends the removals to the journals, which takes a few blocks (`reserve` holds some back for
//! this), and then it removes the packs. (A cache of an earlier format has no journals, and needs some space.)
//! Compacting the rest comes last, and is skipped on a full disk. A kill at any moment leaves what the journals say,
//! and perhaps files that nothing refers to, which the next collection removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::database::{Access, is_database};
use super::disk;
use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::lock::Sharing;
use super::record::{ResultRecord, RunRecord, StateRecord};
use super::roots::Live;
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};

/// About how many bytes an almost empty database takes on disk.
const EMPTY: u64 = 512 << 10;

/// What `gc` keeps.
#[derive(Clone, Debug)]
pub struct GcPolicy {
    /// How many of the newest runs of each pipeline name. The newest one and those in progress are kept in any case.
    pub keep_runs: usize,
    /// Ids of other runs to keep.
    pub named: Vec<String>,
    /// Only report what would be removed.
    pub dry_run: bool,
}

/// What `gc` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Bytes on disk before.
    pub bytes_before: u64,
    /// Bytes on disk afterwards; an estimate for a dry run.
    pub bytes_after: u64,
    /// Results kept.
    pub results_kept: usize,
    /// Results removed.
    pub results_removed: usize,
    /// States kept.
    pub states_kept: usize,
    /// States removed.
    pub states_removed: usize,
    /// Bytes of the states kept, counting each blob once.
    pub states_bytes_kept: u64,
    /// Bytes of the states removed, counting each blob once and only if no kept state has it.
    pub states_bytes_removed: u64,
    /// Runs whose record, events and logs were removed.
    pub runs_removed: usize,
}

impl GcReport {
    /// Bytes freed on disk.
    pub fn freed_bytes(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }
}

impl Store {
    /// Removes what no kept run needs.
    ///
    /// # Errors
    /// If the cache is in use (and the options say not to wait) or can't be written. In that case, at most leftovers
    /// were removed.
    pub fn gc(&self, policy: &GcPolicy) -> Result<GcReport> {
        if !self.index.exists()? {
            return Ok(GcReport::default());
        }
        let folder = &self.index.folder;
        let _alone = match folder.collect_lock(Sharing::Exclusive) {
            // A dry run needs no permission to write.
            Err(error) if error.is_refusal() && policy.dry_run => None,
            lock => Some(lock?),
        };
        let (runs, old_runs) = self.kept_runs(policy)?;
        let leftovers = self.leftovers(&runs, &old_runs);
        // What is read decides what is removed, so it must not come from a copy that may lack entries.
        let access = if policy.dry_run { Access::Read } else { Access::Collect };
        let (results, states, newest) = self.index.with(access, |o| {
            Ok((entries::all_results(&o.db)?.0, entries::all_states(&o.db)?.0, entries::all_newest(&o.db)?))
        })?;
        let live = Live::new(&runs, &self.unreadable_runs()?, &results, &newest);
        let (kept, dead): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| live.results.contains(&r.key));
        let (kept_states, dead_states) = live.split_states(states, &kept, &dead);
        let state_blobs: BTreeSet<BlobEntry> = kept_states.iter().flat_map(StateRecord::blobs).collect();
        let dead_blobs: BTreeSet<BlobEntry> = dead_states.iter().flat_map(StateRecord::blobs).collect();
        let mut report = GcReport {
            bytes_before: self.disk_bytes(),
            bytes_after: 0,
            results_kept: kept.len(),
            results_removed: dead.len(),
            states_kept: kept_states.len(),
            states_removed: dead_states.len(),
            states_bytes_kept: state_blobs.iter().map(|b| b.size).sum(),
            states_bytes_removed: dead_blobs.difference(&state_blobs).map(|b| b.size).sum(),
            runs_removed: old_runs.len(),
        };
        let mut keep = state_blobs;
        keep.extend(kept.iter().flat_map(ResultRecord::blobs));
        let mut old_small = self.index.small.others(&keep);
        old_small.extend(self.old_verdicts(&kept, &kept_states));
        keep.retain(|blob| !self.index.small.has(blob));
        if policy.dry_run {
            let files = leftovers.bytes() + old_small.iter().map(|path| disk::bytes_below(path)).sum::<u64>();
            report.bytes_after = report.bytes_before.saturating_sub(files + self.pack_savings(&keep));
            return Ok(report);
        }
        leftovers.remove();
        self.sweep_leases();
        folder.with_reserve(|| folder.raise_format())?;
        folder.with_reserve(|| self.forget(&dead, &dead_states))?;
        // From here on, nothing refers to these files.
        old_small.iter().for_each(|path| drop(fs::remove_file(path)));
        self.collect(&keep.iter().map(|blob| blob.digest).collect())?;
        report.bytes_after = self.disk_bytes();
        Ok(report)
    }

    /// The verdicts about results and states that are not kept.
    fn old_verdicts(&self, results: &[ResultRecord], states: &[StateRecord]) -> Vec<PathBuf> {
        let mut files = self.verdict_files();
        if !files.is_empty() {
            // The last state of a training may have been removed, but not its result.
            let chains = results.iter().flat_map(|r| r.components.chain().keys().to_vec());
            let keys = results.iter().map(|r| r.key).chain(states.iter().map(|s| s.key));
            let live: BTreeSet<Key> = keys.chain(chains).collect();
            files.retain(|(key, _)| !live.contains(key));
        }
        files.into_iter().map(|(_, path)| path).collect()
    }

    /// About how many bytes are freed if the chunk database and its packs keep only these blobs.
    fn pack_savings(&self, keep: &BTreeSet<BlobEntry>) -> u64 {
        let folder = &self.index.folder;
        let generations = folder.generations().into_iter();
        let now: u64 = generations.map(|g| disk::bytes_below(&folder.generation_path(g))).sum();
        now.saturating_sub(EMPTY + keep.iter().map(|blob| blob.size).sum::<u64>())
    }

    /// The runs that are roots, and the others.
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
        let keys: BTreeSet<Key> = dead.iter().map(|r| r.key).collect();
        self.index.change_for(Access::Collect, |db, changes| {
            dead.iter().for_each(|r| entries::remove_result(changes, r));
            dead_states.iter().for_each(|s| entries::remove_state(changes, s));
            for (pipeline, point, _) in entries::all_newest(db)?.iter().filter(|(_, _, key)| keys.contains(key)) {
                entries::remove_newest(changes, pipeline, point);
            }
            Ok(())
        })
    }

    /// Removes all blobs except these from the packs, and compacts the databases.
    fn collect(&self, keep: &BTreeSet<Digest>) -> Result<()> {
        let folder = &self.index.folder;
        if self.blobs.exist()? {
            folder.with_reserve(|| self.blobs.remove(Access::Collect, |blob| !keep.contains(blob)))?;
        }
        let compacted = self.compact();
        folder.reserve();
        match compacted {
            // The cache only stays larger than necessary.
            Err(StoreError::Full { .. }) => {}
            other => other?,
        }
        self.remove_old_generations()
    }

    fn compact(&self) -> Result<()> {
        if self.blobs.exist()? {
            self.blobs.move_old_chunks()?;
        }
        self.blobs.database.compact(&self.blobs)?;
        self.index.database.compact(&*self.index)
    }

    /// Removes the chunk databases that an earlier version had replaced and not removed. Damaged ones, and folders that
    /// aren't databases, are left for the user to remove.
    fn remove_old_generations(&self) -> Result<()> {
        let folder = &self.index.folder;
        let current = self.index.chunks_path()?;
        for path in folder.generations().into_iter().map(|g| folder.generation_path(g)).filter(|path| *path != current)
        {
            if is_database(&path)? && !disk::exists(&path.join("damaged"))? {
                // The next collection tries again.
                let _ = fs::remove_dir_all(&path)
                    .map_err(|error| folder.warn(format!("{} can't be removed: {error}", path.display())));
            }
        }
        Ok(())
    }
}
