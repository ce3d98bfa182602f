//! The curves of trainings: those of stored results from their tensors, those of running trainings from the events. If
//! a running training was resumed, its newest state has the epochs before. All curves of an answer have the same
//! buckets of epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::decimation::{Decimated, Values, bucket, decimate, shown};
use super::live::{LiveCurve, PointRun};
use super::model::Model;
use super::point::Point;
use crate::artifact::{ElementType, NOT_LOGGED, TensorEntry};
use crate::key::{Digest, Key};
use crate::stage::Position;
use crate::store::{BlobReader, StoreError};

const PREFIX: &str = "history.";
/// Values that are kept in memory: 32 MiB.
const MOST_KEPT: usize = 8 << 20;
/// Curves in one answer.
const MOST_SERIES: usize = 5_000;
/// Values in one answer.
const MOST_VALUES: usize = 4 << 20;
/// Values of a curve that a page may ask for.
const MOST_OF_CURVE: usize = 2_000;
/// A curve with more bytes is not read.
const LARGEST: u64 = 64 << 20;

/// Decimated curves by their tensor and the epochs in a bucket.
#[derive(Default)]
pub(super) struct CurveCache {
    curves: BTreeMap<(Digest, u64), Arc<Decimated>>,
    /// Values of all of them.
    values: usize,
}

impl CurveCache {
    fn insert(&mut self, name: (Digest, u64), curve: &Arc<Decimated>) {
        if self.values + curve.len() > MOST_KEPT {
            *self = Self::default();
        }
        self.values += curve.len();
        let before = self.curves.insert(name, Arc::clone(curve));
        self.values -= before.map_or(0, |before| before.len());
    }
}

/// What a page asks for.
pub(super) struct CurvesQuery {
    /// The metric.
    pub(super) metric: String,
    /// The numbers of the points.
    pub(super) points: Vec<usize>,
    /// The most values of a curve.
    pub(super) most: usize,
    /// Epochs in a bucket, instead of `most`. A page that extends its curves asks for the bucket that they have. It
    /// gets a larger one only if a curve would have twice as many values as it may ask for.
    pub(super) bucket: Option<u64>,
    /// Whether it wants the means of buckets.
    pub(super) means: bool,
}

impl CurvesQuery {
    /// The epochs in a bucket, for this many curves of which the longest has this many epochs.
    fn bucket_for(&self, epochs: u64, curves: usize) -> u64 {
        let room = MOST_VALUES / curves.max(1);
        match self.bucket {
            Some(named) => named.max(bucket(epochs, room.min(2 * MOST_OF_CURVE))),
            None => bucket(epochs, room.min(self.most).min(MOST_OF_CURVE)),
        }
    }
}

impl Point {
    /// The names of the metrics that have a curve.
    fn curve_names<'a>(&'a self, tensors: &'a BTreeMap<String, TensorEntry>) -> BTreeSet<&'a str> {
        let stored = tensors.iter().filter(|(_, t)| is_curve(t)).filter_map(|(name, _)| name.strip_prefix(PREFIX));
        let live = self.current().into_iter().flat_map(|live| live.curves.keys().map(String::as_str));
        stored.chain(live).collect()
    }
}

fn is_curve(entry: &TensorEntry) -> bool {
    entry.shape.len() == 1 && entry.blob.size <= LARGEST && matches!(entry.element, ElementType::F32 | ElementType::F64)
}

/// The metrics of which any of these points has a curve, with the number of points.
pub(super) fn metrics(model: &Model, points: &[usize]) -> Value {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let none = BTreeMap::new();
    for point in points.iter().filter_map(|number| model.points.get(*number)) {
        let record = point.result.as_ref().filter(|_| point.is_done()).and_then(|r| model.reader.result(&r.key));
        let tensors = record.as_ref().map_or(&none, |record| &record.manifest.tensors);
        for name in point.curve_names(tensors) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    json!(counts)
}

/// The curves of a metric, before the stored ones are read.
pub(super) struct Selected {
    metric: String,
    /// Epochs in a bucket.
    bucket: u64,
    /// Epochs of the longest curve.
    longest: u64,
    means: bool,
    curves: Vec<(Series, Source)>,
}

/// The curves that a page asks for. Those of running trainings are copied.
pub(super) fn select(model: &Model, query: CurvesQuery) -> Selected {
    let name = format!("{PREFIX}{}", query.metric);
    let wanted = query.points.iter().take(MOST_SERIES).filter_map(|n| Some((*n, model.points.get(*n)?)));
    let mut found: Vec<(Series, Found<'_>)> = Vec::new();
    for (id, point) in wanted {
        let result = point.result.as_ref().filter(|_| point.is_done());
        let record = result.and_then(|result| model.reader.result(&result.key));
        let stored = record.and_then(|mut record| record.manifest.tensors.remove(&name)).filter(is_curve);
        let live = || {
            let live = point.current()?;
            let curve = live.curves.get(&query.metric)?;
            Some(Found::Live(curve, earlier(model, live, &name, curve)))
        };
        let Some(curve) = stored.map(Found::Stored).or_else(live) else { continue };
        let (seconds_per_epoch, samples_per_epoch) = pace(model, point);
        let epochs = curve.epochs();
        found.push((Series { id, epochs, seconds_per_epoch, samples_per_epoch, ..Series::default() }, curve));
    }
    let longest = found.iter().map(|(series, _)| series.epochs).max().unwrap_or(0);
    let bucket = query.bucket_for(longest, found.len());
    let source = |curve| match curve {
        Found::Stored(entry) => Source::Stored(entry),
        Found::Live(curve, states) => Source::Live { states, curve: curve.clone() },
    };
    let curves = found.into_iter().map(|(series, curve)| (series, source(curve))).collect();
    Selected { metric: query.metric, bucket, longest, means: query.means, curves }
}

/// A curve in the cache or in the model.
enum Found<'a> {
    Stored(TensorEntry),
    /// Also curves of the epochs before, if the training was resumed.
    Live(&'a LiveCurve, Vec<TensorEntry>),
}

impl Found<'_> {
    fn epochs(&self) -> u64 {
        match self {
            Self::Stored(entry) => entry.shape[0] as u64,
            Self::Live(curve, _) => curve.first.saturating_sub(1).saturating_add(curve.values.len() as u64),
        }
    }
}

/// Where the values of a selected curve are.
enum Source {
    Stored(TensorEntry),
    Live {
        /// The curve in states of the training, which have the epochs before.
        states: Vec<TensorEntry>,
        curve: LiveCurve,
    },
}

/// The curve of the epochs before `curve`, in the states of a training that was resumed. Empty once they were read.
/// The cache as the model knows it is a little older than the events, so it may not have the newest state yet.
fn earlier(model: &Model, live: &PointRun, name: &str, curve: &LiveCurve) -> Vec<TensorEntry> {
    if curve.first <= 1 || curve.earlier.get().is_some() {
        return Vec::new();
    }
    let found = |(key, position): &(Key, Position)| {
        let mut state = model.reader.states(key).into_iter().find(|state| state.position() == *position)?;
        let stored = state.tensors.remove(name).filter(is_curve)?;
        (stored.shape[0] as u64 >= curve.first - 1).then_some(stored)
    };
    live.states.iter().rev().flatten().filter_map(found).collect()
}

/// A curve with the epochs before it. They are missing if they can't be read.
fn joined(blobs: &BlobReader, states: &[TensorEntry], curve: &LiveCurve, bucket: u64) -> Decimated {
    let LiveCurve { first, values, earlier } = curve;
    let mut unread = states.iter().take_while(|_| earlier.get().is_none());
    if let Some(mut all) = unread.find_map(|entry| read(blobs, entry).ok()) {
        all.truncate(usize::try_from(first - 1).unwrap_or(usize::MAX));
        let _same = earlier.set(all);
    }
    match earlier.get() {
        Some(earlier) => decimate(1, &[&earlier[..], values].concat(), bucket),
        None => decimate(*first, values, bucket),
    }
}

impl Selected {
    /// Reads the stored curves. The answer is JSON.
    ///
    /// # Errors
    /// If the cache can't be read. A damaged curve is left out.
    pub(super) fn read(self, cache: &Mutex<CurveCache>, blobs: &BlobReader) -> Result<Vec<u8>, StoreError> {
        let Self { metric, bucket, longest, means, curves } = self;
        let mut series = Vec::with_capacity(curves.len());
        for (one, source) in curves {
            let curve = match source {
                Source::Live { states, curve } => Arc::new(joined(blobs, &states, &curve, bucket)),
                Source::Stored(entry) => match stored(cache, blobs, &entry, bucket) {
                    Err(StoreError::Damaged { .. }) => continue,
                    curve => curve?,
                },
            };
            series.push(Series { curve, has_means: means && bucket > 1, ..one });
        }
        let places = longest.div_ceil(bucket) * if bucket == 1 { 1 } else { 2 };
        let answer = Curves { metric, bucket, places, epochs: longest, series };
        // Only a map whose keys aren't strings can fail, and there is none.
        Ok(serde_json::to_vec(&answer).unwrap_or_default())
    }
}

/// The curves of a metric.
#[derive(Serialize)]
struct Curves {
    metric: String,
    /// Epochs in a bucket.
    bucket: u64,
    /// Values of the longest curve.
    places: u64,
    /// Epochs of the longest curve.
    epochs: u64,
    series: Vec<Series>,
}

#[derive(Default)]
struct Series {
    /// The number of the point.
    id: usize,
    epochs: u64,
    seconds_per_epoch: Option<f64>,
    samples_per_epoch: Option<f64>,
    curve: Arc<Decimated>,
    has_means: bool,
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Series", 7)?;
        fields.serialize_field("id", &self.id)?;
        fields.serialize_field("epochs", &self.epochs)?;
        fields.serialize_field("seconds_per_epoch", &self.seconds_per_epoch)?;
        fields.serialize_field("samples_per_epoch", &self.samples_per_epoch)?;
        fields.serialize_field("last", &shown(self.curve.last))?;
        fields.serialize_field("values", &Values(&self.curve.ends))?;
        if self.has_means {
            fields.serialize_field("means", &Values(&self.curve.means))?;
        }
        fields.end()
    }
}

/// The mean seconds and samples of an epoch of a training.
fn pace(model: &Model, point: &Point) -> (Option<f64>, Option<f64>) {
    match known_pace(model, point) {
        Some((seconds, samples)) => (Some(seconds), samples),
        None => (None, None),
    }
}

fn known_pace(model: &Model, point: &Point) -> Option<(f64, Option<f64>)> {
    let result = point.result.as_ref()?;
    let training = model.trainings.get(&(result.run.clone(), point.name.clone()))?;
    let epochs = result.epochs?.checked_sub(training.resumed_at).filter(|epochs| *epochs > 0)? as f64;
    let seconds = training.seconds / epochs;
    Some((seconds, training.seconds_per_sample.map(|per_sample| (seconds / per_sample).round())))
}

/// A decimated stored curve.
fn stored(
    cache: &Mutex<CurveCache>,
    blobs: &BlobReader,
    entry: &TensorEntry,
    bucket: u64,
) -> Result<Arc<Decimated>, StoreError> {
    let name = (entry.blob.digest, bucket);
    let cache = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache().curves.get(&name) {
        return Ok(Arc::clone(known));
    }
    let values = Arc::new(decimate(1, &read(blobs, entry)?, bucket));
    cache().insert(name, &values);
    Ok(values)
}

fn read(blobs: &BlobReader, entry: &TensorEntry) -> Result<Vec<f32>, StoreError> {
    let tensor = blobs.tensor(entry)?;
    let values = match tensor.element() {
        ElementType::F32 => tensor.to_vec::<f32>(),
        _ => tensor.to_vec::<f64>().map(|values| values.into_iter().map(logged).collect()),
    };
    // The type is that of the entry, which was checked.
    Ok(values.unwrap_or_default())
}

fn logged(value: f64) -> f32 {
    if value.to_bits() == NOT_LOGGED { f32::NAN } else { value as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Artifact, Tensor};
    use crate::store::CacheReader;
    use crate::store::tests::{commit, components, store};

    #[test]
    fn page_names_the_bucket_of_curves_that_grow_until_they_are_too_long() {
        let query = |bucket| CurvesQuery { metric: "loss".to_owned(), points: vec![], most: 100, bucket, means: false };
        assert_eq!(query(None).bucket_for(1_000, 1), 20);
        assert_eq!(query(Some(20)).bucket_for(1_500, 1), 20, "it stays the same");
        assert_eq!(query(Some(1)).bucket_for(1_000_000, 1), 500, "more values would be too many");
        assert_eq!(query(Some(0)).bucket_for(10, 1), 1);
        let greedy = CurvesQuery { most: usize::MAX, ..query(None) };
        assert_eq!(greedy.bucket_for(2_000, 1), 1);
        assert_eq!(greedy.bucket_for(20_000, 1), 20);
        assert_eq!(greedy.bucket_for(2_000, MOST_SERIES), 5, "many curves have fewer values each");
    }

    #[test]
    fn epochs_before_a_resumed_training_are_read_from_an_older_state_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = [("history.loss".to_owned(), Tensor::vector(&[0.5, 0.25, 0.125]))].into();
        let stored =
            commit(&store(dir.path()), "net", &components("a", 1), &Artifact { tensors, ..Artifact::default() });
        let blobs = CacheReader::open(dir.path()).unwrap().blobs();
        let entry = stored.manifest.tensors["history.loss"].clone();
        let mut removed = entry.clone();
        removed.blob.digest = Digest([7; 32]);
        let curve = LiveCurve { first: 3, values: vec![0.1], ..LiveCurve::default() };
        let values = |states: &[TensorEntry]| joined(&blobs, states, &curve, 1).ends;
        assert!(values(&[])[..2].iter().all(|value| value.is_nan()), "no state is stored yet");
        assert_eq!(values(&[removed, entry]), [0.5, 0.25, 0.1]);
        assert_eq!(values(&[]), [0.5, 0.25, 0.1], "the states were removed meanwhile");
    }

    #[test]
    fn kept_curves_take_a_limited_number_of_bytes() {
        let mut cache = CurveCache::default();
        let half = vec![0.0; MOST_KEPT / 8];
        let curve = Arc::new(Decimated { ends: half.clone(), means: half, last: 0.0 });
        for number in 0..9 {
            cache.insert((Digest([number; 32]), 1), &curve);
            cache.insert((Digest([number; 32]), 1), &curve);
            assert!(cache.values <= MOST_KEPT && cache.values == cache.curves.len() * curve.len());
        }
    }
}
