//! Training on an NVIDIA GPU: the step of [`super::Decoder`] and of the latents, computed entirely on the GPU.
//!
//! # Arithmetic
//! cuBLAS computes the products, one for each pass of a layer ([`layer`]), on activations `[pixel][sample][channel]`.
//! Small kernels compute the rest (`kernels.cu`, which NVRTC compiles for the GPU in use). For the default decoder (128
//! → 2048, 512, 256, 128), a sample takes:
//!
//! | layer | multiply-adds forward | of these, inside the image | backward |
//! |---|---|---|---|
//! | fully connected | 1.0 M | 1.0 M | 2 × |
//! | 2×2 → 4×4 | 67.1 M | 37.7 M | 2 × |
//! | 4×4 → 8×8 | 33.6 M | 25.7 M | 2 × |
//! | 8×8 → 16×16 | 33.6 M | 29.5 M | 2 × |
//! | last, 16 taps | 0.5 M | 0.5 M | 2 × |
//!
//! These are 407 M multiply-adds for each sample of a step: 13 GFLOP at batch 16, and 104 GFLOP at batch 128. Adam
//! reads four and writes three arrays of 82 MB. For each sample, the products write 1.0 MB, and so do their gradients,
//! which are read twice. The norms move about 2 MB. A step is 44 launches with any batch.
//!
//! # Determinism
//! A training uses one stream and no atomics, the shapes determine the order of sums, and cuBLAS has a fixed workspace.
//! So the same GPU and libraries give the same bytes. They differ from the CPU's, so a state is only continued in its
//! own numerics class.
//!
//! # Synchronisation
//! [`CudaTraining::begin_epoch`] copies the tables of an epoch to the GPU. [`CudaTraining::step`] only starts kernels.
//! [`CudaTraining::losses`] waits for them.

mod device;
#[cfg(test)]
mod emulated;
mod layer;
mod layout;
mod machine;
mod opened;
mod program;
mod settings;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::device::Gpu;
use self::layout::{Arrays, Layout};
use self::machine::{Address, Machine};
use self::program::{Program, Purpose};
use self::shared::{RATES, Shared, as_int};
use crate::artifact::Tensor;
use crate::model::posterior::Distribution;
use crate::model::{Comparison, DecoderShape, StepLoss};
use crate::ops::adam::Rates;
use crate::ops::tail::PIXELS;

pub use self::machine::CudaError;
pub use self::opened::class;
pub use self::settings::{Options, Statistics};

/// The number of the emulated GPU, for tests.
#[cfg(test)]
pub(crate) const EMULATED: usize = usize::MAX;

/// Whether there is a C++ compiler for the emulated GPU.
#[cfg(test)]
pub(crate) fn emulates() -> bool {
    emulated::Emulated::new().is_some()
}

/// Plain latents or the parameters of posteriors, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentArrays {
    /// The family; `None` for plain latents.
    pub distribution: Option<Distribution>,
    /// For each of one or two parameters: values, first and second moments, n × latent_dim each.
    pub parameters: Vec<[Vec<f32>; 3]>,
    /// The number of Adam steps so far.
    pub step: u64,
}

/// The parameters of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRates {
    /// The number of samples in a batch.
    pub batch: usize,
    /// The decoder's learning rate.
    pub lr: f32,
    /// The latents' learning rate.
    pub latent_lr: f32,
    /// The weight of the KL.
    pub kl_weight: f64,
}

/// A training on a GPU: decoder, latents and images.
pub struct CudaTraining {
    machine: Box<dyn Machine>,
    shared: Shared,
    /// By purpose, and by the batch size of the epoch and that of the step.
    programs: BTreeMap<(Purpose, usize, usize), Program>,
    decoder_step: u64,
    latent_step: u64,
    /// The batch size of the current epoch, and the number of samples in its remaining steps.
    epoch: (usize, usize),
}

impl CudaTraining {
    /// Copies a training to a GPU. `decoder` is a [`super::Decoder::state`], `images` are n × 784 grey levels.
    ///
    /// # Errors
    /// If there is no such GPU, a library is missing, the GPU's memory is full, or the state does not fit the shape.
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
        let arrays = Layout::new(shape).read(decoder)?;
        let parameters = (latents.distribution, &latents.parameters[..]);
        let shared = Shared::new(&*machine, (shape, statistics), &arrays, parameters, images)?;
        let (decoder_step, latent_step) = (arrays.step, latents.step);
        Ok(Self { machine, shared, programs: BTreeMap::new(), decoder_step, latent_step, epoch: (1, 0) })
    }

    /// Begins an epoch, or continues one after `from` steps. `order` has the samples in the order of the steps. `noise`
    /// has ε for each latent number in that order, n × latent_dim; it is empty for plain latents.
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

    /// The rates of each step of an epoch. The rows of the first `from` steps are 0.
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

    /// Starts the next step of the epoch, and returns before it is done. Does nothing after the last step.
    ///
    /// # Errors
    /// If the GPU fails. An earlier step's failure may show only here.
    pub fn step(&mut self) -> Result<(), CudaError> {
        let (full, left) = self.epoch;
        let batch = full.min(left);
        if batch == 0 {
            return Ok(());
        }
        self.run(Purpose::Step, (full, batch))?;
        self.epoch.1 -= batch;
        self.latent_step += 1;
        self.decoder_step += u64::from(self.shared.statistics == Statistics::Learning);
        Ok(())
    }

    /// Runs the program for a batch. Returns where the program leaves the decoded images.
    fn run(&mut self, purpose: Purpose, (full, batch): (usize, usize)) -> Result<Address, CudaError> {
        let machine = &*self.machine;
        if let Some(program) = self.programs.get(&(purpose, full, batch)) {
            program.run(machine)?;
            return Ok(program.decoded);
        }
        let mut program = Program::new(machine, &self.shared, purpose, (full, batch))?;
        program.recording = machine.run_first(&program.operations)?;
        let decoded = program.decoded;
        self.programs.insert((purpose, full, batch), program);
        Ok(decoded)
    }

    /// Decodes all samples from their latents, in batches of this size and in their order, and compares them with the
    /// images. Nothing learns. Returns at least the first `shown` images, or all.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn evaluate(&mut self, batch: usize, shown: usize) -> Result<Comparison, CudaError> {
        let samples = self.shared.samples;
        let order: Vec<usize> = (0..samples).collect();
        self.begin_epoch(&order, 0, &[], EpochRates { batch, lr: 0.0, latent_lr: 0.0, kl_weight: 0.0 })?;
        let mut decoded = Vec::new();
        for start in (0..samples).step_by(batch) {
            let size = batch.min(samples - start);
            let sigmoid = self.run(Purpose::Evaluation, (batch, size))?;
            if start < shown {
                let pixels = self.floats(sigmoid, PIXELS * size)?;
                decoded.extend((0..size).flat_map(|b| pixels.iter().skip(b).step_by(size).map(|v| v * 255.0)));
            }
        }
        self.epoch = (batch, 0);
        let losses = self.losses(0..samples.div_ceil(batch))?;
        Ok(Comparison { squared_errors: losses.into_iter().map(|loss| loss.squared_error).collect(), decoded })
    }

    /// The losses of these steps of the epoch. Waits for them.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn losses(&self, steps: std::ops::Range<usize>) -> Result<Vec<StepLoss>, CudaError> {
        let mut found = vec![[0.0f64; 2]; steps.len()];
        let from = Address(self.shared.epoch.losses.0 + 16 * steps.start as u64);
        self.machine.download(from, bytemuck::cast_slice_mut(&mut found))?;
        Ok(found.into_iter().map(|[squared_error, kl]| StepLoss { squared_error, kl }).collect())
    }

    /// Copies the decoder into a state of a decoder with the same shape. Waits for all steps.
    ///
    /// # Errors
    /// If the GPU fails, or the state is that of another decoder.
    pub fn decoder_into(&self, state: &mut BTreeMap<String, Tensor>) -> Result<(), CudaError> {
        let floats = |n: usize, from: Address| self.floats(from, n);
        let n = self.shared.layout.parameters;
        let [p, m, v] = self.shared.parameters;
        let parameters = [floats(n, p)?, floats(n, m)?, floats(n, v)?];
        let statistics = floats(self.shared.layout.statistics, self.shared.running)?;
        let arrays = Arrays { parameters, statistics, step: self.decoder_step };
        Ok(self.shared.layout.write(&arrays, state)?)
    }

    /// Copies the latents into arrays of the same size. Waits for all steps.
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
