//! The model: the decoder, trained and frozen, and the same through candle's own operations.

pub mod decoder;
pub mod graph;
pub mod posterior;

pub use decoder::{Decoder, DecoderShape, Frozen, Step};
pub use graph::{GraphDecoder, GraphStep};
