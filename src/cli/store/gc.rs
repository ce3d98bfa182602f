//! `vadpipe store gc`.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::shared::{StoreArgs, print_warnings};
use crate::cli::ui::{Ui, bytes, count};
use crate::error::{Error, Result};
use crate::shared::SharedGcPolicy;

/// Arguments of `store gc`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe store gc -n              show what would be removed
  vadpipe store gc --keep-runs 50  keep more runs of each pipeline

Safe beside machines that write, if their clocks differ by less than three days.")]
pub(super) struct GcArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Keep what the newest N runs of each pipeline need
    #[arg(long, default_value_t = 20, value_name = "N")]
    keep_runs: usize,
    /// Keep what was written within this time
    #[arg(long, default_value = "7d", value_name = "TIME")]
    grace: String,
    /// Collect although machines that write at this moment may lose what they push, or although another collection
    /// seems to be under way
    #[arg(long)]
    force: bool,
    /// Only show what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// A time such as `7d`. A day has 24 hours.
fn time(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    Duration::try_from(span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?).ok()
}

/// Removes what no recent run needs.
pub(super) fn gc(args: &GcArgs, ui: &Ui) -> Result<()> {
    let grace = time(&args.grace).ok_or_else(|| {
        Error::bad_input(format!("`{}` is not a time", args.grace)).hint("a time is `7d`, `36h` or `90m`")
    })?;
    let policy = SharedGcPolicy { keep_runs: args.keep_runs, grace, dry_run: args.dry_run, force: args.force };
    if !policy.is_safe_beside_writers() && !args.force {
        let message = "with a --grace below 7 days, machines that write at this moment may lose what they push";
        return Err(Error::bad_input(message).hint("stop all of them and give --force, or give a longer time"));
    }
    let shared = args.store.required(if args.dry_run { None } else { Some(true) })?;
    let report = shared.gc(&policy)?;
    print_warnings(&shared, ui);
    if ui.json {
        return ui.object(&json!({
            "dry_run": args.dry_run, "records_kept": report.records_kept, "records_removed": report.records_removed,
            "blobs_kept": report.blobs_kept, "blobs_removed": report.blobs_removed,
            "bytes_kept": report.bytes_kept, "bytes_removed": report.bytes_removed,
        }));
    }
    ui.text(&format!(
        "{} {}: {} and {} removed; {} and {} kept ({})",
        if args.dry_run { "would free" } else { "freed" },
        bytes(report.bytes_removed),
        count(report.records_removed, "record"),
        count(report.blobs_removed, "blob"),
        count(report.records_kept, "record"),
        count(report.blobs_kept, "blob"),
        bytes(report.bytes_kept),
    ));
    Ok(())
}
