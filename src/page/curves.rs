//! The curves of trainings: those of stored results from their tensors, those of running trainings from the events.
//!
//! A page can't draw millions of points. If trainings have more epochs than asked for, each bucket of epochs is drawn
//! as its least and its greatest value, in the order in which they come, so that no spike is lost. All curves of an
//! answer have the same buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::live::LiveCurve;
use super::model::{Model, Point};
use crate::artifact::{ElementType, NOT_LOGGED, TensorEntry};
use crate::key::Digest;
use crate::store::StoreError;

const PREFIX: &str = "history.";
/// Curves that are kept in memory, each with a few kilobytes.
const MOST_KEPT: usize = 6_000;
/// Curves in one answer.
const MOST_SERIES: usize = 5_000;

/// Decimated curves by their tensor and the epochs in a bucket.
#[derive(Default)]
pub(super) struct CurveCache(BTreeMap<(Digest, u64), Arc<Vec<f32>>>);

/// What a page asks for.
pub(super) struct CurvesQuery {
    /// The metric.
    pub(super) metric: String,
    /// The numbers of the points.
    pub(super) points: Vec<usize>,
    /// The most values of a curve.
    pub(super) most: usize,
}

/// Where the values of a curve are.
enum Source<'a> {
    Stored(&'a TensorEntry),
    Live(&'a LiveCurve),
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
    entry.shape.len() == 1 && matches!(entry.element, ElementType::F32 | ElementType::F64)
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

/// The curves of a metric.
///
/// # Errors
/// If the cache can't be read. A damaged curve is left out.
pub(super) fn curves(cache: &Mutex<CurveCache>, model: &Model, query: &CurvesQuery) -> Result<Value, StoreError> {
    let name = format!("{PREFIX}{}", query.metric);
    let wanted = query.points.iter().take(MOST_SERIES).filter_map(|n| Some((*n, model.points.get(*n)?)));
    let records: Vec<_> = wanted
        .map(|(number, point)| {
            let result = point.result.as_ref().filter(|_| point.is_done());
            (number, point, result.and_then(|result| model.reader.result(&result.key)))
        })
        .collect();
    let mut sources: Vec<(usize, &Point, Source<'_>)> = Vec::new();
    for (number, point, record) in &records {
        let stored = record.as_ref().and_then(|record| record.manifest.tensors.get(&name)).filter(|t| is_curve(t));
        let live = || point.current().and_then(|live| live.curves.get(&query.metric)).map(Source::Live);
        sources.extend(stored.map(Source::Stored).or_else(live).map(|source| (*number, *point, source)));
    }
    let epochs = |source: &Source<'_>| match source {
        Source::Stored(entry) => entry.shape[0] as u64,
        Source::Live(curve) => curve.first.saturating_sub(1) + curve.values.len() as u64,
    };
    let longest = sources.iter().map(|(_, _, source)| epochs(source)).max().unwrap_or(0);
    let bucket = bucket(longest, query.most);
    let mut series = Vec::with_capacity(sources.len());
    for (number, point, source) in &sources {
        let values = match source {
            Source::Live(curve) => decimate(curve.first, &curve.values, bucket),
            Source::Stored(entry) => match stored(cache, model, entry, bucket) {
                Err(StoreError::Damaged { .. }) => continue,
                values => values?.to_vec(),
            },
        };
        let values: Vec<Option<f32>> = values.into_iter().map(|v| v.is_finite().then_some(v)).collect();
        let pace = pace(model, point);
        series.push(json!({
            "id": number, "values": values, "epochs": epochs(source),
            "seconds_per_epoch": pace.map(|(seconds, _)| seconds), "samples_per_epoch": pace.and_then(|(_, s)| s),
        }));
    }
    let places = longest.div_ceil(bucket) * if bucket == 1 { 1 } else { 2 };
    Ok(json!({ "metric": query.metric, "bucket": bucket, "places": places, "epochs": longest, "series": series }))
}

/// The mean seconds and samples of an epoch of a training.
fn pace(model: &Model, point: &Point) -> Option<(f64, Option<f64>)> {
    let result = point.result.as_ref()?;
    let training = model.trainings.get(&(result.run.clone(), point.name.clone()))?;
    let epochs = result.epochs?.checked_sub(training.resumed_at).filter(|epochs| *epochs > 0)? as f64;
    let seconds = training.seconds / epochs;
    Some((seconds, training.seconds_per_sample.map(|per_sample| (seconds / per_sample).round())))
}

/// The epochs in a bucket, so that a curve has at most this many values.
fn bucket(epochs: u64, most: usize) -> u64 {
    let most = most.clamp(2, 100_000) as u64;
    if epochs <= most { 1 } else { epochs.div_ceil(most / 2) }
}

/// The values of a curve that begins at the epoch `first`: one for each epoch, or two for each bucket.
fn decimate(first: u64, values: &[f32], bucket: u64) -> Vec<f32> {
    let missing = usize::try_from(first.saturating_sub(1)).unwrap_or(usize::MAX).min(1 << 24);
    let padded = std::iter::repeat_n(f32::NAN, missing).chain(values.iter().copied());
    if bucket <= 1 {
        return padded.collect();
    }
    let all: Vec<f32> = padded.collect();
    let size = usize::try_from(bucket).unwrap_or(usize::MAX);
    all.chunks(size).flat_map(ends).collect()
}

/// The least and the greatest value, in their order. NaN if there is none.
fn ends(values: &[f32]) -> [f32; 2] {
    let finite = || values.iter().copied().enumerate().filter(|(_, value)| value.is_finite());
    let low = finite().min_by(|(_, a), (_, b)| a.total_cmp(b));
    let high = finite().max_by(|(_, a), (_, b)| a.total_cmp(b));
    match (low, high) {
        (Some((i, low)), Some((j, high))) if i <= j => [low, high],
        (Some((_, low)), Some((_, high))) => [high, low],
        _ => [f32::NAN; 2],
    }
}

/// A decimated stored curve.
fn stored(
    cache: &Mutex<CurveCache>,
    model: &Model,
    entry: &TensorEntry,
    bucket: u64,
) -> Result<Arc<Vec<f32>>, StoreError> {
    let name = (entry.blob.digest, bucket);
    let cache = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache().0.get(&name) {
        return Ok(Arc::clone(known));
    }
    let values = Arc::new(decimate(1, &read(model, entry)?, bucket));
    let mut cache = cache();
    if cache.0.len() >= MOST_KEPT {
        cache.0.clear();
    }
    cache.0.insert(name, Arc::clone(&values));
    Ok(values)
}

fn read(model: &Model, entry: &TensorEntry) -> Result<Vec<f32>, StoreError> {
    let tensor = model.reader.read_tensor(entry)?;
    let values = match tensor.element() {
        ElementType::F32 => tensor.to_vec::<f32>(),
        _ => tensor.to_vec::<f64>().map(|values| values.into_iter().map(shown).collect()),
    };
    // The type is that of the entry, which was checked.
    Ok(values.unwrap_or_default())
}

fn shown(value: f64) -> f32 {
    if value.to_bits() == NOT_LOGGED { f32::NAN } else { value as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimation_keeps_every_spike_and_the_order_of_the_ends() {
        let mut values = vec![1.0f32; 1000];
        (values[417], values[733]) = (9.0, -3.0);
        let bucket = bucket(1000, 100);
        let drawn = decimate(1, &values, bucket);
        assert_eq!((bucket, drawn.len()), (20, 100));
        assert!(drawn.contains(&9.0) && drawn.contains(&-3.0));
        assert_eq!(decimate(1, &[3.0, 1.0, 2.0, 5.0], 2), [3.0, 1.0, 2.0, 5.0]);
    }

    #[test]
    fn short_curve_is_whole_and_a_resumed_one_begins_where_it_was_resumed() {
        assert_eq!(bucket(400, 400), 1);
        let drawn = decimate(3, &[0.5, 0.25], 1);
        assert!(drawn[..2].iter().all(|value| value.is_nan()));
        assert_eq!(drawn[2..], [0.5, 0.25]);
    }

    #[test]
    fn bucket_without_a_value_is_a_gap() {
        let drawn = decimate(1, &[f32::NAN, f32::NAN, 1.0, f32::INFINITY], 2);
        assert!(drawn[0].is_nan() && drawn[1].is_nan());
        assert_eq!(drawn[2..], [1.0, 1.0]);
    }
}
