//! The mean and the standard deviation of a few values, such as those of points that differ only in their seed.

/// The summary of at least one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The sample standard deviation, with n − 1 in the denominator. `None` for a single value.
    pub deviation: Option<f64>,
}

impl Summary {
    /// The summary of these values. NaN for none.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        Self { count, mean, deviation }
    }
}
