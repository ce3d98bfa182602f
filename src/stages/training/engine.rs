//! The interface between the training loop and the device that computes its steps. `cpu` and `cuda` implement it.

use std::collections::BTreeMap;

use super::schedule::Epoch;
use crate::artifact::Tensor;
use crate::model::StepLoss;
use crate::stage::StageError;

/// Computes the steps of a training.
///
/// The training loop calls [`Engine::step`] for the steps of an epoch in their order. An engine may return from it
/// before the step is done.
pub(super) trait Engine {
    /// Begins an epoch, or continues one after its first `from` steps.
    ///
    /// # Errors
    /// If the device fails.
    fn begin_epoch(&mut self, epoch: &Epoch<'_>, from: usize) -> Result<(), StageError>;

    /// Starts a step: draws z, runs the network forward and backward, and updates what learns. Allocates nothing once
    /// there are buffers for the sizes of batch in the epoch.
    ///
    /// # Errors
    /// If the device fails. An earlier step's failure may show only here.
    fn step(&mut self, epoch: &Epoch<'_>, step: usize) -> Result<(), StageError>;

    /// Appends the losses that it has not returned yet, in the order of the steps. With `wait`, of all steps that were
    /// started; otherwise only as far as they are known without waiting for the device.
    ///
    /// # Errors
    /// If the device fails.
    fn losses(&mut self, wait: bool, into: &mut Vec<StepLoss>) -> Result<(), StageError>;

    /// Everything that the next step reads: `decoder.*` if the decoder learns, and `latents.*`. Waits for all steps,
    /// and brings the decoder and the latents on the host up to date. Uses the memory of `spare`, a state that is no
    /// longer needed.
    ///
    /// # Errors
    /// If the device fails.
    fn state(&mut self, spare: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, StageError>;

    /// Goes to a state that [`Engine::state`] returned, of this engine or another.
    ///
    /// # Errors
    /// If the state is that of another training.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), StageError>;
}
