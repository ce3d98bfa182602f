//! Small stage kinds for the tests of this module. They have roles and parsers and do no work.

use std::path::Path;
use std::sync::Arc;

use super::{Point, PointInput, Spec, load};
use crate::artifact::Artifact;
use crate::stage::{
    About, Bound, Capability, Context, Curves, Epochs, Params, Registry, Role, Roles, Stage, StageError, StageKind,
};

struct Idle(Option<Epochs>);

impl Stage for Idle {
    fn epochs(&self) -> Option<Epochs> {
        self.0.clone()
    }
    fn curves(&self) -> Curves {
        Curves::Named(&["loss", "rmse"])
    }
    fn run(&self, _context: &Context<'_>) -> Result<Artifact, StageError> {
        Ok(Artifact::default())
    }
}

/// A kind whose stages do nothing.
struct Kind {
    name: &'static str,
    roles: Roles,
    provides: &'static [Capability],
    parse: fn(&mut Params<'_>) -> Option<Epochs>,
}

impl StageKind for Kind {
    fn about(&self) -> About {
        About { roles: self.roles, provides: self.provides, ..About::new(self.name, 1, "for tests") }
    }
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(Idle((self.parse)(params)))
    }
}

const fn role(name: &'static str, optional: bool, needs: &'static [Capability]) -> Role {
    Role { name, optional, needs }
}

/// The kinds, as NAME (inputs; parameters): `load` (no inputs; n, source), `train` (data; width, distribution, segments
/// of rate and epochs), `fit` (data, model, optional start; split, note), `show` (any; title). With a note, `start`
/// needs a decoder.
pub(super) fn registry() -> Registry {
    const DATA: Role = role("data", false, &[Capability::IMAGES]);
    const MODEL: Role = role("model", false, &[Capability::DECODER]);
    const START: Role = role("start", true, &[Capability::LATENTS]);
    let mut registry = Registry::default();
    registry.register(Kind {
        name: "load",
        roles: Roles::Fixed(&[]),
        provides: &[Capability::IMAGES],
        parse: |p| {
            p.int("n", 100, 1..=i64::MAX);
            p.text("source");
            None
        },
    });
    registry.register(Kind {
        name: "train",
        roles: Roles::Fixed(&[DATA]),
        provides: &[Capability::DECODER, Capability::LATENTS],
        parse: |p| {
            p.int("width", 8, 1..=4096);
            p.ints("channels", 1..=4096);
            p.choice("distribution", "gaussian", &[("gaussian", ()), ("uniform", ())]);
            Some(p.segments(10, |s| s.float("rate", 0.01, Bound::Positive)).0)
        },
    });
    registry.register(Kind {
        name: "fit",
        roles: Roles::Fixed(&[DATA, MODEL, START]),
        provides: &[Capability::LATENTS],
        parse: |p| {
            p.choice("split", "test", &[("train", ()), ("test", ())]);
            p.float("rate", 0.1, Bound::NotNegative);
            if p.text("note").is_some() {
                p.need_of_input("start", Capability::DECODER, "`note`");
            }
            None
        },
    });
    registry.register(Kind {
        name: "show",
        roles: Roles::Any,
        provides: &[],
        parse: |p| {
            p.text("title");
            p.node("reference");
            None
        },
    });
    registry
}

/// Reads a pipeline with these kinds.
pub(super) fn read(text: &str, overrides: &[&str]) -> Result<Spec, String> {
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    load(text, "p.toml", Path::new("."), &overrides, &registry()).map_err(|e| e.message)
}

/// Reads a valid pipeline.
pub(super) fn good(text: &str) -> Spec {
    good_with(text, &[])
}

/// Reads a valid pipeline with overrides.
pub(super) fn good_with(text: &str, overrides: &[&str]) -> Spec {
    read(text, overrides).unwrap_or_else(|e| panic!("{e}"))
}

/// The error message of an invalid pipeline. The text gets a first line with the pipeline's name.
pub(super) fn wrong(text: &str) -> String {
    wrong_with(text, &[])
}

/// The error message of an invalid pipeline with overrides.
pub(super) fn wrong_with(text: &str, overrides: &[&str]) -> String {
    match read(&format!("pipeline.name = \"p\"\n{text}"), overrides) {
        Ok(_) => panic!("no error was reported"),
        Err(message) => message,
    }
}

/// The point with this name.
pub(super) fn point<'a>(spec: &'a Spec, name: &str) -> &'a Point {
    let found = spec.points.iter().find(|p| p.name == name);
    found.unwrap_or_else(|| panic!("no point {name} among {:?}", names(spec)))
}

/// The names of all points.
pub(super) fn names(spec: &Spec) -> Vec<&str> {
    spec.points.iter().map(|p| p.name.as_str()).collect()
}

/// A point as `name <- role: input; role: [input, input]`.
pub(super) fn shown(spec: &Spec, point: &Point) -> String {
    let inputs: Vec<String> = point
        .inputs
        .iter()
        .map(|(role, input)| match input {
            PointInput::One(i) => format!("{role}: {}", spec.point(*i).name),
            PointInput::Many { points, skips_missing } => {
                let names: Vec<&str> = points.iter().map(|i| spec.point(*i).name.as_str()).collect();
                format!("{role}: [{}]{}", names.join(", "), if *skips_missing { " or fewer" } else { "" })
            }
        })
        .collect();
    if inputs.is_empty() { point.name.clone() } else { format!("{} <- {}", point.name, inputs.join("; ")) }
}

/// All points in that form, one a line.
pub(super) fn graph(spec: &Spec) -> String {
    spec.points.iter().map(|p| shown(spec, p)).collect::<Vec<_>>().join("\n")
}
