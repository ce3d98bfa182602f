//! Which stage runs when: dependency order, independent stages side by side where resources allow.
//!
//! One thread decides; each stage runs in a thread of its own and reports back through a channel. Who runs beside whom is
//! `room.rs`'s affair, which points of a sweep are stopped early `pruning.rs`'s. Whatever finishes first, what comes out is
//! the same: the order is only a matter of time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::error::{Category, Error, Result};
use crate::event::{Event, Status};
use crate::exec::pinned::pinned_epochs;
use crate::exec::pruning::Climb;
use crate::exec::room::Room;
use crate::exec::worker::{Done, Failure, Job, Shared};
use crate::key::{Components, Digest, Key};
use crate::plan::{Decision, Known, Ladder, Plan, Planner, State};
use crate::spec::PointInput;
use crate::store::{Holder, Lease, LeaseOutcome, ResultRecord};

/// How often a held key is asked for again, and a cancellation is noticed.
const TICK: Duration = Duration::from_millis(200);
/// A producer whose bytes are damaged again after it was run again has a broken disk below it.
const REPAIRS: usize = 2;

/// What became of a point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Waiting for its inputs, or for room.
    Waiting,
    /// Running now.
    Running,
    /// Its result was in the cache.
    Cached,
    /// It ran.
    Executed,
    /// It failed.
    Failed,
    /// It did not run because of this point, or because of an interruption.
    Skipped(Option<usize>),
    /// It has no result: it was pruned, or hangs on points that are.
    Pruned,
}

/// What the scheduler needs to know of the user's wishes.
pub(crate) struct Wishes<'a> {
    pub forced: &'a BTreeSet<usize>,
    pub jobs: usize,
    pub keep_going: bool,
    pub wait: bool,
}

/// A job under way.
struct Started {
    at: Instant,
    /// The repairs of its inputs as it started: what it finds damaged may have been mended since.
    repairs: BTreeMap<usize, usize>,
}

pub(crate) struct Scheduler<'a> {
    pub(super) planner: &'a Planner<'a>,
    pub(super) shared: &'a Shared<'a>,
    wishes: Wishes<'a>,
    room: Room<'a>,
    pub fates: BTreeMap<usize, Fate>,
    pub records: BTreeMap<usize, ResultRecord>,
    pub(super) known: Known,
    /// Where the pipeline prunes: what is known of the points that are compared.
    pub(super) ladder: Option<Ladder>,
    /// The keys that pruned trainings would have come to.
    pub pruned: BTreeMap<usize, Key>,
    pinned: BTreeMap<usize, BTreeSet<u64>>,
    /// Positions in plan order of points whose inputs are all there.
    pub(super) ready: BTreeSet<usize>,
    order: Vec<usize>,
    pub(super) position: BTreeMap<usize, usize>,
    leases: BTreeMap<usize, Lease>,
    /// The keys that run here: two points may have the same.
    computing: BTreeMap<Key, usize>,
    /// Points whose key another process computes.
    held: BTreeMap<usize, Key>,
    /// How often each point was run again because its bytes were gone.
    repairs: BTreeMap<usize, usize>,
    /// What came of points before they were run again.
    before: BTreeMap<usize, Digest>,
    started: BTreeMap<usize, Started>,
    /// The first error, which decides the exit code.
    pub error: Option<Error>,
    stopping: bool,
}

impl<'a> Scheduler<'a> {
    pub(crate) fn new(planner: &'a Planner<'a>, shared: &'a Shared<'a>, wishes: Wishes<'a>, plan: &Plan) -> Self {
        let order: Vec<usize> = plan.decisions.iter().map(|d| d.point).collect();
        let position = order.iter().enumerate().map(|(i, p)| (*p, i)).collect();
        let mut scheduler = Self {
            pinned: pinned_epochs(planner, &order),
            room: Room::new(shared, wishes.jobs),
            planner,
            shared,
            wishes,
            fates: order.iter().map(|p| (*p, Fate::Waiting)).collect(),
            records: BTreeMap::new(),
            known: Known::default(),
            ladder: plan.ladder.clone(),
            pruned: BTreeMap::new(),
            ready: BTreeSet::new(),
            order,
            position,
            leases: BTreeMap::new(),
            computing: BTreeMap::new(),
            held: BTreeMap::new(),
            repairs: BTreeMap::new(),
            before: BTreeMap::new(),
            started: BTreeMap::new(),
            error: None,
            stopping: false,
        };
        for decision in &plan.decisions {
            if let Some(record) = decision.record.clone() {
                scheduler.cached(decision.point, record);
            }
            scheduler.already_pruned(decision);
        }
        for point in scheduler.order.clone() {
            scheduler.make_ready(point);
        }
        scheduler
    }

    /// Runs until nothing is left to do.
    pub(crate) fn run(&mut self) -> Result<()> {
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            let ended = self.work(scope, &sender, &receiver);
            if ended.is_err() {
                // Whatever still runs must end before the scope can be left, and what it did counts.
                self.shared.cancel.cancel();
                while let (false, Ok(done)) = (self.started.is_empty(), receiver.recv()) {
                    let _ = self.ended(done);
                }
            }
            ended
        })
    }

    /// Takes up the work again for a point whose stored bytes turned out to be gone.
    pub(crate) fn repair(&mut self, point: usize) -> Result<()> {
        self.reopen(point);
        self.run()
    }

    fn work<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        sender: &Sender<Done>,
        receiver: &Receiver<Done>,
    ) -> Result<()>
    where
        'a: 'scope,
    {
        loop {
            self.stopping |= self.shared.cancel.is_cancelled();
            let held = if self.stopping { false } else { self.start_what_is_ready(scope, sender)? };
            if self.count_running() == 0 && !held {
                break;
            }
            match receiver.recv_timeout(TICK) {
                Ok(done) => self.ended(done)?,
                // We hold a sender ourselves, so the channel is never closed.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(())
    }

    /// Whatever has not run when all is over was stopped.
    pub(crate) fn skip_the_rest(&mut self) {
        for point in self.order.clone() {
            if self.fates[&point] == Fate::Waiting {
                self.fates.insert(point, Fate::Skipped(None));
            }
        }
    }

    pub(crate) fn status(&self) -> Status {
        let storage_failed = self.error.as_ref().is_some_and(|e| e.category == Category::Storage);
        if self.fates.values().all(|f| matches!(f, Fate::Cached | Fate::Executed | Fate::Pruned)) {
            Status::Ok
        } else if self.shared.cancel.is_cancelled() && !storage_failed {
            Status::Interrupted
        } else {
            Status::Failed
        }
    }

    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    fn count_running(&self) -> usize {
        self.started.len()
    }

    /// Starts what there is room for. Returns whether something waits for a key that another process holds.
    fn start_what_is_ready<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        sender: &Sender<Done>,
    ) -> Result<bool>
    where
        'a: 'scope,
    {
        let mut held = false;
        let mut looked_at = BTreeSet::new();
        while let Some(position) = self.ready.iter().copied().find(|p| !looked_at.contains(p)) {
            looked_at.insert(position);
            let point = self.order[position];
            if self.stopping {
                break;
            }
            if !self.room.is_there_for(point, self.started.keys().copied()) {
                continue;
            }
            match self.decide(point)? {
                Next::Busy => {}
                Next::Settled => {
                    self.ready.remove(&position);
                    looked_at.clear();
                }
                Next::Held => held = true,
                Next::Run(job) => {
                    self.ready.remove(&position);
                    self.fates.insert(point, Fate::Running);
                    let repairs = job.inputs.values().flatten().map(|(p, _)| (*p, self.repaired(*p))).collect();
                    self.started.insert(point, Started { at: Instant::now(), repairs });
                    let (shared, sender) = (self.shared, sender.clone());
                    // The receiver lives as long as the scope: a send can't fail.
                    scope.spawn(move || drop(sender.send(shared.execute(&job))));
                }
            }
        }
        Ok(held)
    }

    fn decide(&mut self, point: usize) -> Result<Next> {
        if let Some(key) = self.held.get(&point) {
            if self.shared.store.lease_holder(key).is_some() {
                return Ok(Next::Held);
            }
            self.held.remove(&point);
        }
        let decision = match self.planner.decide(point, &self.known) {
            Ok(decision) => decision,
            Err(error) if error.category == Category::BadInput => {
                self.failed(point, error);
                return Ok(Next::Settled);
            }
            Err(error) => return Err(error),
        };
        let rung = match self.climb(point, &decision)? {
            Climb::Train(rung) => rung,
            Climb::Not(next) => return Ok(next),
        };
        let Decision { state, components, key, record, reason, .. } = decision;
        let usable = rung.is_none() && !self.repairs.contains_key(&point);
        if let (State::Hit, Some(record), true) = (state, record, usable) {
            self.cached(point, record);
            return Ok(Next::Settled);
        }
        let (Some(components), Some(key)) = (components, key) else {
            return Err(Error::storage(format!("inputs of `{}` are unknown", self.name(point))));
        };
        if self.computing.contains_key(&key) {
            return Ok(Next::Busy);
        }
        match self.shared.store.lease(&key)? {
            LeaseOutcome::Granted(lease) => self.leases.insert(point, lease),
            LeaseOutcome::HeldBy(holder) => return Ok(self.wait_for(point, key, &holder)),
        };
        // Somebody may have finished it between the look-up and the lease.
        if rung.is_none()
            && !self.remakes(point)
            && let Some(record) = self.planner.present(&key)?
        {
            self.leases.remove(&point);
            self.cached(point, record);
            return Ok(Next::Settled);
        }
        self.computing.insert(key, point);
        let (stage, kind) = (self.name(point), components.kind.clone());
        self.shared.listener.event(&Event::StageStarted { stage, kind, key, reason });
        Ok(Next::Run(Box::new(self.job(point, components, rung))))
    }

    fn remakes(&self, point: usize) -> bool {
        self.wishes.forced.contains(&point) || self.repairs.contains_key(&point)
    }

    fn wait_for(&mut self, point: usize, key: Key, holder: &Holder) -> Next {
        let (stage, holder) = (self.name(point), holder.describe());
        if !self.wishes.wait {
            let message = format!("`{stage}` is being computed by {holder}");
            let error = Error::new(Category::CacheHeld, message).hint("leave out `--no-wait` to wait for it");
            self.failed(point, error);
            return Next::Settled;
        }
        self.held.insert(point, key);
        self.shared.listener.event(&Event::StageWaiting { stage, holder });
        Next::Held
    }

    fn job(&self, point: usize, components: Components, rung: Option<u64>) -> Job {
        let inputs = self.planner.spec.points[point].inputs.iter();
        let inputs = inputs.map(|(role, input)| {
            let members = input.indices().iter().filter_map(|p| Some((*p, self.records.get(p)?.clone()))).collect();
            (role.clone(), members)
        });
        Job {
            point,
            components,
            inputs: inputs.collect(),
            pinned: self.pinned.get(&point).cloned().unwrap_or_default(),
            // On the way to a decision it goes on from what is there; what is made again is the result.
            fresh: self.wishes.forced.contains(&point) && rung.is_none(),
            threads: self.room.threads_for(point, self.started.is_empty() && self.ready.len() == 1),
            rung,
        }
    }

    fn ended(&mut self, done: Done) -> Result<()> {
        let Done { point, outcome } = done;
        let started = self.started.remove(&point);
        let seconds = started.as_ref().map_or(0.0, |s| s.at.elapsed().as_secs_f64());
        self.leases.remove(&point);
        self.computing.retain(|_, p| *p != point);
        match outcome {
            Ok(record) => {
                let metrics = record.manifest.metrics.clone();
                let (stage, key, digest) = (self.name(point), record.key, record.digest);
                self.shared.listener.event(&Event::StageFinished { stage, key, digest, seconds, metrics });
                self.settled(point, record, Fate::Executed);
            }
            Err(Failure { at_rung: Some(epoch), .. }) => self.at_rung(point, epoch, seconds),
            Err(Failure { interrupted: true, .. }) => {
                self.fates.insert(point, Fate::Skipped(None));
                self.shared.listener.event(&Event::StageInterrupted { stage: self.name(point) });
            }
            Err(Failure { error, damaged, .. }) if !damaged.is_empty() => {
                let repairs = started.map(|s| s.repairs).unwrap_or_default();
                self.mend(point, error, &damaged, &repairs);
            }
            Err(Failure { error, .. }) => {
                let fatal = error.category == Category::Storage;
                self.failed(point, error);
                self.stopping |= fatal;
            }
        }
        Ok(())
    }

    /// Inputs turned out to be missing or damaged: their producers run again, then this point does. `repairs` says how
    /// often they had been when this point started: another reader may have had them mended since.
    fn mend(&mut self, point: usize, error: Error, damaged: &BTreeSet<usize>, repairs: &BTreeMap<usize, usize>) {
        let unmended = |p: &&usize| self.repaired(**p) <= repairs.get(p).copied().unwrap_or(0);
        let broken: Vec<usize> = damaged.iter().filter(unmended).copied().collect();
        if let Some(producer) = broken.iter().find(|p| self.repaired(**p) >= REPAIRS) {
            let hint = format!("the cache keeps losing what `{}` makes: check the disk", self.name(*producer));
            return self.failed(point, error.hint(hint));
        }
        self.fates.insert(point, Fate::Waiting);
        for producer in broken {
            let message =
                format!("the stored result of `{}` is missing or damaged: it runs again", self.name(producer));
            self.shared.listener.event(&Event::Warning { message });
            self.reopen(producer);
        }
        self.make_ready(point);
    }

    fn repaired(&self, point: usize) -> usize {
        self.repairs.get(&point).copied().unwrap_or(0)
    }

    fn reopen(&mut self, point: usize) {
        *self.repairs.entry(point).or_default() += 1;
        self.withdraw(point);
    }

    /// Makes a point wait again: it runs, or is looked up, when its inputs are there.
    fn withdraw(&mut self, point: usize) {
        self.records.remove(&point);
        if let Some(digest) = self.known.outputs.remove(&point) {
            self.before.insert(point, digest);
        }
        self.fates.insert(point, Fate::Waiting);
        // What waits for it is not ready any more.
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|p| self.has_inputs(self.order[*p]));
        self.ready = ready;
        self.make_ready(point);
    }

    fn cached(&mut self, point: usize, record: ResultRecord) {
        let (stage, key) = (self.name(point), record.key);
        self.shared.listener.event(&Event::StageCached { stage, key });
        self.settled(point, record, Fate::Cached);
    }

    fn settled(&mut self, point: usize, record: ResultRecord, fate: Fate) {
        self.fates.insert(point, fate);
        self.ready.remove(&self.position[&point]);
        self.known.outputs.insert(point, record.digest);
        if self.before.remove(&point).is_some_and(|before| before != record.digest) {
            self.compare_anew();
            // What was already made of the old bytes is looked up, or made, anew.
            for below in self.planner.graph.dependents(point) {
                if matches!(self.fates.get(&below), Some(Fate::Cached | Fate::Executed)) {
                    self.withdraw(below);
                }
            }
        }
        self.records.insert(point, record);
        for dependent in self.planner.graph.dependents(point) {
            self.make_ready(dependent);
        }
    }

    pub(super) fn make_ready(&mut self, point: usize) {
        if self.fates.get(&point) == Some(&Fate::Waiting) && self.has_inputs(point) {
            self.ready.insert(self.position[&point]);
        }
    }

    fn has_inputs(&self, point: usize) -> bool {
        let mut inputs = self.planner.spec.points[point].inputs.values().flat_map(PointInput::indices);
        inputs.all(|i| self.known.is_settled(*i))
    }

    fn failed(&mut self, point: usize, error: Error) {
        let text = error.with_causes();
        let log = self.shared.log_path(&self.planner.spec.points[point]).display().to_string();
        let (stage, hint) = (self.name(point), error.hint.clone());
        self.shared.listener.event(&Event::StageFailed { stage, error: text, hint, log });
        self.fates.insert(point, Fate::Failed);
        self.error.get_or_insert(error);
        self.stopping |= !self.wishes.keep_going;
        for below in self.planner.graph.downstream([point]) {
            self.ladder.iter_mut().for_each(|ladder| ladder.fail(below));
            if self.fates.get(&below) == Some(&Fate::Waiting) {
                self.fates.insert(below, Fate::Skipped(Some(point)));
                let (stage, because) = (self.name(below), self.name(point));
                self.shared.listener.event(&Event::StageSkipped { stage, because });
            }
        }
    }

    pub(super) fn name(&self, point: usize) -> String {
        self.planner.spec.points[point].name.clone()
    }
}

pub(super) enum Next {
    /// Nothing to run: it was there, or it failed before it ran.
    Settled,
    /// Another point of this run has the same key, and runs.
    Busy,
    /// Another process computes it.
    Held,
    /// To be run.
    Run(Box<Job>),
}
