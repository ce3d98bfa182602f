//! An axis and its values.

use crate::diagnostic::Origin;
use crate::id::StageId;
use crate::value::{Data, Node, Value};

/// The most points of a pipeline, independent of `limit`. More would fill the memory.
pub(super) const MAX_POINTS: usize = 1_000_000;

/// One axis.
#[derive(Debug)]
pub(super) struct Axis {
    /// Its name.
    pub(super) name: String,
    /// The place of its declaration.
    pub(super) origin: Origin,
    /// The index of the stage that declares it; none for `[matrix]`.
    pub(super) owner: Option<StageId>,
    /// Its values. `include` can add values that are not in the product.
    pub(super) values: Vec<AxisValue>,
    /// Its draws, if it is drawn together with other axes.
    pub(super) together: Option<Together>,
    /// The number of values that a range or samples ask for. `None` for a list.
    pub(super) asked: Option<Asked>,
}

/// The number of values that a range or samples ask for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The number.
    pub(super) count: usize,
    /// The field that has it: `steps` or `samples`.
    pub(super) field: &'static str,
    /// The place of the number.
    pub(super) origin: Origin,
}

/// One value of an axis.
#[derive(Clone, Debug)]
pub(super) struct AxisValue {
    /// As written, with its place. A table has no `name`.
    pub(super) node: Node,
    /// The `name` of a table, if it has one.
    pub(super) name: Option<Node>,
    /// As it is written in the names of points. For a list or a table: its label.
    pub(super) text: String,
}

impl AxisValue {
    /// Whether it is a list or a table, which point names show by a label.
    pub(super) fn has_label(&self) -> bool {
        matches!(self.node.data, Data::List(_) | Data::Table(_))
    }

    /// The value as coordinate of a point. A list or a table is shown by its label.
    pub(super) fn coordinate(&self) -> Value {
        match (&self.name, self.text.parse()) {
            (Some(name), _) => name.data.value(),
            (None, Ok(position)) if self.has_label() => Value::Int(position),
            _ => self.node.data.value(),
        }
    }
}

impl Axis {
    /// The index of a value. A list or a table is given by its label, or written out without its name.
    pub(super) fn find_data(&self, data: &Data) -> Option<usize> {
        match data.as_text() {
            Some(text) => self.find(&text),
            None => self.values.iter().position(|v| v.node.data.value() == data.value()),
        }
    }

    /// The index of a value, written as in the names of points or as another form of the same number.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let exact = self.values.iter().position(|v| v.text == text);
        exact.or_else(|| {
            let int = text.parse().ok().map(Data::Int);
            let wanted = number(&int.or_else(|| text.parse().ok().map(Data::Float))?)?;
            self.values.iter().position(|v| number(&v.node.data).as_ref() == Some(&wanted))
        })
    }
}

/// A number in one form, whether it was written as an integer or as a float.
pub(super) fn number(data: &Data) -> Option<String> {
    // A float can't represent every integer above this.
    const WHOLE: f64 = 9e15;
    match data {
        Data::Int(v) => Some(v.to_string()),
        Data::Float(v) if v.fract() == 0.0 && v.abs() < WHOLE => Some((*v as i64).to_string()),
        Data::Float(v) => Some(format!("{v:?}")),
        _ => None,
    }
}

/// Samples that are drawn together with those of other axes.
#[derive(Debug)]
pub(super) struct Together {
    /// The name that these axes share.
    pub(super) name: String,
    /// The place of the name.
    pub(super) origin: Origin,
    /// The index of the value of each draw.
    pub(super) draws: Vec<u32>,
}
