//! `vadpipe status`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::project::Project;
use super::ui::{Ui, seconds};
use super::{Global, PipelineArgs, plan};
use crate::error::Result;
use crate::plan::State;
use crate::store::{RunRecord, RunStatus};

/// Arguments of `status`.
#[derive(Args)]
#[command(after_help = "Example:\n  vadpipe status pipelines/full.toml")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Prints how a pipeline stands.
pub(super) fn status(args: &StatusArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let last = project.store.runs()?.into_iter().rfind(|r| r.pipeline == project.spec.pipeline.name);
    if ui.json {
        let count = |state| plan.decisions.iter().filter(|d| d.state == state).count();
        let (hit, miss, maybe) = (count(State::Hit), count(State::Miss), count(State::Maybe));
        let (complete, pruned) = (plan.is_complete(), plan.pruned());
        let pruned: Vec<&str> = pruned.iter().map(|p| project.name(*p)).collect();
        let pipeline = &project.spec.pipeline.name;
        return ui.object(
            &json!({ "pipeline": pipeline, "complete": complete, "hit": hit, "miss": miss, "maybe": maybe, "pruned": pruned, "last_run": last }),
        );
    }
    let mut lines = vec![plan::summary(&plan)];
    let open = plan.decisions.iter().filter(|d| d.state != State::Hit);
    lines.extend(open.map(|d| {
        let why = d.reason.as_ref().map(|r| r.text.as_str()).unwrap_or_default();
        let epochs = d.epochs.filter(|e| e.cached > 0);
        let epochs = epochs.map(|e| format!(" ({} of {} epochs cached)", e.cached, e.total)).unwrap_or_default();
        format!("  {}: {why}{epochs}", project.name(d.point))
    }));
    lines.extend(last.map(|run| last_run(&run)));
    ui.out(&lines.join("\n"));
    Ok(())
}

fn last_run(run: &RunRecord) -> String {
    let ended = match run.status {
        RunStatus::Running if run.is_running() => format!("running in {}", run.holder.describe()),
        RunStatus::Running => "was killed; the next run goes on from its last saved state".to_owned(),
        RunStatus::Ok => "ok".to_owned(),
        RunStatus::Failed => "failed".to_owned(),
        RunStatus::Interrupted => "interrupted".to_owned(),
    };
    let took = run.finished_at.map(|end| format!(" after {}", seconds((end - run.started_at) as f64 / 1000.0)));
    format!("last run {}: {ended}{}", run.id, took.unwrap_or_default())
}
