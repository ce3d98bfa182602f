//! Notes in the shared store what a run needs, so that `store gc` keeps it.

use crate::error::Result;
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::exec::filling::without_store;
use crate::key::Key;
use crate::plan::Plan;
use crate::store::StateRecord;

/// Notes these results, and the stored states of their trainings and of those of the plan, as what the run needs. Does
/// nothing without a store that may be written.
///
/// # Errors
/// If the cache fails. A failure of the store is only a warning.
pub(crate) fn put_root(context: &RunContext<'_>, run: &str, plan: &Plan, keys: &[Key]) -> Result<()> {
    let Some(shared) = context.shared.filter(|shared| shared.writes() && !shared.is_given_up()) else { return Ok(()) };
    let results: Vec<_> = context.store.results(keys)?.into_iter().flatten().collect();
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
