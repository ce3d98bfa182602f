//! Notes in the shared store what a run needs, so that `store gc` keeps it.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::exec::context::RunContext;
use crate::exec::filling::without_store;
use crate::exec::run_log::StageEnd;
use crate::key::{Components, Key};
use crate::plan::Plan;
use crate::status::StageStatus;
use crate::store::{StateRecord, Store};

/// Whose root it is.
#[derive(Clone, Copy)]
pub(crate) struct RootOwner<'a> {
    /// The id of the run.
    pub(crate) run: &'a str,
    /// This process, if it is one of its workers.
    pub(crate) worker: Option<&'a str>,
    /// Whether other processes ran stages of the run.
    pub(crate) is_part: bool,
}

/// Notes the results of a plan and of the points that have ended, and the stored states of its trainings, as what the
/// run needs. Does nothing if nothing had to run, or without a store that may be written.
///
/// # Errors
/// If the cache fails. A failure of the store is only a warning.
pub(crate) fn put_root(context: &RunContext<'_>, owner: RootOwner<'_>, plan: &Plan, ends: &[StageEnd]) -> Result<()> {
    let Some(shared) = context.shared.filter(|shared| shared.writes() && !shared.is_given_up()) else { return Ok(()) };
    let executed = ends.iter().any(|end| end.status == StageStatus::Executed);
    // What the workers of this run made counts as run.
    if plan.is_complete() && !executed && !owner.is_part {
        return Ok(());
    }
    let planned = plan.decisions.iter().filter(|decision| decision.output.is_some()).filter_map(|d| d.key);
    let made = ends.iter().filter(|end| end.digest.is_some()).filter_map(|end| end.key);
    let keys: BTreeSet<Key> = planned.chain(made).collect();
    let results: Vec<_> = context.store.results(&keys.into_iter().collect::<Vec<_>>())?.into_iter().flatten().collect();
    let planned = plan.decisions.iter().filter_map(|decision| decision.components.as_ref());
    let states = stored_states(context.store, planned.chain(results.iter().map(|result| &result.components)))?;
    if let Err(error) = shared.put_root(&context.spec.pipeline.name, (owner.run, owner.worker), &results, &states) {
        context.give_up(shared, || without_store(&error));
    }
    Ok(())
}

/// The stored states of trainings at the ends of epochs, which is what stores share. Other stages have none.
///
/// # Errors
/// If the cache can't be read.
pub fn stored_states<'a>(store: &Store, stages: impl Iterator<Item = &'a Components>) -> Result<Vec<StateRecord>> {
    let mut states = Vec::new();
    for training in stages.filter(|components| components.segments.is_some()) {
        let stored = store.chain_states(training.chain().keys())?;
        states.extend(stored.into_iter().filter(|state| state.step == 0));
    }
    Ok(states)
}
