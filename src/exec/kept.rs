//! Which states of the plan's trainings stay: those their parameters ask for, and those where two of their chains part.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::PointId;
use crate::key::{Components, Digest, InputDigest, Key};
use crate::plan::Planner;
use crate::stage::Epochs;

/// The epochs whose states stay, for each training: those its parameters ask for, and those where two of the plan's chains
/// part. Chains that read the same points with the same parameters are one as far as these agree, whatever the inputs'
/// bytes: points stand in for digests that are not known yet.
pub(crate) fn kept_epochs(planner: &Planner<'_>, order: &[PointId]) -> BTreeMap<PointId, BTreeSet<u64>> {
    let mut chains: BTreeMap<PointId, Vec<Key>> = BTreeMap::new();
    let mut kept: BTreeMap<PointId, BTreeSet<u64>> = BTreeMap::new();
    for &index in order {
        let point = planner.spec.point(index);
        let Some(Epochs { segments, keep }) = point.parsed.stage.epochs() else { continue };
        let inputs = point.inputs.iter().map(|(role, input)| {
            let points: Vec<u8> = input.points().iter().flat_map(|p| p.index().to_le_bytes()).collect();
            (role.clone(), InputDigest::One(Digest::of(&points)))
        });
        let components = Components {
            kind: point.parsed.kind.name().to_owned(),
            version: point.parsed.kind.version(),
            params: point.parsed.params.clone(),
            seed: Some(point.seed),
            precision: None,
            inputs: inputs.collect(),
            contents: BTreeMap::new(),
            segments: Some(segments),
        };
        chains.insert(index, components.states());
        kept.entry(index).or_default().extend(keep);
    }
    for (index, epochs) in branches(&chains) {
        kept.entry(index).or_default().extend(epochs);
    }
    kept
}

/// The epochs at which the chains of several trainings part, for each of them. `chains` gives each training's state keys,
/// made with stand-ins for inputs that are not known yet; equal prefixes are equal keys.
fn branches(chains: &BTreeMap<PointId, Vec<Key>>) -> BTreeMap<PointId, BTreeSet<u64>> {
    let mut successors: BTreeMap<Key, BTreeSet<Option<Key>>> = BTreeMap::new();
    for states in chains.values() {
        for (i, state) in states.iter().enumerate() {
            successors.entry(*state).or_default().insert(states.get(i + 1).copied());
        }
    }
    let parts = |state: &Key| successors.get(state).is_some_and(|s| s.len() > 1);
    chains
        .iter()
        .map(|(point, states)| {
            let epochs = states.iter().enumerate().filter(|(_, s)| parts(s)).map(|(epoch, _)| epoch as u64);
            // State 0 is cheaper to make than to store.
            (*point, epochs.filter(|e| *e > 0).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;

    #[test]
    fn states_where_chains_part_are_found() {
        let key = |name: &str| Digest::of(name.as_bytes());
        let chain = |names: &[&str]| names.iter().map(|n| key(n)).collect::<Vec<_>>();
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
