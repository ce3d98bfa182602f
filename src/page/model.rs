//! What the page shows: the points of a cache with their results, and the runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::live::{EpochLine, PointRun, point_of};
use super::point::{Outcome, Point};
use super::runs::Run;
use crate::event::Event;
use crate::filter::{Cell, Coordinate};
use crate::id::PointName;
use crate::key::Key;
use crate::spec::Spec;
use crate::stage::Registry;
use crate::status::StageStatus;
use crate::store::{CacheReader, Note, Refreshed, ResultRecord, StageRun};

/// A pipeline file that the command line names.
pub struct Pipeline {
    /// The file as given.
    pub file: String,
    /// Its content.
    pub spec: Spec,
}

/// How a point of a run was trained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Training {
    /// The epoch at which the run resumed it.
    pub(super) resumed_at: u64,
    pub(super) seconds: f64,
    pub(super) seconds_per_sample: Option<f64>,
}

/// What has changed since the last look.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Points whose line in the table changed.
    pub(super) points: BTreeSet<usize>,
    /// Points that finished an epoch.
    pub(super) epochs: BTreeSet<usize>,
    /// Whether points were removed.
    pub(super) has_removed_points: bool,
    /// Whether the table may need other columns.
    pub(super) may_have_other_columns: bool,
    pub(super) has_runs: bool,
    pub(super) has_states: bool,
}

impl Changes {
    /// Whether nothing has changed.
    pub(super) fn is_empty(&self) -> bool {
        let Self { points, epochs, has_removed_points, may_have_other_columns, has_runs, has_states } = self;
        let has_other_lines = *has_removed_points || *may_have_other_columns;
        points.is_empty() && epochs.is_empty() && !has_other_lines && !has_runs && !has_states
    }
}

/// Everything that the page shows.
pub(super) struct Model {
    pub(super) reader: CacheReader,
    pub(super) pipelines: Vec<Pipeline>,
    registry: Arc<Registry>,
    /// Their numbers never change while the server runs.
    pub(super) points: Vec<Point>,
    /// By pipeline and name.
    numbers: BTreeMap<Arc<str>, BTreeMap<String, usize>>,
    /// The keys of all results by point, which are read when a page asks for them.
    results: OnceLock<BTreeMap<usize, BTreeSet<Key>>>,
    /// By id, which sorts them by time.
    pub(super) runs: BTreeMap<String, Run>,
    /// How trainings ran, by (run, point).
    pub(super) trainings: BTreeMap<(String, String), Training>,
    /// What users wrote, by the key of the result.
    notes: BTreeMap<Key, Note>,
    pub(super) changes: Changes,
    /// Whether points of running runs have another status since the last message about runs.
    pub(super) has_other_counts: bool,
    /// Raised by each change.
    pub(super) version: u64,
}

impl Model {
    pub(super) fn new(reader: CacheReader, pipelines: Vec<Pipeline>, registry: Arc<Registry>) -> Self {
        let (points, numbers, results, runs, trainings, notes, changes) = Default::default();
        let (has_other_counts, version) = (false, 0);
        let mut model = Self {
            reader,
            pipelines,
            registry,
            points,
            numbers,
            results,
            runs,
            trainings,
            notes,
            changes,
            has_other_counts,
            version,
        };
        let declared: Vec<(String, String)> = model
            .pipelines
            .iter()
            .flat_map(|p| p.spec.points.iter().map(|point| (p.spec.pipeline.name.clone(), point.name.clone())))
            .collect();
        for (pipeline, point) in declared {
            let number = model.number(&pipeline, &point);
            model.points[number].is_declared = true;
        }
        model
    }

    /// Whether the page shows a pipeline: those of the files that were given, or else all.
    pub(super) fn shows(&self, pipeline: &str) -> bool {
        self.pipelines.is_empty() || self.pipelines.iter().any(|p| p.spec.pipeline.name == pipeline)
    }

    /// The file of a pipeline, if it was given.
    pub(super) fn spec(&self, pipeline: &str) -> Option<&Spec> {
        self.pipelines.iter().map(|p| &p.spec).find(|spec| spec.pipeline.name == pipeline)
    }

    /// The number of a point, if it is known.
    pub(super) fn find(&self, pipeline: &str, point: &str) -> Option<usize> {
        self.numbers.get(pipeline)?.get(point).copied()
    }

    /// The number of a point, which is added if it is new.
    fn number(&mut self, pipeline: &str, name: &str) -> usize {
        if let Some(number) = self.find(pipeline, name) {
            return number;
        }
        let spec = self.spec(pipeline);
        let declared = spec.and_then(|spec| spec.points.iter().find(|point| point.name == name));
        let axes = Coordinate::all(name, declared.map(|point| point.coordinates.as_slice()));
        let number = self.points.len();
        let known = self.numbers.get_key_value(pipeline).map(|(pipeline, _)| Arc::clone(pipeline));
        let pipeline = known.unwrap_or_else(|| Arc::from(pipeline));
        self.numbers.entry(Arc::clone(&pipeline)).or_default().insert(name.to_owned(), number);
        self.points.push(Point {
            pipeline,
            name: name.to_owned(),
            stage: PointName::parse(name).stage.to_owned(),
            axes,
            result: None,
            live: None,
            is_declared: false,
        });
        self.changes.points.insert(number);
        self.changes.may_have_other_columns = true;
        number
    }

    /// Applies what has changed in the cache.
    pub(super) fn refresh(&mut self, refreshed: Refreshed) {
        let Refreshed { is_replaced, results, mut newest, has_states } = refreshed;
        self.changes.has_states |= has_states || is_replaced;
        if is_replaced {
            newest.extend(self.points.iter().map(|p| (p.pipeline.to_string(), p.name.clone())));
        }
        if is_replaced || self.points.is_empty() {
            newest.extend(self.reader.all_newest().map(|(pipeline, point, _)| (pipeline, point)));
        }
        if !results.is_empty() {
            // A result may have been damaged or removed.
            let of_key = |p: &&Point| {
                let keys = [p.result.as_ref().map(|result| result.key), p.live.as_ref().and_then(|live| live.key)];
                keys.iter().flatten().any(|key| results.contains(key))
            };
            newest.extend(self.points.iter().filter(of_key).map(|p| (p.pipeline.to_string(), p.name.clone())));
        }
        for (pipeline, name) in newest {
            if !self.shows(&pipeline) {
                continue;
            }
            let record = self.reader.newest(&pipeline, &name).and_then(|key| self.reader.result(&key));
            let outcome = record.map(|record| self.outcome(&record));
            let number = self.number(&pipeline, &name);
            self.changes.has_removed_points |= outcome.is_none();
            self.points[number].result = outcome;
            self.changes.may_have_other_columns = true;
            self.changes.points.insert(number);
            self.take_result(number);
        }
        if let Some(mut known) = self.results.take().filter(|_| !is_replaced) {
            self.add_keys(&mut known, results.iter().filter_map(|key| self.reader.result(key)));
            self.results = known.into();
        }
    }

    /// All results of a point that are in the cache.
    pub(super) fn results_of(&self, number: usize) -> impl Iterator<Item = ResultRecord> {
        let all = self.results.get_or_init(|| {
            let mut all = BTreeMap::new();
            self.add_keys(&mut all, self.reader.results());
            all
        });
        let point = &self.points[number];
        let records = all.get(&number).into_iter().flatten().filter_map(|key| self.reader.result(key));
        // The same result may have been stored for another point meanwhile.
        records.filter(|record| record.point == point.name && record.pipeline == *point.pipeline)
    }

    /// All results of a pipeline that are in the cache.
    pub(super) fn results_of_pipeline(&self, pipeline: &str) -> impl Iterator<Item = ResultRecord> {
        let numbers = self.numbers.get(pipeline).into_iter().flat_map(BTreeMap::values);
        numbers.flat_map(|number| self.results_of(*number))
    }

    fn add_keys(&self, all: &mut BTreeMap<usize, BTreeSet<Key>>, records: impl Iterator<Item = ResultRecord>) {
        for record in records {
            if let Some(number) = self.find(&record.pipeline, &record.point) {
                all.entry(number).or_default().insert(record.key);
            }
        }
    }

    fn outcome(&self, record: &ResultRecord) -> Outcome {
        let kind = &record.manifest.kind;
        let facts = self.registry.facts(kind);
        let components = &record.components;
        let mut parameters: BTreeMap<String, Cell> =
            components.params.iter().map(|(name, value)| (name.clone(), Cell::of(value))).collect();
        // Parameters of epochs, if they are the same in all epochs.
        if let Some([segment]) = components.segments.as_deref() {
            parameters.extend(segment.params.iter().map(|(name, value)| (name.clone(), Cell::of(value))));
        }
        parameters.extend(components.seed.map(|seed| ("seed".to_owned(), Cell::Number(seed as f64))));
        let epochs = components.segments.as_ref().map(|all| all.iter().map(|segment| segment.epochs).sum());
        let metrics = record.manifest.metrics.iter().filter(|(name, _)| !facts.contains(&name.as_str()));
        let declared = (!components.files_read.is_empty()).then(|| components.declared().key());
        Outcome {
            key: record.key,
            declared,
            digest: record.digest,
            kind: kind.clone(),
            metrics: metrics.map(|(name, value)| (name.clone(), *value)).collect(),
            parameters,
            epochs,
            seconds: record.provenance.seconds,
            finished_at: record.provenance.finished_at,
            run: record.provenance.run.clone(),
        }
    }

    /// Forgets runs whose records were removed, and what is known of points only from them.
    pub(super) fn forget_runs(&mut self, ids: &BTreeSet<String>) {
        let before = self.runs.len();
        self.runs.retain(|id, run| run.is_remote || !ids.contains(id));
        self.changes.has_runs |= before != self.runs.len();
        self.changes.may_have_other_columns = true;
        self.trainings.retain(|(run, _), _| !ids.contains(run));
        for (number, point) in self.points.iter_mut().enumerate() {
            if point.live.take_if(|live| !live.is_remote && ids.contains(&*live.run)).is_some() {
                self.changes.points.insert(number);
                self.changes.has_removed_points = true;
            }
        }
    }

    /// Adds a run or replaces what is known about it.
    pub(super) fn put_run(&mut self, mut run: Run, stages: &[StageRun]) {
        if !self.shows(&run.pipeline) {
            return;
        }
        run.counts = counts(stages);
        for stage in stages.iter().filter(|stage| stage.outcome == StageStatus::Executed) {
            let training = Training {
                resumed_at: stage.resumed_at.unwrap_or(0),
                seconds: stage.seconds,
                seconds_per_sample: stage.rate.map(|rate| rate.seconds_per_sample),
            };
            self.trainings.insert((run.id.to_string(), stage.name.clone()), training);
        }
        let is_newest = self.newest_run(&run.pipeline).is_none_or(|newest| *newest.id <= *run.id);
        if is_newest || run.is_running || self.runs.contains_key(&*run.id) {
            for stage in stages {
                self.put_point(&run, stage);
            }
        }
        if let Some(known) = self.runs.get_mut(&*run.id) {
            run.events = known.events.take();
        }
        self.changes.has_runs = true;
        self.changes.may_have_other_columns = true;
        let (id, was_killed) = (Arc::clone(&run.id), run.was_killed());
        self.runs.insert(id.to_string(), run);
        if was_killed {
            self.note_killed(&id);
        }
    }

    fn put_point(&mut self, run: &Run, stage: &StageRun) {
        let number = self.number(&run.pipeline, &stage.name);
        let live = &mut self.points[number].live;
        match live {
            Some(known) if *known.run > *run.id => return,
            // Events say more than the record of a run that is not over.
            Some(known) if known.run == run.id && run.finished_at.is_none() => return,
            Some(known) if known.run == run.id => {
                known.status = stage.outcome;
                known.key = stage.key.or(known.key);
                known.seconds = (stage.seconds > 0.0).then_some(stage.seconds).or(known.seconds);
            }
            _ => *live = Some(PointRun { is_remote: run.is_remote, ..PointRun::new(&run.id, stage) }),
        }
        self.changes.points.insert(number);
        self.take_result(number);
    }

    /// All runs as JSON, the newest first.
    pub(super) fn runs_json(&self) -> Vec<Value> {
        let mut live: BTreeMap<&str, BTreeMap<&'static str, usize>> = BTreeMap::new();
        for live_point in self.points.iter().filter_map(|point| point.live.as_ref()) {
            *live.entry(&live_point.run).or_default().entry(live_point.status.word()).or_default() += 1;
        }
        // The record of a run that has not ended is old. Points that a later run took over are missing here.
        let present = |run: &Run| {
            let counts = live.get(&*run.id).filter(|_| run.finished_at.is_none())?;
            let total = |counts: &BTreeMap<&str, usize>| counts.values().sum::<usize>();
            (total(counts) == total(&run.counts)).then_some(counts)
        };
        self.runs.values().rev().map(|run| run.json(present(run).unwrap_or(&run.counts))).collect()
    }

    /// The newest run of a pipeline.
    pub(super) fn newest_run(&self, pipeline: &str) -> Option<&Run> {
        self.runs.values().rev().find(|run| *run.pipeline == *pipeline)
    }

    /// Whether a line of the events of a run tells something about a point that its result does not tell.
    fn needs(&self, number: usize, is_running: bool) -> bool {
        is_running || self.points[number].result.is_none() || !self.points[number].is_done()
    }

    /// Applies lines of the events of a run. `now` is their time in Unix milliseconds; none if they may be old.
    pub(super) fn apply(&mut self, run: &str, lines: &[String], now: Option<i64>) {
        let Some(known) = self.runs.get(run) else { return };
        let (pipeline, id, is_running) = (Arc::clone(&known.pipeline), Arc::clone(&known.id), known.is_running);
        let has_ended = known.finished_at.is_some();
        for line in lines {
            if let Some(epoch) = EpochLine::parse(line) {
                if let Some(number) = self.find(&pipeline, &epoch.stage)
                    && self.needs(number, is_running)
                    && let Some(live) = self.points[number].live.as_mut().filter(|live| live.run == id)
                {
                    self.changes.may_have_other_columns |= live.add_epoch(epoch, now);
                    self.changes.points.insert(number);
                    self.changes.epochs.insert(number);
                }
                continue;
            }
            let Ok(event) = serde_json::from_str::<Event>(line) else { continue };
            let Some(number) = point_of(&event).and_then(|name| self.find(&pipeline, name)) else { continue };
            if let Some(live) = self.points[number].live.as_mut().filter(|live| live.run == id) {
                // The record of a run that has ended is right about how its points ended.
                let (status, key) = (live.status, live.key);
                live.apply(event, now);
                self.has_other_counts |= is_running && live.status != status;
                self.changes.may_have_other_columns |= live.status != status;
                if has_ended && !matches!(status, StageStatus::Pending | StageStatus::Running) {
                    (live.status, live.key) = (status, key);
                }
                self.changes.points.insert(number);
                self.take_result(number);
            }
        }
    }

    /// The old events of a run were applied: those that follow tell how fast it is.
    pub(super) fn measure(&mut self, run: &str, now: i64) {
        let of_run = self.points.iter_mut().filter_map(|point| point.live.as_mut()).filter(|live| *live.run == *run);
        of_run.for_each(|live| live.measure(now));
    }

    /// Finds the result that the newest run of a point has used. The index names it as the point's newest at the end of
    /// the run.
    fn take_result(&mut self, number: usize) {
        let point = &self.points[number];
        let used = point.live.as_ref().filter(|live| live.has_ended_well());
        let Some(key) = used.and_then(|live| live.key) else { return };
        if point.result.as_ref().is_none_or(|result| result.key != key)
            && let Some(outcome) = self.reader.result(&key).map(|record| self.outcome(&record))
        {
            self.points[number].result = Some(outcome);
            self.changes.may_have_other_columns = true;
        }
        self.points[number].drop_stored_curves();
    }

    /// The process of a run is gone, but the run has not ended: its open points were interrupted.
    pub(super) fn note_killed(&mut self, run: &str) {
        for (number, point) in self.points.iter_mut().enumerate() {
            if let Some(live) = point.live.as_mut().filter(|live| *live.run == *run && live.is_open()) {
                let was_running = live.status == StageStatus::Running;
                live.status = if was_running { StageStatus::Interrupted } else { StageStatus::Skipped };
                self.changes.points.insert(number);
                self.changes.has_runs = true;
                self.changes.may_have_other_columns = true;
            }
        }
    }

    /// The note about a point's result, or about that which it will have.
    pub(super) fn note(&self, point: &Point) -> Option<&Note> {
        point.noted_keys().find_map(|key| self.notes.get(&key))
    }

    /// Replaces all notes.
    pub(super) fn put_notes(&mut self, notes: BTreeMap<Key, Note>) {
        let before = std::mem::replace(&mut self.notes, notes);
        let keys: BTreeSet<&Key> = before.keys().chain(self.notes.keys()).collect();
        let changed: BTreeSet<Key> = keys.into_iter().filter(|k| before.get(k) != self.notes.get(k)).copied().collect();
        if !changed.is_empty() {
            let points = self.points.iter().enumerate();
            let has_changed = points.filter(|(_, point)| point.noted_keys().any(|key| changed.contains(&key)));
            self.changes.points.extend(has_changed.map(|(number, _)| number));
        }
    }

    /// Replaces the note of a point.
    pub(super) fn put_note(&mut self, number: usize, key: Key, note: Note) {
        let keys: Vec<Key> = self.points[number].noted_keys().collect();
        keys.iter().for_each(|key| drop(self.notes.remove(key)));
        self.notes.insert(key, note);
        self.changes.points.insert(number);
    }

    /// The points that the page shows, with their numbers.
    pub(super) fn shown(&self) -> impl Iterator<Item = (usize, &Point)> {
        self.points.iter().enumerate().filter(|(_, point)| point.is_shown())
    }
}

fn counts(stages: &[StageRun]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for stage in stages {
        *counts.entry(stage.outcome.word()).or_default() += 1;
    }
    counts
}
