//! `train-ad`: an auto-decoder, a decoder trained together with one latent vector for each image.

use std::sync::Arc;

use super::training::joint;
use crate::stage::{About, Capability, Params, Role, Roles, Stage, StageKind};

/// The stage kind `train-ad`.
pub(super) struct TrainAd;

impl StageKind for TrainAd {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }]),
            provides: &[Capability::DECODER, Capability::LATENTS, Capability::HISTORY, Capability::RECONSTRUCTIONS],
            heading: "Auto-decoders",
            ..About::new("train-ad", 2, "train an auto-decoder: a decoder and one latent vector for each train image")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        joint::parse(params, None, 1e-3)
    }
}
