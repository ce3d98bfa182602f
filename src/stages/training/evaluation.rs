//! Evaluates a decoder on a split: loss, error and the first reconstructions.
//!
//! The loss of a batch depends on its size. So an evaluation always uses batches of [`BATCH`] in the order of the
//! split: figures of two models can be compared, and a result of no epochs does not depend on the parameters of epochs.
//! With batch statistics an image also depends on the other images of its batch.

use std::ops::Range;

use super::history::{PIXELS, rmse};
use super::net::Fixed;
use crate::artifact::{Tensor, TensorError};
use crate::model::{Comparison, Frozen};
use crate::stage::{Context, StageError};
use crate::stages::reading::Images;

/// Samples of a batch: the batch size of the original experiment.
const BATCH: usize = 16;
/// The number of originals and reconstructions in an artifact.
const SHOWN: usize = 20;

/// The figures of an evaluation.
pub(in crate::stages) struct Evaluation {
    /// ‖x − x̂‖_F / (number of elements of x), averaged over batches.
    pub(in crate::stages) loss: f64,
    /// Root mean squared error, in grey levels.
    pub(in crate::stages) rmse: f64,
    /// The first [`SHOWN`] decoded images, k × 784.
    reconstructions: Vec<u8>,
}

/// Decodes a latent for each image and compares. `z` gets the number of a batch and its samples, and returns their
/// latents, B × latent_dim.
///
/// # Errors
/// If the stage is cancelled, or the decoder's output is not finite.
pub(in crate::stages) fn evaluate(
    context: &Context<'_>,
    decoder: &mut Fixed,
    images: &Images,
    mut z: impl FnMut(u64, Range<usize>) -> Vec<f32>,
) -> Result<Evaluation, StageError> {
    let Comparison { squared_errors, decoded } = compare(context, decoder, images, &mut z)?;
    let (mut loss, mut squared_error) = (0.0, 0.0);
    for (squares, samples) in squared_errors.iter().zip(batches(images.count)) {
        loss += squares.sqrt() / (samples.len() * PIXELS) as f64;
        squared_error += squares;
    }
    let loss = loss / squared_errors.len() as f64;
    let reconstructions = decoded.iter().take(SHOWN * PIXELS).map(|v| grey(*v)).collect();
    if !loss.is_finite() {
        return Err(StageError::failed(format!(
            "the output of the decoder is not finite with {}: the training diverged; try smaller learning rates",
            decoder.statistics()
        )));
    }
    Ok(Evaluation { loss, rmse: rmse(squared_error, images.count), reconstructions })
}

fn compare(
    context: &Context<'_>,
    decoder: &mut Fixed,
    images: &Images,
    mut z: impl FnMut(u64, Range<usize>) -> Vec<f32>,
) -> Result<Comparison, StageError> {
    let batches = (0..).zip(batches(images.count));
    #[cfg(feature = "cuda")]
    {
        let z = || batches.clone().flat_map(|(batch, samples)| z(batch, samples)).collect();
        if let Some(compared) = super::cuda::compare(context, decoder, images, z, (BATCH, SHOWN))? {
            return Ok(compared);
        }
    }
    let mut compared = Comparison::default();
    for (batch, samples) in batches {
        context.cancel.check()?;
        let decoded = decoder.decode(&z(batch, samples.clone()));
        let originals = &images.pixels[samples.start * PIXELS..samples.end * PIXELS];
        let squares = decoded.iter().zip(originals).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        compared.squared_errors.push(squares.sum());
        if samples.start < SHOWN {
            compared.decoded.extend(decoded);
        }
    }
    Ok(compared)
}

/// The samples of each batch.
fn batches(samples: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..samples).step_by(BATCH).map(move |start| start..(start + BATCH).min(samples))
}

impl Evaluation {
    /// The tensors `originals` and `reconstructions`, both k × 28 × 28 grey levels.
    ///
    /// # Errors
    /// None: the numbers fit the shapes.
    pub(in crate::stages) fn pictures(&self, images: &Images) -> Result<[(String, Tensor); 2], TensorError> {
        let originals = pictures(&images.pixels[..self.reconstructions.len()])?;
        Ok([("originals".to_owned(), originals), ("reconstructions".to_owned(), pictures(&self.reconstructions)?)])
    }
}

/// Decodes n × latent_dim numbers to n × 28 × 28 grey levels.
///
/// # Errors
/// If the stage is cancelled.
pub(in crate::stages) fn decode(context: &Context<'_>, decoder: &mut Frozen, z: &[f32]) -> Result<Tensor, StageError> {
    let mut pixels = Vec::with_capacity(z.len() / decoder.shape().latent_dim * PIXELS);
    for batch in z.chunks(BATCH * decoder.shape().latent_dim) {
        context.cancel.check()?;
        pixels.extend(decoder.decode(batch).iter().map(|v| grey(*v)));
    }
    Ok(pictures(&pixels)?)
}

/// Pixels as a tensor of n × 28 × 28.
fn pictures(pixels: &[u8]) -> Result<Tensor, TensorError> {
    Tensor::new([pixels.len() / PIXELS, 28, 28], pixels)
}

/// The nearest grey level; halves are rounded up.
fn grey(v: f32) -> u8 {
    (v + 0.5).clamp(0.0, 255.0) as u8
}
