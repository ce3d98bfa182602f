//! The weights of a layer in PyTorch's order, and in blocks.
//!
//! The weight of a tap from input channel i to output channel o is in the panel i / 16, there in the block
//! `tap · outputs + o / 16`, and there in row i mod 16 and column o mod 16. `outputs` is the number of panels of output
//! channels. In PyTorch's order it has the index `(i · co + o) · taps + tap`. In the fully connected layer this is
//! `(o · taps + tap) · ci + i`.

use rayon::prelude::*;

use crate::ops::block::{Block, LANES, Row};
use crate::ops::transposed::Convolution;

use super::DecoderShape;
use super::layers;

/// The channels and the taps of a layer.
#[derive(Clone, Copy)]
struct Layer {
    ci: usize,
    co: usize,
    taps: usize,
    /// Panels of output channels.
    outputs: usize,
    order: Order,
}

/// PyTorch's order of the weights.
#[derive(Clone, Copy)]
enum Order {
    /// That of the fully connected layer.
    Connected,
    /// By input channel and output channel, then 16 taps.
    Kernels,
    /// The same with a single tap. The pixels of the last layer's output are its output channels.
    SingleTap,
}

impl Layer {
    fn of(convolution: &Convolution, shape: DecoderShape, layer: usize) -> Self {
        let (ci, co) = layers::channels(shape)[layer];
        let taps = convolution.geometry.taps();
        let order = match (layer, taps) {
            (0, _) => Order::Connected,
            (_, 1) => Order::SingleTap,
            _ => Order::Kernels,
        };
        Self { ci, co, taps, outputs: convolution.co, order }
    }

    /// Blocks of a panel of input channels.
    fn blocks(self) -> usize {
        self.taps * self.outputs
    }

    /// Weights of a panel of 16 input channels.
    fn weights(self) -> usize {
        LANES * self.co * self.taps
    }
}

/// Sets the weights to PyTorch's `values`, multiplied by the scale of each output channel. A single scale applies to
/// all channels.
pub(super) fn set_weights(
    convolution: &mut Convolution,
    shape: DecoderShape,
    layer: usize,
    values: &[f32],
    scales: &[f32],
) {
    let layer = Layer::of(convolution, shape, layer);
    let scale = |output: usize| if scales.len() == 1 { scales[0] } else { scales[output] };
    convolution.change_weights(|all| {
        all.par_chunks_mut(layer.blocks()).enumerate().for_each(|(panel, blocks)| match layer.order {
            Order::Connected => set_columns(layer, panel, values, blocks, scale),
            Order::Kernels => set_kernels::<16>(layer, &values[panel * layer.weights()..], blocks, scale),
            Order::SingleTap => set_kernels::<1>(layer, &values[panel * layer.weights()..], blocks, scale),
        });
    });
}

/// Copies the weights to `values`, in PyTorch's order.
pub(super) fn get_weights(convolution: &Convolution, shape: DecoderShape, layer: usize, values: &mut [f32]) {
    let layer = Layer::of(convolution, shape, layer);
    let blocks = convolution.weights();
    if let Order::Connected = layer.order {
        // The weights of a panel are not consecutive in PyTorch's order, so threads can't split `values`.
        for (panel, blocks) in blocks.chunks(layer.blocks()).enumerate() {
            get_columns(layer, panel, blocks, values);
        }
        return;
    }
    blocks.par_chunks(layer.blocks()).zip(values.par_chunks_mut(layer.weights())).for_each(|(blocks, values)| {
        match layer.order {
            Order::SingleTap => get_kernels::<1>(layer, blocks, values),
            _ => get_kernels::<16>(layer, blocks, values),
        }
    });
}

/// The output channels and taps of the fully connected layer.
fn columns(layer: Layer) -> impl Iterator<Item = (usize, usize)> {
    (0..layer.co).flat_map(move |output| (0..layer.taps).map(move |tap| (output, tap)))
}

/// Sets a panel of input channels of the fully connected layer.
fn set_columns(layer: Layer, panel: usize, values: &[f32], blocks: &mut [Block], scale: impl Fn(usize) -> f32) {
    for (output, tap) in columns(layer) {
        let rows = &mut blocks[tap * layer.outputs + output / LANES].0;
        let inputs = values[(output * layer.taps + tap) * layer.ci..][..layer.ci].iter().skip(panel * LANES);
        rows.iter_mut().zip(inputs).for_each(|(row, value)| row[output % LANES] = value * scale(output));
    }
}

/// Copies a panel of input channels of the fully connected layer to `values`.
fn get_columns(layer: Layer, panel: usize, blocks: &[Block], values: &mut [f32]) {
    for (output, tap) in columns(layer) {
        let rows = &blocks[tap * layer.outputs + output / LANES].0;
        let inputs = values[(output * layer.taps + tap) * layer.ci..][..layer.ci].iter_mut().skip(panel * LANES);
        inputs.zip(rows).for_each(|(value, row)| *value = row[output % LANES]);
    }
}

/// Sets a panel of input channels. `values` begins with its weights.
fn set_kernels<const TAPS: usize>(layer: Layer, values: &[f32], blocks: &mut [Block], scale: impl Fn(usize) -> f32) {
    // All taps of 16 input and 16 output channels fit into the cache of a core.
    for panel in 0..layer.outputs {
        let first = panel * LANES;
        for (row, of_input) in values.chunks_exact(layer.co * TAPS).take(LANES).enumerate() {
            let kernels = of_input.as_chunks::<TAPS>().0[first..].iter().take(LANES).enumerate();
            let mut lines: [Row; TAPS] = [[0.0; LANES]; TAPS];
            for (column, kernel) in kernels {
                let scale = scale(first + column);
                kernel.iter().zip(&mut lines).for_each(|(value, line)| line[column] = value * scale);
            }
            let blocks = blocks[panel..].iter_mut().step_by(layer.outputs);
            blocks.zip(lines).for_each(|(block, line)| block.0[row] = line);
        }
    }
}

/// Copies a panel of input channels to `values`, which has as many channels as the panel.
fn get_kernels<const TAPS: usize>(layer: Layer, blocks: &[Block], values: &mut [f32]) {
    for panel in 0..layer.outputs {
        for (row, of_input) in values.chunks_exact_mut(layer.co * TAPS).enumerate() {
            let lines: [&Row; TAPS] = std::array::from_fn(|tap| &blocks[tap * layer.outputs + panel].0[row]);
            let kernels = of_input.as_chunks_mut::<TAPS>().0[panel * LANES..].iter_mut().take(LANES).enumerate();
            kernels.for_each(|(column, kernel)| *kernel = lines.map(|line| line[column]));
        }
    }
}
