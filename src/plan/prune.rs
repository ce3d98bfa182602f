//! Early stopping across the points of a sweep: asynchronous successive halving (ASHA, Li et al. 2020), made a pure
//! function of states.
//!
//! # Definition
//! The points of the stage that `metric` names stand in plan order. All of them *reach* the first rung. Of the points up to
//! and including p that reached rung r, let n be their number and k = ⌈n / reduction⌉. p *goes on* past r if its value there
//! is among the best k of these n values, where of equal values the earlier point's is the better one; then it reaches the
//! next rung. Else it is *pruned*: it ends with its state at r and has no result. A point that failed before it was at r has
//! not reached r. A value is the figure of the last epoch before the rung, from the history that every state carries.
//!
//! # What follows
//! - A decision reads only points before it in plan order. So it is the same whatever finishes first, on one thread or on
//!   many, interrupted or not, and it never changes when values are added at the end of an axis, or more samples drawn.
//! - The first point always goes on, and the first `reduction` points are compared with few: k of n is generous there. A
//!   sweep whose points come from the worst to the best prunes nothing. An order without tendency is best: samples.
//! - More than one of `reduction` points goes on: each point that was among the best when its turn came, even if better
//!   ones followed. It is what an asynchronous scheme costs, and it never takes a decision back.
//! - Whoever selects some points gets those before them, too: their values are needed. `-S matrix.prune.rungs=[]` prunes
//!   nothing, and is the way to train a pruned point, which then goes on from its rung.
//! - Pruning is in no key: the states and results of points that go on are those of a sweep without it. What gathers points
//!   gathers those that are left, so its key is known when their decisions are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Cause, Decision, Planner, Read, Reason, ResolvedInputs, State};
use crate::artifact::TensorEntry;
use crate::error::{Category, Error, Result};
use crate::graph::Graph;
use crate::id::PointId;
use crate::key::Components;
use crate::spec::{Mode, PointInput, Prune, Spec};
use crate::store::StoreError;

/// The points of a pruned stage with what is known of them.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The figure that is compared.
    pub curve: String,
    mode: Mode,
    reduction: u64,
    rungs: Vec<Rung>,
    members: Vec<Member>,
    places: BTreeMap<PointId, usize>,
}

#[derive(Clone, Debug)]
struct Rung {
    epoch: u64,
    /// The first member that is not judged here yet.
    next: usize,
    /// The values of those that were, ascending, the best first.
    sorted: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Member {
    point: PointId,
    failed: bool,
    /// By rung.
    values: Vec<Option<f64>>,
    /// By rung.
    verdicts: Vec<Option<Verdict>>,
}

/// What was decided about a point at a rung, and from what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The rung: the epochs after which points are compared.
    pub epoch: u64,
    /// The point's own figure.
    pub value: f64,
    /// Its place among the figures, from 1.
    pub place: usize,
    /// How many figures there were, its own among them.
    pub of: usize,
    /// How many of them go on.
    pub best: usize,
    /// Whether it goes on.
    pub goes_on: bool,
}

/// How a point stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// Its figure at this rung is not known: it has to be trained that far.
    Below {
        /// The rung.
        epoch: u64,
    },
    /// Its own figure is known, but not all of those that it is compared with.
    Undecided {
        /// The rung.
        epoch: u64,
    },
    /// It ends here.
    Pruned(Verdict),
    /// It is trained to its end.
    GoesOn,
}

impl Ladder {
    /// A ladder for these points, which stand in plan order.
    pub fn new(prune: &Prune, points: impl IntoIterator<Item = PointId>) -> Self {
        let count = prune.rungs.len();
        let member = |point| Member { point, failed: false, values: vec![None; count], verdicts: vec![None; count] };
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

    /// The ladder of what is wanted, if the pipeline prunes.
    pub fn of(spec: &Spec, graph: &Graph, wanted: &BTreeSet<PointId>) -> Option<Self> {
        let prune = spec.prune.as_ref()?;
        let range = &spec.stage(prune.stage).points;
        let points = graph.order().iter().copied().filter(|p| range.contains(p) && wanted.contains(p));
        Some(Self::new(prune, points))
    }

    /// The points that are compared, in plan order.
    pub fn points(&self) -> impl Iterator<Item = PointId> {
        self.members.iter().map(|member| member.point)
    }

    /// Whether it is a point of the pruned stage.
    pub fn has(&self, point: PointId) -> bool {
        self.places.contains_key(&point)
    }

    /// The curve of a point so far: as much of it as is known.
    pub fn tell(&mut self, point: PointId, curve: &[f64]) {
        let Some(place) = self.places.get(&point) else { return };
        let values = &mut self.members[*place].values;
        for (rung, value) in self.rungs.iter().zip(values) {
            let at = usize::try_from(rung.epoch).unwrap_or(usize::MAX) - 1;
            *value = value.or_else(|| curve.get(at).copied());
        }
    }

    /// A point will never get further than it is.
    pub fn fail(&mut self, point: PointId) {
        if let Some(place) = self.places.get(&point) {
            self.members[*place].failed = true;
        }
    }

    /// The figures of these points count no more, since what they were trained on changed: all is judged anew.
    pub fn forget(&mut self, points: &BTreeSet<PointId>) {
        for member in &mut self.members {
            member.verdicts.fill(None);
            if points.contains(&member.point) {
                member.values.fill(None);
            }
        }
        for rung in &mut self.rungs {
            (rung.next, rung.sorted) = (0, vec![]);
        }
    }

    /// How a point stands, as far as is known by now.
    pub fn standing(&mut self, point: PointId) -> Standing {
        self.judge();
        let Some(place) = self.places.get(&point) else { return Standing::GoesOn };
        let Member { values, verdicts, .. } = &self.members[*place];
        for ((rung, value), verdict) in self.rungs.iter().zip(values).zip(verdicts) {
            match verdict {
                Some(verdict) if verdict.goes_on => {}
                Some(verdict) => return Standing::Pruned(*verdict),
                None if value.is_none() => return Standing::Below { epoch: rung.epoch },
                None => return Standing::Undecided { epoch: rung.epoch },
            }
        }
        Standing::GoesOn
    }

    /// What was decided about a point, rung by rung.
    pub fn verdicts(&self, point: PointId) -> Vec<Verdict> {
        let place = self.places.get(&point);
        place.map(|place| self.members[*place].verdicts.iter().flatten().copied().collect()).unwrap_or_default()
    }

    /// The figures that a point was compared with at a rung, its own the last: points in plan order.
    pub fn compared(&self, point: PointId, epoch: u64) -> Vec<(PointId, f64)> {
        let (Some(place), Some(rung)) =
            (self.places.get(&point), self.rungs.iter().position(|rung| rung.epoch == epoch))
        else {
            return vec![];
        };
        let figure = |m: &Member| Some((m.point, m.verdicts[rung]?.value));
        self.members[..=*place].iter().filter_map(figure).collect()
    }

    /// Why a point ends where it does.
    pub fn cause(&self, verdict: &Verdict) -> Cause {
        let Verdict { epoch, value, place, of, best, .. } = *verdict;
        Cause::Pruned { epoch, figure: self.curve.clone(), value, place, of, best }
    }

    /// Judges whom it can: at each rung the points in plan order, up to the first of which something is missing.
    fn judge(&mut self) {
        for at in 0..self.rungs.len() {
            let Rung { epoch, next, sorted } = &mut self.rungs[at];
            while let Some(member) = self.members.get_mut(*next) {
                let reached = at == 0 || member.verdicts[at - 1].is_some_and(|v| v.goes_on);
                // Pruned at the rung before, or at any below that.
                let out = member.verdicts[..at].iter().flatten().any(|v| !v.goes_on);
                match member.values[at].filter(|_| reached) {
                    Some(value) => {
                        let key = if self.mode == Mode::Max { -value } else { value };
                        let before = sorted.partition_point(|other| *other <= key);
                        sorted.insert(before, key);
                        let (place, of) = (before + 1, sorted.len());
                        let best = of.div_ceil(usize::try_from(self.reduction).unwrap_or(usize::MAX));
                        let goes_on = place <= best;
                        member.verdicts[at] = Some(Verdict { epoch: *epoch, value, place, of, best, goes_on });
                    }
                    None if out || member.failed => {}
                    None => break,
                }
                *next += 1;
            }
        }
    }
}

/// What is wanted, and with it the points whose figures decide about points that are: those before them in plan order, and
/// all that these need.
pub fn with_rivals<'a>(spec: &Spec, graph: &Graph, wanted: &'a BTreeSet<PointId>) -> Cow<'a, BTreeSet<PointId>> {
    let Some(prune) = &spec.prune else { return Cow::Borrowed(wanted) };
    let mut all = wanted.clone();
    let range = &spec.stage(prune.stage).points;
    let members: Vec<PointId> = graph.order().iter().copied().filter(|p| range.contains(p)).collect();
    if let Some(last) = members.iter().rposition(|p| wanted.contains(p)) {
        all.extend(graph.upstream(members[..=last].iter().copied()));
    }
    Cow::Owned(all)
}

impl Planner<'_> {
    /// The history of a training as far as it is stored: that of its result, or else of its furthest state.
    ///
    /// # Errors
    /// If the store fails.
    pub fn curve(&self, components: &Components, name: &str) -> Result<Vec<f64>> {
        let name = format!("history.{name}");
        if let Some(record) = self.store.result(&components.key())?.filter(|r| !r.damaged)
            && let Some(entry) = record.manifest.tensors.get(&name)
            && let Some(curve) = self.readable(entry)?
        {
            return Ok(curve);
        }
        let states = components.states();
        while let Some(state) = self.store.longest_state(&states, self.numerics)? {
            let Some(entry) = state.tensors.get(&name) else { break };
            // A state that turned out to be damaged is forgotten: the next look finds the one before.
            if let Some(curve) = self.readable(entry)? {
                return Ok(curve);
            }
        }
        Ok(vec![])
    }

    fn readable(&self, entry: &TensorEntry) -> Result<Option<Vec<f64>>> {
        let error = |e| Error::new(Category::StageFailed, "the history of a training is no list of f64").caused_by(e);
        match self.store.read_tensor(entry) {
            Ok(tensor) => tensor.to_vec::<f64>().map(Some).map_err(error),
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Decisions in plan order where some points are compared: each look at the index is for one point, since figures are
    /// read between.
    pub(super) fn decide_and_judge(&self, points: &[Read], ladder: &mut Ladder) -> Result<Vec<Decision>> {
        let mut known = ResolvedInputs::default();
        // With results that pruning has yet to have its say about: what reads one of them, and is there, can be read, too.
        let mut stored = ResolvedInputs::default();
        let mut decisions = Vec::with_capacity(points.len());
        for (point, contents) in points {
            let decision = match contents {
                _ if known.has_only_pruned_inputs(self.spec.point(*point)) => self.left_out(*point, &known),
                Some(contents) => {
                    let decide = |known: &ResolvedInputs| {
                        self.store.look(|look| self.decide_with(look, *point, known, contents))
                    };
                    let mut decision = decide(&known)?;
                    if decision.key.is_none() && self.reads_one_by_one(*point, &known, &stored) {
                        let there = decide(&stored)?;
                        if there.output.is_some() {
                            decision = Decision { state: State::Maybe, reason: decision.reason, ..there };
                        }
                    }
                    self.judged(decision, ladder)?
                }
                None => Decision::miss(*point, None),
            };
            known.take(&decision);
            stored.take(&decision);
            stored.outputs.extend(decision.output.map(|output| (*point, output)));
            decisions.push(decision);
        }
        Ok(decisions)
    }

    /// Whether what is stored and not yet decided enters a point as single inputs only: a list may yet lose members.
    fn reads_one_by_one(&self, point: PointId, known: &ResolvedInputs, stored: &ResolvedInputs) -> bool {
        let undecided = |p: &PointId| stored.outputs.contains_key(p) && !known.is_settled(*p);
        let lists = self.spec.point(point).inputs.values().filter(|input| matches!(input, PointInput::Many(_)));
        stored.outputs.len() > known.outputs.len() && !lists.flat_map(PointInput::points).any(undecided)
    }

    /// A decision with what pruning says to it.
    fn judged(&self, decision: Decision, ladder: &mut Ladder) -> Result<Decision> {
        let Some(components) = &decision.components else { return Ok(decision) };
        let point = decision.point;
        if !ladder.has(point) {
            return Ok(decision);
        }
        ladder.tell(point, &self.curve(components, &ladder.curve)?);
        let mut causes = decision.reason.as_ref().map(|r| r.causes.clone()).unwrap_or_default();
        let state = match ladder.standing(point) {
            Standing::GoesOn => return Ok(decision),
            Standing::Pruned(verdict) => {
                causes = vec![ladder.cause(&verdict)];
                State::Pruned
            }
            Standing::Below { epoch } => {
                causes.push(Cause::Compared { epoch });
                State::Miss
            }
            Standing::Undecided { epoch } => {
                causes.push(Cause::Compared { epoch });
                // A result that is there stays to be read: another point has failed, say, or was put in before it.
                return Ok(Decision { state: State::Maybe, reason: Some(Reason::new(causes)), ..decision });
            }
        };
        Ok(Decision { state, output: None, reason: Some(Reason::new(causes)), ..decision })
    }

    /// The decision about a point that hangs on pruned points only.
    fn left_out(&self, point: PointId, known: &ResolvedInputs) -> Decision {
        let reason = Reason::new(vec![self.cause_of_leaving_out(point, known)]);
        Decision { state: State::Pruned, ..Decision::miss(point, Some(reason)) }
    }

    /// Why a point that hangs on pruned points only is left out.
    pub(crate) fn cause_of_leaving_out(&self, point: PointId, known: &ResolvedInputs) -> Cause {
        let inputs = self.spec.point(point).inputs.values().flat_map(PointInput::points);
        let pruned = inputs.filter(|p| known.pruned.contains(p));
        Cause::LeftOut { stages: pruned.map(|p| self.spec.point(*p).name.clone()).collect() }
    }
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

    /// Where each point ends: the rung, or nothing.
    fn ends(ladder: &mut Ladder, points: usize) -> Vec<Option<u64>> {
        let end = |p| match ladder.standing(p) {
            Standing::Pruned(verdict) => Some(verdict.epoch),
            Standing::GoesOn => None,
            other => panic!("{p}: {other:?}"),
        };
        PointId::first(points).map(end).collect()
    }

    #[test]
    fn the_first_goes_on_and_each_is_compared_with_those_before_it() {
        let mut ladder = Ladder::new(&prune(&[1], 3, Mode::Min), PointId::first(5));
        for (point, value) in [0.5, 0.6, 0.4, 0.45, 0.5].into_iter().enumerate() {
            ladder.tell(p(point), &[value]);
        }
        // Of four, two go on: 0.45 is the second of 0.4, 0.45, 0.5, 0.6. The last equals the first, which stands before it.
        assert_eq!(ends(&mut ladder, 5), [None, Some(1), None, None, Some(1)]);
        let last = Verdict { epoch: 1, value: 0.5, place: 4, of: 5, best: 2, goes_on: false };
        assert_eq!(ladder.verdicts(p(4)), [last]);
        assert_eq!(ladder.compared(p(2), 1), [(p(0), 0.5), (p(1), 0.6), (p(2), 0.4)]);
    }

    #[test]
    fn a_point_waits_for_those_before_it_and_not_for_those_behind() {
        let mut ladder = Ladder::new(&prune(&[1, 3], 2, Mode::Max), PointId::first(3));
        ladder.tell(p(1), &[5.0]);
        assert_eq!(ladder.standing(p(1)), Standing::Undecided { epoch: 1 });
        assert_eq!(ladder.standing(p(0)), Standing::Below { epoch: 1 });
        ladder.tell(p(0), &[1.0]);
        assert_eq!(ladder.standing(p(1)), Standing::Below { epoch: 3 }, "it is better, and goes on to the next rung");
        ladder.tell(p(1), &[5.0, 5.0, 9.0]);
        assert_eq!(ladder.standing(p(1)), Standing::Undecided { epoch: 3 }, "the first goes on, too");
        ladder.fail(p(0));
        assert_eq!(ladder.standing(p(1)), Standing::GoesOn, "one that failed is not waited for");
        assert_eq!(ladder.standing(p(2)), Standing::Below { epoch: 1 });
    }

    #[test]
    fn who_was_pruned_at_the_first_rung_keeps_nobody_waiting_at_the_third() {
        let mut ladder = Ladder::new(&prune(&[1, 2, 4], 2, Mode::Min), PointId::first(3));
        for (point, curve) in [[0.0, 4.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0; 4]].iter().enumerate() {
            ladder.tell(p(point), curve);
        }
        // At the third the last equals the first, which stands before it.
        assert_eq!(ends(&mut ladder, 3), [None, Some(1), Some(4)]);
    }

    #[test]
    fn what_is_forgotten_is_judged_anew_and_what_failed_stays_so() {
        let mut ladder = Ladder::new(&prune(&[1], 2, Mode::Min), PointId::first(4));
        [(0, 0.5), (1, 0.6), (3, 0.7)].into_iter().for_each(|(point, value)| ladder.tell(p(point), &[value]));
        ladder.fail(p(2));
        assert!(
            matches!(ladder.standing(p(1)), Standing::Pruned(_))
                && matches!(ladder.standing(p(3)), Standing::Pruned(_))
        );
        ladder.forget(&BTreeSet::from([p(0)]));
        assert_eq!(ladder.standing(p(0)), Standing::Below { epoch: 1 });
        assert_eq!(ladder.standing(p(1)), Standing::Undecided { epoch: 1 });
        ladder.tell(p(0), &[0.9]);
        assert_eq!(ladder.standing(p(1)), Standing::GoesOn);
        assert_eq!(ladder.compared(p(3), 1), [(p(0), 0.9), (p(1), 0.6), (p(3), 0.7)]);
    }

    /// The definition at the top of this file, word by word.
    fn by_definition(curves: &[Vec<f64>], rungs: &[u64], reduction: u64) -> Vec<Option<u64>> {
        let mut end = vec![None; curves.len()];
        let mut reached: Vec<usize> = (0..curves.len()).collect();
        for rung in rungs {
            let value = |p: usize| curves[p][*rung as usize - 1];
            let goes_on = |p: usize| {
                let group: Vec<usize> = reached.iter().copied().filter(|q| *q <= p).collect();
                let better = group.iter().filter(|q| (value(**q), **q) < (value(p), p)).count();
                better < group.len().div_ceil(reduction as usize)
            };
            let (on, out): (Vec<usize>, Vec<usize>) = reached.iter().partition(|p| goes_on(**p));
            out.into_iter().for_each(|p| end[p] = Some(*rung));
            reached = on;
        }
        end
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_the_definition_in_whatever_order_figures_come(
            curves in prop::collection::vec(prop::collection::vec((0u8..6).prop_map(f64::from), 4), 1..14),
            reduction in 2u64..5,
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let rungs = [1, 2, 4];
            let mut ladder = Ladder::new(&prune(&rungs, reduction, Mode::Min), PointId::first(curves.len()));
            for index in order {
                let point = index.index(curves.len());
                ladder.tell(p(point), &curves[point][..1]);
                let _ = ladder.standing(p(point));
            }
            for (point, curve) in curves.iter().enumerate().rev() {
                ladder.tell(p(point), curve);
                let _ = ladder.standing(p(point));
            }
            prop_assert_eq!(ends(&mut ladder, curves.len()), by_definition(&curves, &rungs, reduction));
        }
    }
}
