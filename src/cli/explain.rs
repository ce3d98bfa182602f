//! `vadpipe explain`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::project::Project;
use super::ui::Ui;
use super::{Global, PipelineArgs};
use crate::error::Result;
use crate::key::{Components, InputDigest};
use crate::plan::{Decision, State};

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
                "components": d.components, "epochs": d.epochs,
            })
        });
        return ui.object(&json!({ "stages": explained.collect::<Vec<_>>() }));
    }
    let texts: Vec<_> = decisions.map(|d| text(&project, d)).collect();
    ui.out(&texts.join("\n\n"));
    Ok(())
}

fn text(project: &Project, decision: &Decision) -> String {
    let state = match decision.state {
        State::Hit => "hit",
        State::Miss => "miss",
        State::Maybe => "maybe",
    };
    let mut lines = vec![format!("{}: {state}", project.name(decision.point))];
    if let Some(reason) = &decision.reason {
        lines.extend(reason.causes.iter().map(|cause| format!("  because     {cause}")));
    }
    if let Some(epochs) = decision.epochs {
        lines.push(format!("  cached      {} of {} epochs", epochs.cached, epochs.total));
    }
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
