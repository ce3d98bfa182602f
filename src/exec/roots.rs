//! Notes in the shared store what a run needs, so that `store gc` keeps it.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::exec::filling::without_store;
use crate::exec::run_log::StageEnd;
use crate::key::Key;
use crate::plan::Plan;
use crate::status::StageStatus;
use crate::store::StateRecord;

/// Notes the results of a plan and of the points that have ended, and the stored states of its trainings, as what the
/// run needs. Does nothing if nothing had to run, or without a store that may be written.
///
/// # Errors
/// If the cache fails. A failure of the store is only a warning.
pub(crate) fn put_root(context: &RunContext<'_>, run: &str, plan: &Plan, ends: &[StageEnd]) -> Result<()> {
    let Some(shared) = context.shared.filter(|shared| shared.writes() && !shared.is_given_up()) else { return Ok(()) };
    let executed = ends.iter().any(|end| end.status == StageStatus::Executed);
    if plan.is_complete() && !executed {
        return Ok(());
    }
    let planned = plan.decisions.iter().filter(|decision| decision.output.is_some()).filter_map(|d| d.key);
    let made = ends.iter().filter(|end| end.digest.is_some()).filter_map(|end| end.key);
    let keys: BTreeSet<Key> = planned.chain(made).collect();
    let results: Vec<_> = context.store.results(&keys.into_iter().collect::<Vec<_>>())?.into_iter().flatten().collect();
    let planned = plan.decisions.iter().filter_map(|decision| decision.components.as_ref());
    let trainings = planned.chain(results.iter().map(|result| &result.components)).filter(|c| c.segments.is_some());
    let mut states: Vec<StateRecord> = Vec::new();
    for training in trainings {
        states.extend(context.store.chain_states(training.chain().keys())?);
    }
    if let Err(error) = shared.put_root(&context.spec.pipeline.name, run, &results, &states) {
        let warning = shared.give_up(|| without_store(&error));
        warning.into_iter().for_each(|message| context.listener.event(&Event::Warning { message }));
    }
    Ok(())
}
