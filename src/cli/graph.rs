//! `vadpipe graph`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::args::{Global, PipelineArgs};
use super::project::Project;
use super::ui::Ui;
use crate::error::Result;
use crate::id::PointId;

/// Arguments of `graph`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe graph full.toml
  vadpipe graph full.toml --dot | dot -Tsvg > graph.svg
  vadpipe graph full.toml report --mermaid   for a `mermaid` block in Markdown")]
pub(super) struct GraphArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Print input for Graphviz
    #[arg(long, conflicts_with = "mermaid")]
    dot: bool,
    /// Print a Mermaid flowchart
    #[arg(long)]
    mermaid: bool,
}

/// Prints the graph.
pub(super) fn graph(args: &GraphArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let points: Vec<PointId> = project.graph.order().iter().copied().filter(|p| project.wanted.contains(p)).collect();
    if ui.json {
        let node = |p: &PointId| {
            let inputs = project.graph.inputs(*p);
            let inputs: Vec<_> = inputs.iter().map(|i| project.name(*i)).collect();
            json!({ "name": project.name(*p), "kind": project.spec.point(*p).parsed.kind.name(), "inputs": inputs })
        };
        return ui.object(&json!({ "stages": points.iter().map(node).collect::<Vec<_>>() }));
    }
    match (args.dot, args.mermaid) {
        (true, _) => ui.document(&dot(&project, &points)),
        (_, true) => ui.document(&mermaid(&project, &points)),
        _ => ui.text(&text(&project, &points)),
    }
    Ok(())
}

fn text(project: &Project, points: &[PointId]) -> String {
    let line = |p: &PointId| {
        let inputs = project.graph.inputs(*p);
        let inputs: Vec<_> = inputs.iter().map(|i| project.name(*i)).collect();
        let from = if inputs.is_empty() { String::new() } else { format!("  ← {}", inputs.join(", ")) };
        format!("{} ({}){from}", project.name(*p), project.spec.point(*p).parsed.kind.name())
    };
    points.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn dot(project: &Project, points: &[PointId]) -> String {
    let mut out = String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for p in points {
        let kind = project.spec.point(*p).parsed.kind.name();
        let (name, kind) = (dot_text(project.name(*p)), dot_text(kind));
        let _ = writeln!(out, "  n{p} [label=\"{name}\\n{kind}\"];");
        for input in project.graph.inputs(*p) {
            let _ = writeln!(out, "  n{input} -> n{p};");
        }
    }
    out.push('}');
    out
}

/// Text in a quoted Graphviz label, in which a backslash starts an escape such as `\N`.
fn dot_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn mermaid(project: &Project, points: &[PointId]) -> String {
    let mut out = String::from("flowchart LR\n");
    for p in points {
        let kind = project.spec.point(*p).parsed.kind.name();
        let _ = writeln!(out, "  n{p}[\"{}<br/>{}\"]", mermaid_text(project.name(*p)), mermaid_text(kind));
        for input in project.graph.inputs(*p) {
            let _ = writeln!(out, "  n{input} --> n{p}");
        }
    }
    out
}

/// Text in a quoted Mermaid label. Mermaid has no backslash escapes, but HTML entities that start with `#`. Labels are
/// read as HTML and Markdown, so every character with a meaning there is written as an entity.
fn mermaid_text(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || " @=,.-+:()".contains(c) => out.push(c),
            c => {
                let _ = write!(out, "#{};", u32::from(c));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_with_a_meaning_in_labels_are_escaped() {
        assert_eq!(dot_text(r#"a@b="\N""#), r#"a@b=\"\\N\""#);
        assert_eq!(mermaid_text("vad_2@lr=0.001,x=it's `1` #é"), "vad#95;2@lr=0.001,x=it#39;s #96;1#96; #35;é");
    }
}
