//! Reading a stage's parameters: typed, with defaults and ranges, every error with its place.
//!
//! Reading a parameter puts it into the key, so a kind can't forget one. Parameters read in [`Params::segments`] belong
//! to epochs; all others belong to the start. A field that is not read is an unknown field.

mod parameter;
mod segments;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

pub use parameter::Parameter;

use crate::artifact::Capability;
use crate::diagnostic::{Diagnostics, Origin, nearest};
use crate::value::{Data, Node, Table, Value, Values};

/// The range of a float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Any finite number.
    Finite,
    /// At least 0.
    NotNegative,
    /// Above 0.
    Positive,
    /// At least the first, at most the second.
    Between(f64, f64),
}

impl Bound {
    fn holds(self, v: f64) -> bool {
        v.is_finite()
            && match self {
                Self::Finite => true,
                Self::NotNegative => v >= 0.0,
                Self::Positive => v > 0.0,
                Self::Between(low, high) => (low..=high).contains(&v),
            }
    }

    fn words(self) -> String {
        match self {
            Self::Finite => "a finite number".to_owned(),
            Self::NotNegative => "a number that is 0 or more".to_owned(),
            Self::Positive => "a number above 0".to_owned(),
            Self::Between(low, high) => format!("a number from {low} to {high}"),
        }
    }
}

/// A stage's table while its parameters are read.
pub struct Params<'a> {
    tables: Vec<&'a Table>,
    place: Origin,
    diagnostics: &'a mut Diagnostics,
    known: Vec<&'static str>,
    canonical: Values,
    /// The stage's inputs; `None` if they are not known.
    inputs: Option<&'a [GivenInput<'a>]>,
    /// What was read, by name, if that is to be recorded.
    recorded: Option<BTreeMap<&'static str, Parameter>>,
    /// The description of the next parameter.
    description: &'static str,
}

/// An input as the pipeline gives it.
pub struct GivenInput<'a> {
    /// Its role.
    pub role: &'a str,
    /// Where the role is written.
    pub place: &'a Origin,
    /// What the kind of each stage in it provides.
    pub provides: Vec<&'static [Capability]>,
}

impl<'a> Params<'a> {
    /// Begins to read. `place` is where the stage is written, for errors about missing fields. `reserved` are the
    /// fields that the runner itself reads (`kind`, `inputs`, `matrix`, `at`, `seed`).
    pub fn new(table: &'a Table, place: Origin, reserved: &[&'static str], diagnostics: &'a mut Diagnostics) -> Self {
        let (tables, known) = (vec![table], reserved.to_vec());
        let (canonical, inputs, recorded, description) = (Values::new(), None, None, "");
        Self { tables, place, diagnostics, known, canonical, inputs, recorded, description }
    }

    /// Records what is read, for [`Params::recorded`].
    #[must_use]
    pub fn recording(mut self) -> Self {
        self.recorded = Some(BTreeMap::new());
        self
    }

    /// The parameters that were read, in this order. Their defaults are right if the table is empty.
    pub fn recorded(mut self) -> Vec<Parameter> {
        let mut recorded = self.recorded.take().unwrap_or_default();
        let canonical = &mut self.canonical;
        let parameter = |name: &&'static str| {
            let mut parameter = recorded.remove(name)?;
            parameter.default = canonical.remove(*name).or(parameter.default);
            Some(parameter)
        };
        self.known.iter().filter_map(parameter).collect()
    }

    /// Describes the parameter that is read next: `params.describe("the samples of a step").int("batch", …)`.
    pub fn describe(&mut self, description: &'static str) -> &mut Self {
        self.description = description;
        self
    }

    /// Sets the inputs.
    #[must_use]
    pub fn with_inputs(mut self, inputs: &'a [GivenInput<'a>]) -> Self {
        self.inputs = Some(inputs);
        self
    }

    /// Whether the stage has an input in this role; `None` if the inputs are not known.
    pub fn has_input(&self, role: &str) -> Option<bool> {
        Some(self.inputs?.iter().any(|given| given.role == role))
    }

    /// Reports an input that contradicts the parameters, at the place of its role.
    pub fn error_in_input(&mut self, role: &str, message: impl Into<String>, help: impl Into<String>) {
        let place = self.given(role).map_or(&self.place, |given| given.place).clone();
        self.diagnostics.error(&place, message).help(help);
    }

    /// Reports an input that does not provide what a parameter needs. `because` names the parameter and its value, such
    /// as "`init = \"trained\"`". What a kind always needs is part of its [`super::Role`].
    pub fn need_of_input(&mut self, role: &str, need: Capability, because: &str) {
        let lacks = |given: &&GivenInput<'_>| given.provides.iter().any(|provides| !provides.contains(&need));
        if self.given(role).is_some_and(|given| lacks(&given)) {
            let message = format!("{because} needs `{need}`, which the input `{role}` does not provide");
            self.error_in_input(role, message, format!("name a stage that provides `{need}`"));
        }
    }

    fn given(&self, role: &str) -> Option<&'a GivenInput<'a>> {
        self.inputs?.iter().find(|given| given.role == role)
    }

    /// The names that were read so far, in this order, each once.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }

    fn know(&mut self, name: &'static str, takes: impl FnOnce() -> String) {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        let description = std::mem::take(&mut self.description);
        if let Some(recorded) = &mut self.recorded {
            let parameter = recorded.entry(name).or_insert(Parameter { name, ..Parameter::default() });
            parameter.takes = takes();
            if !description.is_empty() {
                parameter.description = description;
            }
        }
    }

    /// Adds to what is recorded about a parameter.
    fn note(&mut self, name: &str, add: impl FnOnce(&mut Parameter)) {
        if let Some(parameter) = self.recorded.as_mut().and_then(|recorded| recorded.get_mut(name)) {
            add(parameter);
        }
    }

    /// Reports unknown fields, and returns the canonical parameters.
    pub fn finish(self) -> Values {
        let Some(table) = self.tables.first() else { return self.canonical };
        for entry in &table.0 {
            if !self.known.contains(&entry.name.as_str()) {
                let error = self.diagnostics.error(&entry.name_origin, format!("unknown field `{}`", entry.name));
                match nearest(&entry.name, self.known.iter().copied()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("known here: {}", self.known.join(", "))),
                };
            }
        }
        self.canonical
    }

    /// Where errors about the stage as a whole belong.
    pub fn place(&self) -> &Origin {
        &self.place
    }

    /// Reports an error that reading one parameter can't find, such as two parameters that exclude each other.
    pub fn error(&mut self, name: &str, message: impl Into<String>, help: impl Into<String>) {
        let is_given = self.is_given(name);
        self.note(name, |parameter| parameter.is_required = !is_given);
        let place = self.find(name).map_or_else(|| self.place.clone(), |n| n.origin.clone());
        self.diagnostics.error(&place, message).help(help);
    }

    /// Reports something inside a [`Params::node`], at its own place.
    pub fn error_at(&mut self, place: &Origin, message: impl Into<String>, help: impl Into<String>) {
        self.diagnostics.error(place, message).help(help);
    }

    /// Whether the user wrote this parameter.
    pub fn is_given(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// An integer.
    pub fn int(&mut self, name: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let value = self.int_unhashed(name, default, range);
        self.record(name, value)
    }

    /// A float. An integer is accepted.
    pub fn float(&mut self, name: &'static str, default: f64, bound: Bound) -> f64 {
        let wanted = || bound.words();
        let value = self.read(name, wanted, |d| match d {
            Data::Float(v) => Some(*v).filter(|v| bound.holds(*v)),
            Data::Int(v) => Some(*v as f64).filter(|v| bound.holds(*v)),
            _ => None,
        });
        self.record(name, value.unwrap_or(default))
    }

    /// Like [`Params::float`], for a parameter that was added to a kind later: its default enters no key, so that
    /// earlier results stay valid.
    pub fn float_added(&mut self, name: &'static str, default: f64, bound: Bound) -> f64 {
        let value = self.float(name, default, bound);
        self.note(name, |parameter| parameter.default = Some(default.into()));
        if value == default {
            self.canonical.remove(name);
        }
        value
    }

    /// true or false.
    pub fn bool(&mut self, name: &'static str, default: bool) -> bool {
        let wanted = || "true or false".to_owned();
        let value = self.read(name, wanted, |d| if let Data::Bool(v) = d { Some(*v) } else { None });
        self.record(name, value.unwrap_or(default))
    }

    /// A boolean that was added to the kind later: false, its default, is not in the key.
    pub fn bool_added(&mut self, name: &'static str) -> bool {
        let value = self.bool(name, false);
        self.note(name, |parameter| parameter.default = Some(false.into()));
        if !value {
            self.canonical.remove(name);
        }
        value
    }

    /// One of several words; returns the value that is paired with it. If `default` is none of them, the first is the
    /// default.
    pub fn choice<T: Copy>(&mut self, name: &'static str, default: &str, choices: &[(&str, T)]) -> T {
        let words: Vec<&str> = choices.iter().map(|(w, _)| *w).collect();
        let mut wrong = None;
        let value = self.read(
            name,
            || format!("one of {}", words.join(", ")),
            |d| match d {
                Data::Text(v) => {
                    wrong = Some(v.clone());
                    choices.iter().find(|(w, _)| w == v).map(|(w, _)| (*w).to_owned())
                }
                _ => None,
            },
        );
        self.note(name, |parameter| parameter.choices = words.iter().map(|word| (*word).to_owned()).collect());
        if let (None, Some(wrong)) = (&value, wrong)
            && let Some(near) = nearest(&wrong, words.iter().copied())
            && let Some(last) = self.diagnostics.0.last_mut()
        {
            last.help = Some(format!("did you mean `{near}`?"));
        }
        let word = self.record(name, value.unwrap_or_else(|| default.to_owned()));
        let chosen = choices.iter().find(|(w, _)| *w == word).or(choices.first());
        #[expect(clippy::expect_used, reason = "a kind that offers no choice is a bug in its first test")]
        let chosen = chosen.expect("at least one choice");
        chosen.1
    }

    /// Like [`Params::choice`], for a parameter that was added to a kind later: see [`Params::float_added`].
    pub fn choice_added<T: Copy>(&mut self, name: &'static str, default: &str, choices: &[(&str, T)]) -> T {
        let value = self.choice(name, default, choices);
        self.note(name, |parameter| parameter.default = Some(default.into()));
        if self.canonical.get(name) == Some(&Value::from(default)) {
            self.canonical.remove(name);
        }
        value
    }

    /// A string, if given.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.text_unhashed(name)?;
        Some(self.record(name, value))
    }

    /// A string that does not enter the key, such as a path to a file whose digest does.
    pub fn text_unhashed(&mut self, name: &'static str) -> Option<String> {
        self.read(name, || "a string".to_owned(), |d| if let Data::Text(v) = d { Some(v.clone()) } else { None })
    }

    /// An integer that can't change the result, such as a time-out.
    pub fn int_unhashed(&mut self, name: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let wanted = || match (*range.start(), *range.end()) {
            (i64::MIN, i64::MAX) => "an integer".to_owned(),
            (low, i64::MAX) => format!("an integer, at least {low}"),
            (low, high) => format!("an integer from {low} to {high}"),
        };
        let value = self.read(name, wanted, |d| match d {
            Data::Int(v) => Some(*v).filter(|v| range.contains(v)),
            _ => None,
        });
        self.note(name, |parameter| parameter.default = Some(default.into()));
        value.unwrap_or(default)
    }

    /// A list of strings. Numbers and booleans become strings, as in the names of points. A list in it, such as a value
    /// of an axis, stands for its members.
    pub fn words(&mut self, name: &'static str) -> Option<Vec<String>> {
        let words = |data: &Data| match data {
            Data::List(members) => members.iter().map(|member| member.data.as_text()).collect(),
            data => Some(vec![data.as_text()?]),
        };
        let value = self.list(name, "strings or numbers", words)?.concat();
        Some(self.record(name, value))
    }

    /// Like [`Params::words`]. A string is a list with this string.
    pub fn word_or_words(&mut self, name: &'static str) -> Option<Vec<String>> {
        const TAKES: &str = "a string, or a list of strings or numbers";
        if !self.is_given(name) || matches!(self.find(name)?.data, Data::List(_)) {
            let words = self.words(name);
            self.note(name, |parameter| parameter.takes = TAKES.to_owned());
            return words;
        }
        let word = self.read(
            name,
            || TAKES.to_owned(),
            |data| if let Data::Text(word) = data { Some(word.clone()) } else { None },
        )?;
        Some(self.record(name, vec![word]))
    }

    /// A list of strings that is not part of the key.
    pub fn texts_unhashed(&mut self, name: &'static str) -> Option<Vec<String>> {
        self.list(name, "strings", |d| if let Data::Text(t) = d { Some(t.clone()) } else { None })
    }

    /// A list of strings.
    pub fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let value = self.texts_unhashed(name)?;
        Some(self.record(name, value))
    }

    /// A list of integers in a range.
    pub fn ints(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<Vec<i64>> {
        let value = self.ints_unhashed(name, range)?;
        Some(self.record(name, value))
    }

    fn ints_unhashed(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<Vec<i64>> {
        let wanted = format!("integers from {} to {}", range.start(), range.end());
        self.list(name, &wanted, |d| if let Data::Int(i) = d { Some(*i).filter(|i| range.contains(i)) } else { None })
    }

    /// A list. Each member that `convert` refuses is reported at its own place.
    fn list<T>(&mut self, name: &'static str, wanted: &str, convert: impl Fn(&Data) -> Option<T>) -> Option<Vec<T>> {
        self.know(name, || format!("a list of {wanted}"));
        let node = self.find(name)?;
        let Data::List(members) = &node.data else {
            let message = format!("`{name}` must be a list of {wanted}, not {}", found(&node.data));
            self.diagnostics.error(&node.origin, message);
            return None;
        };
        let mut values = Vec::with_capacity(members.len());
        for member in members {
            match convert(&member.data) {
                Some(value) => values.push(value),
                None => {
                    let message = format!("`{name}` must hold {wanted}, not {}", found(&member.data));
                    self.diagnostics.error(&member.origin, message);
                }
            }
        }
        (values.len() == members.len()).then_some(values)
    }

    /// Puts a default into the key if the user wrote nothing, for the readers that return an `Option`. Writing the
    /// default out then changes no key.
    pub fn default<T: Clone + Into<Value>>(&mut self, name: &'static str, value: T) -> T {
        if !self.is_given(name) {
            self.record(name, value.clone());
        }
        value
    }

    /// Anything, as written; it enters the key as it is. For tables that the kind itself interprets.
    pub fn node(&mut self, name: &'static str) -> Option<Node> {
        self.know(name, String::new);
        let node = self.find(name)?.clone();
        self.canonical.insert(name.to_owned(), node.data.value());
        Some(node)
    }

    /// Like [`Params::node`], but it does not enter the key.
    pub fn node_unhashed(&mut self, name: &'static str) -> Option<Node> {
        self.know(name, String::new);
        self.find(name).cloned()
    }

    fn find(&self, name: &str) -> Option<&'a Node> {
        self.tables.iter().find_map(|t| t.get(name))
    }

    fn record<T: Clone + Into<Value>>(&mut self, name: &str, value: T) -> T {
        self.canonical.insert(name.to_owned(), value.clone().into());
        value
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        wanted: impl Fn() -> String,
        convert: impl FnOnce(&Data) -> Option<T>,
    ) -> Option<T> {
        self.know(name, &wanted);
        let node = self.find(name)?;
        let value = convert(&node.data);
        if value.is_none() {
            let message = format!("`{name}` must be {}, not {}", wanted(), found(&node.data));
            self.diagnostics.error(&node.origin, message);
        }
        value
    }
}

/// A value for a message: a scalar itself, or the type of a list or a table.
fn found(data: &Data) -> String {
    match data {
        Data::List(_) | Data::Table(_) => data.describe().to_owned(),
        scalar => scalar.value().to_string(),
    }
}
