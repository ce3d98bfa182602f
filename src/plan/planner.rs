//! The decision about one point.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::decision::{CachedEpochs, Decision, Plan, ResolvedInputs, State};
use super::reason::{Cause, Reason, differences};
use crate::artifact::TensorEntry;
use crate::error::{Category, Error, Result};
use crate::graph::Graph;
use crate::id::PointId;
use crate::key::{Components, Digest, InputDigest, Key, StateChain, StoredResult};
use crate::spec::{Point, PointInput, Spec};
use crate::stage::{Compute, Files, StageError};
use crate::store::{FilesRead, Look, LookError, ResultRecord, Store, StoreError};

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
    /// What stages compute on. It decides which states can be continued.
    pub compute: &'a Compute,
    /// Points that run even if their result is in the cache.
    pub forced: &'a BTreeSet<PointId>,
    /// Results of the shared store that count as those of the cache, by their keys without the files that their
    /// programs read.
    pub in_store: Option<&'a BTreeMap<Key, Vec<ResultRecord>>>,
}

impl Planner<'_> {
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

    /// Decides about one point, without pruning. None of its inputs may be empty. Also returns the
    /// chain if the point is a training and its inputs are known. The chain is returned separately, so that a plan of
    /// many trainings does not keep all chains.
    ///
    /// # Errors
    /// If the store fails, or if a file that the stage reads can't be read.
    pub fn decide(&self, point: PointId, known: &ResolvedInputs) -> Result<(Decision, StateChain)> {
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

    pub(super) fn decide_with(
        &self,
        look: &Look<'_>,
        point: PointId,
        known: &ResolvedInputs,
        contents: &BTreeMap<String, Digest>,
    ) -> Result<(Decision, StateChain), LookError> {
        let chain = StateChain::default();
        let unknown = self.unknown_inputs(point, known);
        let forced = self.forced.contains(&point);
        if !unknown.is_empty() && look.is_empty() {
            let causes = vec![Cause::NeverRun, Cause::Upstream { stages: unknown }];
            return Ok((Decision::miss(point, Some(Reason::new(causes))), chain));
        }
        let components = self.components(point, known, contents);
        if !unknown.is_empty() {
            let maybe = !forced && look.exists_but_for_inputs(&components)?;
            let reason = Some(self.reason_below_a_miss(look, point, &components, unknown)?);
            let state = if maybe { State::Maybe } else { State::Miss };
            return Ok((Decision { state, ..Decision::miss(point, reason) }, chain));
        }
        let chain = components.chain();
        let key = components.key_on(&chain);
        let cached = if forced { None } else { self.stored(look, point, &key)? };
        let in_store = if forced || cached.is_some() { None } else { self.in_store(look, &key) };
        let is_in_store = in_store.is_some();
        let stored = cached.or(in_store);
        let decision = match stored {
            Some((StoredResult { key, output }, files_read)) => Decision {
                state: State::Hit,
                key: Some(key),
                output: Some(output),
                components: Some(Components { files_read, ..components }),
                in_store: is_in_store,
                ..Decision::miss(point, None)
            },
            None => {
                let forced_reason = forced.then(|| Reason::new(vec![Cause::Forced]));
                let reason = forced_reason.map_or_else(|| self.reason(look, point, &components), Ok)?;
                let epochs = if forced { None } else { self.cached_epochs(look, point, &chain)? };
                let components = Some(components);
                Decision { key: Some(key), components, epochs, ..Decision::miss(point, Some(reason)) }
            }
        };
        Ok((decision, chain))
    }

    /// The result with this key, if its bytes are there. For a stage that runs a program, `key` is the key without the
    /// files that the program read, and these files, which are returned, must be as the program read them.
    fn stored(
        &self,
        look: &Look<'_>,
        point: PointId,
        key: &Key,
    ) -> Result<Option<(StoredResult, FilesRead)>, LookError> {
        if self.point(point).parsed.stage.reads().files {
            let point = (self.spec.pipeline.name.as_str(), self.point(point).name.as_str());
            return look.hit_with_files(key, point, |name| look.digest_now(&self.spec.base.join(name)));
        }
        Ok(look.hit(key)?.map(|output| (StoredResult { key: *key, output }, FilesRead::new())))
    }

    /// The result of the shared store with this key, if the files that its program read are as it read them.
    fn in_store(&self, look: &Look<'_>, key: &Key) -> Option<(StoredResult, FilesRead)> {
        let records = self.in_store?.get(key)?;
        let is_current =
            |(name, stored): (&String, &Digest)| look.digest_now(&self.spec.base.join(name)).as_ref() == Some(stored);
        let record = records.iter().find(|record| record.components.files_read.iter().all(is_current))?;
        let stored = StoredResult { key: record.key, output: record.digest };
        Some((stored, record.components.files_read.clone()))
    }

    fn unknown_inputs(&self, point: PointId, known: &ResolvedInputs) -> Vec<String> {
        let inputs = self.point(point).inputs.values().flat_map(PointInput::points);
        inputs.filter(|i| !known.is_settled(**i)).map(|i| self.point(*i).name.clone()).collect()
    }

    /// The digests of the files that a point's stage reads.
    pub(super) fn contents(&self, point: PointId) -> Result<BTreeMap<String, Digest>, StageError> {
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
                PointInput::Many { points, .. } => {
                    let members = points.iter().filter(|i| !known.left_out.contains(i));
                    InputDigest::Many(members.map(|i| (self.point(*i).name.clone(), of(i))).collect())
                }
            };
            inputs.insert(role.clone(), digest);
        }
        Components {
            kind: point.parsed.kind.name().to_owned(),
            version: self.spec.version(point),
            params: point.parsed.params.clone(),
            seed: reads.seed.then_some(point.seed),
            precision: reads.precision.then(|| self.spec.pipeline.precision.to_string()),
            inputs,
            contents: contents.clone(),
            files_read: BTreeMap::new(),
            segments: stage.epochs().map(|e| e.segments),
            result: stage.result_params(),
        }
    }

    /// The result of a point with this key, if it is in the cache according to the index. `key` is the key of
    /// [`Components::declared`].
    ///
    /// # Errors
    /// If the store fails.
    pub fn present(&self, point: PointId, key: &Key) -> Result<Option<StoredResult>> {
        Ok(self.store.look(|look| self.stored(look, point, key))?.map(|(stored, _)| stored))
    }

    fn newest(&self, look: &Look<'_>, point: PointId) -> Result<Option<ResultRecord>, LookError> {
        look.newest(&self.spec.pipeline.name, &self.point(point).name)
    }

    fn reason(&self, look: &Look<'_>, point: PointId, components: &Components) -> Result<Reason, LookError> {
        let Some(newest) = self.newest(look, point)? else { return Ok(Reason::new(vec![Cause::NeverRun])) };
        let causes = self.differences(look, &newest.components, components);
        Ok(Reason::new(if causes.is_empty() { vec![Cause::Damaged] } else { causes }))
    }

    /// The differences between the components of an earlier result and those of the next one, if that reads the same
    /// files.
    fn differences(&self, look: &Look<'_>, earlier: &Components, now: &Components) -> Vec<Cause> {
        let now_read = |name: &String| Some((name.clone(), look.digest_now(&self.spec.base.join(name))?));
        let files_read = earlier.files_read.keys().filter_map(now_read).collect();
        differences(earlier, &Components { files_read, ..now.clone() })
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
                let mut causes = self.differences(look, &newest.components, components);
                causes.retain(|c| !matches!(c, Cause::Input { .. }));
                causes
            }
        };
        causes.push(Cause::Upstream { stages: unknown });
        Ok(Reason::new(causes))
    }

    fn cached_epochs(
        &self,
        look: &Look<'_>,
        point: PointId,
        chain: &StateChain,
    ) -> Result<Option<CachedEpochs>, LookError> {
        if chain.keys().is_empty() {
            return Ok(None);
        }
        let class = self.spec.class(point, self.compute);
        let cached =
            look.longest_state(chain.keys(), &self.spec.resumable(point, &class))?.map_or(0, |state| state.epoch);
        Ok(Some(CachedEpochs { cached, total: chain.total() }))
    }

    pub(super) fn point(&self, id: PointId) -> &Point {
        self.spec.point(id)
    }

    /// The values of a metric in the stored epochs of a training: from its result, or from its latest state. `decision`
    /// is the decision about it, and `chain` its chain.
    ///
    /// # Errors
    /// If the store fails.
    pub fn curve(&self, decision: &Decision, chain: &StateChain, name: &str) -> Result<Vec<f64>> {
        let Some(key) = decision.key.filter(|_| !chain.keys().is_empty()) else { return Ok(vec![]) };
        let name = format!("history.{name}");
        if let Some(record) = self.store.result(&key)?.filter(|r| !r.damaged)
            && let Some(entry) = record.manifest.tensors.get(&name)
            && let Some(curve) = self.readable(entry)?
        {
            return Ok(curve);
        }
        let class = self.spec.class(decision.point, self.compute);
        let resumable = self.spec.resumable(decision.point, &class);
        while let Some(state) = self.store.longest_state(chain.keys(), &resumable)? {
            let Some(entry) = state.tensors.get(&name) else { break };
            // The store removes a state that it finds damaged. The next iteration finds the state before it.
            if let Some(curve) = self.readable(entry)? {
                return Ok(curve);
            }
        }
        Ok(vec![])
    }

    fn readable(&self, entry: &TensorEntry) -> Result<Option<Vec<f64>>> {
        let error =
            |e| Error::new(Category::StageFailed, "the history of a training is not a list of f64").caused_by(e);
        match self.store.read_tensor(entry) {
            Ok(tensor) => tensor.to_vec::<f64>().map(Some).map_err(error),
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The reason that a point gets if all points of one of its inputs are pruned.
    pub(crate) fn cause_of_leaving_out(&self, point: PointId, known: &ResolvedInputs) -> Cause {
        let inputs = self.spec.point(point).inputs.values().flat_map(PointInput::points);
        let pruned = inputs.filter(|p| known.left_out.contains(p));
        Cause::LeftOut { stages: pruned.map(|p| self.spec.point(*p).name.clone()).collect() }
    }
}

/// The message and the hint for an error in reading a stage's files. A missing file counts as an error in the
/// pipeline, not as an I/O error.
pub(super) fn explained(error: StageError) -> (String, Option<String>) {
    match error {
        StageError::BadInput { message, hint } => (message, hint),
        StageError::Io { what, source } => (format!("{what}: {source}"), None),
        other => (other.to_string(), None),
    }
}
