//! The curves of a training: the figures of each finished epoch, and the sums of the current one.
//!
//! All are f64, summed in the order of the steps, so an epoch that was interrupted ends with the same bits.

use std::collections::BTreeMap;

use super::latents::{elements, find};
use crate::artifact::{Tensor, TensorError};
use crate::model::StepLoss;

/// Pixels of an image.
pub(in crate::stages) const PIXELS: usize = 28 * 28;

/// The figures of one step, or sums of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::stages) struct Figures {
    /// Reconstruction plus weighted KL: what the training minimises.
    pub(in crate::stages) loss: f64,
    /// ‖x − x̂‖_F / (number of elements of x) of a batch.
    pub(in crate::stages) reconstruction: f64,
    /// KL averaged over samples and latent dimensions, in nats, not weighted.
    pub(in crate::stages) kl: f64,
    /// The squared error summed over all pixels, in grey levels squared.
    pub(in crate::stages) squared_error: f64,
}

impl Figures {
    /// The figures of a step with `batch` samples.
    pub(super) fn of(found: StepLoss, batch: usize, kl_weight: f64) -> Self {
        let StepLoss { squared_error, kl } = found;
        let reconstruction = squared_error.sqrt() / (batch * PIXELS) as f64;
        Self { loss: reconstruction + kl_weight * kl, reconstruction, kl, squared_error }
    }
}

/// The curves of a training, with one value for each finished epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::stages) struct History {
    /// Mean loss over the epoch's batches.
    pub(in crate::stages) loss: Vec<f64>,
    /// Mean reconstruction loss over the epoch's batches.
    pub(in crate::stages) reconstruction: Vec<f64>,
    /// Mean KL over the epoch's batches.
    pub(in crate::stages) kl: Vec<f64>,
    /// Root mean squared error over the epoch's pixels, in grey levels.
    pub(in crate::stages) rmse: Vec<f64>,
    /// Sums over the finished steps of the current epoch.
    pub(in crate::stages) running: Figures,
}

impl History {
    /// Adds a step to the current epoch.
    pub(in crate::stages) fn add(&mut self, step: Figures) {
        let sum = &mut self.running;
        sum.loss += step.loss;
        sum.reconstruction += step.reconstruction;
        sum.kl += step.kl;
        sum.squared_error += step.squared_error;
    }

    /// Ends the current epoch, which had this many batches and samples.
    pub(in crate::stages) fn close(&mut self, batches: usize, samples: usize) {
        let sum = std::mem::take(&mut self.running);
        let batches = batches as f64;
        self.loss.push(sum.loss / batches);
        self.reconstruction.push(sum.reconstruction / batches);
        self.kl.push(sum.kl / batches);
        self.rmse.push(rmse(sum.squared_error, samples));
    }

    /// The curves of an artifact: `history.loss`, `history.rmse`, and with `parts` the two parts of the loss.
    pub(in crate::stages) fn to_artifact(&self, parts: bool) -> BTreeMap<String, Tensor> {
        let shown = self.curves().into_iter().filter(|(name, _)| names(parts).contains(name));
        shown.map(|(name, curve)| (format!("history.{name}"), Tensor::vector(curve))).collect()
    }

    /// The tensors of a state: all curves, and the sums of the current epoch.
    pub(in crate::stages) fn state(&self) -> BTreeMap<String, Tensor> {
        let mut tensors = self.to_artifact(true);
        let Figures { loss, reconstruction, kl, squared_error } = self.running;
        let running = Tensor::vector(&[loss, reconstruction, kl, squared_error]);
        tensors.insert("history.running".to_owned(), running);
        tensors
    }

    /// Reads what [`History::state`] returned after this many epochs.
    ///
    /// # Errors
    /// If a tensor is missing, or its type or length is wrong.
    pub(in crate::stages) fn from_state(state: &BTreeMap<String, Tensor>, epochs: u64) -> Result<Self, TensorError> {
        let curve = |name: &str| elements(find(state, &format!("history.{name}"))?, &[epochs as usize]);
        let running: Vec<f64> = elements(find(state, "history.running")?, &[4])?;
        Ok(Self {
            loss: curve("loss")?,
            reconstruction: curve("reconstruction")?,
            kl: curve("kl")?,
            rmse: curve("rmse")?,
            running: Figures {
                loss: running[0],
                reconstruction: running[1],
                kl: running[2],
                squared_error: running[3],
            },
        })
    }

    fn curves(&self) -> [(&'static str, &[f64]); 4] {
        [("loss", &self.loss), ("reconstruction", &self.reconstruction), ("kl", &self.kl), ("rmse", &self.rmse)]
    }
}

/// The names of the curves that [`History::to_artifact`] returns.
pub(in crate::stages) fn names(parts: bool) -> &'static [&'static str] {
    if parts { &["loss", "reconstruction", "kl", "rmse"] } else { &["loss", "rmse"] }
}

/// Root mean squared error in grey levels, from the squared error summed over this many images.
pub(in crate::stages) fn rmse(squared_error: f64, samples: usize) -> f64 {
    (squared_error / (samples * PIXELS) as f64).sqrt()
}

/// Peak signal-to-noise ratio `20 log₁₀(255 / rmse)` in dB, for an RMSE in grey levels. Metrics must be finite, so an
/// RMSE below 1e-7 counts as 1e-7 (about 188 dB); f32 arithmetic can't distinguish it from 0.
pub(in crate::stages) fn psnr(rmse: f64) -> f64 {
    20.0 * libm::log10(255.0 / rmse.max(1e-7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_is_mean_over_batches_and_rmse_over_pixels() {
        let mut history = History::default();
        for (loss, squared_error) in [(1.0, 784.0 * 3.0), (3.0, 784.0)] {
            history.add(Figures { loss, reconstruction: loss - 0.5, kl: 0.25, squared_error });
        }
        history.close(2, 4);
        assert_eq!((history.loss[0], history.reconstruction[0], history.kl[0]), (2.0, 1.5, 0.25));
        assert_eq!(history.rmse, [1.0]);
        assert_eq!(history.running, Figures::default());
    }

    #[test]
    fn state_in_mid_epoch_is_restored() {
        let mut history = History::default();
        history.add(Figures { loss: 1.0, reconstruction: 0.1, kl: 0.2, squared_error: 0.3 });
        history.close(1, 1);
        history.add(Figures { loss: 0.7, reconstruction: 0.4, kl: 0.5, squared_error: 0.6 });
        assert_eq!(History::from_state(&history.state(), 1).unwrap(), history);
        assert!(History::from_state(&history.state(), 2).is_err(), "the curves do not have the position's length");
    }

    #[test]
    fn psnr_of_perfect_image_is_finite() {
        assert_eq!(psnr(255.0), 0.0);
        assert!((psnr(2.55) - 40.0).abs() < 1e-9);
        assert!(psnr(0.0).is_finite());
    }
}
