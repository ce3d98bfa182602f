//! Which stage runs when: dependency order, independent stages side by side where resources allow.
//!
//! One thread decides; stages run in others (`crew.rs`) and report back through a channel. Who runs beside whom is `room.rs`'s
//! affair, which points of a sweep are stopped early `pruning.rs`'s, and what becomes of damaged results `repair.rs`'s. A
//! stage that ended makes room at once; what reads its result waits until that is durable. Whatever finishes first, what
//! comes out is the same: the order is only a matter of time.
//!
//! The cost of a decision does not grow with the number of points: what is ready is gone through once for each thing that
//! happened, and no further than there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::error::{Category, Error, Result};
use crate::event::Event;
use crate::exec::crew::{Crew, News};
use crate::exec::outcome::Fate;
use crate::exec::pinned::pinned_epochs;
use crate::exec::pruning::Climb;
use crate::exec::room::Room;
use crate::exec::worker::{Done, Job, Shared};
use crate::id::PointId;
use crate::key::{Components, Digest, Key};
use crate::plan::{Bracket, Decision, Plan, Planner, ResolvedInputs, State};
use crate::store::{Holder, Lease, LeaseOutcome, ResultRecord};

/// How often a held key is asked for again, and a cancellation is noticed.
const TICK: Duration = Duration::from_millis(200);
/// A held key is not asked for more often than that, whatever else happens meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Nothing starts while results of so many bytes wait to be stored.
const BACKLOG_BYTES: usize = 256 << 20;

/// What the scheduler needs to know of the user's wishes.
pub(crate) struct Wishes<'a> {
    pub forced: &'a BTreeSet<PointId>,
    pub jobs: usize,
    pub keep_going: bool,
    pub wait: bool,
}

/// A job under way.
pub(super) struct Started {
    pub(super) at: Instant,
    pub(super) key: Key,
    /// The states on its way, if it is a training.
    pub(super) states: Vec<Key>,
    /// Once it ended: the seconds it took, and the bytes that are to be committed.
    pub(super) ended: Option<(f64, usize)>,
    /// The digests of its inputs as it started: they may have been replaced since.
    pub(super) read: BTreeMap<PointId, Option<Digest>>,
    /// The repairs of its inputs as it started: what it finds damaged may have been mended since.
    pub(super) repairs: BTreeMap<PointId, usize>,
}

pub(crate) struct Scheduler<'a> {
    pub(super) planner: &'a Planner<'a>,
    pub(super) shared: &'a Shared<'a>,
    pub(super) wishes: Wishes<'a>,
    room: Room<'a>,
    pub fates: BTreeMap<PointId, Fate>,
    /// What is there: the key and the output digest of each point.
    pub results: BTreeMap<PointId, (Key, Digest)>,
    /// Of those the records that somebody needed: a no-op needs none.
    pub records: BTreeMap<PointId, Arc<ResultRecord>>,
    pub(super) known: ResolvedInputs,
    /// Where the pipeline prunes: what is known of the points that are compared.
    pub(super) ladder: Option<Bracket>,
    /// The keys that pruned trainings would have come to.
    pub pruned: BTreeMap<PointId, Key>,
    /// Worked out when the first training runs.
    pinned: Option<BTreeMap<PointId, BTreeSet<u64>>>,
    /// Positions in plan order of points whose inputs are all there.
    pub(super) ready: BTreeSet<usize>,
    pub(super) order: Vec<PointId>,
    pub(super) position: BTreeMap<PointId, usize>,
    pub(super) leases: BTreeMap<PointId, Lease>,
    /// The keys that run here: two points may have the same.
    pub(super) computing: BTreeMap<Key, PointId>,
    /// Points whose key another process computes.
    held: BTreeMap<PointId, (Key, Instant)>,
    /// How often each point was run again because its bytes were gone.
    pub(super) repairs: BTreeMap<PointId, usize>,
    /// Stored bytes turned out to be gone since the results were last looked up.
    pub(super) loss_noticed: bool,
    /// What came of points before they were run again.
    pub(super) before: BTreeMap<PointId, Digest>,
    pub(super) started: BTreeMap<PointId, Started>,
    /// What ended and is not yet in the store, and the bytes of all of it.
    pub(super) committing: BTreeMap<PointId, Started>,
    pub(super) backlog: usize,
    /// The first error, which decides the exit code.
    pub error: Option<Error>,
    pub(super) stopping: bool,
}

impl<'a> Scheduler<'a> {
    pub(crate) fn new(planner: &'a Planner<'a>, shared: &'a Shared<'a>, wishes: Wishes<'a>, plan: &Plan) -> Self {
        let order: Vec<PointId> = plan.decisions.iter().map(|d| d.point).collect();
        let position = order.iter().enumerate().map(|(i, p)| (*p, i)).collect();
        let mut scheduler = Self {
            pinned: None,
            room: Room::new(shared, wishes.jobs),
            planner,
            shared,
            wishes,
            fates: order.iter().map(|p| (*p, Fate::Waiting)).collect(),
            results: BTreeMap::new(),
            records: BTreeMap::new(),
            known: ResolvedInputs::default(),
            ladder: plan.bracket.clone(),
            pruned: BTreeMap::new(),
            ready: BTreeSet::new(),
            order,
            position,
            leases: BTreeMap::new(),
            computing: BTreeMap::new(),
            held: BTreeMap::new(),
            repairs: BTreeMap::new(),
            loss_noticed: false,
            before: BTreeMap::new(),
            started: BTreeMap::new(),
            committing: BTreeMap::new(),
            backlog: 0,
            error: None,
            stopping: false,
        };
        for decision in &plan.decisions {
            if let (State::Hit, Some(key), Some(output)) = (decision.state, decision.key, decision.output) {
                scheduler.cached(decision.point, key, output);
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
            let mut crew = Crew::new(scope, self.shared, sender)?;
            let ended = self.work(&mut crew, &receiver);
            if ended.is_err() {
                // Whatever still runs must end before the scope can be left, and what it did counts.
                self.shared.cancel.cancel();
                while self.is_busy()
                    && let Ok(news) = receiver.recv()
                {
                    self.hear(news, &mut crew);
                }
            }
            ended
        })
    }

    fn work(&mut self, crew: &mut Crew<'_, '_>, receiver: &Receiver<News>) -> Result<()> {
        loop {
            self.stopping |= self.shared.cancel.is_cancelled();
            let held = if self.stopping { false } else { self.start_what_is_ready(crew)? };
            if !self.is_busy() && !held {
                self.forgets_nobody();
                return Ok(());
            }
            let mut heard = receiver.try_recv().ok();
            if heard.is_none() {
                self.shared.listener.pause();
                // We hold a sender ourselves, so the channel is never closed.
                heard = receiver.recv_timeout(TICK).ok();
            }
            while let Some(news) = heard {
                self.hear(news, crew);
                heard = receiver.try_recv().ok();
            }
        }
    }

    /// Something runs or is being committed.
    fn is_busy(&self) -> bool {
        !(self.started.is_empty() && self.committing.is_empty())
    }

    fn hear(&mut self, news: News, crew: &mut Crew<'_, '_>) {
        match news {
            News::Made(made) => {
                crew.ended();
                if let Some(mut started) = self.started.remove(&made.point) {
                    let bytes = made.bytes();
                    started.ended = Some((started.at.elapsed().as_secs_f64(), bytes));
                    self.backlog += bytes;
                    self.committing.insert(made.point, started);
                }
                crew.commit(*made);
            }
            News::Failed(point, failure) => {
                crew.ended();
                self.ended(Done { point, outcome: Err(*failure) });
            }
            News::Committed(done) => self.ended(*done),
        }
    }

    pub(crate) fn order(&self) -> &[PointId] {
        &self.order
    }

    fn count_running(&self) -> usize {
        self.started.len()
    }

    /// Starts what there is room for. Returns whether something waits for a key that another process holds.
    fn start_what_is_ready(&mut self, crew: &mut Crew<'_, '_>) -> Result<bool> {
        loop {
            let (mut held, mut settled, mut next) = (false, false, 0);
            // What becomes ready on the way stands further on, since it reads what was settled.
            while let Some(position) = self.ready.range(next..).next().copied() {
                next = position + 1;
                let point = self.order[position];
                if self.stopping || self.is_full() {
                    return Ok(held);
                }
                if !self.room.is_there_for(point, self.started.keys().copied()) {
                    continue;
                }
                match self.decide(point)? {
                    Next::Busy => {}
                    Next::Settled => {
                        self.ready.remove(&position);
                        settled = true;
                    }
                    Next::Held => held = true,
                    Next::Run(job) => {
                        self.ready.remove(&position);
                        self.begin(job, crew);
                    }
                }
            }
            if !settled {
                return Ok(held);
            }
        }
    }

    fn begin(&mut self, (key, job): (Key, Box<Job>), crew: &mut Crew<'_, '_>) {
        let point = job.point;
        self.fates.insert(point, Fate::Running);
        let repairs = job.inputs.values().flatten().map(|(p, _)| (*p, self.repaired(*p))).collect();
        let states = job.components.states();
        let read = self.inputs_now(point);
        self.started.insert(point, Started { at: Instant::now(), key, states, ended: None, read, repairs });
        crew.start(job);
    }

    /// Whether nothing at all has room, so that it is no use to ask for each point.
    fn is_full(&self) -> bool {
        self.count_running() >= self.room.jobs()
            || self.committing.len() >= self.room.backlog()
            || self.backlog >= BACKLOG_BYTES
    }

    fn decide(&mut self, point: PointId) -> Result<Next> {
        if let Some((key, asked)) = self.held.get_mut(&point) {
            if asked.elapsed() < ASK_AGAIN {
                return Ok(Next::Held);
            }
            *asked = Instant::now();
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
        let Decision { components, key, output, reason, epochs, .. } = decision;
        let (Some(components), Some(key)) = (components, key) else {
            return Err(Error::storage(format!("inputs of `{}` are unknown", self.name(point))));
        };
        if let (Some(output), None, false) = (output, rung, self.repairs.contains_key(&point)) {
            self.cached(point, key, output);
            return Ok(Next::Settled);
        }
        let cached = epochs.map_or(0, |e| e.cached);
        // What is made afresh takes nothing over from another.
        let is_under_way = !self.is_fresh(point, rung) && self.is_under_way(&components, cached);
        if self.computing.contains_key(&key) || is_under_way {
            return Ok(Next::Busy);
        }
        let inputs: Vec<PointId> = self.planner.graph.inputs(point);
        let gone = self.look_up_records(&inputs)?;
        if !gone.is_empty() {
            self.mend(point, Error::storage("an input is not in the cache any more"), &gone, &self.repairs.clone());
            return Ok(Next::Settled);
        }
        match self.shared.store.lease(&key)? {
            LeaseOutcome::Granted(lease) => self.leases.insert(point, lease),
            LeaseOutcome::HeldBy(holder) => return Ok(self.wait_for(point, key, &holder)),
        };
        // Somebody may have finished it between the look-up and the lease.
        if rung.is_none()
            && !self.remakes(point)
            && let Some(output) = self.planner.present(&key)?
        {
            self.leases.remove(&point);
            self.cached(point, key, output);
            return Ok(Next::Settled);
        }
        self.computing.insert(key, point);
        let (stage, kind) = (self.name(point), components.kind.clone());
        self.shared.listener.event(&Event::StageStarted { stage, kind, key, reason });
        Ok(Next::Run((key, Box::new(self.job(point, components, rung)))))
    }

    /// Whether a training that runs is on epochs that this one begins with, too: it waits for them, and goes on from there.
    fn is_under_way(&self, components: &Components, cached: u64) -> bool {
        let states = components.states();
        let epochs = |other: &Started| states.iter().zip(&other.states).skip(1).take_while(|(a, b)| a == b).count();
        self.started.values().any(|other| epochs(other) as u64 > cached)
    }

    /// Whether it is made again from its beginning. On the way to a decision it goes on from what is there: what is made
    /// again is the result.
    fn is_fresh(&self, point: PointId, rung: Option<u64>) -> bool {
        self.wishes.forced.contains(&point) && rung.is_none()
    }

    fn remakes(&self, point: PointId) -> bool {
        self.wishes.forced.contains(&point) || self.repairs.contains_key(&point)
    }

    fn wait_for(&mut self, point: PointId, key: Key, holder: &Holder) -> Next {
        let (stage, holder) = (self.name(point), holder.describe());
        if !self.wishes.wait {
            let message = format!("`{stage}` is being computed by {holder}");
            let error = Error::new(Category::CacheHeld, message).hint("leave out `--no-wait` to wait for it");
            self.failed(point, error);
            return Next::Settled;
        }
        self.held.insert(point, (key, Instant::now()));
        self.shared.listener.event(&Event::StageWaiting { stage, holder });
        Next::Held
    }

    /// The inputs' records are there.
    fn job(&mut self, point: PointId, components: Components, rung: Option<u64>) -> Job {
        let inputs = self.planner.spec.point(point).inputs.iter();
        let inputs = inputs.map(|(role, input)| {
            let members = input.points().iter().filter_map(|p| Some((*p, Arc::clone(self.records.get(p)?)))).collect();
            (role.clone(), members)
        });
        let inputs = inputs.collect();
        let pinned = match components.segments {
            Some(_) => self.pinned.get_or_insert_with(|| pinned_epochs(self.planner, &self.order)).get(&point).cloned(),
            None => None,
        };
        let fresh = self.is_fresh(point, rung);
        let threads = self.room.threads_for(point, self.started.is_empty() && self.ready.len() == 1);
        Job { point, components, inputs, pinned: pinned.unwrap_or_default(), fresh, threads, rung }
    }

    /// Reads the records of these points' results, of those that have one. Returns those whose record is gone.
    pub(crate) fn look_up_records(&mut self, points: &[PointId]) -> Result<BTreeSet<PointId>> {
        let missing = points.iter().filter(|p| !self.records.contains_key(p));
        let (points, keys): (Vec<PointId>, Vec<Key>) =
            missing.filter_map(|p| Some((*p, self.results.get(p)?.0))).unzip();
        if points.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut gone = BTreeSet::new();
        for (point, record) in points.into_iter().zip(self.shared.store.results(&keys)?) {
            match record {
                Some(record) => drop(self.records.insert(point, Arc::new(record))),
                None => drop(gone.insert(point)),
            }
        }
        Ok(gone)
    }

    pub(super) fn name(&self, point: PointId) -> String {
        self.planner.spec.point(point).name.clone()
    }
}

pub(super) enum Next {
    /// Nothing to run: it was there, or it failed before it ran.
    Settled,
    /// It waits for another point of this run: one with the same key, or with the same first epochs, or one that it is
    /// compared with.
    Busy,
    /// Another process computes it.
    Held,
    /// To be run.
    Run((Key, Box<Job>)),
}
