//! Copies what the cache lacks of a plan from the shared store, before a run.
//!
//! The key of a point is known once its inputs are. So each round asks for the results of the points that are misses
//! with known keys, and plans again. Nothing is asked for twice. Last, the trainings that are still misses get the
//! furthest state that the store has.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::id::PointId;
use crate::key::{Components, Key};
use crate::plan::{Decision, Plan, Planner};
use crate::shared::{Asked, SharedError, SharedStore, Transfer};
use crate::store::FilesRead;

/// What was copied from the shared store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Results.
    pub results: usize,
    /// States of trainings.
    pub states: usize,
    /// Bytes of tensors and files.
    pub bytes: u64,
    /// The keys whose results were asked for.
    pub asked: BTreeSet<Key>,
    /// Warnings for the user. Each is a sentence without a full stop.
    pub warnings: Vec<String>,
}

impl Filled {
    /// Whether anything was copied.
    pub fn is_empty(&self) -> bool {
        self.results + self.states == 0
    }
}

/// Completes the cache from the shared store until the store has nothing more of the plan. `plan` plans with what the
/// cache has. Returns the last plan. A store that can't be reached is only a warning.
///
/// # Errors
/// As `plan`; if the store's address or the credentials are wrong, or if the user interrupts the transfer.
pub fn fill(
    context: &RunContext<'_>,
    planner: &Planner<'_>,
    plan: &dyn Fn() -> Result<Plan>,
) -> Result<(Plan, Filled)> {
    let mut last = plan()?;
    let mut filled = Filled::default();
    let Some(shared) = context.shared else { return Ok((last, filled)) };
    let cancelled = || context.cancel.is_cancelled();
    let progress = |done, total| context.listener.event(&Event::Transferring { done, total });
    let transfer = Transfer::new(&cancelled, &progress);
    let asked = BTreeSet::new();
    let mut filling = Filling { context, planner, shared, transfer: &transfer, results: asked.clone(), states: asked };
    let ended = loop {
        let brought = match filling.round(&last) {
            Ok(brought) => brought,
            Err(error) => break Err(error),
        };
        if brought.is_empty() {
            break Ok(());
        }
        filled.results += brought.results;
        filled.states += brought.states;
        last = plan()?;
    };
    filled.bytes = transfer.bytes();
    filled.warnings = shared.warnings();
    filled.asked = filling.results;
    match ended {
        Ok(()) => {}
        // Some results may have arrived before the store failed.
        Err(error @ SharedError::Failed { .. }) => {
            filled.warnings.extend(shared.give_up(|| without_store(&error)));
            last = plan()?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok((last, filled))
}

/// The warning that the work goes on without the shared store.
pub(crate) fn without_store(error: &SharedError) -> String {
    format!("{error}; what follows does without the store")
}

struct Filling<'a> {
    context: &'a RunContext<'a>,
    planner: &'a Planner<'a>,
    shared: &'a SharedStore,
    transfer: &'a Transfer<'a>,
    /// The keys whose results were asked for.
    results: BTreeSet<Key>,
    /// The keys whose states were asked for.
    states: BTreeSet<Key>,
}

impl Filling<'_> {
    /// Asks for results, or for states if there are no results to ask for.
    fn round(&mut self, plan: &Plan) -> Result<Filled, SharedError> {
        let misses = plan.decisions.iter().filter(|decision| decision.output.is_none());
        let misses = misses.filter(|decision| !self.planner.forced.contains(&decision.point));
        let misses: Vec<(&Decision, Key)> = misses.filter_map(|decision| Some((decision, decision.key?))).collect();
        let new = |(decision, key): &(&Decision, Key)| {
            let reads_files = self.reads_files(decision.point);
            self.results.insert(*key).then_some(Asked { declared: *key, reads_files })
        };
        let asked: Vec<Asked> = misses.iter().filter_map(new).collect();
        if !asked.is_empty() {
            let store = self.context.store;
            let is_current = |files: &FilesRead| {
                files.iter().all(|(name, digest)| self.digest(&self.context.spec.base.join(name)) == Some(*digest))
            };
            let pulled = self.shared.pull_results(store, &asked, &is_current, self.transfer)?;
            if pulled.results > 0 {
                return Ok(Filled { results: pulled.results, ..Filled::default() });
            }
        }
        let mut states = 0;
        for (decision, key) in misses {
            if self.states.insert(key) && self.pull_state(decision)? {
                states += 1;
            }
        }
        Ok(Filled { states, ..Filled::default() })
    }

    fn reads_files(&self, point: PointId) -> bool {
        self.context.point(point).parsed.stage.reads().files
    }

    fn digest(&self, path: &std::path::Path) -> Option<crate::key::Digest> {
        self.context.store.digest_now(path)
    }

    /// Copies the furthest state of a training that is further than those of the cache.
    fn pull_state(&self, decision: &Decision) -> Result<bool, SharedError> {
        let (Some(components), Some(epochs)) = (&decision.components, decision.epochs) else { return Ok(false) };
        pull_state(self.context, self.shared, (decision.point, components, epochs.cached), self.transfer)
    }
}

/// Copies the furthest state of a training from the shared store, if it is after more than `cached` epochs. Returns
/// whether it did.
pub(crate) fn pull_state(
    context: &RunContext<'_>,
    shared: &SharedStore,
    (point, components, cached): (PointId, &Components, u64),
    transfer: &Transfer<'_>,
) -> Result<bool, SharedError> {
    let (spec, chain) = (context.spec, components.chain());
    let class = spec.class(point, context.compute);
    let query = spec.resumable(point, &class);
    let digest = |path: &std::path::Path| context.store.digest_now(path);
    match shared.find_state(chain.keys(), &query, cached, &digest)? {
        Some(state) => shared.pull_state(context.store, state, transfer),
        None => Ok(false),
    }
}
