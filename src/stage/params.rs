//! Reading a stage's parameters: typed, with defaults and ranges, every error with its place.
//!
//! Reading a parameter is what puts it into the key: a kind can't forget one. What is read in [`Params::segments`] is a
//! parameter of epochs; everything else is one of the start. Whatever is left unread at the end is an unknown field.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::diagnostic::{Diagnostics, Origin, nearest};
use crate::key::Segment;
use crate::stage::Epochs;
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
    /// The roles of the stage's inputs and where they are written; none where nobody knows.
    inputs: Option<&'a [(&'a str, &'a Origin)]>,
}

impl<'a> Params<'a> {
    /// Begins to read. `place` is where the stage is written, for errors about what is missing. `reserved` are names
    /// that the runner itself reads (`kind`, `inputs`, `matrix`, `at`, `seed`).
    pub fn new(table: &'a Table, place: Origin, reserved: &[&'static str], diagnostics: &'a mut Diagnostics) -> Self {
        let (tables, known) = (vec![table], reserved.to_vec());
        Self { tables, place, diagnostics, known, canonical: Values::new(), inputs: None }
    }

    /// Says which roles are given, and where they are written.
    #[must_use]
    pub fn with_inputs(mut self, roles: &'a [(&'a str, &'a Origin)]) -> Self {
        self.inputs = Some(roles);
        self
    }

    /// Whether the stage has an input in this role; none where that is not known.
    pub fn has_input(&self, role: &str) -> Option<bool> {
        Some(self.inputs?.iter().any(|(name, _)| *name == role))
    }

    /// Reports an input that does not go with the parameters, at the place of its role.
    pub fn error_in_input(&mut self, role: &str, message: impl Into<String>, help: impl Into<String>) {
        let given = self.inputs.unwrap_or_default().iter().find(|(name, _)| *name == role);
        let place = given.map_or_else(|| self.place.clone(), |(_, place)| (*place).clone());
        self.diagnostics.error(&place, message).help(help);
    }

    /// The names that have been read so far, in that order, each once.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }

    fn know(&mut self, name: &'static str) {
        if !self.known.contains(&name) {
            self.known.push(name);
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

    /// Reports something that no single reader can know, such as two parameters that exclude each other.
    pub fn error(&mut self, name: &str, message: impl Into<String>, help: impl Into<String>) {
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

    /// A float; an integer will do.
    pub fn float(&mut self, name: &'static str, default: f64, bound: Bound) -> f64 {
        let wanted = || bound.words();
        let value = self.read(name, wanted, |d| match d {
            Data::Float(v) => Some(*v).filter(|v| bound.holds(*v)),
            Data::Int(v) => Some(*v as f64).filter(|v| bound.holds(*v)),
            _ => None,
        });
        self.record(name, value.unwrap_or(default))
    }

    /// The same for a parameter that a kind got later than its others: its default enters no key, so that results from before
    /// count on.
    pub fn float_added(&mut self, name: &'static str, default: f64, bound: Bound) -> f64 {
        let value = self.float(name, default, bound);
        if value == default {
            self.canonical.remove(name);
        }
        value
    }

    /// true or false.
    pub fn bool(&mut self, name: &'static str, default: bool) -> bool {
        let value = self.read(
            name,
            || "true or false".to_owned(),
            |d| match d {
                Data::Bool(v) => Some(*v),
                _ => None,
            },
        );
        self.record(name, value.unwrap_or(default))
    }

    /// One of some words; what is returned stands beside the word. The first is the default where `default` is none.
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

    /// A string, if given. `none` enters the key as the empty list would: as absence.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.read(
            name,
            || "a string".to_owned(),
            |d| match d {
                Data::Text(v) => Some(v.clone()),
                _ => None,
            },
        )?;
        Some(self.record(name, value))
    }

    /// A string that names no content and so stays out of the key, such as a path whose file's digest is in it.
    pub fn text_unhashed(&mut self, name: &'static str) -> Option<String> {
        self.read(
            name,
            || "a string".to_owned(),
            |d| match d {
                Data::Text(v) => Some(v.clone()),
                _ => None,
            },
        )
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
        value.unwrap_or(default)
    }

    /// A list of strings.
    pub fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let value = self.list(name, "strings", |d| if let Data::Text(t) = d { Some(t.clone()) } else { None })?;
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

    /// A list whose members `convert` takes; those that it does not take are faulted each at its own place.
    fn list<T>(&mut self, name: &'static str, wanted: &str, convert: impl Fn(&Data) -> Option<T>) -> Option<Vec<T>> {
        self.know(name);
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

    /// Puts a default into the key where the user wrote nothing, for the readers that return an `Option`: so that writing
    /// the default out changes no key.
    pub fn default<T: Clone + Into<Value>>(&mut self, name: &'static str, value: T) -> T {
        if !self.is_given(name) {
            self.record(name, value.clone());
        }
        value
    }

    /// Anything, as written; it enters the key as it is. For tables whose form is the kind's own affair.
    pub fn node(&mut self, name: &'static str) -> Option<Node> {
        self.know(name);
        let node = self.find(name)?.clone();
        self.canonical.insert(name.to_owned(), node.data.value());
        Some(node)
    }

    /// The epochs of a training: `segments = [{ epochs = 50, lr = 1e-3 }, …]`, or the plain parameters as one segment.
    /// `read` reads the parameters of one segment (all but `epochs`); a segment inherits what stands beside `segments`.
    /// Also reads `keep` and `keep_every`. Returns what `read` returned, a segment each.
    pub fn segments<T>(&mut self, default_epochs: i64, mut read: impl FnMut(&mut Params<'_>) -> T) -> (Epochs, Vec<T>) {
        const EPOCHS: RangeInclusive<i64> = 0..=1_000_000;
        ["segments", "epochs", "keep", "keep_every"].into_iter().for_each(|name| self.know(name));
        let mut epochs = Epochs::default();
        let mut values = Vec::new();
        let given = self.find("segments").cloned();
        let tables: Vec<Table> = match given {
            None => vec![],
            Some(Node { data: Data::List(nodes), origin }) => {
                if self.find("epochs").is_some() {
                    let help = "give each segment its own `epochs`";
                    self.diagnostics.error(&origin, "`epochs` and `segments` exclude each other").help(help);
                }
                let mut tables = vec![];
                for node in nodes {
                    match node.data {
                        Data::Table(t) => tables.push(t),
                        other => {
                            let message = format!("a segment must be a table, not {}", other.describe());
                            self.diagnostics.error(&node.origin, message);
                        }
                    }
                }
                if tables.is_empty() {
                    self.diagnostics.error(&origin, "`segments` is empty").help("give at least one `{ epochs = … }`");
                }
                tables
            }
            Some(node) => {
                let message = format!("`segments` must be a list of tables, not {}", node.data.describe());
                self.diagnostics.error(&node.origin, message);
                vec![]
            }
        };
        let whole = tables.is_empty();
        let empty = Table::default();
        for own in if whole { vec![&empty] } else { tables.iter().collect() } {
            let mut tables = vec![own];
            tables.extend(self.tables.iter().copied());
            let mut part = Params {
                tables,
                place: self.place.clone(),
                diagnostics: &mut *self.diagnostics,
                known: vec![],
                canonical: Values::new(),
                inputs: self.inputs,
            };
            let count = part.int_unhashed("epochs", default_epochs, EPOCHS);
            values.push(read(&mut part));
            if !whole {
                part.report_unknown_in_segment(own);
            }
            let known = std::mem::take(&mut part.known);
            let params = std::mem::take(&mut part.canonical);
            known.into_iter().for_each(|name| self.know(name));
            epochs.segments.push(Segment { epochs: count as u64, params });
        }
        let total = epochs.total();
        let mut keep = self.ints_unhashed("keep", 0..=total as i64).unwrap_or_default();
        let every = self.int_unhashed("keep_every", 0, 0..=1_000_000);
        if every > 0 {
            keep.extend((1..=total as i64 / every).map(|i| i * every));
        }
        epochs.keep = keep.into_iter().map(|e| e as u64).collect();
        epochs.keep.sort_unstable();
        epochs.keep.dedup();
        (epochs, values)
    }

    fn report_unknown_in_segment(&mut self, own: &Table) {
        for entry in own.0.iter().filter(|e| !self.known.contains(&e.name.as_str())) {
            let message = format!("unknown field `{}` in a segment", entry.name);
            let help = match nearest(&entry.name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("a segment may hold {}", self.known.join(", ")),
            };
            self.diagnostics.error(&entry.name_origin, message).help(help);
        }
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
        wanted: impl FnOnce() -> String,
        convert: impl FnOnce(&Data) -> Option<T>,
    ) -> Option<T> {
        self.know(name);
        let node = self.find(name)?;
        let value = convert(&node.data);
        if value.is_none() {
            let message = format!("`{name}` must be {}, not {}", wanted(), found(&node.data));
            self.diagnostics.error(&node.origin, message);
        }
        value
    }
}

/// What stands there, for messages: a scalar itself, of anything larger what it is.
fn found(data: &Data) -> String {
    match data {
        Data::List(_) | Data::Table(_) => data.describe().to_owned(),
        scalar => scalar.value().to_string(),
    }
}

/// The parameters of a table that is known to be right, by name: for tests and for users of the library.
impl Params<'_> {
    /// What has been read so far.
    pub fn canonical(&self) -> &BTreeMap<String, Value> {
        &self.canonical
    }
}
