//! Asks the shared store for the results of points that are about to run.
//!
//! Before the run, `filling` asks for the points whose keys are known. The others depend on points that run, so their
//! keys become known during the run. One thread asks for them, for all that wait at once, while the driver goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::exec::filling::without_store;
use crate::exec::worker::panic_message;
use crate::id::PointId;
use crate::key::Key;
use crate::shared::{Asked, SharedStore, Transfer};
use crate::store::{FilesRead, Lease};

/// A point that is about to run, with the lease of its key.
pub(crate) struct Fetch {
    pub point: PointId,
    pub key: Key,
    pub lease: Lease,
}

/// The thread that asks.
pub(crate) struct Fetcher {
    requests: Sender<Fetch>,
    answers: Receiver<Fetch>,
    /// Requests without an answer.
    pending: usize,
}

impl Fetcher {
    /// Starts the thread. It ends when this is dropped.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        context: RunContext<'scope>,
        shared: &'scope SharedStore,
    ) -> Result<Self> {
        let (requests, waiting) = channel();
        let (answered, answers) = channel();
        let run = move || fetch(&context, shared, &waiting, &answered);
        Builder::new().spawn_scoped(scope, run).map_err(|e| Error::exhausted("can't start a thread", e))?;
        Ok(Self { requests, answers, pending: 0 })
    }

    /// Copies the result of a point to the cache, if the store has it. The answer comes later. If there is no thread any
    /// more, returns the request.
    pub(crate) fn ask(&mut self, request: Fetch) -> Option<Fetch> {
        let unsent = self.requests.send(request).err();
        self.pending += usize::from(unsent.is_none());
        unsent.map(|unsent| unsent.0)
    }

    /// Whether there are requests without an answer.
    pub(crate) fn is_asking(&self) -> bool {
        self.pending > 0
    }

    /// A request that was carried out. The cache has the result now, or the store has none.
    pub(crate) fn answer(&mut self) -> Option<Fetch> {
        let answer = self.answers.try_recv().ok()?;
        self.pending = self.pending.saturating_sub(1);
        Some(answer)
    }
}

fn fetch(context: &RunContext<'_>, shared: &SharedStore, waiting: &Receiver<Fetch>, answered: &Sender<Fetch>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter());
        let asked = |request: &Fetch| Asked {
            declared: request.key,
            reads_files: context.point(request.point).parsed.stage.reads().files,
        };
        let asked: Vec<Asked> = batch.iter().map(asked).collect();
        // The driver waits for the answers.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| pull(context, shared, &asked))) {
            let text = panic_message(&*panic).unwrap_or("asking the shared store panicked");
            let warning = shared.give_up(|| text.to_owned());
            warning.into_iter().for_each(|message| context.listener.event(&Event::Warning { message }));
        }
        for request in batch {
            if answered.send(request).is_err() {
                return;
            }
        }
    }
}

fn pull(context: &RunContext<'_>, shared: &SharedStore, asked: &[Asked]) {
    if shared.is_given_up() || context.cancel.is_cancelled() {
        return;
    }
    let cancelled = || context.cancel.is_cancelled();
    let transfer = Transfer::silent(&cancelled);
    let digest = |name: &String| context.store.digest_now(&context.spec.base.join(Path::new(name)));
    let is_current = |files: &FilesRead| files.iter().all(|(name, stored)| digest(name) == Some(*stored));
    let pulled = shared.pull_results(context.store, asked, &is_current, &transfer);
    let warnings = shared.warnings().into_iter();
    let given_up = pulled.err().filter(|_| !cancelled()).and_then(|error| shared.give_up(|| without_store(&error)));
    for message in warnings.chain(given_up) {
        context.listener.event(&Event::Warning { message });
    }
}
