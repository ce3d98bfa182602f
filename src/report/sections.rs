//! The report's sections. Results that a reader compares are in the same section.

mod curves;
mod figures;
mod images;
mod other;
mod scatters;
mod sweeps;

use std::collections::BTreeSet;

use super::Spec;
use super::html::Html;
use super::image::Stack;
use crate::artifact::{Capability, ElementType, Manifest};
use crate::stage::{Cancel, Input, Inputs, StageError};

/// A section. It is left out if it has no content.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) html: Html,
}

/// Shown by the names of their tensors also for kinds that don't say what they provide.
const WITHOUT_DECLARATION: [Capability; 2] = [Capability::HISTORY, Capability::RECONSTRUCTIONS];

/// An input under the name that the report shows.
pub(super) struct Item<'a> {
    name: String,
    input: &'a dyn Input,
}

impl Item<'_> {
    fn manifest(&self) -> &Manifest {
        self.input.manifest()
    }

    fn kind(&self) -> &str {
        &self.manifest().kind
    }

    fn provides(&self, what: Capability) -> bool {
        self.input.provides().contains(what.name())
    }

    /// Whether it declares what it provides, beside outputs that the pipeline names.
    fn declares(&self) -> bool {
        self.input.provides().iter().any(|name| name != Capability::OUTPUTS.name())
    }

    /// Whether a section about this shows it.
    fn shows(&self, what: Capability) -> bool {
        let is_known_by_tensors = || {
            !self.declares()
                && WITHOUT_DECLARATION.contains(&what)
                && what.missing(self.manifest().tensors.keys()).is_none()
        };
        self.provides(what) || is_known_by_tensors()
    }

    fn has(&self, tensor: &str) -> bool {
        self.manifest().tensors.contains_key(tensor)
    }

    /// A fact as text, if it is a scalar.
    fn fact(&self, name: &str) -> Option<String> {
        match self.manifest().facts.get(name)? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            serde_json::Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// The names of the classes.
    fn classes(&self) -> Vec<String> {
        let names = self.manifest().facts.get("classes").and_then(|v| v.as_array());
        names.into_iter().flatten().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect()
    }

    /// The elements of a float tensor of any shape.
    fn floats(&self, name: &str) -> Result<Vec<f64>, StageError> {
        let tensor = self.input.tensor(name)?;
        Ok(match tensor.element() {
            ElementType::F32 => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
            _ => tensor.to_vec::<f64>()?,
        })
    }

    fn images(&self, name: &str) -> Result<Stack, StageError> {
        Ok(Stack::new(&self.input.tensor(name)?)?)
    }
}

/// The names under which a report shows its inputs. References use them.
pub fn names(inputs: &Inputs) -> Vec<String> {
    items(inputs).into_iter().map(|item| item.name).collect()
}

fn items(inputs: &Inputs) -> Vec<Item<'_>> {
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut seen = BTreeSet::new();
    for (role, members) in &inputs.0 {
        for member in members {
            let plain = if members.len() == 1 { role.as_str() } else { member.label() };
            let digest = member.manifest().digest();
            if !seen.insert((plain.to_owned(), digest)) {
                // The same artifact under the same name through two roles.
                continue;
            }
            let taken = items.iter().any(|i| i.name == plain);
            let name = if taken { format!("{plain} ({role})") } else { plain.to_owned() };
            items.push(Item { name, input: &**member });
        }
    }
    items
}

/// All sections that have something to show, in the order of reading.
pub(super) fn all(spec: &Spec, inputs: &Inputs, cancel: &Cancel) -> Result<Vec<Section>, StageError> {
    let items = items(inputs);
    let mut sections = vec![Section { id: "figures", title: "Figures", html: figures::render(spec, &items)? }];
    type Render = fn(&[&Item<'_>]) -> Result<Html, StageError>;
    let rest: [(&'static str, &'static str, Option<Capability>, Render); 9] = [
        ("sweeps", "Sweeps", None, sweeps::render),
        ("data", "Data", Some(Capability::EXAMPLES), images::data),
        ("training", "Training", Some(Capability::HISTORY), curves::trainings),
        ("fitting", "Fitting latents", Some(Capability::FITTED_LATENTS), curves::fits),
        ("reconstructions", "Reconstructions", Some(Capability::RECONSTRUCTIONS), images::reconstructions),
        ("samples", "Samples and magnitudes", Some(Capability::SAMPLES), images::samples),
        ("interpolations", "Interpolations", Some(Capability::INTERPOLATION), images::interpolations),
        ("embeddings", "Embeddings", Some(Capability::EMBEDDING), scatters::render),
        ("other", "Other results", None, other::render),
    ];
    for (id, title, shown, render) in rest {
        cancel.check()?;
        let items: Vec<&Item<'_>> = items.iter().filter(|i| shown.is_none_or(|what| i.shows(what))).collect();
        sections.push(Section { id, title, html: render(&items)? });
    }
    sections.retain(|s| !s.html.is_empty());
    Ok(sections)
}
