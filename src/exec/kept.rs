//! Which states of trainings are kept: those that parameters request, and those after which two chains branch.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::PointId;
use crate::key::{Components, Digest, InputDigest, Key, StateChain};
use crate::plan::Planner;
use crate::stage::Epochs;

/// The epochs after which the state of each training is kept. Digests of inputs may be unknown, so a digest of the ids
/// of the inputs replaces them: chains that read the same points with the same parameters are equal.
pub(crate) fn kept_epochs(planner: &Planner<'_>, order: &[PointId]) -> BTreeMap<PointId, BTreeSet<u64>> {
    let mut chains: BTreeMap<PointId, StateChain> = BTreeMap::new();
    let mut kept: BTreeMap<PointId, BTreeSet<u64>> = BTreeMap::new();
    let mut spacing: BTreeMap<PointId, u64> = BTreeMap::new();
    for &index in order {
        let point = planner.spec.point(index);
        let Some(Epochs { segments, keep, every, .. }) = point.parsed.stage.epochs() else { continue };
        let inputs = point.inputs.iter().map(|(role, input)| {
            let points: Vec<u8> = input.points().iter().flat_map(|p| p.index().to_le_bytes()).collect();
            (role.clone(), InputDigest::One(Digest::of(&points)))
        });
        let components = Components {
            kind: point.parsed.kind.name().to_owned(),
            version: planner.spec.version(point),
            params: point.parsed.params.clone(),
            seed: Some(point.seed),
            inputs: inputs.collect(),
            segments: Some(segments),
            ..Components::default()
        };
        chains.insert(index, components.chain());
        spacing.insert(index, every);
        kept.entry(index).or_default().extend(keep);
    }
    for (index, epochs) in branches(&chains) {
        // The other chain continues from the last state before the branch.
        let every = spacing.get(&index).copied().unwrap_or(1).max(1);
        let states = epochs.into_iter().map(|epoch| epoch - epoch % every).filter(|epoch| *epoch > 0);
        kept.entry(index).or_default().extend(states);
    }
    kept
}

/// For each training the epochs after which another chain branches from its chain.
fn branches(chains: &BTreeMap<PointId, StateChain>) -> BTreeMap<PointId, BTreeSet<u64>> {
    let mut successors: BTreeMap<Key, BTreeSet<Option<Key>>> = BTreeMap::new();
    for chain in chains.values() {
        for (epoch, state) in (0..).zip(chain.keys()) {
            successors.entry(*state).or_default().insert(chain.at(epoch + 1));
        }
    }
    let is_branch = |state: &Key| successors.get(state).is_some_and(|s| s.len() > 1);
    let branches_of = |chain: &StateChain| {
        let epochs = (0..).zip(chain.keys()).filter(|(_, state)| is_branch(state)).map(|(epoch, _)| epoch);
        // The initial state is cheaper to make than to store.
        epochs.filter(|epoch| *epoch > 0).collect()
    };
    chains.iter().map(|(point, chain)| (*point, branches_of(chain))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;

    #[test]
    fn states_after_which_chains_branch_are_kept() {
        let key = |name: &str| Digest::of(name.as_bytes());
        let chain = |names: &[&str]| StateChain::of(names.iter().map(|n| key(n)).collect());
        let chains = BTreeMap::from([
            (PointId::new(0), chain(&["init", "a", "b", "c"])),
            (PointId::new(1), chain(&["init", "a", "b", "d"])),
            (PointId::new(2), chain(&["init", "a"])),
            (PointId::new(3), chain(&["other", "x"])),
        ]);
        let branches = branches(&chains);
        assert_eq!(branches[&PointId::new(0)], BTreeSet::from([1, 2]));
        assert_eq!(branches[&PointId::new(1)], BTreeSet::from([1, 2]));
        assert_eq!(branches[&PointId::new(2)], BTreeSet::from([1]));
        assert_eq!(branches[&PointId::new(3)], BTreeSet::new());
    }
}
