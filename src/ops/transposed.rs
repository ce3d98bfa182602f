//! Transposed convolution with any kernel, stride and padding, without im2col and without products outside the image.
//!
//! It is a list of matrix products over channels and batch ([`crate::ops::plan`]): of taps and input pixels or, if
//! there are fewer, of linear combinations of both ([`crate::ops::winograd`]). The combinations of pixels are in the
//! caller's buffers, those of taps beside the weights. Each change of the weights also computes the latter.
//!
//! A fully connected layer to `c × 2 × 2` is the transposed convolution of a 1 × 1 image with kernel 2.

use rayon::prelude::*;

use super::adam::Rates;
use super::block::{Block, LANES, Row, panels, zeroed};
use super::kernel::{prefetch, vectorised};
use super::plan::{Axis, Geometry, Plan};
use super::products::{Weight, forward, input_gradient_panels, padded, transpose_all, weight_gradient, with_padding};
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
    Direct(Plan),
    /// Products of linear combinations of taps and of pixels. `forms` are those of the weights:
    /// `[ci panel][form][co panel]`, each panel with padding.
    Minimal { algorithm: Box<Minimal>, forms: Vec<Block> },
}

/// How many blocks ahead of their update weights and moments are prefetched. They come from main memory, which takes as
/// long as computing the gradient of a block for a small batch.
const AHEAD: usize = 3;

/// The maximum number of panels of input channels that one task of minimal filtering processes together. The gradient
/// of a sum is far away in memory, and each panel uses it in few products.
const GROUP: usize = 4;

/// The number of panels in a group, chosen so that each thread has two groups if possible. The bytes do not depend on
/// it.
fn group_of(panels: usize) -> usize {
    (panels / (2 * rayon::current_num_threads())).clamp(1, GROUP)
}

/// The buffers of a convolution besides input and output, for batches with one number of chunks.
#[derive(Debug)]
pub struct Buffers {
    /// The signals of the last forward pass's input, or their gradient; each panel has padding. Without minimal
    /// filtering the input itself, unless that is not worth a copy.
    signals: Vec<Block>,
    /// The sums, or their gradient; each panel has padding. Without minimal filtering the gradient of the output,
    /// unless that is not worth a copy.
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
        let is_minimal = matches!(convolution.method, Method::Minimal { .. });
        let (signals, sums) = match is_minimal || convolution.copies_panels() {
            true => (ci * padded(plan.inputs() * chunks), co * padded(plan.outputs() * chunks)),
            false => (0, 0),
        };
        let rows = co * plan.outputs() * chunks;
        let if_update = |n: usize| zeroed(if UPDATE { n } else { 0 });
        Self {
            signals: zeroed(signals),
            sums: zeroed(sums),
            rows: if_update(rows),
            signal_gradients: if_update(if is_minimal { signals } else { 0 }),
        }
    }
}

impl Convolution {
    /// Zero weights for these numbers of channels.
    pub fn new(geometry: Geometry, input_channels: usize, output_channels: usize) -> Self {
        let (ci, co) = (panels(input_channels), panels(output_channels));
        let method = match Minimal::new(geometry) {
            Some(algorithm) => Method::Minimal {
                forms: zeroed(ci * padded(algorithm.plan.taps() * co)),
                algorithm: Box::new(algorithm),
            },
            None => Method::Direct(Plan::new(&Axis::direct(geometry))),
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
            algorithm.forms.panels(&self.weights, forms, self.ci, self.co);
        }
        result
    }

    /// The number of matrix products in a forward pass, for one panel of input channels and one of output channels.
    pub fn products(&self) -> usize {
        self.plan().products()
    }

    /// Whether each block of the input is used in so many products that a copy with padding is faster.
    fn copies_panels(&self) -> bool {
        self.products() * self.co >= 8 * self.plan().inputs()
    }

    fn plan(&self) -> &Plan {
        match &self.method {
            Method::Direct(plan) => plan,
            Method::Minimal { algorithm, .. } => &algorithm.plan,
        }
    }

    /// The forward pass: writes `output[o] = Σ x[i] · W[tap]`. `x` and `output` are activations of `chunks` chunks.
    pub fn forward(&self, x: &[Block], output: &mut [Block], buffers: &mut Buffers, chunks: usize) {
        let panels = [self.ci, self.co];
        match &self.method {
            Method::Direct(plan) => {
                let x = with_padding(x, &mut buffers.signals, self.ci);
                forward(plan, panels, &self.weights, x, output, chunks);
            }
            Method::Minimal { algorithm, forms } => {
                algorithm.signals.panels(x, &mut buffers.signals, self.ci, chunks);
                forward(&algorithm.plan, panels, forms, &buffers.signals, &mut buffers.sums, chunks);
                algorithm.outputs.panels(&buffers.sums, output, self.co, chunks);
            }
        }
    }

    /// The input gradient: writes `dx[i] = Σ dy[o] · W[tap]ᵀ`. It overwrites the buffers, so a later update needs
    /// another forward pass first.
    pub fn input_gradient(&self, dy: &[Block], dx: &mut [Block], buffers: &mut Buffers, chunks: usize) {
        let (ci, co) = (self.ci, self.co);
        match &self.method {
            Method::Direct(plan) => {
                let dy = with_padding(dy, &mut buffers.sums, co);
                dx.par_chunks_mut(plan.inputs() * chunks)
                    .zip_eq(self.weights.par_chunks(plan.taps() * co))
                    .for_each(|(dx, weights)| input_gradient_panels(plan, [1, co], weights, dy, dx, chunks));
            }
            Method::Minimal { algorithm, forms } => {
                let Buffers { signals, sums, .. } = buffers;
                let group = group_of(ci);
                algorithm.sum_gradients.panels(dy, sums, co, chunks);
                let (of_signals, of_forms) = (signals.len() / ci, forms.len() / ci);
                dx.par_chunks_mut(group * self.geometry.inputs() * chunks)
                    .zip_eq(signals.par_chunks_mut(group * of_signals))
                    .zip_eq(forms.par_chunks(group * of_forms))
                    .for_each(|((dx, signals), forms)| {
                        let panels = signals.len() / of_signals;
                        input_gradient_panels(&algorithm.plan, [panels, co], forms, sums, signals, chunks);
                        algorithm.input_gradients.each_panel(signals, dx, panels, chunks);
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
        let Self { geometry, ci, co, weights, method, .. } = self;
        let (ci, co) = (*ci, *co);
        let (strip, pixels) = (geometry.taps() * co, geometry.inputs() * chunks);
        let group = if matches!(method, Method::Direct(_)) { 1 } else { group_of(ci) };
        let weights = weights.par_chunks_mut(group * strip);
        let moments = moments.m.par_chunks_mut(group * strip).zip_eq(moments.v.par_chunks_mut(group * strip));
        let parameters = weights.zip_eq(moments).map(|(w, (m, v))| Parameters { w, m, v });
        let Buffers { signals, sums, rows, signal_gradients } = buffers;
        match method {
            Method::Direct(plan) => {
                transpose_all(input.dy, rows);
                let dy = with_padding(input.dy, sums, co);
                dx.par_chunks_mut(pixels).zip_eq(input.x.par_chunks(pixels)).zip_eq(parameters).for_each(
                    |((dx, x), mut parameters)| {
                        input_gradient_panels(plan, [1, co], parameters.w, dy, dx, chunks);
                        let weight = |at: usize| Weight { input: 0, tap: at / co, panel: at % co };
                        let mut gradient = Block::ZERO;
                        for at in 0..strip {
                            let next = weight((at + 1) % strip);
                            weight_gradient(plan, (x, rows), weight(at), next, &mut gradient, chunks);
                            parameters.update(at, &gradient, rates, Some(at + AHEAD));
                        }
                    },
                );
            }
            Method::Minimal { algorithm, forms } => {
                algorithm.sum_gradients.panels_and_rows(input.dy, sums, rows, co, chunks);
                let (of_signals, of_forms) = (signals.len() / ci, forms.len() / ci);
                dx.par_chunks_mut(group * pixels)
                    .zip_eq(signals.par_chunks(group * of_signals))
                    .zip_eq(signal_gradients.par_chunks_mut(group * of_signals))
                    .zip_eq(parameters.zip_eq(forms.par_chunks_mut(group * of_forms)))
                    .for_each(|(((dx, signals), dsignals), (mut parameters, forms))| {
                        let panels = signals.len() / of_signals;
                        input_gradient_panels(&algorithm.plan, [panels, co], forms, sums, dsignals, chunks);
                        algorithm.input_gradients.each_panel(dsignals, dx, panels, chunks);
                        for panel in 0..co {
                            let to = Channels { from: panels, panel, of: co };
                            update_minimal(algorithm, forms, &mut parameters, to, (signals, rows), chunks, rates);
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
    /// The first lines of a block of weights and moments, which may be beyond the end.
    #[inline(always)]
    fn lines(&self, at: usize) -> [*const Row; 3] {
        [self.w.as_ptr(), self.m.as_ptr(), self.v.as_ptr()].map(|first| first.wrapping_add(at).cast())
    }

    /// Prefetches a block of weights and moments.
    #[inline(always)]
    fn prefetch(&self, at: usize) {
        let lines = self.lines(at);
        (0..LANES).for_each(|row| lines.iter().for_each(|line| prefetch(line.wrapping_add(row))));
    }

    /// One step of Adam on a block. Prefetches the block `ahead` meanwhile: all its lines at once would have to wait
    /// for each other.
    #[inline(always)]
    fn update(&mut self, at: usize, gradient: &Block, rates: Rates, ahead: Option<usize>) {
        let ahead = ahead.map(|ahead| self.lines(ahead));
        let (w, m, v) = (&mut self.w[at].0, &mut self.m[at].0, &mut self.v[at].0);
        vectorised(
            #[inline(always)]
            || {
                for row in 0..LANES {
                    ahead.iter().flatten().for_each(|line| prefetch(line.wrapping_add(row)));
                    rates.step(&mut w[row], &gradient.0[row], &mut m[row], &mut v[row]);
                }
            },
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

/// The channels whose weights are updated together.
#[derive(Clone, Copy)]
struct Channels {
    /// The number of panels of input channels.
    from: usize,
    /// The panel of output channels.
    panel: usize,
    /// The number of panels of output channels.
    of: usize,
}

/// Updates the weights from a task's panels of input channels to one panel of output channels. The input gradient no
/// longer needs the forms, so they are overwritten by their gradients, and computed again after the weights have
/// changed.
fn update_minimal(
    algorithm: &Minimal,
    forms: &mut [Block],
    parameters: &mut Parameters<'_>,
    Channels { from, panel, of: co }: Channels,
    (signals, rows): (&[Block], &[Block]),
    chunks: usize,
    rates: Rates,
) {
    let plan = &algorithm.plan;
    let (count, taps) = (plan.taps(), algorithm.forms.inputs());
    let (of_signals, of_forms) = (signals.len() / from, forms.len() / from);
    for form in 0..count {
        for input in 0..from {
            if (form * taps).is_multiple_of(count) {
                parameters.prefetch((input * taps + form * taps / count) * co + panel);
            }
            let weight = |form, input| Weight { input: input * of_signals, tap: form, panel };
            let next = if input + 1 < from { weight(form, input + 1) } else { weight((form + 1) % count, 0) };
            let gradient = &mut forms[input * of_forms + form * co + panel];
            weight_gradient(plan, (signals, rows), weight(form, input), next, gradient, chunks);
        }
    }
    for input in 0..from {
        let (forms, first) = (&mut forms[input * of_forms..][..of_forms], input * taps * co);
        vectorised(
            #[inline(always)]
            || {
                for tap in 0..taps {
                    let gradient = algorithm.tap_gradients.one(tap, |form| &forms[form * co + panel]);
                    parameters.update(first + tap * co + panel, &gradient, rates, None);
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
