//! The same decoder with candle's operations and autograd, on any of candle's devices.
//!
//! It is slow on the CPU, but simple enough to compare with the formulas. The tests of [`super::Decoder`] compare with
//! it.
//!
//! Three parts do not use candle's own functions: ReLU is a product with a mask, because candle's ReLU has gradient 1
//! at 0; the gradient of the loss is 0 if the norm is 0; and Adam is that of [`crate::ops::adam`].

use std::collections::BTreeMap;

use candle_core::{DType, Device, Error, Result, Tensor, Var};

use crate::artifact;
use crate::ops::adam::Rates;
use crate::ops::tail::{PIXELS, SIDE};

/// `eps` of PyTorch's batch norm.
const NORM_EPSILON: f64 = 1e-5;
/// `momentum` of PyTorch's batch norm.
const MOMENTUM: f64 = 0.1;
/// The indices of the transposed convolutions with a batch norm, in PyTorch's `Sequential`.
const BLOCKS: [usize; 3] = [0, 3, 6];

/// A decoder as a graph of candle's operations.
#[derive(Debug)]
pub struct GraphDecoder {
    device: Device,
    step: u64,
    parameters: BTreeMap<String, Parameter>,
    /// Running means and variances, by PyTorch's names.
    running: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Parameter {
    value: Var,
    m: Tensor,
    v: Tensor,
}

/// The results of a step; see [`super::Step`].
#[derive(Clone, Debug)]
pub struct GraphStep {
    /// `‖x − x̂‖_F / (number of pixels in the batch)`.
    pub loss: f64,
    /// The gradient of the loss with respect to z, row-major, batch × latent_dim.
    pub latent_gradient: Vec<f32>,
    /// `‖x − x̂‖²_F` in grey levels squared.
    pub squared_error: f64,
}

/// The statistics that batch norm uses.
enum Mode<'a> {
    /// Those of the batch. They are added to this list as (name, mean, unbiased variance).
    Batch(&'a mut Vec<(String, Tensor, Tensor)>),
    Running,
}

impl GraphDecoder {
    /// A decoder with weights under PyTorch's names ([`super::Decoder::weights`]). Adam's moments are 0.
    ///
    /// # Errors
    /// If a tensor is not f32, or the device fails. The first step reports missing tensors and wrong shapes.
    pub fn from_weights(tensors: &BTreeMap<String, artifact::Tensor>, device: &Device) -> Result<Self> {
        let (mut parameters, mut running) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            let values = tensor.to_vec::<f32>().map_err(Error::wrap)?;
            let value = Tensor::from_vec(values, tensor.shape(), device)?;
            if name.contains("running") {
                running.insert(name.clone(), value);
            } else {
                let (m, v) = (value.zeros_like()?, value.zeros_like()?);
                parameters.insert(name.clone(), Parameter { value: Var::from_tensor(&value)?, m, v });
            }
        }
        Ok(Self { device: device.clone(), step: 0, parameters, running })
    }

    /// The weights, under PyTorch's names.
    ///
    /// # Errors
    /// If the device fails.
    pub fn weights(&self) -> Result<BTreeMap<String, artifact::Tensor>> {
        let parameters = self.parameters.iter().map(|(name, p)| (name, p.value.as_tensor()));
        parameters.chain(&self.running).map(|(name, t)| Ok((name.clone(), artifact::Tensor::from_candle(t)?))).collect()
    }

    /// Adam's first moments, by the names of the parameters.
    #[cfg(test)]
    pub(crate) fn first_moments(&self) -> Result<BTreeMap<String, Vec<f32>>> {
        self.parameters.iter().map(|(name, p)| Ok((name.clone(), p.m.flatten_all()?.to_vec1()?))).collect()
    }

    /// As [`super::Decoder::train_step`].
    ///
    /// # Errors
    /// If a tensor is missing, shapes do not fit, or the device fails.
    pub fn train_step(&mut self, z: &[f32], images: &[u8], lr: f32) -> Result<GraphStep> {
        let mut found = Vec::new();
        let (step, gradients) = self.run(z, images, Mode::Batch(&mut found))?;
        for (name, mean, variance) in found {
            self.mix(&format!("{name}.running_mean"), &mean)?;
            self.mix(&format!("{name}.running_var"), &variance)?;
        }
        self.step += 1;
        let rates = Rates::new(self.step, lr);
        for p in self.parameters.values_mut() {
            if let Some(g) = gradients.get(p.value.as_tensor()) {
                adam(p, g, rates)?;
            }
        }
        Ok(step)
    }

    /// As [`super::Frozen::loss_and_gradient`].
    ///
    /// # Errors
    /// If a tensor is missing, shapes do not fit, or the device fails.
    pub fn loss_and_gradient(&self, z: &[f32], images: &[u8]) -> Result<GraphStep> {
        Ok(self.run(z, images, Mode::Running)?.0)
    }

    /// As [`super::Frozen::decode`].
    ///
    /// # Errors
    /// If a tensor is missing, shapes do not fit, or the device fails.
    pub fn decode(&self, z: &[f32]) -> Result<Vec<f32>> {
        self.forward(&self.latents(z)?, Mode::Running)?.flatten_all()?.to_vec1()
    }

    fn run(&self, z: &[f32], images: &[u8], mode: Mode<'_>) -> Result<(GraphStep, candle_core::backprop::GradStore)> {
        let samples = images.len() / PIXELS;
        let z = Var::from_tensor(&self.latents(z)?)?;
        let x = Tensor::from_slice(images, (samples, PIXELS), &self.device)?.to_dtype(DType::F32)?;
        let error = (self.forward(z.as_tensor(), mode)? - x)?;
        let squares = error.sqr()?.sum_all()?;
        let squared_error = f64::from(squares.to_scalar::<f32>()?);
        let n = images.len() as f64;
        let slope = if squared_error > 0.0 { 0.5 / (squared_error.sqrt() * n) } else { 0.0 };
        let gradients = (squares * slope)?.backward()?;
        let by_z =
            gradients.get(z.as_tensor()).ok_or_else(|| Error::Msg("no gradient reached the latents".to_owned()))?;
        let latent_gradient = by_z.flatten_all()?.to_vec1()?;
        Ok((GraphStep { loss: squared_error.sqrt() / n, latent_gradient, squared_error }, gradients))
    }

    /// z as a tensor, batch × latent_dim.
    fn latents(&self, z: &[f32]) -> Result<Tensor> {
        let dim = self.parameter("fc.weight")?.dim(1)?;
        Tensor::from_slice(z, (z.len() / dim, dim), &self.device)
    }

    fn forward(&self, z: &Tensor, mut mode: Mode<'_>) -> Result<Tensor> {
        let h = z.matmul(&self.parameter("fc.weight")?.t()?)?.broadcast_add(self.parameter("fc.bias")?)?;
        let mut h = h.reshape((z.dim(0)?, h.dim(1)? / 4, 2, 2))?;
        for at in BLOCKS {
            h = h.conv_transpose2d(self.parameter(&format!("net.{at}.weight"))?, 1, 0, 2, 1)?;
            h = self.norm(&h, &format!("net.{}", at + 1), &mut mode)?;
            let mask = h.gt(0f32)?.to_dtype(DType::F32)?;
            h = (h * mask)?;
        }
        let bias = |name: &str| self.parameter(name)?.reshape((1, 1, 1, 1));
        let h = h.conv_transpose2d(self.parameter("net.9.weight")?, 1, 0, 2, 1)?.broadcast_add(&bias("net.9.bias")?)?;
        let h =
            h.conv_transpose2d(self.parameter("net.10.weight")?, 2, 0, 1, 1)?.broadcast_add(&bias("net.10.bias")?)?;
        (candle_nn::ops::sigmoid(&h)? * 255.0)?.reshape((z.dim(0)?, SIDE * SIDE))
    }

    fn norm(&self, x: &Tensor, name: &str, mode: &mut Mode<'_>) -> Result<Tensor> {
        let channels = x.dim(1)?;
        let wide = |t: &Tensor| t.reshape((1, channels, 1, 1));
        let (centred, variance) = match mode {
            Mode::Batch(found) => {
                let mean = x.mean_keepdim((0, 2, 3))?;
                let centred = x.broadcast_sub(&mean)?;
                let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
                let n = (x.elem_count() / channels) as f64;
                let unbiased = (variance.flatten_all()?.detach() * (n / (n - 1.0).max(1.0)))?;
                found.push((name.to_owned(), mean.flatten_all()?.detach(), unbiased));
                (centred, variance)
            }
            Mode::Running => {
                let mean = wide(self.statistic(&format!("{name}.running_mean"))?)?;
                (x.broadcast_sub(&mean)?, wide(self.statistic(&format!("{name}.running_var"))?)?)
            }
        };
        let normalised = centred.broadcast_div(&(variance + NORM_EPSILON)?.sqrt()?)?;
        normalised
            .broadcast_mul(&wide(self.parameter(&format!("{name}.weight"))?)?)?
            .broadcast_add(&wide(self.parameter(&format!("{name}.bias"))?)?)
    }

    fn parameter(&self, name: &str) -> Result<&Tensor> {
        self.parameters.get(name).map(|p| p.value.as_tensor()).ok_or_else(|| missing(name))
    }

    fn statistic(&self, name: &str) -> Result<&Tensor> {
        self.running.get(name).ok_or_else(|| missing(name))
    }

    /// Updates a running statistic with that of a batch.
    fn mix(&mut self, name: &str, new: &Tensor) -> Result<()> {
        let old = self.statistic(name)?;
        let mixed = (old + ((new - old)? * MOMENTUM)?)?;
        self.running.insert(name.to_owned(), mixed);
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::Msg(format!("the decoder's tensor `{name}` is missing"))
}

fn adam(p: &mut Parameter, gradient: &Tensor, rates: Rates) -> Result<()> {
    let (beta1, beta2) = Rates::BETAS;
    p.m = ((&p.m * beta1)? + (gradient * (1.0 - beta1))?)?;
    p.v = ((&p.v * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let denominator = (p.v.sqrt()? + f64::from(rates.epsilon))?;
    let moved = (p.value.as_tensor() - ((&p.m / denominator)? * f64::from(rates.step_size))?)?;
    // Otherwise the moments would keep the graphs of all steps alive.
    (p.m, p.v) = (p.m.detach(), p.v.detach());
    p.value.set(&moved.detach())
}
