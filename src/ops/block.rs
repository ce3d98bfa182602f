//! The 16 × 16 block of which all large arrays consist, and operations inside one. See [`crate::ops`] for the layout.

use rayon::iter::repeat_n;
use rayon::prelude::*;

use crate::system::vec_on_large_pages;

/// The number of samples in a SIMD register, and of channels in a panel.
pub const LANES: usize = 16;

/// One row of a block. It fills a cache line and an AVX-512 register.
pub type Row = [f32; LANES];

/// 16 rows of 16 numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Block(pub [Row; LANES]);

// SAFETY: `Block` is a `repr(C)` struct of an array of `f32`. Its size, 1024, is a multiple of its alignment, so it has
// no padding, and every bit pattern is a valid `f32`.
#[expect(unsafe_code, reason = "lets bytemuck view blocks as numbers; bytemuck's derive is not among our features")]
unsafe impl bytemuck::Zeroable for Block {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "lets bytemuck view blocks as numbers; bytemuck's derive is not among our features")]
unsafe impl bytemuck::Pod for Block {}

impl Block {
    /// All zeros.
    pub const ZERO: Self = Self([[0.0; LANES]; LANES]);

    /// The block with rows and columns exchanged.
    #[inline(always)]
    pub fn transposed(&self) -> Self {
        let mut out = Self::ZERO;
        for (r, row) in self.0.iter().enumerate() {
            for (c, v) in row.iter().enumerate() {
                out.0[c][r] = *v;
            }
        }
        out
    }
}

/// The number of panels of `n` channels, or of chunks of `n` samples.
pub fn panels(n: usize) -> usize {
    n.div_ceil(LANES)
}

/// The number of unused blocks behind a large array. Without them, arrays of equal size would begin at nearly the same
/// offset within a large page. Adam uses three of them together, and their blocks would be in the same banks of the
/// memory.
const GAP: usize = 64;

/// The size of a large array, in blocks.
const LARGE: usize = 1 << 11;

/// `n` zeroed blocks, on large pages if they fill at least one. A pass over weights jumps from block to block, and an
/// ordinary page holds only four blocks, so that nearly each jump would miss the TLB.
pub fn zeroed(n: usize) -> Vec<Block> {
    if n < LARGE {
        return bytemuck::zeroed_vec(n);
    }
    let mut blocks = vec_on_large_pages(n + GAP);
    repeat_n(Block::ZERO, n).collect_into_vec(&mut blocks);
    blocks
}

/// The sizes of a batch. Its samples are in chunks of 16; the last chunk may be partly filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of samples.
    pub samples: usize,
    /// The number of chunks.
    pub chunks: usize,
}

impl Batch {
    /// A batch of this many samples.
    pub fn new(samples: usize) -> Self {
        Self { samples, chunks: panels(samples) }
    }

    /// The number of samples in a chunk.
    #[inline(always)]
    pub fn filled(self, chunk: usize) -> usize {
        (self.samples - chunk * LANES).min(LANES)
    }
}

/// Sets the lanes from `filled` on to zero.
#[inline(always)]
pub fn clear_from(row: &mut Row, filled: usize) {
    for (l, v) in row.iter_mut().enumerate() {
        *v = if l < filled { *v } else { 0.0 };
    }
}

/// The sum of 16 lanes, in lane order.
#[inline(always)]
pub fn sum(lanes: &[f64; LANES]) -> f64 {
    lanes.iter().sum()
}

/// Copies row-major `[samples][channels]` numbers into `[panel][chunk]` blocks whose rows are channels.
pub fn pack(from: &[f32], channels: usize, batch: Batch, to: &mut [Block]) {
    to.fill(Block::ZERO);
    for (b, sample) in from.chunks_exact(channels).enumerate() {
        for (c, v) in sample.iter().enumerate() {
            to[c / LANES * batch.chunks + b / LANES].0[c % LANES][b % LANES] = *v;
        }
    }
}

/// The inverse of [`pack`].
pub fn unpack(from: &[Block], channels: usize, batch: Batch, to: &mut [f32]) {
    for (b, sample) in to.chunks_exact_mut(channels).enumerate() {
        for (c, v) in sample.iter_mut().enumerate() {
            *v = from[c / LANES * batch.chunks + b / LANES].0[c % LANES][b % LANES];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_array_is_zero_and_has_a_gap() {
        let blocks = zeroed(LARGE + 1);
        assert!(blocks.len() == LARGE + 1 && blocks.iter().all(|block| *block == Block::ZERO));
        assert!(blocks.capacity() >= LARGE + 1 + GAP);
    }

    #[test]
    fn packed_numbers_unpack_and_padding_is_zero() {
        let (channels, batch) = (19, Batch::new(21));
        let from: Vec<f32> = (1..=channels * batch.samples).map(|i| i as f32).collect();
        let mut blocks = zeroed(panels(channels) * batch.chunks);
        pack(&from, channels, batch, &mut blocks);
        let mut back = vec![0.0; from.len()];
        unpack(&blocks, channels, batch, &mut back);
        assert_eq!(from, back);
        let non_zero = bytemuck::cast_slice::<Block, f32>(&blocks).iter().filter(|v| **v != 0.0).count();
        assert_eq!(non_zero, from.len());
        assert_eq!(blocks[1].transposed().0[3][5], blocks[1].0[5][3]);
    }

    #[test]
    fn last_chunk_may_be_partly_filled() {
        let batch = Batch::new(37);
        assert_eq!((batch.chunks, batch.filled(0), batch.filled(1), batch.filled(2)), (3, 16, 16, 5));
        let mut row = [1.0; LANES];
        clear_from(&mut row, 5);
        assert_eq!(row.iter().sum::<f32>(), 5.0);
    }
}
