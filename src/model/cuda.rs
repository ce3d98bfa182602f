//! The decoder's training on an NVIDIA GPU: the same step as [`super::Decoder`]'s, latents and all, with nothing of it
//! on the host.
//!
//! # Arithmetic
//! Products are cuBLAS's, over valid taps only ([`plan`]), on activations `[row][column][sample][channel]`; the rest is
//! small kernels (`kernels.cu`, compiled by NVRTC for the GPU at hand). For the usual decoder (128 → 2048, 512, 256,
//! 128) and a sample:
//!
//! | layer | multiply-adds forward | of all taps | the same backward | products in calls, forward + backward |
//! |---|---|---|---|---|
//! | fully connected | 1.0 M | | 2 × | 4 in 1 + 8 in 2 |
//! | 2×2 → 4×4 | 37.7 M | 67.1 M | 2 × | 24 in 2 + 48 in 6 |
//! | 4×4 → 8×8 | 25.7 M | 33.6 M | 2 × | 56 in 2 + 112 in 4 |
//! | 8×8 → 16×16 | 29.5 M | 33.6 M | 2 × | 120 in 2 + 240 in 4 |
//! | last, 16 taps | 0.5 M | | 2 × | 16 in 1 + 32 in 2 |
//!
//! 283 M a sample and step in all, so 9 GFLOP at batch 16 and 72 at 128. Adam reads four and writes three times 82 MB.
//! Of a sample, the forward products write 0.9 MB (4 slots of 57,344 numbers), the input gradients 1.0 MB (8 of 32,768)
//! and as much again accumulating, twice as much to and fro; the norms' passes move some 2 MB. A step is 55 launches,
//! whatever the batch.
//!
//! # Determinism
//! One stream, no atomics, sums in an order that the shapes give, cuBLAS with a workspace of its own: the same bytes
//! from the same inputs with the same GPU and libraries. They are not the CPU's bytes, so a chain goes on in its own
//! numerics class only.
//!
//! # Synchronisation
//! [`CudaTraining::begin_epoch`] sends what an epoch needs; [`CudaTraining::step`] only gives orders; the losses come
//! back when [`CudaTraining::losses`] asks.

mod device;
#[cfg(test)]
mod emulated;
mod layout;
mod machine;
mod options;
mod plan;
#[cfg(test)]
mod product;
mod program;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::device::Gpu;
use self::layout::{Arrays, LAYERS, Layout, layers};
use self::machine::{Address, Machine, upload_new};
use self::options::Family;
use self::plan::{Pass, Plan};
use self::program::{Program, Shared, Tables};
use crate::artifact::Tensor;
use crate::model::DecoderShape;
use crate::model::posterior::Distribution;
use crate::ops::adam::Rates;
use crate::ops::tail::PIXELS;

pub use self::device::class;
pub use self::machine::CudaError;
pub use self::options::{Options, Statistics};

/// Numbers of a step in the epoch's table: Adam's step size and ε for the decoder and for the latents, the weight of a
/// number's KL.
const RATES: usize = 5;

/// The number of the emulated GPU that tests compute on.
#[cfg(test)]
pub(crate) const EMULATED: usize = usize::MAX;

/// Whether there is one.
#[cfg(test)]
pub(crate) fn emulates() -> bool {
    emulated::Emulated::new().is_some()
}

/// Latents or the parameters of posteriors on the host: for each parameter values, first and second moments, n × dim.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentArrays {
    /// The family; none for plain latents.
    pub distribution: Option<Distribution>,
    /// One or two parameters.
    pub parameters: Vec<[Vec<f32>; 3]>,
    /// Steps of Adam done.
    pub step: u64,
}

/// What a step found, read after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// `‖x − x̂‖²_F` over the batch.
    pub squared_error: f64,
    /// The mean KL; 0 for plain latents.
    pub kl: f64,
}

/// The parameters of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRates {
    /// Samples of a batch.
    pub batch: usize,
    /// The decoder's learning rate.
    pub lr: f32,
    /// The latents' learning rate.
    pub latent_lr: f32,
    /// The weight of the KL.
    pub kl_weight: f64,
}

/// A decoder with its latents on a GPU, and the data.
pub struct CudaTraining {
    machine: Box<dyn Machine>,
    shared: Shared,
    /// By the epoch's batch and the step's.
    programs: BTreeMap<(usize, usize), Program>,
    decoder_step: u64,
    latent_step: u64,
    /// The batch of the epoch at hand, and how many of its samples are still to come.
    epoch: (usize, usize),
}

impl CudaTraining {
    /// Puts all of it onto a GPU: a decoder as [`super::Decoder::state`] tells it, its latents, and the n × 784 images.
    ///
    /// # Errors
    /// If there is no such GPU, or a library is missing, or its memory is full.
    pub fn new(
        options: Options,
        (shape, statistics): (DecoderShape, Statistics),
        decoder: &BTreeMap<String, Tensor>,
        latents: &LatentArrays,
        images: &[u8],
    ) -> Result<Self, CudaError> {
        #[cfg(test)]
        if options.ordinal == EMULATED {
            let machine = emulated::Emulated::new().ok_or(CudaError::Missing("g++"))?;
            return Self::on(Box::new(machine), (shape, statistics), decoder, latents, images);
        }
        Self::on(Box::new(Gpu::new(options)?), (shape, statistics), decoder, latents, images)
    }

    fn on(
        machine: Box<dyn Machine>,
        (shape, statistics): (DecoderShape, Statistics),
        decoder: &BTreeMap<String, Tensor>,
        latents: &LatentArrays,
        images: &[u8],
    ) -> Result<Self, CudaError> {
        let samples = images.len() / PIXELS;
        let arrays = Layout::new(shape).read(decoder)?;
        let shared = share(&*machine, (shape, statistics), &arrays, latents, images, samples)?;
        let (decoder_step, latent_step) = (arrays.step, latents.step);
        Ok(Self { machine, shared, programs: BTreeMap::new(), decoder_step, latent_step, epoch: (1, 0) })
    }

    /// Begins an epoch, or goes on with one after `from` steps: `order` are the samples in their order, `noise` one
    /// number for each of their latents' in that order (empty for plain latents).
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn begin_epoch(
        &mut self,
        order: &[usize],
        from: usize,
        noise: &[f32],
        rates: EpochRates,
    ) -> Result<(), CudaError> {
        let (machine, tables) = (&*self.machine, &self.shared.epoch);
        let mut position = vec![0i32; order.len()];
        for (at, sample) in order.iter().enumerate() {
            position[*sample] = as_int(at);
        }
        let order: Vec<i32> = order.iter().map(|sample| as_int(*sample)).collect();
        machine.upload(tables.order, bytemuck::cast_slice(&order))?;
        machine.upload(tables.position, bytemuck::cast_slice(&position))?;
        if !noise.is_empty() {
            machine.upload(tables.noise, bytemuck::cast_slice(noise))?;
        }
        let table = self.table(order.len(), from, rates);
        machine.upload(tables.rates, bytemuck::cast_slice(&table))?;
        machine.upload(tables.cursor, bytemuck::bytes_of(&as_int(from)))?;
        self.epoch = (rates.batch, order.len().saturating_sub(from * rates.batch));
        Ok(())
    }

    /// The epoch's table of rates; rows of steps that are done stay 0.
    fn table(&self, samples: usize, from: usize, rates: EpochRates) -> Vec<f64> {
        let mut table = vec![0.0; samples.div_ceil(rates.batch) * RATES];
        for (step, row) in table.chunks_exact_mut(RATES).enumerate().skip(from) {
            let more = (step - from) as u64 + 1;
            let decoder = Rates::new(self.decoder_step + more, rates.lr);
            let latents = Rates::new(self.latent_step + more, rates.latent_lr);
            let batch = rates.batch.min(samples - step * rates.batch);
            let share = rates.kl_weight / (batch * self.shared.shape.latent_dim) as f64;
            let of = |r: Rates| [f64::from(r.step_size), f64::from(r.epsilon)];
            row[..2].copy_from_slice(&of(decoder));
            row[2..4].copy_from_slice(&of(latents));
            row[4] = share;
        }
        table
    }

    /// The epoch's next step; returns before it is done.
    ///
    /// # Errors
    /// If the GPU fails; failures of earlier steps may show here.
    pub fn step(&mut self) -> Result<(), CudaError> {
        let (full, left) = self.epoch;
        let batch = full.min(left);
        if batch == 0 {
            return Ok(());
        }
        let machine = &*self.machine;
        if let Some(program) = self.programs.get(&(full, batch)) {
            program.run(machine)?;
        } else {
            let mut program = Program::new(machine, &self.shared, full, batch)?;
            program.run(machine)?;
            // Only now: the first run makes the libraries load what they need, which a recording could not hold.
            program.recording = machine.record(&program.operations)?;
            self.programs.insert((full, batch), program);
        }
        self.epoch.1 -= batch;
        self.latent_step += 1;
        self.decoder_step += u64::from(self.shared.statistics == Statistics::Learning);
        Ok(())
    }

    /// What these steps of the epoch found; waits for them.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn losses(&self, steps: std::ops::Range<usize>) -> Result<Vec<StepLoss>, CudaError> {
        let mut found = vec![[0.0f64; 2]; steps.len()];
        let from = Address(self.shared.epoch.losses.0 + 16 * steps.start as u64);
        self.machine.download(from, bytemuck::cast_slice_mut(&mut found))?;
        Ok(found.into_iter().map(|[squared_error, kl]| StepLoss { squared_error, kl }).collect())
    }

    /// Brings the decoder back into a state that it was made from.
    ///
    /// # Errors
    /// If the GPU fails or the state is another's.
    pub fn decoder_into(&self, state: &mut BTreeMap<String, Tensor>) -> Result<(), CudaError> {
        let floats = |n: usize, from: Address| self.floats(from, n);
        let n = self.shared.layout.parameters;
        let [p, m, v] = self.shared.parameters;
        let parameters = [floats(n, p)?, floats(n, m)?, floats(n, v)?];
        let statistics = floats(self.shared.layout.statistics, self.shared.running)?;
        let arrays = Arrays { parameters, statistics, step: self.decoder_step };
        Ok(self.shared.layout.write(&arrays, state)?)
    }

    /// Brings the latents back.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn latents_into(&self, latents: &mut LatentArrays) -> Result<(), CudaError> {
        let n = self.shared.samples * self.shared.shape.latent_dim;
        for (arrays, from) in latents.parameters.iter_mut().zip(&self.shared.latents) {
            for (array, from) in arrays.iter_mut().zip(from) {
                *array = self.floats(*from, n)?;
            }
        }
        latents.step = self.latent_step;
        Ok(())
    }

    fn floats(&self, from: Address, n: usize) -> Result<Vec<f32>, CudaError> {
        let mut floats = vec![0.0f32; n];
        self.machine.download(from, bytemuck::cast_slice_mut(&mut floats))?;
        Ok(floats)
    }
}

/// A number of samples or steps; [`share`] has seen that they fit.
fn as_int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Everything that does not depend on the batch.
fn share(
    machine: &dyn Machine,
    (shape, statistics): (DecoderShape, Statistics),
    decoder: &Arrays,
    latents: &LatentArrays,
    images: &[u8],
    samples: usize,
) -> Result<Shared, CudaError> {
    let layout = Layout::new(shape);
    let too_many = |message: &str| CudaError::Call { action: "sizing the training", message: message.to_owned() };
    if i32::try_from(samples * shape.latent_dim).is_err() {
        return Err(too_many("the samples have more latent numbers in all than the kernels count"));
    }
    let [p, m, v] = &decoder.parameters;
    let of = |numbers: &[f32]| upload_new(machine, numbers, "the decoder");
    let parameters = [of(p)?, of(m)?, of(v)?];
    let layers = layers(shape);
    let (mut extra_slots, mut segments, mut end) = ([None; LAYERS], Vec::new(), 0);
    for (l, layer) in layers.iter().enumerate() {
        let slots = Plan::new(*layer).calls(Pass::Weights, 1).slots;
        if slots > 1 {
            extra_slots[l] = Some((end, slots));
            segments.extend([layout.weights[l].start, layout.weights[l].end, end, slots].map(|n| n as i64));
            end += slots * layer.weights();
        }
    }
    let mut normal = Vec::new();
    let mut places = Vec::new();
    for layer in &layers {
        let place: Vec<i32> = Plan::new(*layer).place().into_iter().map(as_int).collect();
        places.push(upload_new(machine, &place, "the layers' pixels")?);
        normal.push([of(&vec![0.0; layer.co])?, of(&vec![1.0; layer.co])?]);
    }
    let mut latent_arrays = Vec::new();
    for [value, m, v] in &latents.parameters {
        let of = |numbers: &[f32]| upload_new(machine, numbers, "the latents");
        latent_arrays.push([of(value)?, of(m)?, of(v)?]);
    }
    // A kernel for one parameter gets it twice and looks at the first.
    let first = latent_arrays.first().copied().ok_or_else(|| too_many("there are no latents"))?;
    let noise = if latents.distribution.is_some() { samples * shape.latent_dim } else { 1 };
    let tables = |bytes: usize| machine.allocate(bytes, "the tables of an epoch");
    Ok(Shared {
        shape,
        family: Family::of(latents.distribution),
        statistics,
        parameters,
        gradient: machine.allocate(4 * layout.parameters, "the gradient")?,
        extra: machine.allocate(4 * end.max(1), "the gradient")?,
        extra_slots,
        segment_count: segments.len() / 4,
        segments: upload_new(machine, &[segments, vec![0]].concat(), "the gradient")?,
        running: of(&decoder.statistics)?,
        normal: [normal[1], normal[2], normal[3]],
        places: [places[0], places[1], places[2], places[3], places[4]],
        images: upload_new(machine, images, "the images")?,
        latents: [first, latent_arrays.get(1).copied().unwrap_or(first)],
        samples,
        epoch: Tables {
            cursor: tables(4)?,
            order: tables(4 * samples)?,
            position: tables(4 * samples)?,
            noise: tables(4 * noise)?,
            rates: tables(8 * RATES * samples)?,
            losses: tables(16 * samples)?,
        },
        layout,
    })
}
