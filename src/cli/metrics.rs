//! `vadpipe metrics`.

mod groups;
mod row;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;

use self::groups::{Group, Grouping};
use self::row::Row;
use super::args::{Global, PipelineArgs};
use super::project::Project;
use super::results::{self, EarlierArgs, PointResult, Results};
use super::ui::{Ui, table};
use crate::artifact::metrics::nonfinite_name;
use crate::error::{Error, Result};
use crate::filter::{Cell, Column, Coordinate, Filter, Names, sort};
use crate::id::PointName;
use crate::plan::Cause;
use crate::spec::{Point, StageSpec};

/// Arguments of `metrics`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe metrics full.toml
  vadpipe metrics sweep.toml ad --sort loss    sort in ascending order
  vadpipe metrics sweep.toml ad --sort -psnr   sort in descending order
  vadpipe metrics sweep.toml --where 'lr<0.002 && loss<0.3'
  vadpipe metrics sweep.toml ad --over seed    mean ± deviation over an axis
  vadpipe metrics sweep.toml ad --group-by lr  the same over all other axes
  vadpipe metrics sweep.toml 'ad@*' --csv > ad.csv
  vadpipe metrics sweep.toml 'ad@*' --json | jq
  vadpipe metrics sweep.toml --run last~1      what the run before the last had

A condition compares an axis, a metric or `stage` with <, <=, >, >=, = or !=. Join conditions with && or with several \
--where. The columns are the axes of the points, then the metrics. In a pruned sweep, the last \
column has the value that stopped a point. CSV has all digits; text and Markdown have four decimal \
places. If an axis and a metric are both named `kl`, use `axis.kl` or `metric.kl` in --sort and --where; the column of the \
metric is `metric.kl`.")]
pub(super) struct MetricsArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    earlier: EarlierArgs,
    /// Sort by this metric or axis; a leading `-` sorts in descending order. Points without a value or with NaN
    /// come last
    #[arg(long, value_name = "[-]METRIC", allow_hyphen_values = true)]
    sort: Option<String>,
    /// List only points that meet this condition, such as 'lr<0.01 && loss<0.2' (may be given several times)
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<String>,
    /// Show the mean ± standard deviation of the points that agree on these axes
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    group_by: Vec<String>,
    /// Show the mean ± standard deviation of the points that differ only in these axes, such as a seed
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    over: Vec<String>,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "csv")]
    md: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
}

/// Prints the metrics of cached results.
pub(super) fn metrics(args: &MetricsArgs, global: &Global, ui: &Ui) -> Result<()> {
    let filter = Filter::parse(&args.conditions)?;
    let (project, results) = results::open(&args.pipeline, &args.earlier, global, ui)?;
    results.note_missing(ui);
    let mut rows = rows(&project, &results, global, args.csv || ui.json);
    let metrics: BTreeSet<String> = rows.iter().flat_map(|r| r.metrics.keys().chain(r.facts.keys()).cloned()).collect();
    let names = Names { axes: axes(&project, &rows), metrics };
    filter.retain(&mut rows, &names, Row::get)?;
    if let Some(grouping) = Grouping::new(&args.group_by, &args.over, &names)? {
        return print_groups(grouping.group(&rows), &names, args, ui);
    }
    sort(&mut rows, args.sort.as_deref(), &names, Row::get)?;
    if ui.json {
        return print_json(&rows, ui);
    }
    rows.retain(Row::is_shown);
    let columns = columns(&rows, &names, Row::has);
    let header = columns.iter().map(|column| names.label(column)).collect();
    let numeric = columns.iter().map(|column| is_numeric(&rows, column, Row::get)).collect();
    let line = |row: &Row| columns.iter().map(|column| row.text(column, args.csv)).collect();
    let mut table = Printed { header, numeric, rows: rows.iter().map(line).collect() };
    table.add("facts", rows.iter().map(Row::facts));
    table.add("pruned", rows.iter().map(|row| row.pruned(args.csv)));
    table.print(args, ui)
}

/// The points with their values. If `is_exact`, no metric is a fact: programs that read CSV or JSON find all of them
/// among the metrics.
fn rows(project: &Project, results: &Results, global: &Global, is_exact: bool) -> Vec<Row> {
    let known: BTreeMap<&str, &Point> = project.spec.points.iter().map(|p| (p.name.as_str(), p)).collect();
    let row = |(name, result): &(String, PointResult)| {
        let (all, kind, pruned) = match result {
            PointResult::Stored(record) => (record.manifest.metrics.clone(), record.manifest.kind.as_str(), None),
            PointResult::Pruned(cause) => (BTreeMap::new(), "", Some(cause.clone())),
        };
        let facts = global.kinds.0.facts(kind);
        let (facts, metrics) = all.into_iter().partition(|(name, _)| !is_exact && facts.contains(&name.as_str()));
        Row {
            name: name.clone(),
            stage: PointName::parse(name).stage.to_owned(),
            axes: Coordinate::all(name, known.get(name.as_str()).map(|point| point.coordinates.as_slice())),
            metrics,
            facts,
            pruned,
        }
    };
    results.points.iter().map(row).collect()
}

/// The columns that have a value: `stage`, then the axes and the metrics.
fn columns<R>(rows: &[R], names: &Names, has: impl Fn(&R, &Column) -> bool) -> Vec<Column> {
    let used = |column: &Column| rows.iter().any(|row| has(row, column));
    let rest = names.columns().into_iter().filter(used);
    std::iter::once(Column::Stage).chain(rest).collect()
}

/// Whether a column has no text.
fn is_numeric<R>(rows: &[R], column: &Column, get: impl Fn(&R, &Column) -> Option<Cell>) -> bool {
    rows.iter().all(|row| !matches!(get(row, column), Some(Cell::Text(_))))
}

fn print_groups(mut groups: Vec<Group>, names: &Names, args: &MetricsArgs, ui: &Ui) -> Result<()> {
    sort(&mut groups, args.sort.as_deref(), names, Group::get)?;
    if ui.json {
        ui.exact(&serde_json::json!({ "groups": groups.iter().map(Group::json).collect::<Vec<_>>() }).to_string());
        return Ok(());
    }
    let columns = columns(&groups, names, |group, column| group.get(column).is_some());
    let (mut header, mut numeric) = (Vec::new(), Vec::new());
    let mut rows: Vec<Vec<String>> = vec![Vec::new(); groups.len()];
    let mut add = |title: String, is_number: bool, cell: &dyn Fn(&Group) -> String| {
        header.push(title);
        numeric.push(is_number);
        rows.iter_mut().zip(&groups).for_each(|(row, group)| row.push(cell(group)));
    };
    let text = |value: Option<String>| value.unwrap_or_default();
    let axes = columns.iter().filter(|column| !matches!(column, Column::Metric(_)));
    for column in axes {
        let is_number = is_numeric(&groups, column, Group::get);
        add(names.label(column), is_number, &|group| group.text(column));
    }
    add("n".to_owned(), true, &|group| group.points.to_string());
    for column in &columns {
        let Column::Metric(name) = column else { continue };
        let label = names.label(column);
        if !args.csv {
            add(label, true, &|group| group.cell(name));
            continue;
        }
        add(label.clone(), true, &|group| text(group.metrics.get(name).map(|s| s.mean.to_string())));
        add(format!("{label}.std"), true, &|group| {
            text(group.metrics.get(name).and_then(|s| s.deviation).map(|deviation| deviation.to_string()))
        });
    }
    Printed { header, numeric, rows }.print(args, ui)
}

/// A table as text.
struct Printed {
    header: Vec<String>,
    /// Whether each column has numbers only.
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Printed {
    /// Adds a column of text, unless all of its cells are empty.
    fn add(&mut self, title: &str, cells: impl Iterator<Item = String>) {
        let cells: Vec<String> = cells.collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            self.header.push(title.to_owned());
            self.numeric.push(false);
            self.rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell));
        }
    }

    fn print(&self, args: &MetricsArgs, ui: &Ui) -> Result<()> {
        match (args.csv, args.md) {
            (true, _) => ui.document(&self.csv()?),
            (_, true) => ui.out(&self.markdown()),
            _ if self.rows.is_empty() => {}
            _ => {
                let header: Vec<&str> = self.header.iter().map(String::as_str).collect();
                ui.out(&table(&header, &self.rows, ui.width()));
            }
        }
        Ok(())
    }

    fn csv(&self) -> Result<String> {
        let failed = |e: csv::Error| Error::storage("can't write CSV").caused_by(e);
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in std::iter::once(&self.header).chain(&self.rows) {
            writer.write_record(row).map_err(failed)?;
        }
        let bytes = writer.into_inner().map_err(|e| failed(e.into_error().into()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn markdown(&self) -> String {
        let line = |cells: &Vec<String>| {
            let cells: Vec<_> = cells.iter().map(|c| c.replace('\\', "\\\\").replace('|', "\\|")).collect();
            format!("| {} |", cells.join(" | "))
        };
        let rules: Vec<_> = self.numeric.iter().map(|numeric| if *numeric { "---:" } else { "---" }).collect();
        let head = [line(&self.header), format!("| {} |", rules.join(" | "))];
        head.into_iter().chain(self.rows.iter().map(line)).collect::<Vec<_>>().join("\n")
    }
}

/// The axes of the targets, in the order of declaration, and those of rows that are no longer in the pipeline.
fn axes(project: &Project, rows: &[Row]) -> Vec<String> {
    let mut axes: Vec<String> = Vec::new();
    let points = |s: &StageSpec| project.targets.range(s.points.clone()).next().is_some();
    let declared = project.spec.stages.iter().filter(|s| points(s)).flat_map(|stage| &stage.axes);
    for axis in declared.chain(rows.iter().flat_map(|row| row.axes.keys())) {
        if !axes.contains(axis) {
            axes.push(axis.clone());
        }
    }
    axes
}

/// `{"point": {"metric": number}}`, in the order of the rows. A number that is not finite is `null`, and
/// `"nonfinite": {"point": {"metric": "nan"}}` at the end names it. `"pruned"` has the reason for each pruned point.
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
        for row in rows.iter().filter(|row| row.pruned.is_none()) {
            map.serialize_entry(&row.name, &row.metrics)?;
        }
        let pruned = rows.iter().filter_map(|row| Some((row.name.as_str(), row.pruned.as_ref()?)));
        let pruned: BTreeMap<&str, &Option<Cause>> = pruned.collect();
        if !pruned.is_empty() {
            map.serialize_entry("pruned", &pruned)?;
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
