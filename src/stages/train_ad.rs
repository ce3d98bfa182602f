//! `train-ad`: an auto-decoder, a decoder trained together with one latent vector for each image.

use std::sync::Arc;

use super::training::joint;
use crate::stage::{Capability, Params, Role, Roles, Stage, StageKind};

/// The stage kind `train-ad`.
pub(super) struct TrainAd;

impl StageKind for TrainAd {
    fn name(&self) -> &'static str {
        "train-ad"
    }

    fn version(&self) -> u32 {
        2
    }

    fn summary(&self) -> &'static str {
        "train an auto-decoder: a decoder and one latent vector for each train image"
    }

    fn roles(&self) -> Roles {
        Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }])
    }

    fn provides(&self) -> &'static [Capability] {
        &[Capability::DECODER, Capability::LATENTS, Capability::HISTORY, Capability::RECONSTRUCTIONS]
    }

    fn heading(&self) -> &'static str {
        "Auto-decoders"
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        joint::parse(params, None, 1e-3)
    }
}
