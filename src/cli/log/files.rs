//! The files of a run: its events, and the logs of its points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::status::StageStatus;
use crate::store::{ResultRecord, RunRecord, StageRun, Store};

/// The log of a point in a run.
pub(super) fn log_path(store: &Store, run: &str, point: &str) -> PathBuf {
    store.dir().join("logs").join(run).join(format!("{point}.log"))
}

/// The events of a run, one a line.
pub(super) fn events_path(store: &Store, run: &str) -> PathBuf {
    store.dir().join("runs").join(format!("{run}.ndjson"))
}

/// The events of this kind of a run. Those that can't be read are left out.
pub(in crate::cli) fn events(store: &Store, run: &RunRecord, kind: &str) -> Vec<Event> {
    let events = std::fs::read_to_string(events_path(store, &run.id)).unwrap_or_default();
    events.lines().filter(|line| line.contains(kind)).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The stages of a run. The record of a run that is going on or was killed does not say how they ended, but events do.
pub(super) fn stages(store: &Store, run: &RunRecord) -> Vec<StageRun> {
    let mut stages = run.stages.clone();
    if run.finished_at.is_some() {
        return stages;
    }
    let events = events(store, run, "\"stage-");
    // The last event of a stage wins.
    let last: BTreeMap<&str, (StageStatus, &Event)> = events
        .iter()
        .filter_map(|event| event.stage_status().map(|(stage, status)| (stage, (status, event))))
        .collect();
    for stage in &mut stages {
        let Some((status, event)) = last.get(stage.name.as_str()) else { continue };
        stage.outcome = *status;
        if let Event::StageCached { key, .. } = event {
            stage.key = Some(*key);
        }
    }
    stages
}

/// The result of a stage that was cached in a run. Its provenance names the run that made it.
pub(super) fn cached_result(store: &Store, stage: &StageRun) -> Result<Option<ResultRecord>> {
    let key = stage.key.filter(|_| stage.outcome == StageStatus::Cached);
    Ok(key.map(|key| store.result(&key)).transpose()?.flatten())
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String> {
    let text =
        std::fs::read(path).map_err(|e| Error::bad_input(format!("can't read {}", path.display())).caused_by(e))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
