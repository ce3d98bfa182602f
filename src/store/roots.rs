//! What a collection keeps.
//!
//! Roots are the newest run records of each pipeline, the named ones, the ones in progress, and the unreadable ones. A
//! result lives if a kept run names its key or computed it, or if it is the newest result of a point of a kept run. The
//! newest results of a pipeline without any run record live too. A state lives
//!
//! - if it is on the chain of a living result and is pinned or the last one, or a kept run names its key; or
//! - if it was saved for an unfinished training of a kept run, and is pinned or the newest of that training in its
//!   numerics class. The training is identified by the key of its result ([`StateRecord::result`], or else
//!   [`StateRecord::towards`]) and by the files that its program has read. If its run was killed before it knew that
//!   key, the training is identified by the time at which the state was saved.

use std::collections::{BTreeMap, BTreeSet};

use super::entries::FilesRead;
use super::record::{ResultRecord, RunRecord, StateRecord};
use super::runs::UnreadableRuns;
use crate::key::Key;
use crate::status::RunStatus;

/// The keys that kept runs need.
pub(super) struct Live {
    /// Keys of results, stored or still to be computed.
    pub(super) results: BTreeSet<Key>,
    /// Named by a run, as a result's or a state's key.
    named: BTreeSet<Key>,
    /// Start and end of kept runs that have not succeeded, in Unix milliseconds.
    unfinished: Vec<(i64, i64)>,
}

impl Live {
    pub(super) fn new(
        runs: &[RunRecord],
        unreadable: &UnreadableRuns,
        results: &[ResultRecord],
        newest: &[(String, String, Key)],
    ) -> Self {
        let mut live: BTreeSet<Key> = runs.iter().flat_map(|r| r.stages.iter().filter_map(|s| s.key)).collect();
        let mut named = live.clone();
        named.extend(runs.iter().flat_map(|r| r.states.iter().copied()));
        named.extend(&unreadable.keys);
        let mut ids: BTreeSet<&str> = runs.iter().map(|r| r.id.as_str()).collect();
        ids.extend(unreadable.ids.iter().map(String::as_str));
        live.extend(results.iter().filter(|r| ids.contains(r.provenance.run.as_str())).map(|r| r.key));
        // A run may have begun with the last state of another training, whose result has the same key.
        live.extend(results.iter().filter(|r| named.contains(&r.key)).map(|r| r.key));
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

    /// Splits the states into living and dead ones. `kept` and `dead` are all results.
    pub(super) fn split_states(
        &self,
        states: Vec<StateRecord>,
        kept: &[ResultRecord],
        dead: &[ResultRecord],
    ) -> (Vec<StateRecord>, Vec<StateRecord>) {
        let chains = chains(kept);
        let declared = |r: &ResultRecord| r.components.declared().key();
        let finished: BTreeSet<Key> = kept.iter().chain(dead).filter(|r| !r.damaged).map(declared).collect();
        let mut newest: BTreeMap<(Key, String, FilesRead), (u64, u64)> = BTreeMap::new();
        for state in &states {
            if let Some(owner) = state.owner() {
                let name = (owner, state.class.clone(), state.files_read.clone());
                let furthest = newest.entry(name).or_default();
                *furthest = (*furthest).max((state.epoch, state.step));
            }
        }
        states.into_iter().partition(|state| {
            let on_chain = chains.get(&state.key).is_some_and(|last| state.pinned || (*last && state.step == 0));
            // Half an epoch of a finished training is of no use, even if a run names it.
            let named = self.named.contains(&state.key) && !(finished.contains(&state.key) && state.step > 0);
            // A result with other files does not finish the training.
            let is_finished = |owner| finished.contains(&owner) && (state.files_read.is_empty() || !self.during(state));
            let going_on = match state.owner() {
                None => self.during(state),
                Some(owner) if is_finished(owner) => false,
                Some(owner) if !self.results.contains(&owner) && !self.during(state) => false,
                Some(owner) => {
                    let name = (owner, state.class.clone(), state.files_read.clone());
                    state.pinned || newest.get(&name) == Some(&(state.epoch, state.step))
                }
            };
            on_chain || named || going_on
        })
    }

    fn during(&self, state: &StateRecord) -> bool {
        self.unfinished.iter().any(|(start, end)| (*start..=*end).contains(&state.saved_at))
    }
}

/// The states on the chains of these results, and whether each is the last of a chain.
fn chains(results: &[ResultRecord]) -> BTreeMap<Key, bool> {
    let mut chains = BTreeMap::new();
    for record in results {
        let chain = record.components.chain();
        for key in chain.keys() {
            *chains.entry(*key).or_insert(false) |= Some(key) == chain.keys().last();
        }
    }
    chains
}
