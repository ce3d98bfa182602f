//! What a collection keeps.
//!
//! Roots are the newest run records of each pipeline, those named, those under way, and those that can't be read. A result
//! lives if a kept run names its key or made it, or if a point of a kept run used it last; so does the newest result of every point of a
//! pipeline of which there is no run record at all. A state lives
//!
//! - if it lies on the chain of a living result and is pinned or the last, or a kept run names its key; or
//! - if it was saved for a training that a kept run wants and that is not finished, and is pinned or the newest of that
//!   training in its numerics class. The training is known by the key of its last state ([`StateRecord::towards`]); one
//!   whose key its run did not know when it was killed, by the time when the state was saved.

use std::collections::{BTreeMap, BTreeSet};

use super::runs::UnreadableRuns;
use super::{ResultRecord, RunRecord, StateRecord};
use crate::key::Key;
use crate::status::RunStatus;

/// The keys that kept runs hold on to.
pub(super) struct Live {
    /// Keys of results, there or to be made.
    pub(super) results: BTreeSet<Key>,
    /// Named by a run, as a result's or a state's key.
    named: BTreeSet<Key>,
    /// Times (start, end) of kept runs that have not finished well: Unix milliseconds.
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
        // A result whose key is that of a state that a run began with is another training's.
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

    /// The states that live and those that don't. `kept` and `dead` are the results, all of them.
    pub(super) fn split_states(
        &self,
        states: Vec<StateRecord>,
        kept: &[ResultRecord],
        dead: &[ResultRecord],
    ) -> (Vec<StateRecord>, Vec<StateRecord>) {
        let chains = chains(kept);
        let finished: BTreeSet<Key> = kept.iter().chain(dead).filter(|r| !r.damaged).map(|r| r.key).collect();
        let mut newest: BTreeMap<(Key, String), (u64, u64)> = BTreeMap::new();
        for state in &states {
            if let Some(towards) = state.towards {
                let furthest = newest.entry((towards, state.class.clone())).or_default();
                *furthest = (*furthest).max((state.epoch, state.step));
            }
        }
        states.into_iter().partition(|state| {
            let on_chain = chains.get(&state.key).is_some_and(|last| state.pinned || (*last && state.step == 0));
            // Half an epoch of a training that has finished is of no use, whoever names that.
            let named = self.named.contains(&state.key) && !(finished.contains(&state.key) && state.step > 0);
            let going_on = match state.towards {
                None => self.during(state),
                Some(towards) if finished.contains(&towards) => false,
                Some(towards) if !self.results.contains(&towards) && !self.during(state) => false,
                Some(towards) => {
                    state.pinned || newest.get(&(towards, state.class.clone())) == Some(&(state.epoch, state.step))
                }
            };
            on_chain || named || going_on
        })
    }

    fn during(&self, state: &StateRecord) -> bool {
        self.unfinished.iter().any(|(start, end)| (*start..=*end).contains(&state.saved_at))
    }
}

/// The states on the chains of these results, and whether each is the last of one.
fn chains(results: &[ResultRecord]) -> BTreeMap<Key, bool> {
    let mut chains = BTreeMap::new();
    for record in results {
        for key in record.components.states() {
            *chains.entry(key).or_insert(false) |= key == record.key;
        }
    }
    chains
}
