//! Executes the commands of a run's state machine ([`RunState`]) and reports the outcomes to it.
//!
//! The driver runs in one thread. It looks up results, takes leases, sends events and starts jobs. An [`Executor`] runs
//! the jobs and stores their results.

mod permits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Category, Error, Result};
use crate::event::{Event, Listener, WorkerCounts};
use crate::exec::claiming::RunWorker;
use crate::exec::executor::{Executor, ExecutorEvent};
use crate::exec::fetching::{Fetcher, Permit};
use crate::exec::job::{Ended, Job, JobInput, StartOptions};
use crate::exec::kept::kept_epochs;
use crate::exec::reporter::Reporter;
use crate::exec::resources::gpus_for;
use crate::exec::run_log::{RunLog, StageEnd};
use crate::exec::state::point::{Done, PointState};
use crate::exec::state::{Command, Input, Lookup, Planned, Report, RunState};
use crate::exec::worker::Worker;
use crate::id::PointId;
use crate::key::{Key, StoredResult};
use crate::plan::{Decision, Planner, ResolvedInputs};
use crate::status::StageStatus;
use crate::store::ResultRecord;

/// How often the driver checks for free leases and for an interruption.
const TICK: Duration = Duration::from_millis(200);
/// How often it checks for answers of the shared store.
const SHORT_TICK: Duration = Duration::from_millis(5);

/// The driver of one run.
pub(crate) struct Driver<'a> {
    planner: &'a Planner<'a>,
    worker: Worker<'a>,
    log: &'a RunLog<'a>,
    state: RunState,
    /// The look-ups of points that have not started yet.
    decisions: BTreeMap<PointId, Decision>,
    permits: BTreeMap<PointId, Permit>,
    /// When the lease of each held point was last checked.
    checked: BTreeMap<PointId, Instant>,
    /// The jobs of the executor: when each started and, once its stage has ended, how many seconds the stage took.
    jobs: BTreeMap<PointId, (Instant, Option<f64>)>,
    /// The records that were read. A run in which everything is cached reads none.
    records: BTreeMap<PointId, Arc<ResultRecord>>,
    /// The epochs whose states are kept. Computed when the first training starts.
    kept: Option<BTreeMap<PointId, BTreeSet<u64>>>,
    /// The first error, which decides the exit code.
    error: Option<Error>,
    /// Asks the shared store, and the keys that it was asked for before the run.
    fetcher: Option<(Fetcher, BTreeSet<Key>)>,
    /// The held points that another worker claims. The others are leased by another process on this cache.
    claimed_elsewhere: BTreeSet<PointId>,
    /// This process as one of several workers.
    run_worker: Option<RunWorker<'a>>,
    /// Since when there is nothing to do but wait for other workers.
    idle_since: Option<Instant>,
    /// Whether this worker left points to others.
    left: bool,
    /// The point for which this worker had too little memory.
    lacked_memory: Option<PointId>,
    /// Whether a stored result was found missing or damaged since the last look-up of all results.
    loss_noticed: bool,
}

impl<'a> Driver<'a> {
    /// A driver for a run that has not started.
    pub(crate) fn new(planner: &'a Planner<'a>, worker: Worker<'a>, log: &'a RunLog<'a>, state: RunState) -> Self {
        Self {
            planner,
            worker,
            log,
            state,
            decisions: BTreeMap::new(),
            permits: BTreeMap::new(),
            checked: BTreeMap::new(),
            jobs: BTreeMap::new(),
            records: BTreeMap::new(),
            kept: None,
            error: None,
            fetcher: None,
            claimed_elsewhere: BTreeSet::new(),
            run_worker: None,
            idle_since: None,
            left: false,
            lacked_memory: None,
            loss_noticed: false,
        }
    }

    /// The states of the points.
    pub(crate) fn state(&self) -> &RunState {
        &self.state
    }

    /// The record of a point's result, if it was read.
    pub(crate) fn record(&self, point: PointId) -> Option<&ResultRecord> {
        let PointState::Done(done) = self.state.table().state(point) else { return None };
        self.records.get(&point).map(|record| &**record).filter(|record| record.digest == done.output)
    }

    /// The first error.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// The workers of the run, if it has any.
    pub(crate) fn workers(&self) -> Option<WorkerCounts> {
        self.log.workers()
    }

    /// The first error, and the states of the points.
    pub(crate) fn into_parts(self) -> (Option<Error>, RunState) {
        (self.error, self.state)
    }

    /// Applies the plan and runs until no work is left.
    ///
    /// # Errors
    /// If the cache fails. Running jobs are stopped first. Results that they have stored are kept and reported.
    pub(crate) fn run(&mut self, plan: Vec<(PointId, Planned)>, executor: &mut dyn Executor) -> Result<()> {
        let commands = self.state.start(plan);
        let driven = self.carry_out(commands, executor).and_then(|()| self.drive(executor));
        self.end_jobs_after(driven, executor)
    }

    /// If a loss was noticed, looks up all results of this run again and makes the lost ones again. One cause, such as
    /// a database that can't be opened, may lose many results. Returns whether any was lost.
    ///
    /// # Errors
    /// As [`Driver::run`].
    pub(crate) fn remake_lost(&mut self, executor: &mut dyn Executor) -> Result<bool> {
        let noticed = self.log.warn_of_the_store() | std::mem::take(&mut self.loss_noticed);
        if !noticed || self.state.is_stopping() || self.worker.context.cancel.is_cancelled() {
            return Ok(false);
        }
        let (points, keys): (Vec<PointId>, Vec<Key>) = self.results().unzip();
        let store = self.worker.context.store;
        let found = store.look(|look| keys.iter().map(|key| look.hit(key)).collect::<Result<Vec<_>, _>>())?;
        let lost = points.into_iter().zip(found).filter(|(_, output)| output.is_none());
        self.remake(lost.map(|(point, _)| point).collect(), executor)
    }

    /// Runs these points again, because their stored results are gone. Ignores points that have no result. Returns
    /// whether any point runs again.
    ///
    /// # Errors
    /// As [`Driver::run`].
    pub(crate) fn remake(&mut self, mut lost: Vec<PointId>, executor: &mut dyn Executor) -> Result<bool> {
        // A stopped run makes nothing again, and a point that was lost too often has failed.
        lost.retain(|point| matches!(self.state.table().state(*point), PointState::Done(_)));
        if lost.is_empty() || self.state.is_stopping() {
            return Ok(false);
        }
        self.loss_noticed = true;
        let driven = self.apply(Input::ResultsLost(lost), executor).and_then(|()| self.drive(executor));
        self.end_jobs_after(driven, executor)?;
        Ok(true)
    }

    /// Ends the run and skips pending points.
    pub(crate) fn finish(&mut self) {
        for command in self.state.finish() {
            if let Command::Report(report) = command {
                self.report(report);
            }
        }
    }

    /// The points whose results are in the cache, with their keys.
    pub(crate) fn results(&self) -> impl Iterator<Item = (PointId, Key)> {
        let table = self.state.table();
        table.order().iter().filter_map(|point| match table.state(*point) {
            PointState::Done(done) => Some((*point, done.key)),
            _ => None,
        })
    }

    /// Reads the records of these points' results. Returns the points whose record is gone.
    ///
    /// # Errors
    /// If the cache fails.
    pub(crate) fn read_records(&mut self, points: &[PointId]) -> Result<BTreeSet<PointId>> {
        let (mut missing, mut keys) = (Vec::new(), Vec::new());
        for point in points {
            if let PointState::Done(done) = self.state.table().state(*point)
                && self.records.get(point).is_none_or(|record| record.key != done.key || record.digest != done.output)
            {
                missing.push(*point);
                keys.push(done.key);
            }
        }
        let mut gone = BTreeSet::new();
        if missing.is_empty() {
            return Ok(gone);
        }
        for (point, record) in missing.into_iter().zip(self.worker.context.store.results(&keys)?) {
            match record {
                Some(record) => drop(self.records.insert(point, Arc::new(record))),
                None => drop(gone.insert(point)),
            }
        }
        Ok(gone)
    }

    fn drive(&mut self, executor: &mut dyn Executor) -> Result<()> {
        loop {
            let commands = self.notice_interruption(executor);
            self.carry_out(commands, executor)?;
            self.check_leases(executor)?;
            self.continue_fetched(executor)?;
            self.leave_if_useless(executor)?;
            if !self.state.is_under_way() {
                return Ok(());
            }
            let mut event = executor.poll(Duration::ZERO);
            if event.is_none() {
                self.log.pause();
                let is_asking = self.fetcher.as_ref().is_some_and(|(fetcher, _)| fetcher.is_asking());
                event = executor.poll(if is_asking { SHORT_TICK } else { TICK });
            }
            while let Some(received) = event {
                self.handle(received, executor)?;
                event = executor.poll(Duration::ZERO);
            }
        }
    }

    /// After an error, stops the running jobs and waits for them, because they may still store results.
    fn end_jobs_after(&mut self, driven: Result<()>, executor: &mut dyn Executor) -> Result<()> {
        if driven.is_err() {
            executor.cancel();
            let _ = self.apply(Input::Interrupted, executor);
            while !self.jobs.is_empty() {
                if let Some(event) = executor.poll(TICK) {
                    let _ = self.handle(event, executor);
                }
            }
        }
        driven
    }

    fn handle(&mut self, event: ExecutorEvent, executor: &mut dyn Executor) -> Result<()> {
        match event {
            ExecutorEvent::StateSaved(point) => self.apply(Input::StateSaved(point), executor),
            ExecutorEvent::StoreWarned => {
                self.loss_noticed = true;
                Ok(())
            }
            ExecutorEvent::Made(point, bytes) => {
                if let Some((started, seconds)) = self.jobs.get_mut(&point) {
                    *seconds = Some(started.elapsed().as_secs_f64());
                }
                self.apply(Input::Made(point, bytes), executor)
            }
            ExecutorEvent::Ended(point, ended) => {
                let ended = self.left_to_more_memory(point, ended);
                self.permits.remove(&point);
                let Some((started, seconds)) = self.jobs.remove(&point) else { return Ok(()) };
                let seconds = seconds.unwrap_or_else(|| started.elapsed().as_secs_f64());
                self.loss_noticed |= matches!(ended, Ended::Damaged(..));
                let ended = self.note_end(point, ended, seconds);
                self.apply(Input::Ended(point, ended), executor)
            }
        }
    }

    /// Sends the events of a job's end and keeps its record if another point reads it.
    fn note_end(&mut self, point: PointId, ended: Ended<Box<ResultRecord>>, seconds: f64) -> Ended {
        let stage = self.name(point).to_owned();
        if let Ended::AtRung(epoch) = ended {
            self.log.event(&Event::RungReached { stage, epoch, seconds });
            return Ended::AtRung(epoch);
        }
        ended.map(|record| {
            let (key, digest, metrics) = (record.key, record.digest, record.manifest.metrics.clone());
            self.log.event(&Event::StageFinished { stage, key, digest, seconds, metrics });
            if self.state.table().has_dependents(point) {
                self.records.insert(point, Arc::from(record));
            }
            StoredResult { key, output: digest }
        })
    }

    /// Passes an input to the state machine and executes the commands that follow.
    fn apply(&mut self, input: Input, executor: &mut dyn Executor) -> Result<()> {
        let commands = self.state.apply(input);
        self.carry_out(commands, executor)
    }

    /// Carries out commands. The commands that follow from one are carried out before the rest, so that a job starts
    /// with the inputs that were looked up for it.
    fn carry_out(&mut self, commands: Vec<Command>, executor: &mut dyn Executor) -> Result<()> {
        let mut queue = VecDeque::from(commands);
        while let Some(command) = queue.pop_front() {
            let answer = match command {
                Command::LookUp { point, inputs, curve } => {
                    Some(Input::LookedUp(point, self.look_up(point, &inputs, curve)?))
                }
                Command::Claim { point, key, look_again } => {
                    self.claim(point, key, look_again)?.map(|claim| Input::Claimed(point, claim))
                }
                Command::Release(point) => {
                    self.permits.remove(&point);
                    None
                }
                Command::Start(point, options) => self.start(point, options, executor),
                Command::Report(report) => {
                    self.report(report);
                    None
                }
            };
            for command in answer.into_iter().flat_map(|answer| self.state.apply(answer)).rev() {
                queue.push_front(command);
            }
            // Thousands of look-ups take a while.
            queue.extend(self.notice_interruption(executor));
        }
        Ok(())
    }

    /// Stops the run once if the user has interrupted it. Returns the commands that follow.
    fn notice_interruption(&mut self, executor: &mut dyn Executor) -> Vec<Command> {
        if !self.worker.context.cancel.is_cancelled() || self.state.is_stopping() {
            return Vec::new();
        }
        executor.cancel();
        self.state.apply(Input::Interrupted)
    }

    /// Looks up the result of a point. The inner error fails only this point.
    fn look_up(&mut self, point: PointId, inputs: &ResolvedInputs, curve: bool) -> Result<Result<Lookup>> {
        let (decision, chain) = match self.planner.decide(point, inputs) {
            Ok(decided) => decided,
            Err(error) if error.category == Category::BadInput => return Ok(Err(error)),
            Err(error) => return Err(error),
        };
        let Some(key) = decision.key else {
            return Err(Error::storage(format!("inputs of `{}` are unknown", self.name(point))));
        };
        let curve = match self.state.bracket().filter(|_| curve) {
            Some(bracket) => self.planner.curve(&decision, &chain, &bracket.curve)?,
            None => Vec::new(),
        };
        // A program has states only at its boundaries, so trainings that part in between share fewer epochs.
        let every = self.planner.spec.resumable(point, "").every;
        let cached_states = decision.epochs.map_or(0, |epochs| epochs.cached).div_ceil(every);
        let stored = decision.output.map(|output| StoredResult { key, output });
        let lookup = Lookup { key, chain: chain.at_boundaries(every), cached_states, stored, curve };
        self.decisions.insert(point, decision);
        Ok(Ok(lookup))
    }

    /// Starts a job. Returns how it ended if it can't start.
    fn start(&mut self, point: PointId, options: StartOptions, executor: &mut dyn Executor) -> Option<Input> {
        let (Some(Decision { components: Some(components), key: Some(key), reason, .. }), Some(inputs)) =
            (self.decisions.remove(&point), self.job_inputs(point))
        else {
            let message = format!("internal error: an input of `{}` is unknown", self.name(point));
            return Some(Input::Ended(point, Ended::Failed(Error::storage(message))));
        };
        let compute = self.worker.context.compute;
        let gpus = match gpus_for(self.worker.context.point(point), compute, self.state.table().gpus(point)) {
            Ok(gpus) => gpus,
            // Its result was cached when the run started, and was lost.
            Err(error) => return Some(Input::Ended(point, Ended::Failed(error))),
        };
        let (stage, kind) = (self.name(point).to_owned(), components.kind.clone());
        self.log.event(&Event::StageStarted { stage, kind, key, reason, gpus: gpus.clone(), worker: None });
        let kept = match components.segments {
            Some(_) => {
                let order = self.state.table().order();
                self.kept.get_or_insert_with(|| kept_epochs(self.planner, order)).get(&point).cloned()
            }
            None => None,
        };
        self.jobs.insert(point, (Instant::now(), None));
        let (kept, class) = (kept.unwrap_or_default(), compute.class(gpus.len()));
        executor.start(Job { point, components, inputs, kept, gpus, class, options });
        None
    }

    /// The inputs of a job by role, without the points that lists leave out. `None` if the record of one is unknown.
    fn job_inputs(&self, point: PointId) -> Option<BTreeMap<String, Vec<JobInput>>> {
        let table = self.state.table();
        let member = |point: &PointId| match table.state(*point) {
            PointState::Done(done) => {
                let record = self.records.get(point).filter(|record| record.digest == done.output)?;
                Some(JobInput { point: *point, record: Arc::clone(record) })
            }
            _ => None,
        };
        let roles = self.worker.context.point(point).inputs.iter();
        let members = |points: &[PointId]| -> Option<Vec<JobInput>> {
            points.iter().filter(|p| !table.leaves_out(point, **p)).map(member).collect()
        };
        roles.map(|(role, input)| Some((role.clone(), members(input.points())?))).collect()
    }

    fn report(&mut self, report: Report) {
        let reporter = Reporter { worker: &self.worker, bracket: self.state.bracket() };
        let (event, error) = reporter.describe(report);
        self.log.event(&event);
        if let Some(error) = error {
            self.error.get_or_insert(error);
        }
    }

    fn name(&self, point: PointId) -> &'a str {
        self.worker.context.name(point)
    }

    /// How a wanted point ended.
    pub(crate) fn status(&self, point: PointId) -> StageStatus {
        match self.state.table().state(point) {
            PointState::Done(Done { executed: true, .. }) => StageStatus::Executed,
            PointState::Done(Done { executed: false, .. }) => StageStatus::Cached,
            PointState::Pruned(_) => StageStatus::Pruned,
            PointState::Failed | PointState::Refused => StageStatus::Failed,
            _ => StageStatus::Skipped,
        }
    }

    /// How every wanted point ended, in plan order.
    pub(crate) fn ends(&self) -> Vec<StageEnd> {
        let table = self.state.table();
        let end = |point: &PointId| {
            let (key, digest) = match table.state(*point) {
                PointState::Done(Done { key, output, .. }) => (Some(*key), Some(*output)),
                PointState::Pruned(key) => (*key, None),
                _ => (None, None),
            };
            StageEnd { point: *point, status: self.status(*point), key, digest }
        };
        table.order().iter().map(end).collect()
    }
}
