//! `vadpipe explain`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::project::Project;
use super::ui::Ui;
use super::{Global, PipelineArgs};
use crate::error::Result;
use crate::key::{Components, InputDigest};
use crate::plan::{Decision, Ladder, Plan, State, Verdict};

/// Arguments of `explain`.
#[derive(Args)]
#[command(after_help = "Example:\n  vadpipe explain pipelines/full.toml ad -S params.epochs=200")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Prints what the targets' keys are made of, and what changed.
pub(super) fn explain(args: &ExplainArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let decisions = plan.decisions.iter().filter(|d| project.targets.contains(&d.point));
    if ui.json {
        let explained = decisions.map(|d| {
            json!({
                "name": project.name(d.point), "state": d.state, "key": d.key, "reason": d.reason,
                "components": d.components, "epochs": d.epochs, "rungs": rungs(&project, &plan, d.point),
            })
        });
        return ui.object(&json!({ "stages": explained.collect::<Vec<_>>() }));
    }
    let texts: Vec<_> = decisions.map(|d| text(&project, &plan, d)).collect();
    ui.out(&texts.join("\n\n"));
    Ok(())
}

fn text(project: &Project, plan: &Plan, decision: &Decision) -> String {
    let state = match decision.state {
        State::Hit => "hit",
        State::Miss => "miss",
        State::Maybe => "maybe",
        State::Pruned => "pruned",
    };
    let mut lines = vec![format!("{}: {state}", project.name(decision.point))];
    if let Some(reason) = &decision.reason {
        lines.extend(reason.causes.iter().map(|cause| format!("  because     {cause}")));
    }
    if let Some(epochs) = decision.epochs {
        lines.push(format!("  cached      {} of {} epochs", epochs.cached, epochs.total));
    }
    lines.extend(plan.ladder.iter().flat_map(|ladder| comparisons(project, ladder, decision.point)));
    if let Some(key) = decision.key {
        lines.push(format!("  key         {key}"));
    }
    match &decision.components {
        Some(components) => lines.extend(parts(components)),
        None => lines.push("  its key is not known before its inputs are".to_owned()),
    }
    if let Some(output) = &decision.output {
        lines.push(format!("  output      {output}"));
    }
    lines.join("\n")
}

/// What decided at each rung whether a point goes on, and from which figures.
fn comparisons(project: &Project, ladder: &Ladder, point: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for verdict in ladder.verdicts(point) {
        let Verdict { epoch, place, of, best, goes_on, .. } = verdict;
        let word = if goes_on { "goes on" } else { "ends here" };
        let figure = &ladder.curve;
        lines.push(format!("  epoch {epoch:<6}{figure} is number {place} of {of}, {best} of them go on: it {word}"));
        let compared = ladder.compared(point, epoch);
        lines.extend(compared.iter().map(|(other, value)| format!("    {value:<14.6}{}", project.name(*other))));
    }
    lines
}

fn rungs(project: &Project, plan: &Plan, point: usize) -> Vec<serde_json::Value> {
    let Some(ladder) = &plan.ladder else { return vec![] };
    let rung = |verdict: Verdict| {
        let compared = ladder.compared(point, verdict.epoch);
        let compared = compared.iter().map(|(other, value)| json!({ "name": project.name(*other), "value": value }));
        json!({ "figure": ladder.curve, "verdict": verdict, "compared": compared.collect::<Vec<_>>() })
    };
    ladder.verdicts(point).into_iter().map(rung).collect()
}

fn parts(components: &Components) -> Vec<String> {
    let mut lines = vec![format!("  kind        {}, version {}", components.kind, components.version)];
    lines.extend(components.params.iter().map(|(name, value)| format!("  parameter   {name} = {value}")));
    for segment in components.segments.iter().flatten() {
        let params = segment.params.iter().map(|(name, value)| format!("{name} = {value}"));
        lines.push(format!("  epochs      {} with {}", segment.epochs, params.collect::<Vec<_>>().join(", ")));
    }
    lines.extend(components.seed.map(|seed| format!("  seed        {seed}")));
    lines.extend(components.precision.as_ref().map(|precision| format!("  precision   {precision}")));
    for (role, input) in &components.inputs {
        match input {
            InputDigest::One(digest) => lines.push(format!("  input       {role} = {}", digest.short())),
            InputDigest::Many(many) => {
                lines.extend(many.iter().map(|(label, d)| format!("  input       {role}: {label} = {}", d.short())));
            }
        }
    }
    lines.extend(components.contents.iter().map(|(name, digest)| format!("  file        {name} = {}", digest.short())));
    lines
}
