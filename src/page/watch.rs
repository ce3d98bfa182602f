//! Looks for changes in the cache and in the events of runs, and tells the pages about them.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::model::{Changes, Model};
use super::runs::Run;
use super::state::App;
use super::table::{Columns, Row};
use crate::file::tail::Tail;

/// The time between two looks.
const TICK: Duration = Duration::from_millis(200);
/// The time between two looks at the processes of runs.
const PROCESSES: Duration = Duration::from_secs(2);
/// With more changed lines the page asks for the whole table.
const MOST_ROWS: usize = 300;

/// Reads what the cache holds and which runs there are. Their events are read later.
pub(super) fn load(app: &App) {
    refresh_cache(app);
    refresh_runs(app);
    publish(app);
}

/// Follows the cache until the server ends.
pub(super) fn follow(app: &App) {
    let mut processes = Instant::now();
    loop {
        refresh_cache(app);
        if processes.elapsed() >= PROCESSES {
            processes = Instant::now();
            note_killed(app);
        }
        refresh_runs(app);
        for run in followed(app) {
            read_events(app, &run);
        }
        publish(app);
        std::thread::sleep(TICK);
    }
}

fn refresh_cache(app: &App) {
    let mut model = app.model_mut();
    match model.reader.refresh() {
        Ok(refreshed) if refreshed.is_empty() => {}
        Ok(refreshed) => model.refresh(refreshed),
        Err(error) => app.set_problem(&error.to_string()),
    }
}

/// Reads the records of runs that are new or have changed, without keeping others from the model meanwhile.
fn refresh_runs(app: &App) {
    let (files, reader) = (app.model().reader.run_files(), |id: &str| app.model().reader.run(id));
    let Ok(files) = files else { return };
    let changed = app.model_mut().changed_runs(&files);
    for file in changed {
        let Some(record) = reader(&file.id) else { continue };
        app.model_mut().put_run(Run::new(&record, &file), &record.stages);
    }
}

/// The runs whose events say more than their records: those that are not over, and the newest of each pipeline.
fn followed(app: &App) -> Vec<String> {
    let model = app.model();
    let mut pipelines = BTreeSet::new();
    let mut followed = Vec::new();
    for run in model.runs.values().rev() {
        let is_newest = pipelines.insert(&run.pipeline);
        if (is_newest || run.is_running) && !run.has_all_events {
            followed.push(run.id.to_string());
        }
    }
    followed
}

fn read_events(app: &App, id: &str) {
    let (mut events, is_over) = {
        let mut model = app.model_mut();
        let path = model.reader.events_path(id);
        let Some(run) = model.runs.get_mut(id) else { return };
        (run.events.take().unwrap_or_else(|| Tail::of_documents(path)), !run.is_running)
    };
    let now = jiff::Timestamp::now().as_millisecond();
    // An events file that can't be read says nothing.
    let read = events.read(is_over, |lines| app.model_mut().apply(id, lines, now));
    let mut model = app.model_mut();
    if let Some(run) = model.runs.get_mut(id) {
        run.events = Some(events).filter(|_| !is_over);
        run.has_all_events = is_over && read.is_ok();
    }
    if is_over && model.runs.get(id).is_some_and(|run| run.finished_at.is_none()) {
        model.note_killed(id);
    }
}

fn note_killed(app: &App) {
    let mut model = app.model_mut();
    for run in model.runs.values_mut() {
        run.is_running = run.is_running && (run.is_remote || run.holder.may_live());
    }
}

/// Tells the pages what has changed.
fn publish(app: &App) {
    let mut model = app.model_mut();
    let changes = std::mem::take(&mut model.changes);
    if changes.is_empty() {
        return;
    }
    model.version += 1;
    let columns = Columns::of(&model);
    let are_new = {
        let mut known = app.columns.write().unwrap_or_else(PoisonError::into_inner);
        let are_new = *known != columns;
        known.clone_from(&columns);
        are_new
    };
    let message = message(&model, &columns, &changes, are_new);
    // Nobody may be listening.
    let _ = app.updates.send(message.to_string().into());
}

fn message(model: &Model, columns: &Columns, changes: &Changes, has_other_columns: bool) -> Value {
    let is_whole = has_other_columns || changes.has_other_points || changes.points.len() > MOST_ROWS;
    let rows: Option<Vec<Row<'_>>> = (!is_whole).then(|| {
        let numbers = changes.points.iter().filter(|number| model.points[**number].is_shown());
        numbers.map(|number| columns.row(*number, &model.points[*number])).collect()
    });
    json!({
        "version": model.version, "table": is_whole, "rows": rows.unwrap_or_default(), "epochs": changes.epochs,
        "runs": changes.has_runs, "states": changes.has_states,
    })
}
