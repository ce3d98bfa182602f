//! The model: the decoder, trained and frozen.

pub mod decoder;

pub use decoder::{Decoder, DecoderShape, Frozen, Step};
