//! Re-trains stretches of a chain instead of the whole training.
//!
//! Each stored state is the end of a stretch that begins at the stored state before it, or at the start. A stretch is
//! trained from its stored beginning, and the new state is compared with its stored end. A stretch of `n` epochs
//! therefore costs `n` epochs, independent of the length of the training.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::difference;
use super::programs::{self, CheckedStretch};
use crate::artifact::Tensor;
use crate::error::{Error, Result};
use crate::exec::job::Job;
use crate::exec::worker::{StageChain, Worker};
use crate::rng::Streams;
use crate::stage::{Cancel, Chain, Due, Position, Saved, StageError};
use crate::store::{Difference, EpochRange, StateRecord};

/// How much of each training to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many stretches of each training.
    pub count: usize,
    /// The seed of the random choice.
    pub seed: i64,
}

/// The stretches of a training that were checked.
#[derive(Clone, Debug, Serialize)]
pub struct Sampled {
    /// The stretches that were re-trained, in the order of the chain.
    pub stretches: Vec<Stretch>,
    /// The epochs after which states are stored. Each ends a stretch that could be picked.
    pub states: Vec<u64>,
    /// Epochs of the whole training.
    pub total: u64,
}

/// A stretch of epochs between two stored states.
#[derive(Clone, Debug, Serialize)]
pub struct Stretch {
    /// Finished epochs at its beginning. 0 is the start of the training, which is not stored.
    pub from: u64,
    /// Finished epochs at its end.
    pub to: u64,
    /// The first tensor in which the state at its end differs.
    pub difference: Option<Difference>,
    /// The first epoch that differed, if it can be told.
    pub epoch: Option<u64>,
    /// For a program: what differs if one process trains the epochs of two.
    pub incomplete: Option<Difference>,
    /// The epochs that were trained in both ways. `None` if there were no states for it.
    pub pair: Option<EpochRange>,
}

impl Sample {
    /// Re-trains stretches of a training and compares the states at their ends.
    pub(super) fn check(self, worker: &Worker<'_>, job: &Job) -> Result<Sampled> {
        let chain = job.components.chain();
        let mut stored = programs::stored_states(worker, job, worker.context.store)?;
        stored.retain(|state| state.step == 0 && state.epoch > 0);
        let name = worker.context.name(job.point);
        if stored.is_empty() {
            let message = format!("no state of `{name}` is stored for {}: there is nothing to compare with", job.class);
            return Err(Error::bad_input(message).hint("without `--sample` the whole training runs again"));
        }
        let states: Vec<u64> = stored.iter().map(|s| s.epoch).collect();
        let mut stretches = Vec::new();
        for at in self.pick(name, stored.len()) {
            stretches.push(stretch(worker, job, &stored, at)?);
        }
        Ok(Sampled { stretches, states, total: chain.total() })
    }

    /// Picks some of `available` stretches, in ascending order. The choice depends on the seed and on the name.
    fn pick(self, name: &str, available: usize) -> BTreeSet<usize> {
        let mut order: Vec<usize> = (0..available).collect();
        Streams::new(self.seed).stream(&format!("verify {name}"), 0, 0).shuffle(&mut order);
        order.into_iter().take(self.count.max(1)).collect()
    }
}

fn stretch(worker: &Worker<'_>, job: &Job, stored: &[StateRecord], at: usize) -> Result<Stretch> {
    let (before, end) = (at.checked_sub(1).map(|at| &stored[at]), &stored[at]);
    let (from, to) = (before.map_or(0, |s| s.epoch), end.epoch);
    if worker.context.point(job.point).parsed.stage.reads().files {
        let CheckedStretch { difference, epoch, incomplete, pair } = programs::check_stretch(worker, job, stored, at)?;
        return Ok(Stretch { from, to, difference, epoch, incomplete, pair });
    }
    let start = before.map(|s| worker.context.store.read_state(s)).transpose()?;
    let replay = Replay {
        start: start.map(|tensors| Saved { position: Position { epoch: from, step: 0 }, tensors }),
        end: Position { epoch: end.epoch, step: 0 },
        interrupted: worker.context.cancel,
        stop: Cancel::default(),
        reached: Mutex::default(),
    };
    let damaged = Arc::default();
    let ran = worker.run_stage(job, &damaged, StageChain::Replay(&replay), &replay.stop);
    let reached = replay.reached.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some(again) = reached else {
        // Interrupted by the user, or failed.
        return Err(match ran {
            Err(error) => error.into(),
            Ok(_) => StageError::failed("the stage did not save the requested state").into(),
        });
    };
    let difference = difference::of_states(&worker.context.store.read_state(end)?, &again)?;
    Ok(Stretch { from, to, difference, epoch: None, incomplete: None, pair: None })
}

/// A chain from one state to another. Stops the stage when it saves the second one.
struct Replay<'a> {
    start: Option<Saved>,
    end: Position,
    /// Cancelled if the user interrupts.
    interrupted: &'a Cancel,
    /// Stops the stage.
    stop: Cancel,
    reached: Mutex<Option<BTreeMap<String, Tensor>>>,
}

impl Chain for Replay<'_> {
    fn resume(&self) -> Result<Option<Saved>, Error> {
        Ok(self.start.clone())
    }

    fn due(&self, position: Position) -> Due {
        if self.interrupted.is_cancelled() {
            self.stop.cancel();
        }
        if position == self.end { Due::Stop } else { Due::No }
    }

    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        if position == self.end {
            *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(tensors.clone());
            self.stop.cancel();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_picks_the_same_stretches_out_of_those_available() {
        let pick = |seed, count| Sample { count, seed }.pick("ad", 20);
        assert_eq!(pick(1, 3), pick(1, 3));
        assert_eq!(pick(1, 3).len(), 3);
        assert!((2..9).any(|seed| pick(seed, 3) != pick(1, 3)));
        assert_eq!(pick(5, 99), (0..20).collect());
    }
}
