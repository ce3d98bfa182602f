//! Results whose bytes turn out to be missing or damaged while a run goes on: their producers run again, then their readers.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::schedule::{Fate, Scheduler};

/// A producer whose bytes are damaged again after it was run again has a broken disk below it.
const REPAIRS: usize = 2;

impl Scheduler<'_> {
    /// Takes up the work again for a point whose stored bytes turned out to be gone.
    pub(crate) fn repair(&mut self, point: usize) -> Result<()> {
        self.reopen(point);
        self.run()
    }

    /// Inputs turned out to be missing or damaged: their producers run again, then this point does. `repairs` says how
    /// often they had been when this point started: another reader may have had them mended since.
    pub(super) fn mend(
        &mut self,
        point: usize,
        error: Error,
        damaged: &BTreeSet<usize>,
        repairs: &BTreeMap<usize, usize>,
    ) {
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

    pub(super) fn repaired(&self, point: usize) -> usize {
        self.repairs.get(&point).copied().unwrap_or(0)
    }

    fn reopen(&mut self, point: usize) {
        *self.repairs.entry(point).or_default() += 1;
        self.withdraw(point);
    }

    /// Makes a point wait again: it runs, or is looked up, when its inputs are there.
    fn withdraw(&mut self, point: usize) {
        self.records.remove(&point);
        self.results.remove(&point);
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

    /// A point came out with other bytes than before: what was already made of the old ones is looked up, or made, anew.
    pub(super) fn withdraw_below(&mut self, point: usize) {
        self.compare_anew();
        for below in self.planner.graph.dependents(point) {
            if matches!(self.fates.get(&below), Some(Fate::Cached | Fate::Executed)) {
                self.withdraw(below);
            }
        }
    }
}
