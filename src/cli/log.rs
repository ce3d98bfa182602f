//! `vadpipe log`: lists runs and stages, or shows one run.

mod files;
mod filters;
mod follow;
mod newest;

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use serde_json::json;

pub(super) use self::files::events;
use self::files::{cached_result, events_path, log_path, read};
pub(super) use self::filters::word;
use self::filters::{FilterArgs, Filters};
use self::newest::{PipelineRuns, is_file, no_stage};
use super::args::Global;
use super::completion;
use super::project::open_store;
use super::ui::{BOLD, GREEN, RED, Ui, paint, seconds, table, when};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::status::StageStatus;
use crate::store::{Commit, RunLabel, RunRecord, StageRun, Store};

/// Arguments of `log`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe log                             list the newest runs, newest last
  vadpipe log --status failed --since 2d  what failed in two days, and why
  vadpipe log --stage 'vad@*' --limit 5   points in their newest five runs
  vadpipe log --run 20261122              list the stages that ran on a day
  vadpipe log last                        show the newest run and its errors
  vadpipe log last --events               print its events as NDJSON
  vadpipe log last --stage ad             print the log of a stage
  vadpipe log last --stage 'vad@*'        print the logs of all its points
  vadpipe log -f full.toml ad             follow the log of a stage to its end
  vadpipe log -f full.toml 'vad@*'        follow the logs of these points
  vadpipe log full.toml ad                print the newest log of a stage
  vadpipe log -f                          follow all stages that run

Without RUN, this lists runs. With --stage, --run or a status of stages (executed, cached, failed, skipped, pruned), it lists \
stages. --limit counts the runs that have a match. Dates and times are in UTC.

The log of a stage has the output of its programs. -f prints it as they write it. It needs a run in another terminal. \
With FILE, it waits some seconds for one to start, and then prints the newest log. With STAGE, it exits with code 1 if \
the stage fails.")]
pub(super) struct LogArgs {
    /// A run: its id, the beginning or the end of the id, or `last`. Or a pipeline file, for its newest run
    #[arg(value_name = "RUN|FILE", add = ArgValueCompleter::new(completion::files))]
    id: Option<String>,
    /// Print the logs of these stages, points (`vad@lr=0.01`) or globs (`vad@*`)
    #[arg(value_name = "STAGE", conflicts_with = "stage", add = ArgValueCompleter::new(completion::targets))]
    stages: Vec<String>,
    /// Print the events of the run as NDJSON
    #[arg(long, requires = "id", conflicts_with_all = ["stages", "stage", "status", "since", "run"])]
    events: bool,
    /// Print the logs of running stages as they grow, until they or the run end. Without RUN or FILE, of the newest run
    #[arg(short, long, conflicts_with_all = ["events", "status", "since", "run", "limit"])]
    follow: bool,
    #[command(flatten)]
    filters: FilterArgs,
    /// List at most N runs, the newest ones
    #[arg(short = 'n', long, alias = "count", default_value_t = 20, value_name = "N")]
    limit: usize,
}

/// Why a stage failed.
#[derive(Clone, Debug, Serialize)]
struct Why {
    error: String,
    hint: Option<String>,
    log: String,
}

/// A stage in a run.
#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    pipeline: &'a str,
    started_at: i64,
    stage: &'a StageRun,
    failure: Option<Why>,
}

/// Lists runs or stages, or prints one run.
pub(super) fn log(args: &LogArgs, global: &Global, ui: &Ui) -> Result<()> {
    let filters = Filters::new(&args.filters, &args.stages)?;
    if let Some(file) = args.id.as_deref().filter(|id| is_file(id)).map(Path::new) {
        return log_of_pipeline(file, args, &filters, global, ui);
    }
    let store = open_store(global, ui)?;
    if args.follow {
        return follow::follow(&store, &followed(&store, args.id.as_deref())?, &filters, ui);
    }
    let Some(id) = &args.id else {
        let mut runs = store.runs()?;
        store.warnings().iter().for_each(|warning| ui.warn(warning));
        if let Some(id) = &args.filters.run {
            filters::of_id(&mut runs, id)?;
        }
        runs.retain(|run| filters.takes_run(run));
        return if filters.lists_stages() {
            stages(&store, &runs, &filters, args.limit, ui)
        } else {
            list(&runs[runs.len().saturating_sub(args.limit)..], ui)
        };
    };
    show(&store, &store.run(id)?, args, &filters, ui)
}

/// Prints the newest logs of a pipeline's stages, follows them, or shows its newest run.
fn log_of_pipeline(file: &Path, args: &LogArgs, filters: &Filters, global: &Global, ui: &Ui) -> Result<()> {
    let runs = PipelineRuns::read(file, global, ui)?;
    let patterns: Vec<&str> = args.stages.iter().chain(&args.filters.stage).map(String::as_str).collect();
    if args.follow {
        return runs.follow(&patterns, filters, ui);
    }
    if filters.lists_stages() {
        return runs.print(&patterns, filters, ui);
    }
    show(runs.store(), runs.newest()?, args, filters, ui)
}

/// Prints one run, its events, or the logs of its stages.
fn show(store: &Store, run: &RunRecord, args: &LogArgs, filters: &Filters, ui: &Ui) -> Result<()> {
    if args.events {
        ui.exact(&read(&events_path(store, &run.id))?);
        return Ok(());
    }
    if let Some(pattern) = args.stages.first().or(args.filters.stage.as_ref()) {
        return stage_logs(store, run, pattern, filters, ui);
    }
    let failures = failures(store, run);
    if ui.json {
        let mut object = serde_json::to_value(run).map_err(|e| Error::storage("can't write JSON").caused_by(e))?;
        object["failures"] = json!(failures);
        return ui.object(&object);
    }
    ui.text(&text(run, &failures, ui.width()));
    Ok(())
}

/// The run to follow: the one with this id, or the newest one that runs, or the newest one.
fn followed(store: &Store, id: Option<&str>) -> Result<RunRecord> {
    let running = if id.is_none() { store.runs()?.into_iter().rfind(RunRecord::is_running) } else { None };
    Ok(running.map_or_else(|| store.run(id.unwrap_or("last")), Ok)?)
}

/// Why stages failed, by point, from the events of the run.
fn failures(store: &Store, run: &RunRecord) -> BTreeMap<String, Why> {
    let why = |event| match event {
        Event::StageFailed { stage, error, hint, log } => Some((stage, Why { error, hint, log })),
        _ => None,
    };
    events(store, run, "stage-failed").into_iter().filter_map(why).collect()
}

/// Prints the logs of the stages that match. With several, each has its name above it.
fn stage_logs(store: &Store, run: &RunRecord, pattern: &str, filters: &Filters, ui: &Ui) -> Result<()> {
    let found: Vec<&StageRun> = run.stages.iter().filter(|s| filters.takes_stage(s)).collect();
    let [only] = found.as_slice() else {
        if found.is_empty() {
            return Err(no_stage(run, pattern));
        }
        for stage in found {
            match stage_log(store, run, stage) {
                Ok(log) => ui.out(&format!("{}\n{log}", paint(BOLD, &format!("{}:", stage.name)))),
                Err(why) => {
                    ui.note(&[Some(why.message), why.hint].into_iter().flatten().collect::<Vec<_>>().join("; "))
                }
            }
        }
        return Ok(());
    };
    match stage_log(store, run, only)? {
        log if log.is_empty() => ui.note(&format!("`{}` logged nothing in run {}", only.name, run.id)),
        log => ui.out(&log),
    }
    Ok(())
}

/// The log of a stage; empty if it logged nothing.
///
/// # Errors
/// If it did not run. The message names the run that made its result.
fn stage_log(store: &Store, run: &RunRecord, stage: &StageRun) -> Result<String> {
    let path = log_path(store, &run.id, &stage.name);
    if path.exists() {
        return read(&path);
    }
    if stage.outcome == StageStatus::Executed {
        return Ok(String::new());
    }
    let (name, id) = (&stage.name, &run.id);
    let Some(record) = cached_result(store, stage)? else {
        return Err(Error::bad_input(format!("`{name}` has no log: it did not run in {id}")));
    };
    let (made, point) = (&record.provenance.run, &record.point);
    let error = Error::bad_input(format!("`{name}` was cached in run {id}; run {made} made its result"));
    Err(match log_path(store, made, point).exists() {
        true => error.hint(format!("`vadpipe log {made} --stage '{point}'` shows its log")),
        false => error.hint(format!("`vadpipe log {made}` shows that run; it has no log of the stage")),
    })
}

/// Lists the stages that match, of the newest `limit` runs that have a match, newest last.
fn stages(store: &Store, runs: &[RunRecord], filters: &Filters, limit: usize, ui: &Ui) -> Result<()> {
    let mut rows = Vec::new();
    let takes = |run: &&RunRecord| run.stages.iter().any(|s| filters.takes_stage(s));
    for run in runs.iter().rev().filter(takes).take(limit) {
        let mut why = run.stages.iter().any(|s| s.outcome == StageStatus::Failed).then(|| failures(store, run));
        for stage in run.stages.iter().rev().filter(|s| filters.takes_stage(s)) {
            let failure = why.as_mut().and_then(|why| why.remove(&stage.name));
            let (id, pipeline, started_at) = (&run.id, &run.pipeline, run.started_at);
            rows.push(Row { run: id, pipeline, started_at, stage, failure });
        }
    }
    rows.reverse();
    if ui.json {
        return ui.object(&json!({ "stages": rows }));
    }
    if rows.is_empty() {
        ui.note("no stage matches");
        return Ok(());
    }
    let line = |row: &Row<'_>| {
        let mut cells = vec![row.run.to_owned(), row.pipeline.to_owned()];
        cells.extend(stage_cells(row.stage));
        cells.push(row.failure.as_ref().map(|why| first_line(&why.error)).unwrap_or_default());
        cells
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    let header = ["run", "pipeline", "stage", "kind", "outcome", "took", "output", "resumed", "error"];
    ui.out(&table(&header, &lines, ui.width()));
    Ok(())
}

/// Name, kind, outcome, time, output and the epoch at which it resumed. The worker stands behind the time.
fn stage_cells(stage: &StageRun) -> Vec<String> {
    let mut took = if stage.outcome == StageStatus::Executed { seconds(stage.seconds) } else { String::new() };
    if let Some(worker) = stage.worker.as_ref().filter(|_| !took.is_empty()) {
        took.push_str(&format!(" on {worker}"));
    }
    let resumed = stage.resumed_at.map(|e| format!("from epoch {e}")).unwrap_or_default();
    let digest = stage.digest.map(|d| d.short()).unwrap_or_default();
    vec![stage.name.clone(), stage.kind.clone(), stage.outcome.word().to_owned(), took, digest, resumed]
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn list(runs: &[RunRecord], ui: &Ui) -> Result<()> {
    if ui.json {
        return ui.object(&json!({ "runs": runs }));
    }
    // Most pipelines prune nothing.
    let prunes = runs.iter().flat_map(|run| &run.stages).any(|s| s.outcome == StageStatus::Pruned);
    let has_names = runs.iter().any(|run| run.label.name.is_some());
    let has_notes = runs.iter().any(|run| run.label.note.is_some());
    let row = |run: &RunRecord| {
        let count = |outcome| run.stages.iter().filter(|s| s.outcome == outcome).count().to_string();
        let took = run.finished_at.map(|end| seconds((end - run.started_at) as f64 / 1000.0)).unwrap_or_default();
        let mut cells = vec![run.id.clone(), run.pipeline.clone(), word(run).to_owned()];
        cells.extend([StageStatus::Executed, StageStatus::Cached, StageStatus::Failed].map(count));
        cells.extend(prunes.then(|| count(StageStatus::Pruned)));
        cells.push(took);
        cells.extend(has_names.then(|| run.label.name.clone().unwrap_or_default()));
        cells.extend(has_notes.then(|| run.label.note.clone().unwrap_or_default()));
        cells
    };
    if runs.is_empty() {
        ui.note("no runs yet");
        return Ok(());
    }
    let rows: Vec<_> = runs.iter().map(row).collect();
    let mut header = vec!["run", "pipeline", "status", "ran", "cached", "failed"];
    header.extend(prunes.then_some("pruned"));
    header.push("took");
    header.extend(has_names.then_some("name"));
    header.extend(has_notes.then_some("note"));
    ui.out(&table(&header, &rows, ui.width()));
    Ok(())
}

/// The arguments of a run, quoted for a shell.
pub(super) fn command_line(run: &RunRecord) -> String {
    let quoted = shlex::try_join(run.args.iter().map(String::as_str));
    // Only a NUL can't be quoted, and no argument holds one.
    quoted.unwrap_or_else(|_| run.args.join(" "))
}

fn text(run: &RunRecord, failures: &BTreeMap<String, Why>, width: Option<usize>) -> String {
    let mut lines = vec![
        format!("run {} of {} ({}): {}", run.id, run.pipeline, run.file, word(run)),
        format!(
            "started {}, {} ({}), {} threads, vadpipe {}",
            when(run.started_at),
            run.device,
            run.class,
            run.threads,
            run.version
        ),
        format!("vadpipe {}", command_line(run)),
    ];
    let RunLabel { name, note, commit } = &run.label;
    lines.extend(name.iter().map(|name| format!("name {name}")));
    lines.extend(note.iter().map(|note| format!("note {note}")));
    lines.extend(commit.iter().map(|Commit { id, modified }| {
        let more = if *modified { ", with changes that are not committed" } else { "" };
        format!("commit {id}{more}")
    }));
    let rows: Vec<_> = run.stages.iter().map(stage_cells).collect();
    lines.push(table(&["stage", "kind", "outcome", "took", "output", "resumed"], &rows, width));
    for stage in &run.stages {
        let Some(why) = failures.get(&stage.name) else { continue };
        lines.push(format!("{} {}: {}", paint(RED, "FAILED"), stage.name, why.error.replace('\n', "\n       ")));
        lines.extend(why.hint.iter().map(|hint| format!("       {} {hint}", paint(GREEN, "hint:"))));
        lines.push(format!("       log: {}", why.log));
    }
    lines.join("\n")
}
