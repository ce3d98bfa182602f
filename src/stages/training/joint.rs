//! Training a decoder together with its latents: what `train-ad` and `train-vad` share. They differ in defaults and
//! posterior.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Training;
use super::evaluation::evaluate;
use super::history::{self, History, psnr};
use super::latents::Latents;
use super::net::{Fixed, Net};
use super::schedule::{Rates, Schedule};
use crate::artifact::Artifact;
use crate::model::posterior::Distribution;
use crate::model::{Decoder, DecoderShape, Frozen};
use crate::stage::{Bound, Context, Curves, Epochs, Params, Reads, Stage, StageError};
use crate::stages::reading::{self, Images, Split};
use crate::system::memory;

/// A training of a decoder and latents.
struct Joint {
    shape: DecoderShape,
    init_std: f32,
    /// The family of the posteriors; `None` for plain latents.
    distribution: Option<Distribution>,
    schedule: Schedule,
}

/// A forward pass with fewer multiply-adds than this gains nothing from a second thread: see `exec/resources.rs` for
/// figures.
const SMALL_STEP: u64 = 1 << 28;
/// A forward pass with this many multiply-adds keeps a GPU busy.
const GPU_STEP: u64 = 1 << 30;
/// The default of `channels`.
const CHANNELS: [i64; 4] = [2048, 512, 256, 128];

/// Reads the parameters that both kinds have. `latent_lr` is the default of that parameter.
pub(in crate::stages) fn parse(
    params: &mut Params<'_>,
    distribution: Option<Distribution>,
    latent_lr: f64,
) -> Arc<dyn Stage> {
    let latent_dim = params.describe("the length of a latent vector").int("latent_dim", 128, 1..=4096) as usize;
    params.describe("four widths of the decoder, from the latent vector to the image");
    let channels = params.ints("channels", 1..=8192).unwrap_or_else(|| params.default("channels", CHANNELS.to_vec()));
    let channels =
        channels.iter().map(|c| *c as usize).collect::<Vec<_>>().try_into().unwrap_or_else(|list: Vec<_>| {
            let help = "the fully connected layer makes c0 × 2 × 2, the transposed convolutions c0 → c1 → c2 → c3";
            params.error("channels", format!("`channels` must be four integers, not {}", list.len()), help);
            [1; 4]
        });
    let init_std = params.describe("the standard deviation of the latents at the start").float(
        "init_std",
        1.0,
        Bound::NotNegative,
    ) as f32;
    let segments = params.segments(100, |p| Rates {
        batch: p.describe("the number of images in a step").int("batch", 16, 1..=65_536) as usize,
        lr: Some(p.describe("the learning rate of the decoder").float("lr", 1e-3, Bound::NotNegative) as f32),
        latent_lr: p.describe("the learning rate of the latents").float("latent_lr", latent_lr, Bound::NotNegative)
            as f32,
        kl_weight: match distribution {
            Some(_) => p.describe("the weight of the KL divergence").float("kl_weight", 1.0, Bound::NotNegative),
            None => 0.0,
        },
        noise: match distribution {
            Some(_) => p.describe("scales the distance of z from the posterior's mean").float_added(
                "noise",
                1.0,
                Bound::Between(0.0, 4.0),
            ),
            None => 1.0,
        },
    });
    let schedule = Schedule::new(segments);
    Arc::new(Joint { shape: DecoderShape { latent_dim, channels }, init_std, distribution, schedule })
}

impl Stage for Joint {
    fn reads(&self) -> Reads {
        Reads { seed: true, precision: true, files: false }
    }

    fn epochs(&self) -> Option<Epochs> {
        Some(self.schedule.epochs.clone())
    }

    fn curves(&self) -> Curves {
        Curves::Named(history::names(self.distribution.is_some()))
    }

    fn parallel(&self) -> bool {
        true
    }

    fn threads(&self, all: usize) -> usize {
        if self.shape.multiply_adds(self.schedule.largest_batch()) < SMALL_STEP { 1 } else { all }
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn beside_on_gpu(&self) -> usize {
        let step = self.shape.multiply_adds(self.schedule.largest_batch()).max(1);
        usize::try_from(GPU_STEP / step).unwrap_or(usize::MAX).max(1)
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        reading::check_device(context)?;
        reading::check_precision(context)?;
        let images = reading::images(context.inputs.one("data")?, Split::Train)?;
        self.check_memory(images.count, memory())?;
        let mut decoder = Decoder::blank(self.shape);
        let size = (images.count, self.shape.latent_dim);
        let mut latents = Latents::start(self.distribution, size, self.init_std, &context.streams, "training");
        let training = Training {
            purpose: "training",
            net: Net::Learning(&mut decoder),
            latents: &mut latents,
            images: &images,
            schedule: &self.schedule,
        };
        let history = training.run(context)?;
        self.artifact(context, &decoder, &latents, &images, &history)
    }
}

impl Joint {
    /// Refuses a decoder that does not fit into `memory` (bytes): a failed allocation would abort the program. Checks
    /// nothing if `memory` is unknown.
    fn check_memory(&self, images: usize, memory: u64) -> Result<(), StageError> {
        let needed = self.shape.training_bytes(self.schedule.largest_batch(), images);
        if needed <= memory {
            return Ok(());
        }
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let message = format!("training this decoder takes about {}; this machine has {}", gib(needed), gib(memory));
        Err(StageError::bad_input(message, "give it fewer `channels`, a smaller `latent_dim` or a smaller `batch`"))
    }

    fn artifact(
        &self,
        context: &Context<'_>,
        decoder: &Decoder,
        latents: &Latents,
        images: &Images,
        history: &History,
    ) -> Result<Artifact, StageError> {
        let weights = decoder.weights()?;
        let mut fixed = Fixed::Running(Box::new(Frozen::from_weights(&weights)?));
        let evaluation = evaluate(context, &mut fixed, images, |_, samples| latents.means(samples))?;

        let mut artifact = Artifact::default();
        artifact.tensors.extend(weights.into_iter().map(|(name, tensor)| (format!("decoder.{name}"), tensor)));
        artifact.tensors.extend(latents.to_artifact()?);
        artifact.tensors.extend(history.to_artifact(self.distribution.is_some()));
        artifact.tensors.extend(evaluation.pictures(images)?);
        artifact.metrics = metrics(history, self.distribution.is_some());
        artifact.metrics.insert("evaluated_loss".to_owned(), evaluation.loss);
        artifact.metrics.insert("evaluated_rmse".to_owned(), evaluation.rmse);
        artifact.facts.insert("split".to_owned(), Split::Train.name().into());
        artifact.facts.insert("latent_dim".to_owned(), self.shape.latent_dim.into());
        if let Some(distribution) = self.distribution {
            artifact.facts.insert("distribution".to_owned(), distribution.name().into());
        }
        Ok(artifact)
    }
}

/// The metrics of the curves' first and last epoch; empty if no epoch was trained.
fn metrics(history: &History, parts: bool) -> BTreeMap<String, f64> {
    let rmse = history.rmse.last().copied();
    let parted = |curve: &[f64]| curve.last().copied().filter(|_| parts);
    let figures = [
        ("loss_first", history.loss.first().copied()),
        ("loss", history.loss.last().copied()),
        ("reconstruction", parted(&history.reconstruction)),
        ("kl", parted(&history.kl)),
        ("rmse", rmse),
        ("psnr", rmse.map(psnr)),
    ];
    figures.into_iter().filter_map(|(name, figure)| Some((name.to_owned(), figure?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(latent_dim: usize, channels: [usize; 4], batch: usize) -> Joint {
        let segments = vec![crate::key::Segment { epochs: 1, params: BTreeMap::new() }];
        let rates = Rates { batch, lr: None, latent_lr: 0.0, kl_weight: 0.0, noise: 1.0 };
        let schedule = Schedule::new((Epochs { segments, ..Epochs::default() }, vec![rates]));
        Joint { shape: DecoderShape { latent_dim, channels }, init_std: 1.0, distribution: None, schedule }
    }

    #[test]
    fn decoder_larger_than_memory_is_refused() {
        const GIB: u64 = 1 << 30;
        let huge = joint(4096, [8192; 4], 16);
        let Err(StageError::BadInput { message, hint }) = huge.check_memory(1000, 16 * GIB) else {
            panic!("not refused")
        };
        insta::assert_snapshot!(message, @"training this decoder takes about 70.7 GiB; this machine has 16.0 GiB");
        assert_eq!(hint.as_deref(), Some("give it fewer `channels`, a smaller `latent_dim` or a smaller `batch`"));
        let usual = joint(128, CHANNELS.map(|c| c as usize), 16);
        assert!(usual.check_memory(1000, GIB).is_ok());
        // A batch can't be larger than the data.
        let wide = joint(128, CHANNELS.map(|c| c as usize), 65_536);
        assert!(wide.check_memory(16, GIB).is_ok());
        assert!(wide.check_memory(60_000, GIB).is_err());
    }
}
