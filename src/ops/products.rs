//! The matrix products of a [`Plan`]: sums of products, and the gradients of inputs and weights.
//!
//! Arrays consist of panels of equal length. Panels of weights, inputs and sums may end with padding, which is not
//! used: a run reads one block of each panel, and if panels were a power of two apart, all blocks of the run would
//! share a few sets of the caches and replace each other.

use std::slice::from_mut;

use rayon::prelude::*;

use super::block::Block;
use super::kernel::{Run, accumulate, vectorised};
use super::plan::Plan;

/// The number of blocks of one operand that a run reads for one chunk. With a few chunks, these and their weights stay
/// in the cache of a core (1 MiB on Zen 4).
const WORKING_SET: usize = 128;

/// The minimum number of tasks of a forward pass, if there are enough pixels.
const TASKS: usize = 32;

/// The number of panels of the summed channel in a run. It determines the order of sums, so it depends only on the
/// layer: the results of a sample are the same in any batch.
fn run_length(panels: usize, pixels: usize) -> usize {
    (WORKING_SET / pixels).clamp(4, 16).min(panels)
}

/// The number of blocks in a panel with its padding: an odd number.
pub(super) fn padded(blocks: usize) -> usize {
    blocks | 1
}

/// The panels, copied to a buffer in which they have padding; or themselves, if the buffer is empty.
pub(super) fn with_padding<'a>(panels: &'a [Block], buffer: &'a mut [Block], count: usize) -> &'a [Block] {
    if buffer.is_empty() {
        return panels;
    }
    let of_panel = panels.len() / count;
    let copies = buffer.par_chunks_mut(buffer.len() / count).zip_eq(panels.par_chunks(of_panel));
    copies.for_each(|(to, from)| to[..of_panel].copy_from_slice(from));
    buffer
}

/// Writes the sums of products to `out`. The panels of weights, `x` and `out` may have padding.
pub(super) fn forward(
    plan: &Plan,
    panels: [usize; 2],
    weights: &[Block],
    x: &[Block],
    out: &mut [Block],
    chunks: usize,
) {
    let (pixels, [_, co]) = (plan.outputs(), panels);
    // A few panels are split, so that all threads have work until the end. Otherwise the weights are read only once.
    let parts = (1..=pixels).find(|n| pixels.is_multiple_of(*n) && n * co >= TASKS).unwrap_or(pixels);
    let part = pixels / parts;
    out.par_chunks_mut(out.len() / co).enumerate().for_each(|(panel, out)| {
        out[..pixels * chunks].par_chunks_mut(part * chunks).enumerate().for_each(|(n, out)| {
            forward_part(plan, panels, weights, x, out, chunks, [panel, n * part]);
        });
    });
}

/// Writes the sums of one panel of output channels to `out`, from the pixel `first` on.
fn forward_part(
    plan: &Plan,
    [ci, co]: [usize; 2],
    weights: &[Block],
    x: &[Block],
    out: &mut [Block],
    chunks: usize,
    [panel, first]: [usize; 2],
) {
    let (strip, of_x) = (weights.len() / ci, x.len() / ci);
    let length = run_length(ci, plan.inputs());
    for start in (0..ci).step_by(length) {
        let run = Run { blocks: length.min(ci - start), scalars: strip, vectors: of_x, fresh: start == 0 };
        for (pixel, accs) in (first..).zip(out.chunks_mut(chunks)) {
            let place =
                |(tap, input): &(usize, usize)| (start * strip + tap * co + panel, start * of_x + input * chunks);
            let pairs = plan.by_output[pixel].iter().map(place);
            let next = plan.by_output.get(pixel + 1).into_iter().flatten().map(place);
            accumulate::<false>(accs, weights, x, pairs, next, run);
        }
    }
}

/// The input gradient of a group of `count` panels of input channels; `weights` are their strips. Each block of `dy` is
/// read once for the whole group. The panels of weights, `dy` and `dx` may have padding.
pub(super) fn input_gradient_panels(
    plan: &Plan,
    [count, co]: [usize; 2],
    weights: &[Block],
    dy: &[Block],
    dx: &mut [Block],
    chunks: usize,
) {
    let (strip, of_dx, of_dy) = (weights.len() / count, dx.len() / count, dy.len() / co);
    let length = run_length(co, plan.outputs());
    for start in (0..co).step_by(length) {
        let run = Run { blocks: length.min(co - start), scalars: 1, vectors: of_dy, fresh: start == 0 };
        for (pixel, meets) in plan.by_input.iter().enumerate() {
            for (panel, weights) in weights.chunks(strip).enumerate() {
                let accs = &mut dx[panel * of_dx + pixel * chunks..][..chunks];
                let place = |(tap, output): &(usize, usize)| (tap * co + start, start * of_dy + output * chunks);
                let next = plan.by_input.get(pixel + 1).into_iter().flatten().map(place);
                accumulate::<true>(accs, weights, dy, meets.iter().map(place), next, run);
            }
        }
    }
}

/// Transposes each block.
pub(super) fn transpose_all(from: &[Block], to: &mut [Block]) {
    /// The number of blocks in a task.
    const PIECE: usize = 16;
    from.par_chunks(PIECE).zip_eq(to.par_chunks_mut(PIECE)).for_each(|(from, to)| {
        vectorised(
            #[inline(always)]
            || from.iter().zip(to).for_each(|(from, to)| *to = from.transposed()),
        );
    });
}

/// A block of weights: from a panel of input channels, which begins at the block `input` of `x`, by a tap to a panel of
/// output channels.
#[derive(Clone, Copy)]
pub(super) struct Weight {
    pub(super) input: usize,
    pub(super) tap: usize,
    pub(super) panel: usize,
}

/// Writes the gradient of one block of weights. `rows` is the gradient of all outputs. Prefetches what the gradient of
/// `next` needs.
#[inline(always)]
pub(super) fn weight_gradient(
    plan: &Plan,
    (x, rows): (&[Block], &[Block]),
    weight: Weight,
    next: Weight,
    gradient: &mut Block,
    chunks: usize,
) {
    let pairs = |weight: Weight| {
        let Weight { input: first, tap, panel } = weight;
        let place = move |(input, output): &(usize, usize)| {
            (first + input * chunks, (panel * plan.outputs() + output) * chunks)
        };
        plan.by_tap[tap].iter().map(place)
    };
    let run = Run { blocks: chunks, scalars: 1, vectors: 1, fresh: true };
    accumulate::<true>(from_mut(gradient), x, rows, pairs(weight), pairs(next), run);
}
