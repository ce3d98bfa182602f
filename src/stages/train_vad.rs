//! `train-vad`: a variational auto-decoder, a decoder trained together with one posterior for each image.

use std::sync::Arc;

use super::training::joint;
use crate::model::posterior::Distribution;
use crate::stage::{Capability, Params, Role, Roles, Stage, StageKind};

/// The stage kind `train-vad`.
pub(super) struct TrainVad;

impl StageKind for TrainVad {
    fn name(&self) -> &'static str {
        "train-vad"
    }

    fn version(&self) -> u32 {
        2
    }

    fn summary(&self) -> &'static str {
        "train a variational auto-decoder: a decoder and one posterior for each train image"
    }

    fn roles(&self) -> Roles {
        Roles::Fixed(&[Role { name: "data", optional: false, needs: &[Capability::IMAGES] }])
    }

    fn provides(&self) -> &'static [Capability] {
        &[Capability::DECODER, Capability::LATENTS, Capability::HISTORY, Capability::RECONSTRUCTIONS]
    }

    fn heading(&self) -> &'static str {
        "Variational auto-decoders"
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let families = Distribution::ALL.map(|d| (d.name(), d));
        let distribution = params.choice("distribution", "gaussian", &families);
        joint::parse(params, Some(distribution), 1e-2)
    }
}
