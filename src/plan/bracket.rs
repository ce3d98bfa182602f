//! Early stopping of points of a sweep: asynchronous successive halving (ASHA, Li et al. 2020), as a pure function of
//! stored states.
//!
//! # Definition
//! The points of the stage that `metric` names form a *bracket*, in plan order. All of them reach the first rung. For a
//! point p that reached rung r, take all points up to p in plan order that reached r, including p. Let n be their
//! number and k = ⌈n / reduction⌉. If the value of p at r is among the best k of these n values, p is *promoted* and
//! reaches the next rung. Of two equal values, that of the earlier point is better. If p is not promoted, it is
//! *pruned*: it stops with its state at r and has no result. A point that failed before r has not reached r. The value
//! is the metric in the last epoch before the rung, read from the history that every state contains.
//!
//! # Consequences
//! - A decision depends only on earlier points in plan order. It is the same whichever point finishes first, on any
//!   number of threads, interrupted or not. It does not change when values are appended to an axis or more samples
//!   are drawn.
//! - The first point is always promoted, and the first `reduction` points are compared with few others, so more of
//!   them are promoted. A sweep whose points come in order from worst to best prunes nothing. Random samples have no
//!   such order.
//! - More than one in `reduction` points is promoted: each point that was among the best of the points up to it, even
//!   if later points are better. Asynchronous halving never reverses a decision, and this is its cost.
//! - A run of some of the points includes the earlier points, because their values are needed.
//!   `-S matrix.prune.rungs=[]` turns pruning off. That is also how to finish a pruned point: it continues from its
//!   rung.
//! - Pruning is not part of any key: states and results of promoted points are those of a sweep without pruning. A
//!   list of inputs leaves out pruned points, so its key is known once their decisions are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::reason::Cause;
use crate::graph::Graph;
use crate::id::PointId;
use crate::spec::{Mode, Prune, Spec};

/// The points of a pruned stage, their values at the rungs, and the decisions about them.
#[derive(Clone, Debug)]
pub struct Bracket {
    /// The metric that is compared.
    pub curve: String,
    mode: Mode,
    reduction: u64,
    rungs: Vec<Rung>,
    /// In plan order.
    members: Vec<Member>,
    /// The index in `members` of each point.
    places: BTreeMap<PointId, usize>,
}

#[derive(Clone, Debug)]
struct Rung {
    epoch: u64,
    /// The first member without a decision at this rung.
    next: usize,
    /// The values that were compared so far, the best first. Negated if large values are better.
    sorted: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Member {
    point: PointId,
    failed: bool,
    /// The value at each rung, if known.
    values: Vec<Option<f64>>,
    /// The decision at each rung, if made.
    decisions: Vec<Option<RungDecision>>,
}

/// The decision about a point at a rung, and what it is based on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RungDecision {
    /// The rung: the number of epochs after which points are compared.
    pub epoch: u64,
    /// The point's value.
    pub value: f64,
    /// The rank of that value, from 1.
    pub place: usize,
    /// How many values were compared, including the point's own.
    pub of: usize,
    /// How many of them are promoted.
    pub best: usize,
    /// Whether this point is promoted.
    pub goes_on: bool,
}

/// How far a point has come in its bracket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RungStatus {
    /// Its value at this rung is not known: it must be trained up to this rung.
    Below {
        /// The rung.
        epoch: u64,
    },
    /// Its value at this rung is known, but some of the values that it is compared with are not.
    Undecided {
        /// The rung.
        epoch: u64,
    },
    /// It was not promoted.
    Pruned(RungDecision),
    /// It was promoted at all rungs, or is not in the bracket: it is trained to its last epoch.
    Promoted,
}

impl Bracket {
    /// A bracket of these points, which are in plan order.
    pub fn new(prune: &Prune, points: impl IntoIterator<Item = PointId>) -> Self {
        let count = prune.rungs.len();
        let member = |point| Member { point, failed: false, values: vec![None; count], decisions: vec![None; count] };
        let members: Vec<Member> = points.into_iter().map(member).collect();
        Self {
            curve: prune.curve.clone(),
            mode: prune.mode,
            reduction: prune.reduction,
            rungs: prune.rungs.iter().map(|epoch| Rung { epoch: *epoch, next: 0, sorted: vec![] }).collect(),
            places: members.iter().enumerate().map(|(place, m)| (m.point, place)).collect(),
            members,
        }
    }

    /// The bracket of the requested points, if the pipeline prunes a sweep.
    pub fn of(spec: &Spec, graph: &Graph, wanted: &BTreeSet<PointId>) -> Option<Self> {
        let prune = spec.prune.as_ref()?;
        let range = &spec.stage(prune.stage).points;
        let points = graph.order().iter().copied().filter(|p| range.contains(p) && wanted.contains(p));
        Some(Self::new(prune, points))
    }

    /// The points of the bracket, in plan order.
    pub fn points(&self) -> impl Iterator<Item = PointId> {
        self.members.iter().map(|member| member.point)
    }

    /// Whether a point is in the bracket.
    pub fn contains(&self, point: PointId) -> bool {
        self.places.contains_key(&point)
    }

    /// Records a point's metric for its first epochs. Values that are already known are kept.
    pub fn record(&mut self, point: PointId, curve: &[f64]) {
        let Some(place) = self.places.get(&point) else { return };
        let values = &mut self.members[*place].values;
        for (rung, value) in self.rungs.iter().zip(values) {
            let at = usize::try_from(rung.epoch).unwrap_or(usize::MAX) - 1;
            *value = value.or_else(|| curve.get(at).copied());
        }
    }

    /// Records that a point failed and will reach no further rung.
    pub fn fail(&mut self, point: PointId) {
        if let Some(place) = self.places.get(&point) {
            self.members[*place].failed = true;
        }
    }

    /// Discards the values of these points, whose training data changed, and all decisions.
    pub fn discard(&mut self, points: &BTreeSet<PointId>) {
        for member in &mut self.members {
            member.decisions.fill(None);
            if points.contains(&member.point) {
                member.values.fill(None);
            }
        }
        for rung in &mut self.rungs {
            (rung.next, rung.sorted) = (0, vec![]);
        }
    }

    /// The status of a point, after all decisions that the known values allow.
    pub fn status(&mut self, point: PointId) -> RungStatus {
        self.decide();
        let Some(place) = self.places.get(&point) else { return RungStatus::Promoted };
        let Member { values, decisions, .. } = &self.members[*place];
        for ((rung, value), decision) in self.rungs.iter().zip(values).zip(decisions) {
            match decision {
                Some(decision) if decision.goes_on => {}
                Some(decision) => return RungStatus::Pruned(*decision),
                None if value.is_none() => return RungStatus::Below { epoch: rung.epoch },
                None => return RungStatus::Undecided { epoch: rung.epoch },
            }
        }
        RungStatus::Promoted
    }

    /// The decisions about a point, in the order of the rungs.
    pub fn decisions(&self, point: PointId) -> Vec<RungDecision> {
        let place = self.places.get(&point);
        place.map(|place| self.members[*place].decisions.iter().flatten().copied().collect()).unwrap_or_default()
    }

    /// The points and values that were compared in the decision about a point at a rung, in plan order. The point
    /// itself is the last.
    pub fn compared(&self, point: PointId, epoch: u64) -> Vec<(PointId, f64)> {
        let (Some(place), Some(rung)) =
            (self.places.get(&point), self.rungs.iter().position(|rung| rung.epoch == epoch))
        else {
            return vec![];
        };
        let value = |m: &Member| Some((m.point, m.decisions[rung]?.value));
        self.members[..=*place].iter().filter_map(value).collect()
    }

    /// The reason that a pruned point gets.
    pub fn cause(&self, decision: &RungDecision) -> Cause {
        let RungDecision { epoch, value, place, of, best, .. } = *decision;
        Cause::Pruned { epoch, figure: self.curve.clone(), value, place, of, best }
    }

    /// Decides at each rung about the members in plan order, up to the first member whose value is missing.
    fn decide(&mut self) {
        for at in 0..self.rungs.len() {
            let Rung { epoch, next, sorted } = &mut self.rungs[at];
            while let Some(member) = self.members.get_mut(*next) {
                let reached = at == 0 || member.decisions[at - 1].is_some_and(|d| d.goes_on);
                let pruned_below = member.decisions[..at].iter().flatten().any(|d| !d.goes_on);
                match member.values[at].filter(|_| reached) {
                    Some(value) => {
                        let key = match self.mode {
                            // Ranks last.
                            _ if value.is_nan() => f64::INFINITY,
                            Mode::Max => -value,
                            Mode::Min => value,
                        };
                        let before = sorted.partition_point(|other| *other <= key);
                        sorted.insert(before, key);
                        let (place, of) = (before + 1, sorted.len());
                        let best = of.div_ceil(usize::try_from(self.reduction).unwrap_or(usize::MAX));
                        let goes_on = place <= best;
                        member.decisions[at] = Some(RungDecision { epoch: *epoch, value, place, of, best, goes_on });
                    }
                    None if pruned_below || member.failed => {}
                    None => break,
                }
                *next += 1;
            }
        }
    }
}

/// The requested points, the points before them in their bracket, and everything that those depend on.
pub fn with_earlier_points<'a>(
    spec: &Spec,
    graph: &Graph,
    wanted: &'a BTreeSet<PointId>,
) -> Cow<'a, BTreeSet<PointId>> {
    let Some(prune) = &spec.prune else { return Cow::Borrowed(wanted) };
    let mut all = wanted.clone();
    let range = &spec.stage(prune.stage).points;
    let members: Vec<PointId> = graph.order().iter().copied().filter(|p| range.contains(p)).collect();
    if let Some(last) = members.iter().rposition(|p| wanted.contains(p)) {
        all.extend(graph.upstream(members[..=last].iter().copied()));
    }
    Cow::Owned(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StageId;
    use proptest::prelude::*;

    fn p(index: usize) -> PointId {
        PointId::new(index)
    }

    fn prune(rungs: &[u64], reduction: u64, mode: Mode) -> Prune {
        Prune { stage: StageId::new(0), curve: "loss".to_owned(), mode, rungs: rungs.to_vec(), reduction }
    }

    /// The rung at which each point is pruned, if it is.
    fn ends(bracket: &mut Bracket, points: usize) -> Vec<Option<u64>> {
        let end = |p| match bracket.status(p) {
            RungStatus::Pruned(decision) => Some(decision.epoch),
            RungStatus::Promoted => None,
            other => panic!("{p}: {other:?}"),
        };
        PointId::first(points).map(end).collect()
    }

    #[test]
    fn first_point_is_promoted_and_each_point_is_compared_with_earlier_ones() {
        let mut bracket = Bracket::new(&prune(&[1], 3, Mode::Min), PointId::first(5));
        for (point, value) in [0.5, 0.6, 0.4, 0.45, 0.5].into_iter().enumerate() {
            bracket.record(p(point), &[value]);
        }
        // Two of four are promoted, and 0.45 is the second of 0.4, 0.45, 0.5, 0.6. The last value equals the first,
        // so it ranks below.
        assert_eq!(ends(&mut bracket, 5), [None, Some(1), None, None, Some(1)]);
        let last = RungDecision { epoch: 1, value: 0.5, place: 4, of: 5, best: 2, goes_on: false };
        assert_eq!(bracket.decisions(p(4)), [last]);
        assert_eq!(bracket.compared(p(2), 1), [(p(0), 0.5), (p(1), 0.6), (p(2), 0.4)]);
    }

    #[test]
    fn nan_ranks_last() {
        for (mode, good) in [(Mode::Min, [0.3, 0.2]), (Mode::Max, [0.2, 0.3])] {
            let mut bracket = Bracket::new(&prune(&[1], 2, mode), PointId::first(4));
            for (point, value) in [good[0], f64::NAN, good[1], f64::NAN].into_iter().enumerate() {
                bracket.record(p(point), &[value]);
            }
            assert_eq!(ends(&mut bracket, 4), [None, Some(1), None, Some(1)]);
        }
    }

    #[test]
    fn decision_needs_the_values_of_earlier_points_only() {
        let mut bracket = Bracket::new(&prune(&[1, 3], 2, Mode::Max), PointId::first(3));
        bracket.record(p(1), &[5.0]);
        assert_eq!(bracket.status(p(1)), RungStatus::Undecided { epoch: 1 });
        assert_eq!(bracket.status(p(0)), RungStatus::Below { epoch: 1 });
        bracket.record(p(0), &[1.0]);
        assert_eq!(bracket.status(p(1)), RungStatus::Below { epoch: 3 }, "it is better, so it is promoted");
        bracket.record(p(1), &[5.0, 5.0, 9.0]);
        assert_eq!(
            bracket.status(p(1)),
            RungStatus::Undecided { epoch: 3 },
            "the first point is promoted, too, and its value is missing"
        );
        bracket.fail(p(0));
        assert_eq!(bracket.status(p(1)), RungStatus::Promoted, "a failed point is not compared");
        assert_eq!(bracket.status(p(2)), RungStatus::Below { epoch: 1 });
    }

    #[test]
    fn point_pruned_at_first_rung_does_not_block_third() {
        let mut bracket = Bracket::new(&prune(&[1, 2, 4], 2, Mode::Min), PointId::first(3));
        for (point, curve) in [[0.0, 4.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0; 4]].iter().enumerate() {
            bracket.record(p(point), curve);
        }
        // At the third rung the last value equals the first, so it ranks below.
        assert_eq!(ends(&mut bracket, 3), [None, Some(1), Some(4)]);
    }

    #[test]
    fn discarding_values_resets_decisions_but_not_failures() {
        let mut bracket = Bracket::new(&prune(&[1], 2, Mode::Min), PointId::first(4));
        [(0, 0.5), (1, 0.6), (3, 0.7)].into_iter().for_each(|(point, value)| bracket.record(p(point), &[value]));
        bracket.fail(p(2));
        assert!(
            matches!(bracket.status(p(1)), RungStatus::Pruned(_))
                && matches!(bracket.status(p(3)), RungStatus::Pruned(_))
        );
        bracket.discard(&BTreeSet::from([p(0)]));
        assert_eq!(bracket.status(p(0)), RungStatus::Below { epoch: 1 });
        assert_eq!(bracket.status(p(1)), RungStatus::Undecided { epoch: 1 });
        bracket.record(p(0), &[0.9]);
        assert_eq!(bracket.status(p(1)), RungStatus::Promoted);
        assert_eq!(bracket.compared(p(3), 1), [(p(0), 0.9), (p(1), 0.6), (p(3), 0.7)]);
    }

    /// A direct implementation of the definition at the top of this file.
    fn by_definition(curves: &[Vec<f64>], rungs: &[u64], reduction: u64) -> Vec<Option<u64>> {
        let mut end = vec![None; curves.len()];
        let mut reached: Vec<usize> = (0..curves.len()).collect();
        for rung in rungs {
            let value = |p: usize| curves[p][*rung as usize - 1];
            let is_promoted = |p: usize| {
                let group: Vec<usize> = reached.iter().copied().filter(|q| *q <= p).collect();
                let better = group.iter().filter(|q| (value(**q), **q) < (value(p), p)).count();
                better < group.len().div_ceil(reduction as usize)
            };
            let (on, out): (Vec<usize>, Vec<usize>) = reached.iter().partition(|p| is_promoted(**p));
            out.into_iter().for_each(|p| end[p] = Some(*rung));
            reached = on;
        }
        end
    }

    proptest! {
        #[test]
        fn decisions_follow_the_definition_in_any_order_of_values(
            curves in prop::collection::vec(prop::collection::vec((0u8..6).prop_map(f64::from), 4), 1..14),
            reduction in 2u64..5,
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let rungs = [1, 2, 4];
            let mut bracket = Bracket::new(&prune(&rungs, reduction, Mode::Min), PointId::first(curves.len()));
            for index in order {
                let point = index.index(curves.len());
                bracket.record(p(point), &curves[point][..1]);
                let _ = bracket.status(p(point));
            }
            for (point, curve) in curves.iter().enumerate().rev() {
                bracket.record(p(point), curve);
                let _ = bracket.status(p(point));
            }
            prop_assert_eq!(ends(&mut bracket, curves.len()), by_definition(&curves, &rungs, reduction));
        }
    }
}
