//! A run whose stages workers run: its record while they run, and the ordinary run at the end, which takes what they
//! have made, runs what is missing and writes the reports.

use std::collections::BTreeSet;

use super::merging::Merged;
use crate::cli::project::Project;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::event::Silent;
use crate::exec::{self, PartOf, RunContext, RunInfo, RunLog, fill, run_started, stored_states};
use crate::plan::Plan;
use crate::shared::{SharedStore, Transfer};
use crate::stage::Cancel;
use crate::store::Import;

/// A run while its workers run.
pub(super) struct Gathering<'a> {
    id: &'a str,
    /// In Unix milliseconds.
    started_at: i64,
    pub(super) merged: Merged<'a>,
}

impl<'a> Gathering<'a> {
    /// Begins the run.
    pub(super) fn start(
        id: &'a str,
        started_at: i64,
        context: &RunContext<'a>,
        options: &exec::Options<'a>,
        plan: &Plan,
    ) -> Result<Self> {
        let info = RunInfo { id, file: options.file, args: options.args, label: options.label, started_at };
        let log = RunLog::start(RunContext { listener: &Silent, ..*context }, info, plan)?;
        Ok(Self { id, started_at, merged: Merged::start(context.listener, log, &run_started(context, id, plan)) })
    }

    /// Ends the run when its workers have ended. `context` has their store.
    pub(super) fn finish(
        mut self,
        project: &Project,
        context: &RunContext<'_>,
        options: &exec::Options<'_>,
        ui: &Ui,
    ) -> Result<exec::Outcome> {
        self.merged.end_log();
        let mut context = RunContext { listener: &self.merged, ..*context };
        if context.cancel.is_cancelled() {
            // The workers have pushed their states. The next run may be one without workers.
            let transfer = Cancel::default();
            let planner = project.planner(options.forced);
            fill(&RunContext { cancel: &transfer, ..context }, &planner, &|| options.plan(&planner))?;
            context.shared = None;
        }
        let events = self.merged.events();
        let part_of = Some(PartOf { id: self.id, started_at: self.started_at, events: &events });
        let outcome = exec::run(&context, &exec::Options { part_of, ..*options })?;
        let counts: Vec<String> = self.merged.counts().iter().map(|(worker, n)| format!("{worker} ran {n}")).collect();
        if !counts.is_empty() {
            ui.note(&format!("{} (`vadpipe log last` shows where each stage ran)", counts.join(", ")));
        }
        Ok(outcome)
    }
}

/// Copies what the cache has of a plan to the store, so that no worker makes it again. First notes that the run needs
/// it.
pub(super) fn push(
    project: &Project,
    plan: &Plan,
    (shared, run): (&SharedStore, &str),
    transfer: &Transfer<'_>,
) -> Result<()> {
    let results: Vec<_> = project.planner(&BTreeSet::new()).records(plan)?.into_values().collect();
    let stages = plan.decisions.iter().filter_map(|decision| decision.components.as_ref());
    let states = stored_states(&project.store, stages)?;
    shared.put_root(&project.spec.pipeline.name, (run, None), &results, &states)?;
    shared.push(&project.store, Import { results, states }, transfer)?;
    Ok(())
}
