//! `vadpipe pull`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::args::{Global, PipelineArgs};
use super::project::Project;
use super::session::stop_on_signals;
use super::shared::{StoreArgs, print_warnings};
use super::ui::{Ui, Watch, bytes, count};
use crate::error::Result;
use crate::exec::{Filled, RunContext, fill, pull_states};
use crate::stage::Cancel;

/// Arguments of `pull`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe pull full.toml --store /shared/x  copy what the store has
  vadpipe pull full.toml 'vad@*'            only some stages and their inputs

`run` pulls by itself. What was pulled stays in the cache if the command is interrupted; the same command goes on.")]
pub(super) struct PullArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Copies results and states from the shared store.
pub(super) fn pull(args: &PullArgs, global: &Global, ui: &Ui) -> Result<()> {
    let shared = args.store.required(Some(false))?;
    let project = Project::open(&args.pipeline, global, ui)?;
    let cancel = Cancel::default();
    stop_on_signals(&cancel, |_| {})?;
    let watch = Watch::of_run(ui);
    let context = RunContext { shared: Some(&shared), ..project.context(&[], 1, &cancel, &watch) };
    let forced = BTreeSet::new();
    let planner = project.planner(&forced);
    shared.check()?;
    let (plan, filled) = fill(&context, &planner, &|| planner.plan(&project.wanted))?;
    let more_states = pull_states(&context, &shared, &plan);
    watch.clear();
    project.store.warnings().iter().for_each(|warning| ui.warn(warning));
    let Filled { results, states, bytes: size, warnings, .. } = filled;
    warnings.iter().for_each(|warning| ui.warn(warning));
    print_warnings(&shared, ui);
    let states = states + more_states?;
    let missing: Vec<&str> = plan.open().map(|decision| project.name(decision.point)).collect();
    if ui.json {
        return ui.object(&json!({
            "store": shared.address().to_string(), "results": results, "states": states, "bytes": size, "missing": missing,
        }));
    }
    let pulled = format!("pulled {} and {} ({})", count(results, "result"), count(states, "state"), bytes(size));
    let missing = match missing.len() {
        0 => "nothing is missing".to_owned(),
        number => format!("{} would run", count(number, "stage")),
    };
    ui.text(&format!("{pulled}; {missing}"));
    Ok(())
}
