//! What is kept of a run while it happens: its record in the store, and its events as one NDJSON file.
//!
//! The record is written when the run starts, so that `gc` keeps what the run needs and a killed run is known, and again
//! when it ends. The file holds every event but progress, each line written before anything is waited for: a run can be
//! watched from outside, and what happened before a crash is there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::event::{Event, Listener, Status};
use crate::exec::Options;
use crate::exec::outcome::Fate;
use crate::exec::schedule::Scheduler;
use crate::key::Key;
use crate::plan::{Decision, Plan, State};
use crate::spec::Spec;
use crate::store::{AtWork, Holder, RUN_FORMAT, RunRecord, RunStatus, StageOutcome, StageRun, Store};

/// Passes events on to the user's listener, and keeps them.
pub(crate) struct Journal<'a> {
    store: &'a Arc<Store>,
    spec: &'a Spec,
    listener: &'a dyn Listener,
    file: Mutex<BufWriter<File>>,
    record: Mutex<RunRecord>,
    /// Where each stage stands in the record.
    places: BTreeMap<&'a str, usize>,
    /// Scratch folders stay while this run is under way.
    _at_work: AtWork,
}

impl<'a> Journal<'a> {
    /// Writes the record of a run that starts.
    pub(crate) fn begin(
        store: &'a Arc<Store>,
        id: &str,
        spec: &'a Spec,
        options: &Options<'_>,
        plan: &Plan,
        listener: &'a dyn Listener,
    ) -> Result<Self> {
        let stage = |d: &Decision| StageRun {
            name: spec.points[d.point].name.clone(),
            kind: spec.points[d.point].parsed.kind.name().to_owned(),
            key: d.key,
            outcome: StageOutcome::Pending,
            seconds: 0.0,
            digest: d.output.filter(|_| d.state == State::Hit),
            resumed_at: None,
            rate: None,
        };
        let record = RunRecord {
            format: RUN_FORMAT,
            id: id.to_owned(),
            pipeline: spec.pipeline.name.clone(),
            file: options.file.to_owned(),
            args: options.args.to_vec(),
            started_at: jiff::Timestamp::now().as_millisecond(),
            finished_at: None,
            status: RunStatus::Running,
            holder: Holder::this_process(),
            device: options.compute.name.clone(),
            class: options.compute.numerics.clone(),
            threads: options.threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stages: plan.decisions.iter().map(stage).collect(),
            states: plan.decisions.iter().flat_map(begins).collect(),
        };
        let at_work = store.at_work()?;
        // What is all there already needs no protection, and one that is not waited for is not watched.
        if !plan.is_complete() {
            store.write_run(&record)?;
        }
        let places = plan.decisions.iter().enumerate().map(|(i, d)| (spec.points[d.point].name.as_str(), i)).collect();
        let path = store.dir().join("runs").join(format!("{id}.ndjson"));
        let storage = |e| Error::storage(format!("can't write {}", path.display())).caused_by(e);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(storage)?;
        let file = Mutex::new(BufWriter::new(File::create(&path).map_err(storage)?));
        Ok(Self { store, spec, listener, file, record: Mutex::new(record), places, _at_work: at_work })
    }

    /// Reports what the store has noticed since the last call: damage, databases set aside. Returns whether there was
    /// anything.
    pub(crate) fn warn_of_the_store(&self) -> bool {
        let warnings = self.store.warnings();
        let noticed = !warnings.is_empty();
        for message in warnings {
            self.event(&Event::Warning { message });
        }
        noticed
    }

    /// Completes the record.
    pub(crate) fn end(&self, scheduler: &Scheduler<'_>, status: Status) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        for (stage, point) in record.stages.iter_mut().zip(scheduler.order()) {
            stage.outcome = match &scheduler.fates[point] {
                Fate::Cached => StageOutcome::Cached,
                Fate::Executed => StageOutcome::Executed,
                Fate::Failed => StageOutcome::Failed,
                Fate::Pruned => StageOutcome::Pruned,
                Fate::Skipped(_) | Fate::Waiting | Fate::Running => StageOutcome::Skipped,
            };
            if stage.outcome == StageOutcome::Executed {
                stage.rate = self.spec.training_rate(*point, stage.seconds, stage.resumed_at);
            }
            if let Some((key, digest)) = scheduler.results.get(point) {
                stage.key = Some(*key);
                stage.digest = Some(*digest);
            }
        }
        // So that `gc` keeps the states that they ended with.
        for (stage, point) in record.stages.iter_mut().zip(scheduler.order()) {
            stage.key = stage.key.or(scheduler.pruned.get(point).copied());
        }
        record.finished_at = Some(jiff::Timestamp::now().as_millisecond());
        record.status = match status {
            Status::Ok => RunStatus::Ok,
            Status::Failed => RunStatus::Failed,
            Status::Interrupted => RunStatus::Interrupted,
        };
        let name = |point: &usize| self.spec.points[*point].name.as_str();
        let hits: Vec<_> = scheduler.results.iter().map(|(point, (key, _))| (name(point), *key)).collect();
        let note = || self.store.note_hits(&self.spec.pipeline.name, &hits);
        // One waits for the disk while the other reads the index, if there is a thread to be had.
        let noted = std::thread::scope(|scope| {
            let noting = std::thread::Builder::new().spawn_scoped(scope, note);
            let written = self.store.write_run(&record);
            let noted = match noting {
                Ok(noting) => noting.join().unwrap_or(Ok(())),
                Err(_) => note(),
            };
            written.and(noted)
        });
        Ok(noted?)
    }

    fn remember(&self, event: &Event) {
        let (stage, seconds, epoch) = match event {
            Event::StageFinished { stage, seconds, .. } => (stage, Some(*seconds), None),
            Event::Resumed { stage, epoch, .. } => (stage, None, Some(*epoch)),
            _ => return,
        };
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.places.get(stage.as_str()).copied();
        if let Some(stage) = place.and_then(|place| record.stages.get_mut(place)) {
            stage.seconds = seconds.unwrap_or(stage.seconds);
            stage.resumed_at = epoch.or(stage.resumed_at);
        }
    }

    fn keep(&self, event: &Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // What counts is in the store; that a full disk cuts the file short is said where the store is written.
        let _ = serde_json::to_writer(&mut *file, event);
        let _ = file.write_all(b"\n");
        if !event.is_one_of_many() {
            let _ = file.flush();
        }
    }
}

/// The keys of the state that a training goes on from: that of the state itself and, since half an epoch is under the key
/// of what it will become, the next one.
fn begins(decision: &Decision) -> Vec<Key> {
    let (Some(components), Some(epochs)) = (&decision.components, &decision.epochs) else { return Vec::new() };
    let cached = usize::try_from(epochs.cached).unwrap_or(usize::MAX);
    components.states().into_iter().skip(cached).take(2).collect()
}

impl Listener for Journal<'_> {
    fn event(&self, event: &Event) {
        self.remember(event);
        if !matches!(event, Event::Progress { .. }) {
            self.keep(event);
        }
        self.listener.event(event);
    }

    fn pause(&self) {
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).flush();
        self.listener.pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Components, Segment};
    use crate::plan::{CachedEpochs, State};

    #[test]
    fn a_record_names_two_states_of_a_training_however_long_it_is() {
        let components = |epochs| Components {
            kind: "test".to_owned(),
            version: 1,
            params: Default::default(),
            seed: None,
            precision: None,
            inputs: Default::default(),
            contents: Default::default(),
            segments: Some(vec![Segment { epochs, params: Default::default() }]),
        };
        let decision = |cached, total| Decision {
            point: 0,
            state: State::Miss,
            key: Some(components(total).key()),
            components: Some(components(total)),
            output: None,
            reason: None,
            epochs: Some(CachedEpochs { cached, total }),
        };
        let states = components(5000).states();
        assert_eq!(begins(&decision(4000, 5000)), states[4000..4002]);
        assert_eq!(begins(&decision(5000, 5000)), states[5000..]);
        assert_eq!(begins(&decision(9, 10)).len(), 2);
    }
}
