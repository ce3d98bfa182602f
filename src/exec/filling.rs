//! Copies what the cache lacks of a plan from the shared store, before a run.
//!
//! The key of a point is known once its inputs are. So each round asks for the results of the points that are misses
//! with known keys, and plans again. Nothing is asked for twice. Last, the trainings that are still misses get the
//! furthest state that the store has.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::id::PointId;
use crate::key::{Components, Key, StateChain};
use crate::plan::{Decision, Plan, Planner, State};
use crate::shared::{Asked, SharedError, SharedStore, Transfer, WantedState};
use crate::store::{FilesRead, StateQuery};
use crate::system::set_up_heap_for_work;

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
    set_up_heap_for_work();
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
    let mut trainings = Vec::new();
    for decision in plan.decisions.iter().filter(|decision| decision.state != State::Pruned) {
        let Some(components) = decision.components.as_ref().filter(|c| c.segments.is_some()) else { continue };
        let mut training = Training::new(context, decision.point, components, 0);
        let furthest = context.store.longest_state(training.chain.keys(), &training.query(context))?;
        training.cached = furthest.map_or(0, |state| state.epoch);
        trainings.push(training);
    }
    let cancelled = || context.cancel.is_cancelled();
    Ok(pull_furthest(context, shared, &trainings, &Transfer::silent(&cancelled))?)
}

/// A training whose states the shared store may have.
pub(crate) struct Training {
    point: PointId,
    chain: StateChain,
    class: String,
    /// The epochs whose states the cache has.
    cached: u64,
}

impl Training {
    /// The training of a point with these components.
    pub(crate) fn new(context: &RunContext<'_>, point: PointId, components: &Components, cached: u64) -> Self {
        Self { point, chain: components.chain(), class: context.spec.class(point, context.compute), cached }
    }

    /// The training of a decision, if it is one that is a miss.
    fn of(context: &RunContext<'_>, decision: &Decision) -> Option<Self> {
        Some(Self::new(context, decision.point, decision.components.as_ref()?, decision.epochs?.cached))
    }

    fn query<'a>(&'a self, context: &'a RunContext<'_>) -> StateQuery<'a> {
        context.spec.resumable(self.point, &self.class)
    }
}

/// What these trainings can continue from.
fn wanted_states<'a>(context: &'a RunContext<'_>, trainings: &'a [Training]) -> Vec<WantedState<'a>> {
    let wanted = |training: &'a Training| WantedState {
        states: training.chain.keys(),
        query: training.query(context),
        cached: training.cached,
    };
    trainings.iter().map(wanted).collect()
}

/// Copies the furthest state of each training that is further than those of the cache. Returns how many.
pub(crate) fn pull_furthest(
    context: &RunContext<'_>,
    shared: &SharedStore,
    trainings: &[Training],
    transfer: &Transfer<'_>,
) -> Result<usize, SharedError> {
    let wanted = wanted_states(context, trainings);
    shared.pull_states(context.store, &wanted, &|path| context.store.digest_now(path), transfer)
}

/// The question for the result of a point. `declared` is the key without the files that its program read.
pub(crate) fn asked(context: &RunContext<'_>, point: PointId, declared: Key) -> Asked {
    Asked { declared, reads_files: context.point(point).parsed.stage.reads().files }
}

/// Copies results from the shared store, if the files that their programs read are as they read them. Returns how many.
pub(crate) fn pull_results(
    context: &RunContext<'_>,
    shared: &SharedStore,
    asked: &[Asked],
    transfer: &Transfer<'_>,
) -> Result<usize, SharedError> {
    let digest = |name: &String| context.store.digest_now(&context.spec.base.join(name));
    let is_current = |files: &FilesRead| files.iter().all(|(name, stored)| digest(name) == Some(*stored));
    shared.pull_results(context.store, asked, &is_current, transfer)
}

/// Plans as if the cache had the results and the states of the shared store. Copies none of them.
///
/// # Errors
/// As [`fill`].
pub fn plan_with_store(context: &RunContext<'_>, shared: &SharedStore, wanted: &BTreeSet<PointId>) -> Result<Plan> {
    let (forced, mut in_store, mut known) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let mut plan = context.planner(&forced).plan(wanted)?;
    loop {
        let misses = plan.decisions.iter().filter(|decision| is_lacking(decision));
        let ask = |decision: &Decision| {
            let key = decision.key.filter(|key| known.insert(*key))?;
            Some(asked(context, decision.point, key))
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
    let lacking = plan.decisions.iter().filter(|decision| is_lacking(decision));
    let trainings: Vec<Training> = lacking.filter_map(|decision| Training::of(context, decision)).collect();
    let wanted = wanted_states(context, &trainings);
    let found = shared.find_states(&wanted, &|path| context.store.digest_now(path))?;
    let mut reached: BTreeMap<PointId, u64> =
        trainings.iter().zip(found).filter_map(|(training, state)| Some((training.point, state?.epoch))).collect();
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
    /// Asks for results. If that brings none, asks for states.
    fn round(&mut self, plan: &Plan) -> Result<Filled, SharedError> {
        let misses = plan.decisions.iter().filter(|decision| is_lacking(decision));
        let misses = misses.filter(|decision| !self.planner.forced.contains(&decision.point));
        let misses: Vec<(&Decision, Key)> = misses.filter_map(|decision| Some((decision, decision.key?))).collect();
        let new = |(decision, key): &(&Decision, Key)| {
            self.results.insert(*key).then(|| asked(self.context, decision.point, *key))
        };
        let new: Vec<Asked> = misses.iter().filter_map(new).collect();
        if !new.is_empty() {
            let results = pull_results(self.context, self.shared, &new, self.transfer)?;
            if results > 0 {
                return Ok(Filled { results, ..Filled::default() });
            }
        }
        let new = misses.into_iter().filter(|(_, key)| self.states.insert(*key));
        let new: Vec<Training> = new.filter_map(|(decision, _)| Training::of(self.context, decision)).collect();
        let states = pull_furthest(self.context, self.shared, &new, self.transfer)?;
        Ok(Filled { states, ..Filled::default() })
    }
}
