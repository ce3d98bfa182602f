//! How a point gets the right to run: its lease in the cache and, among several workers, its claim in the shared store.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Driver;
use crate::error::Result;
use crate::exec::claiming::RunWorker;
use crate::exec::executor::Executor;
use crate::exec::fetching::{Answer, Fetch, Fetcher, Permit, Wanted};
use crate::exec::job::Ended;
use crate::exec::state::{Claim, Input};
use crate::id::PointId;
use crate::key::Key;
use crate::shared::SharedStore;
use crate::store::LeaseOutcome;

/// The shortest time between two checks of the same lease.
const CHECK_AGAIN: Duration = Duration::from_millis(20);

impl<'a> Driver<'a> {
    /// Asks the shared store for the results of points that are about to run, without those that were `asked` for.
    pub(crate) fn fetch_with(&mut self, fetcher: Fetcher, asked: BTreeSet<Key>) {
        self.fetcher = Some((fetcher, asked));
    }

    /// Ends the thread that asks the shared store.
    pub(crate) fn stop_fetching(&mut self) {
        self.permits.clear();
        self.fetcher = None;
    }

    /// Makes this run one of several workers.
    pub(crate) fn set_worker(&mut self, worker: Option<RunWorker<'a>>) {
        self.run_worker = worker;
    }

    /// Whether this worker left points to others.
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    /// The point for which this worker had too little memory, so that it left.
    pub(crate) fn lacked_memory(&self) -> Option<PointId> {
        self.lacked_memory
    }

    /// Leaves if a program ran out of memory and a worker with more memory may run it.
    pub(super) fn left_to_more_memory<R>(&mut self, point: PointId, ended: Ended<R>) -> Ended<R> {
        match ended {
            Ended::OutOfMemory(_) if self.run_worker.is_some_and(|worker| worker.leaves_without_memory) => {
                self.left = true;
                self.lacked_memory.get_or_insert(point);
                self.permits.get(&point).into_iter().for_each(Permit::note_too_little_memory);
                self.worker.context.cancel.cancel();
                Ended::Interrupted
            }
            ended => ended,
        }
    }

    /// Reads the records of the inputs and takes the lease of the key. `None` if the shared store is asked first.
    pub(super) fn claim(&mut self, point: PointId, key: Key, look_again: bool) -> Result<Option<Claim>> {
        let inputs = self.state.table().inputs(point).to_vec();
        let lost = self.read_records(&inputs)?;
        if !lost.is_empty() {
            self.loss_noticed = true;
            return Ok(Some(Claim::InputsLost(lost)));
        }
        let lease = match self.worker.context.store.lease(&key)? {
            LeaseOutcome::Granted(lease) => lease,
            LeaseOutcome::HeldBy(holder) => {
                self.claimed_elsewhere.remove(&point);
                self.checked.insert(point, Instant::now());
                return Ok(Some(Claim::HeldBy(holder.describe())));
            }
        };
        if look_again && let Some(stored) = self.planner.present(point, &key)? {
            return Ok(Some(Claim::Found(stored)));
        }
        let Some((fetcher, asked)) = &mut self.fetcher else {
            self.permits.insert(point, Permit::of_lease(lease));
            return Ok(Some(Claim::Granted));
        };
        let permit = fetcher.permit(key, lease);
        let training = self.decisions.get(&point).and_then(|decision| {
            let components = decision.components.clone().filter(|components| components.segments.is_some())?;
            Some((Box::new(components), decision.epochs?.cached))
        });
        let lack = self.run_worker.and_then(|worker| worker.lack(&self.worker.context, point));
        let is_at_rung = self.state.table().state(point).attempt().is_some_and(|attempt| attempt.rung.is_some());
        // Only another worker can make it, so its result is always looked for.
        let look = look_again || (lack.is_some() && !is_at_rung);
        let fetch = Fetch { wanted: Wanted { point, key, look, training, is_at_rung, lack }, permit };
        let not_asked = match fetcher.claims() || (look_again && asked.insert(key)) {
            true => fetcher.ask(fetch),
            false => Some(fetch),
        };
        Ok(not_asked.map(|Fetch { permit, .. }| {
            self.permits.insert(point, permit);
            Claim::Granted
        }))
    }

    /// Continues with the points for which the shared store has answered.
    pub(super) fn continue_fetched(&mut self, executor: &mut dyn Executor) -> Result<()> {
        while let Some(answer) = self.fetcher.as_mut().and_then(|(fetcher, _)| fetcher.answer()) {
            let input = match answer {
                Answer::Held(point, holder) => {
                    self.claimed_elsewhere.insert(point);
                    Input::Claimed(point, Claim::HeldBy(holder))
                }
                Answer::Lacking(point, lack) => {
                    self.claimed_elsewhere.insert(point);
                    Input::Claimed(point, Claim::Lacking(lack))
                }
                Answer::Free(point) => {
                    self.claimed_elsewhere.remove(&point);
                    Input::HolderGone(point)
                }
                Answer::Fetched(fetch) => {
                    let Fetch { wanted: Wanted { point, key, look, .. }, permit } = fetch;
                    let stored = if look { self.planner.present(point, &key)? } else { None };
                    let claim = stored.map_or(Claim::Granted, Claim::Found);
                    if matches!(claim, Claim::Granted) {
                        self.permits.insert(point, permit);
                    }
                    Input::Claimed(point, claim)
                }
            };
            self.apply(input, executor)?;
        }
        Ok(())
    }

    /// Leaves the rest to other workers if they have it and there has been nothing else to do for a while. A worker
    /// that has lost the shared store stops: nobody would get what it makes.
    pub(super) fn leave_if_useless(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let Some(worker) = self.run_worker.filter(|_| !self.state.is_stopping()) else { return Ok(()) };
        if self.worker.context.shared.is_some_and(SharedStore::is_given_up) {
            self.worker.context.cancel.cancel();
        }
        if self.state.table().is_busy() || !self.state.is_under_way() {
            self.idle_since = None;
        } else if self.idle_since.get_or_insert_with(Instant::now).elapsed() >= worker.idle {
            self.left = true;
            self.apply(Input::Interrupted, executor)?;
        }
        Ok(())
    }

    /// Checks whether leases of other processes are free now.
    pub(super) fn check_leases(&mut self, executor: &mut dyn Executor) -> Result<()> {
        for (point, key) in self.state.held() {
            if self.claimed_elsewhere.contains(&point) {
                continue;
            }
            let checked = self.checked.entry(point).or_insert_with(Instant::now);
            if self.state.is_stopping() || checked.elapsed() < CHECK_AGAIN {
                continue;
            }
            *checked = Instant::now();
            if self.worker.context.store.lease_holder(&key).is_none() {
                self.apply(Input::HolderGone(point), executor)?;
            }
        }
        Ok(())
    }
}
