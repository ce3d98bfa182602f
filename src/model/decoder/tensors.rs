//! A decoder as tensors: its whole state in its own layout, and its weights under PyTorch's names and in PyTorch's
//! layout.
//!
//! Weights are those of `torch.nn`: `fc` is a `Linear` whose output is viewed as (c0, 2, 2), `net` a `Sequential` with
//! the transposed convolutions at 0, 3, 6, 9 and 10 and the batch norms at 1, 4 and 7.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::artifact::{ElementType, Tensor, TensorError};
use crate::ops::block::{Block, LANES, Row};
use crate::ops::norm::{self, Statistics};
use crate::ops::transposed::Convolution;
use crate::rng::Streams;

use super::layers::{self, LAYERS, NORMS};
use super::{Decoder, DecoderShape, Frozen, Small, scalars};

/// PyTorch's name of each layer's weight.
const WEIGHTS: [&str; LAYERS] = ["fc.weight", "net.0.weight", "net.3.weight", "net.6.weight", "net.9.weight"];
/// PyTorch's names of the batch norms.
const NORM_NAMES: [&str; NORMS] = ["net.1", "net.4", "net.7"];
/// PyTorch's names of bias, scale and shift of the tail, with their shapes.
const TAIL: [(&str, &[usize]); 3] = [("net.9.bias", &[1]), ("net.10.weight", &[1, 1, 1, 1]), ("net.10.bias", &[1])];
const PREFIX: &str = "decoder.";
/// Numbers that a thread copies at a time.
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

/// How a layer's weights lie, in PyTorch's order and in ours.
#[derive(Clone, Copy)]
struct Weights {
    layer: usize,
    ci: usize,
    co: usize,
    taps: usize,
    /// Blocks of a panel of input channels.
    blocks: usize,
}

impl Weights {
    fn of(convolution: &Convolution, shape: DecoderShape, layer: usize) -> Self {
        let ((ci, co), taps) = (layers::channels(shape)[layer], convolution.geometry.taps());
        Self { layer, ci, co, taps, blocks: taps * convolution.co }
    }

    /// The weights of a panel of input channels.
    fn places(self, panel: usize) -> impl Iterator<Item = Place> {
        let Self { layer, ci, co, taps, blocks } = self;
        let channels = panel * LANES..((panel + 1) * LANES).min(ci);
        channels.flat_map(move |i| {
            (0..co).flat_map(move |o| {
                (0..taps).map(move |tap| Place {
                    theirs: if layer == 0 { (o * taps + tap) * ci + i } else { (i * co + o) * taps + tap },
                    block: tap * (blocks / taps) + o / LANES,
                    row: i % LANES,
                    column: o % LANES,
                    output: o,
                })
            })
        })
    }
}

/// Where a weight is.
struct Place {
    /// In PyTorch's order.
    theirs: usize,
    /// Its block among its panel's.
    block: usize,
    row: usize,
    column: usize,
    /// Its output channel.
    output: usize,
}

/// Takes weights over, those of each output channel times its scale; a single scale is for all.
fn set_weights(convolution: &mut Convolution, shape: DecoderShape, layer: usize, values: &[f32], scales: &[f32]) {
    let weights = Weights::of(convolution, shape, layer);
    let scale = |output| if scales.len() == 1 { scales[0] } else { scales[output] };
    convolution.change_weights(|all| {
        all.par_chunks_mut(weights.blocks).enumerate().for_each(|(panel, blocks)| {
            for Place { theirs, block, row, column, output } in weights.places(panel) {
                blocks[block].0[row][column] = values[theirs] * scale(output);
            }
        });
    });
}

fn get_weights(convolution: &Convolution, shape: DecoderShape, layer: usize, values: &mut [f32]) {
    let weights = Weights::of(convolution, shape, layer);
    if layer == 0 {
        // In PyTorch's order, a panel's weights of the fully connected layer stand far apart.
        for (panel, blocks) in convolution.weights().chunks(weights.blocks).enumerate() {
            weights.places(panel).for_each(|p| values[p.theirs] = blocks[p.block].0[p.row][p.column]);
        }
        return;
    }
    let of_panel = LANES * weights.co * weights.taps;
    let panels = convolution.weights().par_chunks(weights.blocks).zip(values.par_chunks_mut(of_panel)).enumerate();
    panels.for_each(|(panel, (blocks, values))| {
        let first = panel * of_panel;
        weights.places(panel).for_each(|p| values[p.theirs - first] = blocks[p.block].0[p.row][p.column]);
    });
}

/// The fully connected layer's bias between PyTorch's order (channel, pixel) and ours (panel, pixel, channel): ours for
/// PyTorch's `index`.
fn bias_place(index: usize, pixels: usize) -> (usize, usize) {
    let (channel, pixel) = (index / pixels, index % pixels);
    (channel / LANES * pixels + pixel, channel % LANES)
}

/// [`Decoder::initialise`].
fn initialise(decoder: &mut Decoder, streams: &Streams) {
    let shape = decoder.shape;
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
        set_weights(&mut decoder.convolutions[l], shape, l, &draw(name, size.iter().product(), fan_in), &[1.0]);
    }
    let pixels = decoder.convolutions[0].geometry.outputs();
    for (index, v) in draw("fc.bias", shape.channels[0] * pixels, shape.latent_dim).into_iter().enumerate() {
        let (row, lane) = bias_place(index, pixels);
        decoder.bias.w[row][lane] = v;
    }
    for (lane, ((name, _), fan_in)) in TAIL.iter().zip([layers::LAST_TAPS, 1, 1]).enumerate() {
        decoder.tail.w[0][lane] = draw(name, 1, fan_in)[0];
    }
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
    /// PyTorch's defaults for a blank decoder: weights and biases uniform in ± 1 / √fan_in, where a transposed
    /// convolution's fan_in is co · kernel²; drawn from the streams "init decoder …".
    pub fn initialise(&mut self, streams: &Streams) {
        initialise(self, streams);
    }

    /// Everything that the next step reads, in the decoder's own layout (see [`crate::ops`]), under names that begin
    /// with `decoder.`: parameters and their moments, running statistics and the number of steps.
    ///
    /// # Errors
    /// None in practice: the shapes are the tensors' own.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        let layers = self.convolutions.iter().zip(&self.moments).zip(WEIGHTS);
        let large: Vec<_> = layers
            .flat_map(|((c, moments), name)| {
                [("w", c.weights()), ("m", &moments.m), ("v", &moments.v)].map(|(part, blocks)| (name, part, c, blocks))
            })
            .collect();
        let copied = large.into_par_iter().map(|(name, part, c, blocks)| {
            let shape = [c.ci, c.geometry.taps(), c.co, LANES, LANES];
            Ok((format!("{PREFIX}{name}.{part}"), Tensor::new::<f32>(shape, bytemuck::cast_slice(blocks))?))
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

    /// The decoder whose [`Decoder::state`] this is; it continues bit for bit. Tensors of other names are not looked
    /// at.
    ///
    /// # Errors
    /// If a tensor is missing, or its type or shape is not that of a decoder of this shape.
    pub fn from_state(shape: DecoderShape, tensors: &BTreeMap<String, Tensor>) -> Result<Self, TensorError> {
        let mut decoder = Self::blank(shape);
        decoder.restore(tensors)?;
        Ok(decoder)
    }

    /// Becomes the decoder of this shape whose [`Decoder::state`] this is.
    ///
    /// # Errors
    /// As [`Decoder::from_state`]; then it is half the one and half the other.
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

    /// The weights and running statistics under PyTorch's names and in its layout, without `num_batches_tracked`.
    ///
    /// # Errors
    /// None in practice: the shapes are the tensors' own.
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

    /// The decoder whose [`Decoder::weights`] these are, or that of PyTorch's `state_dict`; the shape is read off them.
    /// Moments and the number of steps are 0.
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

fn find<'a>(tensors: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor, TensorError> {
    tensors.get(name).ok_or_else(|| TensorError::Unsupported(format!("the decoder's tensor `{name}` is missing")))
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
    // By several threads: most of the time goes into the pages, which are touched for the first time.
    let bytes = tensor.bytes().par_chunks(PIECE * size_of::<f32>());
    to.par_chunks_mut(PIECE).zip(bytes).for_each(|(to, from)| bytemuck::cast_slice_mut(to).copy_from_slice(from));
    Ok(())
}

/// The values of a tensor that must have this shape.
fn read<'a>(tensors: &'a BTreeMap<String, Tensor>, name: &str, shape: &[usize]) -> Result<Cow<'a, [f32]>, TensorError> {
    let tensor = find(tensors, name)?;
    if tensor.shape() != shape {
        return Err(misfit(name, tensor.shape()));
    }
    tensor.to_slice()
}

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
    /// From the tensors that [`super::Decoder::weights`] gives, or PyTorch's `state_dict`; the shape is read off them.
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
        Ok(Frozen { shape, convolutions, bias, folded, scalars: scalars(&[tail]), work, decoded })
    }
}

/// The fully connected layer's bias, a row for each panel and pixel.
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

/// The tail's row of parameters.
fn read_tail(tensors: &BTreeMap<String, Tensor>) -> Result<Row, TensorError> {
    let mut tail = [0.0; LANES];
    for (lane, (name, shape)) in TAIL.iter().enumerate() {
        tail[lane] = read(tensors, name, shape)?[0];
    }
    Ok(tail)
}

/// A batch norm's running statistics as a scale and a shift for each channel.
fn fold(tensors: &BTreeMap<String, Tensor>, name: &str, channels: usize) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
    let read = |part: &str| read(tensors, &format!("{name}.{part}"), &[channels]);
    let (gamma, beta, mean, variance) = (read("weight")?, read("bias")?, read("running_mean")?, read("running_var")?);
    let scale = |c: usize| f64::from(gamma[c]) / (f64::from(variance[c]) + norm::EPSILON).sqrt();
    let shift = |c: usize| f64::from(beta[c]) - f64::from(mean[c]) * scale(c);
    Ok(((0..channels).map(|c| scale(c) as f32).collect(), (0..channels).map(|c| shift(c) as f32).collect()))
}
