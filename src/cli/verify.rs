//! `vadpipe verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::project::{Project, data_dirs};
use super::run::start_threads;
use super::ui::{GREEN, RED, Ui, paint};
use super::{Global, PipelineArgs};
use crate::error::{Category, Error, Result};
use crate::exec::{Verification, verify as verify_points};
use crate::stage::Cancel;

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = "Example:
  vadpipe verify pipelines/quickstart.toml ad

Each target that is cached runs again, from its cached inputs, without the cache; then the bytes are compared.")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Threads of a training [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// A folder to look for data sets in, before that in VADPIPE_DATA_DIR and the user's cache folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs stages again and compares.
pub(super) fn verify(args: &VerifyArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open_to_run(&args.pipeline, global, ui)?;
    let results = project.all_results(ui)?;
    let threads = start_threads(args.threads)?;
    let watch = ui.watch_errors();
    let cancel = Cancel::default();
    super::run::stop_on_signals(&cancel, &watch)?;
    let points: Vec<usize> = results.iter().map(|(point, _)| *point).collect();
    let dirs = data_dirs(args.data_dir.as_ref());
    let planner = project.planner(&NOTHING);
    let found = verify_points(&planner, &project.store, &project.compute, &points, &dirs, threads, &cancel, &*watch)?;
    let differing = found.iter().filter(|v| v.difference.is_some()).count();
    if ui.json {
        ui.object(&json!({ "stages": found.iter().map(object).collect::<Vec<_>>() }))?;
    } else {
        ui.out(&found.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
    if differing > 0 {
        let message = format!("{differing} of {} stages came out differently", found.len());
        return Err(Error::new(Category::Differs, message));
    }
    Ok(())
}

static NOTHING: std::collections::BTreeSet<usize> = std::collections::BTreeSet::new();

fn object(verification: &Verification) -> serde_json::Value {
    json!({ "name": verification.name, "same": verification.difference.is_none(), "difference": verification.difference })
}

fn line(verification: &Verification) -> String {
    match &verification.difference {
        None => format!("{}    {}", paint(GREEN, "same"), verification.name),
        Some(difference) => format!("{} {}: {difference}", paint(RED, "differs"), verification.name),
    }
}
