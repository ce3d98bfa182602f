//! `vadpipe store doctor`.

use clap::Args;
use serde_json::json;

use crate::cli::shared::{StoreArgs, print_warnings};
use crate::cli::ui::{Ui, bytes, count};
use crate::error::{Category, Error, Result};

/// Arguments of `store doctor`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe store doctor -n       only report problems
  vadpipe store doctor --blobs  also verify every tensor and file

Removes damaged objects: the next push or run writes them again. Also tests with 32 creates at the same time whether the \
store is atomic. If it is not, machines may do the same work twice, but never get wrong bytes.")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Read every tensor and file, and verify its digest
    #[arg(long)]
    blobs: bool,
    /// Only report problems
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Checks the store.
pub(super) fn doctor(args: &DoctorArgs, ui: &Ui) -> Result<()> {
    let shared = args.store.required(if args.dry_run { None } else { Some(true) })?;
    let bar = ui.bar("verifying");
    let report = shared.doctor(!args.dry_run, args.blobs, &|done, all| bar.show(done, all));
    drop(bar);
    let report = report?;
    print_warnings(&shared, ui);
    let counts = report.counts;
    if ui.json {
        ui.object(&json!({
            "healthy": report.problems.is_empty(), "results": counts.results, "states": counts.states,
            "blobs": counts.blobs, "bytes": counts.bytes, "problems": report.problems, "removed": report.removed,
            "atomic": report.is_atomic,
        }))?;
    } else {
        let mut lines: Vec<String> = report.problems.iter().map(|problem| format!("damaged: {problem}")).collect();
        if report.removed > 0 {
            lines.push(format!("removed {}", count(report.removed, "damaged object")));
        }
        lines.extend(report.is_atomic.map(|atomic| match atomic {
            true => "creates are atomic".to_owned(),
            false => "creates are not atomic: machines may do the same work twice".to_owned(),
        }));
        let problems = match report.problems.len() {
            0 => "no problems".to_owned(),
            number => count(number, "problem"),
        };
        let (results, states) = (count(counts.results, "result"), count(counts.states, "state"));
        lines.push(format!(
            "{results}, {states}, {} of {}: {problems}",
            count(counts.blobs, "blob"),
            bytes(counts.bytes)
        ));
        ui.text(&lines.join("\n"));
    }
    if report.problems.is_empty() || !args.dry_run {
        return Ok(());
    }
    let error = Error::new(Category::Storage, format!("the store {} is damaged", shared.address()));
    Err(error.hint("`vadpipe store doctor` without -n removes what is damaged"))
}
