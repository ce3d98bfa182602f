//! `log FILE STAGE`: the newest log of each point.

use super::filters::{Filters, word};
use super::follow::{failure, prefix};
use super::tail::{Tail, log_path};
use crate::cli::ui::{DIM, Ui, paint};
use crate::error::{Error, Result};
use crate::status::StageStatus;
use crate::store::{RunRecord, StageRun, Store};

/// Prints the newest logs of the stages of `run` that match. `runs` are those of its pipeline, newest last. `follows`:
/// the user wanted to follow them.
///
/// # Errors
/// If a log can't be read. With `follows`: if a stage that the command line names did not end well.
pub(super) fn print(
    store: &Store,
    runs: &[RunRecord],
    run: &RunRecord,
    filters: &Filters,
    follows: bool,
    ui: &Ui,
) -> Result<()> {
    if ui.json {
        return Err(Error::bad_input("a log is text, not JSON").hint("leave out --json"));
    }
    let stages: Vec<&StageRun> = run.stages.iter().filter(|stage| filters.takes_stage(stage)).collect();
    for stage in &stages {
        print_one(store, runs, &stage.name, stages.len() > 1, ui)?;
    }
    if !follows {
        return Ok(());
    }
    ui.note(&paint(DIM, &format!("no run of `{}` is going on; {} has ended: {}", run.pipeline, run.id, word(run))));
    let ended_well = [StageStatus::Executed, StageStatus::Cached, StageStatus::Pruned];
    let failed = stages.iter().filter(|stage| filters.lists_stages() && !ended_well.contains(&stage.outcome));
    failure(&failed.map(|stage| stage.name.clone()).collect::<Vec<_>>(), &run.id)
}

/// Prints the newest log of a point. It is that of the newest run in which the point was not cached.
fn print_one(store: &Store, runs: &[RunRecord], point: &str, is_one_of_many: bool, ui: &Ui) -> Result<()> {
    let logs = runs.iter().rev().map(|run| log_path(store, &run.id, point));
    let Some(path) = logs.into_iter().find(|path| path.exists()) else {
        ui.note(&format!("`{point}` has logged nothing"));
        return Ok(());
    };
    let prefix = prefix(point, is_one_of_many);
    Tail::new(path).read(true, |lines| {
        let lines: Vec<String> = lines.iter().map(|line| format!("{prefix}{line}")).collect();
        ui.out(&lines.join("\n"));
    })
}
