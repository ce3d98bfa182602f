//! `log FILE STAGE`: the newest log of each point of a pipeline, or the run to follow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::canonicalize;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::files::{cached_result, log_path, stages};
use super::filters::{Filters, word};
use super::follow::{check_text, failure, follow, print_new};
use crate::cli::args::Global;
use crate::cli::project::{open_cache, read_pipeline};
use crate::cli::ui::{DIM, Ui, paint};
use crate::diagnostic::nearest;
use crate::error::{Error, Result};
use crate::file::tail::Tail;
use crate::status::StageStatus;
use crate::store::{RunRecord, StageRun, Store};

/// How long `log -f` waits for a run to start.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it looks for one.
const TICK: Duration = Duration::from_millis(100);
/// The bytes of records that it reads each time.
const RECENT: u64 = 1 << 20;

/// Whether the argument of `log` is a pipeline file, and not a run.
pub(super) fn is_file(argument: &str) -> bool {
    argument.ends_with(".toml") || argument.contains('/')
}

/// The error if a run has no stage that matches.
pub(super) fn no_stage(run: &RunRecord, pattern: &str) -> Error {
    let near = nearest(pattern, run.stages.iter().map(|s| s.name.as_str()));
    let hint = near.map_or_else(|| "`vadpipe log RUN` lists its stages".to_owned(), |n| format!("did you mean `{n}`?"));
    Error::bad_input(format!("run {} has no stage `{pattern}`", run.id)).hint(hint)
}

/// The runs of a pipeline.
pub(super) struct PipelineRuns {
    store: Arc<Store>,
    pipeline: String,
    /// The path of its file.
    file: PathBuf,
    /// Newest last.
    runs: Vec<RunRecord>,
}

/// The log of a point. If the point logged nothing, the file is empty or there is none.
struct PointLog {
    /// The run that wrote it.
    run: String,
    path: PathBuf,
}

impl PipelineRuns {
    /// Reads the records of the runs of a pipeline. Records and logs are files, so a run that is going on, which holds
    /// the cache, does not delay this.
    ///
    /// # Errors
    /// If the pipeline is not valid, or the cache can't be read.
    pub(super) fn read(file: &Path, global: &Global, ui: &Ui) -> Result<Self> {
        let pipeline = read_pipeline(file, &[], &global.kinds.0)?.pipeline.name;
        let store = open_cache(global, Some(file), ui)?;
        let mut runs = Self { store, pipeline, file: file.to_owned(), runs: Vec::new() };
        runs.reload()?;
        Ok(runs)
    }

    /// Runs of another file with a pipeline of the same name count only if this file has none.
    fn reload(&mut self) -> Result<()> {
        let mut runs = self.store.runs()?;
        runs.retain(|run| run.pipeline == self.pipeline);
        if runs.iter().any(|run| is_of_path(&run.file, &self.file)) {
            runs.retain(|run| is_of_path(&run.file, &self.file));
        }
        self.runs = runs;
        Ok(())
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// # Errors
    /// If the pipeline has not run yet.
    pub(super) fn newest(&self) -> Result<&RunRecord> {
        self.runs.last().ok_or_else(|| {
            let hint = format!("`vadpipe run {}` runs it", self.file.display());
            Error::bad_input(format!("the pipeline `{}` has not run yet", self.pipeline)).hint(hint)
        })
    }

    /// Prints the newest logs of the stages that match, each after the run that wrote it.
    ///
    /// # Errors
    /// If no stage matches, or a log can't be read.
    pub(super) fn print(&self, patterns: &[&str], filters: &Filters, ui: &Ui) -> Result<()> {
        check_text(ui)?;
        self.print_newest(patterns, filters, ui).map(|_| ())
    }

    /// Follows the logs of the stages that match in the run that is going on. If there is none, waits some seconds for
    /// one, and prints the newest logs if none starts.
    ///
    /// # Errors
    /// If no stage matches, or a log can't be read. If the command line names stages: if one of them failed.
    pub(super) fn follow(mut self, patterns: &[&str], filters: &Filters, ui: &Ui) -> Result<()> {
        check_text(ui)?;
        if self.running(filters).is_none() {
            let what = match patterns {
                [] => format!("`{}` is", self.pipeline),
                [one] => format!("`{one}` is"),
                _ => "these stages are".to_owned(),
            };
            let seconds = PATIENCE.as_secs();
            ui.note(&paint(DIM, &format!("{what} not running; waiting {seconds} seconds for a run to start")));
            self.wait(filters)?;
        }
        if let Some(run) = self.running(filters) {
            return follow(&self.store, run, filters, ui);
        }
        let run = self.print_newest(patterns, filters, ui)?;
        ui.note(&paint(DIM, &format!("run {} has ended: {}", run.id, word(run))));
        if patterns.is_empty() {
            return Ok(());
        }
        let has_result = [StageStatus::Executed, StageStatus::Cached, StageStatus::Pruned];
        let stages = stages(&self.store, run).into_iter().filter(|stage| filters.takes_stage(stage));
        let failed = stages.filter(|stage| !has_result.contains(&stage.outcome));
        failure(&failed.map(|stage| (stage.name, stage.outcome)).collect::<Vec<_>>(), &run.id)
    }

    /// The newest run that is going on and has a stage that matches.
    fn running(&self, filters: &Filters) -> Option<&RunRecord> {
        self.runs.iter().rev().find(|run| run.is_running() && has_match(run, filters))
    }

    /// Waits for a new run that has a stage that matches. It may have ended already: a run in which everything is
    /// cached is recorded when it ends.
    fn wait(&mut self, filters: &Filters) -> Result<()> {
        let begun = Instant::now();
        // Ids sort by time.
        let is_new = |run: &RunRecord| {
            self.runs.last().is_none_or(|last| run.id > last.id)
                && run.pipeline == self.pipeline
                && is_of_path(&run.file, &self.file)
                && has_match(run, filters)
        };
        while begun.elapsed() < PATIENCE && !self.store.newest_runs(RECENT)?.iter().any(is_new) {
            sleep(TICK);
        }
        self.reload()
    }

    /// Prints the newest logs of the stages that match. Returns the newest run that has such stages.
    fn print_newest(&self, patterns: &[&str], filters: &Filters, ui: &Ui) -> Result<&RunRecord> {
        let newest = self.newest()?;
        let Some(run) = self.runs.iter().rev().find(|run| has_match(run, filters)) else {
            return Err(no_stage(newest, patterns.first().unwrap_or(&"")));
        };
        let stages = run.stages.iter().filter(|stage| filters.takes_stage(stage));
        let points: Vec<&str> = stages.map(|stage| stage.name.as_str()).collect();
        let logs = self.newest_logs(&points)?;
        for point in &points {
            let Some(PointLog { run, path }) = logs.get(*point) else {
                ui.note(&paint(DIM, &format!("`{point}` has no log")));
                continue;
            };
            // Programs have an empty log, and built-in stages none.
            if !path.metadata().is_ok_and(|file| file.len() > 0) {
                ui.note(&paint(DIM, &format!("`{point}` logged nothing in run {run}")));
                continue;
            }
            ui.note(&paint(DIM, &format!("log of `{point}` in run {run}:")));
            print_new(&mut Tail::new(path.clone()), point, points.len() > 1, true, ui)?;
        }
        Ok(run)
    }

    /// The newest logs of these points. A point that was skipped in a run has that of an earlier run.
    fn newest_logs(&self, points: &[&str]) -> Result<BTreeMap<String, PointLog>> {
        let (mut logs, mut left) = (BTreeMap::new(), points.iter().copied().collect::<BTreeSet<_>>());
        for run in self.runs.iter().rev() {
            if left.is_empty() {
                break;
            }
            for stage in stages(&self.store, run).iter().filter(|stage| left.contains(stage.name.as_str())) {
                if let Some(log) = self.log_of(run, stage)? {
                    logs.insert(stage.name.clone(), log);
                }
            }
            left.retain(|point| !logs.contains_key(*point));
        }
        Ok(logs)
    }

    /// The log of a stage that ran in this run; if it was cached, that of the run that made its result.
    fn log_of(&self, run: &RunRecord, stage: &StageRun) -> Result<Option<PointLog>> {
        let log_in = |run: &str, point: &str| PointLog { run: run.to_owned(), path: log_path(&self.store, run, point) };
        let own = log_in(&run.id, &stage.name);
        Ok(match stage.outcome {
            _ if own.path.exists() => Some(own),
            StageStatus::Pending | StageStatus::Skipped | StageStatus::Pruned => None,
            StageStatus::Cached => {
                cached_result(&self.store, stage)?.map(|record| log_in(&record.provenance.run, &record.point))
            }
            _ => Some(own),
        })
    }
}

fn has_match(run: &RunRecord, filters: &Filters) -> bool {
    run.stages.iter().any(|stage| filters.takes_stage(stage))
}

/// Whether the path in the record of a run may be that of the file. It may be relative to another folder.
fn is_of_path(given: &str, file: &Path) -> bool {
    let given = Path::new(given);
    if given.is_absolute() {
        return full(given) == full(file);
    }
    let names: PathBuf = given.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    full(file).ends_with(names)
}

/// The path of a file without links to folders and without `..`.
fn full(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    file.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_a_run_has_the_path_of_its_file_from_any_folder() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/p.toml");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let is_of_file = |given: &str| is_of_path(given, &dir.path().join("sub/../sub/p.toml"));
        for given in ["p.toml", "./p.toml", "../p.toml", "../sub/p.toml", "sub/p.toml", file.to_str().unwrap()] {
            assert!(is_of_file(given), "{given}");
        }
        for given in ["q.toml", "other/p.toml", "/sub/p.toml", dir.path().join("p.toml").to_str().unwrap()] {
            assert!(!is_of_file(given), "{given}");
        }
        assert!(is_of_path("p.toml", Path::new("p.toml")));
    }

    #[test]
    fn failure_names_a_stage_and_how_it_ended() {
        use StageStatus::{Failed, Interrupted, Pending, Skipped};
        let of = |stages: &[(&str, StageStatus)]| {
            let stages: Vec<_> = stages.iter().map(|(name, status)| ((*name).to_owned(), *status)).collect();
            failure(&stages, "R").unwrap_err().message
        };
        let messages = [
            of(&[("a", Failed)]),
            of(&[("a", Skipped), ("b", Failed), ("c", Failed)]),
            of(&[("a", Skipped)]),
            of(&[("a", Skipped), ("b", Skipped), ("c", Skipped)]),
            of(&[("a", Interrupted), ("b", Skipped)]),
            of(&[("a", Pending)]),
        ];
        insta::assert_snapshot!(messages.join("\n"), @r"
        `a` failed in run R
        `b` and 1 more failed in run R
        `a` was skipped in run R
        `a` and 2 more were skipped in run R
        `a` was interrupted in run R
        `a` did not finish in run R
        ");
    }
}
