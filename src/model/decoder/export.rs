//! A frozen decoder as a state, for machines that read their decoder from one ([`crate::model::cuda`]).

use std::collections::BTreeMap;

use crate::artifact::{Tensor, TensorError};
use crate::ops::block::LANES;

use super::{Decoder, Frozen};

impl Frozen {
    /// The state of the decoder whose norms do nothing but add β: γ is 1, β what the fold left of mean and bias, the statistics 0
    /// and 1. (1 / √(1 + 1e-5) is not 1: whoever reads this must leave the normalisation out.)
    ///
    /// # Errors
    /// None in practice: the shapes are the tensors' own.
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
