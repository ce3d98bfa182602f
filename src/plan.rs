//! Graph + store → plan: for every point its key, whether its result is there, and if not, why.
//!
//! There is one code path. [`Planner::decide`] takes a point and the output digests of its inputs, as far as they are
//! known, and says what is to be done. `plan`, `status`, `explain` and `run -n` walk all points with it once; `run` asks
//! the same question point by point, as inputs become known.
//!
//! A point whose inputs are all known is a hit or a miss. Below a miss it is *maybe* where some result exists with the
//! same components but for the inputs (the input may come out the same), else a miss. Where the pipeline prunes a sweep
//! ([`Ladder`]), a point is *pruned* if the states that are there say so, and so is what hangs on pruned points only.

mod prune;
mod reason;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use prune::{Ladder, Standing, Verdict, with_rivals};
pub use reason::{Cause, Reason, differences};

use crate::diagnostic::Diagnostics;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::id::PointId;
use crate::key::{Components, Digest, InputDigest, Key};
use crate::spec::{Point, PointInput, Spec};
use crate::stage::{Files, StageError};
use crate::store::{Look, LookError, ResultRecord, Store};

/// What is known of a point's result before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is in the cache.
    Hit,
    /// It will be made.
    Miss,
    /// It depends on what comes out above it.
    Maybe,
    /// It ends before its last epoch, or hangs on points that do; it has no result.
    Pruned,
}

/// How much of a training is in the cache already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CachedEpochs {
    /// Epochs that need not be trained again.
    pub cached: u64,
    /// Epochs in all.
    pub total: u64,
}

/// What is to be done about a point.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The point.
    pub point: PointId,
    /// Hit, miss or maybe.
    pub state: State,
    /// Everything that enters its key; none while inputs are unknown.
    pub components: Option<Components>,
    /// The key; none while inputs are unknown.
    pub key: Option<Key>,
    /// The digest of the result, if it is there: a hit, or one that pruning has yet to have its say about.
    pub output: Option<Digest>,
    /// Why it is no hit.
    pub reason: Option<Reason>,
    /// Of a training that is a miss.
    pub epochs: Option<CachedEpochs>,
}

impl Decision {
    /// That a point is to run, and nothing else known of it.
    fn miss(point: PointId, reason: Option<Reason>) -> Self {
        Self { point, state: State::Miss, components: None, key: None, output: None, reason, epochs: None }
    }
}

/// The decisions about all wanted points, in plan order.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One for each wanted point.
    pub decisions: Vec<Decision>,
    /// Where the pipeline prunes: what is known of the points that are compared.
    pub ladder: Option<Ladder>,
}

impl Plan {
    /// Whether everything is there.
    pub fn is_complete(&self) -> bool {
        self.decisions.iter().all(|d| matches!(d.state, State::Hit | State::Pruned))
    }

    /// The points that are pruned, as far as that is known.
    pub fn pruned(&self) -> BTreeSet<PointId> {
        self.decisions.iter().filter(|d| d.state == State::Pruned).map(|d| d.point).collect()
    }
}

/// What is known of the points so far.
#[derive(Clone, Debug, Default)]
pub struct ResolvedInputs {
    /// The output digests of those whose result is there.
    pub outputs: BTreeMap<PointId, Digest>,
    /// Those that are pruned: no list gathers them.
    pub pruned: BTreeSet<PointId>,
}

impl ResolvedInputs {
    /// Whether the result of an input is there, or none will ever be.
    pub fn is_settled(&self, input: PointId) -> bool {
        self.outputs.contains_key(&input) || self.pruned.contains(&input)
    }

    /// Whether a point hangs on pruned points only: it reads one where it needs that very one, or a list with no other.
    pub fn has_only_pruned_inputs(&self, point: &Point) -> bool {
        let all_pruned = |input: &PointInput| {
            let members = input.points();
            !members.is_empty() && members.iter().all(|p| self.pruned.contains(p))
        };
        !self.pruned.is_empty() && point.inputs.values().any(all_pruned)
    }

    fn take(&mut self, decision: &Decision) {
        let there = decision.output.filter(|_| decision.state == State::Hit);
        self.outputs.extend(there.map(|output| (decision.point, output)));
        self.pruned.extend((decision.state == State::Pruned).then_some(decision.point));
    }
}

/// A point, and the digests of the files that it names; none where these can't be read.
type Read = (PointId, Option<BTreeMap<String, Digest>>);

/// Reads the files that enter keys through the store's memory of digests.
pub struct PipelineFiles<'a> {
    /// Remembers digests by size, modification time and inode.
    pub store: &'a Store,
    /// The folder of the pipeline file.
    pub base: &'a Path,
}

impl Files for PipelineFiles<'_> {
    fn digest(&self, path: &Path) -> std::io::Result<Digest> {
        self.store.file_digest(path)
    }

    fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }
}

/// Stands in for the digest of an output that is not known yet.
const BLANK: Digest = Digest([0; 32]);

/// Answers for one pipeline and one store.
pub struct Planner<'a> {
    /// The pipeline.
    pub spec: &'a Spec,
    /// Its graph.
    pub graph: &'a Graph,
    /// The cache.
    pub store: &'a Store,
    /// The numerics class that chains are continued in.
    pub numerics: &'a str,
    /// Points whose result is to be made again, whatever is there.
    pub forced: &'a BTreeSet<PointId>,
}

impl Planner<'_> {
    /// Decides about all wanted points, in plan order, without running anything.
    ///
    /// # Errors
    /// If the store fails, or files that stages name can't be read: then one error (exit code 2) says so of all of them.
    pub fn plan(&self, wanted: &BTreeSet<PointId>) -> Result<Plan> {
        let (plan, unreadable) = self.walk(wanted)?;
        self.report(unreadable)?;
        Ok(plan)
    }

    /// [`Planner::plan`] for who goes on where it can: a point whose files can't be read is a miss, and [`Planner::decide`]
    /// says what is wrong with it when its turn comes.
    ///
    /// # Errors
    /// If the store fails.
    pub fn plan_around(&self, wanted: &BTreeSet<PointId>) -> Result<Plan> {
        Ok(self.walk(wanted)?.0)
    }

    /// The index is opened once for all points, and after their files were looked at, which may open it, too.
    fn walk(&self, wanted: &BTreeSet<PointId>) -> Result<(Plan, Vec<(PointId, StageError)>)> {
        let wanted = with_rivals(self.spec, self.graph, wanted);
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
        let mut ladder = Ladder::of(self.spec, self.graph, &wanted);
        let decisions = match &mut ladder {
            None => self.decide_all(&points)?,
            Some(ladder) => self.decide_and_judge(&points, ladder)?,
        };
        Ok((Plan { decisions, ladder }, unreadable))
    }

    fn decide_all(&self, points: &[Read]) -> Result<Vec<Decision>> {
        let decisions = self.store.look(|look| {
            let mut known = ResolvedInputs::default();
            let mut decisions = Vec::with_capacity(points.len());
            for (point, contents) in points {
                let decision = match contents {
                    Some(contents) => self.decide_with(look, *point, &known, contents)?,
                    None => Decision::miss(*point, None),
                };
                known.take(&decision);
                decisions.push(decision);
            }
            Ok(decisions)
        });
        Ok(decisions?)
    }

    /// The records of the results that are there, whether or not pruning has its say about them yet. A record that can't be
    /// read (any more) is left out.
    ///
    /// # Errors
    /// If the store fails.
    pub fn records(&self, plan: &Plan) -> Result<BTreeMap<PointId, ResultRecord>> {
        let hits = plan.decisions.iter().filter(|d| d.output.is_some());
        let (points, keys): (Vec<_>, Vec<_>) = hits.filter_map(|d| Some((d.point, d.key?))).unzip();
        let found = self.store.results(&keys)?;
        Ok(points.into_iter().zip(found).filter_map(|(point, record)| Some((point, record?))).collect())
    }

    /// `Ok` if nothing is wrong. The points of one stage often miss the same file: that is said once.
    fn report(&self, unreadable: Vec<(PointId, StageError)>) -> Result<()> {
        let (mut diagnostics, mut said) = (Diagnostics::default(), BTreeSet::new());
        for (point, error) in unreadable {
            let point = self.point(point);
            let (message, hint) = explained(error);
            if said.insert((point.stage.as_str(), message.clone())) {
                let message = format!("stage `{}`: {message}", point.stage);
                diagnostics.error(&point.origin, message).help = hint;
            }
        }
        diagnostics.into_result(&self.spec.sources)
    }

    /// Decides about one point, but for its pruning. What it hangs on must not be pruned altogether.
    ///
    /// # Errors
    /// If the store fails, or a file that the stage names can't be read.
    pub fn decide(&self, point: PointId, known: &ResolvedInputs) -> Result<Decision> {
        let contents = match self.contents(point) {
            Ok(contents) => contents,
            Err(StageError::Storage(error)) => return Err(error),
            Err(error) => {
                let point = self.point(point);
                let (message, hint) = explained(error);
                let place = self.spec.sources.locate(&point.origin);
                let error = Error::bad_input(format!("{place}: stage `{}`: {message}", point.name));
                return Err(Error { hint, ..error });
            }
        };
        Ok(self.store.look(|look| self.decide_with(look, point, known, &contents))?)
    }

    fn decide_with(
        &self,
        look: &Look<'_>,
        point: PointId,
        known: &ResolvedInputs,
        contents: &BTreeMap<String, Digest>,
    ) -> Result<Decision, LookError> {
        let unknown = self.unknown_inputs(point, known);
        let forced = self.forced.contains(&point);
        if !unknown.is_empty() && look.is_empty() {
            let causes = vec![Cause::NeverRun, Cause::Upstream { stages: unknown }];
            return Ok(Decision::miss(point, Some(Reason::new(causes))));
        }
        let components = self.components(point, known, contents);
        if !unknown.is_empty() {
            let maybe = !forced && look.exists_but_for_inputs(&components)?;
            let reason = Some(self.reason_below_a_miss(look, point, &components, unknown)?);
            let state = if maybe { State::Maybe } else { State::Miss };
            return Ok(Decision { state, ..Decision::miss(point, reason) });
        }
        let key = components.key();
        let output = if forced { None } else { look.hit(&key)? };
        let mut decision = Decision { state: State::Hit, key: Some(key), output, ..Decision::miss(point, None) };
        if output.is_none() {
            let reason = if forced { Reason::new(vec![Cause::Forced]) } else { self.reason(look, point, &components)? };
            decision.state = State::Miss;
            decision.epochs = if forced { None } else { self.cached_epochs(look, &components)? };
            decision.reason = Some(reason);
        }
        decision.components = Some(components);
        Ok(decision)
    }

    fn unknown_inputs(&self, point: PointId, known: &ResolvedInputs) -> Vec<String> {
        let inputs = self.point(point).inputs.values().flat_map(PointInput::points);
        inputs.filter(|i| !known.is_settled(**i)).map(|i| self.point(*i).name.clone()).collect()
    }

    /// The digests of the files that a point's stage names.
    fn contents(&self, point: PointId) -> Result<BTreeMap<String, Digest>, StageError> {
        let files = PipelineFiles { store: self.store, base: &self.spec.base };
        self.point(point).parsed.stage.contents(&files)
    }

    /// The components of a point's key. Inputs that are not known yet have a blank digest: their roles and labels are known.
    pub(crate) fn components(
        &self,
        point: PointId,
        known: &ResolvedInputs,
        contents: &BTreeMap<String, Digest>,
    ) -> Components {
        let point = self.point(point);
        let stage = &point.parsed.stage;
        let reads = stage.reads();
        let mut inputs = BTreeMap::new();
        for (role, input) in &point.inputs {
            let of = |i: &PointId| known.outputs.get(i).copied().unwrap_or(BLANK);
            let digest = match input {
                PointInput::One(i) => InputDigest::One(of(i)),
                PointInput::Many(list) => {
                    let left = list.iter().filter(|i| !known.pruned.contains(i));
                    InputDigest::Many(left.map(|i| (self.point(*i).name.clone(), of(i))).collect())
                }
            };
            inputs.insert(role.clone(), digest);
        }
        Components {
            kind: point.parsed.kind.name().to_owned(),
            version: point.parsed.kind.version(),
            params: point.parsed.params.clone(),
            seed: reads.seed.then_some(point.seed),
            precision: reads.precision.then(|| self.spec.pipeline.precision.to_string()),
            inputs,
            contents: contents.clone(),
            segments: stage.epochs().map(|e| e.segments),
        }
    }

    /// The output digest of this key's result, if its bytes are there as far as the index knows.
    ///
    /// # Errors
    /// If the store fails.
    pub fn present(&self, key: &Key) -> Result<Option<Digest>> {
        Ok(self.store.look(|look| look.hit(key))?)
    }

    fn newest(&self, look: &Look<'_>, point: PointId) -> Result<Option<ResultRecord>, LookError> {
        look.newest(&self.spec.pipeline.name, &self.point(point).name)
    }

    fn reason(&self, look: &Look<'_>, point: PointId, components: &Components) -> Result<Reason, LookError> {
        let Some(newest) = self.newest(look, point)? else { return Ok(Reason::new(vec![Cause::NeverRun])) };
        let causes = differences(&newest.components, components);
        Ok(Reason::new(if causes.is_empty() { vec![Cause::Damaged] } else { causes }))
    }

    /// The inputs of `components` are partly blank here: what differs in them says nothing.
    fn reason_below_a_miss(
        &self,
        look: &Look<'_>,
        point: PointId,
        components: &Components,
        unknown: Vec<String>,
    ) -> Result<Reason, LookError> {
        let mut causes = match self.newest(look, point)? {
            None => vec![Cause::NeverRun],
            Some(newest) => {
                let mut causes = differences(&newest.components, components);
                causes.retain(|c| !matches!(c, Cause::Input { .. }));
                causes
            }
        };
        causes.push(Cause::Upstream { stages: unknown });
        Ok(Reason::new(causes))
    }

    fn cached_epochs(&self, look: &Look<'_>, components: &Components) -> Result<Option<CachedEpochs>, LookError> {
        let states = components.states();
        if states.is_empty() {
            return Ok(None);
        }
        let total = states.len() as u64 - 1;
        let cached = look.states_present(&states, self.numerics)?.map_or(0, |p| p.epoch);
        Ok(Some(CachedEpochs { cached, total }))
    }

    fn point(&self, id: PointId) -> &Point {
        self.spec.point(id)
    }
}

/// What is wrong with a stage's files, in one sentence, and what to do. A file that the pipeline names and that is not there
/// is a wrong pipeline, whatever the system call said.
fn explained(error: StageError) -> (String, Option<String>) {
    match error {
        StageError::BadInput { message, hint } => (message, hint),
        StageError::Io { what, source } => (format!("{what}: {source}"), None),
        other => (other.to_string(), None),
    }
}

#[cfg(test)]
mod tests;
