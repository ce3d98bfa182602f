//! The model: the decoder, trained and frozen, the same through candle's own operations, and the posteriors.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod decoder;
pub mod graph;
pub mod posterior;

pub use decoder::{Decoder, DecoderShape, Frozen, Step};
pub use graph::{GraphDecoder, GraphStep};
