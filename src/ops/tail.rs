//! The decoder's tail: from the last transposed convolution's products to grey levels and the loss, and back.
//!
//! A transposed convolution to one channel is a slow matrix product, so its 16 taps are computed like output channels:
//! the last convolution computes `t[i][tap]` for each input pixel `i`. The tail then computes
//! 1. `u[o] = b + Σ t[i][tap]`, over all pixels and taps that reach output pixel `o` (16 × 16 → 32 × 32);
//! 2. the 1 × 1 transposed convolution with padding 2: `a = s u + c`, cropped to 28 × 28;
//! 3. the image `x̂ = 255 σ(a)`;
//! 4. the loss `‖x − x̂‖_F / n` of a batch with n pixels. Its gradient with respect to x̂ is
//!    `(x̂ − x) / (n ‖x − x̂‖_F)`, and 0 if the norm is 0, as in PyTorch.

use rayon::prelude::*;

use super::block::{Batch, Block, LANES, Row};
use super::kernel::vectorised;
use super::plan::{Axis, Geometry, Plan};

/// Pixels on a side of an image.
pub const SIDE: usize = 28;
/// Pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// Pixels on a side of the tail's input.
pub const INPUT_SIDE: usize = 16;
const CROP: usize = 2;
const WHITE: f32 = 255.0;

/// The parameters of the tail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    /// Bias `b` of the convolution to one channel.
    pub bias: f32,
    /// Weight `s` of the 1 × 1 convolution.
    pub scale: f32,
    /// Bias `c` of the 1 × 1 convolution.
    pub shift: f32,
}

/// The tail's plan, and the results of its forward pass.
#[derive(Clone, Debug)]
pub struct Tail {
    plan: Plan,
    batch: Batch,
    /// `[pixel][chunk]`: u.
    before: Vec<Row>,
    /// σ(a).
    sigmoid: Vec<Row>,
    /// x̂ − x, then the gradient of the loss with respect to u.
    gradient: Vec<Row>,
    partial: Vec<[f64; 2]>,
}

/// The loss of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// `‖x − x̂‖_F / n`.
    pub loss: f64,
    /// `‖x − x̂‖²_F` in grey levels squared.
    pub squared_error: f64,
}

impl Tail {
    /// Buffers for batches with the chunks of this one.
    pub fn new(batch: Batch) -> Self {
        let rows = vec![[0.0; LANES]; PIXELS * batch.chunks];
        let plan = Plan::new(&Axis::direct(Geometry { input: INPUT_SIDE, kernel: 4, stride: 2, padding: 1 }));
        Self { plan, batch, before: rows.clone(), sigmoid: rows.clone(), gradient: rows, partial: vec![[0.0; 2]; SIDE] }
    }

    /// The forward pass, from `[input pixel][chunk]` blocks of `[16 taps][16 samples]`.
    pub fn forward(&mut self, taps: &[Block], scalars: Scalars, batch: Batch) {
        self.batch = batch;
        let (plan, chunks) = (&self.plan, batch.chunks);
        let part = SIDE * chunks;
        let rows = self.before.par_chunks_mut(part).zip_eq(self.sigmoid.par_chunks_mut(part));
        rows.enumerate().for_each(|(row, (before, sigmoid))| {
            for (at, (u, sigma)) in before.iter_mut().zip(sigmoid).enumerate() {
                let (column, chunk) = (at / chunks, at % chunks);
                *u = [scalars.bias; LANES];
                for (tap, input) in &plan.by_output[uncropped(row, column)] {
                    let product = &taps[input * chunks + chunk].0[*tap];
                    u.iter_mut().zip(product).for_each(|(u, t)| *u += t);
                }
                for (sigma, u) in sigma.iter_mut().zip(u) {
                    *sigma = 1.0 / (1.0 + libm::expf(-(scalars.scale * *u + scalars.shift)));
                }
            }
        });
    }

    /// Copies the images of the last forward pass, `[sample][pixel]` grey levels.
    pub fn images(&self, to: &mut [f32]) {
        to.par_chunks_exact_mut(PIXELS).enumerate().for_each(|(b, image)| {
            for (pixel, v) in image.iter_mut().enumerate() {
                *v = self.sigmoid[pixel * self.batch.chunks + b / LANES][b % LANES] * WHITE;
            }
        });
    }

    /// The loss of the last forward pass against `images`, `[sample][pixel]`. [`Tail::backward`] uses the result.
    pub fn loss(&mut self, images: &[u8]) -> Loss {
        let batch = self.batch;
        let part = SIDE * batch.chunks;
        self.gradient
            .par_chunks_mut(part)
            .zip_eq(self.sigmoid.par_chunks(part))
            .zip_eq(&mut self.partial)
            .enumerate()
            .for_each(|(row, ((gradient, sigmoid), partial))| {
                let mut squares = 0.0;
                for (at, (error, sigma)) in gradient.iter_mut().zip(sigmoid).enumerate() {
                    let (pixel, chunk) = (row * SIDE + at / batch.chunks, at % batch.chunks);
                    *error = [0.0; LANES];
                    for l in 0..batch.filled(chunk) {
                        let grey = f32::from(images[(chunk * LANES + l) * PIXELS + pixel]);
                        error[l] = sigma[l] * WHITE - grey;
                        squares += f64::from(error[l]) * f64::from(error[l]);
                    }
                }
                partial[0] = squares;
            });
        let squared_error = self.partial.iter().map(|p| p[0]).sum::<f64>();
        Loss { loss: squared_error.sqrt() / (batch.samples * PIXELS) as f64, squared_error }
    }

    /// The backward pass. Writes the gradient of the products as blocks of `[16 taps][16 samples]`, and returns that of
    /// the scalars.
    pub fn backward(&mut self, loss: Loss, scalars: Scalars, dtaps: &mut [Block]) -> Scalars {
        let batch = self.batch;
        let norm = loss.squared_error.sqrt();
        let factor = if norm > 0.0 { f64::from(WHITE) / (norm * (batch.samples * PIXELS) as f64) } else { 0.0 } as f32;
        let part = SIDE * batch.chunks;
        self.gradient
            .par_chunks_mut(part)
            .zip_eq(self.sigmoid.par_chunks(part).zip_eq(self.before.par_chunks(part)))
            .zip_eq(&mut self.partial)
            .for_each(|((gradient, (sigmoid, before)), partial)| {
                let (mut shift, mut scale) = (0.0, 0.0);
                for ((g, sigma), u) in gradient.iter_mut().zip(sigmoid).zip(before) {
                    for l in 0..LANES {
                        let by_a = g[l] * factor * sigma[l] * (1.0 - sigma[l]);
                        shift += f64::from(by_a);
                        scale += f64::from(by_a) * f64::from(u[l]);
                        g[l] = by_a * scalars.scale;
                    }
                }
                *partial = [shift, scale];
            });
        self.spread(dtaps);
        let shift = self.partial.iter().map(|p| p[0]).sum::<f64>();
        let scale = self.partial.iter().map(|p| p[1]).sum::<f64>();
        Scalars { bias: (shift * f64::from(scalars.scale)) as f32, scale: scale as f32, shift: shift as f32 }
    }

    /// Copies the gradient of each pixel to the products that were added to it; 0 for cropped pixels.
    fn spread(&self, dtaps: &mut [Block]) {
        let chunks = self.batch.chunks;
        dtaps.par_chunks_mut(INPUT_SIDE * chunks).enumerate().for_each(|(row, blocks)| {
            vectorised(
                #[inline(always)]
                || {
                    for (at, block) in blocks.iter_mut().enumerate() {
                        let (input, chunk) = (row * INPUT_SIDE + at / chunks, at % chunks);
                        *block = Block::ZERO;
                        for (tap, output) in &self.plan.by_input[input] {
                            if let Some(pixel) = cropped(*output) {
                                block.0[*tap] = self.gradient[pixel * chunks + chunk];
                            }
                        }
                    }
                },
            );
        });
    }
}

/// The pixel of the 32 × 32 image at this place of the cropped image.
fn uncropped(row: usize, column: usize) -> usize {
    (row + CROP) * 2 * INPUT_SIDE + column + CROP
}

/// The pixel of the cropped image, from one of the 32 × 32 image; `None` if it is cropped.
#[inline(always)]
fn cropped(output: usize) -> Option<usize> {
    let (row, column) = (output / (2 * INPUT_SIDE), output % (2 * INPUT_SIDE));
    let inside = |at: usize| at.checked_sub(CROP).filter(|v| *v < SIDE);
    Some(inside(row)? * SIDE + inside(column)?)
}
