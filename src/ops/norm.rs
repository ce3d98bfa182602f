//! Batch norm with ReLU, and the bias of the fully connected layer: what stands between two convolutions.
//!
//! `y = relu(γ x̂ + β)`, `x̂ = (x − mean) / √(var + 1e-5)` over batch and pixels (biased variance); running mean and *unbiased*
//! variance with momentum 0.1, as in PyTorch's `BatchNorm2d`. Backward, with `g = dy · [y > 0]` and n elements a channel:
//! `dβ = Σ g`, `dγ = Σ g x̂`, `dx = γ / √(var + 1e-5) · (g − dβ / n − x̂ dγ / n)` (Ioffe and Szegedy, 2015).
//! Sums are made in f64, one lane each, in the order of pixels and chunks. ReLU's gradient at 0 is 0.

use rayon::prelude::*;

use super::block::{Batch, Block, LANES, Row, clear_from, sum};
use super::kernel::vectorised;

/// The number that keeps the division finite; PyTorch's default.
pub const EPSILON: f64 = 1e-5;
/// The weight of the new batch in the running statistics; PyTorch's default.
pub const MOMENTUM: f32 = 0.1;

/// A batch norm's statistics, a row for each panel.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Running mean.
    pub mean: Vec<Row>,
    /// Running unbiased variance.
    pub variance: Vec<Row>,
    /// `1 / √(var + 1e-5)` of the newest batch.
    inverse: Vec<Row>,
}

impl Statistics {
    /// Mean 0 and variance 1, for so many panels.
    pub fn new(panels: usize) -> Self {
        Self {
            mean: vec![[0.0; LANES]; panels],
            variance: vec![[1.0; LANES]; panels],
            inverse: vec![[0.0; LANES]; panels],
        }
    }

    /// Forward: `x` becomes x̂, `y` the output; the running statistics move if `TRACK`.
    pub fn forward<const TRACK: bool>(
        &mut self,
        gamma: &[Row],
        beta: &[Row],
        x: &mut [Block],
        y: &mut [Block],
        batch: Batch,
    ) {
        let part = x.len() / gamma.len();
        x.par_chunks_mut(part)
            .zip_eq(y.par_chunks_mut(part))
            .zip_eq(gamma.par_iter().zip_eq(beta))
            .zip_eq(self.mean.par_iter_mut().zip_eq(&mut self.variance).zip_eq(&mut self.inverse))
            .for_each(|(((x, y), (gamma, beta)), ((mean, variance), inverse))| {
                vectorised(
                    #[inline(always)]
                    || {
                        for c in 0..LANES {
                            let found = normalise(x, c, batch);
                            if TRACK {
                                mean[c] += (found.mean as f32 - mean[c]) * MOMENTUM;
                                variance[c] += (found.unbiased as f32 - variance[c]) * MOMENTUM;
                            }
                            inverse[c] = found.inverse;
                        }
                        scale_and_clip(x, y, gamma, beta, batch);
                    },
                );
            });
    }

    /// Backward: `dy` becomes dx and `rows` its transposed blocks; γ's and β's gradients are written.
    pub fn backward(
        &self,
        gamma: &[Row],
        forward: Forward<'_>,
        dy: Gradient<'_>,
        dgamma: &mut [Row],
        dbeta: &mut [Row],
    ) {
        let part = dy.blocks.len() / gamma.len();
        let batch = forward.batch;
        dy.blocks
            .par_chunks_mut(part)
            .zip_eq(dy.rows.par_chunks_mut(part))
            .zip_eq(forward.normalised.par_chunks(part).zip_eq(forward.output.par_chunks(part)))
            .zip_eq(gamma.par_iter().zip_eq(&self.inverse))
            .zip_eq(dgamma.par_iter_mut().zip_eq(dbeta))
            .for_each(|((((d, rows), (xhat, y)), (gamma, inverse)), (dgamma, dbeta))| {
                vectorised(
                    #[inline(always)]
                    || {
                        for c in 0..LANES {
                            (dgamma[c], dbeta[c]) = channel_backward(d, xhat, y, c, gamma[c] * inverse[c], batch);
                        }
                        transpose(d, rows);
                    },
                );
            });
    }
}

/// What the forward pass left.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// x̂.
    pub normalised: &'a [Block],
    /// The output.
    pub output: &'a [Block],
    /// The batch.
    pub batch: Batch,
}

/// A gradient and the same with each block transposed.
pub struct Gradient<'a> {
    /// Channels are rows.
    pub blocks: &'a mut [Block],
    /// Samples are rows.
    pub rows: &'a mut [Block],
}

struct Found {
    mean: f64,
    unbiased: f64,
    inverse: f32,
}

/// Normalises channel `c` of a panel in place.
#[inline(always)]
fn normalise(x: &mut [Block], c: usize, batch: Batch) -> Found {
    let n = (x.len() / batch.chunks * batch.samples) as f64;
    // Lanes without a sample are zero here, so only the squares need to know about them.
    let mut lanes = [0.0; LANES];
    for block in &*x {
        for (s, v) in lanes.iter_mut().zip(&block.0[c]) {
            *s += f64::from(*v);
        }
    }
    let mean = sum(&lanes) / n;
    let shift = mean as f32;
    let mut lanes = [0.0; LANES];
    for (at, block) in x.iter_mut().enumerate() {
        let row = &mut block.0[c];
        row.iter_mut().for_each(|v| *v -= shift);
        clear_from(row, batch.filled(at % batch.chunks));
        for (s, v) in lanes.iter_mut().zip(row) {
            *s += f64::from(*v) * f64::from(*v);
        }
    }
    let squares = sum(&lanes);
    let inverse = (1.0 / (squares / n + EPSILON).sqrt()) as f32;
    for block in x {
        block.0[c].iter_mut().for_each(|v| *v *= inverse);
    }
    Found { mean, unbiased: squares / (n - 1.0).max(1.0), inverse }
}

#[inline(always)]
fn scale_and_clip(x: &[Block], y: &mut [Block], gamma: &Row, beta: &Row, batch: Batch) {
    for (at, (x, y)) in x.iter().zip(y).enumerate() {
        let filled = batch.filled(at % batch.chunks);
        for c in 0..LANES {
            for (y, x) in y.0[c].iter_mut().zip(&x.0[c]) {
                *y = relu(gamma[c] * x + beta[c]);
            }
            clear_from(&mut y.0[c], filled);
        }
    }
}

/// Channel `c`'s gradient in place; `scale` is γ / √(var + ε). Returns γ's and β's gradients.
#[inline(always)]
fn channel_backward(d: &mut [Block], xhat: &[Block], y: &[Block], c: usize, scale: f32, batch: Batch) -> (f32, f32) {
    let n = (d.len() / batch.chunks * batch.samples) as f64;
    let (mut dots, mut sums) = ([0.0; LANES], [0.0; LANES]);
    for ((d, x), y) in d.iter_mut().zip(xhat).zip(y) {
        for l in 0..LANES {
            let g = if y.0[c][l] > 0.0 { d.0[c][l] } else { 0.0 };
            d.0[c][l] = g;
            sums[l] += f64::from(g);
            dots[l] += f64::from(g) * f64::from(x.0[c][l]);
        }
    }
    let (dot, total) = (sum(&dots), sum(&sums));
    let (mean_dot, mean) = ((dot / n) as f32, (total / n) as f32);
    for (at, (d, x)) in d.iter_mut().zip(xhat).enumerate() {
        let row = &mut d.0[c];
        for (g, x) in row.iter_mut().zip(&x.0[c]) {
            *g = scale * (*g - mean - x * mean_dot);
        }
        clear_from(row, batch.filled(at % batch.chunks));
    }
    (dot as f32, total as f32)
}

#[inline(always)]
fn transpose(from: &[Block], to: &mut [Block]) {
    for (from, to) in from.iter().zip(to) {
        *to = from.transposed();
    }
}

/// Adds a bias per channel (`bias` holds a row for each panel, or for each panel and pixel), and clips at 0 if `RELU`.
pub fn add_bias<const RELU: bool>(x: &mut [Block], bias: &[Row], batch: Batch) {
    let part = x.len() / bias.len();
    x.par_chunks_mut(part).zip_eq(bias).for_each(|(x, bias)| {
        vectorised(
            #[inline(always)]
            || {
                for (at, block) in x.iter_mut().enumerate() {
                    for (row, b) in block.0.iter_mut().zip(bias) {
                        row.iter_mut().for_each(|v| *v = if RELU { relu(*v + b) } else { *v + b });
                        clear_from(row, batch.filled(at % batch.chunks));
                    }
                }
            },
        );
    });
}

/// The backward pass of a bias alone: its gradient (rows as in [`add_bias`]) and the transposed blocks.
pub fn bias_backward(dy: Gradient<'_>, dbias: &mut [Row]) {
    let part = dy.blocks.len() / dbias.len();
    dy.blocks.par_chunks(part).zip_eq(dy.rows.par_chunks_mut(part)).zip_eq(dbias).for_each(|((d, rows), dbias)| {
        vectorised(
            #[inline(always)]
            || {
                for (c, out) in dbias.iter_mut().enumerate() {
                    let mut lanes = [0.0; LANES];
                    for block in d {
                        for (s, v) in lanes.iter_mut().zip(&block.0[c]) {
                            *s += f64::from(*v);
                        }
                    }
                    *out = sum(&lanes) as f32;
                }
                transpose(d, rows);
            },
        );
    });
}

/// Writes the transposed blocks.
pub fn transpose_all(from: &[Block], to: &mut [Block]) {
    from.par_chunks(LANES).zip_eq(to.par_chunks_mut(LANES)).for_each(|(from, to)| {
        vectorised(
            #[inline(always)]
            || transpose(from, to),
        );
    });
}

/// The backward pass of ReLU alone, in place.
pub fn clip_backward(d: &mut [Block], y: &[Block]) {
    d.par_chunks_mut(64).zip_eq(y.par_chunks(64)).for_each(|(d, y)| {
        vectorised(
            #[inline(always)]
            || {
                for (d, y) in
                    d.iter_mut().flat_map(|b| b.0.as_flattened_mut()).zip(y.iter().flat_map(|b| b.0.as_flattened()))
                {
                    *d = if *y > 0.0 { *d } else { 0.0 };
                }
            },
        );
    });
}

/// `max(v, 0)`, but NaN stays NaN, as in PyTorch: a diverged net must not look finite.
#[inline(always)]
fn relu(v: f32) -> f32 {
    if v < 0.0 { 0.0 } else { v }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Streams;

    #[test]
    fn a_normalised_batch_has_mean_0_and_variance_1_and_the_running_statistics_move_a_tenth() {
        let batch = Batch::new(19);
        let mut x = vec![Block::ZERO; 4 * batch.chunks];
        let mut values = Vec::new();
        let mut stream = Streams::new(1).stream("x", 0, 0);
        for (at, block) in x.iter_mut().enumerate() {
            stream.normals(block.0.as_flattened_mut());
            for row in &mut block.0 {
                row.iter_mut().for_each(|v| *v = 3.0 * *v + 7.0);
                clear_from(row, batch.filled(at % batch.chunks));
            }
            values.extend_from_slice(&block.0[5][..batch.filled(at % batch.chunks)]);
        }
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let unbiased = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (n - 1.0);
        let mut statistics = Statistics::new(1);
        let mut y = x.clone();
        let (gamma, beta) = ([[2.0; LANES]], [[0.5; LANES]]);
        statistics.forward::<false>(&gamma, &beta, &mut x.clone(), &mut y, batch);
        assert_eq!((statistics.mean[0][5], statistics.variance[0][5]), (0.0, 1.0), "not tracked");
        statistics.forward::<true>(&gamma, &beta, &mut x, &mut y, batch);
        assert!((statistics.mean[0][5] - 0.1 * mean).abs() < 1e-5);
        assert!((statistics.variance[0][5] - (0.9 + 0.1 * unbiased)).abs() < 1e-4);
        let channel = |blocks: &[Block]| blocks.iter().flat_map(|b| b.0[5]).collect::<Vec<f32>>();
        let normalised = channel(&x);
        assert!(normalised.iter().sum::<f32>().abs() / n < 1e-5);
        assert!((normalised.iter().map(|v| v * v).sum::<f32>() / n - 1.0).abs() < 1e-4);
        let clipped = channel(&y).iter().filter(|v| **v == 0.0).count();
        let below = normalised.iter().filter(|v| 2.0 * **v + 0.5 <= 0.0).count();
        assert_eq!(clipped, below + 4 * 13, "what is below 0, and the 13 lanes of each last chunk that hold no sample");
    }
}
