//! Converts the decoder's state between the layouts of the host and of the GPU.
//!
//! The host has blocks of 16 × 16 numbers (see [`crate::ops`]) in the tensors of [`crate::model::Decoder::state`]. The
//! GPU has all parameters in one long array: weights as `[ci][tap][co]`, the first bias as `[pixel][channel]`, the
//! others by channel. Writing a state does not change the padding of its blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layer::Layer;
use crate::artifact::{Tensor, TensorError};
use crate::model::DecoderShape;
use crate::model::decoder::layers::{LAYERS, NORM_NAMES, NORMS, WEIGHTS, channels, find, geometry};
use crate::ops::block::LANES;

/// The number of parameters of the tail: bias, scale and shift.
const TAIL: usize = 3;

/// The layers of a decoder.
pub(super) fn layers(shape: DecoderShape) -> [Layer; LAYERS] {
    let channels = channels(shape);
    std::array::from_fn(|l| Layer { geometry: geometry(l), ci: channels[l].0, co: channels[l].1 })
}

/// The range of each parameter in the long array.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    layers: [Layer; LAYERS],
    /// The weights of each layer.
    pub(super) weights: [Range<usize>; LAYERS],
    /// The first layer's bias.
    pub(super) bias: Range<usize>,
    /// γ and β of each norm.
    pub(super) norms: [[Range<usize>; 2]; NORMS],
    /// The tail.
    pub(super) tail: Range<usize>,
    /// The length of the array.
    pub(super) parameters: usize,
    /// Mean and variance of each norm, in a separate array.
    pub(super) running: [[Range<usize>; 2]; NORMS],
    /// The length of that array.
    pub(super) statistics: usize,
}

/// A tensor of the state: its name, and the index in the GPU's array of each of its numbers; `None` for padding.
struct Part<'a> {
    name: String,
    place: Box<dyn Fn(usize) -> Option<usize> + 'a>,
}

/// The arrays of a state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrays {
    /// Parameters, first and second moments.
    pub(super) parameters: [Vec<f32>; 3],
    /// Running means and variances.
    pub(super) statistics: Vec<f32>,
    /// The number of steps so far.
    pub(super) step: u64,
}

impl Layout {
    pub(super) fn new(shape: DecoderShape) -> Self {
        let layers = layers(shape);
        let mut end = 0;
        // Each range begins at a multiple of 16 numbers, because cuBLAS is fastest with aligned arrays.
        let mut take = |n: usize| {
            let begin = end;
            end = (begin + n).next_multiple_of(LANES);
            begin..begin + n
        };
        let weights = std::array::from_fn(|l| take(layers[l].weights()));
        let bias = take(layers[0].co * layers[0].geometry.taps());
        let norms = std::array::from_fn(|n| std::array::from_fn(|_| take(layers[n + 1].co)));
        let tail = take(TAIL);
        let parameters = end;
        let mut end = 0;
        let running = std::array::from_fn(|n| {
            std::array::from_fn(|_| {
                end += layers[n + 1].co;
                end - layers[n + 1].co..end
            })
        });
        Self { layers, weights, bias, norms, tail, parameters, running, statistics: end }
    }

    /// The tensors of parameters. Their names lack the suffix `w`, `m` or `v`.
    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts: Vec<Part<'_>> = Vec::new();
        for (l, name) in WEIGHTS.iter().enumerate() {
            let place = move |i| self.weight_place(l, i);
            parts.push(Part { name: format!("decoder.{name}"), place: Box::new(place) });
        }
        let (channels, pixels) = (self.layers[0].co, self.layers[0].geometry.taps());
        let bias = move |i: usize| {
            let (row, lane) = (i / LANES, i % LANES);
            let (channel, pixel) = (row / pixels * LANES + lane, row % pixels);
            (channel < channels).then(|| self.bias.start + pixel * channels + channel)
        };
        parts.push(Part { name: "decoder.fc.bias".to_owned(), place: Box::new(bias) });
        parts.push(Part { name: "decoder.tail".to_owned(), place: simple(&self.tail) });
        for (name, [gamma, beta]) in NORM_NAMES.iter().zip(&self.norms) {
            parts.push(Part { name: format!("decoder.{name}.weight"), place: simple(gamma) });
            parts.push(Part { name: format!("decoder.{name}.bias"), place: simple(beta) });
        }
        parts
    }

    /// The tensors of running statistics.
    fn running_parts(&self) -> Vec<Part<'_>> {
        let pairs = NORM_NAMES.iter().zip(&self.running);
        pairs
            .flat_map(|(name, [mean, variance])| {
                [("running_mean", mean), ("running_var", variance)]
                    .map(|(part, range)| Part { name: format!("decoder.{name}.{part}"), place: simple(range) })
            })
            .collect()
    }

    /// The index of number `i` of a weight, whose tensor is `[ci panel][tap][co panel][16 ci][16 co]`; `None` for
    /// padding.
    fn weight_place(&self, l: usize, i: usize) -> Option<usize> {
        let layer = self.layers[l];
        let (block, row, column) = (i / (LANES * LANES), i / LANES % LANES, i % LANES);
        let panels = layer.co.div_ceil(LANES);
        let (co, rest) = (block % panels * LANES + column, block / panels);
        let (tap, ci) = (rest % layer.geometry.taps(), rest / layer.geometry.taps() * LANES + row);
        let inside = ci < layer.ci && co < layer.co;
        inside.then(|| self.weights[l].start + ci * layer.width() + tap * layer.co + co)
    }

    /// Reads a state.
    ///
    /// # Errors
    /// If a tensor is missing, or of another type.
    pub(super) fn read(&self, state: &BTreeMap<String, Tensor>) -> Result<Arrays, TensorError> {
        let mut parameters = [(); 3].map(|()| vec![0.0; self.parameters]);
        for part in self.parts() {
            for (array, suffix) in parameters.iter_mut().zip(["w", "m", "v"]) {
                part.read(&find(state, &format!("{}.{suffix}", part.name))?.to_vec::<f32>()?, array);
            }
        }
        let mut statistics = vec![0.0; self.statistics];
        for part in self.running_parts() {
            part.read(&find(state, &part.name)?.to_vec::<f32>()?, &mut statistics);
        }
        let step = find(state, STEP)?.to_vec::<i64>()?.first().map_or(0, |step| step.unsigned_abs());
        Ok(Arrays { parameters, statistics, step })
    }

    /// Writes the arrays to a state that already has all tensors.
    ///
    /// # Errors
    /// As [`Layout::read`].
    pub(super) fn write(&self, arrays: &Arrays, state: &mut BTreeMap<String, Tensor>) -> Result<(), TensorError> {
        for part in self.parts() {
            for (array, suffix) in arrays.parameters.iter().zip(["w", "m", "v"]) {
                part.write(array, &format!("{}.{suffix}", part.name), state)?;
            }
        }
        for part in self.running_parts() {
            part.write(&arrays.statistics, &part.name, state)?;
        }
        state.insert(STEP.to_owned(), Tensor::vector(&[arrays.step as i64]));
        Ok(())
    }
}

const STEP: &str = "decoder.step";

/// Indices for a row for each panel: the channels in order, then the padding of the last panel.
fn simple(range: &Range<usize>) -> Box<dyn Fn(usize) -> Option<usize>> {
    let range = range.clone();
    Box::new(move |i| (i < range.len()).then(|| range.start + i))
}

impl Part<'_> {
    fn read(&self, values: &[f32], array: &mut [f32]) {
        for (i, value) in values.iter().enumerate() {
            if let Some(slot) = (self.place)(i).and_then(|at| array.get_mut(at)) {
                *slot = *value;
            }
        }
    }

    fn write(&self, array: &[f32], name: &str, state: &mut BTreeMap<String, Tensor>) -> Result<(), TensorError> {
        let old = find(state, name)?;
        let mut values = old.to_vec::<f32>()?;
        for (i, value) in values.iter_mut().enumerate() {
            if let Some(new) = (self.place)(i).and_then(|at| array.get(at)) {
                *value = *new;
            }
        }
        let shape = old.shape().to_vec();
        state.insert(name.to_owned(), Tensor::new(shape, &values)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Decoder;
    use crate::rng::Streams;

    fn decoder() -> Decoder {
        let shape = DecoderShape { latent_dim: 5, channels: [20, 18, 17, 3] };
        let mut decoder = Decoder::new(shape, &Streams::new(8));
        decoder.train_step(&[0.3; 15], &[90; 3 * 784], 1e-2);
        decoder
    }

    #[test]
    fn state_is_unchanged_after_reading_and_writing() {
        let decoder = decoder();
        let layout = Layout::new(decoder.shape());
        let state = decoder.state().unwrap();
        let arrays = layout.read(&state).unwrap();
        assert_eq!(arrays.step, 1);
        let mut other = Decoder::new(decoder.shape(), &Streams::new(9)).state().unwrap();
        layout.write(&arrays, &mut other).unwrap();
        // Padding has no meaning. It differs in the running statistics only.
        assert_eq!(layout.read(&other).unwrap(), arrays);
        for (name, tensor) in state.iter().filter(|(name, _)| !name.contains("running")) {
            assert_eq!(&other[name], tensor, "{name}");
        }
    }

    #[test]
    fn weights_are_ordered_by_input_channel_tap_and_output_channel() {
        let decoder = decoder();
        let layout = Layout::new(decoder.shape());
        let arrays = layout.read(&decoder.state().unwrap()).unwrap();
        let torch = decoder.weights().unwrap();
        let w = torch["net.3.weight"].to_vec::<f32>().unwrap();
        let at = |i: usize, o: usize, tap: usize| layout.weights[2].start + (i * 16 + tap) * 17 + o;
        assert_eq!(arrays.parameters[0][at(3, 16, 7)], w[(3 * 17 + 16) * 16 + 7]);
        let fc = torch["fc.weight"].to_vec::<f32>().unwrap();
        assert_eq!(arrays.parameters[0][layout.weights[0].start + (4 * 4 + 2) * 20 + 19], fc[(19 * 4 + 2) * 5 + 4]);
        let bias = torch["fc.bias"].to_vec::<f32>().unwrap();
        assert_eq!(arrays.parameters[0][layout.bias.start + 3 * 20 + 17], bias[17 * 4 + 3]);
        let running = torch["net.7.running_var"].to_vec::<f32>().unwrap();
        assert_eq!(arrays.statistics[layout.running[2][1].clone()], running);
    }
}
