//! The training loop on a GPU: the same walk along the same chain, but decoder, latents and images stay on the GPU, and the host only
//! gives orders. It asks for the losses at the end of an epoch, and for the state where one is saved; whatever is saved or comes out
//! at the end passes through the host's own decoder and latents, in their layout.

#[cfg(test)]
mod tests;

use rayon::prelude::*;

use super::fixed::Fixed;
use super::history::{Figures, PIXELS};
use super::latents::{elements, find, parameters};
use super::{Net, Rates, Training, Walk, diverged};
use crate::artifact::{Tensor, TensorError};
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
    parameters(distribution).into_iter().map(|(name, _)| name).collect()
}

/// The parts of a parameter in a state of the latents, in the order of [`LatentArrays`].
const PARTS: [&str; 3] = ["value", "m", "v"];

/// A training on a GPU, with the noise of the epoch to come: it is made while the GPU is still busy with the one before.
pub(super) struct Gpu {
    training: CudaTraining,
    ahead: Option<(Position, Vec<f32>)>,
}

impl Training<'_> {
    /// Puts the training onto the GPU, if that is where the context computes.
    pub(super) fn on_gpu(&self, context: &Context<'_>) -> Result<Option<Gpu>, StageError> {
        let Device::Cuda { ordinal, graph } = *context.device else { return Ok(None) };
        let (shape, statistics, state) = match &self.net {
            Net::Learning(decoder) => (decoder.shape(), Statistics::Learning, decoder.state()?),
            Net::Fixed(Fixed::Batch(decoder)) => (decoder.shape(), Statistics::Batch, decoder.state()?),
            Net::Fixed(Fixed::Running(frozen)) => (frozen.shape(), Statistics::Folded, frozen.unfolded_state()?),
        };
        let latents = self.latent_arrays()?;
        let options = Options { ordinal, graph, tf32: context.precision == "tf32" };
        let training = CudaTraining::new(options, (shape, statistics), &state, &latents, &self.images.pixels)?;
        Ok(Some(Gpu { training, ahead: None }))
    }

    /// The rest of the epoch at hand.
    pub(super) fn epoch_on_gpu(&mut self, gpu: &mut Gpu, walk: &mut Walk<'_>, rates: Rates) -> Result<(), StageError> {
        let Position { epoch, step: from } = walk.at;
        let from = from as usize;
        let mut order: Vec<usize> = (0..self.images.count).collect();
        walk.context.streams.stream(&format!("{} shuffle", self.purpose), epoch, 0).shuffle(&mut order);
        let steps = order.len().div_ceil(rates.batch);
        let noise = match gpu.ahead.take() {
            Some((at, noise)) if at == walk.at => noise,
            _ => self.noise(walk.context, walk.at, rates),
        };
        let Rates { batch, latent_lr, kl_weight, .. } = rates;
        let table = EpochRates { batch, lr: rates.lr.unwrap_or(0.0), latent_lr, kl_weight };
        gpu.training.begin_epoch(&order, from, &noise, table)?;
        walk.meter.begin_epoch();
        let mut read = from;
        for step in from..steps {
            gpu.training.step()?;
            let last = step + 1 == steps;
            let at =
                if last { Position { epoch: epoch + 1, step: 0 } } else { Position { epoch, step: step as u64 + 1 } };
            let due = walk.context.chain.is_some_and(|chain| chain.due(at));
            let save = due || walk.context.cancel.is_cancelled();
            if !last && !save {
                continue;
            }
            if let (true, Some(next)) = (last, self.schedule.of(epoch + 1)) {
                gpu.ahead = Some((at, self.noise(walk.context, at, next)));
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
    pub(super) fn fetch(&mut self, gpu: &Gpu) -> Result<(), StageError> {
        if let Net::Learning(decoder) = &mut self.net {
            let mut state = decoder.state()?;
            gpu.training.decoder_into(&mut state)?;
            decoder.restore(&state)?;
        }
        let mut state = self.latents.state()?;
        let mut latents = self.latent_arrays()?;
        let shape = [self.images.count, self.latent_dim()];
        gpu.training.latents_into(&mut latents)?;
        for (name, arrays) in names(latents.distribution).into_iter().zip(&latents.parameters) {
            for (part, array) in PARTS.into_iter().zip(arrays) {
                state.insert(format!("latents.{name}.{part}"), Tensor::new(shape, array)?);
            }
        }
        state.insert("latents.step".to_owned(), Tensor::vector(&[latents.step as i64]));
        Ok(self.latents.restore(&state)?)
    }

    /// ε of an epoch from this step on, in its order: for each step from the stream that the CPU would take.
    fn noise(&self, context: &Context<'_>, Position { epoch, step }: Position, rates: Rates) -> Vec<f32> {
        let Some(distribution) = self.latents.distribution() else { return Vec::new() };
        let dim = self.latent_dim();
        let mut noise = vec![0.0; self.images.count * dim];
        noise.par_chunks_mut(rates.batch * dim).enumerate().skip(step as usize).for_each(|(step, noise)| {
            let mut stream = context.streams.stream(&self.noise, epoch, step as u64);
            distribution.scaled_noise(&mut stream, rates.noise, noise);
        });
        noise
    }

    /// Numbers of a latent.
    fn latent_dim(&self) -> usize {
        match &self.net {
            Net::Learning(decoder) | Net::Fixed(Fixed::Batch(decoder)) => decoder.shape().latent_dim,
            Net::Fixed(Fixed::Running(frozen)) => frozen.shape().latent_dim,
        }
    }

    /// Adds the figures of these steps to the epoch's; waits for them.
    fn read_losses(
        &mut self,
        gpu: &Gpu,
        walk: &Walk<'_>,
        steps: std::ops::Range<usize>,
        rates: Rates,
    ) -> Result<(), StageError> {
        let all = self.images.count.div_ceil(rates.batch);
        for (step, found) in steps.clone().zip(gpu.training.losses(steps)?) {
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

    fn latent_arrays(&self) -> Result<LatentArrays, TensorError> {
        let (state, distribution) = (self.latents.state()?, self.latents.distribution());
        let shape = [self.images.count, self.latent_dim()];
        let mut parameters = Vec::new();
        for name in names(distribution) {
            let mut arrays = [const { Vec::new() }; 3];
            for (array, part) in arrays.iter_mut().zip(PARTS) {
                *array = elements(find(&state, &format!("latents.{name}.{part}"))?, &shape)?;
            }
            parameters.push(arrays);
        }
        let step = elements::<i64>(find(&state, "latents.step")?, &[1])?[0].unsigned_abs();
        Ok(LatentArrays { distribution, parameters, step })
    }
}
