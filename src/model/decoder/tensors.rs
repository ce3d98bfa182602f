//! A decoder as tensors: its whole state in its own layout, and its weights with PyTorch's names and layout.
//!
//! Weights are those of `torch.nn`: `fc` is a `Linear` whose output is viewed as (c0, 2, 2). `net` is a `Sequential`
//! with transposed convolutions at 0, 3, 6, 9 and 10 and batch norms at 1, 4 and 7.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::artifact::{ElementType, Tensor, TensorError};
use crate::ops::block::{Block, LANES, Row};
use crate::ops::norm::{self, Statistics};
use crate::ops::transposed::Convolution;
use crate::rng::Streams;

use super::layers::{self, NORM_NAMES, NORMS, WEIGHTS, find};
use super::weights::{get_weights, set_weights};
use super::{Decoder, DecoderShape, Frozen, Small, scalars};

/// PyTorch's names and shapes of bias, scale and shift of the tail.
const TAIL: [(&str, &[usize]); 3] = [("net.9.bias", &[1]), ("net.10.weight", &[1, 1, 1, 1]), ("net.10.bias", &[1])];
/// The prefix of all names in a state.
const PREFIX: &str = "decoder.";
/// The numbers that a thread copies at a time.
const PIECE: usize = 1 << 20;

/// The shape of a layer's weight in PyTorch.
fn weight_shape(shape: DecoderShape, layer: usize) -> Vec<usize> {
    let (ci, co) = layers::channels(shape)[layer];
    match layer {
        0 => vec![co * 4, ci],
        4 => vec![ci, 1, 4, 4],
        _ => vec![ci, co, 4, 4],
    }
}

/// The row and lane of a number of the fully connected layer's bias, which is ordered by panel, pixel and channel.
/// `index` is its index in PyTorch, where the bias is ordered by channel and pixel.
fn bias_place(index: usize, pixels: usize) -> (usize, usize) {
    let (channel, pixel) = (index / pixels, index % pixels);
    (channel / LANES * pixels + pixel, channel % LANES)
}

impl Small {
    fn parts(&self) -> [(&'static str, &Vec<Row>); 3] {
        [("w", &self.w), ("m", &self.m), ("v", &self.v)]
    }

    fn parts_mut(&mut self) -> [(&'static str, &mut Vec<Row>); 3] {
        [("w", &mut self.w), ("m", &mut self.m), ("v", &mut self.v)]
    }
}

impl Decoder {
    /// Initialises a blank decoder as PyTorch does by default: weights and biases are uniform in ± 1 / √fan_in, where
    /// the fan_in of a transposed convolution is co · kernel². They are drawn from the streams "init decoder …".
    pub fn initialise(&mut self, streams: &Streams) {
        let shape = self.shape;
        let draw = |name: &str, n: usize, fan_in: usize| {
            let bound = 1.0 / (fan_in as f32).sqrt();
            let mut values = vec![0.0; n];
            streams.stream(&format!("init decoder {name}"), 0, 0).uniforms(&mut values);
            values.iter_mut().for_each(|v| *v = (2.0 * *v - 1.0) * bound);
            values
        };
        for (l, name) in WEIGHTS.iter().enumerate() {
            let size = weight_shape(shape, l);
            let fan_in = size[1..].iter().product();
            set_weights(&mut self.convolutions[l], shape, l, &draw(name, size.iter().product(), fan_in), &[1.0]);
        }
        let pixels = self.convolutions[0].geometry.outputs();
        for (index, v) in draw("fc.bias", shape.channels[0] * pixels, shape.latent_dim).into_iter().enumerate() {
            let (row, lane) = bias_place(index, pixels);
            self.bias.w[row][lane] = v;
        }
        for (lane, ((name, _), fan_in)) in TAIL.iter().zip([layers::LAST_TAPS, 1, 1]).enumerate() {
            self.tail.w[0][lane] = draw(name, 1, fan_in)[0];
        }
    }

    /// Everything that the next step reads: parameters and moments, running statistics, and the number of steps. The
    /// tensors have the decoder's own layout (see [`crate::ops`]), and names that begin with `decoder.`.
    ///
    /// # Errors
    /// None: the numbers fit the shapes.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        self.state_in(&mut BTreeMap::new())
    }

    /// [`Decoder::state`] in the memory of an earlier state.
    ///
    /// # Errors
    /// As [`Decoder::state`].
    pub fn state_in(&self, spare: &mut BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, TensorError> {
        let layers = self.convolutions.iter().zip(&self.moments).zip(WEIGHTS);
        let large: Vec<_> = layers
            .flat_map(|((c, moments), name)| {
                [("w", c.weights()), ("m", &moments.m), ("v", &moments.v)]
                    .map(|(part, blocks)| (format!("{PREFIX}{name}.{part}"), c, blocks))
            })
            .map(|(name, c, blocks)| (spare.remove(&name), name, c, blocks))
            .collect();
        let copied = large.into_par_iter().map(|(spare, name, c, blocks)| {
            let shape = [c.ci, c.geometry.taps(), c.co, LANES, LANES];
            Ok((name, Tensor::new_in::<f32>(spare, shape, bytemuck::cast_slice(blocks))?))
        });
        let mut tensors: BTreeMap<String, Tensor> = copied.collect::<Result<_, TensorError>>()?;
        for (name, small) in self.smalls() {
            for (part, rows) in small.parts() {
                tensors.insert(format!("{PREFIX}{name}.{part}"), rows_tensor(rows)?);
            }
        }
        for (name, norm) in NORM_NAMES.iter().zip(&self.norms) {
            tensors.insert(format!("{PREFIX}{name}.running_mean"), rows_tensor(&norm.statistics.mean)?);
            tensors.insert(format!("{PREFIX}{name}.running_var"), rows_tensor(&norm.statistics.variance)?);
        }
        tensors.insert(format!("{PREFIX}step"), Tensor::vector(&[self.step as i64]));
        Ok(tensors)
    }

    /// The decoder with this [`Decoder::state`]. Its next steps give the same bits. Ignores tensors with other names.
    ///
    /// # Errors
    /// If a tensor is missing, or its type or length is not that of a decoder of this shape.
    pub fn from_state(shape: DecoderShape, tensors: &BTreeMap<String, Tensor>) -> Result<Self, TensorError> {
        let mut decoder = Self::blank(shape);
        decoder.restore(tensors)?;
        Ok(decoder)
    }

    /// Replaces the state by one that [`Decoder::state`] returned for a decoder of the same shape.
    ///
    /// # Errors
    /// As [`Decoder::from_state`]. Part of the state may then be replaced.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<(), TensorError> {
        for (l, (c, moments)) in self.convolutions.iter_mut().zip(&mut self.moments).enumerate() {
            let read = |part: &str, blocks: &mut [Block]| {
                read_into(tensors, &format!("{PREFIX}{}.{part}", WEIGHTS[l]), bytemuck::cast_slice_mut(blocks))
            };
            c.change_weights(|weights| read("w", weights))?;
            read("m", &mut moments.m)?;
            read("v", &mut moments.v)?;
        }
        for (name, small) in self.smalls_mut() {
            for (part, rows) in small.parts_mut() {
                read_into(tensors, &format!("{PREFIX}{name}.{part}"), rows.as_flattened_mut())?;
            }
        }
        for (name, norm) in NORM_NAMES.iter().zip(&mut self.norms) {
            let statistics = &mut norm.statistics;
            read_into(tensors, &format!("{PREFIX}{name}.running_mean"), statistics.mean.as_flattened_mut())?;
            read_into(tensors, &format!("{PREFIX}{name}.running_var"), statistics.variance.as_flattened_mut())?;
        }
        let step = find(tensors, &format!("{PREFIX}step"))?.to_vec::<i64>()?;
        let [step] = step[..] else { return Err(misfit("decoder.step", &[step.len()])) };
        self.step = u64::try_from(step).map_err(|_| misfit("decoder.step", &[]))?;
        Ok(())
    }

    /// The weights and running statistics with PyTorch's names and layout, without `num_batches_tracked`.
    ///
    /// # Errors
    /// None: the numbers fit the shapes.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        let mut tensors = BTreeMap::new();
        for (l, name) in WEIGHTS.iter().enumerate() {
            let fill = |values: &mut [f32]| get_weights(&self.convolutions[l], self.shape, l, values);
            tensors.insert((*name).to_owned(), Tensor::filled(weight_shape(self.shape, l), fill)?);
        }
        let pixels = self.convolutions[0].geometry.outputs();
        let bias = (0..self.shape.channels[0] * pixels).map(|index| {
            let (row, lane) = bias_place(index, pixels);
            self.bias.w[row][lane]
        });
        tensors.insert("fc.bias".to_owned(), Tensor::vector(&bias.collect::<Vec<f32>>()));
        for (n, (name, norm)) in NORM_NAMES.iter().zip(&self.norms).enumerate() {
            let (mean, variance) = (&norm.statistics.mean, &norm.statistics.variance);
            let parts =
                [("weight", &norm.gamma.w), ("bias", &norm.beta.w), ("running_mean", mean), ("running_var", variance)];
            for (part, rows) in parts {
                let channels = &rows.as_flattened()[..self.shape.channels[n + 1]];
                tensors.insert(format!("{name}.{part}"), Tensor::vector(channels));
            }
        }
        for (lane, (name, shape)) in TAIL.iter().enumerate() {
            tensors.insert((*name).to_owned(), Tensor::new(*shape, &self.tail.w[0][lane..=lane])?);
        }
        Ok(tensors)
    }

    /// The decoder with these [`Decoder::weights`], or with those of PyTorch's `state_dict`. Its shape is that of the
    /// tensors. Moments and the number of steps are 0.
    ///
    /// # Errors
    /// If a tensor is missing, or its type or shape does not fit the others.
    pub fn from_weights(tensors: &BTreeMap<String, Tensor>) -> Result<Self, TensorError> {
        let shape = infer_shape(tensors)?;
        let mut decoder = Self::blank(shape);
        for (l, convolution) in decoder.convolutions.iter_mut().enumerate() {
            set_weights(convolution, shape, l, &read(tensors, WEIGHTS[l], &weight_shape(shape, l))?, &[1.0]);
        }
        decoder.bias.w = read_bias(tensors, shape, &decoder.convolutions[0])?;
        for (n, (name, norm)) in NORM_NAMES.iter().zip(&mut decoder.norms).enumerate() {
            let channels = shape.channels[n + 1];
            let Statistics { mean, variance, .. } = &mut norm.statistics;
            let (gamma, beta) = (&mut norm.gamma.w, &mut norm.beta.w);
            for (part, rows) in [("weight", gamma), ("bias", beta), ("running_mean", mean), ("running_var", variance)] {
                let values = read(tensors, &format!("{name}.{part}"), &[channels])?;
                rows.as_flattened_mut()[..channels].copy_from_slice(&values);
            }
        }
        decoder.tail.w = vec![read_tail(tensors)?];
        Ok(decoder)
    }

    fn smalls(&self) -> Vec<(String, &Small)> {
        let norms = NORM_NAMES.iter().zip(&self.norms);
        let of_norms = norms
            .flat_map(|(name, norm)| [(format!("{name}.weight"), &norm.gamma), (format!("{name}.bias"), &norm.beta)]);
        [("fc.bias".to_owned(), &self.bias), ("tail".to_owned(), &self.tail)].into_iter().chain(of_norms).collect()
    }

    fn smalls_mut(&mut self) -> Vec<(String, &mut Small)> {
        let norms = NORM_NAMES.iter().zip(&mut self.norms);
        let of_norms = norms.flat_map(|(name, norm)| {
            [(format!("{name}.weight"), &mut norm.gamma), (format!("{name}.bias"), &mut norm.beta)]
        });
        [("fc.bias".to_owned(), &mut self.bias), ("tail".to_owned(), &mut self.tail)]
            .into_iter()
            .chain(of_norms)
            .collect()
    }
}

fn rows_tensor(rows: &[Row]) -> Result<Tensor, TensorError> {
    Tensor::new([rows.len(), LANES], rows.as_flattened())
}

fn misfit(name: &str, shape: &[usize]) -> TensorError {
    TensorError::Unsupported(format!("tensor `{name}` of shape {shape:?} does not fit the decoder"))
}

fn read_into(tensors: &BTreeMap<String, Tensor>, name: &str, to: &mut [f32]) -> Result<(), TensorError> {
    let tensor = find(tensors, name)?;
    if tensor.len() != to.len() {
        return Err(misfit(name, tensor.shape()));
    }
    if tensor.element() != ElementType::F32 {
        return Err(TensorError::Type { found: tensor.element(), wanted: ElementType::F32 });
    }
    // Several threads copy, because most of the time is spent on the first access to each page.
    let bytes = tensor.bytes().par_chunks(PIECE * size_of::<f32>());
    to.par_chunks_mut(PIECE).zip(bytes).for_each(|(to, from)| bytemuck::cast_slice_mut(to).copy_from_slice(from));
    Ok(())
}

/// The values of a tensor.
///
/// # Errors
/// If it is missing, or its shape or type is not the expected one.
fn read<'a>(tensors: &'a BTreeMap<String, Tensor>, name: &str, shape: &[usize]) -> Result<Cow<'a, [f32]>, TensorError> {
    let tensor = find(tensors, name)?;
    if tensor.shape() != shape {
        return Err(misfit(name, tensor.shape()));
    }
    tensor.to_slice()
}

/// The decoder's shape, from the shapes of its weights.
fn infer_shape(tensors: &BTreeMap<String, Tensor>) -> Result<DecoderShape, TensorError> {
    let size = |name: &str, axis: usize| {
        let tensor = find(tensors, name)?;
        tensor.shape().get(axis).copied().filter(|n| *n > 0).ok_or_else(|| misfit(name, tensor.shape()))
    };
    let mut channels = [0; 4];
    for (c, name) in channels.iter_mut().zip(&WEIGHTS[1..]) {
        *c = size(name, 0)?;
    }
    Ok(DecoderShape { latent_dim: size(WEIGHTS[0], 1)?, channels })
}

impl Frozen {
    /// The frozen decoder with these [`Decoder::weights`], or with those of PyTorch's `state_dict`. Its shape is that
    /// of the tensors.
    ///
    /// # Errors
    /// If a tensor is missing, or its type or shape does not fit the others.
    pub fn from_weights(tensors: &BTreeMap<String, Tensor>) -> Result<Self, TensorError> {
        let shape = infer_shape(tensors)?;
        let mut convolutions = layers::convolutions(shape);
        let mut folded: [Vec<Row>; NORMS] = std::array::from_fn(|n| vec![[0.0; LANES]; convolutions[n + 1].co]);
        for (l, convolution) in convolutions.iter_mut().enumerate() {
            let values = read(tensors, WEIGHTS[l], &weight_shape(shape, l))?;
            let mut scales = vec![1.0];
            if let Some(n) = l.checked_sub(1).filter(|n| *n < NORMS) {
                let shifts;
                (scales, shifts) = fold(tensors, NORM_NAMES[n], shape.channels[l])?;
                folded[n].as_flattened_mut()[..shifts.len()].copy_from_slice(&shifts);
            }
            set_weights(convolution, shape, l, &values, &scales);
        }
        let (bias, tail) = (read_bias(tensors, shape, &convolutions[0])?, read_tail(tensors)?);
        let (work, decoded) = (BTreeMap::new(), Vec::new());
        Ok(Self { shape, convolutions, bias, folded, scalars: scalars(&[tail]), work, decoded })
    }
}

/// Reads the bias of the fully connected layer: a row for each panel and pixel.
fn read_bias(
    tensors: &BTreeMap<String, Tensor>,
    shape: DecoderShape,
    connected: &Convolution,
) -> Result<Vec<Row>, TensorError> {
    let pixels = connected.geometry.outputs();
    let mut bias = vec![[0.0; LANES]; connected.co * pixels];
    for (index, v) in read(tensors, "fc.bias", &[shape.channels[0] * pixels])?.iter().enumerate() {
        let (row, lane) = bias_place(index, pixels);
        bias[row][lane] = *v;
    }
    Ok(bias)
}

/// Reads the tail's row of parameters.
fn read_tail(tensors: &BTreeMap<String, Tensor>) -> Result<Row, TensorError> {
    let mut tail = [0.0; LANES];
    for (lane, (name, shape)) in TAIL.iter().enumerate() {
        tail[lane] = read(tensors, name, shape)?[0];
    }
    Ok(tail)
}

/// The scale and the shift of each channel that equal a batch norm with running statistics.
fn fold(tensors: &BTreeMap<String, Tensor>, name: &str, channels: usize) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
    let read = |part: &str| read(tensors, &format!("{name}.{part}"), &[channels]);
    let (gamma, beta, mean, variance) = (read("weight")?, read("bias")?, read("running_mean")?, read("running_var")?);
    let scale = |c: usize| f64::from(gamma[c]) / (f64::from(variance[c]) + norm::EPSILON).sqrt();
    let shift = |c: usize| f64::from(beta[c]) - f64::from(mean[c]) * scale(c);
    Ok(((0..channels).map(|c| scale(c) as f32).collect(), (0..channels).map(|c| shift(c) as f32).collect()))
}
