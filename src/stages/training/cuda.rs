//! The training loop on a GPU: the same walk along the same chain, but decoder, latents and images stay on the GPU, and the host only
//! gives orders. It asks for the losses at the end of an epoch, and for the state where one is saved; whatever is saved or comes out
//! at the end passes through the host's own decoder and latents, in their layout.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::fixed::Fixed;
use super::history::{Figures, PIXELS};
use super::latents::{elements, find};
use super::{Net, Rates, Training, Walk, diverged};
use crate::artifact::{Tensor, TensorError};
use crate::model::Decoder;
use crate::model::cuda::{CudaError, CudaTraining, EpochRates, LatentArrays, Options, Statistics};
use crate::model::posterior::Distribution;
use crate::stage::{Context, Device, Position, StageError};

impl From<CudaError> for StageError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::Memory { .. } => Self::bad_input(error.to_string(), "use a smaller `batch`, or `--device cpu`"),
            other => Self::failed(other.to_string()),
        }
    }
}

/// Names of the parameters in a state of the latents.
fn names(distribution: Option<Distribution>) -> Vec<&'static str> {
    distribution.map_or(vec!["z"], |d| d.parameters().iter().map(|p| p.name).collect())
}

/// The parts of a parameter in a state of the latents, in the order of [`LatentArrays`].
const PARTS: [&str; 3] = ["value", "m", "v"];

impl Training<'_> {
    /// Puts the training onto the GPU, if that is where the context computes.
    pub(super) fn on_gpu(&self, context: &Context<'_>) -> Result<Option<CudaTraining>, StageError> {
        let Device::Cuda { ordinal, graph } = *context.device else { return Ok(None) };
        let (shape, statistics, state) = match &self.net {
            Net::Learning(decoder) => (decoder.shape(), Statistics::Learning, decoder.state()?),
            Net::Fixed(Fixed::Batch(decoder)) => (decoder.shape(), Statistics::Batch, decoder.state()?),
            Net::Fixed(Fixed::Running(frozen)) => (frozen.shape(), Statistics::Folded, frozen.unfolded_state()?),
        };
        let latents = self.latent_arrays(self.images.count, shape.latent_dim)?;
        let options = Options { ordinal, graph, tf32: context.precision == "tf32" };
        Ok(Some(CudaTraining::new(options, (shape, statistics), &state, &latents, &self.images.pixels)?))
    }

    /// The rest of the epoch at hand.
    pub(super) fn epoch_on_gpu(
        &mut self,
        gpu: &mut CudaTraining,
        walk: &mut Walk<'_>,
        rates: Rates,
    ) -> Result<(), StageError> {
        let Position { epoch, step: from } = walk.at;
        let from = from as usize;
        let mut order: Vec<usize> = (0..self.images.count).collect();
        walk.context.streams.stream(&format!("{} shuffle", self.purpose), epoch, 0).shuffle(&mut order);
        let steps = order.len().div_ceil(rates.batch);
        let noise = self.noise(walk, order.len(), rates.batch)?;
        let (lr, kl_weight) = (rates.lr.unwrap_or(0.0), rates.kl_weight);
        gpu.begin_epoch(
            &order,
            from,
            &noise,
            EpochRates { batch: rates.batch, lr, latent_lr: rates.latent_lr, kl_weight },
        )?;
        walk.meter.begin_epoch();
        let mut read = from;
        for step in from..steps {
            gpu.step()?;
            let last = step + 1 == steps;
            let at = if last {
                Position { epoch: epoch + 1, step: 0 }
            } else {
                Position { epoch, step: step as u64 + 1 }
            };
            let due = walk.context.chain.is_some_and(|chain| chain.due(at));
            let save = due || walk.context.cancel.is_cancelled();
            if !last && !save {
                continue;
            }
            self.read_losses(gpu, walk, read..step + 1, rates)?;
            walk.at = at;
            if last {
                self.history.close(steps, order.len());
                let samples = order.len() - from * rates.batch;
                walk.meter.end_epoch(at, samples, &self.history, self.has_kl());
            }
            read = step + 1;
            if save {
                self.fetch(gpu)?;
                self.settle(walk)?;
            }
        }
        Ok(())
    }

    /// Brings decoder and latents back to the host.
    pub(super) fn fetch(&mut self, gpu: &CudaTraining) -> Result<(), StageError> {
        if let Net::Learning(decoder) = &mut self.net {
            let mut state = decoder.state()?;
            gpu.decoder_into(&mut state)?;
            **decoder = Decoder::from_state(decoder.shape(), &state)?;
        }
        let mut state = self.latents.state()?;
        let shape = self.latent_shape(&state)?;
        let mut latents = self.latent_arrays(shape[0], shape[1])?;
        gpu.latents_into(&mut latents)?;
        for (name, arrays) in names(latents.distribution).into_iter().zip(&latents.parameters) {
            for (part, array) in PARTS.into_iter().zip(arrays) {
                state.insert(format!("latents.{name}.{part}"), Tensor::new(shape, array)?);
            }
        }
        state.insert("latents.step".to_owned(), Tensor::vector(&[latents.step as i64]));
        Ok(self.latents.restore(&state)?)
    }

    /// ε of the whole epoch, in its order: for each step from the stream that the CPU would take.
    fn noise(&self, walk: &Walk<'_>, samples: usize, batch: usize) -> Result<Vec<f32>, StageError> {
        let Some(distribution) = self.latents.distribution() else { return Ok(Vec::new()) };
        let dim = self.latent_shape(&self.latents.state()?)?[1];
        let Position { epoch, step } = walk.at;
        let purpose = format!("{} noise", self.purpose);
        let mut noise = vec![0.0; samples * dim];
        noise.par_chunks_mut(batch * dim).enumerate().skip(step as usize).for_each(|(step, noise)| {
            distribution.noise(&mut walk.context.streams.stream(&purpose, epoch, step as u64), noise);
        });
        Ok(noise)
    }

    /// Adds the figures of these steps to the epoch's; waits for them.
    fn read_losses(
        &mut self,
        gpu: &CudaTraining,
        walk: &Walk<'_>,
        steps: std::ops::Range<usize>,
        rates: Rates,
    ) -> Result<(), StageError> {
        let all = self.images.count.div_ceil(rates.batch);
        for (step, found) in steps.clone().zip(gpu.losses(steps)?) {
            let batch = rates.batch.min(self.images.count - step * rates.batch);
            let reconstruction = found.squared_error.sqrt() / (batch * PIXELS) as f64;
            let kl = if self.has_kl() { found.kl } else { 0.0 };
            let loss = reconstruction + rates.kl_weight * kl;
            if !loss.is_finite() || !found.squared_error.is_finite() {
                let how = format!("the loss is not a finite number at step {} of {all}", step + 1);
                return Err(diverged(walk, walk.at.epoch + 1, &how, Some(rates)));
            }
            self.history.add(Figures { loss, reconstruction, kl, squared_error: found.squared_error });
        }
        Ok(())
    }

    /// Samples and dimensions of the latents.
    fn latent_shape(&self, state: &BTreeMap<String, Tensor>) -> Result<[usize; 2], TensorError> {
        let name = names(self.latents.distribution())[0];
        let shape = find(state, &format!("latents.{name}.value"))?.shape();
        <[usize; 2]>::try_from(shape).map_err(|_| TensorError::Unsupported("latents have two axes".to_owned()))
    }

    fn latent_arrays(&self, samples: usize, dim: usize) -> Result<LatentArrays, TensorError> {
        let (state, distribution) = (self.latents.state()?, self.latents.distribution());
        let mut parameters = Vec::new();
        for name in names(distribution) {
            let mut arrays = [const { Vec::new() }; 3];
            for (array, part) in arrays.iter_mut().zip(PARTS) {
                *array = elements(find(&state, &format!("latents.{name}.{part}"))?, &[samples, dim])?;
            }
            parameters.push(arrays);
        }
        let step = elements::<i64>(find(&state, "latents.step")?, &[1])?[0].unsigned_abs();
        Ok(LatentArrays { distribution, parameters, step })
    }
}
