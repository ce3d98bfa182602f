//! What a run would do: for every point its key, whether its result is in the cache, and if not, why.
//!
//! There is one code path. [`Planner::decide`] takes a point and the digests of those of its inputs that are known,
//! and decides. `plan`, `status`, `explain` and `run -n` decide about all points once, in plan order. `run` decides
//! about each point when its inputs are known.
//!
//! A point whose inputs are all known is a hit or a miss. A point with an unknown input is *maybe* a hit if there is
//! a result whose components differ in the inputs only, because the input may come out unchanged; otherwise it is a
//! miss. Where the pipeline prunes a sweep ([`Bracket`]), the points that lose at a rung are *pruned*, and so is
//! every point for which all points of an input are pruned.

mod prune;
mod reason;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use prune::{Bracket, RungDecision, RungStatus, with_earlier_points};
pub use reason::{Cause, Reason, differences};

use crate::diagnostic::Diagnostics;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::id::PointId;
use crate::key::{Components, Digest, InputDigest, Key};
use crate::spec::{Point, PointInput, Spec};
use crate::stage::{Files, StageError};
use crate::store::{Look, LookError, ResultRecord, Store};

/// Whether a point will run, as far as the plan can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its result is in the cache.
    Hit,
    /// It will run.
    Miss,
    /// It runs unless its inputs come out unchanged, or unless pruning stops it.
    Maybe,
    /// It has no result, because it or all points of one of its inputs are pruned.
    Pruned,
}

/// How much of a training is in the cache already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CachedEpochs {
    /// Epochs that are not trained again.
    pub cached: u64,
    /// All epochs.
    pub total: u64,
}

/// The plan for one point.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The point.
    pub point: PointId,
    /// Whether it will run.
    pub state: State,
    /// The components of its key. `None` while an input is unknown.
    pub components: Option<Components>,
    /// Its key. `None` while an input is unknown.
    pub key: Option<Key>,
    /// The digest of its result, if that is in the cache. The point may still be pruned.
    pub output: Option<Digest>,
    /// Why it is not a hit.
    pub reason: Option<Reason>,
    /// How much of it is in the cache, if it is a training and a miss.
    pub epochs: Option<CachedEpochs>,
}

impl Decision {
    /// A miss about which nothing else is known.
    fn miss(point: PointId, reason: Option<Reason>) -> Self {
        Self { point, state: State::Miss, components: None, key: None, output: None, reason, epochs: None }
    }
}

/// The decisions about all requested points.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One decision for each requested point, in plan order.
    pub decisions: Vec<Decision>,
    /// The comparison of the points of the pruned stage, if the pipeline prunes a sweep.
    pub bracket: Option<Bracket>,
}

impl Plan {
    /// Whether nothing has to run.
    pub fn is_complete(&self) -> bool {
        self.decisions.iter().all(|d| matches!(d.state, State::Hit | State::Pruned))
    }

    /// The points that are known to be pruned.
    pub fn pruned(&self) -> BTreeSet<PointId> {
        self.decisions.iter().filter(|d| d.state == State::Pruned).map(|d| d.point).collect()
    }
}

/// The points that are known to have a result, or to have none.
#[derive(Clone, Debug, Default)]
pub struct ResolvedInputs {
    /// The digests of the results in the cache.
    pub outputs: BTreeMap<PointId, Digest>,
    /// The points that are pruned. Lists of inputs leave them out.
    pub pruned: BTreeSet<PointId>,
}

impl ResolvedInputs {
    /// Whether an input has a result or is pruned.
    pub fn is_settled(&self, input: PointId) -> bool {
        self.outputs.contains_key(&input) || self.pruned.contains(&input)
    }

    /// Whether all points of one of this point's inputs are pruned.
    pub fn has_only_pruned_inputs(&self, point: &Point) -> bool {
        let all_pruned = |input: &PointInput| {
            let members = input.points();
            !members.is_empty() && members.iter().all(|p| self.pruned.contains(p))
        };
        !self.pruned.is_empty() && point.inputs.values().any(all_pruned)
    }

    fn add(&mut self, decision: &Decision) {
        let hit = decision.output.filter(|_| decision.state == State::Hit);
        self.outputs.extend(hit.map(|output| (decision.point, output)));
        self.pruned.extend((decision.state == State::Pruned).then_some(decision.point));
    }
}

/// A point and the digests of the files that its stage reads. `None` if the files can't be read.
type PointFiles = (PointId, Option<BTreeMap<String, Digest>>);

/// Digests the files that are part of keys, using the digests that the store remembers.
pub struct PipelineFiles<'a> {
    /// Remembers a file's digest by its size, modification time and inode.
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

/// A placeholder for the digest of a result that is not known yet.
const UNKNOWN: Digest = Digest([0; 32]);

/// Decides which points of a pipeline have to run.
pub struct Planner<'a> {
    /// The pipeline.
    pub spec: &'a Spec,
    /// Its graph.
    pub graph: &'a Graph,
    /// The cache.
    pub store: &'a Store,
    /// The numerics class whose states can be continued.
    pub numerics: &'a str,
    /// Points that run even if their result is in the cache.
    pub forced: &'a BTreeSet<PointId>,
}

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

    /// Digests all files first, because that may open the index, too; then opens the index once for all points.
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
            let mut known = ResolvedInputs::default();
            let mut decisions = Vec::with_capacity(points.len());
            for (point, contents) in points {
                let decision = match contents {
                    Some(contents) => self.decide_with(look, *point, &known, contents)?,
                    None => Decision::miss(*point, None),
                };
                known.add(&decision);
                decisions.push(decision);
            }
            Ok(decisions)
        });
        Ok(decisions?)
    }

    /// The records of all results in the cache, including those of points that may still be pruned. Records that
    /// can't be read are left out.
    ///
    /// # Errors
    /// If the store fails.
    pub fn records(&self, plan: &Plan) -> Result<BTreeMap<PointId, ResultRecord>> {
        let hits = plan.decisions.iter().filter(|d| d.output.is_some());
        let (points, keys): (Vec<_>, Vec<_>) = hits.filter_map(|d| Some((d.point, d.key?))).unzip();
        let found = self.store.results(&keys)?;
        Ok(points.into_iter().zip(found).filter_map(|(point, record)| Some((point, record?))).collect())
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

    /// Decides about one point, without pruning. None of its inputs may consist of pruned points only.
    ///
    /// # Errors
    /// If the store fails, or if a file that the stage reads can't be read.
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

    /// The digests of the files that a point's stage reads.
    fn contents(&self, point: PointId) -> Result<BTreeMap<String, Digest>, StageError> {
        let files = PipelineFiles { store: self.store, base: &self.spec.base };
        self.point(point).parsed.stage.contents(&files)
    }

    /// The components of a point's key. Inputs that are not known yet get a placeholder for their digest.
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
            let of = |i: &PointId| known.outputs.get(i).copied().unwrap_or(UNKNOWN);
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

    /// The digest of this key's result, if the result is in the cache according to the index.
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

    /// Ignores differences in inputs, because some inputs in `components` are placeholders.
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

/// The message and the hint for an error in reading a stage's files. A missing file counts as an error in the
/// pipeline, not as an I/O error.
fn explained(error: StageError) -> (String, Option<String>) {
    match error {
        StageError::BadInput { message, hint } => (message, hint),
        StageError::Io { what, source } => (format!("{what}: {source}"), None),
        other => (other.to_string(), None),
    }
}

#[cfg(test)]
mod tests;
