//! The engine that computes on the processor.

use std::collections::BTreeMap;

use super::engine::Engine;
use super::history::PIXELS;
use super::latents::Latents;
use super::net::Net;
use super::schedule::Epoch;
use crate::artifact::Tensor;
use crate::model::StepLoss;
use crate::rng::Streams;
use crate::stage::StageError;
use crate::stages::reading::Images;

/// A training's network, latents and images, and what computes with them on the processor.
pub(super) struct CpuEngine<'a> {
    pub(super) net: Net<'a>,
    pub(super) latents: &'a mut Latents,
    pub(super) images: &'a Images,
    pub(super) streams: Streams,
    /// The purpose of the random streams that noise is drawn from.
    pub(super) noise: String,
    /// The images of the current batch, B × 784.
    pixels: Vec<u8>,
    /// The losses that the training loop has not asked for yet.
    losses: Vec<StepLoss>,
}

impl<'a> CpuEngine<'a> {
    /// `purpose` separates the noise of a training from that of a fit with the same seed.
    pub(super) fn new(
        purpose: &str,
        net: Net<'a>,
        latents: &'a mut Latents,
        images: &'a Images,
        streams: Streams,
    ) -> Self {
        let noise = format!("{purpose} noise");
        Self { net, latents, images, streams, noise, pixels: vec![], losses: vec![] }
    }

    /// Whether the loss has a KL: a fit drops it, and plain latents have none.
    pub(super) fn has_kl(&self) -> bool {
        matches!(self.net, Net::Learning(_)) && self.latents.distribution().is_some()
    }
}

impl Engine for CpuEngine<'_> {
    fn begin_epoch(&mut self, epoch: &Epoch<'_>, _: usize) -> Result<(), StageError> {
        self.latents.begin_epoch(epoch.steps(), epoch.rates.batch);
        Ok(())
    }

    fn step(&mut self, epoch: &Epoch<'_>, step: usize) -> Result<(), StageError> {
        let (rows, rates) = (epoch.rows(step), epoch.rates);
        let mut noise = self.streams.stream(&self.noise, epoch.number, step as u64);
        self.images.gather(rows, &mut self.pixels);
        self.latents.draw(rows, &mut noise, rates.noise);
        let kl = if self.has_kl() { self.latents.kl(rows) } else { 0.0 };
        let found = self.net.step(self.latents.drawn(), &self.pixels, rates.lr.unwrap_or(0.0));
        self.losses.push(StepLoss { squared_error: found.squared_error, kl });
        self.latents.update(rows, found.latent_gradient, rates.kl_weight, rates.latent_lr);
        Ok(())
    }

    fn losses(&mut self, _: bool, into: &mut Vec<StepLoss>) -> Result<(), StageError> {
        into.append(&mut self.losses);
        Ok(())
    }

    fn state(&mut self, mut spare: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, StageError> {
        self.latents.catch_up();
        let mut state = self.latents.state(&mut spare)?;
        if let Net::Learning(decoder) = &self.net {
            state.extend(decoder.state_in(&mut spare)?);
        }
        Ok(state)
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), StageError> {
        self.latents.restore(state)?;
        if let Net::Learning(decoder) = &mut self.net {
            decoder.restore(state)?;
        }
        Ok(())
    }
}

impl Images {
    /// Copies the images of these rows: B × 784.
    fn gather(&self, rows: &[usize], to: &mut Vec<u8>) {
        to.clear();
        for row in rows {
            to.extend_from_slice(&self.pixels[row * PIXELS..(row + 1) * PIXELS]);
        }
    }
}
