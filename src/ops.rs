//! Operations that candle lacks or does slowly: transposed convolution, batch norm, Adam and the decoder's tail, on CPU.
//!
//! # Layout
//! Everything big is an array of [`block::Block`]s: 16 × 16 numbers, 1 KiB, aligned to a cache line.
//! - Activations: `[channel panel][pixel][chunk][16 channels][16 samples]`. A panel is 16 channels, a chunk 16 samples of the
//!   batch; channels and samples are padded with zeros. A SIMD register holds one channel of 16 samples.
//! - "Rows": the same with each block transposed, `[16 samples][16 channels]`; only gradients have it.
//! - Weights: `[ci panel][tap][co panel][16 ci][16 co]`.
//!
//! With the batch in the lanes, forward pass and input gradient read a weight as a *broadcast scalar*, for which it does
//! not matter along which of its two channel axes one walks: no transposed copy of the weights is ever needed. For the
//! weight gradient, which sums over the batch, the activations are the scalars and the gradient's rows the vectors. All
//! three are one small kernel ([`kernel::accumulate`]).
//!
//! Which blocks are multiplied is listed by a [`plan`]: pixels and taps as they are, or by [`winograd`]'s minimal filtering linear
//! forms of both, in the same layouts with signals and sums in the place of pixels, and forms in that of taps.
//!
//! # Determinism
//! Every element of a result is made by one task, as chains of fused multiply-adds, a few with minimal filtering, which are then added, in an order that depends on the shapes
//! only. Additions, multiplications, fused multiply-adds, divisions and square roots are exactly rounded, and the compiler fuses none, so the bytes are the same for any number of threads
//! and for any instruction set.

pub mod adam;
pub mod block;
pub mod kernel;
pub mod norm;
pub mod plan;
pub mod tail;
pub mod transposed;
pub mod tsne;
pub mod winograd;
