//! Decimation of curves: a page can't draw millions of points. If trainings have more epochs than asked for, each
//! bucket of epochs is drawn as its least and its greatest value, in the order in which they come, so that no spike is
//! lost. A page that smooths curves asks for the means of the buckets, too.

use serde::{Serialize, Serializer};

/// The epochs in a bucket, so that a curve has at most this many values.
pub(super) fn bucket(epochs: u64, most: usize) -> u64 {
    let most = most.max(2) as u64;
    if epochs <= most { 1 } else { epochs.div_ceil(most / 2) }
}

/// What is drawn of a curve.
#[derive(Debug, Default)]
pub(super) struct Decimated {
    /// One value for each epoch, or two for each bucket of several epochs. NaN where there is none.
    pub(super) ends: Vec<f32>,
    /// The mean of each bucket of several epochs.
    pub(super) means: Vec<f32>,
    /// The value of the last epoch.
    pub(super) last: f32,
}

impl Decimated {
    /// The number of its values.
    pub(super) fn len(&self) -> usize {
        self.ends.len() + self.means.len()
    }
}

/// Decimates a curve that begins at the epoch `first`.
pub(super) fn decimate(first: u64, values: &[f32], bucket: u64) -> Decimated {
    let missing = usize::try_from(first.saturating_sub(1)).unwrap_or(usize::MAX).min(1 << 24);
    let all: Vec<f32> = std::iter::repeat_n(f32::NAN, missing).chain(values.iter().copied()).collect();
    let last = all.last().copied().unwrap_or(f32::NAN);
    if bucket <= 1 {
        return Decimated { ends: all, means: vec![], last };
    }
    let buckets = || all.chunks(usize::try_from(bucket).unwrap_or(usize::MAX));
    Decimated { ends: buckets().flat_map(ends).collect(), means: buckets().map(mean).collect(), last }
}

/// The mean of the finite values. NaN if there is none.
fn mean(values: &[f32]) -> f32 {
    let finite = || values.iter().filter(|value| value.is_finite());
    (finite().map(|value| f64::from(*value)).sum::<f64>() / finite().count() as f64) as f32
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

/// Values as a page draws them.
pub(super) struct Values<'a>(pub(super) &'a [f32]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|value| shown(*value)))
    }
}

/// A value with five digits. None if there is none.
pub(super) fn shown(value: f32) -> Option<f64> {
    value.is_finite().then(|| five_digits(value))
}

/// The value, rounded to five digits.
fn five_digits(value: f32) -> f64 {
    let value = f64::from(value);
    if value == 0.0 {
        return 0.0;
    }
    let digits = 4 - value.abs().log10().floor() as i32;
    match digits {
        // Dividing by a power of ten gives the nearest number with these digits.
        0..=22 => (value * 10f64.powi(digits)).round() / 10f64.powi(digits),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimation_keeps_every_spike_and_the_order_of_the_ends() {
        let mut values = vec![1.0f32; 1000];
        (values[417], values[733]) = (9.0, -3.0);
        let bucket = bucket(1000, 100);
        let Decimated { ends: drawn, means, .. } = decimate(1, &values, bucket);
        assert_eq!((bucket, drawn.len(), means.len()), (20, 100, 50));
        assert!(drawn.contains(&9.0) && drawn.contains(&-3.0));
        assert_eq!(means[20], 1.4);
        let short = decimate(1, &[3.0, 1.0, 2.0, 5.0, 4.0], 2);
        assert_eq!(
            (short.ends, short.means, short.last),
            (vec![3.0, 1.0, 2.0, 5.0, 4.0, 4.0], vec![2.0, 3.5, 4.0], 4.0)
        );
    }

    #[test]
    fn short_curve_is_whole_and_a_resumed_one_begins_where_it_was_resumed() {
        assert_eq!(bucket(400, 400), 1);
        let drawn = decimate(3, &[0.5, 0.25], 1).ends;
        assert!(drawn[..2].iter().all(|value| value.is_nan()));
        assert_eq!(drawn[2..], [0.5, 0.25]);
    }

    #[test]
    fn values_are_sent_with_five_digits() {
        let values = [0.123_456_79, -98_765.43, 1.0, 0.0, 2.5e-7, f32::NAN];
        let text = serde_json::to_string(&Values(&values)).unwrap();
        assert_eq!(text, "[0.12346,-98765.0,1.0,0.0,2.5e-7,null]");
    }

    #[test]
    fn bucket_without_a_value_is_a_gap() {
        let Decimated { ends: drawn, means, last } = decimate(1, &[f32::NAN, f32::NAN, 1.0, f32::INFINITY], 2);
        assert!(means[0].is_nan() && means[1] == 1.0 && !last.is_finite());
        assert!(drawn[0].is_nan() && drawn[1].is_nan());
        assert_eq!(drawn[2..], [1.0, 1.0]);
    }
}
