//! Looks for changes in the cache and in the events of runs, and sends them to the pages.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::model::{Changes, Model};
use super::runs::Run;
use super::seen_runs::{SeenRuns, settled};
use super::state::{App, Followed};
use super::table::{Columns, Row};
use crate::file::tail::Tail;

/// The time between two looks. Each look and what pages then do takes time from trainings on this machine.
const TICK: Duration = Duration::from_millis(300);
/// The time between two looks at the processes of runs.
const PROCESSES: Duration = Duration::from_secs(2);
/// With more changed lines the page asks for the whole table.
const MOST_ROWS: usize = 300;

/// Follows a cache.
pub(super) struct Watcher {
    app: Arc<App>,
    runs: SeenRuns,
    /// When the notes were last changed that the model has.
    notes_at: Option<SystemTime>,
}

impl Watcher {
    /// Reads what the cache holds and which runs there are. Their events are read later.
    pub(super) fn load(app: Arc<App>) -> Self {
        let runs = SeenRuns::new(app.model().reader.runs());
        let mut watcher = Self { app, runs, notes_at: None };
        refresh_cache(&watcher.app);
        watcher.refresh_notes();
        watcher.refresh_runs();
        publish(&watcher.app);
        watcher
    }

    /// Follows the cache until the server ends.
    pub(super) fn follow(mut self) {
        let mut processes = Instant::now();
        loop {
            if processes.elapsed() >= PROCESSES {
                processes = Instant::now();
                note_killed(&self.app);
                publish_counts(&self.app);
                self.app.last_tensor.lock().unwrap_or_else(PoisonError::into_inner).forget_old();
            }
            self.look();
            std::thread::sleep(TICK);
        }
    }

    /// Reads what has changed, and sends messages to the pages.
    fn look(&mut self) {
        refresh_cache(&self.app);
        self.refresh_runs();
        self.refresh_notes();
        for run in followed(&self.app) {
            self.read_events(&run);
        }
        publish(&self.app);
    }

    /// Reads the records of runs that are new or have changed, without keeping others from the model meanwhile.
    fn refresh_runs(&mut self) {
        let changes = self.runs.look();
        if !changes.removed.is_empty() {
            self.app.model_mut().forget_runs(&changes.removed);
        }
        for file in changes.changed {
            let Some(record) = self.runs.read(&file.id) else { continue };
            self.app.model_mut().put_run(Run::new(&record), &record.stages);
        }
    }

    /// Reads the notes of users, if any was written or removed.
    fn refresh_notes(&mut self) {
        let notes = self.app.model().reader.notes();
        let changed_at = notes.changed_at();
        if changed_at == self.notes_at {
            return;
        }
        self.notes_at = settled(changed_at);
        let _none_is_written = self.app.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(all) = notes.all() {
            self.app.model_mut().put_notes(all);
        }
    }

    fn read_events(&self, id: &str) {
        let app = &self.app;
        let path = self.runs.folder().events_path(id);
        let (mut events, is_first, is_over) = {
            let mut model = app.model_mut();
            let Some(run) = model.runs.get_mut(id) else { return };
            let events = run.events.take();
            let is_first = events.is_none();
            (events.unwrap_or_else(|| Tail::of_documents(path)), is_first, !run.is_running)
        };
        let now = jiff::Timestamp::now().as_millisecond();
        // An events file that can't be read says nothing, and is not read again when the run is over.
        let _ = events.read(is_over, |lines| app.model_mut().apply(id, lines, (!is_first).then_some(now)));
        let mut model = app.model_mut();
        if is_first {
            model.measure(id, now);
        }
        if let Some(run) = model.runs.get_mut(id) {
            run.events = Some(events).filter(|_| !is_over);
            run.has_all_events = is_over;
        }
        if model.runs.get(id).is_some_and(Run::was_killed) {
            model.note_killed(id);
        }
    }
}

fn refresh_cache(app: &App) {
    let refreshed = {
        let mut model = app.model_mut();
        let refreshed = model.reader.refresh();
        refreshed.map(|refreshed| {
            if !refreshed.is_empty() {
                model.refresh(refreshed);
            }
        })
    };
    let problem = refreshed.and_then(|()| app.model().reader.check()).err();
    app.set_problem(Followed::Cache, problem.map(|error| error.to_string()));
}

/// The runs whose events say more than their records: those that are not over, those that were not over at the last
/// look, and the newest of each pipeline.
fn followed(app: &App) -> Vec<String> {
    let model = app.model();
    let mut pipelines = BTreeSet::new();
    let mut followed = Vec::new();
    for run in model.runs.values().rev() {
        let is_newest = pipelines.insert(&run.pipeline);
        if (is_newest || run.is_running || run.events.is_some()) && !run.has_all_events {
            followed.push(run.id.to_string());
        }
    }
    followed
}

fn note_killed(app: &App) {
    let mut model = app.model_mut();
    let has_ended = |run: &&mut Run| run.is_running && !run.is_remote && !run.holder.may_live();
    let mut killed = 0;
    for run in model.runs.values_mut().filter(has_ended) {
        run.is_running = false;
        killed += 1;
    }
    model.changes.has_runs |= killed > 0;
}

/// Makes pages read the runs again if their counts have changed. That takes long in a large cache, so this is not done
/// at each look.
fn publish_counts(app: &App) {
    let mut model = app.model_mut();
    let has_other_counts = std::mem::take(&mut model.has_other_counts);
    model.changes.has_runs |= has_other_counts;
}

/// Sends what has changed to the pages.
fn publish(app: &App) {
    let mut model = app.model_mut();
    let changes = std::mem::take(&mut model.changes);
    if changes.is_empty() {
        return;
    }
    model.version += 1;
    // Looks at all points, which takes too long to do it after each epoch.
    let may_differ = changes.has_removed_points || changes.may_have_other_columns;
    let new = may_differ.then(|| Columns::of(&model)).filter(|columns| *columns != app.columns());
    let are_new = new.is_some();
    if let Some(columns) = new {
        *app.columns.write().unwrap_or_else(PoisonError::into_inner) = columns;
    }
    let message = message(&model, &app.columns(), &changes, are_new);
    // Nobody may be listening.
    let _ = app.updates.send(message.to_string().into());
}

fn message(model: &Model, columns: &Columns, changes: &Changes, has_other_columns: bool) -> Value {
    let is_whole = has_other_columns || changes.has_removed_points || changes.points.len() > MOST_ROWS;
    let rows: Option<Vec<Row<'_>>> = (!is_whole).then(|| {
        let numbers = changes.points.iter().filter(|number| model.points[**number].is_shown());
        numbers.map(|number| columns.row(model, *number)).collect()
    });
    json!({
        "version": model.version, "table": is_whole, "rows": rows.unwrap_or_default(), "epochs": changes.epochs,
        "runs": changes.has_runs, "states": changes.has_states,
    })
}

#[cfg(test)]
mod tests;
