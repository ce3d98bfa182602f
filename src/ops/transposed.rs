//! Transposed convolution with any kernel, stride and padding, without im2col and without products outside the image.
//!
//! It is a list of matrix products over channels and batch ([`crate::ops::plan`]): of taps and input pixels or, if
//! there are fewer, of linear combinations of both ([`crate::ops::winograd`]). The combinations of pixels are in the
//! caller's buffers, those of taps beside the weights. Each change of the weights also computes the latter.
//!
//! A fully connected layer to `c × 2 × 2` is the transposed convolution of a 1 × 1 image with kernel 2.

use rayon::prelude::*;

use super::adam::Rates;
use super::block::{Block, panels, zeroed};
use super::kernel::{Run, accumulate, prefetch, vectorised};
use super::plan::{Axis, Geometry, Plan};
use super::winograd::Minimal;

/// The weights of a transposed convolution, and how to multiply with them.
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

/// The algorithm of the products.
#[derive(Clone, Debug)]
enum Method {
    /// Products of taps and pixels.
    Direct {
        plan: Plan,
        /// The order in which the blocks of a strip are updated: by panel of output channels, then by the output pixels
        /// that the taps reach. So the gradient of a panel is read from memory once instead of once for each tap.
        order: Vec<usize>,
    },
    /// Products of linear combinations of taps and of pixels. `forms` are those of the weights:
    /// `[ci panel][form][co panel]`.
    Minimal { algorithm: Box<Minimal>, forms: Vec<Block> },
}

/// The number of blocks of one operand that a run reads for one chunk. With a few chunks, these and their weights stay
/// in the cache of a core (1 MiB on Zen 4).
const WORKING_SET: usize = 128;

/// How many blocks ahead of their update weights and moments are prefetched. They come from main memory, which takes as
/// long as computing the gradient of a block for a small batch.
const AHEAD: usize = 2;

/// The minimum number of tasks of a forward pass, if there are enough pixels.
const TASKS: usize = 32;

/// The maximum number of panels of input channels that one task of minimal filtering processes together. The gradient
/// of a sum is far away in memory, and each panel uses it in few products.
const GROUP: usize = 4;

/// The number of panels in a group, chosen so that each thread has two groups if possible. The bytes do not depend on
/// it.
fn group_of(panels: usize) -> usize {
    (panels / (2 * rayon::current_num_threads())).clamp(1, GROUP)
}

/// The number of panels of the summed channel in a run. It determines the order of sums, so it depends only on the
/// layer: the results of a sample are the same in any batch.
fn run_length(panels: usize, pixels: usize) -> usize {
    (WORKING_SET / pixels).clamp(4, 16).min(panels)
}

/// The buffers of a convolution besides input and output, for batches with one number of chunks.
#[derive(Debug)]
pub struct Buffers {
    /// For minimal filtering: the signals of the last forward pass's input, or their gradient.
    signals: Vec<Block>,
    /// For minimal filtering: the sums, or their gradient.
    sums: Vec<Block>,
    /// For an update: the gradient of the sums of products, with each block transposed.
    rows: Vec<Block>,
    /// For an update with minimal filtering: the gradient of the signals.
    signal_gradients: Vec<Block>,
}

impl Buffers {
    /// Buffers for forward passes and input gradients; with `UPDATE` also for updates.
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

    /// Changes the weights with `change`, then computes their forms.
    pub fn change_weights<R>(&mut self, change: impl FnOnce(&mut [Block]) -> R) -> R {
        let result = change(&mut self.weights);
        if let Method::Minimal { algorithm, forms } = &mut self.method {
            algorithm.forms.panels(&self.weights, forms, self.co);
        }
        result
    }

    /// The number of matrix products in a forward pass, for one panel of input channels and one of output channels.
    pub fn products(&self) -> usize {
        self.plan().products()
    }

    fn plan(&self) -> &Plan {
        match &self.method {
            Method::Direct { plan, .. } => plan,
            Method::Minimal { algorithm, .. } => &algorithm.plan,
        }
    }

    /// The forward pass: writes `output[o] = Σ x[i] · W[tap]`. `x` and `output` are activations of `chunks` chunks.
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

    /// The input gradient: writes `dx[i] = Σ dy[o] · W[tap]ᵀ`. It overwrites the buffers, so a later update needs
    /// another forward pass first.
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

    /// [`Convolution::input_gradient`] with the old weights, then one step of Adam on the weights. `input.x` and
    /// `buffers` must be those of the last forward pass.
    ///
    /// A task is one panel of input channels, or a few with minimal filtering. It reads its strip of weights for the
    /// input gradient, and updates each block right after computing its gradient, while the block is in the cache. So
    /// gradients of weights are never written to memory.
    pub fn backward_and_update(
        &mut self,
        moments: &mut BlockMoments,
        input: BackwardInput<'_>,
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
                transpose_all(input.dy, rows);
                dx.par_chunks_mut(pixels).zip_eq(input.x.par_chunks(pixels)).zip_eq(parameters).for_each(
                    |((dx, x), mut parameters)| {
                        input_gradient_panels(plan, *co, parameters.w, input.dy, dx, chunks);
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
                algorithm.sum_gradients.panels_and_rows(input.dy, sums, rows, chunks);
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

/// The weights and moments of a task's panels of input channels.
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

    /// One step of Adam on a block.
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
    /// Zero moments for these weights.
    pub fn of(convolution: &Convolution) -> Self {
        Self { m: zeroed(convolution.weights.len()), v: zeroed(convolution.weights.len()) }
    }
}

/// The inputs of the backward pass of a convolution.
#[derive(Clone, Copy)]
pub struct BackwardInput<'a> {
    /// The input of the forward pass. Not used with minimal filtering, whose buffers hold the signals.
    pub x: &'a [Block],
    /// The gradient of the output.
    pub dy: &'a [Block],
}

/// Writes the sums of products to `out`.
fn forward(plan: &Plan, [ci, co]: [usize; 2], weights: &[Block], x: &[Block], out: &mut [Block], chunks: usize) {
    let pixels = plan.outputs();
    // A few panels are split, so that all threads have work until the end. Otherwise the weights are read only once.
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

/// The input gradient of a group of panels of input channels; `weights` are their strips. Each block of `dy` is read
/// once for the whole group.
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

/// Transposes each block.
fn transpose_all(from: &[Block], to: &mut [Block]) {
    /// The number of blocks in a task.
    const PIECE: usize = 16;
    from.par_chunks(PIECE).zip_eq(to.par_chunks_mut(PIECE)).for_each(|(from, to)| {
        vectorised(
            #[inline(always)]
            || from.iter().zip(to).for_each(|(from, to)| *to = from.transposed()),
        );
    });
}

/// The gradient of one block of weights. `x` is the input of one panel, `rows` the gradient of all outputs.
#[inline(always)]
fn weight_gradient_block(plan: &Plan, x: &[Block], rows: &[Block], tap: usize, panel: usize, chunks: usize) -> Block {
    let mut gradient = Block::ZERO;
    let pairs =
        plan.by_tap[tap].iter().map(|(input, output)| (input * chunks, (panel * plan.outputs() + output) * chunks));
    accumulate::<true>(&mut gradient, x, rows, pairs, Run { blocks: chunks, scalars: 1, vectors: 1, fresh: true });
    gradient
}

/// Updates the weights from a task's panels of input channels to one panel of output channels. The input gradient no
/// longer needs the forms, so they are overwritten by their gradients, and computed again after the weights have
/// changed.
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
mod tests;
