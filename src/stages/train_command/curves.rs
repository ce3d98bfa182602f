//! The metrics of a training, epoch by epoch: curves, which every state contains.

use std::collections::BTreeMap;

use crate::artifact::{NOT_LOGGED as MISSING, Tensor, TensorError};

/// The names of the tensors of curves begin with this.
const PREFIX: &str = "history.";

/// The metrics of one epoch.
pub(super) type Metrics = BTreeMap<String, f64>;

/// The metrics of the finished epochs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curves {
    epochs: usize,
    /// One value for each epoch.
    by_name: BTreeMap<String, Vec<f64>>,
}

impl Curves {
    /// The curves of a state.
    ///
    /// # Errors
    /// If a tensor is not a list of f64, one for each epoch.
    pub(super) fn from_tensors(tensors: &BTreeMap<String, Tensor>, epochs: u64) -> Result<Self, TensorError> {
        let epochs = usize::try_from(epochs).unwrap_or(usize::MAX);
        let mut by_name = BTreeMap::new();
        for (name, tensor) in tensors {
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            let curve = tensor.to_vec::<f64>()?;
            if curve.len() != epochs {
                return Err(TensorError::Shape { elements: curve.len(), shape: vec![epochs] });
            }
            by_name.insert(name.to_owned(), curve);
        }
        Ok(Self { epochs, by_name })
    }

    /// The curves as tensors `history.NAME`: `f64 [epochs]`.
    pub(super) fn to_tensors(&self) -> BTreeMap<String, Tensor> {
        self.by_name.iter().map(|(name, curve)| (format!("{PREFIX}{name}"), Tensor::vector(curve))).collect()
    }

    /// Adds an epoch.
    pub(super) fn push(&mut self, metrics: &Metrics) {
        for name in metrics.keys().filter(|name| !self.by_name.contains_key(*name)).cloned().collect::<Vec<_>>() {
            self.by_name.insert(name, vec![f64::from_bits(MISSING); self.epochs]);
        }
        for (name, curve) in &mut self.by_name {
            curve.push(metrics.get(name).copied().unwrap_or(f64::from_bits(MISSING)));
        }
        self.epochs += 1;
    }

    /// What was logged in the last epoch.
    pub(super) fn last(&self) -> Metrics {
        let last = |curve: &Vec<f64>| curve.last().copied().filter(|value| value.to_bits() != MISSING);
        self.by_name.iter().filter_map(|(name, curve)| Some((name.clone(), last(curve)?))).collect()
    }

    /// The best value of a metric, and its epoch, from 1. The first of several; NaN is never the best.
    pub(super) fn best(&self, name: &str, larger: bool) -> Option<(f64, u64)> {
        let values = (1..).zip(self.by_name.get(name)?.iter().copied()).filter(|(_, value)| !value.is_nan());
        let better = |a: f64, b: f64| if larger { a > b } else { a < b };
        values.fold(None, |best, (epoch, value)| match best {
            Some((other, _)) if !better(value, other) => best,
            _ => Some((value, epoch)),
        })
    }

    /// The names of the metrics.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}
