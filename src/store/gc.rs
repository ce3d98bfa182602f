//! Collection: what no kept run needs goes, and the disk gets its space back.
//!
//! Roots are the newest run records of each pipeline, those named, and those under way. A result lives if a kept run
//! names its key or made it, or if a point of a kept run used it last; so does the newest result of every point of a
//! pipeline of which there is no run record at all. A state lives if a kept run names its key, if it lies on the chain
//! of a living result and is pinned or the last, or if a kept run that has not finished well saved it.
//!
//! The chunks that live are copied into a new generation; the index is flipped to it in one batch, and only then the
//! old folder is removed. A crash leaves a folder that the next collection removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::database::flush;
use super::inner::{failed, things};
use super::lock::Sharing;
use super::record::{BlobEntries, RunStatus};
use super::{GcPolicy, GcReport, Result, ResultRecord, RunRecord, StateRecord, Store, StoreError, blobs, index};
use crate::artifact::BlobEntry;
use crate::key::{Digest, Key};

impl Store {
    /// Copies what lives into a new generation, flips the index to it and removes the old one.
    ///
    /// # Errors
    /// If the cache is in use (and we don't wait) or can't be written. Then nothing has been removed.
    pub fn gc(&self, policy: &GcPolicy) -> Result<GcReport> {
        if !self.inner.dir.join("index").exists() {
            return Ok(GcReport::default());
        }
        let _alone = self.inner.collect_lock(Sharing::Exclusive)?;
        let runs = self.kept_runs(policy)?;
        let (results, states, newest) = self
            .inner
            .read_index(|db| Ok((index::all_results(db)?.0, index::all_states(db)?.0, index::all_newest(db)?)))?;
        let live = Live::new(&runs, &results, &newest);
        let (kept, dead): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| live.results.contains(&r.key));
        let chains = live.chains(&kept);
        let (kept_states, dead_states): (Vec<_>, Vec<_>) =
            states.into_iter().partition(|s| live.keeps_state(&chains, s));
        let mut report = GcReport {
            bytes_before: self.disk_bytes(),
            bytes_after: 0,
            results_kept: kept.len(),
            results_removed: dead.len(),
            states_kept: kept_states.len(),
            states_removed: dead_states.len(),
        };
        let blobs_of = |results: &[ResultRecord], states: &[StateRecord]| -> BTreeMap<Digest, u64> {
            let all = results.iter().flat_map(BlobEntries::blobs).chain(states.iter().flat_map(BlobEntries::blobs));
            all.map(|BlobEntry { digest, size }| (digest, size)).collect()
        };
        let keep = blobs_of(&kept, &kept_states);
        if policy.dry_run {
            let gone = blobs_of(&dead, &dead_states);
            let gone: u64 = gone.iter().filter(|(digest, _)| !keep.contains_key(digest)).map(|(_, size)| size).sum();
            report.bytes_after = report.bytes_before.saturating_sub(gone);
            return Ok(report);
        }
        self.collect(&keep.into_iter().collect(), &dead, &dead_states)?;
        self.sweep_leases();
        report.bytes_after = self.disk_bytes();
        Ok(report)
    }

    fn kept_runs(&self, policy: &GcPolicy) -> Result<Vec<RunRecord>> {
        for id in &policy.named {
            self.run(id)?;
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut kept = Vec::new();
        for run in self.runs()?.into_iter().rev() {
            let count = counts.entry(run.pipeline.clone()).or_default();
            *count += 1;
            let named = policy.named.iter().any(|id| run.id.starts_with(id.as_str()) || run.id.ends_with(id.as_str()));
            if *count <= policy.keep_runs || named || run.is_running() {
                kept.push(run);
            }
        }
        Ok(kept)
    }

    fn collect(
        &self,
        keep: &BTreeSet<(Digest, u64)>,
        dead: &[ResultRecord],
        dead_states: &[StateRecord],
    ) -> Result<()> {
        let inner = &self.inner;
        let keep = keep.iter().map(|(digest, size)| blobs::BlobKey(*digest, *size)).collect();
        let lost = inner.chunks_alone(|old_path| {
            let generation = inner.next_generation();
            let new_path = inner.generation_path(generation);
            let lost = match old_path.exists() {
                true => copy_chunks(self, old_path, &new_path, &keep).inspect_err(|_| {
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
                fs::remove_dir_all(&path).map_err(StoreError::io("can't remove", &path))?;
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

fn copy_chunks(store: &Store, from: &Path, to: &Path, keep: &BTreeSet<blobs::BlobKey>) -> Result<BTreeSet<Digest>> {
    let old = store.inner.open_chunks(from)?;
    let new = store.inner.open_chunks(to)?;
    let copied = blobs::copy(&old, &new, keep).and_then(|lost| flush(&new, to).map(|()| lost));
    copied.map_err(|f| failed(f, to))
}

/// The keys that kept runs hold on to.
struct Live {
    results: BTreeSet<Key>,
    /// Named by a run, as a result's or a state's key.
    named: BTreeSet<Key>,
    /// Times (start, end) of kept runs that have not finished well: Unix milliseconds.
    unfinished: Vec<(i64, i64)>,
}

impl Live {
    fn new(runs: &[RunRecord], results: &[ResultRecord], newest: &[(String, String, Key)]) -> Self {
        let mut named: BTreeSet<Key> = runs.iter().flat_map(|r| r.states.iter().copied()).collect();
        named.extend(runs.iter().flat_map(|r| r.stages.iter().filter_map(|s| s.key)));
        let mut live = named.clone();
        let ids: BTreeSet<&str> = runs.iter().map(|r| r.id.as_str()).collect();
        live.extend(results.iter().filter(|r| ids.contains(r.provenance.run.as_str())).map(|r| r.key));
        let points: BTreeSet<(&str, &str)> =
            runs.iter().flat_map(|r| r.stages.iter().map(|s| (r.pipeline.as_str(), s.name.as_str()))).collect();
        let pipelines: BTreeSet<&str> = runs.iter().map(|r| r.pipeline.as_str()).collect();
        for (pipeline, point, key) in newest {
            if points.contains(&(pipeline, point)) || !pipelines.contains(pipeline.as_str()) {
                live.insert(*key);
            }
        }
        let unfinished = runs.iter().filter(|r| r.status != RunStatus::Ok);
        let unfinished = unfinished.map(|r| (r.started_at, r.finished_at.unwrap_or(i64::MAX))).collect();
        Self { results: live, named, unfinished }
    }

    /// The states on the chains of these results, and whether each is the last of one.
    fn chains(&self, results: &[ResultRecord]) -> BTreeMap<Key, bool> {
        let mut chains = BTreeMap::new();
        for record in results {
            for key in record.components.states() {
                *chains.entry(key).or_insert(false) |= key == record.key;
            }
        }
        chains
    }

    fn keeps_state(&self, chains: &BTreeMap<Key, bool>, state: &StateRecord) -> bool {
        let during = self.unfinished.iter().any(|(start, end)| (*start..=*end).contains(&state.saved_at));
        let on_chain = chains.get(&state.key).is_some_and(|last| state.pinned || (*last && state.step == 0));
        on_chain || during || self.named.contains(&state.key)
    }
}
