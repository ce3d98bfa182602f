//! CPU operations that candle lacks or computes slowly: transposed convolution, batch norm, Adam, the decoder's tail,
//! and t-SNE.
//!
//! # Layout
//! Every large array consists of [`block::Block`]s: 16 × 16 numbers, 1 KiB, aligned to a cache line. A panel is 16
//! channels, a chunk is 16 samples of the batch. Channels and samples are padded with zeros.
//! - Activations: `[channel panel][pixel][chunk][16 channels][16 samples]`. A SIMD register holds one channel of 16
//!   samples.
//! - Rows: the same with each block transposed, `[16 samples][16 channels]`. Only gradients have this layout.
//! - Weights: `[ci panel][tap][co panel][16 ci][16 co]`.
//!
//! The lanes of a register are samples, so the forward pass and the input gradient read a weight as a *broadcast
//! scalar*. Both channel axes of a block are equally fast to read that way, so the weights need no transposed copy. The
//! weight gradient sums over the batch: its scalars are the activations, its vectors the rows of the gradient. All
//! three use one kernel, [`kernel::accumulate`].
//!
//! A [`plan`] lists which blocks are multiplied. They are those of pixels and taps or, with the minimal filtering of
//! [`winograd`], linear combinations of both. The layouts are then the same, with signals and sums instead of pixels,
//! and forms instead of taps.
//!
//! # Determinism
//! One task computes each element of a result, as one chain of fused multiply-adds; with minimal filtering, as the sum
//! of a few chains. The order of the additions depends only on the shapes. Additions, multiplications, fused
//! multiply-adds, divisions and square roots are correctly rounded, and the compiler never fuses operations by itself.
//! So the bytes are the same for any number of threads and any instruction set.

pub mod adam;
pub mod block;
pub mod kernel;
pub mod norm;
pub mod plan;
mod products;
pub mod tail;
pub mod transposed;
pub mod tsne;
pub mod winograd;
