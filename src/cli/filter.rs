//! Conditions on points: `lr<0.01 && loss<=0.2`.
//!
//! ```text
//! filter     = condition { "&&" condition }
//! condition  = name operator value
//! operator   = "<" | "<=" | ">" | ">=" | "=" | "==" | "!="
//! ```
//!
//! A name is an axis, a metric, or `stage`. Numbers are compared as numbers, so `lr=1e-3` finds `0.001`; anything else as
//! text, for which there is only equal and unequal. A point that has no such value fulfils no condition on it.

use std::cmp::Ordering;
use std::fmt;

use crate::diagnostic::nearest;
use crate::error::{Error, Result};
use crate::value::Value;

/// A value of a point: of an axis, or a metric.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Cell {
    /// The value of an axis.
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Int(v) => Self::Number(*v as f64),
            Value::Float(v) => Self::Number(*v),
            Value::Text(v) => Self::Text(v.clone()),
            other => Self::Text(other.to_string()),
        }
    }

    /// Numbers before texts, each in their own order.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

impl fmt::Display for Cell {
    /// Exactly: the shortest digits that read back the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(v) => write!(f, "{v}"),
            Self::Text(v) => f.write_str(v),
        }
    }
}

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

/// Longer ones first: `<=` begins with `<`.
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
pub(super) struct Filter(Vec<Condition>);

impl Filter {
    /// Reads several filters; all must hold.
    ///
    /// # Errors
    /// If one is no filter.
    pub(super) fn parse(texts: &[String]) -> Result<Self> {
        let conditions = texts.iter().flat_map(|text| text.split("&&")).map(condition);
        conditions.collect::<Result<_>>().map(Self)
    }

    /// Checks that every name is one of those known.
    ///
    /// # Errors
    /// For the first that is not, with the nearest that is.
    pub(super) fn check(&self, known: &[&str]) -> Result<()> {
        self.0.iter().try_for_each(|c| check_name(&c.name, known))
    }

    /// Whether a point fulfils it. `get` gives the value of an axis or a metric.
    pub(super) fn holds(&self, get: impl Fn(&str) -> Option<Cell>) -> bool {
        self.0.iter().all(|c| get(&c.name).is_some_and(|cell| c.holds(&cell)))
    }
}

/// An error unless `name` is an axis or a metric of something.
pub(super) fn check_name(name: &str, known: &[&str]) -> Result<()> {
    if known.contains(&name) {
        return Ok(());
    }
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "nothing that is cached has any".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    };
    Err(Error::bad_input(format!("no axis and no metric is called `{name}`")).hint(hint))
}

impl Condition {
    fn holds(&self, cell: &Cell) -> bool {
        let order = match (cell, self.value.parse::<f64>()) {
            (Cell::Number(a), Ok(b)) => a.partial_cmp(&b),
            (cell, _) => Some(cell.to_string().cmp(&self.value)),
        };
        order.is_some_and(|order| self.operator.holds(order))
    }
}

fn condition(text: &str) -> Result<Condition> {
    let wrong = |why: &str| {
        let message = format!("`{}` is no condition: {why}", text.trim());
        Error::bad_input(message).hint("write `lr<0.01`, `distribution=gaussian` or `loss<=0.2 && lr!=0.1`")
    };
    let at = text.find(['<', '>', '=', '!']).ok_or_else(|| wrong("it compares nothing"))?;
    let (name, rest) = text.split_at(at);
    let found = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)));
    let (operator, value) = found.ok_or_else(|| wrong("`!` stands only in `!=`"))?;
    let value = value.trim();
    let value = value.strip_prefix(['"', '\'']).and_then(|v| v.strip_suffix(['"', '\''])).unwrap_or(value);
    let name = name.trim();
    if name.is_empty() {
        return Err(wrong("it has no name"));
    }
    if value.is_empty() || value.starts_with(['<', '>', '=', '!']) {
        return Err(wrong("it has no value"));
    }
    let ordered = !matches!(operator, Operator::Equal | Operator::Unequal);
    if ordered && value.parse::<f64>().is_err() {
        return Err(wrong(&format!("`{value}` is no number, and only numbers are more or less")));
    }
    Ok(Condition { name: name.to_owned(), operator, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(text: &str, values: &[(&str, Cell)]) -> bool {
        let filter = Filter::parse(&[text.to_owned()]).unwrap();
        filter.holds(|name| values.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn conditions_compare_numbers_as_numbers_and_words_as_words() {
        let point = [("lr", Cell::Number(0.001)), ("loss", Cell::Number(0.2)), ("kind", Cell::Text("uniform".into()))];
        for (text, wanted) in [
            ("lr=1e-3", true),
            ("lr == 0.0010", true),
            ("lr<0.01 && loss<0.2", false),
            ("lr<0.01&&loss<=0.2", true),
            ("loss > 0.1", true),
            ("loss>=0.3", false),
            ("kind=uniform", true),
            ("kind='uniform'", true),
            ("kind!=uniform", false),
            ("kind!=gaussian", true),
            ("psnr<100", false),
            ("psnr!=100", false),
        ] {
            assert_eq!(holds(text, &point), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_explained() {
        let said = ["lr", "=3", "lr=", "lr<", "lr=<3", "lr!3", "lr<small", "lr<1 &&"].map(|text| {
            let error = Filter::parse(&[text.to_owned()]).unwrap_err();
            assert_eq!(error.category, crate::error::Category::BadInput);
            error.message
        });
        insta::assert_snapshot!(said.join("\n"), @r"
        `lr` is no condition: it compares nothing
        `=3` is no condition: it has no name
        `lr=` is no condition: it has no value
        `lr<` is no condition: it has no value
        `lr=<3` is no condition: it has no value
        `lr!3` is no condition: `!` stands only in `!=`
        `lr<small` is no condition: `small` is no number, and only numbers are more or less
        `` is no condition: it compares nothing
        ");
        let error = Filter::parse(&["los<1".to_owned()]).unwrap().check(&["loss", "lr"]).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean `loss`?"));
    }

    proptest! {
        #[test]
        fn a_number_is_compared_as_rust_compares_it(a in -1e3f64..1e3, b in -1e3f64..1e3) {
            let at = |text: &str| holds(&format!("x{text}{b}"), &[("x", Cell::Number(a))]);
            prop_assert_eq!(
                [at("<"), at("<="), at(">"), at(">="), at("="), at("!=")],
                [a < b, a <= b, a > b, a >= b, a == b, a != b]
            );
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,30}") {
            let _ = Filter::parse(&[text]);
        }
    }
}
