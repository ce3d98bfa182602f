//! `tsne`: the latents of a training or a fit on the plane, and two figures of how good the map is.
//!
//! | in the artifact | what |
//! |---|---|
//! | `embedding` | f32 [n, 2], centred |
//! | `labels` | `u8 [n]`, indices into the fact `classes`: those of the data's split |
//! | facts | `classes`, `split`, `perplexity` (lowered if there are fewer than 3·perplexity + 1 latents) |
//! | `kl` | the divergence between the neighbourhoods of the latents and those of the map |
//! | `knn_purity` | of the 10 nearest neighbours in the map, the share with the same label, averaged over points |
//! | `knn_recall` | of the 10 nearest neighbours in the map, the share that is also among the 10 nearest latents |

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::artifact::{Artifact, Tensor};
use crate::ops::tsne::{Embedding, Settings, embed, neighbours};
use crate::stage::{
    About, Capability, Context, Input, Params, Reads, Role, Roles, Stage, StageError, StageKind, Update,
};

/// The number of neighbours for purity and recall.
const NEIGHBOURS: usize = 10;

/// A limit for latents: their squares, summed over dimensions, must not overflow.
const LARGEST: f32 = 1e15;

/// The stage kind `tsne`.
pub struct Tsne;

impl StageKind for Tsne {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[
                Role { name: "data", optional: false, needs: &[Capability::LABELS] },
                Role { name: "latents", optional: false, needs: &[Capability::LATENTS] },
            ]),
            provides: &[Capability::EMBEDDING],
            heading: "t-SNE",
            ..About::new("tsne", 1, "a t-SNE map of latents, with its divergence, label purity and neighbour recall")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        params.describe("`train` or `test`, if the latents do not record it");
        let split = params.text("split");
        if let Some(split) = split.as_deref().filter(|s| !["train", "test"].contains(s)) {
            let help = "write \"train\" or \"test\", or leave it out: the latents record their split";
            params.error("split", format!("`split` must be one of train, test, not {split:?}"), help);
        }
        let perplexity =
            at_least_one(params.describe("roughly the number of neighbours of an image"), "perplexity", 30.0);
        let iterations = params.describe("the number of steps").int("iterations", 750, 1..=100_000) as usize;
        let exaggeration = at_least_one(params.describe("the factor of attraction at the start"), "exaggeration", 12.0);
        Arc::new(Map { split, settings: Settings { perplexity, iterations, exaggeration } })
    }
}

fn at_least_one(params: &mut Params<'_>, name: &'static str, default: f64) -> f64 {
    let value = params.float(name, default, crate::stage::Bound::Positive);
    if value < 1.0 {
        params.error(
            name,
            format!("`{name}` must be 1 or more, not {value:?}"),
            format!("the usual value is {default}"),
        );
    }
    value
}

struct Map {
    split: Option<String>,
    settings: Settings,
}

impl Stage for Map {
    fn reads(&self) -> Reads {
        Reads { seed: true, precision: false, files: false }
    }

    fn parallel(&self) -> bool {
        true
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let (data, latents) = (context.inputs.one("data")?, context.inputs.one("latents")?);
        let split = self.split_of(latents)?;
        let points = Points::read(latents)?;
        let labels = labels(data, latents, &split, points.n)?;
        let perplexity = self.settings.perplexity_for(points.n);
        if perplexity < self.settings.perplexity {
            let asked = self.settings.perplexity;
            let line =
                format!("perplexity lowered from {asked} to {perplexity:.2}: there are only {} latents", points.n);
            context.progress.log(&line);
        }
        let map = self.embed(context, &points)?;
        let coordinates: Vec<f32> = map.coordinates.iter().flatten().copied().collect();
        let (purity, recall) = quality(context, &map, &coordinates, &labels)?;

        let mut artifact = Artifact::default();
        artifact.tensors.insert("embedding".to_owned(), Tensor::new([points.n, 2], &coordinates)?);
        artifact.tensors.insert("labels".to_owned(), Tensor::vector(&labels));
        for (name, value) in [("kl", map.kl), ("knn_purity", purity), ("knn_recall", recall)] {
            artifact.metrics.insert(name.to_owned(), value);
        }
        let classes = data.manifest().facts.get("classes").cloned().unwrap_or_else(|| serde_json::json!([]));
        artifact.facts.insert("classes".to_owned(), classes);
        artifact.facts.insert("split".to_owned(), split.into());
        artifact.facts.insert("perplexity".to_owned(), perplexity.into());
        Ok(artifact)
    }
}

impl Map {
    /// The split of the latents. If the latents record it, `split` must not differ.
    fn split_of(&self, latents: &dyn Input) -> Result<String, StageError> {
        let known = latents.manifest().facts.get("split").and_then(|s| s.as_str());
        match (known, &self.split) {
            (Some(known), Some(asked)) if known != asked => Err(StageError::bad_input(
                format!("`split = {asked:?}`, but the latents of {} are of the {known} split", latents.label()),
                "leave `split` out, or name a stage that fits that split",
            )),
            (Some(split), _) => Ok(split.to_owned()),
            (None, Some(split)) => Ok(split.clone()),
            (None, None) => Err(StageError::bad_input(
                format!("{} does not record the split of its latents", latents.label()),
                "write `split = \"train\"` or `split = \"test\"`",
            )),
        }
    }

    fn embed(&self, context: &Context<'_>, points: &Points) -> Result<Embedding, StageError> {
        let total = self.settings.iterations as u64;
        let mut latest = None;
        let mut progress = |step: usize, kl: Option<f64>| {
            latest = kl.or(latest);
            context.progress.update(Update {
                done: step as u64,
                total,
                unit: "iterations",
                figures: latest.map(|kl| ("kl".into(), kl)).into_iter().collect(),
                rate: None,
                epoch_end: false,
            });
            go_on(context)
        };
        embed(&points.values, points.n, points.d, &self.settings, context.streams, &mut progress)
            .ok_or(StageError::Interrupted)
    }
}

fn go_on(context: &Context<'_>) -> ControlFlow<()> {
    if context.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// The latents: `n` rows of `d` values.
struct Points {
    values: Vec<f32>,
    n: usize,
    d: usize,
}

impl Points {
    fn read(latents: &dyn Input) -> Result<Self, StageError> {
        let tensor = latents.tensor("latents")?;
        let [n, d] = tensor.shape()[..] else {
            let message = format!("the latents of {} have shape {:?}, not [n, d]", latents.label(), tensor.shape());
            return Err(StageError::BadInput { message, hint: None });
        };
        let values: Vec<f32> = tensor.to_vec()?;
        if let Some(at) = values.iter().position(|v| v.is_nan() || v.abs() > LARGEST) {
            return Err(StageError::bad_input(
                format!("latent {} of {} is {}", at / d.max(1), latents.label(), values[at]),
                "the training that made it has diverged; lower its learning rate",
            ));
        }
        Ok(Self { values, n, d })
    }
}

fn labels(data: &dyn Input, latents: &dyn Input, split: &str, n: usize) -> Result<Vec<u8>, StageError> {
    let labels: Vec<u8> = data.tensor(&format!("{split}.labels"))?.to_vec()?;
    if labels.len() == n {
        return Ok(labels);
    }
    Err(StageError::bad_input(
        format!("{} has {n} latents, but {} has {} {split} labels", latents.label(), data.label(), labels.len()),
        "as `data`, use the stage that the latents were trained on",
    ))
}

/// Purity and recall.
fn quality(
    context: &Context<'_>,
    map: &Embedding,
    coordinates: &[f32],
    labels: &[u8],
) -> Result<(f64, f64), StageError> {
    let n = labels.len();
    let near = neighbours(coordinates, n, 2, NEIGHBOURS, &mut || go_on(context)).ok_or(StageError::Interrupted)?;
    let (mut same, mut kept) = (0usize, 0usize);
    for (i, label) in labels.iter().enumerate() {
        let before = &map.neighbours.of(i)[..near.k];
        same += near.of(i).iter().filter(|j| labels.get(**j as usize) == Some(label)).count();
        kept += near.of(i).iter().filter(|j| before.contains(j)).count();
    }
    // A single point has no neighbours and so no wrong ones.
    let share = |count: usize| if near.k == 0 { 1.0 } else { count as f64 / (n * near.k) as f64 };
    Ok((share(same), share(kept)))
}

#[cfg(test)]
mod tests;
