//! `decode`: the images of chosen latents: samples of the model's prior, all ones, all zeros, or given latents, each
//! scaled.

use std::sync::Arc;

use super::reading::{self, Model};
use super::training::evaluation;
use crate::artifact::{Artifact, Tensor};
use crate::model::posterior::Distribution;
use crate::stage::{About, Bound, Capability, Context, Params, Reads, Role, Roles, Stage, StageError, StageKind};

/// Reported while planning if the inputs are known, or else when the stage runs.
const NO_LATENTS: &str = "`what = \"latents\"` needs the input `latents`";
const ADD_LATENTS: &str = "add a stage with latents to `inputs`, such as `latents = \"fit\"`";

/// The kind.
pub(super) struct Decode;

impl StageKind for Decode {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[
                Role { name: "model", optional: false, needs: &[Capability::DECODER] },
                Role { name: "latents", optional: true, needs: &[Capability::LATENTS] },
            ]),
            provides: &[Capability::SAMPLES],
            facts: &["count"],
            heading: "Decoded latents",
            ..About::new("decode", 2, "decode samples of the prior, all ones, all zeros or given latents")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let what = params.describe("the latents to decode").choice(
            "what",
            "prior",
            &What::ALL.map(|what| (what.name(), what)),
        );
        let count = params.describe("the number of images").int("count", 10, 1..=100_000) as usize;
        let scale = params.describe("a factor for the latents").float("scale", 1.0, Bound::Finite);
        match (what, params.has_input("latents")) {
            (What::Latents, Some(false)) => params.error("what", NO_LATENTS, ADD_LATENTS),
            (What::Prior | What::Ones | What::Zeros, Some(true)) => {
                let message = format!("`what = \"{}\"` does not read the input `latents`", what.name());
                params.error_in_input("latents", message, "write `what = \"latents\"`, or leave the input out");
            }
            _ => {}
        }
        Arc::new(Decoding { what, count, scale })
    }
}

/// Which latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Prior,
    Ones,
    Zeros,
    Latents,
}

impl What {
    const ALL: [Self; 4] = [Self::Prior, Self::Ones, Self::Zeros, Self::Latents];

    fn name(self) -> &'static str {
        match self {
            Self::Prior => "prior",
            Self::Ones => "ones",
            Self::Zeros => "zeros",
            Self::Latents => "latents",
        }
    }
}

struct Decoding {
    what: What,
    count: usize,
    scale: f64,
}

impl Stage for Decoding {
    fn reads(&self) -> Reads {
        Reads { seed: self.what == What::Prior, precision: true, files: false }
    }

    fn parallel(&self) -> bool {
        true
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        reading::check_precision(context)?;
        let mut model = reading::model(context.inputs.one("model")?)?;
        let mut z = self.latents(context, &model)?;
        z.iter_mut().for_each(|v| *v *= self.scale as f32);
        let images = evaluation::decode(context, &mut model.decoder, &z)?;
        let mut artifact = Artifact::default();
        artifact.tensors.insert("images".to_owned(), images);
        artifact.tensors.insert("latents".to_owned(), Tensor::new([self.count, model.latent_dim()], &z)?);
        artifact.metrics.insert("count".to_owned(), self.count as f64);
        artifact.facts.insert("what".to_owned(), self.what.name().into());
        artifact.facts.insert("scale".to_owned(), self.scale.into());
        Ok(artifact)
    }
}

impl Decoding {
    /// The latents before scaling, count × D.
    fn latents(&self, context: &Context<'_>, model: &Model<'_>) -> Result<Vec<f32>, StageError> {
        let size = self.count * model.latent_dim();
        match self.what {
            What::Zeros => Ok(vec![0.0; size]),
            What::Ones => Ok(vec![1.0; size]),
            What::Prior => {
                let mut z = vec![0.0; size];
                // An AD has no prior of its own: its latents started at N(0, 1).
                let prior = model.distribution.unwrap_or(Distribution::Gaussian);
                prior.prior(&mut context.streams.stream("decode prior", 0, 0), &mut z);
                Ok(z)
            }
            What::Latents => {
                let given = context.inputs.optional("latents");
                let given = given.ok_or_else(|| StageError::bad_input(NO_LATENTS, ADD_LATENTS))?;
                let mut z = reading::latents(given, model.latent_dim())?;
                let there = z.len() / model.latent_dim();
                if there < self.count {
                    let message = format!("`count` is {}, but `{}` has {there} latents", self.count, given.label());
                    return Err(StageError::bad_input(message, format!("set `count` to {there} or less")));
                }
                z.truncate(size);
                Ok(z)
            }
        }
    }
}

#[cfg(test)]
mod tests;
