//! `vadpipe gc`.

use clap::Args;
use serde_json::json;

use super::args::Global;
use super::project::open_store;
use super::ui::{Ui, bytes, count};
use crate::error::Result;
use crate::store::GcPolicy;

/// Arguments of `gc`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe gc -n                  show what would be removed
  vadpipe gc --keep-runs 3       keep what the newest 3 runs need
  vadpipe gc --keep 20261122-10  also keep the results of this run")]
pub(super) struct GcArgs {
    /// Keep the newest N runs of each pipeline and everything they need (at least 1)
    #[arg(long, default_value_t = 10, value_name = "N")]
    keep_runs: usize,
    /// Also keep the run with this id and everything it needs (may be given several times)
    #[arg(long, value_name = "RUN")]
    keep: Vec<String>,
    /// Only show what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Collects garbage.
pub(super) fn gc(args: &GcArgs, global: &Global, ui: &Ui) -> Result<()> {
    let store = open_store(global, ui)?;
    let named = args.keep.iter().map(|id| Ok(store.run(id)?.id)).collect::<Result<_>>()?;
    let policy = GcPolicy { keep_runs: args.keep_runs, named, dry_run: args.dry_run };
    let report = store.gc(&policy)?;
    for warning in store.warnings() {
        ui.warn(&warning);
    }
    if ui.json {
        return ui.object(&json!({
            "dry_run": args.dry_run, "bytes_before": report.bytes_before, "bytes_after": report.bytes_after,
            "freed_bytes": report.freed_bytes(), "results_kept": report.results_kept,
            "results_removed": report.results_removed, "states_kept": report.states_kept,
            "states_removed": report.states_removed, "states_bytes_kept": report.states_bytes_kept,
            "states_bytes_removed": report.states_bytes_removed, "runs_removed": report.runs_removed,
        }));
    }
    let (would, about) = if args.dry_run { ("would free", "about ") } else { ("freed", "") };
    ui.text(&format!(
        "{would} {about}{} of {}: {}, {} and {} removed; {} and {} kept",
        bytes(report.freed_bytes()),
        bytes(report.bytes_before),
        count(report.results_removed, "result"),
        states(report.states_removed, report.states_bytes_removed),
        count(report.runs_removed, "run"),
        count(report.results_kept, "result"),
        states(report.states_kept, report.states_bytes_kept)
    ));
    Ok(())
}

/// "3 states (12.40 MB)".
fn states(number: usize, size: u64) -> String {
    format!("{} ({})", count(number, "state"), bytes(size))
}
