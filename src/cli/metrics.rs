//! `vadpipe metrics`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serializer as _;

use super::filter::{Cell, Filter, check_name};
use super::project::Project;
use super::ui::{Ui, figure, table};
use super::{Global, PipelineArgs};
use crate::error::{Error, Result};
use crate::spec::StageSpec;

/// Arguments of `metrics`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe metrics pipelines/full.toml
  vadpipe metrics pipelines/sweep.toml ad --sort loss           the best first
  vadpipe metrics pipelines/sweep.toml ad --sort -psnr          descending
  vadpipe metrics pipelines/sweep.toml --where 'lr<0.002 && loss<0.3' --where latent_dim=16
  vadpipe metrics pipelines/sweep.toml 'ad@*' --csv > ad.csv
  vadpipe metrics pipelines/sweep.toml 'ad@*' --json | jq

A condition compares an axis, a metric or `stage` with <, <=, >, >=, = or !=; several are joined by `&&` or by giving
`--where` again. Columns are the axes of the points, then the metrics. CSV has all digits, text and Markdown four.")]
pub(super) struct MetricsArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Sort by this metric or axis; with a `-` before it, descending. Points without it come last
    #[arg(long, value_name = "[-]METRIC", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Only points that fulfil this, such as 'lr<0.01 && loss<0.2' (may be given several times: all must hold)
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<String>,
    /// As a Markdown table
    #[arg(long, conflicts_with = "csv")]
    md: bool,
    /// As CSV
    #[arg(long)]
    csv: bool,
}

/// A point with its values.
struct Row {
    name: String,
    stage: String,
    axes: BTreeMap<String, Cell>,
    metrics: BTreeMap<String, f64>,
}

impl Row {
    fn get(&self, name: &str) -> Option<Cell> {
        let own = || (name == "stage").then(|| Cell::Text(self.stage.clone()));
        let metric = || self.metrics.get(name).map(|v| Cell::Number(*v));
        self.axes.get(name).cloned().or_else(metric).or_else(own)
    }
}

/// Prints the metrics of what is cached.
pub(super) fn metrics(args: &MetricsArgs, global: &Global, ui: &Ui) -> Result<()> {
    let filter = Filter::parse(&args.conditions)?;
    let project = Project::open(&args.pipeline, global, ui)?;
    let results = project.results(ui)?;
    let missing = project.targets.len() - results.len();
    if missing > 0 {
        ui.note(&format!("{missing} of {} stages are not in the cache", project.targets.len()));
    }
    let points = project.graph.order().iter().filter_map(|p| Some((&project.spec.points[*p], results.get(p)?)));
    let mut rows: Vec<Row> = points
        .map(|(point, record)| Row {
            name: point.name.clone(),
            stage: point.stage.clone(),
            axes: point.coordinates.iter().map(|(axis, value)| (axis.clone(), Cell::of(value))).collect(),
            metrics: record.manifest.metrics.clone(),
        })
        .collect();
    let axes = axes(&project);
    let metrics: BTreeSet<String> = rows.iter().flat_map(|r| r.metrics.keys().cloned()).collect();
    let mut known = vec!["stage"];
    known.extend(axes.iter().chain(&metrics).map(String::as_str));
    filter.check(&known)?;
    rows.retain(|row| filter.holds(|name| row.get(name)));
    if let Some(by) = &args.sort {
        sort(&mut rows, by, &known)?;
    }
    if ui.json {
        return print_json(&rows, ui);
    }
    rows.retain(|row| !row.metrics.is_empty());
    let used = |name: &&String| rows.iter().any(|row| row.get(name).is_some());
    let columns: Vec<String> = axes.iter().filter(used).chain(metrics.iter().filter(used)).cloned().collect();
    let text = match (args.csv, args.md) {
        (true, _) => csv(&rows, &columns)?,
        (_, true) => markdown(&rows, &columns),
        _ if rows.is_empty() => return Ok(()),
        _ => plain(&rows, &columns),
    };
    ui.out(&text);
    Ok(())
}

/// The axes of the targets, in the order of their declaration.
fn axes(project: &Project) -> Vec<String> {
    let mut axes: Vec<String> = Vec::new();
    let points = |s: &StageSpec| project.targets.range(s.points.clone()).next().is_some();
    for stage in project.spec.stages.iter().filter(|s| points(s)) {
        for axis in &stage.axes {
            if !axes.contains(axis) {
                axes.push(axis.clone());
            }
        }
    }
    axes
}

/// Sorts stably, so that equal ones stay in plan order.
fn sort(rows: &mut [Row], by: &str, known: &[&str]) -> Result<()> {
    let (name, down) = match by.strip_prefix('-') {
        Some(name) => (name, true),
        None => (by, false),
    };
    check_name(name, known)?;
    rows.sort_by(|a, b| match (a.get(name), b.get(name)) {
        (Some(a), Some(b)) if down => b.order(&a),
        (Some(a), Some(b)) => a.order(&b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    });
    Ok(())
}

/// `{"point": {"metric": number}}`, in the order of the rows.
fn print_json(rows: &[Row], ui: &Ui) -> Result<()> {
    let mut bytes = Vec::new();
    let mut json = serde_json::Serializer::new(&mut bytes);
    let written = (&mut json).collect_map(rows.iter().map(|row| (&row.name, &row.metrics)));
    written.map_err(|e| Error::storage("can't write JSON").caused_by(e))?;
    ui.out(&String::from_utf8_lossy(&bytes));
    Ok(())
}

fn header(columns: &[String]) -> Vec<&str> {
    std::iter::once("stage").chain(columns.iter().map(String::as_str)).collect()
}

/// The cells of a row, figures with the digits that matter or, `exact`, with all.
fn cells(row: &Row, columns: &[String], exact: bool) -> Vec<String> {
    let cell = |name: &String| match (row.axes.get(name), row.metrics.get(name)) {
        (Some(axis), _) => axis.to_string(),
        (None, Some(metric)) if exact => metric.to_string(),
        (None, Some(metric)) => figure(*metric),
        (None, None) => String::new(),
    };
    std::iter::once(row.stage.clone()).chain(columns.iter().map(cell)).collect()
}

fn plain(rows: &[Row], columns: &[String]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| cells(row, columns, false)).collect();
    table(&header(columns), &rows)
}

fn csv(rows: &[Row], columns: &[String]) -> Result<String> {
    let failed = |e: csv::Error| Error::storage("can't write CSV").caused_by(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header(columns)).map_err(failed)?;
    for row in rows {
        writer.write_record(cells(row, columns, true)).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.into_error().into()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn markdown(rows: &[Row], columns: &[String]) -> String {
    let line = |cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|c| c.replace('\\', "\\\\").replace('|', "\\|")).collect();
        format!("| {} |", cells.join(" | "))
    };
    let numeric = |name: &&String| rows.iter().all(|r| !matches!(r.get(name), Some(Cell::Text(_))));
    let rules = columns.iter().map(|c| if numeric(&c) { "---:" } else { "---" });
    let mut lines = vec![line(header(columns).into_iter().map(str::to_owned).collect())];
    lines.push(format!("| {} |", std::iter::once("---").chain(rules).collect::<Vec<_>>().join(" | ")));
    lines.extend(rows.iter().map(|row| line(cells(row, columns, false))));
    lines.join("\n")
}
