//! The curves of a training: the figures of each finished epoch, and the sums of the current one.
//!
//! All are f64, summed in the order of the steps, so an epoch that was interrupted ends with the same bits.

use std::collections::BTreeMap;

use crate::artifact::Tensor;
use crate::stage::StageError;

/// Figures by name, such as `("loss", 0.12)`.
pub type Figures = Vec<(&'static str, f64)>;

/// The curves of a training.
pub(super) struct History {
    /// One value for each finished epoch.
    curves: BTreeMap<&'static str, Vec<f64>>,
    /// Sums over the samples of the finished steps of the current epoch.
    sums: BTreeMap<&'static str, f64>,
}

impl History {
    /// Empty curves.
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self { curves: names.iter().map(|name| (*name, vec![])).collect(), sums: BTreeMap::new() }
    }

    /// Adds the figures of a step with this many samples. All steps of an epoch have the same figures.
    pub(super) fn add(&mut self, figures: &Figures, samples: usize) -> Result<(), StageError> {
        let is_first = self.sums.is_empty();
        for (name, figure) in figures {
            self.check(name, *figure)?;
            *self.sums.entry(name).or_insert(0.0) += figure * samples as f64;
        }
        if is_first || self.sums.len() == figures.len() {
            return Ok(());
        }
        Err(StageError::failed("a step has other figures than the steps before it in the epoch"))
    }

    /// The means of the current epoch over this many samples.
    pub(super) fn means(&self, samples: usize) -> Figures {
        self.sums.iter().map(|(name, sum)| (*name, sum / samples as f64)).collect()
    }

    /// Ends the current epoch, with its means over this many samples and the figures of its evaluation.
    pub(super) fn close(&mut self, samples: usize, evaluation: &Figures) -> Result<(), StageError> {
        let mut figures: BTreeMap<&str, f64> = self.means(samples).into_iter().collect();
        for (name, figure) in evaluation {
            self.check(name, *figure)?;
            if figures.insert(name, *figure).is_some() {
                return Err(StageError::failed(format!("both the steps and the evaluation have a figure `{name}`")));
            }
        }
        for (name, curve) in &mut self.curves {
            let missing = || StageError::failed(format!("an epoch has no figure `{name}`, which is one of the curves"));
            curve.push(figures.get(name).copied().ok_or_else(missing)?);
        }
        self.sums.clear();
        Ok(())
    }

    /// The figures of the last finished epoch.
    pub(super) fn last(&self) -> Figures {
        self.curves.iter().filter_map(|(name, curve)| Some((*name, *curve.last()?))).collect()
    }

    /// `history.NAME` for each curve.
    pub(super) fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.curves.iter().map(|(name, curve)| (format!("history.{name}"), Tensor::vector(curve))).collect()
    }

    /// [`History::tensors`], and `sum.NAME` for each sum of the current epoch.
    pub(super) fn state(&self) -> BTreeMap<String, Tensor> {
        let sums = self.sums.iter().map(|(name, sum)| (format!("sum.{name}"), Tensor::vector(&[*sum])));
        sums.chain(self.tensors()).collect()
    }

    /// Takes what [`History::state`] returned after this many epochs out of a state.
    pub(super) fn restore(&mut self, state: &mut BTreeMap<String, Tensor>, epochs: u64) -> Result<(), StageError> {
        let mut take = |name: String| state.remove(&name).map(|tensor| tensor.to_vec::<f64>()).transpose();
        for (name, curve) in &mut self.curves {
            let values = take(format!("history.{name}"))?.filter(|values| values.len() as u64 == epochs);
            *curve = values.ok_or_else(|| StageError::failed(format!("it lacks the curve `{name}`")))?;
            let sum = take(format!("sum.{name}"))?.and_then(|sum| sum.first().copied());
            self.sums.extend(sum.map(|sum| (*name, sum)));
        }
        Ok(())
    }

    fn check(&self, name: &str, figure: f64) -> Result<(), StageError> {
        if !self.curves.contains_key(name) {
            let known = self.curves.keys().copied().collect::<Vec<_>>().join(", ");
            return Err(StageError::failed(format!("the figure `{name}` is none of the curves: {known}")));
        }
        if !figure.is_finite() {
            return Err(StageError::failed(format!("the training diverged: `{name}` is {figure}")));
        }
        Ok(())
    }
}
