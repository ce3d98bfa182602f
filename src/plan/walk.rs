//! The decisions about all points, in plan order and with pruning.

use std::collections::{BTreeMap, BTreeSet};

use super::bracket::{Bracket, RungStatus, with_earlier_points};
use super::decision::{Decision, Plan, ResolvedInputs, State};
use super::planner::{Planner, explained};
use super::reason::{Cause, Reason};
use crate::diagnostic::Diagnostics;
use crate::error::Result;
use crate::id::PointId;
use crate::key::{Digest, StateChain};
use crate::spec::PointInput;
use crate::stage::StageError;

/// A point and the digests of the files that its stage reads; `None` if the files can't be read.
type PointFiles = (PointId, Option<BTreeMap<String, Digest>>);

impl Planner<'_> {
    /// Decides about all requested points.
    ///
    /// # Errors
    /// If the store fails, or if files that stages read can't be read. One error (exit code 2) lists all such files.
    pub fn plan(&self, wanted: &BTreeSet<PointId>) -> Result<Plan> {
        let (plan, unreadable) = self.walk(wanted)?;
        self.report(unreadable)?;
        Ok(plan)
    }

    /// [`Planner::plan`] for `--keep-going`: a point whose files can't be read is a miss. [`Planner::decide`] returns
    /// the error when the point is about to run.
    ///
    /// # Errors
    /// If the store fails.
    pub fn plan_around(&self, wanted: &BTreeSet<PointId>) -> Result<Plan> {
        Ok(self.walk(wanted)?.0)
    }

    /// Digests all files first, because that may open the index, too. Without pruning, the index is then opened once
    /// for all points.
    fn walk(&self, wanted: &BTreeSet<PointId>) -> Result<(Plan, Vec<(PointId, StageError)>)> {
        let wanted = with_earlier_points(self.spec, self.graph, wanted);
        let mut points = Vec::with_capacity(wanted.len());
        let mut unreadable = Vec::new();
        for point in self.graph.order().iter().copied().filter(|p| wanted.contains(p)) {
            match self.contents(point) {
                Ok(contents) => points.push((point, Some(contents))),
                Err(StageError::Storage(error)) => return Err(error),
                Err(error) => {
                    unreadable.push((point, error));
                    points.push((point, None));
                }
            }
        }
        let mut bracket = Bracket::of(self.spec, self.graph, &wanted);
        let decisions = match &mut bracket {
            None => self.decide_all(&points)?,
            Some(bracket) => self.decide_and_prune(&points, bracket)?,
        };
        Ok((Plan { decisions, bracket }, unreadable))
    }

    fn decide_all(&self, points: &[PointFiles]) -> Result<Vec<Decision>> {
        let decisions = self.store.look(|look| {
            let (mut known, mut stored) = (ResolvedInputs::default(), ResolvedInputs::default());
            let mut decisions = Vec::with_capacity(points.len());
            for (point, contents) in points {
                let decision = match contents {
                    Some(contents) => {
                        let decide = |known: &ResolvedInputs| self.decide_with(look, *point, known, contents);
                        self.decide_on_stored(*point, &known, &stored, decide)?.0
                    }
                    None => Decision::miss(*point, None),
                };
                known.add(&decision);
                stored.add_stored(&decision);
                decisions.push(decision);
            }
            Ok(decisions)
        });
        Ok(decisions?)
    }

    /// Turns the errors into one. Points of a stage often lack the same file, which is reported once.
    fn report(&self, unreadable: Vec<(PointId, StageError)>) -> Result<()> {
        let (mut diagnostics, mut reported) = (Diagnostics::default(), BTreeSet::new());
        for (point, error) in unreadable {
            let point = self.point(point);
            let (message, hint) = explained(error);
            if reported.insert((point.stage.as_str(), message.clone())) {
                let message = format!("stage `{}`: {message}", point.stage);
                diagnostics.error(&point.origin, message).help = hint;
            }
        }
        diagnostics.into_result(&self.spec.sources)
    }

    /// Decides about points in plan order and prunes. Opens the index for each point, because the values of other
    /// points are read in between.
    fn decide_and_prune(&self, points: &[PointFiles], bracket: &mut Bracket) -> Result<Vec<Decision>> {
        let (mut known, mut stored) = (ResolvedInputs::default(), ResolvedInputs::default());
        let mut decisions = Vec::with_capacity(points.len());
        for (point, contents) in points {
            let decision = match contents {
                _ if known.leaves_an_input_empty(self.spec.point(*point)) => self.without_inputs(*point, &known),
                Some(contents) => {
                    let decide = |known: &ResolvedInputs| {
                        self.store.look(|look| self.decide_with(look, *point, known, contents))
                    };
                    let (decision, chain) = self.decide_on_stored(*point, &known, &stored, decide)?;
                    self.pruned(decision, &chain, bracket)?
                }
                None => Decision::miss(*point, None),
            };
            known.add(&decision);
            stored.add_stored(&decision);
            decisions.push(decision);
        }
        Ok(decisions)
    }

    /// Decides about a point. If some of its inputs are not known, looks for the result that was made from what the
    /// cache has of them: `stored` also has the results of undecided points.
    fn decide_on_stored<E>(
        &self,
        point: PointId,
        known: &ResolvedInputs,
        stored: &ResolvedInputs,
        decide: impl Fn(&ResolvedInputs) -> Result<(Decision, StateChain), E>,
    ) -> Result<(Decision, StateChain), E> {
        let (decision, chain) = decide(known)?;
        let inputs = if decision.key.is_none() { self.stored_inputs(point, known, stored) } else { None };
        let Some(inputs) = inputs else { return Ok((decision, chain)) };
        let (found, chain_of_found) = decide(&inputs)?;
        if found.output.is_none() {
            return Ok((decision, chain));
        }
        let missing = inputs.left_out.difference(&known.left_out).map(|p| self.point(*p).name.clone());
        let missing: Vec<String> = missing.collect();
        let reason = match (missing.is_empty(), decision.reason) {
            (false, _) => Some(Reason::new(vec![Cause::Missing { stages: missing }])),
            (true, reason) => reason,
        };
        Ok((Decision { state: State::Maybe, reason, ..found }, chain_of_found))
    }

    /// The inputs of a point as far as the cache has them. Lists with `missing = "skip"` leave out the rest. `None` if
    /// the cache lacks an input, or if pruning may still shorten a list.
    fn stored_inputs(&self, point: PointId, known: &ResolvedInputs, stored: &ResolvedInputs) -> Option<ResolvedInputs> {
        let mut inputs = ResolvedInputs::default();
        for input in self.point(point).inputs.values() {
            let may_be_shortened = self.spec.prune.is_some() && matches!(input, PointInput::Many { .. });
            let mut is_empty = true;
            for member in input.points() {
                match stored.outputs.get(member) {
                    Some(_) if may_be_shortened && !known.is_settled(*member) => return None,
                    Some(output) => {
                        inputs.outputs.insert(*member, *output);
                        is_empty = false;
                    }
                    None if input.skips_missing() || known.left_out.contains(member) => {
                        inputs.left_out.insert(*member);
                    }
                    None => return None,
                }
            }
            if is_empty {
                return None;
            }
        }
        Some(inputs)
    }

    /// Applies pruning to a decision.
    fn pruned(&self, decision: Decision, chain: &StateChain, bracket: &mut Bracket) -> Result<Decision> {
        let point = decision.point;
        if decision.components.is_none() || !bracket.contains(point) {
            return Ok(decision);
        }
        bracket.record(point, &self.curve(&decision, chain, &bracket.curve)?);
        let mut causes = decision.reason.as_ref().map(|r| r.causes.clone()).unwrap_or_default();
        let state = match bracket.status(point) {
            RungStatus::Promoted => return Ok(decision),
            RungStatus::Pruned(at_rung) => {
                causes = vec![bracket.cause(&at_rung)];
                State::Pruned
            }
            RungStatus::Below { epoch } => {
                causes.push(Cause::Compared { epoch });
                State::Miss
            }
            RungStatus::Undecided { epoch } => {
                causes.push(Cause::Compared { epoch });
                // The result can still be read. The point is undecided because, for example, an earlier point failed or
                // was added.
                return Ok(Decision { state: State::Maybe, reason: Some(Reason::new(causes)), ..decision });
            }
        };
        Ok(Decision { state, output: None, reason: Some(Reason::new(causes)), ..decision })
    }

    /// The decision about a point for which all points of an input are pruned.
    fn without_inputs(&self, point: PointId, known: &ResolvedInputs) -> Decision {
        let reason = Reason::new(vec![self.cause_of_leaving_out(point, known)]);
        Decision { state: State::Pruned, ..Decision::miss(point, Some(reason)) }
    }
}
