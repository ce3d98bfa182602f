//! Transposed convolution of any kernel, stride and padding, without im2col and without a multiply outside the image.
//!
//! Input pixel `i` adds `x[i] · W[k]` to output pixel `o = i · stride − padding + k`, on each axis, for every tap `k` for which
//! `o` is inside. So every (input pixel, tap) is a plain matrix product over channels and batch; which of them meet in an
//! output pixel, in an input pixel's gradient and in a tap's gradient is listed once, in a [`Plan`]. For kernel 4, stride 2,
//! padding 1 on 2 × 2 pixels that leaves 36 of 64 products.
//!
//! A fully connected layer to `c × 2 × 2` is the transposed convolution of a 1 × 1 image with kernel 2.

use rayon::prelude::*;

use super::adam::Rates;
use super::block::{Block, panels, zeroed};
use super::kernel::{Run, accumulate, prefetch, vectorised};

/// The sizes of a transposed convolution; the same on both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels on a side of the input.
    pub input: usize,
    /// Taps on a side of the kernel.
    pub kernel: usize,
    /// Output pixels from one input pixel to the next.
    pub stride: usize,
    /// Output pixels cut off at each edge.
    pub padding: usize,
}

impl Geometry {
    /// Pixels on a side of the output.
    pub fn output(&self) -> usize {
        (self.input - 1) * self.stride + self.kernel - 2 * self.padding
    }

    /// Where an input pixel's tap lands, on one axis.
    fn lands(&self, input: usize, tap: usize) -> Option<usize> {
        (input * self.stride + tap).checked_sub(self.padding).filter(|o| *o < self.output())
    }
}

/// All (tap, input pixel, output pixel) that meet, by each of the three.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The sizes it was made for.
    pub geometry: Geometry,
    /// For each output pixel, the (tap, input pixel) that reach it.
    pub by_output: Vec<Vec<(usize, usize)>>,
    /// For each input pixel, the (tap, output pixel) that it reaches.
    pub by_input: Vec<Vec<(usize, usize)>>,
    /// For each tap, the (input pixel, output pixel) that it joins.
    pub by_tap: Vec<Vec<(usize, usize)>>,
}

impl Plan {
    /// Lists what meets, in the order of taps, then input pixels.
    pub fn new(geometry: Geometry) -> Self {
        let (inputs, outputs, side) = (geometry.input, geometry.output(), geometry.kernel);
        let mut plan = Self {
            geometry,
            by_output: vec![Vec::new(); outputs * outputs],
            by_input: vec![Vec::new(); inputs * inputs],
            by_tap: vec![Vec::new(); side * side],
        };
        for tap in 0..side * side {
            for input in 0..inputs * inputs {
                let row = geometry.lands(input / inputs, tap / side);
                let column = geometry.lands(input % inputs, tap % side);
                if let (Some(row), Some(column)) = (row, column) {
                    let output = row * outputs + column;
                    plan.by_output[output].push((tap, input));
                    plan.by_input[input].push((tap, output));
                    plan.by_tap[tap].push((input, output));
                }
            }
        }
        plan
    }

    /// Taps, those together whose products go to the same output pixels.
    fn by_residue(&self) -> Vec<usize> {
        let Geometry { kernel, stride, .. } = self.geometry;
        let mut taps: Vec<usize> = (0..self.taps()).collect();
        taps.sort_by_key(|tap| (tap / kernel % stride, tap % kernel % stride));
        taps
    }

    /// Pixels of the input.
    pub fn inputs(&self) -> usize {
        self.by_input.len()
    }

    /// Pixels of the output.
    pub fn outputs(&self) -> usize {
        self.by_output.len()
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.by_tap.len()
    }
}

/// A transposed convolution's weights with its plan.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// What meets where.
    pub plan: Plan,
    /// Panels of input channels.
    pub ci: usize,
    /// Panels of output channels.
    pub co: usize,
    /// `[ci panel][tap][co panel]` blocks of `[16 ci][16 co]`.
    pub weights: Vec<Block>,
    /// The order in which a strip's blocks are updated: one panel of output channels after the other, and of each the taps together
    /// that meet in the same output pixels. So a panel's gradient is read from memory once and not once for each tap.
    order: Vec<usize>,
}

/// Blocks of one operand that a run goes through for one chunk before the next run's turn: with a few chunks, these and the
/// weights for them stay in a core's own cache (1 MiB on Zen 4).
const WORKING_SET: usize = 128;

/// How many blocks ahead of their update weights and moments are fetched: they come from main memory, which takes as long as
/// a block's gradient of a small batch.
const AHEAD: usize = 2;

/// Tasks of a forward pass, at least, where there are rows of pixels enough.
const TASKS: usize = 32;

/// How many panels of the summed channel a run covers. It sets the order of sums, so it depends on the layer only: what comes
/// of a sample is the same in any batch.
fn run_length(panels: usize, pixels: usize) -> usize {
    (WORKING_SET / pixels).clamp(4, 16).min(panels)
}

impl Convolution {
    /// Zero weights for these numbers of channels.
    pub fn new(geometry: Geometry, input_channels: usize, output_channels: usize) -> Self {
        let plan = Plan::new(geometry);
        let (ci, co) = (panels(input_channels), panels(output_channels));
        let weights = zeroed(ci * plan.taps() * co);
        let taps = plan.by_residue();
        let order = (0..co).flat_map(|panel| taps.iter().map(move |tap| tap * co + panel)).collect();
        Self { plan, ci, co, weights, order }
    }

    /// `output[o] = Σ x[i] · W[tap]`, overwriting. `x` and `output` are activations of `chunks` chunks.
    pub fn forward(&self, x: &[Block], output: &mut [Block], chunks: usize) {
        let pixels = self.plan.outputs();
        // Few panels are cut into rows of pixels, so that there is work for all to the end; else the weights are read only once.
        let side = self.plan.geometry.output();
        let parts = (1..=side).find(|n| side.is_multiple_of(*n) && n * self.co >= TASKS).unwrap_or(side);
        let part = pixels / parts;
        output.par_chunks_mut(part * chunks).enumerate().for_each(|(task, out)| {
            let (panel, first) = (task * part / pixels, task * part % pixels);
            self.forward_part(x, out, chunks, panel, first);
        });
    }

    fn forward_part(&self, x: &[Block], out: &mut [Block], chunks: usize, panel: usize, first: usize) {
        let (inputs, taps) = (self.plan.inputs(), self.plan.taps());
        let length = run_length(self.ci, inputs);
        out.fill(Block::ZERO);
        for start in (0..self.ci).step_by(length) {
            let run = Run { blocks: length.min(self.ci - start), scalars: taps * self.co, vectors: inputs * chunks };
            for (at, acc) in out.iter_mut().enumerate() {
                let (pixel, chunk) = (first + at / chunks, at % chunks);
                let pairs = self.plan.by_output[pixel].iter().map(|(tap, input)| {
                    ((start * taps + tap) * self.co + panel, (start * inputs + input) * chunks + chunk)
                });
                accumulate::<false>(acc, &self.weights, x, pairs, run);
            }
        }
    }

    /// `dx[i] = Σ dy[o] · W[tap]ᵀ`, overwriting.
    pub fn input_gradient(&self, dy: &[Block], dx: &mut [Block], chunks: usize) {
        let strip = self.plan.taps() * self.co;
        dx.par_chunks_mut(self.plan.inputs() * chunks)
            .zip_eq(self.weights.par_chunks(strip))
            .for_each(|(dx, weights)| input_gradient_panel(&self.plan, self.co, weights, dy, dx, chunks));
    }

    /// [`Convolution::input_gradient`] with the old weights, then one step of Adam on the weights.
    ///
    /// A panel of input channels is one task: its strip of weights is read for the input gradient, and each block of it is
    /// updated as soon as its gradient is there, while it is in cache; gradients of weights never reach memory.
    pub fn backward_and_update(
        &mut self,
        moments: &mut BlockMoments,
        given: Given<'_>,
        dx: &mut [Block],
        chunks: usize,
        rates: Rates,
    ) {
        let strip = self.plan.taps() * self.co;
        let pixels = self.plan.inputs() * chunks;
        let (plan, co, order) = (&self.plan, self.co, &self.order);
        dx.par_chunks_mut(pixels)
            .zip_eq(given.x.par_chunks(pixels))
            .zip_eq(self.weights.par_chunks_mut(strip))
            .zip_eq(moments.m.par_chunks_mut(strip))
            .zip_eq(moments.v.par_chunks_mut(strip))
            .for_each(|((((dx, x), weights), m), v)| {
                input_gradient_panel(plan, co, weights, given.dy, dx, chunks);
                for (n, at) in order.iter().copied().enumerate() {
                    if let Some(ahead) = order.get(n + AHEAD) {
                        prefetch(weights.get(*ahead));
                        prefetch(m.get(*ahead));
                        prefetch(v.get(*ahead));
                    }
                    let (w, m, v) = (&mut weights[at], &mut m[at], &mut v[at]);
                    let gradient = weight_gradient_block(plan, x, given.rows, at / co, at % co, chunks);
                    vectorised(
                        #[inline(always)]
                        || rates.rows(&mut w.0, &gradient.0, &mut m.0, &mut v.0),
                    );
                }
            });
    }
}

/// Adam's moments of a convolution's weights, in the weights' layout.
#[derive(Clone, Debug)]
pub struct BlockMoments {
    /// First moments.
    pub m: Vec<Block>,
    /// Second moments.
    pub v: Vec<Block>,
}

impl BlockMoments {
    /// A fresh start for these weights.
    pub fn of(convolution: &Convolution) -> Self {
        Self { m: zeroed(convolution.weights.len()), v: zeroed(convolution.weights.len()) }
    }
}

/// What the backward pass of a convolution is given.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The input of the forward pass.
    pub x: &'a [Block],
    /// The gradient of its output.
    pub dy: &'a [Block],
    /// The same with each block transposed.
    pub rows: &'a [Block],
}

fn input_gradient_panel(plan: &Plan, co: usize, weights: &[Block], dy: &[Block], dx: &mut [Block], chunks: usize) {
    let outputs = plan.outputs();
    let length = run_length(co, outputs);
    dx.fill(Block::ZERO);
    for start in (0..co).step_by(length) {
        let run = Run { blocks: length.min(co - start), scalars: 1, vectors: outputs * chunks };
        for (at, acc) in dx.iter_mut().enumerate() {
            let (pixel, chunk) = (at / chunks, at % chunks);
            let pairs = plan.by_input[pixel]
                .iter()
                .map(|(tap, output)| (tap * co + start, (start * outputs + output) * chunks + chunk));
            accumulate::<true>(acc, weights, dy, pairs, run);
        }
    }
}

/// The gradient of one block of weights: `x` is one panel's input, `rows` the whole output gradient.
#[inline(always)]
fn weight_gradient_block(plan: &Plan, x: &[Block], rows: &[Block], tap: usize, panel: usize, chunks: usize) -> Block {
    let mut gradient = Block::ZERO;
    let pairs =
        plan.by_tap[tap].iter().map(|(input, output)| (input * chunks, (panel * plan.outputs() + output) * chunks));
    accumulate::<true>(&mut gradient, x, rows, pairs, Run { blocks: chunks, scalars: 1, vectors: 1 });
    gradient
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::*;
    use crate::ops::block::{Batch, LANES};
    use crate::rng::Streams;

    fn random(n: usize, purpose: &str) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Streams::new(5).stream(purpose, 0, 0).normals(&mut out);
        out
    }

    /// From candle's `[batch][channel][pixel]` into activations, or out of them.
    fn each(channels: usize, pixels: usize, batch: Batch, mut f: impl FnMut(usize, (usize, usize, usize))) {
        for b in 0..batch.samples {
            for c in 0..channels {
                for p in 0..pixels {
                    let block = (c / LANES * pixels + p) * batch.chunks + b / LANES;
                    f((b * channels + c) * pixels + p, (block, c % LANES, b % LANES));
                }
            }
        }
    }

    fn pack(from: &[f32], channels: usize, pixels: usize, batch: Batch) -> Vec<Block> {
        let mut to = zeroed(panels(channels) * pixels * batch.chunks);
        each(channels, pixels, batch, |at, (block, row, lane)| to[block].0[row][lane] = from[at]);
        to
    }

    fn assert_close(found: &[f32], expected: &Tensor) {
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() < 1e-4 * (1.0 + e.abs()), "{f} {e}");
        }
    }

    /// Weights and Adam's first moments share a layout; `[ci][co][tap]` out of it.
    fn unpack_weights(c: &Convolution, blocks: &[Block], ci: usize, co: usize) -> Vec<f32> {
        let taps = c.plan.taps();
        let at =
            |i: usize, o: usize, t: usize| blocks[(i / LANES * taps + t) * c.co + o / LANES].0[i % LANES][o % LANES];
        (0..ci * co * taps).map(|n| at(n / taps / co, n / taps % co, n % taps)).collect()
    }

    fn against_candle(geometry: Geometry, ci: usize, co: usize, samples: usize) {
        let (batch, side) = (Batch::new(samples), geometry.input);
        let mut c = Convolution::new(geometry, ci, co);
        let (inputs, outputs, taps) = (c.plan.inputs(), c.plan.outputs(), c.plan.taps());
        let (x, w) = (random(samples * ci * inputs, "x"), random(ci * co * taps, "w"));
        let dy = random(samples * co * outputs, "dy");
        let var = |v: &[f32], shape: (usize, usize, usize, usize)| {
            Var::from_tensor(&Tensor::from_slice(v, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let (cx, cw) = (var(&x, (samples, ci, side, side)), var(&w, (ci, co, geometry.kernel, geometry.kernel)));
        let cy = cx.conv_transpose2d(&cw, geometry.padding, 0, geometry.stride, 1).unwrap();
        let cdy = Tensor::from_slice(&dy, cy.shape(), &Device::Cpu).unwrap();
        let gradients = (&cy * cdy).unwrap().sum_all().unwrap().backward().unwrap();

        for (n, value) in w.iter().enumerate() {
            let (i, o, t) = (n / taps / co, n / taps % co, n % taps);
            c.weights[(i / LANES * taps + t) * c.co + o / LANES].0[i % LANES][o % LANES] = *value;
        }
        let (x, dy) = (pack(&x, ci, inputs, batch), pack(&dy, co, outputs, batch));
        let mut y = zeroed(dy.len());
        c.forward(&x, &mut y, batch.chunks);
        let mut found = vec![0.0; samples * co * outputs];
        each(co, outputs, batch, |at, (block, row, lane)| found[at] = y[block].0[row][lane]);
        assert_close(&found, &cy);

        let (mut dx, mut again) = (zeroed(x.len()), zeroed(x.len()));
        c.input_gradient(&dy, &mut again, batch.chunks);
        let rows: Vec<Block> = dy.iter().map(Block::transposed).collect();
        let mut moments = BlockMoments::of(&c);
        let before = c.weights.clone();
        let given = Given { x: &x, dy: &dy, rows: &rows };
        c.backward_and_update(&mut moments, given, &mut dx, batch.chunks, Rates::new(1, 1e-3));
        assert!(dx == again, "the fused pass makes the input gradient from the old weights");
        let mut found = vec![0.0; samples * ci * inputs];
        each(ci, inputs, batch, |at, (block, row, lane)| found[at] = dx[block].0[row][lane]);
        assert_close(&found, gradients.get(&cx).unwrap());

        // The first moment of a first step is a tenth of the gradient.
        let first = unpack_weights(&c, &moments.m, ci, co).iter().map(|m| m * 10.0).collect::<Vec<_>>();
        assert_close(&first, gradients.get(&cw).unwrap());
        let moved = c.weights.iter().zip(&before).filter(|(a, b)| a != b).count();
        assert_eq!(moved, before.len(), "every block of weights moved");
    }

    #[test]
    fn it_is_candles_transposed_convolution_and_its_autograd() {
        let sizes = [(2, 4, 2, 1), (1, 2, 1, 0), (4, 4, 2, 1), (3, 3, 1, 1), (5, 3, 2, 0), (4, 5, 3, 2), (3, 1, 1, 0)];
        for (input, kernel, stride, padding) in sizes {
            let geometry = Geometry { input, kernel, stride, padding };
            against_candle(geometry, 5, 3, 2);
            against_candle(geometry, 33, 18, 17);
        }
    }

    #[test]
    fn long_sums_are_cut_into_runs_without_loss() {
        // 40 panels, more than a run's 16; and enough pixels and chunks that runs are at their shortest.
        against_candle(Geometry { input: 2, kernel: 4, stride: 2, padding: 1 }, 640, 20, 3);
        against_candle(Geometry { input: 8, kernel: 4, stride: 2, padding: 1 }, 90, 100, 33);
    }

    #[test]
    fn no_product_falls_outside_the_image() {
        let plan = Plan::new(Geometry { input: 2, kernel: 4, stride: 2, padding: 1 });
        let products: usize = plan.by_tap.iter().map(Vec::len).sum();
        assert_eq!((products, plan.outputs()), (36, 16));
    }
}
