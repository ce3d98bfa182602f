//! `interpolate`: decoded steps between the latents of two train images, on a straight line or on a great circle.
//!
//! With the angle ω between the latents a and b, the great circle (Shoemake 1985) is
//! `sin((1−t)ω)/sin ω · a + sin(tω)/sin ω · b`.

use std::sync::Arc;

use super::reading;
use super::training::evaluation;
use crate::artifact::{Artifact, Tensor};
use crate::diagnostic::nearest;
use crate::stage::{About, Capability, Context, Input, Params, Reads, Role, Roles, Stage, StageError, StageKind};
use crate::value::Data;

/// The kind.
pub(super) struct Interpolate;

impl StageKind for Interpolate {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[
                Role { name: "data", optional: false, needs: &[Capability::IMAGES] },
                Role { name: "model", optional: false, needs: &[Capability::DECODER, Capability::LATENTS] },
            ]),
            provides: &[Capability::INTERPOLATION],
            facts: &["steps"],
            heading: "Interpolations",
            ..About::new("interpolate", 2, "decode a path between the latents of two train images")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let from = choice(params, "from", "Trouser");
        let to = choice(params, "to", "Shirt");
        if let Some(class) = [&from, &to].into_iter().find_map(Choice::class) {
            params.need_of_input("data", Capability::LABELS, &format!("the class `{class}`"));
        }
        let steps = params.describe("the number of images").int("steps", 10, 2..=10_000) as usize;
        params.describe("the path: a straight line, or the arc of a circle");
        let mode = params.choice("mode", "linear", &[("linear", Mode::Linear), ("spherical", Mode::Spherical)]);
        Arc::new(Interpolation { from, to, steps, mode })
    }
}

/// A train image.
#[derive(Clone, Debug, PartialEq)]
enum Choice {
    /// The first of this class.
    Class(String),
    /// The one with this index.
    Index(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Linear,
    Spherical,
}

struct Interpolation {
    from: Choice,
    to: Choice,
    steps: usize,
    mode: Mode,
}

/// Reads `from` or `to`: a class name or an index.
fn choice(params: &mut Params<'_>, name: &'static str, default: &str) -> Choice {
    match params.describe("a train image: an index, or a class for its first image").node(name).map(|node| node.data) {
        None => Choice::Class(params.default(name, default.to_owned())),
        Some(Data::Text(class)) => Choice::Class(class),
        Some(Data::Int(index)) if index >= 0 => Choice::Index(index as usize),
        Some(other) => {
            let found = other.value();
            let message = format!("`{name}` must be a class name or an index from 0, not {found}");
            params.error(name, message, "such as \"Trouser\" or 17");
            Choice::Index(0)
        }
    }
}

impl Choice {
    fn class(&self) -> Option<&str> {
        if let Self::Class(name) = self { Some(name) } else { None }
    }

    fn fact(&self) -> serde_json::Value {
        match self {
            Self::Class(name) => name.as_str().into(),
            Self::Index(index) => (*index).into(),
        }
    }

    /// The index into the train split.
    fn resolve(&self, data: &dyn Input, count: usize) -> Result<usize, StageError> {
        match self {
            Self::Index(index) if *index < count => Ok(*index),
            Self::Index(index) => {
                let message = format!("there is no train image {index}: `{}` has {count}", data.label());
                Err(StageError::bad_input(message, format!("use an index from 0 to {}", count - 1)))
            }
            Self::Class(wanted) => {
                let (labels, names) = reading::train_labels(data)?;
                first_of_class(data.label(), wanted, &labels, &names)
            }
        }
    }
}

/// The first sample of the class with this name. Case does not matter if the name is unambiguous without it.
fn first_of_class(data: &str, wanted: &str, labels: &[u8], names: &[String]) -> Result<usize, StageError> {
    let exact = names.iter().position(|name| name == wanted);
    let mut loose = names.iter().enumerate().filter(|(_, name)| name.to_lowercase() == wanted.to_lowercase());
    let class = exact.or_else(|| loose.next().filter(|_| loose.next().is_none()).map(|(class, _)| class));
    let Some(class) = class else {
        let near = nearest(wanted, names.iter().map(String::as_str));
        let hint = match near {
            Some(near) => format!("did you mean `{near}`? The classes are {}", names.join(", ")),
            None if names.is_empty() => "it names no classes: use an index".to_owned(),
            None => format!("the classes are {}", names.join(", ")),
        };
        return Err(StageError::bad_input(format!("`{data}` has no class `{wanted}`"), hint));
    };
    labels.iter().position(|label| usize::from(*label) == class).ok_or_else(|| {
        let present = names.iter().enumerate().filter(|(i, _)| labels.iter().any(|l| usize::from(*l) == *i));
        let present = present.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("no train image of `{data}` is of the class `{}`", names[class]);
        StageError::bad_input(message, format!("there are images of {present}"))
    })
}

impl Stage for Interpolation {
    fn reads(&self) -> Reads {
        Reads { seed: false, precision: true, files: false }
    }

    fn parallel(&self) -> bool {
        true
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        reading::check_precision(context)?;
        let data = context.inputs.one("data")?;
        let count = reading::images(data, reading::Split::Train)?.count;
        let mut model = reading::model(context.inputs.one("model")?)?;
        model.check_samples(data, count)?;
        let (from, to) = (self.from.resolve(data, count)?, self.to.resolve(data, count)?);
        let dim = model.latent_dim();
        let latents = reading::latents(model.input(), dim)?;
        let row = |i: usize| &latents[i * dim..(i + 1) * dim];
        let z = way(row(from), row(to), self.steps, self.mode);

        let mut artifact = Artifact::default();
        artifact.tensors.insert("images".to_owned(), evaluation::decode(context, &mut model.decoder, &z)?);
        artifact.tensors.insert("latents".to_owned(), Tensor::new([self.steps, dim], &z)?);
        artifact.metrics.insert("steps".to_owned(), self.steps as f64);
        artifact.facts.insert("from".to_owned(), self.from.fact());
        artifact.facts.insert("to".to_owned(), self.to.fact());
        artifact.facts.insert("from_index".to_owned(), from.into());
        artifact.facts.insert("to_index".to_owned(), to.into());
        artifact.facts.insert("mode".to_owned(), self.mode.name().into());
        Ok(artifact)
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Spherical => "spherical",
        }
    }
}

/// `steps` × D numbers from `a` to `b`, both included.
fn way(a: &[f32], b: &[f32], steps: usize, mode: Mode) -> Vec<f32> {
    let angle = if mode == Mode::Spherical { angle(a, b) } else { None };
    let mut z = Vec::with_capacity(steps * a.len());
    for step in 0..steps {
        let t = step as f64 / (steps - 1) as f64;
        let (of_a, of_b) = match angle {
            None => (1.0 - t, t),
            Some(angle) => (libm::sin((1.0 - t) * angle) / libm::sin(angle), libm::sin(t * angle) / libm::sin(angle)),
        };
        z.extend(a.iter().zip(b).map(|(a, b)| (of_a * f64::from(*a) + of_b * f64::from(*b)) as f32));
    }
    z
}

/// The angle between two vectors. `None` if they are nearly parallel or opposite, or 0, and the great circle is not
/// well defined; then the path is a straight line.
fn angle(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    (cosine.abs() < 1.0 - 1e-6).then(|| libm::acos(cosine))
}

#[cfg(test)]
mod tests;
