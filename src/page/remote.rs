//! A run whose workers leave their events in a shared store, as on a cluster. It needs no driver on this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::model::Model;
use super::runs::Run;
use super::state::{App, Followed, Remote};
use crate::shared::EventsRead;
use crate::status::{RunStatus, StageStatus};
use crate::store::{Holder, StageRun};

/// The time between two requests for new events. Workers write some once a second at most.
const TICK: Duration = Duration::from_secs(1);

/// Adds the run with the points of the pipeline file that was given.
pub(super) fn add(model: &mut Model, remote: &Remote) {
    let Some(pipeline) = model.pipelines.first() else { return };
    let stage = |point: &crate::spec::Point| StageRun {
        name: point.name.clone(),
        kind: point.parsed.kind.name().to_owned(),
        key: None,
        outcome: StageStatus::Pending,
        seconds: 0.0,
        digest: None,
        resumed_at: None,
        rate: None,
        worker: None,
    };
    let stages: Vec<StageRun> = pipeline.spec.points.iter().map(stage).collect();
    let run = Run {
        id: Arc::from(remote.run.as_str()),
        pipeline: Arc::from(pipeline.spec.pipeline.name.as_str()),
        file: pipeline.file.clone(),
        name: None,
        note: Some(format!("workers of the store {}", remote.shared.address())),
        device: "workers".to_owned(),
        threads: 0,
        holder: Holder::unknown(),
        started_at: jiff::Timestamp::now().as_millisecond(),
        finished_at: None,
        status: RunStatus::Running,
        is_running: true,
        is_remote: true,
        counts: BTreeMap::new(),
        events: None,
        has_all_events: true,
    };
    model.put_run(run, &stages);
}

/// Follows the events of the workers until the server ends.
pub(super) fn follow(app: &App) {
    let Some(remote) = &app.remote else { return };
    let mut read = EventsRead::default();
    let mut is_first = true;
    loop {
        match remote.shared.new_events(&remote.run, &mut read) {
            Ok(pieces) => {
                let now = jiff::Timestamp::now().as_millisecond();
                app.set_problem(Followed::SharedStore, None);
                for (_, bytes) in pieces {
                    let lines: Vec<String> = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
                    app.model_mut().apply(&remote.run, &lines, (!is_first).then_some(now));
                }
                if std::mem::take(&mut is_first) {
                    app.model_mut().measure(&remote.run, now);
                }
            }
            Err(error) => app.set_problem(Followed::SharedStore, Some(error.to_string())),
        }
        std::thread::sleep(TICK);
    }
}
