//! Asks the shared store for the results of points that are about to run.
//!
//! Before the run, `filling` asks for the points whose keys are known. The others depend on points that run, so their
//! keys become known during the run. One thread asks for them, for all that wait at once, while the driver goes on.
//!
//! Among several workers, the same thread claims the keys. A point that another worker has is held, and the thread
//! looks at all claims from time to time. When the claim of a held point is gone or expired, the driver asks again.
//! A point that needs more than this worker has is left to others. The thread asks for its result from time to time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::exec::claiming::{Renewed, RunWorker};
use crate::exec::context::RunContext;
use crate::exec::filling::{Training, asked, pull_furthest, pull_results, without_store};
use crate::exec::worker::panic_message;
use crate::id::PointId;
use crate::key::{Components, Key};
use crate::shared::{Asked, Claims, SharedError, SharedStore, Transfer};
use crate::spec::memory_in_words;
use crate::store::Lease;

/// Heartbeats of claims in which the claims of others are looked at once.
const LOOKS_PER_HEARTBEAT: u32 = 10;
/// The wait of a thread that has nothing to look at. Waking up does nothing.
const LONG: Duration = Duration::from_secs(3600);

/// The right to run a key: the lease in the cache and, among several workers, the claim in the shared store. It ends
/// when it is dropped, however the job ended.
pub(crate) struct Permit {
    _lease: Lease,
    claim: Option<(Key, Sender<Request>)>,
}

impl Permit {
    /// The right to run a key in a run without other workers.
    pub(crate) fn of_lease(lease: Lease) -> Self {
        Self { _lease: lease, claim: None }
    }
}

impl Permit {
    /// Notes for other workers that this one has too little memory for the key.
    pub(crate) fn note_too_little_memory(&self) {
        if let Some((key, requests)) = &self.claim {
            // Without the thread, others find out by themselves.
            let _ = requests.send(Request::TooLittleMemory(*key));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((key, requests)) = self.claim.take() {
            // Without the thread, the claim expires.
            let _ = requests.send(Request::Release(key));
        }
    }
}

/// A point that is about to run.
pub(crate) struct Fetch {
    pub wanted: Wanted,
    pub permit: Permit,
}

/// A point whose result the driver needs.
pub(crate) struct Wanted {
    pub point: PointId,
    pub key: Key,
    /// Whether to look for its result.
    pub look: bool,
    /// A training with the number of epochs whose states are cached, to look for a further state.
    pub training: Option<(Box<Components>, u64)>,
    /// Whether it only trains up to an epoch at which it is compared with others.
    pub is_at_rung: bool,
    /// What this worker lacks to run it: "8 GB of memory".
    pub lack: Option<String>,
}

/// A message to the thread.
pub(crate) enum Request {
    Fetch(Fetch),
    /// This worker has too little memory for a key that it runs.
    TooLittleMemory(Key),
    /// The job of this key has ended.
    Release(Key),
}

/// A message of the thread.
pub(crate) enum Answer {
    /// The cache has the result now, or the point may run.
    Fetched(Fetch),
    /// Another worker has it.
    Held(PointId, String),
    /// This worker lacks something to run it.
    Lacking(PointId, String),
    /// The other worker does not have it any more, or something new of it has arrived.
    Free(PointId),
}

/// The thread that asks.
pub(crate) struct Fetcher {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    /// Requests without an answer.
    pending: usize,
    /// Whether keys are claimed.
    claims: bool,
}

impl Fetcher {
    /// Starts the thread. It ends when this and all permits are dropped.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        context: RunContext<'scope>,
        shared: &'scope SharedStore,
        worker: Option<RunWorker<'scope>>,
    ) -> Result<Self> {
        let (requests, waiting) = channel();
        let (answered, answers) = channel();
        let renewed = worker.map(|worker| Renewed::start(scope, shared, worker)).transpose()?;
        let pause = worker.map_or(LONG, |worker| worker.owner.period / LOOKS_PER_HEARTBEAT);
        let (held, left, now) = (BTreeMap::new(), Vec::new(), Instant::now());
        let thread = Thread { context, shared, renewed, answered, held, left, pause, last_look: now, last_pull: now };
        let run = move || thread.run(&waiting);
        Builder::new().spawn_scoped(scope, run).map_err(|e| Error::exhausted("can't start a thread", e))?;
        Ok(Self { requests, answers, pending: 0, claims: worker.is_some() })
    }

    /// Whether this claims keys.
    pub(crate) fn claims(&self) -> bool {
        self.claims
    }

    /// The permit to run a key of which the lease was taken.
    pub(crate) fn permit(&self, key: Key, lease: Lease) -> Permit {
        Permit { _lease: lease, claim: self.claims.then(|| (key, self.requests.clone())) }
    }

    /// Copies the result of a point to the cache, if the store has it. The answer comes later. If the thread has ended,
    /// returns the request.
    pub(crate) fn ask(&mut self, request: Fetch) -> Option<Fetch> {
        let unsent = self.requests.send(Request::Fetch(request)).err();
        self.pending += usize::from(unsent.is_none());
        match unsent?.0 {
            Request::Fetch(fetch) => Some(fetch),
            Request::TooLittleMemory(_) | Request::Release(_) => None,
        }
    }

    /// Whether there are requests without an answer.
    pub(crate) fn is_asking(&self) -> bool {
        self.pending > 0
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let answer = self.answers.try_recv().ok()?;
        self.pending = self.pending.saturating_sub(usize::from(!matches!(answer, Answer::Free(_))));
        Some(answer)
    }
}

struct Thread<'a> {
    context: RunContext<'a>,
    shared: &'a SharedStore,
    renewed: Option<Renewed<'a>>,
    answered: Sender<Answer>,
    /// The points that other workers have.
    held: BTreeMap<Key, Vec<PointId>>,
    /// The points that this worker can't run.
    left: Vec<Wanted>,
    /// The time between two looks at the claims of others.
    pause: Duration,
    last_look: Instant,
    /// When it last asked for the results of `left`.
    last_pull: Instant,
}

impl Thread<'_> {
    fn run(mut self, waiting: &Receiver<Request>) {
        loop {
            let first = match waiting.recv_timeout(self.until_next_look()) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (mut batch, mut released) = (Vec::new(), Vec::new());
            for request in first.into_iter().chain(waiting.try_iter()) {
                match request {
                    Request::Fetch(fetch) => batch.push(fetch),
                    Request::TooLittleMemory(key) => {
                        if let Some(Renewed { claims, .. }) = &self.renewed {
                            // If it fails, others find out by themselves.
                            let _ = claims.note_too_little_memory(&key);
                        }
                    }
                    Request::Release(key) => released.push(key),
                }
            }
            if let Some(Renewed { claims, .. }) = self.renewed.as_ref().filter(|_| !released.is_empty()) {
                // A claim that stays expires.
                let _ = claims.release(&released);
            }
            let is_heard = self.fetch(batch) && self.look_at_claims() && self.look_for_results();
            if !is_heard {
                return;
            }
        }
    }

    fn until_next_look(&self) -> Duration {
        let of_claims = self.pause.saturating_sub(self.last_look.elapsed());
        let of_results = self.pause_of_results().saturating_sub(self.last_pull.elapsed());
        let waits = [(self.held.is_empty(), of_claims), (self.left.is_empty(), of_results)];
        waits.into_iter().filter(|(is_idle, _)| !is_idle).map(|(_, wait)| wait).min().unwrap_or(LONG)
    }

    fn pause_of_results(&self) -> Duration {
        self.pause * LOOKS_PER_HEARTBEAT
    }

    /// Carries out requests. Returns whether the driver still listens.
    fn fetch(&mut self, batch: Vec<Fetch>) -> bool {
        let mut answers = Vec::new();
        self.guarded(|| self.pull(batch.iter().map(|fetch| &fetch.wanted)));
        let (found, open): (Vec<_>, Vec<_>) = batch.into_iter().partition(|fetch| self.is_found(&fetch.wanted));
        answers.extend(found.into_iter().map(Answer::Fetched));
        let (left, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|fetch| fetch.wanted.lack.is_some());
        for Fetch { wanted, .. } in left {
            answers.push(Answer::Lacking(wanted.point, wanted.lack.clone().unwrap_or_default()));
            self.left.push(wanted);
        }
        let outcomes = self.guarded(|| self.claim(&open)).unwrap_or(vec![None; open.len()]);
        let mut own = Vec::new();
        for (mut fetch, holder) in open.into_iter().zip(outcomes) {
            let claims = self.renewed.as_ref().map(|renewed| &renewed.claims);
            let too_little = claims.and_then(|claims| claims.too_little_memory(&fetch.wanted.key));
            match (holder, too_little) {
                (None, _) => own.push(fetch),
                (Some(_), Some(bytes)) => {
                    let lack = format!("more than {} of memory", memory_in_words(bytes));
                    answers.push(Answer::Lacking(fetch.wanted.point, lack.clone()));
                    fetch.wanted.lack = Some(lack);
                    self.left.push(fetch.wanted);
                }
                (Some(holder), None) => {
                    self.held.entry(fetch.wanted.key).or_default().push(fetch.wanted.point);
                    answers.push(Answer::Held(fetch.wanted.point, holder));
                }
            }
        }
        if self.renewed.is_some() {
            // Another worker may have finished it just before the claim.
            let wanted = || own.iter().map(|fetch| &fetch.wanted);
            self.guarded(|| {
                self.pull(wanted());
                self.pull_states(wanted());
            });
        }
        answers.extend(own.into_iter().map(Answer::Fetched));
        answers.into_iter().all(|answer| self.answered.send(answer).is_ok())
    }

    /// Calls `f`. The driver waits for answers, so a panic must not end this thread.
    fn guarded<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        let panic = match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => return Some(value),
            Err(panic) => panic,
        };
        let text = panic_message(&*panic).unwrap_or("asking the shared store panicked");
        self.context.give_up(self.shared, || text.to_owned());
        None
    }

    /// Whether the cache has the result of a point that was looked for.
    fn is_found(&self, wanted: &Wanted) -> bool {
        wanted.look && self.renewed.is_some() && self.is_present(wanted)
    }

    /// Whether the cache has the result of a point.
    fn is_present(&self, wanted: &Wanted) -> bool {
        let forced = std::collections::BTreeSet::new();
        let present = self.context.planner(&forced).present(wanted.point, &wanted.key);
        // If the cache fails, the driver notices.
        present.is_ok_and(|stored| stored.is_some())
    }

    fn is_over(&self) -> bool {
        self.shared.is_given_up() || self.context.cancel.is_cancelled()
    }

    /// Claims keys. Returns the holders of those that others have.
    fn claim(&self, batch: &[Fetch]) -> Vec<Option<String>> {
        let keys: Vec<Key> = batch.iter().map(|fetch| fetch.wanted.key).collect();
        let claims = self.renewed.as_ref().filter(|_| !keys.is_empty() && !self.is_over());
        let outcomes = claims.map(|renewed| renewed.claims.take(&keys, Instant::now()));
        self.or_give_up(outcomes.unwrap_or(Ok(vec![]))).filter(|o| !o.is_empty()).unwrap_or(vec![None; keys.len()])
    }

    /// Looks for held points that nobody runs any more. Returns whether the driver still listens.
    fn look_at_claims(&mut self) -> bool {
        let Some(Renewed { claims, .. }) = &self.renewed else { return true };
        if self.held.is_empty() || self.last_look.elapsed() < self.pause {
            return true;
        }
        let keys: Vec<Key> = self.held.keys().copied().collect();
        let free = self.free(claims, &keys);
        self.last_look = Instant::now();
        let points: Vec<PointId> = free.iter().filter_map(|key| self.held.remove(key)).flatten().collect();
        points.into_iter().all(|point| self.answered.send(Answer::Free(point)).is_ok())
    }

    /// Looks for the results of points that this worker can't run. Returns whether the driver still listens.
    fn look_for_results(&mut self) -> bool {
        if self.left.is_empty() || self.last_pull.elapsed() < self.pause_of_results() {
            return true;
        }
        self.guarded(|| {
            self.pull(self.left.iter());
            self.pull_states(self.left.iter().filter(|wanted| wanted.is_at_rung));
        });
        self.last_pull = Instant::now();
        let left = std::mem::take(&mut self.left);
        let (new, left) =
            left.into_iter().partition(|wanted| self.is_present(wanted) || self.has_further_state(wanted));
        self.left = left;
        new.into_iter().all(|wanted: Wanted| self.answered.send(Answer::Free(wanted.point)).is_ok())
    }

    /// Whether the cache has a further state of a training that is compared at a rung than when the driver asked.
    fn has_further_state(&self, wanted: &Wanted) -> bool {
        let Some((components, cached)) = wanted.training.as_ref().filter(|_| wanted.is_at_rung) else { return false };
        let class = self.context.spec.class(wanted.point, self.context.compute);
        let query = self.context.spec.resumable(wanted.point, &class);
        let furthest = self.context.store.longest_state(components.chain().keys(), &query);
        // If the cache fails, the driver notices.
        furthest.ok().flatten().is_some_and(|state| state.epoch > *cached)
    }

    fn free(&self, claims: &Claims<'_>, keys: &[Key]) -> Vec<Key> {
        if self.is_over() {
            return keys.to_vec();
        }
        self.or_give_up(claims.free(keys, Instant::now())).unwrap_or_default()
    }

    fn pull<'w>(&self, wanted: impl Iterator<Item = &'w Wanted>) {
        let wanted = wanted.filter(|wanted| wanted.look || wanted.lack.is_some());
        let asked: Vec<Asked> = wanted.map(|wanted| asked(&self.context, wanted.point, wanted.key)).collect();
        if asked.is_empty() || self.is_over() {
            return;
        }
        let cancelled = || self.context.cancel.is_cancelled();
        self.or_give_up(pull_results(&self.context, self.shared, &asked, &Transfer::silent(&cancelled)));
    }

    /// Copies the furthest states of trainings, which other workers may have left.
    fn pull_states<'w>(&self, wanted: impl Iterator<Item = &'w Wanted>) {
        let training = |wanted: &Wanted| {
            let (components, cached) = wanted.training.as_ref().filter(|_| !self.is_found(wanted))?;
            Some(Training::new(&self.context, wanted.point, components, *cached))
        };
        let trainings: Vec<Training> = wanted.filter_map(training).collect();
        if trainings.is_empty() || self.is_over() {
            return;
        }
        let cancelled = || self.context.cancel.is_cancelled();
        self.or_give_up(pull_furthest(&self.context, self.shared, &trainings, &Transfer::silent(&cancelled)));
    }

    /// Reports the warnings of the store. If it has failed, the run does without it.
    fn or_give_up<T>(&self, outcome: Result<T, SharedError>) -> Option<T> {
        self.shared.warnings().into_iter().for_each(|message| self.context.warn(message));
        match outcome {
            Ok(value) => Some(value),
            Err(_) if self.context.cancel.is_cancelled() => None,
            Err(error) => {
                self.context.give_up(self.shared, || without_store(&error));
                None
            }
        }
    }
}
