//! Results whose bytes turn out to be missing or damaged while a run goes on: their producers run again, then their readers.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::outcome::Fate;
use crate::exec::schedule::Scheduler;
use crate::id::PointId;
use crate::key::{Digest, Key};

/// A producer whose bytes are damaged again after it was run again has a broken disk below it.
const REPAIRS: usize = 2;

impl Scheduler<'_> {
    /// Takes up the work again for a point whose stored bytes turned out to be gone.
    pub(crate) fn repair(&mut self, point: PointId) -> Result<()> {
        self.loss_noticed = true;
        self.reopen(point);
        self.run()
    }

    /// After a loss was noticed: looks up all results of this run once more, and runs again what is gone. One loss may
    /// take many results along (a database that can't be opened any more), of which the run reads only some. Returns
    /// whether anything ran.
    ///
    /// # Errors
    /// If the cache fails.
    pub(crate) fn remake_lost(&mut self, noticed: bool) -> Result<bool> {
        if !std::mem::take(&mut self.loss_noticed) && !noticed || self.stopping || self.shared.cancel.is_cancelled() {
            return Ok(false);
        }
        let (points, keys): (Vec<PointId>, Vec<Key>) =
            self.results.iter().map(|(point, (key, _))| (*point, *key)).unzip();
        let there =
            self.shared.store.look(|look| keys.iter().map(|key| look.hit(key)).collect::<Result<Vec<_>, _>>())?;
        let lost = points.into_iter().zip(there).filter(|(_, there)| there.is_none());
        let lost: Vec<PointId> = lost.map(|(point, _)| point).collect();
        for point in &lost {
            if self.repaired(*point) >= REPAIRS {
                self.results.remove(point);
                let message = format!("the result of `{}` is lost again and again", self.name(*point));
                self.failed(*point, Error::storage(message).hint("check the disk of the cache"));
            } else {
                self.announce_repair(*point);
                self.reopen(*point);
            }
        }
        if !lost.is_empty() {
            self.run()?;
        }
        Ok(!lost.is_empty())
    }

    fn announce_repair(&self, point: PointId) {
        let message = format!("the stored result of `{}` is missing or damaged: it runs again", self.name(point));
        self.shared.listener.event(&Event::Warning { message });
    }

    /// Inputs turned out to be missing or damaged: their producers run again, then this point does. `repairs` says how
    /// often they had been when this point started: another reader may have had them mended since.
    pub(super) fn mend(
        &mut self,
        point: PointId,
        error: Error,
        damaged: &BTreeSet<PointId>,
        repairs: &BTreeMap<PointId, usize>,
    ) {
        self.loss_noticed = true;
        let unmended = |p: &&PointId| self.repaired(**p) <= repairs.get(p).copied().unwrap_or(0);
        let broken: Vec<PointId> = damaged.iter().filter(unmended).copied().collect();
        if let Some(producer) = broken.iter().find(|p| self.repaired(**p) >= REPAIRS) {
            let hint = format!("the cache keeps losing what `{}` makes: check the disk", self.name(*producer));
            return self.failed(point, error.hint(hint));
        }
        self.fates.insert(point, Fate::Waiting);
        for producer in broken {
            self.announce_repair(producer);
            self.reopen(producer);
        }
        self.make_ready(point);
    }

    pub(super) fn repaired(&self, point: PointId) -> usize {
        self.repairs.get(&point).copied().unwrap_or(0)
    }

    fn reopen(&mut self, point: PointId) {
        *self.repairs.entry(point).or_default() += 1;
        self.withdraw(point);
    }

    /// Makes a point wait again: it runs, or is looked up, when its inputs are there.
    fn withdraw(&mut self, point: PointId) {
        self.records.remove(&point);
        self.results.remove(&point);
        if let Some(digest) = self.known.outputs.remove(&point) {
            self.before.insert(point, digest);
        }
        self.fates.insert(point, Fate::Waiting);
        self.drop_unready();
        self.make_ready(point);
    }

    /// What waits for a point that was there and is not is not ready any more.
    pub(super) fn drop_unready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|p| self.has_inputs(self.order[*p]));
        self.ready = ready;
    }

    /// [`Scheduler::withdraw`], where there is a result. What runs is asked about when it ends.
    pub(super) fn withdraw_if_made(&mut self, point: PointId) {
        if matches!(self.fates.get(&point), Some(Fate::Cached | Fate::Executed)) {
            self.withdraw(point);
        }
    }

    /// A point came out with other bytes than before: what was already made of the old ones is looked up, or made, anew.
    pub(super) fn withdraw_below(&mut self, point: PointId) {
        self.compare_anew(point);
        for below in self.planner.graph.dependents(point) {
            self.withdraw_if_made(below);
        }
    }

    /// What a point reads: of those that were pruned, none.
    pub(super) fn inputs_now(&self, point: PointId) -> BTreeMap<PointId, Option<Digest>> {
        let inputs = self.planner.graph.inputs(point);
        inputs.into_iter().map(|p| (p, self.known.outputs.get(&p).copied())).collect()
    }

    /// Whether what a job read is not what is there now. An input that is made again is taken to come out as before: if it
    /// does not, what was made of it is withdrawn then.
    pub(super) fn is_outdated(&self, read: &BTreeMap<PointId, Option<Digest>>) -> bool {
        read.iter().any(|(input, read)| {
            if self.known.pruned.contains(input) {
                return read.is_some();
            }
            let now = self.known.outputs.get(input).or_else(|| self.before.get(input));
            now.is_none() || now != read.as_ref()
        })
    }
}
