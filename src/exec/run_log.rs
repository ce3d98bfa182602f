//! The record of a run in the store, and its events in an NDJSON file.
//!
//! The record is written when the run starts and again when it ends. The first version tells `gc` what the run needs,
//! and remains if the run is killed. The file contains every event except progress. The driver flushes it before it
//! waits, so other programs can follow a run, and the events before a crash are not lost.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::event::{Event, Listener, WorkerCounts};
use crate::exec::context::RunContext;
use crate::id::PointId;
use crate::key::{Digest, Key};
use crate::plan::{Decision, Plan, State};
use crate::status::{RunStatus, StageStatus};
use crate::store::{AtWork, Holder, RUN_FORMAT, RunLabel, RunRecord, StageRun};

/// The facts of a run for its record.
pub(crate) struct RunInfo<'a> {
    /// The run's id.
    pub id: &'a str,
    /// The pipeline's file as given.
    pub file: &'a str,
    /// The command line after the program's name.
    pub args: &'a [String],
    /// Its name, its note and its commit. May wait for git.
    pub label: &'a (dyn Fn() -> RunLabel + Sync),
    /// When it started, in Unix milliseconds.
    pub started_at: i64,
}

/// How a point ended.
pub(crate) struct StageEnd {
    pub point: PointId,
    pub status: StageStatus,
    /// The key of its result, or the key that the result of a pruned point would have.
    pub key: Option<Key>,
    pub digest: Option<Digest>,
}

/// Records events and passes them on to the user's listener.
pub(crate) struct RunLog<'a> {
    context: RunContext<'a>,
    file: Mutex<BufWriter<File>>,
    record: Mutex<RunRecord>,
    label: &'a (dyn Fn() -> RunLabel + Sync),
    /// The workers of the run, if it has any.
    workers: Mutex<Option<WorkerCounts>>,
    /// The first and the last epoch that each training trained. After a worker was lost, some come twice.
    trained: Mutex<BTreeMap<String, (u64, u64)>>,
    /// The position of each stage in the record, once an event needs one.
    positions: OnceLock<HashMap<String, usize>>,
    /// Protects scratch folders from `gc` during the run.
    _at_work: AtWork,
}

impl<'a> RunLog<'a> {
    /// Writes the record of a run that starts.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub(crate) fn start(context: RunContext<'a>, info: RunInfo<'a>, plan: &Plan) -> Result<Self> {
        let RunContext { spec, store, compute, .. } = context;
        let stage = |d: &Decision| StageRun {
            name: spec.point(d.point).name.clone(),
            kind: spec.point(d.point).parsed.kind.name().to_owned(),
            key: d.key,
            outcome: StageStatus::Pending,
            seconds: 0.0,
            digest: d.output.filter(|_| d.state == State::Hit),
            resumed_at: None,
            rate: None,
            worker: None,
        };
        // Nothing is written yet of a run in which everything is cached, so that it need not wait for git.
        let label = if plan.is_complete() { RunLabel::default() } else { (info.label)() };
        let record = RunRecord {
            format: RUN_FORMAT,
            id: info.id.to_owned(),
            pipeline: spec.pipeline.name.clone(),
            file: info.file.to_owned(),
            args: info.args.to_vec(),
            label,
            started_at: info.started_at,
            finished_at: None,
            status: RunStatus::Running,
            holder: Holder::this_process(),
            device: compute.name.clone(),
            class: compute.numerics.clone(),
            threads: context.threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stages: plan.decisions.iter().map(stage).collect(),
            states: plan.decisions.iter().flat_map(keys_to_resume).collect(),
        };
        let at_work = store.at_work()?;
        // A run in which everything is cached needs no protection from `gc`.
        if !plan.is_complete() {
            store.write_run(&record)?;
        }
        let path = store.dir().join("runs").join(format!("{}.ndjson", info.id));
        let storage = |e| Error::storage(format!("can't write {}", path.display())).caused_by(e);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(storage)?;
        let file = Mutex::new(BufWriter::new(File::create(&path).map_err(storage)?));
        Ok(Self {
            context,
            file,
            record: Mutex::new(record),
            label: info.label,
            workers: Mutex::default(),
            trained: Mutex::default(),
            positions: OnceLock::new(),
            _at_work: at_work,
        })
    }

    /// Reports the warnings of the store since the last call, such as damage. Returns whether there were any.
    pub(crate) fn warn_of_the_store(&self) -> bool {
        let warnings = self.context.store.warnings();
        let noticed = !warnings.is_empty();
        for message in warnings {
            self.event(&Event::Warning { message });
        }
        noticed
    }

    /// Notes events of the workers of this run, which the user has seen.
    pub(crate) fn note(&self, events: &[Event]) {
        for event in events {
            self.remember(event);
            self.keep(event);
        }
    }

    /// Completes the record.
    ///
    /// # Errors
    /// If the cache can't be written.
    pub(crate) fn end(&self, ends: &[StageEnd], status: RunStatus) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        for (stage, end) in record.stages.iter_mut().zip(ends) {
            let was_stopped = stage.outcome == StageStatus::Interrupted && end.status == StageStatus::Skipped;
            stage.outcome = if was_stopped { StageStatus::Interrupted } else { end.status };
            if end.status == StageStatus::Executed {
                stage.rate = self.context.spec.training_rate(end.point, stage.seconds, stage.resumed_at);
            }
            // With this key, `gc` keeps the states that a pruned training ended with.
            stage.key = end.key.or(stage.key);
            stage.digest = end.digest.or(stage.digest);
        }
        record.label = (self.label)();
        record.finished_at = Some(jiff::Timestamp::now().as_millisecond());
        record.status = status;
        let hit = |end: &StageEnd| end.digest.and(end.key).map(|key| (self.context.name(end.point), key));
        let hits: Vec<_> = ends.iter().filter_map(hit).collect();
        let store = self.context.store;
        let note = || store.note_hits(&self.context.spec.pipeline.name, &hits);
        // One thread waits for the disk while the other reads the index.
        let noted = std::thread::scope(|scope| {
            let noting = std::thread::Builder::new().spawn_scoped(scope, note);
            let written = store.write_run(&record);
            let noted = match noting {
                Ok(noting) => noting.join().unwrap_or(Ok(())),
                Err(_) => note(),
            };
            written.and(noted)
        });
        Ok(noted?)
    }

    /// The workers of the run, if it has any.
    pub(crate) fn workers(&self) -> Option<WorkerCounts> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many epochs of a training were trained in this run.
    pub(crate) fn epochs_trained(&self, stage: &str) -> u64 {
        let trained = self.trained.lock().unwrap_or_else(PoisonError::into_inner);
        trained.get(stage).map_or(0, |(first, last)| last + 1 - first)
    }

    /// The run's id.
    pub(crate) fn run(&self) -> String {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).id.clone()
    }

    fn remember(&self, event: &Event) {
        if let Event::Epoch { stage, epoch, .. } = event {
            let mut trained = self.trained.lock().unwrap_or_else(PoisonError::into_inner);
            match trained.get_mut(stage) {
                Some((first, last)) => (*first, *last) = ((*first).min(*epoch), (*last).max(*epoch)),
                None => drop(trained.insert(stage.clone(), (*epoch, *epoch))),
            }
        }
        WorkerCounts::count(&mut self.workers.lock().unwrap_or_else(PoisonError::into_inner), event);
        let (Event::StageFinished { stage, .. }
        | Event::Resumed { stage, .. }
        | Event::StageStarted { stage, worker: Some(_), .. }
        | Event::StageInterrupted { stage, .. }) = event
        else {
            return;
        };
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = self.positions.get_or_init(|| positions(&record.stages));
        let position = positions.get(stage.as_str()).copied();
        let Some(stage) = position.and_then(|position| record.stages.get_mut(position)) else { return };
        match event {
            Event::StageFinished { seconds, .. } => stage.seconds = *seconds,
            Event::Resumed { epoch, .. } => stage.resumed_at = Some(*epoch),
            Event::StageStarted { worker, .. } => stage.worker.clone_from(worker),
            _ => stage.outcome = StageStatus::Interrupted,
        }
    }

    fn keep(&self, event: &Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Errors are ignored. A full disk is reported when results are stored.
        let _ = serde_json::to_writer(&mut *file, event);
        let _ = file.write_all(b"\n");
        if !event.is_one_of_many() {
            let _ = file.flush();
        }
    }
}

/// The position of each stage, by its name.
fn positions(stages: &[StageRun]) -> HashMap<String, usize> {
    stages.iter().enumerate().map(|(position, stage)| (stage.name.clone(), position)).collect()
}

/// The keys of the states that a training continues from: the furthest stored one and the next, since a state in the
/// middle of an epoch is stored under the key of that epoch's end.
fn keys_to_resume(decision: &Decision) -> Vec<Key> {
    let (Some(components), Some(epochs)) = (&decision.components, &decision.epochs) else { return Vec::new() };
    let cached = usize::try_from(epochs.cached).unwrap_or(usize::MAX);
    components.chain().keys().iter().skip(cached).take(2).copied().collect()
}

impl Listener for RunLog<'_> {
    fn event(&self, event: &Event) {
        self.remember(event);
        if !matches!(event, Event::Progress { .. } | Event::Transferring { .. }) {
            self.keep(event);
        }
        self.context.listener.event(event);
    }

    fn pause(&self) {
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).flush();
        self.context.listener.pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Components, Segment};
    use crate::plan::{CachedEpochs, State};

    #[test]
    fn record_of_a_long_training_names_two_states() {
        let components = |epochs| Components {
            kind: "test".to_owned(),
            version: 1,
            segments: Some(vec![Segment { epochs, params: Default::default() }]),
            ..Components::default()
        };
        let decision = |cached, total| Decision {
            point: PointId::new(0),
            state: State::Miss,
            key: Some(components(total).key()),
            components: Some(components(total)),
            output: None,
            reason: None,
            epochs: Some(CachedEpochs { cached, total }),
            in_store: false,
        };
        let states = components(5000).chain().keys().to_vec();
        assert_eq!(keys_to_resume(&decision(4000, 5000)), states[4000..4002]);
        assert_eq!(keys_to_resume(&decision(5000, 5000)), states[5000..]);
        assert_eq!(keys_to_resume(&decision(9, 10)).len(), 2);
    }
}
