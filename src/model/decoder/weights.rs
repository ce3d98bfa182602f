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
    /// The same with a single tap. The 16 taps of the last layer are its output channels.
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
    match layer.order {
        Order::Connected => get_columns(layer, blocks, values),
        Order::Kernels => get_kernels::<16>(layer, blocks, values),
        Order::SingleTap => get_kernels::<1>(layer, blocks, values),
    }
}

/// Sets a panel of input channels of the fully connected layer.
fn set_columns(layer: Layer, panel: usize, values: &[f32], blocks: &mut [Block], scale: impl Fn(usize) -> f32) {
    for (n, of_output) in values.chunks_exact(layer.ci).enumerate() {
        let (output, tap) = (n / layer.taps, n % layer.taps);
        let rows = &mut blocks[tap * layer.outputs + output / LANES].0;
        let inputs = of_output[panel * LANES..].iter().zip(rows);
        inputs.for_each(|(value, row)| row[output % LANES] = value * scale(output));
    }
}

/// Copies the weights of the fully connected layer to `values`.
fn get_columns(layer: Layer, blocks: &[Block], values: &mut [f32]) {
    values.par_chunks_exact_mut(layer.ci).enumerate().for_each(|(n, of_output)| {
        let (output, tap) = (n / layer.taps, n % layer.taps);
        let block = |panel| &blocks[panel * layer.blocks() + tap * layer.outputs + output / LANES];
        for (panel, inputs) in of_output.chunks_mut(LANES).enumerate() {
            inputs.iter_mut().zip(&block(panel).0).for_each(|(value, row)| *value = row[output % LANES]);
        }
    });
}

/// Sets a panel of input channels. `values` begins with its weights.
fn set_kernels<const TAPS: usize>(layer: Layer, values: &[f32], blocks: &mut [Block], scale: impl Fn(usize) -> f32) {
    // All taps of 16 input and 16 output channels fit into the cache of a core.
    for output_panel in 0..layer.outputs {
        let first = output_panel * LANES;
        for (row, of_input) in values.chunks_exact(layer.co * TAPS).take(LANES).enumerate() {
            let kernels = of_input.as_chunks::<TAPS>().0[first..].iter().take(LANES).enumerate();
            // Unused columns stay 0.
            let mut lines: [Row; TAPS] = [[0.0; LANES]; TAPS];
            for (column, kernel) in kernels {
                let factor = scale(first + column);
                kernel.iter().zip(&mut lines).for_each(|(value, line)| line[column] = value * factor);
            }
            let blocks = blocks[output_panel..].iter_mut().step_by(layer.outputs);
            blocks.zip(lines).for_each(|(block, line)| block.0[row] = line);
        }
    }
}

/// Copies the weights to `values`.
fn get_kernels<const TAPS: usize>(layer: Layer, blocks: &[Block], values: &mut [f32]) {
    let panels = blocks.par_chunks(layer.blocks()).zip_eq(values.par_chunks_mut(layer.weights()));
    panels.for_each(|(blocks, values)| {
        for output_panel in 0..layer.outputs {
            for (row, of_input) in values.chunks_exact_mut(layer.co * TAPS).enumerate() {
                let line = |tap: usize| &blocks[tap * layer.outputs + output_panel].0[row];
                let lines: [&Row; TAPS] = std::array::from_fn(line);
                let kernels = of_input.as_chunks_mut::<TAPS>().0[output_panel * LANES..].iter_mut().take(LANES);
                kernels.enumerate().for_each(|(column, kernel)| *kernel = lines.map(|line| line[column]));
            }
        }
    });
}
