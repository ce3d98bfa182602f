//! A frozen decoder as a state, which [`crate::model::cuda`] reads its decoder from.

use std::collections::BTreeMap;

use crate::artifact::{Tensor, TensorError};
use crate::ops::block::LANES;

use super::{Decoder, Frozen};

impl Frozen {
    /// The state of a decoder whose norms only add β: γ is 1, β is the folded bias, and the statistics are 0 and 1. A
    /// reader must leave the normalisation out, because 1 / √(1 + 1e-5) is not 1.
    ///
    /// # Errors
    /// None: the numbers fit the shapes.
    pub fn unfolded_state(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        let mut decoder = Decoder::blank(self.shape);
        decoder.convolutions = self.convolutions.clone();
        decoder.bias.w.clone_from(&self.bias);
        for (norm, folded) in decoder.norms.iter_mut().zip(&self.folded) {
            norm.beta.w.clone_from(folded);
        }
        let mut tail = [0.0; LANES];
        tail[..3].copy_from_slice(&[self.scalars.bias, self.scalars.scale, self.scalars.shift]);
        decoder.tail.w = vec![tail];
        decoder.state()
    }
}
