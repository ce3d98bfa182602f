//! The epochs of a training: `segments = [{ epochs = 50, lr = 1e-3 }, …]`, or the plain parameters as one segment.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::Params;
use super::parameter::Parameter;
use crate::diagnostic::nearest;
use crate::key::Segment;
use crate::stage::epochs::Epochs;
use crate::value::{Data, Node, Table, Values};

const EPOCHS: RangeInclusive<i64> = 0..=1_000_000;

impl Params<'_> {
    /// Reads the epochs, `keep` and `keep_every`. `read` reads the parameters of one segment (all but `epochs`); a
    /// segment inherits the fields beside `segments`. Also returns what `read` returned for each segment.
    pub fn segments<T>(&mut self, default_epochs: i64, mut read: impl FnMut(&mut Params<'_>) -> T) -> (Epochs, Vec<T>) {
        self.describe("parameters that change during the training, instead of `epochs`");
        self.know("segments", || "a list of tables, each with `epochs`".to_owned());
        ["epochs", "keep", "keep_every"].into_iter().for_each(|name| self.know(name, String::new));
        let mut epochs = Epochs::default();
        let mut values = Vec::new();
        let tables = self.segment_tables();
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
                recorded: self.recorded.is_some().then(BTreeMap::new),
                description: "",
            };
            let count = part.describe("the number of epochs").int_unhashed("epochs", default_epochs, EPOCHS);
            values.push(read(&mut part));
            if !whole {
                part.report_unknown_in_segment(own);
            }
            let known = std::mem::take(&mut part.known);
            let params = std::mem::take(&mut part.canonical);
            let recorded = part.recorded.take().unwrap_or_default();
            known.into_iter().for_each(|name| self.know(name, String::new));
            for (name, parameter) in recorded {
                let default = params.get(name).cloned().or(parameter.default);
                self.note(name, |known| *known = Parameter { default, is_in_segments: true, ..parameter });
            }
            epochs.segments.push(Segment { epochs: count as u64, params });
        }
        epochs.keep = self.kept_epochs(epochs.total() as i64);
        (epochs, values)
    }

    /// Reads the epochs of a training whose values have names of the user's choice: those of the table `epoch`, and
    /// those of each table in `segments`, which override them. Its states are `every` epochs apart.
    pub fn value_segments(&mut self, every: u64) -> Epochs {
        self.describe("the number of epochs");
        let whole = self.int_unhashed("epochs", 0, EPOCHS);
        self.describe("values that change during the training, instead of `epochs`");
        self.know("segments", || "a list of tables, each with `epochs`".to_owned());
        self.describe("values of an epoch");
        let common = match self.node_unhashed("epoch") {
            None => Values::new(),
            Some(Node { data: Data::Table(table), .. }) => named_values(&table),
            Some(node) => {
                let message = format!("`epoch` must be a table, not {}", node.data.describe());
                self.diagnostics.error(&node.origin, message).help("write `epoch = { lr = 1e-3 }`");
                Values::new()
            }
        };
        let tables = self.segment_tables();
        if tables.is_empty() && !self.is_given("epochs") && !self.is_given("segments") {
            self.error("epochs", "`epochs` is missing", "give the number of epochs, or `segments`");
        }
        let mut epochs = Epochs { every, ..Epochs::default() };
        if tables.is_empty() {
            epochs.segments.push(Segment { epochs: whole.unsigned_abs(), params: common });
        } else {
            let all: BTreeSet<&str> = tables
                .iter()
                .flat_map(|t| &t.0)
                .map(|e| e.name.as_str())
                .chain(common.keys().map(String::as_str))
                .collect();
            for own in &tables {
                let count = self.epochs_of_segment(own);
                let params: Values = common.clone().into_iter().chain(named_values(own)).collect();
                self.report_missing_in_segment(own, &all, &params);
                epochs.segments.push(Segment { epochs: count, params });
            }
        }
        epochs.segments.iter_mut().for_each(|segment| drop(segment.params.remove("epochs")));
        let total = epochs.total();
        epochs.keep = self.kept_epochs(i64::try_from(total).unwrap_or(i64::MAX));
        self.report_epochs_without_state(&epochs);
        // Where the values change, another training may branch off. A longer one continues from the last multiple.
        let mut start = 0;
        for segment in &epochs.segments {
            start += segment.epochs;
            epochs.keep.push(start - start % every);
        }
        epochs.keep.retain(|epoch| *epoch > 0);
        epochs.keep.sort_unstable();
        epochs.keep.dedup();
        epochs
    }

    /// The number of epochs in a segment of [`Params::value_segments`].
    fn epochs_of_segment(&mut self, own: &Table) -> u64 {
        match own.get("epochs") {
            Some(Node { data: Data::Int(count), .. }) if EPOCHS.contains(count) => return count.unsigned_abs(),
            Some(node) => {
                let range = format!("an integer from {} to {}", EPOCHS.start(), EPOCHS.end());
                self.diagnostics.error(&node.origin, format!("`epochs` must be {range}"));
            }
            None => {
                let place = own.0.first().map_or(&self.place, |entry| &entry.name_origin);
                self.diagnostics.error(place, "a segment has no `epochs`").help("give its number of epochs");
            }
        }
        0
    }

    /// Reports the values that other segments have, but not this one.
    fn report_missing_in_segment(&mut self, own: &Table, all: &BTreeSet<&str>, params: &Values) {
        let place = own.0.first().map_or(&self.place, |entry| &entry.name_origin);
        for name in all.iter().filter(|name| **name != "epochs" && !params.contains_key(**name)) {
            let error = self.diagnostics.error(place, format!("this segment has no value for `{name}`"));
            error.help(format!(
                "another segment has one; add it here, or to the table `epoch`: `epoch = {{ {name} = … }}`"
            ));
        }
    }

    /// Reports the epochs of `keep` that have no state.
    fn report_epochs_without_state(&mut self, epochs: &Epochs) {
        let (every, total) = (epochs.every, epochs.total());
        let wrong = epochs.keep.iter().find(|epoch| !epoch.is_multiple_of(every) && **epoch != total);
        if let Some(epoch) = wrong {
            let name = if self.is_given("keep") { "keep" } else { "keep_every" };
            let help = format!("states are {every} epochs apart (`segment_epochs`): choose multiples of {every}");
            self.error(name, format!("there is no state after {epoch} epochs to keep"), help);
        }
    }

    /// The tables in `segments`. Empty if the field is missing or has no tables.
    fn segment_tables(&mut self) -> Vec<Table> {
        let Some(Node { data, origin }) = self.find("segments").cloned() else { return vec![] };
        let Data::List(nodes) = data else {
            let message = format!("`segments` must be a list of tables, not {}", data.describe());
            self.diagnostics.error(&origin, message);
            return vec![];
        };
        if self.find("epochs").is_some() {
            let error = self.diagnostics.error(&origin, "`epochs` and `segments` exclude each other");
            error.help("give each segment its own `epochs`");
        }
        let mut tables = vec![];
        for node in nodes {
            match node.data {
                Data::Table(table) => tables.push(table),
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

    /// The epochs in `keep` and the multiples of `keep_every`, sorted.
    fn kept_epochs(&mut self, total: i64) -> Vec<u64> {
        self.describe("epochs whose states are kept, so that other trainings can start there");
        let mut keep = self.ints_unhashed("keep", 0..=total).unwrap_or_default();
        self.note("keep", |parameter| parameter.takes = "a list of epochs".to_owned());
        self.describe("keep the state after every so many epochs; 0 keeps none");
        let every = self.int_unhashed("keep_every", 0, 0..=1_000_000);
        if every > 0 {
            keep.extend((1..=total / every).map(|i| i * every));
        }
        let mut keep: Vec<u64> = keep.into_iter().map(|epoch| epoch as u64).collect();
        keep.sort_unstable();
        keep.dedup();
        keep
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
}

/// The values of a table by name.
fn named_values(table: &Table) -> Values {
    table.0.iter().map(|entry| (entry.name.clone(), entry.node.data.value())).collect()
}
