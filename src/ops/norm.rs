//! Batch norm with ReLU, and the bias of the fully connected layer.
//!
//! Forward: `y = relu(γ x̂ + β)` with `x̂ = (x − mean) / √(var + 1e-5)`, over batch and pixels, with the biased
//! variance. The running statistics are the mean and the *unbiased* variance with momentum 0.1, as in PyTorch's
//! `BatchNorm2d`.
//!
//! Backward, with `g = dy · [y > 0]` and n elements in a channel: `dβ = Σ g`, `dγ = Σ g x̂`,
//! `dx = γ / √(var + 1e-5) · (g − dβ / n − x̂ dγ / n)`. The gradient of ReLU at 0 is 0.
//!
//! Sums are f64, one for each lane, in the order of pixels and chunks. Source: Ioffe and Szegedy, "Batch
//! Normalization", 2015.

use rayon::prelude::*;

use super::block::{Batch, Block, LANES, Row, clear_from, sum};
use super::kernel::vectorised;

/// Added to the variance, as by default in PyTorch.
pub const EPSILON: f64 = 1e-5;
/// The weight of a new batch in the running statistics, as by default in PyTorch.
pub const MOMENTUM: f32 = 0.1;

/// The statistics of a batch norm, one row for each panel.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Running mean.
    pub mean: Vec<Row>,
    /// Running unbiased variance.
    pub variance: Vec<Row>,
    /// `1 / √(var + 1e-5)` of the last batch.
    inverse: Vec<Row>,
}

impl Statistics {
    /// Running means 0 and variances 1, for this many panels.
    pub fn new(panels: usize) -> Self {
        Self {
            mean: vec![[0.0; LANES]; panels],
            variance: vec![[1.0; LANES]; panels],
            inverse: vec![[0.0; LANES]; panels],
        }
    }

    /// The forward pass: replaces `x` by x̂ and writes the output to `y`. Updates the running statistics if `TRACK`.
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
                        for first in (0..LANES).step_by(GROUP) {
                            let found = normalise(x, y, first, (gamma, beta), batch);
                            for (c, found) in (first..).zip(found) {
                                if TRACK {
                                    mean[c] += (found.mean - mean[c]) * MOMENTUM;
                                    variance[c] += (found.unbiased - variance[c]) * MOMENTUM;
                                }
                                inverse[c] = found.inverse;
                            }
                        }
                    },
                );
            });
    }

    /// The backward pass: replaces `dy` by dx, and writes the gradients of γ and β.
    pub fn backward(
        &self,
        gamma: &[Row],
        forward: Forward<'_>,
        dy: &mut [Block],
        dgamma: &mut [Row],
        dbeta: &mut [Row],
    ) {
        let part = dy.len() / gamma.len();
        let batch = forward.batch;
        dy.par_chunks_mut(part)
            .zip_eq(forward.normalised.par_chunks(part).zip_eq(forward.output.par_chunks(part)))
            .zip_eq(gamma.par_iter().zip_eq(&self.inverse))
            .zip_eq(dgamma.par_iter_mut().zip_eq(dbeta))
            .for_each(|(((d, (xhat, y)), (gamma, inverse)), (dgamma, dbeta))| {
                vectorised(
                    #[inline(always)]
                    || {
                        let scale = std::array::from_fn(|c| gamma[c] * inverse[c]);
                        for first in (0..LANES).step_by(GROUP) {
                            let found = gradient(d, (xhat, y), first, &scale, batch);
                            for (c, (dot, sum)) in (first..).zip(found) {
                                (dgamma[c], dbeta[c]) = (dot, sum);
                            }
                        }
                    },
                );
            });
    }
}

/// The results of the forward pass, for the backward pass.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// x̂.
    pub normalised: &'a [Block],
    /// The output.
    pub output: &'a [Block],
    /// The batch.
    pub batch: Batch,
}

/// The number of channels that are processed together: their rows of a block are neighbouring cache lines, and their
/// sums fit into registers.
const GROUP: usize = 4;

/// The sums of each channel of a group, one for each lane.
type Sums = [[f64; LANES]; GROUP];

/// The statistics of a channel over a batch.
struct ChannelStatistics {
    mean: f32,
    unbiased: f32,
    inverse: f32,
}

/// The rows of a group in a block.
#[inline(always)]
fn group(block: &Block, first: usize) -> &[Row; GROUP] {
    &block.0.as_chunks().0[first / GROUP]
}

#[inline(always)]
fn group_mut(block: &mut Block, first: usize) -> &mut [Row; GROUP] {
    &mut block.0.as_chunks_mut().0[first / GROUP]
}

/// Normalises the group of channels from `first` on in place, and writes the output γ x̂ + β, clipped at 0.
#[inline(always)]
fn normalise(
    x: &mut [Block],
    y: &mut [Block],
    first: usize,
    (gamma, beta): (&Row, &Row),
    batch: Batch,
) -> [ChannelStatistics; GROUP] {
    let n = (x.len() / batch.chunks * batch.samples) as f64;
    // Lanes without a sample are 0 here. Only the squared deviations must leave them out.
    let mut sums: Sums = [[0.0; LANES]; GROUP];
    for block in &*x {
        for (sums, row) in sums.iter_mut().zip(group(block, first)) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
    }
    let mean = sums.map(|lanes| (sum(&lanes) / n) as f32);
    let mut sums: Sums = [[0.0; LANES]; GROUP];
    for (at, block) in x.iter().enumerate() {
        let filled = batch.filled(at % batch.chunks);
        for c in 0..GROUP {
            let mut shifted = group(block, first)[c].map(|v| v - mean[c]);
            clear_from(&mut shifted, filled);
            sums[c].iter_mut().zip(&shifted).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
        }
    }
    let squares = sums.map(|lanes| sum(&lanes));
    let inverse = squares.map(|s| (1.0 / (s / n + EPSILON).sqrt()) as f32);
    for (at, (x, y)) in x.iter_mut().zip(y).enumerate() {
        let filled = batch.filled(at % batch.chunks);
        let (x, y) = (group_mut(x, first), group_mut(y, first));
        for c in 0..GROUP {
            x[c] = x[c].map(|v| (v - mean[c]) * inverse[c]);
            clear_from(&mut x[c], filled);
            y[c] = x[c].map(|x| relu(gamma[first + c] * x + beta[first + c]));
            clear_from(&mut y[c], filled);
        }
    }
    std::array::from_fn(|c| ChannelStatistics {
        mean: mean[c],
        unbiased: (squares[c] / (n - 1.0).max(1.0)) as f32,
        inverse: inverse[c],
    })
}

/// Computes the input gradient of the group of channels from `first` on in place. `scale` is γ / √(var + ε). Returns
/// the gradients of γ and β.
#[inline(always)]
fn gradient(
    d: &mut [Block],
    (xhat, y): (&[Block], &[Block]),
    first: usize,
    scale: &Row,
    batch: Batch,
) -> [(f32, f32); GROUP] {
    let n = (d.len() / batch.chunks * batch.samples) as f64;
    let (mut dots, mut sums): (Sums, Sums) = ([[0.0; LANES]; GROUP], [[0.0; LANES]; GROUP]);
    for ((d, x), y) in d.iter().zip(xhat).zip(y) {
        let (d, x, y) = (group(d, first), group(x, first), group(y, first));
        for c in 0..GROUP {
            let g = clipped(&d[c], &y[c]);
            sums[c].iter_mut().zip(&g).for_each(|(s, g)| *s += f64::from(*g));
            dots[c].iter_mut().zip(g.iter().zip(&x[c])).for_each(|(s, (g, x))| *s += f64::from(*g) * f64::from(*x));
        }
    }
    let (dots, sums) = (dots.map(|lanes| sum(&lanes)), sums.map(|lanes| sum(&lanes)));
    for (at, ((d, x), y)) in d.iter_mut().zip(xhat).zip(y).enumerate() {
        let filled = batch.filled(at % batch.chunks);
        let (d, x, y) = (group_mut(d, first), group(x, first), group(y, first));
        for c in 0..GROUP {
            let (mean_dot, mean) = ((dots[c] / n) as f32, (sums[c] / n) as f32);
            d[c] = clipped(&d[c], &y[c]);
            for (g, x) in d[c].iter_mut().zip(&x[c]) {
                *g = scale[first + c] * (*g - mean - x * mean_dot);
            }
            clear_from(&mut d[c], filled);
        }
    }
    std::array::from_fn(|c| (dots[c] as f32, sums[c] as f32))
}

/// The gradient before ReLU: 0 where the output is 0.
#[inline(always)]
fn clipped(d: &Row, y: &Row) -> Row {
    let mut out = *d;
    for (g, y) in out.iter_mut().zip(y) {
        *g = if *y > 0.0 { *g } else { 0.0 };
    }
    out
}

/// Adds a bias to each channel, and clips at 0 if `RELU`. `bias` holds a row for each panel, or for each panel and
/// pixel.
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

/// Computes the gradient of a bias, with rows as in [`add_bias`].
pub fn bias_backward(dy: &[Block], dbias: &mut [Row]) {
    let part = dy.len() / dbias.len();
    dy.par_chunks(part).zip_eq(dbias).for_each(|(d, dbias)| {
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
            },
        );
    });
}

/// The backward pass of ReLU without a norm, in place.
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

/// `max(v, 0)`, but NaN for NaN, as in PyTorch: a diverged network must not look finite.
#[inline(always)]
fn relu(v: f32) -> f32 {
    if v < 0.0 { 0.0 } else { v }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Streams;

    #[test]
    fn batch_is_normalised_and_running_statistics_move_by_a_tenth() {
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
        assert_eq!(clipped, below + 4 * 13, "negative values, and the 13 lanes of each last chunk without a sample");
    }
}
