//! Transposed convolution of any kernel, stride and padding, without im2col and without a multiply outside the image.
//!
//! It is a list of matrix products over channels and batch ([`crate::ops::plan`]): of taps and input pixels as they are or, where
//! that takes fewer, of linear forms of both ([`crate::ops::winograd`]), which stand in buffers of the caller's and beside the
//! weights. What moves the weights makes their forms anew.
//!
//! A fully connected layer to `c × 2 × 2` is the transposed convolution of a 1 × 1 image with kernel 2.

use rayon::prelude::*;

use super::adam::Rates;
use super::block::{Block, panels, zeroed};
use super::kernel::{Run, accumulate, prefetch, vectorised};
use super::plan::{Axis, Geometry, Plan};
use super::winograd::Minimal;

/// A transposed convolution's weights with the way that they are multiplied.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// The sizes.
    pub geometry: Geometry,
    /// Panels of input channels.
    pub ci: usize,
    /// Panels of output channels.
    pub co: usize,
    /// `[ci panel][tap][co panel]` blocks of `[16 ci][16 co]`.
    weights: Vec<Block>,
    method: Method,
}

/// How the products are made.
#[derive(Clone, Debug)]
enum Method {
    /// Of taps and pixels as they are.
    Direct {
        plan: Plan,
        /// The order in which a strip's blocks are updated: one panel of output channels after the other, and of each the taps
        /// together that meet in the same output pixels. So a panel's gradient is read from memory once and not once for each tap.
        order: Vec<usize>,
    },
    /// Of linear forms of both; `forms` are those of the weights, `[ci panel][form][co panel]`.
    Minimal { algorithm: Box<Minimal>, forms: Vec<Block> },
}

/// Blocks of one operand that a run goes through for one chunk before the next run's turn: with a few chunks, these and the
/// weights for them stay in a core's own cache (1 MiB on Zen 4).
const WORKING_SET: usize = 128;

/// How many blocks ahead of their update weights and moments are fetched: they come from main memory, which takes as long as
/// a block's gradient of a small batch.
const AHEAD: usize = 2;

/// Tasks of a forward pass, at least, where there are pixels enough.
const TASKS: usize = 32;

/// Panels of input channels that one task of minimal filtering goes through together, at most: a sum's gradient takes part in few
/// products of each, and comes from afar.
const GROUP: usize = 4;

/// How many of so many panels make a group, so that each thread has two groups if possible. The bytes do not depend on it.
fn group_of(panels: usize) -> usize {
    (panels / (2 * rayon::current_num_threads())).clamp(1, GROUP)
}

/// How many panels of the summed channel a run covers. It sets the order of sums, so it depends on the layer only: what comes
/// of a sample is the same in any batch.
fn run_length(panels: usize, pixels: usize) -> usize {
    (WORKING_SET / pixels).clamp(4, 16).min(panels)
}

/// What a convolution needs besides input and output, for batches of one number of chunks.
#[derive(Debug)]
pub struct Buffers {
    /// Of minimal filtering: the signals of the last forward pass's input, or their gradient.
    signals: Vec<Block>,
    /// Of minimal filtering: the sums, or their gradient.
    sums: Vec<Block>,
    /// What an update reads as vectors: the gradient of the products' sums, each block transposed.
    rows: Vec<Block>,
    /// Of minimal filtering, for an update: the signals' gradient.
    signal_gradients: Vec<Block>,
}

impl Buffers {
    /// For forward passes and input gradients, and for updates if `UPDATE`.
    pub fn new<const UPDATE: bool>(convolution: &Convolution, chunks: usize) -> Self {
        let Convolution { ci, co, .. } = convolution;
        let plan = convolution.plan();
        let (signals, sums) = match convolution.method {
            Method::Direct { .. } => (0, 0),
            Method::Minimal { .. } => (ci * plan.inputs() * chunks, co * plan.outputs() * chunks),
        };
        let rows = co * plan.outputs() * chunks;
        let if_update = |n: usize| zeroed(if UPDATE { n } else { 0 });
        Self {
            signals: zeroed(signals),
            sums: zeroed(sums),
            rows: if_update(rows),
            signal_gradients: if_update(signals),
        }
    }
}

impl Convolution {
    /// Zero weights for these numbers of channels.
    pub fn new(geometry: Geometry, input_channels: usize, output_channels: usize) -> Self {
        let (ci, co) = (panels(input_channels), panels(output_channels));
        let method = match Minimal::new(geometry) {
            Some(algorithm) => {
                Method::Minimal { forms: zeroed(ci * algorithm.plan.taps() * co), algorithm: Box::new(algorithm) }
            }
            None => {
                let Geometry { kernel, stride, .. } = geometry;
                let mut taps: Vec<usize> = (0..geometry.taps()).collect();
                taps.sort_by_key(|tap| (tap / kernel % stride, tap % kernel % stride));
                let order = (0..co).flat_map(|panel| taps.iter().map(move |tap| tap * co + panel)).collect();
                Method::Direct { plan: Plan::new(&Axis::direct(geometry)), order }
            }
        };
        Self { geometry, ci, co, weights: zeroed(ci * geometry.taps() * co), method }
    }

    /// `[ci panel][tap][co panel]` blocks of `[16 ci][16 co]`.
    pub fn weights(&self) -> &[Block] {
        &self.weights
    }

    /// Changes the weights. It is done with all of them at once since their forms are made anew.
    pub fn change_weights<R>(&mut self, change: impl FnOnce(&mut [Block]) -> R) -> R {
        let result = change(&mut self.weights);
        if let Method::Minimal { algorithm, forms } = &mut self.method {
            algorithm.forms.panels(&self.weights, forms, self.co);
        }
        result
    }

    /// Products of matrices that a forward pass makes of a panel of input channels and one of output channels.
    pub fn products(&self) -> usize {
        self.plan().products()
    }

    fn plan(&self) -> &Plan {
        match &self.method {
            Method::Direct { plan, .. } => plan,
            Method::Minimal { algorithm, .. } => &algorithm.plan,
        }
    }

    /// `output[o] = Σ x[i] · W[tap]`, overwriting. `x` and `output` are activations of `chunks` chunks.
    pub fn forward(&self, x: &[Block], output: &mut [Block], buffers: &mut Buffers, chunks: usize) {
        match &self.method {
            Method::Direct { plan, .. } => forward(plan, [self.ci, self.co], &self.weights, x, output, chunks),
            Method::Minimal { algorithm, forms } => {
                algorithm.signals.panels(x, &mut buffers.signals, chunks);
                forward(&algorithm.plan, [self.ci, self.co], forms, &buffers.signals, &mut buffers.sums, chunks);
                algorithm.outputs.panels(&buffers.sums, output, chunks);
            }
        }
    }

    /// `dx[i] = Σ dy[o] · W[tap]ᵀ`, overwriting. An update needs another forward pass first: this takes its buffers.
    pub fn input_gradient(&self, dy: &[Block], dx: &mut [Block], buffers: &mut Buffers, chunks: usize) {
        let strip = self.plan().taps() * self.co;
        match &self.method {
            Method::Direct { plan, .. } => dx
                .par_chunks_mut(plan.inputs() * chunks)
                .zip_eq(self.weights.par_chunks(strip))
                .for_each(|(dx, weights)| input_gradient_panels(plan, self.co, weights, dy, dx, chunks)),
            Method::Minimal { algorithm, forms } => {
                let Buffers { signals, sums, .. } = buffers;
                let group = group_of(self.ci);
                algorithm.sum_gradients.panels(dy, sums, chunks);
                dx.par_chunks_mut(group * self.geometry.inputs() * chunks)
                    .zip_eq(signals.par_chunks_mut(group * algorithm.plan.inputs() * chunks))
                    .zip_eq(forms.par_chunks(group * strip))
                    .for_each(|((dx, signals), forms)| {
                        input_gradient_panels(&algorithm.plan, self.co, forms, sums, signals, chunks);
                        algorithm.input_gradients.each_panel(signals, dx, chunks);
                    });
            }
        }
    }

    /// [`Convolution::input_gradient`] with the old weights, then one step of Adam on the weights. `x` and `buffers` are those
    /// of the last forward pass.
    ///
    /// A panel of input channels is one task (with minimal filtering, a few are): its strip of weights is read for the input gradient, and each block of it is
    /// updated as soon as its gradient is there, while it is in cache; gradients of weights never reach memory.
    pub fn backward_and_update(
        &mut self,
        moments: &mut BlockMoments,
        given: Given<'_>,
        dx: &mut [Block],
        buffers: &mut Buffers,
        chunks: usize,
        rates: Rates,
    ) {
        let Self { geometry, co, weights, method, .. } = self;
        let (strip, pixels) = (geometry.taps() * *co, geometry.inputs() * chunks);
        let group = if matches!(method, Method::Direct { .. }) { 1 } else { group_of(self.ci) };
        let weights = weights.par_chunks_mut(group * strip);
        let moments = moments.m.par_chunks_mut(group * strip).zip_eq(moments.v.par_chunks_mut(group * strip));
        let parameters = weights.zip_eq(moments).map(|(w, (m, v))| Parameters { w, m, v });
        let Buffers { signals, sums, rows, signal_gradients } = buffers;
        match method {
            Method::Direct { plan, order } => {
                transpose_all(given.dy, rows);
                dx.par_chunks_mut(pixels).zip_eq(given.x.par_chunks(pixels)).zip_eq(parameters).for_each(
                    |((dx, x), mut parameters)| {
                        input_gradient_panels(plan, *co, parameters.w, given.dy, dx, chunks);
                        for (n, at) in order.iter().copied().enumerate() {
                            if let Some(ahead) = order.get(n + AHEAD) {
                                parameters.prefetch(*ahead);
                            }
                            let gradient = weight_gradient_block(plan, x, rows, at / *co, at % *co, chunks);
                            parameters.update(at, &gradient, rates);
                        }
                    },
                );
            }
            Method::Minimal { algorithm, forms } => {
                algorithm.sum_gradients.panels_and_rows(given.dy, sums, rows, chunks);
                let of_group = group * algorithm.plan.inputs() * chunks;
                dx.par_chunks_mut(group * pixels)
                    .zip_eq(signals.par_chunks(of_group).zip_eq(signal_gradients.par_chunks_mut(of_group)))
                    .zip_eq(parameters.zip_eq(forms.par_chunks_mut(group * algorithm.plan.taps() * *co)))
                    .for_each(|((dx, (signals, dsignals)), (mut parameters, forms))| {
                        input_gradient_panels(&algorithm.plan, *co, forms, sums, dsignals, chunks);
                        algorithm.input_gradients.each_panel(dsignals, dx, chunks);
                        for panel in 0..*co {
                            update_minimal(
                                algorithm,
                                forms,
                                &mut parameters,
                                (panel, *co),
                                (signals, rows),
                                chunks,
                                rates,
                            );
                        }
                    });
            }
        }
    }
}

/// Weights and moments of a task's panels of input channels.
struct Parameters<'a> {
    w: &'a mut [Block],
    m: &'a mut [Block],
    v: &'a mut [Block],
}

impl Parameters<'_> {
    #[inline(always)]
    fn prefetch(&self, at: usize) {
        prefetch(self.w.get(at));
        prefetch(self.m.get(at));
        prefetch(self.v.get(at));
    }

    /// One step of a block.
    #[inline(always)]
    fn update(&mut self, at: usize, gradient: &Block, rates: Rates) {
        let (w, m, v) = (&mut self.w[at], &mut self.m[at], &mut self.v[at]);
        vectorised(
            #[inline(always)]
            || rates.rows(&mut w.0, &gradient.0, &mut m.0, &mut v.0),
        );
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
    /// The input of the forward pass. Minimal filtering has its signals in the buffers.
    pub x: &'a [Block],
    /// The gradient of its output.
    pub dy: &'a [Block],
}

/// The sums of products, overwriting `out`.
fn forward(plan: &Plan, [ci, co]: [usize; 2], weights: &[Block], x: &[Block], out: &mut [Block], chunks: usize) {
    let pixels = plan.outputs();
    // Few panels are cut, so that there is work for all to the end; else the weights are read only once.
    let parts = (1..=pixels).find(|n| pixels.is_multiple_of(*n) && n * co >= TASKS).unwrap_or(pixels);
    let part = pixels / parts;
    out.par_chunks_mut(part * chunks).enumerate().for_each(|(task, out)| {
        let (panel, first) = (task * part / pixels, task * part % pixels);
        forward_part(plan, [ci, co], weights, x, out, chunks, [panel, first]);
    });
}

fn forward_part(
    plan: &Plan,
    [ci, co]: [usize; 2],
    weights: &[Block],
    x: &[Block],
    out: &mut [Block],
    chunks: usize,
    [panel, first]: [usize; 2],
) {
    let (inputs, taps) = (plan.inputs(), plan.taps());
    let length = run_length(ci, inputs);
    for start in (0..ci).step_by(length) {
        let run =
            Run { blocks: length.min(ci - start), scalars: taps * co, vectors: inputs * chunks, fresh: start == 0 };
        for (at, acc) in out.iter_mut().enumerate() {
            let (pixel, chunk) = (first + at / chunks, at % chunks);
            let pairs = plan.by_output[pixel]
                .iter()
                .map(|(tap, input)| ((start * taps + tap) * co + panel, (start * inputs + input) * chunks + chunk));
            accumulate::<false>(acc, weights, x, pairs, run);
        }
    }
}

/// The input gradient of some panels of input channels, whose strips of weights these are: each block of `dy` is read once
/// for all of them.
fn input_gradient_panels(plan: &Plan, co: usize, weights: &[Block], dy: &[Block], dx: &mut [Block], chunks: usize) {
    let (inputs, outputs, strip) = (plan.inputs(), plan.outputs(), plan.taps() * co);
    let length = run_length(co, outputs);
    for start in (0..co).step_by(length) {
        let run = Run { blocks: length.min(co - start), scalars: 1, vectors: outputs * chunks, fresh: start == 0 };
        for (pixel, meets) in plan.by_input.iter().enumerate() {
            for (panel, weights) in weights.chunks(strip).enumerate() {
                let first = (panel * inputs + pixel) * chunks;
                for (chunk, acc) in dx[first..first + chunks].iter_mut().enumerate() {
                    let pairs = meets
                        .iter()
                        .map(|(tap, output)| (tap * co + start, (start * outputs + output) * chunks + chunk));
                    accumulate::<true>(acc, weights, dy, pairs, run);
                }
            }
        }
    }
}

/// Writes the transposed blocks.
fn transpose_all(from: &[Block], to: &mut [Block]) {
    /// Blocks of a task.
    const PIECE: usize = 16;
    from.par_chunks(PIECE).zip_eq(to.par_chunks_mut(PIECE)).for_each(|(from, to)| {
        vectorised(
            #[inline(always)]
            || from.iter().zip(to).for_each(|(from, to)| *to = from.transposed()),
        );
    });
}

/// The gradient of one block of weights: `x` is one panel's input, `rows` the whole output gradient.
#[inline(always)]
fn weight_gradient_block(plan: &Plan, x: &[Block], rows: &[Block], tap: usize, panel: usize, chunks: usize) -> Block {
    let mut gradient = Block::ZERO;
    let pairs =
        plan.by_tap[tap].iter().map(|(input, output)| (input * chunks, (panel * plan.outputs() + output) * chunks));
    accumulate::<true>(&mut gradient, x, rows, pairs, Run { blocks: chunks, scalars: 1, vectors: 1, fresh: true });
    gradient
}

/// An update of what leads from a task's panels of input channels to one panel of output channels: the forms' gradients take the place of the forms, which have served, until the
/// weights that they come to have moved.
fn update_minimal(
    algorithm: &Minimal,
    forms: &mut [Block],
    parameters: &mut Parameters<'_>,
    (panel, co): (usize, usize),
    (signals, rows): (&[Block], &[Block]),
    chunks: usize,
    rates: Rates,
) {
    let plan = &algorithm.plan;
    let (count, taps, of_panel) = (plan.taps(), algorithm.forms.inputs(), plan.inputs() * chunks);
    let panels = signals.len() / of_panel;
    for form in 0..count {
        for input in 0..panels {
            if (form * taps).is_multiple_of(count) {
                parameters.prefetch((input * taps + form * taps / count) * co + panel);
            }
            let signals = &signals[input * of_panel..][..of_panel];
            forms[(input * count + form) * co + panel] =
                weight_gradient_block(plan, signals, rows, form, panel, chunks);
        }
    }
    for input in 0..panels {
        let (forms, first) = (&mut forms[input * count * co..][..count * co], input * taps * co);
        vectorised(
            #[inline(always)]
            || {
                for tap in 0..taps {
                    let gradient = algorithm.tap_gradients.one(tap, |form| &forms[form * co + panel]);
                    parameters.update(first + tap * co + panel, &gradient, rates);
                }
                for form in 0..count {
                    forms[form * co + panel] = algorithm.forms.one(form, |tap| &parameters.w[first + tap * co + panel]);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::*;
    use crate::ops::block::{Batch, LANES, Row};
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

    /// Within rounding of the largest: where a long sum nearly cancels, its rounding stays.
    fn assert_close(found: &[f32], expected: &Tensor) {
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() < 1e-5 * largest, "{f} {e} of at most {largest}");
        }
    }

    /// Weights and Adam's first moments share a layout; `[ci][co][tap]` out of it.
    fn unpack_weights(c: &Convolution, blocks: &[Block], ci: usize, co: usize) -> Vec<f32> {
        let taps = c.geometry.taps();
        let at =
            |i: usize, o: usize, t: usize| blocks[(i / LANES * taps + t) * c.co + o / LANES].0[i % LANES][o % LANES];
        (0..ci * co * taps).map(|n| at(n / taps / co, n / taps % co, n % taps)).collect()
    }

    fn against_candle(geometry: Geometry, ci: usize, co: usize, samples: usize) {
        let (batch, side) = (Batch::new(samples), geometry.input);
        let mut c = Convolution::new(geometry, ci, co);
        let (inputs, outputs, taps) = (geometry.inputs(), geometry.outputs(), geometry.taps());
        let (x, w) = (random(samples * ci * inputs, "x"), random(ci * co * taps, "w"));
        let dy = random(samples * co * outputs, "dy");
        let var = |v: &[f32], shape: (usize, usize, usize, usize)| {
            Var::from_tensor(&Tensor::from_slice(v, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let (cx, cw) = (var(&x, (samples, ci, side, side)), var(&w, (ci, co, geometry.kernel, geometry.kernel)));
        let cy = cx.conv_transpose2d(&cw, geometry.padding, 0, geometry.stride, 1).unwrap();
        let cdy = Tensor::from_slice(&dy, cy.shape(), &Device::Cpu).unwrap();
        let gradients = (&cy * cdy).unwrap().sum_all().unwrap().backward().unwrap();

        let panels = c.co;
        c.change_weights(|weights| {
            for (n, value) in w.iter().enumerate() {
                let (i, o, t) = (n / taps / co, n / taps % co, n % taps);
                weights[(i / LANES * taps + t) * panels + o / LANES].0[i % LANES][o % LANES] = *value;
            }
        });
        let (x, dy) = (pack(&x, ci, inputs, batch), pack(&dy, co, outputs, batch));
        let mut y = zeroed(dy.len());
        let mut buffers = Buffers::new::<true>(&c, batch.chunks);
        c.forward(&x, &mut y, &mut buffers, batch.chunks);
        let mut found = vec![0.0; samples * co * outputs];
        each(co, outputs, batch, |at, (block, row, lane)| found[at] = y[block].0[row][lane]);
        assert_close(&found, &cy);

        let (mut dx, mut again) = (zeroed(x.len()), zeroed(x.len()));
        c.input_gradient(&dy, &mut again, &mut Buffers::new::<false>(&c, batch.chunks), batch.chunks);
        let mut moments = BlockMoments::of(&c);
        let before = c.weights.clone();
        let given = Given { x: &x, dy: &dy };
        c.backward_and_update(&mut moments, given, &mut dx, &mut buffers, batch.chunks, Rates::new(1, 1e-3));
        assert!(dx == again, "the fused pass makes the input gradient from the old weights");
        let mut found = vec![0.0; samples * ci * inputs];
        each(ci, inputs, batch, |at, (block, row, lane)| found[at] = dx[block].0[row][lane]);
        assert_close(&found, gradients.get(&cx).unwrap());

        // The first moment of a first step is a tenth of the gradient.
        let first = unpack_weights(&c, &moments.m, ci, co).iter().map(|m| m * 10.0).collect::<Vec<_>>();
        assert_close(&first, gradients.get(&cw).unwrap());
        let (mut y, mut fresh) = (zeroed(dy.len()), zeroed(dy.len()));
        let mut again = c.clone();
        again.change_weights(|_| ());
        c.forward(&x, &mut y, &mut buffers, batch.chunks);
        again.forward(&x, &mut fresh, &mut Buffers::new::<false>(&again, batch.chunks), batch.chunks);
        assert!(y == fresh, "an update leaves the forms that the new weights have");
        let moved = c.weights.iter().zip(&before).filter(|(a, b)| a != b).count();
        assert_eq!(moved, before.len(), "every block of weights moved");
    }

    #[test]
    fn it_is_candles_transposed_convolution_and_its_autograd() {
        let direct = [(2, 4, 2, 1), (1, 2, 1, 0), (3, 3, 1, 1), (5, 3, 2, 0), (4, 5, 3, 2), (3, 1, 1, 0)];
        // By minimal filtering: one window, one and pixels that fill none, two of them; other strides; edges cut off or not.
        let minimal = [(4, 4, 2, 1), (5, 4, 2, 0), (6, 4, 2, 3), (8, 4, 2, 1), (4, 2, 1, 0), (5, 6, 3, 2)];
        for (input, kernel, stride, padding) in direct.into_iter().chain(minimal) {
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
    fn panels_that_one_task_takes_together_change_no_byte() {
        // 7 panels: groups of 3, 3 and 1 for one thread, of 1 for four.
        let (geometry, chunks) = (Geometry { input: 4, kernel: 4, stride: 2, padding: 1 }, 2);
        let step = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut c = Convolution::new(geometry, 7 * LANES, 20);
                let blocks = |n: usize, purpose: &str| -> Vec<Block> {
                    let numbers = random(n * LANES * LANES, purpose);
                    bytemuck::cast_slice(&numbers).iter().map(|rows: &[Row; LANES]| Block(*rows)).collect()
                };
                let w = blocks(c.weights.len(), "w");
                c.change_weights(|weights| weights.copy_from_slice(&w));
                let (x, dy) = (blocks(7 * 16 * chunks, "x"), blocks(2 * 64 * chunks, "dy"));
                let (mut y, mut dx) = (dy.clone(), x.clone());
                let (mut buffers, mut moments) = (Buffers::new::<true>(&c, chunks), BlockMoments::of(&c));
                c.input_gradient(&dy, &mut dx, &mut buffers, chunks);
                let alone = dx.clone();
                c.forward(&x, &mut y, &mut buffers, chunks);
                let given = Given { x: &x, dy: &dy };
                c.backward_and_update(&mut moments, given, &mut dx, &mut buffers, chunks, Rates::new(1, 1e-3));
                assert!(alone == dx);
                c.forward(&x, &mut y, &mut buffers, chunks);
                (group_of(c.ci), (y, dx, c.weights, moments.m, moments.v))
            })
        };
        let (one, four) = (step(1), step(4));
        assert_eq!((one.0, four.0), (3, 1));
        assert!(one.1 == four.1);
    }
}
