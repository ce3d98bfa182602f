//! `train-vad`: a variational auto-decoder, a decoder trained together with one posterior for each image.

use std::sync::Arc;

use super::training::joint;
use crate::model::posterior::Distribution;
use crate::stage::{About, Capability, Params, Role, Roles, Stage, StageKind};

/// The stage kind `train-vad`.
pub(super) struct TrainVad;

impl StageKind for TrainVad {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }]),
            provides: &[Capability::DECODER, Capability::LATENTS, Capability::HISTORY, Capability::RECONSTRUCTIONS],
            heading: "Variational auto-decoders",
            ..About::new(
                "train-vad",
                2,
                "train a variational auto-decoder: a decoder and one posterior for each train image",
            )
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let families = Distribution::ALL.map(|d| (d.name(), d));
        params.describe("the family of the posteriors and of the prior");
        let distribution = params.choice("distribution", "gaussian", &families);
        joint::parse(params, Some(distribution), 1e-2)
    }
}
