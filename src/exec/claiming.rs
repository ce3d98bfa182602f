//! Several workers of one run: each claims a key in the shared store before it runs it.
//!
//! A worker is a run of the whole pipeline that does without the points that others run.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::exec::context::RunContext;
use crate::exec::resources::{Capacity, lack};
use crate::id::PointId;
use crate::key::Digest;
use crate::shared::{ClaimOwner, Claims, SharedStore};
use crate::spec::time_in_words;

/// One of the workers of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunWorker<'a> {
    /// Its name in claims.
    pub owner: &'a ClaimOwner,
    /// It leaves when it has had nothing to do for this long.
    pub idle: Duration,
    /// When it will leave in any case.
    pub until: Option<Instant>,
    /// Whether it leaves when a program runs out of memory, so that a worker with more memory runs it.
    pub leaves_without_memory: bool,
}

impl RunWorker<'_> {
    /// What this worker lacks to run a point, if anything: "8 GB of memory".
    pub(crate) fn lack(&self, context: &RunContext<'_>, point: PointId) -> Option<String> {
        let (point, threads) = (context.point(point), context.threads);
        let capacity = Capacity { cpus: Some(threads), memory: context.memory, gpus: None, owner: "this worker" };
        if let Some(lack) = lack(point, context.compute, capacity) {
            return Some(lack.needs);
        }
        // A training saves its state before this worker leaves.
        let time = point.resources.time.filter(|_| point.parsed.stage.epochs().is_none())?;
        let left = self.until?.saturating_duration_since(Instant::now());
        (time > left).then(|| format!("{} of time", time_in_words(time)))
    }

    /// The order in which this worker starts ready points. Each worker has another order, so that two rarely want the
    /// same point. Trainings that it can continue come first. Takes the points with their names and whether they
    /// continue.
    pub(crate) fn order<'p>(&self, points: impl Iterator<Item = (PointId, &'p str, bool)>) -> Vec<PointId> {
        let place = |name: &str| Digest::of(format!("{} {name}", self.owner.id()).as_bytes());
        let mut points: Vec<_> = points.map(|(point, name, continues)| (!continues, place(name), point)).collect();
        points.sort_unstable();
        points.into_iter().map(|(_, _, point)| point).collect()
    }
}

/// The claims of this worker, and the thread that renews them. The thread ends when this is dropped.
pub(crate) struct Renewed<'a> {
    pub(crate) claims: Arc<Claims<'a>>,
    _stop: Sender<()>,
}

impl<'a> Renewed<'a> {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn start(scope: &'a Scope<'a, '_>, shared: &'a SharedStore, worker: RunWorker<'a>) -> Result<Self> {
        let claims = Arc::new(Claims::new(shared, worker.owner));
        let (_stop, stopped) = channel();
        let (renewed, period) = (Arc::clone(&claims), worker.owner.period);
        let run = move || renew(&renewed, period, &stopped);
        Builder::new().spawn_scoped(scope, run).map_err(|e| Error::exhausted("can't start a thread", e))?;
        Ok(Self { claims, _stop })
    }
}

fn renew(claims: &Claims<'_>, period: Duration, stopped: &Receiver<()>) {
    let mut next = Instant::now() + period;
    while stopped.recv_timeout(next.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout) {
        // If the store fails now, the next heartbeat may still be in time.
        let _ = claims.beat();
        next = Instant::now() + period;
    }
}
