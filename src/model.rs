//! The model: the decoder, trained and frozen.

pub mod decoder;
pub mod posterior;

pub use decoder::{Decoder, DecoderShape, Frozen, Step};
