//! Copies what the cache lacks of a plan from the shared store, before a run.
//!
//! The key of a point is known once its inputs are. So each round asks for the results of the points that are misses
//! with known keys, and plans again. Nothing is asked for twice. Last, the trainings that are still misses get the
//! furthest state that the store has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::id::PointId;
use crate::key::{Components, Digest, Key, StateChain};
use crate::plan::{Decision, Plan, Planner, State};
use crate::shared::{Asked, SharedError, SharedStore, Transfer, WantedState};
use crate::store::{FilesRead, StateRecord};

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

/// Copies the furthest states of all trainings of a plan that are further than those of the cache, also of those whose
/// results are cached: another run may extend them. Returns how many.
///
/// # Errors
/// If the store can't be read, or the cache can't be written.
pub fn pull_states(context: &RunContext<'_>, shared: &SharedStore, plan: &Plan) -> Result<usize> {
    let cancelled = || context.cancel.is_cancelled();
    let spec = context.spec;
    let mut trainings = Vec::new();
    for decision in plan.decisions.iter().filter(|decision| decision.state != State::Pruned) {
        let Some(components) = decision.components.as_ref().filter(|c| c.segments.is_some()) else { continue };
        let (chain, class) = (components.chain(), spec.class(decision.point, context.compute));
        let furthest = context.store.longest_state(chain.keys(), &spec.resumable(decision.point, &class))?;
        trainings.push((decision.point, chain, class, furthest.map_or(0, |state| state.epoch)));
    }
    let wanted: Vec<WantedState<'_>> = trainings.iter().map(|training| wanted(context, training)).collect();
    let found = shared.find_states(&wanted, &|path| context.store.digest_now(path)).map_err(Error::from)?;
    let states = found.into_iter().flatten().collect();
    shared.pull_states(context.store, states, &Transfer::silent(&cancelled)).map_err(Error::from)
}

/// A training: its point, its chain, its numerics class, and the epochs that the cache has.
type Training = (PointId, StateChain, String, u64);

fn wanted<'a>(context: &'a RunContext<'_>, (point, chain, class, cached): &'a Training) -> WantedState<'a> {
    WantedState { states: chain.keys(), query: context.spec.resumable(*point, class), cached: *cached }
}

/// Plans as if the cache had the results and the states of the shared store. Copies none of them.
///
/// # Errors
/// As [`fill`].
pub fn plan_with_store(context: &RunContext<'_>, shared: &SharedStore, wanted: &BTreeSet<PointId>) -> Result<Plan> {
    let (forced, mut in_store, mut asked) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let mut plan = context.planner(&forced).plan(wanted)?;
    loop {
        let misses = plan.decisions.iter().filter(|decision| is_lacking(decision));
        let ask = |decision: &Decision| {
            let reads_files = context.point(decision.point).parsed.stage.reads().files;
            decision.key.filter(|key| asked.insert(*key)).map(|declared| Asked { declared, reads_files })
        };
        let new: Vec<Asked> = misses.filter_map(ask).collect();
        let found = if new.is_empty() { Vec::new() } else { shared.find_results(&new)? };
        let found = new.iter().zip(found).filter(|(_, records)| !records.is_empty());
        let before = in_store.len();
        in_store.extend(found.map(|(asked, records)| (asked.declared, records)));
        if in_store.len() == before {
            break;
        }
        plan = Planner { in_store: Some(&in_store), ..context.planner(&forced) }.plan(wanted)?;
    }
    let is_training = |decision: &&Decision| is_lacking(decision) && decision.epochs.is_some();
    let trainings: Vec<&Decision> = plan.decisions.iter().filter(is_training).collect();
    let found = furthest_states(context, shared, &trainings)?;
    let mut reached: BTreeMap<PointId, u64> =
        trainings.iter().zip(found).filter_map(|(d, state)| Some((d.point, state?.epoch))).collect();
    for decision in &mut plan.decisions {
        if let (Some(epochs), Some(epoch)) = (&mut decision.epochs, reached.remove(&decision.point)) {
            epochs.cached = epoch;
        }
    }
    Ok(plan)
}

/// Whether the cache lacks a result that the run needs.
fn is_lacking(decision: &Decision) -> bool {
    decision.output.is_none() && decision.state != State::Pruned
}

/// The warning that the work goes on without the shared store.
pub(crate) fn without_store(error: &SharedError) -> String {
    format!("{error}; continuing without the store")
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
        let misses = plan.decisions.iter().filter(|decision| is_lacking(decision));
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
        let new: Vec<&Decision> = misses.into_iter().filter(|(_, key)| self.states.insert(*key)).map(|m| m.0).collect();
        Ok(Filled { states: self.pull_states(&new)?, ..Filled::default() })
    }

    fn reads_files(&self, point: PointId) -> bool {
        self.context.point(point).parsed.stage.reads().files
    }

    fn digest(&self, path: &Path) -> Option<Digest> {
        self.context.store.digest_now(path)
    }

    /// Copies the furthest state of each training that is further than those of the cache. Returns how many.
    fn pull_states(&self, decisions: &[&Decision]) -> Result<usize, SharedError> {
        let found = furthest_states(self.context, self.shared, decisions)?;
        self.shared.pull_states(self.context.store, found.into_iter().flatten().collect(), self.transfer)
    }
}

/// The furthest state of each training in the store that is further than those of the cache, in their order.
fn furthest_states(
    context: &RunContext<'_>,
    shared: &SharedStore,
    decisions: &[&Decision],
) -> Result<Vec<Option<StateRecord>>, SharedError> {
    let spec = context.spec;
    let training = |decision: &&Decision| {
        let chain = decision.components.as_ref().map(Components::chain).unwrap_or_default();
        let cached = decision.epochs.map_or(u64::MAX, |epochs| epochs.cached);
        (decision.point, chain, spec.class(decision.point, context.compute), cached)
    };
    let trainings: Vec<Training> = decisions.iter().map(training).collect();
    let wanted: Vec<WantedState<'_>> = trainings.iter().map(|training| wanted(context, training)).collect();
    shared.find_states(&wanted, &|path| context.store.digest_now(path))
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
    match shared.find_state(chain.keys(), &query, cached, &|path| context.store.digest_now(path))? {
        Some(state) => Ok(shared.pull_states(context.store, vec![state], transfer)? > 0),
        None => Ok(false),
    }
}
