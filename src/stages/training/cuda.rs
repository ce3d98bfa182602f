//! The engine that computes on an NVIDIA GPU.
//!
//! Decoder, latents and images stay on the GPU during an epoch, and the host only starts steps. Losses are read at the
//! end of an epoch, and before a state is saved. A state passes through the host's decoder and latents, so it has the
//! CPU's layout.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::cpu::CpuEngine;
use super::engine::Engine;
use super::net::{Fixed, Net};
use super::schedule::{Epoch, Rates};
use crate::artifact::Tensor;
use crate::model::cuda::{CudaError, CudaTraining, EpochRates, LatentArrays, Options, Statistics};
use crate::model::{Comparison, StepLoss};
use crate::stage::{Context, Device, Position, Precision, StageError};
use crate::stages::reading::Images;

impl From<CudaError> for StageError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::Memory { .. } => Self::bad_input(
                error.to_string(),
                "use a smaller `batch`, fewer stages at a time (`-j`), or `--device cpu`",
            ),
            other => Self::failed(other.to_string()),
        }
    }
}

/// The engine for the context's device.
pub(super) fn engine<'a>(context: &Context<'_>, cpu: CpuEngine<'a>) -> Box<dyn Engine + 'a> {
    match options(context) {
        None => Box::new(cpu),
        Some(options) => Box::new(GpuEngine::new(cpu, options)),
    }
}

/// The context's GPU. None if its device is the CPU.
fn options(context: &Context<'_>) -> Option<Options> {
    match *context.device {
        Device::Cpu => None,
        Device::Cuda { ordinal, graph } => Some(Options { ordinal, graph, tf32: context.precision == Precision::Tf32 }),
    }
}

/// A training on a GPU.
struct GpuEngine<'a> {
    /// The training on the host: where the GPU's copy begins, and where states are read from.
    host: CpuEngine<'a>,
    options: Options,
    /// The training on the GPU, from the first epoch on.
    device: Option<CudaTraining>,
    /// Whether the GPU has done steps that the host's decoder and latents lack.
    host_is_behind: bool,
    /// The noise of the next epoch, and where that begins. It is drawn while the GPU computes the last step before it.
    ahead: Option<(Position, Vec<f32>)>,
    /// The steps of this epoch whose losses have not been read.
    unread: Range<usize>,
}

impl<'a> GpuEngine<'a> {
    fn new(host: CpuEngine<'a>, options: Options) -> Self {
        Self { host, options, device: None, host_is_behind: false, ahead: None, unread: 0..0 }
    }

    /// Draws ε of an epoch from a step on, one number for each latent number of each sample, in the order of the steps.
    /// Each step has the stream that it has on the CPU. Empty for plain latents.
    fn draw_noise(&self, Position { epoch, step }: Position, rates: Rates) -> Vec<f32> {
        let CpuEngine { net, latents, images, streams, noise: purpose, .. } = &self.host;
        let Some(distribution) = latents.distribution() else { return Vec::new() };
        let dim = net.shape().latent_dim;
        let mut noise = vec![0.0; images.count * dim];
        noise.par_chunks_mut(rates.batch * dim).enumerate().skip(step as usize).for_each(|(step, noise)| {
            let mut stream = streams.stream(purpose, epoch, step as u64);
            distribution.scaled_noise(&mut stream, rates.noise, noise);
        });
        noise
    }

    /// Brings decoder and latents to the host.
    fn fetch(&mut self) -> Result<(), StageError> {
        let Some(device) = self.device.as_ref().filter(|_| self.host_is_behind) else { return Ok(()) };
        if let Net::Learning(decoder) = &mut self.host.net {
            let mut state = decoder.state()?;
            device.decoder_into(&mut state)?;
            decoder.restore(&state)?;
        }
        let mut latents = self.host.latents.arrays();
        device.latents_into(&mut latents)?;
        self.host.latents.set_arrays(latents);
        self.host_is_behind = false;
        Ok(())
    }
}

/// Copies a training to the GPU.
fn upload(host: &CpuEngine<'_>, options: Options) -> Result<CudaTraining, StageError> {
    let (statistics, state) = match &host.net {
        Net::Learning(decoder) => (Statistics::Learning, decoder.state()?),
        Net::Fixed(fixed) => fixed_state(fixed)?,
    };
    let network = (host.net.shape(), statistics);
    Ok(CudaTraining::new(options, network, &state, &host.latents.arrays(), &host.images.pixels)?)
}

fn fixed_state(fixed: &Fixed) -> Result<(Statistics, BTreeMap<String, Tensor>), StageError> {
    Ok(match fixed {
        Fixed::Batch(decoder) => (Statistics::Batch, decoder.state()?),
        Fixed::Running(frozen) => (Statistics::Folded, frozen.unfolded_state()?),
    })
}

/// Decodes the latents `z` of all images on the context's GPU, and compares: see [`CudaTraining::evaluate`]. None if
/// the context's device is the CPU.
pub(super) fn compare(
    context: &Context<'_>,
    decoder: &Fixed,
    images: &Images,
    z: impl FnOnce() -> Vec<f32>,
    (batch, shown): (usize, usize),
) -> Result<Option<Comparison>, StageError> {
    let Some(options) = options(context) else { return Ok(None) };
    context.cancel.check()?;
    let (statistics, state) = fixed_state(decoder)?;
    let z = z();
    let zeros = vec![0.0; z.len()];
    let latents = LatentArrays { distribution: None, parameters: vec![[z, zeros.clone(), zeros]], step: 0 };
    let network = (decoder.shape(), statistics);
    let mut decoder = CudaTraining::new(options, network, &state, &latents, &images.pixels)?;
    Ok(Some(decoder.evaluate(batch, shown)?))
}

impl Engine for GpuEngine<'_> {
    fn begin_epoch(&mut self, epoch: &Epoch<'_>, from: usize) -> Result<(), StageError> {
        let begin = Position { epoch: epoch.number, step: from as u64 };
        let noise = match self.ahead.take() {
            Some((at, noise)) if at == begin => noise,
            _ => self.draw_noise(begin, epoch.rates),
        };
        let device = match &mut self.device {
            Some(device) => device,
            none => none.insert(upload(&self.host, self.options)?),
        };
        let Rates { batch, lr, latent_lr, kl_weight, .. } = epoch.rates;
        let rates = EpochRates { batch, lr: lr.unwrap_or(0.0), latent_lr, kl_weight };
        self.unread = from..from;
        Ok(device.begin_epoch(epoch.order, from, &noise, rates)?)
    }

    fn step(&mut self, epoch: &Epoch<'_>, step: usize) -> Result<(), StageError> {
        if let Some(device) = &mut self.device {
            device.step()?;
        }
        self.host_is_behind = true;
        self.unread.end = step + 1;
        let after = epoch.after(step);
        if after.step == 0
            && let Some(next) = epoch.next
        {
            self.ahead = Some((after, self.draw_noise(after, next)));
        }
        Ok(())
    }

    fn losses(&mut self, wait: bool, into: &mut Vec<StepLoss>) -> Result<(), StageError> {
        if let Some(device) = self.device.as_ref().filter(|_| wait) {
            let has_kl = self.host.has_kl();
            let found = device.losses(self.unread.clone())?;
            into.extend(found.into_iter().map(|loss| StepLoss { kl: if has_kl { loss.kl } else { 0.0 }, ..loss }));
            self.unread.start = self.unread.end;
        }
        Ok(())
    }

    fn state(&mut self, spare: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, StageError> {
        self.fetch()?;
        self.host.state(spare)
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), StageError> {
        (self.device, self.ahead, self.host_is_behind) = (None, None, false);
        self.host.restore(state)
    }
}
