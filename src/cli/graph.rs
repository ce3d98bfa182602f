//! `vadpipe graph`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::project::Project;
use super::ui::Ui;
use super::{Global, PipelineArgs};
use crate::error::Result;

/// Arguments of `graph`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe graph pipelines/full.toml
  vadpipe graph pipelines/full.toml --dot | dot -Tsvg > graph.svg")]
pub(super) struct GraphArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// As input for graphviz
    #[arg(long, conflicts_with = "mermaid")]
    dot: bool,
    /// As a Mermaid flowchart
    #[arg(long)]
    mermaid: bool,
}

/// Prints the graph.
pub(super) fn graph(args: &GraphArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let points: Vec<usize> = project.graph.order().iter().copied().filter(|p| project.wanted.contains(p)).collect();
    if ui.json {
        let node = |p: &usize| {
            let inputs = project.graph.inputs(*p);
            let inputs: Vec<_> = inputs.iter().map(|i| project.name(*i)).collect();
            json!({ "name": project.name(*p), "kind": project.spec.points[*p].parsed.kind.name(), "inputs": inputs })
        };
        return ui.object(&json!({ "stages": points.iter().map(node).collect::<Vec<_>>() }));
    }
    ui.out(&match (args.dot, args.mermaid) {
        (true, _) => dot(&project, &points),
        (_, true) => mermaid(&project, &points),
        _ => text(&project, &points),
    });
    Ok(())
}

fn text(project: &Project, points: &[usize]) -> String {
    let line = |p: &usize| {
        let inputs = project.graph.inputs(*p);
        let inputs: Vec<_> = inputs.iter().map(|i| project.name(*i)).collect();
        let from = if inputs.is_empty() { String::new() } else { format!("  ← {}", inputs.join(", ")) };
        format!("{} ({}){from}", project.name(*p), project.spec.points[*p].parsed.kind.name())
    };
    points.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn dot(project: &Project, points: &[usize]) -> String {
    // Rust's escapes for a string in quotes are graphviz's, too.
    let mut out = String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for p in points {
        let kind = project.spec.points[*p].parsed.kind.name();
        let _ = writeln!(out, "  n{p} [label={:?}];", format!("{}\n{kind}", project.name(*p)));
        for input in project.graph.inputs(*p) {
            let _ = writeln!(out, "  n{input} -> n{p};");
        }
    }
    out.push('}');
    out
}

fn mermaid(project: &Project, points: &[usize]) -> String {
    let mut out = String::from("flowchart LR\n");
    for p in points {
        let label = project.name(*p).replace('"', "#quot;");
        let _ = writeln!(out, "  n{p}[\"{label}\"]");
        for input in project.graph.inputs(*p) {
            let _ = writeln!(out, "  n{input} --> n{p}");
        }
    }
    out
}
