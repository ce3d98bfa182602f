//! `vadpipe doctor`.

use clap::Args;
use serde_json::json;

use super::args::Global;
use super::project::open_store;
use super::ui::{Ui, bytes, count};
use crate::error::{Category, Error, Result};

/// Arguments of `doctor`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe doctor     verify everything and repair what can be repaired
  vadpipe doctor -n  only report problems")]
pub(super) struct DoctorArgs {
    /// Only report problems
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Verifies the cache.
pub(super) fn doctor(args: &DoctorArgs, global: &Global, ui: &Ui) -> Result<()> {
    let store = open_store(global, ui)?;
    let bar = ui.bar("verifying");
    let report = store.doctor(!args.dry_run, &mut |done, total| bar.show(done, total));
    drop(bar);
    let report = report?;
    for warning in store.warnings() {
        ui.warn(&warning);
    }
    if ui.json {
        ui.object(&json!({
            "healthy": report.is_healthy(), "results": report.results, "states": report.states, "blobs": report.blobs,
            "bytes": report.bytes, "problems": report.problems, "affected": report.affected,
            "repaired": report.repaired, "set_aside": report.set_aside,
            "results_restored": report.results_restored, "states_restored": report.states_restored,
        }))?;
    } else {
        let mut lines: Vec<_> = report.problems.iter().map(|p| format!("damaged: {p}")).collect();
        let then = if report.repaired { "will run again" } else { "affected" };
        lines.extend(report.affected.iter().map(|a| format!("{then}: {a}")));
        if report.results_restored + report.states_restored > 0 {
            let verb = if args.dry_run { "can be restored" } else { "were restored" };
            let (results, states) = (count(report.results_restored, "result"), count(report.states_restored, "state"));
            lines.push(format!("{results} and {states} {verb} from an index that was set aside"));
        }
        let restorable = args.dry_run && report.results_restored + report.states_restored > 0;
        let note = if restorable { "run `vadpipe doctor` before you delete it" } else { "you can delete it" };
        lines.extend(report.set_aside.iter().map(|p| format!("set aside earlier ({note}): {}", p.display())));
        lines.push(format!(
            "{} and {}, {} of {}: {}",
            count(report.results, "result"),
            count(report.states, "state"),
            count(report.blobs as usize, "blob"),
            bytes(report.bytes),
            if report.is_healthy() { "no problems".to_owned() } else { count(report.problems.len(), "problem") }
        ));
        ui.text(&lines.join("\n"));
    }
    if report.is_healthy() || report.repaired {
        return Ok(());
    }
    Err(Error::new(Category::Storage, "the cache is damaged").hint("`vadpipe doctor` without -n repairs what it can"))
}
