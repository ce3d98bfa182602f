//! The results that `show`, `metrics`, `export` and `diff` read: those of the pipeline as it is, those of an earlier
//! run (`--run`), or those before the newest (`--before`).
//!
//! Earlier results are found through the records of runs. Their points are matched by name, so points that are no
//! longer in the file can be read, too.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::args::{Global, PipelineArgs};
use super::log;
use super::project::{Project, not_cached};
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::graph::matching;
use crate::id::PointName;
use crate::key::Key;
use crate::plan::Cause;
use crate::status::StageStatus;
use crate::store::{ResultRecord, RunRecord, StageRun, Store};

/// Options that select earlier results.
#[derive(Args, Clone)]
pub(super) struct EarlierArgs {
    /// Read the results of an earlier run: its id, the beginning or the end of the id, `last`, or `last~1`
    #[arg(long, value_name = "RUN")]
    pub(super) run: Option<String>,
    /// Read the result of each point before its newest one
    #[arg(long, conflicts_with = "run")]
    pub(super) before: bool,
}

impl EarlierArgs {
    /// Whether earlier results are requested.
    pub(super) fn is_given(&self) -> bool {
        self.run.is_some() || self.before
    }
}

/// What is known about a point.
pub(super) enum PointResult {
    /// Its result.
    Stored(Box<ResultRecord>),
    /// It was pruned, for this reason if it is known.
    Pruned(Option<Cause>),
}

/// The results of the requested points.
pub(super) struct Results {
    /// By name, in plan order.
    pub(super) points: Vec<(String, PointResult)>,
    /// The other requested points.
    missing: Vec<String>,
    /// Which earlier results were requested, after "no". `None` for the pipeline as it is: then commands that need all
    /// results fail if one is missing.
    earlier: Option<String>,
}

/// Reads the pipeline, and the results that the options select.
///
/// # Errors
/// If the pipeline or a target is not valid, there is no such run, or the cache fails.
pub(super) fn open(args: &PipelineArgs, earlier: &EarlierArgs, global: &Global, ui: &Ui) -> Result<(Project, Results)> {
    let Some(id) = &earlier.run else {
        let project = Project::open(args, global, ui)?;
        if !earlier.before {
            let results = current(&project, ui)?;
            return Ok((project, results));
        }
        let results = before(&project)?;
        project.store.warnings().iter().for_each(|warning| ui.warn(warning));
        return Ok((project, results));
    };
    // The targets may name points that are no longer in the file.
    let project = Project::open(&PipelineArgs { targets: Vec::new(), ..args.clone() }, global, ui)?;
    let run = of_pipeline(&project, id)?;
    let results = of_run(&project.store, &run, &args.targets)?;
    project.store.warnings().iter().for_each(|warning| ui.warn(warning));
    Ok((project, results))
}

/// Finds a run by its id, the beginning or the end of the id, or `last`, `last~1`, `last~2`, …, which count from the
/// newest.
///
/// # Errors
/// If there is no such run, or more than one.
pub(super) fn find_run(store: &Store, id: &str) -> Result<RunRecord> {
    let Some(back) = id.strip_prefix("last~") else { return Ok(store.run(id)?) };
    nth_last(store.runs()?, id, back)
}

fn nth_last(runs: Vec<RunRecord>, id: &str, back: &str) -> Result<RunRecord> {
    let wrong = || Error::bad_input(format!("there is no run `{id}`")).hint("`vadpipe log` lists the runs");
    let back: usize = back.parse().map_err(|_| wrong())?;
    runs.into_iter().rev().nth(back).ok_or_else(wrong)
}

/// A run of this pipeline. `last` is the newest run of this pipeline.
fn of_pipeline(project: &Project, id: &str) -> Result<RunRecord> {
    let name = &project.spec.pipeline.name;
    let back = if id == "last" { Some("0") } else { id.strip_prefix("last~") };
    if let Some(back) = back {
        return nth_last(runs(project)?, id, back);
    }
    let run = project.store.run(id)?;
    if run.pipeline == *name {
        return Ok(run);
    }
    let message = format!("run {} is a run of the pipeline `{}`, not of `{name}`", run.id, run.pipeline);
    Err(Error::bad_input(message).hint("`vadpipe log` lists the runs with their pipelines"))
}

/// The runs of this pipeline, newest last.
fn runs(project: &Project) -> Result<Vec<RunRecord>> {
    let mut runs = project.store.runs()?;
    runs.retain(|run| run.pipeline == project.spec.pipeline.name);
    Ok(runs)
}

fn current(project: &Project, ui: &Ui) -> Result<Results> {
    let (mut results, mut pruned) = project.results_and_pruned(ui)?;
    let (mut points, mut missing) = (Vec::new(), Vec::new());
    for point in project.graph.order().iter().filter(|point| project.targets.contains(point)) {
        let name = project.name(*point).to_owned();
        let stored = results.remove(point).map(|record| PointResult::Stored(Box::new(record)));
        match stored.or_else(|| pruned.remove(point).map(Some).map(PointResult::Pruned)) {
            Some(result) => points.push((name, result)),
            None => missing.push(name),
        }
    }
    Ok(Results { points, missing, earlier: None })
}

fn of_run(store: &Store, run: &RunRecord, targets: &[String]) -> Result<Results> {
    let names = run.stages.iter().map(|stage| (stage.name.as_str(), PointName::parse(&stage.name).stage));
    let wanted = matching(names, targets).map_err(|error| {
        let error = Error::from(error);
        Error { message: format!("{} in run {}", error.message, run.id), ..error }
    })?;
    let stages: Vec<&StageRun> = wanted.into_iter().map(|position| &run.stages[position]).collect();
    let has_result = |stage: &StageRun| matches!(stage.outcome, StageStatus::Executed | StageStatus::Cached);
    let keys: Vec<Key> = stages.iter().filter(|stage| has_result(stage)).filter_map(|stage| stage.key).collect();
    let records = present(store, &keys)?;
    let mut causes = pruned(store, run);
    let (mut points, mut missing) = (Vec::new(), Vec::new());
    for stage in stages {
        // Several points may have the same result.
        let record = stage.key.filter(|_| has_result(stage)).and_then(|key| records.get(&key).cloned());
        let stored = record.map(|record| PointResult::Stored(Box::new(record)));
        let is_pruned = stage.outcome == StageStatus::Pruned;
        match stored.or_else(|| is_pruned.then(|| PointResult::Pruned(causes.remove(&stage.name)))) {
            Some(result) => points.push((stage.name.clone(), result)),
            None => missing.push(stage.name.clone()),
        }
    }
    let earlier = Some(format!("result of run {} in the cache", run.id));
    Ok(Results { points, missing, earlier })
}

/// Why points were pruned in a run, by name, from its events. A missing or truncated file gives no reasons.
fn pruned(store: &Store, run: &RunRecord) -> BTreeMap<String, Cause> {
    let cause = |event| match event {
        Event::StagePruned { stage, reason } => Some((stage, reason.causes.into_iter().next()?)),
        _ => None,
    };
    log::events(store, run, "stage-pruned").into_iter().filter_map(cause).collect()
}

/// The results of these keys whose bytes are in the cache.
fn present(store: &Store, keys: &[Key]) -> Result<BTreeMap<Key, ResultRecord>> {
    let records: Vec<ResultRecord> = store.results(keys)?.into_iter().flatten().collect();
    let present = store.are_present(&records.iter().collect::<Vec<_>>())?;
    let records = records.into_iter().zip(present).filter(|(_, is_present)| *is_present);
    Ok(records.map(|(record, _)| (record.key, record)).collect())
}

/// The keys of a point's results, the newest first.
type History = Vec<Key>;

/// The histories of the targets by name, from the runs of this pipeline.
fn histories(project: &Project) -> Result<BTreeMap<String, History>> {
    let wanted: BTreeSet<&str> = project.targets.iter().map(|point| project.name(*point)).collect();
    let mut histories: BTreeMap<String, History> = BTreeMap::new();
    for stage in runs(project)?.iter().rev().flat_map(|run| &run.stages) {
        let has_result = matches!(stage.outcome, StageStatus::Executed | StageStatus::Cached);
        let Some(key) = stage.key.filter(|_| has_result && wanted.contains(stage.name.as_str())) else { continue };
        let history = histories.entry(stage.name.clone()).or_default();
        if !history.contains(&key) {
            history.push(key);
        }
    }
    Ok(histories)
}

/// For each target, the newest result in the cache that `choose` accepts; it gets the keys from the newest on.
fn chosen(project: &Project, earlier: &str, choose: impl Fn(&[Key]) -> &[Key]) -> Result<Results> {
    let histories = histories(project)?;
    let keys: Vec<Key> = histories.values().flat_map(|history| choose(history)).copied().collect();
    let records = present(&project.store, &keys)?;
    let (mut points, mut missing) = (Vec::new(), Vec::new());
    for point in project.graph.order().iter().filter(|point| project.targets.contains(point)) {
        let name = project.name(*point).to_owned();
        let candidates = histories.get(&name).map(|history| choose(history)).unwrap_or_default();
        match candidates.iter().find_map(|key| records.get(key)) {
            Some(record) => points.push((name, PointResult::Stored(Box::new(record.clone())))),
            None => missing.push(name),
        }
    }
    Ok(Results { points, missing, earlier: Some(earlier.to_owned()) })
}

fn before(project: &Project) -> Result<Results> {
    chosen(project, "result before the newest one", |history| history.get(1..).unwrap_or_default())
}

/// The newest result of each target, which need not be that of the pipeline as it is.
///
/// # Errors
/// If the cache fails.
pub(super) fn newest(project: &Project) -> Result<Results> {
    chosen(project, "result", |history| history.get(..1).unwrap_or_default())
}

impl Results {
    /// Prints how many points are missing.
    pub(super) fn note_missing(&self, ui: &Ui) {
        let lack = self.earlier.as_ref().map(|earlier| format!("have no {earlier}"));
        let lack = lack.as_deref().unwrap_or("are not in the cache");
        if !self.missing.is_empty() {
            let all = self.points.len() + self.missing.len();
            ui.note(&format!("{} of {all} stages {lack}", self.missing.len()));
        }
    }

    /// Reports missing results.
    ///
    /// # Errors
    /// If a result of the pipeline is missing, or if no earlier result was found.
    pub(super) fn check(&self, ui: &Ui) -> Result<()> {
        match &self.earlier {
            _ if self.missing.is_empty() => Ok(()),
            None => {
                let hint = "`vadpipe run` computes it, `vadpipe plan` shows why it is missing, and `--run last` reads \
                            what the last run had";
                Err(not_cached(&self.missing).hint(hint))
            }
            Some(earlier) if self.points.is_empty() => {
                let message = format!("no {earlier}: {}", self.missing.join(", "));
                Err(Error::bad_input(message).hint("`vadpipe log --stage NAME` lists the runs of a stage"))
            }
            Some(_) => {
                self.note_missing(ui);
                Ok(())
            }
        }
    }

    /// The results, without pruned points.
    ///
    /// # Errors
    /// As [`Results::check`].
    pub(super) fn into_stored(self, ui: &Ui) -> Result<Vec<(String, ResultRecord)>> {
        self.check(ui)?;
        let stored = self.points.into_iter().filter_map(|(name, result)| match result {
            PointResult::Stored(record) => Some((name, *record)),
            PointResult::Pruned(_) => None,
        });
        Ok(stored.collect())
    }
}
