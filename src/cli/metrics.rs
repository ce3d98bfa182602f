//! `vadpipe metrics`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::project::Project;
use super::ui::{Ui, figure, table};
use super::{Global, PipelineArgs};
use crate::error::Result;

/// Arguments of `metrics`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe metrics pipelines/full.toml
  vadpipe metrics pipelines/sweep.toml 'ad@*' --json | jq")]
pub(super) struct MetricsArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Prints the metrics of what is cached.
pub(super) fn metrics(args: &MetricsArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let results = project.results(ui)?;
    if ui.json {
        let all: BTreeMap<_, _> = results.iter().map(|(p, r)| (project.name(*p), &r.manifest.metrics)).collect();
        return ui.object(&all);
    }
    let missing = project.targets.len() - results.len();
    if missing > 0 {
        ui.note(&format!("{missing} of {} stages are not in the cache", project.targets.len()));
    }
    let order: Vec<_> = project.graph.order().iter().filter_map(|p| Some((*p, results.get(p)?))).collect();
    let order: Vec<_> = order.into_iter().filter(|(_, r)| !r.manifest.metrics.is_empty()).collect();
    let names: BTreeSet<&str> = order.iter().flat_map(|(_, r)| r.manifest.metrics.keys().map(String::as_str)).collect();
    let mut header = vec!["stage"];
    header.extend(&names);
    let rows = order.iter().map(|(point, record)| {
        let cell = |n: &&str| record.manifest.metrics.get(*n).map_or_else(String::new, |v| figure(*v));
        let cells = std::iter::once(project.name(*point).to_owned()).chain(names.iter().map(cell));
        cells.collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        ui.out(&table(&header, &rows));
    }
    Ok(())
}
