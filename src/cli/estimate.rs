//! How long what a plan would run takes, from what earlier runs on this machine took.
//!
//! - A training: `epochs left × samples × rate`, with the rate (seconds per sample and epoch) of the newest run on this
//!   machine that trained something of the same shape: the kind, the parameters of the start, the batch, and the shapes of
//!   the trainings it reads (a fit is as slow as its model). Learning rates and seeds don't matter, nor does how much of it
//!   was cached.
//! - Anything else: what this point took when it last ran here or, if it never did, the mean of its stage's points.
//!
//! Only run records and results are read, the newest first and no more than [`BUDGET`] bytes of records, so that a plan stays
//! quick. Nothing of this reaches a key or a result.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use super::project::Project;
use crate::error::Result;
use crate::id::{PointId, PointName};
use crate::key::{Digest, Hash, InputDigest, Key, Segment};
use crate::plan::{Decision, Plan, State};
use crate::spec::PointInput;
use crate::status::StageStatus;
use crate::store::{ResultRecord, RunRecord, host_name};
use crate::value::{Value, Values};

/// Bytes of run records that are read.
const BUDGET: u64 = 1 << 20;

/// Seconds that what is to run would take.
pub(super) struct Estimates {
    /// By point; those of which nothing is known are not in it.
    points: BTreeMap<PointId, f64>,
    /// Points that will run and of which nothing is known.
    unknown: usize,
    /// All that will run, stages side by side where they may be. What may run is left out.
    total: f64,
}

impl Estimates {
    /// Estimates what a plan would run.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub(super) fn of(project: &Project, plan: &Plan) -> Result<Self> {
        let open: Vec<&Decision> = plan
            .decisions
            .iter()
            .filter(|d| matches!(d.state, State::Miss | State::Maybe) && d.output.is_none())
            .collect();
        let mut estimates = Self { points: BTreeMap::new(), unknown: 0, total: 0.0 };
        if open.is_empty() {
            return Ok(estimates);
        }
        let history = History::read(project, &open)?;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let (mut alone, mut together, mut longest) = (0.0, 0.0, 0.0f64);
        for decision in open {
            let will_run = decision.state == State::Miss;
            let Some(seconds) = history.estimate(project, decision) else {
                estimates.unknown += usize::from(will_run);
                continue;
            };
            estimates.points.insert(decision.point, seconds);
            let stage = &project.spec.point(decision.point).parsed.stage;
            // A training that doesn't fill the cores runs beside others: see `exec/room.rs`.
            let fills_the_cores = stage.parallel() && stage.threads(cores) >= cores;
            match fills_the_cores {
                _ if !will_run => {}
                true => alone += seconds,
                false => {
                    together += seconds;
                    longest = longest.max(seconds);
                }
            }
        }
        estimates.total = alone + longest.max(together / cores as f64);
        Ok(estimates)
    }

    /// Seconds that this point would take, if anything is known.
    pub(super) fn point(&self, point: PointId) -> Option<f64> {
        self.points.get(&point).copied()
    }

    /// Seconds that all that will run would take, if something is known of all of it.
    pub(super) fn seconds(&self) -> Option<f64> {
        (self.unknown == 0).then_some(self.total)
    }

    /// In words; none if nothing is known, or nothing will run.
    pub(super) fn words(&self) -> Option<String> {
        if self.total == 0.0 {
            return None;
        }
        let about = about(self.total);
        Some(match self.unknown {
            0 => about,
            1 => format!("{about} and a stage that never ran here"),
            n => format!("{about} and {n} stages that never ran here"),
        })
    }
}

/// "about 12 min".
pub(super) fn about(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match seconds {
        s if s < 1.0 => "less than a second".to_owned(),
        s if s < 99.5 => format!("about {s:.0} s"),
        _ if minutes < 100 => format!("about {minutes} min"),
        s if s < 36_000.0 => format!("about {} h {:02} min", minutes / 60, minutes % 60),
        s => format!("about {:.0} h", s / 3600.0),
    }
}

/// What earlier runs took.
#[derive(Default)]
struct History {
    /// Seconds per sample and epoch, by the shape of a training with its batch.
    rates: BTreeMap<Digest, f64>,
    /// Seconds of this pipeline's points when they last ran.
    points: BTreeMap<String, f64>,
    /// The mean of the points of a stage.
    stages: BTreeMap<String, f64>,
}

/// What a stage contributes to the shape of a training that reads it.
struct Shape {
    /// A digest of all that its speed depends on.
    digest: Digest,
    training: bool,
    params: Values,
}

impl Shape {
    fn new<'a>(kind: &str, params: &Values, training: bool, reads: impl Iterator<Item = (&'a str, Shape)>) -> Self {
        let mut hash = Hash::new("shape");
        hash.text(kind).values(params);
        for (role, read) in reads.filter(|(_, read)| read.training) {
            hash.text(role).digest(&read.digest);
        }
        Self { digest: hash.finish(), training, params: params.clone() }
    }

    /// The name of a rate: the shape with a batch. Where the number of samples is unknown, only the same data have the same.
    fn rate(&self, batch: Option<&Value>, data: Option<&Shape>, samples: Option<f64>) -> Digest {
        let mut hash = Hash::new("rate");
        hash.digest(&self.digest).values(&batch.map(|b| ("batch".to_owned(), b.clone())).into_iter().collect());
        if let (None, Some(data)) = (samples, data) {
            hash.digest(&data.digest);
        }
        hash.finish()
    }
}

/// How many samples a training goes through in an epoch: those of its split, as the stage that loads them says.
fn samples(params: &Values, data: Option<&Shape>) -> Option<f64> {
    let split = match params.get("split") {
        Some(Value::Text(split)) => split.as_str(),
        _ => "train",
    };
    match data?.params.get(split) {
        Some(Value::Int(count)) if *count > 0 => Some(*count as f64),
        _ => None,
    }
}

impl History {
    fn read(project: &Project, open: &[&Decision]) -> Result<Self> {
        let here = host_name();
        let mut runs = project.store.newest_runs(BUDGET)?;
        runs.retain(|run| run.holder.host == here);
        let mut history = Self::default();
        for run in runs.iter().filter(|run| run.pipeline == project.spec.pipeline.name) {
            for stage in run.stages.iter().filter(|s| s.outcome == StageStatus::Executed) {
                history.points.entry(stage.name.clone()).or_insert(stage.seconds);
            }
        }
        let mut of_stages: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, seconds) in &history.points {
            of_stages.entry(PointName::parse(name).stage).or_default().push(*seconds);
        }
        let mean = |(name, all): (&str, Vec<f64>)| (name.to_owned(), all.iter().sum::<f64>() / all.len() as f64);
        history.stages = of_stages.into_iter().map(mean).collect();
        let spec = |point: PointId| project.spec.point(point);
        let trainings = open.iter().map(|d| spec(d.point)).filter(|p| p.parsed.stage.epochs().is_some());
        let mut kinds: BTreeSet<&str> = BTreeSet::new();
        for point in trainings {
            kinds.insert(point.parsed.kind.name());
            kinds.extend(point.inputs.values().flat_map(PointInput::points).map(|i| spec(*i).parsed.kind.name()));
        }
        if !kinds.is_empty() {
            runs.retain(|run| run.class == project.compute.numerics);
            runs.iter().try_for_each(|run| history.learn(project, run, &kinds))?;
        }
        Ok(history)
    }

    /// Takes the rates of a run's trainings.
    fn learn(&mut self, project: &Project, run: &RunRecord, kinds: &BTreeSet<&str>) -> Result<()> {
        let trained =
            |s: &crate::store::StageRun| s.outcome == StageStatus::Executed && kinds.contains(s.kind.as_str());
        if !run.stages.iter().any(trained) {
            return Ok(());
        }
        let stages: Vec<_> = run.stages.iter().filter(|s| kinds.contains(s.kind.as_str())).collect();
        let keys: Vec<Key> = stages.iter().filter_map(|s| s.key).collect();
        let records: BTreeMap<Key, ResultRecord> =
            project.store.results(&keys)?.into_iter().flatten().map(|r| (r.key, r)).collect();
        let by_digest: BTreeMap<Digest, &ResultRecord> = records.values().map(|r| (r.digest, r)).collect();
        for stage in stages.into_iter().filter(|s| trained(s)) {
            let Some(record) = stage.key.and_then(|key| records.get(&key)) else { continue };
            let Some((rate, work)) = work(record, stage.resumed_at.unwrap_or(0), &by_digest) else { continue };
            self.rates.entry(rate).or_insert(stage.seconds / work);
        }
        Ok(())
    }

    fn estimate(&self, project: &Project, decision: &Decision) -> Option<f64> {
        let point = project.spec.point(decision.point);
        let Some(epochs) = point.parsed.stage.epochs() else {
            return self.points.get(&point.name).or_else(|| self.stages.get(&point.stage)).copied();
        };
        let data = point.inputs.get("data").and_then(|i| Some(planned(project, *i.points().first()?)));
        let samples = samples(&point.parsed.params, data.as_ref());
        let shape = planned(project, decision.point);
        let mut left = epochs.total() - decision.epochs.map_or(0, |e| e.cached);
        let mut seconds = 0.0;
        for segment in epochs.segments.iter().rev() {
            let here = left.min(segment.epochs);
            if here > 0 {
                let rate = self.rates.get(&shape.rate(segment.params.get("batch"), data.as_ref(), samples))?;
                seconds += rate * here as f64 * samples.unwrap_or(1.0);
            }
            left -= here;
        }
        Some(seconds)
    }
}

/// The shape of a point as the pipeline has it.
fn planned(project: &Project, point: PointId) -> Shape {
    let point = project.spec.point(point);
    let one = |input: &PointInput| match input {
        PointInput::One(i) => Some(planned(project, *i)),
        PointInput::Many(_) => None,
    };
    let reads = point.inputs.iter().filter_map(|(role, input)| Some((role.as_str(), one(input)?)));
    Shape::new(point.parsed.kind.name(), &point.parsed.params, point.parsed.stage.epochs().is_some(), reads)
}

/// The shape of a stage that ran, if what it read is known.
fn past(record: &ResultRecord, by_digest: &BTreeMap<Digest, &ResultRecord>) -> Shape {
    let components = &record.components;
    let one = |input: &InputDigest| match input {
        InputDigest::One(digest) => by_digest.get(digest).map(|read| past(read, by_digest)),
        InputDigest::Many(_) => None,
    };
    let reads = components.inputs.iter().filter_map(|(role, input)| Some((role.as_str(), one(input)?)));
    Shape::new(&components.kind, &components.params, components.segments.is_some(), reads)
}

/// The name of the rate of a training that ran, and how many samples it went through.
fn work(record: &ResultRecord, resumed_at: u64, by_digest: &BTreeMap<Digest, &ResultRecord>) -> Option<(Digest, f64)> {
    let components = &record.components;
    let segments = components.segments.as_ref()?;
    let batch = |s: &Segment| s.params.get("batch").cloned();
    let first = batch(segments.first()?);
    // A mixture has no rate.
    if segments.iter().any(|s| batch(s) != first) {
        return None;
    }
    let epochs = segments.iter().map(|s| s.epochs).sum::<u64>().checked_sub(resumed_at).filter(|n| *n > 0)?;
    let data = match components.inputs.get("data") {
        Some(InputDigest::One(digest)) => by_digest.get(digest).map(|read| past(read, by_digest)),
        _ => None,
    };
    let samples = samples(&components.params, data.as_ref());
    let name = past(record, by_digest).rate(first.as_ref(), data.as_ref(), samples);
    Some((name, epochs as f64 * samples.unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_roughly_as_they_are_known() {
        let said = [0.3, 1.2, 59.6, 119.0, 720.0, 5400.0, 12_345.0, 90_000.0].map(about);
        insta::assert_snapshot!(said.join(", "), @"less than a second, about 1 s, about 60 s, about 2 min, about 12 min, about 90 min, about 3 h 26 min, about 25 h");
    }
}
