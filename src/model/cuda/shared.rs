//! What all programs of a training share: the memory on the GPU whose size does not depend on the batch.

use super::layer::Layer;
use super::layout::{Arrays, Layout, layers};
use super::machine::{Address, CudaError, Machine, upload_new};
use super::settings::{Family, Statistics};
use crate::model::DecoderShape;
use crate::model::decoder::layers::{LAYERS, NORMS};
use crate::model::posterior::Distribution;
use crate::ops::tail::PIXELS;

/// The length of a row of the epoch's table, which has a row for each step: Adam's step size and ε for the decoder and
/// for the latents, and the weight of the KL of one latent number.
pub(super) const RATES: usize = 5;

/// The memory that all programs of a training share.
pub(super) struct Shared {
    pub(super) shape: DecoderShape,
    pub(super) family: Family,
    pub(super) statistics: Statistics,
    pub(super) layout: Layout,
    /// Parameters, first and second moments.
    pub(super) parameters: [Address; 3],
    /// Gradients, in the layout of the parameters.
    pub(super) gradient: Address,
    pub(super) running: Address,
    /// Mean and 1 / √(var + ε) of each norm: those of the batch, or 0 and 1.
    pub(super) normal: [[Address; 2]; NORMS],
    /// For each layer, its [`Layer::sources`].
    pub(super) sources: [Address; LAYERS],
    pub(super) images: Address,
    /// Values, first and second moments of both parameters of the posteriors.
    pub(super) latents: [[Address; 3]; 2],
    pub(super) samples: usize,
    pub(super) epoch: Tables,
}

/// The tables of an epoch.
pub(super) struct Tables {
    /// The number of the current step, from 0.
    pub(super) cursor: Address,
    /// The samples in the order of the epoch.
    pub(super) order: Address,
    /// The index in `order` of each sample.
    pub(super) position: Address,
    /// ε, in the order of the epoch.
    pub(super) noise: Address,
    /// Rows of [`RATES`] numbers, one for each step.
    pub(super) rates: Address,
    /// Squared error and mean KL of each step.
    pub(super) losses: Address,
}

impl Shared {
    /// Copies a training to the GPU. `latents` are the parameters of the posteriors, or the plain latents.
    pub(super) fn new(
        machine: &dyn Machine,
        (shape, statistics): (DecoderShape, Statistics),
        decoder: &Arrays,
        (distribution, latents): (Option<Distribution>, &[[Vec<f32>; 3]]),
        images: &[u8],
    ) -> Result<Self, CudaError> {
        let samples = images.len() / PIXELS;
        let layout = Layout::new(shape);
        let invalid = |message: &str| CudaError::Call { action: "sizing the training", message: message.to_owned() };
        if i32::try_from(samples * shape.latent_dim).is_err() {
            return Err(invalid("samples × latent_dim is more than a 32-bit integer holds"));
        }
        let triple = |[values, m, v]: &[Vec<f32>; 3], what| -> Result<[Address; 3], CudaError> {
            Ok([upload_new(machine, values, what)?, upload_new(machine, m, what)?, upload_new(machine, v, what)?])
        };
        let parameters = triple(&decoder.parameters, "the decoder")?;
        let layers = layers(shape);
        let (sources, normal) = upload_layers(machine, &layers)?;
        let latents = latents.iter().map(|arrays| triple(arrays, "the latents")).collect::<Result<Vec<_>, _>>()?;
        // Kernels take two parameters. For a family with one, the second is never used.
        let first = latents.first().copied().ok_or_else(|| invalid("there are no latents"))?;
        let noise = if distribution.is_some() { samples * shape.latent_dim } else { 1 };
        Ok(Self {
            shape,
            family: Family::of(distribution),
            statistics,
            parameters,
            gradient: machine.allocate(4 * layout.parameters, "the gradient")?,
            running: upload_new(machine, &decoder.statistics, "the decoder")?,
            normal,
            sources,
            images: upload_new(machine, images, "the images")?,
            latents: [first, latents.get(1).copied().unwrap_or(first)],
            samples,
            epoch: Tables::new(machine, samples, noise)?,
            layout,
        })
    }
}

impl Tables {
    fn new(machine: &dyn Machine, samples: usize, noise: usize) -> Result<Self, CudaError> {
        let table = |bytes: usize| machine.allocate(bytes, "the tables of an epoch");
        Ok(Self {
            cursor: table(4)?,
            order: table(4 * samples)?,
            position: table(4 * samples)?,
            noise: table(4 * noise)?,
            rates: table(8 * RATES * samples)?,
            losses: table(16 * samples)?,
        })
    }
}

/// The sources of all layers, and the initial statistics of the norms.
fn upload_layers(
    machine: &dyn Machine,
    layers: &[Layer; LAYERS],
) -> Result<([Address; LAYERS], [[Address; 2]; NORMS]), CudaError> {
    let (mut sources, mut normal) = ([Address(0); LAYERS], [[Address(0); 2]; LAYERS]);
    for (l, layer) in layers.iter().enumerate() {
        sources[l] = upload_new(machine, &layer.sources(), "the layers' pixels")?;
        for (statistic, value) in normal[l].iter_mut().zip([0.0f32, 1.0]) {
            *statistic = upload_new(machine, &vec![value; layer.co], "the decoder")?;
        }
    }
    // The norms follow layers 1 to 3.
    Ok((sources, [normal[1], normal[2], normal[3]]))
}

/// A number of samples or steps as a kernel takes it. [`Shared::new`] checked that these numbers fit.
pub(super) fn as_int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
