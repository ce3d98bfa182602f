//! `vadpipe cancel`.

use std::fs;

use clap::Args;
use serde_json::json;

use super::args::Global;
use super::cache_dir::cache_dir;
use super::run::{ClusterRun, job_name};
use super::slurm::{Client, Site};
use super::ui::Ui;
use crate::error::{Error, Result};

/// Arguments of `cancel`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe cancel                            end the run of this cache
  vadpipe cancel 20261126-183000123-1a2b3c  end this run

Jobs that wait are removed. Workers that run save the states of their trainings, push them and leave. The same `vadpipe \
run` command goes on from there.")]
pub(super) struct CancelArgs {
    /// The run; it may be left out if there is only one
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// Ends the workers of runs on a cluster.
pub(super) fn cancel(args: &CancelArgs, global: &Global, ui: &Ui) -> Result<()> {
    let cache = cache_dir(global.cache.as_deref(), None);
    let notes = ClusterRun::all(&cache);
    let mut runs: Vec<String> = notes.iter().map(|(_, note)| note.run.clone()).collect();
    runs.sort();
    let known = runs.join(", ");
    let found = match &args.run {
        Some(run) => runs.into_iter().find(|known| known == run),
        None if runs.len() > 1 => {
            return Err(Error::bad_input(format!("say which run: {known}")));
        }
        None => runs.pop(),
    };
    let Some(run) = found else {
        let what = args.run.as_ref().map_or("no run".to_owned(), |run| format!("no run {run}"));
        let hint = if known.is_empty() {
            "a run is on a cluster from `vadpipe run --on slurm` until its results are gathered".to_owned()
        } else {
            format!("on a cluster: {known}")
        };
        return Err(Error::bad_input(format!("{what} of the cache {} is on a cluster", cache.display())).hint(hint));
    };
    let site = Site::default();
    Client::new(&site).stop(&job_name(&run)).map_err(|why| Error::storage(format!("can't cancel run {run}: {why}")))?;
    // The next `vadpipe run` is a new run. A vadpipe that watches this one sees its workers leave.
    for (path, _) in notes.iter().filter(|(_, note)| note.run == run) {
        let _ = fs::remove_file(path);
    }
    if ui.json {
        return ui.object(&json!({ "run": run }));
    }
    ui.text(&format!("run {run}: jobs that wait are removed, workers save their states and leave"));
    Ok(())
}
