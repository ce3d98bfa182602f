//! `vadpipe gc`.

use clap::Args;
use serde_json::json;

use super::Global;
use super::project::open_store;
use super::ui::{Ui, bytes};
use crate::error::Result;
use crate::store::GcPolicy;

/// Arguments of `gc`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe gc -n                     what would be removed
  vadpipe gc --keep-runs 3          keep what the last three runs of each pipeline need
  vadpipe gc --keep 20261122-10     and what this run needs")]
pub(super) struct GcArgs {
    /// Keep the newest so many runs of each pipeline and what they need (one at least)
    #[arg(long, default_value_t = 10, value_name = "N")]
    keep_runs: usize,
    /// Keep what this run needs, too (its id; may be given several times)
    #[arg(long, value_name = "RUN")]
    keep: Vec<String>,
    /// Only say what would be removed
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
    ui.out(&format!(
        "{would} {about}{} of {}: {} results, {} and {} runs removed; {} results and {} kept",
        bytes(report.freed_bytes()),
        bytes(report.bytes_before),
        report.results_removed,
        states(report.states_removed, report.states_bytes_removed),
        report.runs_removed,
        report.results_kept,
        states(report.states_kept, report.states_bytes_kept)
    ));
    Ok(())
}

/// "3 states (12.0 MB)".
fn states(count: usize, size: u64) -> String {
    format!("{count} state{} ({})", if count == 1 { "" } else { "s" }, bytes(size))
}
