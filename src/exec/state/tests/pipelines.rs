//! Random pipelines for the simulation.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::exec::resources::{Demand, GPU_PARTS};
use crate::exec::state::Policy;
use crate::exec::state::point::RoleInput;
use crate::id::PointId;
use crate::key::{Digest, Key};
use crate::plan::ResolvedInputs;

/// Threads of the machine.
pub(super) const THREADS: usize = 4;

/// GPUs of the machine.
pub(super) const GPUS: usize = 2;

pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A point of a made-up pipeline.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) roles: Vec<RoleInput>,
    /// Points with the same salt and the same inputs have the same key.
    pub(super) salt: u64,
    /// The epochs of a training, and how many of them it has in common with other trainings on the same inputs.
    pub(super) epochs: Option<(u64, u64)>,
    pub(super) demand: Demand,
    pub(super) fails: bool,
    /// Its output differs each time it is made.
    pub(super) unstable: bool,
}

/// What may go wrong in one simulation.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    pub(super) losses: bool,
    pub(super) others: bool,
    pub(super) lost_workers: bool,
    pub(super) unstable: bool,
    pub(super) failures: bool,
    pub(super) interrupt_after: Option<usize>,
}

impl Trouble {
    /// Whether the outcome must not depend on the order of events.
    pub(super) fn is_deterministic(&self) -> bool {
        self.interrupt_after.is_none() && !self.unstable
    }
}

pub(super) struct Pipeline {
    pub(super) models: Vec<Model>,
    pub(super) members: BTreeSet<PointId>,
    pub(super) policy: Policy,
    pub(super) jobs: usize,
    pub(super) trouble: Trouble,
    /// The points whose results are cached before the run.
    pub(super) cached: Vec<bool>,
}

pub(super) fn pipeline(dice: &mut Dice) -> Pipeline {
    let count = 2 + dice.below(11);
    let trouble = Trouble {
        losses: dice.once_in(3),
        others: dice.once_in(3),
        lost_workers: dice.once_in(6),
        unstable: dice.once_in(5),
        failures: dice.once_in(4),
        interrupt_after: dice.once_in(6).then(|| dice.below(40)),
    };
    let mut models: Vec<Model> = Vec::new();
    for index in 0..count {
        let roles = (0..dice.below(3)).filter(|_| index > 0).map(|_| {
            let members: BTreeSet<usize> = (0..1 + dice.below(3)).map(|_| dice.below(index)).collect();
            let members = members.into_iter().map(PointId::new).collect();
            RoleInput { members, skips_missing: dice.once_in(2) }
        });
        let roles: Vec<RoleInput> = roles.collect();
        let threads = [0, 1, 2, THREADS][dice.below(4)];
        let gpu = if dice.once_in(6) { [1, GPU_PARTS / 2, GPU_PARTS][dice.below(3)] } else { 0 };
        let gpus = if gpu == 0 && dice.once_in(4) { 1 + dice.below(GPUS) } else { 0 };
        let salt = if dice.once_in(4) { 0 } else { index as u64 };
        let epochs = dice.once_in(3).then(|| (2 + dice.below(3) as u64, dice.below(4) as u64));
        // Points that may have the same key must behave the same.
        let is_own = salt > 0 && epochs.is_none_or(|(epochs, common)| common < epochs);
        models.push(Model {
            roles,
            salt,
            epochs,
            demand: Demand { threads, gpu, gpus, memory: 0 },
            fails: is_own && trouble.failures && dice.once_in(6),
            unstable: is_own && trouble.unstable && dice.once_in(3),
        });
    }
    // A pruned sweep: trainings that read points before it, or nothing.
    let mut members = BTreeSet::new();
    if dice.once_in(2) {
        let roles = models[0].roles.clone();
        let first = 1 + dice.below(count - 1);
        models[0] = Model { salt: 99, unstable: trouble.unstable, fails: false, ..models[0].clone() };
        let last = count.min(first + 2 + dice.below(5));
        for (index, model) in models.iter_mut().enumerate().take(last).skip(first) {
            let inputs = match dice.below(4) {
                0 | 1 => vec![role(&[0], dice.once_in(2))],
                2 => vec![role(&[0, dice.below(first)], true)],
                _ => roles.clone(),
            };
            *model = Model { roles: inputs, salt: index as u64, epochs: Some((4, 0)), ..model.clone() };
            members.insert(PointId::new(index));
        }
    }
    if let Some(member) = members.last().filter(|_| trouble.failures && dice.once_in(2)) {
        skipped_then_pruned(&mut models, member.index());
    }
    let count = models.len();
    let forced = PointId::first(count).filter(|_| dice.once_in(12)).collect();
    let policy = Policy { forced, keep_going: dice.once_in(2), wait: !dice.once_in(4) };
    let cached = (0..count).map(|_| dice.once_in(5)).collect();
    Pipeline { models, members, policy, jobs: 1 + dice.below(4), trouble, cached }
}

fn role(members: &[usize], skips_missing: bool) -> RoleInput {
    let members: BTreeSet<PointId> = members.iter().copied().map(PointId::new).collect();
    RoleInput { members: members.into_iter().collect(), skips_missing }
}

/// Adds a point that is skipped because of a failure, and pruned when `member` is. A reader of that point then has a
/// result after all, and what does without the reader starts over.
fn skipped_then_pruned(models: &mut Vec<Model>, member: usize) {
    let next = models.len();
    let roles = [
        vec![],
        vec![role(&[next], false), role(&[member], false)],
        vec![role(&[0, next + 1], false)],
        vec![role(&[0, next + 2], true)],
        vec![role(&[next + 2], true)],
        vec![role(&[next + 3, next + 4], false)],
    ];
    for (index, roles) in roles.into_iter().enumerate() {
        let salt = (next + index) as u64;
        let demand = Demand::default();
        models.push(Model { roles, salt, epochs: None, demand, fails: index == 0, unstable: false });
    }
}

pub(super) fn hash(parts: &[&[u8]]) -> Digest {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(*part);
    }
    Digest::of(&bytes)
}

pub(super) fn keys(model: &Model, index: PointId, inputs: &ResolvedInputs) -> (Key, Vec<Key>) {
    let mut parts = Vec::new();
    for role in &model.roles {
        let digests = role.members.iter().filter_map(|p| inputs.outputs.get(p));
        parts.push(hash(&digests.map(|d| d.0.as_slice()).collect::<Vec<_>>()));
    }
    let inputs = hash(&parts.iter().map(|d| d.0.as_slice()).collect::<Vec<_>>());
    let Some((epochs, common)) = model.epochs else {
        return (hash(&[b"stage", &model.salt.to_le_bytes(), &inputs.0]), Vec::new());
    };
    let own = (model.salt << 8 | index.index() as u64).to_le_bytes();
    let mut chain = vec![hash(&[b"init", &inputs.0])];
    for epoch in 1..=epochs {
        let parameter: &[u8] = if epoch <= common { b"common" } else { &own };
        let next = hash(&[&chain[chain.len() - 1].0, parameter]);
        chain.push(next);
    }
    (chain[chain.len() - 1], chain)
}

pub(super) fn curve(chain: &[Key], epochs: u64) -> Vec<f64> {
    let figure = |key: &Key| f64::from(key.0[0] % 5);
    chain.iter().skip(1).take(epochs as usize).map(figure).collect()
}
