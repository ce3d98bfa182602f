//! Conditions on points: `lr<0.01 && loss<=0.2`.
//!
//! ```text
//! filter     = condition { "&&" condition }
//! condition  = name operator value
//! operator   = "<" | "<=" | ">" | ">=" | "=" | "==" | "!="
//! ```
//!
//! A name is an axis, a metric or `stage`. If an axis and a metric have the same name, write `axis.NAME` or
//! `metric.NAME`. Numbers are compared as numbers, so `lr=1e-3` finds `0.001`. Other values are compared as strings,
//! which are only equal or unequal. A set of strings is equal to each of them. A point without the value meets no
//! condition on it.

mod cell;
mod coordinate;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;

use std::cmp::Ordering;
use std::collections::BTreeSet;

pub(crate) use self::cell::Cell;
pub(crate) use self::coordinate::Coordinate;
use crate::diagnostic::nearest;
use crate::error::{Error, Result};

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    Unequal,
}

/// Longer operators come first, because `<=` begins with `<`.
const OPERATORS: [(&str, Operator); 7] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("=", Operator::Equal),
];

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
        }
    }
}

/// `name operator value`.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    name: String,
    operator: Operator,
    value: String,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter(Vec<Condition>);

impl Filter {
    /// Parses conditions, which must all hold.
    ///
    /// # Errors
    /// If a condition is not valid.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        let conditions = texts.iter().flat_map(|text| text.split("&&")).map(condition);
        conditions.collect::<Result<_>>().map(Self)
    }

    /// The columns that the conditions read.
    ///
    /// # Errors
    /// If a name is unknown or ambiguous.
    pub(crate) fn columns(&self, names: &Names) -> Result<Vec<Column>> {
        self.0.iter().map(|c| names.find(&c.name)).collect()
    }

    /// Keeps the rows that meet all conditions. `get` returns the value of a column in a row.
    ///
    /// # Errors
    /// If a name is unknown or ambiguous, or if `<` or `>` is used with strings.
    pub(crate) fn retain<R>(
        &self,
        rows: &mut Vec<R>,
        names: &Names,
        get: impl Fn(&R, &Column) -> Option<Cell>,
    ) -> Result<()> {
        let columns = self.columns(names)?;
        for (condition, column) in self.0.iter().zip(&columns) {
            condition.check(rows.iter().filter_map(|row| get(row, column)))?;
        }
        let holds = |(c, column): (&Condition, &Column), row: &R| get(row, column).is_some_and(|cell| c.holds(&cell));
        rows.retain(|row| self.0.iter().zip(&columns).all(|both| holds(both, row)));
        Ok(())
    }
}

/// The column that a name refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// The stage.
    Stage,
    /// An axis.
    Axis(String),
    /// A metric.
    Metric(String),
}

/// All names: `stage`, axes and metrics. A metric and an axis may have the same name.
pub(crate) struct Names {
    /// In the order of declaration.
    pub(crate) axes: Vec<String>,
    /// The metrics of cached results.
    pub(crate) metrics: BTreeSet<String>,
}

const STAGE: &str = "stage";
const OF_AXIS: &str = "axis.";
const OF_METRIC: &str = "metric.";

impl Names {
    /// All columns except `stage`: the axes, then the metrics.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let axes = self.axes.iter().cloned().map(Column::Axis);
        axes.chain(self.metrics.iter().cloned().map(Column::Metric)).collect()
    }

    /// The unique name of a column. An axis or a metric gets its prefix only if its name is already used.
    pub(crate) fn label(&self, column: &Column) -> String {
        let taken = |name: &str| name == STAGE || name.starts_with(OF_AXIS) || name.starts_with(OF_METRIC);
        match column {
            Column::Stage => STAGE.to_owned(),
            Column::Axis(name) if taken(name) => format!("{OF_AXIS}{name}"),
            Column::Metric(name) if taken(name) || self.axes.contains(name) => format!("{OF_METRIC}{name}"),
            Column::Axis(name) | Column::Metric(name) => name.clone(),
        }
    }

    /// The column that a name refers to. `stage` is always the stage, and a prefix is always a prefix.
    ///
    /// # Errors
    /// If the name is unknown, with the nearest known name; or if it is both an axis and a metric.
    pub(crate) fn find(&self, name: &str) -> Result<Column> {
        let axis = |name: &str| self.axes.iter().any(|a| a == name).then(|| Column::Axis(name.to_owned()));
        let metric = |name: &str| self.metrics.contains(name).then(|| Column::Metric(name.to_owned()));
        if name == STAGE {
            return Ok(Column::Stage);
        }
        let prefixed = name.strip_prefix(OF_AXIS).and_then(axis).or(name.strip_prefix(OF_METRIC).and_then(metric));
        if let Some(column) = prefixed {
            return Ok(column);
        }
        match (axis(name), metric(name)) {
            (Some(_), Some(_)) => {
                let message = format!("`{name}` is both an axis and a metric");
                Err(Error::bad_input(message).hint(format!("write `{OF_AXIS}{name}` or `{OF_METRIC}{name}`")))
            }
            (Some(column), None) | (None, Some(column)) => Ok(column),
            (None, None) => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let axes = self.axes.iter().map(String::as_str);
        let metrics = self.metrics.iter().map(String::as_str);
        // A shared prefix must not make two names similar.
        let near = match (name.strip_prefix(OF_AXIS), name.strip_prefix(OF_METRIC)) {
            (Some(axis), _) => nearest(axis, axes).map(|near| format!("{OF_AXIS}{near}")),
            (_, Some(metric)) => nearest(metric, metrics).map(|near| format!("{OF_METRIC}{near}")),
            _ => nearest(name, std::iter::once(STAGE).chain(axes).chain(metrics)).map(str::to_owned),
        };
        let all = || {
            let labels: Vec<String> = self.columns().iter().map(|column| self.label(column)).collect();
            [vec![STAGE.to_owned()], labels].concat().join(", ")
        };
        let hint = match near {
            _ if self.metrics.is_empty() && !name.starts_with(OF_AXIS) => {
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                format!("no cached result has a metric{near}")
            }
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known names: {}", all()),
        };
        Error::bad_input(format!("there is no axis or metric `{name}`")).hint(hint)
    }
}

impl Condition {
    /// Whether it uses `<` or `>`.
    fn is_ordered(&self) -> bool {
        !matches!(self.operator, Operator::Equal | Operator::Unequal)
    }

    /// Fails if it uses `<` or `>` and none of the values is a number.
    fn check(&self, mut cells: impl Iterator<Item = Cell>) -> Result<()> {
        let Some(first) = cells.next().filter(|_| self.is_ordered()) else { return Ok(()) };
        let number = |cell: &Cell| matches!(cell, Cell::Number(_));
        if number(&first) || cells.any(|cell| number(&cell)) {
            return Ok(());
        }
        let name = &self.name;
        let message = format!("`{name}` is a string; `<` and `>` need numbers");
        Err(Error::bad_input(message).hint(format!("write `{name}={first}` or `{name}!={first}`")))
    }

    fn holds(&self, cell: &Cell) -> bool {
        let order = match (cell, self.value.parse::<f64>()) {
            (Cell::Number(a), Ok(b)) => a.partial_cmp(&b),
            // Strings have no order.
            _ if self.is_ordered() => None,
            (Cell::Set(all), _) => return all.contains(&self.value) == (self.operator == Operator::Equal),
            (cell, _) => Some(cell.to_string().cmp(&self.value)),
        };
        order.is_some_and(|order| self.operator.holds(order))
    }
}

fn condition(text: &str) -> Result<Condition> {
    let wrong = |why: &str| {
        let message = format!("`{}` is not a valid condition: {why}", text.trim());
        Error::bad_input(message).hint("write `lr<0.01`, `distribution=gaussian` or `loss<=0.2 && lr!=0.1`")
    };
    let at = text.find(['<', '>', '=', '!']).ok_or_else(|| wrong("it has no comparison operator"))?;
    let (name, rest) = text.split_at(at);
    let found = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)));
    let (operator, value) = found.ok_or_else(|| wrong("`!` is only valid in `!=`"))?;
    let written = value.trim();
    let value = written.strip_prefix(['"', '\'']).and_then(|v| v.strip_suffix(['"', '\''])).unwrap_or(written);
    let name = name.trim();
    if name.is_empty() {
        return Err(wrong("it has no name"));
    }
    if value.is_empty() || written.starts_with(['<', '>', '=', '!']) {
        return Err(wrong("it has no value"));
    }
    let condition = Condition { name: name.to_owned(), operator, value: value.to_owned() };
    if condition.is_ordered() && value.parse::<f64>().is_err() {
        return Err(wrong(&format!("`<` and `>` need numbers, and `{value}` is a string")));
    }
    Ok(condition)
}

/// Sorts rows by a column; a leading `-` sorts in descending order. Equal rows stay in their order. Rows without a
/// value or with NaN come last.
pub(crate) fn sort<R>(
    rows: &mut [R],
    by: Option<&str>,
    names: &Names,
    get: impl Fn(&R, &Column) -> Option<Cell>,
) -> Result<()> {
    let Some(by) = by else { return Ok(()) };
    let (name, down) = match by.strip_prefix('-') {
        Some(name) => (name, true),
        None => (by, false),
    };
    let column = names.find(name)?;
    let value = |row: &R| get(row, &column).filter(|cell| !cell.is_nan());
    rows.sort_by(|a, b| match (value(a), value(b)) {
        (Some(a), Some(b)) if down => b.order(&a),
        (Some(a), Some(b)) => a.order(&b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(axes: &[&str], metrics: &[&str]) -> Names {
        let owned = |n: &&str| (*n).to_owned();
        Names { axes: axes.iter().map(owned).collect(), metrics: metrics.iter().map(owned).collect() }
    }

    /// Whether the filter keeps a point with these axes. The table also has a point in which `mixed` is a number.
    fn holds(text: &str, values: &[(&str, Cell)]) -> bool {
        let filter = Filter::parse(&[text.to_owned()]).unwrap();
        let axes: Vec<&str> = values.iter().map(|(name, _)| *name).chain(["psnr"]).collect();
        let other = [("mixed", Cell::Number(f64::INFINITY))];
        let mut rows = vec![(true, values), (false, other.as_slice())];
        let get = |(_, row): &(bool, &[(&str, Cell)]), column: &Column| match column {
            Column::Axis(axis) => row.iter().find(|(n, _)| n == axis).map(|(_, v)| v.clone()),
            _ => None,
        };
        filter.retain(&mut rows, &names(&axes, &[]), get).unwrap();
        rows.iter().any(|(own, _)| *own)
    }

    #[test]
    fn conditions_compare_numbers_and_strings() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let tags = Cell::Set(["a".to_owned(), "b".to_owned()].into());
        let kind = text("uniform");
        let (lr, loss, mixed) = (Cell::Number(0.001), Cell::Number(0.2), text("0"));
        let point = [("lr", lr), ("loss", loss), ("kind", kind), ("mixed", mixed), ("tag", tags)];
        for (text, wanted) in [
            ("lr=1e-3", true),
            ("lr == 0.0010", true),
            ("lr<0.01 && loss<0.2", false),
            ("lr<0.01&&loss<=0.2", true),
            ("loss > 0.1", true),
            ("loss>=0.3", false),
            ("kind=uniform", true),
            ("kind='uniform'", true),
            ("kind!='<3>'", true),
            ("tag=a && tag=b && tag!=c", true),
            ("tag!=a", false),
            ("tag=c", false),
            ("kind!=uniform", false),
            ("kind!=gaussian", true),
            ("psnr<100", false),
            ("psnr!=100", false),
            // As strings, "0" is less than "5".
            ("mixed<5", false),
            ("mixed<=0", false),
            ("mixed=0", true),
        ] {
            assert_eq!(holds(text, &point), wanted, "{text}");
        }
    }

    #[test]
    fn invalid_conditions_have_clear_errors() {
        let said = ["lr", "=3", "lr=", "lr<", "lr=<3", "lr!3", "lr<small", "lr<1 &&"].map(|text| {
            let error = Filter::parse(&[text.to_owned()]).unwrap_err();
            assert_eq!(error.category, crate::error::Category::BadInput);
            error.message
        });
        insta::assert_snapshot!(said.join("\n"), @r"
        `lr` is not a valid condition: it has no comparison operator
        `=3` is not a valid condition: it has no name
        `lr=` is not a valid condition: it has no value
        `lr<` is not a valid condition: it has no value
        `lr=<3` is not a valid condition: it has no value
        `lr!3` is not a valid condition: `!` is only valid in `!=`
        `lr<small` is not a valid condition: `<` and `>` need numbers, and `small` is a string
        `` is not a valid condition: it has no comparison operator
        ");
        let mut rows = vec![Cell::Text("gaussian".to_owned()), Cell::Text("uniform".to_owned())];
        let filter = Filter::parse(&["kind>=3".to_owned()]).unwrap();
        let error = filter.retain(&mut rows, &names(&["kind"], &[]), |row, _| Some(row.clone())).unwrap_err();
        assert_eq!(error.message, "`kind` is a string; `<` and `>` need numbers");
        assert_eq!(error.hint.as_deref(), Some("write `kind=gaussian` or `kind!=gaussian`"));
    }

    #[test]
    fn each_name_has_one_column_and_each_column_has_its_own_name() {
        let known = names(&["kl", "lr", "stage", "axis.lr"], &["kl", "loss", "stage", "metric.loss"]);
        let (axis, metric) = (|n: &str| Column::Axis(n.to_owned()), |n: &str| Column::Metric(n.to_owned()));
        for (name, wanted) in [
            ("stage", Column::Stage),
            ("lr", axis("lr")),
            ("loss", metric("loss")),
            ("axis.kl", axis("kl")),
            ("axis.lr", axis("lr")),
            ("axis.stage", axis("stage")),
            ("metric.kl", metric("kl")),
            ("metric.loss", metric("loss")),
            ("metric.metric.loss", metric("metric.loss")),
        ] {
            assert_eq!(known.find(name).unwrap(), wanted, "{name}");
        }
        let labels: Vec<String> = known.columns().iter().map(|column| known.label(column)).collect();
        assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), 8, "{labels:?}");
        assert_eq!(labels[0..3], ["kl", "lr", "axis.stage"]);
        assert_eq!(labels[4..6], ["metric.kl", "loss"]);
        for (column, label) in known.columns().iter().zip(&labels).filter(|(_, label)| *label != "kl") {
            assert_eq!(known.find(label).unwrap(), *column);
        }
    }

    #[test]
    fn unknown_and_ambiguous_names_have_clear_errors() {
        let full = names(&["kl", "lr"], &["kl", "loss", "psnr"]);
        let said = |names: &Names, name: &str| {
            let error = names.find(name).unwrap_err();
            assert_eq!(error.category, crate::error::Category::BadInput);
            format!("{}: {}", error.message, error.hint.unwrap_or_default())
        };
        let empty = names(&["lr"], &[]);
        let all = [
            said(&full, "kl"),
            said(&full, "los"),
            said(&full, "metric.los"),
            said(&full, "axis.loss"),
            said(&full, "xyz"),
            said(&empty, "loss"),
            said(&empty, "lrs"),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        `kl` is both an axis and a metric: write `axis.kl` or `metric.kl`
        there is no axis or metric `los`: did you mean `loss`?
        there is no axis or metric `metric.los`: did you mean `metric.loss`?
        there is no axis or metric `axis.loss`: known names: stage, kl, lr, metric.kl, loss, psnr
        there is no axis or metric `xyz`: known names: stage, kl, lr, metric.kl, loss, psnr
        there is no axis or metric `loss`: no cached result has a metric
        there is no axis or metric `lrs`: no cached result has a metric; did you mean `lr`?
        ");
    }

    proptest! {
        #[test]
        fn numbers_are_compared_as_in_rust(a in -1e3f64..1e3, b in -1e3f64..1e3) {
            let at = |text: &str| holds(&format!("x{text}{b}"), &[("x", Cell::Number(a))]);
            prop_assert_eq!(
                [at("<"), at("<="), at(">"), at(">="), at("="), at("!=")],
                [a < b, a <= b, a > b, a >= b, a == b, a != b]
            );
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,30}") {
            let _ = Filter::parse(&[text]);
        }
    }
}
