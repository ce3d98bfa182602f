//! `vadpipe push`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::args::{Global, PipelineArgs};
use super::project::Project;
use super::session::stop_on_signals;
use super::shared::{StoreArgs, print_warnings, transfer_bar};
use super::ui::{Ui, bytes, count};
use crate::error::Result;
use crate::exec::{RunFiles, stored_states};
use crate::shared::{SharedStore, Transfer};
use crate::stage::Cancel;
use crate::store::{Import, new_run_id};

/// Arguments of `push`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe push full.toml --store s3://team/x  copy all cached results
  vadpipe push full.toml tsne --no-states     one stage, without states
  vadpipe push full.toml --run                also the pipeline and its files

`run --store-write` pushes what it makes by itself. The same command completes a push that was interrupted.

With --run, the pipeline and its files become a run of the store. `vadpipe worker --run ID` then takes part in it on any \
machine, with the files as they are now. The files are those that the pipeline names and, if programs run, those of the project. \
Files that git ignores, hidden ones, and those above 16 MiB that no stage names are left out.")]
pub(super) struct PushArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Leave out the states of trainings, from which other machines could extend them
    #[arg(long)]
    no_states: bool,
    /// Also push the pipeline and its files as a run, and print its id
    #[arg(long)]
    run: bool,
}

/// Copies results and states to the shared store.
pub(super) fn push(args: &PushArgs, global: &Global, ui: &Ui) -> Result<()> {
    let shared = args.store.required(Some(true))?;
    let project = Project::open(&args.pipeline, global, ui)?;
    let cancel = Cancel::default();
    stop_on_signals(&cancel, |_| {})?;
    let files = if args.run { Some(RunFiles::find(&project.spec, &args.pipeline.file)?) } else { None };
    files.iter().flat_map(|files| &files.warnings).for_each(|warning| ui.warn(warning));
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let results: Vec<_> = project.planner(&BTreeSet::new()).records(&plan)?.into_values().collect();
    let stages = plan.decisions.iter().filter_map(|decision| decision.components.as_ref());
    let states = if args.no_states { Vec::new() } else { stored_states(&project.store, stages)? };
    let show = transfer_bar(ui, "pushing (kB)");
    let cancelled = || cancel.is_cancelled();
    let transfer = Transfer::new(&cancelled, &show);
    let accepted = results.iter().filter(|record| record.provenance.accepted.is_some()).count();
    // So that `store gc` keeps them.
    let id = new_run_id();
    let rooted: Result<()> =
        shared.put_root(&project.spec.pipeline.name, (&id, None), &results, &states).map_err(Into::into);
    let pushed = rooted.and_then(|()| Ok(shared.push(&project.store, Import { results, states }, &transfer)?));
    let pushed = pushed.and_then(|pushed| {
        let run = files.map(|files| push_run(args, &files, &id, &shared, &transfer)).transpose()?;
        Ok((pushed, run))
    });
    let moved = transfer.bytes();
    drop(show);
    print_warnings(&shared, ui);
    let (pushed, run) = pushed?;
    if accepted > 0 {
        ui.note(&format!("{} that `vadpipe accept` made valid stay here", count(accepted, "result")));
    }
    for other in &pushed.others {
        ui.warn(&format!(
            "the store has another result of `{}`, made by {}: it stays, and yours is kept beside it",
            other.point, other.provenance.host
        ));
    }
    if ui.json {
        let others: Vec<_> =
            pushed.others.iter().map(|other| json!({ "point": other.point, "digest": other.digest })).collect();
        return ui.object(&json!({
            "store": shared.address().to_string(), "results": pushed.results, "states": pushed.states, "bytes": moved,
            "others": others, "run": run,
        }));
    }
    let (results, states) = (count(pushed.results, "result"), count(pushed.states, "state"));
    ui.text(&format!("pushed {results} and {states} ({}) to {}", bytes(moved), shared.address()));
    if let Some(run) = run {
        ui.text(&format!("run {run}: start workers with `vadpipe worker --run {run} --store {}`", shared.address()));
    }
    Ok(())
}

/// Pushes the pipeline and its files as a run. Returns its id.
fn push_run(
    args: &PushArgs,
    files: &RunFiles,
    id: &str,
    shared: &SharedStore,
    transfer: &Transfer<'_>,
) -> Result<String> {
    let PipelineArgs { targets, set, .. } = &args.pipeline;
    let run = files.run(id.to_owned(), targets.clone(), set.clone())?;
    shared.put_run(&run, &|name| files.read(name), transfer)?;
    Ok(run.id)
}
