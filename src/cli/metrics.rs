//! `vadpipe metrics`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;

use super::args::{Global, PipelineArgs};
use super::filter::{Cell, Column, Filter, Names};
use super::project::Project;
use super::ui::{Ui, figure, table};
use crate::artifact::metrics::nonfinite_name;
use crate::error::{Error, Result};
use crate::spec::StageSpec;

/// Arguments of `metrics`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe metrics pipelines/full.toml
  vadpipe metrics pipelines/sweep.toml ad --sort loss           sort in ascending order
  vadpipe metrics pipelines/sweep.toml ad --sort -psnr          sort in descending order
  vadpipe metrics pipelines/sweep.toml --where 'lr<0.002 && loss<0.3' --where latent_dim=16
  vadpipe metrics pipelines/sweep.toml 'ad@*' --csv > ad.csv
  vadpipe metrics pipelines/sweep.toml 'ad@*' --json | jq

A condition compares an axis, a metric or `stage` with <, <=, >, >=, = or !=. Join conditions with && or with several \
--where. The columns are the axes of the points, then the metrics. CSV has all digits; text and Markdown have four decimal \
places. If an axis and a metric are both named `kl`, use `axis.kl` or `metric.kl` in --sort and --where; the column of the \
metric is `metric.kl`.")]
pub(super) struct MetricsArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Sort by this metric or axis; a leading `-` sorts in descending order. Points without a value or with NaN
    /// come last
    #[arg(long, value_name = "[-]METRIC", allow_hyphen_values = true)]
    sort: Option<String>,
    /// List only points that meet this condition, such as 'lr<0.01 && loss<0.2' (may be given several times)
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<String>,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "csv")]
    md: bool,
    /// Print CSV
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
    fn get(&self, column: &Column) -> Option<Cell> {
        match column {
            Column::Stage => Some(Cell::Text(self.stage.clone())),
            Column::Axis(name) => self.axes.get(name).cloned(),
            Column::Metric(name) => self.metrics.get(name).map(|v| Cell::Number(*v)),
        }
    }
}

/// Prints the metrics of cached results.
pub(super) fn metrics(args: &MetricsArgs, global: &Global, ui: &Ui) -> Result<()> {
    let filter = Filter::parse(&args.conditions)?;
    let project = Project::open(&args.pipeline, global, ui)?;
    let (results, pruned) = project.results_and_pruned(ui)?;
    let targets = project.targets.len();
    let missing = project.targets.iter().filter(|p| !results.contains_key(p) && !pruned.contains(p)).count();
    if missing > 0 {
        ui.note(&format!("{missing} of {targets} stages are not in the cache"));
    }
    let points = project.graph.order().iter().filter_map(|p| Some((project.spec.point(*p), results.get(p)?)));
    let mut rows: Vec<Row> = points
        .map(|(point, record)| Row {
            name: point.name.clone(),
            stage: point.stage.clone(),
            axes: point.coordinates.iter().map(|(axis, value)| (axis.clone(), Cell::of(value))).collect(),
            metrics: record.manifest.metrics.clone(),
        })
        .collect();
    let metrics: BTreeSet<String> = rows.iter().flat_map(|r| r.metrics.keys().cloned()).collect();
    let names = Names { axes: axes(&project), metrics };
    filter.retain(&mut rows, &names, Row::get)?;
    if let Some(by) = &args.sort {
        sort(&mut rows, by, &names)?;
    }
    if ui.json {
        return print_json(&rows, ui);
    }
    rows.retain(|row| !row.metrics.is_empty());
    let used = |column: &Column| rows.iter().any(|row| row.get(column).is_some());
    let columns: Vec<Column> = std::iter::once(Column::Stage).chain(names.columns()).collect();
    let columns: Vec<Column> = columns.into_iter().filter(|c| *c == Column::Stage || used(c)).collect();
    let header: Vec<String> = columns.iter().map(|column| names.label(column)).collect();
    let text = match (args.csv, args.md) {
        (true, _) => csv(&header, &rows, &columns)?,
        (_, true) => markdown(header, &rows, &columns),
        _ if rows.is_empty() => return Ok(()),
        _ => plain(&header, &rows, &columns),
    };
    if args.csv {
        ui.document(&text)
    } else {
        ui.out(&text)
    }
    Ok(())
}

/// The axes of the targets, in the order of declaration.
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

/// Sorts the rows. Equal rows stay in plan order.
fn sort(rows: &mut [Row], by: &str, names: &Names) -> Result<()> {
    let (name, down) = match by.strip_prefix('-') {
        Some(name) => (name, true),
        None => (by, false),
    };
    let column = names.find(name)?;
    let value = |row: &Row| row.get(&column).filter(|cell| !cell.is_nan());
    rows.sort_by(|a, b| match (value(a), value(b)) {
        (Some(a), Some(b)) if down => b.order(&a),
        (Some(a), Some(b)) => a.order(&b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    });
    Ok(())
}

/// `{"point": {"metric": number}}`, in the order of the rows. A number that is not finite is `null`, and
/// `"nonfinite": {"point": {"metric": "nan"}}` at the end names it.
fn print_json(rows: &[Row], ui: &Ui) -> Result<()> {
    let mut nonfinite: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for row in rows {
        let names = row.metrics.iter().filter_map(|(metric, value)| Some((metric.as_str(), nonfinite_name(*value)?)));
        let names: BTreeMap<&str, &str> = names.collect();
        if !names.is_empty() {
            nonfinite.insert(&row.name, names);
        }
    }
    let write = |bytes: &mut Vec<u8>| -> serde_json::Result<()> {
        let mut json = serde_json::Serializer::new(bytes);
        let mut map = json.serialize_map(None)?;
        for row in rows {
            map.serialize_entry(&row.name, &row.metrics)?;
        }
        if !nonfinite.is_empty() {
            map.serialize_entry("nonfinite", &nonfinite)?;
        }
        map.end()
    };
    let mut bytes = Vec::new();
    write(&mut bytes).map_err(|e| Error::storage("can't write JSON").caused_by(e))?;
    ui.exact(&String::from_utf8_lossy(&bytes));
    Ok(())
}

/// The cells of a row; metrics with all digits if `exact`.
fn cells(row: &Row, columns: &[Column], exact: bool) -> Vec<String> {
    let cell = |column: &Column| match (column, row.get(column)) {
        (Column::Metric(_), Some(Cell::Number(metric))) if !exact => figure(metric),
        (_, Some(cell)) => cell.to_string(),
        (_, None) => String::new(),
    };
    columns.iter().map(cell).collect()
}

fn plain(header: &[String], rows: &[Row], columns: &[Column]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| cells(row, columns, false)).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(&header, &rows)
}

fn csv(header: &[String], rows: &[Row], columns: &[Column]) -> Result<String> {
    let failed = |e: csv::Error| Error::storage("can't write CSV").caused_by(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).map_err(failed)?;
    for row in rows {
        writer.write_record(cells(row, columns, true)).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.into_error().into()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn markdown(header: Vec<String>, rows: &[Row], columns: &[Column]) -> String {
    let line = |cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|c| c.replace('\\', "\\\\").replace('|', "\\|")).collect();
        format!("| {} |", cells.join(" | "))
    };
    let numeric = |column: &Column| {
        *column != Column::Stage && rows.iter().all(|r| !matches!(r.get(column), Some(Cell::Text(_))))
    };
    let rules: Vec<_> = columns.iter().map(|c| if numeric(c) { "---:" } else { "---" }).collect();
    let mut lines = vec![line(header), format!("| {} |", rules.join(" | "))];
    lines.extend(rows.iter().map(|row| line(cells(row, columns, false))));
    lines.join("\n")
}
