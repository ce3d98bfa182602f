//! An input of a report.

use crate::artifact::{Capability, ElementType, Manifest};
use crate::report::image::Stack;
use crate::stage::{Input, StageError};

/// Recognised by the names of their tensors in inputs that do not declare what they provide.
const WITHOUT_DECLARATION: [Capability; 2] = [Capability::HISTORY, Capability::RECONSTRUCTIONS];

/// An input under the name that the report shows.
pub(super) struct Item<'a> {
    pub(super) name: String,
    pub(super) input: &'a dyn Input,
}

impl Item<'_> {
    pub(super) fn manifest(&self) -> &Manifest {
        self.input.manifest()
    }

    pub(super) fn kind(&self) -> &str {
        &self.manifest().kind
    }

    pub(super) fn provides(&self, what: Capability) -> bool {
        self.input.provides().contains(what.name())
    }

    /// Whether it declares a capability other than `outputs`.
    pub(super) fn declares(&self) -> bool {
        self.input.provides().iter().any(|name| name != Capability::OUTPUTS.name())
    }

    /// Whether a section about this shows it.
    pub(super) fn shows(&self, what: Capability) -> bool {
        let is_known_by_tensors = || {
            !self.declares()
                && WITHOUT_DECLARATION.contains(&what)
                && what.missing(self.manifest().tensors.keys()).is_none()
        };
        self.provides(what) || is_known_by_tensors()
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.manifest().tensors.contains_key(tensor)
    }

    /// A fact as text, if it is a scalar.
    pub(super) fn fact(&self, name: &str) -> Option<String> {
        match self.manifest().facts.get(name)? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            serde_json::Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// The names of the classes.
    pub(super) fn classes(&self) -> Vec<String> {
        let names = self.manifest().facts.get("classes").and_then(|v| v.as_array());
        names.into_iter().flatten().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect()
    }

    /// The elements of a float tensor of any shape.
    pub(super) fn floats(&self, name: &str) -> Result<Vec<f64>, StageError> {
        let tensor = self.input.tensor(name)?;
        Ok(match tensor.element() {
            ElementType::F32 => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
            _ => tensor.to_vec::<f64>()?,
        })
    }

    /// The elements of a tensor of indices, such as labels.
    pub(super) fn indices(&self, name: &str) -> Result<Vec<usize>, StageError> {
        let tensor = self.input.tensor(name)?;
        Ok(match tensor.element() {
            ElementType::U32 => tensor.to_vec::<u32>()?.into_iter().map(|index| index as usize).collect(),
            _ => tensor.to_vec::<u8>()?.into_iter().map(usize::from).collect(),
        })
    }

    /// Its value of a metric, if that is a finite number.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        self.manifest().metrics.get(name).copied().filter(|value| value.is_finite())
    }

    pub(super) fn images(&self, name: &str) -> Result<Stack, StageError> {
        Ok(Stack::new(&self.input.tensor(name)?)?)
    }
}
